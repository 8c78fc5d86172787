package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/node/keys"
	"hearth/node/ledger"
	"hearth/node/ledger/engine"
	"hearth/node/peertest"
	"hearth/node/swarm"
)

func pair(n byte) *keys.Pair { return keys.FromSeed([32]byte{'h', n}) }

// genesis is a ledger with nodes 1 to n on loopback. Node k's peers find it at the
// k-th port.
func genesis(n int, ports []uint16, change func(*ledger.Params)) *ledger.Genesis {
	g := &ledger.Genesis{Chain: "host-test", Time: time.Now().Unix() - 5, Params: ledger.DefaultParams(), Pool: 1_000_000 * ledger.Coin}
	p := &g.Params
	p.Private, p.Requirement, p.Epoch, p.EndpointPause, p.PayableAfter = 1, 1000*ledger.Coin, 2, 0, 0
	p.SwarmMin, p.SwarmMargin, p.SwarmNew = 3, 0, 3
	if change != nil {
		change(p)
	}
	for k := 1; k <= n; k++ {
		node := pair(byte(k))
		g.Accounts = append(g.Accounts, ledger.GenesisAccount{Address: ledger.HexKey(engine.WalletKey(node).Ed25519()), Balance: 5000 * ledger.Coin})
		g.Nodes = append(g.Nodes, ledger.GenesisNode{
			Node: ledger.HexKey(node.Ed25519()), Consensus: ledger.HexKey(engine.ConsensusKey(node).Ed25519()), Beacon: ledger.HexKey(engine.BeaconKey(node).Public()),
			Operator: ledger.HexKey(engine.WalletKey(node).Ed25519()),
			Endpoint: ledger.GenesisEndpoint{IP: address(k).Addr(), HTTPS: address(k).Port(), QUIC: address(k).Port(), Ledger: ports[k], Version: swarm.Version},
		})
	}
	return g
}

func address(k int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(k), 1}), 22021)
}

// hosts starts the nodes of a ledger, and one more that has no stake.
func hosts(t *testing.T, n int, change func(*ledger.Params)) (*ledger.Genesis, []*Host) {
	t.Helper()
	dir, err := os.MkdirTemp("", "host")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The engine writes its peers' addresses once more after it has stopped.
		for range 500 {
			if err = os.RemoveAll(dir); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Error(err)
	})
	ports := make([]uint16, n+2)
	for k := 1; k <= n+1; k++ {
		l, err := net.Listen("tcp", net.JoinHostPort(address(k).Addr().String(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		ports[k] = uint16(l.Addr().(*net.TCPAddr).Port)
		l.Close()
	}
	g := genesis(n, ports, change)
	all := make([]*Host, n+2)
	for k := 1; k <= n+1; k++ {
		h, err := Open(t.Context(), Config{
			Genesis: g, Keys: pair(byte(k)), Dir: filepath.Join(dir, fmt.Sprint(k)), Public: address(k),
			Listen: netip.AddrPortFrom(address(k).Addr(), ports[k]).String(), Pace: 100 * time.Millisecond,
		})
		if err != nil {
			t.Fatalf("node %d: %v", k, err)
		}
		t.Cleanup(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
		all[k] = h
	}
	return g, all
}

// wait looks until the condition holds: the other side is a real network.
func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("waited for %s", what)
		case <-tick.C:
		}
	}
}

