package path

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/keys"
	"hearth/node/messenger/path/pathtest"
	"hearth/node/swarm"
)

// echo answers with the request and the node that it reached.
func echo(_ context.Context, node pathtest.Node, body []byte) (int, any) {
	return 200, fmt.Sprintf("%x %s", node.Ed25519[:4], body)
}

func testClient(t testing.TB, n *pathtest.Network) *Client {
	t.Helper()
	p, err := NewPool(rand.Reader, time.Now, quiet, Saved{Nodes: n.List().Nodes, Fetched: time.Now()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(p, rand.Reader, n.Dial, quiet)
	t.Cleanup(c.Close)
	return c
}

func TestAnOnionReachesItsDestination(t *testing.T) {
	n := pathtest.New(t, 20, echo)
	c := testClient(t, n)
	for _, to := range n.Nodes {
		reply, err := c.Ask(t.Context(), to.Node, []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%x hello", to.Ed25519[:4]); reply.Status != 200 || string(reply.Body) != want {
			t.Fatalf("got %d %q, want %q", reply.Status, reply.Body, want)
		}
	}
	// Twenty requests went to twenty nodes, and only guards were called, once each.
	var guards []netip.AddrPort
	for _, g := range c.Pool().Guards() {
		node, _ := c.Pool().Find(g)
		guards = append(guards, node.Address)
	}
	dialled := n.Dialled()
	if len(dialled) > len(guards) {
		t.Errorf("%d connections, want one for each guard at most", len(dialled))
	}
	for _, a := range dialled {
		if !slices.Contains(guards, a) {
			t.Errorf("connected to %v, which is no guard", a)
		}
	}
}

func TestARequestSurvivesWhatNodesDoToIt(t *testing.T) {
	answer := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); io.WriteString(w, text) }
	}
	for _, c := range []struct {
		name string
		hop  int // of one path
		do   func(n *pathtest.Network, k Key)
	}{
		{"the guard is gone", 0, func(n *pathtest.Network, k Key) { n.Kill(k) }},
		{"the guard is busy", 0, func(n *pathtest.Network, k Key) { n.Sabotage(k, answer(503, "Server busy, try again later")) }},
		{"the guard sends garbage", 0, func(n *pathtest.Network, k Key) { n.Sabotage(k, answer(200, "garbage")) }},
		{"the guard sends nothing", 0, func(n *pathtest.Network, k Key) { n.Sabotage(k, answer(200, "")) }},
		{"the guard sends without end", 0, func(n *pathtest.Network, k Key) {
			n.Sabotage(k, func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := w.Write(make([]byte, 1<<16)); err != nil {
						return
					}
				}
			})
		}},
		{"the guard redirects", 0, func(n *pathtest.Network, k Key) {
			n.Sabotage(k, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://192.0.2.1:1/onion_req/v2", http.StatusTemporaryRedirect)
			})
		}},
		{"the middle is gone", 1, func(n *pathtest.Network, k Key) { n.Kill(k) }},
		{"the middle cannot read its layer", 1, func(n *pathtest.Network, k Key) { n.Sabotage(k, answer(400, "Invalid ciphertext")) }},
		{"the exit is not ready", 2, func(n *pathtest.Network, k Key) {
			n.Sabotage(k, answer(503, fmt.Sprintf("Snode not ready: %x", k)))
		}},
		{"the exit sends garbage", 2, func(n *pathtest.Network, k Key) { n.Sabotage(k, answer(200, "Z2FyYmFnZQ==")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := pathtest.New(t, 20, echo)
			client := testClient(t, n)
			bad := client.Pool().Paths()[0].Nodes()[c.hop].Ed25519
			c.do(n, bad)
			to := n.Nodes[slices.IndexFunc(n.Nodes, func(o pathtest.Node) bool {
				return !slices.ContainsFunc(client.Pool().Paths(), func(p *Path) bool { return p.Holds(o.Ed25519) })
			})]
			for i := range 40 {
				if _, err := client.Ask(t.Context(), to.Node, []byte("hello")); err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
			}
			for _, p := range client.Pool().Paths() {
				if p.Guard().Ed25519 == bad && c.hop == 0 {
					t.Error("the bad guard is still one")
				}
			}
			if c.hop != 0 {
				if _, ok := client.Pool().Find(bad); ok {
					t.Error("the bad node is still in the pool")
				}
			}
			if slices.Contains(n.Dialled(), netip.MustParseAddrPort("192.0.2.1:1")) {
				t.Error("the redirect was followed")
			}
		})
	}
}

