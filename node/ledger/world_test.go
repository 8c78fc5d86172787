package ledger

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"hearth/node/keys"
	"hearth/node/ledger/vrf"
)

// identity is one node's keys and the account that runs it.
type identity struct {
	node, consensus *keys.Pair
	beacon          *vrf.Secret
	operator        *keys.Pair
	offline         bool
}

// world makes blocks for a ledger: everybody in it, and what they do.
type world struct {
	t        testing.TB
	rng      *rand.Rand
	genesis  *Genesis
	accounts []*keys.Pair
	nodes    []*identity
	byNode   map[Key]*identity
	byCons   map[Key]*identity
	byAddr   map[Address]*keys.Pair

	store   *Memory
	machine *Machine
	auditor *Auditor
	height  uint64
	now     int64
	last    map[Key]uint64 // who decided on the last block
	nonces  map[Address]uint64
	done    map[string]int
}

func pair(purpose string, i int) *keys.Pair {
	var seed [32]byte
	copy(seed[:], purpose)
	binary.BigEndian.PutUint32(seed[28:], uint32(i))
	return keys.FromSeed(seed)
}

const testStart = 1_800_000_000

// quickParams let everything happen within some hundred blocks.
func quickParams() Params {
	p := DefaultParams()
	p.Requirement, p.MinFee, p.RewardRate = 1000*Coin, 1000, 1510
	p.Epoch, p.EvidenceAge, p.EvidenceBlocks = 600, 3000, 40
	p.Unlock, p.DeregisterLock, p.Await, p.SmallLock = 4000, 5000, 1500, 2000
	p.PayableAfter, p.EndpointPause = 900, 300
	p.CreditStart, p.CreditPerDay, p.CreditCap, p.CreditLeast = 600, secondsOfDay/4, 4000, 300
	p.AbsentStep, p.AbsentSteps, p.Jail, p.VoteLife = 120, 4, 2000, 1200
	p.SwarmMin, p.SwarmMargin, p.SwarmNew, p.Private = 3, 1, 4, 1
	return p
}

// newWorld has so many nodes from the beginning, and as many again that may join.
func newWorld(t testing.TB, seed uint64, nodes, accounts int, change func(*Genesis)) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 5)), now: testStart, done: make(map[string]int),
		byNode: make(map[Key]*identity), byCons: make(map[Key]*identity), byAddr: make(map[Address]*keys.Pair),
		store: new(Memory), nonces: make(map[Address]uint64),
	}
	w.machine = New(w.store)
	g := &Genesis{Chain: "test-1", Time: testStart, Params: quickParams(), Pool: 1_000_000 * Coin}
	for i := range accounts {
		a := pair("account", i)
		w.accounts, w.byAddr[a.Ed25519()] = append(w.accounts, a), a
		g.Accounts = append(g.Accounts, GenesisAccount{HexKey(a.Ed25519()), 20_000 * Coin})
	}
	for i := range 2 * nodes {
		n := w.newIdentity(i)
		if i < nodes {
			g.Nodes = append(g.Nodes, GenesisNode{
				Node: HexKey(n.node.Ed25519()), Consensus: HexKey(n.consensus.Ed25519()), Beacon: HexKey(n.beacon.Public()),
				Operator: HexKey(n.operator.Ed25519()), Fee: 1000, Endpoint: GenesisEndpoint(endpoint(i)),
			})
		}
	}
	if change != nil {
		change(g)
	}
	w.genesis = g
	first, err := w.machine.Start(g)
	if err != nil {
		t.Fatal(err)
	}
	w.auditor = NewAuditor(first)
	return w
}

func (w *world) newIdentity(i int) *identity {
	n := &identity{node: pair("node", i), consensus: pair("consensus", i), operator: w.accounts[i%len(w.accounts)]}
	n.beacon = vrf.FromSeed(pair("beacon", i).Seed())
	w.nodes = append(w.nodes, n)
	w.byNode[n.node.Ed25519()], w.byCons[n.consensus.Ed25519()] = n, n
	w.byAddr[n.node.Ed25519()] = n.node
	return n
}

func endpoint(i int) Endpoint {
	return Endpoint{IP: netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), HTTPS: 22021, QUIC: 22020, Ledger: 22022, Version: [3]uint8{2, 8, 0}}
}

// sign gives a transaction the next nonce of its signer within the block.
func (w *world) sign(s *keys.Pair, fee uint64, b Body) []byte {
	a := s.Ed25519()
	if _, known := w.nonces[a]; !known {
		w.nonces[a] = w.machine.View().Account(a).Nonce
	}
	t := &Tx{Chain: w.genesis.Chain, Nonce: w.nonces[a], Fee: fee, Body: b}
	w.nonces[a]++
	t.Sign(s)
	raw, err := t.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *world) fee() uint64 { return 10 * w.machine.View().Chain().Params.MinFee }

