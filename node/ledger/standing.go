package ledger

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// activate puts a waiting node into service.
func (d *draft) activate(n *Node) {
	n.Status, n.Since = Active, d.now
	d.schedule(d.now+int64(d.chain.Params.PayableAfter), eventPayable, n.Key)
	d.saveNode(n)
	d.regroup = true
}

// leaveService is the end of being active, for a while or for good. The caller
// saves the node.
func (d *draft) leaveService(n *Node) {
	if n.Status != Active {
		return
	}
	d.stopEarning(n)
	d.unschedule(n.Since+int64(d.chain.Params.PayableAfter), eventPayable, n.Key)
	d.regroup = true
}

// Slot is the number of the slot at a time: one set of testers and of nodes to
// test is drawn for each.
func (c *Chain) Slot(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) / c.Params.Slot }

// seedOf returns the seed with which a slot is drawn, and the time at which the
// seed was made. Votes of a slot stay good for one more epoch.
func (c *Chain) seedOf(slot uint64) (seed Key, since int64, ok bool) {
	switch start := int64(slot * c.Params.Slot); {
	case start >= c.Started:
		return c.Seed, c.Started, true
	case start >= c.LastEpoch:
		return c.LastSeed, c.LastEpoch, true
	}
	return Key{}, 0, false
}

// draw orders nodes by a hash that nobody knew when the nodes' keys were made.
// Whoever leaves changes nothing in the order of the others.
func draw(purpose string, seed Key, number uint64, nodes []*Node) []*Node {
	type drawn struct {
		lot  [32]byte
		node *Node
	}
	lots := make([]drawn, len(nodes))
	message := binary.BigEndian.AppendUint64(slices.Concat([]byte(purpose), seed[:]), number)
	for i, n := range nodes {
		lots[i] = drawn{sha256.Sum256(append(message[:len(message):len(message)], n.Key[:]...)), n}
	}
	slices.SortFunc(lots, func(a, b drawn) int {
		return cmp.Or(bytes.Compare(a.lot[:], b.lot[:]), bytes.Compare(a.node.Key[:], b.node.Key[:]))
	})
	ordered := make([]*Node, len(lots))
	for i, l := range lots {
		ordered[i] = l.node
	}
	return ordered
}

const drawTesters, drawSubjects, drawMembers = "hearth ledger v1 testers", "hearth ledger v1 subjects", "hearth ledger v1 committee"

// Testers returns who judges subject in a slot: ten nodes that were active
// before the slot's seed was made, or all while there are fewer. Votes name them
// by their place. It is nil for a slot whose seed is forgotten.
func (v *View) Testers(slot uint64, subject Key) []Key {
	c := v.Chain()
	return keysOf(testers(&c, slot, subject, v.Nodes()))
}

func testers(c *Chain, slot uint64, subject Key, nodes []*Node) []*Node {
	seed, since, ok := c.seedOf(slot)
	if !ok {
		return nil
	}
	var able []*Node
	for _, n := range nodes {
		if n.Status == Active && n.Since <= since && n.Key != subject {
			able = append(able, n)
		}
	}
	able = draw(drawTesters, seed, slot, able)
	return able[:min(len(able), testersOfSlot)]
}

// Subjects returns the nodes that are judged in a slot: all while they are
// fewer than fifty, then fifty or one in a hundred.
func (v *View) Subjects(slot uint64) []Key {
	c := v.Chain()
	return keysOf(subjects(&c, slot, v.Nodes()))
}

func subjects(c *Chain, slot uint64, nodes []*Node) []*Node {
	seed, _, ok := c.seedOf(slot)
	if !ok {
		return nil
	}
	var able []*Node
	for _, n := range nodes {
		if n.Status == Active || n.Status == Decommissioned {
			able = append(able, n)
		}
	}
	able = draw(drawSubjects, seed, slot, able)
	return able[:min(len(able), max(subjectsOfSlot, len(able)/100))]
}

func keysOf(nodes []*Node) []Key {
	var all []Key
	for _, n := range nodes {
		all = append(all, n.Key)
	}
	return all
}

// VotesNeeded is how many of so many testers carry a state change: seven of ten.
// 0 means that there are too few testers to change anything.
func VotesNeeded(testers int) int {
	if testers < fewestTesters {
		return 0
	}
	return 2*testers/3 + 1
}

// Deserves is the verdict that an honest tester votes for: gone when the node
// failed its tests for long enough, back when it has passed one since it is in its
// present state. The second result is false when there is nothing to vote for.
func (n *Node) Deserves(p *Params, now int64, gone, back bool) (Verdict, bool) {
	credit := n.CreditAt(p, now)
	switch {
	case gone && n.Status == Active && credit >= int64(p.CreditLeast):
		return Decommission, true
	case gone && (n.Status == Active || n.Status == Decommissioned && credit < 0):
		return Deregister, true
	case n.Status == Decommissioned && back:
		return Recommission, true
	}
	return 0, false
}

