package devnet

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"hearth/node/api"
	"hearth/node/keys"
	"hearth/node/ledger"
	"hearth/node/ledger/engine"
	"hearth/node/ledger/light"
	"hearth/node/seed"
	"hearth/node/swarm"
)

// LedgerNetwork is a network of processes without a seed: who is a node, and in
// which swarm, is what the nodes' own ledger says. Every node has a stake from the
// genesis file on. Each node also answers clients that ask for the list.
type LedgerNetwork struct {
	*Processes
	genesis *ledger.Genesis
	pairs   []*keys.Pair
	roots   map[int64]string // of the state, by height, as nodes told
}

// LedgerConfig says what network to start. Program and Dir are required.
type LedgerConfig struct {
	Program string
	Dir     string
	Nodes   int // with stakes, 4 to MaxNodes; 9 when zero
	// Spare nodes have keys but no stake; Launch starts them.
	Spare int
	Log   *slog.Logger

	Pace        time.Duration // pause after a block; 500 ms when zero
	Epoch       time.Duration // 10 s when zero
	Test        time.Duration // between two tests of a node; 10 s when zero
	Unreachable time.Duration // of failed tests until a node is voted out; a minute when zero
	Params      func(*ledger.Params)
	Began       time.Time // when the ledger began; now when zero
	Args        func(k int) []string
	Env         []string // more of the nodes' environment

	// Address and Spawn put the nodes elsewhere than on loopback, as those of
	// [ProcessConfig] do.
	Address func(k, base int) netip.AddrPort
	Spawn   func(k int, cmd *exec.Cmd) error
}

// DevCoins is what every node's operator of a development network has in coins,
// beside the stake.
const DevCoins = 10_000

func (cfg *LedgerConfig) fill() error {
	for _, d := range []struct {
		v     *time.Duration
		usual time.Duration
	}{{&cfg.Pace, 500 * time.Millisecond}, {&cfg.Epoch, 10 * time.Second}, {&cfg.Test, 10 * time.Second}, {&cfg.Unreachable, time.Minute}} {
		if *d.v == 0 {
			*d.v = d.usual
		}
	}
	if cfg.Nodes == 0 {
		cfg.Nodes = 9
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Nodes < 4 || cfg.Nodes+cfg.Spare > MaxNodes {
		return fmt.Errorf("a ledger of %d nodes: want 4 to %d", cfg.Nodes, MaxNodes-cfg.Spare)
	}
	return nil
}

// StartLedger brings the network up: it returns when every node with a stake is in
// a swarm. A folder with a genesis goes on with the ledger in it.
func StartLedger(ctx context.Context, cfg LedgerConfig) (_ *LedgerNetwork, err error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	all := cfg.Nodes + cfg.Spare
	n := &LedgerNetwork{Processes: &Processes{nodes: make([]*process, all), cfg: ProcessConfig{
		Program: cfg.Program, Nodes: all, Dir: cfg.Dir, Log: cfg.Log, Env: cfg.Env, Address: cfg.Address, Spawn: cfg.Spawn,
	}}}
	if cfg.Address == nil {
		n.cfg.Address = func(k, base int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(k), 1}), uint16(base+k))
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if n.sockets, err = os.MkdirTemp("", "hearth"); err != nil {
		return nil, err
	}
	for k := 1; k <= all; k++ {
		pair, err := nodeKeys(n.folder(k))
		if err != nil {
			return nil, err
		}
		n.pairs = append(n.pairs, pair)
		if err := n.serveVault(k, pair); err != nil {
			return nil, err
		}
	}
	if err := n.begin(cfg); err != nil {
		return nil, err
	}
	n.cfg.Args = func(k int) []string {
		args := []string{
			"-ledger", n.genesisFile(), "-ledger-listen", n.ledgerAddress(k).String(), "-ledger-pace", cfg.Pace.String(),
			"-test-every", cfg.Test.String(), "-unreachable-after", cfg.Unreachable.String(),
		}
		if cfg.Args != nil {
			args = append(args, cfg.Args(k)...)
		}
		return args
	}
	for k := 1; k <= cfg.Nodes; k++ {
		if err := n.Launch(k); err != nil {
			return nil, err
		}
	}
	return n, n.Wait(ctx)
}

