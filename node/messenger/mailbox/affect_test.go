package mailbox

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path/pathtest"
	"hearth/node/rpc"
)

// lying lets the nodes of a swarm change their answers to a method. It counts the
// answers.
func lying(n *swarmtest.Network, nodes []pathtest.Node, method string, change func(answer map[string]any)) *atomic.Int64 {
	var count atomic.Int64
	for _, node := range nodes {
		n.Answer(node.Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
			status, reply := n.Honest(ctx, node, body)
			if status != 200 || !strings.Contains(string(body), `"method":"`+method+`"`) {
				return status, reply
			}
			count.Add(1)
			b, _ := json.Marshal(reply)
			var m map[string]any
			json.Unmarshal(b, &m)
			change(m)
			return status, m
		})
	}
	return &count
}

// everyMember changes what is said about every member.
func everyMember(change func(m map[string]any)) func(answer map[string]any) {
	return func(answer map[string]any) {
		for _, m := range answer["swarm"].(map[string]any) {
			change(m.(map[string]any))
		}
	}
}

func TestDeletedAndShortenedIsWhatMembersSign(t *testing.T) {
	own := person(1)
	end := time.Now().Add(time.Hour).UnixMilli()
	for _, method := range []struct {
		name string
		list string // what it affected
		call func(d *device, hash string) error
	}{
		{"delete", "deleted", func(d *device, hash string) error { return d.Delete(t.Context(), own, []string{hash}) }},
		{"expire", "updated", func(d *device, hash string) error { return d.Shorten(t.Context(), own, []string{hash}, end) }},
	} {
		prepare := func(t *testing.T) (*swarmtest.Network, *device, string) {
			n := swarmtest.New(t, 9, time.Now)
			d := newDevice(t, n)
			leave(t, n, own.ID(), "hello")
			return n, d, rpc.MessageHash(own.ID(), 0, []byte("hello"))
		}
		other := strings.Repeat("x", 43)
		for name, c := range map[string]struct {
			change func(m map[string]any)
			liars  int // members that lie
			ok     bool
		}{
			"honest members":                 {func(map[string]any) {}, 3, true},
			"one that lies about all":        {func(m map[string]any) { m["signature"] = base64.StdEncoding.EncodeToString(make([]byte, 64)) }, 1, true},
			"signatures over something else": {func(m map[string]any) { m["signature"] = base64.StdEncoding.EncodeToString(make([]byte, 64)) }, 3, false},
			"signatures that are none":       {func(m map[string]any) { m["signature"] = "!" }, 3, false},
			"more than was signed":           {func(m map[string]any) { m[method.list] = []any{other} }, 3, false},
			"no list":                        {func(m map[string]any) { delete(m, method.list) }, 3, false},
			"all members failed":             {func(m map[string]any) { m["failed"] = true }, 3, false},
		} {
			t.Run(method.name+": "+name, func(t *testing.T) {
				n, d, hash := prepare(t)
				lying(n, n.Swarm(own.ID())[:c.liars], method.name, everyMember(c.change))
				err := method.call(d, hash)
				if c.ok && err != nil || !c.ok && !errors.Is(err, ErrReply) {
					t.Errorf("error %v", err)
				}
			})
		}
		t.Run(method.name+": what is not there any more is no error", func(t *testing.T) {
			_, d, _ := prepare(t)
			if err := method.call(d, other); err != nil {
				t.Error(err)
			}
		})
		t.Run(method.name+": a member that says nothing of use is asked no more often than others", func(t *testing.T) {
			n, d, hash := prepare(t)
			count := lying(n, n.Swarm(own.ID()), method.name, func(m map[string]any) { m["swarm"] = "done" })
			if err := method.call(d, hash); !errors.Is(err, ErrReply) || count.Load() != storeTries {
				t.Errorf("%d answers, %v", count.Load(), err)
			}
		})
	}
	t.Run("a later end than was asked for", func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		d := newDevice(t, n)
		leave(t, n, own.ID(), "hello")
		lying(n, n.Swarm(own.ID()), "expire", everyMember(func(m map[string]any) { m["expiry"] = end + 1 }))
		if err := d.Shorten(t.Context(), own, []string{rpc.MessageHash(own.ID(), 0, []byte("hello"))}, end); !errors.Is(err, ErrReply) {
			t.Errorf("error %v", err)
		}
	})
}

