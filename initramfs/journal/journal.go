// Package journal is the appliance's log: a ring of lines in memory, and the
// serial line.
//
// Lines come in through Say (PID 1's own words), and through a Source for each
// service, which takes what the service writes to its standard output and error.
// They leave through Last, for whoever looks at the log on the device, and on the
// console that is given to Attach. Nothing is ever written to disk.
//
// The console is slow (11 kB/s at 115200 baud) and somebody types on it. So a
// service's ordinary lines stay in the ring, only warnings and worse are shown,
// and not more than a few a second; and no line ever makes its writer wait.
package journal

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxLine is the most bytes of one line that are kept.
	MaxLine = 500

	backlog = 256 // lines waiting for the console before lines are dropped

	burst = 12          // lines of one service that may appear at once,
	every = time.Second // and how often one more may appear after that
)

// Journal keeps the newest lines. The zero value is not usable, see New.
type Journal struct {
	uptime func() time.Duration
	prompt atomic.Bool

	mu      sync.Mutex
	ring    []string
	next    int // where in the ring the next line goes, once it is full
	console chan shown
	dropped int // lines the console was too slow for, since the last that got through
}

// shown is a line on its way to the console, or a mark that tells Drain that all
// lines before it are there.
type shown struct {
	text    string
	written chan struct{}
}

// New makes a journal of the newest capacity lines. uptime stamps them.
func New(capacity int, uptime func() time.Duration) *Journal {
	return &Journal{uptime: uptime, ring: make([]string, 0, capacity), console: make(chan shown, backlog)}
}

// Attach starts to write the lines for the console to w, each with one Write, and
// with them those that were said before. It may be called once; it ends with the
// process.
func (j *Journal) Attach(w io.Writer) {
	go func() {
		for line := range j.console {
			if line.written != nil {
				close(line.written)
				continue
			}
			text := line.text + "\r\n" // in raw mode "\n" alone only goes down
			if j.prompt.Load() {
				text = "\r\x1b[K" + text
			}
			io.WriteString(w, text)
		}
	}()
}

// Prompt tells that from now on somebody is asked for input on the console: each
// line then first takes away what stands in the line of the cursor.
func (j *Journal) Prompt() { j.prompt.Store(true) }

// Drain waits until everything said so far is on the console, at most for limit.
func (j *Journal) Drain(limit time.Duration) {
	timeout := time.After(limit)
	mark := shown{written: make(chan struct{})}
	select {
	case j.console <- mark:
	case <-timeout:
		return
	}
	select {
	case <-mark.written:
	case <-timeout:
	}
}

// Say writes a line of PID 1, to the ring and to the console. from names the
// part that speaks, a stage or the supervisor.
func (j *Journal) Say(from, format string, args ...any) {
	j.add(from, fmt.Sprintf(format, args...), true)
}

// Last returns up to n of the newest lines, oldest first.
func (j *Journal) Last(n int) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := append(append(make([]string, 0, len(j.ring)), j.ring[j.next:]...), j.ring[:j.next]...)
	return lines[max(0, len(lines)-max(n, 0)):]
}

func (j *Journal) add(from, text string, show bool) {
	at := j.uptime()
	line := fmt.Sprintf("[%4d.%03d] %s: %s", int(at.Seconds()), at.Milliseconds()%1000, from, clean(text))
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.ring) < cap(j.ring) {
		j.ring = append(j.ring, line)
	} else if len(j.ring) > 0 {
		j.ring[j.next] = line
		j.next = (j.next + 1) % len(j.ring)
	}
	if !show {
		return
	}
	if j.dropped > 0 {
		line = fmt.Sprintf("(%d lines left out, the console is slow)\r\n%s", j.dropped, line)
	}
	select {
	case j.console <- shown{text: line}:
		j.dropped = 0
	default:
		j.dropped++
	}
}

// clean makes a line harmless to show on a terminal, whatever a stranger put into
// it, and bounds its length.
func clean(text string) string {
	if len(text) > MaxLine {
		cut := MaxLine
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// Source takes the lines of one service. It is an io.Writer for the service's
// output; bytes after the last newline wait for more.
type Source struct {
	j    *Journal
	name string

	mu      sync.Mutex
	partial []byte
	skip    bool // the rest of an overlong line, up to its end
	tokens  int
	refill  time.Time
	silent  int // lines not shown, since the last shown one
}

// Source makes the sink for the lines of a service.
func (j *Journal) Source(name string) *Source {
	return &Source{j: j, name: name, tokens: burst, refill: time.Now()}
}

// Write takes a piece of the service's output. It never fails and never blocks.
func (s *Source) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range p {
		switch {
		case b == '\n':
			s.flush()
			s.skip = false
		case s.skip:
		default:
			if s.partial = append(s.partial, b); len(s.partial) > MaxLine {
				s.flush()
				s.skip = true
			}
		}
	}
	return len(p), nil
}

func (s *Source) flush() {
	text := strings.TrimRight(string(s.partial), "\r ")
	s.partial = s.partial[:0]
	if text == "" {
		return
	}
	show := !ordinary(text)
	if show {
		now := time.Now()
		if more := int(now.Sub(s.refill) / every); more > 0 {
			s.tokens = min(burst, s.tokens+more)
			s.refill = s.refill.Add(time.Duration(more) * every)
		}
		if s.tokens == 0 {
			s.silent++
			show = false
		} else {
			s.tokens--
			if s.silent > 0 {
				s.j.add(s.name, fmt.Sprintf("(%d lines only in the log)", s.silent), true)
				s.silent = 0
			}
		}
	}
	s.j.add(s.name, text, show)
}

// ordinary tells the lines of slog's text handler that need nobody's attention.
// A line without a level, the trace of a crash for example, does need it.
func ordinary(text string) bool {
	return strings.Contains(text, "level=INFO ") || strings.Contains(text, "level=DEBUG ")
}
