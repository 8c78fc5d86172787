// Package sim runs a whole network's ledger and swarms through hours of churn
// within seconds: nodes leave, join, drop off the net and come back, and some lie.
//
// The state machine, the drawing of testers, the swarms and the rules by which
// testers vote are the real ones; so are all signatures. What is played is the
// world around them: one heap of events, ordered by a virtual clock, in place of
// processes, links and a consensus. [Run] takes a [Config] and gives a [Report];
// the same Config gives the same Report, bit for bit.
//
// What testers know is computed instead of tested: every tester asks another node
// every ten seconds, so in a large network hours go by until all of them have seen
// that one is gone, as with the real one (package peertest).
package sim

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"hearth/node/keys"
	"hearth/node/ledger"
	"hearth/node/ledger/vrf"
	"hearth/node/peertest"
	"hearth/node/swarm"
)

// Config says what happens. Rates are per node and day.
type Config struct {
	Seed     uint64
	Nodes    int // with a stake from the beginning
	Hours    int
	Messages int // that are kept, stored at any time of the first half

	Drops    float64       // losses of the connection
	Shortest time.Duration // of them; their lengths are spread evenly on a logarithmic scale
	Longest  time.Duration
	Deaths   float64 // nodes that never come back, without a word
	Leaves   float64 // operators that ask for their stake
	Joins    float64 // new nodes
	Lying    float64 // share of nodes that keep nothing, slander the honest and cover each other

	Params ledger.Params
}

// Usual is a network of homes: a node loses its connection every other day, for two
// minutes to six hours.
func Usual(nodes, hours int) Config {
	return Config{
		Seed: 1, Nodes: nodes, Hours: hours, Messages: 2 * nodes,
		Drops: 0.5, Shortest: 2 * time.Minute, Longest: 6 * time.Hour,
		Deaths: 0.01, Leaves: 0.01, Joins: 0.03, Lying: 0.10,
		Params: ledger.DefaultParams(),
	}
}

// Sample is how the network was at a moment.
type Sample struct {
	At       time.Duration // since the churn began
	Online   int           // nodes that can be reached, of those that are in service or out of it
	Active   int           // nodes in service
	Out      int           // nodes out of service
	Swarms   int
	Smallest int     // members of a swarm
	Median   int     //
	Largest  int     //
	Working  int     // fewest members of a swarm that are online and honest
	Kept     float64 // share of messages that somebody in their swarm gives out
	FirstTry float64 // share of messages that a member drawn at random gives out
	Lost     float64 // share of messages that nobody has any more
}

// Side is what became of the honest, or of the liars.
type Side struct {
	Nodes       int // that ever had a stake
	Staked      uint64
	Demoted     int    // times that a node was taken out of service
	Undeserved  int    // of these, while it could be reached
	Returned    int    // times that one came back
	Removed     int    // nodes removed for good
	Locked      uint64 // stake of those, paid back only after the lock
	Earned      uint64
	WorstCredit time.Duration // least credit that a node that is still there has
}

// Report is what happened.
type Report struct {
	Config       Config
	Samples      []Sample
	Honest, Liar Side
	Blocks       int
	Halted       time.Duration // too many of the committee were away
	Lists        int
	Joined, Left int // nodes
	Drops        int
	ShortDrops   int // of an hour and less
	ShortDemoted int // of these, how many cost the node its service
	TxBytes      int
	Events       int
	Paths        []Path
	PathSampled  float64 // share of three-hop paths that were wholly the liars', drawn from the last list
}

// LeastKept is the least share of messages that could be had at any time.
func (r *Report) LeastKept() float64 {
	least := 1.0
	for _, s := range r.Samples {
		least = min(least, s.Kept)
	}
	return least
}

// Path is what an attacker with a share of all nodes may hope for.
type Path struct {
	Share     float64
	Stake     uint64  // units
	Whole     float64 // chance that all three nodes of a path are bad
	Ends      float64 // chance that the first and the last are
	Swarm     float64 // chance that a swarm of the median size has no honest member
	Committee float64 // chance that a third or more of a drawn committee is bad: it can halt the ledger
	Fork      float64 // chance that more than two thirds are: it can do anything
}

// one is a node of the simulation.
type one struct {
	index          int
	node, cons     *keys.Pair
	wallet         *keys.Pair
	beacon         *vrf.Secret
	lying          bool
	offline, dead  bool
	since          int64 // it is online or offline
	gone           int64 // when the last outage began, also after it
	outage         uint64
	begin          uint64 // balance
	cost           uint64 // what it paid beside
	removed, asked bool
	demotedIn      uint64 // the outage in which it was taken out of service
}

