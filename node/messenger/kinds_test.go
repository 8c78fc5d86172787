package messenger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// event waits for the next event that is wanted.
func (r *running) event(what string, wanted func(*api.Event) bool) *api.Event {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Hour)
	defer cancel()
	for {
		e, err := r.sub.Next(ctx)
		if err != nil {
			r.t.Fatalf("waiting for %s: %v\n%s", what, err, r.log)
		}
		if wanted(e) {
			return e
		}
	}
}

func (r *running) updated(what api.Update_Change) *api.Message {
	r.t.Helper()
	return r.event(what.String(), func(e *api.Event) bool {
		return e.GetUpdated() != nil && e.GetUpdated().Change == what
	}).GetUpdated().Message
}

func (r *running) received() *api.Message {
	r.t.Helper()
	return r.event("a message", func(e *api.Event) bool { return e.GetReceived() != nil }).GetReceived()
}

// quiet fails when an event that is unwanted comes within d.
func (r *running) quiet(d time.Duration, unwanted func(*api.Event) bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for {
		e, err := r.sub.Next(ctx)
		if err != nil {
			return
		}
		if unwanted(e) {
			r.t.Fatalf("unwanted: %v", e)
		}
	}
}

func (r *running) lines(with account.ID) []*api.Message {
	r.t.Helper()
	reply, err := r.Messages(context.Background(), &api.MessagesRequest{With: with.String(), Limit: 1000})
	if err != nil {
		r.t.Fatal(err)
	}
	return reply.Messages
}

func (r *running) contact(id account.ID) *api.Contact {
	r.t.Helper()
	reply, err := r.Contacts(context.Background(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range reply.Contacts {
		if c.SessionId == id.String() {
			return c
		}
	}
	return nil
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// two starts two people who know each other.
func two(t testing.TB, n *swarmtest.Network) (alice, bob *running, a, b *account.Account) {
	return twoPolling(t, n, 0)
}

func twoPolling(t testing.TB, n *swarmtest.Network, interval time.Duration) (alice, bob *running, a, b *account.Account) {
	a, b = person(1), person(2)
	alice, _ = start(t, n, Config{Account: a, DisplayName: "Alice", PollInterval: interval})
	bob, _ = start(t, n, Config{Account: b, DisplayName: "Bob", PollInterval: interval})
	alice.befriend(b.ID())
	bob.befriend(a.ID())
	return alice, bob, a, b
}

func TestARequestDoesNotRingUntilItIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		alice, _ := start(t, n, Config{Account: a, DisplayName: "Alice"})
		bob, _ := start(t, n, Config{Account: b, DisplayName: "Bob"})
		alice.send(b.ID(), "hello, I am new here")
		rings := func(e *api.Event) bool { return e.GetReceived() != nil || e.GetInfo() != nil }
		got := bob.event("a request", func(e *api.Event) bool {
			if rings(e) {
				t.Errorf("a stranger rings: %v", e)
			}
			return e.GetRequest() != nil
		}).GetRequest()
		if got.Text != "hello, I am new here" || got.SessionId != a.ID().String() {
			t.Errorf("request %v", got)
		}
		synctest.Wait()
		if st := bob.now(); st.Unread != 0 || st.Requests != 1 {
			t.Errorf("state %v", st)
		}
		if bob.contact(a.ID()) != nil {
			t.Error("a stranger is among the contacts")
		}
		list := must[*api.ContactsReply](t)(bob.Requests(t.Context(), nil)).Contacts
		if len(list) != 1 || list[0].Name != "Alice" || list[0].LastText != "hello, I am new here" || list[0].Approved {
			t.Errorf("requests %v", list)
		}
		// Reading it tells nobody, and its name means nobody yet.
		if _, err := bob.Send(t.Context(), &api.SendRequest{To: "Alice", Text: "x"}); !errors.Is(err, ErrUnknown) {
			t.Errorf("a stranger's name is good for sending: %v", err)
		}
		if got := bob.texts(a.ID()); !slices.Equal(got, []string{"hello, I am new here"}) {
			t.Errorf("the request holds %q", got)
		}
		if c := alice.contact(b.ID()); !c.Approved || c.ApprovedMe {
			t.Errorf("before: %v", c)
		}

		if c := must[*api.Contact](t)(bob.Accept(t.Context(), &api.WhoRequest{Who: "alice"})); !c.Approved || !c.ApprovedMe {
			t.Errorf("accepted: %v", c)
		}
		info := alice.event("the acceptance", func(e *api.Event) bool { return e.GetInfo() != nil }).GetInfo()
		if info.Kind != api.Message_ACCEPTED || info.SessionId != b.ID().String() {
			t.Errorf("info %v", info)
		}
		if c := alice.contact(b.ID()); !c.ApprovedMe || c.Name != "Bob" {
			t.Errorf("after: %v", c)
		}
		if st := bob.now(); st.Requests != 0 || st.Unread != 1 {
			t.Errorf("state %v", st)
		}
		alice.send(b.ID(), "thanks")
		if got := bob.received(); got.Text != "thanks" {
			t.Errorf("got %v", got)
		}
		if _, err := bob.Accept(t.Context(), &api.WhoRequest{Who: person(9).ID().String()}); !errors.Is(err, ErrNoRequest) {
			t.Errorf("accepting nobody: %v", err)
		}
	})
}

