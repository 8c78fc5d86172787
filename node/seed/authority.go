// Package seed is where a network's node list comes from.
//
// Nodes and clients use [Client]: it asks a seed, recognised by its pinned
// certificate, for the nodes ([Client.ServiceNodes], [Client.Poll]) and tells it
// about the own node ([Client.Announce]).
//
// [Authority] is the seed of a development network. Where the public network
// has a ledger with stakes and votes, it takes a node's signed [Record], looks
// whether the node answers there, and puts the nodes that do into swarms with
// the network's own rules. The request for the list has the form that the
// public network's clients send (oxen-core, get_service_nodes), so that they
// work unchanged.
package seed

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"hearth/node/keys"
	"hearth/node/relay"
	"hearth/node/swarm"
	"hearth/node/wholefile"
)

const (
	maxNodes       = 256
	maxRequest     = 64 << 10 // bytes
	maxConnections = 512
	pingTime       = 5 * time.Second
	pingsAtATime   = 16
	forgetAfter    = time.Hour // a node away for longer makes room for a new one
)

// ErrFull is returned for a new node when the list is full.
var ErrFull = errors.New("node list is full")

// Config is what an Authority is made of.
type Config struct {
	Dir   string      // keeps the certificate and the list
	Rules swarm.Rules // sizes of swarms
	// Ping asks the node at an address for its key.
	Ping func(ctx context.Context, addr netip.AddrPort) ([32]byte, error)
	Now  func() time.Time
	Log  *slog.Logger

	Every time.Duration // between two pings of a node; 10 s when zero
	Away  time.Duration // without an answer until a node leaves its swarm; 30 s when zero
}

// Authority keeps the node list of a development network.
type Authority struct {
	cfg  Config
	cert tls.Certificate
	list atomic.Pointer[swarm.List]

	// pings bounds what strangers can make the authority send: an announcement
	// names the address that is asked.
	pings *semaphore.Weighted

	mu     sync.Mutex
	height uint64
	hash   [32]byte
	nodes  map[[32]byte]*member
}

// member is one node that has announced itself.
type member struct {
	x25519  [32]byte
	address netip.AddrPort
	told    int64 // timestamp of its newest record, Unix ms
	seen    time.Time
	active  bool
	swarm   swarm.ID
}

// New opens the authority kept in cfg.Dir, or makes a new one. Nodes that it
// knew stay in their swarms if they answer again within cfg.Away.
func New(cfg Config) (*Authority, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Away == 0 {
		cfg.Away = 30 * time.Second
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the node list: %w", err)
	}
	cert, err := relay.Certificate(cfg.Dir)
	if err != nil {
		return nil, err
	}
	a := &Authority{cfg: cfg, cert: cert, pings: semaphore.NewWeighted(pingsAtATime), nodes: make(map[[32]byte]*member)}
	if err := a.load(); err != nil {
		return nil, fmt.Errorf("reading the node list: %w", err)
	}
	a.publish()
	return a, nil
}

// List returns the newest list, with the nodes that are away.
func (a *Authority) List() *swarm.List { return a.list.Load() }

// Pin is the SHA-256 of the certificate, for [Client.Pin].
func (a *Authority) Pin() [32]byte { return sha256.Sum256(a.cert.Certificate[0]) }

// Serve answers on l and pings the nodes until ctx ends. It closes l.
func (a *Authority) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(a.cfg.Log.Handler(), slog.LevelDebug),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.cert}},
	}
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error {
		err := server.ServeTLS(netutil.LimitListener(l, maxConnections), "", "")
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
	tasks.Go(func() error {
		a.watch(ctx)
		return nil
	})
	tasks.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(end) != nil {
			server.Close()
		}
		return nil
	})
	return tasks.Wait()
}

// ServeHTTP answers JSON-RPC at /json_rpc.
func (a *Authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/json_rpc" {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "request body too large or incomplete", http.StatusRequestEntityTooLarge)
		return
	}
	b := answerCall(body, func(method string, params json.RawMessage) (any, error) { return a.call(r.Context(), method, params) })
	w.Header().Set("Content-Type", "application/json")
	w.Write(b)
}

