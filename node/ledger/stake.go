package ledger

import (
	"fmt"
	"slices"

	"hearth/node/keys"
	"hearth/node/ledger/vrf"
)

// register follows the rules of the public network's contract and daemon
// (ServiceNodeRewards.sol, oxen-core validate_registration): a quarter of the
// stake is the operator's, and every further share is at least an equal part of
// what is left.
func (d *draft) register(operator Address, b *Register) error {
	p := &d.chain.Params
	if len(b.Shares) == 0 || b.Shares[0].Staker != operator {
		return fmt.Errorf("%w: the first share is the operator's, who signs", ErrNotYours)
	}
	if b.Fee > MaxFeeBasis {
		return fmt.Errorf("%w: a fee of %d, at most %d", ErrAmount, b.Fee, MaxFeeBasis)
	}
	n := &Node{
		Key: b.Node, Consensus: b.Consensus, Beacon: b.Beacon, Status: Awaiting, Since: d.now,
		Requirement: p.Requirement, Fee: b.Fee, Endpoint: b.Endpoint, EndpointAt: d.now,
		Registered: d.now, Credit: p.CreditStart,
	}
	for i, s := range b.Shares {
		if slices.ContainsFunc(n.Contributors, func(o Contributor) bool { return o.Staker == s.Staker }) {
			return fmt.Errorf("%w: one staker has two shares", ErrTaken)
		}
		if err := n.fits(s.Amount); err != nil {
			return err
		}
		o := Contributor{Staker: s.Staker, Beneficiary: s.Beneficiary, Reserved: s.Amount}
		if i == 0 {
			o.Amount, o.Reserved = s.Amount, 0
		}
		n.Contributors = append(n.Contributors, o)
	}
	if err := b.Endpoint.usable(p.Private == 1); err != nil {
		return err
	}
	if err := checkKeys(b.Node, b.Consensus, b.Beacon); err != nil {
		return err
	}
	if _, known := d.Node(b.Node); known {
		return fmt.Errorf("%w: node %x is registered", ErrTaken, b.Node[:4])
	}
	if _, known := d.member(b.Consensus); known {
		return fmt.Errorf("%w: another node has the consensus key %x", ErrTaken, b.Consensus[:4])
	}
	if d.Barred(b.Consensus) {
		return ErrBarred
	}
	m := b.message(d.chain.ID, operator)
	if !keys.Verify(b.Node, m, b.NodeSignature[:]) || !keys.Verify(b.Consensus, m, b.ConsensusSignature[:]) {
		return fmt.Errorf("%w: the node's two keys must sign its registration by this operator", ErrSignature)
	}
	if err := d.take(operator, b.Shares[0].Amount); err != nil {
		return err
	}
	d.saveMember(b.Consensus, member{Node: b.Node})
	if !d.funded(n) {
		d.schedule(d.now+int64(p.Await), eventExpire, n.Key)
	}
	d.saveNode(n)
	return nil
}

// checkKeys refuses keys that cannot do their work, and one key for two
// purposes: what one of them signs must mean nothing to the other.
func checkKeys(node, consensus, beacon Key) error {
	if _, err := keys.X25519FromEd25519(node); err != nil {
		return fmt.Errorf("%w: node key: %w", ErrSignature, err)
	}
	if _, err := keys.X25519FromEd25519(consensus); err != nil {
		return fmt.Errorf("%w: consensus key: %w", ErrSignature, err)
	}
	if err := vrf.CheckKey(beacon); err != nil {
		return fmt.Errorf("%w: beacon key: %w", ErrSignature, err)
	}
	if node == consensus || node == beacon || consensus == beacon {
		return fmt.Errorf("%w: node, consensus and beacon need a key each", ErrTaken)
	}
	return nil
}

// open is how much of the stake nobody has paid or reserved.
func (n *Node) open() uint64 {
	left := n.Requirement
	for _, o := range n.Contributors {
		left -= o.Amount + o.Reserved
	}
	return left
}

