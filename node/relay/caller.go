package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// How the ends of a link find out that the other is gone. One that is silent is
// asked, and given up without an answer.
const (
	linkTick     = 5 * time.Second
	callerSilent = 2 // ticks, then the caller asks
	callerGone   = 3 // ticks
	calledSilent = 6 // the called side leaves that to the caller first
	calledGone   = 9 //
	calledUnused = int(linkIdleEnd / linkTick)
)

var (
	// errNoAnswer is for a request that the called side did not finish.
	errNoAnswer = errors.New("the other node gave no answer")
	// errNotSent is for a request that met a link which was ending: the other side has
	// seen nothing of it.
	errNotSent = errors.New("request not sent")
)

// caller is the end of a link that asks.
type caller struct {
	out sender

	mu      sync.Mutex
	calls   map[uint32]*call
	next    uint32
	leaving bool // the other side wants no new requests
	ended   error
	frames  uint64 // read so far

	pulse *time.Timer
	done  chan struct{} // closed when the reading goroutine has ended
}

// call is a request that waits for its answer.
type call struct {
	answer chan error // one, when the answer is there or will not come
	status int
	body   gathered
}

func newCaller(conn net.Conn) *caller {
	c := &caller{calls: make(map[uint32]*call), done: make(chan struct{})}
	c.out.conn = conn
	c.mu.Lock()
	c.pulse = time.AfterFunc(linkTick, c.feelPulse(0, 0))
	c.mu.Unlock()
	go c.read() // ends when the connection is cut, for which Close waits
	return c
}

// ask sends a request and waits for its answer. Errors are the context's, errBusy,
// errTooLarge, errNotSent, or tell that the link broke.
func (c *caller) ask(ctx context.Context, command string, body []byte, limit int64, held *share) (status int, answer []byte, err error) {
	k := &call{answer: make(chan error, 1), body: gathered{limit: limit, held: held}}
	c.mu.Lock()
	if err := c.whyNot(); err != nil {
		c.mu.Unlock()
		return 0, nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	c.next++
	id := c.next
	c.calls[id] = k
	c.mu.Unlock()

	head := append(append(make([]byte, 0, 1+len(command)), byte(len(command))), command...)
	if err := c.out.send(frameOpen, id, head, body, time.Time{}, nil); err != nil {
		c.forget(id)
		return 0, nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	select {
	case err = <-k.answer:
	case <-ctx.Done():
		if err = ctx.Err(); c.forget(id) && c.out.stop(id) {
			c.out.control(frameStop, id, nil)
		}
	}
	if err != nil {
		return 0, nil, err
	}
	return k.status, k.body.bytes, nil
}

// forget reports whether the call was still waiting.
func (c *caller) forget(id uint32) bool {
	c.mu.Lock()
	_, ok := c.calls[id]
	delete(c.calls, id)
	over := c.leaving && len(c.calls) == 0
	c.mu.Unlock()
	if over {
		c.out.cut()
	}
	return ok
}

// read takes in what the other side sends.
func (c *caller) read() {
	defer close(c.done)
	err := fmt.Errorf("%w: %w", errLinkClosed, c.readFrames(bufio.NewReaderSize(c.out.conn, 4<<10)))
	c.out.end(err)
	c.mu.Lock()
	c.pulse.Stop()
	c.ended = err
	calls := c.calls
	c.calls = nil
	c.mu.Unlock()
	for _, k := range calls {
		k.answer <- c.ended
	}
}

func (c *caller) readFrames(r *bufio.Reader) error {
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		c.out.heard()
		c.mu.Lock()
		c.frames++
		k := c.calls[f.id]
		c.mu.Unlock()
		switch f.kind {
		case frameAnswer:
			if f.size < 2 {
				return errFrame
			}
			head, err := r.Peek(2)
			if err != nil {
				return err
			}
			status := int(binary.BigEndian.Uint16(head))
			r.Discard(2)
			f.size -= 2
			if k == nil {
				break
			}
			if k.status != 0 || status == 0 {
				return errFrame
			}
			k.status = status
		case frameMore:
			if k != nil && k.status == 0 {
				return errFrame
			}
		case frameStop:
			if k != nil && c.forget(f.id) {
				c.out.stop(f.id)
				k.answer <- errNoAnswer
			}
			k = nil
		case framePing:
			c.out.control(framePong, 0, nil)
			k = nil
		case framePong:
			k = nil
		case frameLeave:
			k = nil
			c.mu.Lock()
			c.leaving = true
			over := len(c.calls) == 0
			c.mu.Unlock()
			if over {
				return io.EOF
			}
		default:
			return errFrame
		}
		if k == nil {
			if _, err := r.Discard(f.size); err != nil {
				return err
			}
			continue
		}
		refused, err := k.body.read(r, f.size)
		if err != nil {
			return err
		}
		if !f.last && refused == nil {
			continue
		}
		if c.forget(f.id) {
			if c.out.stop(f.id); refused != nil {
				c.out.control(frameStop, f.id, nil)
				refused = fmt.Errorf("reading the answer: %w", refused)
			}
			k.answer <- refused
		}
	}
}

// feelPulse returns what a tick does, when so many frames had come before it and as
// many ticks have passed without any.
func (c *caller) feelPulse(frames uint64, silent int) func() {
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ended != nil {
			return
		}
		if silent++; c.frames != frames {
			silent = 0
		}
		switch silent {
		case callerSilent:
			c.out.control(framePing, 0, nil)
		case callerGone:
			c.out.cut()
			return
		}
		c.pulse = time.AfterFunc(linkTick, c.feelPulse(c.frames, silent))
	}
}