// message is one that the network keeps.
type message struct {
	position uint64
	stored   bool
	holders  []*one
}

type event struct {
	at  int64
	seq uint64
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

const (
	chainID   = "simulation-1"
	genesisAt = 1_800_000_000
	warmUp    = 2 * 24 * 3600 // before the churn, so that nodes have earned credit and are paid

	idle      = 120 // seconds between blocks when nothing happens, as the engine's
	busy      = 10
	halfBlock = 30 // until a ledger that stands still is looked at again
	sampling  = 600
	testEvery = 10 // between two tests by one tester
	retest    = 120
	feeOfTx   = ledger.Coin / 100
)

type world struct {
	cfg      Config
	rng      *rand.Rand
	now      int64
	start    int64 // of the churn
	queue    events
	seq      uint64
	report   *Report
	failed   error
	nodes    []*one
	byNode   map[ledger.Key]*one
	byCons   map[ledger.Key]*one
	messages []*message

	store    *ledger.Memory
	machine  *ledger.Machine
	auditor  *ledger.Auditor
	height   uint64
	lastAt   int64
	decided  map[ledger.Key]uint64
	pool     [][]byte
	pending  map[ledger.Key]uint64 // nonces of transactions that wait
	blockSeq uint64

	swarms map[swarm.ID][]*one
	ids    []swarm.ID
}

// ErrConfig reports a Config that makes no sense.
var ErrConfig = errors.New("no such simulation")

func (c *Config) check() error {
	for _, bad := range []struct {
		is   bool
		what string
	}{
		{c.Nodes < 4 || c.Nodes > 2000, "4 to 2000 nodes"},
		{c.Hours < 1 || c.Hours > 24*365, "1 to 8760 hours"},
		{c.Messages < 0, "messages"},
		{!(c.Lying >= 0 && c.Lying <= 1), "a share of liars from 0 to 1"},
		{!(c.Drops >= 0) || !(c.Deaths >= 0) || !(c.Leaves >= 0) || !(c.Joins >= 0 && c.Joins <= 10), "rates that are not negative, and at most 10 times as many new nodes a day"},
		{c.Shortest < time.Second || c.Longest < c.Shortest, "outages of a second and more, the longest not shorter than the shortest"},
	} {
		if bad.is {
			return fmt.Errorf("%w: want %s", ErrConfig, bad.what)
		}
	}
	return nil
}

// Run simulates. An error is ErrConfig, or a fault of the ledger: an invariant that
// does not hold.
func Run(cfg Config) (*Report, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	w := &world{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 23)), now: genesisAt, start: genesisAt + warmUp,
		report: &Report{Config: cfg}, byNode: make(map[ledger.Key]*one), byCons: make(map[ledger.Key]*one),
		store: new(ledger.Memory), pending: make(map[ledger.Key]uint64), lastAt: genesisAt,
	}
	w.machine = ledger.New(w.store)
	if err := w.genesis(); err != nil {
		return nil, err
	}
	for w.now < w.start && w.failed == nil { // nobody does anything yet
		w.now += 1800
		w.block()
	}
	w.plan()
	end := w.start + int64(cfg.Hours)*3600
	for len(w.queue) > 0 && w.failed == nil {
		e := heap.Pop(&w.queue).(event)
		if e.at > end {
			break
		}
		w.now = e.at
		w.report.Events++
		e.do()
	}
	if w.failed != nil {
		return nil, fmt.Errorf("after %v, block %d: %w", time.Duration(w.now-w.start)*time.Second, w.height, w.failed)
	}
	w.finish()
	return w.report, nil
}

func (w *world) at(when int64, do func()) {
	w.seq++
	heap.Push(&w.queue, event{when, w.seq, do})
}

// exponential is a time until something that happens so often a day.
func (w *world) exponential(perDay float64) int64 {
	return 1 + int64(w.rng.ExpFloat64()/perDay*86400)
}

func key(purpose string, index int, seed uint64) *keys.Pair {
	return keys.FromSeed(sha256.Sum256(fmt.Appendf(nil, "simulation %s %d %d", purpose, index, seed)))
}

