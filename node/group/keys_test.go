package group

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/config"
	"hearth/node/keys"
	"hearth/node/wire"
)

const start = int64(1748736000000) // ms

// person is the n-th pair of a crowd.
func person(n int) *keys.Pair {
	return keys.FromSeed([32]byte{0xaa, byte(n >> 8), byte(n)})
}

func crowd(n int) (pairs []*keys.Pair, ids []account.ID) {
	for i := range n {
		p := person(i)
		pairs, ids = append(pairs, p), append(ids, sessionID(p))
	}
	return pairs, ids
}

var groupPair = keys.FromSeed([32]byte{0x03})

func newKeys(t testing.TB, own *keys.Pair, admin bool) *Keys {
	t.Helper()
	k, err := NewKeys(own, ID(groupPair))
	if err != nil {
		t.Fatal(err)
	}
	if admin {
		if err := k.LoadSeed(groupPair); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func rekey(t testing.TB, k *Keys, members ...account.ID) []byte {
	t.Helper()
	m, err := k.Rekey(members)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func load(t testing.TB, k *Keys, message []byte, hash string, at int64) bool {
	t.Helper()
	found, err := k.Load(message, hash, at)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// generations makes n key messages for the members, one a minute.
func generations(t testing.TB, n int, members ...account.ID) [][]byte {
	t.Helper()
	admin := newKeys(t, person(1000), true)
	var list [][]byte
	for i := range n {
		// Another member each time, as otherwise the keys would be equal in part.
		list = append(list, rekey(t, admin, members...))
		load(t, admin, list[i], fmt.Sprint("h", i), start+int64(i)*60_000)
	}
	return list
}

func TestKeyMessagesMayComeInAnyOrderAndMoreThanOnce(t *testing.T) {
	pairs, ids := crowd(2)
	messages := generations(t, 5, ids...)
	want := newKeys(t, pairs[0], false)
	for i, m := range messages {
		load(t, want, m, fmt.Sprint("h", i), start+int64(i)*60_000)
	}
	for _, order := range [][]int{{4, 3, 2, 1, 0}, {2, 0, 4, 1, 3}, {0, 0, 1, 1, 2, 3, 4, 4, 0}, {3, 4, 3, 0, 2, 1, 2}} {
		k := newKeys(t, pairs[0], false)
		for _, i := range order {
			if !load(t, k, messages[i], fmt.Sprint("h", i), start+int64(i)*60_000) {
				t.Fatalf("order %v: nothing in message %d", order, i)
			}
		}
		if !slices.Equal(k.All(), want.All()) || k.Generation() != 4 || !bytes.Equal(k.Dump(), want.Dump()) {
			t.Errorf("order %v: generation %d, %d keys", order, k.Generation(), len(k.All()))
		}
	}
}

func TestAForgedKeyMessageChangesNothing(t *testing.T) {
	pairs, ids := crowd(2)
	member := newKeys(t, pairs[0], false)
	good := generations(t, 2, ids...)
	load(t, member, good[0], "h0", start)
	before := bytes.Clone(member.Dump())

	// A member who makes a group of their own of the same people signs well, but as
	// somebody else; and can put the true group's signature under another text.
	mallory := keys.FromSeed([32]byte{0x66})
	other, err := NewKeys(pairs[1], ID(mallory))
	if err != nil {
		t.Fatal(err)
	}
	if err := other.LoadSeed(mallory); err != nil {
		t.Fatal(err)
	}
	forged := rekey(t, other, ids...)
	moved := slices.Concat(forged[:len(forged)-65], good[0][len(good[0])-65:])
	resigned := slices.Clone(good[1][:len(good[1])-71])
	resigned = append(bt.AppendBytes(append(resigned, "1:~"...), pairs[1].Sign(resigned)), 'e')
	later := bytes.Replace(bytes.Clone(good[1]), []byte("1:Gi1e"), []byte("1:Gi9e"), 1)
	tail := good[1][:len(good[1])-1]

	for _, c := range []struct {
		name    string
		message []byte
		err     error
	}{
		{"signed by another group", forged, ErrSignature},
		{"with the signature of another message", moved, ErrSignature},
		{"signed by a member", resigned, ErrSignature},
		{"with another generation", later, ErrSignature},
		{"without a signature", append(bytes.Clone(good[1][:len(good[1])-71]), 'e'), ErrMalformed},
		{"with something after the signature", append(bytes.Clone(tail), "1:\x7fi1ee"...), ErrMalformed},
		{"with bytes after its end", append(bytes.Clone(good[1]), 'x'), ErrMalformed},
		{"cut off", good[1][:len(good[1])/2], ErrMalformed},
		{"empty", nil, ErrMalformed},
		{"above the size of a message", make([]byte, wire.MaxData+1), ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if found, err := member.Load(c.message, "bad", start+1); found || !errors.Is(err, c.err) {
				t.Errorf("found %v, error %v", found, err)
			}
			if !bytes.Equal(member.Dump(), before) {
				t.Error("the keys have changed")
			}
		})
	}
	if _, err := member.Load(good[1], "h1", -1); !errors.Is(err, ErrMalformed) {
		t.Errorf("stored before time began: %v", err)
	}
	t.Run("an admin copy that the seed does not open", func(t *testing.T) {
		admin := newKeys(t, pairs[0], true)
		body := bytes.Clone(good[0][:len(good[0])-71])
		body[bytes.Index(body, []byte("1:K48:"))+10] ^= 1
		bad := admin.sign(body)
		if _, err := admin.Load(bad, "bad", start); !errors.Is(err, ErrNotForUs) {
			t.Errorf("error %v", err)
		}
	})
}

// A hostile admin can sign anything; it must not break the others' devices.
func TestAHostileAdminsMessages(t *testing.T) {
	pairs, ids := crowd(1)
	admin := newKeys(t, person(1000), true)
	signed := func(b string) []byte { return admin.sign([]byte(b)) }
	nonce := strings.Repeat("n", 24)
	supplement := func(plain string) []byte {
		b := append([]byte("d1:#24:"+nonce), "1:+"...)
		b = appendCopies(b, admin.forMembers(ids, []byte(nonce), []byte(plain)))
		return admin.sign(append(b, "1:Gi1e"...))
	}
	key := strings.Repeat("k", 32)
	one := func(g, at any) string { return fmt.Sprintf("d1:gi%ve1:k32:%s1:ti%vee", g, key, at) }
	for _, c := range []struct {
		name    string
		message []byte
	}{
		{"a supplement with a negative generation", supplement("l" + one(-1, 1) + "e")},
		{"a supplement with a negative time", supplement("l" + one(1, -5) + "e")},
		{"a supplement from beyond all time", supplement("l" + one(1, int64(math.MaxInt64)) + "e")},
		{"a supplement with a short key", supplement("ld1:gi1e1:k31:" + key[1:] + "1:ti1eee")},
		{"a supplement that is no list", supplement("d" + strings.Repeat("1:a1:b", 20))},
		{"a supplement with nested lists", supplement(strings.Repeat("l", 5000))},
		{"a rekey with a list of integers", signed("d1:#24:" + nonce + "1:Gi0e1:K48:" + key + key[16:] + "1:kli1eee")},
		{"a rekey with keys in another order", signed("d1:Gi0e1:#24:" + nonce + "1:K48:" + key + key[16:] + "1:kle")},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKeys(t, pairs[0], false)
			if found, err := k.Load(c.message, "h", start); found || !errors.Is(err, ErrMalformed) {
				t.Errorf("found %v, error %v", found, err)
			}
		})
	}

	t.Run("a jump to the last generation leaves no next one", func(t *testing.T) {
		k := newKeys(t, pairs[0], false)
		m := supplement("l" + one(int64(math.MaxInt64), start) + "e")
		if !load(t, k, m, "h", start) || k.Generation() != math.MaxInt64 {
			t.Fatal("not loaded")
		}
		if err := k.LoadSeed(groupPair); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Rekey(ids); !errors.Is(err, ErrMalformed) || k.Pending() != nil {
			t.Errorf("error %v", err)
		}
	})

	t.Run("a jump of generations is followed", func(t *testing.T) {
		k := newKeys(t, pairs[0], false)
		load(t, k, generations(t, 1, ids...)[0], "h0", start)
		if !load(t, k, supplement("l"+one(1_000_000, start+1)+"e"), "h1", start+1) || k.Generation() != 1_000_000 {
			t.Error("not followed")
		}
		if len(k.All()) != 2 {
			t.Error("the keys of earlier messages are gone")
		}
	})

	t.Run("ten thousand keys and hashes are not all kept", func(t *testing.T) {
		k := newKeys(t, pairs[0], false)
		for i := range 10_000 {
			g := groupKey{int64(i), start, config.Key{byte(i), byte(i >> 8)}}
			k.insert(g, fmt.Sprint("h", i))
			k.remember(int64(i), fmt.Sprint("x", i))
		}
		if len(k.list) > maxKeys || k.hashes > maxHashes || k.Generation() != 9999 {
			t.Errorf("%d keys, %d hashes", len(k.list), k.hashes)
		}
	})
}

func TestKeysExpireByTheSwarmsTime(t *testing.T) {
	const day = 24 * 60 * 60 * 1000
	for _, c := range []struct {
		name string
		days []int64 // when each generation was stored
		kept int
	}{
		{"all are young", []int64{0, 10, 20}, 3},
		{"an old one was in use until lately", []int64{0, 50, 100}, 3},
		{"the successor is exactly sixty days old", []int64{0, 40, 100}, 3},
		{"the successor is older", []int64{0, 39, 100}, 2},
		{"many are", []int64{0, 1, 2, 3, 100, 101}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKeys(t, person(0), false)
			for i, d := range c.days {
				k.insert(groupKey{int64(i), start + d*day, config.Key{byte(i)}}, fmt.Sprint("h", i))
			}
			if len(k.All()) != c.kept || len(k.ActiveHashes()) != c.kept {
				t.Errorf("kept %d keys, %d hashes", len(k.All()), len(k.ActiveHashes()))
			}
			// What fell out does not come back.
			k.insert(groupKey{0, start, config.Key{0}}, "h0")
			if len(k.All()) > max(c.kept, len(c.days)-1) && c.kept < len(c.days) {
				t.Error("an expired key came back")
			}
		})
	}
}

