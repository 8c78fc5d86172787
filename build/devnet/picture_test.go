package devnet_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/attachment"
	"hearth/node/messenger"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

func onePicture(t testing.TB, c color.Color, w, h int) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.Set(x, y, c)
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// looks decodes a picture and gives what its middle is like.
func looks(t testing.TB, reply *api.PictureReply) (size image.Point, red, blue uint32) {
	t.Helper()
	m, err := jpeg.Decode(bytes.NewReader(reply.Jpeg))
	if err != nil {
		t.Fatal(err)
	}
	size = m.Bounds().Size()
	red, _, blue, _ = m.At(size.X/2, size.Y/2).RGBA()
	return size, red, blue
}

func TestAPictureGoesOutWithMessagesAndIsFetchedFromContactsOnly(t *testing.T) {
	n := messengerNetwork(t)
	file := filepath.Join(t.TempDir(), "alice.db")
	alice := talk(t, n, 1, func(c *messenger.Config) { c.DisplayName, c.DBPath = "Alice", file })
	bobFile := filepath.Join(t.TempDir(), "bob.db")
	bob := talk(t, n, 2, func(c *messenger.Config) { c.DBPath = bobFile })
	ctx := t.Context()
	if _, err := alice.Picture(ctx, &api.WhoRequest{Who: alice.id}); !errors.Is(err, messenger.ErrNoPicture) {
		t.Errorf("without one: %v", err)
	}
	for name, given := range map[string][]byte{"a text": []byte("hello"), "half a JPEG": onePicture(t, color.Black, 9, 9)[:80]} {
		if _, err := alice.SetPictureFrom(ctx, bytes.NewReader(given)); !errors.Is(err, messenger.ErrNoPreview) {
			t.Errorf("%s: %v", name, err)
		}
	}
	red := color.RGBA{R: 255, A: 255}
	st, err := alice.SetPictureFrom(ctx, bytes.NewReader(onePicture(t, red, 1200, 800)))
	if err != nil || !st.Picture || st.DisplayName != "Alice" {
		t.Fatalf("%v, %v", st, err)
	}
	own, err := alice.Picture(ctx, &api.WhoRequest{Who: alice.id})
	if err != nil {
		t.Fatal(err)
	}
	if size, r, b := looks(t, own); size != image.Pt(200, 133) || r < 0xf000 || b > 0x1000 {
		t.Errorf("the own picture: %v, red %x, blue %x", size, r, b)
	}

	// A stranger's is not fetched, an approved contact's is, and only when asked for.
	alice.says(bob, "may I?")
	bob.await("the request", func(e *api.Event) bool { return e.GetRequest() != nil })
	if _, err := bob.Picture(ctx, &api.WhoRequest{Who: alice.id}); !errors.Is(err, messenger.ErrStranger) {
		t.Errorf("a stranger's: %v", err)
	}
	c, err := bob.Accept(ctx, &api.WhoRequest{Who: alice.id})
	if err != nil || !c.Picture || c.ProfileName != "Alice" {
		t.Fatalf("%v, %v", c, err)
	}
	got, err := bob.Picture(ctx, &api.WhoRequest{Who: alice.id})
	if err != nil {
		t.Fatal(err)
	}
	if size, r, b := looks(t, got); size != image.Pt(200, 133) || r < 0xf000 || b > 0x1000 {
		t.Errorf("her picture: %v, red %x, blue %x", size, r, b)
	}
	// From the disk, when nobody can be asked.
	bob.stop()
	alone := talk(t, n, 2, func(c *messenger.Config) {
		c.DBPath, c.Seeds = bobFile, nil
		c.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network") }
	})
	if again, err := alone.Picture(ctx, &api.WhoRequest{Who: alice.id}); err != nil || !bytes.Equal(again.Jpeg, got.Jpeg) {
		t.Errorf("once more: %v", err)
	}
	alone.stop()
	bob = talk(t, n, 2, func(c *messenger.Config) { c.DBPath = bobFile })

	// Another one, a restart later.
	alice.stop()
	alice = talk(t, n, 1, func(c *messenger.Config) { c.DBPath = file })
	if st, err := alice.Settings(ctx, &api.SettingsRequest{}); err != nil || !st.Picture {
		t.Errorf("after a restart: %v, %v", st, err)
	}
	if _, err := alice.SetPictureFrom(ctx, bytes.NewReader(onePicture(t, color.RGBA{B: 255, A: 255}, 50, 50))); err != nil {
		t.Fatal(err)
	}
	alice.says(bob, "look")
	bob.hears(alice, "look")
	if got, err = bob.Picture(ctx, &api.WhoRequest{Who: alice.id}); err != nil {
		t.Fatal(err)
	}
	if size, r, b := looks(t, got); size != image.Pt(50, 50) || r > 0x1000 || b < 0xf000 {
		t.Errorf("her new picture: %v, red %x, blue %x", size, r, b)
	}
	// And none any more.
	if st, err := alice.SetPictureFrom(ctx, bytes.NewReader(nil)); err != nil || st.Picture {
		t.Errorf("taken away: %v, %v", st, err)
	}
	alice.says(bob, "gone")
	bob.hears(alice, "gone")
	if _, err := bob.Picture(ctx, &api.WhoRequest{Who: alice.id}); !errors.Is(err, messenger.ErrNoPicture) {
		t.Errorf("when it is gone: %v", err)
	}
}

