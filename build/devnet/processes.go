package devnet

import (
	"bytes"
	"context"
	"encoding/hex"
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

	"google.golang.org/grpc"

	"hearth/node/api"
	"hearth/node/keys"
	"hearth/node/relay"
	"hearth/node/seed"
	"hearth/node/swarm"
)

// Processes is a network like [Network], except that each node is a process of
// its own: one that can be killed, whose processor time and memory can be read,
// and that can be put elsewhere. The seed and the vaults, which give the nodes
// their keys, stay in this process.
type Processes struct {
	cfg       ProcessConfig
	base      int
	sockets   string
	authority *seed.Authority
	stopSeed  func() error
	vaults    []*grpc.Server

	mu    sync.Mutex
	nodes []*process // by number less one; nil when stopped
}

// ProcessConfig says what network of processes to start. Program, Nodes and Dir
// are required.
type ProcessConfig struct {
	Program string // the hearth command, see [BuildProgram]
	Nodes   int    // 1 to MaxNodes
	Dir     string
	Held    int         // of the nodes, so many of the last are not started; Launch does that
	Rules   swarm.Rules // of this package when zero
	Log     *slog.Logger

	Every time.Duration // between two pings of the seed to a node; 10 s when zero
	Away  time.Duration // without an answer until a node leaves its swarm; 30 s when zero

	// What follows puts the nodes elsewhere than on loopback; nil means there.
	Address func(k, base int) netip.AddrPort                                  // of node k, counted from 1
	Seed    func(base int) (l net.Listener, at string, err error)             // listens for the seed, and says where nodes find it
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error) // from the seed to a node
	Spawn   func(k int, cmd *exec.Cmd) error                                  // starts a node's process; cmd.Start when nil
	Args    func(k int) []string                                              // more arguments of a node
	Env     []string                                                          // more of its environment
}

type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been waited for
	said  *tail
}

// BuildProgram compiles the hearth command into dir and returns its path. It has
// to run within the module.
func BuildProgram(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "hearth")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "hearth/initramfs/cmd/hearth")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling hearth: %w\n%s", err, out)
	}
	return program, nil
}

