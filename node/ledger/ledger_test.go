package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/node/keys"
	"hearth/node/swarm"
)

func TestWhatIsRefusedLeavesTheStateUntouched(t *testing.T) {
	w := newWorld(t, 1, 6, 20, func(g *Genesis) { g.Params.Private = 0; publish(g) })
	alice, bob, joiner := w.accounts[0], w.accounts[1], w.nodes[8]
	need := w.genesis.Params.Requirement
	mine := func() Share { return Share{joiner.operator.Ed25519(), joiner.operator.Ed25519(), need} }
	there := Endpoint{IP: netip.MustParseAddr("203.0.113.9"), HTTPS: 1}
	registration := func(change func(*Register)) *Register {
		r := &Register{Beacon: joiner.beacon.Public(), Shares: []Share{mine()}, Endpoint: there}
		r.Node, r.Consensus = joiner.node.Ed25519(), joiner.consensus.Ed25519()
		change(r)
		node, consensus := joiner.node, joiner.consensus
		if r.Node == r.Consensus {
			consensus = node
		}
		r.SignNode(w.genesis.Chain, joiner.operator.Ed25519(), node, consensus)
		return r
	}
	// A node that waits for contributors, and time for addresses to change.
	open := w.nodes[9]
	half := registration(func(r *Register) {})
	half.Shares = []Share{{open.operator.Ed25519(), open.operator.Ed25519(), need / 2}, {bob.Ed25519(), bob.Ed25519(), need / 5}}
	half.Beacon, half.Endpoint = open.beacon.Public(), there
	half.SignNode(w.genesis.Chain, open.operator.Ed25519(), open.node, open.consensus)
	w.must(400, w.sign(open.operator, w.fee(), half))
	old := w.nodes[0]
	at := w.now + 10

	fee := w.fee()
	signed := func(s *keys.Pair, fee uint64, b Body) func() []byte {
		return func() []byte { clear(w.nonces); return w.sign(s, fee, b) }
	}
	edited := func(edit func(*Tx)) func() []byte {
		return func() []byte {
			x := &Tx{Chain: w.genesis.Chain, Fee: fee, Body: &Transfer{bob.Ed25519(), 1}}
			edit(x)
			x.Sign(alice)
			raw, err := x.Encode()
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
	}
	bytesOf := func(edit func([]byte) []byte) func() []byte {
		return func() []byte { return edit(signed(alice, fee, &Transfer{bob.Ed25519(), 1})()) }
	}
	change := func(edit func(*StateChange)) func() []byte {
		return func() []byte {
			b, by := w.change(at, old.node.Ed25519(), Decommission, 10)
			edit(b)
			return signed(by, 0, b)()
		}
	}
	for _, c := range []struct {
		name string
		raw  func() []byte
		err  error
	}{
		{"nothing", func() []byte { return nil }, ErrMalformed},
		{"a byte too many", bytesOf(func(b []byte) []byte { return append(b, 0) }), ErrMalformed},
		{"a byte too few", bytesOf(func(b []byte) []byte { return b[:len(b)-1] }), ErrMalformed},
		{"another version", bytesOf(func(b []byte) []byte { b[0] = 2; return b }), ErrMalformed},
		{"an unknown kind", bytesOf(func(b []byte) []byte { b[1] = 99; return b }), ErrMalformed},
		{"a number in a longer form", bytesOf(func(b []byte) []byte {
			i := 3 + len(w.genesis.Chain) + 32 // the nonce, 0
			return slices.Concat(b[:i], []byte{0x80, 0}, b[i+1:])
		}), ErrMalformed},
		{"a negative amount", bytesOf(func(b []byte) []byte { // -1 as two's complement is a number beyond the supply
			i := len(b) - 65
			return slices.Concat(b[:i], bytes.Repeat([]byte{0xff}, 9), []byte{1}, b[i+1:])
		}), ErrSignature},
		{"seventeen kilobytes", func() []byte { return make([]byte, 17<<10) }, ErrOversized},
		{"a foreign chain", edited(func(x *Tx) { x.Chain = "test-2" }), ErrChain},
		{"no chain", edited(func(x *Tx) { x.Chain = "" }), ErrChain},
		{"a nonce of the future", edited(func(x *Tx) { x.Nonce = 1 }), ErrNonce},
		{"the largest nonce", edited(func(x *Tx) { x.Nonce = math.MaxUint64 }), ErrNonce},
		{"no fee", edited(func(x *Tx) { x.Fee = 0 }), ErrFee},
		{"a fee of one unit less", edited(func(x *Tx) { x.Fee = w.genesis.Params.MinFee - 1 }), ErrFee},
		{"a fee beyond the balance", edited(func(x *Tx) { x.Fee = math.MaxUint64 }), ErrFunds},
		{"a changed signature", bytesOf(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), ErrSignature},
		{"a changed amount", bytesOf(func(b []byte) []byte { b[len(b)-65] ^= 1; return b }), ErrSignature},
		{"another's account", bytesOf(func(b []byte) []byte {
			k := bob.Ed25519()
			copy(b[3+len(w.genesis.Chain):], k[:])
			return b
		}), ErrSignature},

		{"a transfer of nothing", signed(alice, fee, &Transfer{bob.Ed25519(), 0}), ErrAmount},
		{"a transfer of one unit too much", signed(alice, fee, &Transfer{bob.Ed25519(), w.machine.View().Account(alice.Ed25519()).Balance - fee + 1}), ErrFunds},
		{"a transfer that overflows", signed(alice, fee, &Transfer{bob.Ed25519(), math.MaxUint64}), ErrFunds},

		{"a registration without shares", signed(joiner.operator, fee, registration(func(r *Register) { r.Shares = nil })), ErrNotYours},
		{"a registration by a stranger", signed(w.accounts[9], fee, registration(func(r *Register) {})), ErrNotYours},
		{"a stake of one unit too little", signed(joiner.operator, fee, registration(func(r *Register) { r.Shares[0].Amount = need/4 - 1 })), ErrAmount},
		{"a stake of one unit too much", signed(joiner.operator, fee, registration(func(r *Register) { r.Shares[0].Amount = need + 1 })), ErrAmount},
		{"a stake that overflows", signed(joiner.operator, fee, registration(func(r *Register) {
			r.Shares = append(r.Shares, Share{Staker: bob.Ed25519(), Amount: math.MaxUint64})
			r.Shares[0].Amount = need / 2
		})), ErrAmount},
		{"a reserved share below an equal part", signed(joiner.operator, fee, registration(func(r *Register) {
			r.Shares[0].Amount = need / 2
			r.Shares = append(r.Shares, Share{Staker: bob.Ed25519(), Amount: need/2/9 - 1})
		})), ErrAmount},
		{"one staker twice", signed(joiner.operator, fee, registration(func(r *Register) {
			r.Shares[0].Amount = need / 2
			r.Shares = append(r.Shares, r.Shares[0])
		})), ErrTaken},
		{"eleven contributors", func() []byte {
			x := &Tx{Chain: w.genesis.Chain, Fee: fee, Body: registration(func(r *Register) {})}
			x.Body.(*Register).Shares = make([]Share, 11)
			x.Signer = joiner.operator.Ed25519()
			raw, err := x.Encode()
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("encoding eleven shares: %v", err)
			}
			return raw
		}, ErrMalformed},
		{"a fee above everything", signed(joiner.operator, fee, registration(func(r *Register) { r.Fee = 10_001 })), ErrAmount},
		{"a private address", signed(joiner.operator, fee, registration(func(r *Register) { r.Endpoint.IP = netip.MustParseAddr("192.168.1.2") })), ErrEndpoint},
		{"no port", signed(joiner.operator, fee, registration(func(r *Register) { r.Endpoint.HTTPS = 0 })), ErrEndpoint},
		{"one key for two purposes", signed(joiner.operator, fee, registration(func(r *Register) { r.Consensus = r.Node })), ErrTaken},
		{"a beacon key that is none", signed(joiner.operator, fee, registration(func(r *Register) { r.Beacon = Key{1} })), ErrSignature},
		{"a node key that is none", func() []byte {
			r := registration(func(r *Register) {})
			r.Node = Key{1}
			return signed(joiner.operator, fee, r)()
		}, ErrSignature},
		{"a node that did not sign", func() []byte {
			r := registration(func(r *Register) {})
			r.NodeSignature[3] ^= 1
			return signed(joiner.operator, fee, r)()
		}, ErrSignature},
		{"a consensus key that did not sign", func() []byte {
			r := registration(func(r *Register) {})
			r.ConsensusSignature[3] ^= 1
			return signed(joiner.operator, fee, r)()
		}, ErrSignature},
		{"a node signature for another operator", func() []byte {
			r := registration(func(r *Register) {})
			r.SignNode(w.genesis.Chain, alice.Ed25519(), joiner.node, joiner.consensus)
			return signed(joiner.operator, fee, r)()
		}, ErrSignature},
		{"a node signature for another chain", func() []byte {
			r := registration(func(r *Register) {})
			r.SignNode("test-2", joiner.operator.Ed25519(), joiner.node, joiner.consensus)
			return signed(joiner.operator, fee, r)()
		}, ErrSignature},
		{"a node that is registered", func() []byte {
			r := registration(func(r *Register) {})
			r.SignNode(w.genesis.Chain, joiner.operator.Ed25519(), old.node, joiner.consensus)
			return signed(joiner.operator, fee, r)()
		}, ErrTaken},
		{"a consensus key that is registered", func() []byte {
			r := registration(func(r *Register) {})
			r.SignNode(w.genesis.Chain, joiner.operator.Ed25519(), joiner.node, old.consensus)
			return signed(joiner.operator, fee, r)()
		}, ErrTaken},

		{"stake for nobody", signed(alice, fee, &AddStake{Node: Key{1}, Amount: need}), ErrUnknown},
		{"stake for an active node", signed(alice, fee, &AddStake{Node: old.node.Ed25519(), Amount: need}), ErrStatus},
		{"less than what is reserved", signed(bob, fee, &AddStake{Node: open.node.Ed25519(), Amount: need/5 - 1}), ErrAmount},
		{"more than there is room", signed(bob, fee, &AddStake{Node: open.node.Ed25519(), Amount: need/2 + 1}), ErrAmount},
		{"what is reserved for another", signed(alice, fee, &AddStake{Node: open.node.Ed25519(), Amount: need/2 - need/5 + 1}), ErrAmount},
		{"a top-up of nothing", signed(open.operator, fee, &AddStake{Node: open.node.Ed25519()}), ErrAmount},
		{"calling off by a reserved contributor", signed(bob, fee, &RequestUnlock{open.node.Ed25519()}), ErrNotYours},

		{"an unlock by a stranger", signed(w.accounts[15], fee, &RequestUnlock{old.node.Ed25519()}), ErrNotYours},
		{"an unlock of nothing", signed(alice, fee, &RequestUnlock{Key{1}}), ErrUnknown},
		{"a claim by a stranger", signed(w.accounts[15], fee, &Claim{old.node.Ed25519()}), ErrNotYours},
		{"a claim of nothing", signed(old.operator, fee, &Claim{old.node.Ed25519()}), ErrTooSoon},
		{"an address by a stranger", signed(w.accounts[15], fee, &ChangeEndpoint{old.node.Ed25519(), there}), ErrNotYours},
		{"another node's address without a fee", signed(w.nodes[1].node, 0, &ChangeEndpoint{old.node.Ed25519(), there}), ErrFee},
		{"the same address", signed(old.node, 0, &ChangeEndpoint{old.node.Ed25519(), w.node(old.node.Ed25519()).Endpoint}), ErrStatus},
		{"a multicast address", signed(old.node, 0, &ChangeEndpoint{old.node.Ed25519(), Endpoint{IP: netip.MustParseAddr("224.0.0.1"), HTTPS: 1}}), ErrEndpoint},

		{"too few votes", change(func(b *StateChange) { b.Votes = b.Votes[:3] }), ErrVotes},
		{"a vote twice", change(func(b *StateChange) { b.Votes[1] = b.Votes[0] }), ErrVotes},
		{"a vote of nobody", change(func(b *StateChange) { b.Votes[4].Tester = 9 }), ErrVotes},
		{"a vote under another's name", change(func(b *StateChange) { b.Votes[3].Signature = b.Votes[2].Signature }), ErrSignature},
		{"changed reasons", change(func(b *StateChange) { b.Votes[3].Reasons ^= 4 }), ErrSignature},
		{"votes for another verdict", change(func(b *StateChange) { b.Verdict = Recommission }), ErrStatus},
		{"votes for another node", change(func(b *StateChange) { b.Node = w.nodes[1].node.Ed25519() }), ErrSignature},
		{"a slot of the future", change(func(b *StateChange) { b.Slot++ }), ErrTooSoon},
		{"the last slot of all", change(func(b *StateChange) { b.Slot = math.MaxUint64 }), ErrTooSoon},
		{"a slot long ago", change(func(b *StateChange) { b.Slot -= 100 }), ErrVotes},
		{"a deregistration of a node with credit", func() []byte {
			b, by := w.change(at, old.node.Ed25519(), Deregister, 10)
			return signed(by, 0, b)()
		}, ErrStatus},
		{"a state change by a stranger", func() []byte {
			b, _ := w.change(at, old.node.Ed25519(), Decommission, 10)
			return signed(alice, fee, b)()
		}, ErrNotYours},
		{"a state change by a stranger without a fee", func() []byte {
			b, _ := w.change(at, old.node.Ed25519(), Decommission, 10)
			return signed(alice, 0, b)()
		}, ErrFee},

		{"a parameter that is none", signed(alice, fee, w.vote("supply", 1, 9)), ErrBounds},
		{"a parameter that cannot be voted on", signed(alice, fee, w.vote("unlock", 8000, 9)), ErrBounds},
		{"a jump of a parameter", signed(alice, fee, w.vote("min_fee", 2001, 9)), ErrBounds},
		{"a slash of more than the operator's quarter", signed(alice, fee, w.vote("slash_rate", 2501, 9)), ErrBounds},
		{"two thirds of the committee", signed(alice, fee, w.vote("min_fee", 1500, 4)), ErrVotes},
		{"a member twice", func() []byte {
			b := w.vote("min_fee", 1500, 5)
			b.Votes[4] = b.Votes[3]
			return signed(alice, fee, b)()
		}, ErrVotes},
		{"a member's vote for another value", func() []byte {
			b := w.vote("min_fee", 1500, 5)
			b.Value = 1600
			return signed(alice, fee, b)()
		}, ErrSignature},
		{"votes of the past", func() []byte {
			b := w.vote("min_fee", 1500, 5)
			b.Serial++
			return signed(alice, fee, b)()
		}, ErrNonce},
	} {
		t.Run(c.name, func(t *testing.T) {
			clear(w.nonces)
			raw := c.raw()
			root := w.store.Root()
			door, err := w.machine.Door(w.height, time.Unix(at, 0))
			if err != nil {
				t.Fatal(err)
			}
			if err := door.Check(raw); !errors.Is(err, c.err) {
				t.Errorf("at the door: %v, want %v", err, c.err)
			}
			if Refusal(Code(c.err)) != c.err {
				t.Errorf("the reason has the code %d, which means %v", Code(c.err), Refusal(Code(c.err)))
			}
			chosen, err := w.machine.Fill(&Block{Height: w.height + 1, Time: time.Unix(at, 0), Txs: [][]byte{raw}}, nil, 1<<20, 0)
			if err != nil || len(chosen) != 0 {
				t.Errorf("proposed: %d, %v", len(chosen), err)
			}
			r, err := w.machine.Execute(&Block{Height: w.height + 1, Time: time.Unix(at, 0), Txs: [][]byte{raw}})
			if err != nil || !errors.Is(r.Refused[0], c.err) {
				t.Errorf("in a block: %v, %v", r.Refused, err)
			}
			if w.store.Root() != root {
				t.Error("the state is another one")
			}
		})
	}
}

