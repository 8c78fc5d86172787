package config

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"hearth/node/account"
)

func TestHostileMessages(t *testing.T) {
	hash := strings.Repeat("H", hashSize)
	lags := func(seqnos ...int) string {
		var b strings.Builder
		for _, n := range seqnos {
			fmt.Fprintf(&b, "li%de%d:%sd1:n0:ee", n, hashSize, hash)
		}
		return b.String()
	}
	for _, c := range []struct {
		name, plaintext string
		err             error
	}{
		{"a chain of changes with a hole is taken", "d1:#i9e1:&d1:n1:ae1:<l" + lags(5, 6, 8) + "e1:=dee", nil},
		{"a change with a number for a mark", "d1:#i5e1:&d1:n1:ae1:<le1:=d1:ni1eee", ErrFormat},
		{"a change with a number deeper down", "d1:#i5e1:&d1:n1:ae1:<le1:=d1:cd1:ni0eeee", ErrFormat},
		{"a set changed by three lists", "d1:#i5e1:&d1:n1:ae1:<le1:=d1:xlleleleeee", ErrFormat},
		{"changes with keys out of order", "d1:#i5e1:&d1:n1:ae1:<le1:=d1:n0:1:a0:ee", ErrFormat},
		{"changes with a key given twice", "d1:#i5e1:&d1:n1:ae1:<le1:=d1:n0:1:n0:ee", ErrFormat},
		{"an earlier change given twice", "d1:#i9e1:&d1:n1:ae1:<l" + lags(5, 5) + "e1:=dee", ErrFormat},
		{"a counter that could not grow any more", "d1:#i9223372036854775807e1:&de1:<le1:=dee", ErrLimit},
		{"a counter at the other end", "d1:#i-9223372036854775808e1:&de1:<le1:=dee", ErrLimit},
		{"a key of a million bytes is taken", "d1:#i1e1:&d1000000:" + strings.Repeat("k", 1000000) + "i1ee1:<le1:=dee", nil},
		{"a key longer than the message", "d1:#i1e1:&d99999999:ki1ee1:<le1:=dee", ErrFormat},
		{"a length that overflows", "d1:#i1e1:&d99999999999999999999999:ki1ee1:<le1:=dee", ErrFormat},
		{"data nested too deep", "d1:#i1e1:&" + strings.Repeat("d1:a", 5000), ErrLimit},
		{"changes nested too deep", "d1:#i1e1:&de1:<le1:=" + strings.Repeat("d1:a", 5000), ErrLimit},
		{"an unknown key nested too deep", "d1:#i1e1:$" + strings.Repeat("l", 5000), ErrFormat},
		{"more values than a message may have", "d1:#i1e1:&d1:xl" + manyInts(MaxValues+1) + "ee1:<le1:=dee", ErrLimit},
		{"top-level keys given twice", "d1:#i1e1:&de1:&de1:<le1:=dee", ErrFormat},
		{"two signatures", "d1:#i1e1:&de1:<le1:=de1:~64:" + strings.Repeat("S", 64) + "1:~64:" + strings.Repeat("S", 64) + "e", ErrFormat},
		{"nothing", "d", ErrFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := vectorObject(t, UserProfile)
			before := o.message.id
			got := o.Merge([]Message{{"h", encryptPlain(t, o, []byte(c.plaintext))}})
			if err := got.Err(); !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if c.err != nil && (o.message.id != before || o.NeedsDump() || len(o.ObsoleteHashes()) > 0 || got.Changed) {
				t.Errorf("a refused message has changed something: %v", o)
			}
		})
	}
}

func manyInts(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "i%de", i)
	}
	return b.String()
}

func TestMessagesCutAnywhereAreRefused(t *testing.T) {
	o := vectorObject(t, UserProfile)
	o.Set(IntValue(5), "a", "b")
	o.change(func(t *tree) { t.include(BytesValue("x"), "s") })
	p, err := o.Push()
	if err != nil {
		t.Fatal(err)
	}
	_, _, plaintext := layers(t, o, p.Parts[0])
	for i := range plaintext {
		if _, err := parseMessage(plaintext[:i], unsigned, [32]byte{}); !errors.Is(err, ErrFormat) {
			t.Fatalf("the first %d of %d bytes: %v", i, len(plaintext), err)
		}
	}
	for i := range p.Parts[0] {
		broken := bytes.Clone(p.Parts[0])
		broken[i] ^= 0x40
		other := vectorObject(t, UserProfile)
		other.Merge([]Message{{"h", broken}}) // some bytes of the wrapper do not matter
		if other.Seqno() == 1 && other.message.hash != o.message.hash {
			t.Fatalf("a changed byte %d gives another config", i)
		}
	}
}

