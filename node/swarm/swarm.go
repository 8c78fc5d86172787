// Package swarm says which service nodes keep an account's messages.
//
// Every account has a position in a ring of 2^64 places ([Position]), every
// swarm has an identifier in the same ring, and the swarm nearest to the
// position is responsible for the account ([For]). The members of a swarm come
// from the list of active service nodes: whoever learns a new list publishes it
// as a [List] and asks [List.Of] for the nodes to talk to.
//
// The other direction, how nodes are put into swarms block by block, is
// [Compose]. Only an authority of the node list needs it; nodes and clients
// read the finished swarm identifiers.
package swarm

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"hearth/node/account"
)

// ID is the identifier of a swarm, a place in the ring of 64-bit numbers.
// 0 is a valid identifier: that of the first swarm ever made.
type ID uint64

// None is the identifier of nodes that belong to no swarm, 2^64-1. It is never
// the identifier of a real swarm.
const None = ID(math.MaxUint64)

// String gives the identifier as the storage server prints it: lower-case
// hexadecimal without padding.
func (id ID) String() string { return strconv.FormatUint(uint64(id), 16) }

// Position is the account's place in the ring: the exclusive-or of the four
// big-endian 64-bit words of its 32-byte key. The prefix byte takes no part
// (storage server, pubkey_to_swarm_space).
func Position(id account.ID) uint64 {
	k := id.Key()
	return binary.BigEndian.Uint64(k[0:]) ^ binary.BigEndian.Uint64(k[8:]) ^
		binary.BigEndian.Uint64(k[16:]) ^ binary.BigEndian.Uint64(k[24:])
}

// For returns the identifier nearest to position, going round the ring in both
// directions; of two at the same distance it is the one below the position.
// ids holds the real swarms in ascending order. The second result is false when
// there is none (storage server, get_swarm_by_pk).
func For(position uint64, ids []ID) (ID, bool) {
	if len(ids) == 0 {
		return None, false
	}
	i, _ := slices.BinarySearch(ids, ID(position))
	right, left := ids[i%len(ids)], ids[(i+len(ids)-1)%len(ids)]
	// Unsigned subtraction wraps, which is exactly distance along the ring.
	if uint64(right)-position < position-uint64(left) {
		return right, true
	}
	return left, true
}

// Node is one active service node as the node list describes it.
type Node struct {
	Ed25519 [32]byte       // its identity; signs the results of storage requests
	X25519  [32]byte       // for onion layers and links between nodes
	Address netip.AddrPort // public IPv4 address and HTTPS port
	Swarm   ID             // None when it is in no swarm

	// QUIC is the port for OxenMQ and QUIC, Version the storage server whose behaviour
	// the node has. Both are 0 when the list did not say.
	QUIC    uint16
	Version [3]uint8

	// RequestedUnlockHeight is the block at which the node's stake unlocks, 0
	// when nobody asked for it. Clients avoid guards that are about to leave.
	RequestedUnlockHeight uint64
}

// List is the set of active service nodes at one block. Once published to other
// goroutines it must not be changed: the lookups below build an index on first
// use and never look at Nodes again.
type List struct {
	Height uint64
	Hash   [32]byte // of the block at Height
	Nodes  []Node

	once    sync.Once
	byKey   map[[32]byte]int32
	swarms  []ID // ascending, without None
	members map[ID][]Node
}

func (l *List) index() {
	l.byKey = make(map[[32]byte]int32, len(l.Nodes))
	l.members = make(map[ID][]Node)
	for i, n := range l.Nodes {
		l.byKey[n.Ed25519] = int32(i)
		if n.Swarm == None {
			continue
		}
		if _, known := l.members[n.Swarm]; !known {
			l.swarms = append(l.swarms, n.Swarm)
		}
		l.members[n.Swarm] = append(l.members[n.Swarm], n)
	}
	slices.Sort(l.swarms)
}

// Find returns the node with that Ed25519 key. A nil list is an empty list,
// here and in the other lookups.
func (l *List) Find(ed25519 [32]byte) (Node, bool) {
	if l == nil {
		return Node{}, false
	}
	l.once.Do(l.index)
	i, ok := l.byKey[ed25519]
	if !ok {
		return Node{}, false
	}
	return l.Nodes[i], true
}

// Members returns the nodes of a swarm in the order of the list. The slice is
// shared: callers must not change it.
func (l *List) Members(id ID) []Node {
	if l == nil {
		return nil
	}
	l.once.Do(l.index)
	return l.members[id]
}

// Swarms returns the identifiers of all swarms, ascending. The slice is shared:
// callers must not change it.
func (l *List) Swarms() []ID {
	if l == nil {
		return nil
	}
	l.once.Do(l.index)
	return l.swarms
}

// Of returns the swarm responsible for the account and its members, or None and
// no nodes when the list knows no swarm.
func (l *List) Of(id account.ID) (ID, []Node) {
	s, ok := For(Position(id), l.Swarms())
	if !ok {
		return None, nil
	}
	return s, l.Members(s)
}