func TestNamingAStrangerWhoWroteAcceptsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		alice, _ := start(t, n, Config{Account: a, DisplayName: "Alice"})
		bob, _ := start(t, n, Config{Account: b, DisplayName: "Bob"})
		alice.send(b.ID(), "hello, I am new here")
		bob.event("a request", func(e *api.Event) bool { return e.GetRequest() != nil })
		name := func(id, name string) (*api.Contact, error) {
			return bob.AddContact(t.Context(), &api.AddContactRequest{SessionId: id, Name: name})
		}

		must[*api.Contact](t)(name(person(3).ID().String(), "taken"))
		if _, err := name(a.ID().String(), "Taken"); !errors.Is(err, ErrNameTaken) {
			t.Errorf("a name that is taken: %v", err)
		}
		if st := bob.now(); st.Requests != 1 {
			t.Errorf("a name that is taken decided: %v", st)
		}
		if c := must[*api.Contact](t)(name(a.ID().String(), "my Alice")); !c.Approved || !c.ApprovedMe || c.Name != "my Alice" {
			t.Errorf("named: %v", c)
		}
		told := func(e *api.Event) bool { return e.GetInfo() != nil }
		if info := alice.event("the acceptance", told).GetInfo(); info.Kind != api.Message_ACCEPTED || info.SessionId != b.ID().String() {
			t.Errorf("info %v", info)
		}
		if c := alice.contact(b.ID()); !c.ApprovedMe {
			t.Errorf("at the other side: %v", c)
		}
		// Neither another name nor a late acceptance is told.
		must[*api.Contact](t)(name(a.ID().String(), "Alice"))
		must[*api.Contact](t)(bob.Accept(t.Context(), &api.WhoRequest{Who: "Alice"}))
		if st := bob.now(); st.Requests != 0 || st.Waiting != 0 {
			t.Errorf("state %v", st)
		}
		bob.send(a.ID(), "good to hear from you")
		alice.event("the answer, and no second acceptance", func(e *api.Event) bool {
			if told(e) {
				t.Errorf("told again: %v", e)
			}
			return e.GetReceived() != nil
		})
	})
}

func TestADeclinedRequestIsGoneAndABlockedSenderSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		alice, _ := start(t, n, Config{Account: a})
		bob, stop := start(t, n, Config{Account: b})
		request := func(e *api.Event) bool { return e.GetRequest() != nil }
		alice.send(b.ID(), "one")
		bob.event("a request", request)
		if _, err := bob.Decline(t.Context(), &api.WhoRequest{Who: a.ID().String()}); err != nil {
			t.Fatal(err)
		}
		if st := bob.now(); st.Requests != 0 || len(bob.lines(a.ID())) != 0 {
			t.Errorf("state %v", st)
		}
		alice.send(b.ID(), "two") // declining is not blocking
		bob.event("a request", request)
		if got := bob.texts(a.ID()); !slices.Equal(got, []string{"two"}) {
			t.Errorf("the second request holds %q", got)
		}
		if c := must[*api.Contact](t)(bob.Block(t.Context(), &api.WhoRequest{Who: a.ID().String()})); !c.Blocked {
			t.Errorf("blocked: %v", c)
		}
		alice.send(b.ID(), "three")
		anything := func(e *api.Event) bool { return e.GetRequest() != nil || e.GetReceived() != nil || e.GetInfo() != nil }
		bob.quiet(time.Minute, anything)
		if st := bob.now(); st.Requests != 0 || st.Unread != 0 || len(bob.lines(a.ID())) != 0 {
			t.Errorf("state %v", st)
		}
		if _, err := bob.Send(t.Context(), &api.SendRequest{To: a.ID().String(), Text: "x"}); !errors.Is(err, ErrBlocked) {
			t.Errorf("writing to the blocked: %v", err)
		}
		if _, err := bob.Block(t.Context(), &api.WhoRequest{Who: b.ID().String()}); !errors.Is(err, ErrSelf) {
			t.Errorf("blocking oneself: %v", err)
		}
		must[*api.Contact](t)(bob.Unblock(t.Context(), &api.WhoRequest{Who: a.ID().String()}))
		alice.send(b.ID(), "four")
		bob.event("a request", request)
		if got := bob.texts(a.ID()); !slices.Equal(got, []string{"four"}) {
			t.Errorf("after unblocking: %q", got)
		}
		stop()
	})
}

func TestARepliedMessageIsQuoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := two(t, n)
		sent := alice.send(b.ID(), "shall we meet?")
		got := bob.received()
		must[*api.SendReply](t)(bob.Send(t.Context(), &api.SendRequest{To: a.ID().String(), Text: "at six", ReplyTo: got.Id}))
		reply := alice.received()
		want := &api.Quote{Timestamp: sent.Timestamp, Outgoing: true, Found: true, Text: "shall we meet?", Id: sent.Id}
		if !proto.Equal(reply.Quote, want) {
			t.Errorf("quote %v, want %v", reply.Quote, want)
		}
		own := bob.lines(a.ID())
		if q := own[len(own)-1].Quote; q.GetText() != "shall we meet?" || q.GetOutgoing() || !q.GetFound() {
			t.Errorf("the quote at its writer: %v", q)
		}
		if _, err := bob.Send(t.Context(), &api.SendRequest{To: a.ID().String(), Text: "x", ReplyTo: 99}); !errors.Is(err, ErrNoMessage) {
			t.Errorf("a reply to nothing: %v", err)
		}
		// Quotes of what is not there, and of somebody else's; at times of their own, as
		// alice's first message may bear this very millisecond.
		for i, author := range []account.ID{a.ID(), b.ID(), person(3).ID()} {
			c := wire.Text(fmt.Sprint("quote ", i), uint64(time.Now().UnixMilli())+1+uint64(i))
			c.DataMessage.Quote = &sessionpb.DataMessage_Quote{Id: proto.Uint64(1<<63 + 5), Author: proto.String(author.String())}
			put(t, n, b.ID(), seal(t, a, b.ID(), c))
			if got := bob.received(); got.Quote == nil || got.Quote.Found || got.Quote.Text != "" {
				t.Errorf("quote %v", got.Quote)
			}
		}
	})
}

func TestReactionsAreAddedAndTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := two(t, n)
		alice.send(b.ID(), "good news")
		got := bob.received()
		react := func(emoji string, remove bool) (*api.Message, error) {
			return bob.React(t.Context(), &api.ReactRequest{With: a.ID().String(), Id: got.Id, Emoji: emoji, Remove: remove})
		}
		shown := func(m *api.Message) (s string) {
			for _, r := range m.Reactions {
				s += fmt.Sprintf("%s %v ", r.Emoji, r.Outgoing)
			}
			return s
		}
		if m := must[*api.Message](t)(react("🥰", false)); shown(m) != "🥰 true " {
			t.Errorf("own: %v", m)
		}
		if m := alice.updated(api.Update_REACTION); shown(m) != "🥰 false " || m.Text != "good news" {
			t.Errorf("at the other side: %v", m)
		}
		must[*api.Message](t)(react("👍", false))
		alice.updated(api.Update_REACTION)
		must[*api.Message](t)(react("🥰", true))
		if m := alice.updated(api.Update_REACTION); shown(m) != "👍 false " {
			t.Errorf("after taking away: %v", m)
		}
		if st := alice.now(); st.Unread != 0 {
			t.Errorf("%d unread", st.Unread)
		}
		for _, bad := range []string{"", "a", "no", "👍 ok", "\u202e👍", strings.Repeat("🥰", 17), "\xff", "\n", "7"} {
			if _, err := react(bad, false); !errors.Is(err, ErrEmoji) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		for _, good := range []string{"❤️", "👨‍👩‍👧‍👦", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "1️⃣", "ℹ️", "🇩🇪", "™️"} {
			if !validEmoji(good) {
				t.Errorf("%q is refused", good)
			}
		}
		var err error
		for i := 0; err == nil && i < 30; i++ {
			_, err = react("🎉", i%2 == 1)
		}
		if !errors.Is(err, ErrFast) {
			t.Errorf("thirty reactions at once: %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := react("🚀", false); err != nil {
			t.Errorf("a minute later: %v", err)
		}
	})
}

func TestAnUnsentMessageIsGoneEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := two(t, n)
		sent := alice.send(b.ID(), "oops")
		got := bob.received()
		time.Sleep(time.Minute) // the copy to the own swarm is there
		if kept := swarmHolds(t, n, a) + swarmHolds(t, n, b); kept != 6 {
			t.Errorf("%d messages in both swarms, want the message and its copy three times each", kept)
		}
		if _, err := bob.Unsend(t.Context(), &api.UnsendRequest{With: a.ID().String(), Id: got.Id}); !errors.Is(err, ErrNotOwn) {
			t.Errorf("unsending what somebody else wrote: %v", err)
		}
		m := must[*api.Message](t)(alice.Unsend(t.Context(), &api.UnsendRequest{With: b.ID().String(), Id: sent.Id}))
		if !m.Deleted || m.Text != "" {
			t.Errorf("here: %v", m)
		}
		if m := bob.updated(api.Update_UNSENT); !m.Deleted || m.Text != "" || m.Id != got.Id {
			t.Errorf("there: %v", m)
		}
		if st := bob.now(); st.Unread != 0 {
			t.Errorf("%d unread", st.Unread)
		}
		if c := bob.contact(a.ID()); c.LastText != "" {
			t.Errorf("the list still shows %q", c.LastText)
		}
		time.Sleep(time.Minute)
		// What is left in the swarms is the unsend request and its copy.
		if kept := swarmHolds(t, n, a) + swarmHolds(t, n, b); kept != 6 {
			t.Errorf("%d messages left in both swarms", kept)
		}
		if _, err := alice.Unsend(t.Context(), &api.UnsendRequest{With: b.ID().String(), Id: sent.Id}); !errors.Is(err, ErrNoMessage) {
			t.Errorf("unsending twice: %v", err)
		}
		// Nobody can unsend what somebody else wrote.
		sent = alice.send(b.ID(), "this stays")
		bob.received()
		for i, from := range []*account.Account{b, person(3)} {
			put(t, n, a.ID(), seal(t, from, a.ID(), unsend(a.ID(), sent.Timestamp, i)))
			put(t, n, b.ID(), seal(t, person(3), b.ID(), unsend(a.ID(), sent.Timestamp, i+2)))
		}
		time.Sleep(time.Minute)
		if !slices.Contains(alice.texts(b.ID()), "this stays") || !slices.Contains(bob.texts(a.ID()), "this stays") {
			t.Error("somebody else could unsend")
		}
	})
}

func unsend(author account.ID, timestamp int64, i int) *sessionpb.Content {
	return &sessionpb.Content{
		UnsendRequest: &sessionpb.UnsendRequest{Timestamp: proto.Uint64(uint64(timestamp)), Author: proto.String(author.String())},
		SigTimestamp:  proto.Uint64(uint64(time.Now().UnixMilli()) + uint64(i)),
	}
}

