package relay

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hearth/node/keys"
	"hearth/node/onion"
	"hearth/node/rpc"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// node is one relay with a real storage service behind it, on loopback.
type node struct {
	keys     *keys.Pair
	server   *Server
	links    *Links
	addr     netip.AddrPort
	accepted atomic.Int32 // TCP connections
	notReady atomic.Pointer[[]string]
}

func (n *node) hop() onion.Hop { return onion.Hop{Ed25519: n.keys.Ed25519(), X25519: n.keys.X25519()} }

func (n *node) ready() []string {
	if r := n.notReady.Load(); r != nil {
		return *r
	}
	return nil
}

// network is a number of nodes that know each other.
type network struct {
	t     testing.TB
	nodes []*node
	list  atomic.Pointer[swarm.List]
}

// network3 is what most tests need.
func network3(t testing.TB, change ...func(k int, c *Config)) *network {
	return newNetwork(t, [][32]byte{{1}, {2}, {3}}, change...)
}

// newNetwork starts a node for each seed. change may alter the configuration of
// node k, counted from 0, before it starts.
func newNetwork(t testing.TB, seeds [][32]byte, change ...func(k int, c *Config)) *network {
	t.Helper()
	net := &network{t: t}
	list := &swarm.List{Height: 1}
	var listeners []*countingListener
	for _, s := range seeds {
		n := &node{keys: keys.FromSeed(s)}
		l := listen(t, &n.accepted)
		n.addr = netip.MustParseAddrPort(l.Addr().String())
		net.nodes = append(net.nodes, n)
		listeners = append(listeners, l)
		list.Nodes = append(list.Nodes, swarm.Node{Ed25519: n.keys.Ed25519(), X25519: n.keys.X25519(), Address: n.addr})
	}
	net.list.Store(list)
	for k := range net.nodes {
		net.start(k, listeners[k], change...)
	}
	return net
}

func listen(t testing.TB, accepted *atomic.Int32) *countingListener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &countingListener{l, accepted}
}

type countingListener struct {
	net.Listener
	accepted *atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}

func (net *network) start(k int, l net.Listener, change ...func(k int, c *Config)) {
	t, n := net.t, net.nodes[k]
	t.Helper()
	dir := t.TempDir()
	db, err := storage.Open(filepath.Join(dir, "messages.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := Certificate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n.links, err = NewLinks(n.keys, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Keys:    n.keys,
		Cert:    cert,
		Storage: rpc.NewService(rpc.Config{Keys: n.keys, DB: db, List: net.list.Load, Now: time.Now}),
		List:    net.list.Load,
		Peers:   n.links,
		Ready:   n.ready,
		Exit:    Exit{Allow: func(netip.Addr) bool { return true }},
		Version: [3]int{2, 8, 0},
		Now:     time.Now,
		Rand:    rand.Reader,
	}
	for _, c := range change {
		c(k, &cfg)
	}
	if n.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := n.server.Serve(l); err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(func() {
		over, cancel := context.WithCancel(t.Context())
		cancel()
		n.server.Shutdown(over)
		serving.Wait()
		n.links.Close()
		db.Close()
	})
}

// hops returns the nodes with these numbers as a path.
func (net *network) hops(path ...int) (hops []onion.Hop) {
	for _, k := range path {
		hops = append(hops, net.nodes[k].hop())
	}
	return hops
}

// reply is what a client gets.
type reply struct {
	status int
	body   string
	header http.Header
}

func (r reply) String() string { return fmt.Sprintf("%d %q", r.status, r.body) }

// client returns a client with connections of its own.
func client(t testing.TB) *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// send makes one HTTP request to node k.
func (net *network) send(k int, method, path string, body io.Reader, header ...string) reply {
	net.t.Helper()
	return net.sendWith(client(net.t), k, method, path, body, header...)
}

func (net *network) sendWith(c *http.Client, k int, method, path string, body io.Reader, header ...string) reply {
	net.t.Helper()
	req, err := http.NewRequest(method, "https://"+net.nodes[k].addr.String()+path, body)
	if err != nil {
		net.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		net.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		net.t.Fatal(err)
	}
	return reply{resp.StatusCode, string(b), resp.Header}
}

// post sends the body of an onion request to node k.
func (net *network) post(k int, body []byte) reply {
	net.t.Helper()
	return net.send(k, "POST", "/onion_req/v2", bytes.NewReader(body))
}

// build makes an onion request for the storage of dest.
func (net *network) build(path []onion.Hop, dest onion.Hop, body string) *onion.Request {
	net.t.Helper()
	req, err := onion.Build(rand.Reader, path, dest, []byte(body))
	if err != nil {
		net.t.Fatal(err)
	}
	return req
}

const info = `{"method":"info","params":{}}`

// layerTo encrypts a plain text for one node as the entry body of an onion
// request, and returns what opens the node's answer. It can make what
// onion.Build would not.
func layerTo(t testing.TB, to *keys.Pair, plain []byte) (entry []byte, open func(sealed []byte) (string, error)) {
	t.Helper()
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := to.Shared([32]byte(ephemeral.PublicKey().Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, []byte("LOKI"))
	mac.Write(shared)
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 12)
	rand.Read(iv)
	entry = onion.EncodeFrame(gcm.Seal(slices.Clone(iv), iv, plain, nil),
		[]byte(`{"ephemeral_key":"`+hex.EncodeToString(ephemeral.PublicKey().Bytes())+`"}`))
	return entry, func(sealed []byte) (string, error) {
		if len(sealed) < 12 {
			return "", fmt.Errorf("%d bytes", len(sealed))
		}
		text, err := gcm.Open(nil, sealed[:12], sealed[12:], nil)
		return string(text), err
	}
}

// peersFunc is another way to the other nodes.
type peersFunc func(ctx context.Context, to swarm.Node, command string, parts [][]byte) ([][]byte, error)

func (f peersFunc) Request(ctx context.Context, to swarm.Node, command string, parts [][]byte) ([][]byte, error) {
	return f(ctx, to, command, parts)
}

// storageFunc answers storage requests.
type storageFunc func(ctx context.Context, body []byte) rpc.Response

func (f storageFunc) Handle(ctx context.Context, body []byte) rpc.Response { return f(ctx, body) }

func (f storageFunc) HandleForwarded(ctx context.Context, method string, body []byte) [][]byte {
	return [][]byte{[]byte(method), body}
}
