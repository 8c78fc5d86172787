package account

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"
)

// ErrONS reports a name record that does not open with the name it was asked
// for, or that holds something else than a Session ID.
var ErrONS = errors.New("name record does not belong to the name")

// ONSNameHash returns the hash under which service nodes keep the record of a
// registered name: BLAKE2b-256 of the name in lower case.
func ONSNameHash(name string) [32]byte {
	return blake2b.Sum256([]byte(strings.ToLower(name)))
}

// OpenONS decrypts the record of a registered name: encrypted is the 33-byte
// Session ID with its 16-byte tag, nonce 24 bytes, both from an ons_resolve
// answer. The key is BLAKE2b-256 of the name under the name hash, as in
// libsession, so a service node that answers with another record is found out.
// The error is [ErrONS].
func OpenONS(name string, encrypted, nonce []byte) (ID, error) {
	if len(nonce) != chacha20poly1305.NonceSizeX {
		return ID{}, fmt.Errorf("nonce of %d bytes: %w", len(nonce), ErrONS)
	}
	hash := ONSNameHash(name)
	keyed, err := blake2b.New256(hash[:])
	if err != nil {
		return ID{}, fmt.Errorf("deriving the key of a name record: %w", err)
	}
	keyed.Write([]byte(strings.ToLower(name)))
	aead, err := chacha20poly1305.NewX(keyed.Sum(nil))
	if err != nil {
		return ID{}, fmt.Errorf("deriving the key of a name record: %w", err)
	}
	plain, err := aead.Open(nil, nonce, encrypted, nil)
	if err != nil {
		return ID{}, ErrONS
	}
	if len(plain) != IDSize || plain[0] != PrefixAccount {
		return ID{}, fmt.Errorf("record of %d bytes: %w", len(plain), ErrONS)
	}
	return ID(plain), nil
}