// publish gives the nodes addresses of the internet.
func publish(g *Genesis) {
	for i := range g.Nodes {
		g.Nodes[i].Endpoint.IP = netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)})
	}
}

func TestAReplayedTransactionIsRefused(t *testing.T) {
	w := newWorld(t, 1, 5, 10, nil)
	raw := w.sign(w.accounts[0], w.fee(), &Transfer{w.accounts[1].Ed25519(), 7})
	w.must(5, raw)
	b := w.block(5, raw)
	if r := w.run(b); !errors.Is(r.Refused[len(b.Txs)-1], ErrNonce) {
		t.Errorf("got %v", r.Refused)
	}
	// An account that gave everything away does not begin again.
	poor := pair("poor", 0)
	fee := w.fee()
	w.must(5, w.sign(w.accounts[0], fee, &Transfer{poor.Ed25519(), fee + 1}))
	last := w.sign(poor, fee, &Transfer{w.accounts[0].Ed25519(), 1})
	w.must(5, last)
	if a := w.machine.View().Account(poor.Ed25519()); a != (Account{0, 1}) {
		t.Errorf("account %+v", a)
	}
	w.must(5, w.sign(w.accounts[0], fee, &Transfer{poor.Ed25519(), fee + 1}))
	if b := w.block(5, last); !errors.Is(w.run(b).Refused[len(b.Txs)-1], ErrNonce) {
		t.Error("the replay was executed")
	}
}

