package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"hearth/node/keys"
	"hearth/node/swarm"
)

// ListHead is the record under [KeyList]: which list of active nodes is the
// present one. A light client proves it and then takes the list itself from
// anybody.
type ListHead struct {
	Serial uint64 // lists so far
	Height uint64 // of the block that made it
	Time   int64  // of that block, Unix seconds
	Hash   Key    // SHA-256 of the list's bytes
}

func (h *ListHead) code(c *coder) {
	number(c, &h.Serial)
	number(c, &h.Height)
	number(c, &h.Time)
	key32(c, &h.Hash)
}

// DecodeListHead reads the value under [KeyList].
func DecodeListHead(b []byte) (ListHead, error) {
	var h ListHead
	err := decode(b, &h)
	return h, err
}

// ListHead returns which list is the present one.
func (v *View) ListHead() ListHead {
	var h ListHead
	v.load([]byte(KeyList), &h)
	return h
}

// Listed is one active node in a list. The first 51 bytes of its encoding are
// the record that the public network's storage servers send for it
// (active_nodes_bin).
type Listed struct {
	Key          Key
	Swarm        swarm.ID
	Endpoint     Endpoint
	UnlockHeight uint64 // block of the request to leave, 0 when there is none
}

const (
	listVersion = 1
	// maxListed bounds the memory for a list from a stranger.
	maxListed = 1 << 16
)

func (l *Listed) code(c *coder) {
	var fixed [swarm.RecordSize + 2]byte
	if !c.reading {
		b := l.node().AppendRecord(fixed[:0])
		binary.BigEndian.AppendUint16(b, l.Endpoint.Ledger)
	}
	c.fixed(fixed[:])
	if c.reading {
		n := swarm.DecodeRecord([swarm.RecordSize]byte(fixed[:]))
		l.Key, l.Swarm = n.Ed25519, n.Swarm
		l.Endpoint = Endpoint{
			IP: n.Address.Addr(), HTTPS: n.Address.Port(), QUIC: n.QUIC, Version: n.Version,
			Ledger: binary.BigEndian.Uint16(fixed[swarm.RecordSize:]),
		}
	}
	number(c, &l.UnlockHeight)
}

// node is what everything that asks for nodes uses, without the key that follows
// from the node's.
func (l *Listed) node() swarm.Node {
	return swarm.Node{
		Ed25519: l.Key, Swarm: l.Swarm, Address: netip.AddrPortFrom(l.Endpoint.IP, l.Endpoint.HTTPS),
		QUIC: l.Endpoint.QUIC, Version: l.Endpoint.Version, RequestedUnlockHeight: l.UnlockHeight,
	}
}

// Active returns the active nodes as a list has them, by ascending key.
func (v *View) Active() []Listed {
	in := make(map[Key]swarm.ID)
	for id, members := range v.Swarms() {
		for _, k := range members {
			in[k] = id
		}
	}
	var all []Listed
	for _, n := range v.active() {
		id, grouped := in[n.Key]
		if !grouped {
			id = swarm.None
		}
		all = append(all, Listed{n.Key, id, n.Endpoint, n.UnlockHeight})
	}
	return all
}

// EncodeList gives the bytes that [ListHead.Hash] is of. 1,000 nodes have 54 kB.
func EncodeList(nodes []Listed) []byte {
	var c coder
	version := uint8(listVersion)
	number(&c, &version)
	list(&c, &nodes, maxListed, func(c *coder, l *Listed) { l.code(c) })
	return c.b
}

// DecodeList reads a list that has the hash of head, as everything that asks for
// nodes uses it. Other bytes than those are refused with [ErrMalformed].
func DecodeList(b []byte, head ListHead) (*swarm.List, []Listed, error) {
	if sha256.Sum256(b) != head.Hash {
		return nil, nil, fmt.Errorf("%w: it is not the list of block %d", ErrMalformed, head.Height)
	}
	var nodes []Listed
	var version uint8
	c := coder{b: b, reading: true}
	if number(&c, &version); version != listVersion {
		c.fail("list of version %d", version)
	}
	list(&c, &nodes, maxListed, func(c *coder, l *Listed) { l.code(c) })
	if err := c.done(); err != nil {
		return nil, nil, err
	}
	l := &swarm.List{Height: head.Height, Hash: head.Hash}
	for i, n := range nodes {
		if i > 0 && bytes.Compare(nodes[i-1].Key[:], n.Key[:]) >= 0 {
			return nil, nil, fmt.Errorf("%w: nodes out of order", ErrMalformed)
		}
		x, err := keys.X25519FromEd25519(n.Key)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: node %x: %w", ErrMalformed, n.Key[:4], err)
		}
		listed := n.node()
		listed.X25519 = x
		l.Nodes = append(l.Nodes, listed)
	}
	return l, nodes, nil
}

// writeList writes the head of a new list, if it is a new one.
func (d *draft) writeList() bool {
	h := d.ListHead()
	sum := sha256.Sum256(EncodeList(d.Active()))
	if h.Hash == sum && h.Serial > 0 {
		return false
	}
	d.save([]byte(KeyList), &ListHead{h.Serial + 1, d.block.Height, d.now, sum})
	return true
}

// composeSwarms puts every active node in a swarm. The draws come from the
// epoch's seed: a node that joins waits for the next one, so it cannot choose
// its swarm by the moment at which it registers.
func (d *draft) composeSwarms() {
	old := d.Swarms()
	in := make(map[Key]swarm.ID)
	for id, members := range old {
		for _, k := range members {
			in[k] = id
		}
	}
	groups := make(map[swarm.ID][][32]byte)
	for _, n := range d.active() {
		id, grouped := in[n.Key]
		if !grouped {
			id = swarm.None
		}
		groups[id] = append(groups[id], n.Key)
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(slices.Concat([]byte("hearth ledger v1 swarms"), d.chain.Seed[:]), d.block.Height))
	composed := swarm.Compose(d.chain.Params.Rules(), groups, binary.LittleEndian.Uint64(sum[:]))
	for id, members := range composed {
		if len(members) == 0 {
			continue
		}
		slices.SortFunc(members, compareKeys)
		if !slices.Equal(members, old[id]) {
			d.fail(d.over.Set(swarmKey(id), slices.Concat(chunks(members)...)))
		}
		delete(old, id)
	}
	for id := range old {
		d.drop(swarmKey(id))
	}
}

func chunks(members [][32]byte) [][]byte {
	all := make([][]byte, len(members))
	for i := range members {
		all[i] = members[i][:]
	}
	return all
}

func compareKeys(a, b Key) int { return bytes.Compare(a[:], b[:]) }
