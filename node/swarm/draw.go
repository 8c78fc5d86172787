package swarm

import (
	"encoding/binary"
	"encoding/hex"
)

// TestPair draws which two of n members of a swarm, in ascending order of their
// keys, do the storage test that belongs to a block: the tester asks the testee for
// a message. All members draw the same, and nobody knows the pair before the block.
// round is 0 for the block's own test; further rounds draw other pairs from it.
// ok is false below two members.
//
// The draw is that of the storage server (service_node.cpp, derive_tester_testee):
// its seed is made of the first 8 characters of the hash in hexadecimal, not of
// the hash's bytes.
func TestPair(block [32]byte, round uint64, n int) (tester, testee int, ok bool) {
	if n < 2 {
		return 0, 0, false
	}
	text := hex.AppendEncode(nil, block[:4])
	random := newTwister(binary.LittleEndian.Uint64(text) ^ round)
	tester = random.uniform(n)
	for testee = random.uniform(n); testee == tester; {
		testee = random.uniform(n)
	}
	return tester, testee, true
}
