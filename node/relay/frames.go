package relay

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// A link carries frames: a kind (1 byte), the number of the request that it belongs
// to (4 bytes), the size of what follows (2 bytes), both big-endian, and so many
// bytes. A message that is longer than a frame goes in several, between which those
// of other requests find their turn.
//
// There are no windows as in HTTP/2: both ends take in whatever comes at once, within
// the limits of messages and memory, and refuse the rest, so that nothing on a link
// waits for a slow reader of something else. What the kernel has not sent yet is kept
// short instead (see prepareLink).
const (
	frameOpen   = 1 // from the caller: length of the command (1 byte), command, beginning of the body
	frameAnswer = 2 // from the called side: status (2 bytes), beginning of the body
	frameMore   = 3 // more of the body
	frameStop   = 4 // the caller has lost interest; or the called side gives no answer
	framePing   = 5
	framePong   = 6
	frameLeave  = 7 // the called side wants to close: no new requests, please

	frameLast = 0x80 // added to a kind: the body ends here

	frameHead = 7
	maxFrame  = 16 << 10 // bytes behind the head

	atOnceOut = 64 << 10 // bytes of long messages in one turn of the writer
	readyOut  = 64 << 10 // bytes of short messages that wait; more wait as long ones do
	// inlineOut is what fits into the kernel's buffers for certain, so that nobody
	// has to wait for the network while writing it.
	inlineOut = 16 << 10

	linkWrite = 15 * time.Second // for one write to make its way into the kernel
)

var errLinkClosed = errors.New("link closed")

// sender is the sending half of a link. Whoever has something to send also writes it,
// unless somebody is writing already or it could take long: a goroutine for that
// would have to be woken for every small message.
type sender struct {
	conn    net.Conn
	writers sync.WaitGroup // goroutines that write

	mu      sync.Mutex
	ready   []byte // whole frames
	long    []*outgoing
	writing bool
	unheard int // bytes written since the other side was last heard of
	err     error
}

// outgoing is a message, or the rest of one, that is too long for a frame.
type outgoing struct {
	kind byte // of its first frame
	id   uint32
	head []byte // before the body in the first frame
	body []byte
	done func() // told once that the body is no longer needed; may be nil
	end  time.Time
	sent bool // the first frame
}

// send sends a message and does not wait until it is gone. A long one that is not
// gone by end is given up. done is called when the body is no longer needed, also
// after an error, which says that the link is closed.
func (s *sender) send(kind byte, id uint32, head, body []byte, end time.Time, done func()) error {
	s.mu.Lock()
	if err := s.err; err != nil {
		s.mu.Unlock()
		if done != nil {
			done()
		}
		return err
	}
	if len(head)+len(body) <= maxFrame && len(s.ready) <= readyOut {
		s.ready = appendFrame(s.buffer(), kind|frameLast, id, head, body)
		if done != nil {
			done()
		}
	} else {
		s.long = append(s.long, &outgoing{kind: kind, id: id, head: head, body: body, end: end, done: done})
	}
	s.start()
	return nil
}

// control sends a frame without more than a head and never waits for the network, for
// which whoever reads frames has no time. A link whose other side makes us say more
// and more, and does not read it, is closed.
func (s *sender) control(kind byte, id uint32, head []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	if len(s.ready) > 2*readyOut {
		s.cut()
		return
	}
	s.ready = appendFrame(s.buffer(), kind, id, head, nil)
	if !s.writing {
		s.writing = true
		s.writers.Go(s.write) // ends when there is nothing to write, or with the link
	}
}

// cut closes the connection without waiting for anything. TLS would say goodbye first,
// for up to five seconds when the other side takes nothing; the end of a message does
// not depend on that here. Whoever reads frames notices, and ends the link.
func (s *sender) cut() {
	if t, ok := s.conn.(*tls.Conn); ok {
		t.NetConn().Close()
	} else {
		s.conn.Close()
	}
}

// end cuts the connection and waits until nobody writes any more.
func (s *sender) end(why error) {
	s.fail(why)
	s.cut()
	s.writers.Wait()
}

