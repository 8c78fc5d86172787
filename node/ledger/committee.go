package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"hearth/node/keys"
)

// All stakes are equal, so all members have equal power, and "the richest" would
// mean nothing: all nodes are members while they are few, and later a drawn
// hundred of them that is renewed slowly. A set drawn at once can have too many
// bad members; drawing rarely is what keeps that unlikely.

// memberPower is the voting power of a member.
const memberPower = 1

// ErrUpdate reports a change of the committee that would halt the engine.
var ErrUpdate = errors.New("change of the committee not possible")

// CheckUpdates says whether the engine can apply the updates to the set of
// members that it has: a key is mentioned once, only members are taken out, none
// has a power that is not a member's, and the set does not become empty.
// Whatever the engine does not take halts it, and with it the whole network.
func CheckUpdates(members map[Key]uint64, updates []Validator) error {
	after := maps.Clone(members)
	if after == nil {
		after = make(map[Key]uint64)
	}
	seen := make(map[Key]bool, len(updates))
	for _, u := range updates {
		switch {
		case seen[u.Consensus]:
			return fmt.Errorf("%w: %x is mentioned twice", ErrUpdate, u.Consensus[:4])
		case u.Power > memberPower:
			return fmt.Errorf("%w: %x with a power of %d", ErrUpdate, u.Consensus[:4], u.Power)
		case u.Power == 0 && after[u.Consensus] == 0:
			return fmt.Errorf("%w: %x is taken out and was not in", ErrUpdate, u.Consensus[:4])
		case u.Power > 0 && after[u.Consensus] == 0 && len(after) >= 2*MaxCommittee:
			return fmt.Errorf("%w: too many members", ErrUpdate)
		}
		if _, err := keys.X25519FromEd25519(u.Consensus); u.Power > 0 && err != nil {
			return fmt.Errorf("%w: %w", ErrUpdate, err)
		}
		seen[u.Consensus] = true
		if u.Power == 0 {
			delete(after, u.Consensus)
		} else {
			after[u.Consensus] = u.Power
		}
	}
	if len(after) == 0 {
		return fmt.Errorf("%w: nobody would be left", ErrUpdate)
	}
	if len(after) > MaxCommittee && len(after) > len(members) {
		return fmt.Errorf("%w: %d members, at most %d allowed", ErrUpdate, len(after), MaxCommittee)
	}
	return nil
}

// updates returns what the engine is told, checked. A change that does not pass
// is taken back.
func (d *draft) updates() ([]Validator, error) {
	if len(d.powers) == 0 {
		return nil, nil
	}
	before := make(map[Key]uint64)
	var updates []Validator
	for _, m := range d.Consensus() {
		old, changed := d.powers[m.Consensus]
		if !changed {
			old = m.Power
		}
		if old > 0 {
			before[m.Consensus] = old
		}
		if m.Power != old {
			updates = append(updates, m)
		}
	}
	if len(updates) == 0 {
		return nil, nil
	}
	err := CheckUpdates(before, updates)
	if err == nil {
		return updates, nil
	}
	for _, u := range updates {
		m, _ := d.member(u.Consensus)
		m.Power = d.powers[u.Consensus]
		d.saveMember(u.Consensus, m)
	}
	return nil, err
}

// setPower changes a member and remembers what it was before the block.
func (d *draft) setPower(consensus Key, m member, power uint64) {
	if _, known := d.powers[consensus]; !known {
		d.powers[consensus] = m.Power
	}
	m.Power, m.Absent, m.Noted = power, 0, 0
	d.saveMember(consensus, m)
}

// size is how many members there are at this moment of the block.
func (d *draft) size() int { return len(d.Committee()) }

// removeMember takes a node out of the committee unless fewer than floor members
// would remain. It saves the node.
func (d *draft) removeMember(n *Node, floor int) bool {
	m, ok := d.member(n.Consensus)
	if !ok || m.Power == 0 || d.size()-1 < floor {
		return false
	}
	d.setPower(n.Consensus, m, 0)
	// An update acts two blocks later; only then does the time begin in which
	// evidence against the key can still come.
	n.LeftHeight, n.Left = d.block.Height+2, 0
	d.saveNode(n)
	d.schedule(d.now, eventLeft, n.Key)
	return true
}

