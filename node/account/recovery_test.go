package account

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestASeedComesBackFromEitherForm(t *testing.T) {
	seed := Seed{0x0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xff}
	phrase := seed.Phrase()
	const digits = "0f0102030405060708090a0b0c0d0eff"
	for name, text := range map[string]string{
		"the words":                   phrase,
		"words in capitals":           strings.ToUpper(phrase),
		"three letters of each word":  prefixes(phrase),
		"words with numbers of lines": strings.ReplaceAll(phrase, " ", "\r\n"),
		"words with commas":           strings.ReplaceAll(phrase, " ", ", "),
		"hexadecimal digits":          digits,
		"digits in capitals":          strings.ToUpper(digits),
		"digits in groups":            "0f01 0203 0405 0607  0809 0a0b 0c0d 0eff\n",
		"digits with a line end":      " " + digits + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ParseRecovery(text); err != nil || got != seed {
				t.Errorf("another seed, or %v", err)
			}
		})
	}
}

func prefixes(phrase string) string {
	var short []string
	for _, w := range strings.Fields(phrase) {
		short = append(short, w[:3])
	}
	return strings.Join(short, " ")
}

func TestWhatIsWrongWithAPhraseIsSaidByItsPlace(t *testing.T) {
	good := strings.Fields(Seed{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}.Phrase())
	with := func(change func(w []string) []string) string {
		return strings.Join(change(append([]string(nil), good...)), " ")
	}
	set := func(i int, word string) string {
		return with(func(w []string) []string { w[i-1] = word; return w })
	}
	other := "zoom"
	if good[12] == other {
		other = "abbey"
	}
	for _, c := range []struct {
		name, text string
		want       error
		says       string
	}{
		{"nothing", "", ErrTooFewWords, "13"},
		{"blanks", " \t\r\n ", ErrTooFewWords, "13"},
		{"twelve words", with(func(w []string) []string { return w[:12] }), ErrTooFewWords, "13"},
		{"fourteen words", with(func(w []string) []string { return append(w, "zoom") }), ErrTooManyWords, "13"},
		{"a book", strings.Repeat("abbey ", 5000), ErrTooManyWords, "13"},
		{"an unknown first word", set(1, "qqqsecret"), ErrUnknownWord, "word 1:"},
		{"an unknown word in the middle", set(7, "qqqsecret"), ErrUnknownWord, "word 7:"},
		{"an unknown checksum word", set(13, "qqqsecret"), ErrUnknownWord, "word 13:"},
		{"a word of two letters", set(4, "zo"), ErrUnknownWord, "word 4:"},
		{"a word in another script", set(5, "слово"), ErrUnknownWord, "word 5:"},
		{"words that stand for no number", with(func(w []string) []string {
			w[3], w[4], w[5] = "zoom", "zones", "zombie"
			return w
		}), ErrImpossibleWords, "words 4 to 6:"},
		{"another checksum word", set(13, other), ErrChecksum, "word 13:"},
		{"two words swapped", with(func(w []string) []string { w[0], w[1] = w[1], w[0]; return w }), nil, ""},
		{"31 digits", strings.Repeat("a", 31), ErrTooFewWords, "13"},
		{"33 digits", strings.Repeat("a", 33), ErrTooFewWords, "13"},
		{"a digit that is none", strings.Repeat("a", 31) + "g", ErrNotHex, "hexadecimal"},
		{"a Session ID", "05" + strings.Repeat("ab", 32), ErrTooFewWords, "13"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseRecovery(c.text)
			if c.want == nil {
				if err == nil {
					t.Fatal("it was taken")
				}
			} else if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want %v with %q", err, c.want, c.says)
			}
			if got != (Seed{}) {
				t.Error("a seed came with the error")
			}
			for _, w := range strings.Fields(c.text) {
				if len(w) > 3 && strings.Contains(err.Error(), w) {
					t.Errorf("the error quotes %q: %v", w, err)
				}
			}
		})
	}
}

func FuzzParseRecovery(f *testing.F) {
	f.Add(Seed{1, 2, 3}.Phrase())
	f.Add("0f0102030405060708090a0b0c0d0eff")
	f.Add("0f01 0203 0405 0607 0809 0a0b 0c0d 0eff")
	f.Add(strings.Repeat("zoom ", 13))
	f.Add("\x00\xff ﬀﬁ İ ǅ")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseRecovery(text)
		if err != nil {
			if s != (Seed{}) {
				t.Fatal("a seed came with an error")
			}
			return
		}
		// What was taken comes back in its plain form as the same seed.
		again, err := ParseRecovery(s.Phrase())
		if err != nil || !bytes.Equal(again[:], s[:]) {
			t.Fatalf("the phrase of the seed gives another one: %v", err)
		}
	})
}