func TestANodeWithThreeContributorsFromRegistrationToPayout(t *testing.T) {
	w := newWorld(t, 1, 5, 20, nil)
	n, key := w.nodes[7], w.nodes[7].node.Ed25519()
	bob, carol := w.accounts[14], w.accounts[15]
	p := w.genesis.Params
	balance := func(a *keys.Pair) uint64 { return w.machine.View().Account(a.Ed25519()).Balance }
	before := []uint64{balance(n.operator), balance(bob), balance(carol)}
	fee := w.fee()

	w.must(10, w.sign(n.operator, fee, w.registration(n, 1000, Share{n.operator.Ed25519(), n.operator.Ed25519(), 400 * Coin}, Share{bob.Ed25519(), bob.Ed25519(), 350 * Coin})))
	if s := w.node(key); s.Status != Awaiting || s.Least() != (250*Coin+7)/8 {
		t.Fatalf("%v, least %d", s.Status, s.Least())
	}
	beneficiary := pair("beneficiary", 0)
	w.must(10, w.sign(carol, fee, &AddStake{key, beneficiary.Ed25519(), 250 * Coin}))
	w.must(10, w.sign(bob, fee, &AddStake{key, bob.Ed25519(), 350 * Coin}))
	if s := w.node(key); s.Status != Waiting {
		t.Fatalf("%v with all of the stake", s.Status)
	}
	w.pass(int64(2*p.Epoch), 60)
	s := w.node(key)
	if s.Status != Active {
		t.Fatalf("%v after an epoch", s.Status)
	}
	earns := s.Since + int64(p.PayableAfter)
	w.pass(earns+5000-w.now, 60)
	paid := balance(beneficiary)
	pending := w.machine.View().Pending(w.node(key), w.now+10)
	w.must(10, w.sign(carol, fee, &Claim{key}))
	got := balance(beneficiary) - paid
	want := mulDiv(pending-pending/10, 250, 1000)
	if pending == 0 || got < want-2 || got > want+2 {
		t.Errorf("a quarter of %d without the tenth for the operator paid %d, want %d", pending, got, want)
	}

	w.must(10, w.sign(bob, fee, &RequestUnlock{key}))
	if s := w.node(key); s.Status != Active || s.UnlockAt != w.now+int64(p.Unlock) {
		t.Fatalf("%v until %d", s.Status, s.UnlockAt)
	}
	w.pass(int64(p.Unlock)-60, 30)
	if s := w.node(key); s.Status != Active {
		t.Errorf("%v before its time", s.Status)
	}
	w.pass(int64(p.EvidenceAge)+2*int64(p.Epoch), 30)
	if _, there := w.machine.View().Node(key); there {
		t.Errorf("still there: %+v", w.node(key))
	}
	if after := balance(bob); after < before[1]-2*fee {
		t.Errorf("bob had %d and has %d", before[1], after)
	}
	if after := balance(carol); after != before[2]-2*fee {
		t.Errorf("carol had %d and has %d: the rewards go to another account", before[2], after)
	}
}

