package boot

import (
	"context"
	"sync"
	"time"
)

// tasks are what PID 1 does beside its stages, and the stages themselves: all of
// it ends before the disk is let go.
type tasks struct {
	ctx    context.Context // ends with the appliance
	cancel context.CancelFunc

	mu      sync.Mutex
	running int
	idle    chan struct{} // closed when nothing runs and nothing will
}

func newTasks() *tasks {
	t := &tasks{idle: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Go runs do, which returns soon after its context has ended. After end it does
// nothing.
func (t *tasks) Go(do func(ctx context.Context)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return
	}
	t.running++
	go func() {
		defer t.left()
		do(t.ctx)
	}()
}

func (t *tasks) left() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running--; t.running == 0 && t.ctx.Err() != nil {
		close(t.idle)
	}
}

// end asks all tasks to end and waits for them, at most for limit. It reports
// whether they have ended. It may be called once.
func (t *tasks) end(limit time.Duration) bool {
	t.mu.Lock()
	t.cancel()
	if t.running == 0 {
		close(t.idle)
	}
	t.mu.Unlock()
	select {
	case <-t.idle:
		return true
	case <-time.After(limit):
		return false
	}
}
