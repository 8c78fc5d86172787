package messenger

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/internal/vectortest"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/rpc"
)

// recording is a whole conversation of two accounts of an independent client
// (session.js) over service nodes of the real network.
type recording struct {
	Identities map[string]struct {
		Seed vectortest.Hex
	}
	Messages []recorded
}

type recorded struct {
	Step             int
	From             string
	Recipient        string
	WebsocketMessage vectortest.Hex `json:"websocket_message"`
	Hash             string         `json:"message_hash"`
}

// person makes somebody of the recording, as the owner of a messenger.
func (r recording) person(t *testing.T, name string) *account.Account {
	t.Helper()
	return account.New(account.Seed(r.Identities[name].Seed))
}

// inbox is what the swarm of an account got, up to a step.
func (r recording) inbox(of account.ID) (messages []mailbox.Message) {
	for _, m := range r.Messages {
		if m.Recipient == of.String() {
			messages = append(messages, mailbox.Message{Hash: m.Hash, Data: m.WebsocketMessage})
		}
	}
	return messages
}

func TestARecordedConversationOfAnotherClientIsUnderstood(t *testing.T) {
	var r recording
	vectortest.Load(t, "sessionjs-capture.json", &r)
	alice, bob := r.person(t, "alice"), r.person(t, "bob")
	vectortest.Each(t, "hashes", r.Messages, func(t *testing.T, m recorded) {
		to, err := account.ParseSessionID(m.Recipient)
		if err != nil {
			t.Fatal(err)
		}
		if got := rpc.MessageHash(to, 0, m.WebsocketMessage); got != m.Hash {
			t.Errorf("step %d: hash %s, want %s", m.Step, got, m.Hash)
		}
	})

	// Every message alone is readable.
	vectortest.Each(t, "messages", r.Messages, func(t *testing.T, m recorded) {
		owner := alice
		if m.Recipient == bob.ID().String() {
			owner = bob
		}
		s := offline(t, owner)
		in, note := s.read(mailbox.Message{Hash: m.Hash, Data: m.WebsocketMessage})
		if in.Unreadable {
			t.Fatalf("step %d is unreadable", m.Step)
		}
		something := in.Message != nil || in.Reaction != nil || in.Unsend != nil || note != nil
		// Receipts are off unless the owner wants them, and step 19 is a
		// configuration message of former times.
		if want := m.Step != 6 && m.Step != 19; something != want {
			t.Errorf("step %d amounts to %+v", m.Step, in)
		}
	})

	// The whole of it, at Bob and at another device of Alice.
	for _, c := range []struct {
		name  string
		owner *account.Account
		with  account.ID
		want  []string
	}{
		{"bob", bob, alice.ID(), []string{
			"Alice of Wonder: Hello Bob, this is the first message.",
			"you: Hello Alice ☎ é (answers: Hello Bob, this is the first message.)",
			"Alice of Wonder: see the minutes (minutes.txt text/plain;charset=utf-8 59 voice=false)",
			"Alice of Wonder: [attachment] (voice.ogg audio/ogg 3000 voice=true)",
			"Alice of Wonder: (unsent)",
		}},
		{"alice", alice, bob.ID(), []string{
			"you: Hello Bob, this is the first message. SEEN",
			"Bob: accepted your message request",
			"Bob: Hello Alice ☎ é (answers: Hello Bob, this is the first message.)",
			"you: see the minutes (minutes.txt text/plain;charset=utf-8 59 voice=false)",
			"you: [attachment] (voice.ogg audio/ogg 3000 voice=true)",
			"Bob: saved an attachment",
			"Bob: took a screenshot",
			"you: (unsent)",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := offline(t, c.owner)
			s.settings = archive.Settings{ReadReceipts: true, Typing: true}
			if err := s.take(archive.Place{}, r.inbox(c.owner.ID())); err != nil {
				t.Fatal(err)
			}
			list, err := s.archive.Messages(c.with, 0, 100, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			contact, _ := s.archive.Contact(c.with)
			var got []string
			for _, m := range list {
				got = append(got, line(contact, s.apiMessage(m)))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("the conversation is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if !contact.Approved || !contact.ApprovedMe {
				t.Errorf("contact %+v", contact)
			}
			if c.name == "bob" && (contact.PictureURL != "http://filev2.getsession.org/file/1000011" || len(contact.PictureKey) != 64) {
				t.Errorf("picture %q", contact.PictureURL)
			}
			if s.archive.Unreadable() != 0 {
				t.Errorf("%d unreadable", s.archive.Unreadable())
			}
			// What was unsent is deleted from the own swarm, too.
			outbox, err := s.archive.Outbox()
			if err != nil || len(outbox) != 1 || outbox[0].Kind != archive.ParcelDelete {
				t.Errorf("outbox %+v, %v", outbox, err)
			}
			// Once more, from another member and in another order: nothing is new.
			again := r.inbox(c.owner.ID())
			slices.Reverse(again)
			if err := s.take(archive.Place{Node: [32]byte{1}}, again); err != nil {
				t.Fatal(err)
			}
			if list, _ := s.archive.Messages(c.with, 0, 100, 1<<20); len(list) != len(c.want) {
				t.Errorf("%d lines after the same again", len(list))
			}
		})
	}
}

func line(contact archive.Contact, m *api.Message) string {
	who := contact.DisplayName()
	if m.Outgoing {
		who = "you"
	}
	text := who + ": " + m.Text
	if m.Deleted {
		text += "(unsent)"
	}
	if m.Quote != nil {
		text += " (answers: " + m.Quote.Text + ")"
	}
	for _, a := range m.Attachments {
		text += fmt.Sprintf(" (%s %s %d voice=%v)", a.Name, a.Type, a.Size, a.Voice)
	}
	for _, r := range m.Reactions {
		text += " " + r.Emoji
	}
	if m.State == api.Message_SEEN {
		text += " SEEN"
	}
	return text
}

// The recording's reaction is there until it is taken back.
func TestARecordedReactionIsShownUntilItIsTakenBack(t *testing.T) {
	var r recording
	vectortest.Load(t, "sessionjs-capture.json", &r)
	bob := r.person(t, "bob")
	s := offline(t, bob)
	seen := ""
	for i, m := range r.inbox(bob.ID()) {
		if err := s.take(archive.Place{}, []mailbox.Message{m}); err != nil {
			t.Fatal(err)
		}
		list, err := s.archive.Messages(r.person(t, "alice").ID(), 0, 100, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			for _, x := range s.apiMessage(m).Reactions {
				seen += fmt.Sprintf("%d%s ", i, x.Emoji)
			}
		}
	}
	if seen != "2🥰 " {
		t.Errorf("reactions were shown after %q, want the third message only", seen)
	}
}
