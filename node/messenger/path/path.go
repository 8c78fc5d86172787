// Package path carries requests of the messenger to service nodes through three
// others, so that none of them knows both who asks and what is asked.
//
// A list of service nodes comes in through [Pool.Replace]. The [Pool] keeps two
// guards, the only nodes that this machine ever talks to directly, and builds a
// path behind each: guard, middle, exit. [Client.Ask] wraps a storage request in
// onion layers, posts it to the guard of a path that does not hold the
// destination, and gives back the destination's answer. What fails is judged
// ([Verdict]) and counted: a node or a path with three failures is replaced.
// [Client.KeepFresh] exchanges the middle and the exit of each path every ten
// minutes or so; the guards stay, over restarts too, as long as they work.
//
// The rules (sizes, strikes, statuses) are those of Session desktop, with the
// choice of nodes by /24 net as Session android does it.
package path

import (
	"errors"
	"net/netip"

	"hearth/node/onion"
	"hearth/node/swarm"
)

// Sizes from Session desktop and Session android.
const (
	Hops       = 3 // nodes of a path: guard, middle, exit
	WantPaths  = 2 // paths that are kept ready
	MaxStrikes = 3 // failures after which a path's guard, or a node, goes
	MinPool    = 8 // nodes below which a fresh list is wanted
	MaxPool    = 10_000
)

// Key is the Ed25519 public key that names a service node.
type Key = [32]byte

// Errors of this package, for errors.Is.
var (
	ErrTooFewNodes = errors.New("too few service nodes for a path")
	ErrPath        = errors.New("the path failed")                                // worth another path
	ErrNode        = errors.New("the service node failed")                        // worth another node
	ErrClock       = errors.New("the service node says this clock is wrong")      // after correcting it, once more
	ErrRefused     = errors.New("the service node refused the signature")         // final
	ErrWrongSwarm  = errors.New("the service node is not of the account's swarm") // Reply holds the right one
	ErrBusy        = errors.New("the service node has no room for the request")   // worth another node, and polling
	ErrRequest     = errors.New("the service node did not accept the request")    // final
)

// Path is a guard and the hops behind it. It does not change: a repair makes a
// new one, so that requests on their way keep what they started with.
type Path struct {
	hops []swarm.Node
}

// Guard is the node that this machine connects to.
func (p *Path) Guard() swarm.Node { return p.hops[0] }

// Holds reports whether the node is one of the hops.
func (p *Path) Holds(k Key) bool {
	for _, h := range p.hops {
		if h.Ed25519 == k {
			return true
		}
	}
	return false
}

// Nodes returns the hops, the guard first.
func (p *Path) Nodes() []swarm.Node { return append([]swarm.Node(nil), p.hops...) }

func (p *Path) onion() []onion.Hop {
	hops := make([]onion.Hop, len(p.hops))
	for i, h := range p.hops {
		hops[i] = onion.Hop{Ed25519: h.Ed25519, X25519: h.X25519}
	}
	return hops
}

// subnet is the /24 net of a node: operators often hold neighbouring addresses,
// and one operator must not see two places of one path.
func subnet(n swarm.Node) netip.Prefix {
	p, _ := n.Address.Addr().Unmap().Prefix(24)
	return p
}
