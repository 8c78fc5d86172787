package messenger

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path/pathtest"
	"hearth/node/swarm"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

func person(b byte) *account.Account { return account.New(account.Seed{b}) }

// running is a messenger at work.
type running struct {
	*Messenger
	t   testing.TB
	sub *Subscription
	log *lockedBuffer
}

// start runs a messenger until the test ends or stop is called.
func start(t testing.TB, n *swarmtest.Network, cfg Config) (r *running, stop func()) {
	t.Helper()
	if cfg.DBPath == "" {
		cfg.DBPath = filepath.Join(t.TempDir(), "messenger.db")
	}
	if cfg.Seeds == nil {
		cfg.Seeds = []NodeSource{n}
	}
	if cfg.Dial == nil {
		cfg.Dial = n.Dial
	}
	r = &running{t: t, log: &lockedBuffer{}}
	cfg.Log = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if r.Messenger, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if r.sub, err = r.Subscribe(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wait.Wait() }) }
	t.Cleanup(stop)
	return r, stop
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// next waits for the next message, received from anybody or sent.
func (r *running) next() *api.Message {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		e, err := r.sub.Next(ctx)
		if err != nil {
			r.t.Fatalf("waiting for a message: %v\n%s", err, r.log)
		}
		if m := e.GetReceived(); m != nil {
			return m
		}
		if m := e.GetRequest(); m != nil {
			return m
		}
		if m := e.GetSent(); m != nil {
			return m
		}
	}
}

func (r *running) send(to account.ID, text string) *api.SendReply {
	r.t.Helper()
	reply, err := r.Send(context.Background(), &api.SendRequest{To: to.String(), Text: text})
	if err != nil {
		r.t.Fatalf("sending: %v\n%s", err, r.log)
	}
	if reply.State != api.Message_STORED {
		r.t.Fatalf("sending left %q in state %v\n%s", text, reply.State, r.log)
	}
	m := r.next()
	for m.Outgoing && m.Id < reply.Id { // one that was left to the outbox
		m = r.next()
	}
	if !m.Outgoing || m.Text != text || m.Id != reply.Id {
		r.t.Fatalf("the event of sending %q was %v", text, m)
	}
	return reply
}