// swarmHolds counts the messages that the members of a swarm keep for somebody.
func swarmHolds(t testing.TB, n *swarmtest.Network, a *account.Account) int {
	t.Helper()
	sum := 0
	for _, node := range n.Swarm(a.ID()) {
		sum += len(retrieve(t, n, node, a))
	}
	return sum
}

func TestWordThatComesBeforeItsMessageCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		bob, _ := start(t, n, Config{Account: b})
		bob.befriend(a.ID())
		at := time.Now().UnixMilli()
		put(t, n, b.ID(), seal(t, a, b.ID(), unsend(a.ID(), at+100, 0)))
		put(t, n, b.ID(), seal(t, a, b.ID(), reaction(a.ID(), at+200, "👍", false, at+50)))
		time.Sleep(time.Minute)
		put(t, n, b.ID(), seal(t, a, b.ID(), wire.Text("unsent", uint64(at+100))))
		put(t, n, b.ID(), seal(t, a, b.ID(), wire.Text("liked", uint64(at+200))))
		if got := bob.received(); got.Text != "liked" || len(got.Reactions) != 1 {
			t.Errorf("got %v", got)
		}
		lines := bob.lines(a.ID())
		if len(lines) != 2 || !lines[0].Deleted || lines[0].Text != "" {
			t.Errorf("lines %v", lines)
		}
	})
}

func reaction(author account.ID, target int64, emoji string, remove bool, sent int64) *sessionpb.Content {
	action := sessionpb.DataMessage_Reaction_REACT
	if remove {
		action = sessionpb.DataMessage_Reaction_REMOVE
	}
	return &sessionpb.Content{DataMessage: &sessionpb.DataMessage{Reaction: &sessionpb.DataMessage_Reaction{
		Id: proto.Uint64(uint64(target)), Author: proto.String(author.String()), Emoji: proto.String(emoji), Action: action.Enum()}},
		SigTimestamp: proto.Uint64(uint64(sent))}
}

func TestOtherDevicesSeeWhatThisOneSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := two(t, n)
		phone, _ := start(t, n, Config{Account: person(1)})
		sent := alice.send(b.ID(), "from the desk")
		bob.received()
		copied := phone.event("the copy", func(e *api.Event) bool { return e.GetSent() != nil }).GetSent()
		if copied.Text != "from the desk" || copied.SessionId != b.ID().String() || copied.Timestamp != sent.Timestamp || copied.State != api.Message_STORED {
			t.Errorf("the copy is %v", copied)
		}
		must[*api.Message](t)(alice.React(t.Context(), &api.ReactRequest{With: b.ID().String(), Id: sent.Id, Emoji: "👀"}))
		if m := phone.updated(api.Update_REACTION); len(m.Reactions) != 1 || !m.Reactions[0].Outgoing {
			t.Errorf("the reaction is %v", m)
		}
		must[*api.Contact](t)(phone.SetTimer(t.Context(), &api.SetTimerRequest{With: b.ID().String(), Timer: &api.Timer{Type: api.Timer_AFTER_SEND, Seconds: 3600}}))
		info := alice.event("the timer", func(e *api.Event) bool { return e.GetInfo() != nil && e.GetInfo().Kind == api.Message_TIMER }).GetInfo()
		if !info.Outgoing || alice.contact(b.ID()).Timer.GetSeconds() != 3600 {
			t.Errorf("the timer is %v, %v", info, alice.contact(b.ID()))
		}
		must[*api.Message](t)(phone.Unsend(t.Context(), &api.UnsendRequest{With: b.ID().String(), Id: copied.Id}))
		if m := alice.updated(api.Update_UNSENT); m.Id != sent.Id || !m.Deleted {
			t.Errorf("unsent: %v", m)
		}
		bob.updated(api.Update_UNSENT)
		note := alice.send(a.ID(), "note to self")
		got := phone.event("the note", func(e *api.Event) bool { return e.GetSent().GetText() == "note to self" }).GetSent()
		if got.SessionId != a.ID().String() || got.Timestamp != note.Timestamp {
			t.Errorf("the note is %v", got)
		}
		time.Sleep(time.Minute)
		for name, r := range map[string]*running{"desk": alice, "phone": phone} {
			if got := r.texts(a.ID()); !slices.Equal(got, []string{"note to self"}) {
				t.Errorf("%s: notes %q", name, got)
			}
			if got := len(r.lines(b.ID())); got != 2 {
				t.Errorf("%s: %d lines, want the unsent message and the timer", name, got)
			}
		}
	})
}

func TestReadReceiptsAreSentAndBelievedWhenWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := two(t, n)
		readAll := func() {
			bob.received()
			must[*api.MessagesReply](t)(bob.Messages(t.Context(), &api.MessagesRequest{With: a.ID().String(), MarkRead: true}))
		}
		state := func() api.Message_State {
			lines := alice.lines(b.ID())
			return lines[len(lines)-1].State
		}
		alice.send(b.ID(), "one")
		readAll()
		time.Sleep(time.Minute)
		if got := state(); got != api.Message_STORED {
			t.Errorf("nobody wants receipts, and the state is %v", got)
		}
		on := &api.SettingsRequest{ReadReceipts: proto.Bool(true)}
		must[*api.SettingsReply](t)(bob.Settings(t.Context(), on))
		alice.send(b.ID(), "two")
		readAll()
		time.Sleep(time.Minute)
		if got := state(); got != api.Message_STORED {
			t.Errorf("Alice does not want receipts, and the state is %v", got)
		}
		must[*api.SettingsReply](t)(alice.Settings(t.Context(), on))
		sent := alice.send(b.ID(), "three")
		readAll()
		if m := alice.updated(api.Update_READ); m.Id != sent.Id || m.State != api.Message_SEEN || m.Stored != 3 {
			t.Errorf("read: %v", m)
		}
	})
}

func TestTypingShowsForAWhileAndIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := two(t, n)
		alice.send(b.ID(), "hi") // each knows that the other one has accepted
		bob.received()
		bob.send(a.ID(), "hi")
		alice.received()
		typing := func(stopped bool) {
			t.Helper()
			must[*api.TypingReply](t)(alice.Typing(t.Context(), &api.TypingRequest{With: b.ID().String(), Stopped: stopped}))
		}
		shows := func(e *api.Event) bool { return e.GetTyping() != nil }
		typing(false)
		bob.quiet(time.Minute, shows)
		on := &api.SettingsRequest{Typing: proto.Bool(true)}
		must[*api.SettingsReply](t)(alice.Settings(t.Context(), on))
		typing(false)
		bob.quiet(time.Minute, shows)
		must[*api.SettingsReply](t)(bob.Settings(t.Context(), on))

		before := len(bob.lines(a.ID()))
		typing(false)
		if e := bob.event("typing", shows).GetTyping(); e.Stopped || e.SessionId != a.ID().String() {
			t.Errorf("typing: %v", e)
		}
		began := time.Now()
		if e := bob.event("its end", shows).GetTyping(); !e.Stopped || time.Since(began) != typingShown {
			t.Errorf("ended after %v: %v", time.Since(began), e)
		}
		typing(false)
		bob.event("typing", shows)
		typing(true)
		if e := bob.event("its end", shows).GetTyping(); !e.Stopped {
			t.Errorf("typing: %v", e)
		}
		typing(false)
		bob.event("typing", shows)
		began = time.Now()
		alice.send(b.ID(), "done")
		if e := bob.event("its end", shows).GetTyping(); !e.Stopped || time.Since(began) >= typingShown {
			t.Errorf("a message did not end it: %v", e)
		}
		time.Sleep(time.Minute)
		if got := len(bob.lines(a.ID())); got != before+1 {
			t.Errorf("%d lines more", got-before)
		}
		for _, node := range n.Swarm(b.ID()) {
			for _, m := range retrieve(t, n, node, b) {
				if c, err := wire.Open(b, m.Data); err == nil && c.Content.TypingMessage != nil && m.Expiration > time.Now().UnixMilli() {
					t.Error("a node still keeps it")
				}
			}
		}
	})
}

func TestWordOfWritingThatComesAfterWhatWasWrittenIsNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		_, bob, a, b := two(t, n)
		must[*api.SettingsReply](t)(bob.Settings(t.Context(), &api.SettingsRequest{Typing: proto.Bool(true)}))
		say := func(content *sessionpb.Content, ms int64) {
			t.Helper()
			content.SigTimestamp = proto.Uint64(uint64(ms))
			put(t, n, b.ID(), seal(t, a, b.ID(), content))
		}
		writing := func(ms int64) *sessionpb.Content {
			return &sessionpb.Content{TypingMessage: &sessionpb.TypingMessage{Timestamp: proto.Uint64(uint64(ms)), Action: sessionpb.TypingMessage_STARTED.Enum()}}
		}
		shows := func(e *api.Event) bool { return e.GetTyping() != nil }
		began := time.Now().UnixMilli()
		time.Sleep(time.Second)
		ended := time.Now().UnixMilli()
		say(wire.Text("written", uint64(ended)), ended)
		bob.received()
		say(writing(began), began)
		bob.quiet(10*time.Second, shows)
		again := time.Now().UnixMilli()
		say(writing(again), again)
		bob.event("writing again", shows)
	})
}

