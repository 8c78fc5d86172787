// Package relay is the face of a service node to the network: the HTTPS server
// that clients and other nodes talk to, and the links over which nodes pass
// onion requests and storage requests on.
//
// Bytes come in through [Server.Serve]. What a client sends is a storage
// request, handed to [Storage], or an onion request: the server opens the one
// layer that is meant for this node and, as the layer says, hands its content
// to the storage, passes the rest on to the next node through [Peers], or posts
// it to a web server ([Exit]), in whose place the nodes themselves answer when it
// is a file server of theirs ([Files]). The answer goes back the way the request came.
// What another node sends arrives at the same port, on a TLS connection on which
// both sides have proven their node keys.
//
// Statuses and texts are those of the storage server 2.8.0, because clients act
// on them. Everything a stranger can send is bounded: connections, jobs, bytes
// and time ([Limits]). Nothing here logs who asked together with what was asked
// or who was asked next.
package relay

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"hearth/node/keys"
	"hearth/node/peertest"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// Storage answers storage requests; [rpc.Service] is the one that does.
type Storage interface {
	// Handle answers a client's request, the JSON text {"method","params"}.
	Handle(ctx context.Context, body []byte) rpc.Response
	// HandleForwarded answers a request that a swarm member passed on.
	HandleForwarded(ctx context.Context, method string, body []byte) [][]byte
}

// Config is what a Server is made of.
type Config struct {
	Keys    *keys.Pair
	Cert    tls.Certificate    // shown to clients, see [Certificate]
	Storage Storage            // required
	Files   Files              // requests for a file server; nil when the node keeps no files
	List    func() *swarm.List // the newest node list; may return nil
	Peers   Peers              // the way to other nodes
	Ready   func() []string    // reasons why the node is not ready; none means ready
	Exit    Exit               // requests to web servers

	// Replica answers CommandReplica from the node with that key; nil for one that
	// has nothing to compare. No answer means that the request makes no sense.
	Replica func(ctx context.Context, from [32]byte, parts [][]byte) [][]byte
	// Ledger answers CommandLedger in the same way; nil for a network without one.
	Ledger func(ctx context.Context, from [32]byte, parts [][]byte) [][]byte
	// Query answers at /json_rpc, where clients ask a seed for the node list; nil for
	// a node that is no seed.
	Query func(body []byte) []byte

	Tests Tests // of this node by others; nil for nobody who cares

	Version [3]int           // storage server version reported to clients
	Now     func() time.Time // required
	Rand    io.Reader        // for the encryption of answers
	Log     *slog.Logger
	Limits  Limits
}

// Server is the HTTPS server of a service node.
type Server struct {
	cfg    Config
	lim    Limits
	name   string // value of the Server header
	exit   *exit
	limits *rateLimiter
	tls    *tls.Config

	jobs, linkJobs     *semaphore.Weighted
	waits, linkWaits   *semaphore.Weighted // jobs that only wait, see slot
	memory, linkMemory *memory
	strangers          *crowd
	bulk               *bulk
	onions             atomic.Uint64
	figures            Figures

	clients     *http.Server
	clientConns *handover

	base   context.Context // ends when the server is closed
	cancel context.CancelFunc
	stop   context.Context // ends when the server begins to shut down
	leave  context.CancelFunc
	wg     sync.WaitGroup // accept loops, handshakes, the HTTP server, links

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	shaking   map[net.Conn]struct{}
	links     map[[32]byte]int // open links by node
	called    map[*called]struct{}
}

