package relay

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// sourceKey finds whoever handed a request to this node: the key of a node, or the
// address of a client.
type sourceKey struct{}

func withSource(ctx context.Context, source string) context.Context {
	return context.WithValue(ctx, sourceKey{}, source)
}

func sourceOf(ctx context.Context) string {
	source, _ := ctx.Value(sourceKey{}).(string)
	return source
}

// The guard of a path is the one node that knows a client's address, and it does not
// know what the client wants. So there are no limits on how many onion requests an
// address sends, as in the storage server: many people may share it. But what is
// larger than messages are, files, is slowed down when an address moves more of it
// than people do, in both directions. Nothing is refused for that.
const (
	bulkFrom  = 256 << 10 // bytes of one request or answer that are never slowed down
	bulkBurst = 128 << 20 // bytes of an address at once
	bulkRate  = 2 << 20   // a second, then
	bulkMost  = 4096      // addresses known; beyond, the busiest are slowed down together
	bulkPiece = 64 << 10
)

// bulk keeps account of the bytes of addresses.
type bulk struct {
	now func() time.Time

	mu   sync.Mutex
	debt map[netip.Prefix]debt
}

// debt is how many bytes an address has moved beyond what time has paid for.
type debt struct {
	bytes float64
	at    time.Time
}

func newBulk(now func() time.Time) *bulk {
	return &bulk{now: now, debt: make(map[netip.Prefix]debt)}
}

func (d debt) paid(now time.Time) float64 {
	return max(0, d.bytes-bulkRate*max(0, now.Sub(d.at).Seconds()))
}

// move enters bytes and returns how long to wait before more are moved.
func (b *bulk) move(who netip.Prefix, n int) time.Duration {
	if !bounded(who) {
		return 0
	}
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.debt[who]; !known && len(b.debt) >= bulkMost {
		for p, d := range b.debt {
			if d.paid(now) == 0 {
				delete(b.debt, p)
			}
		}
		if len(b.debt) >= bulkMost {
			who = netip.Prefix{}
		}
	}
	d := debt{b.debt[who].paid(now) + float64(n), now}
	b.debt[who] = d
	if d.bytes <= bulkBurst {
		return 0
	}
	return time.Duration((d.bytes - bulkBurst) / bulkRate * float64(time.Second))
}

// bounded reports whether limits for one stranger apply to an address. Loopback is
// not one stranger: whole networks of developers live there, and whatever forwards
// connections on this machine.
func bounded(who netip.Prefix) bool { return who.IsValid() && !who.Addr().IsLoopback() }

// Pace: whoever sends a request or takes an answer has the time that Limits give,
// and more as long as they keep up at least this rate. So the largest file goes over
// a slow line, and one who holds memory by dawdling is cut off as soon as ever.
const leastRate = 128 << 10 // bytes a second

// transfer is the body of one request on its way in, or an answer on its way out.
type transfer struct {
	who   netip.Prefix
	guest *guest
	bulk  *bulk
	done  <-chan struct{} // ends waiting
	until func(time.Time) error
	end   time.Time // for a transfer without any progress
	moved int64
	set   int64 // bytes moved when the deadline was set last
}

// progress notes that n bytes were moved; it waits if that was too fast.
func (t *transfer) progress(n int) error {
	t.moved += int64(n)
	if t.moved > bulkFrom {
		if wait := t.bulk.move(t.who, n); wait > 0 {
			t.end = t.end.Add(wait) // it is not the stranger who is slow
			t.set = 0
			timer := time.NewTimer(wait)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-t.done:
				return http.ErrAbortHandler
			}
		}
	}
	if t.moved-t.set < bulkPiece {
		return nil
	}
	t.set = t.moved
	t.guest.alive()
	return t.until(t.end.Add(time.Duration(t.moved) * time.Second / leastRate))
}

// pacedReader is a request's body.
type pacedReader struct {
	io.Reader
	*transfer
}

func (r pacedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(len(p), bulkPiece)])
	if e := r.progress(n); e != nil && err == nil {
		err = e
	}
	return n, err
}
