package devnet_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/api"
	"hearth/node/messenger"
)

func (w *talker) updated(what api.Update_Change) *api.Message {
	w.t.Helper()
	return w.await(what.String(), func(e *api.Event) bool {
		return e.GetUpdated() != nil && e.GetUpdated().Change == what
	}).GetUpdated().Message
}

func (w *talker) lines(with *talker) []*api.Message {
	w.t.Helper()
	reply, err := w.Messages(context.Background(), &api.MessagesRequest{With: with.id})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply.Messages
}

func isInfo(kind api.Message_Kind) func(*api.Event) bool {
	return func(e *api.Event) bool { return e.GetInfo() != nil && e.GetInfo().Kind == kind }
}

func TestEveryKindOfMessageGoesBothWays(t *testing.T) {
	t.Parallel() // it mostly waits
	n := messengerNetwork(t)
	alice := talk(t, n, 1, func(c *messenger.Config) { c.DisplayName = "Alice" })
	bob := talk(t, n, 2, func(c *messenger.Config) { c.DisplayName = "Bob" })
	ctx := t.Context()

	// A request, and its acceptance.
	alice.says(bob, "may I?")
	bob.await("the request", func(e *api.Event) bool { return e.GetRequest().GetText() == "may I?" })
	if _, err := bob.Accept(ctx, &api.WhoRequest{Who: alice.id}); err != nil {
		t.Fatal(err)
	}
	alice.await("the acceptance", isInfo(api.Message_ACCEPTED))

	on := &api.SettingsRequest{ReadReceipts: proto.Bool(true), Typing: proto.Bool(true)}
	for _, w := range []*talker{alice, bob} {
		if _, err := w.Settings(ctx, on); err != nil {
			t.Fatal(err)
		}
	}
	for _, way := range []struct{ from, to *talker }{{alice, bob}, {bob, alice}} {
		from, to := way.from, way.to
		if _, err := from.Typing(ctx, &api.TypingRequest{With: to.id}); err != nil {
			t.Fatal(err)
		}
		to.await("typing", func(e *api.Event) bool { return e.GetTyping() != nil && !e.GetTyping().Stopped })
		sent := from.says(to, "shall we meet?")
		got := to.await("the text", func(e *api.Event) bool { return e.GetReceived() != nil }).GetReceived()
		if _, err := to.Messages(ctx, &api.MessagesRequest{With: from.id, MarkRead: true}); err != nil {
			t.Fatal(err)
		}
		for seen := false; !seen; { // an earlier message may have been read, too
			m := from.updated(api.Update_READ)
			seen = m.Id == sent.Id && m.State == api.Message_SEEN
		}
		if _, err := to.React(ctx, &api.ReactRequest{With: from.id, Id: got.Id, Emoji: "👍"}); err != nil {
			t.Fatal(err)
		}
		if m := from.updated(api.Update_REACTION); m.Id != sent.Id || len(m.Reactions) != 1 || m.Reactions[0].Emoji != "👍" {
			t.Errorf("reaction: %v", m)
		}
		if _, err := to.Send(ctx, &api.SendRequest{To: from.id, Text: "at six", ReplyTo: got.Id}); err != nil {
			t.Fatal(err)
		}
		reply := from.await("the answer", func(e *api.Event) bool { return e.GetReceived() != nil }).GetReceived()
		if !reply.Quote.GetFound() || reply.Quote.GetText() != "shall we meet?" || !reply.Quote.GetOutgoing() {
			t.Errorf("quote: %v", reply.Quote)
		}
		if _, err := from.Unsend(ctx, &api.UnsendRequest{With: to.id, Id: sent.Id}); err != nil {
			t.Fatal(err)
		}
		if m := to.updated(api.Update_UNSENT); m.Id != got.Id || m.Text != "" {
			t.Errorf("unsent: %v", m)
		}
		timer := &api.Timer{Type: api.Timer_AFTER_SEND, Seconds: 12}
		if _, err := from.SetTimer(ctx, &api.SetTimerRequest{With: to.id, Timer: timer}); err != nil {
			t.Fatal(err)
		}
		to.await("the timer", isInfo(api.Message_TIMER))
		from.says(to, "gone in a moment")
		to.hears(from, "gone in a moment")
		to.updated(api.Update_EXPIRED)
		from.updated(api.Update_EXPIRED)
		if _, err := from.SetTimer(ctx, &api.SetTimerRequest{With: to.id}); err != nil {
			t.Fatal(err)
		}
		to.await("the end of the timer", isInfo(api.Message_TIMER))
	}

	// Another device of Alice gets all that is still there, once.
	phone := talk(t, n, 1, nil)
	phone.await("the copies", func(e *api.Event) bool { return e.GetSent().GetText() == "at six" })
	if _, err := alice.Send(ctx, &api.SendRequest{To: alice.id, Text: "note"}); err != nil {
		t.Fatal(err)
	}
	phone.await("the note", func(e *api.Event) bool { return e.GetSent().GetText() == "note" })
	alice.says(bob, "from the desk")
	bob.hears(alice, "from the desk")
	phone.await("the copy", func(e *api.Event) bool { return e.GetSent().GetText() == "from the desk" })
}

