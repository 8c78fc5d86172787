// Package replica keeps the databases of a swarm's members equal.
//
// While all members can be reached, a client's request goes to each of them at
// once (package rpc). This package is for everything else: a member that was
// away, one that is new, accounts that move to another swarm, a request that
// reached only some. It does not count on having noticed what went wrong: each
// member compares what it has with every other, at start, whenever there may be
// a reason, and once in a while.
//
// # What is compared
//
// Two sets: the messages, and the changes (package storage): the deletes,
// expiries and revocations that accounts asked for. Each message and each change
// has a stamp from when it came to the swarm. What clients see is a function of
// the two sets, so members with equal sets answer alike, in whatever order things
// reached them:
//
//   - A message is gone if a change that deletes it has its stamp or a later one.
//     Members that never had the message keep the change too, until no copy of
//     the message can be alive, so nobody brings back what its owner deleted. One
//     who stores the same message again after that gives it a later stamp.
//   - An expiry is the one of the latest store, moved by the later changes in the
//     order of their stamps.
//   - A token is revoked if the latest change about it says so. Changes asked for
//     by a delegate after that are void.
//   - Of two records of one message or change the one with the later stamp stands.
//
// Each database keeps sums over its sets ([storage.DB.Track]). Two members
// compare the totals, which is all when they are equal; where they are not,
// the sums of 256 parts by the first byte of the keys, of 256 parts of each of
// those that differ, and finally the keys. Then each gets what it lacks, in
// pieces of at most half a megabyte, and every piece stands by itself: a
// comparison that breaks off goes on where it was, because what has been settled
// is equal and not looked at again.
//
// # Who is believed
//
// Only members of the same swarm by this node's list may compare, on a link on
// which they have proven their node keys. They are not believed: a message must
// have the hash by which it was named, belong to the swarm, and keep the limits
// of size and time; a change must bear the account's signature, or that of a
// delegate with the access and without a revocation before that stamp, and a stamp
// that fits the time that was signed. So a lying member cannot delete, shorten or
// alter anything. What it can do is what the network's requests leave open to
// everybody who sees them:
//
//   - Add messages, deleted ones too. Stores to public inboxes are not signed, and
//     the signature of other stores covers namespace and time but not the message.
//     Clients find out, as they do with any message. In namespaces that hold one
//     message the store's signature is asked for, because storing deletes there.
//   - Repeat a delete, delete_before or expire under a later stamp, if its owner
//     stores the same message again: their signatures contain no time of their
//     own, and any client that has seen one can repeat it too.
//
// # Moving
//
// When swarms come and go, a node may hold messages of accounts that are no
// longer its swarm's. It offers them to members of the swarm now responsible until
// two of those (or the only one) have acknowledged each, and keeps its own
// copies until they expire. Any node of the list may offer. A request that was under
// way when the swarms changed may bring more such messages later: the database tells
// ([storage.DB.Track]), and they are offered too.
//
// Nodes learn of new swarms at different times. Whoever refuses because of that is
// asked again soon, whoever is given news compares with all members at
// once, and every change of the list is a reason to look at everything anew. So where
// each message is in the end does not depend on who learnt of what first.
package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"hearth/node/account"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// Config is what a Replica works with. Self, DB, List and Request are required.
type Config struct {
	Self [32]byte // this node's Ed25519 key
	DB   *storage.DB
	List func() *swarm.List // the newest; may return nil

	// Request sends two parts to the other node's Serve and returns the two parts
	// of its answer.
	Request func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error)

	Interval time.Duration    // between comparisons of members that agree; a minute when zero
	Settle   time.Duration    // how long a message may be on its way to all members; 2 s when zero
	Now      func() time.Time // nil means time.Now
	Random   func() float64   // from 0 to 1, spreads things in time; nil means math/rand
	Log      *slog.Logger
}

const (
	defaultInterval = time.Minute
	defaultSettle   = 2 * time.Second

	requestTime  = 15 * time.Second
	longestPause = time.Minute      // between tries to reach a member
	longestStuck = 10 * time.Minute // between comparisons with one that does not become equal
	atOnce       = 2                // comparisons
)

// Replica is one node's part. Its methods may be used by several goroutines.
type Replica struct {
	cfg   Config
	view  atomic.Pointer[view]
	poked chan struct{} // the list may have changed
	turns *semaphore.Weighted
	moves *handover
	work  guests

	mu    sync.Mutex
	peers map[[32]byte]*peer

	sent, received atomic.Uint64
}

