// Package peertest finds out whether the other service nodes do their work: whether
// they can be reached, and whether they keep what their swarm gave them to keep.
//
// A [Tester] tests by itself while [Tester.Run] runs. It tells every result at once
// to [Config.Report] and keeps what matters of them, also over a restart, for
// whoever judges nodes ([Tester.Of], [Tester.All], [Reach.Unreachable]). In the
// other direction [Tester.Heard] notes that somebody tested this node, and
// [Tester.Answer] answers the storage tests of others.
//
// # Reachability
//
// About every ten seconds one other node is asked, those that failed again soon
// after. A test is passed when every [Probe] is: an HTTPS request of the kind that
// clients make, and one over the transport between nodes. Nodes that lost their
// place in a swarm are tested as well, so that they can come back; a node that is
// in no swarm itself does not test. Schedule and figures are those of the storage
// server (oxenss/snode/reachability_testing.cpp).
//
// # Storage
//
// With each block the members of a swarm draw a tester and a testee among them
// ([swarm.TestPair]). The tester takes a message that both have to have at random,
// and the testee answers with its content. While the chain stands still there is a
// further round every two minutes. The storage server 2.8.0 answers these tests but
// no longer makes them (oxenss/snode/service_node.cpp, initiate_peer_test); in a
// network of ours they are made.
//
// Nothing here logs or keeps which message was asked for.
package peertest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"hearth/node/swarm"
)

// The storage server's figures.
const (
	every       = 10 * time.Second // between two random tests, on average
	deviation   = 3 * time.Second
	backOff     = 10 * time.Second // more before each further test of a node that fails
	longest     = 2 * time.Minute  // between two tests of a node that fails
	tick        = 200 * time.Millisecond
	retests     = 4 // begun in one tick
	probeTime   = 5 * time.Second
	silence     = 2 * time.Minute // without anybody's test, until the owner is told
	storageTime = 15 * time.Second
	answerTime  = 10 * time.Second // for a message to turn up at the testee; the tester waits longer
	lag         = 4                // blocks below the newest, so that every member knows the block
	blocksKept  = 30

	// StaleAfter is how long a failure counts: a node that nobody could test
	// since is not held to be unreachable.
	StaleAfter = 5 * time.Minute
	// UnreachableAfter is how long a node has to fail every test until it counts as
	// unreachable (oxen-core, src/cryptonote_core/service_node_list.cpp: the
	// validity of an uptime proof less the time between two).
	UnreachableAfter = 65 * time.Minute
)

// Bounds of our own.
const (
	maxNodes   = 4096           // results kept
	keepFor    = 24 * time.Hour // of a node that has left the list
	answering  = 8              // storage tests of others at a time
	answerPoll = 250 * time.Millisecond
	standstill = 2 * time.Minute // one block of the public chain
	aloneAfter = 3               // nodes that fail in a row, and nobody else answers
)

// Probe is one way to reach a node.
type Probe struct {
	Name string // one word, for people and figures
	Test func(ctx context.Context, node swarm.Node) error
}

// Messages are what this node keeps.
type Messages interface {
	// Random returns a message that every member of the own swarm has to have.
	Random() (hash [32]byte, data []byte, ok bool)
	// Load returns the content of a message.
	Load(hash [32]byte) (data []byte, ok bool)
}

// Config is what a Tester is made of.
type Config struct {
	Self   [32]byte
	List   func() *swarm.List // the newest node list; may return nil
	Probes []Probe            // at least one
	// Messages and Ask make storage tests; nil for none. Ask sends the parts of a
	// storage test to a node and returns those of the answer.
	Messages Messages
	Ask      func(ctx context.Context, node swarm.Node, parts [][]byte) ([][]byte, error)
	// Report gets every result of a reachability test, from several goroutines; may
	// be nil.
	Report func(Result)
	// Every is the time between two random tests, on average; 10 s when zero. Times
	// between tests of a node that fails are in proportion to it.
	Every time.Duration
	File  string           // keeps the results over a restart; empty for nowhere
	Now   func() time.Time // nil means time.Now
	Rand  *rand.Rand       // nil means one of its own
	Log   *slog.Logger
}

