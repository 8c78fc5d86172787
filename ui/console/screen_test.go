package console

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// screen is as much of a terminal as the console uses. It reports everything
// else, so that a test notices an escape sequence that got through.
type screen struct {
	lines  [][]rune
	column int
	raw    []byte // not a whole character or sequence yet
	bad    []string
}

func newScreen() *screen { return &screen{lines: [][]rune{nil}} }

func (s *screen) write(b []byte) {
	s.raw = append(s.raw, b...)
	for len(s.raw) > 0 {
		switch c := s.raw[0]; {
		case c == 0x1b:
			n := s.sequence()
			if n == 0 {
				return
			}
			s.raw = s.raw[n:]
		case c == '\r':
			s.column, s.raw = 0, s.raw[1:]
		case c == '\n':
			s.lines, s.raw = append(s.lines, nil), s.raw[1:]
		case c == '\b':
			s.column, s.raw = max(0, s.column-1), s.raw[1:]
		case c < ' ' || c == 0x7f:
			s.bad = append(s.bad, fmt.Sprintf("control character %#02x", c))
			s.raw = s.raw[1:]
		default:
			if !utf8.FullRune(s.raw) {
				return
			}
			r, n := utf8.DecodeRune(s.raw)
			if r >= 0x80 && r < 0xa0 || r == utf8.RuneError && n == 1 {
				s.bad = append(s.bad, fmt.Sprintf("byte or character %#x", s.raw[:n]))
			}
			s.put(r)
			s.raw = s.raw[n:]
		}
	}
}

func (s *screen) put(r rune) {
	line := &s.lines[len(s.lines)-1]
	for len(*line) <= s.column {
		*line = append(*line, ' ')
	}
	(*line)[s.column] = r
	s.column++
}

// sequence gives the length of the escape sequence at the start, 0 if it is
// not whole.
func (s *screen) sequence() int {
	if len(s.raw) < 2 {
		return 0
	}
	if s.raw[1] != '[' {
		s.bad = append(s.bad, fmt.Sprintf("escape %q", s.raw[:2]))
		return 2
	}
	for i := 2; i < len(s.raw); i++ {
		if c := s.raw[i]; c >= '@' && c <= '~' {
			switch seq := string(s.raw[:i+1]); {
			case seq == "\x1b[K":
				line := &s.lines[len(s.lines)-1]
				*line = (*line)[:min(s.column, len(*line))]
			case c == 'm':
			default:
				s.bad = append(s.bad, fmt.Sprintf("escape %q", seq))
			}
			return i + 1
		}
	}
	return 0
}

// text is everything shown so far, a line each.
func (s *screen) text() []string {
	var all []string
	for _, line := range s.lines {
		all = append(all, string(line))
	}
	return all
}

func (s *screen) check(t testing.TB) {
	t.Helper()
	for _, b := range s.bad {
		t.Errorf("the terminal was sent %s", b)
	}
}

// atPrompt tells whether the cursor stands behind a prompt.
func (s *screen) atPrompt() bool {
	last := string(s.lines[len(s.lines)-1])
	return strings.HasPrefix(last, Prompt) || strings.HasSuffix(last, ": ") && !strings.HasPrefix(last, " ")
}
