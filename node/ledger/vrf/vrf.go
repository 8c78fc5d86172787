// Package vrf makes random numbers that their maker cannot choose and everybody
// can check: the verifiable random function ECVRF-EDWARDS25519-SHA512-TAI of
// RFC 9381.
//
// A [Secret] turns a message into a [Proof]; [Verify] turns proof, message and
// public key into 64 bytes. For one key and one message there are only these 64
// bytes, whatever the owner of the key tries. The ledger's seeds are made of
// them: who proposes the block in which a seed changes can withhold its part,
// but not look for a better one.
//
// A key of this package must not sign anything: nonces are made as Ed25519 makes
// them.
package vrf

import (
	"bytes"
	"crypto/sha512"
	"errors"
	"fmt"

	"filippo.io/edwards25519"
)

// Sizes in bytes.
const (
	KeySize    = 32
	ProofSize  = 80
	OutputSize = 64
)

// Errors that callers can test with errors.Is.
var (
	ErrKey   = errors.New("unusable VRF key")
	ErrProof = errors.New("VRF proof does not match")
)

const (
	suite          = 0x03
	challengeBytes = 16
)

// Proof shows that an output belongs to a key and a message.
type Proof = [ProofSize]byte

// Secret is the private half of a key. It does not print.
type Secret struct {
	x      *edwards25519.Scalar
	prefix [32]byte
	public [KeySize]byte
}

// FromSeed derives the key of a 32-byte seed, as Ed25519 does (RFC 8032).
func FromSeed(seed [32]byte) *Secret {
	h := sha512.Sum512(seed[:])
	defer clear(h[:])
	s := &Secret{prefix: [32]byte(h[32:])}
	x, err := edwards25519.NewScalar().SetBytesWithClamping(h[:32])
	if err != nil {
		panic(err) // only a wrong length is refused
	}
	s.x = x
	s.public = [KeySize]byte(new(edwards25519.Point).ScalarBaseMult(x).Bytes())
	return s
}

// Public is the key that [Verify] takes.
func (s *Secret) Public() [KeySize]byte { return s.public }

// Format prints the public half, whatever the verb.
func (s *Secret) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "vrf key %x", s.public) }

// Prove makes the proof for a message.
func (s *Secret) Prove(message []byte) Proof {
	h := encode(s.public, message)
	gamma := new(edwards25519.Point).ScalarMult(s.x, h)
	digest := sha512.New()
	digest.Write(s.prefix[:])
	digest.Write(h.Bytes())
	k, err := edwards25519.NewScalar().SetUniformBytes(digest.Sum(nil))
	if err != nil {
		panic(err) // only a wrong length is refused
	}
	c, cBytes := challenge(s.public, h, gamma, new(edwards25519.Point).ScalarBaseMult(k), new(edwards25519.Point).ScalarMult(k, h))
	var p Proof
	copy(p[:], gamma.Bytes())
	copy(p[32:], cBytes)
	copy(p[32+challengeBytes:], edwards25519.NewScalar().MultiplyAdd(c, s.x, k).Bytes())
	return p
}

// CheckKey returns [ErrKey] for bytes that are no point, or one whose outputs
// would be the same for many messages.
func CheckKey(public [KeySize]byte) error {
	_, err := point(public[:])
	return err
}

// Verify returns the output that the proof shows, or [ErrKey] or [ErrProof].
func Verify(public [KeySize]byte, message []byte, proof Proof) ([OutputSize]byte, error) {
	y, err := point(public[:])
	if err != nil {
		return [OutputSize]byte{}, err
	}
	gamma, err := new(edwards25519.Point).SetBytes(proof[:32])
	if err != nil || !bytes.Equal(gamma.Bytes(), proof[:32]) {
		return [OutputSize]byte{}, fmt.Errorf("%w: it holds no point", ErrProof)
	}
	c := challengeScalar(proof[32 : 32+challengeBytes])
	s, err := edwards25519.NewScalar().SetCanonicalBytes(proof[32+challengeBytes:])
	if err != nil {
		return [OutputSize]byte{}, fmt.Errorf("%w: its scalar is not reduced", ErrProof)
	}
	h := encode(public, message)
	minusC := edwards25519.NewScalar().Negate(c)
	// Nothing of this is secret: the multiplications may take any time.
	u := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(minusC, y, s)
	v := new(edwards25519.Point).Subtract(
		new(edwards25519.Point).ScalarMult(s, h),
		new(edwards25519.Point).ScalarMult(c, gamma))
	if _, want := challenge(public, h, gamma, u, v); !bytes.Equal(want, proof[32:32+challengeBytes]) {
		return [OutputSize]byte{}, ErrProof
	}
	digest := sha512.New()
	digest.Write([]byte{suite, 0x03})
	digest.Write(new(edwards25519.Point).MultByCofactor(gamma).Bytes())
	digest.Write([]byte{0x00})
	return [OutputSize]byte(digest.Sum(nil)), nil
}

// point reads a public key and refuses those of small order.
func point(b []byte) (*edwards25519.Point, error) {
	p, err := new(edwards25519.Point).SetBytes(b)
	if err != nil || !bytes.Equal(p.Bytes(), b) {
		return nil, fmt.Errorf("%w: not a point of the curve", ErrKey)
	}
	if new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, fmt.Errorf("%w: of small order", ErrKey)
	}
	return p, nil
}

// encode hashes a message to a point by trying and incrementing (RFC 9381,
// 5.4.1.1).
func encode(public [KeySize]byte, message []byte) *edwards25519.Point {
	identity := edwards25519.NewIdentityPoint()
	for counter := range 256 {
		digest := sha512.New()
		digest.Write([]byte{suite, 0x01})
		digest.Write(public[:])
		digest.Write(message)
		digest.Write([]byte{byte(counter), 0x00})
		candidate := digest.Sum(nil)[:32]
		p, err := new(edwards25519.Point).SetBytes(candidate)
		if err != nil || !bytes.Equal(p.Bytes(), candidate) {
			continue
		}
		if p.MultByCofactor(p); p.Equal(identity) == 0 {
			return p
		}
	}
	// Half of all tries succeed: this happens once in 2^256 messages.
	return identity
}

// challenge is RFC 9381, 5.4.3.
func challenge(public [KeySize]byte, points ...*edwards25519.Point) (*edwards25519.Scalar, []byte) {
	digest := sha512.New()
	digest.Write([]byte{suite, 0x02})
	digest.Write(public[:])
	for _, p := range points {
		digest.Write(p.Bytes())
	}
	digest.Write([]byte{0x00})
	b := digest.Sum(nil)[:challengeBytes]
	return challengeScalar(b), b
}

func challengeScalar(b []byte) *edwards25519.Scalar {
	var wide [32]byte
	copy(wide[:], b)
	c, err := edwards25519.NewScalar().SetCanonicalBytes(wide[:])
	if err != nil {
		panic(err) // 16 bytes are always below the group's order
	}
	return c
}
