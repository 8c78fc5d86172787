package group

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/config"
	"hearth/node/keys"
	"hearth/node/wire"
)

func nowAt(ms int64) func() time.Time { return func() time.Time { return time.UnixMilli(ms) } }

func TestBadGroupMessages(t *testing.T) {
	id, key := ID(groupPair), config.Key{1}
	sender := person(0)
	author := sender.Ed25519()
	sealed := func(d bt.Dict) []byte {
		t.Helper()
		plain, err := bt.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		m, err := wire.SealPayload(rand.Reader, key, plain)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	sign := func(data []byte) []byte { return sender.Sign(signedText(Current, id, data)) }
	bomb := encoder().EncodeAll(make([]byte, 50<<20), nil)
	if len(bomb) > wire.MaxData {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	full := encoder().EncodeAll(make([]byte, MaxPlaintext), nil)
	over := encoder().EncodeAll(make([]byte, MaxPlaintext+1), nil)
	data := []byte("data")
	for _, c := range []struct {
		name    string
		message []byte
		err     error
	}{
		{"the largest one that may be", sealed(bt.Dict{"": 1, "a": author[:], "s": sign(full), "z": full}), nil},
		{"one byte more", sealed(bt.Dict{"": 1, "a": author[:], "s": sign(over), "z": over}), ErrMalformed},
		{"fifty megabytes of zeros in a small frame", sealed(bt.Dict{"": 1, "a": author[:], "s": sign(bomb), "z": bomb}), ErrMalformed},
		{"a frame cut off", sealed(bt.Dict{"": 1, "a": author[:], "s": sign(full[:len(full)-2]), "z": full[:len(full)-2]}), ErrMalformed},
		{"no frame at all", sealed(bt.Dict{"": 1, "a": author[:], "s": sign(data), "z": data}), ErrMalformed},
		{"data twice", sealed(bt.Dict{"": 1, "a": author[:], "d": data, "s": sign(data), "z": data}), ErrMalformed},
		{"no data", sealed(bt.Dict{"": 1, "a": author[:], "s": sign(data)}), ErrMalformed},
		{"another version", sealed(bt.Dict{"": 2, "a": author[:], "d": data, "s": sign(data)}), ErrMalformed},
		{"no version", sealed(bt.Dict{"a": author[:], "d": data, "s": sign(data)}), ErrMalformed},
		{"a short author", sealed(bt.Dict{"": 1, "a": author[:31], "d": data, "s": sign(data)}), ErrMalformed},
		{"an author who is no point", sealed(bt.Dict{"": 1, "a": append([]byte{2}, make([]byte, 31)...), "d": data, "s": sign(data)}), ErrSignature},
		{"an author of small order", sealed(bt.Dict{"": 1, "a": append([]byte{1}, make([]byte, 31)...), "d": data, "s": make([]byte, 64)}), ErrSignature},
		{"a short signature", sealed(bt.Dict{"": 1, "a": author[:], "d": data, "s": sign(data)[:63]}), ErrMalformed},
		{"too short for anything", make([]byte, sealOverhead-1), ErrMalformed},
		{"too long for a swarm", make([]byte, wire.MaxData+1), ErrMalformed},
		{"zeros", make([]byte, 256), ErrNotForUs},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, plain, err := Open(id, []config.Key{{9}, key}, c.message, Current)
			if !errors.Is(err, c.err) || c.err != nil && plain != nil {
				t.Errorf("%d bytes, error %v, want %v", len(plain), err, c.err)
			}
		})
	}
	if _, err := Seal(rand.Reader, id, key, sender, nil, Style{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("an empty message: %v", err)
	}
	random := make([]byte, wire.MaxData)
	rand.Read(random)
	if _, err := Seal(rand.Reader, id, key, sender, random, Style{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one that does not fit: %v", err)
	}
}

func TestAMessageDoesNotCountInAnotherGroup(t *testing.T) {
	// Carol is in both groups and carries what Alice said into the other one.
	alice, key := person(0), config.Key{1}
	here, there := ID(groupPair), ID(keys.FromSeed([32]byte{0x04}))
	m, err := Seal(rand.Reader, here, key, alice, []byte("yes"), Style{})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := wire.OpenPayload(key, m)
	if err != nil {
		t.Fatal(err)
	}
	carried, err := wire.SealPayload(rand.Reader, key, plain)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(there, []config.Key{key}, carried, Current); !errors.Is(err, ErrSignature) {
		t.Errorf("error %v", err)
	}
}

func TestSizesOfMessagesComeInSteps(t *testing.T) {
	for _, n := range []int{1, 50, 94, 95, 200, 300, 5000} {
		m, err := Seal(rand.Reader, ID(groupPair), config.Key{1}, person(0), bytes.Repeat([]byte("q"), n), Style{Plain: true})
		if err != nil || len(m)%paddingBlock != 0 {
			t.Errorf("%d bytes become %d, %v", n, len(m), err)
		}
	}
}

func TestNoticesOfRemoval(t *testing.T) {
	pairs, ids := crowd(3)
	notice, err := Kicked(rand.Reader, groupPair, append(ids[:2:2], account.ID{account.PrefixAccount}), 12)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{nil, nil, ErrNotForUs} {
		g, err := OpenKicked(pairs[i], ID(groupPair), notice)
		if !errors.Is(err, want) || want == nil && g != 12 {
			t.Errorf("person %d: generation %d, %v", i, g, err)
		}
	}
	if _, err := OpenKicked(pairs[0], ID(keys.FromSeed([32]byte{9})), notice); !errors.Is(err, ErrNotForUs) {
		t.Errorf("in another group: %v", err)
	}
	if _, err := OpenKicked(pairs[0], ids[0], notice); !errors.Is(err, ErrMalformed) {
		t.Errorf("in no group: %v", err)
	}

	raw := func(plain string) []byte {
		m, err := MultiEncrypt(groupPair, kickedDomain, [nonceSize]byte{1}, [][32]byte{pairs[0].X25519()}, []byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	x := pairs[0].X25519()
	for name, plain := range map[string]string{
		"no generation": string(x[:]), "a sign": string(x[:]) + "+1", "a negative one": string(x[:]) + "-1", "words": string(x[:]) + "1e3",
		"a number too large": string(x[:]) + strings.Repeat("9", 30), "another key": strings.Repeat("x", 32) + "1", "nothing": "", "a short key": string(x[:31]) + "1",
	} {
		if _, err := OpenKicked(pairs[0], ID(groupPair), raw(plain)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}

	_, many := crowd(KickedAtOnce)
	if b, err := Kicked(rand.Reader, groupPair, many, 1<<62); err != nil {
		t.Errorf("as many as promised: %d bytes, %v", len(b), err)
	}
	_, more := crowd(MaxMembers)
	if _, err := Kicked(rand.Reader, groupPair, more, 1<<62); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	id, sender := ID(groupPair), person(0)
	m, err := Seal(rand.Reader, id, config.Key{1}, sender, []byte(strings.Repeat("seed ", 100)), Style{})
	if err != nil {
		f.Fatal(err)
	}
	plain, err := wire.OpenPayload([32]byte{1}, m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte("d0:i1e1:a32:"))
	f.Fuzz(func(t *testing.T, padded []byte) {
		// What somebody with the group's key can put into a message.
		author, _, err := parseMessage(id, padded, Current)
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSignature) {
			t.Errorf("error %v is none of the documented ones", err)
		}
		if err == nil && author != sessionID(sender) {
			t.Errorf("a message by %s came from nowhere", author)
		}
		if _, _, err := Open(id, []config.Key{{1}}, padded, Current); err == nil {
			t.Error("an unencrypted message was read")
		}
	})
}

func FuzzOpenKicked(f *testing.F) {
	_, ids := crowd(1)
	notice, err := Kicked(rand.Reader, groupPair, ids, 3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(notice, []byte("x"))
	f.Fuzz(func(t *testing.T, notice, plain []byte) {
		own := person(0)
		if _, err := OpenKicked(own, ID(groupPair), notice); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNotForUs) {
			t.Errorf("error %v", err)
		}
		x := own.X25519()
		m, err := MultiEncrypt(groupPair, kickedDomain, [nonceSize]byte{}, [][32]byte{x}, append(x[:], plain...))
		if err != nil {
			t.Fatal(err)
		}
		if g, err := OpenKicked(own, ID(groupPair), m); err == nil && g < 0 || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("generation %d, %v", g, err)
		}
	})
}

func BenchmarkMessage(b *testing.B) {
	id, key, sender := ID(groupPair), config.Key{1}, person(0)
	for _, n := range []int{100, 1024, 60_000} {
		text := []byte(strings.Repeat("What people write compresses a little. ", n/39+1)[:n])
		b.Run(fmt.Sprintf("seal %d bytes", n), func(b *testing.B) {
			var m []byte
			for b.Loop() {
				var err error
				if m, err = Seal(rand.Reader, id, key, sender, text, Style{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(m)), "bytes")
		})
		m, err := Seal(rand.Reader, id, key, sender, text, Style{})
		if err != nil {
			b.Fatal(err)
		}
		for _, k := range []int{1, 50} {
			all := append(make([]config.Key, k-1), key)
			b.Run(fmt.Sprintf("open %d bytes with %d keys", n, k), func(b *testing.B) {
				for b.Loop() {
					if _, _, err := Open(id, all, m, Current); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkInvite(b *testing.B) {
	_, ids := crowd(1)
	for b.Loop() {
		if _, err := Invite(groupPair, "name", ids[0], uint64(start)); err != nil {
			b.Fatal(err)
		}
	}
}