// Least is what the next contributor has to bring, in units: a quarter of all
// for the operator, an equal part of the rest for the others. 0 when there is no
// room.
func (n *Node) Least() uint64 {
	parts := uint64(MaxContributors - len(n.Contributors))
	if len(n.Contributors) == 0 {
		parts = operatorShare
	}
	if parts == 0 {
		return 0
	}
	return (n.open() + parts - 1) / parts
}

// fits checks the share of a further contributor.
func (n *Node) fits(amount uint64) error {
	least, most := n.Least(), n.open()
	if amount == 0 || amount < least || amount > most || least == 0 {
		return fmt.Errorf("%w: a share of %d units, there is room for %d to %d", ErrAmount, amount, least, most)
	}
	return nil
}

// funded lets a node with all of its stake wait for the next epoch. The caller
// saves it.
func (d *draft) funded(n *Node) bool {
	if n.Stake() < n.Requirement {
		return false
	}
	n.Status, n.Since = Waiting, d.now
	return true
}

func (d *draft) addStake(staker Address, b *AddStake) error {
	n, ok := d.Node(b.Node)
	if !ok {
		return fmt.Errorf("%w: %x", ErrUnknown, b.Node[:4])
	}
	if n.Status != Awaiting {
		return fmt.Errorf("%w: the node is %v and takes no stake", ErrStatus, n.Status)
	}
	i := slices.IndexFunc(n.Contributors, func(o Contributor) bool { return o.Staker == staker })
	if i < 0 {
		if err := n.fits(b.Amount); err != nil {
			return err
		}
		n.Contributors = append(n.Contributors, Contributor{Staker: staker})
		i = len(n.Contributors) - 1
	} else if o := n.Contributors[i]; b.Amount == 0 || b.Amount < o.Reserved || b.Amount > o.Reserved+n.open() {
		return fmt.Errorf("%w: %d units, there is room for %d to %d", ErrAmount, b.Amount, max(o.Reserved, 1), o.Reserved+n.open())
	}
	if err := d.take(staker, b.Amount); err != nil {
		return err
	}
	o := &n.Contributors[i]
	o.Amount += b.Amount
	o.Reserved, o.Beneficiary = 0, b.Beneficiary
	if d.funded(n) {
		d.unschedule(n.Registered+int64(d.chain.Params.Await), eventExpire, n.Key)
	}
	d.saveNode(n)
	return nil
}

// dissolve pays back a node that did not get all of its stake.
func (d *draft) dissolve(n *Node) {
	for _, o := range n.Contributors {
		d.pay(o.Staker, o.Amount)
	}
	d.unschedule(n.Registered+int64(d.chain.Params.Await), eventExpire, n.Key)
	d.forget(n)
}

func (d *draft) forget(n *Node) {
	d.drop(stateKey(prefixNode, n.Key))
	d.drop(stateKey(prefixMember, n.Consensus))
}

func (d *draft) requestUnlock(who Address, b *RequestUnlock) error {
	n, ok := d.Node(b.Node)
	if !ok {
		return fmt.Errorf("%w: %x", ErrUnknown, b.Node[:4])
	}
	i := slices.IndexFunc(n.Contributors, func(o Contributor) bool { return o.Staker == who })
	switch p := &d.chain.Params; {
	case i < 0:
		return fmt.Errorf("%w: no stake of this account is in the node", ErrNotYours)
	case n.Status == Awaiting && i > 0:
		return fmt.Errorf("%w: the operator can call the node off; else it is paid back by itself", ErrNotYours)
	case n.Status == Awaiting:
		d.dissolve(n)
		return nil
	case n.Status == Leaving || n.UnlockHeight != 0:
		return fmt.Errorf("%w: the node is leaving", ErrStatus)
	case n.Contributors[i].Amount*operatorShare < n.Requirement && i > 0 && d.now < n.Registered+int64(p.SmallLock):
		return fmt.Errorf("%w: with less than a quarter of the stake %d s after the registration", ErrTooSoon, p.SmallLock)
	}
	n.UnlockHeight, n.UnlockAt = d.block.Height, d.now+int64(d.chain.Params.Unlock)
	d.schedule(n.UnlockAt, eventUnlock, n.Key)
	d.saveNode(n)
	d.relist = d.relist || n.Status == Active
	return nil
}

