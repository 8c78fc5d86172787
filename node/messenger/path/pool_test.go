package path

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"hearth/node/swarm"
)

var quiet = slog.New(slog.DiscardHandler)

// nodes makes count nodes, perNet of them in each /24 net.
func nodes(count, perNet int) []swarm.Node {
	var list []swarm.Node
	for i := range count {
		var k Key
		binary.BigEndian.PutUint32(k[:], uint32(i+1))
		net := i / perNet
		list = append(list, swarm.Node{
			Ed25519: k, X25519: k,
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(net >> 8), byte(net), byte(i%perNet + 1)}), 22021),
		})
	}
	return list
}

// randomness differs with seed and is the same for the same seed.
func randomness(seed uint64) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
}

type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func testPool(t *testing.T, seed uint64, list []swarm.Node) (*Pool, *clock) {
	t.Helper()
	c := &clock{time.Unix(1_700_000_000, 0)}
	p, err := NewPool(randomness(seed), c.now, quiet, Saved{Nodes: list, Fetched: c.t}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p, c
}

func TestPathsKeepTheRules(t *testing.T) {
	for _, c := range []struct {
		name          string
		count, perNet int
		paths         int
		disjoint      bool
	}{
		{"a large network gives two paths without a common node", 300, 3, 2, true},
		{"nine nodes of nine nets give two paths without a common node", 9, 1, 2, true},
		{"six nets are enough", 12, 2, 2, true},
		{"exactly six nodes are enough", 6, 1, 2, true},
		{"four nodes have to share", 4, 1, 2, false},
		{"three nodes have to share", 3, 1, 2, false},
		{"two nodes are no path", 2, 1, 0, true},
		{"many nodes of two nets are no path", 40, 20, 0, true},
		{"no nodes are no path", 0, 1, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(200) {
				p, _ := testPool(t, seed, nodes(c.count, c.perNet))
				paths := p.Paths()
				if len(paths) != c.paths {
					// The first path of six nets may have taken the wrong ones, but six
					// nodes cannot be divided wrongly.
					t.Fatalf("seed %d: %d paths, want %d", seed, len(paths), c.paths)
				}
				used := make(map[Key]bool)
				for _, path := range paths {
					checkPath(t, path)
					for _, n := range path.Nodes() {
						if used[n.Ed25519] && c.disjoint {
							t.Fatalf("seed %d: a node is in two paths", seed)
						}
						used[n.Ed25519] = true
					}
				}
				if len(paths) == 2 && paths[0].Guard() == paths[1].Guard() {
					t.Fatalf("seed %d: two paths with one guard", seed)
				}
			}
		})
	}
}

func checkPath(t *testing.T, path *Path) {
	t.Helper()
	if len(path.Nodes()) != Hops {
		t.Fatalf("a path of %d hops", len(path.Nodes()))
	}
	nets := make(map[netip.Prefix]bool)
	for _, n := range path.Nodes() {
		if nets[subnet(n)] {
			t.Fatalf("two nodes of %v in one path", subnet(n))
		}
		nets[subnet(n)] = true
	}
}

func TestEveryNodeCanBeReachedWithoutBeingInThePath(t *testing.T) {
	for _, count := range []int{4, 5, 6, 9, 60} {
		list := nodes(count, 1)
		for seed := range uint64(50) {
			p, _ := testPool(t, seed, list)
			for _, n := range list {
				path, err := p.For(n.Ed25519)
				if err != nil {
					t.Fatalf("%d nodes, seed %d: %v", count, seed, err)
				}
				checkPath(t, path)
				if path.Holds(n.Ed25519) {
					t.Fatalf("%d nodes, seed %d: the destination is in its path", count, seed)
				}
			}
		}
	}
	p, _ := testPool(t, 1, nodes(3, 1))
	if _, err := p.For(nodes(3, 1)[0].Ed25519); !errors.Is(err, ErrTooFewNodes) {
		t.Fatalf("three nodes, one of them the destination: %v", err)
	}
}

