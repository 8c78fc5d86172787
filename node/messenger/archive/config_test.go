package archive

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"hearth/node/account"
	"hearth/node/config"
)

// shelfSwarm is what the swarm keeps of the configs: messages by namespace and hash.
type shelfSwarm map[int16]map[string][]byte

func (s shelfSwarm) store(p ConfigPush) (hashes []string) {
	for _, part := range p.Parts {
		sum := sha256.Sum256(part)
		h := hex.EncodeToString(sum[:20]) + "000"
		if s[p.Namespace] == nil {
			s[p.Namespace] = make(map[string][]byte)
		}
		s[p.Namespace][h] = part
		hashes = append(hashes, h)
	}
	return hashes
}

func (s shelfSwarm) delete(hashes []string) {
	for _, ns := range s {
		for _, h := range hashes {
			delete(ns, h)
		}
	}
}

// push brings everything to the swarm and reports whether there was anything.
func (s shelfSwarm) push(t testing.TB, a *Archive) bool {
	t.Helper()
	list, err := a.PushConfigs()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		hashes := s.store(p)
		s.delete(p.Obsolete)
		if err := a.ConfirmConfig(p.Kind, p.Seqno, hashes, p.Obsolete); err != nil {
			t.Fatal(err)
		}
	}
	return len(list) > 0
}

func (s shelfSwarm) fetch(t testing.TB, a *Archive) Result {
	t.Helper()
	var fetched []ConfigFetch
	for _, kind := range ConfigKinds {
		f := ConfigFetch{Kind: kind, Sent: a.now().UnixMilli()}
		for _, h := range slices.Sorted(maps.Keys(s[kind.Namespace()])) {
			f.Messages = append(f.Messages, config.Message{Hash: h, Data: s[kind.Namespace()][h]})
		}
		if len(f.Messages) > 0 {
			fetched = append(fetched, f)
		}
	}
	r, err := a.MergeConfigs(fetched)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.ConfigsPolled(); err != nil {
		t.Fatal(err)
	}
	return r
}

// settle lets devices push and fetch until nothing changes.
func (s shelfSwarm) settle(t testing.TB, devices ...*Archive) {
	t.Helper()
	for range 20 {
		busy := false
		for _, a := range devices {
			s.fetch(t, a)
			busy = s.push(t, a) || busy
		}
		if !busy {
			return
		}
	}
	for _, a := range devices {
		for _, kind := range ConfigKinds {
			t.Logf("%v: edits %v, %d in the swarm", a.configs.Object(kind), len(editsOf(a.configs.Object(kind))), len(s[kind.Namespace()]))
		}
	}
	t.Fatal("the devices do not agree")
}

// shared is what devices have in common of a contact.
func common(list []Contact) map[account.ID]Contact {
	all := make(map[account.ID]Contact)
	for _, c := range list {
		all[c.ID] = Contact{ID: c.ID, Name: c.Name, Profile: c.Profile, ProfileTime: c.ProfileTime, PictureURL: c.PictureURL, PictureKey: c.PictureKey,
			Approved: c.Approved, ApprovedMe: c.ApprovedMe, Blocked: c.Blocked, Timer: c.Timer, LastRead: c.LastRead, MarkedUnread: c.MarkedUnread, Shared: c.Shared}
	}
	return all
}

