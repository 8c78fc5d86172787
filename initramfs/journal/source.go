package journal

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Source takes the lines of one service. It is an io.Writer for the service's
// output; bytes after the last newline wait for more.
type Source struct {
	j    *Journal
	name string
	keep bool

	mu      sync.Mutex
	partial []byte
	skip    bool // the rest of an overlong line, up to its end
	tokens  int
	refill  time.Time
	silent  int // lines not shown, since the last shown one
}

// Source makes the sink for the lines of a service. With keep, those that are shown on
// the console go to disk too.
func (j *Journal) Source(name string, keep bool) *Source {
	return &Source{j: j, name: name, keep: keep, tokens: burst, refill: time.Now()}
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
	text, show := level(strings.TrimRight(string(s.partial), "\r "))
	s.partial = s.partial[:0]
	if text == "" {
		return
	}
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
				s.j.add(s.name, fmt.Sprintf("(%d lines only in the log)", s.silent), true, s.keep)
				s.silent = 0
			}
		}
	}
	s.j.add(s.name, text, show, show && s.keep)
}

// levels are the marks at the start of a service's line: the priorities of
// syslog in angle brackets, as systemd's journal reads them.
var levels = []struct {
	level slog.Level
	mark  string
	word  string // what the log has in its place
	show  bool   // somebody should see it now
}{
	{slog.LevelError, "<3>", "ERROR ", true},
	{slog.LevelWarn, "<4>", "WARN ", true},
	{slog.LevelInfo, "<6>", "", false},
	{slog.LevelDebug, "<7>", "DEBUG ", false},
}

// level takes the mark off a line. A line without one, of the trace of a crash for
// example, needs attention.
func level(line string) (text string, show bool) {
	for _, l := range levels {
		if text, ok := strings.CutPrefix(line, l.mark); ok {
			return l.word + text, l.show
		}
	}
	return line, true
}

// NewHandler makes what a service logs with when its output goes to a Source: a
// line is the mark of its level, the message, and the attributes as in slog's
// text handler. There is no time in it, the journal knows better.
func NewHandler(w io.Writer, least slog.Leveler) slog.Handler {
	h := &handler{w: w, least: least, mu: new(sync.Mutex), buf: new(bytes.Buffer)}
	h.attrs = slog.NewTextHandler(h.buf, &slog.HandlerOptions{
		Level: least,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	return h
}

type handler struct {
	w     io.Writer
	least slog.Leveler
	attrs slog.Handler // writes to buf, under mu
	mu    *sync.Mutex
	buf   *bytes.Buffer
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.least.Level() }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	mark := levels[len(levels)-1].mark
	for _, l := range levels {
		if r.Level >= l.level {
			mark = l.mark
			break
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Reset()
	h.buf.WriteString(mark + strings.ReplaceAll(r.Message, "\n", " ") + " ")
	if err := h.attrs.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.w.Write(h.buf.Bytes())
	return err
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(h.attrs.WithAttrs(attrs))
}

func (h *handler) WithGroup(name string) slog.Handler { return h.with(h.attrs.WithGroup(name)) }

func (h *handler) with(attrs slog.Handler) slog.Handler {
	c := *h
	c.attrs = attrs
	return &c
}