func TestABlockedSenderIsNotHeard(t *testing.T) {
	n := messengerNetwork(t)
	alice, bob, carol := talk(t, n, 1, nil), talk(t, n, 2, nil), talk(t, n, 3, nil)
	bob.knows(alice, carol)
	alice.says(bob, "hello")
	bob.hears(alice, "hello")
	if _, err := bob.Block(t.Context(), &api.WhoRequest{Who: alice.id}); err != nil {
		t.Fatal(err)
	}
	alice.says(bob, "are you there?")
	carol.says(bob, "hello, too")
	bob.hears(carol, "hello, too") // and nothing of Alice before it
	if got := len(bob.lines(alice)); got != 1 {
		t.Errorf("%d lines with the blocked", got)
	}
	if _, err := bob.Unblock(t.Context(), &api.WhoRequest{Who: alice.id}); err != nil {
		t.Fatal(err)
	}
	alice.says(bob, "and now?")
	bob.hears(alice, "and now?")
}

func TestMessagesWaitWhileTheWholeNetworkIsDown(t *testing.T) {
	t.Parallel() // it mostly waits
	n := messengerNetwork(t)
	file := filepath.Join(t.TempDir(), "alice.db")
	alice := talk(t, n, 1, func(c *messenger.Config) { c.DBPath = file })
	bob := talk(t, n, 2, nil)
	bob.knows(alice)
	alice.says(bob, "before")
	bob.hears(alice, "before")
	var stops sync.WaitGroup
	for k := 1; k <= 9; k++ {
		stops.Go(func() {
			if err := n.StopNode(k); err != nil {
				t.Error(err)
			}
		})
	}
	stops.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sent, err := alice.Send(ctx, &api.SendRequest{To: bob.id, Text: "meanwhile"})
	if err != nil || sent.State != api.Message_WAITING {
		t.Fatalf("sent %v, %v", sent, err)
	}
	alice.stop() // and the device loses power, too
	for k := 1; k <= 9; k++ {
		if err := n.StartNode(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	alice = talk(t, n, 1, func(c *messenger.Config) { c.DBPath = file })
	bob.hears(alice, "meanwhile")
	for {
		if m := alice.updated(api.Update_STATE); m.Id == sent.Id && m.State == api.Message_STORED {
			break
		}
	}
	texts := 0
	for _, m := range bob.lines(alice) {
		if m.Kind == api.Message_TEXT {
			texts++
		}
	}
	if texts != 2 {
		t.Errorf("%d messages arrived, want 2", texts)
	}
}

func TestARecipientWhoIsAwayGetsEverythingOnce(t *testing.T) {
	n := messengerNetwork(t)
	alice := talk(t, n, 1, nil)
	file := filepath.Join(t.TempDir(), "bob.db")
	bob := talk(t, n, 2, func(c *messenger.Config) { c.DBPath = file })
	bob.knows(alice)
	bob.stop()
	ctx := t.Context()
	var ids []uint64
	for _, text := range []string{"one", "two", "three"} {
		sent, err := alice.Send(ctx, &api.SendRequest{To: bob.id, Text: text})
		if err != nil || sent.State != api.Message_STORED {
			t.Fatalf("sent %v, %v", sent, err)
		}
		ids = append(ids, sent.Id)
	}
	if _, err := alice.Unsend(ctx, &api.UnsendRequest{With: bob.id, Id: ids[1]}); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.React(ctx, &api.ReactRequest{With: bob.id, Id: ids[2], Emoji: "🎉"}); err != nil {
		t.Fatal(err)
	}
	// What goes to one recipient keeps its order: when this is stored, all is.
	if sent, err := alice.Send(ctx, &api.SendRequest{To: bob.id, Text: "four"}); err != nil || sent.State != api.Message_STORED {
		t.Fatalf("sent %v, %v", sent, err)
	}
	bob = talk(t, n, 2, func(c *messenger.Config) { c.DBPath = file })
	bob.hears(alice, "one")
	bob.await("the last one", func(e *api.Event) bool { return e.GetReceived().GetText() == "four" })
	got := make(map[string]int)
	for _, m := range bob.lines(alice) {
		got[m.Text]++
		if (m.Text == "three") != (len(m.Reactions) == 1) {
			t.Errorf("reactions of %v", m)
		}
	}
	if got["one"] != 1 || got["two"] != 0 || got["three"] != 1 || got["four"] != 1 || got[""] != 1 {
		t.Errorf("received %v", got)
	}
}
