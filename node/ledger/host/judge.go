package host

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"hearth/node/ledger"
	"hearth/node/ledger/engine"
	"hearth/node/peertest"
	"hearth/node/swarm"
)

// Tests is what a node found out about others; [peertest.Tester] is one.
type Tests interface {
	Of(node [32]byte) (peertest.Reach, bool)
	Health() peertest.Health
}

// Ask sends parts to the ledger of another node and returns its answer.
type Ask func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error)

// reasonStorage is the bit of a node that could not be reached (oxen-core,
// tx_extra.h, Decommission_Reason: storage_server_unreachable).
const reasonStorage = 1 << 3

const (
	maxVotes    = 8192 // that are kept at a time
	fewestVotes = 3    // of four testers, the fewest that can change anything
	voteTime    = 10 * time.Second
	gossips     = 8 // votes on their way at a time
)

// ballot is what one tester says of a node.
type ballot struct {
	node    ledger.Key
	verdict ledger.Verdict
	slot    uint64
	vote    ledger.Vote
}

const ballotSize = 1 + 32 + 1 + 8 + 1 + 2 + 64

// encode gives the form that travels over a link.
func (b *ballot) encode() []byte {
	out := append([]byte{1}, b.node[:]...)
	out = append(out, byte(b.verdict))
	out = binary.BigEndian.AppendUint64(out, b.slot)
	out = append(out, b.vote.Tester)
	out = binary.BigEndian.AppendUint16(out, b.vote.Reasons)
	return append(out, b.vote.Signature[:]...)
}

// errBallot reports bytes that are no vote.
var errBallot = errors.New("not a vote")

func decodeBallot(raw []byte) (b ballot, err error) {
	if len(raw) != ballotSize || raw[0] != 1 {
		return b, fmt.Errorf("%w: %d bytes", errBallot, len(raw))
	}
	b.node = ledger.Key(raw[1:])
	b.verdict = ledger.Verdict(raw[33])
	b.slot = binary.BigEndian.Uint64(raw[34:])
	b.vote = ledger.Vote{Tester: raw[42], Reasons: binary.BigEndian.Uint16(raw[43:]), Signature: [64]byte(raw[45:])}
	if b.verdict > ledger.Recommission {
		return b, fmt.Errorf("%w: verdict %d", errBallot, raw[33])
	}
	return b, nil
}

// matter is what votes are about: those on one matter add up.
type matter struct {
	node    ledger.Key
	verdict ledger.Verdict
	slot    uint64
}

// pool keeps the votes of the last slots, as many as there is room for.
type pool struct {
	mu      sync.Mutex
	votes   map[matter][]ledger.Vote // by ascending tester
	enough  map[matter]time.Time     // since when a matter has the votes that it needs
	count   int
	testers map[matter][]ledger.Key // of a slot and node; the verdict is zero
}

// add keeps a vote that was checked; false when it is known or there is no room.
func (p *pool) add(m matter, v ledger.Vote) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, known := slices.BinarySearchFunc(p.votes[m], v.Tester, func(a ledger.Vote, t uint8) int { return int(a.Tester) - int(t) })
	if known || p.count == maxVotes {
		return false
	}
	if p.votes == nil {
		p.votes = make(map[matter][]ledger.Vote)
	}
	p.votes[m] = slices.Insert(p.votes[m], i, v)
	p.count++
	return true
}

// forget drops what is about slots before one.
func (p *pool) forget(before uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for m, votes := range p.votes {
		if m.slot < before {
			p.count -= len(votes)
			delete(p.votes, m)
			delete(p.enough, m)
		}
	}
	for m := range p.testers {
		if m.slot < before {
			delete(p.testers, m)
		}
	}
}

// drawn returns the testers of a node in a slot, from memory when they were asked
// for before: a question for them reads every node. They stay the same for as long
// as the state knows them, but for nodes that leave.
func (p *pool) drawn(v *ledger.View, slot uint64, node ledger.Key) []ledger.Key {
	m := matter{node: node, slot: slot}
	p.mu.Lock()
	known, ok := p.testers[m]
	p.mu.Unlock()
	if ok {
		return known
	}
	all := v.Testers(slot, node)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.testers == nil || len(p.testers) >= maxVotes {
		p.testers = make(map[matter][]ledger.Key)
	}
	p.testers[m] = all
	return all
}