func TestContactsAreTheSameAfterARestartAndOnAnotherDevice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a, _ := open(t, file)
	bob, stranger := someone(1), someone(2)
	if _, _, err := a.AddContact(bob, "Bobby"); err != nil {
		t.Fatal(err)
	}
	in := incoming(bob, 1, "hello")
	in.Profile = &TheirProfile{Name: "Robert", Since: 5, PictureURL: "https://example.org/1", PictureKey: hex.EncodeToString(make([]byte, 32))}
	receive(t, a, in)
	in = incoming(stranger, 2, "buy now")
	in.Profile = &TheirProfile{Name: "Mallory", Since: 5}
	receive(t, a, in)
	if _, err := a.Block(someone(3)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.MarkRead(bob, nil); err != nil {
		t.Fatal(err)
	}
	want := common(a.Contacts())
	if c := want[bob]; c.Name != "Bobby" || c.Profile != "Robert" || !c.Approved || !c.ApprovedMe || c.PictureURL == "" || c.LastRead == 0 {
		t.Fatalf("Bob is %+v", c)
	}
	swarm := shelfSwarm{}
	swarm.push(t, a)
	a.Close()

	a, _ = open(t, file)
	if got := common(a.Contacts()); !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart\n got %+v\nwant %+v", got, want)
	}
	b, _ := open(t, filepath.Join(t.TempDir(), "db"))
	swarm.fetch(t, b)
	delete(want, stranger) // who has not written to the other device
	if got := common(b.Contacts()); !reflect.DeepEqual(got, want) {
		t.Errorf("on another device\n got %+v\nwant %+v", got, want)
	}

	// A stranger's name is written on no other device before the owner has decided.
	if _, _, err := a.Approve(stranger); err != nil {
		t.Fatal(err)
	}
	swarm.settle(t, a, b)
	if c, _ := b.Contact(stranger); !c.Approved || c.Profile != "Mallory" {
		t.Errorf("an accepted stranger is %+v", c)
	}
	// Who is deleted is deleted everywhere, with the conversation.
	receive(t, b, incoming(bob, 1, "hello"))
	if err := a.Forget(bob); err != nil {
		t.Fatal(err)
	}
	swarm.settle(t, a, b)
	if _, there := b.Contact(bob); there {
		t.Error("a deleted contact is still there")
	}
	if list, err := b.Messages(bob, 0, 10, 1<<20); err != nil || len(list) != 0 {
		t.Errorf("messages of a deleted contact: %v, %v", list, err)
	}
}

func TestAStepThatFailsChangesNoConfig(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	if _, _, err := a.AddContact(someone(1), "Bobby"); err != nil {
		t.Fatal(err)
	}
	shelfSwarm{}.push(t, a)
	state := func() (dumps string) {
		a.ViewConfigs(func(c *Configs) {
			for _, kind := range ConfigKinds {
				dumps += fmt.Sprintf("%v %x\n", c.Object(kind), sha256.Sum256(c.Object(kind).Dump()))
			}
		})
		return dumps
	}
	before, contacts := state(), common(a.Contacts())
	boom := errors.New("boom")
	for name, f := range map[string]func() error{
		"the caller's own": func() error {
			return a.UpdateConfigs(func(c *Configs) error {
				if err := c.Profile.SetName("nobody"); err != nil {
					return err
				}
				return boom
			})
		},
		"the database's": func() error {
			_, err := a.change(func(tx *bbolt.Tx, w *change) error {
				c := w.contact(someone(1))
				c.Name = "Changed"
				w.touch(c)
				return boom
			})
			return err
		},
	} {
		if err := f(); !errors.Is(err, boom) {
			t.Errorf("%s: %v", name, err)
		}
		if got := state(); got != before {
			t.Errorf("%s: configs\n%swant\n%s", name, got, before)
		}
		if got := common(a.Contacts()); !reflect.DeepEqual(got, contacts) {
			t.Errorf("%s: contacts %v", name, got)
		}
	}
	if list, err := a.PushConfigs(); err != nil || len(list) != 0 {
		t.Errorf("to be pushed: %v, %v", list, err)
	}
}

func TestADamagedConfigComesBackFromTheSwarm(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a, _ := open(t, file)
	swarm := shelfSwarm{}
	if _, _, err := a.AddContact(someone(1), "Bobby"); err != nil {
		t.Fatal(err)
	}
	receive(t, a, incoming(someone(1), 1, "hello"))
	place := Place{Node: [32]byte{1}}
	if _, err := a.Receive(place, hash(1), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.SetProfile("Ada"); err != nil {
		t.Fatal(err)
	}
	swarm.push(t, a)
	want := common(a.Contacts())
	a.Close()

	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketConfigs).Put(configKey(config.ContactList), []byte("damaged, and long enough to hold a nonce"))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}

	a, _ = open(t, file)
	if got := a.DamagedConfigs(); !slices.Equal(got, []config.Kind{config.ContactList}) {
		t.Errorf("damaged: %v", got)
	}
	if a.Last(place) != "" {
		t.Error("the swarm would not be asked from the beginning")
	}
	if p, err := a.Profile(); err != nil || p.Name != "Ada" {
		t.Errorf("profile %+v, %v", p, err)
	}
	// Strangers who write meanwhile do not push out somebody who was a contact.
	for i := range MaxStrangers + 5 {
		receive(t, a, incoming(someone(100+i), 1, "hello"))
	}
	swarm.fetch(t, a)
	if got := common(a.Contacts()); !reflect.DeepEqual(got[someone(1)], want[someone(1)]) {
		t.Errorf("got %+v\nwant %+v", got[someone(1)], want[someone(1)])
	}
	if list, err := a.Messages(someone(1), 0, 10, 1<<20); err != nil || len(list) != 1 {
		t.Errorf("messages %v, %v", list, err)
	}
}

