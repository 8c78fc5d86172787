package relay

import (
	"net/netip"
	"sync"
	"time"
)

// The storage server's figures: a client may send a burst of 600 requests and
// then 300 in a second.
const (
	rateCapacity  = 600
	ratePeriod    = 3333 * time.Microsecond
	rateAddresses = 10_000
	rateCleanup   = 10 * time.Second
)

// rateLimiter is a token bucket for each IPv4 address.
type rateLimiter struct {
	now func() time.Time

	mu      sync.Mutex
	buckets map[netip.Addr]bucket
	cleaned time.Time
}

type bucket struct {
	tokens int64
	at     time.Time
}

func (b bucket) refilled(now time.Time) int64 {
	return min(rateCapacity, b.tokens+max(0, int64(now.Sub(b.at)/ratePeriod)))
}

func newRateLimiter(now func() time.Time) *rateLimiter {
	return &rateLimiter{now: now, buckets: make(map[netip.Addr]bucket), cleaned: now()}
}

// allow takes one token of the address. As in the storage server, the part of a
// token that has grown since the last request is lost whenever one is let
// through.
func (r *rateLimiter) allow(addr netip.Addr) bool {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	b, known := r.buckets[addr]
	if !known {
		// Not for each of the many that come while it is full: looking costs time.
		if since := now.Sub(r.cleaned); since >= rateCleanup || len(r.buckets) >= rateAddresses && since >= rateCleanup/100 {
			r.clean(now)
		}
		if len(r.buckets) >= rateAddresses {
			return false
		}
		b = bucket{tokens: rateCapacity, at: now}
	}
	tokens := b.refilled(now)
	if tokens == 0 {
		return false
	}
	r.buckets[addr] = bucket{tokens: tokens - 1, at: now}
	return true
}

// clean forgets the addresses whose buckets are full again.
func (r *rateLimiter) clean(now time.Time) {
	r.cleaned = now
	for addr, b := range r.buckets {
		if b.refilled(now) == rateCapacity {
			delete(r.buckets, addr)
		}
	}
}
