// Package pathtest is a network of service nodes in memory, for tests of what
// sends onion requests.
//
// [New] makes nodes with keys and addresses, each in a /24 net of its own.
// [Network.Dial] connects to them without a socket: every node answers
// onion_req/v2 over TLS, peels its layer and hands the next one on, as a real
// node does, until the destination calls the function given to [New]. Nodes can
// be taken away with [Network.Kill] and made to answer nonsense with
// [Network.Sabotage]. It works inside a testing/synctest bubble.
package pathtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"hearth/node/keys"
	"hearth/node/onion"
	"hearth/node/swarm"
)

// Node is one node of the network.
type Node struct {
	swarm.Node
	Keys *keys.Pair
}

// Handler is what a destination does with a storage request.
type Handler func(ctx context.Context, node Node, body []byte) (status int, reply any)

// WebServer is what the last node of a path gets for what it posts to a web server.
type WebServer func(ctx context.Context, to *onion.Server) (status int, reply []byte)

// Network is a set of nodes. Its methods may be used by several goroutines.
type Network struct {
	Nodes []Node
	// Stop ends all nodes before the test does and returns when none answers any more.
	Stop func()

	handle Handler

	mu       sync.Mutex
	byKey    map[[32]byte]int
	dead     map[[32]byte]bool
	sabotage map[[32]byte]http.HandlerFunc
	watch    func(guard Node, request []byte)
	web      WebServer
	dialled  []netip.AddrPort
	conns    chan net.Conn
	closed   chan struct{}
}

// New starts count nodes, which end with the test. Node i has the address
// 10.i/256.i%256.1:22021.
func New(t testing.TB, count int, handle Handler) *Network {
	t.Helper()
	n := &Network{
		handle:   handle,
		byKey:    make(map[[32]byte]int),
		dead:     make(map[[32]byte]bool),
		sabotage: make(map[[32]byte]http.HandlerFunc),
		conns:    make(chan net.Conn),
		closed:   make(chan struct{}),
	}
	for i := range count {
		var seed [32]byte
		copy(seed[:], fmt.Sprintf("node %d", i))
		pair := keys.FromSeed(seed)
		n.byKey[pair.Ed25519()] = i
		n.Nodes = append(n.Nodes, Node{Keys: pair, Node: swarm.Node{
			Ed25519: pair.Ed25519(),
			X25519:  pair.X25519(),
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 22021),
			Swarm:   swarm.None,
		}})
	}
	var serving, conns sync.WaitGroup
	server := &http.Server{
		Handler:     http.HandlerFunc(n.entry),
		IdleTimeout: 10 * time.Second,
		ErrorLog:    log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed:
				conns.Done()
			}
		},
	}
	serving.Go(func() {
		server.Serve(tls.NewListener(n, &tls.Config{Certificates: []tls.Certificate{certificate(t)}}))
	})
	n.Stop = sync.OnceFunc(func() {
		server.Close()
		serving.Wait()
		conns.Wait() // Close does not wait for those who still answer
	})
	t.Cleanup(n.Stop)
	return n
}

// List is the list of all nodes.
func (n *Network) List() *swarm.List {
	l := &swarm.List{Height: 1}
	for _, node := range n.Nodes {
		l.Nodes = append(l.Nodes, node.Node)
	}
	return l
}

// ServiceNodes makes the network a source of node lists.
func (n *Network) ServiceNodes(ctx context.Context) (*swarm.List, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return n.List(), nil
}

// Find returns the node with that key.
func (n *Network) Find(k [32]byte) Node { return n.Nodes[n.byKey[k]] }

// Kill makes nodes refuse connections and vanish as hops.
func (n *Network) Kill(keys ...[32]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range keys {
		n.dead[k] = true
	}
}

// Revive takes Kill back.
func (n *Network) Revive(keys ...[32]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range keys {
		delete(n.dead, k)
	}
}

// Dead reports whether a node was killed.
func (n *Network) Dead(k [32]byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dead[k]
}

// Sabotage lets a node answer every onion request, as a guard and as a hop, with
// f instead of reading it; nil ends that. As a hop its headers do not travel, and
// the request has no TLS.
func (n *Network) Sabotage(k [32]byte, f http.HandlerFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sabotage[k] = f
}

