package messenger

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/account"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path/pathtest"
)

// counter counts the requests that the members of an account's swarm get.
type counter struct {
	mu   sync.Mutex
	seen map[string]int
}

// count lets every member of the swarm count, and answer with answer, or honestly if
// that is nil.
func count(n *swarmtest.Network, id account.ID, answer pathtest.Handler) *counter {
	c := &counter{seen: make(map[string]int)}
	for _, m := range n.Swarm(id) {
		n.Answer(m.Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
			for _, method := range []string{"retrieve", "monitor"} {
				if bytes.Contains(body, []byte(`"`+method+`"`)) {
					c.mu.Lock()
					c.seen[method]++
					c.mu.Unlock()
				}
			}
			if answer != nil && bytes.Contains(body, []byte(`"monitor"`)) {
				return answer(ctx, node, body)
			}
			return n.Honest(ctx, node, body)
		})
	}
	return c
}

// take gives the number of requests of a method since the last time.
func (c *counter) take(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer delete(c.seen, method)
	return c.seen[method]
}

func TestMessagesComeWithoutPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		n.Push()
		a, b := person(1), person(2)
		seen := count(n, b.ID(), nil)
		alice, _ := start(t, n, Config{Account: a})
		bob, _ := start(t, n, Config{Account: b, PollInterval: time.Hour})
		time.Sleep(10 * time.Second)
		seen.take("retrieve")
		for i := range 5 {
			text := fmt.Sprint("number ", i)
			alice.send(b.ID(), text)
			sent := time.Now()
			if got := bob.next(); got.Text != text {
				t.Fatalf("got %q, want %q", got.Text, text)
			}
			if late := time.Since(sent); late > time.Second {
				t.Errorf("message %d took %v", i, late)
			}
		}
		if polls, waits := seen.take("retrieve"), seen.take("monitor"); polls != 0 || waits < 6 || waits > 8 {
			t.Errorf("%d requests retrieve, %d monitor; want 0, and one monitor for each message", polls, waits)
		}
	})
}

func TestPollingIsRareWhileAMemberTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		n.Push()
		a := person(1)
		seen := count(n, a.ID(), nil)
		alice, _ := start(t, n, Config{Account: a})
		time.Sleep(2 * time.Minute)
		seen.take("retrieve")
		seen.take("monitor")
		time.Sleep(10 * time.Minute)
		if rounds := seen.take("retrieve") / pollMembers; rounds < 19 || rounds > 21 {
			t.Errorf("%d rounds of polling in ten minutes, want 20", rounds)
		}
		if waits := seen.take("monitor"); waits < 29 || waits > 31 {
			t.Errorf("%d requests monitor in ten minutes, want 30", waits)
		}
		if st := alice.now(); st.Trouble != "" {
			t.Errorf("trouble: %v", st.Trouble)
		}
	})
}

func TestAnotherMemberTellsWhenOneFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 15, time.Now)
		n.Push()
		a, b := person(1), person(2)
		var mu sync.Mutex
		var asked [32]byte
		seen := count(n, b.ID(), func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
			mu.Lock()
			asked = node.Ed25519
			mu.Unlock()
			return n.Honest(ctx, node, body)
		})
		alice, _ := start(t, n, Config{Account: a})
		bob, _ := start(t, n, Config{Account: b, PollInterval: time.Hour})
		time.Sleep(10 * time.Second)
		mu.Lock()
		first := asked
		mu.Unlock()
		n.Kill(first)
		time.Sleep(5 * time.Minute) // the poll that takes over is long past
		mu.Lock()
		second := asked
		mu.Unlock()
		if second == first {
			t.Fatal("nobody else is asked")
		}
		seen.take("retrieve")
		alice.send(b.ID(), "hello")
		if got := bob.next(); got.Text != "hello" || seen.take("retrieve") != 0 {
			t.Errorf("got %q, or by polling", got.Text)
		}
	})
}

func TestWithoutHelpPollingIsWhatItWas(t *testing.T) {
	stock := func(context.Context, pathtest.Node, []byte) (int, any) { return 400, "no method monitor" }
	for name, c := range map[string]struct {
		answer pathtest.Handler
		most   int // requests monitor in ten minutes
	}{
		"nodes that do not know the method": {stock, 3},
		"nodes without room": {
			func(context.Context, pathtest.Node, []byte) (int, any) {
				return 429, "too many subscriptions at this node"
			}, 33},
		"nodes that answer nonsense": {
			func(context.Context, pathtest.Node, []byte) (int, any) { return 200, "hm" }, 33},
		"nodes that will not": {
			func(context.Context, pathtest.Node, []byte) (int, any) {
				return 401, map[string]any{"errcode": 5, "error": "Signature verification failed"}
			}, 33},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := swarmtest.New(t, 9, time.Now)
				a, b := person(1), person(2)
				seen := count(n, b.ID(), c.answer)
				alice, _ := start(t, n, Config{Account: a})
				bob, _ := start(t, n, Config{Account: b})
				time.Sleep(5 * time.Second)
				seen.take("retrieve")
				seen.take("monitor")
				time.Sleep(10 * time.Minute)
				if rounds := seen.take("retrieve") / pollMembers; rounds < 118 || rounds > 122 {
					t.Errorf("%d rounds of polling in ten minutes, want 120", rounds)
				}
				if waits := seen.take("monitor"); waits > c.most {
					t.Errorf("%d requests monitor in ten minutes, want at most %d", waits, c.most)
				}
				if st := bob.now(); st.Trouble != "" || st.KnownNodes != 9 {
					t.Errorf("trouble %q, %d nodes", st.Trouble, st.KnownNodes)
				}
				alice.send(b.ID(), "hello")
				if got := bob.next(); got.Text != "hello" {
					t.Errorf("got %q", got.Text)
				}
			})
		})
	}
}

func TestAMemberThatAnswersInVainIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a := person(1)
		seen := count(n, a.ID(), func(context.Context, pathtest.Node, []byte) (int, any) {
			return 200, map[string]any{"success": 1, "results": []any{}}
		})
		start(t, n, Config{Account: a})
		time.Sleep(10 * time.Minute)
		if waits := seen.take("monitor"); waits > 2*3*(listenVain+1) {
			t.Errorf("%d requests monitor in ten minutes", waits)
		}
	})
}
