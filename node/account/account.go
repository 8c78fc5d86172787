// Package account is the identity of a person in the network: a seed of 16
// random bytes, the keys and the Session ID derived from it, and the recovery
// phrase that writes the seed down in words.
//
// A [Seed] comes from [NewSeed] on a first start, from [ParsePhrase] on a
// recovery, or out of the vault. [New] turns it into an [Account], which other
// packages use to sign and decrypt. Somebody else's account is only an [ID],
// read from what a person typed or scanned with [ParseSessionID].
//
// The rules are those of Session desktop, so a phrase made by any released
// Session client gives the same Session ID here and the other way round.
package account

import (
	"fmt"
	"io"

	"hearth/node/keys"
)

// SeedSize is the size of a [Seed] in bytes.
const SeedSize = 16

// Seed is the secret an account grows from: 16 random bytes. It never prints;
// only [Seed.Phrase] reveals it, in words.
type Seed [SeedSize]byte

// NewSeed draws a seed from rand, which must be cryptographically secure.
func NewSeed(rand io.Reader) (Seed, error) {
	var s Seed
	if _, err := io.ReadFull(rand, s[:]); err != nil {
		return Seed{}, fmt.Errorf("drawing an account seed: %w", err)
	}
	return s, nil
}

const redacted = "account.Seed(redacted)"

// String hides the seed.
func (s Seed) String() string { return redacted }

// GoString hides the seed.
func (s Seed) GoString() string { return redacted }

// Format hides the seed from every verb.
func (s Seed) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalJSON hides the seed.
func (s Seed) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Wipe overwrites this copy of the seed.
func (s *Seed) Wipe() { clear(s[:]) }

// Account is an account whose secret is at hand. It is safe for concurrent use
// until [Account.Wipe], and prints as its Session ID.
type Account struct {
	id   ID
	pair *keys.Pair
}

// New derives the account of a seed: the Ed25519 seed is the 16 bytes followed
// by 16 zero bytes.
func New(seed Seed) *Account {
	var full [32]byte
	defer clear(full[:])
	copy(full[:], seed[:])

	pair := keys.FromSeed(full)
	return &Account{id: sessionID(pair.X25519()), pair: pair}
}

// ID returns the Session ID.
func (a *Account) ID() ID { return a.id }

// Keys returns the key pair. It belongs to the account and is wiped with it.
func (a *Account) Keys() *keys.Pair { return a.pair }

// Wipe overwrites the secret keys; the ID stays readable.
func (a *Account) Wipe() { a.pair.Wipe() }

// String returns the Session ID.
func (a *Account) String() string { return a.id.String() }

// GoString returns the Session ID.
func (a *Account) GoString() string { return "account.Account(" + a.id.String() + ")" }

// Format writes the Session ID for every verb.
func (a *Account) Format(f fmt.State, _ rune) { io.WriteString(f, a.id.String()) }

// MarshalJSON writes the Session ID.
func (a *Account) MarshalJSON() ([]byte, error) { return []byte(`"` + a.id.String() + `"`), nil }
