// Package journal is the appliance's log: a ring of lines in memory, and the
// serial line.
//
// Lines come in through Say (PID 1's own words), and through a Source for each
// service, which takes what the service writes to its standard output and error;
// services log with the Handler of this package. Lines leave through Last, for
// whoever looks at the log on the device, and to the console.
//
// On disk, so that after a crash there is something to read, come only PID 1's own
// words and the warnings of the node, see Keep: what the vault and the messenger say
// tells when somebody used the account, which is nobody's business who has the board.
//
// The console is slow (11 kB/s at 115200 baud) and somebody types on it. So a
// service's ordinary lines stay in the ring, only warnings and worse are shown,
// and not more than a few a second; and no line ever makes its writer wait.
//
// Only one process may write to the serial line at a time, or a line of the log
// would tear apart what somebody types, who could then not see what they send.
// While a console process is there, it shows the lines too: it takes them from a
// Follower. Before it comes, after it ended, and for lines that it took and did
// not show, there is the writer given to Attach.
package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
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

// ErrReplaced is what a Follower gets when another has taken its place.
var ErrReplaced = errors.New("another console shows the log")

// Journal keeps the newest lines. The zero value is not usable, see New.
type Journal struct {
	uptime func() time.Duration

	mu      sync.Mutex
	ring    []string
	next    int      // where in the ring the next line goes, once it is full
	dropped int      // lines the console was too slow for, since the last that got through
	keep    []string // lines for the disk that are not there yet

	show     []string      // lines for the console, oldest first, until they are on it
	taken    int           // of these, how many the follower has
	follower *Follower     // nil while Attach's writer shows the lines
	writing  bool          // that writer is at the first line
	torn     bool          // a console process was there and may have left a prompt
	change   chan struct{} // closed and replaced when any of these changes
}

// New makes a journal of the newest capacity lines. uptime stamps them.
func New(capacity int, uptime func() time.Duration) *Journal {
	return &Journal{uptime: uptime, ring: make([]string, 0, capacity), change: make(chan struct{})}
}

// changed wakes all who wait; j.mu is held.
func (j *Journal) changed() {
	close(j.change)
	j.change = make(chan struct{})
}

// await waits until ready reports true, as long as ctx allows. j.mu is held, and
// is while ready runs.
func (j *Journal) await(ctx context.Context, ready func() bool) error {
	for !ready() {
		change := j.change
		j.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
		}
		j.mu.Lock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// Attach writes the lines for the console to w while nobody follows, each with
// one Write, those that were said before too. It may be called once, and returns
// when ctx ends.
func (j *Journal) Attach(ctx context.Context, w io.Writer) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		if j.await(ctx, func() bool { return j.follower == nil && len(j.show) > 0 }) != nil {
			return
		}
		text := j.show[0] + "\r\n" // in raw mode "\n" alone only goes down
		if j.torn {
			text = "\r\n" + text
		}
		j.writing, j.torn = true, false
		j.mu.Unlock()
		io.WriteString(w, text)
		j.mu.Lock()
		j.writing = false
		j.show = j.show[1:]
		j.changed()
	}
}

// Follower is who shows the lines instead of Attach's writer.
type Follower struct{ j *Journal }

// Follow takes over the console: when it returns, the line that was being written
// is there, and no other follows until the Follower is closed. One that follows
// already gets ErrReplaced.
func (j *Journal) Follow(ctx context.Context) (*Follower, error) {
	f := &Follower{j}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.follower, j.taken, j.torn = f, 0, true
	j.changed()
	if err := j.await(ctx, func() bool { return !j.writing || j.follower != f }); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// Next waits for a line to show.
func (f *Follower) Next(ctx context.Context) (string, error) {
	j := f.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.await(ctx, func() bool { return j.follower != f || j.taken < len(j.show) }); err != nil {
		return "", err
	}
	if j.follower != f {
		return "", ErrReplaced
	}
	j.taken++
	return j.show[j.taken-1], nil
}

// Shown says that the oldest line of those that Next gave is on the console. A
// line of which that is not said goes there another way when the Follower is
// closed.
func (f *Follower) Shown() {
	j := f.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.follower == f && j.taken > 0 {
		j.show = j.show[1:]
		j.taken--
		j.changed()
	}
}

// Close gives the console back.
func (f *Follower) Close() {
	f.j.mu.Lock()
	defer f.j.mu.Unlock()
	f.close()
}

func (f *Follower) close() {
	if f.j.follower == f {
		f.j.follower, f.j.taken = nil, 0
		f.j.changed()
	}
}

// Drain waits until everything said so far is on the console, at most for limit.
func (j *Journal) Drain(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.await(ctx, func() bool { return len(j.show) == 0 }) // too slow: then without the rest
}

// Say writes a line of PID 1, to the ring, to the console and to disk. from names the
// part that speaks, a stage or the supervisor.
func (j *Journal) Say(from, format string, args ...any) {
	j.add(from, fmt.Sprintf(format, args...), true, true)
}

// Last returns up to n of the newest lines, oldest first.
func (j *Journal) Last(n int) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := j.lines()
	return lines[max(0, len(lines)-max(n, 0)):]
}

// lines are all of the ring, oldest first; j.mu is held.
func (j *Journal) lines() []string {
	return append(append(make([]string, 0, len(j.ring)), j.ring[j.next:]...), j.ring[:j.next]...)
}

func (j *Journal) add(from, text string, show, keep bool) {
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
	if keep {
		j.willKeep(line)
	}
	switch {
	case !show:
		return
	case len(j.show) >= backlog:
		j.dropped++
		return
	case j.dropped > 0:
		j.show = append(j.show, fmt.Sprintf("(%d lines left out, the console is slow)", j.dropped))
		j.dropped = 0
	}
	j.show = append(j.show, line)
	j.changed()
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
