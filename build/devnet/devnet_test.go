package devnet

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/keys"
	"hearth/node/onion"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

func startNetwork(t testing.TB, cfg Config) *Network {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Poll == 0 {
		cfg.Poll = 100 * time.Millisecond
	}
	n, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return n
}

// client sends onion requests the way a messenger does.
type client struct {
	t    testing.TB
	list *swarm.List
	http *http.Client
}

func newClient(t testing.TB, n *Network) *client {
	t.Helper()
	seed := n.Seed()
	defer seed.Close()
	list, err := seed.ServiceNodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t, list, &http.Client{Transport: transport}}
}

// path returns three nodes that are not among the given ones.
func (c *client) path(without ...swarm.Node) (guard swarm.Node, hops []onion.Hop) {
	c.t.Helper()
	for _, n := range c.list.Nodes {
		if slices.Contains(without, n) {
			continue
		}
		if len(hops) == 0 {
			guard = n
		}
		if hops = append(hops, onion.Hop{Ed25519: n.Ed25519, X25519: n.X25519}); len(hops) == 3 {
			return guard, hops
		}
	}
	c.t.Fatal("not enough nodes for a path")
	return
}

func (c *client) ask(dest swarm.Node, method string, params map[string]any) (status int, answer map[string]any) {
	c.t.Helper()
	body, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		c.t.Fatal(err)
	}
	guard, path := c.path(dest)
	req, err := onion.Build(rand.Reader, path, onion.Hop{Ed25519: dest.Ed25519, X25519: dest.X25519}, body)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := c.http.Post("https://"+guard.Address.String()+"/onion_req/v2", "", bytes.NewReader(req.Body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	sealed, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		c.t.Fatalf("the guard says %d %q, %v", resp.StatusCode, sealed, err)
	}
	status, reply, err := req.OpenReply(sealed)
	if err != nil {
		c.t.Fatalf("opening the answer: %v", err)
	}
	answer = map[string]any{"text": string(reply)}
	_ = json.Unmarshal(reply, &answer) // errors are plain text
	return status, answer
}

type person struct {
	keys *keys.Pair
	id   account.ID
}

func newPerson(t testing.TB) person {
	t.Helper()
	pair, err := keys.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := account.IDFromEd25519(pair.Ed25519())
	if err != nil {
		t.Fatal(err)
	}
	return person{pair, id}
}

func storeFor(p person, data string) map[string]any {
	return map[string]any{
		"pubkey": p.id.String(), "data": base64.StdEncoding.EncodeToString([]byte(data)),
		"ttl": 86_400_000, "timestamp": time.Now().UnixMilli(),
	}
}

func retrieveOf(p person) map[string]any {
	now := time.Now().UnixMilli()
	return map[string]any{
		"pubkey": p.id.String(), "pubkey_ed25519": fmt.Sprintf("%x", p.keys.Ed25519()), "timestamp": now,
		"signature": base64.StdEncoding.EncodeToString(p.keys.Sign(rpc.RetrieveText(0, now))),
	}
}

// inbox returns the messages that a node holds for the person.
func (c *client) inbox(from swarm.Node, p person) (texts []string) {
	c.t.Helper()
	status, answer := c.ask(from, "retrieve", retrieveOf(p))
	if status != 200 {
		c.t.Fatalf("retrieve: %d %v", status, answer)
	}
	for _, m := range answer["messages"].([]any) {
		data, err := base64.StdEncoding.DecodeString(m.(map[string]any)["data"].(string))
		if err != nil {
			c.t.Fatal(err)
		}
		texts = append(texts, string(data))
	}
	return texts
}

func TestNineNodesFormThreeSwarms(t *testing.T) {
	n := startNetwork(t, Config{})
	list := n.List()
	if len(list.Nodes) != 9 || len(list.Swarms()) != 3 {
		t.Fatalf("%d nodes in %d swarms", len(list.Nodes), len(list.Swarms()))
	}
	for _, id := range list.Swarms() {
		if m := list.Members(id); len(m) != 3 {
			t.Errorf("swarm %v has %d members", id, len(m))
		}
	}
	for _, node := range list.Nodes {
		k := n.Number(node.Ed25519)
		if k == 0 || n.Node(k).List().Hash != list.Hash {
			t.Errorf("node %d at %v has another list", k, node.Address)
		}
	}
}

