// Package keys holds the key pair of an account or of a node: one Ed25519 pair
// for signatures and the X25519 pair derived from it for encryption.
//
// A 32-byte seed comes in through [FromSeed] or [Generate]; public keys,
// signatures and shared secrets go out. The derivation is the one libsodium
// offers (crypto_sign_seed_keypair, crypto_sign_ed25519_pk_to_curve25519 and
// crypto_sign_ed25519_sk_to_curve25519), which Session clients and the storage
// server both use, so that one seed gives the same names everywhere.
//
// A [Pair] never prints its secret halves, whatever verb it is formatted with.
package keys

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"filippo.io/edwards25519"
)

// Errors that callers can test with errors.Is.
var (
	// ErrInvalidPoint reports 32 bytes that are no usable Ed25519 public key:
	// not a point of the curve, or a point of small order.
	ErrInvalidPoint = errors.New("invalid Ed25519 public key")
	// ErrLowOrder reports an X25519 public key whose shared secret would be
	// all zero and so known to everybody.
	ErrLowOrder = errors.New("X25519 public key of low order")
)

// Pair is the key pair of one account or node. It is safe for concurrent use
// until [Pair.Wipe].
type Pair struct {
	private  ed25519.PrivateKey // 64 bytes: seed, then public key
	xPrivate [32]byte           // clamped X25519 scalar
	public   [32]byte
	xPublic  [32]byte
	expanded *ecdh.PrivateKey // see Expand; nil = not kept
}

// FromSeed derives the pair of a 32-byte Ed25519 seed (RFC 8032). The X25519
// secret is the clamped first half of SHA-512(seed), the X25519 public key
// belongs to it and equals the converted Ed25519 public key.
func FromSeed(seed [32]byte) *Pair {
	p := &Pair{private: ed25519.NewKeyFromSeed(seed[:])}
	copy(p.public[:], p.private[32:])

	digest := sha512.Sum512(seed[:])
	copy(p.xPrivate[:], digest[:32])
	clear(digest[:])
	p.xPrivate[0] &= 248
	p.xPrivate[31] &= 127
	p.xPrivate[31] |= 64

	// A public key that ed25519 has just made is always on the curve.
	p.xPublic = montgomery(must(new(edwards25519.Point).SetBytes(p.public[:])))
	return p
}

// Generate draws a new pair from rand, which must be cryptographically secure.
func Generate(rand io.Reader) (*Pair, error) {
	var seed [32]byte
	defer clear(seed[:])
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return nil, fmt.Errorf("drawing a key seed: %w", err)
	}
	return FromSeed(seed), nil
}

// Ed25519 returns the public signing key.
func (p *Pair) Ed25519() [32]byte { return p.public }

// X25519 returns the public encryption key.
func (p *Pair) X25519() [32]byte { return p.xPublic }

// Sign returns the 64-byte Ed25519 signature of msg.
func (p *Pair) Sign(msg []byte) []byte { return ed25519.Sign(p.private, msg) }

// Shared returns the raw 32-byte X25519 secret shared with peer's public key,
// or [ErrLowOrder]. It is not uniformly random: hash it before use as a key.
func (p *Pair) Shared(peer [32]byte) ([]byte, error) {
	own := p.expanded
	if own == nil {
		var err error
		if own, err = ecdh.X25519().NewPrivateKey(p.xPrivate[:]); err != nil {
			return nil, fmt.Errorf("reading the own X25519 key: %w", err)
		}
	}
	other, err := ecdh.X25519().NewPublicKey(peer[:])
	if err != nil {
		return nil, fmt.Errorf("reading the peer's X25519 key: %w", err)
	}
	secret, err := own.ECDH(other)
	if err != nil {
		return nil, ErrLowOrder
	}
	return secret, nil
}

// Expand makes [Pair.Shared] about twice as fast from now on, by keeping a copy of
// the secret that [Pair.Wipe] can only forget and not overwrite. It is for the key
// of a node, which lives as long as its process; call it before sharing the pair.
func (p *Pair) Expand() error {
	if p.expanded != nil {
		return nil
	}
	own, err := ecdh.X25519().NewPrivateKey(p.xPrivate[:])
	if err != nil {
		return fmt.Errorf("reading the own X25519 key: %w", err)
	}
	p.expanded = own
	return nil
}

