package console

import (
	"context"
	"io"
	"strings"
	"sync"
)

// maxQueued is how many finished lines may wait for the commands before them.
// More are not read from the device until there is room.
const maxQueued = 64

// terminal owns the screen and the line being typed. Output that comes while
// somebody types goes above that line, in one write, and the line is shown
// again below it.
//
// What is typed while a command runs is shown when its turn comes, behind its
// own prompt, so that a script fed in at once leaves the same transcript as
// somebody who waits for every answer.
type terminal struct {
	w   io.Writer
	raw bool // the terminal shows only what it is sent; false = lines in, lines out

	mu        sync.Mutex
	editor    editor
	queue     []input
	ended     bool          // nothing more will be typed
	change    chan struct{} // closed and replaced when queue or ended change
	listening bool          // the prompt is on the screen
	prompt    string
	secret    bool        // what is typed now must not be shown
	cancel    func()      // ends the running command; nil = none runs
	stop      bool        // Ctrl-C came for a command that does not run yet
	noted     string      // of whom was last written to writing
	writing   chan string // to whom the line being typed is, only the latest
}

// input is what one line brought.
type input struct {
	text        string
	err         error // errLineTooLong, errNotText
	shown       bool  // it was typed at the prompt
	interrupted bool  // Ctrl-C instead of a line
}

func newTerminal(w io.Writer, raw bool) *terminal {
	return &terminal{w: w, raw: raw, change: make(chan struct{}), writing: make(chan string, 1)}
}

func (t *terminal) changed() {
	close(t.change)
	t.change = make(chan struct{})
}

// read takes bytes from r until it ends, or until Ctrl-D on an empty line when
// mayLeave is set.
func (t *terminal) read(ctx context.Context, r io.Reader, mayLeave bool) {
	defer func() {
		t.mu.Lock()
		if len(t.editor.line) > 0 && !t.raw { // a file may lack its last line end
			t.enter()
		}
		t.ended = true
		t.changed()
		t.mu.Unlock()
	}()
	buf := make([]byte, 512)
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			if !t.room(ctx) || t.key(b) && mayLeave {
				return
			}
		}
		if err != nil || ctx.Err() != nil {
			return
		}
	}
}

// room waits until another line may be queued.
func (t *terminal) room(ctx context.Context) bool {
	for {
		t.mu.Lock()
		full, change := len(t.queue) >= maxQueued, t.change
		t.mu.Unlock()
		if !full {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-change:
		}
	}
}

// key takes one byte and tells whether it asks to leave.
func (t *terminal) key(b byte) (leave bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var last rune
	if n := len(t.editor.line); n > 0 {
		last = t.editor.line[n-1]
	}
	did := t.editor.feed(b)
	defer t.noteWriting(did)
	echo := t.raw && t.listening && !t.secret
	switch did {
	case appended:
		if echo {
			t.write(string(t.editor.line[len(t.editor.line)-1]))
		}
	case erased:
		switch {
		case echo && last < firstWide:
			t.write("\b \b")
		case echo:
			t.write(t.redraw())
		}
	case replaced:
		if t.raw && t.listening {
			t.write(t.redraw())
		}
	case entered:
		t.enter()
	case interrupt:
		if t.listening {
			t.endLine("^C")
			t.push(input{interrupted: true, shown: true})
		} else if t.cancel != nil {
			t.cancel()
		} else {
			t.stop = true
		}
	case end:
		return true
	}
	return false
}

// noteWriting says to whom somebody writes who types at the prompt. Keys that change
// nothing about it are noted, too, as signs that the writing goes on.
func (t *terminal) noteWriting(did effect) {
	if !t.raw || t.secret {
		return
	}
	name := done
	if did != entered {
		begin := t.editor.line[:min(len(t.editor.line), headLength)]
		if name = addressee(string(begin)); name == "" && t.noted == "" {
			return
		}
	} else if t.noted == "" {
		return
	}
	if t.noted = name; name == done {
		t.noted = ""
	}
	select {
	case <-t.writing:
	default:
	}
	t.writing <- name
}

