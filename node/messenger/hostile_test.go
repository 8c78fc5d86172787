package messenger

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// hostile is somebody who sends what they like to a session.
type hostile struct {
	t     testing.TB
	s     *session
	from  *account.Account
	count int
	batch []mailbox.Message
}

func newHostile(t testing.TB) *hostile {
	h := &hostile{t: t, s: offline(t, person(2)), from: person(1)}
	if _, _, err := h.s.archive.AddContact(h.from.ID(), ""); err != nil {
		t.Fatal(err)
	}
	return h
}

// add puts bytes into the inbox.
func (h *hostile) add(data []byte) {
	h.count++
	h.batch = append(h.batch, mailbox.Message{Hash: fmt.Sprintf("%043d", h.count), Data: data})
}

// say puts a sealed message there, with the time t0 plus its number.
func (h *hostile) say(c *sessionpb.Content) {
	h.t.Helper()
	if c.SigTimestamp == nil {
		c.SigTimestamp = proto.Uint64(uint64(1_700_000_000_000 + h.count))
	}
	data, err := wire.Seal(rand.Reader, h.from, h.s.own.ID(), c)
	if err != nil {
		h.t.Fatal(err)
	}
	h.add(data)
}

func (h *hostile) flush() {
	h.t.Helper()
	if len(h.batch) == 0 {
		return
	}
	if err := h.s.take(archive.Place{}, h.batch); err != nil {
		h.t.Fatal(err)
	}
	h.batch = nil
}

// shown is the conversation as a screen gets it.
func (h *hostile) shown() []*api.Message {
	h.t.Helper()
	list, err := h.s.archive.Messages(h.from.ID(), 0, 1000, 8<<20)
	if err != nil {
		h.t.Fatal(err)
	}
	var shown []*api.Message
	for _, m := range list {
		shown = append(shown, h.s.apiMessage(m))
	}
	return shown
}

// theGoodOne comes last, and arrives.
func (h *hostile) theGoodOne() *api.Message {
	h.t.Helper()
	h.say(wire.Text("the good one", uint64(1_800_000_000_000+h.count)))
	h.flush()
	for _, m := range h.shown() {
		if m.Text == "the good one" {
			return m
		}
	}
	h.t.Fatal("the good message did not arrive")
	return nil
}

