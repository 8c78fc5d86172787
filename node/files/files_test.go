package files

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/attachment"
	"hearth/node/bt"
	"hearth/node/keys"
	"hearth/node/onion"
	"hearth/node/swarm"
)

// network is a number of nodes whose file services reach each other directly.
type network struct {
	t     testing.TB
	mu    sync.Mutex
	nodes []*node
	list  *swarm.List
	after time.Duration // by which the clock of the nodes is ahead
}

type node struct {
	*Service
	keys *keys.Pair
	dir  string
	down bool
	lies func(parts [][]byte) [][]byte // instead of its answers, when set
	free int64
}

// newNetwork makes nodes that are in the named swarms.
func newNetwork(t testing.TB, swarms ...swarm.ID) *network {
	t.Helper()
	n := &network{t: t}
	for i := range swarms {
		n.nodes = append(n.nodes, &node{keys: keys.FromSeed([32]byte{byte(i + 1)}), dir: t.TempDir(), free: math.MaxInt64})
	}
	n.arrange(swarms...)
	for i := range n.nodes {
		n.open(i, 0)
	}
	t.Cleanup(func() {
		for _, node := range n.nodes {
			node.Close()
		}
	})
	return n
}

// arrange makes a new list.
func (n *network) arrange(swarms ...swarm.ID) {
	list := &swarm.List{}
	for i, in := range swarms {
		list.Nodes = append(list.Nodes, swarm.Node{Ed25519: n.nodes[i].keys.Ed25519(), X25519: n.nodes[i].keys.X25519(), Swarm: in})
	}
	n.locked(func() { n.list = list })
}

func (n *network) locked(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
}

func (n *network) now() (now time.Time) {
	n.locked(func() { now = time.UnixMilli(1_700_000_000_000).Add(n.after) })
	return now
}

func (n *network) pass(d time.Duration) { n.locked(func() { n.after += d }) }

