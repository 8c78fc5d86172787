package mailbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path"
	"hearth/node/messenger/path/pathtest"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

var quiet = slog.New(slog.DiscardHandler)

// device is the machine that the client runs on, with its own clock.
type device struct {
	*Client
	off atomic.Int64 // its clock minus the network's
}

func newDevice(t testing.TB, n *swarmtest.Network) *device {
	t.Helper()
	d := &device{}
	now := func() time.Time { return time.Now().Add(time.Duration(d.off.Load())) }
	pool, err := path.NewPool(rand.Reader, now, quiet, path.Saved{Nodes: n.List().Nodes}, nil)
	if err != nil {
		t.Fatal(err)
	}
	net := path.NewClient(pool, rand.Reader, n.Dial, quiet)
	t.Cleanup(net.Close)
	d.Client = New(net, pool, NewClock(now), quiet)
	return d
}

func person(b byte) *account.Account { return account.New(account.Seed{b}) }

func (d *device) send(t testing.TB, to account.ID, data string) (Stored, error) {
	t.Helper()
	return d.Store(t.Context(), to, TTL, func() int64 { return d.clock.Now().UnixMilli() }, func(int64) ([]byte, error) { return []byte(data), nil })
}

// fetch asks every member of the account's swarm.
func (d *device) fetch(t testing.TB, a *account.Account) map[string]int {
	t.Helper()
	members, _, err := d.Swarm(t.Context(), a.ID())
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]int)
	for _, m := range members {
		messages, _, err := d.Retrieve(t.Context(), a, m, 0, "")
		if err != nil {
			continue
		}
		for _, m := range messages {
			found[string(m.Data)]++
		}
	}
	return found
}