// stop gives up what is still to be sent of a message, and reports whether a part
// of it was sent already.
func (s *sender) stop(id uint32) (begun bool) {
	s.mu.Lock()
	i := slices.IndexFunc(s.long, func(o *outgoing) bool { return o.id == id })
	if i < 0 {
		s.mu.Unlock()
		return true
	}
	o := s.long[i]
	s.long = slices.Delete(s.long, i, i+1)
	s.mu.Unlock()
	o.finished()
	return o.sent
}

func (o *outgoing) finished() {
	if o.done != nil {
		o.done()
	}
}

// heard notes that a frame of the other side has come.
func (s *sender) heard() {
	s.mu.Lock()
	s.unheard = 0
	s.mu.Unlock()
}

// fail makes the sender useless and gives up what it has not sent.
func (s *sender) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	long := s.long
	s.long = nil
	if !s.writing {
		s.give(s.ready)
		s.ready = nil
	}
	s.mu.Unlock()
	for _, o := range long {
		o.finished()
	}
}

// failure is why the sender is useless, nil while it is not.
func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// start is called with s.mu held, which it releases.
func (s *sender) start() {
	if s.writing {
		s.mu.Unlock()
		return
	}
	s.writing = true
	if len(s.long) == 0 && s.unheard+len(s.ready) <= inlineOut {
		s.turn()
		if len(s.ready) == 0 && len(s.long) == 0 || s.err != nil {
			s.writing = false
			s.mu.Unlock()
			return
		}
	}
	s.writers.Go(s.write) // ends when there is nothing to write, or with the link
	s.mu.Unlock()
}

// write writes until there is nothing left.
func (s *sender) write() {
	s.mu.Lock()
	for s.err == nil && (len(s.ready) > 0 || len(s.long) > 0) {
		s.turn()
	}
	s.writing = false
	s.mu.Unlock()
}

// turn writes what is ready and a piece of each long message; s.mu is held and
// released meanwhile.
func (s *sender) turn() {
	b := s.ready
	s.ready = nil
	var over []*outgoing
	if len(s.long) > 0 {
		if b == nil {
			b = s.buffer()
		}
		now := time.Now()
		for room := len(b) + atOnceOut; len(s.long) > 0 && len(b) < room; {
			o := s.long[0]
			s.long = slices.Delete(s.long, 0, 1)
			if !o.end.IsZero() && now.After(o.end) {
				b = appendFrame(b, frameStop, o.id, nil, nil)
				over = append(over, o)
				continue
			}
			piece := o.body[:min(len(o.body), maxFrame-len(o.head))]
			o.body = o.body[len(piece):]
			kind := o.kind
			if len(o.body) == 0 {
				kind |= frameLast
			}
			b = appendFrame(b, kind, o.id, o.head, piece)
			o.kind, o.head, o.sent = frameMore, nil, true
			if len(o.body) == 0 {
				over = append(over, o)
			} else {
				s.long = append(s.long, o)
			}
		}
	}
	s.unheard += len(b)
	s.mu.Unlock()
	s.conn.SetWriteDeadline(time.Now().Add(linkWrite))
	_, err := s.conn.Write(b)
	s.give(b)
	for _, o := range over {
		o.finished()
	}
	if err != nil {
		s.fail(fmt.Errorf("%w: %w", errLinkClosed, err))
		s.cut() // so that the reading half ends as well
	}
	s.mu.Lock()
}

// buffers keep what is being written. They belong to no link: most links are silent
// at any moment.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// buffer is called with s.mu held.
func (s *sender) buffer() []byte {
	if s.ready != nil {
		return s.ready
	}
	p := buffers.Get().(*[]byte)
	if *p == nil {
		*p = make([]byte, 0, 4<<10)
	}
	return (*p)[:0]
}

func (s *sender) give(b []byte) {
	if b != nil && cap(b) <= 256<<10 {
		buffers.Put(&b)
	}
}

func appendFrame(b []byte, kind byte, id uint32, head, body []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(head)+len(body)))
	b = append(b, head...)
	return append(b, body...)
}
