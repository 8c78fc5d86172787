package relay

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/semaphore"
)

// errLeaving ends what waits for another node when this one stops.
var errLeaving = errors.New("the node is stopping")

// slot is the place of a job among those that are worked on. A job that only waits,
// for the answer of another node or for a message to come, gives it up for one among
// those that wait, of which there are more: requests that last half a minute by
// intent must not shut out those that last a millisecond.
type slot struct {
	working, waiting *semaphore.Weighted

	mu     sync.Mutex
	parked bool
	ended  bool
}

// takeSlot returns nil when no place is free.
func takeSlot(working, waiting *semaphore.Weighted) *slot {
	if !working.TryAcquire(1) {
		return nil
	}
	return &slot{working: working, waiting: waiting}
}

// park makes the job one that waits, and returns false when too many do. It may be
// called more than once.
func (s *slot) park() bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parked || s.ended {
		return true
	}
	if !s.waiting.TryAcquire(1) {
		return false
	}
	s.parked = true
	s.working.Release(1)
	return true
}

// release gives the place back.
func (s *slot) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended = true; s.parked {
		s.waiting.Release(1)
	} else {
		s.working.Release(1)
	}
}

type slotKey struct{}

func slotOf(ctx context.Context) *slot {
	held, _ := ctx.Value(slotKey{}).(*slot)
	return held
}
