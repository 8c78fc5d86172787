// Package host lets a service node take part in the staking ledger: it runs the
// engine in the node's process and gives the node what it needs of it.
//
//	h, err := host.Open(ctx, host.Config{Genesis: genesis, Keys: pair, …})
//	node, err := servicenode.New(servicenode.Config{Ledger: h, …})
//
// A [Host] is the node's list ([Host.Poll]): the active nodes with their swarms
// as the last block left them, and behind those, without a swarm, the nodes that
// wait or failed tests, so that they are tested and can come back. When the ledger
// halts the list stays as it is and the node works on with it; [Host.Status] says so.
//
// With [Host.Judge] the node does its part as a tester: what its tests say about
// others becomes votes that testers give each other, and enough of them one
// transaction.
package host

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hearth/node/api"
	"hearth/node/keys"
	"hearth/node/ledger"
	"hearth/node/ledger/engine"
	"hearth/node/ledger/light"
	"hearth/node/swarm"
)

// Errors that callers can test with errors.Is.
var (
	// ErrNotStaked says that the ledger does not know the node.
	ErrNotStaked = errors.New("the ledger does not know this node: stake for it first")
	// ErrPeer reports a peer in a form that Config.Peers does not have.
	ErrPeer = errors.New("unusable ledger peer")
)

// Config is what a Host is made of. Genesis, Keys, Dir, Listen and Public are
// required.
type Config struct {
	Genesis *ledger.Genesis
	Keys    *keys.Pair
	Dir     string         // keeps the ledger; made when missing
	Listen  string         // host:port for peers of the ledger; the host may be missing
	Public  netip.AddrPort // where clients and nodes reach this node; peers of the ledger at Listen's port
	Peers   []string       // KEY@HOST:PORT, KEY being 64 hexadecimal digits; some of the genesis when empty
	Pace    time.Duration  // pause after a block, all nodes alike; 10 s when zero. Other times follow from it

	// Join is a header with which a node that has no state may begin with a snapshot
	// of its peers instead of the first block; nobody when zero. What it is told is
	// proven from there by asking nodes of the genesis and those at JoinFrom.
	Join     light.Anchor
	JoinFrom []netip.AddrPort // where clients reach nodes
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)

	Snapshots int64 // blocks from one snapshot for others to the next; 720 when zero
	Now       func() time.Time
	Log       *slog.Logger
}

// Host is a node's part in the ledger.
type Host struct {
	cfg    Config
	engine *engine.Engine
	timing engine.Timing
	port   uint16
	began  time.Time

	stop      context.CancelFunc
	closeJoin func()
	ended     chan struct{}
	changed   chan struct{} // for the node
	blocks    chan struct{} // for Judge

	votes pool

	mu     sync.Mutex
	height int64 // of the state that list was made from
	list   *swarm.List
}

// timing gives all times in proportion to the pause after a block.
func timing(pace time.Duration) engine.Timing {
	if pace <= 0 {
		return engine.Timing{}
	}
	propose := max(min(3*pace, 3*time.Second), 700*time.Millisecond)
	return engine.Timing{Propose: propose, Vote: propose / 3, Commit: pace, Empty: 12 * pace, Dial: max(min(6*pace, time.Minute), time.Second)}
}

// peersOfGenesis is how many nodes a new one tries at first. They are the next ones
// in a ring, so that together they are one network.
const peersOfGenesis = 4

// Open starts the engine, which listens then. ctx is for starting alone.
func Open(ctx context.Context, cfg Config) (*Host, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{cfg: cfg, timing: timing(cfg.Pace), began: cfg.Now(),
		ended: make(chan struct{}), changed: make(chan struct{}, 1), blocks: make(chan struct{}, 1)}
	name, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("address for peers of the ledger: %w", err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return nil, fmt.Errorf("address for peers of the ledger: %q is no port", port)
	}
	h.port = uint16(number)
	peers, err := cfg.peers()
	if err != nil {
		return nil, err
	}
	if err := cfg.Keys.Expand(); err != nil {
		return nil, err
	}
	join, closeJoin, err := cfg.join()
	if err != nil {
		return nil, err
	}
	h.engine, err = engine.Start(ctx, engine.Config{
		Dir: cfg.Dir, Genesis: cfg.Genesis, Node: cfg.Keys, Consensus: engine.ConsensusKey(cfg.Keys),
		Listen: net.JoinHostPort(cmp.Or(name, "0.0.0.0"), port), External: netip.AddrPortFrom(cfg.Public.Addr(), h.port),
		Peers: peers, Local: cfg.Genesis.Params.Private == 1,
		Join: join, Timing: h.timing, SnapshotEvery: cfg.Snapshots, Now: cfg.Now, Log: cfg.Log,
	})
	if err != nil {
		closeJoin()
		return nil, err
	}
	h.closeJoin = closeJoin
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.stop = cancel
	go h.pass(run)
	return h, nil
}