func TestContributorsWhoDoNotComeCostNobodyAnything(t *testing.T) {
	w := newWorld(t, 1, 5, 20, nil)
	for name, end := range map[string]func(n *identity){
		"a day passes":              func(n *identity) { w.pass(int64(w.genesis.Params.Await)+1, 100) },
		"the operator calls it off": func(n *identity) { w.must(5, w.sign(n.operator, w.fee(), &RequestUnlock{n.node.Ed25519()})) },
	} {
		n := w.nodes[9]
		other := w.accounts[19]
		w.pass(10, 10)
		a, b := w.machine.View().Account(n.operator.Ed25519()).Balance, w.machine.View().Account(other.Ed25519()).Balance
		w.must(5, w.sign(n.operator, w.fee(), w.registration(n, 0, Share{n.operator.Ed25519(), n.operator.Ed25519(), 300 * Coin})))
		w.must(5, w.sign(other, w.fee(), &AddStake{n.node.Ed25519(), other.Ed25519(), 100 * Coin}))
		end(n)
		if _, there := w.machine.View().Node(n.node.Ed25519()); there {
			t.Errorf("%s: the node is there", name)
		}
		v := w.machine.View()
		if got := v.Account(other.Ed25519()).Balance; got != b-w.fee() {
			t.Errorf("%s: the contributor had %d and has %d", name, b, got)
		}
		if got := v.Account(n.operator.Ed25519()).Balance; got < a-2*w.fee() {
			t.Errorf("%s: the operator had %d and has %d", name, a, got)
		}
	}
}

func TestACalledOffNodeMayComeBackAtOnceAndHasAllItsTime(t *testing.T) {
	w := newWorld(t, 1, 5, 20, nil)
	n := w.nodes[9]
	half := Share{n.operator.Ed25519(), n.operator.Ed25519(), 500 * Coin}
	await := int64(w.genesis.Params.Await)
	w.must(5, w.sign(n.operator, w.fee(), w.registration(n, 0, half)))
	w.pass(await-100, 100)
	w.must(5, w.sign(n.operator, w.fee(), &RequestUnlock{n.node.Ed25519()}))
	w.must(5, w.sign(n.operator, w.fee(), w.registration(n, 0, half)))
	w.pass(await-100, 100)
	if s := w.node(n.node.Ed25519()); s.Status != Awaiting {
		t.Errorf("%v", s.Status)
	}
}

func TestSigningTwiceIsPunishedAlsoOnTheWayOut(t *testing.T) {
	w := newWorld(t, 1, 8, 20, func(g *Genesis) { g.Params.CreditStart, g.Params.CreditPerDay, g.Params.CreditLeast = 0, 0, 100 })
	n := w.nodes[0]
	w.pass(130, 30)
	b, by := w.change(w.now+120, n.node.Ed25519(), Deregister, 7)
	w.must(120, w.sign(by, 0, b))
	first := w.node(n.node.Ed25519()).Release
	w.pass(1000, 50)
	block := w.block(10)
	block.Evidence = []Key{n.consensus.Ed25519()}
	w.run(block)
	s := w.node(n.node.Ed25519())
	if s.Release != w.now+int64(w.genesis.Params.DeregisterLock) || s.Release <= first || s.Stake() != 950*Coin {
		t.Errorf("released at %d with %d units", s.Release-w.now, s.Stake())
	}
	w.pass(int64(w.genesis.Params.DeregisterLock)-100, 50)
	w.node(n.node.Ed25519())
}

func TestAVoteForALargerCommitteeLetsItGrowByATenth(t *testing.T) {
	w := newWorld(t, 1, 30, 30, func(g *Genesis) { g.Params.Committee = 10 })
	w.must(10, w.sign(w.accounts[0], w.fee(), w.vote("committee", 20, 7)))
	size, epoch := 10, w.machine.View().Chain().Epoch
	for size < 20 {
		w.pass(60, 60)
		if e := w.machine.View().Chain().Epoch; e != epoch {
			epoch = e
			if now := len(w.machine.View().Committee()); now != size+1 {
				t.Fatalf("epoch %d: from %d to %d members", e, size, now)
			}
			size++
		}
	}
	w.must(10, w.sign(w.accounts[0], w.fee(), w.vote("committee", 15, 20)))
	w.pass(3*int64(w.genesis.Params.Epoch), 60)
	if now := len(w.machine.View().Committee()); now >= 20 || now < 14 {
		t.Errorf("%d members after the vote for fewer", now)
	}
}

