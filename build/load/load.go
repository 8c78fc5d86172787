// Package load measures a network of service nodes from outside: how many
// requests it answers, how long they take, and what they cost the servers.
//
// It speaks only what every client of the network speaks, storage requests and
// onion requests over HTTPS, so the nodes may be Hearth's or the C++ storage
// server's. A [Target] says which nodes there are and, if their processes run on
// this machine, which those are. [Target.Prepare] looks at the swarms and makes
// accounts, [Bench.Run] takes one figure after the other. [Devnet] starts nodes
// of its own and adds what can only be seen from beside them: memory, disk, the
// start.
//
// A stock node lets each IPv4 address send 300 storage requests a second, so on
// loopback the requests come from many of its addresses. Other hosts are not
// asked for anything unless the caller names them ([Target.Allow]), and then at a
// pace and for a time that no node minds.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hearth/node/swarm"
)

// MessageSize is the size of every message that is stored, in bytes.
const MessageSize = 1000

// Target is the network that is measured.
type Target struct {
	Nodes []swarm.Node // addresses and keys; swarms need not be known
	PIDs  []int        // of the nodes' processes, all that work for a request; may be empty
	Allow []netip.Addr // hosts that may be asked although they are not this machine
	Hops  int          // of an onion before its destination; 3 when zero
}

// Plan says what to take how often.
type Plan struct {
	AtOnce      []int         // requests at a time; 1, 8 and 32 when nil
	Repetitions int           // 3 when zero
	For         time.Duration // each; 2 s when zero
	Rows        []Row         // all that the network allows when nil
}

// Bounds when a host is not this machine: what a handful of clients would do.
const (
	foreignHosts  = 16
	foreignAtOnce = 4
	foreignTime   = 5 * time.Second // each repetition
	foreignPace   = 50              // requests a second, all together
)

// ErrForeign is returned for a node on a host that was not allowed, and for more
// than one may measure.
var ErrForeign = errors.New("not this machine")

// foreign reports whether there are nodes elsewhere, and refuses those that were
// not allowed.
func (t *Target) foreign() (bool, error) {
	hosts := make(map[netip.Addr]bool)
	for _, n := range t.Nodes {
		host := n.Address.Addr()
		if host.IsLoopback() {
			continue
		}
		if !slices.Contains(t.Allow, host) {
			return true, fmt.Errorf("%w: node %s; name its host to allow it", ErrForeign, n.Address)
		}
		hosts[host] = true
	}
	if len(hosts) > foreignHosts {
		return true, fmt.Errorf("%w: %d hosts, at most %d", ErrForeign, len(hosts), foreignHosts)
	}
	return len(hosts) > 0, nil
}

// Figure is one cell of the table: a row at a number of requests at a time.
type Figure struct {
	Row     Row
	AtOnce  int
	Swarm   int // members of the swarm that was asked
	Repeats []Repeat
}

// Repeat is one repetition.
type Repeat struct {
	Done     int // answered as they should be
	Failed   int
	Reason   error // of a failed one
	Took     time.Duration
	P50, P99 time.Duration
	CPU      time.Duration // of all servers; 0 when their processes are not known
}

// PerSecond is how many requests were answered.
func (r Repeat) PerSecond() float64 { return float64(r.Done) / r.Took.Seconds() }

// CPUEach is the servers' time for one request.
func (r Repeat) CPUEach() time.Duration { return r.CPU / time.Duration(max(r.Done, 1)) }

// middle gives the median of something over the repetitions, and its extremes.
func middle[T int64 | float64 | time.Duration](f Figure, of func(Repeat) T) (median, least, most T) {
	var all []T
	for _, r := range f.Repeats {
		all = append(all, of(r))
	}
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	return all[len(all)/2], all[0], all[len(all)-1]
}