// befriend makes contacts of people, who are strangers otherwise.
func (r *running) befriend(who ...account.ID) {
	r.t.Helper()
	for _, id := range who {
		if _, err := r.AddContact(context.Background(), &api.AddContactRequest{SessionId: id.String()}); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *running) now() *api.MessengerState {
	st, err := r.State(context.Background(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return st
}

func (r *running) texts(with account.ID) []string {
	r.t.Helper()
	reply, err := r.Messages(context.Background(), &api.MessagesRequest{With: with.String()})
	if err != nil {
		r.t.Fatal(err)
	}
	var texts []string
	for _, m := range reply.Messages {
		texts = append(texts, m.Text)
	}
	return texts
}

// put stores bytes in somebody's inbox, as any stranger may.
func put(t testing.TB, n *swarmtest.Network, to account.ID, data []byte) {
	t.Helper()
	body := fmt.Sprintf(`{"method":"store","params":{"pubkey":"%s","namespace":0,"timestamp":%d,"ttl":86400000,"data":"%s"}}`,
		to, time.Now().UnixMilli(), base64.StdEncoding.EncodeToString(data))
	if status, reply := n.Honest(t.Context(), n.Swarm(to)[0], []byte(body)); status != 200 {
		t.Fatalf("storing: %d %v", status, reply)
	}
}

func seal(t testing.TB, from *account.Account, to account.ID, content *sessionpb.Content) []byte {
	t.Helper()
	data, err := wire.Seal(rand.Reader, from, to, content)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTwoPeopleTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		alice, stopAlice := start(t, n, Config{Account: a, DisplayName: "Alice"})
		bob, stopBob := start(t, n, Config{Account: b})
		bob.befriend(a.ID())
		sent := alice.send(b.ID(), "hello Bob")
		if sent.Stored != 3 || sent.Swarm != 3 {
			t.Errorf("stored by %d of %d", sent.Stored, sent.Swarm)
		}
		got := bob.next()
		want := &api.Message{SessionId: a.ID().String(), Text: "hello Bob", Timestamp: sent.Timestamp, Hash: sent.Hash, Id: 1}
		if !proto.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		synctest.Wait() // for the end of the round that brought it
		if st := bob.now(); st.Unread != 1 || st.Account != api.MessengerState_OPEN || st.SessionId != b.ID().String() ||
			st.Paths != 2 || st.KnownNodes != 9 || st.LastPoll == 0 || st.Trouble != "" {
			t.Errorf("Bob's state: %v", st)
		}
		contacts, err := bob.Contacts(t.Context(), nil)
		if err != nil || len(contacts.Contacts) != 1 || contacts.Contacts[0].Name != "Alice" || contacts.Contacts[0].LastText != "hello Bob" {
			t.Errorf("Bob's contacts: %v, %v", contacts, err)
		}
		// Bob answers by the name that Alice gave herself.
		if _, err := bob.Send(t.Context(), &api.SendRequest{To: "alice", Text: "hello Alice"}); err != nil {
			t.Fatal(err)
		}
		if got := alice.next(); got.Text != "hello Alice" || got.SessionId != b.ID().String() {
			t.Errorf("Alice got %v", got)
		}
		for i := range 20 {
			alice.send(b.ID(), fmt.Sprint(i))
		}
		bob.next() // his own event of sending
		for i := range 20 {
			if got := bob.next(); got.Text != fmt.Sprint(i) {
				t.Fatalf("message %d is %q", i, got.Text)
			}
		}
		reply, err := bob.Messages(t.Context(), &api.MessagesRequest{With: a.ID().String(), Limit: 5, MarkRead: true})
		if err != nil || len(reply.Messages) != 5 || reply.Messages[4].Text != "19" || reply.Messages[4].Read {
			t.Errorf("the newest five: %v, %v", reply, err)
		}
		if st := bob.now(); st.Unread != 0 {
			t.Errorf("%d unread after reading", st.Unread)
		}
		stopAlice()
		stopBob()
		for _, r := range []*running{alice, bob} {
			for _, secret := range []string{"hello", "Alice", a.ID().String(), b.ID().String()} {
				if strings.Contains(r.log.String(), secret) {
					t.Errorf("%q is in the log", secret)
				}
			}
		}
		// Only guards were dialled: two nodes for each messenger.
		nodes := make(map[string]bool)
		for _, a := range n.Dialled() {
			nodes[a.String()] = true
		}
		if len(nodes) > 4 {
			t.Errorf("two messengers connected to %d nodes", len(nodes))
		}
	})
}

func TestUnreadableMessagesStopNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b, eve := person(1), person(2), person(3)
		now := func() uint64 { time.Sleep(time.Millisecond); return uint64(time.Now().UnixMilli()) }

		put(t, n, b.ID(), []byte("garbage"))
		put(t, n, b.ID(), nil)
		put(t, n, b.ID(), bytes.Repeat([]byte{0xff}, 70_000))
		put(t, n, b.ID(), seal(t, a, eve.ID(), wire.Text("for somebody else", now())))
		// Readable, but not to be shown.
		typing := &sessionpb.Content{SigTimestamp: proto.Uint64(now()), TypingMessage: &sessionpb.TypingMessage{
			Timestamp: proto.Uint64(1), Action: sessionpb.TypingMessage_STARTED.Enum()}}
		put(t, n, b.ID(), seal(t, a, b.ID(), typing))
		empty := wire.Text("", now())
		put(t, n, b.ID(), seal(t, a, b.ID(), empty))
		forged := wire.Text("you wrote this", now())
		forged.DataMessage.SyncTarget = proto.String(a.ID().String())
		put(t, n, b.ID(), seal(t, eve, b.ID(), forged))
		// And the message that all of this must not hold up.
		put(t, n, b.ID(), seal(t, a, b.ID(), wire.Text("hello", now())))

		file := filepath.Join(t.TempDir(), "db")
		bob, stop := start(t, n, Config{Account: b, DBPath: file})
		bob.befriend(a.ID())
		if got := bob.next(); got.Text != "hello" {
			t.Fatalf("got %v", got)
		}
		time.Sleep(time.Minute) // of the bubble: more rounds, other members
		if st := bob.now(); st.Unreadable != 4 || st.Unread != 1 || st.Trouble != "" {
			t.Errorf("state %v", st)
		}
		stop()
		bob, _ = start(t, n, Config{Account: b, DBPath: file})
		time.Sleep(time.Minute)
		if st := bob.now(); st.Unreadable != 4 || st.Unread != 1 {
			t.Errorf("state after a restart %v", st)
		}
	})
}

func TestCopiesOfOwnMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		alice, _ := start(t, n, Config{Account: a})
		alice.send(a.ID(), "note to self")

		// From another device of the same account.
		copied := wire.Text("sent from the phone", uint64(time.Now().UnixMilli())+5)
		copied.DataMessage.SyncTarget = proto.String(b.ID().String())
		put(t, n, a.ID(), seal(t, a, a.ID(), copied))
		got := alice.next()
		if !got.Outgoing || got.SessionId != b.ID().String() || got.Text != "sent from the phone" {
			t.Errorf("got %v", got)
		}
		time.Sleep(time.Minute)
		if got := alice.texts(a.ID()); !slices.Equal(got, []string{"note to self"}) {
			t.Errorf("notes %q", got)
		}
		if st := alice.now(); st.Unread != 0 {
			t.Errorf("%d unread of one's own", st.Unread)
		}
	})
}

func TestSendingIsRefusedWithAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, _ := start(t, n, Config{Account: person(1)})
		bob := person(2).ID().String()
		if _, err := alice.AddContact(t.Context(), &api.AddContactRequest{SessionId: strings.ToUpper(bob) + "\n", Name: " Bob "}); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name, to, text string
			want           error
		}{
			{"to a contact by name", "bob", "hi", nil},
			{"2,000 characters of four bytes", bob, strings.Repeat("🔥", MaxText), nil},
			{"2,001 characters", bob, strings.Repeat("a", MaxText+1), ErrTooLong},
			{"nothing", bob, "", ErrEmpty},
			{"only white space", bob, " \n\t", ErrEmpty},
			{"not text", bob, "\xff\xfe", ErrNotText},
			{"nobody", "", "hi", ErrUnknown},
			{"an unknown name", "Carol", "hi", ErrUnknown},
			{"an ID that is too short", bob[:65], "hi", ErrBadID},
			{"the ID of a group", "03" + bob[2:], "hi", ErrNoGroup},
			{"an ID that nobody can have", "05" + strings.Repeat("00", 32), "hi", ErrBadID},
		} {
			_, err := alice.Send(t.Context(), &api.SendRequest{To: c.to, Text: c.text})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
		}
		for _, c := range []struct {
			name, id, as string
			want         error
		}{
			{"no ID", "bob", "Bob", ErrBadID},
			{"a name of 101 bytes", bob, strings.Repeat("x", 101), ErrName},
			{"a name that looks like an ID", bob, bob, ErrName},
			{"a name with a line end", bob, "a\nb", ErrName},
			{"a name that is taken", person(3).ID().String(), "BOB", ErrNameTaken},
			{"another name for the same", bob, "Robert", nil},
		} {
			if _, err := alice.AddContact(t.Context(), &api.AddContactRequest{SessionId: c.id, Name: c.as}); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
		}
	})
}

func TestARestartNeedsNoSeedAndKeepsTheGuards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 30, time.Now)
		a, b := person(1), person(2)
		file := filepath.Join(t.TempDir(), "db")
		alice, stop := start(t, n, Config{Account: a, DBPath: file})
		alice.send(b.ID(), "before")
		guards := alice.session.pool.Guards()
		stop()

		before := len(n.Dialled())
		alice, _ = start(t, n, Config{Account: a, DBPath: file, Seeds: []NodeSource{deadSeed{}}})
		alice.send(b.ID(), "after")
		if got := alice.session.pool.Guards(); !slices.Equal(got, guards) {
			t.Error("other guards after the restart")
		}
		for _, address := range n.Dialled()[before:] {
			if !slices.ContainsFunc(guards, func(k [32]byte) bool { return n.Find(k).Address == address }) {
				t.Errorf("connected to %v, which was no guard", address)
			}
		}
		if got := alice.texts(b.ID()); !slices.Equal(got, []string{"before", "after"}) {
			t.Errorf("conversation %q", got)
		}
	})
}

type deadSeed struct{}