func TestASmallContributorWaitsBeforeAskingForTheUnlock(t *testing.T) {
	w := newWorld(t, 1, 5, 20, nil)
	n, small := w.nodes[9], w.accounts[19]
	w.must(5, w.sign(n.operator, w.fee(), w.registration(n, 0, Share{n.operator.Ed25519(), n.operator.Ed25519(), 800 * Coin})))
	w.must(5, w.sign(small, w.fee(), &AddStake{n.node.Ed25519(), small.Ed25519(), 200 * Coin}))
	b := w.block(5, w.sign(small, w.fee(), &RequestUnlock{n.node.Ed25519()}))
	if err := w.run(b).Refused[len(b.Txs)-1]; !errors.Is(err, ErrTooSoon) {
		t.Errorf("at once: %v", err)
	}
	w.pass(int64(w.genesis.Params.SmallLock), 100)
	w.must(5, w.sign(small, w.fee(), &RequestUnlock{n.node.Ed25519()}))
}

func TestDowntimeCostsCreditAndThenTheNode(t *testing.T) {
	w := newWorld(t, 1, 12, 20, func(g *Genesis) { g.Params.CreditStart, g.Params.CreditPerDay = 1000, secondsOfDay/10 })
	key := w.nodes[0].node.Ed25519()
	judge := func(v Verdict) error {
		b, by := w.change(w.now+30, key, v, 7)
		block := w.block(30, w.sign(by, 0, b))
		return w.run(block).Refused[len(block.Txs)-1]
	}
	w.pass(500, 50)
	if err := judge(Deregister); !errors.Is(err, ErrStatus) {
		t.Errorf("a node with credit: %v", err)
	}
	if err := judge(Decommission); err != nil {
		t.Fatal(err)
	}
	down := w.now
	s := w.node(key)
	if s.Status != Decommissioned || s.Credit != 1000+uint64(down-testStart)/10 || s.Outages != 1 || s.ReasonsAll != 1 || s.ReasonsAny != 9 {
		t.Errorf("%+v", s)
	}
	if err := judge(Recommission); !errors.Is(err, ErrVotes) {
		t.Errorf("votes of a slot that began before the decommission: %v", err)
	}
	for _, l := range w.machine.View().Active() {
		if l.Key == key {
			t.Error("it is in the list")
		}
	}
	kept := s.Credit
	w.pass(240, 40) // another slot
	if err := judge(Recommission); err != nil {
		t.Fatal(err)
	}
	s = w.node(key)
	if want := kept - 2*uint64(w.now-down); s.Status != Waiting || s.Credit != want {
		t.Errorf("%v with a credit of %d, want %d", s.Status, s.Credit, want)
	}
	w.pass(2*int64(w.genesis.Params.Epoch), 60)
	if s = w.node(key); s.Status != Active {
		t.Fatalf("%v after an epoch", s.Status)
	}
	w.pass(180, 60)
	if err := judge(Decommission); err != nil {
		t.Fatal(err)
	}
	w.pass(int64(w.node(key).Credit)-60, 60)
	if err := judge(Deregister); !errors.Is(err, ErrStatus) {
		t.Errorf("before its credit was gone: %v", err)
	}
	w.pass(300, 60)
	if err := judge(Deregister); err != nil {
		t.Fatal(err)
	}
	s = w.node(key)
	if s.Status != Leaving || s.Release != w.now+int64(w.genesis.Params.DeregisterLock) || s.Stake() != s.Requirement {
		t.Errorf("%+v", s)
	}
	w.pass(int64(w.genesis.Params.DeregisterLock)+int64(w.genesis.Params.EvidenceAge), 60)
	if _, there := w.machine.View().Node(key); there {
		t.Error("its stake was not paid back")
	}
}

func TestWhoSignsTwiceLosesAPartOfTheStakeAndNeverReturns(t *testing.T) {
	w := newWorld(t, 1, 6, 20, nil)
	n, key := w.nodes[0], w.nodes[0].node.Ed25519()
	b := w.block(30)
	b.Evidence = []Key{n.consensus.Ed25519(), n.consensus.Ed25519(), {9}}
	r := w.run(b)
	if len(r.Updates) != 1 || r.Updates[0].Consensus != n.consensus.Ed25519() || r.Updates[0].Power != 0 {
		t.Errorf("updates %v", r.Updates)
	}
	s := w.node(key)
	lost := s.Requirement / 20
	if s.Status != Leaving || s.Stake() != s.Requirement-lost || w.machine.View().Rewards().Slashed != lost {
		t.Errorf("%+v", s)
	}
	had := w.machine.View().Account(n.operator.Ed25519()).Balance
	w.pass(int64(w.genesis.Params.DeregisterLock)+10, 60)
	if got := w.machine.View().Account(n.operator.Ed25519()).Balance - had; got != s.Requirement-lost {
		t.Errorf("%d were paid back of %d", got, s.Requirement-lost)
	}
	block := w.block(5, w.sign(n.operator, w.fee(), w.registration(n, 0, Share{n.operator.Ed25519(), n.operator.Ed25519(), s.Requirement})))
	if err := w.run(block).Refused[len(block.Txs)-1]; !errors.Is(err, ErrBarred) {
		t.Errorf("registered again: %v", err)
	}
}

func TestEvidenceAgainstEverybodyLeavesOneMember(t *testing.T) {
	w := newWorld(t, 1, 5, 20, nil)
	b := w.block(30)
	for _, n := range w.nodes {
		b.Evidence = append(b.Evidence, n.consensus.Ed25519())
	}
	w.run(b)
	if c := w.machine.View().Committee(); len(c) != 1 {
		t.Errorf("%d members", len(c))
	}
	// A new node relieves the last one.
	n := w.nodes[7]
	w.must(10, w.sign(n.operator, w.fee(), w.registration(n, 0, Share{n.operator.Ed25519(), n.operator.Ed25519(), 1000 * Coin})))
	w.pass(5000, 60)
	if c := w.machine.View().Committee(); len(c) != 1 || c[0].Node != n.node.Ed25519() {
		t.Errorf("members %v", c)
	}
}

