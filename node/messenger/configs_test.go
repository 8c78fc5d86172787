package messenger

import (
	"bytes"
	"context"
	"crypto/rand"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/config"
	"hearth/node/group"
	"hearth/node/keys"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path/pathtest"
)

// The compressors of configs and of groups' messages are made once for the process,
// with channels in them, which must not belong to the bubble of the test that is first
// to use them.
func init() {
	options := config.Options{Account: account.New(account.Seed{1}), Now: time.Now}
	from, err := config.New(config.UserProfile, options)
	if err != nil {
		panic(err)
	}
	to, err := config.New(config.UserProfile, options)
	if err != nil {
		panic(err)
	}
	if err := (config.Profile{Object: from}).SetName(strings.Repeat("a", 100)); err != nil {
		panic(err)
	}
	push, err := from.Push()
	if err != nil {
		panic(err)
	}
	if m := to.Merge([]config.Message{{Hash: "1", Data: push.Parts[0]}}); !m.Changed {
		panic(m.Err())
	}
	of, key := keys.FromSeed([32]byte{1}), config.Key{}
	message, err := group.Seal(rand.Reader, group.ID(of), key, of, bytes.Repeat([]byte("a"), 100), group.Style{})
	if err != nil {
		panic(err)
	}
	if _, _, err := group.Open(group.ID(of), []config.Key{key}, message, group.Current); err != nil {
		panic(err)
	}
}

// inSwarm fetches what one member keeps of a config.
func inSwarm(t *testing.T, m *running, kind config.Kind) []mailbox.Message {
	t.Helper()
	s := m.session
	members, _, err := s.box.Swarm(t.Context(), s.own.ID())
	if err != nil {
		t.Fatal(err)
	}
	messages, _, err := s.box.Retrieve(t.Context(), s.own, members[0], kind.Namespace(), "")
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

func TestConfigsAreKeptAliveAndComeBackWhenTheSwarmHasLostThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, _ := start(t, n, Config{Account: person(1), DisplayName: "Alice", PollInterval: 2 * time.Hour})
		must[*api.Contact](t)(alice.AddContact(t.Context(), &api.AddContactRequest{SessionId: person(2).ID().String(), Name: "Bob"}))
		time.Sleep(10 * time.Second)
		s := alice.session
		first := inSwarm(t, alice, config.ContactList)
		if len(first) != 1 || time.UnixMilli(first[0].Expiration).Sub(time.Now()) < 29*24*time.Hour {
			t.Fatalf("in the swarm: %v", first)
		}
		if len(inSwarm(t, alice, config.UserProfile)) != 1 || len(inSwarm(t, alice, config.DeviceList)) != 1 {
			t.Error("the configured name or the device is not there")
		}
		// A day later their end is a day later.
		time.Sleep(25 * time.Hour)
		later := inSwarm(t, alice, config.ContactList)
		if len(later) != 1 || later[0].Hash != first[0].Hash || later[0].Expiration < first[0].Expiration+(23*time.Hour).Milliseconds() {
			t.Errorf("after a day: %v, at first %v", later, first)
		}
		// Another client has cleared everything.
		if _, err := s.box.DeleteAll(t.Context(), s.own); err != nil {
			t.Fatal(err)
		}
		if len(inSwarm(t, alice, config.ContactList)) != 0 {
			t.Fatal("nothing was deleted")
		}
		if err := s.extendConfigs(t.Context()); err != nil {
			t.Fatal(err)
		}
		if again := inSwarm(t, alice, config.ContactList); len(again) != 1 || again[0].Hash != first[0].Hash {
			t.Errorf("stored again: %v", again)
		}
	})
}

func TestAChangeIsStoredWhenTheNetworkIsBackOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		file := filepath.Join(t.TempDir(), "db")
		alice, stop := start(t, n, Config{Account: person(1), DBPath: file})
		time.Sleep(10 * time.Second)
		// No member takes anything more.
		for _, node := range n.Swarm(person(1).ID()) {
			n.Answer(node.Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
				if bytes.Contains(body, []byte(`"sequence"`)) {
					return 503, "busy"
				}
				return n.Honest(ctx, node, body)
			})
		}
		must[*api.Contact](t)(alice.AddContact(t.Context(), &api.AddContactRequest{SessionId: person(2).ID().String(), Name: "Bob"}))
		time.Sleep(time.Minute)
		if len(inSwarm(t, alice, config.ContactList)) != 0 {
			t.Fatal("it was stored")
		}
		stop()
		for _, node := range n.Swarm(person(1).ID()) {
			n.Answer(node.Ed25519, nil)
		}
		alice, _ = start(t, n, Config{Account: person(1), DBPath: file})
		time.Sleep(10 * time.Second)
		if len(inSwarm(t, alice, config.ContactList)) != 1 {
			t.Fatal("it was not stored after a restart")
		}
		other, _ := start(t, n, Config{Account: person(1)})
		time.Sleep(10 * time.Second)
		if c := must[*api.ContactsReply](t)(other.Contacts(t.Context(), nil)); len(c.Contacts) != 1 || c.Contacts[0].Name != "Bob" {
			t.Errorf("on another device: %v", c)
		}
	})
}
