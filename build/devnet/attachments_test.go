package devnet_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/build/devnet"
	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/attachment"
	"hearth/node/messenger"
	"hearth/node/onion"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

func (w *talker) sendsFile(to *talker, head *api.FileHead, content []byte) *api.SendReply {
	w.t.Helper()
	head.To = to.id
	reply, err := w.SendFileFrom(context.Background(), head, bytes.NewReader(content))
	if err != nil {
		w.t.Fatalf("sending %v: %v", head, err)
	}
	return reply
}

// getsFile waits for a message with a file.
func (w *talker) getsFile(from *talker) *api.Message {
	w.t.Helper()
	return w.await("a file", func(e *api.Event) bool {
		return len(e.GetReceived().GetAttachments()) > 0 && e.GetReceived().SessionId == from.id
	}).GetReceived()
}

func (w *talker) fetch(req *api.FetchFileRequest) ([]byte, error) {
	var b bytes.Buffer
	err := w.FetchFileTo(context.Background(), req, &b, nil)
	return b.Bytes(), err
}

func random(t testing.TB, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	rand.Read(b)
	return b
}

func acquainted(t testing.TB, n *devnet.Network, change func(*messenger.Config)) (alice, bob *talker) {
	t.Helper()
	alice, bob = talk(t, n, 1, change), talk(t, n, 2, nil)
	alice.knows(bob)
	bob.knows(alice)
	return alice, bob
}

func TestFilesGoBothWays(t *testing.T) {
	n := messengerNetwork(t)
	alice, bob := acquainted(t, n, nil)
	largest := random(t, attachment.MaxSize)
	for _, c := range []struct {
		name     string
		from, to *talker
		head     *api.FileHead
		content  []byte
		want     *api.Attachment
		text     string
	}{
		{"the largest file", alice, bob, &api.FileHead{Name: "/home/alice/large.bin", Type: "application/x-own"}, largest,
			&api.Attachment{Name: "large.bin", Type: "application/x-own", Size: attachment.MaxSize}, "[attachment]"},
		{"a text with words, the other way", bob, alice, &api.FileHead{Name: "notes.txt", Text: "read this"}, []byte("just a note"),
			&api.Attachment{Name: "notes.txt", Type: "text/plain", Size: 11}, "read this"},
		{"a voice message", alice, bob, &api.FileHead{Name: "session-audio-message", Type: "audio/mp3", Voice: true}, random(t, 30_000),
			&api.Attachment{Name: "session-audio-message", Type: "audio/mp3", Size: 30_000, Voice: true}, "[attachment]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.from.sendsFile(c.to, c.head, c.content)
			got := c.to.getsFile(c.from)
			if len(got.Attachments) != 1 || !proto.Equal(got.Attachments[0], c.want) || got.Text != c.text {
				t.Errorf("received %v", got)
			}
			var b bytes.Buffer
			var last *api.Transfer
			err := c.to.FetchFileTo(t.Context(), &api.FetchFileRequest{With: c.from.id, Id: got.Id}, &b, func(p *api.Transfer) error {
				if b.Len() > 0 {
					t.Error("bytes came before the whole file was checked")
				}
				last = p
				return nil
			})
			if err != nil || !bytes.Equal(b.Bytes(), c.content) {
				t.Errorf("%d bytes, %v", b.Len(), err)
			}
			if last.GetUpload() || last.GetDone() < uint64(len(c.content)) || last.GetId() != got.Id {
				t.Errorf("last progress %v", last)
			}
			// The second time nobody is asked.
			m := c.to.lines(c.from)
			if kept := m[len(m)-1].Attachments[0].Kept; !kept {
				t.Error("it is not kept")
			}
			asked := false
			b.Reset()
			err = c.to.FetchFileTo(t.Context(), &api.FetchFileRequest{With: c.from.id, Id: got.Id}, &b, func(*api.Transfer) error { asked = true; return nil })
			if err != nil || asked || !bytes.Equal(b.Bytes(), c.content) {
				t.Errorf("again: %d bytes, asked %v, %v", b.Len(), asked, err)
			}
		})
	}
	for _, w := range []*talker{alice, bob} {
		if guards := w.nodes(n); len(guards) > 2 {
			t.Errorf("connected to %v", guards)
		}
	}
}

