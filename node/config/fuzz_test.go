package config

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"hearth/node/account"
)

// known reports whether err is one of those that the package names.
func known(err error) bool {
	for _, e := range []error{ErrFormat, ErrLimit, ErrCompression, ErrDecrypt, ErrSignature, ErrValue} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var fuzzSeeds = []string{
	"d1:#i1e1:&de1:<le1:=dee",
	"d1:#i1e1:$3:abc1:&d1:n1:ae1:)li1e1:xe1:<le2:<ad1:ai1ee1:=de1:>i-5ee",
	"d1:#i5e1:&d1:cd1:a0:e1:n1:a1:xli-3ei5e1:aee1:<lli4e32:HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHd1:n0:1:xlli5eelee0:1:-eee1:=d1:cd1:a0:e1:n0:ee",
	"d1:#i12e1:&d1:ki42e1:sli1ei2eee1:<le1:=d1:k0:1:slli2eeli9eeeee",
	"d1:#i12e1:&d1:kd1:ai1eee1:<le1:=d1:kd1:a0:1:b1:-eee",
	"d1:#i1e1:&de1:<le1:=de1:~64:" + strings.Repeat("S", 64) + "e",
}

// What was read is written in one way, and reading that gives the same again.
func FuzzMessage(f *testing.F) {
	for _, s := range fuzzSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b, unsigned, [32]byte{})
		if err != nil {
			if !known(err) {
				t.Fatalf("unnamed error: %v", err)
			}
			return
		}
		once := m.append(nil, nil)
		again, err := parseMessage(once, unsigned, [32]byte{})
		if err != nil {
			t.Fatalf("%q was read but is refused as %q: %v", b, once, err)
		}
		if twice := again.append(nil, nil); !bytes.Equal(once, twice) {
			t.Fatalf("%q is written as %q, then as %q", b, once, twice)
		}
		if d := between(m.data, again.data); len(d.entries) > 0 {
			t.Fatalf("%q has other data after writing it", b)
		}
		// A diff between two trees leads from one to the other.
		tr := &tree{owner: new(owner), root: &Dict{}}
		tr.root = tr.own(tr.root)
		tr.apply(tr.root, between(emptyDict, m.data), m.data)
		if d := between(tr.root, m.data); len(d.entries) > 0 {
			t.Fatalf("%q: applying everything does not give everything", b)
		}
	})
}

// Three messages give the same result in every order and with copies among them.
func FuzzResolve(f *testing.F) {
	for i, s := range fuzzSeeds {
		f.Add([]byte(s), []byte(fuzzSeeds[(i+1)%len(fuzzSeeds)]), []byte(fuzzSeeds[(i+2)%len(fuzzSeeds)]))
	}
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		var all []*message
		for _, plaintext := range [][]byte{a, b, c} {
			m, err := parseMessage(plaintext, unsigned, [32]byte{})
			if err != nil {
				return
			}
			all = append(all, m)
		}
		for _, readOnly := range []bool{false, true} {
			var first []byte
			for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0, 1}, {1, 0, 2, 2}} {
				var in []*message
				for _, i := range order {
					in = append(in, all[i])
				}
				m, _ := resolve(in, readOnly)
				plaintext := m.append(nil, nil)
				if first == nil {
					first = plaintext
				}
				if !bytes.Equal(first, plaintext) {
					t.Fatalf("%q or %q", first, plaintext)
				}
				if _, err := parseMessage(plaintext, unsigned, [32]byte{}); err != nil {
					t.Fatalf("the result %q is refused: %v", plaintext, err)
				}
			}
		}
	})
}

func FuzzInflate(f *testing.F) {
	for _, s := range fuzzSeeds {
		f.Add(pad(compress(bytes.Repeat([]byte(s), 5))))
		f.Add(pad([]byte(s)))
	}
	f.Add([]byte("\x00\x00ml1:a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := inflate(b)
		if err != nil {
			if !known(err) {
				t.Fatalf("unnamed error: %v", err)
			}
			return
		}
		if len(out) > MaxPlaintext || out[0] != plain && out[0] != divided {
			t.Fatalf("%d bytes beginning with %q", len(out), out[0])
		}
	})
}

func FuzzPart(f *testing.F) {
	parts, err := split(make([]byte, 100_000))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(parts[1])
	f.Add([]byte("ml32:00000000000000000000000000000000" + "1:\x001:\x021:xe"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePart(b)
		if err != nil {
			if !known(err) {
				t.Fatalf("unnamed error: %v", err)
			}
			return
		}
		var c collector
		now := vectorOptions().Now()
		if whole, _, _, err := c.add(p, "h", now); whole != nil || err != nil {
			t.Fatalf("one part is the whole: %v", err)
		}
		p.index = (p.index + 1) % p.count
		c.add(p, "i", now)
		var again collector
		if err := again.load(c.dump()); err == nil && c.size() != again.size() {
			t.Fatalf("%d bytes, %d after a dump", c.size(), again.size())
		}
	})
}