func (a *Authority) call(ctx context.Context, method string, params json.RawMessage) (any, error) {
	switch {
	case asksForList(method):
		return ServiceNodes(a.List(), params)
	case method == "announce":
		r, err := ParseRecord(params)
		if err == nil {
			err = a.Announce(ctx, r)
		}
		return map[string]any{"status": "OK"}, err
	}
	return nil, errNoMethod
}

// Announce takes a node's record: it checks the signature, asks the address for
// the node's key and lists the node. Errors wrap [ErrRecord] or [ErrFull].
func (a *Authority) Announce(ctx context.Context, r Record) error {
	now := a.cfg.Now()
	if err := r.Check(now); err != nil {
		return err
	}
	x25519, err := keys.X25519FromEd25519(r.Ed25519)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	a.mu.Lock()
	err = a.admits(r, now)
	a.mu.Unlock()
	if err != nil {
		return err
	}
	if !a.pings.TryAcquire(1) {
		return errors.New("busy, try again later")
	}
	err = a.ping(ctx, r.Ed25519, r.Address)
	a.pings.Release(1)
	if err != nil {
		return fmt.Errorf("%w: no answer at %s", ErrRecord, r.Address)
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admits(r, now); err != nil {
		return err
	}
	m := a.nodes[r.Ed25519]
	if m == nil {
		if len(a.nodes) >= maxNodes {
			delete(a.nodes, a.forgotten(now))
		}
		m = &member{x25519: x25519, swarm: swarm.None}
		a.nodes[r.Ed25519] = m
		a.cfg.Log.Info("node joins", "node", short(r.Ed25519), "address", r.Address)
	}
	news := !m.active || m.address != r.Address
	m.address, m.told, m.seen, m.active = r.Address, r.Timestamp, a.cfg.Now(), true
	if news {
		a.change()
	}
	return nil
}

// admits makes sure that the record is news and that there is room for its
// node, or could be made; a.mu is held.
func (a *Authority) admits(r Record, now time.Time) error {
	if m := a.nodes[r.Ed25519]; m != nil {
		if r.Timestamp < m.told {
			return fmt.Errorf("%w: older than the one before", ErrRecord)
		}
		return nil
	}
	if len(a.nodes) >= maxNodes && a.forgotten(now) == [32]byte{} {
		return ErrFull
	}
	return nil
}

// forgotten finds the node that has been away for longest, and long enough to
// give its place to another; zero when there is none. a.mu is held.
func (a *Authority) forgotten(now time.Time) (key [32]byte) {
	oldest := now.Add(-forgetAfter)
	for k, m := range a.nodes {
		if !m.active && m.seen.Before(oldest) {
			key, oldest = k, m.seen
		}
	}
	return key
}

// ping makes sure that the node answers at the address.
func (a *Authority) ping(ctx context.Context, key [32]byte, addr netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	got, err := a.cfg.Ping(ctx, addr)
	if err == nil && got != key {
		err = fmt.Errorf("another node answers at %s", addr)
	}
	return err
}

// watch pings the nodes from time to time.
func (a *Authority) watch(ctx context.Context) {
	tick := time.NewTicker(a.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.round(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// round pings every node once and takes those out of their swarms that have
// been away too long.
func (a *Authority) round(ctx context.Context) {
	type target struct {
		key  [32]byte
		addr netip.AddrPort
		err  error
	}
	var targets []target
	a.mu.Lock()
	for key, m := range a.nodes {
		targets = append(targets, target{key: key, addr: m.address})
	}
	a.mu.Unlock()

	var group errgroup.Group
	group.SetLimit(pingsAtATime)
	for i := range targets {
		group.Go(func() error {
			t := &targets[i]
			t.err = a.ping(ctx, t.key, t.addr)
			return nil
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return // the failures are our own
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	now, news := a.cfg.Now(), false
	for _, t := range targets {
		m := a.nodes[t.key]
		if m == nil || m.address != t.addr {
			continue // left or moved meanwhile
		}
		switch {
		case t.err == nil:
			m.seen = now
			if !m.active {
				m.active, news = true, true
				a.cfg.Log.Info("node is back", "node", short(t.key))
			}
		case m.active && now.Sub(m.seen) >= a.cfg.Away:
			m.active, news = false, true
			a.cfg.Log.Info("node is away", "node", short(t.key), "error", t.err)
		}
	}
	if news {
		a.change()
	}
}

// change makes a new list: a new height, a hash that stands in for a block's,
// and with the hash as seed a new composition of the swarms. a.mu is held.
func (a *Authority) change() {
	a.height++
	h := sha256.New()
	h.Write(a.hash[:])
	binary.Write(h, binary.BigEndian, a.height)
	members := make(map[swarm.ID][][32]byte)
	for _, key := range a.sorted() {
		m := a.nodes[key]
		fmt.Fprintf(h, "%x %s %t\n", key, m.address, m.active)
		if m.active {
			members[m.swarm] = append(members[m.swarm], key)
		} else {
			m.swarm = swarm.None
		}
	}
	a.hash = [32]byte(h.Sum(nil))
	for id, keys := range swarm.Compose(a.cfg.Rules, members, binary.LittleEndian.Uint64(a.hash[:8])) {
		for _, key := range keys {
			a.nodes[key].swarm = id
		}
	}
	a.publish()
	if err := a.save(); err != nil {
		a.cfg.Log.Error("keeping the node list", "error", err)
	}
}

// publish makes the present state the newest list; a.mu is held.
func (a *Authority) publish() {
	list := &swarm.List{Height: a.height, Hash: a.hash}
	for _, key := range a.sorted() {
		m := a.nodes[key]
		list.Nodes = append(list.Nodes, swarm.Node{Ed25519: key, X25519: m.x25519, Address: m.address, Swarm: m.swarm, QUIC: m.address.Port(), Version: swarm.Version})
	}
	a.list.Store(list)
}

func (a *Authority) sorted() [][32]byte {
	var all [][32]byte
	for key := range a.nodes {
		all = append(all, key)
	}
	slices.SortFunc(all, func(x, y [32]byte) int { return slices.Compare(x[:], y[:]) })
	return all
}

// saved is the list on disk.
type saved struct {
	Height uint64      `json:"height"`
	Hash   string      `json:"hash"`
	Nodes  []savedNode `json:"nodes"`
}

type savedNode struct {
	Ed25519 string         `json:"ed25519"`
	Address netip.AddrPort `json:"address"`
	Told    int64          `json:"told"`
	Swarm   swarm.ID       `json:"swarm"`
}

func (a *Authority) file() string { return filepath.Join(a.cfg.Dir, "network.json") }

func (a *Authority) save() error {
	s := saved{Height: a.height, Hash: hex.EncodeToString(a.hash[:])}
	for _, key := range a.sorted() {
		m := a.nodes[key]
		s.Nodes = append(s.Nodes, savedNode{hex.EncodeToString(key[:]), m.address, m.told, m.swarm})
	}
	b, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	return wholefile.Write(a.file(), b)
}

func (a *Authority) load() error {
	b, err := os.ReadFile(a.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	a.height = s.Height
	if a.hash, err = parseKey(s.Hash); err != nil {
		return err
	}
	for _, n := range s.Nodes {
		key, err := parseKey(n.Ed25519)
		if err != nil {
			return err
		}
		x25519, err := keys.X25519FromEd25519(key)
		if err != nil {
			return err
		}
		a.nodes[key] = &member{
			x25519: x25519, address: n.Address, told: n.Told, swarm: n.Swarm,
			seen: a.cfg.Now(), active: n.Swarm != swarm.None,
		}
	}
	return nil
}

func short(key [32]byte) string { return hex.EncodeToString(key[:4]) }