// Watch calls f with everything that guards are sent: headers and body of each
// request, as the guard sees them after TLS; nil ends that.
func (n *Network) Watch(f func(guard Node, request []byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watch = f
}

// Web lets the last nodes of paths reach web servers: f is all of them. Without it
// there is none.
func (n *Network) Web(f WebServer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.web = f
}

// Dialled returns the addresses that Dial was called with so far.
func (n *Network) Dialled() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dialled)
}

// Dial connects to the node at the address.
func (n *Network) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.dialled = append(n.dialled, a)
	i := slices.IndexFunc(n.Nodes, func(node Node) bool { return node.Address == a })
	dead := i < 0 || n.dead[n.Nodes[i].Ed25519]
	n.mu.Unlock()
	if dead {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept, Close and Addr make the network the listener of all of its nodes.
func (n *Network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.closed:
	default:
		close(n.closed)
	}
	return nil
}

// Addr is not the address of anything.
func (n *Network) Addr() net.Addr { return &net.IPAddr{} }

// entry is the HTTPS server of every node; which of them is meant is in the
// request's Host.
func (n *Network) entry(w http.ResponseWriter, r *http.Request) {
	i := slices.IndexFunc(n.Nodes, func(node Node) bool { return node.Address.String() == r.Host })
	if i < 0 || r.URL.Path != "/onion_req/v2" || r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	n.mu.Lock()
	watch := n.watch
	n.mu.Unlock()
	if watch != nil {
		watch(n.Nodes[i], append(headers(r), body...))
	}
	if f, dead := n.mood(n.Nodes[i]); f != nil {
		f(w, r)
		return
	} else if dead {
		panic(http.ErrAbortHandler)
	}
	layer, err := onion.ParseEntry(body)
	if err != nil {
		http.Error(w, onion.PrefixEntry+err.Error(), 400)
		return
	}
	status, reply := n.hop(r.Context(), n.Nodes[i], layer)
	w.WriteHeader(status)
	w.Write(reply)
}

// headers writes down what comes before the body.
func headers(r *http.Request) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s\r\nHost: %s\r\n", r.Method, r.RequestURI, r.Host)
	r.Header.Write(&b)
	return append(b.Bytes(), "\r\n"...)
}

func (n *Network) mood(node Node) (http.HandlerFunc, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sabotage[node.Ed25519], n.dead[node.Ed25519]
}

// hop is what a node does with its layer.
func (n *Network) hop(ctx context.Context, node Node, layer onion.Layer) (int, []byte) {
	inner, err := layer.Peel(node.Keys)
	if err != nil {
		return 400, []byte(onion.TextInvalidCiphertext)
	}
	switch next := inner.(type) {
	case *onion.Node:
		i, known := n.byKey[next.Next]
		if !known {
			return 502, []byte("Next node not found: " + hex.EncodeToString(next.Next[:]))
		}
		f, dead := n.mood(n.Nodes[i])
		if f != nil {
			rec := &recorder{header: make(http.Header), status: 200}
			f(rec, (&http.Request{Method: "POST", Host: n.Nodes[i].Address.String(), Body: http.NoBody}).WithContext(ctx))
			return onion.PassThrough(rec.status), rec.body
		}
		if dead {
			return 504, []byte("Request time out")
		}
		return n.hop(ctx, n.Nodes[i], next.Layer)
	case *onion.Server:
		n.mu.Lock()
		web := n.web
		n.mu.Unlock()
		if web == nil {
			return 504, []byte("Request time out")
		}
		status, reply := web(ctx, next)
		return onion.PassThrough(status), reply
	case *onion.Final:
		status, body := n.handle(ctx, node, next.Body)
		reply, err := layer.SealReply(rand.Reader, node.Keys, status, body, next.JSON, next.Base64)
		if err != nil {
			return 500, nil
		}
		return 200, reply
	}
	return 400, []byte(onion.TextInvalidJSON)
}

type recorder struct {
	header http.Header
	status int
	body   []byte
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(s int)   { r.status = s }
func (r *recorder) Write(b []byte) (int, error) {
	if len(r.body) > onion.MaxRequest {
		return 0, io.ErrShortBuffer // a link between nodes does not carry more
	}
	r.body = append(r.body, b...)
	return len(b), nil
}

func certificate(t testing.TB) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