// open starts a node, anew when it was running.
func (n *network) open(i int, quota int64) {
	n.t.Helper()
	node := n.nodes[i]
	if node.Service != nil {
		node.Close()
	}
	s, err := Open(Config{
		Keys: node.keys, Dir: node.dir, Quota: quota, Now: n.now,
		List: func() (list *swarm.List) {
			n.locked(func() { list = n.list })
			return list
		},
		Send: func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error) {
			return n.send(ctx, node, to, parts)
		},
		Free: func() (free int64, err error) {
			n.locked(func() { free = node.free })
			return free, nil
		},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	node.Service = s
	<-s.store.scanned
}

var errDown = errors.New("no route to node")

func (n *network) send(ctx context.Context, from *node, to swarm.Node, parts [][]byte) (answer [][]byte, err error) {
	for _, node := range n.nodes {
		if node.keys.Ed25519() != to.Ed25519 {
			continue
		}
		var down bool
		var lies func([][]byte) [][]byte
		n.locked(func() { down, lies = node.down || from.down, node.lies })
		switch {
		case down:
			return nil, errDown
		case lies != nil:
			return lies(parts), nil
		}
		return node.Peer(ctx, from.keys.Ed25519(), parts), nil
	}
	return nil, errDown
}

func (n *network) down(down bool, nodes ...int) {
	n.locked(func() {
		for _, i := range nodes {
			n.nodes[i].down = down
		}
	})
}

// post makes the bytes that node at would post to a web server, with a request
// for the key in them.
func post(t testing.TB, at *node, key [32]byte, payload []byte) (*onion.Request, []byte) {
	t.Helper()
	path := []onion.Hop{{Ed25519: at.keys.Ed25519(), X25519: at.keys.X25519()}}
	to := onion.WebServer{Host: attachment.Host, Target: attachment.Target, Protocol: "http", Port: 80, X25519: key}
	req, err := onion.BuildServer(rand.Reader, path, to, payload)
	if err != nil {
		t.Fatal(err)
	}
	layer, err := onion.ParseEntry(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := layer.Peel(at.keys)
	if err != nil {
		t.Fatal(err)
	}
	return req, inner.(*onion.Server).Post
}

// ask sends a client's request to a node.
func (n *network) ask(i int, r onion.V4Request) *onion.V4Response {
	n.t.Helper()
	return n.askPayload(i, r.Encode())
}

func (n *network) askPayload(i int, payload []byte) *onion.V4Response {
	n.t.Helper()
	node := n.nodes[i]
	req, posted := post(n.t, node, node.keys.X25519(), payload)
	reply, mine := node.Request(n.t.Context(), "neighbour", posted)
	if !mine || reply == nil {
		n.t.Fatalf("no reply, mine %t", mine)
	}
	resp, err := req.OpenServerReply(reply)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp
}

// uploaded is the JSON about a file.
type uploaded struct {
	ID                      string
	Size                    int64
	Expires, Uploaded       float64
	StatusCode              int `json:"status_code"`
	expires, uploadedMillis int64
}

func (n *network) json(r *onion.V4Response) (u uploaded) {
	n.t.Helper()
	if r.Headers["content-type"] != "application/json" {
		n.t.Fatalf("headers %v of %q", r.Headers, r.Body)
	}
	if err := json.Unmarshal(r.Body, &u); err != nil {
		n.t.Fatal(err)
	}
	u.expires, u.uploadedMillis = int64(math.Round(u.Expires*1000)), int64(math.Round(u.Uploaded*1000))
	return u
}

func (n *network) upload(i int, content []byte, headers ...string) uploaded {
	n.t.Helper()
	r := onion.V4Request{Method: "POST", Endpoint: "/file", Headers: map[string]string{}, Body: content}
	for k := 0; k+1 < len(headers); k += 2 {
		r.Headers[headers[k]] = headers[k+1]
	}
	resp := n.ask(i, r)
	if resp.Code != 200 {
		n.t.Fatalf("upload: %d %q", resp.Code, resp.Body)
	}
	return n.json(resp)
}

func (n *network) get(i int, endpoint string) *onion.V4Response {
	n.t.Helper()
	return n.ask(i, onion.V4Request{Method: "GET", Endpoint: endpoint})
}

// keeps tells which nodes have a file, whole, on their disks.
func (n *network) keeps(id string) (list string) {
	for i, node := range n.nodes {
		b, err := os.ReadFile(filepath.Join(node.dir, id))
		if err == nil && len(b) > trailer && attachment.IDOf(b[:len(b)-trailer]).String() == id {
			list += fmt.Sprint(i)
		}
	}
	return list
}

// random makes content that is in no other test, and with a swarm, that
// belongs there.
func random(t testing.TB, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	rand.Read(b)
	return b
}

// contentOf makes content that belongs to the swarm.
func (n *network) contentOf(in swarm.ID, size int) []byte {
	for {
		b := random(n.t, size)
		if s, _ := n.list.Of(attachment.IDOf(b).Place()); s == in {
			return b
		}
	}
}

const far = swarm.ID(1 << 63)

func TestUploadIsOnAllMembersAndComesFromAnyNode(t *testing.T) {
	n := newNetwork(t, 0, 0, 0, far, far)
	for _, size := range []int{1, 1000, pieceSize, pieceSize + 1, 3_000_000} {
		for _, in := range []swarm.ID{0, far} {
			content := n.contentOf(in, size)
			u := n.upload(0, content)
			if u.ID != attachment.IDOf(content).String() || u.expires != n.now().Add(TTL).UnixMilli() || u.uploadedMillis != n.now().UnixMilli() {
				t.Errorf("told %+v", u)
			}
			want := "012"
			if in == far {
				want = "34"
			}
			if got := n.keeps(u.ID); got != want {
				t.Errorf("%d bytes: kept by %q, want %q", size, got, want)
			}
			for i := range n.nodes {
				r := n.get(i, "/file/"+u.ID)
				if r.Code != 200 || !bytes.Equal(r.Body, content) || r.Headers["content-type"] != "application/octet-stream" {
					t.Errorf("from node %d: %d, %d bytes", i, r.Code, len(r.Body))
				}
				if at, err := http.ParseTime(r.Headers["expires"]); err != nil || at.Unix() != u.expires/1000 {
					t.Errorf("it expires %q", r.Headers["expires"])
				}
				if got := n.json(n.get(i, "/file/"+u.ID+"/info")); got.Size != int64(size) || got.expires != u.expires || got.uploadedMillis != u.uploadedMillis {
					t.Errorf("node %d tells %+v", i, got)
				}
			}
		}
	}
}

func TestKeysThatANodeAnswersTo(t *testing.T) {
	n := newNetwork(t, 0)
	payload := onion.V4Request{Method: "GET", Endpoint: "/file/1/info"}.Encode()
	for _, tt := range []struct {
		name string
		key  [32]byte
		mine bool
	}{
		{"its own", n.nodes[0].keys.X25519(), true},
		{"that of all nodes", attachment.Nodes().X25519(), true},
		{"that of Session's file server", attachment.SessionX25519, false},
		{"that of another node", keys.FromSeed([32]byte{99}).X25519(), false},
	} {
		req, posted := post(t, n.nodes[0], tt.key, payload)
		reply, mine := n.nodes[0].Request(t.Context(), "neighbour", posted)
		if mine != tt.mine {
			t.Errorf("%s: mine %t", tt.name, mine)
		}
		if !mine {
			continue
		}
		if r, err := req.OpenServerReply(reply); err != nil || r.Code != 404 {
			t.Errorf("%s: %v, %v", tt.name, r, err)
		}
	}
	if _, mine := n.nodes[0].Request(t.Context(), "neighbour", []byte("garbage")); mine {
		t.Error("garbage is for the node")
	}
}

func TestRequestsThatCannotBeServed(t *testing.T) {
	n := newNetwork(t, 0)
	id := attachment.IDOf([]byte("nobody has it")).String()
	headers := map[string]string{}
	for _, tt := range []struct {
		name   string
		r      onion.V4Request
		status int
	}{
		{"a file that is not there", onion.V4Request{Method: "GET", Endpoint: "/file/" + id}, 404},
		{"what is known of it", onion.V4Request{Method: "GET", Endpoint: "/file/" + id + "/info"}, 404},
		{"a longer life for it", onion.V4Request{Method: "POST", Endpoint: "/file/" + id + "/extend"}, 404},
		{"a file of an old server", onion.V4Request{Method: "GET", Endpoint: "/file/1000009"}, 404},
		{"a name with a way out", onion.V4Request{Method: "GET", Endpoint: "/file/" + strings.Repeat("../", 14) + "ab"}, 404},
		{"no name", onion.V4Request{Method: "GET", Endpoint: "/file/"}, 404},
		{"the old form", onion.V4Request{Method: "POST", Endpoint: "/files", Body: []byte("{}")}, 404},
		{"the root", onion.V4Request{Method: "GET", Endpoint: "/"}, 404},
		{"the version of a client", onion.V4Request{Method: "GET", Endpoint: "/session_version?platform=desktop"}, 404},
		{"something else about a file", onion.V4Request{Method: "GET", Endpoint: "/file/" + id + "/delete"}, 404},
		{"more than that", onion.V4Request{Method: "GET", Endpoint: "/file/" + id + "/info/x"}, 404},
		{"an upload of nothing", onion.V4Request{Method: "POST", Endpoint: "/file", Body: []byte{}}, 413},
		{"an upload without a body", onion.V4Request{Method: "POST", Endpoint: "/file"}, 413},
		{"an upload above the limit", onion.V4Request{Method: "POST", Endpoint: "/file", Body: make([]byte, attachment.MaxUpload+1)}, 413},
		{"another method", onion.V4Request{Method: "PUT", Endpoint: "/file", Body: []byte("x")}, 405},
		{"a file, posted", onion.V4Request{Method: "POST", Endpoint: "/file/" + id}, 405},
		{"a longer life, got", onion.V4Request{Method: "GET", Endpoint: "/file/" + id + "/extend"}, 405},
		{"a life of no time", onion.V4Request{Method: "POST", Endpoint: "/file", Body: []byte("x"), Headers: map[string]string{"X-FS-TTL": "0"}}, 400},
		{"a life of a word", onion.V4Request{Method: "POST", Endpoint: "/file", Body: []byte("x"), Headers: map[string]string{"X-FS-TTL": "long"}}, 400},
	} {
		if tt.r.Headers == nil {
			tt.r.Headers = headers
		}
		r := n.ask(0, tt.r)
		if u := n.json(r); r.Code != tt.status || u.StatusCode != tt.status {
			t.Errorf("%s: %d %q, want %d", tt.name, r.Code, r.Body, tt.status)
		}
	}
	for _, payload := range []string{
		"", "l", "le", "d1:ai1ee", "l2:{}e", `l30:{"method":"GET","endpoint":"/"}e`, `l31:{"method":"GET","endpoint":"x"}e`,
		`l31:{"method":"GET","endpoint":"/"}0:0:e`, `l31:{"method":1,"endpoint":"/file"}e`, `l44:{"method":"GET","endpoint":"/","headers":[1]}e`,
		`l47:{"method":"GET","endpoint":"/","headers":{"a":1}}e`, "l999999999999:x", "l" + strings.Repeat("l", 1000),
		fmt.Sprintf("l%d:%se", maxMeta, strings.Repeat(" ", maxMeta)),
	} {
		r := n.askPayload(0, []byte(payload))
		if r.Code != 400 || string(r.Body) != "Invalid v4 onion request" {
			t.Errorf("%.40q: %d %q", payload, r.Code, r.Body)
		}
	}
	if got := n.nodes[0].Stats(); got.Files != 0 || got.Bytes != 0 {
		t.Errorf("kept %+v", got)
	}
}

const maxMeta = 70_000

func TestMemberThatWasAwayCatchesUp(t *testing.T) {
	n := newNetwork(t, 0, 0, 0)
	before := n.upload(0, random(t, 2000))
	n.down(true, 2)
	var ids []string
	for range 20 {
		ids = append(ids, n.upload(0, random(t, 5000)).ID)
	}
	n.pass(time.Hour)
	extended := n.json(n.ask(1, onion.V4Request{Method: "POST", Endpoint: "/file/" + before.ID + "/extend"}))
	if extended.expires != n.now().Add(TTL).UnixMilli() || extended.Size != 2000 || extended.uploadedMillis != before.uploadedMillis {
		t.Errorf("extended to %+v", extended)
	}
	n.down(false, 2)
	if err := n.nodes[2].Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if got := n.keeps(id); got != "012" {
			t.Errorf("kept by %q", got)
		}
	}
	for i := range n.nodes {
		if got := n.json(n.get(i, "/file/"+before.ID+"/info")); got.expires != extended.expires {
			t.Errorf("node %d lets it end at %d, want %d", i, got.expires, extended.expires)
		}
	}
	a, b := n.nodes[0].digest(), n.nodes[2].digest()
	if a != b {
		t.Error("the members differ")
	}
}

func TestFileOutlivesAllMembersButOne(t *testing.T) {
	n := newNetwork(t, 0, 0, 0, far)
	content := n.contentOf(0, 100_000)
	u := n.upload(3, content)
	n.down(true, 0, 2)
	for _, i := range []int{1, 3} {
		if r := n.get(i, "/file/"+u.ID); r.Code != 200 || !bytes.Equal(r.Body, content) {
			t.Errorf("from node %d: %d", i, r.Code)
		}
	}
	n.down(true, 1)
	if r := n.get(3, "/file/"+u.ID); r.Code != 503 {
		t.Errorf("from nobody: %d", r.Code)
	}
	if r := n.ask(3, onion.V4Request{Method: "POST", Endpoint: "/file", Body: n.contentOf(0, 10)}); r.Code != 503 {
		t.Errorf("to nobody: %d %q", r.Code, r.Body)
	}
}

func TestDamageIsNoticedAndRepaired(t *testing.T) {
	damage := map[string]func(t *testing.T, path string){
		"a bit": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[700] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			later := time.UnixMilli(1_700_000_000_000).Add(TTL)
			if err := os.Chtimes(path, later, later); err != nil {
				t.Fatal(err)
			}
		},
		"the end": func(t *testing.T, path string) {
			if err := os.Truncate(path, 300); err != nil {
				t.Fatal(err)
			}
		},
		"everything": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			t.Run("when a client reads", func(t *testing.T) {
				n := newNetwork(t, 0, 0, 0)
				content := random(t, 1_200_000)
				u := n.upload(0, content)
				do(t, filepath.Join(n.nodes[1].dir, u.ID))
				if got := n.keeps(u.ID); got != "02" {
					t.Fatalf("kept by %q", got)
				}
				if r := n.get(1, "/file/"+u.ID); r.Code != 200 || !bytes.Equal(r.Body, content) {
					t.Errorf("read: %d, %d bytes", r.Code, len(r.Body))
				}
				if got := n.keeps(u.ID); got != "012" {
					t.Errorf("kept by %q after a read", got)
				}
			})
			t.Run("when a node reads", func(t *testing.T) {
				n := newNetwork(t, 0, 0, far)
				content := n.contentOf(0, 1_200_000)
				u := n.upload(0, content)
				do(t, filepath.Join(n.nodes[0].dir, u.ID))
				n.down(true, 1)
				if r := n.get(2, "/file/"+u.ID); r.Code == 200 {
					t.Error("a damaged file was handed on")
				}
				n.down(false, 1)
				if err := n.nodes[0].Reconcile(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := n.keeps(u.ID); got != "01" {
					t.Errorf("kept by %q", got)
				}
			})
		})
	}
}