func TestAnotherPathIsFoundForARetry(t *testing.T) {
	list := nodes(30, 1)
	p, _ := testPool(t, 3, list)
	for i := range 60 {
		destination := list[i%30].Ed25519
		if i%30 == 29 { // one that the other path holds as well
			destination = p.Paths()[i/30].Nodes()[2].Ed25519
		}
		if slices.Contains(p.Guards(), destination) {
			continue // then only the other guard is left to begin with
		}
		first, err := p.For(destination)
		if err != nil {
			t.Fatal(err)
		}
		second, err := p.For(destination, Failed{Path: first})
		if err != nil {
			t.Fatal(err)
		}
		if first == second || first.Guard() == second.Guard() {
			t.Fatal("the same path again, or the same guard")
		}
		// The first one's guard failed, and something behind the second one's.
		third, err := p.For(destination, Failed{first, true}, Failed{second, false})
		if err != nil {
			t.Fatal(err)
		}
		checkPath(t, third)
		if third.Guard() != second.Guard() || third.Holds(second.Nodes()[1].Ed25519) || third.Holds(first.Nodes()[1].Ed25519) || third.Holds(destination) {
			t.Fatal("the third path does not avoid what failed")
		}
	}
}

func TestGuardsStayOverARestart(t *testing.T) {
	list := nodes(60, 1)
	var saved Saved
	c := &clock{time.Unix(1_700_000_000, 0)}
	p, err := NewPool(randomness(1), c.now, quiet, Saved{}, func(s Saved) { saved = s })
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Replace(&swarm.List{Height: 7, Nodes: list}); err != nil {
		t.Fatal(err)
	}
	guards := p.Guards()
	if len(guards) != WantPaths || !slices.Equal(saved.Guards, guards) || len(saved.Nodes) != 60 || saved.Height != 7 {
		t.Fatalf("saved %d guards and %d nodes of height %d", len(saved.Guards), len(saved.Nodes), saved.Height)
	}

	again, err := NewPool(randomness(2), c.now, quiet, saved, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range again.Paths() {
		if path.Guard().Ed25519 != guards[i] {
			t.Errorf("path %d begins with another guard", i)
		}
	}

	// A guard that is no longer listed goes, the other stays.
	saved.Nodes = slices.DeleteFunc(saved.Nodes, func(n swarm.Node) bool { return n.Ed25519 == guards[0] })
	again, err = NewPool(randomness(3), c.now, quiet, saved, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Paths()
	if g := again.Guards(); len(g) != WantPaths || slices.Contains(g, guards[0]) || !slices.Contains(g, guards[1]) {
		t.Errorf("guards %x after one of %x left the list", g, guards)
	}
}

func TestNodesWithoutStakeAreLeftOut(t *testing.T) {
	list := nodes(10, 1)
	list[0].RequestedUnlockHeight = 100  // of the past
	list[1].RequestedUnlockHeight = 1029 // passed since the list was made
	list[2].RequestedUnlockHeight = 1031 // soon
	c := &clock{time.Unix(1_700_000_000, 0)}
	p, err := NewPool(randomness(1), c.now, quiet, Saved{Nodes: list, Height: 1000, Fetched: c.t.Add(-time.Hour)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, false, true, true} {
		if _, ok := p.Find(list[i].Ed25519); ok != want {
			t.Errorf("node %d in the pool: %v, want %v", i, ok, want)
		}
	}
}

func TestUselessEntriesAreLeftOut(t *testing.T) {
	good := nodes(1, 1)[0]
	address := func(s string) func(*swarm.Node) {
		return func(n *swarm.Node) { n.Address = netip.MustParseAddrPort(s) }
	}
	for _, c := range []struct {
		name   string
		change func(*swarm.Node)
		want   int
	}{
		{"a good one stays", func(*swarm.Node) {}, 1},
		{"no address", func(n *swarm.Node) { n.Address = netip.AddrPort{} }, 0},
		{"0.0.0.0", address("0.0.0.0:22021"), 0},
		{"255.255.255.255", address("255.255.255.255:22021"), 0},
		{"multicast", address("224.0.0.1:22021"), 0},
		{"IPv6", address("[2001:db8::1]:22021"), 0},
		{"IPv4 written as IPv6 stays", address("[::ffff:10.1.1.1]:22021"), 1},
		{"port 0", address("10.0.0.1:0"), 0},
		{"no Ed25519 key", func(n *swarm.Node) { n.Ed25519 = Key{} }, 0},
		{"no X25519 key", func(n *swarm.Node) { n.X25519 = Key{} }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := good
			c.change(&n)
			p, _ := testPool(t, 1, []swarm.Node{n, n})
			if p.Size() != c.want {
				t.Errorf("%d nodes in the pool, want %d", p.Size(), c.want)
			}
		})
	}
}

func TestThreeStrikesDropANode(t *testing.T) {
	p, _ := testPool(t, 1, nodes(30, 1))
	path := p.Paths()[0]
	middle := path.Nodes()[1].Ed25519
	for i := range MaxStrikes {
		if _, ok := p.Find(middle); !ok {
			t.Fatalf("dropped after %d strikes", i)
		}
		p.StrikeNode(middle)
	}
	if _, ok := p.Find(middle); ok {
		t.Fatal("still there after three strikes")
	}
	var repaired *Path
	for _, now := range p.Paths() {
		checkPath(t, now)
		if now.Holds(middle) {
			t.Fatal("still in a path")
		}
		if now.Guard() == path.Guard() {
			repaired = now
		}
	}
	if repaired == nil || repaired.Nodes()[1] != path.Nodes()[2] {
		t.Fatal("the path was not repaired by moving up and adding one at the end")
	}
}

func TestSuccessClearsTheCounters(t *testing.T) {
	p, _ := testPool(t, 1, nodes(30, 1))
	path := p.Paths()[0]
	for range 10 {
		p.StrikePath(path, true, true)
		p.StrikePath(path, true, true)
		p.Succeeded(path)
	}
	if p.Size() != 30 || !slices.Contains(p.Paths(), path) {
		t.Fatal("two failures between successes cost a node or the path")
	}
}

func TestThreePathStrikesDropTheGuard(t *testing.T) {
	p, _ := testPool(t, 1, nodes(30, 1))
	path := p.Paths()[0]
	guard, behind := path.Guard().Ed25519, path.Nodes()[1].Ed25519
	for range MaxStrikes {
		p.StrikePath(path, false, true)
	}
	if slices.Contains(p.Guards(), guard) {
		t.Fatal("the guard is still one")
	}
	if _, ok := p.Find(guard); !ok {
		t.Error("a guard that is dropped stays an ordinary node")
	}
	if _, ok := p.Find(behind); !ok {
		t.Error("a node behind the guard was struck")
	}
	if paths := p.Paths(); len(paths) != WantPaths || slices.Contains(paths, path) {
		t.Error("the path was not replaced")
	}
	for range 20 { // it is not chosen as a guard again
		for _, path := range p.Paths() {
			if path.Guard().Ed25519 == guard {
				t.Fatal("the dropped guard is back")
			}
			for range MaxStrikes {
				p.StrikePath(path, false, true)
			}
		}
		if len(p.resting) > 25 {
			break
		}
	}
}

func TestPathStrikesCountAgainstTheHops(t *testing.T) {
	p, _ := testPool(t, 1, nodes(30, 1))
	path := p.Paths()[0]
	for range MaxStrikes {
		p.StrikePath(path, true, true)
	}
	for i, n := range path.Nodes() {
		if _, ok := p.Find(n.Ed25519); ok != (i == 0) {
			t.Errorf("hop %d in the pool: %v", i, ok)
		}
	}
}

func TestTwoPathsAreDoubtedOnlyWithTwoDestinations(t *testing.T) {
	p, _ := testPool(t, 1, nodes(30, 1))
	a, b := p.Paths()[0], p.Paths()[1]
	to := p.Random(3, func(n swarm.Node) bool { return a.Holds(n.Ed25519) || b.Holds(n.Ed25519) })
	p.Doubt(a, b, to[0].Ed25519, true)
	p.Doubt(a, b, to[0].Ed25519, true)
	p.Succeeded(a)
	p.Succeeded(b)
	p.Doubt(a, b, to[1].Ed25519, true)
	p.Doubt(a, b, to[1].Ed25519, true)
	if p.state[a].strikes != 0 || p.state[b].strikes != 0 || len(p.Guards()) != 2 || p.strikes[to[0].Ed25519] != 2 {
		t.Fatal("the paths were struck for what the destinations did")
	}
	p.Doubt(a, b, to[2].Ed25519, true)
	if p.state[a].strikes != 1 || p.state[b].strikes != 1 || p.strikes[a.Nodes()[2].Ed25519] != 1 {
		t.Fatal("two destinations in a row do not count against the paths")
	}
}

func TestAnUnreachableGuardIsJudgedByWhetherWeAreOnline(t *testing.T) {
	for _, c := range []struct {
		name    string
		between func(p *Pool, c *clock, other *Path)
		dropped bool
	}{
		{"nothing else answers: kept", func(*Pool, *clock, *Path) {}, false},
		{"the other path answers: dropped", func(p *Pool, c *clock, other *Path) { c.advance(time.Second); p.Succeeded(other) }, true},
		{"the other path answers with an error: dropped", func(p *Pool, c *clock, other *Path) {
			c.advance(time.Second)
			p.StrikePath(other, false, true)
		}, true},
		{"the seed answers: dropped", func(p *Pool, c *clock, other *Path) {
			if err := p.Replace(&swarm.List{Nodes: nodes(30, 1)}); err != nil {
				panic(err)
			}
		}, true},
		{"ten minutes pass: dropped", func(p *Pool, c *clock, other *Path) { c.advance(guardPatience) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, now := testPool(t, 1, nodes(30, 1))
			path, other := p.Paths()[0], p.Paths()[1]
			guard := path.Guard().Ed25519
			for range MaxStrikes {
				p.StrikePath(path, false, false)
			}
			if !slices.Contains(p.Guards(), guard) {
				t.Fatal("dropped while nothing was known")
			}
			c.between(p, now, other)
			p.StrikePath(path, false, false)
			if dropped := !slices.Contains(p.Guards(), guard); dropped != c.dropped {
				t.Errorf("dropped: %v", dropped)
			}
		})
	}
}

func TestANewListKeepsWhatStillHolds(t *testing.T) {
	list := nodes(30, 1)
	p, _ := testPool(t, 1, list)
	paths := p.Paths()

	same := slices.Clone(list)
	for i := range same {
		same[i].Swarm = 77 // a recomposed swarm is no reason for a new path
	}
	if err := p.Replace(&swarm.List{Nodes: same}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Paths(), paths) {
		t.Error("the paths changed although their nodes did not")
	}

	moved := slices.Clone(list)
	i := slices.IndexFunc(moved, func(n swarm.Node) bool { return n.Ed25519 == paths[0].Nodes()[2].Ed25519 })
	moved[i].Address = netip.MustParseAddrPort("10.9.9.9:1")
	if err := p.Replace(&swarm.List{Nodes: moved}); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(p.Paths(), paths[0]) || !slices.Contains(p.Paths(), paths[1]) {
		t.Error("the path with the moved node should be new, the other one old")
	}
	if !slices.Contains(p.Guards(), paths[0].Guard().Ed25519) {
		t.Error("the guard in front of the moved node was lost")
	}

	if err := p.Replace(&swarm.List{}); !errors.Is(err, ErrTooFewNodes) || p.Size() != 30 {
		t.Errorf("an empty list: %v, %d nodes left", err, p.Size())
	}
}

func TestRandomNodesAreOfDifferentNets(t *testing.T) {
	p, _ := testPool(t, 1, nodes(12, 4)) // three nets
	for range 50 {
		if got := p.Random(5, nil); len(got) != 3 || subnet(got[0]) == subnet(got[1]) {
			t.Fatalf("%d nodes", len(got))
		}
	}
}

func BenchmarkChoosingAPath(b *testing.B) {
	list := nodes(2000, 2)
	p, err := NewPool(randomness(1), time.Now, quiet, Saved{Nodes: list}, nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := p.For(list[7].Ed25519); err != nil {
			b.Fatal(err)
		}
	}
}