func (w *world) newNode(lying bool) *one {
	i := len(w.nodes)
	n := &one{index: i, node: key("node", i, w.cfg.Seed), cons: key("consensus", i, w.cfg.Seed), wallet: key("wallet", i, w.cfg.Seed), lying: lying, since: w.now}
	n.beacon = vrf.FromSeed(sha256.Sum256(fmt.Appendf(nil, "simulation beacon %d %d", i, w.cfg.Seed)))
	w.nodes = append(w.nodes, n)
	w.byNode[n.node.Ed25519()], w.byCons[n.cons.Ed25519()] = n, n
	return n
}

func endpoint(i int) ledger.Endpoint {
	return ledger.Endpoint{IP: netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 1}), HTTPS: 22021, Ledger: 22022, Version: [3]uint8{2, 8, 0}}
}

func (w *world) genesis() error {
	g := &ledger.Genesis{Chain: chainID, Time: genesisAt, Params: w.cfg.Params, Pool: 40_000_000 * ledger.Coin}
	for i := range w.cfg.Nodes {
		n := w.newNode(float64(i) < w.cfg.Lying*float64(w.cfg.Nodes))
		g.Nodes = append(g.Nodes, ledger.GenesisNode{
			Node: ledger.HexKey(n.node.Ed25519()), Consensus: ledger.HexKey(n.cons.Ed25519()), Beacon: ledger.HexKey(n.beacon.Public()),
			Operator: ledger.HexKey(n.wallet.Ed25519()), Endpoint: ledger.GenesisEndpoint(endpoint(i)),
		})
		n.begin = ledger.Coin // for fees
		g.Accounts = append(g.Accounts, ledger.GenesisAccount{Address: ledger.HexKey(n.wallet.Ed25519()), Balance: n.begin})
	}
	// Those who may join have the coins for it.
	for range int(w.cfg.Joins*float64(w.cfg.Nodes)*float64(w.cfg.Hours)/24*2) + 5 {
		n := w.newNode(false)
		n.begin = w.cfg.Params.Requirement + ledger.Coin
		g.Accounts = append(g.Accounts, ledger.GenesisAccount{Address: ledger.HexKey(n.wallet.Ed25519()), Balance: n.begin})
	}
	members, err := w.machine.Start(g)
	if err != nil {
		return err
	}
	w.auditor = ledger.NewAuditor(members)
	w.regroup()
	return nil
}

// plan puts the beginnings of everything into the heap.
func (w *world) plan() {
	end := w.start + int64(w.cfg.Hours)*3600
	for _, n := range w.nodes[:w.cfg.Nodes] {
		w.live(n)
	}
	joiner := w.cfg.Nodes
	if w.cfg.Joins > 0 {
		for at := w.start + w.exponential(w.cfg.Joins*float64(w.cfg.Nodes)); at < end && joiner < len(w.nodes); at += w.exponential(w.cfg.Joins * float64(w.cfg.Nodes)) {
			n := w.nodes[joiner]
			joiner++
			w.at(at, func() { w.join(n) })
		}
	}
	for range w.cfg.Messages {
		m := &message{position: w.rng.Uint64()}
		w.messages = append(w.messages, m)
		w.at(w.start+w.rng.Int64N(max((end-w.start)/2, 1)), func() { w.keep(m) })
	}
	slot := int64(w.cfg.Params.Slot)
	var vote func()
	vote = func() { w.vote(); w.at(w.now+slot, vote) }
	w.at(w.start+slot/2, vote)
	var sample func()
	sample = func() { w.sample(); w.at(w.now+sampling, sample) }
	w.at(w.start, sample)
	w.nextBlock(idle)
}

// live plans a node's troubles.
func (w *world) live(n *one) {
	if !n.lying {
		if w.cfg.Drops > 0 {
			w.at(w.now+w.exponential(w.cfg.Drops), func() { w.drop(n) })
		}
		if w.cfg.Deaths > 0 {
			w.at(w.now+w.exponential(w.cfg.Deaths), func() {
				if !n.offline {
					w.disappear(n)
				}
				n.dead = true
			})
		}
	}
	if w.cfg.Leaves > 0 {
		w.at(w.now+w.exponential(w.cfg.Leaves), func() {
			if !n.asked && !n.removed {
				n.asked = true
				w.submit(n.wallet, feeOfTx, &ledger.RequestUnlock{Node: n.node.Ed25519()})
				n.cost += feeOfTx
				w.report.Left++
			}
		})
	}
}

func (w *world) disappear(n *one) {
	n.offline, n.since, n.gone = true, w.now, w.now
	n.outage++
}

