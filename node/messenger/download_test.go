package messenger

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/attachment"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/onion"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// shop is a file server with one file, and the ranges that it was asked for.
type shop struct {
	t       testing.TB
	content []byte
	// answer is the server; it begins as one that knows ranges.
	answer func(r *onion.V4Request) onion.V4Response

	mu    sync.Mutex
	asked []string
}

func newShop(t testing.TB, n *swarmtest.Network, content []byte) *shop {
	s := &shop{t: t, content: content}
	s.answer = s.ranges
	n.Web(func(ctx context.Context, to *onion.Server) (int, []byte) {
		layer, err := onion.ParseServerPost(to.Post)
		if err != nil {
			return 400, nil
		}
		payload, err := layer.OpenServer(attachment.Nodes())
		if err != nil {
			return 400, nil
		}
		r, err := onion.DecodeV4Request(payload)
		if err != nil {
			return 400, nil
		}
		s.mu.Lock()
		s.asked = append(s.asked, r.Headers["range"])
		answer := s.answer
		s.mu.Unlock()
		reply, err := layer.SealV4Reply(rand.Reader, attachment.Nodes(), answer(r))
		if err != nil {
			t.Error(err)
		}
		return 200, reply
	})
	return s
}

// set exchanges the server, and gives what the former one was asked for.
func (s *shop) set(answer func(r *onion.V4Request) onion.V4Response) (asked []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
	asked, s.asked = s.asked, nil
	return asked
}

func part(content []byte, from, to, total int64) onion.V4Response {
	return onion.V4Response{Code: http.StatusPartialContent, Body: content,
		Headers: map[string]string{"content-range": fmt.Sprintf("bytes %d-%d/%d", from, to, total)}}
}

func (s *shop) ranges(r *onion.V4Request) onion.V4Response {
	var from, to int64
	if _, err := fmt.Sscanf(r.Headers["range"], "bytes=%d-%d", &from, &to); err != nil {
		return onion.V4Response{Code: 200, Body: s.content}
	}
	size := int64(len(s.content))
	if from >= size {
		return onion.V4Response{Code: http.StatusRequestedRangeNotSatisfiable}
	}
	to = min(to, size-1)
	return part(s.content[from:to+1], from, to, size)
}

// hand lets a friend send a file that lies on the server.
func hand(t *testing.T, n *swarmtest.Network, bob *running, a, b *account.Account, plain []byte) (*shop, *api.FetchFileRequest) {
	t.Helper()
	var upload bytes.Buffer
	secret, err := attachment.Encrypt(rand.Reader, &upload, bytes.NewReader(plain), int64(len(plain)), true)
	if err != nil {
		t.Fatal(err)
	}
	server := newShop(t, n, upload.Bytes())
	content := wire.Text("a file", uint64(time.Now().UnixMilli()))
	content.DataMessage.Attachments = []*sessionpb.AttachmentPointer{{DeprecatedId: proto.Uint64(0), Key: secret.Key, Digest: secret.Digest,
		Size: proto.Uint32(uint32(len(plain))), Url: proto.String(attachment.NodeURL(attachment.IDOf(upload.Bytes()), false).Text())}}
	put(t, n, b.ID(), seal(t, a, b.ID(), content))
	m := bob.received()
	return server, &api.FetchFileRequest{With: a.ID().String(), Id: m.Id}
}

func fetched(bob *running, req *api.FetchFileRequest) (plain []byte, progress []*api.Transfer, err error) {
	var b bytes.Buffer
	err = bob.FetchFileTo(context.Background(), req, &b, func(t *api.Transfer) error { progress = append(progress, t); return nil })
	return b.Bytes(), progress, err
}

func someBytes(n int) []byte {
	b := make([]byte, n)
	r := mathrand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

func TestWhoeverSentAFileHearsThatItWasSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := twoPolling(t, n, time.Second)
		time.Sleep(time.Minute)
		_, req := hand(t, n, bob, a, b, someBytes(1000))
		told := func() (lines int) {
			time.Sleep(time.Minute)
			for _, m := range alice.lines(b.ID()) {
				if m.Kind == api.Message_MEDIA_SAVED && m.Text == "saved an attachment" && !m.Outgoing {
					lines++
				}
			}
			return lines
		}
		if _, _, err := fetched(bob, req); err != nil || told() != 0 {
			t.Errorf("looking at it tells of it: %v", err)
		}
		req.Save = true
		if _, _, err := fetched(bob, req); err != nil || told() != 1 {
			t.Errorf("saving it does not tell of it: %v", err)
		}
		// Nobody hears of what the owner does with files of their own.
		other, _ := start(t, n, Config{Account: b, PollInterval: time.Second})
		time.Sleep(time.Minute)
		for _, m := range other.lines(a.ID()) {
			if m.Kind == api.Message_MEDIA_SAVED {
				t.Errorf("the owner's other device has the line %v", m)
			}
		}
	})
}

