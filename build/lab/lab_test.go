package lab

import (
	"errors"
	"net"
	"strings"
	"testing"

	"hearth/build/emulator"
)

func TestWhatCannotBeServedIsSaidBeforeAnythingIsBuilt(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name    string
		options Options
		says    string
	}{
		{"a port that is taken", Options{PanelPage: taken.Addr().String()}, "choose another"},
		{"a page for the whole world", Options{PanelPage: "0.0.0.0:0"}, "loopback"},
		{"ports beyond the last", Options{BasePort: 65500}, "65335"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.options.Board, c.options.Dir = emulator.AMD64, t.TempDir()
			l, err := Open(t.Context(), c.options)
			if err == nil {
				l.Close()
				t.Fatal("it opened")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("it says %q, not %q", err, c.says)
			}
		})
	}
}

func TestAFolderIsForOneRunAtATime(t *testing.T) {
	dir := t.TempDir()
	unlock, err := Claim(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(dir, true); !errors.Is(err, ErrInUse) {
		t.Errorf("a second run got %v", err)
	}
	unlock()
	again, err := Claim(dir, true)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	again()
}
