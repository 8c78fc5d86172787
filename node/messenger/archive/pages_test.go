package archive

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hearth/node/account"
)

// mapped is how much of a file's mapping counts as this process's memory, in bytes.
func mapped(t testing.TB, file string) (size int) {
	t.Helper()
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer smaps.Close()
	ours := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		line := lines.Text()
		if name, _, _ := strings.Cut(line, " "); strings.Contains(name, "-") {
			ours = strings.HasSuffix(line, file)
		}
		var kib int
		if _, err := fmt.Sscanf(line, "Rss: %d kB", &kib); ours && err == nil {
			size += kib << 10
		}
	}
	return size
}

func TestThePagesOfTheDatabaseAreGivenBack(t *testing.T) {
	const count, most = 12_000, 8 << 20
	file := filepath.Join(t.TempDir(), "db")
	who := large(t, file, count)
	info, err := os.Stat(file)
	if err != nil || info.Size() < 2*most {
		t.Fatalf("the database has %d bytes: too few to tell, %v", info.Size(), err)
	}
	a, _ := open(t, file)
	defer a.Close()
	within := func(when string) {
		t.Helper()
		if got := mapped(t, file); got > most {
			t.Errorf("%s %d KiB of a database of %d KiB count as memory", when, got>>10, info.Size()>>10)
		}
	}
	within("after it was opened")
	if found, err := a.Search(t.Context(), account.ID{}, "not in any of them", 50, 1<<20); err != nil || len(found) != 0 {
		t.Fatal(found, err)
	}
	within("after a search")
	for at := uint64(count); at > 100; at -= 100 {
		if _, err := a.Messages(who, at, 50, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	within("after the whole conversation was paged through")
	for i := range 200 {
		receive(t, a, incoming(who, count+i, "one more"))
	}
	within("after more was written")
}

func TestNoMessageFallsThroughTheSieve(t *testing.T) {
	for _, c := range []struct{ text, search string }{
		{"Where is the Haystack?", "haystack"},
		{"a <b> & \"c\"", "<b> & \"c\""},
		{"a <b> & \"c\"", "a <b"},
		{`back\slash`, `\`},
		{"two\nlines", "two\nlines"},
		{"STRAẞE und Straße", "straße"},
		{"Übermut", "übermut"},
		{"İstanbul", strings.ToLower("İstanbul")},
		{"Kelvin is \u212a", "is k"},
		{"line\u2028separator", "line\u2028separator"},
		{"bro\xffken", "bro"},
		{"emoji 👩‍👩‍👧", "👧"},
	} {
		if !sifted(t, c.text, c.search) {
			t.Errorf("%q is not found in %q", c.search, c.text)
		}
	}
	if b := encoded(t, "nothing of it"); newSieve("needle").mayHold(b) {
		t.Error("everything falls through")
	}
}

func encoded(t testing.TB, text string) []byte {
	b, err := json.Marshal(Message{Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sifted tells whether a message with a text is found, or rightly not.
func sifted(t testing.TB, text, search string) bool {
	search = strings.ToLower(strings.TrimSpace(search))
	b := encoded(t, text)
	var m Message
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return search == "" || !m.holds(search) || newSieve(search).mayHold(b)
}

func FuzzSieve(f *testing.F) {
	f.Add("Where is the Haystack?", "haystack")
	f.Add("İ\u2028<\u212a", "k")
	f.Fuzz(func(t *testing.T, text, search string) {
		for _, s := range []string{search, text, text[len(text)/2:]} {
			if !sifted(t, text, s) {
				t.Errorf("%q is not found in %q", s, text)
			}
		}
	})
}
