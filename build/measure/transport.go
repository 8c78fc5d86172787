package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// transportMeasure compares what can carry requests between two nodes: one
// connection on which both have proven their keys, shared by all requests.
type transportMeasure struct {
	delay        time.Duration // each way
	small, large int
}

const (
	smallBody = 300
	largeBody = 256 << 10
)

// transport is an open connection.
type transport interface {
	// ask sends a body and wants an answer of some size.
	ask(ctx context.Context, body []byte, want int) error
	close()
}

var transports = []struct {
	name       string
	congestion string // control of the kernel's TCP; quic-go has its own
	open       func(ctx context.Context, client, server *side) (transport, func(), error)
}{
	{"HTTP/2", "cubic", openHTTP2},
	{"HTTP/2", "bbr", openHTTP2},
	{"QUIC", "cubic", openQUIC},
	{"frames", "cubic", openFrames},
}

func (m transportMeasure) run(ctx context.Context, out io.Writer) error {
	fmt.Fprintf(out, "requests of %d bytes; small: as much back; large: %d KiB back. One connection, TLS 1.3 with keys on both sides\n", smallBody, largeBody>>10)
	fmt.Fprintf(out, "%-14s %6s %5s | %8s | %16s | %27s | %17s | %16s | %s\n", "", "", "", "first", "small, one", "small, 32 at a time", fmt.Sprintf("%d large, 8 at", m.large), "small meanwhile", "CPU of both, ms")
	fmt.Fprintf(out, "%-14s %6s %5s | %8s | %7s %8s | %8s %8s %9s | %8s %8s | %7s %8s | %6s %6s\n", "", "RTT", "loss", "ms", "p50", "p99", "p50", "p99", "a second", "s", "MB/s", "p50", "most", "one", "of 32")
	for _, l := range []link{{}, {delay: m.delay}, {delay: m.delay, loss: 0.01}} {
		for _, t := range transports {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			l.congestion = t.congestion
			line, err := m.measure(ctx, l, t.open)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			fmt.Fprintf(out, "%-14s %6s %4.0f%% | %s\n", t.name+" "+t.congestion, 2*l.delay, l.loss*100, line)
		}
	}
	return nil
}

func (m transportMeasure) measure(ctx context.Context, l link, open func(context.Context, *side, *side) (transport, func(), error)) (string, error) {
	client, server, closed, err := newSides(l)
	if err != nil {
		return "", err
	}
	defer closed()
	began := time.Now()
	t, stop, err := open(ctx, client, server)
	if err != nil {
		return "", err
	}
	defer stop()
	defer t.close()
	body := make([]byte, smallBody)
	if err := t.ask(ctx, body, smallBody); err != nil {
		return "", err
	}
	first := time.Since(began)

	alone := processorTime()
	one, _, err := many(ctx, 1, min(m.small, 100), func() error { return t.ask(ctx, body, smallBody) })
	if err != nil {
		return "", err
	}
	alone = processorTime() - alone
	cpu := processorTime()
	small, smallTook, err := many(ctx, 32, m.small, func() error { return t.ask(ctx, body, smallBody) })
	if err != nil {
		return "", err
	}
	cpu = processorTime() - cpu

	// A small request now and then, while large answers come.
	large, stopSmall := context.WithCancel(ctx)
	var meanwhile []time.Duration
	var others error
	var beside sync.WaitGroup
	beside.Go(func() {
		for large.Err() == nil && others == nil {
			start := time.Now()
			others = t.ask(ctx, body, smallBody)
			meanwhile = append(meanwhile, time.Since(start))
		}
	})
	_, largeTook, err := many(ctx, 8, m.large, func() error { return t.ask(ctx, body, largeBody) })
	stopSmall()
	beside.Wait()
	if err := errors.Join(err, others); err != nil {
		return "", err
	}
	slices.Sort(meanwhile)
	return fmt.Sprintf("%8.0f | %7.1f %8.1f | %8.1f %8.1f %9.0f | %8.1f %8.1f | %7.1f %8.1f | %6.3f %6.3f",
		milli(first), milli(one[len(one)/2]), milli(one[len(one)*99/100]),
		milli(small[len(small)/2]), milli(small[len(small)*99/100]), float64(len(small))/smallTook.Seconds(),
		largeTook.Seconds(), float64(m.large)*largeBody/1e6/largeTook.Seconds(),
		milli(meanwhile[len(meanwhile)/2]), milli(meanwhile[len(meanwhile)-1]), milli(alone)/float64(len(one)), milli(cpu)/float64(len(small))), nil
}

