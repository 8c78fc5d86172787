package seed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/keys"
	"hearth/node/swarm"
)

var threes = swarm.Rules{MinSize: 3, NewSize: 3, FillPercentile: 25, StealPercentile: 75}

// world is where the authority's pings go: who lives at which address.
type world struct {
	mu   sync.Mutex
	home map[netip.AddrPort][32]byte
}

func (w *world) put(addr netip.AddrPort, key [32]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.home[addr] = key
}

func (w *world) remove(addr netip.AddrPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.home, addr)
}

func (w *world) ping(_ context.Context, addr netip.AddrPort) ([32]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key, ok := w.home[addr]
	if !ok {
		return key, errors.New("nobody there")
	}
	return key, nil
}

func pairNo(k int) *keys.Pair { return keys.FromSeed([32]byte{byte(k), byte(k >> 8), 1}) }

func addrNo(k int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(k >> 8), byte(k), 1}), 22021)
}

// open makes an authority whose first n nodes live where they say.
func open(t *testing.T, dir string, n int) (*Authority, *world) {
	t.Helper()
	w := &world{home: make(map[netip.AddrPort][32]byte)}
	for k := 1; k <= n; k++ {
		w.put(addrNo(k), pairNo(k).Ed25519())
	}
	a, err := New(Config{Dir: dir, Rules: threes, Ping: w.ping, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return a, w
}

func (a *Authority) join(t *testing.T, k int) {
	t.Helper()
	if err := a.Announce(t.Context(), NewRecord(pairNo(k), addrNo(k), time.Now())); err != nil {
		t.Fatalf("node %d: %v", k, err)
	}
}

// sizes gives the sizes of the swarms, and how many nodes are in none.
func sizes(l *swarm.List) (in []int, out int) {
	for _, id := range l.Swarms() {
		in = append(in, len(l.Members(id)))
	}
	slices.Sort(in)
	for _, n := range l.Nodes {
		if n.Swarm == swarm.None {
			out++
		}
	}
	return in, out
}

func TestNodesJoin(t *testing.T) {
	a, _ := open(t, t.TempDir(), 9)
	hashes := map[[32]byte]bool{a.List().Hash: true}
	for k := 1; k <= 9; k++ {
		before := a.List()
		a.join(t, k)
		l := a.List()
		if l.Height != before.Height+1 || hashes[l.Hash] {
			t.Errorf("node %d: height %d after %d, hash %x", k, l.Height, before.Height, l.Hash)
		}
		hashes[l.Hash] = true
		n, ok := l.Find(pairNo(k).Ed25519())
		if !ok || n.Address != addrNo(k) || n.X25519 != pairNo(k).X25519() || n.Swarm == swarm.None {
			t.Errorf("node %d is listed as %+v", k, n)
		}
	}
	if in, out := sizes(a.List()); !slices.Equal(in, []int{3, 3, 3}) || out != 0 {
		t.Errorf("swarms of %v, %d without", in, out)
	}
	before := a.List()
	a.join(t, 5)
	if a.List() != before {
		t.Error("a second announcement without news made a new list")
	}
}

func TestAnnouncementsThatAreRefused(t *testing.T) {
	a, w := open(t, t.TempDir(), 2)
	now := time.Now()
	first := NewRecord(pairNo(1), addrNo(1), now)
	if err := a.Announce(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	w.put(addrNo(9), pairNo(2).Ed25519())
	forged := NewRecord(pairNo(2), addrNo(2), now)
	forged.Ed25519 = pairNo(1).Ed25519()
	moved := NewRecord(pairNo(2), addrNo(2), now)
	moved.Address = addrNo(9)
	later := NewRecord(pairNo(2), addrNo(2), now)
	later.Timestamp++
	tests := []struct {
		name   string
		record Record
	}{
		{"an older one than the last", NewRecord(pairNo(1), addrNo(1), now.Add(-time.Second))},
		{"one from the past", NewRecord(pairNo(2), addrNo(2), now.Add(-recordWindow-time.Minute))},
		{"one from the future", NewRecord(pairNo(2), addrNo(2), now.Add(recordWindow+time.Minute))},
		{"one with another's key", forged},
		{"one with a changed address", moved},
		{"one with a changed time", later},
		{"one where nobody lives", NewRecord(pairNo(2), addrNo(7), now)},
		{"one where somebody else lives", NewRecord(pairNo(2), addrNo(1), now)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := a.List()
			if err := a.Announce(t.Context(), tt.record); !errors.Is(err, ErrRecord) {
				t.Errorf("got %v", err)
			}
			if a.List() != before {
				t.Error("the list changed")
			}
		})
	}
}

func TestNodeMoves(t *testing.T) {
	a, w := open(t, t.TempDir(), 3)
	for k := 1; k <= 3; k++ {
		a.join(t, k)
	}
	before, _ := a.List().Find(pairNo(1).Ed25519())
	w.put(addrNo(100), pairNo(1).Ed25519())
	if err := a.Announce(t.Context(), NewRecord(pairNo(1), addrNo(100), time.Now())); err != nil {
		t.Fatal(err)
	}
	after, _ := a.List().Find(pairNo(1).Ed25519())
	if after.Address != addrNo(100) || after.Swarm != before.Swarm || len(a.List().Nodes) != 3 {
		t.Errorf("listed as %+v of %d", after, len(a.List().Nodes))
	}
}

func TestListHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w := open(t, t.TempDir(), maxNodes+1)
		for k := 1; k <= maxNodes; k++ {
			a.join(t, k)
		}
		more := func() error {
			return a.Announce(t.Context(), NewRecord(pairNo(maxNodes+1), addrNo(maxNodes+1), time.Now()))
		}
		if err := more(); !errors.Is(err, ErrFull) {
			t.Errorf("got %v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go a.watch(ctx)
		w.remove(addrNo(7))
		time.Sleep(forgetAfter + time.Minute)
		newcomer := addrNo(maxNodes + 1)
		w.remove(newcomer)
		if err := more(); !errors.Is(err, ErrRecord) {
			t.Errorf("a newcomer who does not answer: %v", err)
		}
		a.mu.Lock()
		if a.nodes[pairNo(7).Ed25519()] == nil {
			t.Error("a newcomer who does not answer has taken the place of another")
		}
		a.mu.Unlock()
		w.put(newcomer, pairNo(maxNodes+1).Ed25519())
		if err := more(); err != nil {
			t.Errorf("after a node has been away for long: %v", err)
		}
		if _, ok := a.List().Find(pairNo(7).Ed25519()); ok {
			t.Error("the node that left is still listed")
		}
	})
}

func TestNodeGoesAwayAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w := open(t, t.TempDir(), 9)
		for k := 1; k <= 9; k++ {
			a.join(t, k)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go a.watch(ctx)
		in := func() bool {
			n, ok := a.List().Find(pairNo(4).Ed25519())
			return ok && n.Swarm != swarm.None
		}

		stable := a.List()
		time.Sleep(10*time.Minute + 5*time.Second) // so that nothing below falls on a tick
		if a.List() != stable {
			t.Error("the list changed while nothing happened")
		}
		w.remove(addrNo(4))
		time.Sleep(20 * time.Second)
		if !in() {
			t.Error("out of its swarm too early")
		}
		time.Sleep(20 * time.Second)
		if in() {
			t.Error("still in a swarm after 40 s")
		}
		if sizes, out := sizes(a.List()); out != 1 || !slices.Equal(sizes, []int{4, 4}) {
			t.Errorf("swarms of %v, %d without", sizes, out)
		}
		// Somebody else at the address is not the node.
		w.put(addrNo(4), pairNo(77).Ed25519())
		time.Sleep(time.Minute)
		if in() {
			t.Error("another node's answer was taken for the node's")
		}
		w.put(addrNo(4), pairNo(4).Ed25519())
		time.Sleep(11 * time.Second)
		if !in() {
			t.Error("not back in a swarm")
		}
	})
}

func TestAuthorityRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, _ := open(t, dir, 9)
		for k := 1; k <= 9; k++ {
			a.join(t, k)
		}
		b, w := open(t, dir, 9)
		before, after := a.List(), b.List()
		if after.Height != before.Height || after.Hash != before.Hash || !slices.Equal(after.Nodes, before.Nodes) {
			t.Errorf("%d nodes at %d, before %d at %d", len(after.Nodes), after.Height, len(before.Nodes), before.Height)
		}
		if a.Pin() != b.Pin() {
			t.Error("another certificate")
		}
		// Those that do not come back in time are out.
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go b.watch(ctx)
		w.remove(addrNo(1))
		time.Sleep(41 * time.Second)
		if _, out := sizes(b.List()); out != 1 {
			t.Errorf("%d nodes away", out)
		}
	})
}

func TestRecordText(t *testing.T) {
	r := NewRecord(pairNo(1), addrNo(1), time.UnixMilli(1_700_000_000_123))
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRecord(b)
	if err != nil || got.Ed25519 != r.Ed25519 || got.Address != r.Address || got.Timestamp != r.Timestamp || !slices.Equal(got.Signature, r.Signature) {
		t.Errorf("%s came back as %+v, %v", b, got, err)
	}
	if err := got.Check(time.UnixMilli(1_700_000_000_123).Add(recordWindow)); err != nil {
		t.Errorf("check: %v", err)
	}
	for _, change := range [][2]string{
		{`"127.0.1.1:22021"`, `"127.0.1.1:0"`},
		{`"127.0.1.1:22021"`, `"127.0.1.1"`},
		{`"127.0.1.1:22021"`, `"0.0.0.0:22021"`},
		{`"127.0.1.1:22021"`, `"255.255.255.255:22021"`},
		{`"127.0.1.1:22021"`, `"224.0.0.1:22021"`},
		{`"127.0.1.1:22021"`, `"[::1]:22021"`},
		{`"127.0.1.1:22021"`, `"[::ffff:127.0.1.1]:22021"`},
		{`"127.0.1.1:22021"`, `"example.org:22021"`},
		{`"signature":"`, `"signature":"AA`},
		{`"signature":"`, `"signature":"!`},
		{`"pubkey_ed25519":"`, `"pubkey_ed25519":"00`},
		{`"pubkey_ed25519":"`, `"pubkey_ed25519":"x`},
		{`"timestamp":1700000000123`, `"timestamp":"1700000000123"`},
		{`{`, `{"more":1,`},
		{`{`, `[`},
	} {
		bad := strings.Replace(string(b), change[0], change[1], 1)
		if bad == string(b) {
			t.Fatalf("%s is not in %s", change[0], b)
		}
		if _, err := ParseRecord([]byte(bad)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	r := NewRecord(pairNo(1), addrNo(1), time.UnixMilli(1_700_000_000_123))
	b, _ := json.Marshal(r)
	f.Add(b)
	f.Add([]byte(`{"address":"1.2.3.4:5","timestamp":-9223372036854775808}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Errorf("error %v", err)
			}
			return
		}
		_ = r.Check(time.UnixMilli(1_700_000_000_123))
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseRecord(again); err != nil || fmt.Sprint(back) != fmt.Sprint(r) {
			t.Errorf("%+v came back as %+v, %v", r, back, err)
		}
	})
}