func TestAPictureTellsNothingButItself(t *testing.T) {
	n := messengerNetwork(t)
	alice, bob := acquainted(t, n, nil)
	var b bytes.Buffer
	if err := jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, 600, 300)), nil); err != nil {
		t.Fatal(err)
	}
	// Exif of a camera that lay on its side.
	exif := "Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00at home"
	file := slices.Concat(b.Bytes()[:2], []byte{0xff, 0xe1, 0, byte(len(exif) + 2)}, []byte(exif), b.Bytes()[2:])
	alice.sendsFile(bob, &api.FileHead{Name: "p.jpg"}, file)
	got := bob.getsFile(alice)
	if a := got.Attachments[0]; a.Width != 300 || a.Height != 600 || a.Type != "image/jpeg" {
		t.Errorf("received %v", a)
	}
	plain, err := bob.fetch(&api.FetchFileRequest{With: alice.id, Id: got.Id})
	if err != nil || bytes.Contains(plain, []byte("at home")) || !bytes.Contains(plain, []byte("Exif")) {
		t.Errorf("%d bytes with what nobody should know, %v", len(plain), err)
	}
	small, err := bob.fetch(&api.FetchFileRequest{With: alice.id, Id: got.Id, Preview: true})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := jpeg.DecodeConfig(bytes.NewReader(small)); err != nil || c.Width != 120 || c.Height != 240 {
		t.Errorf("preview %v, %v", c, err)
	}
	if _, err := alice.SendFileFrom(t.Context(), &api.FileHead{To: bob.id}, bytes.NewReader(file[:len(file)-2])); !errors.Is(err, messenger.ErrPicture) {
		t.Errorf("sending half a picture: %v", err)
	}
	for name, c := range map[string]struct {
		size int
		want error
	}{"nothing": {0, messenger.ErrFileEmpty}, "too much": {attachment.MaxSize + 1, messenger.ErrFileSize}} {
		if _, err := alice.SendFileFrom(t.Context(), &api.FileHead{To: bob.id}, bytes.NewReader(make([]byte, c.size))); !errors.Is(err, c.want) {
			t.Errorf("sending %s: %v", name, err)
		}
	}
}

// cutConn breaks the line after so many bytes, for ever.
type cutConn struct {
	net.Conn
	left *atomic.Int64
}

func (c cutConn) Write(b []byte) (int, error) {
	if c.left.Add(-int64(len(b))) < 0 {
		c.Close()
		return 0, errors.New("the line is cut")
	}
	return c.Conn.Write(b)
}

func TestAPowerCutDuringAnUploadLosesNothing(t *testing.T) {
	n := messengerNetwork(t)
	file := filepath.Join(t.TempDir(), "alice.db")
	var line atomic.Int64
	line.Store(1 << 40)
	alice, bob := acquainted(t, n, func(c *messenger.Config) {
		c.DBPath = file
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return cutConn{conn, &line}, err
		}
	})
	alice.says(bob, "a file follows")
	bob.hears(alice, "a file follows")

	content := random(t, 3_000_000)
	line.Store(1_500_000) // about the middle of the upload
	ctx, cancel := context.WithCancel(t.Context())
	sending := make(chan error, 1)
	go func() {
		_, err := alice.SendFileFrom(ctx, &api.FileHead{To: bob.id, Name: "f"}, bytes.NewReader(content))
		sending <- err
	}()
	alice.await("progress", func(e *api.Event) bool { return e.GetTransfer().GetUpload() && e.GetTransfer().Done > 500_000 })
	cancel()
	<-sending
	alice.stop()
	alice = talk(t, n, 1, func(c *messenger.Config) { c.DBPath = file })
	got := bob.getsFile(alice)
	plain, err := bob.fetch(&api.FetchFileRequest{With: alice.id, Id: got.Id})
	if err != nil || !bytes.Equal(plain, content) {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
	count := 0
	for _, m := range bob.lines(alice) {
		count += len(m.Attachments)
	}
	if count != 1 {
		t.Errorf("%d files arrived", count)
	}
	// The sender still has it.
	for _, m := range alice.lines(bob) {
		if len(m.Attachments) == 0 {
			continue
		}
		if own, err := alice.fetch(&api.FetchFileRequest{With: bob.id, Id: m.Id}); err != nil || !bytes.Equal(own, content) || !m.Attachments[0].Kept {
			t.Errorf("the sender's own: %d bytes, %v", len(own), err)
		}
	}
}

// upload brings bytes to the file service as any client would.
func upload(t testing.TB, n *devnet.Network, content []byte) {
	t.Helper()
	nodes := n.List().Nodes
	var path []onion.Hop
	for _, hop := range nodes[:3] {
		path = append(path, onion.Hop{Ed25519: hop.Ed25519, X25519: hop.X25519})
	}
	to, err := attachment.NodeURL(attachment.IDOf(content), false).WebServer()
	if err != nil {
		t.Fatal(err)
	}
	req, err := onion.BuildServer(rand.Reader, path, to, onion.V4Request{Method: "POST", Endpoint: "/file", Body: content}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	sealed := post(t, "https://"+nodes[0].Address.String()+"/onion_req/v2", req.Body)
	answer, err := req.OpenServerReply(sealed)
	if err != nil || answer.Code != 200 {
		t.Fatalf("uploading: %v, %v", answer, err)
	}
}

func post(t testing.TB, url string, body []byte) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %.100q, %v", resp.StatusCode, answer, err)
	}
	return answer
}

