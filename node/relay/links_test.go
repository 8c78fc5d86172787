package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/node/keys"
	"hearth/node/onion"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// member returns the list entry of node k.
func (net *network) member(k int) swarm.Node { return net.list.Load().Nodes[k] }

func echo(_ int, c *Config) {
	c.Storage = storageFunc(func(context.Context, []byte) rpc.Response { return rpc.Response{Status: 200, Body: "done"} })
}

func TestLinkCarriesStorageRequests(t *testing.T) {
	net := network3(t, echo)
	// What HandleForwarded gives comes back; here it gives back what it got.
	body := bytes.Repeat([]byte{0, 1, 0xff}, 100_000)
	got, err := net.nodes[0].links.Request(t.Context(), net.member(1), CommandStorage, [][]byte{[]byte("store"), body})
	if err != nil || len(got) != 2 || string(got[0]) != "store" || !bytes.Equal(got[1], body) {
		t.Errorf("got %d parts, %v", len(got), err)
	}

	tests := []struct {
		name  string
		parts [][]byte
		want  string
	}{
		{"one part gets no answer", [][]byte{[]byte("store")}, ""},
		{"no part gets no answer", nil, ""},
		{"three parts are too many", [][]byte{nil, nil, nil}, "400"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := net.nodes[0].links.Request(t.Context(), net.member(1), CommandStorage, tt.parts)
			if tt.want == "" {
				if !errors.Is(err, ErrRefused) {
					t.Errorf("got %q, %v", got, err)
				}
			} else if err != nil || string(got[0]) != tt.want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestLinkCarriesOnions(t *testing.T) {
	net := network3(t)
	const prefix = "Invalid internal onion request: "
	tests := []struct {
		name  string
		parts [][]byte
		want  string
	}{
		{"no part", nil, prefix + "expected 1 part, got 0"},
		{"two parts", [][]byte{nil, nil}, prefix + "expected 1 part, got 2"},
		{"an empty dictionary", [][]byte{[]byte("de")}, prefix + "required data payload not found"},
		{"no key", [][]byte{[]byte("d4:data3:abce")}, prefix + "ephemeral key not found"},
		{"a short key", [][]byte{[]byte("d4:data3:abc13:ephemeral_key2:abe")}, prefix + "Key data is invalid: expected 32 bytes, received 2"},
		{"an unknown cipher", [][]byte{[]byte("d4:data3:abc8:enc_type5:rot1313:ephemeral_key32:" + strings.Repeat("k", 32) + "e")}, prefix + "Invalid encryption type rot13"},
		{"hop 16", [][]byte{onion.Layer{Ciphertext: make([]byte, 40), EncType: onion.GCM, HopNo: 16}.MarshalBT()}, "onion request max path length exceeded"},
		{"hop 15, which is still allowed", [][]byte{onion.Layer{Ciphertext: make([]byte, 40), EncType: onion.GCM, HopNo: 15}.MarshalBT()}, "Invalid ciphertext"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := net.nodes[0].links.Request(t.Context(), net.member(1), CommandOnion, tt.parts)
			if err != nil || len(got) != 2 || string(got[0]) != "400" || string(got[1]) != tt.want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestLinkIsReused(t *testing.T) {
	net := network3(t, echo)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := net.nodes[0].links.Request(t.Context(), net.member(1), CommandStorage, [][]byte{{1}, {2}}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := net.nodes[1].accepted.Load(); n != 1 {
		t.Errorf("50 requests took %d connections", n)
	}
}

func TestUnusedLinkIsGivenUp(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	net := network3(t, echo)
	links, err := NewLinks(net.nodes[0].keys, nil, clock)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	for _, tt := range []struct {
		pause time.Duration
		want  int32
	}{{0, 1}, {linkIdle, 1}, {linkIdle + time.Second, 2}} {
		mu.Lock()
		now = now.Add(tt.pause)
		mu.Unlock()
		if _, err := links.Request(t.Context(), net.member(1), CommandStorage, [][]byte{{1}, {2}}); err != nil {
			t.Fatal(err)
		}
		if n := net.nodes[1].accepted.Load(); n != tt.want {
			t.Errorf("after %v: %d connections, want %d", tt.pause, n, tt.want)
		}
	}
}

func TestNoRequestIsLostWhenLinksAreClosedInGoodOrder(t *testing.T) {
	net := network3(t, func(_ int, c *Config) {
		c.Replica = func(_ context.Context, _ [32]byte, parts [][]byte) [][]byte { return parts }
	})
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for i := range 8 {
		asking.Go(func() {
			for ctx.Err() == nil {
				part := make([]byte, 10<<10*i)
				if _, err := net.nodes[0].links.Request(t.Context(), net.member(1), CommandReplica, [][]byte{part}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	server := net.nodes[1].server
	for closed := 0; closed < 30; {
		server.mu.Lock()
		open := slices.Collect(maps.Keys(server.called))
		server.mu.Unlock()
		for _, l := range open {
			l.mu.Lock()
			used := l.begun >= 50
			l.mu.Unlock()
			if used {
				l.leave()
				<-l.over
				closed++
			}
		}
	}
	stop()
	asking.Wait()
}

func TestLinkAfterRestartOfTheOtherNode(t *testing.T) {
	network := network3(t, echo)
	ask := func() error {
		_, err := network.nodes[0].links.Request(t.Context(), network.member(1), CommandStorage, [][]byte{{1}, {2}})
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if err := network.nodes[1].server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ask(); !errors.Is(err, ErrUnreachable) {
		t.Errorf("while it is away: %v", err)
	}
	l, err := net.Listen("tcp4", network.nodes[1].addr.String())
	if err != nil {
		t.Fatal(err)
	}
	network.start(1, l, echo)
	if err := ask(); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

func TestWhoMayLink(t *testing.T) {
	net := network3(t, echo)
	ask := func(l *Links, to swarm.Node) error {
		_, err := l.Request(t.Context(), to, CommandStorage, [][]byte{{1}, {2}})
		return err
	}
	t.Run("a stranger may not", func(t *testing.T) {
		stranger, err := NewLinks(keys.FromSeed([32]byte{77}), nil, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		if err := ask(stranger, net.member(1)); !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the caller insists on the key of the list", func(t *testing.T) {
		wrong := net.member(1)
		wrong.Address = net.member(2).Address
		if err := ask(net.nodes[0].links, wrong); !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a node that left the list is refused on an open link", func(t *testing.T) {
		if err := ask(net.nodes[0].links, net.member(1)); err != nil {
			t.Fatal(err)
		}
		list := net.list.Load()
		defer net.list.Store(list)
		to := net.member(1)
		net.list.Store(&swarm.List{Nodes: list.Nodes[1:]})
		if err := ask(net.nodes[0].links, to); !errors.Is(err, ErrRefused) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("and has no more than a few links", func(t *testing.T) {
		few := network3(t, echo, func(k int, c *Config) { c.Limits.PeerLinks = 1 })
		if err := ask(few.nodes[0].links, few.member(1)); err != nil {
			t.Fatal(err)
		}
		second, err := NewLinks(few.nodes[0].keys, nil, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		if err := ask(second, few.member(1)); !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v", err)
		}
	})
}

// TestBadLinkRequests sends over an open link what Links would not.
func TestBadLinkRequests(t *testing.T) {
	net := network3(t, echo, func(k int, c *Config) { c.Limits.Memory = 32 << 10 })
	conn, err := net.nodes[0].links.open(t.Context(), net.member(1))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, command string
		body          []byte
		status        int
	}{
		{"no command", "", nil, 404},
		{"an unknown command", "data", nil, 404},
		{"the longest command", strings.Repeat("x", 255), nil, 404},
		{"half a length", CommandOnion, []byte{0, 0, 0}, 400},
		{"a part that is cut off", CommandOnion, []byte{0, 0, 0, 9, 'x'}, 400},
		{"too many parts", CommandStorage, make([]byte, 4*(maxParts+1)), 400},
		{"more than the node has memory for", CommandOnion, make([]byte, 100<<10), 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, body, err := conn.ask(t.Context(), tt.command, tt.body, maxLinkMessage, nil)
			if err != nil || status != tt.status || len(body) != 0 {
				t.Errorf("status %d, %d bytes, %v, want %d", status, len(body), err, tt.status)
			}
		})
	}
	t.Run("and afterwards the link works", func(t *testing.T) {
		if _, err := net.nodes[0].links.Request(t.Context(), net.member(1), CommandStorage, [][]byte{{1}, {2}}); err != nil {
			t.Error(err)
		}
	})
	t.Run("a storage request over its limit", func(t *testing.T) {
		roomy := network3(t, echo)
		_, err := roomy.nodes[0].links.Request(t.Context(), roomy.member(1), CommandStorage, [][]byte{nil, make([]byte, maxStorageMessage)})
		if !errors.Is(err, ErrRefused) && !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLinkEndsWithItsContext(t *testing.T) {
	started := make(chan struct{})
	net := network3(t, func(k int, c *Config) {
		c.Storage = storageFunc(func(ctx context.Context, _ []byte) rpc.Response {
			close(started)
			<-ctx.Done()
			return rpc.Response{Status: 200, Body: "late"}
		})
		c.Limits.Hop = time.Second
	})
	req := net.build(net.hops(1), net.nodes[1].hop(), info)
	layer, err := onion.ParseEntry(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-started
		cancel(why)
	}()
	if _, err := net.nodes[0].links.Request(ctx, net.member(1), CommandOnion, [][]byte{layer.MarshalBT()}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func TestClosedLinksRefuse(t *testing.T) {
	net := network3(t, echo)
	links := net.nodes[0].links
	if _, err := links.Request(t.Context(), net.member(1), CommandStorage, [][]byte{{1}, {2}}); err != nil {
		t.Fatal(err)
	}
	links.Close()
	if _, err := links.Request(t.Context(), net.member(1), CommandStorage, [][]byte{{1}, {2}}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	links.Close()
}

func BenchmarkLinkRequest(b *testing.B) {
	net := network3(b, echo)
	parts := [][]byte{[]byte("store"), make([]byte, 1400)}
	for b.Loop() {
		if _, err := net.nodes[0].links.Request(b.Context(), net.member(1), CommandStorage, parts); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOnionOverThreeRelays(b *testing.B) {
	net := newNetwork(b, [][32]byte{{1}, {2}, {3}, {4}}, echo)
	path, dest := net.hops(0, 1, 2), net.nodes[3].hop()
	c := client(b)
	for b.Loop() {
		req, err := onion.Build(rand.Reader, path, dest, []byte(info))
		if err != nil {
			b.Fatal(err)
		}
		resp, err := c.Post("https://"+net.nodes[0].addr.String()+"/onion_req/v2", "", bytes.NewReader(req.Body))
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			b.Fatal(resp.Status)
		}
	}
}