// peers names the first peers in the engine's form.
func (cfg *Config) peers() ([]string, error) {
	var all []string
	own := cfg.Keys.Ed25519()
	for _, p := range cfg.Peers {
		text, address, ok := strings.Cut(p, "@")
		key, err := hex.DecodeString(text)
		if _, _, e := net.SplitHostPort(address); !ok || err != nil || len(key) != 32 || e != nil {
			return nil, fmt.Errorf("%w: %q is not the key of a node, an @, and host:port", ErrPeer, p)
		}
		all = append(all, engine.Peer(ledger.Key(key), address))
	}
	if len(all) > 0 {
		return all, nil
	}
	nodes := slices.SortedFunc(slices.Values(cfg.Genesis.Nodes), func(a, b ledger.GenesisNode) int { return slices.Compare(a.Node[:], b.Node[:]) })
	after, _ := slices.BinarySearchFunc(nodes, own, func(n ledger.GenesisNode, k [32]byte) int { return slices.Compare(n.Node[:], k[:]) })
	for i := range nodes {
		n := nodes[(after+i)%len(nodes)]
		if ledger.Key(n.Node) == own || n.Endpoint.Ledger == 0 {
			continue
		}
		if all = append(all, engine.Peer(ledger.Key(n.Node), netip.AddrPortFrom(n.Endpoint.IP, n.Endpoint.Ledger).String())); len(all) == peersOfGenesis {
			break
		}
	}
	return all, nil
}

