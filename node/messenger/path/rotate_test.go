package path

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/messenger/path/pathtest"
	"hearth/node/swarm"
)

// keepFresh runs until the test ends.
func keepFresh(t *testing.T, c *Client) {
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { c.KeepFresh(ctx) })
	t.Cleanup(func() { cancel(); wait.Wait() })
}

func TestThePathsBehindTheGuardsChangeEveryTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked := make(map[string]int)
		n := pathtest.New(t, 20, func(_ context.Context, _ pathtest.Node, body []byte) (int, any) {
			mu.Lock()
			asked[string(body)]++
			mu.Unlock()
			return 200, "yes"
		})
		client := testClient(t, n)
		pool := client.Pool()
		paths := pool.Paths()
		guards := pool.Guards()
		keepFresh(t, client)
		time.Sleep(8 * time.Minute)
		if !slices.Equal(pool.Paths(), paths) {
			t.Fatal("a path changed before its time")
		}
		seen := make(map[Key]bool)
		last := []time.Time{time.Now(), time.Now()}
		changes := 0
		for begun := time.Now(); time.Since(begun) < time.Hour; time.Sleep(20 * time.Second) {
			fresh := pool.Paths()
			if !slices.Equal(pool.Guards(), guards) || len(fresh) != 2 {
				t.Fatalf("guards %x, %d paths", pool.Guards(), len(fresh))
			}
			used := make(map[Key]bool)
			for i, path := range fresh {
				checkPath(t, path)
				for _, hop := range path.Nodes() {
					if used[hop.Ed25519] {
						t.Error("a node is in both paths")
					}
					used[hop.Ed25519], seen[hop.Ed25519] = true, true
				}
				if path == paths[i] {
					if old := time.Since(last[i]); old > 12*time.Minute {
						t.Errorf("a path is %v old", old)
					}
					continue
				}
				changes++
				last[i] = time.Now()
				if path.Guard() != paths[i].Guard() {
					t.Error("another guard")
				}
				for _, hop := range path.Nodes()[1:] {
					if paths[i].Holds(hop.Ed25519) {
						t.Error("a hop of the path before")
					}
				}
			}
			paths = fresh
		}
		if changes < 8 || changes > 14 {
			t.Errorf("%d changes of two paths in an hour", changes)
		}
		if len(seen) < 12 {
			t.Errorf("only %d nodes of 20 were in a path in an hour", len(seen))
		}
		// Every new path was checked once, with a request that says nothing.
		mu.Lock()
		defer mu.Unlock()
		if len(asked) != 1 || asked[`{"method":"info","params":{}}`] < changes {
			t.Errorf("asked %v", asked)
		}
		// And still nobody but the guards was called.
		for _, a := range n.Dialled() {
			if !slices.ContainsFunc(guards, func(g Key) bool { return n.Find(g).Address == a }) {
				t.Errorf("connected to %v", a)
			}
		}
	})
}

func TestAPathThatDoesNotCarryARequestIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pathtest.New(t, 20, echo)
		client := testClient(t, n)
		pool := client.Pool()
		paths := pool.Paths()
		inUse := func(k Key) bool { return paths[0].Holds(k) || paths[1].Holds(k) }
		keepFresh(t, client)
		// As a hop every other node is silent or talks nonsense; the paths in use work.
		for i, node := range n.Nodes {
			if !inUse(node.Ed25519) {
				n.Sabotage(node.Ed25519, func(w http.ResponseWriter, r *http.Request) {
					if i%2 == 0 {
						<-r.Context().Done()
						return
					}
					io.WriteString(w, "garbage")
				})
			}
		}
		begun := time.Now()
		time.Sleep(30 * time.Minute)
		if !slices.Equal(pool.Paths(), paths) {
			t.Errorf("a path of silent nodes was taken after %v", time.Since(begun))
		}
		if pool.Size() != 20 {
			t.Errorf("%d nodes left: a check that fails is nobody's fault", pool.Size())
		}
		for _, node := range n.Nodes {
			n.Sabotage(node.Ed25519, nil)
		}
		time.Sleep(5 * time.Minute)
		if fresh := pool.Paths(); slices.Contains(fresh, paths[0]) || slices.Contains(fresh, paths[1]) {
			t.Error("the old paths are still in use although others work again")
		}
	})
}

func TestANetworkTooSmallToExchangeHopsKeepsItsPaths(t *testing.T) {
	for _, count := range []int{4, 6, 7} {
		synctest.Test(t, func(t *testing.T) {
			n := pathtest.New(t, count, echo)
			client := testClient(t, n)
			paths := client.Pool().Paths()
			keepFresh(t, client)
			time.Sleep(time.Hour)
			if got := client.Pool().Paths(); !slices.Equal(got, paths) {
				t.Errorf("%d nodes: other paths", count)
			}
		})
	}
}

func TestRequestsGoOnWhilePathsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pathtest.New(t, 12, func(_ context.Context, _ pathtest.Node, body []byte) (int, any) {
			if !strings.Contains(string(body), "info") {
				time.Sleep(20 * time.Second)
			}
			return 200, "done"
		})
		client := testClient(t, n)
		keepFresh(t, client)
		for range 100 { // 33 minutes of requests, one of which is always under way
			to := client.Pool().Random(1, nil)[0]
			if reply, err := client.Ask(t.Context(), to, []byte("slow")); err != nil || string(reply.Body) != "done" {
				t.Fatal(err)
			}
		}
	})
}

func TestAPathIsExchangedAlthoughTheClockWentBack(t *testing.T) {
	p, c := testPool(t, 1, nodes(20, 1))
	p.Paths()
	c.advance(-24 * time.Hour)
	if len(p.Stale()) != 2 {
		t.Error("the paths live until yesterday comes again")
	}
}

func TestTheOwnNodeIsNeverAHop(t *testing.T) {
	for _, count := range []int{4, 5, 6, 9, 60} {
		list := nodes(count, 1)
		for seed := range uint64(100) {
			p, _ := testPool(t, seed, list)
			if seed%2 == 0 {
				p.Paths() // some of which may have it
			}
			own := list[int(seed)%count]
			p.Avoid(own.Ed25519)
			free := func(path *Path) {
				t.Helper()
				if path.Holds(own.Ed25519) {
					t.Fatalf("%d nodes, seed %d: the own node is a hop", count, seed)
				}
			}
			for _, path := range p.Paths() {
				free(path)
				if made, ok := p.Successor(path); ok {
					free(made)
				}
			}
			if slices.Contains(p.Guards(), own.Ed25519) {
				t.Fatal("the own node is a guard")
			}
			// Failures do not bring it in either, nor does a new list.
			var failed []Failed
			for _, path := range p.Paths() {
				failed = append(failed, Failed{path, true})
			}
			if path, err := p.For(list[0].Ed25519, failed...); err == nil {
				free(path)
			}
			for _, g := range p.Guards() {
				p.Drop(g)
			}
			if err := p.Replace(&swarm.List{Nodes: list}); err != nil {
				t.Fatal(err)
			}
			for _, path := range p.Paths() {
				free(path)
			}
			// It can be asked all the same.
			if _, known := p.Find(own.Ed25519); !known {
				t.Error("the own node is not in the pool any more")
			}
			if path, err := p.For(own.Ed25519); count > 4 && err != nil {
				t.Error(err)
			} else if err == nil {
				free(path)
			}
		}
	}
	// A node that is not known, or is named again, changes nothing.
	p, _ := testPool(t, 1, nodes(9, 1))
	paths := p.Paths()
	p.Avoid(Key{0: 0xff})
	p.Avoid()
	if !slices.Equal(p.Paths(), paths) {
		t.Error("an unknown node changed the paths")
	}
}

func TestTheOwnNodeLeavesThePathsThatWereKept(t *testing.T) {
	list := nodes(20, 1)
	var saved Saved
	first, err := NewPool(randomness(1), time.Now, quiet, Saved{Nodes: list, Fetched: time.Now()}, func(s Saved) { saved = s })
	if err != nil {
		t.Fatal(err)
	}
	first.Paths()
	second, err := NewPool(rand.Reader, time.Now, quiet, saved, func(s Saved) { saved = s })
	if err != nil {
		t.Fatal(err)
	}
	own := saved.Guards[0]
	second.Avoid(own)
	if len(second.Paths()) != 2 || slices.Contains(saved.Guards, own) || len(saved.Guards) != 2 {
		t.Errorf("guards %x after the own node %x was named", saved.Guards, own)
	}
}

func TestGuardsAreKeptOverRestarts(t *testing.T) {
	list := nodes(60, 2)
	saved := Saved{Nodes: list, Fetched: time.Now()}
	var guards []Key
	for i := range 20 {
		p, err := NewPool(rand.Reader, time.Now, quiet, saved, func(s Saved) { saved = s })
		if err != nil {
			t.Fatal(err)
		}
		paths := p.Paths()
		if i == 0 {
			guards = p.Guards()
		}
		if !slices.Equal(p.Guards(), guards) || len(paths) != 2 {
			t.Fatalf("start %d: guards %x, at first %x", i, p.Guards(), guards)
		}
		for _, path := range paths {
			if !slices.Contains(guards, path.Guard().Ed25519) {
				t.Fatalf("start %d: a path begins at no guard", i)
			}
		}
		// A new list in between leaves them, too.
		if err := p.Replace(&swarm.List{Nodes: list, Height: uint64(i)}); err != nil {
			t.Fatal(err)
		}
	}
}
