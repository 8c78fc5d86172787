package path

import (
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hearth/node/swarm"
)

// guardPatience is how long a guard that cannot be reached is kept while
// nothing else can be reached either: then the fault is more likely this
// machine's own connection, and whoever can cut that must not be able to make
// the messenger try one guard after another until it takes theirs.
const guardPatience = 10 * time.Minute

// secondsPerBlock is the block time by which the age of a list is turned into a
// height (Session desktop).
const secondsPerBlock = 120

// Saved is what a pool needs to go on after a restart without any seed.
type Saved struct {
	Nodes   []swarm.Node
	Height  uint64    // block of the list
	Fetched time.Time // when the list was fetched
	Guards  []Key
}

// Pool knows the service nodes, the guards and the paths. It is safe for
// concurrent use and never does network or disk work itself, except through
// the function given to [NewPool].
type Pool struct {
	rng *rand.Rand
	now func() time.Time
	log *slog.Logger

	saving sync.Mutex // orders calls of save
	save   func(Saved)

	mu      sync.Mutex
	nodes   map[Key]swarm.Node
	order   []Key // the keys of nodes, for choosing at random
	height  uint64
	fetched time.Time
	strikes map[Key]int
	guards  []Key
	resting map[Key]bool // nodes that failed as guards, until the next list
	avoided map[Key]bool // nodes that are never hops, see Avoid
	paths   []*Path
	state   map[*Path]*health
	reached time.Time // when any path last answered
	changed bool      // something that save is to hear about
}

// health counts what went wrong on a path since it last worked.
type health struct {
	until   time.Time // when the path should be exchanged, see Stale
	strikes int
	first   time.Time // of the strikes
	doubt   Key       // the destination that it and another path were last lost on
}

// NewPool starts from what an earlier run saved, which may be nothing. random is
// read for a seed of 32 bytes; save hears of every change worth keeping and may
// be nil. A node whose stake has been unlocked since the list was fetched is
// left out.
func NewPool(random io.Reader, now func() time.Time, log *slog.Logger, saved Saved, save func(Saved)) (*Pool, error) {
	var seed [32]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nil, fmt.Errorf("drawing randomness for paths: %w", err)
	}
	p := &Pool{
		rng:     rand.New(rand.NewChaCha8(seed)),
		now:     now,
		log:     log,
		save:    save,
		strikes: make(map[Key]int),
		resting: make(map[Key]bool),
		avoided: make(map[Key]bool),
		state:   make(map[*Path]*health),
	}
	height := saved.Height
	if age := now().Sub(saved.Fetched); age > 0 && !saved.Fetched.IsZero() {
		height += uint64(age/time.Second) / secondsPerBlock
	}
	nodes := slices.DeleteFunc(slices.Clone(saved.Nodes), func(n swarm.Node) bool {
		return n.RequestedUnlockHeight != 0 && n.RequestedUnlockHeight <= height
	})
	p.take(nodes)
	p.height, p.fetched = saved.Height, saved.Fetched
	for _, g := range saved.Guards {
		if _, known := p.nodes[g]; known && len(p.guards) < WantPaths {
			p.guards = append(p.guards, g)
		}
	}
	return p, nil
}

// Replace takes a new list of service nodes. Guards and paths stay where all of
// their nodes are still listed. A list without a usable node changes nothing
// and gives [ErrTooFewNodes].
func (p *Pool) Replace(l *swarm.List) error {
	defer p.saveChanges()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.ContainsFunc(l.Nodes, usable) {
		return fmt.Errorf("node list of %d entries, none usable: %w", len(l.Nodes), ErrTooFewNodes)
	}
	p.take(l.Nodes)
	p.height, p.fetched = l.Height, p.now()
	clear(p.strikes)
	clear(p.resting)
	// The list came from somewhere, so this machine is online: a guard that
	// could not be reached until now has no excuse left.
	for _, path := range slices.Clone(p.paths) {
		if h := p.state[path]; h != nil && h.strikes >= MaxStrikes {
			p.dropGuard(path.Guard().Ed25519)
		}
	}
	p.guards = slices.DeleteFunc(p.guards, func(g Key) bool { return !p.has(g) })
	for _, path := range slices.Clone(p.paths) {
		if slices.ContainsFunc(path.hops, p.moved) {
			p.remove(path)
		}
	}
	p.build()
	p.changed = true
	return nil
}

// moved reports whether the node is no longer listed as it was.
func (p *Pool) moved(n swarm.Node) bool {
	listed := p.nodes[n.Ed25519]
	return listed.Address != n.Address || listed.X25519 != n.X25519
}

