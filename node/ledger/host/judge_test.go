package host

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"hearth/node/ledger"
	"hearth/node/peertest"
	"hearth/node/swarm"
)

// opinion is what the tests of one node say.
type opinion struct {
	mu    sync.Mutex
	gone  map[[32]byte]time.Time // and since when
	alone bool
}

func (o *opinion) Of(node [32]byte) (peertest.Reach, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if since, ok := o.gone[node]; ok {
		return peertest.Reach{Node: node, Since: since, Failed: time.Now(), Failures: 3}, true
	}
	return peertest.Reach{Node: node, Passed: time.Now()}, true
}

func (o *opinion) Health() peertest.Health {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.alone {
		return peertest.Health{Failing: 6}
	}
	return peertest.Health{Reachable: 5, Failing: len(o.gone)}
}

func (o *opinion) say(gone bool, node [32]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone == nil {
		o.gone = make(map[[32]byte]time.Time)
	}
	if gone {
		o.gone[node] = time.Now().Add(-time.Hour)
	} else {
		delete(o.gone, node)
	}
}

// courts lets all nodes but the last two judge: the last but one is the subject,
// the last one has no stake.
func courts(t *testing.T, all []*Host, tests []*opinion) {
	t.Helper()
	byKey := make(map[[32]byte]*Host)
	for k := 1; k < len(all); k++ {
		byKey[pair(byte(k)).Ed25519()] = all[k]
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for k := 1; k < len(tests); k++ {
		running.Go(func() {
			all[k].Judge(ctx, tests[k], func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error) {
				answer := byKey[to.Ed25519].Hear(ctx, pair(byte(k)).Ed25519(), parts)
				if answer == nil {
					return nil, errors.New("no answer")
				}
				return answer, nil
			}, time.Minute)
		})
	}
}