func TestTwoMessagesOfOneSeqno(t *testing.T) {
	o := vectorObject(t, UserProfile)
	message := func(name string) Message {
		return Message{name, encryptPlain(t, o, []byte("d1:#i5e1:&d1:n1:"+name+"e1:<le1:=d1:n0:ee"))}
	}
	a, b := message("a"), message("b")
	o.Merge([]Message{a, b, a})
	other := vectorObject(t, UserProfile)
	other.Merge([]Message{b, a})
	if o.Seqno() != 6 || !o.NeedsPush() || !bytes.Equal(o.finish(nil), other.finish(nil)) {
		t.Errorf("%q and %q", o.finish(nil), other.finish(nil))
	}
	if got := o.ObsoleteHashes(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("obsolete %q", got)
	}
}

func TestBrokenCompression(t *testing.T) {
	encode := func(b []byte, options ...zstd.EOption) []byte {
		w, err := zstd.NewWriter(nil, options...)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		return w.EncodeAll(b, []byte{compressed})
	}
	streamed := func(b []byte) []byte { // without the size in front
		out := bytes.NewBuffer([]byte{compressed})
		w, _ := zstd.NewWriter(out)
		for part := range slices.Chunk(b, 1<<20) {
			w.Write(part)
		}
		w.Close()
		return out.Bytes()
	}
	honest := append([]byte("d1:#i1e1:&d1:n5000:"), bytes.Repeat([]byte("n"), 5000)...)
	honest = append(honest, "e1:<le1:=dee"...)
	frame := encode(honest)
	bomb := make([]byte, 256<<20)
	lying := slices.Clone(encode(make([]byte, 100<<10), zstd.WithSingleSegment(true)))
	for _, c := range []struct {
		name string
		in   []byte
		err  error
	}{
		{"an honest frame", frame, nil},
		{"a frame without its last byte", frame[:len(frame)-1], ErrCompression},
		{"half of a frame", frame[:len(frame)/2], ErrCompression},
		{"the first bytes of a frame", frame[:6], ErrCompression},
		{"no frame at all", []byte("z"), ErrFormat},
		{"something that is no frame", []byte("zhello world"), ErrCompression},
		{"a bomb that tells its size", encode(bomb), ErrLimit},
		{"a bomb that does not", streamed(bomb), ErrLimit},
		{"a frame that is no dictionary", lying, ErrFormat},
		{"a part inside of a frame", encode([]byte("ml32:")), ErrFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := inflate(c.in)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("got %v, want %v", err, c.err)
			}
			// Growing to the limit copies it a few times; none of it stays.
			if used := after.TotalAlloc - before.TotalAlloc; used > 8*MaxPlaintext {
				t.Errorf("%d bytes of memory for %d bytes of input", used, len(c.in))
			}
		})
	}
}

func TestHostileParts(t *testing.T) {
	o := vectorObject(t, ContactList)
	whole := func(i int) string { return fmt.Sprintf("%032d", i) }
	send := func(plaintext string, hash string) Merged {
		sealed, err := seal([]byte(plaintext), o.keys[0], facts[o.kind].domain)
		if err != nil {
			t.Fatal(err)
		}
		return o.Merge([]Message{{hash, sealed}})
	}
	part := func(w, index, count, chunk string) string {
		return fmt.Sprintf("ml%d:%s%d:%s%d:%s%d:%se", len(w), w, len(index), index, len(count), count, len(chunk), chunk)
	}
	for _, c := range []struct {
		name, plaintext string
		err             error
	}{
		{"one part of two", part(whole(0), "\x00", "\x02", "x"), nil},
		{"a part with zeros after it", part(whole(1), "\x00", "\x02", "x") + "\x00\x00\x00\x00", nil},
		{"a part with something after it", part(whole(2), "\x00", "\x02", "x") + "y", ErrFormat},
		{"a fifth element", part(whole(2), "\x00", "\x02", "x")[:len(part(whole(2), "\x00", "\x02", "x"))-1] + "1:ye", ErrFormat},
		{"another count than before", part(whole(0), "\x01", "\x03", "x"), ErrFormat},
		{"an index beyond the count", part(whole(2), "\x02", "\x02", "x"), ErrFormat},
		{"a single part", part(whole(2), "\x00", "\x01", "x"), ErrFormat},
		{"no parts", part(whole(2), "\x00", "\x00", "x"), ErrFormat},
		{"a short hash", part("short", "\x00", "\x02", "x"), ErrFormat},
		{"an empty chunk", part(whole(2), "\x00", "\x02", ""), ErrFormat},
		{"an index of two bytes", part(whole(2), "\x00\x00", "\x02", "x"), ErrFormat},
		{"no list", "mi1e", ErrFormat},
		{"the last part of what is not the whole", part(whole(0), "\x01", "\x02", "y"), ErrFormat},
	} {
		got := send(c.plaintext, "h")
		if err := got.Err(); !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}

	// First parts of ever new configs, each as large as a message can be.
	chunk := strings.Repeat("c", chunkSize)
	for i := range 200 {
		for index := range 60 {
			if i >= 3 && index > 0 {
				break
			}
			send(part(whole(10+i), string([]byte{byte(index)}), "\xff", chunk), fmt.Sprint(i, " ", index))
		}
	}
	if n, size := len(o.parts.incomplete), o.parts.size(); n > maxIncomplete || size > 2*MaxPadded {
		t.Errorf("%d incomplete configs with %d bytes are kept", n, size)
	}
	if len(o.ActiveHashes()) == 0 {
		t.Error("nothing is kept")
	}
}

