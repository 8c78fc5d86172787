// Package metrics keeps the figures of a node and shows them to its owner, in the
// text form that Prometheus reads.
//
// Whoever counts makes [Counters] or [Times] and counts in them; whoever shows
// figures puts them into a [Set], with gauges and counters that are asked for their
// value when somebody looks, and serves it with [Set.Serve] on a Unix socket. There
// is no way to serve them to the network.
//
// The values of every label are listed when a figure is made, and whatever is not
// in the list counts under the last of them. So no address, account or message can
// become a label, whatever strangers send, and the memory for figures is constant.
//
// The library of the Prometheus project does the same and much more; this needs no
// more than what fits on two pages.
package metrics

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Label is a name and all values that it can have. The last stands for any other.
type Label struct {
	Name   string
	Values []string
}

// Counters count events by the values of labels.
type Counters struct {
	labels []Label
	counts []atomic.Uint64
}

// NewCounters returns counters for all combinations of the labels' values.
func NewCounters(labels ...Label) *Counters {
	return &Counters{labels, make([]atomic.Uint64, combinations(labels))}
}

func combinations(labels []Label) int {
	n := 1
	for _, l := range labels {
		n *= len(l.Values)
	}
	return n
}

// index finds the place of a combination.
func index(labels []Label, values []string) (at int) {
	for i, l := range labels {
		k := len(l.Values) - 1
		if i < len(values) {
			if found := slices.Index(l.Values, values[i]); found >= 0 {
				k = found
			}
		}
		at = at*len(l.Values) + k
	}
	return at
}

// text writes the labels of a place, with more at the end if that is not empty.
func text(labels []Label, at int, more string) string {
	pairs := make([]string, len(labels), len(labels)+1)
	for i, l := range slices.Backward(labels) {
		pairs[i] = l.Name + "=" + strconv.Quote(l.Values[at%len(l.Values)])
		at /= len(l.Values)
	}
	if more != "" {
		pairs = append(pairs, more)
	}
	if len(pairs) == 0 {
		return ""
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

// Add counts one event with these values, in the order of the labels.
func (c *Counters) Add(values ...string) { c.counts[index(c.labels, values)].Add(1) }

// Value returns the count of one combination.
func (c *Counters) Value(values ...string) uint64 { return c.counts[index(c.labels, values)].Load() }

func (c *Counters) write(w io.Writer, name string) {
	for at := range c.counts {
		// Combinations that never happened say nothing.
		if n := c.counts[at].Load(); n > 0 || len(c.labels) == 0 {
			fmt.Fprintf(w, "%s%s %d\n", name, text(c.labels, at, ""), n)
		}
	}
}

// bounds of the parts of Times in seconds, the last for all that took longer.
var bounds = [...]float64{0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, math.Inf(1)}

// Times are distributions of durations by the value of one label.
type Times struct {
	label Label
	parts []distribution
}

type distribution struct {
	counts [len(bounds)]atomic.Uint64
	sum    atomic.Int64 // ns
}

// NewTimes returns an empty distribution for every value of the label.
func NewTimes(label Label) *Times { return &Times{label, make([]distribution, len(label.Values))} }

// Add counts a duration.
func (t *Times) Add(value string, d time.Duration) {
	p := &t.parts[index([]Label{t.label}, []string{value})]
	i := slices.IndexFunc(bounds[:], func(b float64) bool { return d.Seconds() <= b })
	p.counts[i].Add(1)
	p.sum.Add(int64(d))
}

func (t *Times) write(w io.Writer, name string) {
	labels := []Label{t.label}
	for at := range t.parts {
		p := &t.parts[at]
		var n uint64
		var lines []string
		for i, b := range bounds {
			n += p.counts[i].Load()
			le := "+Inf"
			if !math.IsInf(b, 1) {
				le = strconv.FormatFloat(b, 'g', -1, 64)
			}
			lines = append(lines, fmt.Sprintf("%s_bucket%s %d\n", name, text(labels, at, `le="`+le+`"`), n))
		}
		if n == 0 {
			continue
		}
		io.WriteString(w, strings.Join(lines, ""))
		fmt.Fprintf(w, "%s_sum%s %g\n%s_count%s %d\n", name, text(labels, at, ""), time.Duration(p.sum.Load()).Seconds(), name, text(labels, at, ""), n)
	}
}

// Set is a collection of figures with names.
type Set struct{ figures []figure }

type figure struct {
	name, help, kind string
	write            func(w io.Writer, name string)
}

// Gauge adds a figure that goes up and down.
func (s *Set) Gauge(name, help string, value func() float64) {
	s.add(name, help, "gauge", func(w io.Writer, name string) { fmt.Fprintf(w, "%s %g\n", name, value()) })
}

// Counter adds a figure that only grows.
func (s *Set) Counter(name, help string, value func() uint64) {
	s.add(name, help, "counter", func(w io.Writer, name string) { fmt.Fprintf(w, "%s %d\n", name, value()) })
}

// Counters adds counters.
func (s *Set) Counters(name, help string, c *Counters) { s.add(name, help, "counter", c.write) }

// Times adds distributions, in seconds.
func (s *Set) Times(name, help string, t *Times) { s.add(name, help, "histogram", t.write) }

func (s *Set) add(name, help, kind string, write func(io.Writer, string)) {
	s.figures = append(s.figures, figure{name, help, kind, write})
}

// Write writes all figures in the text form, version 0.0.4.
func (s *Set) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	for _, f := range s.figures {
		fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
		f.write(b, f.name)
	}
	return b.Flush()
}

// Serve answers on l until ctx ends: GET /metrics with the figures, GET /health
// with 200 and "ready" or with 503 and what is wrong, a line each. It closes l,
// which has to be a Unix socket.
func (s *Set) Serve(ctx context.Context, l net.Listener, wrong func() []string) error {
	if l.Addr().Network() != "unix" {
		l.Close()
		return fmt.Errorf("figures are for a Unix socket only, not for %s", l.Addr())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = s.Write(w) // whoever asked is gone
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if trouble := wrong(); len(trouble) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, strings.Join(trouble, "\n")+"\n")
			return
		}
		io.WriteString(w, "ready\n")
	})
	server := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
