package swarm

import (
	"cmp"
	"slices"
)

// Rules are the sizes that [Compose] works towards. The percentiles pick a place
// in the list of swarms ordered by size: 0 is the smallest, 100 the largest.
type Rules struct {
	MinSize     int // a swarm below it is refilled or dissolved; members above it are excess
	IdealMargin int // how far above MinSize every swarm should be before another one is made
	NewSize     int // members of a new swarm

	FillPercentile      int // a new node goes to a swarm not larger than the one at this place
	DissolvedPercentile int // the same for the nodes of a swarm that was dissolved
	StealPercentile     int // swarms larger than the one at this place, less one, give members to starving ones
}

// MainnetRules are the values of the public network (oxen-core,
// src/cryptonote_core/service_node_rules.h).
var MainnetRules = Rules{
	MinSize: 5, IdealMargin: 2, NewSize: 7,
	FillPercentile: 25, DissolvedPercentile: 0, StealPercentile: 75,
}

// Compose gives every node a swarm, as every chain daemon does after a block
// that changed the set of active nodes (oxen-core, calc_swarm_changes). members
// are the active nodes by their current swarm, those without one under None;
// seed is the first 8 bytes of the block's hash, read as a little-endian number.
// The result is the whole new layout; members stays as it is.
//
// It is consensus code: the order of the steps and of every draw is part of the
// result, and so is the order of the members in the input. The daemon begins
// every run with the keys of each swarm in ascending order; new members come out
// behind the old ones.
func Compose(r Rules, members map[ID][][32]byte, seed uint64) map[ID][][32]byte {
	if len(members) == 0 {
		return map[ID][][32]byte{}
	}
	c := composer{rules: r, random: newTwister(seed)}
	var unassigned [][32]byte
	for id, nodes := range members {
		if id == None {
			unassigned = nodes
		} else {
			c.add(id, slices.Clone(nodes))
		}
	}
	if len(c.swarms) == 0 {
		c.add(c.newID(), nil)
	}
	c.assign(unassigned, r.FillPercentile)
	c.steal()
	c.createFromExcess()
	for len(c.swarms) > 1 {
		i := slices.IndexFunc(c.swarms, func(s composed) bool { return len(s.nodes) < r.MinSize })
		if i < 0 {
			break
		}
		dissolved := c.swarms[i].nodes
		c.swarms = slices.Delete(c.swarms, i, i+1)
		c.assign(dissolved, r.DissolvedPercentile)
	}
	result := make(map[ID][][32]byte, len(c.swarms))
	for _, s := range c.swarms {
		result[s.id] = s.nodes
	}
	return result
}

type composed struct {
	id    ID
	nodes [][32]byte
}

// composer is one run of Compose.
type composer struct {
	rules  Rules
	random *twister
	swarms []composed // ascending by id
}

func (c *composer) add(id ID, nodes [][32]byte) {
	i, _ := slices.BinarySearchFunc(c.swarms, id, func(s composed, id ID) int { return cmp.Compare(s.id, id) })
	c.swarms = slices.Insert(c.swarms, i, composed{id, nodes})
}

// sized is a swarm (by place in composer.swarms) with the size it had when the
// list was made.
type sized struct{ swarm, size int }

// bySize orders the swarms by size.
func (c *composer) bySize() []sized {
	l := make([]sized, len(c.swarms))
	for i, s := range c.swarms {
		l[i] = sized{i, len(s.nodes)}
	}
	sortLikeLibstdcxx(l, func(a, b sized) bool { return a.size < b.size })
	return l
}

// assign puts the nodes, one at a time, into swarms that are not larger than
// the one at the percentile.
func (c *composer) assign(nodes [][32]byte, percentile int) {
	for _, n := range nodes {
		l := c.bySize()
		at := l[percentile*(len(l)-1)/100].size
		eligible := 0
		for eligible < len(l) && l[eligible].size <= at {
			eligible++
		}
		pick := l[c.random.uniform(eligible)].swarm
		c.swarms[pick].nodes = append(c.swarms[pick].nodes, n)
		c.createFromExcess()
	}
}

// createFromExcess makes new swarms as long as the others have enough members
// to spare.
func (c *composer) createFromExcess() {
	for _, s := range c.swarms {
		if len(s.nodes) < c.rules.MinSize {
			return
		}
	}
	for {
		excess := 0
		for _, s := range c.swarms {
			excess += len(s.nodes) - c.rules.MinSize
		}
		if c.rules.NewSize <= 0 || excess < c.rules.NewSize+c.rules.IdealMargin*len(c.swarms) {
			return
		}
		var nodes [][32]byte
		for range c.rules.NewSize {
			n, ok := c.take(c.rules.MinSize)
			if !ok {
				return
			}
			nodes = append(nodes, n)
		}
		c.add(c.newID(), nodes)
	}
}

// take removes a random node from the swarms with more than above members.
func (c *composer) take(above int) ([32]byte, bool) {
	total := 0
	for _, s := range c.swarms {
		if len(s.nodes) > above {
			total += len(s.nodes)
		}
	}
	if total == 0 {
		return [32]byte{}, false
	}
	at := c.random.uniform(total)
	for i := range c.swarms {
		s := &c.swarms[i]
		if len(s.nodes) <= above {
			continue
		}
		if at < len(s.nodes) {
			n := s.nodes[at]
			s.nodes = slices.Delete(s.nodes, at, at+1)
			return n, true
		}
		at -= len(s.nodes)
	}
	panic("swarm: drew a node beyond the last one")
}

// steal refills swarms below the minimum from large ones.
func (c *composer) steal() {
	l := c.bySize() // not made anew during the round, as upstream
	for _, starving := range l {
		if starving.size >= c.rules.MinSize {
			return
		}
		for len(c.swarms[starving.swarm].nodes) < c.rules.MinSize {
			large := l[c.rules.StealPercentile*(len(l)-1)/100].size
			if large == 0 {
				return // upstream subtracts from an unsigned 0: nothing is larger than the result
			}
			above := max(c.rules.MinSize, large-1)
			excess := 0
			for _, s := range c.swarms {
				if len(s.nodes) > above {
					excess += len(s.nodes) - c.rules.MinSize
				}
			}
			if excess < c.rules.MinSize-len(c.swarms[starving.swarm].nodes) {
				return
			}
			n, ok := c.take(above)
			if !ok {
				return
			}
			c.swarms[starving.swarm].nodes = append(c.swarms[starving.swarm].nodes, n)
		}
	}
}

// newID is the middle of the widest gap between swarms in the ring, which does
// not contain None.
func (c *composer) newID() ID {
	const highest = uint64(None) - 1
	if len(c.swarms) == 0 {
		return 0
	}
	var left, widest uint64
	for i, s := range c.swarms {
		var gap uint64
		if i+1 < len(c.swarms) {
			gap = uint64(c.swarms[i+1].id - s.id)
		} else {
			gap = highest - uint64(s.id) + uint64(c.swarms[0].id) + 1
		}
		if gap > widest {
			left, widest = uint64(s.id), gap
		}
	}
	half, room := widest/2, highest-left
	if half > room {
		return ID(half - room - 1)
	}
	return ID(left + half)
}