func (w *world) drop(n *one) {
	if !n.offline {
		w.disappear(n)
		shortest, longest := w.cfg.Shortest.Seconds(), w.cfg.Longest.Seconds()
		length := int64(shortest * math.Pow(longest/shortest, w.rng.Float64()))
		w.report.Drops++
		outage := n.outage
		if length <= 3600 {
			w.report.ShortDrops++
		}
		w.at(w.now+length, func() {
			if n.dead || n.outage != outage {
				return
			}
			n.offline, n.since = false, w.now
			if length <= 3600 && n.demotedIn == outage {
				w.report.ShortDemoted++
			}
			w.sync()
		})
	}
	w.at(w.now+w.exponential(w.cfg.Drops), func() { w.drop(n) })
}

func (w *world) join(n *one) {
	body := &ledger.Register{
		Beacon: n.beacon.Public(), Endpoint: endpoint(n.index),
		Shares: []ledger.Share{{Staker: n.wallet.Ed25519(), Beneficiary: n.wallet.Ed25519(), Amount: w.cfg.Params.Requirement}},
	}
	body.SignNode(chainID, n.wallet.Ed25519(), n.node, n.cons)
	n.since = w.now
	w.submit(n.wallet, feeOfTx, body)
	n.cost += feeOfTx
	w.report.Joined++
	w.live(n)
}

// submit puts a transaction where the next proposer finds it.
func (w *world) submit(signer *keys.Pair, fee uint64, body ledger.Body) {
	who := signer.Ed25519()
	nonce, waits := w.pending[who]
	if !waits {
		nonce = w.machine.View().Account(who).Nonce
	}
	tx := &ledger.Tx{Chain: chainID, Nonce: nonce, Fee: fee, Body: body}
	tx.Sign(signer)
	raw, err := tx.Encode()
	if err != nil {
		w.fail(err)
		return
	}
	w.pending[who] = nonce + 1
	w.pool = append(w.pool, raw)
	w.report.TxBytes += len(raw)
	w.nextBlock(max(busy-(w.now-w.lastAt), 1))
}

func (w *world) fail(err error) {
	if w.failed == nil && err != nil {
		w.failed = err
	}
}

// nextBlock plans a block; a later call replaces the plan.
func (w *world) nextBlock(after int64) {
	w.blockSeq++
	mine := w.blockSeq
	w.at(w.now+after, func() {
		if mine == w.blockSeq {
			w.block()
		}
	})
}

// block is what the committee decides, when enough of it is there.
func (w *world) block() {
	deciding := w.auditor.Deciding(w.height + 1)
	var online []ledger.Key
	for _, k := range sorted(deciding) {
		if !w.byCons[k].offline {
			online = append(online, k)
		}
	}
	if 3*len(online) <= 2*len(deciding) {
		w.report.Halted += halfBlock * time.Second
		w.nextBlock(halfBlock)
		return
	}
	w.height++
	b := &ledger.Block{Height: w.height, Time: time.Unix(w.now, 0), Proposer: online[w.rng.IntN(len(online))], Txs: w.pool}
	for _, k := range sorted(w.decided) {
		b.Signers = append(b.Signers, ledger.Presence{Consensus: k, Absent: w.byCons[k].offline})
	}
	w.decided = deciding
	txs, err := w.machine.Fill(b, w.byCons[b.Proposer].beacon, 256<<10, 4)
	if err != nil {
		w.fail(err)
		return
	}
	b.Txs, w.pool = txs, nil
	clear(w.pending)
	r, err := w.machine.Execute(b)
	if err == nil {
		err = w.auditor.Check(b, r, w.machine.View())
	}
	if err != nil {
		w.fail(err)
		return
	}
	for i, raw := range b.Txs {
		if tx, err := ledger.DecodeTx(raw); err == nil && r.Refused[i] == nil {
			w.note(tx)
		}
	}
	w.report.Blocks++
	w.lastAt = w.now
	if r.List {
		w.report.Lists++
		w.regroup()
		w.sync()
	}
	w.nextBlock(idle)
}

// note counts what happened to nodes.
func (w *world) note(tx *ledger.Tx) {
	b, ok := tx.Body.(*ledger.StateChange)
	if !ok {
		return
	}
	n := w.byNode[b.Node]
	s := &w.report.Honest
	if n.lying {
		s = &w.report.Liar
	}
	switch b.Verdict {
	case ledger.Decommission:
		s.Demoted++
		n.demotedIn = n.outage
		if !n.offline {
			s.Undeserved++
		}
	case ledger.Recommission:
		s.Returned++
	case ledger.Deregister:
		s.Removed++
		s.Locked += w.cfg.Params.Requirement
		n.removed = true
		if !n.offline {
			s.Undeserved++
		}
	}
}