func TestPicturesOfOtherClientsAndOfLiars(t *testing.T) {
	n := messengerNetwork(t)
	friend := account.New(account.Seed{7})
	bob := talk(t, n, 2, nil)
	to := account.New(account.Seed{2}).ID()
	if _, err := bob.AddContact(t.Context(), &api.AddContactRequest{SessionId: friend.ID().String()}); err != nil {
		t.Fatal(err)
	}
	plain := onePicture(t, color.RGBA{R: 255, A: 255}, 300, 300)
	key, classic, err := attachment.EncryptPicture(new(countingReader), plain)
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	newer, err := attachment.EncryptDeterministic(&stream, bytes.NewReader(plain), int64(len(plain)), [32]byte{1}, attachment.ProfilePicture)
	if err != nil {
		t.Fatal(err)
	}
	_, text, err := attachment.EncryptPicture(new(countingReader), []byte("this is no picture"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{classic, stream.Bytes(), text} {
		upload(t, n, b)
	}
	at := func(b []byte, stream bool) string { return attachment.NodeURL(attachment.IDOf(b), stream).Text() }
	for i, c := range []struct {
		name, url string
		key       []byte
		want      error
	}{
		{"the classic encryption", at(classic, false), key, nil},
		{"a deterministic stream", at(stream.Bytes(), true), newer.Key, nil},
		{"another key", at(classic, false), make([]byte, 32), messenger.ErrForged},
		{"a key of another size", at(classic, false), make([]byte, 64), messenger.ErrNoPicture},
		{"no picture at all", at(text, false), key, messenger.ErrNoPreview},
		{"nowhere", at([]byte("x"), false), key, messenger.ErrFileGone},
		{"another host", strings.Replace(at(classic, false), attachment.Host, "tracker.example", 1), key, messenger.ErrFileURL},
		{"an address of 50,000 bytes", "http://" + strings.Repeat("x", 50_000), key, messenger.ErrNoPicture},
	} {
		t.Run(c.name, func(t *testing.T) {
			content := wire.Text("hello", 0)
			content.DataMessage.Profile = &sessionpb.LokiProfile{DisplayName: proto.String("F"), ProfilePicture: proto.String(c.url),
				LastProfileUpdateSeconds: proto.Uint64(uint64(1_700_000_000 + i))}
			content.DataMessage.ProfileKey = c.key
			leaveContent(t, n, friend, to, content)
			bob.await("it", func(e *api.Event) bool { return e.GetReceived() != nil })
			got, err := bob.Picture(context.Background(), &api.WhoRequest{Who: friend.ID().String()})
			if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), hex.EncodeToString(c.key)) || len(err.Error()) > 300) {
				t.Errorf("the error says too much: %v", err)
			}
			if err == nil {
				if size, r, _ := looks(t, got); size != image.Pt(200, 200) || r < 0xf000 {
					t.Errorf("%v, red %x", size, r)
				}
			}
		})
	}
}

// countingReader gives 0, 1, 2, and so on.
type countingReader byte

func (c *countingReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(*c)
		*c++
	}
	return len(p), nil
}