// pass tells the node and Judge about blocks.
func (h *Host) pass(ctx context.Context) {
	defer close(h.ended)
	for {
		select {
		case <-h.engine.Changed():
		case <-ctx.Done():
			return
		}
		for _, c := range []chan struct{}{h.changed, h.blocks} {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}

// Close stops the engine.
func (h *Host) Close() error {
	h.stop()
	<-h.ended
	defer h.closeJoin()
	return h.engine.Stop()
}

// Engine is the engine under the host.
func (h *Host) Engine() *engine.Engine { return h.engine }

// Changed gets a value after a block, if it has room. It is for one reader.
func (h *Host) Changed() <-chan struct{} { return h.changed }

// Poll returns the list of the last block, also when that is old. The error is
// engine.ErrNoState before the first.
func (h *Host) Poll(context.Context, *swarm.List) (*swarm.List, error) {
	s := h.engine.State()
	if s == nil {
		return nil, engine.ErrNoState
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.list != nil && h.height == s.Height {
		return h.list, nil
	}
	list, err := listOf(s)
	if err != nil {
		return nil, err
	}
	if h.height = s.Height; h.list == nil || h.list.Hash != list.Hash {
		h.list = list
	}
	return h.list, nil
}

// listOf is the list of a state. Its hash is the one that the ledger proves when
// nobody is outside of a swarm, and else one that follows from it and from those.
func listOf(s *engine.State) (*swarm.List, error) {
	list, _, err := ledger.DecodeList(s.List, s.Head)
	if err != nil {
		return nil, fmt.Errorf("list of the ledger at %d: %w", s.Height, err)
	}
	v := s.View()
	outside := sha256.New()
	outside.Write(s.Head.Hash[:])
	found := false
	for _, n := range v.Nodes() {
		if n.Status != ledger.Waiting && n.Status != ledger.Decommissioned {
			continue
		}
		x, err := keys.X25519FromEd25519(n.Key)
		if err != nil {
			continue // nobody could talk to it
		}
		found = true
		address := netip.AddrPortFrom(n.Endpoint.IP, n.Endpoint.HTTPS)
		outside.Write(n.Key[:])
		outside.Write([]byte(address.String()))
		outside.Write(binary.BigEndian.AppendUint64(nil, n.UnlockHeight))
		list.Nodes = append(list.Nodes, swarm.Node{
			Ed25519: n.Key, X25519: x, Address: address, Swarm: swarm.None,
			QUIC: n.Endpoint.QUIC, Version: n.Endpoint.Version, RequestedUnlockHeight: n.UnlockHeight,
		})
	}
	if found {
		list.Hash = [32]byte(outside.Sum(nil))
	}
	return list, v.Err()
}

// Announce writes the node's address into the ledger if there is another one, or a
// node without a stake gets to know that it needs one. The node's own key signs
// and pays no fee.
func (h *Host) Announce(_ context.Context, node *keys.Pair, at netip.AddrPort) error {
	s := h.engine.State()
	if s == nil {
		return engine.ErrNoState
	}
	v := s.View()
	n, ok := v.Node(node.Ed25519())
	if !ok {
		return ErrNotStaked
	}
	end := h.endpoint(at)
	if n.Endpoint == end || n.Status == ledger.Leaving {
		return v.Err()
	}
	tx := &ledger.Tx{Chain: h.cfg.Genesis.Chain, Nonce: v.Account(node.Ed25519()).Nonce, Body: &ledger.ChangeEndpoint{Node: n.Key, Endpoint: end}}
	if err := v.Err(); err != nil {
		return err
	}
	if err := h.submit(tx, node); err != nil && !errors.Is(err, engine.ErrKnown) {
		return fmt.Errorf("writing this node's address into the ledger: %w", err)
	}
	return nil
}

// Prove answers those who prove the list.
func (h *Host) Prove(params json.RawMessage) (json.RawMessage, error) {
	return light.Answer(context.Background(), h.engine, params)
}

func (h *Host) endpoint(at netip.AddrPort) ledger.Endpoint {
	return ledger.Endpoint{IP: at.Addr(), HTTPS: at.Port(), QUIC: at.Port(), Ledger: h.port, Version: swarm.Version}
}

func (h *Host) submit(tx *ledger.Tx, signer ledger.Signer) error {
	tx.Sign(signer)
	raw, err := tx.Encode()
	if err != nil {
		return err
	}
	return h.engine.Submit(raw)
}

// halted reports whether blocks should have come and did not.
func (h *Host) halted(s engine.Status) bool {
	t := h.timing
	if t == (engine.Timing{}) {
		t = timing(10 * time.Second)
	}
	last := s.Seen
	if last.Before(h.began) {
		last = h.began // what was before this process ran is nobody's fault
	}
	return h.cfg.Now().Sub(last) > 3*t.Empty+2*t.Commit+5*t.Propose
}

// Status tells how the ledger does, and this node in it.
func (h *Host) Status() *api.LedgerStatus {
	e := h.engine.Status()
	r := &api.LedgerStatus{Chain: h.cfg.Genesis.Chain, Height: e.Height, Peers: uint32(e.Peers), Syncing: e.Syncing, Standing: "none"}
	if !e.Time.IsZero() {
		r.Time = e.Time.UnixMilli()
	}
	if !e.Seen.IsZero() {
		r.Seen = e.Seen.UnixMilli()
	}
	r.Halted = h.halted(e)
	switch {
	case e.Failed != "":
		r.Trouble = "the ledger cannot go on here: " + e.Failed
	case r.Halted && e.Peers == 0:
		r.Trouble = "the ledger stands still: no other node of it can be reached; messages are kept and passed on with the last list of nodes"
	case r.Halted:
		r.Trouble = "the ledger stands still, because too many of the nodes that decide are away; messages are kept and passed on with the last list of nodes"
	}
	s := h.engine.State()
	if s == nil {
		r.Explanation = "the ledger has not begun here"
		return r
	}
	r.Height = s.Height
	v := s.View()
	root := s.Root()
	if trust, err := h.engine.Trust(); err == nil {
		r.Trust = trust.String()
	}
	r.List, r.Root = hex.EncodeToString(s.Head.Hash[:]), hex.EncodeToString(root[:])
	r.Active = uint32(len(v.Active()))
	c := v.Chain()
	n, ok := v.Node(h.cfg.Keys.Ed25519())
	if !ok {
		r.Explanation = "nobody has staked for this node: it follows the ledger and keeps no messages"
		return r
	}
	now := h.cfg.Now()
	r.Standing, r.Stake = n.Status.String(), n.Stake()
	r.Explanation = explain(n, &c, now)
	if n.Status == ledger.Active || n.Status == ledger.Decommissioned {
		r.Credit = n.CreditAt(&c.Params, now.Unix())
	}
	own := n.Consensus
	r.Committee = slices.ContainsFunc(v.Committee(), func(m ledger.Validator) bool { return m.Consensus == own })
	if err := v.Err(); err != nil {
		r.Trouble = "the ledger's state cannot be read: " + err.Error()
	}
	return r
}

// explain says in which state a node is and what comes next.
func explain(n *ledger.Node, c *ledger.Chain, now time.Time) string {
	switch n.Status {
	case ledger.Awaiting:
		return fmt.Sprintf("waits for contributors: %s of %s coins are there", ledger.Coins(n.Stake()), ledger.Coins(n.Requirement))
	case ledger.Waiting:
		left := time.Unix(c.Started, 0).Add(time.Duration(c.Params.Epoch) * time.Second).Sub(now)
		return fmt.Sprintf("joins a swarm %s", soon(left))
	case ledger.Active:
		if n.UnlockAt > 0 {
			return fmt.Sprintf("in service, and leaves %s", soon(time.Unix(n.UnlockAt, 0).Sub(now)))
		}
		return "in service"
	case ledger.Decommissioned:
		left := time.Duration(n.CreditAt(&c.Params, now.Unix())) * time.Second
		if left < 0 {
			return "out of service, because other nodes could not reach it; they may remove it for good at any moment"
		}
		return fmt.Sprintf("out of service, because other nodes could not reach it; it comes back when they can, and is removed for good after another %s", Span(left))
	case ledger.Leaving:
		return fmt.Sprintf("has left; the stake is paid back %s", soon(time.Unix(n.Release, 0).Sub(now)))
	}
	return ""
}

func soon(left time.Duration) string {
	if left <= 0 {
		return "with one of the next blocks"
	}
	return "in " + Span(left)
}

// Span writes a time for people: in the largest unit of which there are two.
func Span(d time.Duration) string {
	for _, u := range []struct {
		one  time.Duration
		name string
	}{{24 * time.Hour, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}} {
		if d >= 2*u.one {
			return fmt.Sprintf("%d %s", (d+u.one/2)/u.one, u.name)
		}
	}
	return fmt.Sprintf("%d seconds", (d+time.Second-1)/time.Second)
}
