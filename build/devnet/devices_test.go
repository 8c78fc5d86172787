package devnet_test

import (
	"bytes"
	"context"
	"fmt"
	"image/color"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/build/devnet"
	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger"
)

// sees waits until something is so, looking again with every event.
func (w *talker) sees(what string, so func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !so(); {
		if time.Now().After(end) {
			st, _ := w.State(context.Background(), nil)
			w.t.Fatalf("never: %s; state %v, contacts %v", what, st, w.people())
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		w.sub.Next(ctx)
		cancel()
	}
}

// people are the contacts by their Session IDs.
func (w *talker) people() map[string]*api.Contact {
	w.t.Helper()
	reply, err := w.Contacts(context.Background(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	people := make(map[string]*api.Contact)
	for _, c := range reply.Contacts {
		people[c.SessionId] = c
	}
	return people
}

func (w *talker) settings(change *api.SettingsRequest) *api.SettingsReply {
	w.t.Helper()
	reply, err := w.Settings(context.Background(), change)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

func (w *talker) adds(id, name string) {
	w.t.Helper()
	if _, err := w.AddContact(context.Background(), &api.AddContactRequest{SessionId: id, Name: name}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *talker) devices() []*api.AccountDevice {
	w.t.Helper()
	reply, err := w.Devices(context.Background(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply.Devices
}

// device starts one device of an account.
func device(t *testing.T, n *devnet.Network, seed byte, name, file string) *talker {
	t.Helper()
	return talk(t, n, seed, func(c *messenger.Config) {
		c.DeviceName, c.DeviceKind = name, "test"
		if file != "" {
			c.DBPath = file
		}
	})
}

// lively waits until a device has its place in the swarm.
func (w *talker) lively() *talker {
	w.t.Helper()
	w.sees("in the list of devices", func() bool { return len(w.devices()) > 0 })
	return w
}

func somebody(k byte) string { return account.New(account.Seed{200, k}).ID().String() }

func TestWhatOneDeviceDoesIsSoOnTheOthers(t *testing.T) {
	t.Parallel() // it mostly waits
	n := messengerNetwork(t)
	bob := talk(t, n, 2, nil)
	phone := device(t, n, 1, "phone", "").lively()
	desk := device(t, n, 1, "desk", "").lively()
	tablet := device(t, n, 1, "tablet", "").lively()
	others := []*talker{desk, tablet}
	began := time.Now()

	phone.settings(&api.SettingsRequest{DisplayName: proto.String("Ada")})
	phone.adds(bob.id, "Bobby")
	phone.adds(somebody(1), "Mallory")
	if _, err := phone.Block(t.Context(), &api.WhoRequest{Who: "Mallory"}); err != nil {
		t.Fatal(err)
	}
	phone.says(bob, "hello")
	if _, err := phone.SetTimer(t.Context(), &api.SetTimerRequest{With: "Bobby", Timer: &api.Timer{Type: api.Timer_AFTER_SEND, Seconds: 3600}}); err != nil {
		t.Fatal(err)
	}
	for _, w := range others {
		w.sees("the name", func() bool { return w.settings(&api.SettingsRequest{}).DisplayName == "Ada" })
		w.sees("the contact", func() bool {
			c := w.people()[bob.id]
			return c.GetName() == "Bobby" && c.GetTimer().GetSeconds() == 3600 && c.GetLastText() == "hello"
		})
		w.sees("the block", func() bool { return w.people()[somebody(1)].GetBlocked() })
	}
	t.Logf("profile, contact, block, timer and a sent message after %v", time.Since(began).Round(time.Millisecond))
	if _, err := phone.SetPictureFrom(t.Context(), bytes.NewReader(onePicture(t, color.RGBA{R: 255, A: 255}, 90, 60))); err != nil {
		t.Fatal(err)
	}
	desk.sees("the picture", func() bool { return desk.settings(&api.SettingsRequest{}).Picture })
	if own, err := desk.Picture(t.Context(), &api.WhoRequest{Who: desk.id}); err != nil {
		t.Errorf("the picture that another device chose: %v", err)
	} else if _, r, b := looks(t, own); r < 0xf000 || b > 0x1000 {
		t.Errorf("the picture that another device chose: red %x, blue %x", r, b)
	}

	// What Bob writes is unread everywhere until one of them reads it.
	bob.knows(phone)
	bob.says(phone, "one")
	bob.says(phone, "two")
	for _, w := range []*talker{phone, desk, tablet} {
		w.sees("two unread", func() bool { return w.people()[bob.id].GetUnread() == 2 })
	}
	began = time.Now()
	if _, err := desk.Messages(t.Context(), &api.MessagesRequest{With: "Bobby", MarkRead: true}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*talker{phone, tablet} {
		w.sees("nothing unread", func() bool { return w.people()[bob.id].GetUnread() == 0 })
	}
	t.Logf("read everywhere after %v", time.Since(began).Round(time.Millisecond))
	if _, err := desk.MarkUnread(t.Context(), &api.WhoRequest{Who: "Bobby"}); err != nil {
		t.Fatal(err)
	}
	tablet.sees("marked unread", func() bool { return tablet.people()[bob.id].GetMarkedUnread() })

	// Two of them at once, and all end the same.
	began = time.Now()
	phone.adds(somebody(2), "Second")
	desk.adds(somebody(3), "Third")
	tablet.adds(bob.id, "Robert")
	if _, err := desk.Unblock(t.Context(), &api.WhoRequest{Who: "Mallory"}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*talker{phone, desk, tablet} {
		w.sees("all changes", func() bool {
			p := w.people()
			return p[somebody(2)].GetName() == "Second" && p[somebody(3)].GetName() == "Third" && p[bob.id].GetName() == "Robert" && !p[somebody(1)].GetBlocked()
		})
	}
	t.Logf("four changes at once on three devices after %v", time.Since(began).Round(time.Millisecond))

	// They know of each other, and tell about who came later.
	for _, w := range []*talker{phone, desk, tablet} {
		w.sees("three devices", func() bool { return len(w.devices()) == 3 })
		own := ""
		names := make(map[string]bool)
		for _, d := range w.devices() {
			names[d.Name] = true
			if d.Own {
				own += d.Name
			}
			if today := time.Now().UTC().Truncate(24 * time.Hour).UnixMilli(); d.FirstSeen > today || d.LastSeen < today-86_400_000 {
				t.Errorf("seen from %d to %d", d.FirstSeen, d.LastSeen)
			}
		}
		if len(names) != 3 || own == "" || !names[own] {
			t.Errorf("devices %v, this one is %q", names, own)
		}
	}
	if _, err := tablet.RenameDevice(t.Context(), &api.RenameDeviceRequest{Name: "the small one"}); err != nil {
		t.Fatal(err)
	}
	phone.sees("the new name", func() bool { return hasDevice(phone, "the small one") })
}

func hasDevice(w *talker, name string) bool {
	for _, d := range w.devices() {
		if d.Name == name {
			return true
		}
	}
	return false
}

func TestChangesWithoutTheNetworkComeLaterAndAreNotLost(t *testing.T) {
	t.Parallel() // it mostly waits
	n := messengerNetwork(t)
	file := filepath.Join(t.TempDir(), "db")
	phone := device(t, n, 1, "phone", "").lively()
	desk := device(t, n, 1, "desk", file).lively()
	phone.adds(somebody(1), "First")
	desk.sees("the contact", func() bool { return desk.people()[somebody(1)] != nil })
	desk.stop()

	// The desk is without a network, and the phone changes more than the format
	// remembers.
	away := account.New(account.Seed{1})
	lonely, err := messenger.New(messenger.Config{Account: away, DBPath: file})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lonely.AddContact(t.Context(), &api.AddContactRequest{SessionId: somebody(1), Name: "Renamed"}); err != nil {
		t.Fatal(err)
	}
	if _, err := lonely.AddContact(t.Context(), &api.AddContactRequest{SessionId: somebody(2), Name: "Offline"}); err != nil {
		t.Fatal(err)
	}
	lonely.Close()
	witness := device(t, n, 1, "witness", "").lively()
	for k := byte(10); k < 18; k++ {
		phone.adds(somebody(k), fmt.Sprint("contact ", k))
		witness.sees("a push for each", func() bool { return witness.people()[somebody(k)] != nil })
	}

	desk = device(t, n, 1, "desk", file)
	for _, w := range []*talker{desk, phone, witness} {
		w.sees("what was done meanwhile, on both sides", func() bool {
			p := w.people()
			return len(p) == 10 && p[somebody(1)].Name == "Renamed" && p[somebody(2)].GetName() == "Offline" && p[somebody(17)] != nil
		})
	}
}
