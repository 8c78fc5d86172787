package relay

import (
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

var (
	errBusy     = errors.New("too many bytes of foreign messages in memory")
	errTooLarge = errors.New("message over the size limit")
)

// memory bounds the bytes of foreign messages that a server holds at one time.
// Limits on single messages do not do that: a thousand requests of the full
// 10 MiB would not fit into the machines this runs on.
type memory struct {
	free *semaphore.Weighted
	used atomic.Int64 // bytes, for figures
	each int64        // bytes of one stranger

	mu sync.Mutex
	by map[netip.Prefix]int64
}

func newMemory(size int64) *memory {
	return &memory{free: semaphore.NewWeighted(size), each: size / 2, by: make(map[netip.Prefix]int64)}
}

// share returns an empty share, to be released when its job is done.
func (m *memory) share() *share { return &share{of: m} }

// shareFor is share for the job of a stranger, whose jobs together have no more
// than half of the memory.
func (m *memory) shareFor(who netip.Prefix) *share {
	if !bounded(who) {
		return m.share()
	}
	return &share{of: m, who: who}
}

// take takes bytes, for a stranger unless who is invalid.
func (m *memory) take(who netip.Prefix, n int64) bool {
	if who.IsValid() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.by[who]+n > m.each {
			return false
		}
	}
	if !m.free.TryAcquire(n) {
		return false
	}
	if who.IsValid() {
		m.by[who] += n
	}
	m.used.Add(n)
	return true
}

func (m *memory) give(who netip.Prefix, n int64) {
	m.free.Release(n)
	m.used.Add(-n)
	if !who.IsValid() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.by[who] -= n; m.by[who] <= 0 {
		delete(m.by, who)
	}
}

// share is the part of the memory that one job holds. Several goroutines may
// work for a job. A nil share has no bound.
type share struct {
	of  *memory
	who netip.Prefix

	mu   sync.Mutex
	held int64
	over bool
}

func (s *share) grow(n int64) bool {
	if s == nil || n <= 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A goroutine that outlives its job must not take what nobody gives back.
	if s.over || !s.of.take(s.who, n) {
		return false
	}
	s.held += n
	return true
}

func (s *share) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of.give(s.who, s.held)
	s.held, s.over = 0, true
}

// readAll reads r to its end. Memory is taken as bytes arrive and never on the
// word of a length in a header, so that a sender who promises much and sends
// little holds little. The error is errTooLarge above limit bytes, errBusy when
// the memory is used up, and otherwise the reader's own.
func readAll(r io.Reader, limit int64, s *share) ([]byte, error) {
	const first = 4 << 10
	if !s.grow(first) {
		return nil, errBusy
	}
	b := make([]byte, 0, first)
	for {
		if len(b) == cap(b) {
			bigger := min(int64(cap(b))*2, limit+1)
			if !s.grow(bigger - int64(cap(b))) {
				return nil, errBusy
			}
			b = append(make([]byte, 0, bigger), b...)
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if int64(len(b)) > limit {
			return nil, errTooLarge
		}
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
