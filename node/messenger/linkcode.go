package messenger

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"hearth/node/account"
)

// A code to link a device is 24 characters in groups of four, to be read from one
// screen and typed into another: 20 that were drawn, 100 bits, and 4 that check
// them, so that of a million mistakes one is not noticed at once. They are the
// digits and letters of Crockford's base 32, which has none that look alike; who
// types O or I all the same is understood.
const (
	linkDrawn    = 20
	linkCheck    = 4
	linkGroup    = 4
	linkAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

// linkSecret is what a code stands for: the drawn characters.
type linkSecret [linkDrawn]byte

func drawLink(rand io.Reader) (s linkSecret, err error) {
	if _, err := io.ReadFull(rand, s[:]); err != nil {
		return s, fmt.Errorf("drawing a code: %w", err)
	}
	for i, b := range s {
		s[i] = linkAlphabet[b&31]
	}
	return s, nil
}

// parseLink reads a code as it was typed or scanned. The error is [ErrLinkCode],
// without a word about the code, which is a secret.
func parseLink(text string) (s linkSecret, err error) {
	var typed []byte
	for _, r := range strings.ToUpper(text) {
		switch r {
		case '-', ' ', '\t':
			continue
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		}
		if r > 'Z' || strings.IndexByte(linkAlphabet, byte(r)) < 0 || len(typed) == linkDrawn+linkCheck {
			return s, ErrLinkCode
		}
		typed = append(typed, byte(r))
	}
	if len(typed) != linkDrawn+linkCheck {
		return s, ErrLinkCode
	}
	copy(s[:], typed)
	if s.check() != string(typed[linkDrawn:]) {
		return linkSecret{}, ErrLinkCode
	}
	return s, nil
}

func (s linkSecret) check() string {
	sum := sha256.Sum256(append([]byte("hearth link check 1"), s[:]...))
	check := make([]byte, linkCheck)
	for i := range check {
		check[i] = linkAlphabet[sum[i]&31]
	}
	return string(check)
}

// code is the secret as it is shown.
func (s linkSecret) code() string {
	all := string(s[:]) + s.check()
	var groups []string
	for ; len(all) > 0; all = all[linkGroup:] {
		groups = append(groups, all[:linkGroup])
	}
	return strings.Join(groups, "-")
}

// String and GoString keep it out of logs.
func (s linkSecret) String() string   { return "linkSecret(redacted)" }
func (s linkSecret) GoString() string { return s.String() }

// derive gives the account in whose swarm the two devices meet, and the key of what
// is said there. 100 bits that are drawn need no slow function.
func (s linkSecret) derive() (meeting *account.Account, key [32]byte, err error) {
	b, err := hkdf.Key(sha256.New, s[:], nil, "hearth link 1", account.SeedSize+len(key))
	if err != nil {
		return nil, key, fmt.Errorf("deriving from a code: %w", err)
	}
	defer clear(b)
	seed := account.Seed(b[:account.SeedSize])
	defer seed.Wipe()
	copy(key[:], b[account.SeedSize:])
	return account.New(seed), key, nil
}