func (deadSeed) ServiceNodes(context.Context) (*swarm.List, error) {
	return nil, errors.New("connection refused")
}

// lateSeed answers from the given moment on.
type lateSeed struct {
	n     *swarmtest.Network
	from  time.Time
	asked []time.Time
}

func (s *lateSeed) ServiceNodes(ctx context.Context) (*swarm.List, error) {
	s.asked = append(s.asked, time.Now())
	if time.Now().Before(s.from) {
		return nil, errors.New("connection refused")
	}
	return s.n.ServiceNodes(ctx)
}

func TestASeedThatComesLateIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		s := &lateSeed{n: n, from: time.Now().Add(10 * time.Second)}
		alice, _ := start(t, n, Config{Account: person(1), Seeds: []NodeSource{deadSeed{}, s}})
		time.Sleep(patience / 2)
		if st := alice.now(); st.Trouble != "" || !st.Connecting || st.KnownNodes != 0 {
			t.Errorf("state %v", st) // calm: it has only just begun
		}
		time.Sleep(patience/2 + time.Second)
		if st := alice.now(); !strings.Contains(st.Trouble, "seed") || !st.Connecting || st.KnownNodes != 0 {
			t.Errorf("state %v", st)
		}
		alice.send(person(2).ID(), "waits") // asks before there is a list
		synctest.Wait()
		if st := alice.now(); st.Trouble != "" || st.Connecting || st.KnownNodes != 9 {
			t.Errorf("state %v", st)
		}
		var gaps []time.Duration
		for i := range s.asked[1:] {
			gaps = append(gaps, s.asked[i+1].Sub(s.asked[i]))
		}
		if !slices.Equal(gaps, []time.Duration{1e9, 2e9, 4e9, 8e9}) {
			t.Errorf("the seed was asked after %v", gaps)
		}
	})
}

func TestPollingIsQuickWhileSomebodyTalks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		var mu sync.Mutex
		polls := 0
		for _, m := range n.Swarm(a.ID()) {
			n.Answer(m.Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
				if bytes.Contains(body, []byte(`"retrieve"`)) {
					mu.Lock()
					polls++
					mu.Unlock()
				}
				return n.Honest(ctx, node, body)
			})
		}
		count := func(d time.Duration) int {
			mu.Lock()
			before := polls
			mu.Unlock()
			time.Sleep(d)
			mu.Lock()
			defer mu.Unlock()
			return (polls - before) / pollMembers
		}
		alice, _ := start(t, n, Config{Account: a})
		time.Sleep(time.Minute) // a new device makes its configs known
		if got := count(50 * time.Second); got < 9 || got > 11 {
			t.Errorf("%d rounds in 50 quiet seconds, want 10", got)
		}
		alice.send(b.ID(), "hello")
		if got := count(20 * time.Second); got < 18 || got > 23 {
			t.Errorf("%d rounds in 20 seconds after a message, want 20", got)
		}
		time.Sleep(15 * time.Second)
		if got := count(50 * time.Second); got < 9 || got > 11 {
			t.Errorf("%d rounds in 50 seconds afterwards, want 10", got)
		}
	})
}

func TestTroubleIsToldAndPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a := person(1)
		alice, _ := start(t, n, Config{Account: a})
		time.Sleep(20 * time.Second)
		for _, m := range n.Swarm(a.ID()) {
			n.Answer(m.Ed25519, func(context.Context, pathtest.Node, []byte) (int, any) { return 503, "Snode not ready" })
		}
		time.Sleep(30 * time.Second)
		if st := alice.now(); st.Trouble == "" {
			t.Errorf("no trouble with a dead swarm: %v", st)
		}
		for _, m := range n.Swarm(a.ID()) {
			n.Answer(m.Ed25519, nil)
		}
		time.Sleep(10 * time.Minute)
		if st := alice.now(); st.Trouble != "" || st.KnownNodes != 9 {
			t.Errorf("after ten minutes: %v\n%s", st, alice.log)
		}
	})
}

func TestMessagesFlowWhileNodesDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 15, time.Now)
		a, b := person(1), person(2)
		alice, _ := start(t, n, Config{Account: a})
		bob, _ := start(t, n, Config{Account: b})
		alice.send(b.ID(), "one")
		bob.next()
		// A guard, a hop, and a member of Bob's swarm, one after the other.
		guard := alice.session.pool.Guards()[0]
		hop := alice.session.pool.Paths()[1].Nodes()[1].Ed25519
		if members := n.Swarm(b.ID()); slices.ContainsFunc(members, func(m pathtest.Node) bool { return m.Ed25519 == hop }) {
			// Otherwise all three members could be gone in the end.
			hop = guard
		}
		for i, k := range [][32]byte{guard, hop, n.Swarm(b.ID())[0].Ed25519} {
			n.Kill(k)
			for j := range 5 {
				text := fmt.Sprint(i, j)
				alice.send(b.ID(), text)
				if got := bob.next(); got.Text != text {
					t.Fatalf("got %q, want %q", got.Text, text)
				}
			}
		}
	})
}

func TestAMessengerThatLosesBothGuardsIsBackInSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 15, time.Now)
		a, b := person(1), person(2)
		alice, _ := start(t, n, Config{Account: a})
		bob, _ := start(t, n, Config{Account: b})
		alice.send(b.ID(), "one")
		bob.next()
		for _, k := range alice.session.pool.Guards() {
			n.Kill(k)
		}
		began := time.Now()
		alice.send(b.ID(), "two")
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("after %v\n%s", took, alice.log)
		}
		if got := bob.next(); got.Text != "two" {
			t.Errorf("got %q", got.Text)
		}
	})
}

func TestAWrongClockDoesNotMatter(t *testing.T) {
	for _, off := range []time.Duration{5 * time.Minute, -5 * time.Minute, 100 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			a, b := person(1), person(2)
			alice, _ := start(t, n, Config{Account: a, Now: func() time.Time { return time.Now().Add(off) }})
			bob, _ := start(t, n, Config{Account: b})
			sent := alice.send(b.ID(), "hello")
			if wrong := time.Since(time.UnixMilli(sent.Timestamp)).Abs(); wrong > time.Minute {
				t.Errorf("off by %v, the message is off by %v", off, wrong)
			}
			if got := bob.next(); got.Text != "hello" {
				t.Errorf("got %v", got)
			}
			bob.send(a.ID(), "hello yourself")
			if got := alice.next(); got.Text != "hello yourself" {
				t.Errorf("got %v", got)
			}
			if st := alice.now(); st.Trouble != "" || (time.Duration(st.ClockOff)*time.Second+off).Abs() > time.Minute {
				t.Errorf("trouble: %q; off by %v, and the state says %d s", st.Trouble, off, st.ClockOff)
			}
		})
	}
}

func TestASlowSubscriberIsCutOffAndTheOthersAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, stop := start(t, n, Config{Account: person(1)})
		slow, err := alice.Subscribe()
		if err != nil {
			t.Fatal(err)
		}
		for i := range eventQueue + 10 {
			alice.publishMessage(&api.Message{Text: fmt.Sprint(i)})
			if i%100 == 0 {
				for range 100 {
					select {
					case <-alice.sub.queue:
					default:
					}
				}
			}
		}
		for {
			if _, err = slow.Next(t.Context()); err != nil {
				break
			}
		}
		if !errors.Is(err, ErrSlow) {
			t.Errorf("the slow one ended with %v", err)
		}
		slow.Close() // once more does no harm
		if _, err := alice.sub.Next(t.Context()); err != nil {
			t.Errorf("the quick one ended with %v", err)
		}
		var subs []*Subscription
		for err = nil; err == nil; {
			var s *Subscription
			if s, err = alice.Subscribe(); err == nil {
				subs = append(subs, s)
			}
		}
		if !errors.Is(err, ErrBusy) || len(subs) > maxSubscribers {
			t.Errorf("%d subscribers, then %v", len(subs), err)
		}
		stop()
		for err = nil; err == nil; { // a last state may be waiting
			_, err = subs[0].Next(t.Context())
		}
		if !errors.Is(err, ErrStopped) {
			t.Errorf("a stream ended with %v", err)
		}
		if _, err := alice.Send(t.Context(), &api.SendRequest{}); !errors.Is(err, ErrStopped) {
			t.Errorf("sending ended with %v", err)
		}
		if st := alice.now(); st.Account == api.MessengerState_OPEN {
			t.Errorf("state %v", st)
		}
	})
}