// Result is one reachability test.
type Result struct {
	Node   [32]byte
	At     time.Time
	Passed bool
	// Alone is set on a failure when no node at all answered lately, which says
	// more about the tester than about the node.
	Alone bool
}

// Reach is what this node knows from its tests about another.
type Reach struct {
	Node     [32]byte
	Since    time.Time // of the first of the latest tests that all had the same result
	Passed   time.Time // the last test that was passed; zero when there is none
	Failed   time.Time // the last test that was failed; zero when there is none
	Failures int       // tests failed since the last one passed
	Trouble  string    // names of the probes that failed last; empty after a pass
	Storage  StorageTests
}

// StorageTests counts the storage tests that this node made of another.
type StorageTests struct {
	OK       int       `json:"ok,omitempty"`       // had the message
	Mismatch int       `json:"mismatch,omitempty"` // had another content under its name
	Rejected int       `json:"rejected,omitempty"` // did not think that it was its turn
	Other    int       `json:"other,omitempty"`    // had it not, or did not answer in time
	Last     time.Time `json:"last,omitzero"`
	LastOK   bool      `json:"last_ok,omitempty"`
}

// Reachable reports whether the last test was passed.
func (r Reach) Reachable() bool { return r.Failures == 0 && !r.Passed.IsZero() }

// Unreachable is the ledger's question: whether the node has failed every test for
// at least that long, and lately ([StaleAfter]).
func (r Reach) Unreachable(now time.Time, after time.Duration) bool {
	return r.Failures > 0 && now.Sub(r.Failed) < StaleAfter && now.Sub(r.Since) >= after
}

// Way is how somebody tested this node.
type Way int

// The ways.
const (
	OverHTTPS Way = iota
	OverLink
	ways
)

func (w Way) String() string { return [...]string{"https", "link"}[w] }

// Health is how the tests of this node by others, and its own, go.
type Health struct {
	Heard [ways]time.Time // last test by somebody else; zero for never
	// Reachable and Failing are the other nodes that passed and failed their last
	// test.
	Reachable, Failing int
	// Trouble says for people what is wrong with this node's own connection.
	Trouble string
}

// Tester tests the other nodes of a network.
type Tester struct {
	cfg       Config
	wake      chan struct{}
	answering chan struct{}

	mu       sync.Mutex
	began    time.Time
	nodes    map[[32]byte]*state
	queue    [][32]byte // left of this round of random tests
	next     time.Time  // random test
	heard    [ways]time.Time
	warned   [ways]time.Time
	lonely   map[[32]byte]struct{} // failed since anybody passed
	active   bool                  // this node is in a swarm
	listed   bool                  // it is in the list
	blocks   []block               // the newest last
	standing time.Time             // since the newest
	round    uint64                // of storage tests at the newest; 0 for its own
	unsaved  bool
	saved    time.Time
	random   *rand.Rand
}

type state struct {
	Reach
	next    time.Time // test again, when it fails
	testing bool
}

type block struct {
	height uint64
	hash   [32]byte
}

// New returns a Tester that knows what an earlier one kept in cfg.File.
func New(cfg Config) *Tester {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	now := cfg.Now()
	t := &Tester{
		cfg: cfg, wake: make(chan struct{}, 1), answering: make(chan struct{}, answering),
		began: now, saved: now, nodes: make(map[[32]byte]*state), lonely: make(map[[32]byte]struct{}), random: cfg.Rand,
	}
	t.next = now.Add(t.pause())
	if cfg.File != "" {
		if err := t.load(); err != nil {
			cfg.Log.Warn("the kept results of tests are not readable", "error", err)
		}
	}
	t.follow()
	return t
}

// ListChanged makes Run look at the new node list at once.
func (t *Tester) ListChanged() {
	t.follow()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Heard notes that somebody tested this node.
func (t *Tester) Heard(by Way) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard[by] = t.cfg.Now()
}

