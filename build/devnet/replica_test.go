package devnet

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/node/rpc"
	"hearth/node/swarm"
)

// await asks again and again until what is wanted is the case.
func await(t *testing.T, what string, within time.Duration, is func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for !is() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// without takes nodes out of what the client knows.
func (c *client) without(gone ...swarm.Node) {
	c.list = &swarm.List{Nodes: slices.DeleteFunc(slices.Clone(c.list.Nodes), func(n swarm.Node) bool {
		return slices.ContainsFunc(gone, func(g swarm.Node) bool { return g.Ed25519 == n.Ed25519 })
	})}
}

func (c *client) mustStore(at swarm.Node, p person, data string) (hash string) {
	c.t.Helper()
	if status, answer := c.ask(at, "store", storeFor(p, data)); status != 200 {
		c.t.Fatalf("store: %d %v", status, answer)
	}
	return rpc.MessageHash(p.id, 0, []byte(data))
}

func (c *client) mustDelete(at swarm.Node, p person, hashes ...string) {
	c.t.Helper()
	status, answer := c.ask(at, "delete", map[string]any{
		"pubkey": p.id.String(), "pubkey_ed25519": fmt.Sprintf("%x", p.keys.Ed25519()), "messages": hashes,
		"signature": base64.StdEncoding.EncodeToString(p.keys.Sign(rpc.DeleteText(hashes))),
	})
	if status != 200 {
		c.t.Fatalf("delete: %d %v", status, answer)
	}
}

// sorted is what a node holds for the person, in an order that does not depend
// on the node.
func (c *client) sorted(from swarm.Node, p person) string {
	texts := c.inbox(from, p)
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// serves reports whether a node is there and ready.
func (n *Network) serves(k int) bool {
	node := n.Node(k)
	return node != nil && len(node.NotReady()) == 0
}

func TestMemberThatWasAwayCatchesUp(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, c := range []struct {
		name  string
		after func(t *testing.T, dir string) // what happens to its folder meanwhile
	}{
		{"with what it had before", func(*testing.T, string) {}},
		{"without its database, like a new member", func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "messages.db")); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			n := startNetwork(t, Config{Dir: dir})
			cl := newClient(t, n)
			bob := newPerson(t)
			_, members := cl.list.Of(bob.id)
			away := members[2]
			k := n.Number(away.Ed25519)
			deleted := cl.mustStore(members[0], bob, "deleted-meanwhile")
			cl.mustStore(members[1], bob, "from-before")

			if err := n.StopNode(k); err != nil {
				t.Fatal(err)
			}
			c.after(t, filepath.Join(dir, fmt.Sprintf("node-%03d", k)))
			all := cl.list
			cl.without(away)
			want := []string{"from-before"}
			for i := range 20 {
				text := fmt.Sprint("from-meanwhile-", i)
				cl.mustStore(members[i%2], bob, text)
				want = append(want, text)
			}
			cl.mustDelete(members[0], bob, deleted)
			if err := n.StartNode(k); err != nil {
				t.Fatal(err)
			}
			cl.list = all
			await(t, "the node serves again", 20*time.Second, func() bool { return n.serves(k) })
			slices.Sort(want)
			await(t, "the member holds what the others do", 20*time.Second, func() bool {
				return cl.sorted(away, bob) == strings.Join(want, " ")
			})
			for _, m := range members {
				if got := cl.sorted(m, bob); got != strings.Join(want, " ") {
					t.Errorf("node %v holds %s", m.Address, got)
				}
			}
		})
	}
}

func TestStoppedMemberLeavesNothingBehind(t *testing.T) {
	n := startNetwork(t, Config{})
	c := newClient(t, n)
	bob := newPerson(t)
	_, members := c.list.Of(bob.id)
	first, second := members[0], members[1]
	all := c.list

	// The second is away when the message comes to the first; the third too.
	for _, m := range members[1:] {
		if err := n.StopNode(n.Number(m.Ed25519)); err != nil {
			t.Fatal(err)
		}
	}
	c.without(members[1:]...)
	c.mustStore(first, bob, "only-here")
	k := n.Number(second.Ed25519)
	if err := n.StartNode(k); err != nil {
		t.Fatal(err)
	}
	await(t, "the second serves", 20*time.Second, func() bool { return n.serves(k) })
	// Whether or not it has caught up by then, it has when the first is gone.
	if err := n.StopNode(n.Number(first.Ed25519)); err != nil {
		t.Fatal(err)
	}
	c.list = all
	c.without(first, members[2])
	if got := c.sorted(second, bob); got != "only-here" {
		t.Errorf("the second holds %q", got)
	}
}