// What comes in masses is in TestFloodsAreBounded.
func TestWhatAHostileContactSendsDoesNoHarm(t *testing.T) {
	good, err := wire.Seal(rand.Reader, person(1), person(2).ID(), wire.Text("hello", 1_700_000_000_000))
	if err != nil {
		t.Fatal(err)
	}
	deep := []byte{}
	for range 20_000 {
		deep = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), deep[:min(len(deep), 60_000)])
	}
	groups := bytes.Repeat(protowire.AppendTag(nil, 99, protowire.StartGroupType), 30_000)
	long := strings.Repeat("x", 60_000)
	text := func(body string, change func(*sessionpb.DataMessage)) *sessionpb.Content {
		c := wire.Text(body, 0)
		c.SigTimestamp = nil
		if change != nil {
			change(c.DataMessage)
		}
		return c
	}
	for _, c := range []struct {
		name string
		send func(h *hostile)
		look func(t *testing.T, h *hostile, shown []*api.Message)
	}{
		{"protobufs that are cut at every place", func(h *hostile) {
			for n := range good {
				h.add(good[:n])
			}
		}, nil},
		{"protobufs with every byte changed", func(h *hostile) {
			for n := range good {
				b := bytes.Clone(good)
				b[n] ^= 0x55
				h.add(b)
			}
		}, nil},
		{"protobufs that are nested without end", func(h *hostile) { h.add(deep); h.add(groups) }, nil},
		{"protobufs that announce more than there is", func(h *hostile) {
			h.add(append(protowire.AppendTag(nil, 2, protowire.BytesType), binary.AppendUvarint(nil, 1<<62)...))
		}, nil},
		{"a message as large as nodes take", func(h *hostile) {
			h.say(text(strings.Repeat("é", 35_000), nil))
		}, func(t *testing.T, h *hostile, shown []*api.Message) {
			if n := len([]rune(shown[0].Text)); n != maxTextIn {
				t.Errorf("%d characters are shown", n)
			}
		}},
		{"hundreds of attachments and previews", func(h *hostile) {
			h.say(text("many", func(d *sessionpb.DataMessage) {
				for range 700 {
					d.Attachments = append(d.Attachments, &sessionpb.AttachmentPointer{DeprecatedId: proto.Uint64(1), FileName: proto.String("a")})
					d.Preview = append(d.Preview, &sessionpb.DataMessage_Preview{Url: proto.String("https://x")})
				}
			}))
		}, func(t *testing.T, h *hostile, shown []*api.Message) {
			if n := len(shown[0].Attachments); n != maxAttachments {
				t.Errorf("%d attachments are shown", n)
			}
		}},
		{"names, types and titles of 60,000 bytes", func(h *hostile) {
			for _, f := range []func(*sessionpb.DataMessage){
				func(d *sessionpb.DataMessage) {
					d.Attachments = []*sessionpb.AttachmentPointer{{DeprecatedId: proto.Uint64(1), FileName: &long}}
				},
				func(d *sessionpb.DataMessage) {
					d.Attachments = []*sessionpb.AttachmentPointer{{DeprecatedId: proto.Uint64(1), ContentType: &long}}
				},
				func(d *sessionpb.DataMessage) {
					d.Attachments = []*sessionpb.AttachmentPointer{{DeprecatedId: proto.Uint64(1), Key: []byte(long), Digest: []byte("d"), Url: proto.String("http://x")}}
				},
				func(d *sessionpb.DataMessage) {
					d.Preview = []*sessionpb.DataMessage_Preview{{Url: proto.String("https://x"), Title: &long}}
				},
				func(d *sessionpb.DataMessage) {
					d.Profile = &sessionpb.LokiProfile{DisplayName: &long, LastProfileUpdateSeconds: proto.Uint64(1)}
				},
				func(d *sessionpb.DataMessage) {
					d.Profile = &sessionpb.LokiProfile{ProfilePicture: proto.String("http://" + long), LastProfileUpdateSeconds: proto.Uint64(2)}
					d.ProfileKey = make([]byte, 32)
				},
			} {
				h.say(text("a", f))
			}
		}, func(t *testing.T, h *hostile, shown []*api.Message) {
			for _, m := range shown {
				if proto.Size(m) > 2_000 {
					t.Errorf("%d bytes are shown", proto.Size(m))
				}
			}
			if c, _ := h.s.archive.Contact(h.from.ID()); len(c.Profile) > MaxName || c.PictureURL != "" {
				t.Errorf("contact %.300v", c)
			}
		}},
		{"names that turn and hide", func(h *hostile) {
			h.say(text("a", func(d *sessionpb.DataMessage) {
				d.Profile = &sessionpb.LokiProfile{DisplayName: proto.String("\u202eecila\u2066\x1b[2J\x00\r\n\u200b\ufeff Alice"), LastProfileUpdateSeconds: proto.Uint64(1)}
				d.Attachments = []*sessionpb.AttachmentPointer{{DeprecatedId: proto.Uint64(1), FileName: proto.String("../../\u202egpj.exe\x00")}}
			}))
		}, func(t *testing.T, h *hostile, shown []*api.Message) {
			c, _ := h.s.archive.Contact(h.from.ID())
			if c.Profile != "ecila[2J Alice" || shown[0].Attachments[0].Name != "gpj.exe" {
				t.Errorf("name %q, file %q", c.Profile, shown[0].Attachments[0].Name)
			}
		}},
		{"times in the year 9999 and in 1970", func(h *hostile) {
			for _, ms := range []uint64{253_370_764_800_000, 1} {
				h.say(wire.Text(fmt.Sprint("at ", ms), ms))
			}
		}, func(t *testing.T, h *hostile, shown []*api.Message) {
			for _, m := range shown {
				if m.Timestamp > h.s.clock.Now().UnixMilli() {
					t.Errorf("%q is shown at %d", m.Text, m.Timestamp)
				}
			}
		}},
		{"a quote of nothing, of nobody, of itself", func(h *hostile) {
			for i, author := range []string{h.from.ID().String(), "", "05", strings.Repeat("x", 30_000), h.s.own.ID().String()} {
				h.say(text("answer", func(d *sessionpb.DataMessage) {
					d.Quote = &sessionpb.DataMessage_Quote{Id: proto.Uint64(uint64(1_700_000_000_000 + i)), Author: proto.String(author)}
				}))
			}
		}, func(t *testing.T, h *hostile, shown []*api.Message) {
			for i, m := range shown[:5] {
				// The first one quotes its own time.
				if m.Quote == nil || m.Quote.Found != (i == 0) || m.Quote.Text != "" && i > 0 {
					t.Errorf("quote %v", m.Quote)
				}
			}
		}},
		{"timers that make no sense", func(h *hostile) {
			for _, timer := range []archive.Timer{{Type: 1, Seconds: 0}, {Type: 2, Seconds: 1<<32 - 1}, {Type: 99, Seconds: 5}} {
				c := text("timed", nil)
				setTimer(c, timer)
				h.say(c)
			}
		}, nil},
		{"unsend requests for what others wrote", func(h *hostile) {
			for _, author := range []account.ID{h.s.own.ID(), person(3).ID()} {
				h.say(unsend(author, 1_800_000_000_000+int64(h.count), 0))
			}
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostile(t)
			c.send(h)
			h.flush()
			h.theGoodOne()
			if c.look != nil {
				c.look(t, h, h.shown())
			}
			if n := h.s.archive.Waiting(); n > 0 {
				t.Errorf("%d parcels were caused", n)
			}
		})
	}
}