// leave puts a message with a file into somebody's inbox.
func leave(t testing.TB, n *devnet.Network, from *account.Account, to account.ID, pointer *sessionpb.AttachmentPointer) {
	t.Helper()
	content := wire.Text("a file", 0)
	content.DataMessage.Attachments = []*sessionpb.AttachmentPointer{pointer}
	leaveContent(t, n, from, to, content)
}

// leaveContent puts a message into somebody's inbox.
func leaveContent(t testing.TB, n *devnet.Network, from *account.Account, to account.ID, content *sessionpb.Content) {
	t.Helper()
	now := time.Now().UnixMilli()
	content.SigTimestamp = proto.Uint64(uint64(now))
	data, err := wire.Seal(rand.Reader, from, to, content)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"method": "store", "params": map[string]any{
		"pubkey": to.String(), "timestamp": now, "ttl": 600_000, "data": base64.StdEncoding.EncodeToString(data)}})
	if err != nil {
		t.Fatal(err)
	}
	_, members := n.List().Of(to)
	post(t, "https://"+members[0].Address.String()+"/storage_rpc/v1", body)
}

func TestFilesOfOtherClientsAndOfLiars(t *testing.T) {
	n := messengerNetwork(t)
	friend, stranger := account.New(account.Seed{7}), account.New(account.Seed{8})
	bob := talk(t, n, 2, nil)
	to := account.New(account.Seed{2}).ID()
	if _, err := bob.AddContact(t.Context(), &api.AddContactRequest{SessionId: friend.ID().String()}); err != nil {
		t.Fatal(err)
	}
	plain := random(t, 100_000)
	var classic, stream bytes.Buffer
	secret, err := attachment.Encrypt(rand.Reader, &classic, bytes.NewReader(plain), int64(len(plain)), true)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := attachment.EncryptDeterministic(&stream, bytes.NewReader(plain), int64(len(plain)), [32]byte{1}, attachment.File)
	if err != nil {
		t.Fatal(err)
	}
	upload(t, n, classic.Bytes())
	upload(t, n, stream.Bytes())
	pointer := func(change func(*sessionpb.AttachmentPointer)) *sessionpb.AttachmentPointer {
		p := &sessionpb.AttachmentPointer{DeprecatedId: proto.Uint64(0), Key: secret.Key, Digest: secret.Digest, Size: proto.Uint32(uint32(len(plain))),
			Url: proto.String(attachment.NodeURL(attachment.IDOf(classic.Bytes()), false).Text()), FileName: proto.String("f")}
		change(p)
		return p
	}
	for _, c := range []struct {
		name string
		from *account.Account
		file *sessionpb.AttachmentPointer
		want error
	}{
		{"a deterministic stream", friend, pointer(func(p *sessionpb.AttachmentPointer) {
			p.Key, p.Digest = newer.Key, nil
			p.Url = proto.String(attachment.NodeURL(attachment.IDOf(stream.Bytes()), true).Text())
		}), nil},
		{"another digest", friend, pointer(func(p *sessionpb.AttachmentPointer) { p.Digest = make([]byte, 32) }), messenger.ErrForged},
		{"another key", friend, pointer(func(p *sessionpb.AttachmentPointer) { p.Key = make([]byte, 64) }), messenger.ErrForged},
		{"a size that lies", friend, pointer(func(p *sessionpb.AttachmentPointer) { p.Size = proto.Uint32(4_000_000_000) }), messenger.ErrForged},
		{"a file that is not there", friend, pointer(func(p *sessionpb.AttachmentPointer) {
			p.Url = proto.String(attachment.NodeURL(attachment.ID{1}, false).Text())
		}), messenger.ErrFileGone},
		{"another host", friend, pointer(func(p *sessionpb.AttachmentPointer) {
			p.Url = proto.String(strings.Replace(p.GetUrl(), attachment.Host, "tracker.example", 1))
		}), messenger.ErrFileURL},
		{"no address", friend, pointer(func(p *sessionpb.AttachmentPointer) { p.Url = nil }), messenger.ErrFileURL},
		{"a stranger's", stranger, pointer(func(*sessionpb.AttachmentPointer) {}), messenger.ErrStranger},
		{"a classic file", friend, pointer(func(*sessionpb.AttachmentPointer) {}), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			leave(t, n, c.from, to, c.file)
			e := bob.await("it", func(e *api.Event) bool {
				return len(e.GetReceived().GetAttachments())+len(e.GetRequest().GetAttachments()) > 0
			})
			m := e.GetReceived()
			if m == nil {
				m = e.GetRequest()
			}
			if m.Attachments[0].Kept && c.want != nil {
				t.Error("it was fetched without being asked for")
			}
			got, err := bob.fetch(&api.FetchFileRequest{With: m.SessionId, Id: m.Id})
			if c.want == nil && (err != nil || !bytes.Equal(got, plain)) || c.want != nil && (!errors.Is(err, c.want) || len(got) > 0) {
				t.Errorf("%d bytes, %v, want %v", len(got), err, c.want)
			}
			if _, err := bob.fetch(&api.FetchFileRequest{With: m.SessionId, Id: m.Id, File: 1}); !errors.Is(err, messenger.ErrNoFile) {
				t.Errorf("its second file: %v", err)
			}
		})
	}
}

