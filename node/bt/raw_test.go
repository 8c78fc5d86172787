package bt_test

import (
	"errors"
	"strings"
	"testing"

	"hearth/node/bt"
)

func TestRawValues(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		err            error
	}{
		{"a list is taken whole", "d1:ali1eli2eee1:bi3ee", "li1eli2eee", nil},
		{"a dictionary is taken whole", "d1:ad1:xlee1:b0:e", "d1:xlee", nil},
		{"a byte string keeps its length", "d1:a3:abce", "3:abc", nil},
		{"an integer keeps its letters", "d1:ai-5ee", "i-5e", nil},
		{"an unfinished list is noticed", "d1:ali1e", "", bt.ErrSyntax},
		{"a value that is too deep is refused", "d1:a" + strings.Repeat("l", 100) + strings.Repeat("e", 101), "", bt.ErrLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := bt.ReadDict([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := r.Find("a"); !ok || err != nil {
				t.Fatal(ok, err)
			}
			got, err := r.Raw()
			if !errors.Is(err, c.err) || string(got) != c.want {
				t.Errorf("got %q, %v; want %q, %v", got, err, c.want, c.err)
			}
			if err == nil {
				if err := r.Close(); err != nil {
					t.Errorf("going on: %v", err)
				}
			}
			l, err := bt.ReadList([]byte("l" + strings.TrimSuffix(strings.TrimPrefix(c.in, "d1:a"), "e") + "e"))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := l.Raw(); c.err == nil && (err != nil || string(got) != c.want) {
				t.Errorf("of a list: %q, %v", got, err)
			}
		})
	}
	r, err := bt.ReadDict([]byte("de"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Raw(); !errors.Is(err, bt.ErrType) {
		t.Errorf("without a key: %v", err)
	}
}
