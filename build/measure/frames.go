package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// frames is the least that can carry requests over one TLS connection: a length, a
// number, the body. It has no flow control and no cancelling, and is here to show
// what those of the others cost.
type frames struct {
	conn net.Conn

	write sync.Mutex
	mu    sync.Mutex
	next  uint32
	asked map[uint32]chan []byte
	ended error
}

func openFrames(ctx context.Context, client, server *side) (transport, func(), error) {
	clientTLS, serverTLS, err := tlsConfigs("frames")
	if err != nil {
		return nil, nil, err
	}
	l, err := server.listen("444")
	if err != nil {
		return nil, nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveFrames(tls.Server(conn, serverTLS))
		}
	}()
	conn, err := client.dial(ctx, "tcp", net.JoinHostPort(server.addr, "444"))
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	f := &frames{conn: tls.Client(conn, clientTLS), asked: make(map[uint32]chan []byte)}
	go f.read()
	return f, func() { l.Close() }, nil
}

func readFrame(r *bufio.Reader) (id uint32, body []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > 16<<20 {
		return 0, nil, errors.New("a frame without end")
	}
	body = make([]byte, size)
	_, err = io.ReadFull(r, body)
	return binary.BigEndian.Uint32(head[4:]), body, err
}

func frame(id uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 8+len(body)), uint32(len(body)))
	return append(binary.BigEndian.AppendUint32(b, id), body...)
}

func serveFrames(conn net.Conn) {
	defer conn.Close()
	var write sync.Mutex
	for r := bufio.NewReaderSize(conn, 16<<10); ; {
		id, body, err := readFrame(r)
		if err != nil || len(body) < 4 {
			return
		}
		go func() {
			answer := frame(id, make([]byte, binary.BigEndian.Uint32(body)))
			write.Lock()
			defer write.Unlock()
			conn.Write(answer)
		}()
	}
}

func (f *frames) read() {
	for r := bufio.NewReaderSize(f.conn, 16<<10); ; {
		id, body, err := readFrame(r)
		f.mu.Lock()
		if err != nil {
			f.ended = err
			for _, c := range f.asked {
				close(c)
			}
			f.asked = nil
			f.mu.Unlock()
			return
		}
		c := f.asked[id]
		delete(f.asked, id)
		f.mu.Unlock()
		if c != nil {
			c <- body
		}
	}
}

func (f *frames) ask(ctx context.Context, body []byte, want int) error {
	c := make(chan []byte, 1)
	f.mu.Lock()
	if f.ended != nil {
		f.mu.Unlock()
		return f.ended
	}
	f.next++
	id := f.next
	f.asked[id] = c
	f.mu.Unlock()
	b := frame(id, body)
	binary.BigEndian.PutUint32(b[8:], uint32(want))
	f.write.Lock()
	_, err := f.conn.Write(b)
	f.write.Unlock()
	if err != nil {
		return err
	}
	select {
	case answer, ok := <-c:
		if !ok {
			return io.ErrUnexpectedEOF
		}
		return expect(bytes.NewReader(answer), want)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *frames) close() { f.conn.Close() }
