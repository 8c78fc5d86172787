package ledger

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"hearth/node/swarm"
)

// ErrAudit reports a state that should not exist.
var ErrAudit = errors.New("ledger invariant broken")

// Auditor checks after each block what must hold after each block. It plays the
// engine's part as far as that counts members, and remembers what the state
// forgets. Tests and simulations run it; a node does not need it.
type Auditor struct {
	engine map[Key]uint64 // the set that the engine has, once all updates act
	last   map[Key]last   // when a key was last in a set that decided
	acts   []acting       // updates that do not act yet
	held   map[Key]Key    // node → consensus key, of nodes with a stake
}

type last struct {
	height uint64
	time   int64
}

type acting struct {
	height  uint64
	members map[Key]uint64
}

// NewAuditor starts with the committee of genesis.
func NewAuditor(first []Validator) *Auditor {
	a := &Auditor{engine: make(map[Key]uint64), last: make(map[Key]last), held: make(map[Key]Key)}
	for _, m := range first {
		a.engine[m.Consensus] = m.Power
	}
	a.acts = []acting{{0, maps.Clone(a.engine)}}
	return a
}

// Deciding returns who decides on the block of that height, which must be the
// one after the last that was checked.
func (a *Auditor) Deciding(height uint64) map[Key]uint64 {
	for len(a.acts) > 1 && a.acts[1].height <= height {
		a.acts = a.acts[1:]
	}
	return a.acts[0].members
}