// unlock is called when the time of an unlock has come.
func (d *draft) unlock(n *Node) {
	if n.Status != Leaving && n.UnlockHeight != 0 && n.UnlockAt <= d.now {
		d.depart(n, d.now)
	}
}

// depart takes a node out of service for good. Its stake is paid back at the
// given time or later; see release.
func (d *draft) depart(n *Node, release int64) {
	d.leaveService(n)
	if n.UnlockHeight != 0 {
		d.unschedule(n.UnlockAt, eventUnlock, n.Key)
	}
	n.Status, n.Since, n.Release = Leaving, d.now, release
	d.saveNode(n)
	d.schedule(max(release, d.now+1), eventRelease, n.Key)
}

// release pays a stake back, or returns when to try again. As long as the engine
// takes evidence against a key, something must be left to take: a member's stake
// stays until the evidence age has passed in time and in blocks, counted from
// the first block that was decided without it.
func (d *draft) release(n *Node) (again int64) {
	if n.Status != Leaving {
		return 0
	}
	p := &d.chain.Params
	m, _ := d.member(n.Consensus)
	switch {
	case m.Power > 0:
		return d.now + int64(p.Epoch)
	case d.now < n.Release:
		return n.Release
	case n.LeftHeight != 0 && n.Left == 0:
		return d.now + 1
	case n.LeftHeight != 0 && d.now <= n.Left+int64(p.EvidenceAge):
		return n.Left + int64(p.EvidenceAge) + 1
	case n.LeftHeight != 0 && d.block.Height <= n.LeftHeight+p.EvidenceBlocks:
		// Some blocks are missing, and nobody knows when they come. Looking once in
		// an epoch writes little.
		return d.now + int64(p.Epoch)
	}
	for _, o := range n.Contributors {
		d.pay(o.Staker, o.Amount)
	}
	d.forget(n)
	return 0
}

// slash punishes a key that signed two different blocks of one height: it is
// barred for good, the node leaves, and a part of the stake is gone. The
// operator's share pays it, as penalties do in the public network: only the
// operator has the key.
func (d *draft) slash(consensus Key) {
	m, ok := d.member(consensus)
	if !ok || d.Barred(consensus) {
		return
	}
	n, ok := d.Node(m.Node)
	if !ok || n.Status == Awaiting {
		return
	}
	d.fail(d.over.Set(stateKey(prefixBarred, consensus), []byte{1}))
	p := &d.chain.Params
	lost := min(mulDiv(n.Requirement, p.SlashRate, MaxFeeBasis), n.Contributors[0].Amount)
	until := d.now + int64(p.DeregisterLock)
	if n.Status == Leaving {
		n.Release = max(n.Release, until) // the event that is there looks at it
		d.saveNode(n)
	} else {
		d.depart(n, until)
	}
	// Rewards are settled by the shares that earned them, so only now.
	n, _ = d.Node(m.Node)
	n.Contributors[0].Amount -= lost
	d.saveNode(n)
	r := d.Rewards()
	r.Slashed += lost
	d.saveRewards(r)
	d.removeMember(n, 1)
}

func (d *draft) changeEndpoint(who Address, b *ChangeEndpoint) error {
	n, ok := d.Node(b.Node)
	switch p := &d.chain.Params; {
	case !ok:
		return fmt.Errorf("%w: %x", ErrUnknown, b.Node[:4])
	case who != n.Key && who != n.Operator():
		return fmt.Errorf("%w: the node or its operator says where it is", ErrNotYours)
	case n.Status == Leaving:
		return fmt.Errorf("%w: the node is leaving", ErrStatus)
	case d.now < n.EndpointAt+int64(p.EndpointPause):
		return fmt.Errorf("%w: an address may change every %d s", ErrTooSoon, p.EndpointPause)
	case b.Endpoint == n.Endpoint:
		return fmt.Errorf("%w: the address is the same", ErrStatus)
	}
	if err := b.Endpoint.usable(d.chain.Params.Private == 1); err != nil {
		return err
	}
	n.Endpoint, n.EndpointAt = b.Endpoint, d.now
	d.saveNode(n)
	d.relist = d.relist || n.Status == Active
	return nil
}
