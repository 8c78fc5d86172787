package messenger

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path/pathtest"
)

// outage lets all nodes answer storage requests with f, nil for as ever.
func outage(n *swarmtest.Network, f pathtest.Handler) {
	for _, node := range n.Nodes {
		n.Answer(node.Ed25519, f)
	}
}

func down(context.Context, pathtest.Node, []byte) (int, any) { return 503, "Snode not ready" }

func isStore(body []byte) bool { return bytes.Contains(body, []byte(`"method":"store"`)) }

// idle waits until nothing is left to be delivered.
func (r *running) idle() {
	r.t.Helper()
	for range 1000 {
		if r.session.archive.Waiting() == 0 {
			return
		}
		time.Sleep(time.Second)
	}
	r.t.Fatalf("%d parcels are left\n%s", r.session.archive.Waiting(), r.log)
}

func TestAMessageWaitsForTheNetworkOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		file := filepath.Join(t.TempDir(), "db")
		alice, stop := start(t, n, Config{Account: a, DBPath: file})
		bob, _ := start(t, n, Config{Account: b})
		bob.befriend(a.ID())
		time.Sleep(time.Minute)
		outage(n, down)
		began := time.Now()
		reply := must[*api.SendReply](t)(alice.Send(t.Context(), &api.SendRequest{To: b.ID().String(), Text: "waits"}))
		if reply.State != api.Message_WAITING || reply.Stored != 0 || time.Since(began) != sendPatience {
			t.Errorf("after %v: %v", time.Since(began), reply)
		}
		if st := alice.now(); st.Waiting != 1 {
			t.Errorf("state %v", st)
		}
		hash := alice.lines(b.ID())[0].Hash
		stop()
		time.Sleep(time.Hour)
		alice, _ = start(t, n, Config{Account: a, DBPath: file})
		time.Sleep(20 * time.Minute)
		if lines := alice.lines(b.ID()); len(lines) != 1 || lines[0].State != api.Message_WAITING || lines[0].Hash != hash {
			t.Errorf("after a restart: %v", lines)
		}
		outage(n, nil)
		m := alice.updated(api.Update_STATE)
		if m.Id != reply.Id || m.State != api.Message_STORED || m.Stored != 3 || m.Swarm != 3 || m.Hash != hash {
			t.Errorf("delivered: %v", m)
		}
		if got := bob.received(); got.Text != "waits" || got.Timestamp != reply.Timestamp || got.Hash != hash {
			t.Errorf("received %v", got)
		}
		alice.idle()
		if st := alice.now(); st.Waiting != 0 {
			t.Errorf("state %v", st)
		}
		bob.quiet(time.Minute, func(e *api.Event) bool { return e.GetReceived() != nil })
	})
}

func TestManyMessagesWaitAndKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := two(t, n)
		time.Sleep(time.Minute)
		outage(n, down)
		var wait sync.WaitGroup
		var want []string
		for i := range 60 {
			want = append(want, fmt.Sprint(i))
			wait.Go(func() {
				if _, err := alice.Send(context.Background(), &api.SendRequest{To: b.ID().String(), Text: want[i]}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		wait.Wait()
		outage(n, nil)
		alice.idle()
		time.Sleep(time.Minute)
		if got := bob.texts(a.ID()); !slices.Equal(got[max(0, len(got)-50):], want[10:]) {
			t.Errorf("received %q", got)
		}
		times := make(map[int64]bool)
		for _, m := range alice.lines(b.ID()) {
			times[m.Timestamp] = true
		}
		if len(times) != 60 {
			t.Errorf("%d different times", len(times))
		}
	})
}

func TestALostAnswerStoresNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := two(t, n)
		var mu sync.Mutex
		lost := 0
		outage(n, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
			status, reply := n.Honest(ctx, node, body)
			mu.Lock()
			defer mu.Unlock()
			if isStore(body) && lost < 7 {
				lost++
				return 500, "lost"
			}
			return status, reply
		})
		sent := must[*api.SendReply](t)(alice.Send(t.Context(), &api.SendRequest{To: b.ID().String(), Text: "once"}))
		if got := bob.received(); got.Text != "once" || got.Hash != sent.Hash {
			t.Errorf("received %v, sent %v", got, sent)
		}
		alice.idle()
		time.Sleep(time.Minute)
		if got := bob.texts(a.ID()); !slices.Equal(got, []string{"once"}) {
			t.Errorf("received %q", got)
		}
		for _, node := range n.Swarm(b.ID()) {
			if kept := len(retrieve(t, n, node, b)); kept != 1 {
				t.Errorf("a member keeps %d messages", kept)
			}
		}
	})
}

