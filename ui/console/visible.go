package console

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible makes foreign text safe for a terminal: everything that a terminal
// or its user could take for something else than text is spelled out. Escape
// becomes ␛, other control characters ␀ to ␡, the rest <U+009B>; line breaks
// become ↵. What comes out has no control character, so it can neither move
// the cursor nor talk to the terminal nor pretend to be another line.
func visible(text string) string {
	clean := true
	for _, r := range text {
		if !plain(r) || r == utf8.RuneError {
			clean = false
			break
		}
	}
	if clean {
		return text
	}
	var b strings.Builder
	text = strings.ReplaceAll(text, "\r\n", "\n")
	for _, r := range text { // invalid UTF-8 comes as U+FFFD
		switch {
		case plain(r):
			b.WriteRune(r)
		case r == '\n' || r == '\u0085' || r == '\u2028' || r == '\u2029':
			b.WriteRune('↵')
		case r == '\t' || unicode.Is(unicode.Zs, r):
			b.WriteByte(' ')
		case r < 0x20:
			b.WriteRune('␀' + r)
		case r == 0x7f:
			b.WriteRune('␡')
		default:
			fmt.Fprintf(&b, "<U+%04X>", r)
		}
	}
	return b.String()
}

// visibleLines is visible for text whose line breaks may be shown as such.
func visibleLines(text string) []string {
	var lines []string
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		lines = append(lines, visible(line))
	}
	return lines
}

// plain tells whether a terminal shows r as itself and nothing else happens.
// Of the invisible format characters only those pass that scripts and emoji
// need; the ones that reverse the direction of everything after them do not.
func plain(r rune) bool {
	switch r {
	case '\u200c', '\u200d', '\u200e', '\u200f': // joiners, direction marks
		return true
	}
	return unicode.IsPrint(r)
}

// clip shortens text to n characters.
func clip(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	i := 0
	for range n {
		_, size := utf8.DecodeRuneInString(text[i:])
		i += size
	}
	return text[:i] + "…"
}
