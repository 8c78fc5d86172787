package servicenode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/api"
	"hearth/node/internal/bubble"
	"hearth/node/keys"
	"hearth/node/relay"
	"hearth/node/swarm"
)

var (
	own    = keys.FromSeed([32]byte{1})
	other  = keys.FromSeed([32]byte{2})
	third  = keys.FromSeed([32]byte{3})
	public = netip.MustParseAddrPort("127.0.1.1:22021")
)

// registry is a seed in memory. It lists a node that announces itself.
type registry struct {
	mu        sync.Mutex
	list      *swarm.List
	err       error // of everything
	refuse    error // of announcements
	announced []time.Time
}

func (r *registry) Poll(_ context.Context, known *swarm.List) (*swarm.List, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	if known != nil && known.Hash == r.list.Hash {
		return known, nil
	}
	return r.list, nil
}

func (r *registry) Announce(_ context.Context, node *keys.Pair, addr netip.AddrPort) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.announced = append(r.announced, time.Now())
	if r.err != nil || r.refuse != nil {
		return errors.Join(r.err, r.refuse)
	}
	r.set(append(slices.Clone(r.list.Nodes), entry(node, addr, 5))...)
	return nil
}

// set publishes a new list; r.mu is held or nobody else there yet.
func (r *registry) set(nodes ...swarm.Node) {
	next := &swarm.List{Nodes: nodes}
	if r.list != nil {
		next.Height, next.Hash = r.list.Height+1, r.list.Hash
	}
	next.Hash[0]++
	r.list = next
}

func (r *registry) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *registry) announcements() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.announced)
}

func entry(node *keys.Pair, addr netip.AddrPort, in swarm.ID) swarm.Node {
	return swarm.Node{Ed25519: node.Ed25519(), X25519: node.X25519(), Address: addr, Swarm: in}
}

// start runs a node without listeners, which is enough for the list.
func start(t *testing.T, dir string, r Seed) (n *Node, stop func()) {
	t.Helper()
	bubble.Clean(t)
	n, err := New(Config{Keys: own, Dir: dir, Public: public, Seed: r, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	return n, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func TestNodeAnnouncesItselfUntilItIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{refuse: errors.New("no answer at that address")}
		r.set()
		n, stop := start(t, t.TempDir(), r)
		defer stop()
		time.Sleep(10 * time.Minute)
		if reasons := n.NotReady(); !slices.Equal(reasons, []string{"not in any swarm"}) {
			t.Errorf("not ready because of %q", reasons)
		}
		// At first often, later once in half a minute.
		if tries := r.announcements(); tries < 10 || tries > 30 {
			t.Errorf("%d announcements in ten minutes", tries)
		}
		r.change(func() { r.refuse = nil })
		time.Sleep(time.Minute)
		if reasons := n.NotReady(); len(reasons) > 0 {
			t.Errorf("not ready because of %q", reasons)
		}
		listed := r.announcements()
		time.Sleep(time.Hour)
		if more := r.announcements(); more != listed {
			t.Errorf("%d announcements of a node that is listed", more-listed)
		}

		r.change(func() { r.set(entry(own, public, swarm.None)) })
		time.Sleep(time.Minute)
		if more := r.announcements(); more == listed || len(n.NotReady()) > 0 {
			t.Errorf("a node without a swarm announced itself %d times, %q", more-listed, n.NotReady())
		}
		listed = r.announcements()
		r.change(func() { r.set(entry(own, netip.MustParseAddrPort("127.0.9.9:1"), 5)) })
		time.Sleep(time.Minute)
		if more := r.announcements(); more == listed {
			t.Error("a node that is listed elsewhere did not announce itself")
		}
	})
}

func TestNodeKeepsItsListWhileTheSeedIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := &registry{}
		r.set(entry(other, netip.MustParseAddrPort("127.0.2.1:22021"), 5))
		n, stop := start(t, dir, r)
		time.Sleep(time.Minute)
		if len(n.NotReady()) > 0 || len(n.List().Nodes) != 2 {
			t.Fatalf("not ready because of %q", n.NotReady())
		}
		r.change(func() { r.err = errors.New("gone") })
		time.Sleep(time.Hour)
		if len(n.NotReady()) > 0 {
			t.Errorf("the seed is away: not ready because of %q", n.NotReady())
		}
		stop()
		if reasons := n.NotReady(); !slices.Equal(reasons, []string{"shutting down"}) {
			t.Errorf("after the end: %q", reasons)
		}

		n, stop = start(t, dir, r)
		defer stop()
		if len(n.NotReady()) > 0 || len(n.List().Nodes) != 2 {
			t.Errorf("after a restart: not ready because of %q", n.NotReady())
		}
		// A seed that forgot everybody does not empty the network.
		r.change(func() {
			r.err, r.refuse = nil, errors.New("not now")
			r.set()
		})
		time.Sleep(time.Minute)
		if len(n.NotReady()) > 0 {
			t.Errorf("the seed forgot everybody: not ready because of %q", n.NotReady())
		}
		r.change(func() { r.set(entry(third, netip.MustParseAddrPort("127.0.3.1:22021"), 5)) })
		time.Sleep(time.Minute)
		if len(n.NotReady()) == 0 {
			t.Error("a new list without this node: still ready")
		}
	})
}

func TestNodeWithoutAnyListIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, stop := start(t, t.TempDir(), &registry{err: errors.New("gone")})
		defer stop()
		time.Sleep(time.Minute)
		if reasons := n.NotReady(); !slices.Equal(reasons, []string{"no node list yet"}) {
			t.Errorf("not ready because of %q", reasons)
		}
		if s, err := n.Status(t.Context(), nil); err != nil || s.Ready || s.Trouble != "no node list yet" || s.KnownNodes != 0 {
			t.Errorf("status %v, %v", s, err)
		}
		if p, err := n.Peers(t.Context(), nil); err != nil || len(p.Peers) != 0 {
			t.Errorf("peers %v, %v", p, err)
		}
	})
}

func TestStatusAndPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		r.set(
			entry(other, netip.MustParseAddrPort("127.0.2.1:22021"), 1),
			entry(keys.FromSeed([32]byte{4}), netip.MustParseAddrPort("127.0.4.1:22021"), swarm.None),
			entry(third, netip.MustParseAddrPort("127.0.3.1:22021"), 5),
		)
		began := time.Now()
		n, stop := start(t, t.TempDir(), r)
		defer stop()
		time.Sleep(time.Minute)
		s, err := n.Status(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !s.Ready || s.Trouble != "" || s.Swarm != "5" || s.SwarmMembers != 2 || s.KnownNodes != 3 ||
			s.Address != "127.0.1.1:22021" || s.Started != began.UnixMilli() || len(s.Ed25519) != 64 {
			t.Errorf("status %v", s)
		}
		p, err := n.Peers(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, peer := range p.Peers {
			text := peer.Address + " in " + peer.Swarm
			if peer.OwnSwarm {
				text += " (own)"
			}
			got = append(got, text)
		}
		want := []string{"127.0.3.1:22021 in 5 (own)", "127.0.4.1:22021 in ", "127.0.2.1:22021 in 1"}
		if !slices.Equal(got, want) {
			t.Errorf("peers %q, want %q", got, want)
		}
	})
}

func TestNodeSweepsExpiredMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		r.set()
		n, stop := start(t, t.TempDir(), r)
		defer stop()
		time.Sleep(time.Minute)
		resp := n.storage.Handle(t.Context(), fmt.Appendf(nil,
			`{"method":"store","params":{"pubkey":"05%064x","data":"AAAA","ttl":60000,"timestamp":%d}}`, 1, time.Now().UnixMilli()))
		if resp.Status != 200 {
			t.Fatalf("store: %v", resp)
		}
		if s, _ := n.Status(t.Context(), nil); s.Messages != 1 || s.Requests != 1 {
			t.Errorf("status %v", s)
		}
		time.Sleep(2 * time.Minute)
		if s, _ := n.Status(t.Context(), nil); s.Messages != 0 {
			t.Errorf("status %v", s)
		}
	})
}

func TestDamagedListIsNoReasonToStayDown(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nodes.json"), []byte("{nope"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := New(Config{Keys: own, Dir: dir, Public: public, Seed: &registry{}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if n.List() != nil {
		t.Errorf("list %v", n.List())
	}
}

func TestNodeThatCannotOpen(t *testing.T) {
	dir := t.TempDir()
	first, err := New(Config{Keys: own, Dir: dir, Listen: []string{"127.0.0.1:0"}, Public: public, Seed: &registry{}})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	taken := first.listeners[0].Addr().String()
	if _, err := New(Config{Keys: own, Dir: t.TempDir(), Listen: []string{taken}, Public: public, Seed: &registry{}}); err == nil {
		t.Error("two nodes on one port")
	}
	if _, err := New(Config{Keys: own, Dir: dir, Public: public, Seed: &registry{}}); err == nil {
		t.Error("two nodes in one folder")
	}
}

func TestNodeServesUntilItIsStopped(t *testing.T) {
	n, err := New(Config{Keys: own, Dir: t.TempDir(), Listen: []string{"127.0.0.1:0"}, Public: public, Seed: &registry{err: errors.New("gone")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	if key, err := relay.Ping(t.Context(), nil, netip.MustParseAddrPort(n.listeners[0].Addr().String())); err != nil || key != own.Ed25519() {
		t.Errorf("ping: %x, %v", key, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	if _, err := relay.Ping(t.Context(), nil, netip.MustParseAddrPort(n.listeners[0].Addr().String())); err == nil {
		t.Error("it still answers")
	}
}

var _ api.NodeServer = (*Node)(nil)
