package servicenode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"hearth/node/keys"
	"hearth/node/swarm"
)

// ErrFile reports a file of nodes that cannot be used.
var ErrFile = errors.New("unusable file of nodes")

const (
	maxFile      = 1 << 20 // bytes
	maxFileNodes = 2000
)

// File is the node list of a private network without stakes, such as a family's
// or a newsroom's: a text that its people give to each other. Each line has a
// node's public key in hexadecimal and its IPv4 address and port; what follows a #
// is for people.
//
//	# the Kowalskis
//	85d3…c2a1  203.0.113.7:22021   # in the cellar
//	1f02…99e0  198.51.100.4:22021
//
// Everybody has to have the same file: the swarms follow from the set of keys. A
// file that was changed is read anew.
type File struct {
	Path  string
	Rules swarm.Rules // swarm.MainnetRules when zero

	mu   sync.Mutex
	sum  [32]byte // of what list was made from
	list *swarm.List
}

// ParseFile reads the text of such a file. Its hash takes the place of a block's.
func ParseFile(text []byte, rules swarm.Rules) (*swarm.List, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrFile, maxFile)
	}
	if rules == (swarm.Rules{}) {
		rules = swarm.MainnetRules
	}
	list := new(swarm.List)
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		bad := func(what string) error { return fmt.Errorf("%w: line %d: %s", ErrFile, number, what) }
		if len(fields) != 2 {
			return nil, bad("want a key and an address")
		}
		key, err := hex.DecodeString(fields[0])
		if err != nil || len(key) != 32 {
			return nil, bad("a key has 64 hexadecimal digits")
		}
		x25519, err := keys.X25519FromEd25519([32]byte(key))
		if err != nil {
			return nil, bad("that is nobody's key")
		}
		at, err := netip.ParseAddrPort(fields[1])
		if err != nil || !at.Addr().Is4() || at.Addr().IsUnspecified() || at.Port() == 0 {
			return nil, bad("an address is an IPv4 address, a colon and a port")
		}
		if len(list.Nodes) == maxFileNodes {
			return nil, bad("too many nodes")
		}
		list.Nodes = append(list.Nodes, swarm.Node{Ed25519: [32]byte(key), X25519: x25519, Address: at, QUIC: at.Port(), Version: swarm.Version})
	}
	slices.SortFunc(list.Nodes, func(a, b swarm.Node) int { return bytes.Compare(a.Ed25519[:], b.Ed25519[:]) })
	hash := sha256.New()
	all := make([][32]byte, len(list.Nodes))
	for i, n := range list.Nodes {
		if i > 0 && n.Ed25519 == list.Nodes[i-1].Ed25519 {
			return nil, fmt.Errorf("%w: key %x is there twice", ErrFile, n.Ed25519[:4])
		}
		all[i] = n.Ed25519
		fmt.Fprintf(hash, "%x %v\n", n.Ed25519, n.Address)
	}
	list.Hash = [32]byte(hash.Sum(nil))
	in := make(map[[32]byte]swarm.ID)
	for id, members := range swarm.Compose(rules, map[swarm.ID][][32]byte{swarm.None: all}, binary.LittleEndian.Uint64(list.Hash[:])) {
		for _, k := range members {
			in[k] = id
		}
	}
	for i := range list.Nodes {
		list.Nodes[i].Swarm = in[list.Nodes[i].Ed25519]
	}
	return list, nil
}

// Poll implements [Seed].
func (f *File) Poll(context.Context, *swarm.List) (*swarm.List, error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := sha256.Sum256(text)
	if f.list != nil && sum == f.sum {
		return f.list, nil
	}
	list, err := ParseFile(text, f.Rules)
	if err != nil {
		return nil, err
	}
	f.sum, f.list = sum, list
	return list, nil
}

// Announce implements [Seed]: nobody hears it, a person has to write the line.
func (f *File) Announce(_ context.Context, node *keys.Pair, at netip.AddrPort) error {
	return fmt.Errorf("%w: it needs the line \"%x %v\", at everybody's", ErrFile, node.Ed25519(), at)
}
