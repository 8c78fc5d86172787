package messenger

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/config"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/wire/sessionpb"
)

// pending is what has happened and nobody has looked at yet.
func (r *running) pending() (events []*api.Event) {
	for {
		select {
		case e := <-r.sub.queue:
			events = append(events, e)
		default:
			return events
		}
	}
}

func TestANewDeviceAnnouncesOnlyWhatNobodyHasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := twoPolling(t, n, time.Minute)
		alice.delivers(t, b, "read on the old device")
		bob.received()
		time.Sleep(time.Second)
		// Whatever else happened in front of the owner's eyes.
		put(t, n, b.ID(), seal(t, a, b.ID(), &sessionpb.Content{DataExtractionNotification: &sessionpb.DataExtractionNotification{
			Type: sessionpb.DataExtractionNotification_SCREENSHOT.Enum()}, SigTimestamp: stampOf(time.Now())}))
		time.Sleep(2 * time.Minute)
		alice.delivers(t, b, "read as well")
		bob.received()
		must[*api.MessagesReply](t)(bob.Messages(t.Context(), &api.MessagesRequest{With: a.ID().String(), MarkRead: true}))
		time.Sleep(10 * time.Second)
		alice.delivers(t, b, "read nowhere")
		bob.received()

		fresh, _ := start(t, n, Config{Account: b, PollInterval: time.Minute})
		time.Sleep(30 * time.Second)
		if got := fresh.texts(a.ID()); len(got) != 4 {
			t.Fatalf("the new device has %q", got)
		}
		var rings []string
		for _, e := range fresh.pending() {
			if m := e.GetReceived(); m != nil && !m.Read {
				rings = append(rings, m.Text)
			}
			if m := e.GetInfo(); m != nil {
				rings = append(rings, m.Text)
			}
		}
		if !slices.Equal(rings, []string{"read nowhere"}) || fresh.now().Unread != 1 {
			t.Errorf("announced are %q, unread %d", rings, fresh.now().Unread)
		}
	})
}

func stampOf(at time.Time) *uint64 {
	ms := uint64(at.UnixMilli())
	return &ms
}

func TestWhatCameDuringABlockIsGoneForDevicesThatComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := twoPolling(t, n, time.Minute)
		alice.delivers(t, b, "before")
		bob.received()
		must[*api.Contact](t)(bob.Block(t.Context(), &api.WhoRequest{Who: a.ID().String()}))
		alice.delivers(t, b, "during")
		time.Sleep(5 * time.Minute)
		during, _ := start(t, n, Config{Account: b, PollInterval: time.Minute})
		time.Sleep(5 * time.Minute)
		if got := during.texts(a.ID()); len(got) != 0 {
			t.Errorf("a device that comes during the block has %q", got)
		}
		must[*api.Contact](t)(bob.Unblock(t.Context(), &api.WhoRequest{Who: a.ID().String()}))
		time.Sleep(2 * time.Minute) // the other device hears of it
		alice.delivers(t, b, "after")
		bob.received()
		time.Sleep(5 * time.Minute)
		after, _ := start(t, n, Config{Account: b, PollInterval: time.Minute})
		time.Sleep(5 * time.Minute)
		for name, device := range map[string]*running{"the first": bob, "one that comes after the block": after} {
			if got := device.texts(a.ID()); slices.Contains(got, "during") || !slices.Contains(got, "after") {
				t.Errorf("%s has %q", name, got)
			}
		}
		if got := during.texts(a.ID()); !slices.Equal(got, []string{"after"}) {
			t.Errorf("one that came during the block has %q", got)
		}
	})
}

func TestTheOwnerIsNoContactAndHasNotes(t *testing.T) {
	m := still(t, person(1))
	add := func(id account.ID, name string) error {
		_, err := m.AddContact(t.Context(), &api.AddContactRequest{SessionId: id.String(), Name: name})
		return err
	}
	if err := add(person(1).ID(), "Alice"); !errors.Is(err, ErrSelfName) || !strings.Contains(err.Error(), "note to yourself") {
		t.Errorf("the own ID: %v", err)
	}
	for _, name := range []string{"me", "Me", "note to SELF"} {
		if err := add(person(2).ID(), name); !errors.Is(err, ErrNameOwn) {
			t.Errorf("somebody else called %q: %v", name, err)
		}
		if id, err := m.session.whom(name); err != nil || id != person(1).ID() {
			t.Errorf("%q is %v, %v", name, id, err)
		}
	}
	if c := m.session.apiContact(archive.Contact{ID: person(1).ID(), Profile: "Alice"}); c.Name != NoteToSelf {
		t.Errorf("it is called %q", c.Name)
	}
}