// Of returns what is known about a node; false when it was never tested.
func (t *Tester) Of(node [32]byte) (Reach, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.nodes[node]; s != nil && s.tested() {
		return s.Reach, true
	}
	return Reach{}, false
}

// All returns what is known about every node that was tested, in the order of
// their keys.
func (t *Tester) All() []Reach {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Reach, 0, len(t.nodes))
	for _, s := range t.nodes {
		if s.tested() {
			all = append(all, s.Reach)
		}
	}
	slices.SortFunc(all, func(a, b Reach) int { return bytes.Compare(a.Node[:], b.Node[:]) })
	return all
}

func (s *state) tested() bool {
	return !s.Passed.IsZero() || !s.Failed.IsZero() || !s.Storage.Last.IsZero()
}

// Health sums up.
func (t *Tester) Health() Health {
	list := t.cfg.List()
	t.mu.Lock()
	defer t.mu.Unlock()
	h := Health{Heard: t.heard}
	for key, s := range t.nodes {
		if _, ok := list.Find(key); !ok {
			continue
		}
		switch {
		case s.Failures > 0:
			h.Failing++
		case !s.Passed.IsZero():
			h.Reachable++
		}
	}
	if t.alone() {
		h.Trouble = "no other node answers: is this node's own connection up?"
	} else if quiet := t.quiet(); len(quiet) > 0 {
		h.Trouble = fmt.Sprintf("no other node has reached this one over %s lately: is its port open?", quiet[0])
	}
	return h
}

// alone reports whether nobody answers; t.mu is held.
func (t *Tester) alone() bool {
	return t.active && len(t.lonely) >= aloneAfter
}

// quiet lists the ways on which nobody tested this node lately, though there are
// nodes that should; t.mu is held.
func (t *Tester) quiet() (quiet []Way) {
	if !t.listed || len(t.nodes) == 0 {
		return nil
	}
	now := t.cfg.Now()
	for way, at := range t.heard {
		if now.Sub(later(at, t.began)) >= silence {
			quiet = append(quiet, Way(way))
		}
	}
	return quiet
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Run tests until ctx ends, and then keeps the results.
func (t *Tester) Run(ctx context.Context) {
	var tests sync.WaitGroup
	defer func() {
		tests.Wait()
		t.save()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-t.wake:
		case <-ctx.Done():
			return
		}
		nodes, again := t.due()
		for _, n := range nodes {
			tests.Go(func() { t.test(ctx, n) })
		}
		if to, height, round, ok := t.storageTurn(); ok {
			tests.Go(func() { t.testStorage(ctx, to, height, round) })
		}
		t.warn()
		t.saveSometimes()
		timer.Reset(again)
	}
}

// pause is the time to the next random test.
func (t *Tester) pause() time.Duration {
	return max(t.paced(every+time.Duration(t.random.NormFloat64()*float64(deviation))), tick)
}

// paced is a time at the pace that Config.Every sets.
func (t *Tester) paced(usual time.Duration) time.Duration {
	if t.cfg.Every == 0 {
		return usual
	}
	return time.Duration(float64(usual) * float64(t.cfg.Every) / float64(every))
}

// follow takes over the newest list.
func (t *Tester) follow() {
	list := t.cfg.List()
	if list == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	self, listed := list.Find(t.cfg.Self)
	active := listed && self.Swarm != swarm.None
	if listed && !t.listed {
		t.began = t.cfg.Now() // nobody knew this node before
	}
	t.listed, t.active = listed, active
	now := t.cfg.Now()
	for key, s := range t.nodes {
		if _, ok := list.Find(key); !ok && !s.testing && now.Sub(later(s.Passed, s.Failed)) > keepFor {
			delete(t.nodes, key)
		}
		if _, ok := list.Find(key); !ok {
			delete(t.lonely, key)
		}
	}
	for _, n := range list.Nodes {
		if n.Ed25519 != t.cfg.Self && t.nodes[n.Ed25519] == nil && len(t.nodes) < maxNodes {
			t.nodes[n.Ed25519] = &state{Reach: Reach{Node: n.Ed25519}}
		}
	}
	if newest := len(t.blocks) - 1; newest < 0 || t.blocks[newest] != (block{list.Height, list.Hash}) {
		t.blocks = append(t.blocks, block{list.Height, list.Hash})
		if len(t.blocks) > blocksKept {
			t.blocks = slices.Delete(t.blocks, 0, len(t.blocks)-blocksKept)
		}
		t.standing, t.round = now, 0
	}
}

