// Package blake2b is BLAKE2b with all of its parameters: salt and
// personalisation, which libsodium and the programs of the network use and
// golang.org/x/crypto does not offer.
//
// The compression function is that of golang.org/x/crypto, with its assembly.
// Salt and personalisation only change the state that hashing begins with
// (RFC 7693 names the parameter block, BLAKE2's own paper its fields), and that
// package can be given a state from outside.
package blake2b

import (
	"encoding"
	"encoding/binary"
	"errors"
	"hash"

	"golang.org/x/crypto/blake2b"
)

// Size is the longest digest in bytes.
const Size = blake2b.Size

// ErrParameter is returned for a parameter that BLAKE2b has no room for.
var ErrParameter = errors.New("BLAKE2b parameter out of range")

var iv = [8]uint64{
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
	0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
}

// digest hides Reset, which would forget the parameters.
type digest struct {
	hash.Hash
	parameters
}

type parameters struct {
	size              int
	key, salt, person []byte
}

// New returns a hash with a digest of size bytes (1 to 64). The key has 0 to 64
// bytes; salt and person at most 16 each, a shorter one counts as if zero bytes
// followed. The error is [ErrParameter].
func New(size int, key, salt, person []byte) (hash.Hash, error) {
	if size < 1 || size > Size || len(key) > Size || len(salt) > 16 || len(person) > 16 {
		return nil, ErrParameter
	}
	d := &digest{parameters: parameters{size, key, salt, person}}
	d.Reset()
	return d, nil
}

// Reset begins anew with the same parameters.
func (d *digest) Reset() {
	var block [64]byte
	block[0], block[1], block[2], block[3] = byte(d.size), byte(len(d.key)), 1, 1
	copy(block[32:], d.salt)
	copy(block[48:], d.person)

	// The state as x/crypto writes it: magic, eight words, a counter of two
	// words, digest size, the block being filled and how much of it is.
	state := make([]byte, 0, 3+8*8+2*8+1+blake2b.BlockSize+1)
	state = append(state, "b2b"...)
	for i, word := range iv {
		state = binary.BigEndian.AppendUint64(state, word^binary.LittleEndian.Uint64(block[8*i:]))
	}
	state = append(state, make([]byte, 2*8)...)
	state = append(state, byte(d.size))
	first := make([]byte, blake2b.BlockSize+1)
	if len(d.key) > 0 {
		copy(first, d.key) // a key is the first block of the message
		first[blake2b.BlockSize] = blake2b.BlockSize
	}
	state = append(state, first...)

	h, err := blake2b.New512(nil)
	if err == nil {
		err = h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state)
	}
	clear(first)
	clear(state)
	if err != nil {
		// Only another version of x/crypto could do that, and the tests of this
		// package would not let it in.
		panic("blake2b: " + err.Error())
	}
	d.Hash = h
}