func TestDissolvedSwarmHandsItsMessagesOver(t *testing.T) {
	n := startNetwork(t, Config{Every: 100 * time.Millisecond, Away: 500 * time.Millisecond})
	c := newClient(t, n)
	lost := c.list.Swarms()[1]
	var people []person
	for len(people) < 10 {
		p := newPerson(t)
		if id, members := c.list.Of(p.id); id == lost {
			people = append(people, p)
			c.mustStore(members[len(people)%3], p, fmt.Sprint("message-", len(people)))
		}
	}
	gone := c.list.Members(lost)[0]
	if err := n.StopNode(n.Number(gone.Ed25519)); err != nil {
		t.Fatal(err)
	}
	await(t, "the swarm is dissolved", 20*time.Second, func() bool { return !slices.Contains(n.List().Swarms(), lost) })
	if err := n.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.list = n.List()
	c.without(gone)
	for i, p := range people {
		id, members := c.list.Of(p.id)
		for _, m := range members {
			if m.Ed25519 == gone.Ed25519 {
				continue
			}
			await(t, fmt.Sprintf("node %v of swarm %v holds message %d", m.Address, id, i+1), 30*time.Second, func() bool {
				return c.sorted(m, p) == fmt.Sprint("message-", i+1)
			})
		}
	}
}

// direct sends a storage request to a node without an onion.
func (c *client) direct(to swarm.Node, method string, params map[string]any) (status int, answer map[string]any, err error) {
	body, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.http.Post("https://"+to.Address.String()+"/storage_rpc/v1", "", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	_ = json.Unmarshal(text, &answer) // errors are plain text
	return resp.StatusCode, answer, nil
}

// TestMembersComeAndGoUnderLoad restarts the members of a swarm one after the
// other while clients store. What any member has said that it stored must be at
// all of them in the end.
func TestMembersComeAndGoUnderLoad(t *testing.T) {
	t.Parallel() // it mostly waits
	n := startNetwork(t, Config{})
	c := newClient(t, n)
	bob := newPerson(t)
	_, members := c.list.Of(bob.id)
	stop := make(chan struct{})
	var acknowledged []string
	var mu sync.Mutex
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				text := fmt.Sprintf("message-%d-%04d", w, i)
				status, answer, err := c.direct(members[(w+i)%3], "store", storeFor(bob, text))
				if err != nil || status != 200 {
					continue // that one is away
				}
				for _, e := range answer["swarm"].(map[string]any) {
					if element, _ := e.(map[string]any); element["signature"] != nil {
						mu.Lock()
						acknowledged = append(acknowledged, text)
						mu.Unlock()
						break
					}
				}
			}
		})
	}
	for round := range 6 {
		k := n.Number(members[round%3].Ed25519)
		if err := n.StopNode(k); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		before := len(acknowledged)
		mu.Unlock()
		await(t, "clients go on without it", 20*time.Second, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acknowledged) > before+10
		})
		if err := n.StartNode(k); err != nil {
			t.Fatal(err)
		}
		await(t, "it serves again", 20*time.Second, func() bool { return n.serves(k) })
	}
	close(stop)
	writers.Wait()
	slices.Sort(acknowledged)
	acknowledged = slices.Compact(acknowledged)
	var held [3][]string
	await(t, "all members hold the same", 60*time.Second, func() bool {
		for i, m := range members {
			status, answer, err := c.direct(m, "retrieve", withMore(retrieveOf(bob)))
			if err != nil || status != 200 {
				t.Fatal(status, answer, err)
			}
			held[i] = nil
			for _, m := range answer["messages"].([]any) {
				data, err := base64.StdEncoding.DecodeString(m.(map[string]any)["data"].(string))
				if err != nil {
					t.Fatal(err)
				}
				held[i] = append(held[i], string(data))
			}
			slices.Sort(held[i])
		}
		return slices.Equal(held[0], held[1]) && slices.Equal(held[1], held[2])
	})
	lost := 0
	for _, text := range acknowledged {
		if _, here := slices.BinarySearch(held[0], text); !here {
			lost++
		}
	}
	if lost > 0 || len(acknowledged) < 60 {
		t.Errorf("%d of %d acknowledged messages are lost; each member holds %d", lost, len(acknowledged), len(held[0]))
	}
}

func withMore(params map[string]any) map[string]any {
	params["max_size"] = -1
	return params
}
