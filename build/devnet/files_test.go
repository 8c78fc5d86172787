package devnet

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hearth/node/attachment"
	"hearth/node/files"
	"hearth/node/onion"
	"hearth/node/swarm"
)

// fileServer is a node as a client that knows the node list addresses it.
func fileServer(n swarm.Node) onion.WebServer {
	return onion.WebServer{Host: n.Address.Addr().String(), Target: attachment.Target, Protocol: "http", Port: int(n.Address.Port()), X25519: n.X25519}
}

// anyNode is whichever node ends the path, for a client that knows a URL only.
var anyNode = onion.WebServer{Host: attachment.Host, Target: attachment.Target, Protocol: "http", Port: 80, X25519: attachment.Nodes().X25519()}

// post sends a request to a web server over three nodes, which are not the given
// ones. It returns the status of the guard's answer, and the answer.
func (c *client) post(to onion.WebServer, payload []byte, without ...swarm.Node) (status int, sealed []byte, req *onion.Request) {
	c.t.Helper()
	guard, path := c.path(without...)
	req, err := onion.BuildServer(rand.Reader, path, to, payload)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := c.http.Post("https://"+guard.Address.String()+"/onion_req/v2", "", bytes.NewReader(req.Body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if sealed, err = io.ReadAll(resp.Body); err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, sealed, req
}

func (c *client) fileRequest(to onion.WebServer, r onion.V4Request, without ...swarm.Node) *onion.V4Response {
	c.t.Helper()
	status, sealed, req := c.post(to, r.Encode(), without...)
	if status != 200 {
		c.t.Fatalf("the guard says %d %q", status, sealed)
	}
	answer, err := req.OpenServerReply(sealed)
	if err != nil {
		c.t.Fatalf("opening the answer: %v", err)
	}
	return answer
}

// fileAnswer is the JSON about a file.
type fileAnswer struct {
	ID                      string
	Size, Expires, Uploaded float64
}

func (c *client) upload(to onion.WebServer, content []byte, without ...swarm.Node) (a fileAnswer) {
	c.t.Helper()
	r := c.fileRequest(to, onion.V4Request{Method: "POST", Endpoint: "/file", Body: content}, without...)
	if err := json.Unmarshal(r.Body, &a); r.Code != 200 || err != nil {
		c.t.Fatalf("upload: %d %q", r.Code, r.Body)
	}
	return a
}

func (c *client) download(from onion.WebServer, id string, without ...swarm.Node) *onion.V4Response {
	c.t.Helper()
	return c.fileRequest(from, onion.V4Request{Method: "GET", Endpoint: "/file/" + id}, without...)
}

// home returns the members of a file's swarm, and the other nodes.
func (c *client) home(t testing.TB, id string) (members, others []swarm.Node) {
	t.Helper()
	parsed, ok := attachment.ParseID(id)
	if !ok {
		t.Fatalf("the file is named %q", id)
	}
	_, members = c.list.Of(parsed.Place())
	for _, n := range c.list.Nodes {
		if !slices.Contains(members, n) {
			others = append(others, n)
		}
	}
	return members, others
}

func content(t testing.TB, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	rand.Read(b)
	return b
}

func TestFileTravels(t *testing.T) {
	n := startNetwork(t, Config{})
	c := newClient(t, n)
	data := content(t, 200_000)
	// The one asked is no member of the file's swarm, unless chance wants it.
	asked := c.list.Nodes[8]
	up := c.upload(fileServer(asked), data, asked)
	members, others := c.home(t, up.ID)

	for _, m := range members {
		if s, err := n.Node(n.Number(m.Ed25519)).Status(t.Context(), nil); err != nil || s.Files != 1 || s.FileBytes < 200_000 || s.FileQuota != files.DefaultQuota || s.FilesTrouble != "" {
			t.Errorf("member %v: %v, %v", m.Address, s, err)
		}
	}
	for _, o := range others {
		if s, err := n.Node(n.Number(o.Ed25519)).Status(t.Context(), nil); err != nil || s.Files != 0 {
			t.Errorf("another node %v: %v, %v", o.Address, s, err)
		}
	}
	for _, from := range []swarm.Node{members[1], others[0]} {
		if r := c.download(fileServer(from), up.ID, from); r.Code != 200 || !bytes.Equal(r.Body, data) {
			t.Errorf("from %v: %d", from.Address, r.Code)
		}
	}
	t.Run("also for a client that knows a URL only", func(t *testing.T) {
		id, _ := attachment.ParseID(up.ID)
		u, err := attachment.ParseURL(attachment.NodeURL(id, false).Text())
		if err != nil {
			t.Fatal(err)
		}
		to, err := u.WebServer()
		if err != nil || to != anyNode {
			t.Fatalf("the URL leads to %v, %v", to, err)
		}
		if r := c.download(to, u.ID); r.Code != 200 || !bytes.Equal(r.Body, data) {
			t.Errorf("download: %d", r.Code)
		}
		if other := c.upload(anyNode, content(t, 100)); other.ID == "" {
			t.Error("uploaded to nowhere")
		}
	})
	t.Run("and can be asked about and extended", func(t *testing.T) {
		for _, request := range []onion.V4Request{
			{Method: "GET", Endpoint: "/file/" + up.ID + "/info"},
			{Method: "POST", Endpoint: "/file/" + up.ID + "/extend", Headers: map[string]string{"X-FS-TTL": "60"}},
		} {
			var got fileAnswer
			r := c.fileRequest(fileServer(others[1]), request, others[1])
			if err := json.Unmarshal(r.Body, &got); err != nil || r.Code != 200 || got.Size != 200_000 || got.Expires != up.Expires || got.Uploaded != up.Uploaded {
				t.Errorf("%s: %d %q, uploaded %+v", request.Endpoint, r.Code, r.Body, up)
			}
		}
	})
	t.Run("to the node at the end of the path itself", func(t *testing.T) {
		_, path := c.path()
		last, _ := c.list.Find(path[2].Ed25519)
		if r := c.download(fileServer(last), up.ID); r.Code != 200 || !bytes.Equal(r.Body, data) {
			t.Errorf("download: %d", r.Code)
		}
	})
}

func TestFileOutlivesItsSwarm(t *testing.T) {
	n := startNetwork(t, Config{})
	c := newClient(t, n)
	data := content(t, 50_000)
	up := c.upload(anyNode, data)
	members, others := c.home(t, up.ID)
	for _, m := range members[1:] {
		if err := n.StopNode(n.Number(m.Ed25519)); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []swarm.Node{members[0], others[0]} {
		if r := c.download(fileServer(from), up.ID, append(members[1:len(members):len(members)], from)...); r.Code != 200 || !bytes.Equal(r.Body, data) {
			t.Errorf("from %v: %d", from.Address, r.Code)
		}
	}
}

func TestMemberCatchesUpWithFiles(t *testing.T) {
	n := startNetwork(t, Config{})
	c := newClient(t, n)
	first := c.upload(anyNode, content(t, 1000))
	members, _ := c.home(t, first.ID)
	away := n.Number(members[2].Ed25519)
	if err := n.StopNode(away); err != nil {
		t.Fatal(err)
	}
	missed := 0
	for missed < 5 {
		data := content(t, 1000)
		if in, _ := c.list.Of(attachment.IDOf(data).Place()); in != members[2].Swarm {
			continue
		}
		c.upload(anyNode, data, members[2])
		missed++
	}
	if err := n.StartNode(away); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		s, err := n.Node(away).Status(ctx, nil)
		if err != nil || ctx.Err() != nil {
			t.Fatalf("it keeps %d files: %v, %v", s.GetFiles(), err, ctx.Err())
		}
		if s.Files == 6 {
			return
		}
		// A question that brings no file along, and takes its time.
		c.fileRequest(anyNode, onion.V4Request{Method: "GET", Endpoint: "/file/" + first.ID + "/info"})
	}
}

func TestDamagedFileOnADisk(t *testing.T) {
	dir := t.TempDir()
	n := startNetwork(t, Config{Dir: dir})
	c := newClient(t, n)
	data := content(t, 700_000)
	up := c.upload(anyNode, data)
	members, _ := c.home(t, up.ID)
	damaged := members[1]
	file := filepath.Join(dir, fmt.Sprintf("node-%03d", n.Number(damaged.Ed25519)), "files", up.ID)
	kept, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := kept.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kept.WriteAt([]byte("damage"), 300_000); err != nil {
		t.Fatal(err)
	}
	kept.Close()
	if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if r := c.download(fileServer(damaged), up.ID, damaged); r.Code != 200 || !bytes.Equal(r.Body, data) {
		t.Errorf("download: %d", r.Code)
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.HasPrefix(b, data) {
		t.Errorf("the file on the disk was not repaired: %v", err)
	}
}

func TestFileExpires(t *testing.T) {
	var ahead atomic.Int64
	n := startNetwork(t, Config{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	c := newClient(t, n)
	request := onion.V4Request{Method: "POST", Endpoint: "/file", Body: content(t, 1000), Headers: map[string]string{"X-FS-TTL": "30"}}
	var up fileAnswer
	if r := c.fileRequest(anyNode, request); r.Code != 200 || json.Unmarshal(r.Body, &up) != nil || up.Expires-up.Uploaded != 30 {
		t.Fatalf("upload: %d %q", r.Code, r.Body)
	}
	if r := c.download(anyNode, up.ID); r.Code != 200 {
		t.Errorf("before its end: %d", r.Code)
	}
	ahead.Store(int64(31 * time.Second))
	if r := c.download(anyNode, up.ID); r.Code != 404 {
		t.Errorf("after its end: %d", r.Code)
	}
}

func TestFilesFillTheirShareOnly(t *testing.T) {
	const each = 16 << 10 // what a small file counts for
	n := startNetwork(t, Config{Nodes: 3, Files: 5 * each})
	c := newClient(t, n)
	for range 5 {
		c.upload(anyNode, content(t, 100))
	}
	r := c.fileRequest(anyNode, onion.V4Request{Method: "POST", Endpoint: "/file", Body: content(t, 100)})
	if r.Code != 507 || string(r.Body) != `{"status_code":507}` {
		t.Errorf("one too many: %d %q", r.Code, r.Body)
	}
	for k := 1; k <= 3; k++ {
		s, err := n.Node(k).Status(t.Context(), nil)
		if err != nil || s.Files != 5 || s.FileBytes != s.FileQuota || !strings.Contains(s.FilesTrouble, "used up") || !s.Ready {
			t.Errorf("node %d: %v, %v", k, s, err)
		}
	}
}

func TestLargestFiles(t *testing.T) {
	n := startNetwork(t, Config{})
	c := newClient(t, n)
	data := content(t, attachment.MaxSize)
	for _, deterministic := range []bool{false, true} {
		var upload bytes.Buffer
		var secret attachment.Secret
		var err error
		if deterministic {
			secret, err = attachment.EncryptDeterministic(&upload, bytes.NewReader(data), attachment.MaxSize, [32]byte{1}, attachment.File)
		} else {
			secret, err = attachment.Encrypt(rand.Reader, &upload, bytes.NewReader(data), attachment.MaxSize, true)
		}
		if err != nil {
			t.Fatal(err)
		}
		asked := c.list.Nodes[7]
		up := c.upload(fileServer(asked), upload.Bytes(), asked)
		members, _ := c.home(t, up.ID)
		for _, from := range members {
			r := c.download(fileServer(from), up.ID, from)
			var plain bytes.Buffer
			if r.Code != 200 {
				t.Fatalf("download: %d", r.Code)
			}
			if err := attachment.Decrypt(&plain, bytes.NewReader(r.Body), int64(len(r.Body)), secret, deterministic); err != nil || !bytes.Equal(plain.Bytes(), data) {
				t.Errorf("%d bytes came back, %v", plain.Len(), err)
			}
		}
	}
	if r := c.fileRequest(anyNode, onion.V4Request{Method: "POST", Endpoint: "/file", Body: make([]byte, attachment.MaxUpload+1)}); r.Code != 413 {
		t.Errorf("one byte more: %d", r.Code)
	}
}

func TestGarbageInsteadOfFileRequests(t *testing.T) {
	n := startNetwork(t, Config{})
	c := newClient(t, n)
	node := c.list.Nodes[5]
	for _, payload := range []string{"", "garbage", "l2:{}e"} {
		status, sealed, req := c.post(fileServer(node), []byte(payload), node)
		answer, err := req.OpenServerReply(sealed)
		if status != 200 || err != nil || answer.Code != 400 {
			t.Errorf("%q: %d, %v, %v", payload, status, answer, err)
		}
	}
	stranger := fileServer(node)
	stranger.X25519 = attachment.SessionX25519
	last := c.list.Nodes[2]
	self := fileServer(last)
	self.X25519 = attachment.SessionX25519
	for name, to := range map[string]onion.WebServer{"another node": stranger, "the last node": self} {
		status, body, req := c.post(to, []byte("x"), node)
		if _, err := req.OpenServerReply(body); status != 400 || !errors.Is(err, onion.ErrUndecryptable) || string(body) != onion.TextInvalidCiphertext {
			t.Errorf("%s under a key that is not its own: %d %q, %v", name, status, body, err)
		}
	}
	// The node at that address does not serve this path to the web either.
	other := fileServer(node)
	other.Target = "/oxen/v3/lsrpc"
	if status, _, _ := c.post(other, []byte("x"), node); status == 200 {
		t.Error("the old form was answered")
	}
	gone := fileServer(node)
	if err := n.StopNode(n.Number(node.Ed25519)); err != nil {
		t.Fatal(err)
	}
	if status, body, _ := c.post(gone, []byte("x"), node); status != 504 {
		t.Errorf("a node that is down: %d %q", status, body)
	}
}

func benchmarkFiles(b *testing.B, do func(c *client, to onion.WebServer, avoid swarm.Node, data []byte)) {
	n := startNetwork(b, Config{Files: 1 << 40})
	c := newClient(b, n)
	data := content(b, 1_000_000)
	node := c.list.Nodes[7]
	b.SetBytes(int64(len(data)))
	do(c, fileServer(node), node, data)
}

func BenchmarkFileUpload1MB(b *testing.B) {
	benchmarkFiles(b, func(c *client, to onion.WebServer, avoid swarm.Node, data []byte) {
		for i := 0; b.Loop(); i++ {
			copy(data, fmt.Sprint(i))
			c.upload(to, data, avoid)
		}
	})
}

func BenchmarkFileDownload1MB(b *testing.B) {
	benchmarkFiles(b, func(c *client, to onion.WebServer, avoid swarm.Node, data []byte) {
		id := c.upload(to, data, avoid).ID
		for b.Loop() {
			if r := c.download(to, id, avoid); r.Code != 200 || len(r.Body) != len(data) {
				b.Fatalf("%d", r.Code)
			}
		}
	})
}