// view is what a node list means for this node.
type view struct {
	list  *swarm.List
	mine  swarm.ID // None: in no swarm
	ids   []swarm.ID
	span  span
	peers []swarm.Node // the other members
}

// span is a swarm's place among the others: the identifiers of the swarm before,
// its own, and the one behind. It decides which accounts are the swarm's.
type span [24]byte

func newView(list *swarm.List, self [32]byte) *view {
	v := &view{list: list, mine: swarm.None, ids: list.Swarms()}
	if node, ok := list.Find(self); ok {
		v.mine = node.Swarm
	}
	i, ok := slices.BinarySearch(v.ids, v.mine)
	if v.mine == swarm.None || !ok {
		v.mine = swarm.None
		return v
	}
	n := len(v.ids)
	binary.BigEndian.PutUint64(v.span[0:], uint64(v.ids[(i+n-1)%n]))
	binary.BigEndian.PutUint64(v.span[8:], uint64(v.mine))
	binary.BigEndian.PutUint64(v.span[16:], uint64(v.ids[(i+1)%n]))
	for _, m := range list.Members(v.mine) {
		if m.Ed25519 != self {
			v.peers = append(v.peers, m)
		}
	}
	return v
}

// home is the swarm of an account.
func (v *view) home(owner account.ID) swarm.ID {
	id, _ := swarm.For(swarm.Position(owner), v.ids)
	return id
}

func (v *view) owns(owner account.ID) bool {
	return v.mine != swarm.None && v.home(owner) == v.mine
}

// member reports whether a node is of this node's swarm.
func (v *view) member(key [32]byte) bool {
	node, ok := v.list.Find(key)
	return ok && v.mine != swarm.None && node.Swarm == v.mine
}