func FuzzUnwrap(f *testing.F) {
	acc := account.New(vectorSeed)
	wrapped, err := wrap(acc, 1, 5, []byte("sealed"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrapped)
	f.Add([]byte("abc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Only the owner of the account can make a wrapper that opens.
		if out := unwrap(acc, 1, b); !bytes.Equal(out, b) && string(out) != "sealed" {
			t.Fatalf("opened to %q", out)
		}
		field(b, contentConfig, 2)
		if v, ok := field(b, configKind, 0); ok && v.bytes != nil {
			t.Fatal("a number with bytes")
		}
	})
}

// What Load takes, it dumps in a form that it takes again.
func FuzzDump(f *testing.F) {
	o := vectorObject(f, UserProfile)
	f.Add(o.Dump())
	Profile{o}.SetName("a")
	f.Add(o.Dump())
	o.Push()
	o.Confirm(1, "h1", "h2")
	f.Add(o.Dump())
	o.parts.add(part{[32]byte{1}, 0, 2, []byte("chunk")}, "p", vectorOptions().Now())
	o.parts.finish([32]byte{2}, vectorOptions().Now())
	f.Add(o.Dump())
	options := vectorOptions()
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := Load(UserProfile, options, b)
		if err != nil {
			if !known(err) {
				t.Fatalf("unnamed error: %v", err)
			}
			return
		}
		dirty := o.State() == Dirty
		dump := o.Dump()
		again, err := Load(UserProfile, options, dump)
		if err != nil {
			t.Fatalf("own dump %q: %v", dump, err)
		}
		if !dirty && !bytes.Equal(again.Dump(), dump) {
			t.Fatalf("dump %q becomes %q", dump, again.Dump())
		}
		if _, err := o.Push(); err != nil && !errors.Is(err, ErrLimit) {
			t.Fatal(err)
		}
	})
}

// Every view reads every tree.
func FuzzViews(f *testing.F) {
	for _, s := range fuzzSeeds {
		f.Add([]byte(s))
	}
	id := string(make([]byte, 32))
	f.Add([]byte("d1:#i1e1:&d1:1d33:\x05" + id + "d1:ri5eee1:cd33:\x05" + id + "d1:n0:ee1:gd33:\x03" + id + "d1:K0:ee1:md33:\x05" + id + "d1:n0:eeee1:<le1:=dee"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b, unsigned, [32]byte{})
		if err != nil {
			return
		}
		o := vectorObject(t, UserProfile)
		o.message = m
		p := Profile{o}
		p.Name()
		p.Picture()
		for c := range (Contacts{o}).All() {
			if (Contacts{o}).Put(c) == nil {
				again, ok := Contacts{o}.Find(c.ID)
				c.Name, c.Nickname = cut(c.Name), cut(c.Nickname)
				if !ok || again != c {
					t.Fatalf("%+v stored, %+v read", c, again)
				}
			}
		}
		for b := range (Contacts{o}).Blinded() {
			Contacts{o}.PutBlinded(b)
		}
		for m := range (Members{o}).All() {
			m.Status()
			Members{o}.Put(m)
		}
		for g := range (Groups{o}).Groups() {
			Groups{o}.Put(g)
		}
		for g := range (Groups{o}).Legacy() {
			Groups{o}.PutLegacy(g)
		}
		for c := range (Groups{o}).Communities() {
			Groups{o}.PutCommunity(c)
		}
		for c := range (Conversations{o}).All() {
			Conversations{o}.Put(c)
		}
		if _, err := parseMessage(o.finish(nil), unsigned, [32]byte{}); err != nil {
			t.Fatalf("what the views wrote is refused: %v", err)
		}
	})
}

func FuzzRoom(f *testing.F) {
	f.Add("https://example.com/r/room?public_key=e6602b8c8aa268b40d47f1c019ab5fe25b1b7986b79362be0a1b348721fdbe28")
	f.Add("http://a.bc:80/x?public_key=h3onzdrkwjwmedk868ybuk49hjpts6cgs6jsfxokdc4eqex7zawy")
	f.Fuzz(func(t *testing.T, s string) {
		room, err := ParseRoom(s)
		if err != nil {
			if !known(err) {
				t.Fatalf("unnamed error: %v", err)
			}
			return
		}
		if again, err := ParseRoom(room.URL()); err != nil || again != room {
			t.Fatalf("%q gives %+v, which gives %+v, %v", s, room, again, err)
		}
	})
}