// due returns the nodes to test now, and when to ask again.
func (t *Tester) due() (nodes []swarm.Node, again time.Duration) {
	list := t.cfg.List()
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	if !t.active {
		t.next = now.Add(t.pause())
		return nil, every
	}
	begin := func(n swarm.Node, s *state) {
		s.testing = true
		nodes = append(nodes, n)
	}
	again = max(t.next.Sub(now), 0)
	for _, key := range slices.SortedFunc(maps.Keys(t.nodes), func(a, b [32]byte) int { return t.nodes[a].next.Compare(t.nodes[b].next) }) {
		s := t.nodes[key]
		if s.Failures == 0 || s.testing {
			continue
		}
		if wait := s.next.Sub(now); wait > 0 {
			again = min(again, wait)
			break
		}
		if len(nodes) == retests {
			again = min(again, tick)
			break
		}
		if n, ok := list.Find(key); ok && addressed(n) {
			begin(n, s)
		} else {
			s.next = now.Add(longest)
		}
	}
	if !t.next.After(now) {
		if n, ok := t.draw(list); ok {
			begin(n, t.nodes[n.Ed25519])
		}
		t.next = now.Add(t.pause())
		again = min(again, t.next.Sub(now))
	}
	return nodes, max(again, tick)
}

func addressed(n swarm.Node) bool {
	return n.Address.IsValid() && !n.Address.Addr().IsUnspecified() && n.Address.Port() != 0
}

// draw takes the next node of the round, and begins another round when this one is
// over; t.mu is held.
func (t *Tester) draw(list *swarm.List) (swarm.Node, bool) {
	for range 2 {
		for len(t.queue) > 0 {
			key := t.queue[0]
			t.queue = t.queue[1:]
			n, ok := list.Find(key)
			if s := t.nodes[key]; ok && addressed(n) && s != nil && s.Failures == 0 && !s.testing {
				return n, true
			}
		}
		t.queue = t.queue[:0]
		for _, n := range list.Nodes {
			if t.nodes[n.Ed25519] != nil {
				t.queue = append(t.queue, n.Ed25519)
			}
		}
		t.random.Shuffle(len(t.queue), func(i, j int) { t.queue[i], t.queue[j] = t.queue[j], t.queue[i] })
	}
	return swarm.Node{}, false
}

// test makes one reachability test.
func (t *Tester) test(ctx context.Context, n swarm.Node) {
	limit, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	errs := make([]error, len(t.cfg.Probes))
	var probes sync.WaitGroup
	for i, p := range t.cfg.Probes {
		probes.Go(func() { errs[i] = p.Test(limit, n) })
	}
	probes.Wait()
	if ctx.Err() != nil {
		return // it is this node that ends
	}
	var trouble []byte
	for i, err := range errs {
		if err == nil {
			continue
		}
		if trouble != nil {
			trouble = append(trouble, ", "...)
		}
		trouble = append(trouble, t.cfg.Probes[i].Name...)
		t.cfg.Log.Debug("node not reachable", "node", hex.EncodeToString(n.Ed25519[:4]), "over", t.cfg.Probes[i].Name, "error", err)
	}
	r := t.enter(n.Ed25519, string(trouble))
	if t.cfg.Report != nil {
		t.cfg.Report(r)
	}
}

