package relay

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"hearth/node/onion"
)

// Limits bound what strangers can make a node spend. A field left zero takes
// the value of the storage server, or where it has none the one given here.
type Limits struct {
	Body        int64         // bytes of a client's request: 10 MiB
	Jobs        int64         // requests worked on at a time, for clients and for nodes each: 1000
	Waiting     int64         // besides these, requests of clients that wait for another node or for a message: 1000; of nodes three times as many, a path being three nodes long
	Memory      int64         // bytes of requests and answers held, for clients and for nodes each: 64 MiB; of those, half for one address
	Connections int64         // open connections of clients: 2000
	Address     int64         // of these, from one address: an eighth of them, but at least 8
	PeerLinks   int           // open links of one other node: 8
	Handshake   time.Duration // for TLS: 10 s
	Header      time.Duration // for the head of a request: 10 s
	Request     time.Duration // for a whole request, besides what it takes at 128 KiB/s: 12 s
	Idle        time.Duration // between two requests of one connection: 10 s
	Write       time.Duration // for the answer to leave, besides what it takes at 128 KiB/s: 30 s
	Hop         time.Duration // for the next node to answer: 30 s
	Patience    time.Duration // until a job that waits for the next node counts as waiting: 2 s
}

const (
	// leastMemory is what one answer with the largest file takes while it is
	// being encrypted for the way back.
	leastMemory = 32 << 20
	// connectionCost is about what a TLS connection takes, with its goroutines
	// and buffers.
	connectionCost = 64 << 10
	leastClients   = 64
)

// LimitsFor returns the limits of a node that has so many bytes of memory for
// itself: half of it for clients' messages, half for other nodes', which are
// rarely both used up, and a quarter for connections.
func LimitsFor(memory int64) Limits {
	clamp := func(v, least, most int64) int64 { return max(least, min(v, most)) }
	all := Limits{}.withDefaults()
	return Limits{
		Memory:      clamp(memory/2, leastMemory, all.Memory),
		Connections: clamp(memory/4/connectionCost, leastClients, all.Connections),
		Jobs:        clamp(memory/2/connectionCost, leastClients, all.Jobs),
		// Each has a connection, and half of those are for the others.
		Waiting: clamp(memory/8/connectionCost, leastClients/2, all.Waiting),
	}.withDefaults()
}

func (l Limits) withDefaults() Limits {
	set := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	setTime := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.Body, onion.MaxRequest)
	set(&l.Jobs, 1000)
	set(&l.Waiting, 1000)
	set(&l.Memory, 64<<20)
	set(&l.Connections, 2000)
	set(&l.Address, max(l.Connections/8, 8))
	if l.PeerLinks == 0 {
		l.PeerLinks = 8
	}
	setTime(&l.Handshake, 10*time.Second)
	setTime(&l.Header, 10*time.Second)
	setTime(&l.Request, 12*time.Second)
	setTime(&l.Idle, 10*time.Second)
	setTime(&l.Write, 30*time.Second)
	setTime(&l.Hop, 30*time.Second)
	setTime(&l.Patience, 2*time.Second)
	return l
}

// crowd counts the open connections of strangers. When it is full and another
// comes, the one on which nothing has happened for the longest time makes place,
// unless its request is being worked on: whoever holds connections only to hold
// them keeps nobody out.
type crowd struct {
	most, each int64

	mu    sync.Mutex
	all   int64
	by    map[netip.Prefix]int64
	quiet *list.List // of *guest that are not busy, the longest first
}

func newCrowd(most, each int64) *crowd {
	return &crowd{most: most, each: each, by: make(map[netip.Prefix]int64), quiet: list.New()}
}

// guest is one connection in a crowd.
type guest struct {
	crowd *crowd
	who   netip.Prefix
	end   func() // closes the connection

	// Guarded by crowd.mu.
	place *list.Element // among the quiet; nil while it is busy
	left  bool
}

// enter counts a connection, unless there are too many already. end closes it when
// it has to make place for another; it is called once at most, and not while the
// guest is busy. Leave is to be called when the connection is no longer one of a
// stranger.
func (c *crowd) enter(from net.Addr, end func()) (g *guest, ok bool) {
	g = &guest{crowd: c, who: origin(from), end: end}
	c.mu.Lock()
	if bounded(g.who) && c.by[g.who] >= c.each {
		c.mu.Unlock()
		return nil, false
	}
	var out *guest
	if c.all >= c.most {
		longest := c.quiet.Front()
		if longest == nil {
			c.mu.Unlock()
			return nil, false
		}
		out = longest.Value.(*guest)
		out.leave()
	}
	c.all++
	if bounded(g.who) {
		c.by[g.who]++
	}
	g.place = c.quiet.PushBack(g)
	c.mu.Unlock()
	if out != nil {
		out.end()
	}
	return g, true
}

// leave is called with c.mu held.
func (g *guest) leave() {
	if g.left {
		return
	}
	g.left = true
	c := g.crowd
	if g.place != nil {
		c.quiet.Remove(g.place)
		g.place = nil
	}
	c.all--
	if bounded(g.who) {
		if c.by[g.who]--; c.by[g.who] == 0 {
			delete(c.by, g.who)
		}
	}
}

// Leave may be called more than once.
func (g *guest) Leave() {
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	g.leave()
}

// alive says that a piece of a request or of an answer has come through. As in
// busy, a nil guest is nobody who could have to make place.
func (g *guest) alive() {
	if g == nil {
		return
	}
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	if g.place != nil {
		g.crowd.quiet.MoveToBack(g.place)
	}
}

// busy says whether a request of the guest's connection is being worked on.
func (g *guest) busy(busy bool) {
	if g == nil {
		return
	}
	c := g.crowd
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case g.left:
	case busy && g.place != nil:
		c.quiet.Remove(g.place)
		g.place = nil
	case !busy && g.place == nil:
		g.place = c.quiet.PushBack(g)
	}
}

// origin is what one stranger can be expected to have: an IPv4 address, or the
// network of an IPv6 one. It is invalid for what is no IP address.
func origin(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() && !addr.IsLoopback() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits) // invalid like the address
	return prefix
}

// originOf is the origin of a request.
func originOf(r *http.Request) netip.Prefix {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	return origin(net.TCPAddrFromAddrPort(from))
}