// Seed returns the secret 32-byte Ed25519 seed; the caller wipes its copy.
func (p *Pair) Seed() [32]byte { return [32]byte(p.private[:32]) }

// X25519Secret returns the secret clamped X25519 scalar; the caller wipes its
// copy.
func (p *Pair) X25519Secret() [32]byte { return p.xPrivate }

// Ed25519Private returns a copy of the 64-byte secret key (seed, then public
// key); the caller wipes it.
func (p *Pair) Ed25519Private() ed25519.PrivateKey {
	return append(ed25519.PrivateKey(nil), p.private...)
}

// Wipe overwrites the secret halves. The public keys stay readable; signatures
// and shared secrets made afterwards are worthless.
func (p *Pair) Wipe() {
	clear(p.private)
	clear(p.xPrivate[:])
	p.expanded = nil
}

// String names the pair by its public signing key.
func (p *Pair) String() string {
	if p == nil {
		return "keys.Pair(nil)"
	}
	return "keys.Pair(" + hex.EncodeToString(p.public[:]) + ")"
}

// GoString is [Pair.String], so that %#v does not print secrets.
func (p *Pair) GoString() string { return p.String() }

// Format writes [Pair.String] for every verb.
func (p *Pair) Format(f fmt.State, _ rune) { io.WriteString(f, p.String()) }

// MarshalJSON writes the public signing key alone, in hexadecimal.
func (p *Pair) MarshalJSON() ([]byte, error) {
	return []byte(`"` + hex.EncodeToString(p.public[:]) + `"`), nil
}

// X25519FromEd25519 converts a public signing key to the public encryption key
// of the same pair (u = (1+y)/(1-y)). The way back is not unique, because it
// loses the sign. Like libsodium it refuses, with [ErrInvalidPoint], bytes that
// are not on the curve, points of small order and points outside the main
// subgroup.
func X25519FromEd25519(pub [32]byte) ([32]byte, error) {
	point, err := new(edwards25519.Point).SetBytes(pub[:])
	if err != nil {
		return [32]byte{}, ErrInvalidPoint
	}
	identity := edwards25519.NewIdentityPoint()
	if new(edwards25519.Point).MultByCofactor(point).Equal(identity) == 1 || !inMainSubgroup(point) {
		return [32]byte{}, ErrInvalidPoint
	}
	return montgomery(point), nil
}

// CheckX25519 returns [ErrLowOrder] for a public encryption key whose shared
// secret with anybody is all zero.
func CheckX25519(pub [32]byte) error {
	other, err := ecdh.X25519().NewPublicKey(pub[:])
	if err != nil {
		return fmt.Errorf("reading an X25519 key: %w", err)
	}
	// Any scalar will do: clamping makes it a multiple of the cofactor.
	own, err := ecdh.X25519().NewPrivateKey(make([]byte, 32))
	if err != nil {
		return fmt.Errorf("reading an X25519 key: %w", err)
	}
	if _, err := own.ECDH(other); err != nil {
		return ErrLowOrder
	}
	return nil
}

// Verify reports whether sig is pub's 64-byte Ed25519 signature of msg. A
// signature of another length is false, never a panic.
func Verify(pub [32]byte, msg, sig []byte) bool {
	return len(sig) == ed25519.SignatureSize && ed25519.Verify(pub[:], msg, sig)
}

func montgomery(p *edwards25519.Point) [32]byte { return [32]byte(p.BytesMontgomery()) }

// inMainSubgroup checks that the group order times p is the identity, written
// as (L-1)p = -p because a Scalar cannot hold L itself.
func inMainSubgroup(p *edwards25519.Point) bool {
	minusOne := edwards25519.NewScalar().Negate(scalarOne())
	// Nothing here is secret, and most digits of L are zero.
	product := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(minusOne, p, edwards25519.NewScalar())
	return product.Equal(new(edwards25519.Point).Negate(p)) == 1
}

func scalarOne() *edwards25519.Scalar {
	var b [32]byte
	b[0] = 1
	return must(edwards25519.NewScalar().SetCanonicalBytes(b[:]))
}

// must is for values that this package computed itself; bytes from elsewhere
// never reach it.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
