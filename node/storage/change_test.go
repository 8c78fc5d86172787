package storage

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"hearth/node/account"
)

func realHash(n int) string {
	b := sum128([]byte(fmt.Sprint(n)))
	return base64.RawStdEncoding.EncodeToString(append(b[:], b[:]...))
}

func everyone(account.ID) bool { return true }

func TestHashesKeepTheirText(t *testing.T) {
	hashes := []string{realHash(1), strings.Repeat("A", 43), strings.Repeat("A", 42) + "B", strings.Repeat("A", 42) + "\n"}
	for n := 1; n <= maxHash; n++ {
		hashes = append(hashes, strings.Repeat("x", n), strings.Repeat("\x01", n), strings.Repeat("\x02", n))
	}
	seen := make(map[string]string)
	for _, h := range hashes {
		p := packHash(h)
		if got := unpackHash(p); got != h {
			t.Errorf("%q becomes %q", h, got)
		}
		if other, is := seen[string(p)]; is && other != h {
			t.Errorf("%q and %q are packed alike", h, other)
		}
		if seen[string(p)] = h; len(p) > 255 {
			t.Errorf("%d bytes", len(p))
		}
	}
	if n := len(packHash(realHash(1))); n != 32 {
		t.Errorf("a hash takes %d bytes", n)
	}
}

func TestChangesThatMakeNoSense(t *testing.T) {
	db, _ := testDB(t)
	for name, c := range map[string]Change{
		"no kind":                    {},
		"an unknown kind":            {Kind: Expire + 1},
		"a delete of nothing":        {Kind: Delete},
		"a delete with expiries":     {Kind: Delete, Hashes: []string{"a"}, Expiries: []int64{1}},
		"an empty hash":              {Kind: Delete, Hashes: []string{""}},
		"a long hash":                {Kind: Delete, Hashes: []string{strings.Repeat("x", 255)}},
		"an expire without expiry":   {Kind: Expire, Hashes: []string{"a"}},
		"expiries for other hashes":  {Kind: Expire, Hashes: []string{"a"}, Expiries: []int64{1, 2}},
		"an unknown mode":            {Kind: Expire, Hashes: []string{"a"}, Expiries: []int64{1}, Mode: 3},
		"a delete that extends":      {Kind: Delete, Hashes: []string{"a"}, Mode: Extend},
		"a delete_all of one":        {Kind: DeleteAll, Hashes: []string{"a"}},
		"a delete of tokens":         {Kind: Delete, Hashes: []string{"a"}, Tokens: make([][36]byte, 1)},
		"a replacement by nothing":   {Kind: Replace},
		"a replacement of all":       {Kind: Replace, All: true, Hashes: []string{"a"}},
		"half a delegate":            {Kind: DeleteAll, Delegate: make([]byte, 35)},
		"a proof without an end":     {Kind: DeleteAll, Proof: make([]byte, maxProof+1)},
		"a revocation of a message":  {Kind: Revoke, Hashes: []string{"a"}},
		"an unrevocation of a hash":  {Kind: Unrevoke, Hashes: []string{"a"}},
		"a revocation that has time": {Kind: Revoke, Expiries: []int64{1}},
	} {
		if _, err := db.Apply(c); !errors.Is(err, ErrChange) {
			t.Errorf("%s: %v", name, err)
		}
		if o, err := db.Merge([]Change{c}, nil, func(int16) bool { return false }); err != nil || o[0] != Refused {
			t.Errorf("%s: merged: %v, %v", name, o, err)
		}
	}
}