func TestAbsentMembersLeaveButNeverTooMany(t *testing.T) {
	for _, c := range []struct {
		name                  string
		nodes, offline, after int
	}{
		{"one of six", 6, 1, 5},
		{"three of six: four stay", 6, 3, 4},
		{"one of four stays", 4, 1, 4},
		{"five of twelve: two thirds stay", 12, 5, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1, c.nodes, 20, func(g *Genesis) { g.Params.Epoch = 1_000_000 })
			for _, n := range w.nodes[:c.offline] {
				n.offline = true
			}
			w.pass(2000, 20)
			if m := w.machine.View().Committee(); len(m) != c.after {
				t.Errorf("%d members, want %d", len(m), c.after)
			}
		})
	}
	w := newWorld(t, 1, 6, 20, func(g *Genesis) { g.Params.Epoch = 1_000_000 })
	root, changes := w.store.Root(), 0
	w.nodes[0].offline = true
	for i := range 60 {
		w.nodes[0].offline = i%2 == 0 // it comes and goes
		w.run(w.block(10))
		if now := w.store.Root(); now != root {
			root = now
			changes++
		}
	}
	if changes > 12 { // ten minutes, noted at most every two, with two sides each
		t.Errorf("a member that comes and goes changed the state %d times in 60 blocks", changes)
	}
}

func TestAnIdleLedgerWritesNothing(t *testing.T) {
	w := newWorld(t, 1, 8, 10, func(g *Genesis) { g.Params.Epoch, g.Params.PayableAfter = 3600, 10 })
	w.pass(60, 10)
	root := w.store.Root()
	for range 50 {
		if w.run(w.block(60)); w.store.Root() != root {
			t.Fatalf("block %d changed the state", w.height)
		}
	}
}

func TestTheCommitteeGrowsSlowlyUpToItsLimitAndRotates(t *testing.T) {
	w := newWorld(t, 1, 30, 30, func(g *Genesis) { g.Params.Committee = 10 })
	members := func() map[Key]bool {
		all := make(map[Key]bool)
		for _, m := range w.machine.View().Committee() {
			all[m.Node] = true
		}
		return all
	}
	seen := members()
	for epoch := w.machine.View().Chain().Epoch; epoch < 40; {
		before := members()
		w.pass(60, 60)
		if e := w.machine.View().Chain().Epoch; e != epoch {
			epoch = e
			after, came := members(), 0
			for k := range after {
				seen[k] = true
				if !before[k] {
					came++
				}
			}
			if len(after) != 10 || came != 1 {
				t.Fatalf("epoch %d: %d members, %d of them new", e, len(after), came)
			}
		}
	}
	if len(seen) < 25 {
		t.Errorf("only %d of 30 nodes were members in 40 epochs", len(seen))
	}
}

func TestAFewNodesCanLeaveInTheEnd(t *testing.T) {
	w := newWorld(t, 1, 4, 10, nil)
	for _, n := range w.nodes[:2] {
		w.must(5, w.sign(n.operator, w.fee(), &RequestUnlock{n.node.Ed25519()}))
	}
	w.pass(int64(w.genesis.Params.Unlock), 30)
	if c := w.machine.View().Committee(); len(c) != 4 {
		t.Errorf("%d members while their stake is locked", len(c))
	}
	w.pass(3*int64(w.genesis.Params.Unlock), 30)
	if c, n := w.machine.View().Committee(), w.machine.View().Nodes(); len(c) != 2 || len(n) != 2 {
		t.Errorf("%d members, %d nodes", len(c), len(n))
	}
}

func TestASeedNeedsItsProposer(t *testing.T) {
	w := newWorld(t, 1, 6, 10, nil)
	c := w.machine.View().Chain()
	due := time.Unix(c.Started+int64(c.Params.Epoch), 0)
	proof := func(i int) []byte { return BeaconTx(w.nodes[i].beacon.Prove(c.SeedMessage())) }
	other := c
	other.Epoch++
	for _, x := range []struct {
		name string
		b    Block
		err  error
		ends bool
	}{
		{"the proposer's proof ends the epoch", Block{Txs: [][]byte{proof(0)}, Time: due}, nil, true},
		{"another member's does not", Block{Txs: [][]byte{proof(1)}, Time: due}, ErrSignature, false},
		{"a proof for another epoch does not", Block{Txs: [][]byte{BeaconTx(w.nodes[0].beacon.Prove(other.SeedMessage()))}, Time: due}, ErrSignature, false},
		{"a proof before the time does not", Block{Txs: [][]byte{proof(0)}, Time: due.Add(-time.Second)}, ErrTooSoon, false},
		{"no proof does not", Block{Time: due}, nil, false},
		{"no proof for another epoch's time does", Block{Time: due.Add(time.Duration(c.Params.Epoch) * time.Second)}, nil, true},
		{"a proof that is not first does not", Block{Txs: [][]byte{w.sign(w.accounts[0], w.fee(), &Transfer{Key{1}, 1}), proof(0)}, Time: due}, ErrMalformed, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			store := w.store.Clone()
			m := New(store)
			x.b.Height, x.b.Proposer = 1, w.nodes[0].consensus.Ed25519()
			if err := m.Proper(&x.b); !errors.Is(err, x.err) || x.err == nil && err != nil {
				t.Errorf("proposed: %v", err)
			}
			r, err := m.Execute(&x.b)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Refused) > 0 && !errors.Is(r.Refused[len(r.Refused)-1], x.err) || r.Epoch != x.ends {
				t.Errorf("refused %v, epoch ended: %v", r.Refused, r.Epoch)
			}
			if seed := m.View().Chain().Seed; (seed != c.Seed) != x.ends {
				t.Errorf("seed %x", seed)
			}
		})
	}
	door, err := w.machine.Door(0, due)
	if err != nil {
		t.Fatal(err)
	}
	if err := door.Check(proof(0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a part of the seed from outside: %v", err)
	}
	chosen, err := w.machine.Fill(&Block{Height: 1, Time: due, Proposer: w.nodes[0].consensus.Ed25519()}, w.nodes[0].beacon, 1000, 4)
	if err != nil || len(chosen) != 1 || !bytes.Equal(chosen[0], proof(0)) {
		t.Errorf("filled with %d, %v", len(chosen), err)
	}
}