func TestAHopThatIsNotInTheNetworkIsDroppedAtOnce(t *testing.T) {
	n := pathtest.New(t, 20, echo)
	client := testClient(t, n)
	list := n.List()
	ghost := keys.FromSeed([32]byte{0: 99})
	list.Nodes = append(list.Nodes, swarm.Node{
		Ed25519: ghost.Ed25519(), X25519: ghost.X25519(), Address: netip.MustParseAddrPort("10.77.0.1:22021"),
	})
	if err := client.Pool().Replace(list); err != nil {
		t.Fatal(err)
	}
	to, _ := client.Pool().Find(ghost.Ed25519())
	if _, err := client.Ask(t.Context(), to, nil); !errors.Is(err, ErrNode) {
		t.Fatalf("asking a ghost: %v", err)
	}
	if _, ok := client.Pool().Find(ghost.Ed25519()); ok {
		t.Error("the ghost is still in the pool")
	}
}

func TestADestinationThatIsGoneIsToldFromABrokenPath(t *testing.T) {
	n := pathtest.New(t, 20, echo)
	client := testClient(t, n)
	paths, guards := client.Pool().Paths(), client.Pool().Guards()
	to := n.Nodes[slices.IndexFunc(n.Nodes, func(o pathtest.Node) bool { return !paths[0].Holds(o.Ed25519) && !paths[1].Holds(o.Ed25519) })]
	live := client.Pool().Random(1, func(o swarm.Node) bool {
		return o.Ed25519 == to.Ed25519 || paths[0].Holds(o.Ed25519) || paths[1].Holds(o.Ed25519)
	})[0]
	n.Kill(to.Ed25519)
	for i := range MaxStrikes {
		if _, known := client.Pool().Find(to.Ed25519); !known {
			t.Fatalf("dropped after %d requests", i)
		}
		if _, err := client.Ask(t.Context(), to.Node, nil); !errors.Is(err, ErrPath) {
			t.Fatal(err)
		}
		if _, err := client.Ask(t.Context(), live, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, known := client.Pool().Find(to.Ed25519); known {
		t.Error("still in the pool after three requests over two paths each")
	}
	if client.Pool().Size() != 19 || !slices.Equal(client.Pool().Guards(), guards) {
		t.Errorf("%d nodes left, and the guards changed: %v", client.Pool().Size(), !slices.Equal(client.Pool().Guards(), guards))
	}
}

func TestStatusesOfTheDestinationReachTheCaller(t *testing.T) {
	for _, c := range []struct {
		status int
		want   error
	}{
		{401, ErrRefused}, {400, ErrRequest}, {406, ErrClock}, {421, ErrWrongSwarm}, {500, ErrNode}, {503, ErrNode},
	} {
		n := pathtest.New(t, 12, func(context.Context, pathtest.Node, []byte) (int, any) { return c.status, "no \x1b[31m" })
		client := testClient(t, n)
		to := n.Nodes[0]
		for i := range 2 * MaxStrikes {
			reply, err := client.Ask(t.Context(), to.Node, []byte("x"))
			if !errors.Is(err, c.want) || reply.Status != c.status {
				t.Fatalf("status %d: got %d, %v", c.status, reply.Status, err)
			}
			if strings.Contains(err.Error(), "\x1b") {
				t.Error("control characters of a stranger in an error")
			}
			_, known := client.Pool().Find(to.Ed25519)
			if gone := c.want == ErrNode && i+1 >= MaxStrikes; known == gone {
				t.Fatalf("status %d, time %d: still in the pool: %v", c.status, i+1, known)
			}
		}
	}
}

func TestASilentGuardCostsThirtySecondsAndThenAnotherPathIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pathtest.New(t, 20, echo)
		client := testClient(t, n)
		silent := client.Pool().Paths()[0]
		n.Sabotage(silent.Guard().Ed25519, func(w http.ResponseWriter, r *http.Request) {
			if r.TLS == nil {
				w.WriteHeader(504) // as a hop, which others wait for
				return
			}
			<-r.Context().Done()
		})
		other := client.Pool().Paths()[1]
		to := client.Pool().Random(1, func(o swarm.Node) bool { return silent.Holds(o.Ed25519) || other.Holds(o.Ed25519) })[0]
		begun := time.Now()
		for slices.Contains(client.Pool().Guards(), silent.Guard().Ed25519) {
			_, err := client.Ask(t.Context(), to, []byte("hello"))
			// When the guard has just gone, the new path may lead through it.
			if err != nil && slices.Contains(client.Pool().Guards(), silent.Guard().Ed25519) {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took != MaxStrikes*TimeLimit {
			t.Errorf("it took %v to be rid of the guard, want %v", took, MaxStrikes*TimeLimit)
		}
	})
}

func TestLeavingEarlyIsNobodysFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pathtest.New(t, 20, func(ctx context.Context, _ pathtest.Node, _ []byte) (int, any) {
			<-ctx.Done()
			return 500, ""
		})
		client := testClient(t, n)
		paths := client.Pool().Paths()
		to := client.Pool().Random(1, nil)[0]
		for range 2 * MaxStrikes {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := client.Ask(ctx, to, []byte("hello")); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
		}
		if !slices.Equal(client.Pool().Paths(), paths) || client.Pool().Size() != 20 {
			t.Error("an impatient caller changed the paths")
		}
	})
}