func TestWhatIsShownOfAMessage(t *testing.T) {
	a, b := person(1), person(2)
	s := &session{own: a, clock: mailbox.NewClock(time.Now)}
	data := func(d *sessionpb.DataMessage) *sessionpb.Content { return &sessionpb.Content{DataMessage: d} }
	long := strings.Repeat("ä", maxTextIn+5)
	for _, c := range []struct {
		name    string
		content *sessionpb.Content
		want    string
		shown   bool
	}{
		{"text", data(&sessionpb.DataMessage{Body: proto.String("hi")}), "hi", true},
		{"long text is cut", data(&sessionpb.DataMessage{Body: &long}), long[:2*maxTextIn], true},
		{"an attachment alone", data(&sessionpb.DataMessage{Attachments: []*sessionpb.AttachmentPointer{{DeprecatedId: proto.Uint64(0)}}}), "[attachment]", true},
		{"nothing", &sessionpb.Content{}, "", false},
		{"an empty text", data(&sessionpb.DataMessage{}), "", false},
		{"a timer", &sessionpb.Content{DataMessage: &sessionpb.DataMessage{Body: proto.String("x"), Flags: proto.Uint32(2)},
			ExpirationType: sessionpb.Content_DELETE_AFTER_SEND.Enum(), ExpirationTimer: proto.Uint32(7200)}, "set messages to disappear 2 hours after sending", true},
		{"a flag that nobody knows", data(&sessionpb.DataMessage{Body: proto.String("x"), Flags: proto.Uint32(9)}), "", false},
		{"a group's business", data(&sessionpb.DataMessage{Body: proto.String("x"), GroupUpdateMessage: &sessionpb.GroupUpdateMessage{}}), "", false},
		{"a reaction to nobody", data(&sessionpb.DataMessage{Body: proto.String("x"), Reaction: &sessionpb.DataMessage_Reaction{
			Id: proto.Uint64(1), Author: proto.String("x"), Action: sessionpb.DataMessage_Reaction_REACT.Enum()}}), "", false},
	} {
		c.content.SigTimestamp = proto.Uint64(1_700_000_000_000)
		in, _ := s.read(mailbox.Message{Data: seal(t, b, a.ID(), c.content)})
		got := ""
		if in.Message != nil {
			s.archive = new(archive.Archive) // nothing is quoted
			got = s.apiMessage(*in.Message).Text
		}
		if got != c.want || (in.Message != nil) != c.shown || in.Unreadable {
			t.Errorf("%s: %d bytes %q, %+v", c.name, len(got), firstRunes(got, 50), in)
		}
	}
	for in, want := range map[string]string{
		"Alice":                              "Alice",
		" a\x1b[31mb\n":                      "a[31mb",
		"\u202egnp.exe":                      "gnp.exe",
		strings.Repeat("é", 60):              strings.Repeat("é", 50),
		strings.Repeat("x", 99) + "é":        strings.Repeat("x", 99),
		"\u2028":                             "",
		strings.Repeat("x", 100):             strings.Repeat("x", 100),
		"broken \xff" + string(rune(0xfffd)): "broken",
	} {
		if got := tidyName(in); got != want {
			t.Errorf("name %q became %q, want %q", in, got, want)
		}
	}
}

func TestTwoMessagesNeverHaveTheSameTime(t *testing.T) {
	s := &session{clock: mailbox.NewClock(func() time.Time { return time.UnixMilli(1000) })}
	for i := range int64(5) {
		if got := s.stamp(); got.ms != 1000+i || got.sure {
			t.Errorf("stamp %d is %+v", i, got)
		}
	}
	s.lastStamp = 1000 + 1_000_000 // drawn before the clock was corrected
	if got := s.stamp(); got.ms != 1000 {
		t.Errorf("the stamp after a correction is %+v", got)
	}
}

func BenchmarkSending(b *testing.B) {
	n := swarmtest.New(b, 9, time.Now)
	alice, _ := start(b, n, Config{Account: person(1)})
	to := person(2).ID().String()
	for b.Loop() {
		if _, err := alice.Send(b.Context(), &api.SendRequest{To: to, Text: "hello"}); err != nil {
			b.Fatal(err)
		}
	}
}