// Err tells why there can be no more requests, nil if there can.
func (c *caller) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whyNot()
}

// whyNot is Err with c.mu held.
func (c *caller) whyNot() error {
	switch {
	case c.ended != nil:
		return c.ended
	case c.leaving:
		return errLeaving
	}
	return c.out.failure()
}

// InFlight is how many requests wait for their answers.
func (c *caller) InFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// retire closes the link when the requests under way have their answers, or when ctx
// ends.
func (c *caller) retire(ctx context.Context) {
	c.mu.Lock()
	c.leaving = true
	over := len(c.calls) == 0
	c.mu.Unlock()
	if !over {
		select {
		case <-c.done:
		case <-ctx.Done():
		}
	}
	c.Close()
}

// Close breaks the link.
func (c *caller) Close() {
	c.out.cut()
	<-c.done
}

// frame is the head of one.
type frame struct {
	kind byte
	last bool
	id   uint32
	size int
}

var errFrame = errors.New("malformed frame")

func readFrame(r *bufio.Reader) (f frame, err error) {
	head, err := r.Peek(frameHead)
	if err != nil {
		return f, err
	}
	f = frame{
		kind: head[0] &^ frameLast,
		last: head[0]&frameLast != 0,
		id:   binary.BigEndian.Uint32(head[1:]),
		size: int(binary.BigEndian.Uint16(head[5:])),
	}
	r.Discard(frameHead)
	if f.size > maxFrame {
		return f, errFrame
	}
	return f, nil
}

// gathered is a message as far as it has arrived. As in [readAll], memory is taken
// for what is there and not for what is promised.
type gathered struct {
	limit int64
	held  *share
	bytes []byte
}

// read adds n bytes of r. refused is errTooLarge or errBusy; the bytes are read
// nevertheless.
func (g *gathered) read(r *bufio.Reader, n int) (refused, err error) {
	size := len(g.bytes) + n
	switch {
	case int64(size) > g.limit:
		refused = errTooLarge
	case size > cap(g.bytes):
		room := size
		if len(g.bytes) > 0 {
			room = int(max(int64(size), min(int64(cap(g.bytes))*2, g.limit)))
		}
		if !g.held.grow(int64(room - cap(g.bytes))) {
			refused = errBusy
			break
		}
		g.bytes = slices.Grow(g.bytes, room-len(g.bytes))
	}
	if refused != nil {
		_, err = r.Discard(n)
		return refused, err
	}
	_, err = io.ReadFull(r, g.bytes[size-n:size])
	g.bytes = g.bytes[:size]
	return nil, err
}