func TestMessagesDisappear(t *testing.T) {
	for _, c := range []struct {
		name  string
		timer *api.Timer
		// after sending, how long each side has the message when it is read after
		// ten minutes
		sender, recipient time.Duration
	}{
		{"after sending", &api.Timer{Type: api.Timer_AFTER_SEND, Seconds: 3600}, time.Hour, time.Hour},
		{"after reading", &api.Timer{Type: api.Timer_AFTER_READ, Seconds: 3600}, time.Hour, time.Hour + 10*time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := swarmtest.New(t, 9, time.Now)
				alice, bob, a, b := twoPolling(t, n, 30*time.Second)
				alice.send(b.ID(), "this stays")
				bob.received()
				must[*api.Contact](t)(alice.SetTimer(t.Context(), &api.SetTimerRequest{With: b.ID().String(), Timer: c.timer}))
				info := bob.event("the timer", func(e *api.Event) bool { return e.GetInfo() != nil }).GetInfo()
				if info.Kind != api.Message_TIMER || !strings.Contains(info.Text, "1 hour after") || !proto.Equal(bob.contact(a.ID()).Timer, c.timer) {
					t.Errorf("info %v, contact %v", info, bob.contact(a.ID()))
				}
				began := time.Now()
				sent := must[*api.SendReply](t)(alice.Send(t.Context(), &api.SendRequest{To: b.ID().String(), Text: "secret"}))
				got := bob.received()
				if !proto.Equal(got.Timer, c.timer) {
					t.Errorf("received %v", got)
				}
				time.Sleep(10*time.Minute - time.Since(began))
				must[*api.MessagesReply](t)(bob.Messages(t.Context(), &api.MessagesRequest{With: a.ID().String(), MarkRead: true}))
				gone := func(r *running, id uint64) time.Duration {
					if m := r.updated(api.Update_EXPIRED); m.Id != id || m.Text != "" {
						t.Errorf("expired: %v", m)
					}
					return time.Since(began).Round(time.Minute)
				}
				if d := gone(alice, sent.Id); d != c.sender {
					t.Errorf("the sender had it %v, want %v", d, c.sender)
				}
				if d := gone(bob, got.Id); d != c.recipient {
					t.Errorf("the recipient had it %v, want %v", d, c.recipient)
				}
				for _, r := range []*running{alice, bob} {
					with := b.ID()
					if r == bob {
						with = a.ID()
					}
					if lines := r.lines(with); len(lines) != 2 || lines[0].Text != "this stays" || lines[1].Kind != api.Message_TIMER {
						t.Errorf("left: %v", lines)
					}
				}
				time.Sleep(time.Minute)
				for _, node := range n.Swarm(b.ID()) {
					for _, m := range retrieve(t, n, node, b) {
						if open, err := wire.Open(b, m.Data); err == nil && open.Content.GetDataMessage().GetBody() == "secret" && m.Expiration > time.Now().UnixMilli() {
							t.Error("the swarm still keeps it")
						}
					}
				}
				off := must[*api.Contact](t)(bob.SetTimer(t.Context(), &api.SetTimerRequest{With: a.ID().String()}))
				if off.Timer != nil {
					t.Errorf("off: %v", off)
				}
				alice.event("the end of the timer", func(e *api.Event) bool { return e.GetInfo() != nil })
				if c := alice.contact(b.ID()); c.Timer != nil {
					t.Errorf("contact %v", c)
				}
			})
		})
	}
	t.Run("times that make no sense are refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			alice, _, a, b := two(t, n)
			for _, c := range []struct {
				with  account.ID
				timer *api.Timer
			}{
				{b.ID(), &api.Timer{Type: api.Timer_AFTER_READ, Seconds: 9}},
				{b.ID(), &api.Timer{Type: api.Timer_AFTER_SEND, Seconds: 15 * 86400}},
				{b.ID(), &api.Timer{Type: 7, Seconds: 3600}},
				{a.ID(), &api.Timer{Type: api.Timer_AFTER_READ, Seconds: 3600}},
			} {
				if _, err := alice.SetTimer(t.Context(), &api.SetTimerRequest{With: c.with.String(), Timer: c.timer}); !errors.Is(err, ErrTimer) {
					t.Errorf("%v: %v", c.timer, err)
				}
			}
		})
	})
}

func TestWhatADisappearedMessageLeavesSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		file := filepath.Join(t.TempDir(), "db")
		bob, stop := start(t, n, Config{Account: b, DBPath: file})
		bob.befriend(a.ID())
		c := wire.Text("secret", uint64(time.Now().UnixMilli()))
		setTimer(c, archive.Timer{Type: archive.TimerAfterSend, Seconds: 3600})
		put(t, n, b.ID(), seal(t, a, b.ID(), c))
		bob.received()
		stop()
		time.Sleep(2 * time.Hour)
		bob, _ = start(t, n, Config{Account: b, DBPath: file})
		bob.updated(api.Update_EXPIRED)
		if lines := bob.lines(a.ID()); len(lines) != 0 {
			t.Errorf("left: %v", lines)
		}
		// It does not come back from a member that is asked anew, nor under
		// another hash.
		put(t, n, b.ID(), seal(t, a, b.ID(), c))
		bob.quiet(10*time.Minute, func(e *api.Event) bool { return e.GetReceived() != nil })
	})
}

func TestInformationIsShownAndDoesNotRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		bob, _ := start(t, n, Config{Account: b})
		bob.befriend(a.ID())
		at := uint64(time.Now().UnixMilli())
		i := uint64(0)
		tell := func(from *account.Account, c *sessionpb.Content) {
			i++
			c.SigTimestamp = proto.Uint64(at + i)
			put(t, n, b.ID(), seal(t, from, b.ID(), c))
		}
		shot := &sessionpb.DataExtractionNotification{Type: sessionpb.DataExtractionNotification_SCREENSHOT.Enum()}
		saved := &sessionpb.DataExtractionNotification{Type: sessionpb.DataExtractionNotification_MEDIA_SAVED.Enum()}
		call := func(kind sessionpb.CallMessage_Type) *sessionpb.CallMessage {
			return &sessionpb.CallMessage{Type: kind.Enum(), Uuid: proto.String("x"), Sdps: []string{strings.Repeat("v=0\n", 1000)}}
		}
		invite := &sessionpb.GroupUpdateMessage{InviteMessage: &sessionpb.GroupUpdateInviteMessage{GroupSessionId: proto.String("03"),
			Name: proto.String("group"), MemberAuthData: []byte{1}, AdminSignature: []byte{2}}}
		for _, from := range []*account.Account{a, person(3)} {
			tell(from, &sessionpb.Content{DataExtractionNotification: shot})
			tell(from, &sessionpb.Content{DataExtractionNotification: saved})
			tell(from, &sessionpb.Content{CallMessage: call(sessionpb.CallMessage_PRE_OFFER)})
			tell(from, &sessionpb.Content{CallMessage: call(sessionpb.CallMessage_OFFER)})
			tell(from, &sessionpb.Content{CallMessage: call(sessionpb.CallMessage_END_CALL)})
			tell(from, &sessionpb.Content{DataMessage: &sessionpb.DataMessage{GroupUpdateMessage: invite}})
			tell(from, &sessionpb.Content{ReceiptMessage: &sessionpb.ReceiptMessage{Type: sessionpb.ReceiptMessage_READ.Enum(), Timestamp: []uint64{1}}})
			tell(from, &sessionpb.Content{MessageRequestResponse: &sessionpb.MessageRequestResponse{IsApproved: proto.Bool(false)}})
		}
		// A stranger cannot claim to have accepted.
		tell(person(3), &sessionpb.Content{MessageRequestResponse: &sessionpb.MessageRequestResponse{IsApproved: proto.Bool(true)}})
		time.Sleep(time.Minute)
		var got []string
		for _, m := range bob.lines(a.ID()) {
			got = append(got, m.Text)
		}
		if want := []string{"took a screenshot", "saved an attachment", "called; this device takes no calls"}; !slices.Equal(got, want) {
			t.Errorf("lines %q, want %q", got, want)
		}
		if lines := bob.lines(person(3).ID()); len(lines) != 0 {
			t.Errorf("a stranger's: %v", lines)
		}
		if st := bob.now(); st.Requests != 0 || st.Unread != 1 || st.Unreadable != 0 { // the call
			t.Errorf("state %v", st)
		}
		bob.quiet(time.Second, func(e *api.Event) bool { return e.GetReceived() != nil || e.GetRequest() != nil })
	})
}

func TestWhatComesWithAMessageIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		bob, _ := start(t, n, Config{Account: b})
		bob.befriend(a.ID())
		c := wire.Text("see https://example.org", uint64(time.Now().UnixMilli()))
		c.DataMessage.Preview = []*sessionpb.DataMessage_Preview{{Url: proto.String("https://example.org"), Title: proto.String("An\x1b[31m example\u202e")}}
		c.DataMessage.Attachments = []*sessionpb.AttachmentPointer{{DeprecatedId: proto.Uint64(7), ContentType: proto.String("text/plain"),
			FileName: proto.String(`..\..\etc/minutes.txt`), Size: proto.Uint32(59), Url: proto.String("http://files/7"), Key: []byte{1}}}
		c.DataMessage.CommunityInvitation = &sessionpb.DataMessage_CommunityInvitation{Url: proto.String("https://open.example/room?public_key=00"), Name: proto.String("Room")}
		put(t, n, b.ID(), seal(t, a, b.ID(), c))
		got := bob.received()
		if p := got.Preview; p.GetUrl() != "https://example.org" || p.GetTitle() != "An[31m example" {
			t.Errorf("preview %v", p)
		}
		if len(got.Attachments) != 1 || !proto.Equal(got.Attachments[0], &api.Attachment{Name: "minutes.txt", Type: "text/plain", Size: 59}) {
			t.Errorf("attachments %v", got.Attachments)
		}
		if got.Invitation.GetName() != "Room" {
			t.Errorf("invitation %v", got.Invitation)
		}
		stored, err := bob.session.archive.Message(archive.Ref{With: a.ID(), Number: got.Id})
		if err != nil || stored.Attachments[0].URL != "http://files/7" || stored.Attachments[0].ID != 7 || len(stored.Attachments[0].Key) != 1 {
			t.Errorf("what fetches it later: %+v, %v", stored.Attachments, err)
		}
	})
}

func TestSettingsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		file := filepath.Join(t.TempDir(), "db")
		cfg := Config{Account: person(1), DBPath: file, DisplayName: "Alice"}
		alice, stop := start(t, n, cfg)
		got := must[*api.SettingsReply](t)(alice.Settings(t.Context(), &api.SettingsRequest{}))
		if !proto.Equal(got, &api.SettingsReply{DisplayName: "Alice"}) {
			t.Errorf("at first %v", got)
		}
		if _, err := alice.Settings(t.Context(), &api.SettingsRequest{DisplayName: proto.String("a\nb")}); !errors.Is(err, ErrName) {
			t.Errorf("a name of two lines: %v", err)
		}
		want := &api.SettingsReply{DisplayName: "Liddell", ReadReceipts: true, Typing: true}
		got = must[*api.SettingsReply](t)(alice.Settings(t.Context(), &api.SettingsRequest{DisplayName: proto.String("Liddell"), ReadReceipts: proto.Bool(true), Typing: proto.Bool(true)}))
		if !proto.Equal(got, want) {
			t.Errorf("changed to %v", got)
		}
		stop()
		alice, _ = start(t, n, cfg)
		if got = must[*api.SettingsReply](t)(alice.Settings(t.Context(), &api.SettingsRequest{})); !proto.Equal(got, want) {
			t.Errorf("after a restart %v", got)
		}
		bob, _ := start(t, n, Config{Account: person(2)})
		alice.send(person(2).ID(), "hello")
		bob.next()
		if list := must[*api.ContactsReply](t)(bob.Requests(t.Context(), nil)).Contacts; list[0].ProfileName != "Liddell" {
			t.Errorf("the other side sees %v", list)
		}
	})
}

