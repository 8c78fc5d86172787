// Package blind makes keys of an account that only those can link to the account
// who know a second key: a community server's, or a group's.
//
// An account's pair and the 32-byte key of a server go into [New15] or [New25];
// out comes a [Key], which signs and has an ID of its own. Others compute the same
// ID from the Session ID alone ([ID25], [IDs15]). A group gives each member such a
// key, too, by which swarms let the member in: [Delegate] is the member's side and
// [Public] the admin's. [Key.Encrypt] and [Key.Decrypt] carry a message between
// two blinded IDs.
//
// All of it rests on one observation: k times a public key is the public key of k
// times the secret scalar. Signatures verify as ordinary Ed25519 signatures. The
// rules, with their constants, are libsession-util's (blinding, xed25519,
// session_encrypt).
package blind

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"io"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
	"golang.org/x/crypto/blake2b"

	"hearth/node/account"
	"hearth/node/keys"
)

// Errors of this package, for errors.Is.
var (
	// ErrNoPoint reports a Session ID whose key belongs to no Ed25519 key, or to one
	// that cannot be blinded (small order, outside the main subgroup).
	ErrNoPoint = errors.New("the ID has no Ed25519 key that can be blinded")
	// ErrFactor reports a blinding factor that is zero or not below the group order.
	ErrFactor = errors.New("the blinding factor is out of range")
	// ErrNotForUs reports a blinded message that does not open.
	ErrNotForUs = errors.New("message is not encrypted for this blinded ID")
	// ErrSender reports a blinded message whose author is not the claimed sender.
	ErrSender = errors.New("message is not from the blinded ID that it names")
)

// Key is a blinded key pair. It prints as its public key.
type Key struct {
	prefix byte
	public [32]byte
	secret *edwards25519.Scalar
	// Of the signature: a secret hash of the seed, and how the one-time scalar is
	// drawn from it, the public key and the message.
	salt [32]byte
	draw func(salt, public, message []byte) []byte

	pair *keys.Pair // the account's own
}

// New15 makes the account's legacy blinded key for the server: its scalar times
// BLAKE2b-512(server). Everybody who knows the server can link it to the account.
func New15(pair *keys.Pair, server [32]byte) *Key {
	secret := own(pair)
	secret.Multiply(secret, factor15(server))
	k := blinded(pair, account.PrefixBlinded15, secret)
	private := pair.Ed25519Private()
	full := sha512.Sum512(private) // of seed and public key together: so it was published
	copy(k.salt[:], full[32:])
	clear(full[:])
	clear(private)
	k.draw = func(salt, public, message []byte) []byte {
		h := sha512.New()
		h.Write(salt)
		h.Write(public)
		h.Write(message)
		return h.Sum(nil)
	}
	return k
}

// New25 makes the account's blinded key for the server.
func New25(pair *keys.Pair, server [32]byte) *Key {
	x := pair.X25519()
	k := blinded(pair, account.PrefixBlinded25, times(pair, factor25(x, server)))
	k.seed("SessCommBlind25_seed", "SessCommBlind25_sig")
	return k
}

// Delegate makes the key by which a member of a group signs requests to the
// group's swarm. factor is the k of the member's auth data, [ErrFactor] if it is
// none.
func Delegate(pair *keys.Pair, factor [32]byte) (*Key, error) {
	k, err := scalar(factor)
	if err != nil {
		return nil, err
	}
	d := blinded(pair, account.PrefixUnblinded, times(pair, k))
	d.seed("SubaccountSeed", "SubaccountSig")
	return d, nil
}

func blinded(pair *keys.Pair, prefix byte, secret *edwards25519.Scalar) *Key {
	return &Key{
		prefix: prefix, secret: secret, pair: pair,
		public: [32]byte(new(edwards25519.Point).ScalarBaseMult(secret).Bytes()),
	}
}

func (k *Key) seed(salt, signature string) {
	seed := k.pair.Seed()
	defer clear(seed[:])
	copy(k.salt[:], hash(32, salt, seed[:]))
	k.draw = func(salt, public, message []byte) []byte { return hash(64, signature, salt, public, message) }
}

// ID is the public key under the prefix of its kind; that of a [Delegate] has the
// prefix of a plain Ed25519 key.
func (k *Key) ID() account.ID {
	id := account.ID{k.prefix}
	copy(id[1:], k.public[:])
	return id
}

// Public is the Ed25519 key that [Key.Sign]'s signatures verify under.
func (k *Key) Public() [32]byte { return k.public }

// Sign returns the 64-byte Ed25519 signature of message. Equal messages get equal
// signatures.
func (k *Key) Sign(message []byte) []byte {
	once := wide(k.draw(k.salt[:], k.public[:], message))
	return signature(once, k.secret, k.public, message)
}

// String names the key by its ID.
func (k *Key) String() string { return "blind.Key(" + k.ID().String() + ")" }

// GoString is [Key.String], so that %#v does not print secrets.
func (k *Key) GoString() string { return k.String() }

// Format writes [Key.String] for every verb.
func (k *Key) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// MarshalJSON writes the ID alone.
func (k *Key) MarshalJSON() ([]byte, error) { return []byte(`"` + k.ID().String() + `"`), nil }

// Wipe overwrites the secrets. The account's pair is not touched.
func (k *Key) Wipe() {
	k.secret.Set(edwards25519.NewScalar())
	clear(k.salt[:])
}

