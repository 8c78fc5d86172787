package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestSeedsAndTheirPins(t *testing.T) {
	a, b := strings.Repeat("aa", 32), strings.Repeat("bb", 32)
	for _, c := range []struct {
		name string
		args []string
		want string // URL and first byte of the pin of each seed, or the error
	}{
		{"none", nil, ""},
		{"one", []string{"-seed", "https://a", "-seed-pin", a}, "https://a aa"},
		{"two in one flag", []string{"-seed", "https://a, https://b", "-seed-pin", a + "," + b}, "https://a aa, https://b bb"},
		{"two in two flags", []string{"-seed", "https://a", "-seed-pin", a, "-seed", "https://b", "-seed-pin", b}, "https://a aa, https://b bb"},
		{"a pin with colons", []string{"-seed", "https://a", "-seed-pin", strings.TrimSuffix(strings.Repeat("AA:", 32), ":")}, "https://a aa"},
		{"a seed without a pin", []string{"-seed", "https://a"}, "-seed, -seed-pin: 1 seeds but 0 pins"},
		{"a pin too many", []string{"-seed", "https://a", "-seed-pin", a + "," + b}, "-seed, -seed-pin: 1 seeds but 2 pins"},
		{"a short pin", []string{"-seed", "https://a", "-seed-pin", "aabb"}, "-seed-pin of https://a: not 64 hexadecimal digits"},
		{"a gateway that is none", []string{"-gateway", "x"}, `gateway "x": want PREFIX=ADDRESS, such as 127.0.0.0/8=10.0.2.2`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f networkFlags
			flags := flag.NewFlagSet("test", flag.ContinueOnError)
			flags.SetOutput(io.Discard)
			f.add(flags)
			if err := flags.Parse(c.args); err != nil {
				t.Fatal(err)
			}
			seeds, dial, err := f.open()
			var got []string
			for _, s := range seeds {
				got = append(got, fmt.Sprintf("%s %x", s.URL, s.Pin[:1]))
			}
			text := strings.Join(got, ", ")
			if err != nil {
				text = err.Error()
			} else if dial == nil {
				t.Error("no dialer")
			}
			if text != c.want {
				t.Errorf("got %q, want %q", text, c.want)
			}
		})
	}
}
