package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
)

// errTree says that something is no flattened device tree.
var errTree = errors.New("not a device tree")

// The header of a flattened device tree and the tokens of its structure block, as the
// Devicetree Specification has them. All numbers are big-endian.
const (
	treeMagic     = 0xd00dfeed
	treeHeader    = 40
	structureAt   = 8 // offsets of fields in the header
	stringsAt     = 12
	sizeStringsAt = 32
	sizeStructAt  = 36

	beginNode = 1
	endNode   = 2
	property  = 3
	nop       = 4
	endTree   = 9
)

// random are the properties in which a firmware hands random numbers to the kernel,
// which takes them away again: their values tell nothing about the board.
var random = []string{"kaslr-seed", "rng-seed"}

// treeDigest is a SHA-256 of what a device tree says: nodes, properties and values in
// their order, without the random numbers in it and without regard to how it is laid
// out.
func treeDigest(tree []byte) (digest [sha256.Size]byte, err error) {
	if len(tree) < treeHeader || binary.BigEndian.Uint32(tree) != treeMagic {
		return digest, errTree
	}
	block := func(at, size int) []byte {
		from := uint64(binary.BigEndian.Uint32(tree[at:]))
		to := from + uint64(binary.BigEndian.Uint32(tree[size:]))
		if to > uint64(len(tree)) {
			return nil
		}
		return tree[from:to]
	}
	structure, names := block(structureAt, sizeStructAt), block(stringsAt, sizeStringsAt)

	h := sha256.New()
	for {
		token, ok := word(&structure)
		switch {
		case !ok:
			return digest, errTree
		case token == nop:
		case token == endTree:
			return [sha256.Size]byte(h.Sum(nil)), nil
		case token == endNode:
			h.Write([]byte{endNode})
		case token == beginNode:
			name, ok := untilZero(structure)
			if !ok {
				return digest, errTree
			}
			h.Write([]byte{beginNode})
			h.Write(name)
			h.Write([]byte{0})
			structure = structure[padded(len(name)+1, len(structure)):]
		case token == property:
			size, ok1 := word(&structure)
			at, ok2 := word(&structure)
			if !ok1 || !ok2 || uint64(size) > uint64(len(structure)) || uint64(at) > uint64(len(names)) {
				return digest, errTree
			}
			name, ok := untilZero(names[at:])
			if !ok {
				return digest, errTree
			}
			value := structure[:size]
			structure = structure[padded(len(value), len(structure)):]
			// The kernel may leave the property or take it away as a whole.
			if slices.Contains(random, string(name)) {
				continue
			}
			h.Write([]byte{property})
			h.Write(name)
			h.Write([]byte{0})
			h.Write(binary.BigEndian.AppendUint32(nil, size))
			h.Write(value)
		default:
			return digest, errTree
		}
	}
}

// word takes a number off the front of b.
func word(b *[]byte) (uint32, bool) {
	if len(*b) < 4 {
		return 0, false
	}
	n := binary.BigEndian.Uint32(*b)
	*b = (*b)[4:]
	return n, true
}

// untilZero is the text in front of the first zero byte.
func untilZero(b []byte) ([]byte, bool) {
	at := bytes.IndexByte(b, 0)
	if at < 0 {
		return nil, false
	}
	return b[:at], true
}

// padded is n rounded up to a word, and at most all.
func padded(n, all int) int { return min((n+3)&^3, all) }