func (t *terminal) enter() {
	in := input{shown: t.listening}
	in.text, in.err = t.editor.take()
	t.endLine("")
	t.push(in)
}

func (t *terminal) endLine(mark string) {
	if t.listening && t.raw {
		t.write(mark + "\r\n")
	}
	t.listening = false
}

func (t *terminal) push(in input) {
	t.queue = append(t.queue, in)
	t.changed()
}

// next shows a prompt and gives the next line. It returns io.EOF when the
// input has ended and everything before has been given, or ctx's error.
func (t *terminal) next(ctx context.Context, prompt string, secret bool) (input, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prompt, t.secret, t.editor.secret = prompt, secret, secret
	defer func() { t.secret, t.editor.secret = false, false }()
	for {
		if len(t.queue) > 0 {
			in := t.queue[0]
			t.queue = t.queue[1:]
			t.changed()
			if t.raw && !in.shown {
				text := in.text
				if secret {
					text = ""
				}
				t.write(prompt + text + "\r\n")
			}
			return in, nil
		}
		if t.ended {
			t.endLine("")
			return input{}, io.EOF
		}
		t.stop = false
		if !t.listening {
			t.listening = true
			if t.raw {
				t.write(prompt + t.typed())
			}
		}
		change := t.change
		t.mu.Unlock()
		select {
		case <-ctx.Done():
			t.mu.Lock()
			t.endLine("")
			return input{}, ctx.Err()
		case <-change:
		}
		t.mu.Lock()
	}
}

// remember puts a line into the history of the arrow keys.
func (t *terminal) remember(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.editor.remember(line)
}

// running sets what Ctrl-C ends, nil for nothing.
func (t *terminal) running(cancel func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel = cancel
	if cancel != nil && t.stop {
		t.stop = false
		cancel()
	}
}

// print writes lines of text, in one piece and with everything made visible.
func (t *terminal) print(lines ...string) {
	safe := make([]string, len(lines))
	for i, line := range lines {
		safe[i] = visible(line)
	}
	t.printRaw(safe...)
}

// printRaw writes lines that may hold escape sequences: never anything that
// came from outside this program.
func (t *terminal) printRaw(lines ...string) {
	eol := "\n"
	if t.raw {
		eol = "\r\n"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	if t.raw && t.listening {
		if t.oneRow() {
			b.WriteString(eraseRow)
		} else {
			b.WriteString(eol) // leaves a piece of the line behind, in place of a piece missing
		}
	}
	for _, line := range lines {
		b.WriteString(line)
		b.WriteString(eol)
	}
	if t.raw && t.listening {
		b.WriteString(t.prompt + t.typed())
	}
	t.write(b.String())
}

const (
	eraseRow = "\r\x1b[K"
	// narrow is how much of a row every terminal has, in columns.
	narrow = 78
	// firstWide is the first character that may fill two columns, or none.
	firstWide = 0x300
)

func (t *terminal) redraw() string {
	if t.oneRow() {
		return eraseRow + t.prompt + t.typed()
	}
	return "\r\n" + t.prompt + t.typed()
}

// oneRow tells whether prompt and line fill no more than one row; every
// character beyond Latin counts as two columns, which is too much for some.
func (t *terminal) oneRow() bool {
	if t.secret {
		return true
	}
	columns := len(t.prompt) + 1 // a character that was just erased
	for _, r := range t.editor.line {
		if columns++; r >= firstWide {
			columns++
		}
	}
	return columns < narrow
}

func (t *terminal) typed() string {
	if t.secret {
		return ""
	}
	return string(t.editor.line)
}

// write leaves errors to the reader of the same device, who sees it end.
func (t *terminal) write(s string) { io.WriteString(t.w, s) }
