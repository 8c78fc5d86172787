package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// maxParts bounds the parts of one message between nodes; no command has more
// than two.
const maxParts = 8

// ErrParts is returned for a message between nodes that does not consist of
// whole parts.
var ErrParts = errors.New("malformed multi-part message")

// MarshalParts writes the parts of a message between nodes one after the other,
// each behind its length as a big-endian 32-bit number.
func MarshalParts(parts [][]byte) []byte {
	n := 0
	for _, p := range parts {
		n += 4 + len(p)
	}
	b := make([]byte, 0, n)
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// ParseParts reads what MarshalParts wrote. The parts share the memory of b.
// An error wraps ErrParts.
func ParseParts(b []byte) ([][]byte, error) {
	var parts [][]byte
	for len(b) > 0 {
		if len(parts) == maxParts {
			return nil, fmt.Errorf("%w: more than %d parts", ErrParts, maxParts)
		}
		if len(b) < 4 {
			return nil, fmt.Errorf("%w: %d bytes where a length was expected", ErrParts, len(b))
		}
		n := binary.BigEndian.Uint32(b)
		b = b[4:]
		if uint64(n) > uint64(len(b)) {
			return nil, fmt.Errorf("%w: a part of %d bytes in %d", ErrParts, n, len(b))
		}
		parts = append(parts, b[:n:n])
		b = b[n:]
	}
	return parts, nil
}