func TestMessageTravels(t *testing.T) {
	n := startNetwork(t, Config{})
	c := newClient(t, n)
	bob := newPerson(t)
	_, members := c.list.Of(bob.id)

	status, answer := c.ask(members[0], "store", storeFor(bob, "hello"))
	if status != 200 {
		t.Fatalf("store: %d %v", status, answer)
	}
	t.Run("to every member of the swarm, each of which signs for it", func(t *testing.T) {
		hash := rpc.MessageHash(bob.id, 0, []byte("hello"))
		said := answer["swarm"].(map[string]any)
		if len(said) != 3 || answer["hash"] != hash {
			t.Errorf("answer %v", answer)
		}
		for _, m := range members {
			element, _ := said[fmt.Sprintf("%x", m.Ed25519)].(map[string]any)
			text, _ := element["signature"].(string)
			sig, err := base64.StdEncoding.DecodeString(text)
			if err != nil || !keys.Verify(m.Ed25519, rpc.StoreResultText(hash), sig) {
				t.Errorf("node %v says %v", m.Address, element)
			}
			if got := c.inbox(m, bob); !slices.Equal(got, []string{"hello"}) {
				t.Errorf("node %v holds %q", m.Address, got)
			}
		}
	})
	t.Run("but not to another swarm, which names the right one", func(t *testing.T) {
		for _, node := range c.list.Nodes {
			if slices.Contains(members, node) {
				continue
			}
			for method, params := range map[string]map[string]any{"store": storeFor(bob, "hello"), "retrieve": retrieveOf(bob)} {
				status, answer := c.ask(node, method, params)
				if status != 421 {
					t.Fatalf("%s at %v: %d %v", method, node.Address, status, answer)
				}
				var right, told []string
				for _, m := range members {
					right = append(right, fmt.Sprintf("%x", m.Ed25519))
				}
				for _, s := range answer["snodes"].([]any) {
					told = append(told, s.(map[string]any)["pubkey_ed25519"].(string))
				}
				slices.Sort(right)
				slices.Sort(told)
				if !slices.Equal(right, told) {
					t.Errorf("%s at %v names %v, want %v", method, node.Address, told, right)
				}
			}
		}
	})
	t.Run("and the node list can be asked for on the same way", func(t *testing.T) {
		status, answer := c.ask(members[0], "oxend_request", map[string]any{
			"endpoint": "get_service_nodes", "params": map[string]any{"active_only": true, "fields": map[string]bool{"public_ip": true}},
		})
		result, _ := answer["result"].(map[string]any)
		if states, _ := result["service_node_states"].([]any); status != 200 || len(states) != 9 {
			t.Errorf("got %d %v", status, answer)
		}
	})
	t.Run("from many people at a time", func(t *testing.T) {
		var all sync.WaitGroup
		for range 30 {
			p := newPerson(t)
			_, members := c.list.Of(p.id)
			all.Go(func() {
				if status, answer := c.ask(members[1], "store", storeFor(p, "one of many")); status != 200 {
					t.Errorf("store: %d %v", status, answer)
				}
				if got := c.inbox(members[2], p); !slices.Equal(got, []string{"one of many"}) {
					t.Errorf("holds %q", got)
				}
			})
		}
		all.Wait()
	})
}

func TestSwarmWithAMemberDown(t *testing.T) {
	n := startNetwork(t, Config{})
	c := newClient(t, n)
	bob := newPerson(t)
	_, members := c.list.Of(bob.id)
	if err := n.StopNode(n.Number(members[2].Ed25519)); err != nil {
		t.Fatal(err)
	}
	c.list = &swarm.List{Nodes: slices.DeleteFunc(slices.Clone(c.list.Nodes), func(m swarm.Node) bool { return m == members[2] })}
	status, answer := c.ask(members[0], "store", storeFor(bob, "hello"))
	if status != 200 {
		t.Fatalf("store: %d %v", status, answer)
	}
	said := answer["swarm"].(map[string]any)
	if gone, _ := said[fmt.Sprintf("%x", members[2].Ed25519)].(map[string]any); gone["failed"] != true || gone["timeout"] != true {
		t.Errorf("of the one that is down: %v", gone)
	}
	if got := c.inbox(members[1], bob); !slices.Equal(got, []string{"hello"}) {
		t.Errorf("the other holds %q", got)
	}
}