// IDs15 returns the two blinded IDs that the account may have on the server: a
// Session ID does not tell the sign of its Ed25519 key. The error is [ErrNoPoint].
func IDs15(id account.ID, server [32]byte) ([2]account.ID, error) {
	positive, err := multiply(id, factor15(server))
	if err != nil {
		return [2]account.ID{}, err
	}
	first := account.ID{account.PrefixBlinded15}
	copy(first[1:], positive[:])
	second := first
	second[32] ^= 0x80
	return [2]account.ID{first, second}, nil
}

// ID25 returns the account's blinded ID on the server, or [ErrNoPoint].
func ID25(id account.ID, server [32]byte) (account.ID, error) {
	public, err := multiply(id, factor25(id.Key(), server))
	if err != nil {
		return account.ID{}, err
	}
	blinded := account.ID{account.PrefixBlinded25}
	copy(blinded[1:], public[:])
	return blinded, nil
}

// Matches reports whether blinded, of either kind, is the account's on the server.
func Matches(blinded, id account.ID, server [32]byte) bool {
	switch blinded.Prefix() {
	case account.PrefixBlinded15:
		ids, err := IDs15(id, server)
		return err == nil && (blinded == ids[0] || blinded == ids[1])
	case account.PrefixBlinded25:
		want, err := ID25(id, server)
		return err == nil && blinded == want
	}
	return false
}

// Public is factor times the account's Ed25519 key with its sign taken away: what
// [Delegate] gets as public key. Errors: [ErrNoPoint], [ErrFactor].
func Public(id account.ID, factor [32]byte) ([32]byte, error) {
	k, err := scalar(factor)
	if err != nil {
		return [32]byte{}, err
	}
	return multiply(id, k)
}

// Ed25519 returns the Ed25519 key of positive sign that converts to the X25519 key
// x, or [ErrNoPoint]: y = (x-1)/(x+1).
func Ed25519(x [32]byte) ([32]byte, error) {
	u, err := new(field.Element).SetBytes(x[:])
	if err != nil {
		return [32]byte{}, ErrNoPoint
	}
	one := new(field.Element).One()
	up, down := new(field.Element).Subtract(u, one), new(field.Element).Add(u, one)
	y := [32]byte(new(field.Element).Multiply(up, down.Invert(down)).Bytes())
	// Refuses what is not on the curve, of small order or outside the subgroup, as
	// libsodium's multiplication without clamping does.
	if _, err := keys.X25519FromEd25519(y); err != nil {
		return [32]byte{}, ErrNoPoint
	}
	return y, nil
}

// multiply is k|A| of the account.
func multiply(id account.ID, k *edwards25519.Scalar) ([32]byte, error) {
	if id.Prefix() != account.PrefixAccount {
		return [32]byte{}, fmt.Errorf("blinding: %w", account.ErrNotSessionID)
	}
	y, err := Ed25519(id.Key())
	if err != nil {
		return [32]byte{}, err
	}
	point, err := new(edwards25519.Point).SetBytes(y[:])
	if err != nil {
		return [32]byte{}, ErrNoPoint
	}
	return [32]byte(point.ScalarMult(k, point).Bytes()), nil
}

// times is the secret scalar of k|A|.
func times(pair *keys.Pair, k *edwards25519.Scalar) *edwards25519.Scalar {
	secret := own(pair)
	if public := pair.Ed25519(); public[31]&0x80 != 0 {
		secret.Negate(secret)
	}
	return secret.Multiply(secret, k)
}

// own is the secret scalar of the pair.
func own(pair *keys.Pair) *edwards25519.Scalar {
	x := pair.X25519Secret()
	defer clear(x[:])
	return clamped(x)
}

func factor15(server [32]byte) *edwards25519.Scalar { return wide(hash(64, "", server[:])) }

func factor25(x, server [32]byte) *edwards25519.Scalar {
	return wide(hash(64, "", []byte{account.PrefixAccount}, x[:], server[:]))
}

// scalar reads a factor that a stranger computed.
func scalar(factor [32]byte) (*edwards25519.Scalar, error) {
	k, err := edwards25519.NewScalar().SetCanonicalBytes(factor[:])
	if err != nil || k.Equal(edwards25519.NewScalar()) == 1 {
		return nil, ErrFactor
	}
	return k, nil
}

func clamped(x [32]byte) *edwards25519.Scalar {
	return must(edwards25519.NewScalar().SetBytesWithClamping(x[:]))
}

// wide reduces 64 bytes modulo the group order.
func wide(b []byte) *edwards25519.Scalar { return must(edwards25519.NewScalar().SetUniformBytes(b)) }

// Factor reduces a 64-byte digest to a blinding factor.
func Factor(digest [64]byte) [32]byte { return [32]byte(wide(digest[:]).Bytes()) }

// signature is Ed25519's with the one-time scalar once.
func signature(once, secret *edwards25519.Scalar, public [32]byte, message []byte) []byte {
	r := new(edwards25519.Point).ScalarBaseMult(once).Bytes()
	h := sha512.New()
	h.Write(r)
	h.Write(public[:])
	h.Write(message)
	s := edwards25519.NewScalar().MultiplyAdd(wide(h.Sum(nil)), secret, once)
	return append(r, s.Bytes()...)
}

// hash is BLAKE2b of size bytes over all parts, under the key if there is one.
func hash(size int, key string, parts ...[]byte) []byte {
	h := must(blake2b.New(size, []byte(key)))
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// must is for values that this package chose itself; bytes from elsewhere never
// reach it.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