func TestWhenMessagesEndIsWhatTwoMembersSay(t *testing.T) {
	own := person(1)
	hash := rpc.MessageHash(own.ID(), 0, []byte("hello"))
	other := rpc.MessageHash(own.ID(), 0, []byte("other"))
	stored := time.Now().Add(24 * time.Hour).UnixMilli() // as leave stores
	for name, c := range map[string]struct {
		lies  func(n *swarmtest.Network)
		after func(d *device)
		end   int64 // of hello; 0 = not known
		fails bool
	}{
		"as it was stored": {end: stored},
		"after it was shortened": {after: func(d *device) {
			if err := d.Shorten(t.Context(), own, []string{hash}, stored-1_000_000); err != nil {
				t.Error(err)
			}
		}, end: stored - 1_000_000},
		"one member says sooner": {lies: func(n *swarmtest.Network) {
			lying(n, n.Swarm(own.ID())[:1], "get_expiries", func(m map[string]any) { m["expiries"].(map[string]any)[hash] = 1_700_000_000_000 })
		}, end: stored},
		"all members say nonsense": {lies: func(n *swarmtest.Network) {
			lying(n, n.Swarm(own.ID()), "get_expiries", func(m map[string]any) { m["expiries"] = map[string]any{hash: "1e300", "": 5, other: -7} })
		}},
		"all members say nothing": {lies: func(n *swarmtest.Network) {
			lying(n, n.Swarm(own.ID()), "get_expiries", func(m map[string]any) { delete(m, "expiries") })
		}, fails: true},
		"only one member is there": {lies: func(n *swarmtest.Network) {
			for _, m := range n.Swarm(own.ID())[1:] {
				n.Answer(m.Ed25519, func(context.Context, pathtest.Node, []byte) (int, any) { return 503, "Snode not ready" })
			}
		}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			d := newDevice(t, n)
			leave(t, n, own.ID(), "hello")
			if c.lies != nil {
				c.lies(n)
			}
			if c.after != nil {
				c.after(d)
			}
			got, err := d.Expiries(t.Context(), own, []string{hash, other})
			if (err != nil) != c.fails {
				t.Fatalf("%v, %v", got, err)
			}
			if end := got[hash]; end < c.end-60_000 || end > c.end+60_000 || len(got) > 1 {
				t.Errorf("it ends at %v, want %d", got, c.end)
			}
		})
	}
}

func FuzzParseAffected(f *testing.F) {
	key := strings.Repeat("ab", 32)
	f.Add([]byte(fmt.Sprintf(`{"swarm":{"%s":{"deleted":["x"],"signature":"AAAA"}}}`, key)))
	f.Add([]byte(fmt.Sprintf(`{"swarm":{"%s":{"updated":["x"],"unchanged":{"y":5},"expiry":[1,"2"],"signature":"AAAA"}}}`, key)))
	f.Add([]byte(`{"expiries":{"` + strings.Repeat("x", 43) + `":1700000000000}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		deleted, err := ParseDelete(body)
		if err != nil && !errors.Is(err, ErrReply) || len(deleted) > maxMembers {
			t.Fatal(err, len(deleted))
		}
		expired, err := ParseExpire(body)
		if err != nil && !errors.Is(err, ErrReply) || len(expired) > maxMembers {
			t.Fatal(err, len(expired))
		}
		times, err := ParseExpiries(body)
		if err != nil && !errors.Is(err, ErrReply) {
			t.Fatal(err)
		}
		for h, ms := range times {
			if len(h) != hashSize || ms <= 0 {
				t.Fatalf("%q: %d", h, ms)
			}
		}
	})
}
