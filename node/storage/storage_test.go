package storage

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/vfs"

	"hearth/node/account"
)

var alice, bob = account.ID{0x05, 1}, account.ID{0x05, 2}

// clock is a time that tests set.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// testDB opens a database in memory, for tests to which the disk does not matter;
// benchmarks get one on disk.
func testDB(t testing.TB) (*DB, *clock) {
	t.Helper()
	c := &clock{time.UnixMilli(1_000_000)}
	var fs vfs.FS = vfs.NewMem()
	path := "/messages"
	if _, is := t.(*testing.B); is {
		fs, path = vfs.Default, filepath.Join(t.TempDir(), "messages")
	}
	db, err := openOn(fs, path, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db, c
}

func message(owner account.ID, ns int16, hash string) Message {
	return Message{Owner: owner, Namespace: ns, Hash: hash, Timestamp: 1, Expiry: 2_000_000, Data: []byte("data of " + hash)}
}

func (db *DB) mustStore(t testing.TB, m Message) {
	t.Helper()
	if _, _, err := db.Store(m); err != nil {
		t.Fatal(err)
	}
}

// The helpers below ask for changes the way tests like to write them.

func (db *DB) Delete(owner account.ID, hashes []string) ([]string, error) {
	e, err := db.Apply(Change{Owner: owner, Kind: Delete, Hashes: hashes})
	var deleted []string
	for _, a := range e.Affected {
		deleted = append(deleted, a.Hash)
	}
	slices.Sort(deleted)
	return deleted, err
}

func (db *DB) scoped(kind Kind, owner account.ID, namespace *int16, at int64) ([]Affected, error) {
	c := Change{Owner: owner, Kind: kind, All: namespace == nil, At: at}
	if namespace != nil {
		c.Namespace = *namespace
	}
	e, err := db.Apply(c)
	return e.Affected, err
}

func (db *DB) alone(m Message) (bool, int64, error) {
	return db.StoreAlone(m, Change{Owner: m.Owner, Kind: Replace, Namespace: m.Namespace, Hashes: []string{m.Hash}})
}

func (db *DB) hashes(t testing.TB, owner account.ID, ns int16, last string) string {
	t.Helper()
	msgs, _, err := db.Retrieve(owner, ns, last, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var h []string
	for _, m := range msgs {
		h = append(h, m.Hash)
	}
	return strings.Join(h, " ")
}

// consistent checks what Open checks when it suspects damage, on the running database.
func (db *DB) consistent(t testing.TB) {
	t.Helper()
	if err := db.view(tables.verify); err != nil {
		t.Error(err)
	}
}

func TestMessagesComeBackInTheirOrder(t *testing.T) {
	db, _ := testDB(t)
	for i, ns := range []int16{0, -32768, 32767, -1, 0, 0} {
		m := message(alice, ns, fmt.Sprint("m", i))
		m.Timestamp = int64(100 - i) // the sender's time does not matter
		db.mustStore(t, m)
	}
	db.mustStore(t, message(bob, 0, "b"))
	msgs, more, err := db.Retrieve(alice, 0, "", 0, 0)
	if err != nil || more || len(msgs) != 3 {
		t.Fatalf("%d messages, more %v, %v", len(msgs), more, err)
	}
	want := message(alice, 0, "m4")
	want.Timestamp = 96
	if got := msgs[1]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, c := range []struct {
		owner account.ID
		ns    int16
		last  string
		want  string
	}{
		{alice, 0, "", "m0 m4 m5"},
		{alice, 0, "m0", "m4 m5"},
		{alice, 0, "m4", "m5"},
		{alice, 0, "m5", ""},
		{alice, 0, "unknown", "m0 m4 m5"},
		{alice, 0, "m3", "m0 m4 m5"}, // of another namespace
		{alice, 0, "b", "m0 m4 m5"},  // of another owner
		{alice, -32768, "", "m1"},
		{alice, 32767, "", "m2"},
		{alice, -1, "", "m3"},
		{alice, 1, "", ""},
		{bob, 0, "", "b"},
		{account.ID{0x03, 1}, 0, "", ""}, // the same key with another prefix
	} {
		if got := db.hashes(t, c.owner, c.ns, c.last); got != c.want {
			t.Errorf("namespace %d after %q: got %q, want %q", c.ns, c.last, got, c.want)
		}
	}
	db.consistent(t)
}

func TestBoundsOfRetrieve(t *testing.T) {
	db, _ := testDB(t)
	for i := range 4 {
		m := message(alice, 0, strings.Repeat(fmt.Sprint(i), 43))
		m.Data = make([]byte, 300) // counts 100 + 43 + 400 = 543
		db.mustStore(t, m)
	}
	for _, c := range []struct {
		count, size, want int
		more              bool
	}{
		{0, 0, 4, false}, {4, 0, 4, false}, {3, 0, 3, true}, {1, 0, 1, true},
		{0, 1, 1, true}, {0, 543, 1, true}, {0, 1085, 1, true}, {0, 1086, 2, true},
		{0, 2171, 3, true}, {0, 2172, 4, false}, {2, 2172, 2, true},
	} {
		msgs, more, err := db.Retrieve(alice, 0, "", c.count, c.size)
		if err != nil || len(msgs) != c.want || more != c.more {
			t.Errorf("count %d, size %d: %d messages, more %v, %v", c.count, c.size, len(msgs), more, err)
		}
	}
}

func TestStoringAgainOnlyExtends(t *testing.T) {
	db, _ := testDB(t)
	m := message(alice, 0, "m")
	for _, c := range []struct {
		expiry  int64
		already bool
		want    int64
	}{{2_000_000, false, 2_000_000}, {2_000_000, true, 2_000_000}, {1_500_000, true, 2_000_000}, {3_000_000, true, 3_000_000}} {
		m.Expiry = c.expiry
		m.Timestamp++
		if already, expiry, err := db.Store(m); already != c.already || expiry != c.want || err != nil {
			t.Errorf("expiry %d: %v, %d, %v", c.expiry, already, expiry, err)
		}
	}
	msgs, _, _ := db.Retrieve(alice, 0, "", 0, 0)
	if len(msgs) != 1 || msgs[0].Expiry != 3_000_000 || msgs[0].Timestamp != 2 {
		t.Errorf("%v", msgs)
	}
	if n, _ := db.Stats(); n != 1 {
		t.Errorf("%d messages counted", n)
	}
	db.consistent(t)
}

func TestStoreAloneReplacesTheNamespace(t *testing.T) {
	db, _ := testDB(t)
	db.mustStore(t, message(alice, -1, "a"))
	db.mustStore(t, message(alice, 0, "other namespace"))
	db.mustStore(t, message(bob, -1, "other owner"))
	db.mustStore(t, message(alice, -1, "b"))
	for _, hash := range []string{"c", "c", "d"} {
		if _, _, err := db.alone(message(alice, -1, hash)); err != nil {
			t.Fatal(err)
		}
		if got := db.hashes(t, alice, -1, ""); got != hash {
			t.Errorf("after %s: %s", hash, got)
		}
	}
	if db.hashes(t, alice, 0, "") == "" || db.hashes(t, bob, -1, "") == "" {
		t.Error("other messages went too")
	}
	db.consistent(t)
}

func TestDeleteOnlyReachesTheOwnersMessages(t *testing.T) {
	db, _ := testDB(t)
	for _, h := range []string{"z", "a", "k"} {
		db.mustStore(t, message(alice, int16(h[0]), h))
	}
	db.mustStore(t, message(bob, 0, "bob's"))
	deleted, err := db.Delete(alice, []string{"z", "unknown", "bob's", "a", "a"})
	if err != nil || fmt.Sprint(deleted) != "[a z]" {
		t.Errorf("%v, %v", deleted, err)
	}
	if got := db.hashes(t, alice, 'k', ""); got != "k" {
		t.Errorf("left: %q", got)
	}
	if n, size := db.Stats(); n != 2 || size == 0 {
		t.Errorf("%d messages, %d bytes", n, size)
	}
	db.consistent(t)
}

func affectedText(list []Affected) string {
	var s []string
	for _, a := range list {
		s = append(s, fmt.Sprint(a.Namespace, a.Hash))
	}
	slices.Sort(s)
	return strings.Join(s, ",")
}

func TestChangesOfManyMessages(t *testing.T) {
	two := int16(2)
	cases := []struct {
		name   string
		change func(db *DB) ([]Affected, error)
		want   string
		left   string // of alice's namespaces 0 and 2
	}{
		{"all of a namespace", func(db *DB) ([]Affected, error) { return db.scoped(DeleteAll, alice, &two, 0) }, "2c,2d", "a b/"},
		{"all of all", func(db *DB) ([]Affected, error) { return db.scoped(DeleteAll, alice, nil, 0) }, "0a,0b,2c,2d", "/"},
		{"all up to a time", func(db *DB) ([]Affected, error) { return db.scoped(DeleteBefore, alice, nil, 30) }, "0a,0b,2c", "/d"},
		{"a namespace up to a time", func(db *DB) ([]Affected, error) { return db.scoped(DeleteBefore, alice, &two, 30) }, "2c", "a b/d"},
		{"shortening all", func(db *DB) ([]Affected, error) { return db.scoped(ExpireAll, alice, nil, 2_000_020) }, "2c,2d", "a b/c d"},
		{"shortening a namespace", func(db *DB) ([]Affected, error) { return db.scoped(ExpireAll, alice, &two, 2_000_030) }, "2d", "a b/c d"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			db, _ := testDB(t)
			for i, h := range []string{"a", "b", "c", "d"} {
				m := message(alice, int16(i/2*2), h)
				m.Timestamp = int64(10 * (i + 1))
				m.Expiry = 2_000_000 + m.Timestamp
				db.mustStore(t, m)
			}
			db.mustStore(t, message(bob, 2, "bob's"))
			affected, err := c.change(db)
			if got := affectedText(affected); err != nil || got != c.want {
				t.Errorf("affected %q, %v, want %q", got, err, c.want)
			}
			if got := db.hashes(t, alice, 0, "") + "/" + db.hashes(t, alice, 2, ""); got != c.left {
				t.Errorf("left %q, want %q", got, c.left)
			}
			if db.hashes(t, bob, 2, "") != "bob's" {
				t.Error("another owner's message was affected")
			}
			db.consistent(t)
		})
	}
}

func TestExpireMovesTheMessagesNamed(t *testing.T) {
	for _, c := range []struct {
		name     string
		mode     Mode
		expiries []int64
		changed  string
		after    string
	}{
		{"one time for all", Move, []int64{1_500_000}, "map[a:1500000 c:1500000]", "map[a:1500000 b:2000000 c:1500000]"},
		{"a time for each", Move, []int64{1_500_000, 1, 2_500_000, 3}, "map[a:2500000 c:1500000]", "map[a:2500000 b:2000000 c:1500000]"},
		{"to the time that it is", Move, []int64{2_000_000}, "map[a:2000000 c:2000000]", "map[a:2000000 b:2000000 c:2000000]"},
		{"only back", Shorten, []int64{1_999_999, 1, 2_000_000, 3}, "map[c:1999999]", "map[a:2000000 b:2000000 c:1999999]"},
		{"only on", Extend, []int64{2_000_001, 9, 2_000_000, 9}, "map[c:2000001]", "map[a:2000000 b:2000000 c:2000001]"},
		{"no further than thirty days", Move, []int64{1 << 60}, "map[a:2593000000 c:2593000000]", "map[a:2593000000 b:2000000 c:2593000000]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, _ := testDB(t)
			for _, h := range []string{"a", "b", "c"} {
				db.mustStore(t, message(alice, 0, h))
			}
			db.mustStore(t, message(bob, 0, "bob's"))
			e, err := db.Apply(Change{Owner: alice, Kind: Expire, Mode: c.mode, Expiries: c.expiries, Hashes: []string{"c", "bob's", "a", "unknown"}})
			if err != nil || fmt.Sprint(e.Expiries) != c.changed {
				t.Errorf("changed %v, %v, want %s", e.Expiries, err, c.changed)
			}
			expiries, err := db.Expiries(alice, []string{"a", "b", "c", "bob's", "unknown"})
			if err != nil || fmt.Sprint(expiries) != c.after {
				t.Errorf("%v, %v, want %s", expiries, err, c.after)
			}
			db.consistent(t)
		})
	}
}

