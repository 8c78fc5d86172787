package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	cmt "github.com/cometbft/cometbft/types"

	"hearth/node/keys"
	"hearth/node/ledger"
	"hearth/node/ledger/light"
)

func pair(purpose string, i int) *keys.Pair {
	var seed [32]byte
	copy(seed[:], purpose)
	binary.BigEndian.PutUint32(seed[28:], uint32(i))
	return keys.FromSeed(seed)
}

// network is a ledger of real nodes on loopback, all in this process.
type network struct {
	t       *testing.T
	genesis *ledger.Genesis
	dir     string
	ports   []string
	nodes   []*Engine
	owner   *keys.Pair
	nonce   uint64
}

var quick = Timing{Propose: 700 * time.Millisecond, Vote: 200 * time.Millisecond, Commit: 200 * time.Millisecond, Empty: 400 * time.Millisecond, Dial: time.Second}

func testGenesis(nodes int, owner *keys.Pair) *ledger.Genesis {
	g := &ledger.Genesis{Chain: "test-loopback", Time: time.Now().Unix() - 5, Params: ledger.DefaultParams(), Pool: 1_000_000 * ledger.Coin}
	g.Params.Private, g.Params.Requirement, g.Params.Epoch = 1, 1000*ledger.Coin, 2
	g.Accounts = []ledger.GenesisAccount{{Address: ledger.HexKey(owner.Ed25519()), Balance: 1_000_000 * ledger.Coin}}
	for i := range nodes {
		beacon := BeaconKey(pair("node", i)).Public()
		g.Nodes = append(g.Nodes, ledger.GenesisNode{
			Node: ledger.HexKey(pair("node", i).Ed25519()), Consensus: ledger.HexKey(pair("consensus", i).Ed25519()), Beacon: ledger.HexKey(beacon),
			Operator: ledger.HexKey(owner.Ed25519()), Endpoint: ledger.GenesisEndpoint(endpoint(i)),
		})
	}
	return g
}

func endpoint(i int) ledger.Endpoint {
	return ledger.Endpoint{IP: netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}), HTTPS: 22021, Version: [3]uint8{2, 8, 0}}
}