func TestOnlyAdminsMakeKeys(t *testing.T) {
	pairs, ids := crowd(1)
	k := newKeys(t, pairs[0], false)
	if _, err := k.Rekey(ids); !errors.Is(err, ErrNotAdmin) {
		t.Errorf("rekey: %v", err)
	}
	if _, err := k.Supplement(ids); !errors.Is(err, ErrNotAdmin) {
		t.Errorf("supplement: %v", err)
	}
	if _, err := k.Current(); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
	admin := newKeys(t, pairs[0], true)
	if _, err := admin.Supplement(ids); !errors.Is(err, ErrNoKey) {
		t.Errorf("supplement of nothing: %v", err)
	}
	if _, err := NewKeys(pairs[0], sessionID(pairs[0])); !errors.Is(err, ErrMalformed) {
		t.Errorf("keys of an account: %v", err)
	}
}

func TestAMemberWithABadKeyDoesNotLockOthersOut(t *testing.T) {
	pairs, ids := crowd(2)
	admin := newKeys(t, person(1000), true)
	m := rekey(t, admin, ids[0], account.ID{account.PrefixAccount}, ids[1])
	for i, p := range pairs {
		if !load(t, newKeys(t, p, false), m, "h", start) {
			t.Errorf("member %d got no key", i)
		}
	}
}