// block makes the next block with these transactions and plays the engine.
func (w *world) block(after int64, txs ...[]byte) *Block {
	w.height++
	w.now += after
	b := &Block{Height: w.height, Time: time.Unix(w.now, 0)}
	deciding := w.auditor.Deciding(w.height)
	for _, k := range sorted(w.last) {
		b.Signers = append(b.Signers, Presence{k, w.byCons[k].offline})
	}
	w.last = deciding
	proposers := slices.DeleteFunc(sorted(deciding), func(k Key) bool { return w.byCons[k].offline })
	if len(proposers) > 0 {
		b.Proposer = proposers[w.rng.IntN(len(proposers))]
		if c := w.machine.View().Chain(); c.EpochDue(b.Time) && w.rng.IntN(4) > 0 {
			b.Txs = append(b.Txs, BeaconTx(w.byCons[b.Proposer].beacon.Prove(c.SeedMessage())))
		}
	}
	b.Txs = append(b.Txs, txs...)
	clear(w.nonces)
	return b
}

// run executes a block and checks everything.
func (w *world) run(b *Block) *Result {
	w.t.Helper()
	r, err := w.machine.Execute(b)
	if err != nil {
		w.t.Fatalf("block %d: %v", b.Height, err)
	}
	if err := w.auditor.Check(b, r, w.machine.View()); err != nil {
		w.t.Fatalf("block %d: %v", b.Height, err)
	}
	return r
}

// must executes a block with the transactions, which are all accepted.
func (w *world) must(after int64, txs ...[]byte) {
	w.t.Helper()
	b := w.block(after, txs...)
	for i, err := range w.run(b).Refused {
		if err != nil {
			w.t.Fatalf("transaction %d of %d: %v", i, len(b.Txs), err)
		}
	}
}

// pass lets time go by in blocks of at most step seconds.
func (w *world) pass(seconds, step int64) {
	w.t.Helper()
	for seconds > 0 {
		w.run(w.block(min(step, seconds)))
		seconds -= step
	}
}

func (w *world) node(k Key) *Node {
	w.t.Helper()
	n, ok := w.machine.View().Node(k)
	if !ok {
		w.t.Fatalf("node %x is gone", k[:4])
	}
	return n
}

// registration is by the node's own operator.
func (w *world) registration(n *identity, fee uint16, shares ...Share) *Register {
	r := &Register{Beacon: n.beacon.Public(), Fee: fee, Shares: shares, Endpoint: endpoint(slices.Index(w.nodes, n))}
	r.SignNode(w.genesis.Chain, n.operator.Ed25519(), n.node, n.consensus)
	return r
}

// change makes a state change of the present slot with the first votes of its
// testers, nil when there are none.
func (w *world) change(at int64, node Key, v Verdict, votes int) (*StateChange, *keys.Pair) {
	view := w.machine.View()
	c := view.Chain()
	slot := c.Slot(time.Unix(at, 0))
	b := &StateChange{Node: node, Verdict: v, Slot: slot}
	drawn := view.Testers(slot, node)
	for i, k := range drawn[:min(votes, len(drawn))] {
		b.Votes = append(b.Votes, SignVote(w.genesis.Chain, w.byNode[k].node, uint8(i), node, v, slot, 1|uint16(i&1)<<3))
	}
	if len(drawn) == 0 {
		return b, nil
	}
	return b, w.byNode[drawn[0]].node
}

func sorted(m map[Key]uint64) []Key {
	var all []Key
	for k := range m {
		all = append(all, k)
	}
	slices.SortFunc(all, compareKeys)
	return all
}

// random makes a block in which people do what they may, and some what they may
// not.
func (w *world) random() *Block {
	rng, v := w.rng, w.machine.View()
	after := int64(1 + rng.IntN(60))
	if rng.IntN(500) == 0 {
		after += int64(rng.IntN(4000))
	}
	if rng.IntN(20) == 0 {
		n := w.nodes[rng.IntN(len(w.nodes))]
		n.offline = rng.IntN(6) == 0
	}
	at := w.now + after
	var txs [][]byte
	for range rng.IntN(4) {
		raw := w.randomTx(v, at)
		if raw == nil {
			continue
		}
		switch rng.IntN(12) {
		case 0:
			raw = slices.Clone(raw)
			raw[rng.IntN(len(raw))] ^= 1 << rng.IntN(8)
		case 1:
			txs = append(txs, raw) // and again
		case 2:
			raw = raw[:rng.IntN(len(raw))]
		}
		txs = append(txs, raw)
	}
	b := w.block(after, txs...)
	if rng.IntN(400) == 0 {
		n := w.nodes[rng.IntN(len(w.nodes))]
		b.Evidence = append(b.Evidence, n.consensus.Ed25519(), n.consensus.Ed25519())
	}
	return b
}