func TestAHostIsANodesList(t *testing.T) {
	_, all := hosts(t, 4, nil)
	for k := 1; k <= 5; k++ {
		wait(t, "the first blocks", func() bool { return all[k].Status().Height >= 2 })
	}
	t.Run("everybody has the same list, also who has no stake", func(t *testing.T) {
		first, err := all[1].Poll(t.Context(), nil)
		if err != nil || len(first.Nodes) != 4 {
			t.Fatalf("%+v, %v", first, err)
		}
		for k := 1; k <= 5; k++ {
			list, err := all[k].Poll(t.Context(), nil)
			if err != nil || list.Hash != first.Hash || !slices.Equal(list.Nodes, first.Nodes) {
				t.Errorf("node %d has another list: %v", k, err)
			}
			again, _ := all[k].Poll(t.Context(), list)
			if again != list {
				t.Errorf("node %d made a new list of the same nodes", k)
			}
		}
		for _, n := range first.Nodes {
			if n.Swarm == swarm.None {
				t.Errorf("%x is in no swarm", n.Ed25519[:4])
			}
		}
	})
	t.Run("each says where it stands", func(t *testing.T) {
		if s := all[1].Status(); s.Standing != "active" || s.Explanation != "in service" || !s.Committee || s.Stake != 1000*ledger.Coin || s.Active != 4 || s.Credit == 0 || s.Halted || s.Trouble != "" {
			t.Errorf("%v", s)
		}
		if s := all[5].Status(); s.Standing != "none" || !strings.Contains(s.Explanation, "nobody has staked") || s.Committee {
			t.Errorf("%v", s)
		}
	})
	t.Run("a node that moved writes its address into the ledger", func(t *testing.T) {
		elsewhere := netip.MustParseAddrPort("127.0.77.1:4711")
		if err := all[2].Announce(t.Context(), pair(2), elsewhere); err != nil {
			t.Fatal(err)
		}
		wait(t, "the new address", func() bool {
			list, err := all[4].Poll(t.Context(), nil)
			if err != nil {
				return false
			}
			n, _ := list.Find(pair(2).Ed25519())
			return n.Address == elsewhere
		})
		if err := all[2].Announce(t.Context(), pair(2), elsewhere); err != nil {
			t.Errorf("an address that stands there already: %v", err)
		}
	})
	t.Run("a node without a stake is told so", func(t *testing.T) {
		if err := all[5].Announce(t.Context(), pair(5), address(5)); !errors.Is(err, ErrNotStaked) {
			t.Errorf("got %v", err)
		}
	})
}

func TestPeersOfANodeMakeOneNetwork(t *testing.T) {
	ports := make([]uint16, 40)
	for i := range ports {
		ports[i] = uint16(20000 + i)
	}
	g := genesis(30, ports, nil)
	next := make(map[string][]string)
	name := make(map[string]string) // by the engine's form
	for _, n := range g.Nodes {
		at := netip.AddrPortFrom(n.Endpoint.IP, n.Endpoint.Ledger).String()
		name[engine.Peer(ledger.Key(n.Node), at)] = at
	}
	for k := 1; k <= 30; k++ {
		cfg := Config{Genesis: g, Keys: pair(byte(k))}
		peers, err := cfg.peers()
		if err != nil || len(peers) != peersOfGenesis {
			t.Fatalf("node %d: %v, %v", k, peers, err)
		}
		own := netip.AddrPortFrom(address(k).Addr(), ports[k]).String()
		for _, p := range peers {
			if name[p] == own || name[p] == "" {
				t.Errorf("node %d has %q for a peer", k, p)
			}
			next[own] = append(next[own], name[p])
		}
	}
	reached := map[string]bool{}
	var visit func(string)
	visit = func(at string) {
		if !reached[at] {
			reached[at] = true
			for _, p := range next[at] {
				visit(p)
			}
		}
	}
	visit(netip.AddrPortFrom(address(7).Addr(), ports[7]).String())
	if len(reached) != 30 {
		t.Errorf("from node 7 one reaches %d of 30", len(reached))
	}
}

func TestPeersOfAPersonAreReadWithCare(t *testing.T) {
	key := fmt.Sprintf("%x", pair(1).Ed25519())
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"a key and an address", key + "@203.0.113.7:22022", true},
		{"a name", key + "@node.example.org:22022", true},
		{"no port", key + "@203.0.113.7", false},
		{"no key", "203.0.113.7:22022", false},
		{"half a key", key[:32] + "@203.0.113.7:22022", false},
		{"no address", key + "@", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{Genesis: genesis(1, make([]uint16, 2), nil), Keys: pair(9), Peers: []string{c.text}}
			if peers, err := cfg.peers(); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrPeer) || err == nil && len(peers) != 1 {
				t.Errorf("%v, %v", peers, err)
			}
		})
	}
}

func TestAnAddressThatCannotBeListenedOnIsRefused(t *testing.T) {
	g := genesis(4, make([]uint16, 5), nil)
	for _, listen := range []string{"", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:port", "127.0.0.1:70000"} {
		if h, err := Open(context.Background(), Config{Genesis: g, Keys: pair(1), Dir: t.TempDir(), Listen: listen, Public: address(1)}); err == nil {
			t.Errorf("%q was taken", listen)
			h.Close()
		}
	}
}