// A hostile contact and hostile strangers: what they send is bounded, shows
// nothing that could deceive, and holds up nobody else's message.
func TestFloodsAreBounded(t *testing.T) {
	a, b, carol := person(1), person(2), person(3)
	s := offline(t, b)
	if _, _, err := s.archive.AddContact(a.ID(), ""); err != nil {
		t.Fatal(err)
	}
	at := time.Now().UnixMilli() - 1_000_000
	place := archive.Place{}
	var batch []mailbox.Message
	i := int64(0)
	add := func(from *account.Account, c *sessionpb.Content) {
		i++
		if c.SigTimestamp == nil {
			c.SigTimestamp = proto.Uint64(uint64(at + i))
		}
		data, err := wire.Seal(rand.Reader, from, b.ID(), c)
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, mailbox.Message{Hash: fmt.Sprintf("%043d", i), Data: data})
	}
	flush := func() {
		t.Helper()
		if len(batch) == 0 {
			return
		}
		if err := s.take(place, batch); err != nil {
			t.Fatal(err)
		}
		batch = nil
	}
	add(a, wire.Text("target", uint64(at)))
	flush()

	// 10,000 reactions, the most of them to what is not there, and some huge.
	emojis := []string{"👍", strings.Repeat("👍", 5000), "🥰", "\u202e", "🎉"}
	for r := range 10_000 {
		target := at
		if r%2 == 1 {
			target = int64(r)
		}
		emoji := emojis[r%len(emojis)]
		if r%10 == 0 {
			emoji = string(rune(0x1f600+r%80)) + string(rune(0x1f300+r/80%200))
		}
		add(a, reaction(a.ID(), target, emoji, r%7 == 0, at+int64(r)))
		if len(batch) == 2000 {
			flush()
		}
	}
	flush()
	m, err := s.archive.Find(a.ID(), false, at)
	if err != nil || len(m.Reactions) == 0 || len(m.Reactions) > 20 {
		t.Errorf("%d reactions on one message, %v", len(m.Reactions), err)
	}
	for _, r := range m.Reactions {
		if len(r.Emoji) > maxEmoji {
			t.Errorf("a reaction of %d bytes", len(r.Emoji))
		}
	}

	// Names and texts that pretend, and a time in the year 9999.
	c := wire.Text("late", 253_370_764_800_000)
	c.DataMessage.Profile = &sessionpb.LokiProfile{DisplayName: proto.String(strings.Repeat("\u202eevil\x00\n", 12_000/8)), LastProfileUpdateSeconds: proto.Uint64(1 << 63)}
	add(a, c)
	add(a, unsend(a.ID(), 5, 0))
	flush()
	if c, _ := s.archive.Contact(a.ID()); len(c.Profile) > MaxName || strings.ContainsAny(c.Profile, "\u202e\x00\n") || c.LastTime > time.Now().UnixMilli() {
		t.Errorf("contact %+v", c)
	}
	add(a, wire.Text("later", uint64(at+900_000)))
	flush()
	if list, err := s.archive.Messages(a.ID(), 0, 10, 1<<20); err != nil || list[len(list)-1].Shown() > time.Now().UnixMilli() {
		t.Errorf("%+v, %v", list, err)
	}

	// 5,000 strangers, among them one good message of a contact.
	for n := range 5000 {
		stranger := account.New(account.Seed{9, byte(n), byte(n >> 8)})
		add(stranger, wire.Text("buy", uint64(at+int64(n)*2)))
		if n == 2500 {
			add(a, wire.Text("are you there?", uint64(at+901_000)))
		}
		if len(batch) >= 1000 {
			flush()
		}
	}
	flush()
	if got := s.archive.Requests(); got != archive.MaxStrangers {
		t.Errorf("%d requests, want the newest %d", got, archive.MaxStrangers)
	}
	if _, err := s.archive.Find(a.ID(), false, at+901_000); err != nil {
		t.Errorf("the good message: %v", err)
	}
	// A stranger reacts, sets timers and so on in vain.
	add(carol, reaction(b.ID(), at, "👍", false, at))
	timer := &sessionpb.Content{DataMessage: &sessionpb.DataMessage{Flags: proto.Uint32(2)}}
	setTimer(timer, archive.Timer{Type: archive.TimerAfterSend, Seconds: 10})
	add(carol, timer)
	flush()
	if _, ok := s.archive.Contact(carol.ID()); ok {
		t.Error("a stranger is there without a message")
	}
	if n := s.archive.Waiting(); n != 0 {
		t.Errorf("%d parcels were caused", n)
	}
}

// offline is a session that nothing works for.
func offline(t testing.TB, own *account.Account) *session {
	t.Helper()
	m, err := New(Config{Account: own, DBPath: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m.session
}

func FuzzContentOfAHostilePeer(f *testing.F) {
	a, b := person(1), person(2)
	s := offline(f, b)
	if _, _, err := s.archive.AddContact(a.ID(), ""); err != nil {
		f.Fatal(err)
	}
	for _, c := range []*sessionpb.Content{
		wire.Text("hello", 1), reaction(a.ID(), 1, "👍", false, 2), unsend(a.ID(), 1, 0),
		{MessageRequestResponse: &sessionpb.MessageRequestResponse{IsApproved: proto.Bool(true)}},
		{CallMessage: &sessionpb.CallMessage{Type: sessionpb.CallMessage_PRE_OFFER.Enum(), Uuid: proto.String("")}},
	} {
		b, _ := proto.Marshal(c)
		f.Add(b)
	}
	i := 0
	f.Fuzz(func(t *testing.T, plain []byte) {
		var c sessionpb.Content
		if proto.Unmarshal(plain, &c) != nil {
			return
		}
		i++
		c.SigTimestamp = proto.Uint64(uint64(i))
		data, err := wire.Seal(rand.Reader, a, b.ID(), &c)
		if err != nil {
			return
		}
		if err := s.take(archive.Place{}, []mailbox.Message{{Hash: fmt.Sprintf("%043d", i), Data: data}}); err != nil {
			t.Fatal(err)
		}
		list, err := s.archive.Messages(a.ID(), 0, 3, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			if shown := s.apiMessage(m); proto.Size(shown) > 200_000 {
				t.Fatalf("%d bytes are shown", proto.Size(shown))
			}
		}
	})
}
