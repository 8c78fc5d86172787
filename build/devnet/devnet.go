// Package devnet runs a whole network of service nodes on loopback, for
// development and tests: the seed with the node list, and any number of nodes,
// each a real HTTPS server with its own keys and its own database.
//
// [Start] returns when every node is in a swarm and all of them know it. Node k
// has the public address 127.0.k.1, so that the clients' rule "no two nodes of
// a path in one /24" holds, and listens on 127.0.0.1 with the same port too,
// which is the one address that a guest of an emulator reaches. Keys, messages,
// addresses and swarms are kept in a folder: starting again in the same folder
// continues the same network.
package devnet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"hearth/node/keys"
	"hearth/node/relay"
	"hearth/node/seed"
	"hearth/node/servicenode"
	"hearth/node/swarm"
)

// Rules compose swarms of three, so that nine nodes make three of them.
var Rules = swarm.Rules{
	MinSize: 3, IdealMargin: 0, NewSize: 3,
	FillPercentile: 25, DissolvedPercentile: 0, StealPercentile: 75,
}

// MaxNodes is the largest network; 127.0.200.1 and above are left to appliances
// that join it.
const MaxNodes = 199

// Config says what network to start.
type Config struct {
	Nodes    int    // 1 to MaxNodes; 9 when zero
	Dir      string // required
	BasePort int    // of the seed; node k has BasePort+k. 0 picks a free range
	Log      *slog.Logger

	Poll   time.Duration // between two looks of a node at the list; 1 s when zero
	Every  time.Duration // between two pings of the seed to a node; 10 s when zero
	Away   time.Duration // without an answer until a node leaves its swarm; 30 s when zero
	Limits relay.Limits  // of every node
	Files  int64         // bytes of disk for files on every node, as in servicenode.Config

	Now func() time.Time // clock of the nodes; time.Now when nil
}

// Network is a running network.
type Network struct {
	cfg       Config
	base      int
	authority *seed.Authority
	stopSeed  func() error

	mu    sync.Mutex
	nodes []*running // by number less one; nil when stopped
}

type running struct {
	node *servicenode.Node
	stop func() error
}

// Start brings the network up. ctx bounds the start only; the network lives
// until Close.
func Start(ctx context.Context, cfg Config) (*Network, error) {
	if cfg.Nodes == 0 {
		cfg.Nodes = 9
	}
	if cfg.Nodes < 1 || cfg.Nodes > MaxNodes {
		return nil, fmt.Errorf("a network of %d nodes: want 1 to %d", cfg.Nodes, MaxNodes)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Poll == 0 {
		cfg.Poll = time.Second
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		n, err := start(cfg, choosePort(cfg, try))
		if err == nil {
			err = n.Wait(ctx)
			if err == nil {
				return n, nil
			}
			return nil, errors.Join(fmt.Errorf("waiting for the nodes: %w", err), n.Close())
		}
		if cfg.BasePort != 0 || try == 50 || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
}

// choosePort gives the base port to try: the one asked for, else at first the
// one that the folder's network had before. Picked ones stay below the range
// from which the kernel takes ports for outgoing connections.
func choosePort(cfg Config, try int) int {
	if cfg.BasePort != 0 {
		return cfg.BasePort
	}
	if b, err := os.ReadFile(portFile(cfg)); err == nil && try == 0 {
		if port, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return port
		}
	}
	return 10_000 + mathrand.IntN(22_000-cfg.Nodes)
}

func portFile(cfg Config) string { return filepath.Join(cfg.Dir, "base-port") }

func start(cfg Config, base int) (*Network, error) {
	n := &Network{cfg: cfg, base: base, nodes: make([]*running, cfg.Nodes)}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base)))
	if err != nil {
		return nil, err
	}
	n.authority, err = seed.New(seed.Config{
		Dir:   filepath.Join(cfg.Dir, "seed"),
		Rules: Rules,
		Ping: func(ctx context.Context, addr netip.AddrPort) ([32]byte, error) {
			return relay.Ping(ctx, nil, addr)
		},
		Now:   time.Now,
		Log:   cfg.Log.With("at", "seed"),
		Every: cfg.Every,
		Away:  cfg.Away,
	})
	if err != nil {
		l.Close()
		return nil, err
	}
	n.stopSeed = background(func(ctx context.Context) error { return n.authority.Serve(ctx, l) })
	for k := 1; k <= cfg.Nodes; k++ {
		if err := n.StartNode(k); err != nil {
			return nil, errors.Join(fmt.Errorf("node %d: %w", k, err), n.Close())
		}
	}
	if err := os.WriteFile(portFile(cfg), []byte(strconv.Itoa(base)+"\n"), 0o600); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// background runs a server until the function that it returns is called, which