func TestTheSizeOfARekeyHidesTheNumberOfMembers(t *testing.T) {
	_, ids := crowd(151)
	sizes := map[int]int{}
	for _, n := range []int{0, 1, 74, 75, 76, 150, 151} {
		admin := newKeys(t, person(1000), true)
		m := rekey(t, admin, ids[:n]...)
		p, err := parseKeyMessage(ID(groupPair), m)
		if err != nil {
			t.Fatal(err)
		}
		sizes[n] = len(p.copies)
	}
	want := map[int]int{0: 0, 1: 75, 74: 75, 75: 75, 76: 150, 150: 150, 151: 225}
	for n, w := range want {
		if sizes[n] != w {
			t.Errorf("%d members have %d copies, want %d", n, sizes[n], w)
		}
	}
}

func TestTheLargestGroupFitsAndOneMoreDoesNot(t *testing.T) {
	_, ids := crowd(MaxMembers + 1)
	admin := newKeys(t, person(2000), true)
	m, err := admin.Rekey(ids[:MaxMembers])
	if err != nil || len(m) > wire.MaxData {
		t.Fatalf("%d bytes, %v", len(m), err)
	}
	if !load(t, newKeys(t, person(MaxMembers-1), false), m, "h", start) {
		t.Error("the last member got no key")
	}
	if _, err := admin.Rekey(ids); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one more: %v", err)
	}
}