// noteLeft writes when the first block was decided without a former member.
func (d *draft) noteLeft(n *Node, at int64) (again int64) {
	switch {
	case n.LeftHeight == 0 || n.Left != 0:
		return 0 // it is a member again, or this is noted
	case d.block.Height < n.LeftHeight:
		return at
	}
	n.Left = d.now
	d.saveNode(n)
	return 0
}

// present notes whether a member signed. Writing costs a block, so it happens at
// most once in a while for each member, and only when there is something new: a
// member that is absent whenever it is looked at, often enough in a row, leaves.
func (d *draft) present(s Presence) {
	m, ok := d.member(s.Consensus)
	p := &d.chain.Params
	if !ok || m.Power == 0 || !s.Absent && m.Absent == 0 || d.now < m.Noted+int64(p.AbsentStep) {
		return
	}
	m.Noted = d.now
	if !s.Absent {
		m.Absent, m.Noted = 0, 0
		d.saveMember(s.Consensus, m)
		return
	}
	m.Absent = min(m.Absent+1, p.AbsentSteps)
	d.saveMember(s.Consensus, m)
	if m.Absent < p.AbsentSteps {
		return
	}
	n, ok := d.Node(m.Node)
	if !ok {
		return
	}
	// Never below two thirds of the members with which the epoch began.
	floor := max(floorOfMembers, int(2*d.chain.Committee+2)/3)
	if d.removeMember(n, floor) {
		n.Jailed = d.now + int64(p.Jail)
		d.saveNode(n)
	}
}

// chooseCommittee lets members go and come at the end of an epoch, at most a
// tenth of them each way.
func (d *draft) chooseCommittee() {
	p := &d.chain.Params
	members := make(map[Key]bool)
	for _, m := range d.Committee() {
		members[m.Node] = true
	}
	size := len(members)
	budget := max(1, size/10)

	var joiners, staying []*Node
	type leaver struct {
		node  *Node
		order int
		floor int
	}
	var leavers []leaver
	for _, n := range d.Nodes() {
		able := n.Status == Active && n.UnlockHeight == 0 && n.Jailed <= d.now && !d.Barred(n.Consensus)
		switch {
		case able && members[n.Key]:
			staying = append(staying, n)
		case able:
			joiners = append(joiners, n)
		case !members[n.Key]:
		case d.Barred(n.Consensus):
			leavers = append(leavers, leaver{n, 0, 1})
		case n.Status == Leaving:
			leavers = append(leavers, leaver{n, 1, 1})
		case n.UnlockHeight != 0 && d.now >= n.UnlockAt+(fallbackOfLeave-1)*int64(p.Unlock):
			leavers = append(leavers, leaver{n, 2, 1})
		case n.Status != Active:
			leavers = append(leavers, leaver{n, 3, floorOfMembers})
		default:
			leavers = append(leavers, leaver{n, 4, floorOfMembers})
		}
	}
	slices.SortStableFunc(leavers, func(a, b leaver) int { return cmp.Compare(a.order, b.order) })
	leavers = leavers[:min(budget, len(leavers))]
	staying = draw(drawMembers, d.chain.Seed, 0, staying)
	joiners = draw(drawMembers, d.chain.Seed, 0, joiners)

	most := int(min(p.Committee, MaxCommittee))
	for _, n := range staying { // when the committee was made smaller by a vote
		if size-len(leavers) <= most || len(leavers) >= budget {
			break
		}
		leavers = append(leavers, leaver{n, 5, floorOfMembers})
	}
	joining := min(budget, len(joiners), max(0, most-(size-len(leavers))))
	if joining == 0 && len(leavers) == 0 && size == most && len(joiners) > 0 {
		leavers = append(leavers, leaver{staying[0], 6, floorOfMembers})
		joining = 1
	}

	for _, n := range joiners[:joining] {
		m, ok := d.member(n.Consensus)
		if !ok {
			d.fail(fmt.Errorf("node %x has no consensus key", n.Key[:4]))
			return
		}
		d.setPower(n.Consensus, m, memberPower)
		n.Left, n.LeftHeight = 0, 0
		d.saveNode(n)
	}
	for _, l := range leavers {
		d.removeMember(l.node, l.floor)
	}
	d.chain.Committee = uint64(d.size())
}

func verify(k Key, m []byte, sig [64]byte) bool { return keys.Verify(k, m, sig[:]) }
