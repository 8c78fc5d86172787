package devnet_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger"
	"hearth/node/seed"
)

// messengerNetwork starts nine nodes, which end with the test.
func messengerNetwork(t testing.TB) *devnet.Network {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n, err := devnet.Start(ctx, devnet.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing the network: %v", err)
		}
	})
	return n
}

// talker is a messenger at work and everything that it connects to.
type talker struct {
	*messenger.Messenger
	t    testing.TB
	id   string
	sub  *messenger.Subscription
	stop func()

	mu      sync.Mutex
	dialled map[netip.AddrPort]int
}

func (w *talker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialled[netip.MustParseAddrPort(address)]++
	w.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, address)
}

// nodes are the addresses other than the seed's that were dialled.
func (w *talker) nodes(n *devnet.Network) []netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	var nodes []netip.AddrPort
	for a := range w.dialled {
		if fmt.Sprintf("https://%s/json_rpc", a) != n.SeedURL() {
			nodes = append(nodes, a)
		}
	}
	return nodes
}

func talk(t testing.TB, n *devnet.Network, seed byte, change func(*messenger.Config)) *talker {
	t.Helper()
	return talkTo(t, n.Seed(), seed, change)
}

// talkTo starts a messenger that has its node list from source, which it closes.
func talkTo(t testing.TB, source *seed.Client, who byte, change func(*messenger.Config)) *talker {
	t.Helper()
	a := account.New(account.Seed{who})
	w := &talker{t: t, id: a.ID().String(), dialled: make(map[netip.AddrPort]int)}
	source.Dial = w.dial
	cfg := messenger.Config{
		Account:      a,
		DBPath:       filepath.Join(t.TempDir(), "messenger.db"),
		Seeds:        []messenger.NodeSource{source},
		Dial:         w.dial,
		PollInterval: 200 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.Messenger, err = messenger.New(cfg); err != nil {
		t.Fatal(err)
	}
	if w.sub, err = w.Subscribe(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	w.stop = sync.OnceFunc(func() { cancel(); wait.Wait(); source.Close() })
	t.Cleanup(w.stop)
	return w
}

// await returns the next event that is wanted.
func (w *talker) await(what string, wanted func(*api.Event) bool) *api.Event {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	for {
		e, err := w.sub.Next(ctx)
		if err != nil {
			st, _ := w.State(context.Background(), nil)
			w.t.Fatalf("waiting for %s: %v; state %v", what, err, st)
		}
		if wanted(e) {
			return e
		}
	}
}

func (w *talker) hears(from *talker, text string) {
	w.t.Helper()
	e := w.await(text, func(e *api.Event) bool { return e.GetReceived() != nil || e.GetRequest() != nil })
	got := e.GetReceived()
	if got == nil {
		got = e.GetRequest()
	}
	if got.Text != text || got.SessionId != from.id {
		w.t.Fatalf("received %q from %s, want %q from %s", got.Text, got.SessionId, text, from.id)
	}
}

func (w *talker) says(to *talker, text string) *api.SendReply {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	reply, err := w.Send(ctx, &api.SendRequest{To: to.id, Text: text})
	if err != nil {
		w.t.Fatalf("sending %q: %v", text, err)
	}
	return reply
}

// knows makes contacts of people, who are strangers otherwise.
func (w *talker) knows(who ...*talker) {
	w.t.Helper()
	for _, other := range who {
		if _, err := w.AddContact(context.Background(), &api.AddContactRequest{SessionId: other.id}); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestTwoMessengersTalkAndConnectToTheSeedAndGuardsOnly(t *testing.T) {
	n := messengerNetwork(t)
	file := filepath.Join(t.TempDir(), "alice.db")
	alice := talk(t, n, 1, func(c *messenger.Config) { c.DBPath = file })
	bob := talk(t, n, 2, nil)
	for i := range 3 {
		text := fmt.Sprintf("hello Bob %d", i)
		if sent := alice.says(bob, text); sent.Stored != 3 || sent.Swarm != 3 {
			t.Errorf("stored by %d of %d members", sent.Stored, sent.Swarm)
		}
		bob.hears(alice, text)
		text = fmt.Sprintf("hello Alice %d", i)
		bob.says(alice, text)
		alice.hears(bob, text)
	}
	for _, w := range []*talker{alice, bob} {
		guards := w.nodes(n)
		if len(guards) == 0 || len(guards) > 2 {
			t.Errorf("connected to the nodes %v, want one guard or two", guards)
		}
		for _, g := range guards {
			if !isNode(n, g) {
				t.Errorf("connected to %v, which is no node", g)
			}
		}
		st, err := w.State(t.Context(), nil)
		if err != nil || st.KnownNodes != 9 || st.Paths != 2 || st.Trouble != "" {
			t.Errorf("state %v, %v", st, err)
		}
	}

	// After a restart neither the seed nor any other guard is called.
	before := alice.nodes(n)
	alice.stop()
	alice = talk(t, n, 1, func(c *messenger.Config) {
		c.DBPath = file
		c.Seeds = nil
	})
	alice.says(bob, "again")
	bob.hears(alice, "again")
	bob.says(alice, "and again")
	alice.hears(bob, "and again")
	// Before, possibly only one of the two guards was ever needed.
	all := append(slices.Clone(before), alice.nodes(n)...)
	slices.SortFunc(all, netip.AddrPort.Compare)
	if all = slices.Compact(all); len(all) > 2 {
		t.Errorf("guards %v and then %v", before, alice.nodes(n))
	}
	reply, err := alice.Messages(t.Context(), &api.MessagesRequest{With: bob.id})
	texts := slices.DeleteFunc(reply.GetMessages(), func(m *api.Message) bool { return m.Kind != api.Message_TEXT })
	if err != nil || len(texts) != 8 {
		t.Errorf("%d messages in the conversation, want 8; %v", len(texts), err)
	}
}

func isNode(n *devnet.Network, a netip.AddrPort) bool {
	for k := 1; k <= 9; k++ {
		if n.Address(k) == a {
			return true
		}
	}
	return false
}

func TestGarbageInAnInboxDoesNotStopTheOthers(t *testing.T) {
	n := messengerNetwork(t)
	alice := talk(t, n, 1, nil)
	bob := account.New(account.Seed{2}).ID()
	_, members := n.List().Of(bob)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	for i, garbage := range [][]byte{[]byte("garbage"), {}, bytes.Repeat([]byte{0xff}, 76_800)} {
		body := fmt.Sprintf(`{"method":"store","params":{"pubkey":"%s","timestamp":%d,"ttl":60000,"data":"%s"}}`,
			bob, time.Now().UnixMilli(), base64.StdEncoding.EncodeToString(garbage))
		resp, err := client.Post("https://"+members[i%len(members)].Address.String()+"/storage_rpc/v1", "application/json", bytes.NewBufferString(body))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("storing garbage: %d %s", resp.StatusCode, text)
		}
	}
	for i := range 3 { // while Bob is away
		if _, err := alice.Send(t.Context(), &api.SendRequest{To: bob.String(), Text: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	reader := talk(t, n, 2, nil)
	reader.knows(alice)
	for i := range 3 {
		reader.hears(alice, fmt.Sprint(i))
	}
	if st, err := reader.State(t.Context(), nil); err != nil || st.Unreadable != 3 || st.Unread != 3 {
		t.Errorf("state %v, %v", st, err)
	}
}

func TestAMessengerWithAWrongClockTalks(t *testing.T) {
	n := messengerNetwork(t)
	bob := talk(t, n, 2, nil)
	for i, off := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		alice := talk(t, n, byte(10+i), func(c *messenger.Config) {
			c.Now = func() time.Time { return time.Now().Add(off) }
		})
		sent := alice.says(bob, "what time is it?")
		if wrong := time.Since(time.UnixMilli(sent.Timestamp)).Abs(); wrong > time.Minute {
			t.Errorf("clock off by %v: the message is off by %v", off, wrong)
		}
		bob.hears(alice, "what time is it?")
		bob.says(alice, "late")
		alice.hears(bob, "late")
	}
}

func TestAMessengerOutlivesItsNodes(t *testing.T) {
	n := messengerNetwork(t)
	alice, bob := talk(t, n, 1, nil), talk(t, n, 2, nil)
	alice.says(bob, "before")
	bob.hears(alice, "before")

	// One of Alice's guards ends, and so does one member of Bob's swarm.
	guard := alice.nodes(n)[0]
	_, members := n.List().Of(account.New(account.Seed{2}).ID())
	stopped := 0
	for k := 1; k <= 9; k++ {
		if a := n.Address(k); a == guard || a == members[0].Address {
			if err := n.StopNode(k); err != nil {
				t.Fatal(err)
			}
			stopped++
		}
	}
	if stopped == 0 {
		t.Fatal(errors.New("no node was stopped"))
	}
	for i := range 5 {
		text := fmt.Sprint("after ", i)
		if sent := alice.says(bob, text); sent.Stored == 0 || sent.Stored > sent.Swarm {
			t.Errorf("stored by %d of %d", sent.Stored, sent.Swarm)
		}
		bob.hears(alice, text)
	}
}

func BenchmarkSendingAMessage(b *testing.B) {
	n := messengerNetwork(b)
	alice := talk(b, n, 1, nil)
	to := account.New(account.Seed{2}).ID().String()
	for b.Loop() {
		if _, err := alice.Send(b.Context(), &api.SendRequest{To: to, Text: "hello"}); err != nil {
			b.Fatal(err)
		}
	}
}