func newNetwork(t *testing.T, nodes int) *network {
	w := &network{t: t, dir: folder(t), owner: pair("owner", 0)}
	w.genesis = testGenesis(nodes, w.owner)
	for i := range nodes + 3 {
		w.ports = append(w.ports, freePort(t))
		if i < nodes {
			w.nodes = append(w.nodes, nil)
		}
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			if n != nil {
				if err := n.Stop(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for i := range nodes {
		w.start(i, nil)
	}
	return w
}

// folder is like t.TempDir, for an engine that has one more file to write after
// it was stopped: the address book of its peers.
func folder(t *testing.T) string {
	dir, err := os.MkdirTemp("", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range 500 {
			if err = os.RemoveAll(dir); err == nil {
				return
			}
			<-tick.C
		}
		t.Error(err)
	})
	return dir
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (w *network) start(i int, change func(*Config)) *Engine {
	w.t.Helper()
	cfg := Config{
		Dir: filepath.Join(w.dir, fmt.Sprint(i)), Genesis: w.genesis, Node: pair("node", i), Consensus: pair("consensus", i),
		Listen: w.ports[i], Local: true, Timing: quick, SnapshotEvery: 4,
	}
	for j := range w.nodes {
		if j != i {
			cfg.Peers = append(cfg.Peers, Peer(pair("node", j).Ed25519(), w.ports[j]))
		}
	}
	if change != nil {
		change(&cfg)
	}
	e, err := Start(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatalf("node %d: %v", i, err)
	}
	for len(w.nodes) <= i {
		w.nodes = append(w.nodes, nil)
	}
	w.nodes[i] = e
	return e
}

func (w *network) kill(i int) {
	w.t.Helper()
	if err := w.nodes[i].Stop(); err != nil {
		w.t.Error(err)
	}
	w.nodes[i] = nil
}

// wait looks until the condition holds: the other side is a real network.
func (w *network) wait(what string, done func() bool) {
	w.t.Helper()
	deadline := time.After(120 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			for i, n := range w.nodes {
				if n != nil {
					w.t.Logf("node %d: %+v", i, n.Status())
				}
			}
			w.t.Fatalf("waited for %s", what)
		case <-tick.C:
		}
	}
}

func (w *network) higher(i int, by int64) {
	w.t.Helper()
	from := w.nodes[i].Status().Height
	w.wait(fmt.Sprintf("node %d to be at %d", i, from+by), func() bool { return w.nodes[i].Status().Height >= from+by })
}

func (w *network) sign(b ledger.Body) []byte {
	x := &ledger.Tx{Chain: w.genesis.Chain, Nonce: w.nonce, Fee: 10 * w.genesis.Params.MinFee, Body: b}
	x.Sign(w.owner)
	raw, err := x.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *network) submit(i int, b ledger.Body) {
	w.t.Helper()
	if err := w.nodes[i].Submit(w.sign(b)); err != nil {
		w.t.Fatal(err)
	}
	w.nonce++
}

func (w *network) header(i int, height int64) *cmt.LightBlock {
	w.t.Helper()
	raw, err := w.nodes[i].Block(w.t.Context(), height)
	if err != nil {
		w.t.Fatalf("node %d, block %d: %v", i, height, err)
	}
	b, err := light.DecodeBlock(raw, w.genesis.Chain)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func TestANetworkOnLoopback(t *testing.T) {
	w := newNetwork(t, 4)
	to := pair("somebody", 0).Ed25519()
	w.wait("the first blocks", func() bool { return w.nodes[0].Status().Height >= 3 })

	t.Run("a transaction reaches every node", func(t *testing.T) {
		w.submit(0, &ledger.Transfer{To: to, Amount: 77})
		for i := range w.nodes {
			w.wait("the transfer", func() bool {
				s := w.nodes[i].State()
				return s != nil && s.View().Account(to).Balance == 77
			})
		}
	})
	t.Run("a refused transaction says why", func(t *testing.T) {
		if err := w.nodes[1].Submit(w.sign(&ledger.Transfer{To: to, Amount: 1 << 62})); !errors.Is(err, ledger.ErrFunds) {
			t.Errorf("got %v", err)
		}
		if err := w.nodes[1].Submit([]byte("nonsense")); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("got %v", err)
		}
		if err := w.nodes[1].Submit(make([]byte, ledger.MaxTx+1)); !errors.Is(err, ledger.ErrOversized) {
			t.Errorf("got %v", err)
		}
	})
	trust, err := w.nodes[0].Trust()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("epochs end with a proposer's part of the seed", func(t *testing.T) {
		w.wait("an epoch", func() bool { return w.nodes[2].State().View().Chain().Epoch >= 2 })
	})
	t.Run("one is killed, the others go on, and it comes back", func(t *testing.T) {
		w.kill(3)
		w.higher(0, 4)
		w.submit(1, &ledger.Transfer{To: to, Amount: 1})
		w.wait("the second transfer", func() bool { return w.nodes[0].State().View().Account(to).Balance == 78 })
		w.start(3, nil)
		w.wait("the killed node to follow", func() bool {
			s := w.nodes[3].State()
			return s != nil && s.View().Account(to).Balance == 78
		})
		top := w.nodes[3].Status().Height - 1
		if a, b := w.header(0, top), w.header(3, top); a.Hash().String() != b.Hash().String() {
			t.Errorf("block %d is %v and %v", top, a.Hash(), b.Hash())
		}
	})
	t.Run("two are killed, and blocks stop until one is back", func(t *testing.T) {
		w.kill(2)
		w.kill(3)
		// What was on its way may still become a block; then nothing does.
		still := time.NewTimer(3 * time.Second)
		defer still.Stop()
		last := w.nodes[0].Status().Height
		moved := 0
		for done := false; !done; {
			select {
			case <-w.nodes[0].Changed():
				if h := w.nodes[0].Status().Height; h > last {
					moved, last = moved+1, h
				}
			case <-still.C:
				done = true
			}
		}
		if moved > 2 {
			t.Errorf("%d blocks without two of four members", moved)
		}
		if w.nodes[0].State().View().Account(to).Balance != 78 {
			t.Error("the last state cannot be read")
		}
		w.start(2, nil)
		w.higher(0, 2)
		w.start(3, nil)
		w.higher(3, 2)
	})
	t.Run("a light client proves the list", func(t *testing.T) {
		c, err := light.New(t.Context(), light.Config{Chain: w.genesis.Chain, Trust: trust, Sources: []light.Source{w.nodes[0], w.nodes[1], w.nodes[2]}})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		p, err := c.Update(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("proven in %v from block %d to %d", time.Since(start).Round(time.Microsecond), trust.Height, p.Trust.Height)
		if len(p.List.Nodes) != 4 || p.List.Hash != w.nodes[0].State().Head.Hash {
			t.Errorf("%d nodes", len(p.List.Nodes))
		}
	})
	t.Run("a new node joins by a snapshot", func(t *testing.T) {
		start := time.Now()
		e := w.start(4, func(c *Config) {
			c.Join = &Join{Trust: trust, Sources: []light.Source{w.nodes[0], w.nodes[1]}}
		})
		w.wait("the new node to have the state", func() bool {
			s := e.State()
			return s != nil && s.View().Account(to).Balance == 78
		})
		took := time.Since(start)
		w.higher(4, 2)
		if base := e.env.BlockStore.Base(); base < 4 {
			t.Errorf("it has blocks from %d on, so it did not begin with a snapshot", base)
		}
		// Who has another idea of whose turn it is refuses good proposals for ever.
		height := e.Status().Height
		theirs, err := w.nodes[0].Order(t.Context(), height)
		if own, e := e.Order(t.Context(), height); err != nil || e != nil || !bytes.Equal(own, theirs) {
			t.Errorf("it has the order %x of proposers, the others %x, %v, %v", own, theirs, err, e)
		}
		t.Logf("joined in %v at height %d, with blocks from %d on", took.Round(time.Millisecond), e.Status().Height, e.env.BlockStore.Base())
		if err := ledger.CheckState(e.State().View()); err != nil {
			t.Error(err)
		}
	})
	t.Run("it registers and becomes a member", func(t *testing.T) {
		r := &ledger.Register{Beacon: BeaconKey(pair("node", 4)).Public(), Endpoint: endpoint(4), Shares: []ledger.Share{{Staker: w.owner.Ed25519(), Beneficiary: w.owner.Ed25519(), Amount: 1000 * ledger.Coin}}}
		r.SignNode(w.genesis.Chain, w.owner.Ed25519(), pair("node", 4), pair("consensus", 4))
		w.submit(4, r)
		w.wait("five members", func() bool { return len(w.nodes[4].State().View().Committee()) == 5 })
		from, mine := w.nodes[0].Status().Height, cmtAddress(pair("consensus", 4).Ed25519())
		w.wait("the new member to take part in deciding", func() bool {
			for height := w.nodes[0].Status().Height - 1; height > from; height-- {
				b := w.header(0, height)
				i, _ := b.ValidatorSet.GetByAddress(mine)
				if i >= 0 && b.Commit.Signatures[i].BlockIDFlag == cmt.BlockIDFlagCommit {
					return true
				}
			}
			return false
		})
	})
	t.Run("who signs on two machines is slashed", func(t *testing.T) {
		w.start(5, func(c *Config) { c.Consensus = pair("consensus", 4) })
		w.wait("the stake to be cut", func() bool { return w.nodes[0].State().View().Rewards().Slashed == 50*ledger.Coin })
		v := w.nodes[0].State().View()
		if n, ok := v.Node(pair("node", 4).Ed25519()); !ok || n.Status != ledger.Leaving || !v.Barred(pair("consensus", 4).Ed25519()) {
			t.Errorf("%+v", n)
		}
		w.higher(0, 3)
		if err := ledger.CheckState(w.nodes[0].State().View()); err != nil {
			t.Error(err)
		}
	})
}

func cmtAddress(k [32]byte) []byte { return cmt.NewValidator(edKey(k), 1).Address }

func TestANodeThatLostWhatItSignedDoesNotStart(t *testing.T) {
	w := newNetwork(t, 1)
	w.wait("a block", func() bool { return w.nodes[0].Status().Height >= 2 })
	w.kill(0)
	path := filepath.Join(w.dir, "0", "data", "signed.json")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: filepath.Join(w.dir, "0"), Genesis: w.genesis, Node: pair("node", 0), Consensus: pair("consensus", 0), Listen: w.ports[0], Local: true, Timing: quick}
	if _, err := Start(context.Background(), cfg); !errors.Is(err, ErrSignState) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(context.Background(), cfg); !errors.Is(err, ErrSignState) {
		t.Errorf("got %v", err)
	}
}

func TestAPortInUseIsAnErrorAndNothingStaysOpen(t *testing.T) {
	w := &network{t: t, owner: pair("owner", 0)}
	w.genesis = testGenesis(1, w.owner)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: folder(t), Genesis: w.genesis, Node: pair("node", 0), Consensus: pair("consensus", 0), Listen: l.Addr().String(), Local: true, Timing: quick}
	if e, err := Start(t.Context(), cfg); err == nil {
		e.Stop()
		t.Fatal("it started")
	}
	l.Close()
	// The databases allow one user: this finds out whether all were closed.
	e, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
	if err := e.Stop(); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
}