// Run takes the figures of a plan, tells each to say as soon as it is there, and
// returns all.
func (b *Bench) Run(ctx context.Context, plan Plan, say func(Figure)) ([]Figure, error) {
	if plan.AtOnce == nil {
		plan.AtOnce = []int{1, 8, 32}
	}
	if plan.Repetitions == 0 {
		plan.Repetitions = 3
	}
	if plan.For == 0 {
		plan.For = 2 * time.Second
	}
	if plan.Rows == nil {
		plan.Rows = Rows
	}
	if b.foreign {
		plan.For = min(plan.For, foreignTime)
		for i := range plan.AtOnce {
			plan.AtOnce[i] = min(plan.AtOnce[i], foreignAtOnce)
		}
		plan.AtOnce = slices.Compact(slices.Sorted(slices.Values(plan.AtOnce)))
	}
	var figures []Figure
	for _, row := range plan.Rows {
		for _, atOnce := range plan.AtOnce {
			f := Figure{Row: row, AtOnce: atOnce, Swarm: len(b.swarm)}
			for range plan.Repetitions {
				r, err := b.repeat(ctx, row, atOnce, plan.For)
				if err != nil {
					return figures, fmt.Errorf("%s, %d at a time: %w", row, atOnce, err)
				}
				f.Repeats = append(f.Repeats, r)
			}
			figures = append(figures, f)
			if say != nil {
				say(f)
			}
		}
	}
	return figures, nil
}

// repeat asks for a while, with a number of workers that each wait for an answer
// before the next request.
func (b *Bench) repeat(ctx context.Context, row Row, atOnce int, during time.Duration) (Repeat, error) {
	workers := make([]*worker, atOnce)
	for i := range workers {
		workers[i] = b.worker(i, atOnce)
	}
	// Connections and signatures are not what is measured.
	var warm sync.WaitGroup
	for _, w := range workers {
		warm.Go(func() {
			for range len(w.sources) {
				w.do(ctx, row)
			}
		})
	}
	warm.Wait()

	before, err := cpuOf(b.target.PIDs)
	if err != nil {
		return Repeat{}, err
	}
	began := time.Now()
	end := began.Add(during)
	var all sync.WaitGroup
	for _, w := range workers {
		w.took, w.failed, w.reason = w.took[:0], 0, nil
		all.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				if start.After(end) {
					return
				}
				if err := w.do(ctx, row); err != nil {
					w.failed++
					w.reason = err
				} else {
					w.took = append(w.took, time.Since(start))
				}
			}
		})
	}
	all.Wait()
	r := Repeat{Took: time.Since(began)}
	after, err := cpuOf(b.target.PIDs)
	if err != nil {
		return Repeat{}, err
	}
	r.CPU = after - before
	var took []time.Duration
	for _, w := range workers {
		took = append(took, w.took...)
		r.Failed += w.failed
		if w.reason != nil {
			r.Reason = w.reason
		}
	}
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	r.Done = len(took)
	if r.Done == 0 {
		return r, fmt.Errorf("no request of %d was answered: %w", r.Failed, r.Reason)
	}
	slices.Sort(took)
	r.P50, r.P99 = took[len(took)/2], took[len(took)*99/100]
	return r, nil
}

// Fill stores messages, spread over the accounts, and returns how many the whole
// swarm acknowledged.
func (b *Bench) Fill(ctx context.Context, messages, atOnce int) (int, error) {
	var mu sync.Mutex
	left, done, failed := messages, 0, 0
	var reason error
	var all sync.WaitGroup
	for i := range atOnce {
		w := b.worker(i, atOnce)
		all.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				left--
				over := left < 0 || failed > messages/10
				mu.Unlock()
				if over {
					return
				}
				err := w.do(ctx, Store)
				mu.Lock()
				if err == nil {
					done++
				} else {
					failed++
					reason = err
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if done < messages {
		return done, fmt.Errorf("%d of %d messages were stored: %w", done, messages, cmpErr(reason, context.Cause(ctx)))
	}
	return done, nil
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return io.ErrUnexpectedEOF
}
