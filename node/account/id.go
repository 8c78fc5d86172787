package account

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"hearth/node/keys"
)

// IDSize is the size of an [ID] in bytes; its text form has twice as many
// hexadecimal digits.
const IDSize = 33

// First byte of an [ID]: what kind of key follows.
const (
	PrefixUnblinded byte = 0x00 // Ed25519 key of a user who shows it to a community server
	PrefixGroup     byte = 0x03 // Ed25519 key of a closed group
	PrefixAccount   byte = 0x05 // X25519 key of a user: a Session ID
	PrefixVersion   byte = 0x07 // Ed25519 key blinded for a version query
	PrefixBlinded15 byte = 0x15 // key blinded for one community server
	PrefixBlinded25 byte = 0x25 // the newer blinding, linked to the account
)

// Errors of [ParseID] and [ParseSessionID], for errors.Is.
var (
	ErrInvalidID    = errors.New("an ID is 66 hexadecimal digits")
	ErrNotSessionID = errors.New("a Session ID begins with 05")
)

// ID names an account, a closed group or a blinded user: a prefix byte that
// tells the kind, then a 32-byte public key. IDs compare with ==.
type ID [IDSize]byte

// ParseID reads 66 hexadecimal digits of either case, with white space around
// them, as people paste them. It accepts every prefix. The error is
// [ErrInvalidID].
func ParseID(text string) (ID, error) {
	text = strings.TrimSpace(text)
	if len(text) != 2*IDSize {
		return ID{}, ErrInvalidID
	}
	var id ID
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return ID{}, ErrInvalidID
	}
	return id, nil
}

// ShortID is the beginning and the end of an ID's text, or of another long name, for
// lines that have no room for all of it: enough to tell people apart who mean no harm.
func ShortID(id string) string {
	if len(id) <= 12 {
		return id
	}
	return id[:6] + "…" + id[len(id)-4:]
}

// ParseSessionID is [ParseID] for the account of a person; another prefix gives
// [ErrNotSessionID], and so does a key of low order: no account has one, and
// anybody could read what is sealed for it.
func ParseSessionID(text string) (ID, error) {
	id, err := ParseID(text)
	if err != nil {
		return ID{}, err
	}
	if id.Prefix() != PrefixAccount || keys.CheckX25519(id.Key()) != nil {
		return ID{}, ErrNotSessionID
	}
	return id, nil
}

// IDFromEd25519 returns the Session ID of the account that signs with pub, or
// [keys.ErrInvalidPoint].
func IDFromEd25519(pub [32]byte) (ID, error) {
	x, err := keys.X25519FromEd25519(pub)
	if err != nil {
		return ID{}, fmt.Errorf("deriving a Session ID: %w", err)
	}
	return sessionID(x), nil
}

func sessionID(x25519 [32]byte) ID {
	id := ID{PrefixAccount}
	copy(id[1:], x25519[:])
	return id
}

// Prefix returns the first byte.
func (id ID) Prefix() byte { return id[0] }

// Key returns the public key after the prefix.
func (id ID) Key() [32]byte { return [32]byte(id[1:]) }

// IsZero reports whether id was never set.
func (id ID) IsZero() bool { return id == ID{} }

// String returns 66 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is [ID.String], which makes an ID a string in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is [ParseID].
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}