// waits for its end.
func background(run func(ctx context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

// SeedURL is where the node list is asked for.
func (n *Network) SeedURL() string {
	return fmt.Sprintf("https://127.0.0.1:%d/json_rpc", n.base)
}

// Pin is the SHA-256 of the seed's certificate.
func (n *Network) Pin() [32]byte { return n.authority.Pin() }

// Seed returns a new client of the seed.
func (n *Network) Seed() *seed.Client { return &seed.Client{URL: n.SeedURL(), Pin: n.Pin()} }

// List is the newest node list.
func (n *Network) List() *swarm.List { return n.authority.List() }

// Address is the public address of node k, counted from 1.
func (n *Network) Address(k int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(k), 1}), uint16(n.base+k))
}

// Node returns node k, or nil when it is stopped.
func (n *Network) Node(k int) *servicenode.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.nodes[k-1]; r != nil {
		return r.node
	}
	return nil
}

// Number returns the number of the node with that key, 0 when it is none of the
// network's own.
func (n *Network) Number(ed25519 [32]byte) int {
	found, ok := n.List().Find(ed25519)
	for k := 1; ok && k <= n.cfg.Nodes; k++ {
		if found.Address == n.Address(k) {
			return k
		}
	}
	return 0
}

// StartNode starts node k after a StopNode. It does not wait until the node is
// ready; Wait does.
func (n *Network) StartNode(k int) error {
	dir := filepath.Join(n.cfg.Dir, fmt.Sprintf("node-%03d", k))
	pair, err := nodeKeys(dir)
	if err != nil {
		return err
	}
	public := n.Address(k)
	client := n.Seed()
	node, err := servicenode.New(servicenode.Config{
		Keys:   pair,
		Dir:    dir,
		Listen: []string{public.String(), net.JoinHostPort("127.0.0.1", strconv.Itoa(int(public.Port())))},
		Public: public,
		Seed:   client,
		Poll:   n.cfg.Poll,
		// What a node of this network may post to lives on loopback as well.
		Exit:   relay.Exit{Allow: func(a netip.Addr) bool { return a.IsLoopback() || relay.PublicAddress(a) }},
		Limits: n.cfg.Limits,
		Files:  n.cfg.Files,
		Now:    n.cfg.Now,
		Log:    n.cfg.Log.With("at", k),
	})
	if err != nil {
		return err
	}
	stop := background(node.Run)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[k-1] = &running{node: node, stop: func() error {
		defer client.Close()
		return stop()
	}}
	return nil
}

// StopNode stops node k in order. The seed takes it out of its swarm when it
// has been away for a while.
func (n *Network) StopNode(k int) error {
	n.mu.Lock()
	r := n.nodes[k-1]
	n.nodes[k-1] = nil
	n.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.stop()
}

// nodeKeys reads the keys of a node, or makes them.
func nodeKeys(dir string) (*keys.Pair, error) {
	file := filepath.Join(dir, "seed.hex")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		pair, err := keys.Generate(rand.Reader)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		s := pair.Seed()
		return pair, os.WriteFile(file, []byte(hex.EncodeToString(s[:])+"\n"), 0o600)
	}
	if err != nil {
		return nil, err
	}
	s, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(s) != 32 {
		return nil, fmt.Errorf("%s does not hold 64 hexadecimal digits", file)
	}
	return keys.FromSeed([32]byte(s)), nil
}

// Wait returns when every running node is ready and knows the newest list.
func (n *Network) Wait(ctx context.Context) error {
	for k := 1; k <= n.cfg.Nodes; {
		node := n.Node(k)
		if node == nil {
			k++
			continue
		}
		if list := node.List(); list != nil && list.Hash == n.List().Hash && len(node.NotReady()) == 0 {
			k++
			continue
		}
		select {
		case <-node.Changed():
			k = 1 // a new list concerns them all
		case <-ctx.Done():
			return fmt.Errorf("node %d is not ready: %w", k, context.Cause(ctx))
		}
	}
	return nil
}

// Close stops the nodes, then the seed.
func (n *Network) Close() error {
	errs := make([]error, n.cfg.Nodes+1)
	var all sync.WaitGroup
	for k := 1; k <= n.cfg.Nodes; k++ {
		all.Go(func() { errs[k] = n.StopNode(k) })
	}
	all.Wait()
	errs[0] = n.stopSeed()
	return errors.Join(errs...)
}