func TestGivingUpAWaitIsNobodysFaultHoweverLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pathtest.New(t, 20, func(ctx context.Context, _ pathtest.Node, _ []byte) (int, any) {
			<-ctx.Done()
			return 500, ""
		})
		client := testClient(t, n)
		paths := client.Pool().Paths()
		to := client.Pool().Random(1, nil)[0]
		for range 2 * MaxStrikes {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			if _, err := client.Ask(Waiting(ctx), to, []byte("hello")); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
		}
		if !slices.Equal(client.Pool().Paths(), paths) || client.Pool().Size() != 20 {
			t.Error("who gave a wait up changed the paths")
		}
	})
}

func TestConnectionsAreReusedAndClosedBeforeTheNodeClosesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pathtest.New(t, 4, echo)
		var open []*watched
		p, err := NewPool(rand.Reader, time.Now, quiet, Saved{Nodes: n.List().Nodes}, nil)
		if err != nil {
			t.Fatal(err)
		}
		client := NewClient(p, rand.Reader, func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := n.Dial(ctx, network, address)
			w := &watched{Conn: c, closed: make(chan struct{})}
			open = append(open, w)
			return w, err
		}, quiet)
		// Only one path leads around this destination.
		path := p.Paths()[0]
		to := n.Nodes[slices.IndexFunc(n.Nodes, func(o pathtest.Node) bool { return !path.Holds(o.Ed25519) })]
		for range 5 {
			if _, err := client.Ask(t.Context(), to.Node, []byte("x")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second) // of the bubble's clock
		}
		if len(open) > WantPaths {
			t.Errorf("%d connections for five requests", len(open))
		}
		time.Sleep(idleLimit + time.Second)
		synctest.Wait()
		for _, w := range open {
			select {
			case <-w.closed:
			default:
				t.Error("an idle connection stays open longer than a node keeps it")
			}
		}
	})
}

type watched struct {
	net.Conn
	closed chan struct{}
}

func (w *watched) Close() error {
	select {
	case <-w.closed:
	default:
		close(w.closed)
	}
	return w.Conn.Close()
}

func TestANodeWithAKeyOfLowOrderIsDropped(t *testing.T) {
	n := pathtest.New(t, 12, echo)
	list := n.List()
	list.Nodes[3].X25519 = [32]byte{0: 1}
	p, err := NewPool(rand.Reader, time.Now, quiet, Saved{Nodes: list.Nodes}, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient(p, rand.Reader, n.Dial, quiet)
	defer client.Close()
	if _, err := client.Ask(t.Context(), list.Nodes[3], nil); err == nil {
		t.Fatal("a request to nobody")
	}
	if _, ok := p.Find(list.Nodes[3].Ed25519); ok {
		t.Error("still in the pool")
	}
	for _, to := range []int{0, 1, 2, 4, 5} {
		if _, err := client.Ask(t.Context(), list.Nodes[to], nil); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkAsking(b *testing.B) {
	n := pathtest.New(b, 12, echo)
	client := testClient(b, n)
	body := bytes.Repeat([]byte("x"), 1024)
	for b.Loop() {
		if _, err := client.Ask(b.Context(), n.Nodes[0].Node, body); err != nil {
			b.Fatal(err)
		}
	}
}
