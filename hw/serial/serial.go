// Package serial is the serial line of the appliance.
//
// Open gives a Line, which reads and writes bytes as they are: no echo, no
// translation of line ends. A line that breaks (a USB adapter pulled out) is
// opened again by itself, so a program can treat it as being there always.
package serial

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/tarm/serial"
)

// ReadTimeout is how long one read of the device waits: Close cannot release a
// waiting read, so it returns at the end of it.
const ReadTimeout = 200 * time.Millisecond

const (
	// reopenDelay is the pause before a broken line is opened again.
	reopenDelay = time.Second
	// hangup is how many reads in a row may end empty at once, instead of
	// after ReadTimeout, before the line counts as broken. The device says
	// "no data" and "hung up" in the same way.
	hangup = 20
)

// ErrClosed is the error of a Line after Close.
var ErrClosed = errors.New("serial line is closed")

// Line is a serial device. Reads come from one goroutine; writes may come from
// several, and each Write goes out in one piece.
type Line struct {
	open   func() (io.ReadWriteCloser, error)
	now    func() time.Time
	pause  func(time.Duration)
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	port io.ReadWriteCloser // nil = to be opened

	writing sync.Mutex
}

// Open opens a serial device such as "/dev/ttyS0" at a standard rate up to
// 4,000,000 baud, with 8 data bits, no parity and one stop bit. The error of
// the first attempt is returned; later ones are retried every second.
func Open(device string, baud int) (*Line, error) {
	return open(func() (io.ReadWriteCloser, error) {
		p, err := serial.OpenPort(&serial.Config{Name: device, Baud: baud, ReadTimeout: ReadTimeout})
		if err != nil {
			return nil, fmt.Errorf("serial line %s at %d baud: %w", device, baud, err)
		}
		return p, nil
	})
}

func open(opener func() (io.ReadWriteCloser, error)) (*Line, error) {
	l := &Line{open: opener, now: time.Now, closed: make(chan struct{})}
	l.pause = func(d time.Duration) {
		select {
		case <-l.closed:
		case <-time.After(d):
		}
	}
	if _, err := l.current(); err != nil {
		return nil, err
	}
	return l, nil
}

// Read waits for bytes. After Close it returns io.EOF, at most ReadTimeout
// later; it has no other error.
func (l *Line) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	empty := 0
	for {
		if l.isClosed() {
			return 0, io.EOF
		}
		port, err := l.current()
		if err != nil {
			l.pause(reopenDelay)
			continue
		}
		start := l.now()
		n, err := port.Read(b)
		if n > 0 {
			return n, nil
		}
		switch {
		case err != nil && err != io.EOF && !os.IsTimeout(err):
			l.drop(port)
			l.pause(reopenDelay)
		case l.now().Sub(start) < ReadTimeout/4:
			if empty++; empty >= hangup {
				empty = 0
				l.drop(port)
				l.pause(reopenDelay)
			}
		default:
			empty = 0
		}
	}
}

// Write writes all of b in one piece, with no other Write in between. What is
// written while the line is broken is lost, as on an unplugged cable; the only
// error is ErrClosed.
func (l *Line) Write(b []byte) (int, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	for rest := b; len(rest) > 0; {
		if l.isClosed() {
			return len(b) - len(rest), ErrClosed
		}
		l.mu.Lock()
		port := l.port
		l.mu.Unlock()
		if port == nil {
			break
		}
		n, err := port.Write(rest)
		rest = rest[n:]
		if err != nil {
			l.drop(port)
			break
		}
	}
	return len(b), nil
}

// Close ends the line. A waiting Read returns within ReadTimeout.
func (l *Line) Close() error {
	l.once.Do(func() { close(l.closed) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.port == nil {
		return nil
	}
	err := l.port.Close()
	l.port = nil
	return err
}

func (l *Line) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

func (l *Line) current() (io.ReadWriteCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.port != nil {
		return l.port, nil
	}
	if l.isClosed() {
		return nil, ErrClosed
	}
	port, err := l.open()
	if err != nil {
		return nil, err
	}
	l.port = port
	return port, nil
}

func (l *Line) drop(port io.ReadWriteCloser) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.port == port {
		l.port = nil
		port.Close()
	}
}
