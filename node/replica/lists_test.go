package replica

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/rpc"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// untold is a time between comparisons that never comes: what the members have then,
// they have because something told them.
const untold = 10_000 * time.Hour

// TestRequestUnderWayWhenTheSwarmsChange is about a request that a node found to be
// its swarm's and that reaches the database when it is not any more, and when all
// that the node held for others has been handed over.
func TestRequestUnderWayWhenTheSwarmsChange(t *testing.T) {
	const west, east = swarm.ID(1 << 62), swarm.ID(3 << 62)
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 4)
		defer l.close()
		l.interval = untold
		l.swarms(west, west, west, west)
		l.start(0, 1, 2, 3)
		l.swarms(west, west, east, east)
		var alice person
		for i := byte(0); alice.keys == nil; i++ {
			if p := newPerson(t, i); l.listIs(p, east) {
				alice = p
			}
		}
		deleted := alice.store(l.nodes[2], 5, "deleted", time.Hour)
		time.Sleep(soon)

		if _, _, err := l.nodes[0].db.Store(messageTo(alice.id, 5, "stored")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(soon)
		hashes := []string{deleted}
		change := signedBy(alice.keys, storage.Change{Owner: alice.id, Kind: storage.Delete, Hashes: hashes}, rpc.DeleteText(hashes))
		if _, err := l.nodes[1].db.Apply(change); err != nil {
			t.Fatal(err)
		}
		time.Sleep(soon)
		for _, i := range []int{2, 3} {
			if got := l.nodes[i].texts(alice, 5); got != "stored" {
				t.Errorf("node %d holds %q", i, got)
			}
		}
		l.equal(2, 3)
	})
}

// TestWhatAFormerMemberBringsReachesAllMembers is about a node that has learnt that
// it is of another swarm, while those that it hands its messages over to have not.
func TestWhatAFormerMemberBringsReachesAllMembers(t *testing.T) {
	const west, east = swarm.ID(1 << 62), swarm.ID(3 << 62)
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 6)
		defer l.close()
		l.interval = untold
		l.swarms(west, west, west, west, west, east)
		l.start(0, 1, 2, 3, 4, 5)
		var alice person
		for i := byte(0); alice.keys == nil; i++ {
			if p := newPerson(t, i); l.listIs(p, west) {
				alice = p
			}
		}
		time.Sleep(soon)
		l.isolate([2]int{0, 1}, [2]int{0, 2}, [2]int{0, 3}, [2]int{0, 4})
		alice.store(l.nodes[0], 0, "hello", time.Hour)
		l.nodes[0].learn(l.listOf(east, west, west, west, west, east))
		time.Sleep(time.Second)
		l.isolate()
		time.Sleep(2 * longestPause)
		for i := 1; i <= 4; i++ {
			if got := l.nodes[i].texts(alice, 0); got != "hello" {
				t.Errorf("node %d holds %q", i, got)
			}
		}
		l.equal(1, 2, 3, 4)
	})
}

// TestListsLearntInAnyOrderLoseNothing changes swarms while members learn the lists
// at different times, or not all of them, go away, come back, and lose sight of each
// other. When all have the last list, its swarms hold what any node ever
// acknowledged, and nothing that was deleted.
func TestListsLearntInAnyOrderLoseNothing(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { anyLists(t, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

func anyLists(t *testing.T, random *rand.Rand) {
	const nodes = 7
	l := newLab(t, nodes)
	defer l.close()
	l.delay = func() { time.Sleep(rand.N(200 * time.Millisecond)) } // asked for by several at a time

	// Every swarm has two members at least, so that one may be away.
	draw := func() *swarm.List {
		all := []swarm.ID{1 << 62, 2 << 62, 3 << 62}
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:1+random.IntN(len(all))]
		ids := make([]swarm.ID, nodes)
		for place, node := range random.Perm(nodes) {
			switch {
			case place < 2*len(all):
				ids[node] = all[place/2]
			case random.IntN(3) == 0:
				ids[node] = swarm.None
			default:
				ids[node] = all[random.IntN(len(all))]
			}
		}
		return l.listOf(ids...)
	}
	lists := []*swarm.List{draw()}
	knows := make([]int, nodes) // which of the lists
	learn := func(node, list int) {
		knows[node] = list
		l.nodes[node].learn(lists[list])
	}
	for i := range nodes {
		learn(i, 0)
		l.start(i)
	}
	var people []person
	for i := range 12 {
		people = append(people, newPerson(t, byte(i)))
	}
	type message struct {
		owner      int
		text, hash string
		dead       bool
	}
	var known []*message

	// at finds a node that is up and takes requests of an account.
	at := func(p person) *labNode {
		for _, i := range random.Perm(nodes) {
			n := l.nodes[i]
			id, _ := n.knows.Load().Of(p.id)
			self, _ := n.knows.Load().Find(n.keys.Ed25519())
			if n.up.Load() && self.Swarm == id {
				return n
			}
		}
		return nil
	}
	for step := range 120 {
		time.Sleep(time.Duration(random.IntN(4000)) * time.Millisecond)
		switch op := random.IntN(20); {
		case op < 7:
			owner := random.IntN(len(people))
			if n := at(people[owner]); n != nil {
				text := fmt.Sprint("message-", step)
				known = append(known, &message{owner: owner, text: text, hash: people[owner].store(n, 0, text, 24*time.Hour)})
			}
		case op == 7 && len(known) > 0:
			m := known[random.IntN(len(known))]
			if n := at(people[m.owner]); n != nil {
				people[m.owner].delete(n, m.hash)
				m.dead = true
			}
		case op < 10:
			lists = append(lists, draw())
		case op < 15:
			i := random.IntN(nodes)
			learn(i, knows[i]+random.IntN(len(lists)-knows[i]))
		case op == 15:
			if i := random.IntN(nodes); l.nodes[i].up.Load() {
				l.halt(i)
			}
		case op < 18:
			for i, n := range l.nodes {
				if !n.up.Load() {
					l.start(i)
					break
				}
			}
		case op == 18:
			a := random.IntN(nodes)
			l.isolate([2]int{a, (a + 1) % nodes}, [2]int{a, (a + 2) % nodes}, [2]int{a, (a + 3) % nodes})
		default:
			l.isolate()
		}
	}
	l.isolate()
	for _, i := range random.Perm(nodes) {
		learn(i, len(lists)-1)
		if !l.nodes[i].up.Load() {
			l.start(i)
		}
		time.Sleep(time.Duration(random.IntN(8000)) * time.Millisecond)
	}
	last := lists[len(lists)-1]
	// Most often a few seconds are enough. If nobody had a reason to compare, it is done
	// at the next time that needs none.
	time.Sleep(3 * defaultInterval)
	for i, p := range people {
		var want []string
		for _, m := range known {
			if m.owner == i && !m.dead {
				want = append(want, m.text)
			}
		}
		slices.Sort(want)
		_, members := last.Of(p.id)
		for _, m := range members {
			if got, want := l.node(m).texts(p, 0), fmt.Sprint(want); "["+got+"]" != want {
				t.Errorf("node %d holds of person %d [%s], not %s", l.node(m).number, i, got, want)
			}
		}
	}
	for _, id := range last.Swarms() {
		var numbers []int
		for _, m := range last.Members(id) {
			numbers = append(numbers, l.node(m).number)
		}
		l.equal(numbers...)
	}
}