func TestAFileThatFindsNoRoomHoldsUpNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, err := devnet.Start(ctx, devnet.Config{Dir: t.TempDir(), Files: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	alice, bob := acquainted(t, n, nil)
	sending := make(chan error, 1)
	go func() {
		_, err := alice.SendFileFrom(ctx, &api.FileHead{To: bob.id, Name: "f"}, bytes.NewReader(random(t, 1000)))
		sending <- err
	}()
	waiting := alice.await("the message", func(e *api.Event) bool { return len(e.GetSent().GetAttachments()) > 0 }).GetSent()
	alice.says(bob, "ahead of it")
	bob.hears(alice, "ahead of it")
	if _, err := alice.Unsend(ctx, &api.UnsendRequest{With: bob.id, Id: waiting.Id}); err != nil {
		t.Fatal(err)
	}
	if err := <-sending; err == nil {
		t.Error("it was sent")
	}
	alice.await("the empty outbox", func(e *api.Event) bool { return e.GetState() != nil && e.GetState().Waiting == 0 })
	for _, m := range bob.lines(alice) {
		if len(m.Attachments) > 0 {
			t.Errorf("it arrived: %v", m)
		}
	}
}

func TestFilesGoOverTheSocket(t *testing.T) {
	n := messengerNetwork(t)
	alice, bob := acquainted(t, n, nil)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	server := api.NewServer()
	api.RegisterMessengerServer(server, alice)
	go server.Serve(listener)
	defer server.Stop()
	conn, err := api.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := api.NewMessengerClient(conn)

	content := random(t, 300_000)
	send := func(parts ...*api.SendFileRequest) (*api.SendReply, error) {
		stream, err := client.SendFile(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			if stream.Send(p) != nil {
				break // the reason comes with the reply
			}
		}
		return stream.CloseAndRecv()
	}
	head := &api.SendFileRequest{Part: &api.SendFileRequest_Head{Head: &api.FileHead{To: bob.id, Name: "f"}}}
	data := func(b []byte) *api.SendFileRequest {
		return &api.SendFileRequest{Part: &api.SendFileRequest_Data{Data: b}}
	}
	reply, err := send(head, data(content[:100_000]), data(content[100_000:]))
	if err != nil || reply.State != api.Message_STORED {
		t.Fatalf("%v, %v", reply, err)
	}
	got := bob.getsFile(alice)
	if plain, err := bob.fetch(&api.FetchFileRequest{With: alice.id, Id: got.Id}); err != nil || !bytes.Equal(plain, content) {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
	stream, err := client.FetchFile(t.Context(), &api.FetchFileRequest{With: bob.id, Id: reply.Id})
	if err != nil {
		t.Fatal(err)
	}
	var own []byte
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		own = append(own, r.GetData()...)
	}
	if !bytes.Equal(own, content) {
		t.Errorf("the sender's own: %d bytes", len(own))
	}
	for name, parts := range map[string][]*api.SendFileRequest{
		"no head": {data(content)}, "two heads": {head, head}, "a file in one piece that is too large": {head, data(make([]byte, 5<<20))},
	} {
		if _, err := send(parts...); err == nil {
			t.Errorf("%s: it was sent", name)
		}
	}
}

func BenchmarkSendingAndFetchingAFile(b *testing.B) {
	n := messengerNetwork(b)
	alice, bob := acquainted(b, n, nil)
	content := random(b, 1_000_000)
	b.SetBytes(int64(len(content)))
	for i := 0; b.Loop(); i++ {
		copy(content, fmt.Sprint(i))
		alice.sendsFile(bob, &api.FileHead{Name: "f"}, content)
		m := bob.getsFile(alice)
		if got, err := bob.fetch(&api.FetchFileRequest{With: alice.id, Id: m.Id}); err != nil || !bytes.Equal(got, content) {
			b.Fatalf("%d bytes, %v", len(got), err)
		}
	}
}