// enter keeps a result; trouble is empty for a test that was passed.
func (t *Tester) enter(node [32]byte, trouble string) Result {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	r := Result{Node: node, At: now, Passed: trouble == ""}
	s := t.nodes[node]
	if s == nil { // it left the list meanwhile
		return r
	}
	s.testing = false
	s.Trouble = trouble
	if r.Passed {
		if s.Failures > 0 || s.Passed.IsZero() {
			if s.Failures > 0 {
				t.cfg.Log.Info("node reachable again", "node", hex.EncodeToString(node[:4]), "after", now.Sub(s.Since).Round(time.Second))
			}
			s.Since, t.unsaved = now, true
		}
		s.Passed, s.Failures = now, 0
		clear(t.lonely)
		return r
	}
	if s.Failures == 0 {
		s.Since, t.unsaved = now, true
		t.cfg.Log.Info("node not reachable", "node", hex.EncodeToString(node[:4]), "over", trouble)
	}
	s.next = now.Add(min(t.paced(time.Duration(s.Failures)*backOff)+t.pause(), t.paced(longest)))
	s.Failed = now
	s.Failures++
	t.lonely[node] = struct{}{}
	r.Alone = t.alone()
	return r
}

// warn tells when nobody has tested this node for long.
func (t *Tester) warn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	for _, way := range t.quiet() {
		if now.Sub(t.warned[way]) >= silence {
			t.warned[way] = now
			t.cfg.Log.Warn("no other node tests this one: is its port open to the network?", "over", way.String(), "for", now.Sub(later(t.heard[way], t.began)).Round(time.Second))
		}
	}
}

// Texts of the storage server.
const (
	textOK         = "OK"
	textWrong      = "wrong request"
	textOther      = "other"
	textParameters = "invalid parameters"
	textHeight     = "invalid height"
	textHash       = "invalid msg hash"
)

// storageTurn reports whether this node is the tester of a round that begins now.
func (t *Tester) storageTurn() (to swarm.Node, height, round uint64, ok bool) {
	if t.cfg.Messages == nil || t.cfg.Ask == nil {
		return to, 0, 0, false
	}
	list := t.cfg.List()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.active || len(t.blocks) == 0 {
		return to, 0, 0, false
	}
	newest, now := t.blocks[len(t.blocks)-1], t.cfg.Now()
	var at block
	if now.Sub(t.standing) < standstill {
		if t.round != 0 || newest.height < lag {
			return to, 0, 0, false
		}
		t.round = 1 // the block's own test is made once
		if at, ok = t.block(newest.height - lag); !ok {
			return to, 0, 0, false
		}
	} else {
		slot := roundOf(now)
		if slot == t.round {
			return to, 0, 0, false
		}
		t.round = slot
		at, round = newest, slot
	}
	tester, testee, ok := t.pair(list, at.hash, round)
	return testee, at.height, round, ok && tester.Ed25519 == t.cfg.Self
}

// roundOf numbers the rounds of a chain that stands still.
func roundOf(now time.Time) uint64 { return uint64(now.UnixNano() / int64(standstill)) }

// block finds a block by its height; t.mu is held.
func (t *Tester) block(height uint64) (block, bool) {
	for _, b := range slices.Backward(t.blocks) {
		if b.height == height {
			return b, true
		}
	}
	return block{}, false
}

func (t *Tester) pair(list *swarm.List, hash [32]byte, round uint64) (tester, testee swarm.Node, ok bool) {
	self, _ := list.Find(t.cfg.Self)
	members := slices.SortedFunc(slices.Values(list.Members(self.Swarm)), func(a, b swarm.Node) int {
		return bytes.Compare(a.Ed25519[:], b.Ed25519[:])
	})
	i, j, ok := swarm.TestPair(hash, round, len(members))
	if !ok {
		return tester, testee, false
	}
	return members[i], members[j], true
}

