package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/keys"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// piped is a server in a bubble of synctest. Connections are pipes without any
// buffer, so that what is not read is not sent.
type piped struct {
	t      *testing.T
	server *Server
	conns  chan net.Conn
	done   chan struct{}
}

func (p *piped) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *piped) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p *piped) Addr() net.Addr { return &net.TCPAddr{} }

var testCertificate = sync.OnceValues(func() (tls.Certificate, error) {
	dir, err := os.MkdirTemp("", "relay-*")
	if err != nil {
		return tls.Certificate{}, err
	}
	defer os.RemoveAll(dir)
	return Certificate(dir)
})

// pipe starts a server whose storage answers with a number of bytes.
func pipe(t *testing.T, answer int, limits Limits) (p *piped, stop func()) {
	t.Helper()
	cert, err := testCertificate()
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat("x", answer)
	p = &piped{t: t, conns: make(chan net.Conn), done: make(chan struct{})}
	p.server, err = New(Config{
		Keys: keys.FromSeed([32]byte{1}), Cert: cert, Limits: limits, Now: time.Now,
		List: func() *swarm.List { return nil }, Ready: func() []string { return nil },
		Storage: storageFunc(func(context.Context, []byte) rpc.Response { return rpc.Response{Status: 200, Body: body} }),
	})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { p.server.Serve(p) })
	return p, func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		p.server.Shutdown(over)
		serving.Wait()
		time.Sleep(lingering)
	}
}

// lingering is more than net/http waits for the other side before it closes a
// connection with a refusal on it.
const lingering = time.Second

// dial connects from an address.
func (p *piped) dial(from string) *tls.Conn {
	p.t.Helper()
	client, server := net.Pipe()
	p.conns <- elsewhereConn{server, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}
	c := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		p.t.Fatal(err)
	}
	return c
}

// ask sends a storage request of a size, so many bytes a second (0 for at once),
// reads the answer at that pace, and returns its status and how long all took.
func ask(c *tls.Conn, size, sendRate, readRate int) (status string, read int, took time.Duration) {
	began := time.Now()
	paced := func(rate, n int) {
		if rate > 0 {
			time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
		}
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		fmt.Fprintf(c, "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
		piece := make([]byte, 16<<10)
		for left := size; left > 0; left -= len(piece) {
			piece = piece[:min(left, len(piece))]
			if _, err := c.Write(piece); err != nil {
				return
			}
			paced(sendRate, len(piece))
		}
	}()
	in := bufio.NewReaderSize(c, 16<<10)
	resp, err := http.ReadResponse(in, nil)
	status = "closed"
	if err == nil {
		status = strconv.Itoa(resp.StatusCode)
		piece := make([]byte, 16<<10)
		for {
			n, err := resp.Body.Read(piece)
			read += n
			if err == io.EOF {
				break
			}
			if err != nil {
				status = "broken off"
				break
			}
			paced(readRate, n)
		}
	}
	took = time.Since(began)
	c.NetConn().Close()
	<-written
	return status, read, took
}

func TestWhoKeepsUpAPaceIsServedAndWhoDawdlesIsNot(t *testing.T) {
	const kib = 1 << 10
	for _, tt := range []struct {
		name           string
		size, answer   int // bytes
		send, read     int // bytes a second, 0 for at once
		status         string
		least, longest time.Duration
	}{
		{"everything at once", 4 << 20, 4 << 20, 0, 0, "200", 0, time.Second},
		{"the largest file over a slow line", 10 << 20, 10, 160 * kib, 0, "200", 60 * time.Second, 70 * time.Second},
		{"a sender that dawdles", 4 << 20, 10, 40 * kib, 0, "closed", 12 * time.Second, 30 * time.Second},
		{"a sender that stops nearly", 4 << 20, 10, kib, 0, "closed", 12 * time.Second, 32 * time.Second},
		{"the largest answer over a slow line", 10, 10 << 20, 0, 160 * kib, "200", 60 * time.Second, 70 * time.Second},
		{"a reader that dawdles", 10, 10 << 20, 0, 40 * kib, "broken off", 30 * time.Second, 60 * time.Second},
		{"a reader that stops nearly", 10, 10 << 20, 0, kib, "broken off", 30 * time.Second, 50 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, stop := pipe(t, tt.answer, Limits{})
				defer stop()
				c := p.dial("192.0.2.1:1")
				status, read, took := ask(c, tt.size, tt.send, tt.read)
				if status != tt.status || took < tt.least || took > tt.longest {
					t.Errorf("%s after %v and %d bytes, want %s between %v and %v", status, took, read, tt.status, tt.least, tt.longest)
				}
				time.Sleep(lingering)
				if l := p.server.Load(); l.Memory != 0 || l.Connections != 0 {
					t.Errorf("left: %+v", l)
				}
			})
		})
	}
}

func TestMoreBulkThanPeopleMoveIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := pipe(t, 10, Limits{})
		defer stop()
		const size = 8 << 20
		from := func(who string) time.Duration {
			status, _, took := ask(p.dial(who), size, 0, 0)
			if status != "200" {
				t.Errorf("an upload from %s: %s", who, status)
			}
			return took
		}
		var took []time.Duration
		for range 20 {
			took = append(took, from("192.0.2.1:1"))
		}
		if took[15] > time.Second || took[17] < 3*time.Second || took[19] > 6*time.Second {
			t.Errorf("20 uploads of 8 MiB took %v: want 16 at once, the others at 2 MiB/s", took)
		}
		if d := from("192.0.2.2:1"); d > time.Second {
			t.Errorf("somebody else's took %v", d)
		}
		if d := from("127.0.0.1:1"); d > time.Second {
			t.Errorf("a developer's took %v", d)
		}
		// Small requests are none of it.
		if status, _, d := ask(p.dial("192.0.2.1:2"), 200<<10, 0, 0); status != "200" || d > time.Second {
			t.Errorf("a message of the first took %v, %s", d, status)
		}
		time.Sleep(2 * time.Minute)
		if d := from("192.0.2.1:1"); d > time.Second {
			t.Errorf("two minutes later it takes %v", d)
		}
	})
}

func TestOneAddressCannotTakeAllMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := pipe(t, 10, Limits{Memory: 32 << 20})
		defer stop()
		var stalled []*tls.Conn
		stall := func(from string) *tls.Conn {
			c := p.dial(from)
			fmt.Fprintf(c, "POST /onion_req/v2 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 10<<20)
			piece := make([]byte, 9<<20)
			go c.Write(piece)
			stalled = append(stalled, c)
			return c
		}
		for range 4 {
			stall("192.0.2.1:1")
		}
		time.Sleep(time.Second)
		if held := p.server.Load().Memory; held > 16<<20 || held < 8<<20 {
			t.Errorf("one address holds %d MiB of 32", held>>20)
		}
		if status, _, _ := ask(p.dial("192.0.2.1:2"), 8<<20, 0, 0); status == "200" {
			t.Error("a fifth was taken")
		}
		if status, _, _ := ask(p.dial("192.0.2.2:1"), 8<<20, 0, 0); status != "200" {
			t.Errorf("somebody else: %s", status)
		}
		for _, c := range stalled {
			c.NetConn().Close()
		}
	})
}

func TestBulkKnowsALimitedNumberOfAddresses(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	b := newBulk(func() time.Time { return now })
	prefix := func(k int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), 32)
	}
	for k := range bulkMost {
		if b.move(prefix(k), bulkBurst) != 0 {
			t.Fatal("slowed down within the burst")
		}
	}
	for k := range 100 {
		b.move(prefix(bulkMost+k), bulkBurst)
	}
	if len(b.debt) > bulkMost+1 {
		t.Errorf("%d addresses known", len(b.debt))
	}
	if b.move(prefix(bulkMost+200), 1) == 0 {
		t.Error("those beyond are not slowed down together")
	}
	now = now.Add(time.Hour)
	if b.move(prefix(bulkMost+200), bulkBurst) != 0 || len(b.debt) > 2 {
		t.Errorf("an hour later %d addresses are known", len(b.debt))
	}
}

func TestRequestsAtEveryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := pipe(t, 10, Limits{})
		defer stop()
		for _, tt := range []struct {
			name, send, want string
		}{
			{"a body at the limit", "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n" + strings.Repeat("x", 10<<20), "HTTP/1.1 200 OK\r\n"},
			{"a body over it, by its header", "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 10485761\r\n\r\n", "HTTP/1.1 413 Request Entity Too Large\r\n"},
			{"a body over it, in chunks", "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nA00001\r\n" + strings.Repeat("x", 10<<20+1) + "\r\n0\r\n\r\n", "HTTP/1.1 413 Request Entity Too Large\r\n"},
			{"a head over its limit", "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", "HTTP/1.1 431 "},
			{"a head at it", "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 15<<10) + "\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n"},
			{"a length that is none", "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n", "HTTP/1.1 400 "},
			{"a length below zero", "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400 "},
			{"two lengths", "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "HTTP/1.1 400 "},
			{"no host", "POST /storage_rpc/v1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 400 "},
			{"no HTTP", strings.Repeat("\x00", 5000), "HTTP/1.1 400 "},
			{"an upgrade to something else", "GET /get_stats/v1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "HTTP/1.1 200 OK\r\n"},
		} {
			c := p.dial("192.0.2.1:1")
			go io.WriteString(c, tt.send)
			b := make([]byte, len(tt.want))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != tt.want {
				t.Errorf("%s: got %q, %v, want %q", tt.name, b, err, tt.want)
			}
			c.NetConn().Close()
			time.Sleep(lingering)
		}
		if l := p.server.Load(); l.Memory != 0 || l.Connections != 0 {
			t.Errorf("left: %+v", l)
		}
	})
}

// serveAsChild is how this test's binary becomes a node of its own, whose memory
// can be measured.
const serveAsChild = "HEARTH_TEST_RELAY"

