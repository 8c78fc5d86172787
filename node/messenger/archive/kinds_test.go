package archive

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"hearth/node/account"
	"hearth/node/wire"
)

func own(with account.ID, i int, text string) Message {
	return Message{With: with, Outgoing: true, Text: text, Timestamp: 1_699_999_000_000 + int64(i), Read: true, State: StateWaiting}
}

func TestAParcelStaysUntilItIsDelivered(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a, _ := open(t, file)
	alice := someone(1)
	m, r, err := a.Write(own(alice, 1, "hello"), Parcel{To: alice, Data: []byte("sealed"), Hash: hash(1), Track: true, Copy: []byte("copy")}, Parcel{To: alice, Data: []byte("other")})
	if err != nil || len(r.Parcels) != 2 || r.Parcels[0].Message != m.Ref() || r.Parcels[1].Message != (Ref{}) {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, _, err := a.Write(own(someone(2), 1, "hello")); !errors.Is(err, ErrTimeTaken) {
		t.Errorf("two own messages of one millisecond: %v", err)
	}
	a.Close()
	a, _ = open(t, file)
	if a.Waiting() != 2 {
		t.Errorf("%d wait after a restart", a.Waiting())
	}
	list, err := a.Outbox()
	if err != nil || len(list) != 2 || list[0].ID >= list[1].ID || !list[0].Track {
		t.Fatalf("%+v, %v", list, err)
	}
	p, ok, err := a.Parcel(list[0].ID)
	if err != nil || !ok || string(p.Data) != "sealed" || p.Message != m.Ref() {
		t.Fatalf("%+v, %v, %v", p, ok, err)
	}
	copied := Parcel{To: someone(0), Own: true, Data: []byte("copy"), Hash: hash(2)}
	r, err = a.Delivered(p.ID, 2, 3, &copied)
	if err != nil || len(r.Changed) != 1 || r.Changed[0].Message.State != StateStored || r.Changed[0].Message.Stored != 2 || r.Changed[0].Message.CopyHash != hash(2) {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := a.Delivered(p.ID, 2, 3, &copied); err != nil || len(r.Changed)+len(r.Parcels) != 0 {
		t.Errorf("delivered twice: %+v, %v", r, err)
	}
	if !a.Seen([]string{hash(2)})[0] {
		t.Error("the own copy would be taken for news")
	}
	if _, ok, _ := a.Parcel(p.ID); ok || a.Waiting() != 2 { // the copy took its place
		t.Errorf("still there, %d wait", a.Waiting())
	}
	// Unsent while the copy waits, which goes as well.
	if _, _, err := a.Unsend(m.Ref()); err != nil {
		t.Fatal(err)
	}
	list, _ = a.Outbox()
	if len(list) != 2 || list[0].Kind != ParcelStore || list[1].Kind != ParcelDelete {
		t.Errorf("outbox %+v", list)
	}
}

func TestAFailedMessageSaysWhy(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	alice := someone(1)
	m, r, err := a.Write(own(alice, 1, "hello"), Parcel{To: alice, Track: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Failed(r.Parcels[0].ID, "because"); err != nil {
		t.Fatal(err)
	}
	if m, err = a.Message(m.Ref()); err != nil || m.State != StateFailed || m.Failure != "because" || a.Waiting() != 0 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestASealedParcelTakesItsMessageToAnotherTime(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	alice := someone(1)
	m, r, err := a.Write(own(alice, 1, "hello"), Parcel{To: alice, Track: true, Content: []byte("x"), Timestamp: own(alice, 1, "").Timestamp})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Write(own(alice, 2, "second")); err != nil {
		t.Fatal(err)
	}
	p, _, _ := a.Parcel(r.Parcels[0].ID)
	p.Timestamp++
	if _, _, err := a.Sealed(p); !errors.Is(err, ErrTimeTaken) {
		t.Errorf("the time of another message: %v", err)
	}
	p.Timestamp += 5
	p.Data, p.Hash = []byte("sealed"), hash(1)
	if ok, _, err := a.Sealed(p); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := a.Find(alice, true, m.Timestamp); !errors.Is(err, ErrNoMessage) {
		t.Errorf("found under the old time: %v", err)
	}
	if got, err := a.Find(alice, true, p.Timestamp); err != nil || got.Number != m.Number || got.Hash != hash(1) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := a.Delivered(p.ID, 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	if ok, _, err := a.Sealed(p); ok || err != nil {
		t.Errorf("sealed what is gone: %v, %v", ok, err)
	}
}

func TestTheLatestWordOnAReactionCounts(t *testing.T) {
	react := func(emoji string, mine bool, at int64, gone bool) Reaction {
		return Reaction{Emoji: emoji, Mine: mine, At: at, Gone: gone}
	}
	for _, c := range []struct {
		name  string
		words []Reaction
		want  []Reaction
	}{
		{"added", []Reaction{react("a", true, 1, false)}, []Reaction{react("a", true, 1, false)}},
		{"added and taken away", []Reaction{react("a", true, 1, false), react("a", true, 2, true)}, []Reaction{react("a", true, 2, true)}},
		{"in the wrong order", []Reaction{react("a", true, 2, true), react("a", true, 1, false)}, []Reaction{react("a", true, 2, true)}},
		{"of both sides", []Reaction{react("a", true, 1, false), react("a", false, 1, false)}, []Reaction{react("a", true, 1, false), react("a", false, 1, false)}},
		{"twice", []Reaction{react("a", true, 1, false), react("a", true, 1, false)}, []Reaction{react("a", true, 1, false)}},
	} {
		var list []Reaction
		for _, w := range c.words {
			list, _ = merge(list, w)
		}
		if !slices.Equal(list, c.want) {
			t.Errorf("%s: %v", c.name, list)
		}
	}
	var list []Reaction
	for i := range 100 {
		list, _ = merge(list, react(fmt.Sprint(i), i%2 == 0, int64(i), i%4 == 0))
	}
	if len(list) > 2*maxReactions {
		t.Errorf("%d reactions", len(list))
	}
}

func TestWordAboutWhatIsNotThereIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a, _ := open(t, file)
	alice := someone(1)
	befriend(t, a, alice)
	var items []Incoming
	for i := range 3 * maxOrphans {
		items = append(items, Incoming{Hash: hash(i), With: alice, Sent: int64(i), Reaction: &Reacting{Timestamp: int64(i), Emoji: "👍"}})
	}
	receive(t, a, items...)
	count := func() (n int) {
		a.db.View(func(tx *bbolt.Tx) error { n = tx.Bucket(bucketOrphans).Stats().KeyN; return nil })
		return n
	}
	if n := count(); n > maxOrphans || n != a.orphans {
		t.Errorf("%d are kept, %d counted", n, a.orphans)
	}
	a.Close()
	a, _ = open(t, file)
	if n := count(); n != a.orphans || n == 0 {
		t.Errorf("%d are kept, %d counted after a restart", n, a.orphans)
	}
}

func TestTimersSurviveARestartAndTellNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a, now := open(t, file)
	alice := someone(1)
	befriend(t, a, alice)
	due := start.Add(time.Hour).UnixMilli()
	in := incoming(alice, 1, "secret")
	in.Message.Timer, in.Message.Expires = Timer{TimerAfterSend, 3600}, due
	late := incoming(alice, 2, "too late")
	late.Message.Expires = start.UnixMilli()
	if added := receive(t, a, in, late, incoming(alice, 3, "stays")); len(added) != 2 {
		t.Fatalf("added %+v", added)
	}
	a.Close()
	a, now = open(t, file)
	if a.NextExpiry() != due {
		t.Errorf("next %d, want %d", a.NextExpiry(), due)
	}
	if r, err := a.Expire(); err != nil || len(r.Changed) != 0 {
		t.Errorf("too early: %+v, %v", r, err)
	}
	now.t = start.Add(time.Hour)
	r, err := a.Expire()
	if err != nil || len(r.Changed) != 1 || r.Changed[0].Message.Text != "" || r.Changed[0].Message.Number != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if c, _ := a.Contact(alice); c.LastText != "stays" || c.Unread != 1 || c.Count != 1 || a.NextExpiry() != 0 {
		t.Errorf("%+v", c)
	}
	if got := texts(t, a, alice); !slices.Equal(got, []string{"stays"}) {
		t.Errorf("left %q", got)
	}
}

func TestACopyOfTheFileIsADatabase(t *testing.T) {
	dir := t.TempDir()
	a, _ := open(t, filepath.Join(dir, "db"))
	befriend(t, a, someone(1))
	receive(t, a, incoming(someone(1), 1, "one"))
	var image bytes.Buffer
	if n, err := a.WriteTo(&image); err != nil || n != int64(image.Len()) {
		t.Fatal(n, err)
	}
	receive(t, a, incoming(someone(1), 2, "two"))
	if err := os.WriteFile(filepath.Join(dir, "copy"), image.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _ := open(t, filepath.Join(dir, "copy"))
	if got := texts(t, b, someone(1)); !slices.Equal(got, []string{"one"}) {
		t.Errorf("the copy has %q", got)
	}
}

// FuzzEntries puts any bytes where the entries of the database are, under the
// right key: a file may be damaged, or of another version.
func FuzzEntries(f *testing.F) {
	a, _ := open(f, filepath.Join(f.TempDir(), "db"))
	alice := someone(1)
	f.Add([]byte(`{"With":[5],"Text":"x","Timestamp":1,"Quote":{"Timestamp":-1},"Reactions":[{}],"Timer":{"Type":2}}`))
	f.Add([]byte(`{"Kind":2,"Hashes":["x"],"Track":true,"Message":{"Number":7}}`))
	f.Add([]byte(`{"At":1,"Unsent":true,"Reactions":null}`))
	f.Fuzz(func(t *testing.T, entry []byte) {
		err := a.db.Update(func(tx *bbolt.Tx) error {
			return errors.Join(
				a.put(tx, bucketMessages, a.messageKey(Ref{alice, 1}), wire.Pad(entry)),
				a.put(tx, bucketOutbox, parcelKey(1), wire.Pad(entry)),
				a.put(tx, bucketOrphans, a.ident(alice, false, 5), wire.Pad(entry)))
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			func() error { _, err := a.Messages(alice, 0, 10, 1000); return err }(),
			func() error { _, err := a.Outbox(); return err }(),
			func() error { _, _, err := a.Parcel(1); return err }(),
			func() error {
				_, err := a.change(func(tx *bbolt.Tx, w *change) error {
					m := Message{With: alice, Timestamp: 5}
					return w.adopt(tx, a.ident(alice, false, 5), &m)
				})
				return err
			}(),
		} {
			if err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
		}
	})
}
