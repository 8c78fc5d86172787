package archive

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"hearth/node/account"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

var secret = account.New(account.Seed{1, 2, 3})

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

var start = time.UnixMilli(1_700_000_000_000)

func open(t testing.TB, file string) (*Archive, *clock) {
	t.Helper()
	c := &clock{start}
	a, err := Open(file, secret, rand.Reader, c.now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a, c
}

func someone(i int) account.ID {
	id := account.ID{account.PrefixAccount}
	copy(id[1:], fmt.Sprintf("somebody number %16d", i))
	return id
}

func hash(i int) string { return fmt.Sprintf("%043d", i) }

// incoming is message i of a person.
func incoming(from account.ID, i int, text string) Incoming {
	at := int64(1_699_999_000_000 + i)
	return Incoming{Hash: hash(i), With: from, Sent: at, Message: &Message{With: from, Text: text, Timestamp: at, Hash: hash(i)}}
}

var home = Place{Node: [32]byte{9, 9, 9}, Namespace: 0}

func receive(t testing.TB, a *Archive, items ...Incoming) []Message {
	t.Helper()
	r, err := a.Receive(home, items[len(items)-1].Hash, items)
	if err != nil {
		t.Fatal(err)
	}
	return r.Added
}

func befriend(t testing.TB, a *Archive, who ...account.ID) {
	t.Helper()
	for _, id := range who {
		if _, _, err := a.AddContact(id, ""); err != nil {
			t.Fatal(err)
		}
	}
}

func texts(t testing.TB, a *Archive, with account.ID) []string {
	t.Helper()
	list, err := a.Messages(with, 0, 1000, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, m := range list {
		texts = append(texts, m.Text)
	}
	return texts
}

func TestEverythingSurvivesAReopenAndTheFileTellsNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sub", "messenger.db")
	a, _ := open(t, file)
	alice, bob := someone(1), someone(2)
	if _, _, err := a.AddContact(alice, "Alice Liddell"); err != nil {
		t.Fatal(err)
	}
	in := incoming(alice, 1, "down the rabbit hole")
	in.Profile = &TheirProfile{Name: "White Rabbit", Since: 5}
	receive(t, a, in, Incoming{Hash: hash(2), Unreadable: true})
	if _, _, err := a.Write(Message{With: bob, Outgoing: true, Text: "tea at six", Timestamp: 1_700_000_000_500, Hash: hash(3), Read: true}); err != nil {
		t.Fatal(err)
	}
	nodes := path.Saved{
		Height: 5, Fetched: start, Guards: []path.Key{{0xaa, 0xbb, 0xcc, 0xdd, 0xee}},
		Nodes: []swarm.Node{{Ed25519: [32]byte{0xaa, 0xbb, 0xcc, 0xdd, 0xee}, X25519: [32]byte{0x11, 0x22, 0x33, 0x44, 0x55},
			Address: netip.MustParseAddrPort("203.0.113.77:22021"), Swarm: 12, RequestedUnlockHeight: 3}},
	}
	if err := a.SaveNodes(nodes); err != nil {
		t.Fatal(err)
	}
	if _, err := a.SetProfile("Lewis Carroll"); err != nil {
		t.Fatal(err)
	}
	before := a.Contacts()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}

	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{
		"rabbit", "Rabbit", "tea at six", "Alice", "Lewis", "somebody number", "203.0.113", hash(1)[20:], hash(3)[20:],
		alice.String()[2:20], hex.EncodeToString([]byte("somebody")), string(home.Node[:3]) + "\x00\x00\x00", "\xaa\xbb\xcc\xdd\xee", "\x11\x22\x33\x44\x55",
	} {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("the file contains %q", secret)
		}
	}

	a, _ = open(t, file)
	if !slices.Equal(a.Contacts(), before) {
		t.Errorf("contacts %+v, want %+v", a.Contacts(), before)
	}
	if got := texts(t, a, alice); !slices.Equal(got, []string{"down the rabbit hole"}) {
		t.Errorf("messages of Alice: %q", got)
	}
	if got := texts(t, a, bob); !slices.Equal(got, []string{"tea at six"}) {
		t.Errorf("messages of Bob: %q", got)
	}
	if a.Unread() != 1 || a.Unreadable() != 1 {
		t.Errorf("%d unread, %d unreadable", a.Unread(), a.Unreadable())
	}
	if a.Last(home) != hash(2) || a.Last(Place{Node: home.Node, Namespace: 2}) != "" || a.Last(Place{}) != "" {
		t.Errorf("last hash %q", a.Last(home))
	}
	if got := a.Seen([]string{hash(1), hash(2), hash(3)}); !slices.Equal(got, []bool{true, true, false}) {
		t.Errorf("seen %v", got)
	}
	got, err := a.Nodes()
	if err != nil || got.Height != 5 || !got.Fetched.Equal(start) || !slices.Equal(got.Nodes, nodes.Nodes) || !slices.Equal(got.Guards, nodes.Guards) {
		t.Errorf("nodes %+v, %v", got, err)
	}
}

func TestAnotherAccountCannotOpenIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "messenger.db")
	a, _ := open(t, file)
	if _, err := Open(file, secret, rand.Reader, time.Now); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	a.Close()
	if _, err := Open(file, account.New(account.Seed{4}), rand.Reader, time.Now); !errors.Is(err, ErrOtherAccount) {
		t.Errorf("opened with another secret: %v", err)
	}
	open(t, file) // and it is still there for the first one
}

func TestMessagesComeInOnce(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	alice, self := someone(1), someone(0)
	befriend(t, a, alice, someone(2))
	if added := receive(t, a, incoming(alice, 1, "one")); len(added) != 1 {
		t.Fatal("not added")
	}
	if added := receive(t, a, incoming(alice, 1, "one")); len(added) != 0 {
		t.Error("the same hash was added again")
	}
	copied := incoming(alice, 1, "one")
	copied.Hash = hash(77)
	if added := receive(t, a, copied, copied); len(added) != 0 {
		t.Error("the same sender and time were added again under another hash")
	}
	if !a.Seen([]string{hash(77)})[0] {
		t.Error("the copy is not remembered")
	}
	if added := receive(t, a, incoming(someone(2), 1, "one")); len(added) != 0 {
		t.Error("another sender with a known hash was added")
	}
	other := incoming(someone(2), 1, "one")
	other.Hash = hash(78)
	if added := receive(t, a, other); len(added) != 1 {
		t.Error("another sender with the same time was taken for a copy")
	}

	// A note to self is sent and polled, in either order.
	note := func(i int) Message {
		return Message{With: self, Outgoing: true, Text: "note", Timestamp: int64(i), Hash: hash(100 + i), Read: true}
	}
	one, two := note(1), note(2)
	if _, r, err := a.Write(one); err != nil || len(r.Added) != 1 {
		t.Error(r, err)
	}
	if added := receive(t, a, Incoming{Hash: one.Hash, With: self, Own: true, Message: &one}); len(added) != 0 {
		t.Error("polled what was sent")
	}
	if added := receive(t, a, Incoming{Hash: two.Hash, With: self, Own: true, Message: &two}); len(added) != 1 {
		t.Error("not polled")
	}
	if _, _, err := a.Write(two); !errors.Is(err, ErrTimeTaken) {
		t.Error("sent what was polled", err)
	}
	if got := texts(t, a, self); len(got) != 2 {
		t.Errorf("notes: %q", got)
	}
	if a.Unread() != 2 {
		t.Errorf("%d unread, want the two incoming ones", a.Unread())
	}
}

func TestNothingIsWrittenWhenNothingIsNew(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	receive(t, a, incoming(someone(1), 1, "one"))
	before := a.db.Stats()
	if _, err := a.Receive(home, hash(1), nil); err != nil {
		t.Fatal(err)
	}
	after := a.db.Stats()
	if d := after.Sub(&before); d.TxStats.GetWrite() != 0 {
		t.Errorf("%d pages written", d.TxStats.GetWrite())
	}
}

func markRead(a *Archive, with account.ID) error {
	_, err := a.MarkRead(with, nil)
	return err
}