func TestUpdatesThatWouldHaltTheEngineAreFound(t *testing.T) {
	key := func(i int) Key { return pair("k", i).Ed25519() }
	two := map[Key]uint64{key(1): 1, key(2): 1}
	for _, c := range []struct {
		name    string
		updates []Validator
		ok      bool
	}{
		{"nothing", nil, true},
		{"one more", []Validator{{Consensus: key(3), Power: 1}}, true},
		{"one less", []Validator{{Consensus: key(1)}}, true},
		{"one for another", []Validator{{Consensus: key(1)}, {Consensus: key(3), Power: 1}}, true},
		{"a stranger out", []Validator{{Consensus: key(3)}}, false},
		{"one twice", []Validator{{Consensus: key(3), Power: 1}, {Consensus: key(3), Power: 1}}, false},
		{"in and out", []Validator{{Consensus: key(3), Power: 1}, {Consensus: key(3)}}, false},
		{"all out", []Validator{{Consensus: key(1)}, {Consensus: key(2)}}, false},
		{"all out for another", []Validator{{Consensus: key(1)}, {Consensus: key(2)}, {Consensus: key(3), Power: 1}}, true},
		{"more power", []Validator{{Consensus: key(1), Power: 2}}, false},
		{"a negative power", []Validator{{Consensus: key(1), Power: math.MaxUint64}}, false},
		{"no key", []Validator{{Consensus: Key{1}, Power: 1}}, false},
		{"a hundred more", slices.Collect(func(yield func(Validator) bool) {
			for i := range 100 {
				yield(Validator{Consensus: key(10 + i), Power: 1})
			}
		}), false},
	} {
		if err := CheckUpdates(two, c.updates); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrUpdate) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTestersAreTenOthersAndSevenCarryAChange(t *testing.T) {
	w := newWorld(t, 1, 40, 20, nil)
	v := w.machine.View()
	c := v.Chain()
	slot := c.Slot(time.Unix(w.now, 0))
	subject := w.nodes[3].node.Ed25519()
	drawn := v.Testers(slot, subject)
	if len(drawn) != 10 || slices.Contains(drawn, subject) || len(v.Subjects(slot)) != 40 {
		t.Errorf("%d testers, %d subjects", len(drawn), len(v.Subjects(slot)))
	}
	if next := v.Testers(slot+1, subject); slices.Equal(drawn, next) {
		t.Error("the next slot has the same testers")
	}
	if v.Testers(0, subject) != nil {
		t.Error("testers of a forgotten seed")
	}
	for testers, votes := range map[int]int{0: 0, 3: 0, 4: 3, 5: 4, 6: 5, 7: 5, 8: 6, 9: 7, 10: 7} {
		if got := VotesNeeded(testers); got != votes {
			t.Errorf("%d of %d, want %d", got, testers, votes)
		}
	}
	for votes, want := range map[int]error{6: ErrVotes, 7: nil} {
		b, by := w.change(w.now+1, subject, Decommission, votes)
		block := &Block{Height: 1, Time: time.Unix(w.now+1, 0), Txs: [][]byte{w.sign(by, 0, b)}}
		clear(w.nonces)
		r, err := New(w.store.Clone()).Execute(block)
		if err != nil || !errors.Is(r.Refused[0], want) {
			t.Errorf("%d votes: %v, %v", votes, r.Refused, err)
		}
	}
}

func TestTheListSaysWhatClientsNeed(t *testing.T) {
	w := newWorld(t, 1, 9, 20, nil)
	w.must(100, w.sign(w.nodes[2].operator, w.fee(), &RequestUnlock{w.nodes[2].node.Ed25519()}))
	v := w.machine.View()
	raw := EncodeList(v.Active())
	list, full, err := DecodeList(raw, v.ListHead())
	if err != nil || len(list.Nodes) != 9 || len(full) != 9 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, n := range w.nodes[:9] {
		got, ok := list.Find(n.node.Ed25519())
		if !ok || got.X25519 != n.node.X25519() || got.Swarm == swarm.None || got.Address.Port() != 22021 {
			t.Errorf("%+v, %v", got, ok)
		}
		if (got.RequestedUnlockHeight != 0) != (n == w.nodes[2]) {
			t.Errorf("unlock requested at %d", got.RequestedUnlockHeight)
		}
	}
	raw[60] ^= 1
	if _, _, err := DecodeList(raw, v.ListHead()); !errors.Is(err, ErrMalformed) {
		t.Errorf("a changed list: %v", err)
	}
}

func TestAGenesisFileThatCannotWorkIsRefused(t *testing.T) {
	w := newWorld(t, 1, 3, 3, nil)
	good, err := json.Marshal(w.genesis)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadGenesis(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) func() []byte {
		return func() []byte {
			b := bytes.Replace(good, []byte(old), []byte(new), 1)
			if bytes.Equal(b, good) {
				t.Fatalf("%s is not in the file", old)
			}
			return b
		}
	}
	edit := func(f func(g *Genesis)) func() []byte {
		return func() []byte {
			g, err := ParseGenesis(good)
			if err != nil {
				t.Fatal(err)
			}
			f(g)
			b, err := json.Marshal(g)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	for _, c := range []struct {
		name string
		file func() []byte
		says string
	}{
		{"nothing", func() []byte { return nil }, "EOF"},
		{"two files", func() []byte { return append(slices.Clone(good), good...) }, "follows"},
		{"five megabytes", func() []byte { return append(slices.Clone(good), bytes.Repeat([]byte{' '}, 5<<20)...) }, "more than"},
		{"an unknown field", replace(`"pool"`, `"pond":1,"pool"`), "pond"},
		{"an unknown parameter", replace(`"epoch"`, `"aeon"`), "aeon"},
		{"a negative amount", replace(`"pool":`, `"pool":-`), "pool"},
		{"a fraction", replace(`"pool":`, `"pool":0.`), "pool"},
		{"a short key", replace(`"address":"`, `"address":"ab","address":"`), "key of 2"},
		{"no chain id", edit(func(g *Genesis) { g.Chain = "" }), "chain id"},
		{"a chain id with a space", edit(func(g *Genesis) { g.Chain = "a b" }), "chain id"},
		{"no time", edit(func(g *Genesis) { g.Time = 0 }), "time"},
		{"no node", edit(func(g *Genesis) { g.Nodes = nil }), "no node"},
		{"a node twice", edit(func(g *Genesis) { g.Nodes[1].Node = g.Nodes[0].Node }), "twice"},
		{"one key for two purposes", edit(func(g *Genesis) { g.Nodes[1].Beacon = g.Nodes[1].Node }), "twice"},
		{"a key that is none", edit(func(g *Genesis) { g.Nodes[1].Node = HexKey{1} }), "node 1"},
		{"an account twice", edit(func(g *Genesis) { g.Accounts[1] = g.Accounts[0] }), "twice"},
		{"an empty account", edit(func(g *Genesis) { g.Accounts[1].Balance = 0 }), "nothing"},
		{"a pool beyond the supply", edit(func(g *Genesis) { g.Pool = math.MaxUint64 }), "too much"},
		{"balances beyond the supply", edit(func(g *Genesis) { g.Accounts[1].Balance = MaxSupply }), "too much"},
		{"stakes beyond the supply", edit(func(g *Genesis) { g.Pool, g.Params.Requirement = MaxSupply-w.genesis.Pool, MaxSupply/16 }), "too much"},
		{"an unlock within the evidence age", edit(func(g *Genesis) { g.Params.Unlock = g.Params.EvidenceAge }), "unlock"},
		{"a parameter out of bounds", edit(func(g *Genesis) { g.Params.SlashRate = 2501 }), "slash_rate"},
		{"an address that is not IPv4", edit(func(g *Genesis) { g.Nodes[0].Endpoint.IP = netip.IPv6LinkLocalAllNodes() }), "IPv4"},
		{"a private address in a public network", edit(func(g *Genesis) { g.Params.Private = 0 }), "everywhere"},
		{"a fee above everything", edit(func(g *Genesis) { g.Nodes[0].Fee = 10_001 }), "fee"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseGenesis(c.file())
			if !errors.Is(err, ErrGenesis) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := w.machine.Start(w.genesis); !errors.Is(err, ErrGenesis) {
		t.Errorf("started twice: %v", err)
	}
}

// broken is a store whose disk fails after some reads.
type broken struct {
	Memory
	reads int
}

var errDisk = errors.New("the disk is gone")

func (b *broken) Get(k []byte) ([]byte, error) {
	if b.reads--; b.reads < 0 {
		return nil, errDisk
	}
	return b.Memory.Get(k)
}

func TestABrokenStoreStopsTheLedger(t *testing.T) {
	w := newWorld(t, 1, 6, 6, nil)
	w.pass(1000, 100)
	change, by := w.change(w.now+20, w.nodes[0].node.Ed25519(), Decommission, 7)
	block := w.block(20,
		w.sign(w.accounts[0], w.fee(), &Transfer{Key{1}, 1}), w.sign(by, 0, change),
		w.sign(w.nodes[1].operator, w.fee(), &RequestUnlock{w.nodes[1].node.Ed25519()}))
	root := w.store.Root()
	for reads := 0; ; reads++ {
		s := &broken{Memory: *w.store.Clone(), reads: reads}
		_, err := New(s).Execute(block)
		if err == nil {
			if reads < 20 {
				t.Errorf("only %d reads", reads)
			}
			break
		}
		if !errors.Is(err, ErrState) || !errors.Is(err, errDisk) {
			t.Fatalf("after %d reads: %v", reads, err)
		}
		// Writing out comes last: there a half is possible, and the tree under a
		// real ledger forgets it.
		if s.Root() != root && reads < 20 {
			t.Fatalf("after %d reads something was written", reads)
		}
	}
	s := w.store.Clone()
	s.Set([]byte(keyRewards), []byte{0xff})
	if _, err := New(s).Execute(block); !errors.Is(err, ErrState) {
		t.Errorf("a record that is none: %v", err)
	}
}

func TestTheAuditorNoticesWhatIsWrong(t *testing.T) {
	for name, harm := range map[string]func(w *world, d *draft){
		"money from nothing": func(w *world, d *draft) { d.pay(Key{5}, 1) },
		"money to nowhere":   func(w *world, d *draft) { r := d.Rewards(); r.Pool--; d.saveRewards(r) },
		"a node without a swarm": func(w *world, d *draft) {
			for id := range d.Swarms() {
				d.drop(swarmKey(id))
			}
		},
		"another address in the list": func(w *world, d *draft) {
			n, _ := d.Node(w.nodes[0].node.Ed25519())
			n.Endpoint.HTTPS++
			d.saveNode(n)
		},
		"a member that the engine does not know": func(w *world, d *draft) {
			m, _ := d.member(w.nodes[0].consensus.Ed25519())
			m.Power = 0
			d.saveMember(w.nodes[0].consensus.Ed25519(), m)
		},
		"a stake paid back too early": func(w *world, d *draft) {
			n, _ := d.Node(w.nodes[0].node.Ed25519())
			d.leaveService(n)
			for _, o := range n.Contributors {
				d.pay(o.Staker, o.Amount)
			}
			d.forget(n)
			d.composeSwarms()
			d.writeList()
		},
		"an unlock that never comes": func(w *world, d *draft) {
			n, _ := d.Node(w.nodes[0].node.Ed25519())
			n.UnlockHeight = 1
			d.saveNode(n)
			d.writeList()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, 5, 5, nil)
			w.pass(100, 20)
			b := w.block(10)
			r, err := w.machine.Execute(b)
			if err != nil {
				t.Fatal(err)
			}
			d, err := w.machine.begin(b)
			if err != nil {
				t.Fatal(err)
			}
			harm(w, d)
			if d.over.flush() != nil || d.err != nil {
				t.Fatal(d.err)
			}
			if err := w.auditor.Check(b, r, w.machine.View()); !errors.Is(err, ErrAudit) {
				t.Errorf("got %v", err)
			}
		})
	}
}
