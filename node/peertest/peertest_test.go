package peertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/swarm"
)

// world is a network in memory: nodes that answer or do not.
type world struct {
	mu    sync.Mutex
	list  *swarm.List
	down  map[[32]byte]string // what does not answer: "https", "link"
	tests map[[32]byte][]time.Time
}

func key(k int) (b [32]byte) {
	b[0], b[31] = byte(k), 1
	return b
}

// newWorld lists nodes 1 to n in one swarm.
func newWorld(n int) *world {
	w := &world{down: make(map[[32]byte]string), tests: make(map[[32]byte][]time.Time)}
	nodes := make([]swarm.Node, n)
	for i := range nodes {
		nodes[i] = swarm.Node{Ed25519: key(i + 1), Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), 22021), Swarm: 7}
	}
	w.publish(10, nodes...)
	return w
}

func (w *world) publish(height uint64, nodes ...swarm.Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &swarm.List{Height: height, Nodes: nodes}
	l.Hash[0], l.Hash[1] = byte(height), byte(height*3)
	w.list = l
}

func (w *world) List() *swarm.List {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.list
}

func (w *world) set(k int, down string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[key(k)] = down
}

func (w *world) probes() []Probe {
	probe := func(name string) Probe {
		return Probe{name, func(ctx context.Context, n swarm.Node) error {
			w.mu.Lock()
			if name == "https" {
				w.tests[n.Ed25519] = append(w.tests[n.Ed25519], time.Now())
			}
			down := w.down[n.Ed25519]
			w.mu.Unlock()
			if down == "silent" {
				<-ctx.Done()
				return ctx.Err()
			}
			if strings.Contains(down, name) {
				return errors.New("connection refused")
			}
			return nil
		}}
	}
	return []Probe{probe("https"), probe("link")}
}

func (w *world) tested(k int) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.tests[key(k)])
}

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// begin runs a new tester until the function that it returns is called.
func begin(cfg Config) (t *Tester, stop func()) {
	t = New(cfg)
	return t, run(t)
}

func run(t *Tester) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { t.Run(ctx); close(ended) }()
	return func() { cancel(); <-ended }
}

func TestEveryNodeIsTestedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(6)
		var results []Result
		tester, stop := begin(Config{Self: key(1), List: w.List, Probes: w.probes(), Rand: seeded(),
			Report: func(r Result) { results = append(results, r) }})
		time.Sleep(500*time.Second + tick/2)
		stop()
		if n := len(results); n < 40 || n > 60 {
			t.Errorf("%d tests in 500 s, want about one in ten", n)
		}
		if len(w.tested(1)) > 0 {
			t.Error("it tests itself")
		}
		for k := 2; k <= 6; k++ {
			if n := len(w.tested(k)); n < len(results)/5-1 || n > len(results)/5+1 {
				t.Errorf("node %d was tested %d of %d times", k, n, len(results))
			}
			r, ok := tester.Of(key(k))
			if !ok || !r.Reachable() || r.Since.After(r.Passed) || !r.Failed.IsZero() || r.Unreachable(time.Now(), 0) {
				t.Errorf("node %d: %+v", k, r)
			}
		}
		if h := tester.Health(); h.Reachable != 5 || h.Failing != 0 {
			t.Errorf("health %+v", h)
		}
	})
}

func TestAFailingNodeIsTestedAgainSoonAndLessAndLessOften(t *testing.T) {
	for _, down := range []string{"https", "link", "https, link", "silent"} {
		t.Run(down, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(2)
				w.set(2, down)
				tester, stop := begin(Config{Self: key(1), List: w.List, Probes: w.probes(), Rand: seeded()})
				defer stop()
				time.Sleep(time.Hour)
				at := w.tested(2)
				if len(at) < 30 || len(at) > 45 {
					t.Fatalf("%d tests in an hour", len(at))
				}
				for i := 1; i < len(at); i++ {
					wait := at[i].Sub(at[i-1])
					least, most := min(time.Duration(i-1)*backOff, longest), min(time.Duration(i-1)*backOff+25*time.Second, longest)+6*time.Second
					if wait < least || wait > most {
						t.Errorf("test %d came %v after the one before, want %v to %v", i, wait, least, most)
					}
				}
				r, _ := tester.Of(key(2))
				want := down
				if down == "silent" {
					want = "https, link"
				}
				if r.Reachable() || r.Failures < 30 || r.Trouble != want || !r.Passed.IsZero() || !r.Since.Before(r.Failed) {
					t.Errorf("an hour later: %+v", r)
				}
				if now := time.Now(); r.Unreachable(now, UnreachableAfter) || !r.Unreachable(now, 30*time.Minute) {
					t.Error("an hour is not yet what makes a node unreachable")
				}
				time.Sleep(10 * time.Minute)
				r, _ = tester.Of(key(2))
				if now := time.Now(); !r.Unreachable(now, UnreachableAfter) || r.Unreachable(now.Add(StaleAfter), UnreachableAfter) {
					t.Errorf("after 70 minutes: %+v", r)
				}
				w.set(2, "")
				time.Sleep(longest + backOff)
				if r, _ = tester.Of(key(2)); !r.Reachable() || r.Trouble != "" || time.Since(r.Since) > longest+backOff {
					t.Errorf("back: %+v", r)
				}
			})
		})
	}
}

func TestRetestsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(30)
		tester := New(Config{Self: key(1), List: w.List, Probes: w.probes(), Rand: seeded()})
		for k := 2; k <= 30; k++ {
			tester.nodes[key(k)].Failures = 1
		}
		tester.next = time.Now().Add(time.Hour)
		begun := 0
		for n := 1; n <= 8; n++ {
			nodes, again := tester.due()
			if begun += len(nodes); len(nodes) > retests || n < 8 && (len(nodes) != retests || again != tick) {
				t.Errorf("tick %d: %d retests, the next after %v", n, len(nodes), again)
			}
			time.Sleep(tick)
		}
		if begun != 29 {
			t.Errorf("%d of 29 nodes were tested again", begun)
		}
	})
}

