package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"hearth/node/internal/bubble"
	"hearth/node/keys"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// testNetwork is a set of service nodes in one process with one clock.
type testNetwork struct {
	now   time.Time
	list  swarm.List
	nodes map[[32]byte]*testNode
	names map[string]*testNode
}

type testNode struct {
	*Service
	db   *storage.DB
	keys *keys.Pair
	down bool

	received []string // methods that peers sent
	bodies   [][]byte
}

var errDown = errors.New("node is down")

func newNetwork() *testNetwork {
	return &testNetwork{
		now:   time.UnixMilli(1_800_000_000_000),
		nodes: make(map[[32]byte]*testNode), names: make(map[string]*testNode),
		list: swarm.List{Height: 1_700_000},
	}
}

func (n *testNetwork) add(t testing.TB, name string, seed [32]byte, id swarm.ID, port uint16) *testNode {
	t.Helper()
	bubble.Clean(t)
	pair := keys.FromSeed(seed)
	clock := func() time.Time { return n.now }
	db, err := storage.Open(filepath.Join(t.TempDir(), "messages"), clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	node := &testNode{db: db, keys: pair}
	node.Service = NewService(Config{
		Keys: pair, DB: db, Now: clock, HardFork: [2]int{19, 5},
		List: func() *swarm.List { return &n.list },
		Forward: func(ctx context.Context, to swarm.Node, method string, body []byte) ([][]byte, error) {
			peer := n.nodes[to.Ed25519]
			if peer == nil || peer.down {
				return nil, errDown
			}
			peer.received = append(peer.received, method)
			peer.bodies = append(peer.bodies, body)
			return peer.HandleForwarded(ctx, method, body), nil
		},
		Log: slog.New(slog.DiscardHandler),
	})
	n.nodes[pair.Ed25519()] = node
	n.names[name] = node
	n.list.Nodes = append(n.list.Nodes, swarm.Node{
		Ed25519: pair.Ed25519(), X25519: pair.X25519(), Swarm: id,
		Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port),
	})
	return node
}

// swarmOf makes a network of one swarm with that many members.
func swarmOf(t testing.TB, members int) (*testNetwork, []*testNode) {
	n := newNetwork()
	nodes := make([]*testNode, members)
	for i := range nodes {
		nodes[i] = n.add(t, string(rune('a'+i)), [32]byte{byte(i + 1)}, 7, uint16(22021+i))
	}
	return n, nodes
}

// call sends a request and returns status and body, the body as JSON reads it.
func (node *testNode) call(t testing.TB, method string, params map[string]any) (int, any) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		t.Fatal(err)
	}
	r := node.Handle(t.Context(), body)
	return r.Status, asJSON(t, r.Body)
}

func asJSON(t testing.TB, v any) any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// at walks into nested objects.
func at(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

type jsonText = json.RawMessage

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
