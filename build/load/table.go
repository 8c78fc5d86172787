package load

import (
	"fmt"
	"io"
	"time"
)

// Table writes figures as lines.
type Table struct {
	out    io.Writer
	failed []string
}

// NewTable writes the head.
func NewTable(out io.Writer) *Table {
	fmt.Fprintf(out, "%-17s %5s %7s %9s %9s %9s  %-22s %s\n", "request", "swarm", "at once", "a second", "p50 ms", "p99 ms", "server CPU ms each", "C++ 2.8.0 at 32")
	return &Table{out: out}
}

// cpp is the server CPU of the C++ storage server 2.8.0 for one request, all nodes
// together, on two cores at 32 requests at a time.
var cpp = map[Row]map[int]time.Duration{
	Store:         {1: 240 * time.Microsecond, 3: 890 * time.Microsecond},
	Retrieve:      {1: 330 * time.Microsecond},
	NothingNew:    {1: 240 * time.Microsecond},
	OnionInfo:     {3: 620 * time.Microsecond},
	OnionRetrieve: {3: 830 * time.Microsecond},
	OnionStore:    {3: 1570 * time.Microsecond},
}

// Add writes a figure: medians of the repetitions, and from where to where the
// processor time was.
func (t *Table) Add(f Figure) {
	rate, _, _ := middle(f, Repeat.PerSecond)
	p50, _, _ := middle(f, func(r Repeat) time.Duration { return r.P50 })
	p99, _, _ := middle(f, func(r Repeat) time.Duration { return r.P99 })
	cpu, least, most := middle(f, Repeat.CPUEach)
	each := "not known"
	if most > 0 {
		each = fmt.Sprintf("%.3f (%.3f to %.3f)", ms(cpu), ms(least), ms(most))
	}
	against := ""
	if c := cpp[f.Row][f.Swarm]; c > 0 && f.AtOnce == 32 {
		against = fmt.Sprintf("%.2f", ms(c))
		if most > 0 {
			against += fmt.Sprintf(", this is %.0f %%", 100*float64(cpu)/float64(c))
		}
	}
	fmt.Fprintf(t.out, "%-17s %5d %7d %9.0f %9.2f %9.2f  %-22s %s\n", f.Row, f.Swarm, f.AtOnce, rate, ms(p50), ms(p99), each, against)
	for i, r := range f.Repeats {
		if r.Failed > 0 {
			t.failed = append(t.failed, fmt.Sprintf("%s, %d at a time, repetition %d: %d requests failed, one with: %v", f.Row, f.AtOnce, i+1, r.Failed, r.Reason))
		}
	}
}

// End writes what went wrong.
func (t *Table) End() {
	for _, line := range t.failed {
		fmt.Fprintln(t.out, line)
	}
}
