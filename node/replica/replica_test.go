package replica

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/rpc"
	"hearth/node/swarm"
)

// In a bubble no time passes while anybody has something to do, so the sleeps
// below cost nothing. soon is when everything that was to be compared is.
const soon = 30 * time.Second

func TestMemberThatWasAwayCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		defer l.close()
		l.swarms(7, 7, 7)
		l.start(0, 1, 2)
		alice, bob := newPerson(t, 1), newPerson(t, 2)
		gone := alice.store(l.nodes[0], 0, "deleted meanwhile", time.Hour)
		short := alice.store(l.nodes[0], 0, "shortened meanwhile", time.Hour)
		long := alice.store(l.nodes[0], 0, "extended meanwhile", time.Hour)
		bob.store(l.nodes[1], -1, "replaced meanwhile", time.Hour)
		time.Sleep(soon)

		l.halt(2)
		alice.delete(l.nodes[0], gone)
		alice.expire(l.nodes[0], rpc.ExpireShorten, time.Now().Add(10*time.Minute), short)
		alice.expire(l.nodes[1], rpc.ExpireExtend, time.Now().Add(10*time.Hour), long)
		bob.store(l.nodes[0], -1, "the replacement", time.Hour)
		for i := range 20 {
			bob.store(l.nodes[i%2], 5, fmt.Sprint("private ", i), time.Hour)
		}
		bob.store(l.nodes[0], 0, "x", time.Hour)
		bob.store(l.nodes[0], 0, "y", time.Hour)
		bob.deleteAll(l.nodes[1], 0)
		bob.store(l.nodes[0], 0, "after all was deleted", time.Hour)
		time.Sleep(time.Minute)

		l.start(2)
		time.Sleep(soon)
		l.equal(0, 1, 2)
		people := []person{alice, bob}
		want := l.nodes[0].holds(people, 0, 5, -1)
		for _, bad := range []string{"deleted meanwhile", "replaced meanwhile", " x ", " y "} {
			if strings.Contains(want, bad) {
				t.Errorf("%q is back", bad)
			}
		}
		if n := strings.Count(want, "\n") + 1; n != 2+1+20+1 {
			t.Errorf("%d messages:\n%s", n, want)
		}
		if got := l.nodes[2].holds(people, 0, 5, -1); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestEqualMembersSayLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		defer l.close()
		l.swarms(7, 7)
		l.start(0, 1)
		alice := newPerson(t, 1)
		for i := range 10 {
			alice.store(l.nodes[0], 0, fmt.Sprint(i), 100*time.Hour)
		}
		time.Sleep(soon)
		sent, received := l.nodes[0].replica.Figures()
		time.Sleep(time.Hour)
		moreSent, moreReceived := l.nodes[0].replica.Figures()
		// Each of the two asks about 60 times, with 25 bytes for 33.
		if n := moreSent + moreReceived - sent - received; n == 0 || n > 12_000 {
			t.Errorf("%d bytes in an hour", n)
		}
	})
}

// TestMissedRequestIsMadeUpForAtOnce is about the time that it takes.
func TestMissedRequestIsMadeUpForAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		defer l.close()
		l.swarms(7, 7, 7)
		l.start(0, 1, 2)
		time.Sleep(5 * time.Minute)
		alice := newPerson(t, 1)
		l.isolate([2]int{0, 2}, [2]int{1, 2})
		alice.store(l.nodes[0], 0, "hello", time.Hour)
		l.isolate()
		time.Sleep(3 * defaultSettle)
		if got := l.nodes[2].texts(alice, 0); got != "hello" {
			t.Errorf("node 2 holds %q", got)
		}
	})
}

func TestPartitionHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		defer l.close()
		l.swarms(7, 7, 7)
		l.start(0, 1, 2)
		alice := newPerson(t, 1)
		hash := alice.store(l.nodes[0], 0, "before", time.Hour)
		time.Sleep(soon)
		l.isolate([2]int{0, 2}, [2]int{1, 2})
		alice.store(l.nodes[0], 0, "here", time.Hour)
		alice.store(l.nodes[2], 0, "there", time.Hour)
		alice.delete(l.nodes[2], hash)
		time.Sleep(20 * time.Minute)
		l.isolate()
		time.Sleep(longestPause * 3 / 2)
		for i, n := range l.nodes {
			if got := n.texts(alice, 0); got != "here there" {
				t.Errorf("node %d holds %q", i, got)
			}
		}
		l.equal(0, 1, 2)
	})
}