// New returns a server that serves nothing yet.
func New(cfg Config) (*Server, error) {
	linkCert, err := nodeCertificate(cfg.Keys)
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Tests == nil {
		cfg.Tests = noTests{}
	}
	lim := cfg.Limits.withDefaults()
	s := &Server{
		cfg:         cfg,
		lim:         lim,
		name:        fmt.Sprintf("Oxen Storage Server/%d.%d.%d", cfg.Version[0], cfg.Version[1], cfg.Version[2]),
		limits:      newRateLimiter(cfg.Now),
		jobs:        semaphore.NewWeighted(lim.Jobs),
		linkJobs:    semaphore.NewWeighted(lim.Jobs),
		waits:       semaphore.NewWeighted(lim.Waiting),
		linkWaits:   semaphore.NewWeighted(pathWaits * lim.Waiting),
		memory:      newMemory(lim.Memory),
		linkMemory:  newMemory(lim.Memory),
		strangers:   newCrowd(lim.Connections, lim.Address),
		figures:     newFigures(),
		bulk:        newBulk(cfg.Now),
		clientConns: newHandover(),
		called:      make(map[*called]struct{}),
		listeners:   make(map[net.Listener]struct{}),
		shaking:     make(map[net.Conn]struct{}),
		links:       make(map[[32]byte]int),
	}
	s.exit = newExit(cfg.Exit, s.name)
	s.base, s.cancel = context.WithCancel(context.Background())
	s.stop, s.leave = context.WithCancel(s.base)

	linkTLS := &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{linkCert},
		NextProtos:                  []string{linkALPN},
		ClientAuth:                  tls.RequireAnyClientCert,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			key, err := peerKey(&state)
			switch {
			case err == nil && !s.listed(key):
				err = errors.New("the caller is not in the node list")
			case err == nil && state.NegotiatedProtocol != linkALPN:
				err = errors.New("the caller speaks another version of links")
			}
			return err
		},
	}
	s.tls = &tls.Config{
		MinVersion:             tls.VersionTLS12,
		Certificates:           []tls.Certificate{cfg.Cert},
		NextProtos:             []string{"http/1.1", "http/1.0"}, // the latter to be told that it does not do
		SessionTicketsDisabled: true,
		// Nobody can do anything with the beginning of an answer.
		DynamicRecordSizingDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if hello.ServerName == linkName {
				return linkTLS, nil
			}
			return nil, nil
		},
	}

	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	s.clients = &http.Server{
		Handler:           s.guarded(s.counted(s.serveClient)),
		Protocols:         http1,
		ConnContext:       withGuest,
		ReadHeaderTimeout: lim.Header,
		ReadTimeout:       lim.Request,
		IdleTimeout:       lim.Idle,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // its lines name the clients' addresses
	}
	s.wg.Go(func() { s.clients.Serve(s.clientConns) })
	return s, nil
}

// pathWaits is how many requests of nodes wait for one that waits at its entry: at
// the middle, the exit and the destination.
const pathWaits = 3

// Onions returns the number of onion layers handled since the start.
func (s *Server) Onions() uint64 { return s.onions.Load() }

// Serve accepts connections on l until the server is shut down, which closes l.
// It may be called for several listeners. It returns nil after a shutdown.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		l.Close()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()

	pause := time.Duration(0)
	for {
		conn, err := l.Accept()
		if err != nil {
			if s.base.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Most likely out of file descriptors; that passes.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.cfg.Log.Warn("accepting connections", "error", err, "next_try", pause)
			select {
			case <-time.After(pause):
				continue
			case <-s.base.Done():
				return nil
			}
		}
		pause = 0
		who, ok := s.strangers.enter(conn.RemoteAddr(), func() {
			s.figures.Refused.Add(refusedConnections)
			conn.Close()
		})
		if !ok {
			s.figures.Refused.Add(refusedConnections)
			conn.Close()
			continue
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			who.Leave()
			conn.Close()
			return nil
		}
		s.shaking[conn] = struct{}{}
		s.wg.Go(func() { s.shakeHands(conn, who) })
		s.mu.Unlock()
	}
}

// shakeHands brings the TLS connection up and gives it to the HTTP server for
// clients or to the one for nodes.
func (s *Server) shakeHands(conn net.Conn, who *guest) {
	preferBBR(conn)
	c := &countedConn{Conn: conn, closed: who.Leave, guest: who}
	t := tls.Server(c, s.tls)
	ctx, cancel := context.WithTimeout(s.base, s.lim.Handshake)
	defer cancel()
	err := t.HandshakeContext(ctx)

	s.mu.Lock()
	delete(s.shaking, conn)
	s.mu.Unlock()
	if err != nil {
		s.figures.Refused.Add(refusedHandshake)
		s.cfg.Log.Debug("no TLS handshake", "why", whatFailed(err))
		c.Close()
		return
	}
	state := t.ConnectionState()
	if state.ServerName != linkName {
		s.clientConns.give(t)
		return
	}
	// Links do not count as connections of strangers, who could otherwise cut a
	// node off by filling those up.
	key, err := peerKey(&state)
	if err != nil || !s.addLink(key) {
		s.figures.Refused.Add(refusedLinks)
		c.Close()
		return
	}
	c.guest = nil
	c.handOver(func() { s.removeLink(key) })
	prepareLink(conn)
	s.wg.Go(func() { s.serveLink(newCalled(s, t, key)) }) // with a small stack, unlike this one
}

func (s *Server) addLink(key [32]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links[key] >= s.lim.PeerLinks {
		return false
	}
	s.links[key]++
	return true
}