// A copy of the database at any moment is what a power cut at that moment leaves.
// Whatever was written down by then arrives, and nothing arrives twice.
func TestAPowerCutAtAnyMomentLosesAndDoublesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		dir := t.TempDir()
		alice, stopAlice := start(t, n, Config{Account: a})
		bob, stopBob := start(t, n, Config{Account: b})
		alice.befriend(b.ID())
		bob.befriend(a.ID())

		type cut struct {
			file  string
			own   *account.Account
			acked []string
		}
		var mu sync.Mutex
		var cuts []cut
		var acked []string
		snapshot := func() {
			mu.Lock()
			defer mu.Unlock()
			for _, r := range []*running{alice, bob} {
				var image bytes.Buffer
				if _, err := r.session.archive.WriteTo(&image); err != nil {
					t.Error(err)
				}
				file := filepath.Join(dir, fmt.Sprint(len(cuts)))
				if err := os.WriteFile(file, image.Bytes(), 0o600); err != nil {
					t.Error(err)
				}
				cuts = append(cuts, cut{file, r.session.own, slices.Clone(acked)})
			}
		}
		calls := 0
		outage(n, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
			if !isStore(body) && !bytes.Contains(body, []byte(`"retrieve"`)) {
				return n.Honest(ctx, node, body)
			}
			snapshot()
			status, reply := n.Honest(ctx, node, body)
			mu.Lock()
			calls++
			lose := isStore(body) && calls%4 == 0
			mu.Unlock()
			snapshot()
			if lose {
				return 500, "lost"
			}
			return status, reply
		})
		var want []string
		for i := range 6 {
			text := fmt.Sprint("message ", i)
			want = append(want, text)
			reply, err := alice.Send(t.Context(), &api.SendRequest{To: b.ID().String(), Text: text})
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			acked = append(acked, text)
			mu.Unlock()
			if i == 3 {
				must[*api.Message](t)(alice.React(t.Context(), &api.ReactRequest{With: b.ID().String(), Id: reply.Id, Emoji: "👍"}))
			}
		}
		alice.idle()
		time.Sleep(20 * time.Second)
		outage(n, nil)
		stopAlice()
		stopBob()
		if len(cuts) < 40 {
			t.Fatalf("only %d moments", len(cuts))
		}
		// Every so many moments, so that the test stays short.
		for i := 0; i < len(cuts); i += max(1, len(cuts)/48) {
			c := cuts[i]
			r, stop := start(t, n, Config{Account: c.own, DBPath: c.file})
			time.Sleep(20 * time.Second)
			r.idle()
			other := b.ID()
			if c.own == b {
				other = a.ID()
			}
			// Alice's own copies in her swarm bring back what she wrote later, and
			// Bob's swarm has it all.
			got := r.texts(other)
			slices.Sort(got)
			for _, text := range c.acked {
				if !slices.Contains(got, text) {
					t.Errorf("moment %d: %q is lost; there is %q", i, text, got)
				}
			}
			if len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("moment %d: doubled: %q", i, got)
			}
			for _, m := range r.lines(other) {
				if m.State == api.Message_WAITING || m.State == api.Message_FAILED {
					t.Errorf("moment %d: %v", i, m)
				}
			}
			stop()
		}
		// And whoever received all the while has everything once.
		last, _ := start(t, n, Config{Account: b})
		last.befriend(a.ID())
		time.Sleep(time.Minute)
		if got := last.texts(a.ID()); !slices.Equal(got, want) {
			t.Errorf("a new device receives %q, want %q", got, want)
		}
		for _, m := range last.lines(a.ID()) {
			if reactions := len(m.Reactions); (m.Text == "message 3") != (reactions == 1) {
				t.Errorf("%d reactions on %q", reactions, m.Text)
			}
		}
	})
}

func TestWhatNeverHealsFailsWithAReason(t *testing.T) {
	t.Run("the nodes refuse it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			alice, bob, _, b := two(t, n)
			outage(n, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
				if isStore(body) && bytes.Contains(body, []byte(b.ID().String())) {
					return 400, "invalid request"
				}
				return n.Honest(ctx, node, body)
			})
			_, err := alice.Send(t.Context(), &api.SendRequest{To: b.ID().String(), Text: "refused"})
			if err == nil || !strings.Contains(err.Error(), reasonRefused) {
				t.Errorf("sending: %v", err)
			}
			m := alice.event("the failure", func(e *api.Event) bool { return e.GetUpdated().GetMessage().GetState() == api.Message_FAILED }).GetUpdated().Message
			if m.Failure != reasonRefused {
				t.Errorf("message %v", m)
			}
			outage(n, nil)
			alice.send(b.ID(), "fine") // it holds up nothing
			if got := bob.received(); got.Text != "fine" {
				t.Errorf("received %v", got)
			}
		})
	})
	t.Run("its time is over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			alice, bob, a, b := two(t, n)
			must[*api.Contact](t)(alice.SetTimer(t.Context(), &api.SetTimerRequest{With: b.ID().String(), Timer: &api.Timer{Type: api.Timer_AFTER_SEND, Seconds: 600}}))
			alice.idle()
			outage(n, down)
			must[*api.SendReply](t)(alice.Send(t.Context(), &api.SendRequest{To: b.ID().String(), Text: "late"}))
			time.Sleep(20 * time.Minute)
			outage(n, nil)
			m := alice.event("the failure", func(e *api.Event) bool { return e.GetUpdated().GetMessage().GetState() == api.Message_FAILED }).GetUpdated().Message
			if m.Failure != reasonLate || m.Expires == 0 {
				t.Errorf("message %v", m)
			}
			time.Sleep(time.Minute)
			if slices.Contains(bob.texts(a.ID()), "late") {
				t.Error("it arrived")
			}
			alice.updated(api.Update_EXPIRED)
		})
	})
}