// redraw forgets who was drawn: a block may have taken a tester out.
func (p *pool) redraw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.testers)
}

// since returns when a matter first had the votes that it needs.
func (p *pool) since(m matter, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.enough[m]
	if !ok {
		at = now
		if p.enough == nil {
			p.enough = make(map[matter]time.Time)
		}
		p.enough[m] = at
	}
	return at
}

// Hear takes the vote of another node: one part, answered with one part "ok".
func (h *Host) Hear(_ context.Context, from [32]byte, parts [][]byte) [][]byte {
	s := h.engine.State()
	if len(parts) != 1 || s == nil {
		return nil
	}
	b, err := decodeBallot(parts[0])
	if err != nil {
		return nil
	}
	v := s.View()
	c := v.Chain()
	now, p := h.cfg.Now(), c.Params
	// A clock may be a little behind, and a vote for the slot that begins now early.
	slot := c.Slot(now)
	if b.slot > slot+1 || (slot-min(b.slot, slot))*p.Slot > p.VoteLife {
		return nil
	}
	drawn := h.votes.drawn(v, b.slot, b.node)
	place := int(b.vote.Tester)
	if place >= len(drawn) || drawn[place] != from || !ledger.CheckVote(c.ID, from, b.node, b.verdict, b.slot, b.vote) {
		return nil
	}
	h.votes.add(matter{b.node, b.verdict, b.slot}, b.vote)
	return [][]byte{[]byte("ok")}
}