// TestMergedInAnyOrder makes a set of messages and changes and merges it in many
// orders, some things twice.
func TestMergedInAnyOrder(t *testing.T) {
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 7))
		at := func() int64 { return int64(1_000_000_000 + random.IntN(1_000_000)*1000) } // µs: ms 1,000,000 to 2,000,000
		owners := []account.ID{alice, bob}
		hashes := make([]string, 6)
		for i := range hashes {
			hashes[i] = realHash(i)
		}
		some := func() []string { return hashes[random.IntN(3) : 3+random.IntN(4)] }
		var changes []Change
		var messages []Message
		for range 25 {
			owner, stamp := owners[random.IntN(2)], at()
			switch c := (Change{Owner: owner, Stamp: stamp, At: StampTime(stamp), Kind: Kind(1 + random.IntN(8))}); c.Kind {
			case Replace:
				c.Namespace, c.Hashes = -1, []string{fmt.Sprint("alone ", random.IntN(3))}
				changes = append(changes, c)
			case Delete:
				c.Hashes = some()
				changes = append(changes, c)
			case Expire:
				c.Hashes, c.Mode, c.Expiries = some(), Mode(random.IntN(3)), []int64{3_000_000 + int64(random.IntN(1000))}
				changes = append(changes, c)
			case ExpireAll:
				c.At = 3_000_000 + int64(random.IntN(1000))
				c.All = random.IntN(2) == 0
				changes = append(changes, c)
			case DeleteAll, DeleteBefore:
				c.All = random.IntN(2) == 0
				changes = append(changes, c)
			case Revoke, Unrevoke:
				c.Tokens = [][36]byte{{byte(random.IntN(3))}}
				changes = append(changes, c)
			}
		}
		for range 25 {
			i := random.IntN(len(hashes))
			m := Message{Owner: owners[i%2], Namespace: int16(i % 3), Hash: hashes[i], Data: []byte(hashes[i])}
			if random.IntN(5) == 0 {
				j := random.IntN(3)
				m = Message{Owner: alice, Namespace: -1, Hash: fmt.Sprint("alone ", j), Data: []byte("alone")}
			}
			m.Stamp = at()
			m.Timestamp = StampTime(m.Stamp) - int64(random.IntN(10))
			m.Expiry = 3_000_000 + int64(random.IntN(1000))
			messages = append(messages, m)
		}

		var first string
		var roots [Sets]Sum
		for order := range 6 {
			db, c := testDB(t)
			c.now = time.UnixMilli(2_500_000)
			if err := db.Track(everyone, func() {}); err != nil {
				t.Fatal(err)
			}
			for range 3 { // what was refused for want of something else is offered again
				for _, i := range random.Perm(len(changes) + len(messages)) {
					var err error
					if i < len(changes) {
						_, err = db.Merge(changes[i:i+1], nil, func(ns int16) bool { return ns == -1 })
					} else {
						i -= len(changes)
						_, err = db.Merge(nil, messages[i:i+1], func(ns int16) bool { return ns == -1 })
					}
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			db.consistent(t)
			var b strings.Builder
			for _, o := range owners {
				for ns := int16(-1); ns < 3; ns++ {
					messages, _, _ := db.Retrieve(o, ns, "", 0, 0)
					lines := make(map[string]string)
					for _, m := range messages {
						lines[m.Hash] = fmt.Sprint(m.Timestamp, m.Expiry)
					}
					fmt.Fprint(&b, ns, lines, "\n")
				}
				for i := range byte(3) {
					is, _ := db.Revoked(o, [36]byte{i})
					fmt.Fprint(&b, is)
				}
			}
			got, _ := db.Roots()
			if order == 0 {
				first, roots = b.String(), got
			} else if b.String() != first || got != roots {
				t.Fatalf("seed %d, order %d: %x\n%s\nbefore: %x\n%s", seed, order, got, b.String(), roots, first)
			}
		}
	}
}

func TestSumsFollowEveryWrite(t *testing.T) {
	db, c := testDB(t)
	if _, ok := db.Roots(); ok {
		t.Error("sums before Track")
	}
	onlyAlice := func(id account.ID) bool { return id == alice }
	outside := 0
	count := func() { outside++ }
	if err := db.Track(onlyAlice, count); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		got, ok := db.Roots()
		branches := db.Branches(Messages, -1)
		if err := db.Track(onlyAlice, count); err != nil || !ok {
			t.Fatal(err)
		}
		if want, _ := db.Roots(); got != want || branches != db.Branches(Messages, -1) {
			t.Errorf("%s: %x, counted anew %x", what, got, want)
		}
	}
	var sum uint64
	for i := range 50 {
		db.mustStore(t, message(alice, 0, realHash(i)))
		db.mustStore(t, message(bob, 0, realHash(100+i)))
	}
	if outside != 50 {
		t.Errorf("told %d times of 50 messages outside the scope", outside)
	}
	check("stores")
	for _, b := range db.Branches(Messages, -1) {
		sum += b
	}
	if roots, _ := db.Roots(); sum != roots[Messages][0] || sum == 0 {
		t.Errorf("the branches sum up to %x of %x", sum, roots[Messages][0])
	}
	later := message(alice, 0, realHash(3))
	later.Expiry++
	db.mustStore(t, later)
	check("a second store")
	db.alone(message(alice, -1, "a"))
	db.alone(message(alice, -1, "b"))
	check("replacing")
	db.Delete(alice, []string{realHash(1), realHash(2)})
	db.Delete(alice, []string{realHash(1), realHash(2)})
	check("deleting")
	db.Apply(Change{Owner: alice, Kind: Revoke, Tokens: make([][36]byte, 1)})
	db.Apply(Change{Owner: alice, Kind: Unrevoke, Tokens: make([][36]byte, 1)})
	check("tokens")
	db.Apply(Change{Owner: bob, Kind: Delete, Hashes: []string{realHash(100)}})
	check("a change outside the scope")
	if outside != 51 {
		t.Errorf("told %d times of 50 messages and a change outside the scope", outside)
	}
	c.now = time.UnixMilli(3_000_000)
	db.Sweep()
	check("the end of the messages")
	c.now = time.UnixMilli(3_000_000 + MaxLife + 2*lifeSlack)
	db.Sweep()
	check("the end of the changes")
	if outside != 51 {
		t.Error("told of what went")
	}
	if roots, _ := db.Roots(); roots != ([Sets]Sum{}) {
		t.Errorf("%x is left", roots)
	}
	if n, size := db.Stats(); n != 0 || size != 0 {
		t.Errorf("%d messages, %d bytes left", n, size)
	}
	db.consistent(t)
}