func TestLargeMergesGoInRounds(t *testing.T) {
	o := vectorObject(t, UserProfile)
	var in []Message
	filler := strings.Repeat("f", 9<<20)
	for i := range 14 {
		plaintext := fmt.Sprintf("d1:#i5e1:&d2:%02di1e1:f%d:%se1:<le1:=d2:%02d0:ee", i, len(filler), filler, i)
		in = append(in, Message{fmt.Sprint(i), encryptPlain(t, o, compress([]byte(plaintext)))})
	}
	got := o.Merge(in)
	if len(got.Accepted) != 14 || got.Err() != nil {
		t.Fatalf("%d accepted, %v", len(got.Accepted), got.Err())
	}
	for i := range 14 {
		if !o.Get(fmt.Sprintf("%02d", i)).Exists() {
			t.Errorf("the change of message %d is lost", i)
		}
	}
}

func TestTooLargeToPush(t *testing.T) {
	o := vectorObject(t, UserProfile)
	o.Set(BytesValue(strings.Repeat("x", MaxPlaintext)), "x")
	if _, err := o.Push(); !errors.Is(err, ErrLimit) || o.State() != Dirty {
		t.Errorf("%v, %v", err, o)
	}
	o.Erase("x")
	if _, err := o.Push(); err != nil {
		t.Error(err)
	}
}

func TestOptionsThatLackSomething(t *testing.T) {
	full := vectorOptions()
	for _, c := range []struct {
		name    string
		kind    Kind
		options Options
	}{
		{"no clock", UserProfile, Options{Account: full.Account}},
		{"no account", ContactList, Options{Now: full.Now}},
		{"no group", GroupInfo, full},
		{"no such kind", Kind(99), full},
	} {
		if _, err := New(c.kind, c.options); !errors.Is(err, ErrValue) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	o := vectorObject(t, UserProfile)
	for _, err := range []error{o.Set(IntValue(1)), o.Set(Value{}, "a"), o.Erase(), o.Set(IntValue(1), make([]string, MaxDepth+1)...)} {
		if !errors.Is(err, ErrValue) {
			t.Errorf("a path or value that is none: %v", err)
		}
	}
	o.Wipe()
	if _, err := o.Push(); !errors.Is(err, ErrNoKey) {
		t.Errorf("pushed without a key: %v", err)
	}
}

func TestNothingSecretIsPrinted(t *testing.T) {
	o := vectorObject(t, UserProfile)
	Profile{o}.SetName("Ada Lovelace")
	key := Key([]byte("secret78901234567890123456789012"))
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, v := range []any{o, key, Group{Seed: key}, Picture{"u", key}, Options{Keys: []Key{key}}} {
			s := fmt.Sprintf(format, v)
			for _, secret := range []string{"secret", "736563", "115 101 99", "Lovelace", "0x73"} {
				if strings.Contains(s, secret) {
					t.Errorf("%s of %T: %s", format, v, s)
				}
			}
		}
	}
}

func TestOddRooms(t *testing.T) {
	o := vectorObject(t, UserGroups)
	g := Groups{o}
	room := Room{Server: "https://Example.org:443/", Name: "Room"}
	if err := g.PutCommunity(Community{Room: room}); err != nil {
		t.Fatal(err)
	}
	got, ok := g.FindCommunity(Room{Server: "HTTPS://EXAMPLE.ORG", Name: "rOOM"})
	if !ok || got.Name != "Room" || got.Server != "https://example.org" {
		t.Errorf("%+v, %v", got, ok)
	}
	if again, err := ParseRoom(got.URL()); err != nil || again != got.Room {
		t.Errorf("%q is read as %+v, %v", got.URL(), again, err)
	}
	for _, server := range []string{"", "https://", "https://a.b:", "https://a.b:0", "https://a.bc:+1", "https://a.b c", strings.Repeat("h", 300)} {
		if _, err := CanonicalServer(server); !errors.Is(err, ErrValue) {
			t.Errorf("%q: %v", server, err)
		}
	}
	if err := (Conversations{vectorObject(t, ConvoVolatile)}).Put(Conversation{Kind: GroupConvo, ID: account.ID{5}}); !errors.Is(err, ErrValue) {
		t.Errorf("a group with the id of a person: %v", err)
	}
}