func TestMarkingReadCounts(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	alice, bob := someone(1), someone(2)
	befriend(t, a, alice, bob)
	for i := range 10 {
		receive(t, a, incoming(alice, i, fmt.Sprint(i)))
	}
	receive(t, a, incoming(bob, 11, "b"))
	if c, _ := a.Contact(alice); c.Unread != 10 || a.Unread() != 11 {
		t.Fatalf("%d and %d unread", c.Unread, a.Unread())
	}
	if err := markRead(a, alice); err != nil {
		t.Fatal(err)
	}
	if err := markRead(a, someone(3)); err != nil {
		t.Errorf("marking nobody: %v", err)
	}
	if c, _ := a.Contact(alice); c.Unread != 0 || a.Unread() != 1 {
		t.Errorf("%d and %d unread after reading", c.Unread, a.Unread())
	}
	list, err := a.Messages(alice, 0, 3, 1<<20)
	if err != nil || len(list) != 3 || list[0].Text != "7" || list[2].Text != "9" || !list[0].Read {
		t.Errorf("the newest three: %+v, %v", list, err)
	}
	if list, _ = a.Messages(bob, 0, 3, 1<<20); len(list) != 1 || list[0].Read {
		t.Errorf("of the other one: %+v", list)
	}
	if list, _ = a.Messages(alice, 0, 100, 2); len(list) != 2 {
		t.Errorf("%d messages of one byte in two bytes", len(list))
	}
}

func TestALateMessageIsShownAmongTheNewestInItsPlace(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	alice := someone(1)
	receive(t, a, incoming(alice, 5, "five"), incoming(alice, 9, "nine"), incoming(alice, 7, "seven"))
	if got := texts(t, a, alice); !slices.Equal(got, []string{"five", "seven", "nine"}) {
		t.Errorf("order %q", got)
	}
	if c, _ := a.Contact(alice); c.LastText != "nine" {
		t.Errorf("latest %q", c.LastText)
	}
}

func TestStrangersAreBounded(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	friend := someone(9999)
	if _, _, err := a.AddContact(friend, "friend"); err != nil {
		t.Fatal(err)
	}
	n := 0
	next := func(from account.ID, text string) Incoming { n++; return incoming(from, n, text) }

	talkative := someone(5000)
	var items []Incoming
	for range MaxFromStranger + 20 {
		items = append(items, next(talkative, "hello"), next(friend, "hello"))
	}
	r, err := a.Receive(home, "", items)
	if err != nil || r.Refused != 20 || len(r.Added) != 2*MaxFromStranger+20 {
		t.Fatalf("%d added, %d refused, %v", len(r.Added), r.Refused, err)
	}

	items = nil
	for i := range 2 * MaxStrangers {
		items = append(items, next(someone(i), "hello"))
	}
	if _, err := a.Receive(home, "", items); err != nil {
		t.Fatal(err)
	}
	strangers := 0
	for _, c := range a.Contacts() {
		if !c.Approved {
			strangers++
		}
	}
	if strangers > MaxStrangers {
		t.Errorf("%d strangers", strangers)
	}
	if _, ok := a.Contact(talkative); ok || len(texts(t, a, talkative)) != 0 {
		t.Error("the oldest stranger did not make room")
	}
	if _, ok := a.Contact(someone(2*MaxStrangers - 1)); !ok {
		t.Error("the newest stranger is missing")
	}
	if len(texts(t, a, friend)) != MaxFromStranger+20 {
		t.Error("a friend's messages were left out")
	}
	// Whoever had to go may come back.
	if added := receive(t, a, next(talkative, "again")); len(added) != 1 || len(texts(t, a, talkative)) != 1 {
		t.Error("the stranger cannot come back")
	}

	items = nil
	for i := range MaxStrangers {
		items = append(items, next(someone(10000+i), strings.Repeat("x", 200_000)))
	}
	if _, err := a.Receive(home, "", items); err != nil {
		t.Fatal(err)
	}
	total := uint64(0)
	for _, c := range a.Contacts() {
		if !c.Approved {
			total += c.Bytes
		}
	}
	if total > MaxStrangersBytes {
		t.Errorf("strangers hold %d bytes", total)
	}

	// An answer makes a friend of a stranger.
	last := someone(10000 + MaxStrangers - 1)
	if _, _, err := a.Write(Message{With: last, Outgoing: true, Text: "hello", Timestamp: 1, Hash: hash(0)}); err != nil {
		t.Fatal(err)
	}
	items = nil
	for i := range 2 * MaxStrangers {
		items = append(items, next(someone(20000+i), "hello"))
	}
	if _, err := a.Receive(home, "", items); err != nil {
		t.Fatal(err)
	}
	if c, ok := a.Contact(last); !ok || !c.Approved {
		t.Error("somebody who was answered had to make room")
	}
}

