package blind

import (
	"fmt"
	"io"

	"filippo.io/edwards25519"

	"hearth/node/internal/blake2b"
	"hearth/node/keys"
)

// SignX returns a 64-byte signature by the X25519 half of the pair (XEd25519).
// Every signature is another one.
func SignX(rand io.Reader, pair *keys.Pair, message []byte) ([]byte, error) {
	var noise [64]byte
	if _, err := io.ReadFull(rand, noise[:]); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	secret := own(pair)
	public := [32]byte(new(edwards25519.Point).ScalarBaseMult(secret).Bytes())
	if public[31]&0x80 != 0 {
		secret.Negate(secret)
		public[31] &^= 0x80
	}
	h, err := blake2b.New(64, nil, nil, []byte("xed25519signatur"))
	if err != nil {
		return nil, fmt.Errorf("deriving a nonce: %w", err)
	}
	a := secret.Bytes()
	defer clear(a)
	h.Write(a)
	h.Write(message)
	h.Write(noise[:])
	return signature(wide(h.Sum(nil)), secret, public, message), nil
}

// VerifyX reports whether sig is a signature of message by the owner of the X25519
// key x.
func VerifyX(x [32]byte, message, sig []byte) bool {
	public, err := Ed25519(x)
	return err == nil && keys.Verify(public, message, sig)
}

// VersionCheck derives the pair with which an account asks a file server for the
// newest version of a client, unlinkable to the account. It signs the decimal
// timestamp in seconds, the method, the path with its query and the body, one
// after the other.
func VersionCheck(pair *keys.Pair) *keys.Pair {
	seed := pair.Seed()
	defer clear(seed[:])
	derived := hash(32, "VersionCheckKey_sig", seed[:])
	defer clear(derived)
	return keys.FromSeed([32]byte(derived))
}