func TestNetworkGoesOnInItsFolder(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first, err := Start(ctx, Config{Dir: dir, Nodes: 4, Poll: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, first)
	bob := newPerson(t)
	_, members := c.list.Of(bob.id)
	// Four nodes are one swarm: the destination is also on the path.
	status, answer := c.ask(members[3], "store", storeFor(bob, "kept"))
	before, pin, url := first.List(), first.Pin(), first.SeedURL()
	if err := first.Close(); err != nil || status != 200 {
		t.Fatalf("store: %d %v; close: %v", status, answer, err)
	}

	second := startNetwork(t, Config{Dir: dir, Nodes: 4})
	if second.SeedURL() != url || second.Pin() != pin || second.List().Hash != before.Hash || !slices.Equal(second.List().Nodes, before.Nodes) {
		t.Errorf("seed %s, %d nodes at height %d; before %s, height %d", second.SeedURL(), len(second.List().Nodes), second.List().Height, url, before.Height)
	}
	c = newClient(t, second)
	for _, m := range members {
		if got := c.inbox(m, bob); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("node %v holds %q", m.Address, got)
		}
	}
}

func TestNodeLeavesAndReturns(t *testing.T) {
	n := startNetwork(t, Config{Nodes: 4, Every: 50 * time.Millisecond, Away: 200 * time.Millisecond})
	watcher := n.Node(1)
	key := n.List().Nodes[0].Ed25519
	if n.Number(key) == 1 {
		key = n.List().Nodes[1].Ed25519
	}
	k := n.Number(key)
	await := func(in bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			if m, ok := watcher.List().Find(key); ok && (m.Swarm != swarm.None) == in {
				return
			}
			select {
			case <-watcher.Changed():
			case <-ctx.Done():
				t.Fatalf("node %d: in a swarm is not %t", k, in)
			}
		}
	}
	if err := n.StopNode(k); err != nil {
		t.Fatal(err)
	}
	await(false)
	if n.Node(k) != nil {
		t.Error("a stopped node is there")
	}
	if err := n.StartNode(k); err != nil {
		t.Fatal(err)
	}
	await(true)
	if err := n.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStartThatCannotWork(t *testing.T) {
	n := startNetwork(t, Config{Nodes: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, cfg := range []Config{{Nodes: -1}, {Nodes: MaxNodes + 1}, {Nodes: 1, BasePort: n.base}} {
		cfg.Dir = t.TempDir()
		if _, err := Start(ctx, cfg); err == nil {
			t.Errorf("%d nodes at port %d: started", cfg.Nodes, cfg.BasePort)
		}
	}
	over, stop := context.WithCancel(t.Context())
	stop()
	if _, err := Start(over, Config{Nodes: 9, Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "is not ready") {
		t.Errorf("with a context that is over: %v", err)
	}
}

func BenchmarkOnionStore(b *testing.B) {
	n := startNetwork(b, Config{})
	c := newClient(b, n)
	bob := newPerson(b)
	_, members := c.list.Of(bob.id)
	message := strings.Repeat("x", 1024)
	i := 0
	for b.Loop() {
		i++
		if status, answer := c.ask(members[0], "store", storeFor(bob, fmt.Sprint(i, message))); status != 200 {
			b.Fatalf("%d %v", status, answer)
		}
	}
}

func BenchmarkOnionRetrieve(b *testing.B) {
	n := startNetwork(b, Config{})
	c := newClient(b, n)
	bob := newPerson(b)
	_, members := c.list.Of(bob.id)
	if status, answer := c.ask(members[0], "store", storeFor(bob, strings.Repeat("x", 1024))); status != 200 {
		b.Fatalf("%d %v", status, answer)
	}
	for b.Loop() {
		if got := c.inbox(members[1], bob); len(got) != 1 {
			b.Fatalf("%d messages", len(got))
		}
	}
}