func TestWhatToDoWithAPictureThatCannotBeCleanedIsSaid(t *testing.T) {
	m := still(t, person(1))
	heic := "\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic...."
	_, err := m.SendFileFrom(t.Context(), &api.FileHead{To: person(2).ID().String(), Name: "a.heic"}, strings.NewReader(heic))
	if !errors.Is(err, ErrPictureKind) || !strings.Contains(err.Error(), "convert it to JPEG") {
		t.Error(err)
	}
}

func TestADownloadGoesOnWhereItBrokeOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		file := filepath.Join(t.TempDir(), "bob.db")
		bob, stop := start(t, n, Config{Account: b, DBPath: file})
		bob.befriend(a.ID())
		plain := someBytes(3_300_000) // four chunks
		server, req := hand(t, n, bob, a, b, plain)

		// The server goes away after two chunks.
		served := 0
		server.set(func(r *onion.V4Request) onion.V4Response {
			if served++; served > 2 {
				return onion.V4Response{Code: 503}
			}
			return server.ranges(r)
		})
		_, progress, err := fetched(bob, req)
		if !errors.Is(err, ErrFetch) {
			t.Fatalf("error %v", err)
		}
		last := progress[len(progress)-1]
		if last.Done < 2*chunkSize || last.Total != uint64(len(server.content)) {
			t.Errorf("progress %v of %d bytes", last, len(server.content))
		}
		if !slices.IsSortedFunc(progress, func(x, y *api.Transfer) int { return int(x.Done) - int(y.Done) }) {
			t.Errorf("progress goes back: %v", progress)
		}
		if bob.lines(a.ID())[0].Attachments[0].Kept {
			t.Error("half a file counts as kept")
		}

		// The device is switched off and on; only the rest is asked for.
		stop()
		bob, _ = start(t, n, Config{Account: b, DBPath: file})
		server.set(server.ranges)
		got, progress, err := fetched(bob, req)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		want := []string{fmt.Sprintf("bytes=%d-%d", 2*chunkSize, 3*chunkSize-1), fmt.Sprintf("bytes=%d-%d", 3*chunkSize, 4*chunkSize-1)}
		if asked := server.set(nil); !slices.Equal(asked, want) {
			t.Errorf("asked for %q, want %q", asked, want)
		}
		if progress[0].Done < 2*chunkSize {
			t.Errorf("progress began at %v", progress[0])
		}
		if got, _, err := fetched(bob, req); err != nil || !bytes.Equal(got, plain) { // from the disk
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestADownloadThatGetsOneChunkAtATimeIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		a, b := person(1), person(2)
		bob, _ := start(t, n, Config{Account: b})
		bob.befriend(a.ID())
		plain := someBytes(5_000_000)
		server, req := hand(t, n, bob, a, b, plain)
		served := 0
		server.set(func(r *onion.V4Request) onion.V4Response {
			if served++; served%3 != 0 {
				return onion.V4Response{Code: 500}
			}
			return server.ranges(r)
		})
		if got, _, err := fetched(bob, req); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestServersThatAnswerARangeInTheirOwnWay(t *testing.T) {
	always := func(f func(s *shop, r *onion.V4Request, count int) onion.V4Response) func(*shop) func(*onion.V4Request) onion.V4Response {
		return func(s *shop) func(*onion.V4Request) onion.V4Response {
			count := 0
			return func(r *onion.V4Request) onion.V4Response { count++; return f(s, r, count) }
		}
	}
	for _, c := range []struct {
		name   string
		answer func(*shop) func(*onion.V4Request) onion.V4Response
		want   error
	}{
		{"it knows no ranges", always(func(s *shop, _ *onion.V4Request, _ int) onion.V4Response {
			return onion.V4Response{Code: 200, Body: s.content}
		}), nil},
		{"it knows no ends of ranges", always(func(s *shop, r *onion.V4Request, _ int) onion.V4Response {
			var from int
			fmt.Sscanf(r.Headers["range"], "bytes=%d-", &from)
			return part(s.content[from:], int64(from), int64(len(s.content))-1, int64(len(s.content)))
		}), nil},
		{"it gives less than is asked for", always(func(s *shop, r *onion.V4Request, _ int) onion.V4Response {
			var from int
			fmt.Sscanf(r.Headers["range"], "bytes=%d-", &from)
			to := min(from+700_000, len(s.content))
			return part(s.content[from:to], int64(from), int64(to)-1, int64(len(s.content)))
		}), nil},
		{"one chunk is forged", always(func(s *shop, r *onion.V4Request, count int) onion.V4Response {
			answer := s.ranges(r)
			if count == 2 {
				answer.Body = bytes.Repeat([]byte("x"), len(answer.Body))
			}
			return answer
		}), nil},
		{"it changes its mind about the size", always(func(s *shop, r *onion.V4Request, count int) onion.V4Response {
			answer := s.ranges(r)
			if count == 2 {
				answer.Headers["content-range"] = strings.Replace(answer.Headers["content-range"], "/2", "/3", 1)
			}
			return answer
		}), nil},
		{"it says that the range is beyond the end", always(func(s *shop, r *onion.V4Request, count int) onion.V4Response {
			if count == 2 {
				return onion.V4Response{Code: http.StatusRequestedRangeNotSatisfiable}
			}
			return s.ranges(r)
		}), nil},
		{"everything is forged", always(func(s *shop, r *onion.V4Request, _ int) onion.V4Response {
			return part(make([]byte, 1000), 0, 999, 1000)
		}), ErrFetch},
		{"it has no end", always(func(s *shop, r *onion.V4Request, _ int) onion.V4Response {
			var from int64
			fmt.Sscanf(r.Headers["range"], "bytes=%d-", &from)
			return part(make([]byte, chunkSize), from, from+chunkSize-1, 1<<39)
		}), ErrFetch},
		{"it sends nothing at all", always(func(*shop, *onion.V4Request, int) onion.V4Response {
			return onion.V4Response{Code: 206, Headers: map[string]string{"content-range": "bytes 0-0/1"}}
		}), ErrFetch},
		{"it gives an empty whole", always(func(*shop, *onion.V4Request, int) onion.V4Response { return onion.V4Response{Code: 200} }), ErrForged},
		{"it gives it without saying which part it is", always(func(s *shop, r *onion.V4Request, _ int) onion.V4Response {
			return onion.V4Response{Code: 206, Body: s.content}
		}), ErrFetch},
		{"it has lost it", always(func(s *shop, r *onion.V4Request, count int) onion.V4Response {
			if count > 1 {
				return onion.V4Response{Code: 404}
			}
			return s.ranges(r)
		}), ErrFileGone},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := swarmtest.New(t, 9, time.Now)
				a, b := person(1), person(2)
				bob, _ := start(t, n, Config{Account: b})
				bob.befriend(a.ID())
				plain := someBytes(2_100_000)
				server, req := hand(t, n, bob, a, b, plain)
				server.set(c.answer(server))
				got, _, err := fetched(bob, req)
				if c.want == nil && (err != nil || !bytes.Equal(got, plain)) || c.want != nil && (!errors.Is(err, c.want) || len(got) > 0) {
					t.Fatalf("%d bytes, %v, want %v", len(got), err, c.want)
				}
				if asked := server.set(server.ranges); len(asked) > 12 {
					t.Errorf("it was asked %d times", len(asked))
				}
				// Whatever is left of it does no harm to a better server.
				if got, _, err = fetched(bob, req); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("afterwards %d bytes, %v", len(got), err)
				}
			})
		})
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-99/1000", int64(100))
	f.Add("bytes 18446744073709551615-0/1", int64(1))
	f.Add("bytes */10", int64(0))
	f.Fuzz(func(t *testing.T, text string, size int64) {
		first, total, ok := contentRange(text, size)
		if ok && (first < 0 || size <= 0 || first+size > total) {
			t.Errorf("%q of %d bytes: from %d of %d", text, size, first, total)
		}
	})
}