func TestFilesExpire(t *testing.T) {
	n := newNetwork(t, 0, 0)
	short := n.upload(0, random(t, 100), "x-fs-ttl", "30")
	long := n.upload(0, random(t, 100), "X-FS-TTL", "99999999999")
	if short.expires != n.now().Add(30*time.Second).UnixMilli() || long.expires != n.now().Add(TTL).UnixMilli() {
		t.Errorf("they end at %d and %d", short.expires, long.expires)
	}
	if gone := n.nodes[0].Sweep(); gone != 0 {
		t.Errorf("%d files swept", gone)
	}
	n.pass(30 * time.Second)
	for i, node := range n.nodes {
		for _, route := range []string{"", "/info"} {
			if r := n.get(i, "/file/"+short.ID+route); r.Code != 404 {
				t.Errorf("after its end: %d", r.Code)
			}
		}
		if r := n.ask(i, onion.V4Request{Method: "POST", Endpoint: "/file/" + short.ID + "/extend"}); r.Code != 404 {
			t.Errorf("extended after its end: %d", r.Code)
		}
		if gone := node.Sweep(); gone != 1 {
			t.Errorf("%d files swept", gone)
		}
		if gone := node.Sweep(); gone != 0 {
			t.Errorf("%d files swept again", gone)
		}
	}
	if got := n.keeps(short.ID); got != "" {
		t.Errorf("on the disks of %q", got)
	}
	n.pass(TTL - time.Minute)
	for _, ttl := range []string{"1", "3600"} {
		r := n.ask(0, onion.V4Request{Method: "POST", Endpoint: "/file/" + long.ID + "/extend", Headers: map[string]string{"X-FS-TTL": ttl}})
		want := max(long.expires, n.now().UnixMilli()+map[string]int64{"1": 1000, "3600": 3_600_000}[ttl])
		if u := n.json(r); r.Code != 200 || u.expires != want {
			t.Errorf("extended by %s s: %d, ends at %d, want %d", ttl, r.Code, u.expires, want)
		}
	}
	n.pass(30 * time.Minute)
	for i := range n.nodes {
		n.nodes[i].Sweep()
		if r := n.get(i, "/file/"+long.ID); r.Code != 200 {
			t.Errorf("while extended: %d", r.Code)
		}
	}
	// The extension is on the disk.
	n.open(0, 0)
	if r := n.get(0, "/file/"+long.ID); r.Code != 200 {
		t.Errorf("after a restart: %d", r.Code)
	}
	n.pass(time.Hour)
	n.open(0, 0)
	if gone := n.nodes[0].Sweep(); gone != 1 {
		t.Errorf("%d files swept after a restart", gone)
	}
	if got := n.nodes[0].Stats(); got.Files != 0 || got.Bytes != 0 {
		t.Errorf("kept %+v", got)
	}
}