func (p *Pool) take(nodes []swarm.Node) {
	p.nodes = make(map[Key]swarm.Node, min(len(nodes), MaxPool))
	p.order = p.order[:0]
	for _, n := range nodes {
		if !usable(n) || p.has(n.Ed25519) || len(p.nodes) >= MaxPool {
			continue
		}
		n.Address = netip.AddrPortFrom(n.Address.Addr().Unmap(), n.Address.Port())
		p.nodes[n.Ed25519] = n
		p.order = append(p.order, n.Ed25519)
	}
}

// usable drops what no path can use: no address yet, as 0.0.0.0 says it, no
// port, no keys.
func usable(n swarm.Node) bool {
	a := n.Address.Addr().Unmap()
	return a.Is4() && !a.IsUnspecified() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && !a.IsMulticast() &&
		n.Address.Port() != 0 && n.Ed25519 != Key{} && n.X25519 != [32]byte{}
}

func (p *Pool) has(k Key) bool { _, ok := p.nodes[k]; return ok }

// Size is the number of nodes known.
func (p *Pool) Size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.nodes)
}

// Age is the time since the list was fetched.
func (p *Pool) Age() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now().Sub(p.fetched)
}

// Paths builds what is missing and returns the paths that are ready.
func (p *Pool) Paths() []*Path {
	defer p.saveChanges()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.build()
	return slices.Clone(p.paths)
}

// Guards returns the guards, at most [WantPaths].
func (p *Pool) Guards() []Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.guards)
}

// Find returns the node with that key, if it is in the pool.
func (p *Pool) Find(k Key) (swarm.Node, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, ok := p.nodes[k]
	return n, ok
}

// Random returns up to count different nodes, no two of one /24 net, none of
// which except refuses.
func (p *Pool) Random(count int, except func(swarm.Node) bool) []swarm.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	var picked []swarm.Node
	for len(picked) < count {
		n, ok := p.pick(func(n swarm.Node) bool {
			return (except == nil || !except(n)) && !near(picked, n)
		})
		if !ok {
			break
		}
		picked = append(picked, n)
	}
	return picked
}

// Shuffle puts nodes into a random order.
func (p *Pool) Shuffle(nodes []swarm.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
}

// Failed is a path that a request has just been lost on.
type Failed struct {
	Path  *Path
	Guard bool // the guard itself failed, so that nothing behind it was reached
}

// For chooses a random path that does not hold the destination, and not one that
// has failed when there is any other. When no kept path will do, one is made for
// this request alone: behind a guard that has not failed, and through other hops
// than those of the paths that have. The error is [ErrTooFewNodes].
func (p *Pool) For(destination Key, failed ...Failed) (*Path, error) {
	defer p.saveChanges()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.build()
	free := slices.DeleteFunc(slices.Clone(p.paths), func(c *Path) bool {
		return c.Holds(destination) || slices.ContainsFunc(failed, func(f Failed) bool { return f.Path == c })
	})
	if len(free) > 0 {
		return free[p.rng.IntN(len(free))], nil
	}
	suspect := func(n swarm.Node) bool {
		return n.Ed25519 == destination || slices.ContainsFunc(failed, func(f Failed) bool { return f.Path.Holds(n.Ed25519) })
	}
	for _, rule := range []struct{ guard, hop func(swarm.Node) bool }{
		{
			guard: suspect,
			hop:   func(n swarm.Node) bool { return n.Ed25519 == destination },
		},
		{
			guard: func(n swarm.Node) bool {
				return n.Ed25519 == destination || slices.ContainsFunc(failed, func(f Failed) bool {
					return f.Guard && f.Path.Guard().Ed25519 == n.Ed25519
				})
			},
			hop: suspect,
		},
	} {
		for _, g := range p.guards {
			if guard := p.nodes[g]; !rule.guard(guard) {
				if made, ok := p.extend(guard, func(n swarm.Node) bool { return !rule.hop(n) }); ok {
					return made, nil
				}
			}
		}
	}
	for _, f := range failed {
		if slices.Contains(p.paths, f.Path) {
			return f.Path, nil
		}
	}
	return nil, fmt.Errorf("%d nodes known: %w", len(p.nodes), ErrTooFewNodes)
}

// build makes paths until there are two, or no more can be made.
func (p *Pool) build() {
	for len(p.paths) < WantPaths {
		guard, ok := p.guard()
		if !ok {
			return
		}
		// Hops that are in no other path come first; only a pool too small for
		// that shares them.
		made, ok := p.extend(guard, func(n swarm.Node) bool {
			return !slices.Contains(p.guards, n.Ed25519) && !p.inPath(n.Ed25519)
		})
		if !ok {
			made, ok = p.extend(guard, func(swarm.Node) bool { return true })
		}
		if !ok {
			return
		}
		p.paths = append(p.paths, made)
		p.state[made] = &health{until: p.lifetime()}
		if !slices.Contains(p.guards, guard.Ed25519) {
			p.guards = append(p.guards, guard.Ed25519)
			p.changed = true
		}
	}
}

