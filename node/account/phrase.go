package account

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode"
)

// Errors of [ParsePhrase], for errors.Is. None of them quotes the phrase, which
// is as secret as the seed.
var (
	ErrTooFewWords  = errors.New("the recovery phrase has too few words, it needs 13")
	ErrTooManyWords = errors.New("the recovery phrase has too many words, it needs 13")
	ErrUnknownWord  = errors.New("the word is not in the list")
	// ErrImpossibleWords reports three known words that stand for a number
	// above 2^32, which no seed gives.
	ErrImpossibleWords = errors.New("the words do not form a seed")
	// ErrChecksum reports a last word that does not fit the twelve before it.
	ErrChecksum = errors.New("the last word does not fit the others")
)

// PhraseWords is the number of words in a recovery phrase: twelve for the seed
// and one checksum word.
const PhraseWords = seedWords + 1

const (
	seedWords  = SeedSize / 4 * 3
	listSize   = 1626
	prefixSize = 3

	// maxPhrase is far above the longest phrase, so that a pasted book is
	// refused before it is split.
	maxPhrase = 4096
)

// wordList is the English list of Monero's seed phrases, which Session took
// over: 1626 words, one a line, all different in their first three letters.
//
//go:embed words.txt
var wordList string

var (
	words     = strings.Fields(wordList)
	wordIndex = indexByPrefix(words)
)

func indexByPrefix(words []string) map[string]uint32 {
	index := make(map[string]uint32, len(words))
	for i, w := range words {
		index[w[:prefixSize]] = uint32(i)
	}
	return index
}

// Phrase writes the seed as 13 lower-case words separated by one blank.
func (s Seed) Phrase() string {
	phrase := encodeWords(s[:])
	return strings.Join(append(phrase, phrase[checksumIndex(phrase)]), " ")
}

// ParsePhrase reads a recovery phrase: exactly 13 words, of which only the
// first three letters count, in any case, separated by white space or
// punctuation. This is the rule of Session desktop, with the separators that
// Session for Android takes.
//
// Errors: [ErrTooFewWords], [ErrTooManyWords], [ErrUnknownWord] (with the
// number of the word, counted from 1), [ErrImpossibleWords], [ErrChecksum].
func ParsePhrase(phrase string) (Seed, error) {
	if len(phrase) > maxPhrase {
		return Seed{}, ErrTooManyWords
	}
	given := strings.FieldsFunc(strings.ToLower(phrase), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	switch {
	case len(given) < PhraseWords:
		return Seed{}, ErrTooFewWords
	case len(given) > PhraseWords:
		return Seed{}, ErrTooManyWords
	}

	var index [PhraseWords]uint32
	for i, w := range given {
		known := false
		if len(w) >= prefixSize {
			index[i], known = wordIndex[w[:prefixSize]]
		}
		if !known {
			return Seed{}, fmt.Errorf("word %d: %w", i+1, ErrUnknownWord)
		}
	}

	var seed Seed
	for i := 0; i < seedWords; i += 3 {
		x, ok := decodeWords(index[i], index[i+1], index[i+2])
		if !ok {
			return Seed{}, fmt.Errorf("words %d to %d: %w", i+1, i+3, ErrImpossibleWords)
		}
		binary.LittleEndian.PutUint32(seed[i/3*4:], x)
	}
	if index[seedWords] != index[checksumIndex(given[:seedWords])] {
		return Seed{}, ErrChecksum
	}
	return seed, nil
}

// encodeWords writes every four bytes of b, a little-endian number, as three
// words. A length that is no multiple of four loses its last bytes.
func encodeWords(b []byte) []string {
	out := make([]string, 0, len(b)/4*3+1)
	for ; len(b) >= 4; b = b[4:] {
		x := binary.LittleEndian.Uint32(b)
		w1 := x % listSize
		w2 := (x/listSize + w1) % listSize
		w3 := (x/(listSize*listSize) + w2) % listSize
		out = append(out, words[w1], words[w2], words[w3])
	}
	return out
}

// decodeWords undoes one step of encodeWords. Three words reach a little above
// 2^32; ok is false there.
func decodeWords(w1, w2, w3 uint32) (x uint32, ok bool) {
	const n = listSize
	wide := uint64(w1) + n*uint64((n-w1+w2)%n) + n*n*uint64((n-w2+w3)%n)
	return uint32(wide), wide < 1<<32
}

// checksumIndex tells which word the checksum word repeats: the CRC-32 of all
// three-letter prefixes, modulo the number of words.
func checksumIndex(phrase []string) int {
	crc := crc32.NewIEEE()
	for _, w := range phrase {
		crc.Write([]byte(w[:prefixSize]))
	}
	return int(crc.Sum32() % uint32(len(phrase)))
}