func (s *Server) removeLink(key [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links[key]--; s.links[key] == 0 {
		delete(s.links, key)
	}
}

func (s *Server) listed(key [32]byte) bool {
	_, ok := s.cfg.List().Find(key)
	return ok
}

// Shutdown stops accepting, lets requests under way end until ctx does, and then
// closes whatever is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.shaking {
		c.Close()
	}
	s.mu.Unlock()
	s.leave()

	var both sync.WaitGroup
	both.Go(func() {
		if e := s.clients.Shutdown(ctx); e != nil {
			s.clients.Close()
		}
	})
	both.Go(func() { s.leaveLinks(ctx) })
	both.Wait()
	err := context.Cause(ctx)
	s.cancel()
	s.clientConns.Close()
	s.wg.Wait()
	s.exit.close()
	return err
}

// work returns the context of a job. It does not end when the one who asked
// hangs up: a request that is half done in a swarm is finished, and the far end
// of a path does not learn when the near end closed its connection.
func (s *Server) work(held *share, place *slot) (context.Context, context.CancelFunc) {
	ctx := context.WithValue(context.WithValue(s.base, shareKey{}, held), slotKey{}, place)
	return context.WithTimeout(ctx, s.lim.Hop)
}

// shareKey finds the memory share of the job that a context belongs to, so that
// answers read on behalf of a job count as its memory.
type shareKey struct{}

func shareOf(ctx context.Context) *share {
	held, _ := ctx.Value(shareKey{}).(*share)
	return held
}

// answer is what goes back to the one who asked.
type answer struct {
	status      int
	body        []byte
	contentType string // "text/plain" when empty
}

func text(status int, body string) answer { return answer{status: status, body: []byte(body)} }

var busy = text(http.StatusServiceUnavailable, "Server busy, try again later")

// serveClient answers the requests of clients. The order of the checks is the
// storage server's.
func (s *Server) serveClient(w http.ResponseWriter, r *http.Request) {
	if !r.ProtoAtLeast(1, 1) {
		s.reply(w, text(http.StatusHTTPVersionNotSupported, "This server does not support HTTP/1.0."))
		return
	}
	switch r.Method + " " + r.URL.EscapedPath() {
	case "POST /ping_test/v1":
		s.cfg.Tests.Heard(peertest.OverHTTPS)
		key := s.cfg.Keys.Ed25519()
		w.Header().Set(pingKeyHeader, base64.StdEncoding.EncodeToString(key[:]))
		s.reply(w, answer{status: http.StatusOK})
	case "GET /get_stats/v1":
		version := fmt.Sprintf(`{"version":"%d.%d.%d"}`, s.cfg.Version[0], s.cfg.Version[1], s.cfg.Version[2])
		s.reply(w, answer{status: http.StatusOK, body: []byte(version), contentType: "application/json"})
	case "POST /storage_rpc/v1":
		if reasons := s.cfg.Ready(); len(reasons) > 0 {
			s.reply(w, notReady(reasons))
			return
		}
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !from.Addr().Unmap().Is4() {
			s.reply(w, text(http.StatusBadRequest, "Bad Request\n"))
			return
		}
		if !s.limits.allow(from.Addr().Unmap()) {
			s.figures.Refused.Add(refusedRate)
			s.reply(w, text(http.StatusTooManyRequests, "Too Many Requests\n"))
			return
		}
		if r.Header.Get("X-Loki-Long-Poll") != "" {
			s.reply(w, text(http.StatusGone, "long polling is no longer supported, client upgrade required"))
			return
		}
		s.serveJob(w, r, s.storageRequest)
	case "POST /onion_req/v2":
		if reasons := s.cfg.Ready(); len(reasons) > 0 {
			s.reply(w, notReady(reasons))
			return
		}
		s.serveJob(w, r, s.onionRequest)
	case "POST /json_rpc":
		if s.cfg.Query == nil {
			s.reply(w, text(http.StatusNotFound, "Not Found\n"))
			return
		}
		s.serveJob(w, r, func(_ context.Context, body []byte) answer {
			return answer{status: http.StatusOK, body: s.cfg.Query(body), contentType: "application/json"}
		})
	default:
		s.reply(w, text(http.StatusNotFound, strings.ToLower(r.Method)+" "+r.URL.EscapedPath()+" Not Found"))
	}
}

func notReady(reasons []string) answer {
	return text(http.StatusServiceUnavailable, "Service node is not ready: "+strings.Join(reasons, "; ")+"\n")
}

