package console

import (
	"errors"
	"unicode/utf8"
)

// MaxLine is the longest line that is taken, in bytes of UTF-8: a message of
// [MaxMessage] characters in any script, and room for the command before it.
const MaxLine = 4*MaxMessage + 512

const maxHistory = 50

var (
	errLineTooLong = errors.New("that line is longer than 8,512 bytes and was not used")
	errNotText     = errors.New("that line had bytes that are not UTF-8 text, so it was not used; type it again")
)

// editor turns the bytes of a terminal into lines. It knows nothing of the
// screen: feed tells what a byte did and the terminal shows it.
//
// A carriage return, a line feed and both together end a line. Escape
// sequences are recognised in order to be ignored, the arrows up and down
// excepted, so that no part of one ends up in a line.
type editor struct {
	line    []rune
	size    int // of line, in bytes
	tooLong bool
	garbage bool
	secret  bool // the line is a PIN: no history
	partial []byte
	escape  escapeState
	afterCR bool
	history []string
	at      int // position in history; len(history) = the line being typed
	draft   string
}

type escapeState int

const (
	noEscape    escapeState = iota
	escapeBegun             // after ESC
	escapeCSI               // after ESC [ : up to a byte from @ to ~
	escapeSS3               // after ESC O : one more byte
	escapeText              // after ESC ] and its kin: up to BEL or ESC \
)

// effect is what a byte did to the line.
type effect int

const (
	nothing   effect = iota
	appended         // one character was added
	erased           // the last character was removed
	replaced         // the line is another
	entered          // the line is complete: take it
	interrupt        // Ctrl-C: the line is dropped
	end              // Ctrl-D on an empty line
)

const (
	ctrlC     = 0x03
	ctrlD     = 0x04
	bell      = 0x07
	backspace = 0x08
	ctrlL     = 0x0c
	ctrlN     = 0x0e
	ctrlP     = 0x10
	ctrlU     = 0x15
	ctrlW     = 0x17
	escapeKey = 0x1b
	deleteKey = 0x7f
)

func (e *editor) feed(b byte) effect {
	afterCR := e.afterCR
	e.afterCR = b == '\r'
	if e.escape != noEscape {
		if did, typed := e.inEscape(b); !typed {
			return did
		}
	}
	if b >= 0x80 {
		return e.feedUTF8(b)
	}
	if len(e.partial) > 0 {
		e.partial, e.garbage = nil, true
	}
	switch b {
	case '\n':
		if afterCR {
			return nothing
		}
		return entered
	case '\r':
		return entered
	case ctrlC:
		e.clear()
		return interrupt
	case ctrlD:
		if len(e.line) == 0 {
			return end
		}
	case backspace, deleteKey:
		return e.erase()
	case ctrlU:
		e.clear()
		return replaced
	case ctrlW:
		for len(e.line) > 0 && e.line[len(e.line)-1] == ' ' {
			e.erase()
		}
		for len(e.line) > 0 && e.line[len(e.line)-1] != ' ' {
			e.erase()
		}
		return replaced
	case ctrlL:
		return replaced
	case ctrlP:
		return e.recall(-1)
	case ctrlN:
		return e.recall(+1)
	case '\t':
		return e.add(' ')
	case escapeKey:
		e.escape = escapeBegun
	default:
		if b >= ' ' {
			return e.add(rune(b))
		}
	}
	return nothing
}

// inEscape takes one byte within an escape sequence and tells whether the byte
// is to be treated as typed after all. A line end always is: an unfinished
// sequence must not swallow what follows.
func (e *editor) inEscape(b byte) (did effect, typed bool) {
	if b == '\r' || b == '\n' || b == ctrlC || b == ctrlU {
		e.escape = noEscape
		return nothing, true
	}
	switch e.escape {
	case escapeBegun:
		switch b {
		case '[':
			e.escape = escapeCSI
		case 'O':
			e.escape = escapeSS3
		case ']', 'P', '_', '^', 'X':
			e.escape = escapeText
		case escapeKey:
		default:
			if b >= ' ' { // a final byte, or the end of a text
				e.escape = noEscape
			}
		}
	case escapeCSI, escapeSS3:
		switch {
		case b == escapeKey:
			e.escape = escapeBegun
		case b >= '@' && b <= '~':
			e.escape = noEscape
			switch b {
			case 'A':
				return e.recall(-1), false
			case 'B':
				return e.recall(+1), false
			}
		case b >= 0x80 || e.escape == escapeSS3:
			e.escape = noEscape
		}
	case escapeText:
		switch b {
		case bell:
			e.escape = noEscape
		case escapeKey:
			e.escape = escapeBegun
		}
	}
	return nothing, false
}

func (e *editor) feedUTF8(b byte) effect {
	e.partial = append(e.partial, b)
	if !utf8.FullRune(e.partial) {
		return nothing
	}
	r, _ := utf8.DecodeRune(e.partial)
	broken := r == utf8.RuneError && string(e.partial) != string(utf8.RuneError)
	again := broken && len(e.partial) > 1 && utf8.RuneStart(b)
	e.partial = e.partial[:0]
	if broken {
		e.garbage = true
		if again {
			return e.feedUTF8(b)
		}
		return nothing
	}
	if !plain(r) {
		return nothing // C1 controls, direction overrides and the like are no keys
	}
	return e.add(r)
}

func (e *editor) add(r rune) effect {
	if e.tooLong = e.tooLong || e.size+utf8.RuneLen(r) > MaxLine; e.tooLong {
		return nothing
	}
	e.line = append(e.line, r)
	e.size += utf8.RuneLen(r)
	return appended
}

func (e *editor) erase() effect {
	if len(e.line) == 0 {
		return nothing
	}
	last := e.line[len(e.line)-1]
	e.line = e.line[:len(e.line)-1]
	e.size -= utf8.RuneLen(last)
	return erased
}

func (e *editor) clear() {
	clear(e.line[:cap(e.line)]) // it may have been a PIN
	e.line, e.size = e.line[:0], 0
	e.tooLong, e.garbage, e.partial = false, false, nil
	e.at = len(e.history)
}

func (e *editor) recall(step int) effect {
	to := e.at + step
	if e.secret || to < 0 || to > len(e.history) {
		return nothing
	}
	if e.at == len(e.history) {
		e.draft = string(e.line)
	}
	text := e.draft
	if to < len(e.history) {
		text = e.history[to]
	}
	e.clear()
	e.line, e.size, e.at = []rune(text), len(text), to
	return replaced
}

// take gives the finished line, or why it cannot be used, and starts a new
// one.
func (e *editor) take() (string, error) {
	defer e.clear()
	switch {
	case e.tooLong:
		return "", errLineTooLong
	case e.garbage:
		return "", errNotText
	}
	return string(e.line), nil
}

// remember puts a line into the history.
func (e *editor) remember(line string) {
	if n := len(e.history); line == "" || n > 0 && e.history[n-1] == line {
		return
	}
	typing := e.at == len(e.history)
	e.history = append(e.history, line)
	if extra := len(e.history) - maxHistory; extra > 0 {
		e.history = e.history[extra:]
	}
	if typing {
		e.at = len(e.history)
	}
	e.at = min(e.at, len(e.history))
}