func TestStoringAgainAfterADeleteBringsTheMessageBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		defer l.close()
		l.swarms(7, 7)
		l.start(0, 1)
		alice := newPerson(t, 1)
		for _, ns := range []int16{0, 5, -1} {
			hash := alice.store(l.nodes[0], ns, "hello", time.Hour)
			time.Sleep(soon)
			// Node 1 does not hear of the delete, but of the second store.
			l.isolate([2]int{0, 1})
			alice.delete(l.nodes[0], hash)
			time.Sleep(10 * time.Second)
			if got := l.nodes[0].texts(alice, ns); got != "" {
				t.Errorf("namespace %d: not deleted: %q", ns, got)
			}
			alice.store(l.nodes[1], ns, "hello", time.Hour)
			time.Sleep(time.Minute)
			l.isolate()
			time.Sleep(2 * time.Minute)
			for i, n := range l.nodes {
				if got := n.texts(alice, ns); got != "hello" {
					t.Errorf("namespace %d: node %d holds %q", ns, i, got)
				}
			}
		}
		l.equal(0, 1)
	})
}

func TestNewMemberGetsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		defer l.close()
		l.swarms(7, 7)
		l.start(0, 1, 2)
		var people []person
		for i := range 60 {
			p := newPerson(t, byte(i))
			people = append(people, p)
			p.store(l.nodes[i%2], 0, fmt.Sprint("message ", i), time.Hour)
		}
		people[3].delete(l.nodes[0], rpc.MessageHash(people[3].id, 0, []byte("message 3")))
		time.Sleep(soon)
		if got := l.nodes[2].holds(people, 0); got != "" {
			t.Errorf("a node outside the swarm holds\n%s", got)
		}
		l.swarms(7, 7, 7)
		time.Sleep(soon)
		l.equal(0, 1, 2)
		if got, want := l.nodes[2].holds(people, 0), l.nodes[0].holds(people, 0); got != want || strings.Count(got, "\n") != 58 {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestSwarmsComeAndGo(t *testing.T) {
	// Positions of accounts are spread evenly, so each of two opposite swarms has
	// about half.
	const west, east = swarm.ID(1 << 62), swarm.ID(3 << 62)
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 6)
		defer l.close()
		l.swarms(west, west, west, swarm.None, swarm.None, swarm.None)
		l.start(0, 1, 2, 3, 4, 5)
		var people []person
		for i := range 40 {
			p := newPerson(t, byte(i))
			people = append(people, p)
			p.store(l.nodes[i%3], 0, fmt.Sprint("message ", i), time.Hour)
		}
		people[0].delete(l.nodes[1], rpc.MessageHash(people[0].id, 0, []byte("message 0")))
		all := l.nodes[0].holds(people, 0)

		check := func(when string, homes map[swarm.ID][]int) {
			t.Helper()
			for i, p := range people {
				id, _ := l.list.Load().Of(p.id)
				want := ""
				if i > 0 {
					want = fmt.Sprint("message ", i)
				}
				for _, k := range homes[id] {
					if got := l.nodes[k].texts(p, 0); got != want {
						t.Errorf("%s: node %d holds %q of person %d, want %q", when, k, got, i, want)
					}
				}
			}
			for _, members := range homes {
				l.equal(members...)
			}
		}

		// A second swarm comes; one of its members is not there yet.
		l.halt(5)
		l.swarms(west, west, west, east, east, east)
		time.Sleep(2 * time.Minute)
		l.start(5)
		time.Sleep(soon)
		check("two swarms", map[swarm.ID][]int{west: {0, 1, 2}, east: {3, 4, 5}})

		// The first is dissolved while the second cannot be reached.
		l.halt(3, 4, 5)
		l.swarms(east, swarm.None, swarm.None, east, east, east)
		time.Sleep(5 * time.Minute)
		l.start(3, 4, 5)
		time.Sleep(3 * time.Minute)
		check("the first dissolved", map[swarm.ID][]int{east: {0, 3, 4, 5}})
		if got := l.nodes[3].holds(people, 0); got != all {
			t.Errorf("got\n%s\nwant\n%s", got, all)
		}
		// What the dissolved swarm's members hold runs out with its time.
		if got := l.nodes[1].holds(people, 0); got != all {
			t.Errorf("a former member holds\n%s", got)
		}

		// What is deleted in the second swarm stays deleted when the first is back.
		people[1].delete(l.nodes[3], rpc.MessageHash(people[1].id, 0, []byte("message 1")))
		for i := range 20 {
			p := people[i+2]
			p.delete(l.nodes[3], rpc.MessageHash(p.id, 0, []byte(fmt.Sprint("message ", i+2))))
		}
		l.swarms(east, west, west, east, east, east)
		time.Sleep(2 * time.Minute)
		for i, p := range people[1:22] {
			id, _ := l.list.Load().Of(p.id)
			for _, k := range map[swarm.ID][]int{west: {1, 2}, east: {0, 3, 4, 5}}[id] {
				if got := l.nodes[k].texts(p, 0); got != "" {
					t.Errorf("node %d of swarm %v holds %q of person %d again", k, id, got, i+1)
				}
			}
		}
		l.equal(1, 2)
		l.equal(0, 3, 4, 5)
	})
}