func TestTestersDecideTogether(t *testing.T) {
	const nodes = 7
	_, all := hosts(t, nodes, func(p *ledger.Params) { p.Slot, p.CreditStart, p.CreditLeast = 1, 3600, 60 })
	for k := 1; k <= nodes; k++ {
		wait(t, "the first blocks", func() bool { return all[k].Status().Height >= 2 })
	}
	tests := make([]*opinion, nodes) // of the nodes 1 to 6
	for k := 1; k < nodes; k++ {
		tests[k] = new(opinion)
	}
	courts(t, all, tests)
	subject, slandered := pair(nodes).Ed25519(), pair(1).Ed25519()
	at := func(k int, node [32]byte) ledger.Status {
		n, ok := all[k].Engine().State().View().Node(node)
		if !ok {
			t.Fatal("the node is gone")
		}
		return n.Status
	}
	status := func(node [32]byte) ledger.Status { return at(2, node) }
	// Four of six are not enough, five are.
	for k := 1; k <= 4; k++ {
		tests[k].say(true, subject)
	}
	for k := 5; k <= 6; k++ {
		tests[k].say(true, slandered) // two liars
	}
	height := all[2].Status().Height
	wait(t, "some blocks", func() bool { return all[2].Status().Height >= height+4 })
	if s := status(subject); s != ledger.Active {
		t.Errorf("four of six testers made the node %v", s)
	}
	tests[6].mu.Lock()
	tests[6].alone = true // and no voice any more
	tests[6].mu.Unlock()
	tests[5].say(true, subject)
	for k := 1; k <= nodes; k++ {
		wait(t, "the node to be out of service", func() bool { return at(k, subject) == ledger.Decommissioned })
	}
	if s := status(slandered); s != ledger.Active {
		t.Errorf("two liars made a node %v", s)
	}
	if s := all[nodes].Status(); s.Standing != "decommissioned" || s.Explanation == "" {
		t.Errorf("the node itself says %v", s)
	}
	list, err := all[3].Poll(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := list.Find(subject); !ok || n.Swarm != swarm.None {
		t.Error("a decommissioned node has to stay in the list without a swarm, else nobody tests it")
	}
	n, _ := all[2].Engine().State().View().Node(subject)
	if n.ReasonsAll != reasonStorage || n.Outages != 1 {
		t.Errorf("reasons %b, %d outages", n.ReasonsAll, n.Outages)
	}
	for k := 1; k <= 5; k++ {
		tests[k].say(false, subject)
	}
	wait(t, "the node to be in service again", func() bool { return status(subject) == ledger.Active })

	t.Run("votes that make no sense are not taken", func(t *testing.T) {
		h := all[2]
		from := pair(3)
		var good ballot
		// A block that comes between looking and speaking may draw other testers.
		wait(t, "a good vote to be taken", func() bool {
			view := h.Engine().State().View()
			c := view.Chain()
			slot := c.Slot(time.Now())
			place := slices.Index(view.Testers(slot, subject), from.Ed25519())
			if place < 0 {
				t.Fatal("node 3 is no tester, though all are")
			}
			good = ballot{subject, ledger.Decommission, slot, ledger.SignVote(c.ID, from, uint8(place), subject, ledger.Decommission, slot, reasonStorage)}
			return h.Hear(t.Context(), from.Ed25519(), [][]byte{good.encode()}) != nil
		})
		for _, c := range []struct {
			name   string
			from   [32]byte
			change func(b *ballot)
			parts  [][]byte
		}{
			{name: "from another node", from: pair(4).Ed25519()},
			{name: "from a node without a stake", from: pair(nodes + 1).Ed25519()},
			{name: "for another node", from: from.Ed25519(), change: func(b *ballot) { b.node = slandered }},
			{name: "for another verdict", from: from.Ed25519(), change: func(b *ballot) { b.verdict = ledger.Deregister }},
			{name: "with other reasons", from: from.Ed25519(), change: func(b *ballot) { b.vote.Reasons++ }},
			{name: "at a place that is none", from: from.Ed25519(), change: func(b *ballot) { b.vote.Tester = 200 }},
			{name: "of a slot to come", from: from.Ed25519(), change: func(b *ballot) { b.slot += 10 }},
			{name: "of the end of time", from: from.Ed25519(), change: func(b *ballot) { b.slot = 1<<64 - 1 }},
			{name: "of a slot long ago", from: from.Ed25519(), change: func(b *ballot) { b.slot = 5 }},
			{name: "no vote at all", from: from.Ed25519(), parts: [][]byte{[]byte("hello")}},
			{name: "nothing", from: from.Ed25519(), parts: [][]byte{}},
			{name: "two at once", from: from.Ed25519(), parts: [][]byte{good.encode(), good.encode()}},
		} {
			b := good
			if c.change != nil {
				c.change(&b)
			}
			parts := c.parts
			if parts == nil {
				parts = [][]byte{b.encode()}
			}
			if h.Hear(t.Context(), c.from, parts) != nil {
				t.Errorf("%s: taken", c.name)
			}
		}
	})
}

func TestThePoolOfVotesIsBounded(t *testing.T) {
	var p pool
	for slot := range uint64(2 * maxVotes) {
		p.add(matter{slot: slot}, ledger.Vote{Tester: 1})
	}
	if p.count != maxVotes {
		t.Errorf("%d votes", p.count)
	}
	if p.add(matter{slot: 5}, ledger.Vote{Tester: 1}) {
		t.Error("a vote was taken twice")
	}
	p.forget(maxVotes)
	if p.count != 0 || len(p.votes) != 0 {
		t.Errorf("%d votes after all slots are over", p.count)
	}
	for _, tester := range []uint8{3, 1, 2, 1} {
		p.add(matter{slot: maxVotes}, ledger.Vote{Tester: tester})
	}
	if votes := p.votes[matter{slot: maxVotes}]; len(votes) != 3 || votes[0].Tester != 1 || votes[1].Tester != 2 || votes[2].Tester != 3 {
		t.Errorf("%v", votes)
	}
}

func FuzzDecodeBallot(f *testing.F) {
	b := ballot{pair(1).Ed25519(), ledger.Recommission, 77, ledger.Vote{Tester: 9, Reasons: 8}}
	f.Add(b.encode())
	f.Add([]byte("nonsense"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := decodeBallot(raw)
		if err != nil {
			if !errors.Is(err, errBallot) {
				t.Errorf("another error: %v", err)
			}
			return
		}
		if !bytes.Equal(b.encode(), raw) {
			t.Errorf("%x became %x", raw, b.encode())
		}
	})
}