func TestListsArePaged(t *testing.T) {
	db, _ := testDB(t)
	for i := range 40 {
		db.mustStore(t, message([]account.ID{alice, bob}[i%2], 0, realHash(i)))
	}
	var all [][]byte
	pages := 0
	for from := []byte{}; from != nil; pages++ {
		items, next, err := db.List(Messages, from, nil, 7, func(id account.ID) bool { return id == bob })
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			if item.Owner != bob {
				t.Error("out of scope")
			}
			all = append(all, item.Key)
			m, ok, err := db.LoadMessage(item.Key)
			if err != nil || !ok || !bytes.Equal(HashBytes(m.Hash), item.Key) || m.Stamp != item.Stamp {
				t.Errorf("%x: %v, %v, %v", item.Key, m, ok, err)
			}
		}
		from = next
	}
	if len(all) != 20 || pages != 6 {
		t.Errorf("%d items on %d pages", len(all), pages)
	}
	marks, err := db.Lookup(Messages, append(all[:2:2], []byte("nothing")))
	if err != nil || marks[0] == 0 || marks[2] != 0 {
		t.Errorf("%x, %v", marks, err)
	}
	if _, ok, err := db.LoadMessage([]byte("nothing")); ok || err != nil {
		t.Error("a message that is not there", err)
	}
}

// TestRepeatedChangesTakeNoRoom: clients extend the same messages again and again.
func TestRepeatedChangesTakeNoRoom(t *testing.T) {
	db, c := testDB(t)
	db.mustStore(t, message(alice, 0, "a"))
	db.mustStore(t, message(alice, 0, "b"))
	var before uint64
	for i := range 500 {
		c.now = c.now.Add(time.Second)
		for _, change := range []Change{
			{Kind: Expire, Mode: Extend, Hashes: []string{"a", "b"}, Expiries: []int64{c.now.UnixMilli() + 5_000_000}},
			{Kind: DeleteBefore, At: int64(i) - 1000},
			{Kind: DeleteAll, Namespace: 7},
			{Kind: Delete, Hashes: []string{"c"}},
			{Kind: Expire, Hashes: []string{"a", fmt.Sprint("x", i)}, Expiries: []int64{int64(9_000_000 - i)}},
			{Kind: ExpireAll, Namespace: 9, At: int64(5_000_000 + i)},
		} {
			change.Owner, change.Proof = alice, fmt.Append(nil, i)
			if _, err := db.Apply(change); err != nil {
				t.Fatal(err)
			}
		}
		if i == 100 {
			_, before = db.Stats()
		}
	}
	if _, after := db.Stats(); after > before+1000 {
		t.Errorf("%d bytes, %d after more of the same", before, after)
	}
	db.consistent(t)
}

func TestChangesBeyondTheRoomAreCarriedOut(t *testing.T) {
	db, _ := testDB(t)
	db.mustStore(t, message(alice, 0, "a"))
	db.mustStore(t, message(alice, 0, "b"))
	db.mustStore(t, message(alice, 0, "c"))
	db.SetLimit(100)
	if deleted, err := db.Delete(alice, []string{"a"}); err != nil || fmt.Sprint(deleted) != "[a]" {
		t.Errorf("%v, %v", deleted, err)
	}
	if e, err := db.Apply(Change{Owner: alice, Kind: Expire, Hashes: []string{"b"}, Expiries: []int64{1_500_000}}); err != nil || e.Expiries["b"] != 1_500_000 {
		t.Errorf("%v, %v", e, err)
	}
	if expiries, _ := db.Expiries(alice, []string{"a", "b", "c"}); fmt.Sprint(expiries) != "map[b:1500000 c:2000000]" {
		t.Errorf("%v", expiries)
	}
	db.consistent(t)
}