// begin reads the genesis of the folder, with its ports, or makes one.
func (n *LedgerNetwork) begin(cfg LedgerConfig) error {
	if b, err := os.ReadFile(n.genesisFile()); err == nil {
		if n.genesis, err = ledger.ParseGenesis(b); err != nil {
			return err
		}
		if len(n.genesis.Nodes) != cfg.Nodes {
			return fmt.Errorf("%s is a network of %d nodes: take another folder for %d", cfg.Dir, len(n.genesis.Nodes), cfg.Nodes)
		}
		// The addresses are in the ledger.
		n.base = int(n.genesis.Nodes[0].Endpoint.HTTPS) - 1
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for try := 0; ; try++ {
		n.base = choosePort(Config{Nodes: 2 * MaxNodes, Dir: cfg.Dir}, try)
		if cfg.Address != nil {
			break // nobody else is there
		}
		err := n.free()
		if err == nil {
			break
		}
		if try == 50 || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
	if cfg.Began.IsZero() {
		cfg.Began = time.Now()
	}
	g := &ledger.Genesis{Chain: "devnet-" + strconv.FormatInt(time.Now().Unix(), 36), Time: cfg.Began.Unix(), Params: ledger.DefaultParams(), Pool: 1_000_000 * ledger.Coin}
	p := &g.Params
	p.Private, p.Epoch, p.EndpointPause, p.PayableAfter = 1, uint64(cfg.Epoch/time.Second), 0, 0
	p.Requirement = 1000 * ledger.Coin
	// Nobody at a development network waits for days.
	p.EvidenceAge, p.EvidenceBlocks, p.Unlock, p.DeregisterLock, p.SmallLock, p.Await = 30, 10, 60, 120, 0, 300
	p.SwarmMin, p.SwarmMargin, p.SwarmNew = uint64(Rules.MinSize), uint64(Rules.IdealMargin), uint64(Rules.NewSize)
	if cfg.Params != nil {
		cfg.Params(p)
	}
	for k := 1; k <= len(n.pairs); k++ {
		pair := n.pairs[k-1]
		g.Accounts = append(g.Accounts, ledger.GenesisAccount{Address: ledger.HexKey(engine.WalletKey(pair).Ed25519()), Balance: DevCoins * ledger.Coin})
		if k > cfg.Nodes {
			continue
		}
		at := n.Address(k)
		g.Nodes = append(g.Nodes, ledger.GenesisNode{
			Node: ledger.HexKey(pair.Ed25519()), Consensus: ledger.HexKey(engine.ConsensusKey(pair).Ed25519()),
			Beacon: ledger.HexKey(engine.BeaconKey(pair).Public()), Operator: ledger.HexKey(engine.WalletKey(pair).Ed25519()),
			Endpoint: ledger.GenesisEndpoint{IP: at.Addr(), HTTPS: at.Port(), QUIC: at.Port(), Ledger: n.ledgerAddress(k).Port(), Version: swarm.Version},
		})
	}
	if err := g.Check(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(g, "", " ")
	if err != nil {
		return err
	}
	n.genesis = g
	return os.WriteFile(n.genesisFile(), b, 0o600)
}

// free makes sure that nobody has the network's ports.
func (n *LedgerNetwork) free() error {
	for k := 1; k <= len(n.pairs); k++ {
		for _, at := range []netip.AddrPort{n.Address(k), n.ledgerAddress(k)} {
			l, err := net.Listen("tcp", at.String())
			if err != nil {
				return err
			}
			l.Close()
		}
	}
	return nil
}

func (n *LedgerNetwork) genesisFile() string { return filepath.Join(n.cfg.Dir, "genesis.json") }

func (n *LedgerNetwork) ledgerAddress(k int) netip.AddrPort {
	return netip.AddrPortFrom(n.Address(k).Addr(), uint16(n.base+MaxNodes+k))
}

// Genesis is how the ledger began.
func (n *LedgerNetwork) Genesis() *ledger.Genesis { return n.genesis }

// Keys are those of node k, counted from 1.
func (n *LedgerNetwork) Keys(k int) *keys.Pair { return n.pairs[k-1] }

// Seed returns a client that asks node k for the list, to be closed by the caller.
func (n *LedgerNetwork) Seed(k int) (*seed.Client, error) {
	pin, err := n.Pin(k)
	if err != nil {
		return nil, err
	}
	return &seed.Client{URL: n.SeedURL(k), Pin: pin}, nil
}

// SeedURL is where node k gives the list to clients.
func (n *LedgerNetwork) SeedURL(k int) string {
	return "https://" + n.Address(k).String() + "/json_rpc"
}

// Pin is the SHA-256 of the certificate that node k shows to clients.
func (n *LedgerNetwork) Pin(k int) (pin [32]byte, err error) {
	b, err := os.ReadFile(filepath.Join(n.Folder(k), "cert.pem"))
	if err != nil {
		return pin, err
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return sha256.Sum256(block.Bytes), nil
		}
	}
	return pin, fmt.Errorf("node %d has no certificate", k)
}

// ListOf is the list as node k gives it to anybody.
func (n *LedgerNetwork) ListOf(ctx context.Context, k int) (*swarm.List, error) {
	c, err := n.Seed(k)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Poll(ctx, nil)
}

// Anchor is the newest header as node k has it, for a messenger that trusts node k.
func (n *LedgerNetwork) Anchor(ctx context.Context, k int) (a light.Anchor, err error) {
	s, err := n.Status(ctx, k)
	if err != nil {
		return a, err
	}
	a.Chain = s.Ledger.GetChain()
	return a, a.Trust.UnmarshalText([]byte(s.Ledger.GetTrust()))
}

// Owner is the way to the wallet of node k. The second result closes it.
func (n *LedgerNetwork) Owner(k int) (api.LedgerClient, func() error, error) {
	conn, err := api.Dial(n.socket("n", k))
	if err != nil {
		return nil, nil, err
	}
	return api.NewLedgerClient(conn), conn.Close, nil
}

// Running are the numbers of the nodes that run.
func (n *LedgerNetwork) Running() (numbers []int) {
	for k := 1; k <= len(n.pairs); k++ {
		if n.PID(k) != 0 {
			numbers = append(numbers, k)
		}
	}
	return numbers
}

// Wait returns when every running node with a stake is in a swarm, and all of them
// say the same of the list.
func (n *LedgerNetwork) Wait(ctx context.Context) error {
	return n.Until(ctx, "every node to be in service", func(states map[int]*api.NodeStatus) bool {
		list := ""
		for _, s := range states {
			if s == nil || s.Ledger.GetList() == "" || s.Ledger.Standing != "none" && !s.Ready {
				return false
			}
			if list == "" {
				list = s.Ledger.List
			}
			if list != s.Ledger.List {
				return false
			}
		}
		return true
	})
}

// ErrFork says that two nodes have different states after the same block.
var ErrFork = errors.New("the ledger has forked")

// compare remembers the state that a node told of.
func (n *LedgerNetwork) compare(k int, s *api.LedgerStatus) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s == nil || s.Root == "" {
		return nil
	}
	if n.roots == nil {
		n.roots = make(map[int64]string)
	}
	if known, ok := n.roots[s.Height]; ok && known != s.Root {
		return fmt.Errorf("%w: after block %d node %d has %s, another one %s", ErrFork, s.Height, k, s.Root, known)
	}
	n.roots[s.Height] = s.Root
	return nil
}

// Until asks all running nodes how they are, again and again, until the condition
// holds. A node that does not answer has nil. All that is said about the state is
// compared: ErrFork.
func (n *LedgerNetwork) Until(ctx context.Context, what string, done func(map[int]*api.NodeStatus) bool) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var mu sync.Mutex
		var all errgroup.Group
		states := make(map[int]*api.NodeStatus)
		for _, k := range n.Running() {
			all.Go(func() error {
				limit, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				s, err := n.Status(limit, k)
				if err != nil {
					s = nil
				}
				mu.Lock()
				defer mu.Unlock()
				states[k] = s
				return n.compare(k, s.GetLedger())
			})
		}
		if err := all.Wait(); err != nil {
			return err
		}
		if done(states) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			text := ""
			for _, k := range n.Running() {
				text += fmt.Sprintf("\nnode %d: %v\n%s", k, states[k], n.Said(k))
			}
			return fmt.Errorf("waiting for %s: %w%s", what, context.Cause(ctx), text)
		}
	}
}
