// Package swarmtest is a network of storage nodes in memory, for tests of what
// stores and fetches messages: the nodes of package pathtest with the real
// storage RPC and the real message database behind them, in swarms of three.
package swarmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/internal/bubble"
	"hearth/node/messenger/path/pathtest"
	"hearth/node/push"
	"hearth/node/rpc"
	"hearth/node/seed"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// Network is a set of storage nodes. Its methods may be used by several
// goroutines.
type Network struct {
	*pathtest.Network

	mu       sync.Mutex
	list     *swarm.List
	services map[[32]byte]*rpc.Service
	drift    map[[32]byte]time.Duration
	answer   map[[32]byte]pathtest.Handler
	pushes   bool
	now      func() time.Time
}

// New starts count nodes, a multiple of three, which end with the test. now is
// the time of the network.
func New(t testing.TB, count int, now func() time.Time) *Network {
	t.Helper()
	bubble.Clean(t)
	n := &Network{
		services: make(map[[32]byte]*rpc.Service),
		drift:    make(map[[32]byte]time.Duration),
		answer:   make(map[[32]byte]pathtest.Handler),
		now:      now,
	}
	n.Network = pathtest.New(t, count, n.handle)
	n.list = n.Network.List()
	for i := range n.list.Nodes {
		n.list.Nodes[i].Swarm = swarm.ID(uint64(i/3) * (math.MaxUint64 / uint64(count/3)))
	}
	dir := t.TempDir()
	for i, node := range n.Nodes {
		clock := func() time.Time {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.now().Add(n.drift[node.Ed25519])
		}
		db, err := storage.Open(filepath.Join(dir, fmt.Sprintf("%d.db", i)), clock)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Stop(); db.Close() })
		hub := push.New(push.Limits{})
		db.Watch(hub.Stored)
		n.services[node.Ed25519] = rpc.NewService(rpc.Config{
			Keys: node.Keys, DB: db, List: n.List, Now: clock, Forward: n.forward, Push: hub,
			ServiceNodes: func(params json.RawMessage) (json.RawMessage, error) {
				return seed.ServiceNodes(n.List(), params)
			},
		})
	}
	return n
}

// List is the list that the nodes believe in.
func (n *Network) List() *swarm.List {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.list
}

// SetList changes what the nodes believe in.
func (n *Network) SetList(l *swarm.List) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = l
}

// ServiceNodes makes the network a source of node lists.
func (n *Network) ServiceNodes(ctx context.Context) (*swarm.List, error) {
	return n.List(), ctx.Err()
}

// Swarm returns the members of the account's swarm.
func (n *Network) Swarm(id account.ID) []pathtest.Node {
	_, members := n.List().Of(id)
	var nodes []pathtest.Node
	for _, m := range members {
		nodes = append(nodes, n.Find(m.Ed25519))
	}
	return nodes
}

// Drift makes a node's clock wrong.
func (n *Network) Drift(k [32]byte, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drift[k] = d
}

// Answer makes a node answer storage requests with f; nil ends that. f may call
// [Network.Honest].
func (n *Network) Answer(k [32]byte, f pathtest.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer[k] = f
}

// Push lets the nodes know the method "monitor", which they otherwise do not, like
// those of the public network.
func (n *Network) Push() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pushes = true
}

// Honest is what the node would answer by itself.
func (n *Network) Honest(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
	n.mu.Lock()
	pushes := n.pushes
	n.mu.Unlock()
	if pushes {
		ctx = rpc.WithOnion(ctx, func() bool { return true })
	}
	r := n.services[node.Ed25519].Handle(ctx, body)
	return r.Status, r.Body
}

func (n *Network) handle(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
	n.mu.Lock()
	f := n.answer[node.Ed25519]
	n.mu.Unlock()
	if f != nil {
		return f(ctx, node, body)
	}
	return n.Honest(ctx, node, body)
}

func (n *Network) forward(ctx context.Context, to swarm.Node, method string, body []byte) ([][]byte, error) {
	if n.Dead(to.Ed25519) {
		return nil, errors.New("no answer")
	}
	return n.services[to.Ed25519].HandleForwarded(ctx, method, body), nil
}
