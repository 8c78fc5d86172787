package files

import (
	"sync"
	"time"

	"hearth/node/attachment"
)

// intake bounds how fast clients can fill the disk and how often they can ask.
//
// Whoever uploads is not known here, which is the point of onion requests: the node
// that serves a request knows the node that handed it over, and no more. So there
// is one bucket for all, made so that filling the quota takes hours, in which its
// owner and the expiry of files can do something about it; and one bucket for each
// source, a quarter as large, so that a flood over one path leaves room for
// requests over others. Who the client is knows the guard of its path alone, which
// slows down the bulk of what one address sends and asks for (hearth/node/relay).
//
// What other nodes offer is not bounded in time, only by the quota: it comes in bulk
// whenever swarms change, and a file that is refused then is one that nobody finds.
type intake struct {
	now func() time.Time

	mu       sync.Mutex
	all      bucket
	sources  map[string]*source
	cleaned  time.Time
	capacity float64 // bytes of the bucket of all; that of a source is a part of it
	rate     float64 // bytes a second
}

type source struct{ bytes, requests bucket }

const (
	fillTime    = 4 * time.Hour // in which uploads can fill an empty disk
	part        = 4             // of the whole that one source can have
	requests    = 2000          // of one source at once: it stands for many clients
	requestRate = 200           // a second
	maxSources  = 1024          // more share one bucket
)

// bucket fills up with time.
type bucket struct {
	level float64
	at    time.Time
}

// fill returns what is in the bucket by now.
func (b *bucket) fill(now time.Time, capacity, rate float64) float64 {
	if b.at.IsZero() {
		b.level = capacity
	} else if passed := now.Sub(b.at); passed > 0 {
		b.level = min(capacity, b.level+rate*passed.Seconds())
	}
	b.at = now
	return b.level
}

func newIntake(quota int64, now func() time.Time) *intake {
	return &intake{
		now: now, sources: make(map[string]*source),
		capacity: float64(max(quota/8, 2*part*attachment.MaxUpload)),
		rate:     float64(max(quota, 0)) / fillTime.Seconds(),
	}
}

// of finds a source; in.mu is held.
func (in *intake) of(name string) *source {
	if s := in.sources[name]; s != nil {
		return s
	}
	if now := in.now(); len(in.sources) >= maxSources && now.Sub(in.cleaned) >= time.Second {
		in.cleaned = now
		for k, s := range in.sources {
			if s.bytes.fill(now, in.capacity/part, in.rate/part) >= in.capacity/part && s.requests.fill(now, requests, requestRate) >= requests {
				delete(in.sources, k)
			}
		}
	}
	if len(in.sources) >= maxSources {
		name = ""
		if s := in.sources[name]; s != nil {
			return s
		}
	}
	s := new(source)
	in.sources[name] = s
	return s
}

// request counts one request of a source, and reports whether it may be served.
func (in *intake) request(from string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	s := in.of(from)
	if s.requests.fill(in.now(), requests, requestRate) < 1 {
		return false
	}
	s.requests.level--
	return true
}

// upload counts the bytes of an upload, and reports whether it may be kept.
func (in *intake) upload(from string, n int) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	now, s := in.now(), in.of(from)
	if in.all.fill(now, in.capacity, in.rate) < float64(n) || s.bytes.fill(now, in.capacity/part, in.rate/part) < float64(n) {
		return false
	}
	in.all.level -= float64(n)
	s.bytes.level -= float64(n)
	return true
}