// serveJob reads the body within the limits and does the job.
func (s *Server) serveJob(w http.ResponseWriter, r *http.Request, do func(ctx context.Context, body []byte) answer) {
	tooLarge := func() {
		s.figures.Refused.Add(refusedSize)
		w.Header().Set("Connection", "close")
		s.reply(w, text(http.StatusRequestEntityTooLarge, "Request body too large"))
	}
	if r.ContentLength > s.lim.Body {
		tooLarge()
		return
	}
	who := originOf(r)
	held := s.memory.shareFor(who)
	defer held.release()
	body, err := readAll(pacedReader{r.Body, &transfer{
		who: who, guest: guestOf(r.Context()), bulk: s.bulk, done: s.base.Done(),
		until: http.NewResponseController(w).SetReadDeadline, end: time.Now().Add(s.lim.Request),
	}}, s.lim.Body, held)
	switch {
	case errors.Is(err, errTooLarge):
		tooLarge()
		return
	case errors.Is(err, errBusy):
		s.figures.Refused.Add(refusedMemory)
		w.Header().Set("Connection", "close")
		s.reply(w, busy)
		return
	case err != nil:
		// Too slow, or gone. The storage server closes without a word.
		s.figures.Refused.Add(refusedUnfinished)
		panic(http.ErrAbortHandler)
	}
	place := takeSlot(s.jobs, s.waits)
	if place == nil {
		s.figures.Refused.Add(refusedJobs)
		s.reply(w, busy)
		return
	}
	s.reply(w, func() answer {
		// The slot is free before the answer goes out: a client that reads
		// slowly does not hold it.
		defer place.release()
		g := guestOf(r.Context())
		g.busy(true)
		defer g.busy(false)
		ctx, cancel := s.work(held, place)
		defer cancel()
		return do(withSource(ctx, who.String()), body)
	}())
}

type guestKey struct{}

// withGuest lets requests find the guest whose connection they came on.
func withGuest(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		if counted, ok := t.NetConn().(*countedConn); ok && counted.guest != nil {
			return context.WithValue(ctx, guestKey{}, counted.guest)
		}
	}
	return ctx
}

// guestOf returns nil for what came on no stranger's connection.
func guestOf(ctx context.Context) *guest {
	g, _ := ctx.Value(guestKey{}).(*guest)
	return g
}

// guarded logs a panic, which would be a mistake of ours, without the client's
// address that net/http would add. The connection is closed, the others live.
func (s *Server) guarded(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if v != http.ErrAbortHandler {
					s.cfg.Log.Error("request panicked", "panic", v, "stack", string(debug.Stack()))
				}
				panic(http.ErrAbortHandler)
			}
		}()
		h(w, r)
	})
}

func (s *Server) reply(w http.ResponseWriter, a answer) {
	// Without support for deadlines the connection's own end is the limit.
	until := http.NewResponseController(w).SetWriteDeadline
	end := time.Now().Add(s.lim.Write)
	_ = until(end)
	h := w.Header()
	h.Set("Server", s.name)
	if a.contentType == "" {
		a.contentType = "text/plain"
	}
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Length", fmt.Sprint(len(a.body)))
	w.WriteHeader(a.status)
	if len(a.body) <= bulkPiece {
		w.Write(a.body)
		return
	}
	out := transfer{bulk: s.bulk, done: s.base.Done(), until: until, end: end}
	if n, ok := w.(*noted); ok {
		out.who, out.guest = n.who, n.guest
	}
	for piece := range slices.Chunk(a.body, bulkPiece) {
		if _, err := w.Write(piece); err != nil || out.progress(len(piece)) != nil {
			panic(http.ErrAbortHandler) // the client is gone, or too slow
		}
	}
}

// storageRequest answers a storage request that a client sent without an onion.
func (s *Server) storageRequest(ctx context.Context, body []byte) answer {
	resp := s.cfg.Storage.Handle(ctx, body)
	if t, ok := resp.Body.(string); ok {
		return text(resp.Status, t)
	}
	if b, ok := resp.Body.(rpc.Binary); ok {
		if !shareOf(ctx).grow(int64(len(b))) {
			return busy
		}
		return answer{status: resp.Status, body: b, contentType: "application/octet-stream"}
	}
	b, err := compactJSON(resp.Body)
	if err != nil {
		s.cfg.Log.Error("writing a storage answer", "error", err)
		return text(http.StatusInternalServerError, "request failed")
	}
	if !shareOf(ctx).grow(int64(len(b))) {
		return busy
	}
	return answer{status: resp.Status, body: b, contentType: "application/json"}
}
