package console

import (
	"testing"

	"hearth/ui/devicetest"
)

func TestTheLineBeingTypedHasAnAddressee(t *testing.T) {
	for line, want := range map[string]string{
		"send bob h":          "bob",
		"send bob ":           "",
		"send bob":            "",
		`send "Bob M" hello`:  "Bob M",
		"reply bob 12 y":      "bob",
		"reply bob 12":        "",
		"read bob hello":      "",
		"":                    "",
		"  send   bob   hey ": "bob",
	} {
		if got := addressee(line); got != want {
			t.Errorf("%q is for %q, want %q", line, got, want)
		}
	}
}

func TestWhoIsWrittenToIsToldOfIt(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	u := sit(t, s, nil)
	u.waitPrompt(0)
	for _, step := range []struct {
		keys    string
		with    string
		stopped bool
	}{
		{keys: "send bob hel", with: "bob"},
		{keys: "lo\x15", with: "bob", stopped: true}, // Ctrl-U clears the line
		{keys: "send ann x", with: "ann"},
	} {
		u.key(step.keys)
		select {
		case r := <-s.Typed:
			if r.GetWith() != step.with || r.GetStopped() != step.stopped {
				t.Errorf("%q: told %v", step.keys, r)
			}
		case <-u.ctx.Done():
			t.Fatalf("%q: nobody was told", step.keys)
		}
	}
	u.key("\r")
	u.waitPrompt(1)
	u.leave()
	if len(s.Typed) != 0 {
		t.Errorf("told once more: %v", <-s.Typed)
	}
}