func sorted(m map[ledger.Key]uint64) []ledger.Key {
	all := make([]ledger.Key, 0, len(m))
	for k := range m {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b ledger.Key) int { return slices.Compare(a[:], b[:]) })
	return all
}

// luck is a number from 0 to 1 that belongs to a tester, a node and an outage.
func (w *world) luck(purpose byte, tester, node *one) float64 {
	var b [1 + 8*4]byte
	b[0] = purpose
	binary.BigEndian.PutUint64(b[1:], w.cfg.Seed)
	binary.BigEndian.PutUint64(b[9:], uint64(tester.index))
	binary.BigEndian.PutUint64(b[17:], uint64(node.index))
	binary.BigEndian.PutUint64(b[25:], node.outage)
	sum := sha256.Sum256(b[:])
	return float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)
}

// round is how long a tester needs to ask every other node once.
func (w *world) round() float64 { return float64(testEvery * len(w.nodes[:w.cfg.Nodes])) }

// noticed is when a tester saw that the node was gone.
func (w *world) noticed(tester, node *one) int64 {
	return node.gone + int64(w.luck('g', tester, node)*w.round())
}

// sees is what a tester's tests say about a node that is in its state since.
func (w *world) sees(tester, node *one, since int64) (gone, back bool) {
	if node.outage == 0 {
		return false, w.now >= since+int64(w.luck('r', tester, node)*w.round())
	}
	noticed := w.noticed(tester, node)
	if node.offline {
		return w.now >= noticed+int64(peertest.UnreachableAfter/time.Second), false
	}
	if noticed < node.since { // it failed here, and is tested again soon
		return false, w.now >= max(node.since, since)+int64(w.luck('b', tester, node)*retest)
	}
	return false, w.now >= since+int64(w.luck('r', tester, node)*w.round())
}

// vote is one slot of the testers.
func (w *world) vote() {
	v := w.machine.View()
	c := v.Chain()
	slot := c.Slot(time.Unix(w.now, 0))
	general := v.Testers(slot, ledger.Key{})
	for _, k := range v.Subjects(slot) {
		n, _ := v.Node(k)
		x := w.byNode[k]
		if int64(slot*c.Params.Slot) < n.Since {
			continue
		}
		drawn := general
		if slices.Contains(general, k) {
			drawn = v.Testers(slot, k)
		}
		by := make(map[ledger.Verdict][]int)
		for place, t := range drawn {
			tester := w.byNode[t]
			if tester.offline {
				continue
			}
			gone, back := w.sees(tester, x, n.Since)
			if tester.lying {
				gone, back = !x.lying, x.lying
			}
			if verdict, ok := n.Deserves(&c.Params, w.now, gone, back); ok {
				by[verdict] = append(by[verdict], place)
			}
		}
		for _, verdict := range []ledger.Verdict{ledger.Deregister, ledger.Decommission, ledger.Recommission} {
			places := by[verdict]
			if needed := ledger.VotesNeeded(len(drawn)); needed == 0 || len(places) < needed {
				continue
			}
			body := &ledger.StateChange{Node: k, Verdict: verdict, Slot: slot}
			for _, place := range places {
				body.Votes = append(body.Votes, ledger.SignVote(chainID, w.byNode[drawn[place]].node, uint8(place), k, verdict, slot, 1<<3))
			}
			w.submit(w.byNode[drawn[places[0]]].node, 0, body)
			break
		}
	}
	w.fail(v.Err())
}

// regroup takes over the swarms of the newest state.
func (w *world) regroup() {
	v := w.machine.View()
	w.swarms = make(map[swarm.ID][]*one)
	w.ids = w.ids[:0]
	for id, members := range v.Swarms() {
		for _, k := range members {
			w.swarms[id] = append(w.swarms[id], w.byNode[k])
		}
		w.ids = append(w.ids, id)
	}
	slices.Sort(w.ids)
	w.fail(v.Err())
}

// members are those who should have a message.
func (w *world) members(m *message) []*one {
	id, ok := swarm.For(m.position, w.ids)
	if !ok {
		return nil
	}
	return w.swarms[id]
}

