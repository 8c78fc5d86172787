package mailbox

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path/pathtest"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// leave puts a message into an inbox, at every member.
func leave(t testing.TB, n *swarmtest.Network, to account.ID, data string) {
	t.Helper()
	body := fmt.Appendf(nil, `{"method":"store","params":{"pubkey":"%s","namespace":0,"timestamp":%d,"ttl":86400000,"data":"%s"}}`,
		to, time.Now().UnixMilli(), base64.StdEncoding.EncodeToString([]byte(data)))
	if status, reply := n.Honest(t.Context(), n.Swarm(to)[0], body); status != 200 {
		t.Fatalf("storing: %d %v", status, reply)
	}
}

// leaveConfig puts something into a namespace that only the owner writes.
func leaveConfig(t testing.TB, n *swarmtest.Network, a *account.Account, namespace int16, data string) {
	t.Helper()
	now := time.Now().UnixMilli()
	body := fmt.Appendf(nil, `{"method":"store","params":{"pubkey":"%s","pubkey_ed25519":"%x","namespace":%d,"timestamp":%d,"ttl":86400000,"data":"%s","signature":"%s"}}`,
		a.ID(), a.Keys().Ed25519(), namespace, now, base64.StdEncoding.EncodeToString([]byte(data)),
		base64.StdEncoding.EncodeToString(a.Keys().Sign(rpc.StoreText(namespace, now))))
	if status, reply := n.Honest(t.Context(), n.Swarm(a.ID())[0], body); status != 200 {
		t.Fatalf("storing: %d %v", status, reply)
	}
}

func TestEveryMemberDeletesEverything(t *testing.T) {
	for name, prepare := range map[string]func(n *swarmtest.Network, d *device, own *account.Account){
		"at once":                 func(*swarmtest.Network, *device, *account.Account) {},
		"after the clock was set": func(_ *swarmtest.Network, d *device, _ *account.Account) { d.off.Store(int64(-time.Hour)) },
		"after the swarm moved": func(n *swarmtest.Network, d *device, own *account.Account) {
			if _, _, err := d.Swarm(t.Context(), own.ID()); err != nil {
				t.Fatal(err)
			}
			// All nodes change places, and the messages with them.
			l := &swarm.List{Height: 2, Nodes: slices.Clone(n.List().Nodes)}
			for i := range l.Nodes {
				l.Nodes[i].Swarm = n.List().Nodes[(i+3)%len(l.Nodes)].Swarm
			}
			n.SetList(l)
			leave(t, n, own.ID(), "in the new place")
		},
		"over one that refuses": func(n *swarmtest.Network, _ *device, own *account.Account) {
			refused := false
			first := n.Swarm(own.ID())[0]
			n.Answer(first.Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
				if strings.Contains(string(body), "delete_all") && !refused {
					refused = true
					return 503, "Service node is not ready"
				}
				return n.Honest(ctx, node, body)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			d, own, other := newDevice(t, n), person(1), person(2)
			for i := range 3 {
				leave(t, n, own.ID(), fmt.Sprint(i))
				leaveConfig(t, n, own, int16(2+i), fmt.Sprint(i))
			}
			prepare(n, d, own)
			leave(t, n, other.ID(), "not mine")
			got, err := d.DeleteAll(t.Context(), own)
			if err != nil || got.Members != 3 || got.Swarm != 3 || got.Messages == 0 {
				t.Fatalf("%+v, %v", got, err)
			}
			if left := d.fetch(t, own); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			if left := d.fetch(t, other); left["not mine"] != 3 {
				t.Errorf("somebody else's: %v", left)
			}
			if again, err := d.DeleteAll(t.Context(), own); err != nil || again.Members != 3 || again.Messages != 0 {
				t.Errorf("once more: %+v, %v", again, err)
			}
		})
	}
}

func TestOnlySignedDeletionsCount(t *testing.T) {
	own := person(1)
	for name, c := range map[string]struct {
		change  func(members map[string]any, key string)
		members int
	}{
		"a signature over another time": {func(m map[string]any, key string) {
			m[key].(map[string]any)["signature"] = base64.StdEncoding.EncodeToString(make([]byte, 64))
		}, 2},
		"a member that failed": {func(m map[string]any, key string) { m[key] = map[string]any{"failed": true, "timeout": true} }, 2},
		"hashes that were not": {func(m map[string]any, key string) {
			m[key].(map[string]any)["deleted"] = map[string]any{"0": []any{"x"}}
		}, 2},
		"a member that is none": {func(m map[string]any, key string) { m[strings.Repeat("ab", 32)] = m[key]; delete(m, key) }, 2},
		"no list at all":        {func(m map[string]any, key string) { delete(m[key].(map[string]any), "deleted") }, 2},
		"nonsense":              {func(m map[string]any, key string) { m[key] = "done" }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			d := newDevice(t, n)
			leave(t, n, own.ID(), "hello")
			victim := n.Swarm(own.ID())[0]
			key := fmt.Sprintf("%x", victim.Ed25519)
			// Whoever is asked lies about the same member, so that it is never
			// confirmed.
			for _, node := range n.Swarm(own.ID()) {
				n.Answer(node.Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
					status, reply := n.Honest(ctx, node, body)
					if status != 200 || !strings.Contains(string(body), "delete_all") {
						return status, reply
					}
					b, _ := json.Marshal(reply)
					var m map[string]any
					json.Unmarshal(b, &m)
					c.change(m["swarm"].(map[string]any), key)
					return status, m
				})
			}
			got, err := d.DeleteAll(t.Context(), own)
			if !errors.Is(err, ErrReply) || got.Members != c.members || got.Swarm != 3 {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestNobodyToDeleteAt(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d := newDevice(t, n)
	for _, node := range n.Nodes {
		n.Kill(node.Ed25519)
	}
	if got, err := d.DeleteAll(t.Context(), person(1)); err == nil || got.Members != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.DeleteAll(ctx, person(1)); err == nil {
		t.Error("no error for a caller who has left")
	}
}

func FuzzParseDeleteAll(f *testing.F) {
	key := strings.Repeat("ab", 32)
	f.Add([]byte(`{"swarm":{"` + key + `":{"deleted":{"0":["b","a"],"-10":[]},"signature":"AA=="}},"t":1}`))
	f.Add([]byte(`{"swarm":{"` + key + `":{"deleted":["a"],"signature":"AA","failed":1}}}`))
	f.Add([]byte(`{"swarm":{"` + key + `":{"deleted":7},"x":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		members, err := ParseDeleteAll(b)
		if err != nil && !errors.Is(err, ErrReply) {
			t.Fatal(err)
		}
		if len(members) > maxMembers {
			t.Fatalf("%d members", len(members))
		}
		for _, m := range members {
			if !slices.IsSorted(m.Deleted) {
				t.Fatalf("not in order: %q", m.Deleted)
			}
		}
	})
}
