package swarm

import "math/bits"

// sortLikeLibstdcxx sorts l exactly as std::sort of the GNU C++ library does.
//
// The chain daemon sorts swarms by size with that function, which leaves swarms
// of equal size in an order of its own as soon as there are more than 16, and
// then draws from that order. To compose the same swarms one has to repeat the
// algorithm: introsort with a median of three until parts have at most 16
// elements, heap sort when it does not get anywhere, insertion sort at the end.
func sortLikeLibstdcxx[E any](l []E, less func(a, b E) bool) {
	if len(l) < 2 {
		return
	}
	introsort(l, 2*(bits.Len(uint(len(l)))-1), less)
	for i := 1; i < len(l); i++ {
		// The library first sorts the head and then lets the rest run without a
		// bound; both are this plain insertion.
		x, j := l[i], i
		for ; j > 0 && less(x, l[j-1]); j-- {
			l[j] = l[j-1]
		}
		l[j] = x
	}
}

const introsortThreshold = 16

func introsort[E any](l []E, depth int, less func(a, b E) bool) {
	for len(l) > introsortThreshold {
		if depth == 0 {
			heapsort(l, less)
			return
		}
		depth--
		medianToFirst(l, 1, len(l)/2, len(l)-1, less)
		cut := partition(l, less)
		introsort(l[cut:], depth, less)
		l = l[:cut]
	}
}

// medianToFirst swaps the median of the elements at a, b and c to the front.
func medianToFirst[E any](l []E, a, b, c int, less func(a, b E) bool) {
	var m int
	switch {
	case less(l[a], l[b]):
		switch {
		case less(l[b], l[c]):
			m = b
		case less(l[a], l[c]):
			m = c
		default:
			m = a
		}
	case less(l[a], l[c]):
		m = a
	case less(l[b], l[c]):
		m = c
	default:
		m = b
	}
	l[0], l[m] = l[m], l[0]
}

// partition splits l[1:] around the pivot l[0] and returns where the upper part
// begins.
func partition[E any](l []E, less func(a, b E) bool) int {
	first, last := 1, len(l)
	for {
		for less(l[first], l[0]) {
			first++
		}
		last--
		for less(l[0], l[last]) {
			last--
		}
		if first >= last {
			return first
		}
		l[first], l[last] = l[last], l[first]
		first++
	}
}

func heapsort[E any](l []E, less func(a, b E) bool) {
	for parent := (len(l) - 2) / 2; parent >= 0; parent-- {
		adjustHeap(l, parent, len(l), l[parent], less)
	}
	for n := len(l) - 1; n > 0; n-- {
		x := l[n]
		l[n] = l[0]
		adjustHeap(l, 0, n, x, less)
	}
}

// adjustHeap lets the hole sink to a leaf of the heap l[:n] and x rise from there.
func adjustHeap[E any](l []E, hole, n int, x E, less func(a, b E) bool) {
	top, child := hole, hole
	for child < (n-1)/2 {
		child = 2 * (child + 1)
		if less(l[child], l[child-1]) {
			child--
		}
		l[hole] = l[child]
		hole = child
	}
	if n%2 == 0 && child == (n-2)/2 {
		child = 2*(child+1) - 1
		l[hole] = l[child]
		hole = child
	}
	for parent := (hole - 1) / 2; hole > top && less(l[parent], x); parent = (hole - 1) / 2 {
		l[hole] = l[parent]
		hole = parent
	}
	l[hole] = x
}