func TestStoppingNodeHandsOverWhatOnlyItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		defer l.close()
		l.swarms(7, 7, 7)
		l.start(0, 1, 2)
		time.Sleep(soon)
		alice := newPerson(t, 1)
		l.isolate([2]int{0, 1}, [2]int{0, 2})
		alice.store(l.nodes[0], 0, "hello", time.Hour)
		l.isolate()
		l.nodes[0].replica.Finish(t.Context())
		l.halt(0)
		for _, i := range []int{1, 2} {
			if got := l.nodes[i].texts(alice, 0); got != "hello" {
				t.Errorf("node %d holds %q", i, got)
			}
		}
	})
}

func TestRevocationsConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		defer l.close()
		l.swarms(7, 7, 7)
		l.start(0, 1, 2)
		alice, delegate := newPerson(t, 1), newPerson(t, 2)
		token := rpc.NewToken(alice.id, rpc.Read|rpc.Write|rpc.Delete, delegate.keys.Ed25519())
		revoke := func(n *labNode, method string, text func(int64, []rpc.Token) []byte) {
			t.Helper()
			now := time.Now().UnixMilli()
			alice.ask(n, method+"_subaccount", text(now, []rpc.Token{token}), map[string]any{
				method: fmt.Sprintf("%x", token[:]), "timestamp": now,
			})
		}
		first := alice.store(l.nodes[0], 5, "first", time.Hour)
		time.Sleep(soon)

		l.isolate([2]int{0, 2}, [2]int{1, 2})
		revoke(l.nodes[0], "revoke", rpc.RevokeText)
		// The delegate goes to the one who has not heard of it.
		alice.askAs(delegate, token, l.nodes[2], "delete", rpc.DeleteText([]string{first}), map[string]any{"messages": []string{first}})
		if got := l.nodes[2].texts(alice, 5); got != "" {
			t.Errorf("node 2 did not believe the delegate: %q", got)
		}
		l.isolate()
		time.Sleep(2 * time.Minute)
		for i, n := range l.nodes {
			if revoked, err := n.db.Revoked(alice.id, token); err != nil || !revoked {
				t.Errorf("node %d: revoked %v, %v", i, revoked, err)
			}
			if got := n.texts(alice, 5); got != "first" {
				t.Errorf("node %d holds %q after what the delegate did too late", i, got)
			}
		}
		l.equal(0, 1, 2)

		l.halt(1)
		revoke(l.nodes[0], "unrevoke", rpc.UnrevokeText)
		time.Sleep(soon)
		alice.askAs(delegate, token, l.nodes[2], "delete", rpc.DeleteText([]string{first}), map[string]any{"messages": []string{first}})
		l.start(1)
		time.Sleep(soon)
		for i, n := range l.nodes {
			if revoked, err := n.db.Revoked(alice.id, token); err != nil || revoked {
				t.Errorf("node %d: revoked %v, %v", i, revoked, err)
			}
			if got := n.texts(alice, 5); got != "" {
				t.Errorf("node %d holds %q", i, got)
			}
		}
		l.equal(0, 1, 2)
	})
}

