package relay

import (
	"net"
	"sync"
)

// handover is a listener whose connections have been accepted and secured
// elsewhere.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands a connection to whoever serves; after Close it closes it.
func (h *handover) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		c.Close()
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }

// countedConn tells once when it is closed.
type countedConn struct {
	net.Conn
	guest *guest // nil for a link

	mu     sync.Mutex
	closed func()
}

// handOver settles the present account and calls next at the close instead,
// which is at once when the connection is closed already.
func (c *countedConn) handOver(next func()) {
	c.mu.Lock()
	before := c.closed
	c.closed = next
	c.mu.Unlock()
	if before != nil {
		before()
	} else {
		c.Close()
	}
}

func (c *countedConn) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = nil
	c.mu.Unlock()
	if closed != nil {
		closed()
	}
	return c.Conn.Close()
}