// guard returns a node to begin a new path with: a kept guard without a path,
// else a new one, far from the other guard when possible.
func (p *Pool) guard() (swarm.Node, bool) {
	var guards []swarm.Node
	for _, g := range p.guards {
		if !slices.ContainsFunc(p.paths, func(c *Path) bool { return c.Guard().Ed25519 == g }) {
			return p.nodes[g], true
		}
		guards = append(guards, p.nodes[g])
	}
	for _, rule := range []func(swarm.Node) bool{
		func(n swarm.Node) bool {
			return !p.inPath(n.Ed25519) && !p.resting[n.Ed25519] && p.strikes[n.Ed25519] == 0 && !near(guards, n)
		},
		func(n swarm.Node) bool { return !p.inPath(n.Ed25519) && !p.resting[n.Ed25519] },
		func(n swarm.Node) bool { return !slices.Contains(p.guards, n.Ed25519) },
	} {
		if n, ok := p.pickHop(rule); ok {
			return n, true
		}
	}
	return swarm.Node{}, false
}

// extend makes a path from a guard and random hops that allowed lets pass, no
// two of one /24 net.
func (p *Pool) extend(guard swarm.Node, allowed func(swarm.Node) bool) (*Path, bool) {
	hops := []swarm.Node{guard}
	for len(hops) < Hops {
		n, ok := p.pickWell(func(n swarm.Node) bool { return allowed(n) && !near(hops, n) })
		if !ok {
			return nil, false
		}
		hops = append(hops, n)
	}
	return &Path{hops: hops}, true
}

// pickWell is pick among the nodes without a failure, if there are any that fit.
func (p *Pool) pickWell(fits func(swarm.Node) bool) (swarm.Node, bool) {
	n, ok := p.pickHop(func(n swarm.Node) bool {
		return !p.resting[n.Ed25519] && p.strikes[n.Ed25519] == 0 && fits(n)
	})
	if ok {
		return n, true
	}
	return p.pickHop(fits)
}

// pickHop is pick among the nodes that may be in a path at all.
func (p *Pool) pickHop(fits func(swarm.Node) bool) (swarm.Node, bool) {
	return p.pick(func(n swarm.Node) bool { return !p.avoided[n.Ed25519] && fits(n) })
}

// near reports whether n is one of nodes or shares a /24 net with one.
func near(nodes []swarm.Node, n swarm.Node) bool {
	return slices.ContainsFunc(nodes, func(o swarm.Node) bool {
		return o.Ed25519 == n.Ed25519 || subnet(o) == subnet(n)
	})
}

// pick chooses uniformly among the nodes that fit. Choosing a node uniformly and
// then leaving out its neighbours is the same as choosing nets by their size.
func (p *Pool) pick(fits func(swarm.Node) bool) (swarm.Node, bool) {
	// Most nodes fit in a large pool: a few random tries spare the full scan.
	for range 8 {
		if len(p.order) == 0 {
			break
		}
		if n := p.nodes[p.order[p.rng.IntN(len(p.order))]]; fits(n) {
			return n, true
		}
	}
	var fit []Key
	for _, k := range p.order {
		if fits(p.nodes[k]) {
			fit = append(fit, k)
		}
	}
	if len(fit) == 0 {
		return swarm.Node{}, false
	}
	return p.nodes[fit[p.rng.IntN(len(fit))]], true
}

func (p *Pool) inPath(k Key) bool {
	return slices.ContainsFunc(p.paths, func(c *Path) bool { return c.Holds(k) })
}

// Succeeded clears the counters of the path and of its hops.
func (p *Pool) Succeeded(path *Path) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached = p.now()
	if h := p.state[path]; h != nil {
		*h = health{until: h.until}
	}
	for _, n := range path.hops {
		delete(p.strikes, n.Ed25519)
	}
}

// Cleared forgets the strikes of a node that gave a useful answer.
func (p *Pool) Cleared(k Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.strikes, k)
}

// StrikePath counts a failure of the path. everyHop counts it against each node
// behind the guard too, because nothing says which of them failed; it is false
// when the request did not get past the guard. The third failure takes the
// path's guard away.
func (p *Pool) StrikePath(path *Path, everyHop, answered bool) {
	defer p.saveChanges()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if answered {
		p.reached = now
	}
	// The path may have been replaced since the request left; its nodes are
	// counted all the same.
	if h := p.state[path]; h != nil {
		if h.strikes == 0 {
			h.first = now
		}
		h.strikes++
		online := p.reached.After(h.first) || answered
		if h.strikes >= MaxStrikes && (online || now.Sub(h.first) >= guardPatience) {
			p.dropGuard(path.Guard().Ed25519)
		}
	}
	if everyHop {
		for _, n := range path.hops[1:] {
			p.suspect(n.Ed25519)
		}
	}
}

