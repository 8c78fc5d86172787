package light

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAnAnchorIsReadAsItIsWritten(t *testing.T) {
	hash := strings.Repeat("0f", 32)
	for _, c := range []struct {
		text string
		good bool
	}{
		{"hearth-1:4711:" + hash, true},
		{"a:b:4711:" + hash, true},
		{" hearth-1:4711:" + hash + "\n", true},
		{"4711:" + hash, false},
		{":4711:" + hash, false},
		{"hearth-1:0:" + hash, false},
		{"hearth-1:-1:" + hash, false},
		{"hearth-1:4711:" + hash[1:], false},
		{"hearth-1:4711:" + hash + "0", false},
		{"hearth-1", false},
		{strings.Repeat("x", 1000) + ":4711:" + hash, false},
		{"", false},
	} {
		var a Anchor
		err := a.UnmarshalText([]byte(c.text))
		if c.good && (err != nil || a.String() != strings.TrimSpace(c.text)) || !c.good && !errors.Is(err, ErrTrust) {
			t.Errorf("%.40q became %v, %v", c.text, a, err)
		}
	}
}

func FuzzAnchor(f *testing.F) {
	f.Add("hearth-1:4711:" + strings.Repeat("0f", 32))
	f.Fuzz(func(t *testing.T, text string) {
		var a, b Anchor
		if a.UnmarshalText([]byte(text)) == nil && (b.UnmarshalText([]byte(a.String())) != nil || a != b) {
			t.Errorf("%q became %v, then %v", text, a, b)
		}
	})
}

func TestTheNewestTrustedHeaderIsKept(t *testing.T) {
	now := time.Unix(2_000_000_000, 0)
	clock := func() time.Time { return now }
	path := filepath.Join(t.TempDir(), "trust")
	anchor := func(chain string, height int64) Anchor { return Anchor{chain, Trust{height, [32]byte{byte(height)}}} }
	open := func(given Anchor) *Keeper {
		t.Helper()
		k, err := OpenKeeper(path, given, clock, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	is := func(k *Keeper, want Anchor) {
		t.Helper()
		if k.Anchor() != want {
			t.Errorf("it has %v, want %v", k.Anchor(), want)
		}
	}
	none := Anchor{}
	if _, err := OpenKeeper(path, none, clock, slog.New(slog.DiscardHandler)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file and without a header: %v", err)
	}
	k := open(anchor("a", 10))
	is(k, anchor("a", 10))
	is(open(none), anchor("a", 10)) // given once, it is known
	k.Save(anchor("a", 20).Trust)
	is(k, anchor("a", 20))
	is(open(none), anchor("a", 10)) // within the hour
	now = now.Add(time.Hour)
	k.Save(anchor("a", 15).Trust) // a step back
	is(k, anchor("a", 20))
	k.Save(anchor("a", 30).Trust)
	is(open(none), anchor("a", 30))
	is(open(anchor("a", 25)), anchor("a", 30)) // what was proven is newer than what is given
	is(open(anchor("a", 40)), anchor("a", 40)) // and the other way round
	is(open(none), anchor("a", 40))
	is(open(anchor("b", 1)), anchor("b", 1)) // another ledger
	is(open(none), anchor("b", 1))

	if err := os.WriteFile(path, []byte("b:1:0f\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeeper(path, none, clock, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrTrust) {
		t.Errorf("a damaged file: %v", err)
	}
	is(open(anchor("b", 2)), anchor("b", 2))
	is(open(none), anchor("b", 2))
}