func TestSweepOfVeryMany(t *testing.T) {
	n := newNetwork(t, 0)
	for range maxSweep + 1 {
		id := attachment.IDOf(random(t, 8))
		n.nodes[0].store.add(id, entry{1, 1})
		n.nodes[0].store.used += n.nodes[0].store.charge(1)
	}
	if a, b, c := n.nodes[0].Sweep(), n.nodes[0].Sweep(), n.nodes[0].Sweep(); a != maxSweep || b != 1 || c != 0 {
		t.Errorf("swept %d, %d, %d", a, b, c)
	}
	if got := n.nodes[0].Stats(); got.Bytes != 0 {
		t.Errorf("kept %+v", got)
	}
}

func TestUploadOfTheSameTwice(t *testing.T) {
	n := newNetwork(t, 0, 0)
	content := random(t, 1000)
	first := n.upload(0, content)
	n.pass(time.Hour)
	second := n.upload(1, content)
	if second.ID != first.ID || second.expires != first.expires+3_600_000 {
		t.Errorf("first %+v, second %+v", first, second)
	}
	again := n.upload(1, content, "x-fs-ttl", "60")
	if again.expires != second.expires {
		t.Errorf("a short life took %d ms of it", second.expires-again.expires)
	}
	for i, node := range n.nodes {
		if got := node.Stats(); got.Files != 1 || got.Bytes != minFile {
			t.Errorf("node %d keeps %+v", i, got)
		}
	}
	var all sync.WaitGroup
	same := random(t, 500_000)
	for i := range 8 {
		all.Go(func() {
			_, posted := post(t, n.nodes[i%2], n.nodes[i%2].keys.X25519(), onion.V4Request{Method: "POST", Endpoint: "/file", Body: same}.Encode())
			if reply, mine := n.nodes[i%2].Request(t.Context(), "neighbour", posted); !mine || reply == nil {
				t.Error("no reply")
			}
		})
	}
	all.Wait()
	for i, node := range n.nodes {
		if got := node.Stats(); got.Files != 2 || got.Bytes != minFile+node.store.charge(500_000) {
			t.Errorf("node %d keeps %+v", i, got)
		}
	}
}

