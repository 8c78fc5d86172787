package account

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrNotHex reports a seed in hexadecimal form with a digit that is none.
var ErrNotHex = errors.New("the seed has a character that is no hexadecimal digit")

// ParseRecovery reads a seed in either form in which people keep it: the 13 words
// of [ParsePhrase], or the 32 hexadecimal digits of Session's recovery QR codes,
// in any case and with white space anywhere between them.
//
// Errors are those of [ParsePhrase], each with the position of the word, and
// [ErrNotHex]. None quotes what was given.
func ParseRecovery(text string) (Seed, error) {
	if len(text) > maxPhrase {
		return Seed{}, ErrTooManyWords
	}
	// Thirteen words have at least 39 letters, so the two forms never meet.
	digits := strings.Join(strings.Fields(text), "")
	if len(digits) == 2*SeedSize {
		var s Seed
		_, err := hex.Decode(s[:], []byte(digits))
		if err == nil {
			return s, nil
		}
		if strings.TrimSpace(text) == digits { // one word: it was not meant as a phrase
			return Seed{}, ErrNotHex
		}
	}
	s, err := ParsePhrase(text)
	if errors.Is(err, ErrChecksum) {
		err = fmt.Errorf("word %d: %w", PhraseWords, err)
	}
	return s, err
}
