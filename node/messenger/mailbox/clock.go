package mailbox

import (
	"slices"
	"sync"
	"time"

	"hearth/node/messenger/path"
)

const (
	sampleNodes = 3  // different nodes before their word counts
	sampleMax   = 10 // nodes whose latest time is kept
)

// Clock is the network's time: this machine's clock plus what the answers of
// service nodes say it is off. The median of the latest word of up to ten nodes
// counts, once there are three, so that one node with a wrong clock, or a lying
// one, moves nothing. It is safe for concurrent use.
type Clock struct {
	now func() time.Time

	mu      sync.Mutex
	samples []sample // the oldest first, one a node
	set     int      // times that it was corrected
}

// sample is what one node said: its time minus this machine's.
type sample struct {
	node   path.Key
	offset time.Duration
}

// NewClock starts from this machine's clock.
func NewClock(now func() time.Time) *Clock { return &Clock{now: now} }

// Now is the time of the network.
func (c *Clock) Now() time.Time { return c.now().Add(c.Offset()) }

// Offset is the network's time minus this machine's.
func (c *Clock) Offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.samples) < sampleNodes {
		return 0
	}
	offsets := make([]time.Duration, len(c.samples))
	for i, s := range c.samples {
		offsets[i] = s.offset
	}
	slices.Sort(offsets)
	return offsets[len(offsets)/2]
}

// Known reports whether enough nodes have told the time for it to be relied on.
func (c *Clock) Known() bool { return c.known() }

// known reports whether enough nodes have told the time.
func (c *Clock) known() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.samples) >= sampleNodes
}

func (c *Clock) local() time.Time { return c.now() }

func (c *Clock) observe(s sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples = slices.DeleteFunc(c.samples, func(o sample) bool { return o.node == s.node })
	if len(c.samples) >= sampleMax {
		c.samples = slices.Delete(c.samples, 0, len(c.samples)-sampleMax+1)
	}
	c.samples = append(c.samples, s)
}

// correct forgets everything older, which a jump of this machine's clock made
// wrong.
func (c *Clock) correct(samples []sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples = slices.Clone(samples)
	c.set++
}

// corrections counts the corrections so far: whoever was refused with an older
// count has only to try again.
func (c *Clock) corrections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set
}

// offset compares a node's time with the middle of the request.
func offset(t int64, reply path.Reply) time.Duration {
	return time.UnixMilli(t).Sub(reply.Sent.Add(reply.Took / 2))
}

// plausible keeps times between 1973 and 2286, in milliseconds.
func plausible(ms int64) bool { return ms > 1e11 && ms < 1e13 }