func TestACodeAndAPhraseAreCheckedBeforeAPINIsChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		seed := account.Seed{9: 9}
		own := account.New(seed)
		old, _ := start(t, n, Config{Vault: &fakeVault{up: true, tries: 8, seed: seed[:], pin: "123456"}})
		must[*api.MessengerState](t)(old.Unlock(t.Context(), &api.UnlockRequest{Pin: "123456"}))
		link := must[*api.LinkReply](t)(old.Link(t.Context(), &api.LinkRequest{Pin: "123456"}))

		vault := &fakeVault{up: true, tries: 8}
		file := filepath.Join(t.TempDir(), "messenger.db")
		fresh, _ := start(t, n, Config{Vault: vault, DBPath: file})
		unknown, err := drawLink(strings.NewReader(strings.Repeat("x", 100)))
		if err != nil {
			t.Fatal(err)
		}
		words := strings.Fields(seed.Phrase())
		words[4] = "nonsense"
		for name, c := range map[string]struct {
			check func() (*api.MessengerState, error)
			want  error
		}{
			"a mistyped code": {func() (*api.MessengerState, error) {
				return fresh.Join(t.Context(), &api.JoinRequest{Code: link.Code[:28]})
			}, ErrLinkCode},
			"a code without a device": {func() (*api.MessengerState, error) {
				return fresh.Join(t.Context(), &api.JoinRequest{Code: unknown.code()})
			}, ErrLinkNothing},
			"a code": {func() (*api.MessengerState, error) {
				return fresh.Join(t.Context(), &api.JoinRequest{Code: link.Code})
			}, nil},
			"a wrong phrase": {func() (*api.MessengerState, error) {
				return fresh.Restore(t.Context(), &api.RestoreRequest{Phrase: strings.Join(words, " ")})
			}, ErrPhrase},
			"a phrase": {func() (*api.MessengerState, error) {
				return fresh.Restore(t.Context(), &api.RestoreRequest{Phrase: seed.Phrase()})
			}, nil},
			"a code where there is an account": {func() (*api.MessengerState, error) {
				return old.Join(t.Context(), &api.JoinRequest{Code: link.Code})
			}, ErrOpen},
			"a phrase where there is an account": {func() (*api.MessengerState, error) {
				return old.Restore(t.Context(), &api.RestoreRequest{Phrase: seed.Phrase()})
			}, ErrOpen},
		} {
			st, err := c.check()
			if c.want == nil && (err != nil || st.Account != api.MessengerState_NONE) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: %v, %v, want %v", name, st, err, c.want)
			}
		}
		if st := fresh.now(); st.Account != api.MessengerState_NONE || vault.seed != nil {
			t.Fatalf("a check made an account: %v", st)
		}
		st, err := fresh.Join(t.Context(), &api.JoinRequest{Code: link.Code, Pin: "654321"})
		mustOpen(t, st, err, own.ID())
	})
}

func TestADeviceThatLeavesIsNoLongerListed(t *testing.T) {
	for name, others := range map[string]bool{"among others": true, "alone": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := swarmtest.New(t, 9, time.Now)
				seed := account.Seed{9: 9}
				leaving, _ := start(t, n, Config{Vault: &fakeVault{up: true, tries: 8, seed: seed[:], pin: "123456"}, DeviceName: "Hearth", PollInterval: time.Minute})
				must[*api.MessengerState](t)(leaving.Unlock(t.Context(), &api.UnlockRequest{Pin: "123456"}))
				time.Sleep(5 * time.Minute)
				if !others {
					must[*api.WipeReply](t)(leaving.Wipe(t.Context(), &api.WipeRequest{Pin: "123456"}))
					for _, node := range n.Swarm(account.New(seed).ID()) {
						if got := len(retrieveIn(t, n, node, account.New(seed), config.DeviceList.Namespace())); got != 0 {
							t.Errorf("the list of devices is left in the swarm: %d messages", got)
						}
					}
					return
				}
				stays, _ := start(t, n, Config{Account: account.New(seed), DeviceName: "Hearth", PollInterval: time.Minute})
				names := func(m *running) (names []string) {
					for _, d := range must[*api.DevicesReply](t)(m.Devices(t.Context(), nil)).Devices {
						names = append(names, d.Name)
					}
					slices.Sort(names)
					return names
				}
				time.Sleep(5 * time.Minute)
				// Two of a kind can be told apart.
				for _, m := range []*running{leaving, stays} {
					if got := names(m); !slices.Equal(got, []string{"Hearth", "Hearth 2"}) {
						t.Fatalf("devices %q", got)
					}
				}
				stays.befriend(person(2).ID())
				time.Sleep(5 * time.Minute)
				must[*api.WipeReply](t)(leaving.Wipe(t.Context(), &api.WipeRequest{Pin: "123456"}))
				time.Sleep(5 * time.Minute)
				if got := len(inSwarm(t, stays, config.ContactList)); got != 1 {
					t.Errorf("those who stay have %d lists of contacts in the swarm", got)
				}
				if got := names(stays); !slices.Equal(got, []string{"Hearth 2"}) {
					t.Errorf("after the other has left: %q", got)
				}
			})
		})
	}
}