func TestNames(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	alice, eve, bob := someone(1), someone(2), someone(3)
	if _, _, err := a.AddContact(alice, "Alice"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.AddContact(bob, "alice"); !errors.Is(err, ErrNameTaken) {
		t.Errorf("a name given twice: %v", err)
	}
	pretender := incoming(eve, 1, "it's me")
	pretender.Profile = &TheirProfile{Name: "Alice"}
	receive(t, a, pretender)
	if got := a.Named("ALICE ", true); len(got) != 1 || got[0].ID != alice {
		t.Errorf("the name means %v", got)
	}
	for i, id := range []account.ID{eve, bob} {
		m := incoming(id, 10+i, "x")
		m.Profile = &TheirProfile{Name: "Carol", Since: 5}
		receive(t, a, m)
	}
	if got := a.Named("carol", true); len(got) != 2 {
		t.Errorf("what two people call themselves means %d", len(got))
	}
	older := incoming(bob, 20, "x")
	older.Profile = &TheirProfile{Name: "Dave", Since: 4}
	receive(t, a, older)
	if c, _ := a.Contact(bob); c.DisplayName() != "Carol" {
		t.Errorf("an older name replaced a newer one: %q", c.DisplayName())
	}
	if a.Named("", true) != nil {
		t.Error("no name means somebody")
	}
}

func TestADamagedMessageIsAnErrorAndNotAPanic(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	alice, bob := someone(1), someone(2)
	receive(t, a, incoming(alice, 1, "one"), incoming(bob, 2, "two"))
	// The two sealed values change places: both open with the right key only in
	// their own.
	err := a.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMessages)
		var keys, values [][]byte
		b.ForEach(func(k, v []byte) error {
			keys, values = append(keys, bytes.Clone(k)), append(values, bytes.Clone(v))
			return nil
		})
		return errors.Join(b.Put(keys[0], values[1]), b.Put(keys[1], values[0]))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Messages(alice, 0, 10, 1000); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

func TestOldHashesAreForgotten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a, now := open(t, file)
	receive(t, a, Incoming{Hash: hash(1), Unreadable: true})
	now.t = start.Add(10 * 24 * time.Hour)
	receive(t, a, Incoming{Hash: hash(2), Unreadable: true})
	a.Close()

	a, err := Open(file, secret, rand.Reader, func() time.Time { return start.Add(17 * 24 * time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if got := a.Seen([]string{hash(1), hash(2)}); !slices.Equal(got, []bool{false, true}) || a.seen != 1 {
		t.Errorf("seen %v, counted %d", got, a.seen)
	}
}

func TestTheProfileKeepsItsTime(t *testing.T) {
	a, now := open(t, filepath.Join(t.TempDir(), "db"))
	first, err := a.SetProfile("Ann")
	if err != nil || first.Since != start.Unix() {
		t.Fatal(first, err)
	}
	now.t = start.Add(time.Hour)
	if again, err := a.SetProfile("Ann"); err != nil || again != first {
		t.Errorf("the same name got a new time: %v, %v", again, err)
	}
	if other, err := a.SetProfile("Anna"); err != nil || other.Since != now.t.Unix() {
		t.Errorf("a new name kept the old time: %v, %v", other, err)
	}
}

func BenchmarkReceivingAMessage(b *testing.B) {
	a, _ := open(b, filepath.Join(b.TempDir(), "db"))
	text := strings.Repeat("x", 1024)
	alice := someone(1)
	if _, _, err := a.AddContact(alice, "Alice"); err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		receive(b, a, incoming(alice, i, text))
	}
}
