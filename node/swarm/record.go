package swarm

import (
	"encoding/binary"
	"net/netip"
)

// Version is the storage server whose behaviour our nodes have.
var Version = [3]uint8{2, 8, 0}

// RecordSize is the size in bytes of a node in a binary list.
const RecordSize = 32 + 8 + 4 + 2 + 2 + 3

// AppendRecord writes a node as the storage server does in its binary list
// (active_nodes_bin): Ed25519 key, swarm, IPv4 address, HTTPS port, port for OxenMQ
// and QUIC, version; numbers are big-endian. The address must be IPv4.
func (n Node) AppendRecord(b []byte) []byte {
	ip := n.Address.Addr().As4()
	b = append(b, n.Ed25519[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(n.Swarm))
	b = append(b, ip[:]...)
	b = binary.BigEndian.AppendUint16(b, n.Address.Port())
	b = binary.BigEndian.AppendUint16(b, n.QUIC)
	return append(b, n.Version[:]...)
}

// DecodeRecord reads what AppendRecord wrote. Every record has a meaning; whether
// anybody can be reached there is another question. X25519 follows from the key and
// is left to the caller.
func DecodeRecord(r [RecordSize]byte) Node {
	return Node{
		Ed25519: [32]byte(r[:32]),
		Swarm:   ID(binary.BigEndian.Uint64(r[32:])),
		Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte(r[40:])), binary.BigEndian.Uint16(r[44:])),
		QUIC:    binary.BigEndian.Uint16(r[46:]),
		Version: [3]uint8(r[48:]),
	}
}

// Records is the binary list of all nodes that are in a swarm.
func (l *List) Records() []byte {
	if l == nil {
		return nil
	}
	b := make([]byte, 0, RecordSize*len(l.Nodes))
	for _, n := range l.Nodes {
		if n.Swarm != None && n.Address.Addr().Is4() {
			b = n.AppendRecord(b)
		}
	}
	return b
}