func (w *world) randomTx(v *View, at int64) []byte {
	rng := w.rng
	someone := func() *keys.Pair { return w.accounts[rng.IntN(len(w.accounts))] }
	n := w.nodes[rng.IntN(len(w.nodes))]
	record, known := v.Node(n.node.Ed25519())
	fee := w.fee()
	switch rng.IntN(10) {
	case 0:
		return w.sign(someone(), fee, &Transfer{someone().Ed25519(), rng.Uint64N(50 * Coin)})
	case 1, 2:
		if known {
			break
		}
		if v.Barred(n.consensus.Ed25519()) { // for good: the operator makes another key
			n.consensus = pair("consensus again", rng.IntN(1<<30))
			w.byCons[n.consensus.Ed25519()] = n
		}
		need := v.Chain().Params.Requirement
		shares := []Share{{n.operator.Ed25519(), someone().Ed25519(), need}}
		if rng.IntN(2) == 0 {
			shares[0].Amount = need/4 + 1 + rng.Uint64N(need/2)
			if rng.IntN(2) == 0 {
				if s := someone(); s != n.operator {
					shares = append(shares, Share{s.Ed25519(), s.Ed25519(), (need - shares[0].Amount) / 2})
				}
			}
		}
		return w.sign(n.operator, fee, w.registration(n, uint16(rng.IntN(MaxFeeBasis+1)), shares...))
	case 3, 4, 5:
		if !known {
			break
		}
		switch record.Status {
		case Awaiting:
			s, amount := someone(), record.Least()
			for _, o := range record.Contributors {
				if o.Reserved > 0 {
					s, amount = w.byAddr[o.Staker], o.Reserved
				}
			}
			if rng.IntN(2) == 0 {
				amount = max(record.open(), amount)
			}
			return w.sign(s, fee, &AddStake{n.node.Ed25519(), someone().Ed25519(), amount})
		default:
			if rng.IntN(8) == 0 {
				o := record.Contributors[rng.IntN(len(record.Contributors))]
				return w.sign(w.byAddr[o.Staker], fee, &RequestUnlock{n.node.Ed25519()})
			}
		}
	case 6:
		e := endpoint(rng.IntN(1000))
		if rng.IntN(2) == 0 {
			return w.sign(n.node, 0, &ChangeEndpoint{n.node.Ed25519(), e})
		}
		return w.sign(n.operator, fee, &ChangeEndpoint{n.node.Ed25519(), e})
	case 7, 8:
		if !known {
			break
		}
		verdict := Verdict(rng.IntN(3))
		if record.Status == Active && rng.IntN(3) > 0 {
			break // else nobody would stay
		}
		b, by := w.change(at, n.node.Ed25519(), verdict, 7+rng.IntN(4))
		if by == nil {
			break
		}
		return w.sign(by, 0, b)
	case 9:
		if known && rng.IntN(2) == 0 {
			o := record.Contributors[rng.IntN(len(record.Contributors))]
			return w.sign(w.byAddr[o.Staker], fee, &Claim{n.node.Ed25519()})
		}
		if rng.IntN(10) > 0 {
			break
		}
		p := parameters[rng.IntN(6)]
		c := v.Chain()
		value := *p.of(&c.Params)
		value += rng.Uint64N(value/2+2) - value/4
		if p.name == "requirement" { // as long as the accounts can pay it
			value = min(value, 2000*Coin)
		}
		if p.name == "committee" {
			value = min(value, 12)
		}
		return w.sign(someone(), fee, w.vote(p.name, value, MaxCommittee))
	}
	return nil
}

func (w *world) vote(name string, value uint64, votes int) *ParameterChange {
	v := w.machine.View()
	b := &ParameterChange{Name: name, Value: value, Serial: v.Chain().Serial}
	for i, m := range v.Committee() {
		if i < votes {
			b.Votes = append(b.Votes, SignParameter(w.genesis.Chain, w.byNode[m.Node].node, uint8(i), name, value, b.Serial))
		}
	}
	return b
}

// count notes what a block did.
func (w *world) count(b *Block, r *Result) {
	for i, raw := range b.Txs {
		name := "seed"
		if t, err := DecodeTx(raw); err == nil {
			name = fmt.Sprintf("%T", t.Body)
			if s, ok := t.Body.(*StateChange); ok {
				name = s.Verdict.String()
			}
		} else if _, ok := beaconOf(raw); !ok {
			name = "bytes"
		}
		if r.Refused[i] == nil {
			w.done[name]++
		} else {
			w.done[fmt.Sprintf("refused %d", Code(r.Refused[i]))]++
		}
	}
	if r.Epoch {
		w.done["epochs"]++
	}
	if r.List {
		w.done["lists"]++
	}
	w.done["updates"] += len(r.Updates)
}