// TestAnyOrderConverges lets clients do anything while members go away, come
// back, and lose sight of each other.
func TestAnyOrderConverges(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { anyOrder(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func anyOrder(t *testing.T, random *rand.Rand) {
	const members = 4
	l := newLab(t, members)
	defer l.close()
	l.swarms(7, 7, 7, 7)
	l.start(0, 1, 2, 3)
	people := []person{newPerson(t, 1), newPerson(t, 2), newPerson(t, 3)}
	namespaces := []int16{0, 5, 11, -1}

	type message struct {
		owner   int
		ns      int16
		data    string
		hash    string
		dead    bool // deleted, and not stored again
		expires time.Time
	}
	var known []*message
	kill := func(m *message) { m.dead = true }
	for step := range 150 {
		time.Sleep(time.Duration(1+random.IntN(4000)) * time.Millisecond)
		var at []*labNode
		for _, n := range l.nodes {
			if n.up.Load() {
				at = append(at, n)
			}
		}
		if len(at) == 0 {
			l.start(random.IntN(members))
			continue
		}
		n := at[random.IntN(len(at))]
		owner := random.IntN(len(people))
		p := people[owner]
		var m *message
		if len(known) > 0 {
			m = known[random.IntN(len(known))]
		}
		switch random.IntN(20) {
		case 0, 1, 2, 3, 4, 5, 6:
			ns := namespaces[random.IntN(len(namespaces))]
			if ns == -1 { // the latest of them at that node stays
				for _, o := range known {
					if o.owner == owner && o.ns == ns {
						kill(o)
					}
				}
			}
			ttl := time.Duration(1+random.IntN(40)) * 24 * 10 * time.Minute
			data := fmt.Sprint("message ", step)
			hash := p.store(n, ns, data, ttl)
			known = append(known, &message{owner, ns, data, hash, false, time.Now().Add(ttl)})
		case 7:
			if m != nil && m.ns != -1 { // once more, perhaps after it was deleted
				ttl := 10 * time.Hour
				people[m.owner].store(n, m.ns, m.data, ttl)
				m.dead = false
				m.expires = time.Now().Add(ttl) // at least; later ones are not shortened
			}
		case 8, 9:
			if m != nil {
				people[m.owner].delete(n, m.hash)
				kill(m)
			}
		case 10:
			if random.IntN(3) > 0 {
				break
			}
			scope := rpc.AllNamespaces
			if random.IntN(4) > 0 {
				scope = rpc.Scope(namespaces[random.IntN(3)])
			}
			p.deleteAll(n, scope)
			for _, o := range known {
				if o.owner == owner && (scope == rpc.AllNamespaces || scope == rpc.Scope(o.ns)) {
					kill(o)
				}
			}
		case 11, 12, 13:
			if m != nil {
				mode := []rpc.ExpireMode{rpc.ExpireSet, rpc.ExpireShorten, rpc.ExpireExtend}[random.IntN(3)]
				people[m.owner].expire(n, mode, time.Now().Add(time.Duration(1+random.IntN(20))*time.Hour), m.hash)
				m.expires = time.Time{} // not checked
			}
		case 14:
			if len(at) > 1 {
				l.halt(n.number)
			}
		case 15, 16:
			for i, n := range l.nodes {
				if !n.up.Load() {
					l.start(i)
					break
				}
			}
		case 17:
			a, b := random.IntN(members), random.IntN(members)
			if a != b {
				l.isolate([2]int{a, b}, [2]int{(a + 1) % members, b})
			}
		case 18:
			l.isolate()
		case 19:
			if _, err := n.db.Sweep(); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.isolate()
	for i, n := range l.nodes {
		if !n.up.Load() {
			l.start(i)
		}
	}
	time.Sleep(3 * time.Minute)
	for _, n := range l.nodes {
		if _, err := n.db.Sweep(); err != nil {
			t.Fatal(err)
		}
	}
	l.equal(0, 1, 2, 3)
	want := l.nodes[0].holds(people, namespaces...)
	for i, n := range l.nodes[1:] {
		if got := n.holds(people, namespaces...); got != want {
			t.Errorf("node %d holds\n%s\nnode 0 holds\n%s", i+1, got, want)
		}
	}
	for _, m := range known {
		here := strings.Contains(want, fmt.Sprintf("%d/%d %s until", m.owner, m.ns, m.data))
		switch {
		case m.dead && here:
			t.Errorf("%q of namespace %d is back", m.data, m.ns)
		case !m.dead && !here && m.expires.After(time.Now()):
			t.Errorf("%q of namespace %d is lost", m.data, m.ns)
		}
	}
	if testing.Verbose() {
		n, _ := l.nodes[0].db.Stats()
		t.Logf("%d messages in the end, %d checked", n, len(known))
	}
}
