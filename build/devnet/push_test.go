package devnet_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/node/account"
	"hearth/node/messenger"
	"hearth/node/swarm"
)

// apart gives the seeds of two accounts that are kept by different swarms, so that
// who waits at a node of one is not taken for the other.
func apart(t testing.TB, n *devnet.Network) (a, b byte) {
	t.Helper()
	home := func(seed byte) swarm.ID {
		id, _ := n.List().Of(account.New(account.Seed{seed}).ID())
		return id
	}
	for b := byte(2); b < 255; b++ {
		if home(b) != home(1) {
			return 1, b
		}
	}
	t.Fatal("all accounts are in one swarm")
	return 0, 0
}

// listens waits until somebody waits for messages at a member of the account's swarm
// other than that one, and returns the number of that node.
func listens(t testing.TB, n *devnet.Network, w *talker, except int) int {
	t.Helper()
	id, err := account.ParseID(w.id)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(90 * time.Second)
	for {
		_, members := n.List().Of(id)
		for _, m := range members {
			k := n.Number(m.Ed25519)
			if node := n.Node(k); k != except && node != nil && node.Waiting() > 0 {
				return k
			}
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("nobody waits for messages")
		}
	}
}

// rarely makes a messenger poll at its start, when whoever tells of messages fails,
// and then not before the test is over.
func rarely(c *messenger.Config) { c.PollInterval = time.Hour }

// TestMessagesArriveWithoutPolling lets a messenger hear of messages from one member
// of its swarm, and from another when that one stops.
func TestMessagesArriveWithoutPolling(t *testing.T) {
	n := messengerNetwork(t)
	a, b := apart(t, n)
	alice, bob := talk(t, n, a, rarely), talk(t, n, b, rarely)
	alice.knows(bob)
	bob.knows(alice)
	first := listens(t, n, bob, 0)
	for i := range 3 {
		before := requests(t, n, first)
		text := fmt.Sprintf("hello %d", i)
		alice.says(bob, text)
		bob.hears(alice, text)
		listens(t, n, bob, 0)
		// One copy of the message, or the store itself, and the request that waits for
		// the next; a third when the sender asked this node which swarm that is.
		if got := requests(t, n, first) - before; got > 4 {
			t.Errorf("%d requests at the member for message %d: somebody polls", got, i)
		}
	}

	if err := n.StopNode(first); err != nil {
		t.Fatal(err)
	}
	second := listens(t, n, bob, first)
	if second == first {
		t.Fatal("the node that stopped is still asked")
	}
	alice.says(bob, "still there?")
	bob.hears(alice, "still there?")
}

func requests(t testing.TB, n *devnet.Network, k int) uint64 {
	t.Helper()
	st, err := n.Node(k).Status(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return st.Requests
}

// BenchmarkFromSentToShown is a text on its way from one messenger to the other,
// over six relays and two swarm members on one machine.
func BenchmarkFromSentToShown(b *testing.B) {
	n := messengerNetwork(b)
	first, second := apart(b, n)
	alice, bob := talk(b, n, first, rarely), talk(b, n, second, rarely)
	alice.knows(bob)
	bob.knows(alice)
	i := 0
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		listens(b, n, bob, 0)
		b.StartTimer()
		text := fmt.Sprint("number ", i)
		i++
		began := time.Now()
		alice.says(bob, text)
		bob.hears(alice, text)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
}