// changeState decommissions, recommissions or deregisters a node. Testers say
// that it fails or passes; what follows from that is up to its credit (oxen-core,
// quorum_cop::process_quorums), so that lying testers cannot take more from a
// node than an outage would.
func (d *draft) changeState(who Address, b *StateChange) error {
	p := &d.chain.Params
	start := int64(min(b.Slot, uint64(d.now)/p.Slot+1) * p.Slot)
	n, ok := d.Node(b.Node)
	switch {
	case !ok:
		return fmt.Errorf("%w: %x", ErrUnknown, b.Node[:4])
	case start > d.now:
		return fmt.Errorf("%w: slot %d has not begun", ErrTooSoon, b.Slot)
	case start+int64(p.VoteLife) < d.now:
		return fmt.Errorf("%w: votes of slot %d are too old", ErrVotes, b.Slot)
	case n.Status != Active && n.Status != Decommissioned:
		return fmt.Errorf("%w: the node is %v", ErrStatus, n.Status)
	case start < n.Since:
		return fmt.Errorf("%w: the node is %v since after slot %d began", ErrVotes, n.Status, b.Slot)
	}
	credit := n.CreditAt(p, d.now)
	switch {
	case b.Verdict == Recommission && n.Status == Decommissioned,
		b.Verdict == Decommission && n.Status == Active && credit >= int64(p.CreditLeast),
		b.Verdict == Deregister && n.Status == Active && credit < int64(p.CreditLeast),
		b.Verdict == Deregister && n.Status == Decommissioned && credit < 0:
	default:
		return fmt.Errorf("%w: cannot %v a node that is %v with a credit of %d s", ErrStatus, b.Verdict, n.Status, credit)
	}
	if len(b.Votes) < fewestTesters-1 {
		return fmt.Errorf("%w: %d are never enough", ErrVotes, len(b.Votes))
	}

	nodes := d.Nodes()
	if !slices.ContainsFunc(subjects(&d.chain, b.Slot, nodes), func(s *Node) bool { return s.Key == n.Key }) {
		return fmt.Errorf("%w: the node is not judged in slot %d", ErrVotes, b.Slot)
	}
	drawn := testers(&d.chain, b.Slot, n.Key, nodes)
	if needed := VotesNeeded(len(drawn)); needed == 0 || len(b.Votes) < needed {
		return fmt.Errorf("%w: %d of %d testers, %d are needed", ErrVotes, len(b.Votes), len(drawn), needed)
	}
	if !slices.ContainsFunc(drawn, func(t *Node) bool { return t.Key == who }) {
		return fmt.Errorf("%w: one of the slot's testers sends the change", ErrNotYours)
	}
	all, some := ^uint16(0), uint16(0)
	for i, v := range b.Votes {
		if i > 0 && v.Tester <= b.Votes[i-1].Tester || int(v.Tester) >= len(drawn) {
			return fmt.Errorf("%w: tester %d is out of order or is none", ErrVotes, v.Tester)
		}
		if !CheckVote(d.chain.ID, drawn[v.Tester].Key, n.Key, b.Verdict, b.Slot, v) {
			return fmt.Errorf("%w: of tester %d", ErrSignature, v.Tester)
		}
		all, some = all&v.Reasons, some|v.Reasons
	}

	switch b.Verdict {
	case Deregister:
		n.ReasonsAll, n.ReasonsAny = all, some
		d.depart(n, d.now+int64(p.DeregisterLock))
		return nil
	case Decommission:
		d.leaveService(n)
		n.Status, n.Credit = Decommissioned, uint64(credit)
		n.ReasonsAll, n.ReasonsAny = all, some
		n.Outages++
	case Recommission:
		// Twice the outage is taken from the credit that there was before it.
		n.Credit = uint64(max(int64(n.Credit)-2*(d.now-n.Since), 0))
		n.Status = Waiting
	}
	n.Since = d.now
	d.saveNode(n)
	return nil
}

func (d *draft) changeParameter(b *ParameterChange) error {
	if b.Serial != d.chain.Serial {
		return fmt.Errorf("%w: for change %d, the next one is %d", ErrNonce, b.Serial, d.chain.Serial)
	}
	i, err := votable(b.Name)
	if err != nil {
		return err
	}
	if d.chain.Serial > 0 && d.chain.Changed == d.chain.Epoch {
		return fmt.Errorf("%w: one parameter may change in an epoch", ErrTooSoon)
	}
	p := &parameters[i]
	value := p.of(&d.chain.Params)
	if err := p.step(*value, b.Value); err != nil {
		return err
	}
	if b.Value == *value {
		return fmt.Errorf("%w: %s is %d", ErrBounds, b.Name, b.Value)
	}
	members := d.Committee()
	if 3*len(b.Votes) <= 2*len(members) {
		return fmt.Errorf("%w: %d of %d members", ErrVotes, len(b.Votes), len(members))
	}
	m := parameterMessage(d.chain.ID, b.Name, b.Value, b.Serial)
	for i, v := range b.Votes {
		if i > 0 && v.Member <= b.Votes[i-1].Member || int(v.Member) >= len(members) {
			return fmt.Errorf("%w: member %d is out of order or is none", ErrVotes, v.Member)
		}
		if !verify(members[v.Member].Node, m, v.Signature) {
			return fmt.Errorf("%w: of member %d", ErrSignature, v.Member)
		}
	}
	*value = b.Value
	d.chain.Serial++
	d.chain.Changed = d.chain.Epoch
	d.saveChain()
	return nil
}
