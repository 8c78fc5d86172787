package devnet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/node/keys"
	"hearth/node/onion"
	"hearth/node/rpc"
	"hearth/node/servicenode"
)

// record is a log in memory.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// figuresOf asks a node for its figures as its owner does.
func figuresOf(t *testing.T, node *servicenode.Node) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "figures-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- node.ServeFigures(ctx, l) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	local := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer local.CloseIdleConnections()
	resp, err := local.Get("http://node/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %v", resp.StatusCode, err)
	}
	return string(b)
}

// Whatever people do, well-behaved or not, the nodes' logs, at their most talkative,
// and their figures name no account, no client, no message, no file, and nobody that
// a request goes on to.
func TestLogsAndFiguresAreSilentAboutPeople(t *testing.T) {
	const from = "127.77.66.55"
	var log record
	dir := t.TempDir()
	n := startNetwork(t, Config{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	c := newClient(t, n)
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	c.http = &http.Client{Transport: transport}

	secrets := map[string]string{"the address of a client": from}
	hide := func(what string, b []byte) {
		secrets[what+" in hexadecimal"] = hex.EncodeToString(b)
		secrets[what+" in base64"] = base64.RawStdEncoding.EncodeToString(b)
	}
	var people []person
	for k := range 3 {
		p := newPerson(t)
		people = append(people, p)
		id, key := p.id.Key(), p.keys.Ed25519()
		hide(fmt.Sprint("account ", k), id[:])
		hide(fmt.Sprint("key ", k), key[:])
	}
	plain := func(at int, path, body string) {
		t.Helper()
		resp, err := c.http.Post("https://"+n.Address(at).String()+path, "", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}

	// Messages: stored, read, deleted, refused, at the wrong swarm, with and without an onion.
	for k, p := range people {
		text := fmt.Sprintf("a secret of person %d", k)
		hash := rpc.MessageHash(p.id, 0, []byte(text))
		raw, err := base64.RawStdEncoding.DecodeString(hash)
		if err != nil {
			t.Fatal(err)
		}
		hide(fmt.Sprint("message hash ", k), raw)
		hide(fmt.Sprint("message ", k), []byte(text))
		_, members := c.list.Of(p.id)
		for _, node := range c.list.Nodes {
			c.ask(node, "store", storeFor(p, text))
		}
		c.inbox(members[0], p)
		bad := storeFor(p, text)
		bad["namespace"], bad["signature"], bad["pubkey_ed25519"] = 3, strings.Repeat("A", 86), fmt.Sprintf("%x", p.keys.Ed25519())
		c.ask(members[0], "store", bad)
		c.ask(members[0], p.id.String(), bad) // an account where a method belongs
		at := n.Number(members[0].Ed25519)
		plain(at, "/storage_rpc/v1", fmt.Sprintf(`{"method":"retrieve","params":{"pubkey":%q}}`, p.id))
		plain(at, "/storage_rpc/v1", fmt.Sprintf(`{"method":"get_swarm","params":{"pubkey":%q}}`, p.id))
		plain(at, "/storage_rpc/v1", fmt.Sprintf(`{"method":%q,"params":{%q:1}`, p.id, p.id))
		plain(at, "/"+p.id.String(), "x")
		c.ask(members[0], "monitor.messages", map[string]any{"pubkey": p.id.String()})
		sign := base64.StdEncoding.EncodeToString(p.keys.Sign(rpc.DeleteText([]string{hash})))
		if status, answer := c.ask(members[0], "delete", map[string]any{"pubkey": p.id.String(), "pubkey_ed25519": fmt.Sprintf("%x", p.keys.Ed25519()), "messages": []string{hash}, "signature": sign}); status != 200 {
			t.Errorf("delete: %d %v", status, answer)
		}
	}

	// Onions: garbage, to nobody, to a web server, with an account where it does not belong.
	id := people[0].id.String()
	nobody := keys.FromSeed([32]byte{77}).Ed25519()
	hide("a node that a request goes on to", nobody[:])
	for _, control := range []string{
		`{"ephemeral_key":"` + id + `"}`,
		`{"ephemeral_key":"` + id[2:] + `","enc_type":"` + id + `"}`,
		`{"ephemeral_key":"` + id[2:] + `"}`,
		id,
	} {
		plain(1, "/onion_req/v2", string(onion.EncodeFrame([]byte(id), []byte(control))))
	}
	first := onion.Hop{Ed25519: c.list.Nodes[0].Ed25519, X25519: c.list.Nodes[0].X25519}
	lost, err := onion.Build(strings.NewReader(strings.Repeat("0123456789abcdef", 100)), []onion.Hop{first}, onion.Hop{Ed25519: nobody, X25519: first.X25519}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	plain(n.Number(first.Ed25519), "/onion_req/v2", string(lost.Body))
	secrets["the host of a web server"] = "a-secret-place.example"
	c.post(onion.WebServer{Host: "a-secret-place.example", Target: "/oxen/v4/lsrpc", Protocol: "http", Port: 80, X25519: first.X25519}, []byte("x"))

	// Connections that go wrong.
	for _, what := range []string{"", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01", strings.Repeat("x", 5000)} {
		conn, err := dialer.Dial("tcp", n.Address(2).String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, what)
		conn.(*net.TCPConn).SetLinger(0) // a reset, whose error has both addresses in it
		conn.Close()
		secure, err := tls.DialWithDialer(dialer, "tcp", n.Address(2).String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(secure, what)
		secure.NetConn().(*net.TCPConn).SetLinger(0)
		secure.NetConn().Close()
	}

	// Files: kept, damaged, lost from the disk, extended, asked for and not there.
	data := content(t, 300_000)
	up := c.upload(anyNode, data)
	secrets["a file"] = up.ID
	members, _ := c.home(t, up.ID)
	for k, member := range members {
		file := filepath.Join(dir, fmt.Sprintf("node-%03d", n.Number(member.Ed25519)), "files", up.ID)
		if k == 0 {
			err = os.WriteFile(file, bytes.Repeat([]byte("x"), len(data)+8), 0o600)
			later := time.Now().Add(time.Hour)
			os.Chtimes(file, later, later)
		} else if k == 1 {
			err = os.Remove(file)
		}
		if err != nil {
			t.Fatal(err)
		}
		if r := c.download(fileServer(member), up.ID, member); r.Code != 200 || !bytes.Equal(r.Body, data) {
			t.Errorf("download: %d", r.Code)
		}
	}
	c.fileRequest(anyNode, onion.V4Request{Method: "POST", Endpoint: "/file/" + up.ID + "/extend"})
	c.fileRequest(anyNode, onion.V4Request{Method: "GET", Endpoint: "/file/" + up.ID + "/" + id})
	c.fileRequest(anyNode, onion.V4Request{Method: "GET", Endpoint: "/file/" + strings.Repeat("a", 44)})

	// A member that goes and comes back, with requests while it is away.
	_, swarm := c.list.Of(people[0].id)
	away := n.Number(swarm[1].Ed25519)
	if err := n.StopNode(away); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"method": "store", "params": storeFor(people[0], "while it was away")})
	if err != nil {
		t.Fatal(err)
	}
	plain(n.Number(swarm[0].Ed25519), "/storage_rpc/v1", string(body))
	if err := n.StartNode(away); err != nil {
		t.Fatal(err)
	}
	back, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := n.Wait(back); err != nil {
		t.Fatal(err)
	}
	c.inbox(swarm[1], people[0])

	figures := ""
	for k := 1; k <= 9; k++ {
		figures += figuresOf(t, n.Node(k))
	}
	var stops sync.WaitGroup
	for k := 1; k <= 9; k++ { // what they say at the end counts, too
		stops.Go(func() {
			if err := n.StopNode(k); err != nil {
				t.Error(err)
			}
		})
	}
	stops.Wait()
	for _, must := range []string{"hearth_ready 1\n", `hearth_requests_total{kind="onion",code="200"}`, `hearth_requests_total{kind="link_onion_request",code="200"}`,
		`hearth_requests_total{kind="storage",code="401"}`, `hearth_refused_total{why="handshake"}`, "hearth_files_damaged_total 1\n"} {
		if !strings.Contains(figures, must) {
			t.Errorf("the figures lack %s", must)
		}
	}
	text := log.String()
	for _, must := range []string{"level=DEBUG", "no TLS handshake", "onion request refused", "a kept file cannot be read"} {
		if !strings.Contains(text, must) {
			t.Errorf("the log lacks %q: nothing is proved by its silence", must)
		}
	}
	for what, secret := range secrets {
		for where, said := range map[string]string{"log": text, "figures": figures} {
			if at := strings.Index(strings.ToLower(said), strings.ToLower(secret)); at >= 0 {
				t.Errorf("%s is in the %s: …%s…", what, where, said[max(0, at-150):min(len(said), at+len(secret)+50)])
			}
		}
	}
}