// testStorage asks a member for a message.
func (t *Tester) testStorage(ctx context.Context, to swarm.Node, height, round uint64) {
	hash, want, ok := t.cfg.Messages.Random()
	if !ok {
		return
	}
	parts := [][]byte{strconv.AppendUint(nil, height, 10), hash[:]}
	if round != 0 {
		parts = append(parts, strconv.AppendUint(nil, round, 10))
	}
	limit, cancel := context.WithTimeout(ctx, storageTime)
	defer cancel()
	answer, err := t.cfg.Ask(limit, to, parts)
	if ctx.Err() != nil {
		return
	}
	passed := err == nil && len(answer) == 2 && string(answer[0]) == textOK && bytes.Equal(answer[1], want)
	if !passed {
		// What was deleted or has expired meanwhile is missing there with good reason.
		if still, ok := t.cfg.Messages.Load(hash); !ok || !bytes.Equal(still, want) {
			return
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.nodes[to.Ed25519]
	if s == nil {
		return
	}
	t.unsaved = true
	s.Storage.Last, s.Storage.LastOK = t.cfg.Now(), passed
	outcome := "other"
	switch {
	case passed:
		s.Storage.OK++
		return
	case err == nil && len(answer) == 2 && string(answer[0]) == textOK:
		s.Storage.Mismatch++
		outcome = "mismatch"
	case err == nil && len(answer) > 0 && string(answer[0]) == textWrong:
		s.Storage.Rejected++
		outcome = "rejected"
	default:
		s.Storage.Other++
	}
	t.cfg.Log.Info("storage test not passed", "node", hex.EncodeToString(to.Ed25519[:4]), "outcome", outcome, "error", err)
}

// Answer answers the storage test of the node with the key from: the height of a
// block in decimal, the 32 bytes of a message's hash and, in further rounds at one
// block, their number. The answer is one text, or OK and the message. A message
// that is not here may be on its way: it is waited for, at most ten seconds.
func (t *Tester) Answer(ctx context.Context, from [32]byte, parts [][]byte) [][]byte {
	text := func(s string) [][]byte { return [][]byte{[]byte(s)} }
	if len(parts) != 2 && len(parts) != 3 || t.cfg.Messages == nil {
		return text(textParameters)
	}
	height, err := strconv.ParseUint(string(parts[0]), 10, 64)
	if err != nil {
		return text(textHeight)
	}
	if len(parts[1]) != 32 {
		return text(textHash)
	}
	round := uint64(0)
	if len(parts) == 3 {
		if round, err = strconv.ParseUint(string(parts[2]), 10, 64); err != nil {
			return text(textParameters)
		}
	}
	select {
	case t.answering <- struct{}{}:
		defer func() { <-t.answering }()
	default:
		return text(textOther)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	poll := time.NewTicker(answerPoll)
	defer poll.Stop()
	for {
		switch err := t.mayAsk(from, height, round); {
		case errors.Is(err, errEarly):
		case err != nil:
			return text(textWrong)
		default:
			if data, ok := t.cfg.Messages.Load([32]byte(parts[1])); ok {
				return [][]byte{[]byte(textOK), data}
			}
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return text(textOther)
		}
	}
}

var (
	errEarly = errors.New("a block that is not here yet")
	errWrong = errors.New("not the pair of that block")
)

// mayAsk checks that it is that node's turn to test this one.
func (t *Tester) mayAsk(from [32]byte, height, round uint64) error {
	list := t.cfg.List()
	t.mu.Lock()
	defer t.mu.Unlock()
	if newest := len(t.blocks) - 1; newest < 0 || height > t.blocks[newest].height {
		return errEarly
	}
	at, ok := t.block(height)
	if !ok {
		return errWrong
	}
	if now := roundOf(t.cfg.Now()); round != 0 && round+1 != now && round != now && round != now+1 {
		return errWrong
	}
	tester, testee, ok := t.pair(list, at.hash, round)
	if !ok || tester.Ed25519 != from || testee.Ed25519 != t.cfg.Self {
		return errWrong
	}
	return nil
}

// Outcomes counts the storage tests that this node made, by outcome.
func (t *Tester) Outcomes() (sum StorageTests) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.nodes {
		sum.OK += s.Storage.OK
		sum.Mismatch += s.Storage.Mismatch
		sum.Rejected += s.Storage.Rejected
		sum.Other += s.Storage.Other
		sum.Last = slices.MaxFunc([]time.Time{sum.Last, s.Storage.Last}, func(a, b time.Time) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
	}
	return sum
}
