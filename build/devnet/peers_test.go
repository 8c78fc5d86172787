package devnet

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"hearth/node/api"
	"hearth/node/keys"
	"hearth/node/relay"
)

func TestNodesTestEachOther(t *testing.T) {
	var ahead atomic.Int64
	n := startNetwork(t, Config{Nodes: 3, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	c := newClient(t, n)
	direct := func(k int) (*api.NodeStatus, *api.PeersReply) {
		s, err := n.Node(k).Status(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := n.Node(k).Peers(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return s, p
	}
	ask := func() { // takes its time
		resp, err := c.http.Post("https://"+n.Address(1).String()+"/storage_rpc/v1", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	for range 5 {
		p := newPerson(t)
		_, members := c.list.Of(p.id)
		resp, err := c.http.Post("https://"+members[0].Address.String()+"/storage_rpc/v1", "", jsonBody(t, "store", storeFor(p, "to be tested for")))
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("store: %v, %v", resp, err)
		}
		resp.Body.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	// Time passes, and every node looks what there is to do by now.
	pass := func(nodes ...int) {
		ahead.Add(int64(110 * time.Second))
		for _, k := range nodes {
			n.Node(k).Tests().ListChanged()
		}
		ask()
		if ctx.Err() != nil {
			t.Fatal("in vain")
		}
	}
	pass(1, 2, 3)
	ahead.Add(int64(10 * time.Minute)) // messages that everybody has to have by then
	for {
		pass(1, 2, 3)
		reached, stored := 0, 0
		for k := 1; k <= 3; k++ {
			reached += n.Node(k).Tests().Health().Reachable
			o := n.Node(k).Tests().Outcomes()
			stored += o.OK
			// With a clock that runs like this some questions come too late.
			if o.Mismatch+o.Other > 0 {
				t.Fatalf("storage tests of node %d: %+v", k, o)
			}
		}
		if reached == 6 && stored >= 3 {
			break
		}
	}
	if s, p := direct(1); s.Reachable != 2 || s.Failing != 0 || s.Heard == 0 || len(p.Peers) != 2 || p.Peers[0].Since == 0 || p.Peers[0].Failures != 0 {
		t.Errorf("node 1 says %v, %v", s, p)
	}

	// The tests as they go over the wire, and a node in another's place.
	one, _ := n.List().Find(n.key(1))
	if err := relay.PingNode(ctx, nil, one); err != nil {
		t.Errorf("ping: %v", err)
	}
	impostor := one
	impostor.Ed25519 = keys.FromSeed([32]byte{9}).Ed25519()
	if err := relay.PingNode(ctx, nil, impostor); err == nil {
		t.Error("a node passes for another")
	}

	two := n.key(2)
	if err := n.StopNode(2); err != nil {
		t.Fatal(err)
	}
	for {
		pass(1, 3)
		r1, _ := n.Node(1).Tests().Of(two)
		r3, _ := n.Node(3).Tests().Of(two)
		if r1.Failures >= 2 && r3.Failures >= 2 {
			break
		}
	}
	if _, p := direct(1); p.Peers[0].Failures+p.Peers[1].Failures == 0 || p.Peers[0].Trouble+p.Peers[1].Trouble != "https, link" {
		t.Errorf("with one away, node 1 says %v", p)
	}
	r, _ := n.Node(1).Tests().Of(two)
	if !r.Unreachable(time.Now().Add(time.Duration(ahead.Load())), 0) {
		t.Errorf("node 2 is %+v", r)
	}
	if err := n.StartNode(2); err != nil {
		t.Fatal(err)
	}
	for {
		pass(1, 2, 3)
		if r, _ := n.Node(3).Tests().Of(two); r.Reachable() {
			break
		}
	}
}

// key is the key of node k.
func (n *Network) key(k int) [32]byte {
	for _, node := range n.List().Nodes {
		if node.Address == n.Address(k) {
			return node.Ed25519
		}
	}
	return [32]byte{}
}

func jsonBody(t *testing.T, method string, params map[string]any) io.Reader {
	t.Helper()
	b, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}