func TestQuota(t *testing.T) {
	n := newNetwork(t, 0, 0)
	n.open(0, 10*minFile)
	n.open(1, 10*minFile)
	var ids []string
	for i := range 10 {
		ids = append(ids, n.upload(i%2, random(t, 100)).ID)
		trouble := n.nodes[0].Stats().Trouble
		switch {
		case i < 8 && trouble != "":
			t.Errorf("%d of 10: %q", i+1, trouble)
		case i == 9 && !strings.Contains(trouble, "used up"):
			t.Errorf("when full: %q", trouble)
		}
	}
	r := n.ask(0, onion.V4Request{Method: "POST", Endpoint: "/file", Body: random(t, 100)})
	if u := n.json(r); r.Code != 507 || u.StatusCode != 507 {
		t.Errorf("when full: %d %q", r.Code, r.Body)
	}
	if got := n.nodes[0].Stats(); got.Files != 10 || got.Bytes != got.Quota {
		t.Errorf("keeps %+v", got)
	}
	t.Run("what is there can still be read, extended and uploaded again", func(t *testing.T) {
		n.pass(time.Second)
		if r := n.get(0, "/file/"+ids[0]); r.Code != 200 {
			t.Errorf("read: %d", r.Code)
		}
		content := n.get(0, "/file/"+ids[0]).Body
		if u := n.upload(0, content); u.ID != ids[0] {
			t.Errorf("uploaded %+v", u)
		}
		if r := n.ask(0, onion.V4Request{Method: "POST", Endpoint: "/file/" + ids[1] + "/extend"}); r.Code != 200 {
			t.Errorf("extended: %d", r.Code)
		}
	})
	t.Run("a member with room takes what the other cannot", func(t *testing.T) {
		n.open(1, 100*minFile)
		u := n.upload(0, random(t, 100))
		if got := n.keeps(u.ID); got != "1" {
			t.Errorf("kept by %q", got)
		}
		if err := n.nodes[0].Reconcile(t.Context()); !errors.Is(err, errFull) {
			t.Errorf("comparing: %v", err)
		}
		if r := n.get(0, "/file/"+u.ID); r.Code != 200 {
			t.Errorf("read at the other: %d", r.Code)
		}
	})
	t.Run("room comes back when files expire", func(t *testing.T) {
		n.pass(TTL)
		for _, node := range n.nodes {
			node.Sweep()
		}
		if got := n.keeps(n.upload(0, random(t, 100)).ID); got != "01" {
			t.Errorf("kept by %q", got)
		}
	})
	t.Run("an upload that fails takes no room", func(t *testing.T) {
		before := n.nodes[0].Stats().Bytes
		m := meta{id: attachment.IDOf([]byte("x")), size: 1, expires: n.now().Add(time.Hour).UnixMilli()}
		if _, err := n.nodes[0].keep(t.Context(), m, []byte("y")); !errors.Is(err, errDamaged) {
			t.Errorf("other content: %v", err)
		}
		if got := n.nodes[0].Stats().Bytes; got != before {
			t.Errorf("%d bytes before, %d after", before, got)
		}
		if left, _ := filepath.Glob(filepath.Join(n.nodes[0].dir, incoming+"*")); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	t.Run("a node that gives nothing takes nothing", func(t *testing.T) {
		n := newNetwork(t, 0)
		n.open(0, -1)
		if r := n.ask(0, onion.V4Request{Method: "POST", Endpoint: "/file", Body: []byte("x")}); r.Code != 507 {
			t.Errorf("upload: %d", r.Code)
		}
		if trouble := n.nodes[0].Stats().Trouble; trouble != "" {
			t.Errorf("trouble %q", trouble)
		}
	})
}

func TestOwnerIsToldBeforeItIsFull(t *testing.T) {
	n := newNetwork(t, 0)
	n.open(0, 100*minFile)
	for range 91 {
		n.upload(0, random(t, 10))
	}
	if trouble := n.nodes[0].Stats().Trouble; !strings.HasPrefix(trouble, "91 %") {
		t.Errorf("told %q", trouble)
	}
	n.locked(func() { n.nodes[0].free = leaveFree })
	if trouble := n.nodes[0].Stats().Trouble; !strings.HasPrefix(trouble, "the disk is nearly full") {
		t.Errorf("told %q", trouble)
	}
	if r := n.ask(0, onion.V4Request{Method: "POST", Endpoint: "/file", Body: random(t, 100)}); r.Code != 507 {
		t.Errorf("with a full disk: %d", r.Code)
	}
}

func TestFolderAfterAPowerCut(t *testing.T) {
	n := newNetwork(t, 0)
	whole := n.upload(0, random(t, 100))
	dir := n.nodes[0].dir
	other := attachment.IDOf([]byte("cut short")).String()
	for name, size := range map[string]int{incoming + "123": 1000, other: trailer} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.open(0, 0)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("in the folder: %v, %v", left, err)
	}
	if got := n.nodes[0].Stats(); got.Files != 1 || got.Bytes != minFile {
		t.Errorf("keeps %+v", got)
	}
	if r := n.get(0, "/file/"+whole.ID); r.Code != 200 {
		t.Errorf("after a restart: %d", r.Code)
	}
}

func TestFilesAreServedBeforeAllAreCounted(t *testing.T) {
	n := newNetwork(t, 0)
	u := n.upload(0, random(t, 100))
	st := n.nodes[0].store
	st.scanned = make(chan struct{})
	clear(st.entries)
	if r := n.get(0, "/file/"+u.ID); r.Code != 200 {
		t.Errorf("read: %d", r.Code)
	}
	if gone := st.sweep(); gone != 0 {
		t.Errorf("%d files swept", gone)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.nodes[0].keep(over, meta{id: attachment.IDOf([]byte("x")), size: 1}, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("kept: %v", err)
	}
	if err := n.nodes[0].Reconcile(over); !errors.Is(err, context.Canceled) {
		t.Errorf("compared: %v", err)
	}
}

func TestFilesMoveWithTheSwarms(t *testing.T) {
	n := newNetwork(t, 0, 0, 0, 0)
	var ids []string
	for range 10 {
		ids = append(ids, n.upload(0, random(t, 3000)).ID)
	}
	for _, id := range ids {
		if got := n.keeps(id); got != "0123" {
			t.Fatalf("kept by %q", got)
		}
	}
	n.arrange(0, 0, far, far)
	n.down(true, 3)
	moved := func() (low, high int) {
		for _, id := range ids {
			place, _ := attachment.ParseID(id)
			in, _ := n.list.Of(place.Place())
			switch got := n.keeps(id); {
			case in == 0 && got == "01":
				low++
			case in == far && got == "23":
				high++
			}
		}
		return low, high
	}
	for i := range 3 {
		_ = n.nodes[i].Reconcile(t.Context()) // one member is away
	}
	if low, high := moved(); low+high == len(ids) {
		t.Error("files were dropped that a member of their swarm does not have")
	}
	n.down(false, 3)
	for i := range n.nodes {
		if err := n.nodes[i].Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if low, high := moved(); low+high != len(ids) {
		t.Errorf("%d and %d of %d files are where they belong", low, high, len(ids))
	}
	for i := range n.nodes {
		for _, id := range ids {
			if r := n.get(i, "/file/"+id); r.Code != 200 {
				t.Errorf("from node %d: %d", i, r.Code)
			}
		}
	}
	t.Run("also to nodes that had nothing", func(t *testing.T) {
		n.arrange(swarm.None, swarm.None, far, far)
		for i := range n.nodes {
			if err := n.nodes[i].Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range ids {
			if got := n.keeps(id); got != "23" {
				t.Errorf("kept by %q", got)
			}
		}
	})
}

func TestNodeThatLies(t *testing.T) {
	n := newNetwork(t, 0, 0, 0, far)
	content := n.contentOf(0, 700_000)
	u := n.upload(0, content)
	answer := func(d bt.Dict) [][]byte {
		b, err := bt.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{[]byte("200"), b}
	}
	end := n.now().Add(time.Hour).UnixMilli()
	request := func(parts [][]byte) (at, size int64) {
		f := fields{d: must(bt.ReadDict(parts[1]))}
		f.id()
		size = f.int("n", 0, pieceSize)
		return f.int("o", 0, attachment.MaxUpload), size
	}
	for name, lie := range map[string]func(parts [][]byte) [][]byte{
		"other content": func(parts [][]byte) [][]byte {
			_, size := request(parts)
			return answer(bt.Dict{"d": make([]byte, size), "e": end, "s": 700_000, "u": 1})
		},
		"another size": func(parts [][]byte) [][]byte {
			at, size := request(parts)
			return answer(bt.Dict{"d": make([]byte, min(size, 5-min(5, at))), "e": end, "s": 5, "u": 1})
		},
		"a size beyond all limits": func([][]byte) [][]byte {
			return answer(bt.Dict{"d": "", "e": end, "s": int64(1) << 50, "u": 1})
		},
		"a size below nothing": func([][]byte) [][]byte {
			return answer(bt.Dict{"d": "", "e": end, "s": -1, "u": 1})
		},
		"less than it says": func([][]byte) [][]byte {
			return answer(bt.Dict{"d": "x", "e": end, "s": 700_000, "u": 1})
		},
		"nothing":         func([][]byte) [][]byte { return nil },
		"garbage":         func([][]byte) [][]byte { return [][]byte{[]byte("200"), []byte("garbage")} },
		"another status":  func([][]byte) [][]byte { return [][]byte{[]byte("299"), {}} },
		"an empty record": func([][]byte) [][]byte { return answer(bt.Dict{}) },
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 2 {
				n.locked(func() { n.nodes[i].lies = lie })
			}
			for range 4 { // the order is random
				if r := n.get(3, "/file/"+u.ID); r.Code != 200 || !bytes.Equal(r.Body, content) {
					t.Errorf("read: %d, %d bytes", r.Code, len(r.Body))
				}
			}
			if err := n.nodes[2].Reconcile(t.Context()); err == nil {
				t.Error("comparing with a liar went well")
			}
			for i := range 2 {
				n.locked(func() { n.nodes[i].lies = nil })
			}
		})
	}

	t.Run("about what it keeps", func(t *testing.T) {
		asked := 0
		n.locked(func() {
			n.nodes[1].down = true
			n.nodes[0].lies = func(parts [][]byte) [][]byte {
				switch asked++; {
				case asked > 1000:
					t.Fatal("it goes on for ever")
				case string(parts[0]) == verbDigest:
					return answer(bt.Dict{"d": random(t, buckets*8)})
				case string(parts[0]) == verbList:
					// The same file again and again, and always more to come.
					record := make([]byte, recordSize)
					record[0], record[5] = byte(bucketAsked(t, parts)), 1
					binary.BigEndian.PutUint64(record[33:], uint64(end))
					binary.BigEndian.PutUint32(record[41:], 5)
					return answer(bt.Dict{"f": record, "m": 1})
				}
				return status(404)
			}
		})
		if err := n.nodes[2].Reconcile(t.Context()); !errors.Is(err, errForm) {
			t.Errorf("comparing: %v", err)
		}
	})
}

func bucketAsked(t *testing.T, parts [][]byte) int64 {
	f := fields{d: must(bt.ReadDict(parts[1]))}
	f.bytes("a", -1)
	n := f.int("b", 0, buckets-1)
	if f.err != nil {
		t.Error(f.err)
	}
	return n
}

func parseID(t *testing.T, text string) attachment.ID {
	t.Helper()
	id, ok := attachment.ParseID(text)
	if !ok {
		t.Fatalf("%q is no name", text)
	}
	return id
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestWhatOtherNodesMayAsk(t *testing.T) {
	n := newNetwork(t, 0, 0, far)
	u := n.upload(0, n.contentOf(0, 100))
	id, _ := attachment.ParseID(u.ID)
	foreign := attachment.IDOf(n.contentOf(far, 10))
	unknown := attachment.IDOf(n.contentOf(0, 10))
	end := n.now().Add(time.Hour).UnixMilli()
	for _, tt := range []struct {
		name, verb string
		dict       bt.Dict
		status     string
	}{
		{"a piece", verbRead, bt.Dict{"i": id[:], "n": 10, "o": 0}, "200"},
		{"a piece behind the end", verbRead, bt.Dict{"i": id[:], "n": 10, "o": 5000}, "200"},
		{"a piece before the beginning", verbRead, bt.Dict{"i": id[:], "n": 10, "o": -1}, "400"},
		{"a piece of all memory", verbRead, bt.Dict{"i": id[:], "n": int64(1) << 40, "o": 0}, "400"},
		{"a file that is not there", verbRead, bt.Dict{"i": unknown[:], "n": 10, "o": 0}, "404"},
		{"a name that is none", verbRead, bt.Dict{"i": "x", "n": 10, "o": 0}, "400"},
		{"no name", verbRead, bt.Dict{"n": 10, "o": 0}, "400"},
		{"a number as name", verbRead, bt.Dict{"i": 5, "n": 10, "o": 0}, "400"},
		{"to keep what is there", verbOffer, bt.Dict{"e": end, "i": id[:], "s": 100, "u": 1}, "200"},
		{"to keep a file of another swarm", verbOffer, bt.Dict{"e": end, "i": foreign[:], "s": 100, "u": 1}, "421"},
		{"to keep what nobody has", verbOffer, bt.Dict{"e": end, "i": unknown[:], "s": 100, "u": 1}, "404"},
		{"to keep what is over", verbOffer, bt.Dict{"e": 5, "i": unknown[:], "s": 100, "u": 1}, "400"},
		{"to keep too much", verbOffer, bt.Dict{"e": end, "i": unknown[:], "s": attachment.MaxUpload + 1, "u": 1}, "400"},
		{"a digest", verbDigest, bt.Dict{}, "200"},
		{"a list", verbList, bt.Dict{"a": "", "b": id[0]}, "200"},
		{"a list of no part", verbList, bt.Dict{"a": "", "b": 256}, "400"},
		{"something else", "delete", bt.Dict{}, "404"},
	} {
		b, err := bt.Marshal(tt.dict)
		if err != nil {
			t.Fatal(err)
		}
		answer := n.nodes[0].Peer(t.Context(), n.nodes[1].keys.Ed25519(), [][]byte{[]byte(tt.verb), b})
		if len(answer) != 2 || string(answer[0]) != tt.status {
			t.Errorf("%s: %q, want %s", tt.name, answer, tt.status)
		}
	}
	for _, parts := range [][][]byte{nil, {{}}, {{}, {}, {}}, {[]byte(verbRead), []byte("x")}} {
		if answer := n.nodes[0].Peer(t.Context(), [32]byte{}, parts); string(answer[0]) != "400" {
			t.Errorf("%q: %q", parts, answer)
		}
	}
	// An end far away is cut to what a client could ask for.
	far := must(bt.Marshal(bt.Dict{"e": int64(maxTime), "i": id[:], "s": 100, "u": 1}))
	n.nodes[0].Peer(t.Context(), n.nodes[1].keys.Ed25519(), [][]byte{[]byte(verbOffer), far})
	if m, ok := n.nodes[0].store.info(id); !ok || m.expires != n.now().Add(TTL+skew).UnixMilli() {
		t.Errorf("ends at %d", m.expires)
	}
}

func TestLongListsComeInParts(t *testing.T) {
	n := newNetwork(t, 0, 0)
	id := attachment.ID{7}
	end := n.now().Add(time.Hour).UnixMilli()
	for i := range maxRecords + 10 {
		binary.BigEndian.PutUint32(id[20:], uint32(i))
		n.nodes[0].store.add(id, entry{1, end})
	}
	d := must(n.nodes[1].call(t.Context(), n.list.Nodes[0], verbList, bt.Dict{"a": "", "b": 7}))
	f := fields{d: d}
	first := f.bytes("f", -1)
	if more := f.int("m", 0, 1); f.err != nil || more != 1 || len(first) != maxRecords*recordSize {
		t.Fatalf("%d bytes, more %d, %v", len(first), more, f.err)
	}
	d = must(n.nodes[1].call(t.Context(), n.list.Nodes[0], verbList, bt.Dict{"a": first[len(first)-recordSize:][:33], "b": 7}))
	f = fields{d: d}
	second := f.bytes("f", -1)
	if more := f.int("m", 0, 1); f.err != nil || more != 0 || len(second) != 10*recordSize {
		t.Errorf("%d bytes, more %d, %v", len(second), more, f.err)
	}
}

func TestMemoryForClientsIsBounded(t *testing.T) {
	n := newNetwork(t, 0)
	s := n.nodes[0].Service
	if !s.memory.TryAcquire(s.cfg.Memory) {
		t.Fatal("no memory")
	}
	_, posted := post(t, n.nodes[0], n.nodes[0].keys.X25519(), onion.V4Request{Method: "GET", Endpoint: "/file/1"}.Encode())
	over, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if reply, mine := s.Request(over, "neighbour", posted); reply != nil || !mine {
		t.Errorf("a reply of %d bytes, mine %t", len(reply), mine)
	}
	s.memory.Release(s.cfg.Memory)
	if reply, mine := s.Request(t.Context(), "neighbour", posted); reply == nil || !mine {
		t.Error("no reply when there is memory again")
	}
	for range 20 {
		n.upload(0, random(t, 3_000_000))
	}
	if !s.memory.TryAcquire(s.cfg.Memory) {
		t.Error("requests that are over still hold memory")
	}
}

func TestSlowMemberIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, 0, 0)
		content := random(t, 100)
		n.nodes[0].cfg.Send = func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		began := time.Now()
		u := n.upload(0, content)
		if took := time.Since(began); took != lateness || n.keeps(u.ID) != "0" {
			t.Errorf("took %v, kept by %q", took, n.keeps(u.ID))
		}
		for _, node := range n.nodes {
			node.Close()
		}
	})
}

func TestRunSweepsAndRepairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, 0, 0)
		n.down(true, 1)
		u := n.upload(0, random(t, 100), "x-fs-ttl", "86400")
		n.down(false, 1)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { n.nodes[1].Run(ctx) })
		synctest.Wait()
		if got := n.keeps(u.ID); got != "01" {
			t.Errorf("kept by %q after the start", got)
		}
		if err := os.Remove(filepath.Join(n.nodes[1].dir, u.ID)); err != nil {
			t.Fatal(err)
		}
		n.nodes[1].store.drop(parseID(t, u.ID))
		n.nodes[1].Wake()
		synctest.Wait()
		if got := n.keeps(u.ID); got != "01" {
			t.Errorf("kept by %q after a new list", got)
		}
		n.nodes[1].store.drop(parseID(t, u.ID))
		time.Sleep(11 * time.Minute)
		if got := n.keeps(u.ID); got != "01" {
			t.Errorf("kept by %q after a while", got)
		}
		n.pass(24 * time.Hour)
		time.Sleep(time.Minute)
		if got := n.keeps(u.ID); got != "0" {
			t.Errorf("kept by %q after its end", got)
		}
		stop()
		running.Wait()
		for _, node := range n.nodes {
			node.Close()
		}
	})
}

func TestClosedServiceDoesNotAnswer(t *testing.T) {
	n := newNetwork(t, 0)
	n.nodes[0].Close()
	_, posted := post(t, n.nodes[0], n.nodes[0].keys.X25519(), onion.V4Request{Method: "POST", Endpoint: "/file", Body: random(t, 10)}.Encode())
	if reply, mine := n.nodes[0].Request(t.Context(), "neighbour", posted); reply != nil || !mine {
		t.Errorf("a reply of %d bytes, mine %t", len(reply), mine)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(onion.V4Request{Method: "POST", Endpoint: "/file", Body: []byte("x")}.Encode())
	f.Add(onion.V4Request{Method: "GET", Endpoint: "/file/" + attachment.IDOf([]byte("x")).String() + "/info"}.Encode())
	f.Add(onion.V4Request{Method: "POST", Endpoint: "/file/" + attachment.IDOf([]byte("x")).String() + "/extend", Headers: map[string]string{"X-FS-TTL": "30"}}.Encode())
	f.Add([]byte(`l99:{"method":"GET"`))
	n := newNetwork(f, 0)
	n.open(0, 64*minFile)
	f.Fuzz(func(t *testing.T, payload []byte) {
		hold := &held{of: n.nodes[0].memory}
		defer hold.release()
		r := n.nodes[0].answer(t.Context(), "neighbour", payload, hold)
		switch r.Code {
		case 200, 400, 404, 405, 413, 507:
		default:
			t.Errorf("%d %q", r.Code, r.Body)
		}
		if got := n.nodes[0].Stats(); got.Bytes > got.Quota {
			t.Errorf("%+v", got)
		}
	})
}

func FuzzPeer(f *testing.F) {
	id := attachment.IDOf([]byte("x"))
	for verb, d := range map[string]bt.Dict{
		verbRead:   {"i": id[:], "n": 10, "o": 0},
		verbOffer:  {"e": int64(1_800_000_000_000), "i": id[:], "s": 100, "u": 1},
		verbDigest: {},
		verbList:   {"a": "", "b": 1},
	} {
		f.Add(verb, must(bt.Marshal(d)))
	}
	n := newNetwork(f, 0, 0)
	n.upload(0, []byte("x"))
	from := n.nodes[1].keys.Ed25519()
	f.Fuzz(func(t *testing.T, verb string, dict []byte) {
		answer := n.nodes[0].Peer(t.Context(), from, [][]byte{[]byte(verb), dict})
		if len(answer) != 2 || string(answer[0]) == "500" {
			t.Errorf("%q", answer)
		}
	})
}

func BenchmarkKeepAndRead(b *testing.B) {
	n := newNetwork(b, 0)
	n.open(0, 1<<40)
	for _, size := range []int{1_000, 1_000_000} {
		content := random(b, size)
		b.Run(fmt.Sprintf("keep %d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			i := uint32(0)
			for b.Loop() {
				i++
				binary.BigEndian.PutUint32(content, i)
				m := meta{attachment.IDOf(content), int64(size), 1, n.now().Add(time.Hour).UnixMilli()}
				if _, err := n.nodes[0].keep(b.Context(), m, content); err != nil {
					b.Fatal(err)
				}
			}
		})
		m := meta{attachment.IDOf(content), int64(size), 1, n.now().Add(time.Hour).UnixMilli()}
		if _, err := n.nodes[0].keep(b.Context(), m, content); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("read %d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := n.nodes[0].store.read(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDigest(b *testing.B) {
	n := newNetwork(b, 0)
	for range 100_000 {
		n.nodes[0].store.add(attachment.IDOf(random(b, 8)), entry{1, n.now().Add(time.Hour).UnixMilli()})
	}
	for b.Loop() {
		n.nodes[0].digest()
	}
}