func TestAMessageIsStoredInTheWholeSwarmAndFetched(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d, alice := newDevice(t, n), person(1)
	s, err := d.send(t, alice.ID(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	if s.Members != 3 || s.Swarm != 3 || s.Hash != rpc.MessageHash(alice.ID(), 0, []byte("hello")) {
		t.Errorf("stored %+v", s)
	}
	if got := d.fetch(t, alice); got["hello"] != 3 || len(got) != 1 {
		t.Errorf("fetched %v", got)
	}
	members, _, _ := d.Swarm(t.Context(), alice.ID())
	if messages, more, err := d.Retrieve(t.Context(), alice, members[0], 0, s.Hash); err != nil || more || len(messages) != 0 {
		t.Errorf("after the last one: %v, %v, %v", messages, more, err)
	}
}

func TestOnlyConfirmedMembersAreCounted(t *testing.T) {
	alice := person(1)
	forge := func(change func(body map[string]any, members map[string]any, node pathtest.Node)) func(*swarmtest.Network) pathtest.Handler {
		return func(n *swarmtest.Network) pathtest.Handler {
			return func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
				status, reply := n.Honest(ctx, node, body)
				if !bytes.Contains(body, []byte(`"store"`)) {
					return status, reply
				}
				b, _ := json.Marshal(reply)
				var m map[string]any
				json.Unmarshal(b, &m)
				change(m, m["swarm"].(map[string]any), node)
				return status, m
			}
		}
	}
	other := func(members map[string]any, node pathtest.Node, change func(m map[string]any)) {
		for k, v := range members {
			if k != fmt.Sprintf("%x", node.Ed25519) {
				change(v.(map[string]any))
			}
		}
	}
	for _, c := range []struct {
		name   string
		answer func(*swarmtest.Network) pathtest.Handler
		want   int // members; 0 = refused
	}{
		{"an honest answer", forge(func(map[string]any, map[string]any, pathtest.Node) {}), 3},
		{"the others failed", forge(func(_, m map[string]any, n pathtest.Node) {
			other(m, n, func(e map[string]any) { clear(e); e["failed"], e["timeout"] = true, true })
		}), 1},
		{"the others' signatures are wrong", forge(func(_, m map[string]any, n pathtest.Node) {
			other(m, n, func(e map[string]any) { e["signature"] = base64.StdEncoding.EncodeToString(make([]byte, 64)) })
		}), 1},
		{"the others signed another hash", forge(func(_, m map[string]any, n pathtest.Node) {
			other(m, n, func(e map[string]any) { e["hash"] = strings.Repeat("A", 43) })
		}), 1},
		{"a member that nobody knows", forge(func(_, m map[string]any, n pathtest.Node) {
			stranger := person(77).Keys()
			hash := rpc.MessageHash(alice.ID(), 0, []byte("hello"))
			m[fmt.Sprintf("%x", stranger.Ed25519())] = map[string]any{"hash": hash, "signature": stranger.Sign([]byte(hash))}
		}), 3},
		{"already as a number", forge(func(_, m map[string]any, n pathtest.Node) {
			other(m, n, func(e map[string]any) { e["already"] = 1 })
		}), 3},
		{"another hash", forge(func(b, _ map[string]any, _ pathtest.Node) { b["hash"] = strings.Repeat("A", 43) }), 0},
		{"nobody confirmed", forge(func(_, m map[string]any, _ pathtest.Node) { clear(m) }), 0},
		{"not an object", func(*swarmtest.Network) pathtest.Handler {
			return func(context.Context, pathtest.Node, []byte) (int, any) { return 200, "hello" }
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			d := newDevice(t, n)
			for _, m := range n.Swarm(alice.ID()) {
				n.Answer(m.Ed25519, c.answer(n))
			}
			s, err := d.send(t, alice.ID(), "hello")
			if c.want == 0 && err == nil || c.want != 0 && (err != nil || s.Members != c.want) {
				t.Errorf("stored by %d, %v; want %d", s.Members, err, c.want)
			}
		})
	}
}

func TestMembersThatFailAreTriedOnceEach(t *testing.T) {
	alice := person(1)
	n := swarmtest.New(t, 9, time.Now)
	d := newDevice(t, n)
	members := n.Swarm(alice.ID())
	for _, m := range members[:2] {
		n.Answer(m.Ed25519, func(context.Context, pathtest.Node, []byte) (int, any) { return 500, "request failed" })
	}
	for i := range 5 {
		if _, err := d.send(t, alice.ID(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestARefusalIsNotRepeated(t *testing.T) {
	for status, want := range map[int]error{400: path.ErrRequest, 401: path.ErrRefused, 403: path.ErrRequest} {
		n := swarmtest.New(t, 9, time.Now)
		d, alice := newDevice(t, n), person(1)
		var asked atomic.Int32
		for _, m := range n.Swarm(alice.ID()) {
			n.Answer(m.Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
				if !bytes.Contains(body, []byte(`"store"`)) {
					return n.Honest(ctx, node, body)
				}
				asked.Add(1)
				return status, "no"
			})
		}
		if _, err := d.send(t, alice.ID(), "hello"); !errors.Is(err, want) || asked.Load() != 1 {
			t.Errorf("status %d: %d times, %v", status, asked.Load(), err)
		}
	}
}

func TestAMovedAccountIsFollowed(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d, alice := newDevice(t, n), person(1)
	if _, err := d.send(t, alice.ID(), "before"); err != nil {
		t.Fatal(err)
	}
	before, _, _ := d.Swarm(t.Context(), alice.ID())

	// The swarms change places.
	old := n.List()
	moved := &swarm.List{Height: 2}
	for i, node := range old.Nodes {
		node.Swarm = old.Nodes[(i+3)%9].Swarm
		moved.Nodes = append(moved.Nodes, node)
	}
	n.SetList(moved)
	s, err := d.send(t, alice.ID(), "after")
	if err != nil || s.Members != 3 {
		t.Fatalf("stored by %d: %v", s.Members, err)
	}

	n.SetList(old)
	if _, _, err := d.Retrieve(t.Context(), alice, find(t, d, moved, alice.ID()), 0, ""); !errors.Is(err, path.ErrWrongSwarm) {
		t.Fatalf("asking the wrong swarm: %v", err)
	}
	after, _, err := d.Swarm(t.Context(), alice.ID())
	if err != nil || len(after) != 3 || !same(before, after) {
		t.Errorf("the swarm of the answer was not taken: %v", err)
	}
	if d.pool.Size() != 9 {
		t.Error("a node was dropped for telling the truth")
	}
}

func find(t *testing.T, d *device, l *swarm.List, id account.ID) swarm.Node {
	_, members := l.Of(id)
	n, ok := d.pool.Find(members[0].Ed25519)
	if !ok {
		t.Fatal("not in the pool")
	}
	return n
}

func same(a, b []swarm.Node) bool {
	set := make(map[path.Key]bool)
	for _, n := range a {
		set[n.Ed25519] = true
	}
	for _, n := range b {
		if !set[n.Ed25519] {
			return false
		}
	}
	return len(a) == len(b)
}

func TestWrongSwarmWithoutAListForgetsTheMember(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d, alice := newDevice(t, n), person(1)
	liar := n.Swarm(alice.ID())[0]
	n.Answer(liar.Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
		if bytes.Contains(body, []byte("get_swarm")) {
			return n.Honest(ctx, node, body)
		}
		return 421, `{"snodes":[]}`
	})
	for i := range 10 {
		if _, err := d.send(t, alice.ID(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAWrongClockIsCorrectedOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		off  time.Duration
	}{
		{"five minutes fast", 5 * time.Minute},
		{"five minutes slow", -5 * time.Minute},
		{"in 1970", -time.Since(time.Unix(100, 0))},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			d, alice := newDevice(t, n), person(1)
			d.off.Store(int64(c.off))
			members, _, err := d.Swarm(t.Context(), alice.ID())
			if err != nil {
				t.Fatal(err)
			}
			// One answer does not move the clock: the first signature is refused.
			if d.clock.Offset() != 0 {
				t.Fatal("one node moved the clock")
			}
			if _, _, err := d.Retrieve(t.Context(), alice, members[0], 0, ""); err != nil {
				t.Fatal(err)
			}
			if d.synced.IsZero() {
				t.Error("nobody asked for the time")
			}
			if wrong := d.clock.Now().Sub(time.Now()); wrong.Abs() > time.Second {
				t.Errorf("still %v wrong", wrong)
			}
		})
	}
	t.Run("the first message already has the right time", func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		d, alice := newDevice(t, n), person(1)
		d.off.Store(int64(-5 * time.Minute)) // which nodes would not notice
		s, err := d.Store(t.Context(), alice.ID(), TTL, func() int64 { return d.clock.Now().UnixMilli() }, func(ms int64) ([]byte, error) {
			return fmt.Append(nil, ms), nil
		})
		if err != nil || time.Since(time.UnixMilli(s.Timestamp)).Abs() > 10*time.Second {
			t.Errorf("stored %d, %v", s.Timestamp, err)
		}
	})
	t.Run("a message is made anew when the clock jumps", func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		d, alice := newDevice(t, n), person(1)
		if _, err := d.send(t, alice.ID(), "before"); err != nil {
			t.Fatal(err)
		}
		d.off.Store(int64(5 * time.Minute))
		var stamps []int64
		s, err := d.Store(t.Context(), alice.ID(), TTL, func() int64 { return d.clock.Now().UnixMilli() }, func(ms int64) ([]byte, error) {
			stamps = append(stamps, ms)
			return fmt.Append(nil, ms), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(stamps) != 2 || s.Timestamp != stamps[1] || time.Since(time.UnixMilli(s.Timestamp)).Abs() > 10*time.Second {
			t.Errorf("stamps %v, stored %d", stamps, s.Timestamp)
		}
	})
}

func TestTwoRefusalsCorrectTheClockAgainAtOnce(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d, alice := newDevice(t, n), person(1)
	if _, err := d.send(t, alice.ID(), "before"); err != nil {
		t.Fatal(err)
	}
	d.off.Store(int64(-5 * time.Minute)) // set back right after the first correction
	members, _, _ := d.Swarm(t.Context(), alice.ID())
	for i, want := range []bool{false, false, true, true} {
		_, _, err := d.Retrieve(t.Context(), alice, members[i/2], 0, "") // each member twice
		if (err == nil) != want {
			t.Errorf("time %d: %v", i, err)
		}
	}
	if d.pool.Size() != 9 {
		t.Error("a node was dropped for a clock that was not its own")
	}
}

func TestANodeWithAWrongClockIsPassedOver(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d, alice := newDevice(t, n), person(1)
	bad := n.Swarm(alice.ID())[0]
	n.Drift(bad.Ed25519, -time.Hour)
	for i := range 10 {
		if _, err := d.send(t, alice.ID(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	node, _ := d.pool.Find(bad.Ed25519)
	for range path.MaxStrikes {
		if _, _, err := d.Retrieve(t.Context(), alice, node, 0, ""); err == nil {
			t.Fatal("it answered")
		}
	}
	if _, ok := d.pool.Find(bad.Ed25519); ok {
		t.Error("it is still in the pool")
	}
	if d.clock.Offset().Abs() > time.Second {
		t.Errorf("it moved the clock by %v", d.clock.Offset())
	}
}

func TestTheClockIsTheMedianOfWhatNodesSay(t *testing.T) {
	c := NewClock(func() time.Time { return time.Unix(1_700_000_000, 0) })
	say := func(node byte, d time.Duration) { c.observe(sample{node: path.Key{node}, offset: d}) }
	for _, step := range []struct {
		name   string
		node   byte
		offset time.Duration
		want   time.Duration
	}{
		{"one node", 1, time.Minute, 0},
		{"the same node again", 1, time.Hour, 0},
		{"two nodes", 2, time.Minute, 0},
		{"three nodes, one of them lying", 3, time.Minute, time.Minute},
		{"four", 4, 2 * time.Minute, 2 * time.Minute},
		{"the liar again", 1, 100 * time.Hour, 2 * time.Minute},
		{"five", 5, time.Minute, time.Minute},
	} {
		if say(step.node, step.offset); c.Offset() != step.want {
			t.Errorf("%s: %v, want %v", step.name, c.Offset(), step.want)
		}
	}
	for i := range 30 {
		say(byte(10+i), 3*time.Minute)
	}
	if len(c.samples) != sampleMax || c.Offset() != 3*time.Minute {
		t.Errorf("%d samples, %v", len(c.samples), c.Offset())
	}
	reply := path.Reply{Sent: time.UnixMilli(1000), Took: 200 * time.Millisecond}
	if got := offset(2100, reply); got != time.Second {
		t.Errorf("half of the way counts: %v", got)
	}
}

func TestMessagesUnderAFalseHashAreLeftOut(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d, alice := newDevice(t, n), person(1)
	s, err := d.send(t, alice.ID(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	liar := n.Swarm(alice.ID())[0]
	n.Answer(liar.Ed25519, func(context.Context, pathtest.Node, []byte) (int, any) {
		return 200, map[string]any{"results": []any{map[string]any{"code": 200, "body": map[string]any{
			"messages": []any{map[string]any{"hash": s.Hash, "timestamp": 1, "expiration": 2, "data": "Z2FyYmFnZQ=="}}, "more": true,
		}}}}
	})
	node, _ := d.pool.Find(liar.Ed25519)
	for range path.MaxStrikes {
		if messages, _, err := d.Retrieve(t.Context(), alice, node, 0, ""); err != nil || len(messages) != 0 {
			t.Fatalf("%v, %v", messages, err)
		}
	}
	if _, ok := d.pool.Find(liar.Ed25519); ok {
		t.Error("the liar is still in the pool")
	}
}

func TestAFullMailboxComesInPages(t *testing.T) {
	n := swarmtest.New(t, 3*2, time.Now)
	d, alice := newDevice(t, n), person(1)
	big := strings.Repeat("x", 70_000)
	for i := range 12 {
		if _, err := d.send(t, alice.ID(), fmt.Sprint(i, big)); err != nil {
			t.Fatal(err)
		}
	}
	members, _, _ := d.Swarm(t.Context(), alice.ID())
	last, got, pages := "", 0, 0
	for more := true; more; pages++ {
		var messages []Message
		var err error
		if messages, more, err = d.Retrieve(t.Context(), alice, members[0], 0, last); err != nil {
			t.Fatal(err)
		}
		got += len(messages)
		last = messages[len(messages)-1].Hash
	}
	if got != 12 || pages < 2 {
		t.Errorf("%d messages in %d pages", got, pages)
	}
}

func TestTheNodeListNeedsTwoVoices(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d := newDevice(t, n)
	fake := func(ip string) pathtest.Handler {
		return func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
			if !bytes.Contains(body, []byte("oxend_request")) {
				return n.Honest(ctx, node, body)
			}
			return 200, map[string]any{"result": map[string]any{"status": "OK", "height": 1, "service_node_states": []any{map[string]any{
				"public_ip": ip, "storage_port": 1, "pubkey_ed25519": strings.Repeat("ab", 32), "pubkey_x25519": strings.Repeat("cd", 32)}}}}
		}
	}
	n.Answer(n.Nodes[0].Ed25519, fake("192.0.2.66"))
	for range 10 {
		l, err := d.NodeList(t.Context())
		if err != nil || len(l.Nodes) != 9 {
			t.Fatalf("%d nodes, %v", len(l.Nodes), err)
		}
	}
	for _, node := range n.Nodes {
		n.Answer(node.Ed25519, func(context.Context, pathtest.Node, []byte) (int, any) { return 400, "unknown" })
	}
	if _, err := d.NodeList(t.Context()); err == nil {
		t.Error("a list from nobody")
	}
}

func TestASwarmIsOnlyOfNodesThatAreListed(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d, alice := newDevice(t, n), person(1)
	victim := n.Swarm(alice.ID())[0]
	for _, node := range n.Nodes {
		n.Answer(node.Ed25519, func(context.Context, pathtest.Node, []byte) (int, any) {
			return 200, map[string]any{"swarm": "7", "snodes": []any{
				// a listed node with another key and address
				map[string]any{"ip": "192.0.2.1", "port_https": 1, "pubkey_ed25519": fmt.Sprintf("%x", victim.Ed25519), "pubkey_x25519": strings.Repeat("cd", 32)},
				// a node that is not listed
				map[string]any{"ip": "192.0.2.2", "port": "1", "pubkey_ed25519": strings.Repeat("ab", 32), "pubkey_x25519": strings.Repeat("cd", 32)},
				nil, 5, map[string]any{"ip": "nowhere"},
			}}
		})
	}
	members, all, err := d.Swarm(t.Context(), alice.ID())
	if err != nil || len(members) != 1 || all != 2 || members[0].Address != victim.Address || members[0].X25519 != victim.X25519 {
		t.Errorf("members %v of %d, %v", members, all, err)
	}
	select {
	case <-d.Unknown():
	default:
		t.Error("nobody heard that the list is old")
	}
}

func TestSwarmsAreRememberedWithinBounds(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d := newDevice(t, n)
	var asked atomic.Int32
	for _, node := range n.Nodes {
		n.Answer(node.Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
			asked.Add(1)
			return n.Honest(ctx, node, body)
		})
	}
	for range 5 {
		if _, _, err := d.Swarm(t.Context(), person(1).ID()); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times for one swarm", asked.Load())
	}
	for i := range maxSwarms + 10 {
		d.adopt(account.ID{5, byte(i), byte(i >> 8)}, n.List().Nodes[:3])
	}
	if len(d.swarms) > maxSwarms {
		t.Errorf("%d swarms remembered", len(d.swarms))
	}
}