func TestALargeSupplementBecomesSeveralMessages(t *testing.T) {
	pairs, ids := crowd(150)
	admin := newKeys(t, person(1000), true)
	for i, m := range generations(t, 20, ids[0]) {
		load(t, admin, m, fmt.Sprint("h", i), start+int64(i)*60_000)
	}
	messages, err := admin.Supplement(ids[1:])
	if err != nil || len(messages) < 2 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	for i := 1; i < len(ids); i += 37 {
		k := newKeys(t, pairs[i], false)
		for j, m := range messages {
			if len(m) > wire.MaxData {
				t.Errorf("message %d has %d bytes", j, len(m))
			}
			load(t, k, m, fmt.Sprint("s", j), start)
		}
		if !slices.Equal(k.All(), admin.All()) {
			t.Errorf("member %d has %d keys", i, len(k.All()))
		}
	}
}

func TestAPendingKeyYieldsToANewerGeneration(t *testing.T) {
	_, ids := crowd(3)
	one, two := newKeys(t, person(1000), true), newKeys(t, person(1001), true)
	first := rekey(t, one, ids...)
	load(t, one, first, "h0", start)
	load(t, two, first, "h0", start)

	pending := bytes.Clone(rekey(t, two, ids[:2]...)) // generation 1, never stored
	second := rekey(t, one, ids...)
	load(t, one, second, "h1", start+1)
	load(t, two, second, "h1", start+1)
	if !bytes.Equal(two.Pending(), pending) {
		t.Error("another key of the generation took the pending one away")
	}
	dump := two.Dump()
	restored, err := LoadKeys(person(1001), ID(groupPair), dump)
	if err != nil || !bytes.Equal(restored.Pending(), pending) || restored.NeedsDump() {
		t.Fatalf("the pending key is not in the dump, %v", err)
	}
	third := rekey(t, one, ids...)
	load(t, two, third, "h2", start+2)
	if two.Pending() != nil || two.Generation() != 2 || !two.NeedsDump() {
		t.Error("the pending key outlived a newer generation")
	}
}