// Nodes keep nothing for less than ten seconds, and a moment of those has always
// passed.
func TestTheShortestTimerArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, _, b := two(t, n)
		must[*api.Contact](t)(alice.SetTimer(t.Context(), &api.SetTimerRequest{With: b.ID().String(), Timer: &api.Timer{Type: api.Timer_AFTER_SEND, Seconds: 10}}))
		alice.idle()
		outage(n, down)
		time.AfterFunc(2*time.Second, func() { outage(n, nil) })
		must[*api.SendReply](t)(alice.Send(t.Context(), &api.SendRequest{To: b.ID().String(), Text: "quick"}))
		if got := bob.received(); got.Text != "quick" {
			t.Errorf("received %v", got)
		}
	})
}

func TestAMessageThatIsUnsentWhileItWaitsNeverArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := two(t, n)
		time.Sleep(time.Minute)
		outage(n, down)
		sent := must[*api.SendReply](t)(alice.Send(t.Context(), &api.SendRequest{To: b.ID().String(), Text: "better not"}))
		must[*api.Message](t)(alice.Unsend(t.Context(), &api.UnsendRequest{With: b.ID().String(), Id: sent.Id}))
		if st := alice.now(); st.Waiting > 1 {
			t.Errorf("state %v", st)
		}
		outage(n, nil)
		alice.idle()
		time.Sleep(time.Minute)
		if lines := bob.lines(a.ID()); len(lines) != 0 {
			t.Errorf("it arrived: %v", lines)
		}
		if st := alice.now(); st.Waiting != 0 {
			t.Errorf("state %v", st)
		}
	})
}

func TestAMessageWrittenBeforeTheTimeIsKnownGetsTheRightOne(t *testing.T) {
	for _, off := range []time.Duration{100 * 24 * time.Hour, -100 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			a, b := person(1), person(2)
			file := filepath.Join(t.TempDir(), "db")
			cfg := Config{Account: a, DBPath: file, Now: func() time.Time { return time.Now().Add(off) }}
			alice, stop := start(t, n, cfg)
			outage(n, down)
			var ids []uint64
			for i := range 3 {
				reply := must[*api.SendReply](t)(alice.Send(t.Context(), &api.SendRequest{To: b.ID().String(), Text: fmt.Sprint(i)}))
				if reply.State != api.Message_WAITING {
					t.Errorf("sent %v", reply)
				}
				ids = append(ids, reply.Id)
			}
			stop()
			alice, _ = start(t, n, cfg)
			bob, _ := start(t, n, Config{Account: b})
			bob.befriend(a.ID())
			outage(n, nil)
			for i := range 3 {
				got := bob.received()
				if wrong := time.Since(time.UnixMilli(got.Timestamp)).Abs(); got.Text != fmt.Sprint(i) || wrong > time.Minute {
					t.Errorf("received %v, off by %v", got, wrong)
				}
			}
			alice.idle()
			for i, m := range alice.lines(b.ID()) {
				if m.Id != ids[i] || m.State != api.Message_STORED || time.Since(time.UnixMilli(m.Timestamp)).Abs() > time.Hour {
					t.Errorf("own %v", m)
				}
				if _, err := alice.session.archive.Find(b.ID(), true, m.Timestamp); err != nil {
					t.Errorf("it is not found under its time: %v", err)
				}
			}
			alice.send(b.ID(), "on")
			if c, _ := alice.session.archive.Contact(b.ID()); c.LastText != "on" {
				t.Errorf("contact %+v", c)
			}
		})
	}
}

func TestAFullOutboxSaysSo(t *testing.T) {
	s := offline(t, person(1))
	p := archive.Parcel{Kind: archive.ParcelStore, To: person(2).ID()}
	if _, err := s.archive.Enqueue(slices.Repeat([]archive.Parcel{p}, archive.MaxOutbox)...); err != nil {
		t.Fatal(err)
	}
	_, err := s.m.Send(t.Context(), &api.SendRequest{To: person(2).ID().String(), Text: "one more"})
	if err == nil || !strings.Contains(err.Error(), ErrFull.Error()) {
		t.Errorf("sending: %v", err)
	}
	// What the own swarm is asked for out of courtesy is left out, not an error.
	if _, err := s.archive.Enqueue(archive.Parcel{Kind: archive.ParcelDelete, Hashes: []string{"x"}}); err != nil {
		t.Error(err)
	}
}