// An inbox is for anybody to fill. What is in front of the good message is fetched,
// found to be nothing, and forgotten, page by page.
func TestMemoryStaysFlatBehindAHugeBatchOfGarbage(t *testing.T) {
	h := newHostile(t)
	garbage := func(n int) {
		for range n {
			b := make([]byte, 8_000)
			rand.Read(b)
			h.add(b)
			if len(h.batch) == 100 { // about what one reply of a node holds
				h.flush()
			}
		}
		h.flush()
	}
	garbage(500) // the database and its caches are warm
	before := heapInUse()
	garbage(5_000)
	if grown := heapInUse() - before; grown > 8<<20 {
		t.Errorf("40 MB of garbage left %d KiB in memory", grown>>10)
	}
	h.theGoodOne()
	if n := h.s.archive.Unreadable(); n != 5_500 {
		t.Errorf("%d unreadable messages were counted", n)
	}
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The same through the network: nodes that keep as much garbage as they take.
func TestAGoodMessageComesThroughAnInboxFullOfGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		for i := range 300 {
			put(t, n, b.ID(), bytes.Repeat(fmt.Appendf(nil, "garbage %d ", i), 1500))
		}
		put(t, n, b.ID(), seal(t, a, b.ID(), wire.Text("the good one", uint64(time.Now().UnixMilli()))))
		bob, _ := start(t, n, Config{Account: b})
		bob.befriend(a.ID())
		if m := bob.next(); m.Text != "the good one" {
			t.Errorf("received %v", m)
		}
		if st := bob.now(); st.Unreadable == 0 || st.Trouble != "" {
			t.Errorf("state %v", st)
		}
	})
}

func TestAContactIsAddedByWhatAScannerReads(t *testing.T) {
	s := offline(t, person(1))
	id := person(2).ID()
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"the QR code of a Session client, and ours": {id.String(), nil},
		"a scanner that ends with a line":           {id.String() + "\r\n", nil},
		"a scanner that writes capitals":            {"  " + strings.ToUpper(id.String()), nil},
		"a recovery QR code":                        {strings.Repeat("0123456789abcdef", 2), ErrBadID},
		"a group":                                   {"03" + id.String()[2:], ErrBadID},
		"a blinded ID":                              {"15" + id.String()[2:], ErrBadID},
		"an invitation to a community":              {"https://open.example/room?public_key=" + id.String()[2:], ErrBadID},
		"a web page":                                {"https://example.org", ErrBadID},
		"nothing":                                   {"", ErrBadID},
		"a key that is none":                        {"05" + strings.Repeat("0", 64), ErrBadID},
		"a code of 4,000 characters":                {strings.Repeat("05", 2000), ErrBadID},
	} {
		got, err := s.m.AddContact(t.Context(), &api.AddContactRequest{SessionId: c.text, Name: "Bob"})
		if err != c.want || err == nil && (got.SessionId != id.String() || got.Name != "Bob") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