// many does something so often, some at a time.
func many(ctx context.Context, atOnce, count int, do func() error) (took []time.Duration, all time.Duration, err error) {
	each := make([][]time.Duration, atOnce)
	errs := make([]error, atOnce)
	var workers sync.WaitGroup
	began := time.Now()
	for w := range atOnce {
		workers.Go(func() {
			for i := w; i < count && ctx.Err() == nil; i += atOnce {
				start := time.Now()
				if errs[w] = do(); errs[w] != nil {
					return
				}
				each[w] = append(each[w], time.Since(start))
			}
		})
	}
	workers.Wait()
	all = time.Since(began)
	took = slices.Concat(each...)
	slices.Sort(took)
	return took, all, errors.Join(append(errs, ctx.Err())...)
}

// certificates are made as nodes make theirs: Ed25519, signed by themselves.
func certificate() (tls.Certificate, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, err
}

func tlsConfigs(protocol string) (client, server *tls.Config, err error) {
	a, err := certificate()
	if err != nil {
		return nil, nil, err
	}
	b, err := certificate()
	server = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{b}, NextProtos: []string{protocol}, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true}
	client = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{a}, NextProtos: []string{protocol}, InsecureSkipVerify: true, ServerName: "link"}
	return client, server, err
}

type http2 struct {
	conn *http.ClientConn
}

// openHTTP2 sets the connection up as package relay does.
func openHTTP2(ctx context.Context, client, server *side) (transport, func(), error) {
	clientTLS, serverTLS, err := tlsConfigs("h2")
	if err != nil {
		return nil, nil, err
	}
	l, err := server.listen("443")
	if err != nil {
		return nil, nil, err
	}
	only := new(http.Protocols)
	only.SetHTTP2(true)
	s := &http.Server{
		TLSConfig: serverTLS, Protocols: only, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || len(body) < 4 {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			w.Write(make([]byte, binary.BigEndian.Uint32(body)))
		}),
	}
	go s.ServeTLS(l, "", "")
	t := &http.Transport{
		Protocols: only, ForceAttemptHTTP2: true, TLSClientConfig: clientTLS,
		HTTP2:       &http.HTTP2Config{MaxReceiveBufferPerStream: 1 << 20, MaxReceiveBufferPerConnection: 3 << 20},
		DialContext: client.dial,
	}
	conn, err := t.NewClientConn(ctx, "https", net.JoinHostPort(server.addr, "443"))
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return &http2{conn}, func() { s.Close() }, nil
}

func (h *http2) ask(ctx context.Context, body []byte, want int) error {
	body = bytes.Clone(body)
	binary.BigEndian.PutUint32(body, uint32(want))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://link/link/v1/x", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := h.conn.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return expect(resp.Body, want)
}

func (h *http2) close() { h.conn.Close() }

func expect(r io.Reader, want int) error {
	n, err := io.Copy(io.Discard, r)
	if err == nil && int(n) != want {
		err = fmt.Errorf("%d bytes came, not %d", n, want)
	}
	return err
}

type quicConn struct {
	conn *quic.Conn
	stop func()
}

func openQUIC(ctx context.Context, client, server *side) (transport, func(), error) {
	clientTLS, serverTLS, err := tlsConfigs("link")
	if err != nil {
		return nil, nil, err
	}
	far, err := server.packets()
	if err != nil {
		return nil, nil, err
	}
	near, err := client.packets()
	if err != nil {
		return nil, nil, err
	}
	cfg := &quic.Config{MaxIncomingStreams: 1000, MaxIdleTimeout: time.Minute}
	l, err := quic.Listen(far, serverTLS, cfg)
	if err != nil {
		return nil, nil, err
	}
	go func() {
		for {
			conn, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			go serveQUIC(conn)
		}
	}()
	conn, err := quic.Dial(ctx, near, far.LocalAddr(), clientTLS, cfg)
	if err != nil {
		return nil, nil, err
	}
	return &quicConn{conn: conn}, func() { l.Close(); near.Close(); far.Close() }, nil
}

func serveQUIC(conn *quic.Conn) {
	for {
		s, err := conn.AcceptStream(context.Background())
		if err != nil {
			return
		}
		go func() {
			defer s.Close()
			body, err := io.ReadAll(s)
			if err != nil || len(body) < 4 {
				return
			}
			s.Write(make([]byte, binary.BigEndian.Uint32(body)))
		}()
	}
}

func (q *quicConn) ask(ctx context.Context, body []byte, want int) error {
	s, err := q.conn.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	body = bytes.Clone(body)
	binary.BigEndian.PutUint32(body, uint32(want))
	if _, err := s.Write(body); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	return expect(s, want)
}

func (q *quicConn) close() { q.conn.CloseWithError(0, "") }
