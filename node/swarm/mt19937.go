package swarm

// twister is the 64-bit Mersenne Twister MT19937-64 of Matsumoto and Nishimura.
// The chain daemon draws from it (as std::mt19937_64) when it composes swarms,
// and every daemon must draw the same numbers; nothing else may use it.
type twister struct {
	state [twisterWords]uint64
	next  int
}

const (
	twisterWords  = 312
	twisterMiddle = 156
)

// newTwister seeds the generator with a single word, as init_genrand64 does.
func newTwister(seed uint64) *twister {
	t := &twister{next: twisterWords}
	t.state[0] = seed
	for i := 1; i < twisterWords; i++ {
		prev := t.state[i-1]
		t.state[i] = 6364136223846793005*(prev^prev>>62) + uint64(i)
	}
	return t
}

func (t *twister) uint64() uint64 {
	if t.next == twisterWords {
		for i := range t.state {
			x := t.state[i]&^0x7fffffff | t.state[(i+1)%twisterWords]&0x7fffffff
			y := t.state[(i+twisterMiddle)%twisterWords] ^ x>>1
			if x&1 == 1 {
				y ^= 0xb5026f5aa96619e9
			}
			t.state[i] = y
		}
		t.next = 0
	}
	x := t.state[t.next]
	t.next++
	x ^= x >> 29 & 0x5555555555555555
	x ^= x << 17 & 0x71d67fffeda60000
	x ^= x << 37 & 0xfff7eee000000000
	return x ^ x>>43
}

// uniform draws a number below n, which must not be 0. The chain daemon has its
// own distribution because the one of the C++ library is not the same
// everywhere (oxen-core, src/common/random.cpp).
func (t *twister) uniform(n int) int {
	const max = ^uint64(0)
	secure := max - max%uint64(n)
	for {
		if x := t.uint64(); x < secure {
			return int(x / (secure / uint64(n)))
		}
	}
}