func TestStampsOnlyGrow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "messages")
	c := &clock{time.UnixMilli(1_000_000)}
	db, err := Open(path, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	grows := func(what string) {
		t.Helper()
		next := db.NextStamp()
		if next <= last {
			t.Errorf("%s: %d after %d", what, next, last)
		}
		last = next
	}
	grows("at first")
	grows("in the same microsecond")
	c.now = c.now.Add(-time.Minute)
	grows("when the clock was set back")
	m := message(alice, 0, "a")
	m.Stamp = last + 10_000_000
	db.mustStore(t, m)
	last = m.Stamp
	grows("after another node's stamp")
	db.mustStore(t, message(alice, 0, "b"))
	db.Close()
	if db, err = Open(path, c.Now); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	grows("after a restart")
	// A clock that was years ahead must not rule for years.
	c.now = c.now.Add(-time.Hour)
	if got := db.NextStamp(); got != c.now.UnixMicro() {
		t.Errorf("an hour earlier: %d", got)
	}
}

func TestStoreAndDeleteThatCrossed(t *testing.T) {
	const second = 1_000_000
	for _, c := range []struct {
		name   string
		before int64 // µs, of the store's stamp before the delete's
		alone  bool
		there  bool
	}{
		{"a store after the delete brings the message back", -1, false, true},
		{"so does one by a node whose clock is behind", second, false, true},
		{"one that waited in a broken link does not", 5 * second, false, false},
		{"nor does it replace what has replaced it since", 5 * second, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, clock := testDB(t)
			m := message(alice, -1, realHash(1))
			if c.alone {
				db.alone(m)
				db.alone(message(alice, -1, realHash(2)))
			} else {
				db.mustStore(t, m)
				if _, err := db.Apply(Change{Owner: alice, Kind: Delete, Hashes: []string{m.Hash}, Stamp: clock.now.UnixMicro() + 20*second}); err != nil {
					t.Fatal(err)
				}
			}
			deleted := db.NextStamp() - 1
			told := false
			db.Watch(func(account.ID, int16) { told = true })
			m.Stamp = deleted - c.before
			var already bool
			var err error
			if c.alone {
				already, _, err = db.StoreAlone(m, Change{Owner: alice, Kind: Replace, Namespace: -1, Hashes: []string{m.Hash}})
			} else {
				already, _, err = db.Store(m)
			}
			if err != nil || already {
				t.Errorf("already %t, %v", already, err)
			}
			left, _, err := db.Retrieve(alice, -1, "", 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			there := false
			for _, m := range left {
				there = there || m.Hash == realHash(1)
			}
			if there != c.there || told != c.there || c.alone && len(left) != 1 {
				t.Errorf("it is there: %t, and told: %t; %d messages", there, told, len(left))
			}
			db.consistent(t)
		})
	}
}

func FuzzParseChange(f *testing.F) {
	for _, c := range []Change{
		{Owner: alice, Kind: Delete, Hashes: []string{realHash(1), "x"}, Proof: []byte("proof")},
		{Owner: alice, Kind: Expire, Hashes: []string{"x"}, Expiries: []int64{-1}, Mode: Extend, Delegate: make([]byte, 36)},
		{Owner: bob, Kind: Revoke, Tokens: make([][36]byte, 2), At: 1 << 50},
		{Owner: bob, Kind: DeleteAll, All: true, Namespace: -3},
	} {
		f.Add(c.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseChange(b)
		if err != nil {
			if !errors.Is(err, ErrChange) {
				t.Error(err)
			}
			return
		}
		again, err := ParseChange(c.AppendTo(nil))
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%v, then %v, %v", c, again, err)
		}
	})
}

func BenchmarkApplyDelete(b *testing.B) {
	db, _ := testDB(b)
	proof := make([]byte, 97)
	i := 0
	for b.Loop() {
		i++
		if _, err := db.Apply(Change{Owner: alice, Kind: Delete, Hashes: []string{realHash(i)}, Proof: proof}); err != nil {
			b.Fatal(err)
		}
	}
	_, size := db.Stats()
	b.ReportMetric(float64(size)/float64(i), "disk-B/op")
}