func (n *one) works() bool { return !n.offline && !n.lying }

// keep stores a new message at all members that are there.
func (w *world) keep(m *message) {
	m.stored = true
	for _, n := range w.members(m) {
		if n.works() {
			m.holders = append(m.holders, n)
		}
	}
}

// sync lets members of each swarm give each other what they lack, and those who
// are no members any more give what they have and forget it (package replica).
func (w *world) sync() {
	for _, m := range w.messages {
		if !m.stored || !slices.ContainsFunc(m.holders, (*one).works) {
			continue
		}
		members := w.members(m)
		got := false
		for _, n := range members {
			if n.works() {
				got = true
				if !slices.Contains(m.holders, n) {
					m.holders = append(m.holders, n)
				}
			}
		}
		if got {
			m.holders = slices.DeleteFunc(m.holders, func(n *one) bool { return !n.offline && !slices.Contains(members, n) })
		}
	}
}

func (w *world) sample() {
	w.sync()
	s := Sample{At: time.Duration(w.now-w.start) * time.Second, Swarms: len(w.ids), Working: math.MaxInt}
	for _, n := range w.machine.View().Nodes() {
		switch n.Status {
		case ledger.Active:
			s.Active++
		case ledger.Decommissioned, ledger.Waiting:
			s.Out++
		default:
			continue
		}
		if !w.byNode[n.Key].offline {
			s.Online++
		}
	}
	var sizes []int
	for _, id := range w.ids {
		working := 0
		for _, n := range w.swarms[id] {
			if n.works() {
				working++
			}
		}
		s.Working = min(s.Working, working)
		sizes = append(sizes, len(w.swarms[id]))
	}
	slices.Sort(sizes)
	if len(sizes) > 0 {
		s.Smallest, s.Median, s.Largest = sizes[0], sizes[len(sizes)/2], sizes[len(sizes)-1]
	}
	stored, kept, first, lost := 0, 0, 0, 0
	for _, m := range w.messages {
		if !m.stored {
			continue
		}
		stored++
		members := w.members(m)
		if slices.ContainsFunc(members, func(n *one) bool { return n.works() && slices.Contains(m.holders, n) }) {
			kept++
		}
		if len(members) > 0 {
			if n := members[w.rng.IntN(len(members))]; n.works() && slices.Contains(m.holders, n) {
				first++
			}
		}
		if !slices.ContainsFunc(m.holders, func(n *one) bool { return !n.dead }) {
			lost++
		}
	}
	share := func(n int) float64 { return float64(n) / float64(max(stored, 1)) }
	s.Kept, s.FirstTry, s.Lost = share(kept), share(first), share(lost)
	if stored == 0 {
		s.Kept, s.FirstTry = 1, 1
	}
	w.report.Samples = append(w.report.Samples, s)
}

// finish adds up stakes and rewards.
func (w *world) finish() {
	v := w.machine.View()
	c := v.Chain()
	r := w.report
	r.Honest.WorstCredit, r.Liar.WorstCredit = math.MaxInt64, math.MaxInt64
	for _, n := range v.Nodes() {
		x := w.byNode[n.Key]
		s := &r.Honest
		if x.lying {
			s = &r.Liar
		}
		s.Nodes++
		s.Staked += n.Stake()
		s.Earned += v.Account(x.wallet.Ed25519()).Balance + x.cost - x.begin + v.Pending(n, w.now)
		if x.index >= w.cfg.Nodes {
			s.Earned += n.Stake()
		}
		if n.Status == ledger.Active {
			s.WorstCredit = min(s.WorstCredit, time.Duration(n.CreditAt(&c.Params, w.now))*time.Second)
		}
	}
	w.fail(v.Err())
	last := r.Samples[len(r.Samples)-1]
	for _, share := range []float64{0.05, 0.10, 0.15, 0.20, 0.25, 0.33, 0.40, 0.50} {
		r.Paths = append(r.Paths, chances(last.Active, last.Median, int(c.Params.Committee), share, c.Params.Requirement))
	}
	var all []*one
	for _, id := range w.ids {
		all = append(all, w.swarms[id]...)
	}
	const draws = 200_000
	bad := 0
	for range draws {
		a, b, c := all[w.rng.IntN(len(all))], all[w.rng.IntN(len(all))], all[w.rng.IntN(len(all))]
		if a != b && b != c && a != c && a.lying && b.lying && c.lying {
			bad++
		}
	}
	r.PathSampled = float64(bad) / draws
}