// Judge votes on the nodes that it is drawn to test until ctx ends. A node that
// failed all tests for after (peertest.UnreachableAfter when zero) is voted out of
// service, one out of service that passed its last test back. Votes go to the
// slot's other testers; whoever has enough of them writes the change into the
// ledger, and nothing is written while nothing changes.
func (h *Host) Judge(ctx context.Context, tests Tests, ask Ask, after time.Duration) {
	if after == 0 {
		after = peertest.UnreachableAfter
	}
	var sends sync.WaitGroup
	defer sends.Wait()
	room := make(chan struct{}, gossips)
	tell := func(to swarm.Node, vote []byte) {
		select {
		case room <- struct{}{}:
		default:
			return // the next slot's vote says the same
		}
		sends.Go(func() {
			defer func() { <-room }()
			limit, cancel := context.WithTimeout(ctx, voteTime)
			defer cancel()
			if _, err := ask(limit, to, [][]byte{vote}); err != nil {
				h.cfg.Log.Debug("a vote did not reach its tester", "tester", hex.EncodeToString(to.Ed25519[:4]), "error", err)
			}
		})
	}
	voted := uint64(0) // slot
	for {
		wait := time.Second
		if s := h.engine.State(); s != nil {
			v := s.View()
			c := v.Chain()
			slot, now := c.Slot(h.cfg.Now()), h.cfg.Now()
			wait = min(wait, time.Duration(c.Params.Slot)*time.Second/4)
			h.votes.redraw()
			if slot != voted && v.Err() == nil {
				voted = slot
				h.votes.forget(slot - min(slot, c.Params.VoteLife/c.Params.Slot+1))
				for _, b := range h.verdicts(v, &c, slot, now, tests, after) {
					h.votes.add(matter{b.node, b.verdict, b.slot}, b.vote)
					list, err := h.Poll(ctx, nil)
					if err != nil {
						continue
					}
					for _, k := range h.votes.drawn(v, slot, b.node) {
						if to, ok := list.Find(k); ok && k != h.cfg.Keys.Ed25519() {
							tell(to, b.encode())
						}
					}
				}
			}
			h.write(v, &c, now, tests, after)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-h.blocks:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// verdicts are this node's votes in a slot. Who fails with more than half of all
// has reason to look for the fault at home.
func (h *Host) verdicts(v *ledger.View, c *ledger.Chain, slot uint64, now time.Time, tests Tests, after time.Duration) (all []ballot) {
	if health := tests.Health(); health.Trouble != "" || health.Failing > health.Reachable {
		return nil
	}
	own := h.cfg.Keys.Ed25519()
	for _, k := range v.Subjects(slot) {
		reach, tested := tests.Of(k)
		if k == own || !tested {
			continue
		}
		n, ok := v.Node(k)
		if !ok {
			continue
		}
		verdict, ok := judge(n, reach, &c.Params, now, after)
		if !ok {
			continue
		}
		place := slices.Index(h.votes.drawn(v, slot, k), own)
		if place < 0 {
			continue
		}
		reasons := uint16(0)
		if verdict != ledger.Recommission {
			reasons = reasonStorage
		}
		all = append(all, ballot{k, verdict, slot, ledger.SignVote(c.ID, h.cfg.Keys, uint8(place), k, verdict, slot, reasons)})
	}
	return all
}

// judge is what follows from a tester's own tests of a node, if anything does.
func judge(n *ledger.Node, reach peertest.Reach, p *ledger.Params, now time.Time, after time.Duration) (ledger.Verdict, bool) {
	back := reach.Reachable() && reach.Passed.Unix() > n.Since
	return n.Deserves(p, now.Unix(), reach.Unreachable(now, after), back)
}

// write submits each change that has its votes, as long as this node would vote
// for it today: votes stay good for hours, and after a halt of the ledger they tell
// of nodes that are back. The first of the voters does so at once, the others when
// it seems to be gone.
func (h *Host) write(v *ledger.View, c *ledger.Chain, now time.Time, tests Tests, after time.Duration) {
	own := h.cfg.Keys.Ed25519()
	ready := make(map[matter][]ledger.Vote)
	h.votes.mu.Lock()
	for m, votes := range h.votes.votes {
		if len(votes) >= fewestVotes {
			ready[m] = slices.Clone(votes)
		}
	}
	h.votes.mu.Unlock()
	for m, votes := range ready {
		n, ok := v.Node(m.node)
		if !ok || int64(m.slot*c.Params.Slot) < n.Since {
			continue // it has happened
		}
		reach, _ := tests.Of(m.node)
		if today, ok := judge(n, reach, &c.Params, now, after); !ok || today != m.verdict {
			continue
		}
		drawn := h.votes.drawn(v, m.slot, m.node)
		// A tester that has left since gives its place to another.
		votes = slices.DeleteFunc(votes, func(a ledger.Vote) bool {
			return int(a.Tester) >= len(drawn) || !ledger.CheckVote(c.ID, drawn[a.Tester], m.node, m.verdict, m.slot, a)
		})
		needed := ledger.VotesNeeded(len(drawn))
		if needed == 0 || len(votes) < needed {
			continue
		}
		since := h.votes.since(m, now)
		rank := slices.IndexFunc(votes, func(a ledger.Vote) bool { return drawn[a.Tester] == own })
		if rank < 0 || now.Sub(since) < time.Duration(rank)*h.patience() {
			continue
		}
		tx := &ledger.Tx{Chain: c.ID, Nonce: v.Account(own).Nonce, Body: &ledger.StateChange{Node: m.node, Verdict: m.verdict, Slot: m.slot, Votes: votes}}
		switch err := h.submit(tx, h.cfg.Keys); {
		case err == nil:
			h.cfg.Log.Info("testers agree on a node", "node", hex.EncodeToString(m.node[:4]), "verdict", m.verdict.String(), "votes", len(votes))
		case errors.Is(err, engine.ErrKnown):
		default:
			h.cfg.Log.Debug("what testers agree on is not taken", "node", hex.EncodeToString(m.node[:4]), "verdict", m.verdict.String(), "error", err)
		}
	}
}

// patience is how long a transaction needs until it is in a block.
func (h *Host) patience() time.Duration {
	if h.timing.Commit == 0 {
		return 2 * timing(10*time.Second).Commit
	}
	return 2*h.timing.Commit + h.timing.Propose
}