// TestARemovedMemberReadsNothingThatComesAfter uses all that the removed member
// has: keys, key messages, the group's swarm as a whole.
func TestARemovedMemberReadsNothingThatComesAfter(t *testing.T) {
	pairs, ids := crowd(5)
	admin := newKeys(t, pairs[0], true)
	removed := newKeys(t, pairs[4], false)
	staying := newKeys(t, pairs[1], false)
	first := rekey(t, admin, ids...)
	for _, k := range []*Keys{admin, removed, staying} {
		if !load(t, k, first, "h0", start) {
			t.Fatal("no key")
		}
	}
	second := rekey(t, admin, ids[:4]...)
	supplements, err := admin.Supplement(ids[1:3])
	if err != nil {
		t.Fatal(err)
	}
	key, err := admin.Current()
	if err != nil {
		t.Fatal(err)
	}
	after, err := Seal(rand.Reader, ID(groupPair), key, pairs[0], []byte("after"), Style{})
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range append([][]byte{second}, supplements...) {
		if load(t, removed, m, fmt.Sprint("x", i), start+1) {
			t.Errorf("message %d holds a key for the removed member", i)
		}
		load(t, staying, m, fmt.Sprint("x", i), start+1)
	}
	if _, _, err := Open(ID(groupPair), removed.All(), after, Current); !errors.Is(err, ErrNotForUs) {
		t.Errorf("the removed member reads a message: %v", err)
	}
	if _, plain, err := Open(ID(groupPair), staying.All(), after, Current); err != nil || string(plain) != "after" {
		t.Errorf("the others read %q, %v", plain, err)
	}

	// The configs that are pushed with the new key.
	now := nowAt(start)
	o, err := config.New(config.GroupInfo, config.Options{Group: groupPair.Ed25519(), Signer: groupPair, Keys: admin.All(), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Set(config.BytesValue("secret name"), "n"); err != nil {
		t.Fatal(err)
	}
	push, err := o.Push()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		who  *Keys
		name string
	}{{removed, ""}, {staying, "secret name"}} {
		theirs, err := config.New(config.GroupInfo, config.Options{Group: groupPair.Ed25519(), Keys: c.who.All(), Now: now})
		if err != nil {
			t.Fatal(err)
		}
		merged := theirs.Merge([]config.Message{{Hash: "c", Data: push.Parts[0]}})
		if name, _ := theirs.Get("n").Bytes(); name != c.name || (len(merged.Accepted) > 0) != (c.name != "") {
			t.Errorf("read the name %q, want %q", name, c.name)
		}
	}
}

func TestNothingPrintsSecrets(t *testing.T) {
	pairs, ids := crowd(1)
	k := newKeys(t, pairs[0], true)
	rekey(t, k, ids...)
	load(t, k, k.Pending(), "h", start)
	auth, err := NewAuth(groupPair, ids[0], MemberAccess)
	if err != nil {
		t.Fatal(err)
	}
	s, err := MemberSigner(pairs[0], ID(groupPair), auth)
	if err != nil {
		t.Fatal(err)
	}
	current, seed := k.list[0].key, groupPair.Seed()
	for _, v := range []any{k, auth, s, AdminSigner(groupPair), &Invitation{ID(groupPair), "", auth}} {
		asJSON, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out := strings.ToLower(fmt.Sprintf("%v %+v %#v %x %s %s", v, v, v, v, v, asJSON))
		for _, secret := range [][]byte{current[:], seed[:], auth[4:36]} {
			if strings.Contains(out, fmt.Sprintf("%x", secret[:6])) || strings.Contains(out, strings.Trim(fmt.Sprint(secret[:6]), "[]")) {
				t.Errorf("%T prints a secret: %s", v, out)
			}
		}
	}
}

func FuzzParseKeyMessage(f *testing.F) {
	_, ids := crowd(1)
	admin := newKeys(f, person(1000), true)
	m := rekey(f, admin, ids...)
	f.Add(m[:len(m)-71])
	load(f, admin, m, "h", start)
	s, err := admin.Supplement(ids)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s[0][:len(s[0])-71])
	f.Add([]byte("d1:#24:nnnnnnnnnnnnnnnnnnnnnnnn"))
	f.Fuzz(func(t *testing.T, body []byte) {
		// Unsigned, it is never accepted; signed by a hostile admin, it may be.
		k := newKeys(t, person(0), false)
		if _, err := k.Load(body, "h", start); err == nil {
			t.Error("an unsigned message was accepted")
		}
		signed := admin.sign(slices.Clone(body))
		if _, err := k.Load(signed, "h", start); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSignature) {
			t.Errorf("error %v is none of the documented ones", err)
		}
		if !slices.IsSortedFunc(k.list, compareKeys) {
			t.Error("keys out of order")
		}
	})
}

func FuzzSupplement(f *testing.F) {
	f.Add([]byte("ld1:gi0e1:k32:kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk1:ti1748736000123eee"))
	f.Add([]byte("le"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		list, err := parseSupplement(plain)
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("error %v", err)
		}
		k := newKeys(t, person(0), false)
		for i, g := range list {
			k.insert(g, fmt.Sprint(i))
		}
		if !slices.IsSortedFunc(k.list, compareKeys) {
			t.Error("keys out of order")
		}
	})
}

func FuzzLoadKeys(f *testing.F) {
	_, ids := crowd(1)
	admin := newKeys(f, person(1000), true)
	m := rekey(f, admin, ids...)
	f.Add(bytes.Clone(admin.Dump()))
	load(f, admin, m, "h", start)
	f.Add(bytes.Clone(admin.Dump()))
	f.Fuzz(func(t *testing.T, dump []byte) {
		k, err := LoadKeys(person(0), ID(groupPair), dump)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v", err)
			}
			return
		}
		once := k.Dump()
		again, err := LoadKeys(person(0), ID(groupPair), once)
		if err != nil || !bytes.Equal(again.Dump(), once) {
			t.Errorf("%q is restored otherwise, %v", once, err)
		}
	})
}

func BenchmarkRekey(b *testing.B) {
	for _, n := range []int{20, 100, 1000} {
		_, ids := crowd(n)
		admin := newKeys(b, person(2000), true)
		b.Run(fmt.Sprintf("make for %d", n), func(b *testing.B) {
			var m []byte
			for b.Loop() {
				m = rekey(b, admin, ids...)
			}
			b.ReportMetric(float64(len(m)), "bytes")
		})
		m := rekey(b, admin, ids...)
		b.Run(fmt.Sprintf("load as one of %d", n), func(b *testing.B) {
			for b.Loop() {
				load(b, newKeys(b, person(n-1), false), m, "h", start)
			}
		})
	}
}