// StartProcesses brings the network up: it returns when every node is in a swarm
// and knows all the others.
func StartProcesses(ctx context.Context, cfg ProcessConfig) (_ *Processes, err error) {
	if cfg.Nodes < 1 || cfg.Nodes > MaxNodes {
		return nil, fmt.Errorf("a network of %d nodes: want 1 to %d", cfg.Nodes, MaxNodes)
	}
	if cfg.Rules == (swarm.Rules{}) {
		cfg.Rules = Rules
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Address == nil {
		cfg.Address = func(k, base int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(k), 1}), uint16(base+k))
		}
	}
	if cfg.Seed == nil {
		cfg.Seed = func(base int) (net.Listener, string, error) {
			at := net.JoinHostPort("127.0.0.1", strconv.Itoa(base))
			l, err := net.Listen("tcp", at)
			return l, at, err
		}
	}
	n := &Processes{cfg: cfg, nodes: make([]*process, cfg.Nodes)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	// Names of sockets are short, those of folders need not be.
	if n.sockets, err = os.MkdirTemp("", "hearth"); err != nil {
		return nil, err
	}
	var l net.Listener
	var at string
	for try := 0; ; try++ {
		n.base = choosePort(Config{Nodes: cfg.Nodes, Dir: cfg.Dir}, try)
		if l, at, err = cfg.Seed(n.base); err == nil {
			break
		}
		if try == 50 || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
	n.authority, err = seed.New(seed.Config{
		Dir: filepath.Join(cfg.Dir, "seed"), Rules: cfg.Rules, Now: time.Now,
		Ping: func(ctx context.Context, addr netip.AddrPort) ([32]byte, error) {
			return relay.Ping(ctx, cfg.Dial, addr)
		},
		Log: cfg.Log.With("at", "seed"), Every: cfg.Every, Away: cfg.Away,
	})
	if err != nil {
		l.Close()
		return nil, err
	}
	n.stopSeed = background(func(ctx context.Context) error { return n.authority.Serve(ctx, l) })
	pin := n.authority.Pin()
	for k := 1; k <= cfg.Nodes; k++ {
		pair, err := nodeKeys(n.folder(k))
		if err != nil {
			return nil, err
		}
		if err := n.serveVault(k, pair); err != nil {
			return nil, err
		}
	}
	seedFlags := []string{"-seed", "https://" + at + "/json_rpc", "-seed-pin", hex.EncodeToString(pin[:])}
	args := n.cfg.Args
	n.cfg.Args = func(k int) []string {
		if args != nil {
			return append(args(k), seedFlags...)
		}
		return seedFlags
	}
	for k := 1; k <= cfg.Nodes-cfg.Held; k++ {
		if err := n.Launch(k); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(portFile(Config{Dir: cfg.Dir}), []byte(strconv.Itoa(n.base)+"\n"), 0o600); err != nil {
		return nil, err
	}
	return n, n.Wait(ctx)
}

func (n *Processes) folder(k int) string {
	return filepath.Join(n.cfg.Dir, fmt.Sprintf("node-%03d", k))
}

// Folder is where node k keeps what it stores.
func (n *Processes) Folder(k int) string { return filepath.Join(n.folder(k), "data") }

func (n *Processes) socket(what string, k int) string {
	return filepath.Join(n.sockets, what+strconv.Itoa(k))
}

// keyVault gives a node its key and knows nothing else.
type keyVault struct {
	api.UnimplementedVaultServer
	seed [32]byte
}

func (v *keyVault) NodeSeed(context.Context, *api.NodeSeedRequest) (*api.NodeSeedReply, error) {
	return &api.NodeSeedReply{Seed: bytes.Clone(v.seed[:])}, nil
}

func (n *Processes) serveVault(k int, pair *keys.Pair) error {
	l, err := api.Listen(n.socket("v", k))
	if err != nil {
		return err
	}
	server := api.NewServer()
	api.RegisterVaultServer(server, &keyVault{seed: pair.Seed()})
	n.vaults = append(n.vaults, server)
	go server.Serve(l) // until Close
	return nil
}

// Launch starts node k. It does not wait until the node is ready; Wait does.
func (n *Processes) Launch(k int) error {
	address := n.Address(k).String()
	cmd := exec.Command(n.cfg.Program, append([]string{
		"node", "-dir", n.Folder(k), "-listen", address, "-public", address,
		"-vault", n.socket("v", k), "-api", n.socket("n", k),
	}, n.cfg.Args(k)...)...)
	cmd.Env = append(os.Environ(), n.cfg.Env...)
	p := &process{cmd: cmd, ended: make(chan struct{}), said: new(tail)}
	cmd.Stdout, cmd.Stderr = p.said, p.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt of this program is not the nodes'
	start := func(_ int, cmd *exec.Cmd) error { return cmd.Start() }
	if n.cfg.Spawn != nil {
		start = n.cfg.Spawn
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes[k-1] != nil {
		return fmt.Errorf("node %d runs already", k)
	}
	if err := start(k, cmd); err != nil {
		return fmt.Errorf("starting node %d: %w", k, err)
	}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	n.nodes[k-1] = p
	return nil
}

// Kill ends node k as a power cut does, and returns when it is gone.
func (n *Processes) Kill(k int) error { return n.end(k, syscall.SIGKILL) }

// Stop ends node k in order.
func (n *Processes) Stop(k int) error { return n.end(k, syscall.SIGTERM) }

func (n *Processes) end(k int, signal syscall.Signal) error {
	n.mu.Lock()
	p := n.nodes[k-1]
	n.nodes[k-1] = nil
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	select {
	case <-p.ended: // by itself
		return fmt.Errorf("node %d ended by itself (%v), and said: %s", k, p.cmd.ProcessState, p.said)
	default:
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("node %d did not end, and said: %s", k, p.said)
	}
	if signal == syscall.SIGTERM && !p.cmd.ProcessState.Success() {
		return fmt.Errorf("node %d: %v, and said: %s", k, p.cmd.ProcessState, p.said)
	}
	return nil
}

// PID is the process of node k, 0 when it is stopped.
func (n *Processes) PID(k int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.nodes[k-1]; p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Said is the end of what node k has logged, for the one who looks for a fault.
func (n *Processes) Said(k int) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.nodes[k-1]; p != nil {
		return p.said.String()
	}
	return ""
}

// Address is the public address of node k, counted from 1.
func (n *Processes) Address(k int) netip.AddrPort { return n.cfg.Address(k, n.base) }

// List is the newest node list.
func (n *Processes) List() *swarm.List { return n.authority.List() }

// Number returns the number of the node at an address, 0 when there is none.
func (n *Processes) Number(at netip.AddrPort) int {
	for k := 1; k <= n.cfg.Nodes; k++ {
		if n.Address(k) == at {
			return k
		}
	}
	return 0
}

// Status asks node k how it is.
func (n *Processes) Status(ctx context.Context, k int) (*api.NodeStatus, error) {
	conn, err := api.Dial(n.socket("n", k))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return api.NewNodeClient(conn).Status(ctx, &api.NodeStatusRequest{})
}

// Wait returns when every running node is in a swarm and knows as many others as
// the seed lists.
func (n *Processes) Wait(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	running := 0
	for k := 1; k <= n.cfg.Nodes; k++ {
		if n.PID(k) != 0 {
			running++
		}
	}
	for k := 1; k <= n.cfg.Nodes; {
		if n.PID(k) == 0 {
			k++
			continue
		}
		listed := len(n.List().Nodes)
		if s, err := n.Status(ctx, k); err == nil && s.Ready && int(s.KnownNodes) == listed-1 && listed >= running {
			k++
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("node %d is not ready: %w; it says: %s", k, context.Cause(ctx), n.Said(k))
		}
	}
	return nil
}

// Close stops the nodes, then the seed.
func (n *Processes) Close() error {
	errs := make([]error, n.cfg.Nodes+2)
	var all sync.WaitGroup
	for k := 1; k <= n.cfg.Nodes; k++ {
		all.Go(func() { errs[k] = n.Stop(k) })
	}
	all.Wait()
	if n.stopSeed != nil {
		errs[0] = n.stopSeed()
	}
	for _, v := range n.vaults {
		v.Stop()
	}
	if n.sockets != "" {
		errs[n.cfg.Nodes+1] = os.RemoveAll(n.sockets)
	}
	return errors.Join(errs...)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if len(t.kept) > 2*tailSize {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-tailSize:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept[max(0, len(t.kept)-tailSize):])
}