func TestWhoTestsAndWhoIsTested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(4)
		nodes := slices.Clone(w.list.Nodes)
		nodes[1].Swarm = swarm.None                                       // lost its place: still tested
		nodes[2].Address = netip.AddrPortFrom(netip.IPv4Unspecified(), 0) // nowhere: skipped
		tester, stop := begin(Config{Self: key(1), List: w.List, Probes: w.probes(), Rand: seeded()})
		defer stop()
		w.publish(11, nodes...)
		tester.ListChanged()
		time.Sleep(5 * time.Minute)
		if len(w.tested(2)) == 0 || len(w.tested(3)) > 0 || len(w.tested(4)) == 0 {
			t.Errorf("tested %d, %d, %d times", len(w.tested(2)), len(w.tested(3)), len(w.tested(4)))
		}
		if _, ok := tester.Of(key(3)); ok {
			t.Error("a node without an address has a result")
		}
		before := len(w.tested(4))
		nodes[0].Swarm = swarm.None
		w.publish(12, nodes...)
		tester.ListChanged()
		time.Sleep(5 * time.Minute)
		if n := len(w.tested(4)); n != before {
			t.Errorf("a node that is in no swarm made %d tests", n-before)
		}
		nodes = nodes[:3] // node 4 leaves
		nodes[0].Swarm = 7
		w.publish(13, nodes...)
		tester.ListChanged()
		time.Sleep(time.Minute)
		if _, ok := tester.Of(key(4)); !ok {
			t.Error("the results of a node that just left are gone")
		}
		time.Sleep(keepFor)
		w.publish(14, nodes...)
		tester.ListChanged()
		if _, ok := tester.Of(key(4)); ok || len(tester.All()) != 1 {
			t.Errorf("a day later: %+v", tester.All())
		}
	})
}

func TestTheOwnerHearsOfTheirOwnTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := newWorld(5)
		var alone atomic.Bool
		tester, stop := begin(Config{Self: key(1), List: w.List, Probes: w.probes(), Rand: seeded(),
			Report: func(r Result) { alone.Store(r.Alone) }, Log: slog.New(slog.NewTextHandler(&log, nil))})
		time.Sleep(silence - time.Second)
		if h := tester.Health(); h.Trouble != "" {
			t.Errorf("at first: %q", h.Trouble)
		}
		time.Sleep(11 * time.Second)
		if h := tester.Health(); !strings.Contains(h.Trouble, "no other node has reached this one over https") {
			t.Errorf("nobody tests it: %q", h.Trouble)
		}
		tester.Heard(OverHTTPS)
		if h := tester.Health(); !strings.Contains(h.Trouble, "over link") || h.Heard[OverHTTPS].IsZero() || !h.Heard[OverLink].IsZero() {
			t.Errorf("tested over HTTPS only: %+v", h)
		}
		tester.Heard(OverLink)
		if h := tester.Health(); h.Trouble != "" {
			t.Errorf("tested: %q", h.Trouble)
		}
		for k := 2; k <= 5; k++ {
			w.set(k, "https")
		}
		time.Sleep(90 * time.Second)
		tester.Heard(OverHTTPS)
		tester.Heard(OverLink)
		if h := tester.Health(); !strings.Contains(h.Trouble, "no other node answers") || !alone.Load() || h.Failing != 4 {
			t.Errorf("nobody answers: %+v, alone %v", h, alone.Load())
		}
		w.set(3, "")
		time.Sleep(3 * time.Minute)
		tester.Heard(OverHTTPS)
		tester.Heard(OverLink)
		if h := tester.Health(); h.Trouble != "" || h.Reachable != 1 || h.Failing != 3 {
			t.Errorf("one answers: %+v", h)
		}
		time.Sleep(10 * time.Minute)
		stop()
		if n := strings.Count(log.String(), "no other node tests this one"); n < 8 || n > 14 {
			t.Errorf("%d warnings: %s", n, log.String())
		}
	})
}

func TestResultsSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "tests.json")
		w := newWorld(3)
		w.set(2, "link")
		cfg := Config{Self: key(1), List: w.List, Probes: w.probes(), Rand: seeded(), File: file}
		tester, stop := begin(cfg)
		time.Sleep(saveEvery + time.Minute)
		if b, err := os.ReadFile(file); err != nil || !bytes.Contains(b, []byte(`"trouble":"link"`)) {
			t.Errorf("while it runs: %s, %v", b, err)
		}
		stop()
		before := tester.All()
		again := New(cfg)
		after := again.All()
		if len(after) != 2 {
			t.Fatalf("results %+v", after)
		}
		for i := range after {
			a, b := after[i], before[i]
			if a.Node != b.Node || a.Failures != b.Failures || a.Trouble != b.Trouble || !a.Since.Equal(b.Since.Truncate(time.Millisecond)) {
				t.Errorf("%+v became %+v", b, a)
			}
		}
		for _, damage := range []string{"", "[{", `[{"node":"zz"}]`, strings.Repeat("[", 10_000)} {
			if err := os.WriteFile(file, []byte(damage), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := New(cfg).All(); len(got) != 0 {
				t.Errorf("from %.10q came %+v", damage, got)
			}
		}
		if err := os.WriteFile(file, fmt.Appendf(nil, `[{"node":"%x","since":%d,"failed":%d,"failures":5,"trouble":"https"}]`, key(2), 1<<60, 1<<60), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, ok := New(cfg).Of(key(2)); ok {
			t.Errorf("from the future: %+v", r)
		}
	})
}