func TestSweepRemovesWhatHasExpired(t *testing.T) {
	db, c := testDB(t)
	var all sync.WaitGroup // together, to share commits
	for i := range 1200 {
		all.Go(func() {
			m := message(alice, 0, fmt.Sprint("m", i))
			m.Expiry = int64(1_000_000 + i)
			m.Data = nil
			if _, _, err := db.Store(m); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	negative := message(bob, 0, "before 1970")
	negative.Expiry = -5
	db.mustStore(t, negative)
	for _, s := range []struct{ now, want int64 }{{999_999, 1}, {999_999, 0}, {1_000_000, 1}, {1_001_099, 1099}, {9_000_000, 100}, {9_000_000, 0}} {
		c.now = time.UnixMilli(s.now)
		if n, err := db.Sweep(); int64(n) != s.want || err != nil {
			t.Errorf("at %d: %d removed, %v, want %d", s.now, n, err, s.want)
		}
		db.consistent(t)
	}
	if n, size := db.Stats(); n != 0 || size != 0 {
		t.Errorf("%d messages, %d bytes left", n, size)
	}
}

func TestFullDatabaseRefusesNewMessagesOnly(t *testing.T) {
	db, _ := testDB(t)
	db.mustStore(t, message(alice, -1, "a"))
	_, size := db.Stats()
	db.SetLimit(2*size - 1)
	if _, _, err := db.Store(message(alice, 0, "b")); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	extended := message(alice, -1, "a")
	extended.Expiry++
	if already, expiry, err := db.Store(extended); !already || expiry != extended.Expiry || err != nil {
		t.Errorf("extending: %v, %d, %v", already, expiry, err)
	}
	if _, _, err := db.alone(message(alice, -1, "b")); err != nil {
		t.Errorf("replacing by one of the same size: %v", err)
	}
	long := message(alice, -1, "c")
	long.Data = make([]byte, 1000)
	if _, _, err := db.alone(long); !errors.Is(err, ErrFull) || db.hashes(t, alice, -1, "") != "b" {
		t.Errorf("replacing by a longer one: %v, left %q", err, db.hashes(t, alice, -1, ""))
	}
	if _, err := db.Delete(alice, []string{"b"}); err != nil {
		t.Errorf("deleting: %v", err)
	}
	if _, _, err := db.Store(message(alice, 0, "b")); err != nil {
		t.Errorf("after making room: %v", err)
	}
	db.consistent(t)
}

func TestRevocations(t *testing.T) {
	db, _ := testDB(t)
	token := func(i int) [36]byte { return [36]byte{byte(i), byte(i >> 8), 7} }
	revoked := func(owner account.ID, i int) bool {
		is, err := db.Revoked(owner, token(i))
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	revoke := func(owner account.ID, i int) {
		if _, err := db.Apply(Change{Owner: owner, Kind: Revoke, Tokens: [][36]byte{token(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	revoke(alice, 0)
	if revoked(alice, 0) {
		t.Error("an account without messages has a revocation")
	}
	db.mustStore(t, message(alice, 0, "a"))
	db.mustStore(t, message(bob, 0, "b"))
	revoke(bob, 3)
	for i := range 50 {
		revoke(alice, i)
	}
	revoke(alice, 0)  // again: now it is the newest
	revoke(alice, 50) // 1 gives way
	if !revoked(alice, 0) || revoked(alice, 1) || !revoked(alice, 2) || !revoked(alice, 50) || revoked(bob, 0) {
		t.Error("not the 50 newest of the account")
	}
	if e, err := db.Apply(Change{Owner: alice, Kind: Unrevoke, Tokens: [][36]byte{token(2), token(1), token(2)}}); e.Count != 1 || err != nil || revoked(alice, 2) {
		t.Errorf("taken back: %d, %v", e.Count, err)
	}
	if _, _, err := db.alone(message(alice, 0, "c")); err != nil || !revoked(alice, 0) {
		t.Errorf("replacing the only message lost the revocations: %v", err)
	}
	if _, err := db.Delete(alice, []string{"c"}); err != nil || revoked(alice, 0) || !revoked(bob, 3) {
		t.Errorf("revocations did not go with the last message: %v", err)
	}
	db.consistent(t)
}

func TestConcurrentWritesAreAllKept(t *testing.T) {
	db, _ := testDB(t)
	const writers, each = 40, 20
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				if _, _, err := db.Store(message(alice, 0, fmt.Sprint(w, "-", i))); err != nil {
					t.Error(err)
				}
				if i%5 == 0 {
					if _, err := db.Delete(alice, []string{fmt.Sprint(w, "-", i)}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if n, _ := db.Stats(); n != writers*each*4/5 {
		t.Errorf("%d messages", n)
	}
	db.consistent(t)
}

func TestOneBadChangeDoesNotSpoilTheBatch(t *testing.T) {
	db, _ := testDB(t)
	bad := errors.New("bad")
	good := &write{do: func(t tables) error { return t.insert(message(alice, 0, "a"), 1) }, turn: make(chan bool, 1)}
	worse := &write{do: func(tables) error { panic(bad.Error()) }, turn: make(chan bool, 1)}
	db.waiting, db.writing = []*write{good, worse}, true
	db.lead()
	if good.err != nil || !errors.Is(worse.err, ErrDamaged) || <-worse.turn {
		t.Errorf("%v, %v", good.err, worse.err)
	}
	if db.hashes(t, alice, 0, "") != "a" || db.writing {
		t.Error("the good change is missing, or the turn was kept")
	}
}

func TestMessagesSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "messages")
	for i := range 3 {
		db, err := Open(path, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := db.Stats(); n != uint64(i) {
			t.Errorf("%d messages at opening %d", n, i)
		}
		db.mustStore(t, message(alice, 0, fmt.Sprint(i)))
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	db, err := Open(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Open(path, time.Now); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if got := db.hashes(t, alice, 0, ""); got != "0 1 2" {
		t.Errorf("got %q", got)
	}
}

func BenchmarkStore(b *testing.B) {
	db, _ := testDB(b)
	var mu sync.Mutex
	serial := 0
	next := func() Message {
		mu.Lock()
		defer mu.Unlock()
		serial++
		m := message(account.ID{5, byte(serial), byte(serial >> 8)}, 0, fmt.Sprintf("%043d", serial*7919))
		m.Data = make([]byte, 1024)
		return m
	}
	b.Run("single", func(b *testing.B) {
		for b.Loop() {
			db.mustStore(b, next())
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				db.mustStore(b, next())
			}
		})
	})
	m := next()
	db.mustStore(b, m)
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			db.mustStore(b, m)
		}
	})
}

func BenchmarkRetrieve(b *testing.B) {
	db, _ := testDB(b)
	for i := range 1000 {
		m := message(account.ID{5, byte(i)}, 0, fmt.Sprintf("%043d", i))
		m.Data = make([]byte, 1024)
		db.mustStore(b, m)
	}
	b.Run("single", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := db.Retrieve(account.ID{5, 1}, 0, "", 1, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, _, err := db.Retrieve(account.ID{5, 1}, 0, "", 1, 0); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkSweepOfNothing(b *testing.B) {
	db, _ := testDB(b)
	db.mustStore(b, message(alice, 0, "m"))
	for b.Loop() {
		if n, err := db.Sweep(); n != 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}