func TestAHaltIsSeenByTheClock(t *testing.T) {
	began := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		name    string
		pace    time.Duration
		running time.Duration // of this process
		seen    time.Duration // since the last block; 0 for none
		halted  bool
	}{
		{"a block a moment ago", 0, time.Hour, time.Second, false},
		{"an idle ledger between two empty blocks", 0, time.Hour, 2 * time.Minute, false},
		{"no block for seven minutes", 0, time.Hour, 7 * time.Minute, true},
		{"a process that has just begun", 0, time.Second, 0, false},
		{"no block since the process began", 0, 10 * time.Minute, 0, true},
		{"a quick ledger", 100 * time.Millisecond, time.Hour, 3 * time.Second, false},
		{"a quick ledger that stands still", 100 * time.Millisecond, time.Hour, 10 * time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := began.Add(c.running)
			h := &Host{cfg: Config{Now: func() time.Time { return now }}, timing: timing(c.pace), began: began}
			var s engine.Status
			if c.seen > 0 {
				s.Seen = now.Add(-c.seen)
			}
			if got := h.halted(s); got != c.halted {
				t.Errorf("halted: %v", got)
			}
		})
	}
}

func TestTimesForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0 seconds", time.Second: "1 seconds", 90 * time.Second: "90 seconds", 2 * time.Minute: "2 minutes", 15 * 24 * time.Hour: "15 days", 47 * time.Hour: "47 hours"} {
		if got := Span(d); got != want {
			t.Errorf("%v is written %q", d, got)
		}
	}
}

func TestVerdicts(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := ledger.DefaultParams()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	gone := peertest.Reach{Since: ago(2 * time.Hour), Failed: ago(time.Minute), Failures: 60}
	back := peertest.Reach{Since: ago(time.Minute), Passed: ago(time.Second)}
	for _, c := range []struct {
		name   string
		status ledger.Status
		since  time.Duration // in that status
		credit time.Duration
		reach  peertest.Reach
		want   ledger.Verdict
		none   bool
	}{
		{name: "an active node that answers", status: ledger.Active, since: time.Hour, credit: 3 * time.Hour, reach: back, none: true},
		{name: "an active node that does not, with credit", status: ledger.Active, since: time.Hour, credit: 3 * time.Hour, reach: gone, want: ledger.Decommission},
		{name: "an active node that does not, without credit", status: ledger.Active, since: time.Minute, reach: gone, want: ledger.Deregister},
		{name: "an active node that failed for an hour", status: ledger.Active, since: time.Hour, credit: 3 * time.Hour,
			reach: peertest.Reach{Since: ago(time.Hour), Failed: ago(time.Minute), Failures: 30}, none: true},
		{name: "an active node that nobody could test lately", status: ledger.Active, since: time.Hour, credit: 3 * time.Hour,
			reach: peertest.Reach{Since: ago(3 * time.Hour), Failed: ago(time.Hour), Failures: 30}, none: true},
		{name: "a decommissioned node that is still away", status: ledger.Decommissioned, since: time.Hour, credit: 3 * time.Hour, reach: gone, none: true},
		{name: "a decommissioned node whose credit is used up", status: ledger.Decommissioned, since: 4 * time.Hour, credit: 3 * time.Hour, reach: gone, want: ledger.Deregister},
		{name: "a decommissioned node that answers again", status: ledger.Decommissioned, since: time.Hour, credit: 3 * time.Hour, reach: back, want: ledger.Recommission},
		{name: "a decommissioned node that answered before it was", status: ledger.Decommissioned, credit: 3 * time.Hour, reach: back, none: true},
		{name: "a node that waits", status: ledger.Waiting, reach: gone, none: true},
		{name: "a node that leaves", status: ledger.Leaving, reach: gone, none: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &ledger.Node{Status: c.status, Since: ago(c.since).Unix(), Credit: uint64(c.credit / time.Second)}
			got, ok := judge(n, c.reach, &p, now, peertest.UnreachableAfter)
			if ok == c.none || ok && got != c.want {
				t.Errorf("got %v, %v", got, ok)
			}
		})
	}
}