// New returns a replica that does nothing before Run, except to refuse.
func New(cfg Config) *Replica {
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Settle == 0 {
		cfg.Settle = defaultSettle
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Replica{
		cfg: cfg, poked: make(chan struct{}, 1), turns: semaphore.NewWeighted(atOnce),
		peers: make(map[[32]byte]*peer),
	}
	r.moves = newHandover(r)
	return r
}

// Figures says how many bytes of requests and answers went out and came in.
func (r *Replica) Figures() (sent, received uint64) { return r.sent.Load(), r.received.Load() }

// ListChanged tells that there is another node list.
func (r *Replica) ListChanged() { poke(r.poked) }

// Behind tells that a request did not reach another member, or that it could not
// carry the request out.
func (r *Replica) Behind(member [32]byte) {
	r.mu.Lock()
	p := r.peers[member]
	r.mu.Unlock()
	// One that cannot be reached is tried anyway, and compared with when it can.
	if p != nil && p.failures.Load() == 0 {
		poke(p.wanted)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run keeps comparing until ctx ends.
func (r *Replica) Run(ctx context.Context) {
	r.cfg.Log.Debug("replica starts")
	var tasks sync.WaitGroup
	defer func() {
		r.mu.Lock()
		for key, p := range r.peers {
			p.stop()
			delete(r.peers, key)
		}
		r.mu.Unlock()
		tasks.Wait()
		r.cfg.Log.Debug("replica stopped")
	}()
	tasks.Go(func() { r.moves.run(ctx) })
	retry := time.Duration(0)
	for {
		if err := r.follow(ctx, &tasks); err != nil {
			r.cfg.Log.Error("summing up the messages", "error", err)
			retry = 10 * time.Second
		} else {
			retry = r.cfg.Interval // in case that nobody tells of a list
		}
		select {
		case <-r.poked:
		case <-time.After(retry):
		case <-ctx.Done():
			return
		}
	}
}

// follow takes over the newest list.
func (r *Replica) follow(ctx context.Context, tasks *sync.WaitGroup) error {
	list, known := r.cfg.List(), r.view.Load()
	if list == nil || known != nil && known.list == list {
		return nil
	}
	v := newView(list, r.cfg.Self)
	moved := known == nil || known.mine != v.mine || !slices.Equal(known.ids, v.ids)
	if known == nil || known.span != v.span || known.mine != v.mine {
		if err := r.cfg.DB.Track(v.owns, r.moves.start); err != nil {
			return err
		}
	}
	r.view.Store(v)
	r.work.keep(list)

	r.mu.Lock()
	defer r.mu.Unlock()
	for key, p := range r.peers {
		if !slices.ContainsFunc(v.peers, func(n swarm.Node) bool { return n.Ed25519 == key }) {
			p.stop()
			delete(r.peers, key)
		}
	}
	for _, n := range v.peers {
		p := r.peers[n.Ed25519]
		if p == nil {
			p = &peer{wanted: make(chan struct{}, 1)}
			p.node.Store(&n)
			var base context.Context
			base, p.stop = context.WithCancel(ctx)
			r.peers[n.Ed25519] = p
			tasks.Go(func() { r.attend(base, p) })
		} else if old := p.node.Swap(&n); old.Address != n.Address || moved {
			p.failures.Store(0)
			poke(p.wanted)
		}
	}
	if moved {
		r.moves.start()
	}
	return nil
}

// peer is another member.
type peer struct {
	node     atomic.Pointer[swarm.Node]
	stop     context.CancelFunc
	wanted   chan struct{} // there is reason to compare
	failures atomic.Int32  // in a row
	asked    atomic.Int64  // when it last asked this node something, ms
}

// attend compares with one member for as long as it is one.
func (r *Replica) attend(ctx context.Context, p *peer) {
	stuck := 0
	for {
		result, err := r.turn(ctx, p)
		if ctx.Err() != nil {
			return
		}
		pause := r.spread(r.cfg.Interval)
		switch {
		case errors.Is(err, errView), errors.Is(err, errBusy):
			// One of the two has the newer list, or more to do.
			pause = r.spread(r.cfg.Settle)
		case err != nil:
			n := p.failures.Add(1)
			if n == 1 {
				r.cfg.Log.Info("a member of the swarm cannot be compared with", "node", shortKey(p.node.Load()), "error", err)
			}
			pause = r.spread(min(longestPause, time.Second<<min(n-1, 6)))
		default:
			if p.failures.Swap(0) > 0 {
				r.cfg.Log.Info("a member of the swarm can be compared with again", "node", shortKey(p.node.Load()))
			}
			switch {
			case result.moved > 0 || result.young > 0:
				// Something may have come meanwhile, or wait for what came now.
				stuck, pause = 0, r.spread(r.cfg.Settle)
			case result.equal:
				stuck = 0
			default:
				stuck = min(stuck+1, 5)
				pause = r.spread(min(longestStuck, r.cfg.Interval<<stuck))
			}
		}
		if result.moved > 0 {
			r.cfg.Log.Info("compared with a member of the swarm", "node", shortKey(p.node.Load()), "moved", result.moved)
		}
		if !r.rest(ctx, p, pause) {
			return
		}
	}
}

// rest waits until there is reason to compare again.
func (r *Replica) rest(ctx context.Context, p *peer, pause time.Duration) bool {
	select {
	case <-time.After(pause):
	case <-p.wanted:
		// Reasons come in flocks.
		select {
		case <-time.After(r.spread(r.cfg.Settle / 2)):
		case <-ctx.Done():
			return false
		}
		select {
		case <-p.wanted:
		default:
		}
	case <-ctx.Done():
		return false
	}
	return true
}

// turn waits for its turn and compares.
func (r *Replica) turn(ctx context.Context, p *peer) (outcome, error) {
	// When two members have the same reason, one comparison will do.
	key := p.node.Load().Ed25519
	for range 30 {
		idle := r.cfg.Now().UnixMilli() - p.asked.Load()
		if idle > r.cfg.Settle.Milliseconds()/2 || string(r.cfg.Self[:]) < string(key[:]) {
			break
		}
		select {
		case <-time.After(r.cfg.Settle / 2):
		case <-ctx.Done():
			return outcome{}, ctx.Err()
		}
	}
	if err := r.turns.Acquire(ctx, 1); err != nil {
		return outcome{}, err
	}
	defer r.turns.Release(1)
	return r.compare(ctx, *p.node.Load(), r.cfg.Settle)
}

// spread gives a time between half and one and a half of d.
func (r *Replica) spread(d time.Duration) time.Duration {
	return d/2 + time.Duration(r.cfg.Random()*float64(d))
}

// Finish gives the other members, and the swarms to which accounts have moved,
// what only this node has. It is for a node that is about to stop, has stopped
// taking requests, and can wait until ctx ends.
func (r *Replica) Finish(ctx context.Context) {
	v := r.view.Load()
	if v == nil {
		return
	}
	var all sync.WaitGroup
	for _, n := range v.peers {
		all.Go(func() {
			if _, err := r.compare(ctx, n, 0); err != nil {
				r.cfg.Log.Debug("last comparison", "node", shortKey(&n), "error", err)
			}
		})
	}
	all.Go(func() { r.moves.last(ctx) })
	all.Wait()
}

func shortKey(n *swarm.Node) string { return hexKey(n.Ed25519) }