func TestMain(m *testing.M) {
	if os.Getenv(serveAsChild) != "" {
		if err := serveChild(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveChild() error {
	cert, err := testCertificate()
	if err != nil {
		return err
	}
	s, err := New(Config{
		Keys: keys.FromSeed([32]byte{1}), Cert: cert, Limits: LimitsFor(96 << 20), Now: time.Now,
		List: func() *swarm.List { return nil }, Ready: func() []string { return nil },
		Storage: storageFunc(func(_ context.Context, body []byte) rpc.Response {
			return rpc.Response{Status: 200, Body: strconv.Itoa(len(body))}
		}),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin) // the parent's end is ours
		os.Exit(0)
	}()
	return s.Serve(l)
}

// child is a node in a process of its own, with the limits of a small board.
type child struct {
	t    *testing.T
	pid  int
	addr string
}

func startChild(t *testing.T) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveAsChild+"=1", "GOMEMLIMIT=96MiB")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &child{t, cmd.Process.Pid, strings.TrimSpace(line)}
}

// memory is the process's resident memory and the most that it was, in bytes.
func (c *child) memory() (now, peak int64) {
	c.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			now = kib << 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			peak = kib << 10
		}
	}
	return now, peak
}

// serves makes sure that somebody else is served, and soon.
func (c *child) serves() {
	c.t.Helper()
	began := time.Now()
	resp, err := client(c.t).Post("https://"+c.addr+"/storage_rpc/v1", "", strings.NewReader("{}"))
	if err != nil {
		c.t.Errorf("others are not served: %v", err)
		return
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 || string(b) != "2" {
		c.t.Errorf("others get %d %q", resp.StatusCode, b)
	}
	if took := time.Since(began); took > 3*time.Second {
		c.t.Errorf("others wait %v", took)
	}
}

// flood opens many connections from many addresses of loopback, and keeps them.
func (c *child) flood(n int, begin func(conn net.Conn) error) {
	c.t.Helper()
	conns := make([]net.Conn, n)
	var all sync.WaitGroup
	work := make(chan int)
	for range 64 {
		all.Go(func() {
			for i := range work {
				d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 3, byte(i%250), 1)}}
				conn, err := d.Dial("tcp", c.addr)
				if err != nil {
					continue // refused is one way to survive
				}
				conns[i] = conn
				if begin != nil {
					_ = begin(conn) // so is cut off
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	all.Wait()
	c.t.Cleanup(func() {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
	})
}

func TestFloodsOfConnections(t *testing.T) {
	const bound = 128 << 20 // of a process that is to get along with 96 MiB
	secure := func(conn net.Conn) (*tls.Conn, error) {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}})
		return c, c.Handshake()
	}
	for _, tt := range []struct {
		name  string
		n     int
		begin func(conn net.Conn) error
	}{
		{"10,000 that say nothing", 10_000, nil},
		{"10,000 that begin with TLS and stop", 10_000, func(conn net.Conn) error {
			_, err := conn.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3})
			return err
		}},
		{"1,000 that say nothing after TLS", 1000, func(conn net.Conn) error {
			_, err := secure(conn)
			return err
		}},
		{"1,000 heads that never end", 1000, func(conn net.Conn) error {
			c, err := secure(conn)
			if err == nil {
				_, err = io.WriteString(c, "POST /onion_req/v2 HTTP/1.1\r\nHost: x\r\nX-A: ")
			}
			return err
		}},
		{"1,000 bodies that promise 10 MiB and send little", 1000, func(conn net.Conn) error {
			c, err := secure(conn)
			if err == nil {
				_, err = io.WriteString(c, "POST /onion_req/v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n"+strings.Repeat("x", 1000))
			}
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := startChild(t)
			before, _ := c.memory()
			c.flood(tt.n, tt.begin)
			c.serves()
			now, peak := c.memory()
			t.Logf("%d MiB before, %d MiB under it, %d MiB at the most", before>>20, now>>20, peak>>20)
			if peak > bound {
				t.Errorf("%d MiB of memory", peak>>20)
			}
		})
	}
}

func TestFloodsOfBytes(t *testing.T) {
	c := startChild(t)
	body := make([]byte, 10<<20)
	var all sync.WaitGroup
	var busy, done sync.Map
	for k := range 24 {
		all.Go(func() {
			resp, err := client(t).Post("https://"+c.addr+"/storage_rpc/v1", "", bytes.NewReader(body))
			if err != nil {
				busy.Store(k, true) // cut off while it sent
				return
			}
			defer resp.Body.Close()
			io.Copy(io.Discard, resp.Body)
			if resp.StatusCode == 200 {
				done.Store(k, true)
			}
		})
	}
	c.serves()
	all.Wait()
	c.serves()
	_, peak := c.memory()
	t.Logf("%d MiB at the most", peak>>20)
	if peak > 160<<20 {
		t.Errorf("24 bodies of 10 MiB at once: %d MiB of memory", peak>>20)
	}
	some := false
	done.Range(func(any, any) bool { some = true; return false })
	if !some {
		t.Error("not one of them was served")
	}
}