// took is receive with all that came of it.
func took(t testing.TB, a *Archive, items ...Incoming) Result {
	t.Helper()
	r, err := a.Receive(Place{}, "", items)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatAnotherDeviceReadCountsAsRead(t *testing.T) {
	a, now := open(t, filepath.Join(t.TempDir(), "a"))
	b, later := open(t, filepath.Join(t.TempDir(), "b"))
	bob, swarm := someone(1), shelfSwarm{}
	if _, _, err := a.AddContact(bob, "Bobby"); err != nil {
		t.Fatal(err)
	}
	swarm.settle(t, a, b)
	message := func(i int, timer Timer) Incoming {
		in := incoming(bob, i, fmt.Sprint(i))
		in.Message.Timer = timer
		return in
	}
	after := Timer{Type: TimerAfterRead, Seconds: 60}
	now.t, later.t = start.Add(time.Hour), start.Add(time.Hour)
	receive(t, a, message(1, Timer{}), message(2, after))
	receive(t, b, message(1, Timer{}))
	if _, err := a.MarkRead(bob, nil); err != nil {
		t.Fatal(err)
	}
	swarm.push(t, a)
	r := swarm.fetch(t, b)
	if c, _ := b.Contact(bob); c.Unread != 0 || len(r.Changed) != 1 || r.Changed[0].Change != ChangedRead {
		t.Errorf("%d unread, changed %+v", c.Unread, r.Changed)
	}
	// One that comes only now is read, and disappears.
	r = took(t, b, message(2, after))
	if len(r.Added) != 1 || !r.Added[0].Read || r.Added[0].Expires != later.t.Add(time.Minute).UnixMilli() || len(r.Guessed) != 1 {
		t.Errorf("added %+v, guessed %+v", r.Added, r.Guessed)
	}
	// The swarm knows when that was.
	end := later.t.Add(20 * time.Second).UnixMilli()
	if _, err := b.ReadElsewhere(map[Ref]int64{r.Added[0].Ref(): end}); err != nil {
		t.Fatal(err)
	}
	if m, err := b.Message(r.Added[0].Ref()); err != nil || m.Expires != end || b.NextExpiry() != end {
		t.Errorf("%+v, %v; next %d", m, err, b.NextExpiry())
	}
	// A sender's clock that is wrong does not make the future read.
	future := incoming(bob, 3, "from the year 9999")
	future.Sent = 253_370_764_800_000
	future.Message.Timestamp = future.Sent
	receive(t, a, future)
	if _, err := a.MarkRead(bob, nil); err != nil {
		t.Fatal(err)
	}
	swarm.settle(t, a, b)
	now.t, later.t = start.Add(2*time.Hour), start.Add(2*time.Hour)
	next := incoming(bob, 4, "next")
	next.Sent = start.Add(90 * time.Minute).UnixMilli()
	next.Message.Timestamp = next.Sent
	if r := took(t, b, next); len(r.Added) != 1 || r.Added[0].Read {
		t.Errorf("added %+v", r.Added)
	}
	// Marks go both ways.
	if _, err := b.MarkUnread(bob); err != nil {
		t.Fatal(err)
	}
	swarm.settle(t, b, a)
	if c, _ := a.Contact(bob); !c.MarkedUnread {
		t.Errorf("not marked: %+v", c)
	}
	if _, err := a.MarkRead(bob, nil); err != nil {
		t.Fatal(err)
	}
	swarm.settle(t, a, b)
	if c, _ := b.Contact(bob); c.MarkedUnread {
		t.Errorf("still marked: %+v", c)
	}
}

func TestDevicesKnowEachOther(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a")
	a, _ := open(t, file)
	b, later := open(t, filepath.Join(t.TempDir(), "b"))
	swarm := shelfSwarm{}
	if err := a.SignIn("first", "appliance"); err != nil {
		t.Fatal(err)
	}
	swarm.push(t, a)
	if r := swarm.fetch(t, b); len(r.Configs.Devices) != 0 || b.FreshDevices() != 0 {
		t.Errorf("one that was there before is news: %+v", r.Configs)
	}
	later.t = start.Add(36 * time.Hour)
	if err := b.SignIn("second\x1b[2J\u202e", "desktop"); err != nil {
		t.Fatal(err)
	}
	swarm.push(t, b)
	if r := swarm.fetch(t, a); len(r.Configs.Devices) != 1 || r.Configs.Devices[0].Name != "second[2J" || a.FreshDevices() != 1 {
		t.Errorf("news %+v", r.Configs)
	}
	a.Close()
	a, _ = open(t, file)
	list, own, fresh, err := a.Devices(true)
	if err != nil || len(list) != 2 || len(fresh) != 1 || fresh[own] {
		t.Fatalf("devices %v, new %v, %v", list, fresh, err)
	}
	for _, d := range list {
		if wantFirst := start.Unix() / 86_400; d.ID == own && (d.Name != "first" || d.Kind != "appliance" || d.First != wantFirst || d.Last != wantFirst) {
			t.Errorf("this one is %+v", d)
		} else if d.ID != own && d.First != later.t.Unix()/86_400 {
			t.Errorf("the other one is %+v", d)
		}
	}
	if a.FreshDevices() != 0 {
		t.Error("still new after a look")
	}
	// Nothing is written again on the same day under the same name.
	if err := a.SignIn("another default", "appliance"); err != nil {
		t.Fatal(err)
	}
	if list, err := a.PushConfigs(); err != nil || len(list) != 0 {
		t.Errorf("to be pushed: %v, %v", list, err)
	}
	if err := a.RenameDevice("kitchen", "appliance"); err != nil {
		t.Fatal(err)
	}
	swarm.settle(t, a, b)
	list, _, _, err = b.Devices(false)
	if err != nil || !slices.ContainsFunc(list, func(d config.Device) bool { return d.Name == "kitchen" }) {
		t.Errorf("devices %v, %v", list, err)
	}
}

// Devices that do anything in any order, and lose power between a store and its
// confirmation, end the same, and nothing that one of them did is lost, as long as
// none is behind by more than the format remembers. (One that is, with changes of
// its own, is tested below.)
func TestDevicesThatGoTheirOwnWaysEndTheSame(t *testing.T) {
	for round := range 15 {
		t.Run(fmt.Sprint("seed ", round), func(t *testing.T) {
			r := mathrand.New(mathrand.NewPCG(uint64(round), 7))
			swarm := shelfSwarm{}
			dir := t.TempDir()
			devices := make([]*Archive, 3)
			start := func(i int) {
				a, err := Open(filepath.Join(dir, fmt.Sprint(i)), secret, rand.Reader, func() time.Time { return start })
				if err != nil {
					t.Fatal(err)
				}
				devices[i] = a
			}
			for i := range devices {
				start(i)
				t.Cleanup(func() { devices[i].Close() })
			}
			want := make(map[account.ID]string) // each name is one device's alone
			behind := make([]int, len(devices)) // messages of others
			for range 120 {
				i := r.IntN(len(devices))
				a := devices[i]
				what := r.IntN(8)
				if late := slices.Max(behind); late >= 2 {
					i, what = slices.Index(behind, late), 3
					a = devices[i]
				}
				if what >= 3 && what <= 6 {
					for j := range behind {
						behind[j]++
					}
					behind[i] = 0
				}
				switch what {
				case 0, 1, 2:
					id := someone(i*100 + r.IntN(15))
					name := fmt.Sprintf("%x by %d, %d", id[20:], i, r.IntN(1_000_000))
					if _, _, err := a.AddContact(id, name); err != nil {
						t.Fatal(err)
					}
					want[id] = name
				case 3, 4, 5:
					swarm.fetch(t, a) // as a session does before it stores
					swarm.push(t, a)
				case 6: // the power goes after the store, or before it
					swarm.fetch(t, a)
					list, err := a.PushConfigs()
					if err != nil {
						t.Fatal(err)
					}
					if r.IntN(2) == 0 {
						for _, p := range list {
							swarm.store(p)
							swarm.delete(p.Obsolete)
						}
					}
					a.Close()
					start(i)
				case 7:
					a.Close()
					start(i)
				}
			}
			swarm.settle(t, devices...)
			for i, a := range devices {
				got := make(map[account.ID]string)
				for _, c := range a.Contacts() {
					got[c.ID] = c.Name
				}
				if !maps.Equal(got, want) {
					for id, name := range want {
						if got[id] != name {
							t.Errorf("device %d has %q, want %q", i, got[id], name)
						}
					}
				}
			}
			if n := len(swarm[config.ContactList.Namespace()]); n > 3 {
				t.Errorf("the swarm keeps %d messages of the contacts", n)
			}
		})
	}
}

func TestWhatWasChangedWithoutTheNetworkOutlivesWhatOthersDidMeanwhile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lonely")
	lonely, _ := open(t, file)
	other, _ := open(t, filepath.Join(t.TempDir(), "other"))
	swarm := shelfSwarm{}
	add := func(a *Archive, i int, name string) {
		t.Helper()
		if _, _, err := a.AddContact(someone(i), name); err != nil {
			t.Fatal(err)
		}
	}
	add(other, 1, "one")
	add(other, 2, "two")
	add(other, 3, "three")
	swarm.settle(t, other, lonely)

	add(lonely, 1, "one, renamed without the network")
	add(lonely, 3, "three, renamed on both")
	add(lonely, 4, "new without the network")
	if err := lonely.Forget(someone(2)); err != nil {
		t.Fatal(err)
	}
	if _, err := lonely.SetProfile("Ada"); err != nil {
		t.Fatal(err)
	}
	if _, err := lonely.PushConfigs(); err != nil { // which arrives nowhere
		t.Fatal(err)
	}
	lonely.Close()
	lonely, _ = open(t, file)
	for i := range 12 {
		add(other, 3, fmt.Sprint("three, renamed ", i))
		add(other, 100+i, fmt.Sprint("another ", i))
		swarm.settle(t, other)
	}
	swarm.settle(t, lonely, other)
	for name, a := range map[string]*Archive{"the lonely one": lonely, "the other": other} {
		names := make(map[account.ID]string)
		for _, c := range a.Contacts() {
			names[c.ID] = c.Name
		}
		for i, want := range map[int]string{1: "one, renamed without the network", 2: "", 3: "three, renamed 11", 4: "new without the network", 111: "another 11"} {
			if got := names[someone(i)]; got != want {
				t.Errorf("%s calls %d %q, want %q", name, i, got, want)
			}
		}
		if p, err := a.Profile(); err != nil || p.Name != "Ada" {
			t.Errorf("%s has the profile %+v, %v", name, p, err)
		}
		if n := len(editsOf(a.configs.Contacts.Object)); n != 0 {
			for range 3 {
				swarm.fetch(t, a)
			}
			if n := len(editsOf(a.configs.Contacts.Object)); n != 0 {
				t.Errorf("%s still remembers %d changes that everybody has", name, n)
			}
		}
	}
}

func BenchmarkNamingOneOfAThousandContacts(b *testing.B) {
	a, _ := open(b, filepath.Join(b.TempDir(), "db"))
	for i := range 1000 {
		if _, _, err := a.AddContact(someone(i), fmt.Sprint("contact ", i)); err != nil {
			b.Fatal(err)
		}
	}
	swarm := shelfSwarm{}
	swarm.settle(b, a)
	i := 0
	for b.Loop() {
		i++
		if _, _, err := a.AddContact(someone(i%1000), fmt.Sprint("renamed ", i)); err != nil {
			b.Fatal(err)
		}
	}
}
