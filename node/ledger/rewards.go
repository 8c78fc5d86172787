package ledger

import (
	"fmt"
	"math/bits"
	"slices"
)

// The pool pays a yearly share of itself, simple interest as the public
// network's RewardRatePool.sol, in equal parts to all nodes that have been
// active for a while. What a node has earned is the growth of one index since
// the node was last paid, so nothing is written for the nodes one by one.

func (d *draft) saveRewards(r Rewards) { d.save([]byte(keyRewards), &r) }

// accrue brings the index up to the block's time. Fractions of a unit stay in
// the pool, and time that was too short for one unit each goes on counting.
func (d *draft) accrue() Rewards {
	r := d.Rewards()
	if r.Earning == 0 {
		r.At = d.now
	} else if each := r.released(&d.chain.Params, d.now) / r.Earning; each > 0 {
		r.At = d.now
		r.Index += each
		r.Pool -= each * r.Earning
		r.Owed += each * r.Earning
	} else {
		return r
	}
	d.saveRewards(r)
	return r
}

// released is what the pool pays from At until now, never more than it has.
func (r *Rewards) released(p *Params, now int64) uint64 {
	seconds := uint64(max(now-r.At, 0))
	const whole = MaxFeeBasis * secondsOfYear
	if high, low := bits.Mul64(seconds, p.RewardRate); high > 0 || low >= whole {
		return r.Pool
	}
	return mulDiv(r.Pool, seconds*p.RewardRate, whole)
}

// Pending is what a claim of the node would pay now.
func (v *View) Pending(n *Node, now int64) uint64 {
	if !n.Payable {
		return 0
	}
	r, c := v.Rewards(), v.Chain()
	var each uint64
	if r.Earning > 0 {
		each = r.released(&c.Params, now) / r.Earning
	}
	return r.Index + each - n.Index
}

// settle pays what the node has earned to its beneficiaries: the operator's fee,
// then to everybody by the stake. The caller saves the node.
func (d *draft) settle(n *Node) (paid uint64) {
	if !n.Payable {
		return 0
	}
	r := d.accrue()
	due := r.Index - n.Index
	if due == 0 {
		return 0
	}
	n.Index = r.Index
	fee := mulDiv(due, uint64(n.Fee), MaxFeeBasis)
	stake := n.Stake()
	for i, o := range n.Contributors {
		part := mulDiv(due-fee, o.Amount, max(stake, 1))
		if i == 0 {
			part += fee
		}
		d.pay(o.Beneficiary, part)
		paid += part
	}
	r.Owed -= due
	r.Pool += due - paid
	d.saveRewards(r)
	return paid
}

func (d *draft) claim(who Address, b *Claim) error {
	n, ok := d.Node(b.Node)
	if !ok {
		return fmt.Errorf("%w: %x", ErrUnknown, b.Node[:4])
	}
	if !slices.ContainsFunc(n.Contributors, func(o Contributor) bool { return o.Staker == who || o.Beneficiary == who }) {
		return fmt.Errorf("%w: no stake of this account is in the node", ErrNotYours)
	}
	if d.settle(n) == 0 {
		return fmt.Errorf("%w: nothing to claim", ErrTooSoon)
	}
	d.saveNode(n)
	return nil
}

// startEarning is called when a node may have been active for long enough.
func (d *draft) startEarning(n *Node) {
	if n.Status != Active || n.Payable || d.now < n.Since+int64(d.chain.Params.PayableAfter) {
		return
	}
	r := d.accrue()
	r.Earning++
	d.saveRewards(r)
	n.Payable, n.Index = true, r.Index
	d.saveNode(n)
}

// stopEarning pays the node and takes it out of the division. The caller saves
// the node.
func (d *draft) stopEarning(n *Node) {
	if !n.Payable {
		return
	}
	d.settle(n)
	r := d.Rewards()
	// Less than one unit each may have come since: it is shared among the others.
	r.Earning--
	d.saveRewards(r)
	n.Payable = false
}