// Doubt counts a failure that befell two paths with the same destination. Most
// likely the destination is to blame, and it is struck. Only when the paths are
// lost on another destination as well, with no success in between, they are
// struck with all of their hops.
func (p *Pool) Doubt(first, second *Path, destination Key, answered bool) {
	p.StrikeNode(destination)
	for _, path := range []*Path{first, second} {
		p.mu.Lock()
		h, both := p.state[path], false
		if h != nil {
			both = h.doubt != Key{} && h.doubt != destination
			h.doubt = destination
		}
		p.mu.Unlock()
		if both {
			p.StrikePath(path, true, answered)
		}
	}
}

// StrikeNode counts a failure of one node; the third takes it out of the pool
// and out of the paths.
func (p *Pool) StrikeNode(k Key) {
	defer p.saveChanges()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.strike(k)
}

// Drop takes a node out of the pool and out of the paths at once.
func (p *Pool) Drop(k Key) {
	defer p.saveChanges()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(k)
}

func (p *Pool) strike(k Key) {
	if !p.has(k) {
		return
	}
	p.strikes[k]++
	if p.strikes[k] >= MaxStrikes {
		p.drop(k)
	}
}

// suspect is strike for a node that was on a path which failed, and is most likely
// innocent. Many requests are on their way at a time, and fail together when one
// node dies: in a small network that must not empty the pool. There such a node
// only leaves the paths, and is the last choice for others.
func (p *Pool) suspect(k Key) {
	if !p.has(k) {
		return
	}
	if p.strikes[k]+1 < MaxStrikes || len(p.nodes) > MinPool {
		p.strike(k)
		return
	}
	if p.strikes[k] < MaxStrikes {
		p.strikes[k] = MaxStrikes
		p.leaveOut(k)
	}
}

func (p *Pool) drop(k Key) {
	if !p.has(k) {
		return
	}
	p.log.Info("service node dropped", "node", short(k), "left", len(p.nodes)-1)
	delete(p.nodes, k)
	delete(p.strikes, k)
	p.order = slices.DeleteFunc(p.order, func(o Key) bool { return o == k })
	p.changed = true
	p.leaveOut(k)
}

// leaveOut takes a node out of the guards and the paths, and builds others.
func (p *Pool) leaveOut(k Key) {
	if slices.Contains(p.guards, k) {
		p.dropGuard(k)
	}
	for _, path := range slices.Clone(p.paths) {
		if path.Holds(k) {
			p.repair(path, k)
		}
	}
	p.build()
}

// repair replaces a path that lost a hop: the others move up and a new node
// comes last. A path that cannot be repaired goes.
func (p *Pool) repair(path *Path, lost Key) {
	hops := slices.DeleteFunc(slices.Clone(path.hops), func(n swarm.Node) bool { return n.Ed25519 == lost })
	p.remove(path)
	n, ok := p.pickWell(func(n swarm.Node) bool {
		return !near(hops, n) && !slices.Contains(p.guards, n.Ed25519) && !p.inPath(n.Ed25519)
	})
	if !ok {
		return
	}
	made := &Path{hops: append(hops, n)}
	p.paths = append(p.paths, made)
	p.state[made] = &health{until: p.lifetime()}
}

func (p *Pool) dropGuard(k Key) {
	p.log.Info("guard dropped", "node", short(k))
	p.guards = slices.DeleteFunc(p.guards, func(g Key) bool { return g == k })
	p.resting[k] = true
	p.changed = true
	for _, path := range slices.Clone(p.paths) {
		if path.Guard().Ed25519 == k {
			p.remove(path)
		}
	}
	p.build()
}

func (p *Pool) remove(path *Path) {
	p.paths = slices.DeleteFunc(p.paths, func(c *Path) bool { return c == path })
	delete(p.state, path)
}

// saveChanges hands the state over when it changed, outside of the lock.
func (p *Pool) saveChanges() {
	p.mu.Lock()
	if !p.changed || p.save == nil {
		p.mu.Unlock()
		return
	}
	p.changed = false
	p.mu.Unlock()

	// Two changes at a time must not be saved in the wrong order: whoever gets
	// here takes the newest state.
	p.saving.Lock()
	defer p.saving.Unlock()
	p.mu.Lock()
	s := Saved{Height: p.height, Fetched: p.fetched, Guards: slices.Clone(p.guards)}
	for _, k := range p.order {
		s.Nodes = append(s.Nodes, p.nodes[k])
	}
	p.mu.Unlock()
	p.save(s)
}

func short(k Key) string { return hex.EncodeToString(k[:4]) }