// Check looks at the state after a block. The error is [ErrAudit].
func (a *Auditor) Check(b *Block, r *Result, v *View) error {
	now := b.Time.Unix()
	for k := range a.Deciding(b.Height) {
		a.last[k] = last{b.Height, now}
	}
	if r.Suppressed != nil {
		return fmt.Errorf("%w: %w", ErrAudit, r.Suppressed)
	}
	if err := CheckUpdates(a.engine, r.Updates); len(r.Updates) > 0 && err != nil {
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	if len(r.Updates) > 0 {
		for _, u := range r.Updates {
			if u.Power == 0 {
				delete(a.engine, u.Consensus)
			} else {
				a.engine[u.Consensus] = u.Power
			}
		}
		a.acts = append(a.acts, acting{b.Height + 2, maps.Clone(a.engine)})
	}
	c := v.Chain()
	nodes := v.Nodes()
	held := make(map[Key]Key, len(nodes))
	for _, n := range nodes {
		held[n.Key] = n.Consensus
	}
	for node, consensus := range a.held {
		if held[node] == consensus {
			continue
		}
		if l, was := a.last[consensus]; was {
			if age := now - l.time; age <= int64(c.Params.EvidenceAge) {
				return fmt.Errorf("%w: node %x was paid back %d s after it last decided", ErrAudit, node[:4], age)
			}
			if blocks := b.Height - l.height; blocks <= c.Params.EvidenceBlocks {
				return fmt.Errorf("%w: node %x was paid back %d blocks after it last decided", ErrAudit, node[:4], blocks)
			}
		}
	}
	a.held = held

	committee := make(map[Key]uint64)
	for _, m := range v.Committee() {
		committee[m.Consensus] = m.Power
	}
	if !maps.Equal(committee, a.engine) {
		return fmt.Errorf("%w: the committee has %d members, the engine's set has %d", ErrAudit, len(committee), len(a.engine))
	}
	return CheckState(v)
}

// CheckState looks at one state alone. The error is [ErrAudit].
func CheckState(v *View) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrAudit, fmt.Sprintf(format, args...))
	}
	c, r, nodes := v.Chain(), v.Rewards(), v.Nodes()

	var balances, stakes, owed, earning uint64
	v.each(prefixAccount, func(key, value []byte) {
		var a Account
		v.fail(decode(value, &a))
		balances += a.Balance
	})
	active := make(map[Key]bool)
	byConsensus := make(map[Key]*Node)
	for _, n := range nodes {
		stake := n.Stake()
		stakes += stake
		if n.Payable {
			if n.Status != Active || n.Index > r.Index {
				return bad("node %x earns and is %v at index %d of %d", n.Key[:4], n.Status, n.Index, r.Index)
			}
			earning++
			owed += r.Index - n.Index
		}
		if n.Status == Active {
			active[n.Key] = true
		}
		if _, twice := byConsensus[n.Consensus]; twice {
			return bad("two nodes have the consensus key %x", n.Consensus[:4])
		}
		byConsensus[n.Consensus] = n
		slashed := v.Barred(n.Consensus)
		if len(n.Contributors) == 0 || len(n.Contributors) > MaxContributors || stake > n.Requirement {
			return bad("node %x has %d contributors with %d units", n.Key[:4], len(n.Contributors), stake)
		}
		if n.Status != Awaiting && !slashed && stake != n.Requirement || n.Status == Awaiting && stake == n.Requirement {
			return bad("node %x is %v with %d of %d units", n.Key[:4], n.Status, stake, n.Requirement)
		}
		if slashed && n.Status != Leaving {
			return bad("node %x signed twice and is %v", n.Key[:4], n.Status)
		}
	}
	if sum := balances + stakes + r.Pool + r.Owed + r.Slashed; sum != c.Supply {
		return bad("%d balances + %d stakes + %d pool + %d owed + %d slashed are %d, the supply is %d", balances, stakes, r.Pool, r.Owed, r.Slashed, sum, c.Supply)
	}
	if owed != r.Owed || earning != r.Earning {
		return bad("%d units are owed to %d nodes, the books say %d to %d", owed, earning, r.Owed, r.Earning)
	}

	members := v.Consensus()
	powerful := 0
	for _, m := range members {
		n := byConsensus[m.Consensus]
		if n == nil || n.Key != m.Node {
			return bad("consensus key %x belongs to no node", m.Consensus[:4])
		}
		if m.Power > 0 {
			powerful++
			if n.Status == Awaiting || n.LeftHeight != 0 {
				return bad("member %x is %v, left at %d", n.Key[:4], n.Status, n.LeftHeight)
			}
		}
	}
	if len(members) != len(nodes) || powerful == 0 || powerful > MaxCommittee {
		return bad("%d nodes, %d consensus keys, %d members", len(nodes), len(members), powerful)
	}

	in := make(map[Key]bool)
	swarms := v.Swarms()
	for id, members := range swarms {
		if id == swarm.None || len(members) == 0 || !slices.IsSortedFunc(members, compareKeys) {
			return bad("swarm %v with %d members", id, len(members))
		}
		for _, k := range members {
			if in[k] || !active[k] {
				return bad("node %x is twice in a swarm, or not active", k[:4])
			}
			in[k] = true
		}
	}
	if len(in) != len(active) {
		return bad("%d of %d active nodes are in swarms", len(in), len(active))
	}
	if h := v.ListHead(); h.Hash != sha256.Sum256(EncodeList(v.Active())) {
		return bad("list %d is not that of the active nodes", h.Serial)
	}

	type due struct {
		e event
		k Key
	}
	events := make(map[due]bool)
	v.each(prefixDue, func(key, _ []byte) {
		if len(key) == 41 {
			events[due{event(key[8]), Key(key[9:])}] = true
		}
	})
	for _, n := range nodes {
		for _, must := range []struct {
			when bool
			e    event
		}{
			{n.Status == Awaiting, eventExpire},
			{n.Status == Leaving, eventRelease},
			{n.Status == Active && !n.Payable, eventPayable},
			{n.Status != Leaving && n.UnlockHeight != 0, eventUnlock},
			{n.LeftHeight != 0 && n.Left == 0, eventLeft},
		} {
			if must.when && !events[due{must.e, n.Key}] {
				return bad("node %x is %v and waits for event %d, which will not come", n.Key[:4], n.Status, must.e)
			}
		}
	}
	if v.Err() != nil {
		return fmt.Errorf("%w: %w", ErrAudit, v.Err())
	}
	return nil
}
