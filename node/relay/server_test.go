package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/node/rpc"
)

func TestRoutes(t *testing.T) {
	net := network3(t)
	key := net.nodes[0].keys.Ed25519()
	tests := []struct {
		name, method, path string
		body               string
		header             []string
		status             int
		want               string
		contentType        string
	}{
		{"a ping is answered with an empty body", "POST", "/ping_test/v1", "", nil, 200, "", "text/plain"},
		{"the version can be read", "GET", "/get_stats/v1", "", nil, 200, `{"version":"2.8.0"}`, "application/json"},
		{"a storage error is plain text", "POST", "/storage_rpc/v1", "{nope", nil, 400, "invalid json", "text/plain"},
		{"no body is a storage error too", "POST", "/storage_rpc/v1", "", nil, 400, "invalid json", "text/plain"},
		{"a query string is ignored", "POST", "/storage_rpc/v1?x=1", "{nope", nil, 400, "invalid json", "text/plain"},
		{"an old client that wants to poll long is sent away", "POST", "/storage_rpc/v1", info, []string{"X-Loki-Long-Poll", "1"},
			410, "long polling is no longer supported, client upgrade required", "text/plain"},
		{"a route exists for one method only", "GET", "/storage_rpc/v1", "", nil, 404, "get /storage_rpc/v1 Not Found", "text/plain"},
		{"a trailing slash is another path", "POST", "/storage_rpc/v1/", "", nil, 404, "post /storage_rpc/v1/ Not Found", "text/plain"},
		{"the first onion route is gone", "POST", "/onion_req/v1", "", nil, 404, "post /onion_req/v1 Not Found", "text/plain"},
		{"links are not on the side that clients see", "POST", "/link/v1/onion_request", "", nil, 404, "post /link/v1/onion_request Not Found", "text/plain"},
		{"an empty onion request is named as such", "POST", "/onion_req/v2", "", nil, 400,
			"Error parsing onion request: Unexpected payload size; expected ciphertext size", "text/plain"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := net.send(0, tt.method, tt.path, strings.NewReader(tt.body), tt.header...)
			if got.status != tt.status || got.body != tt.want {
				t.Errorf("got %v, want %d %q", got, tt.status, tt.want)
			}
			if h := got.header.Get("Server"); h != "Oxen Storage Server/2.8.0" {
				t.Errorf("Server: %q", h)
			}
			if h := got.header.Get("Content-Type"); h != tt.contentType {
				t.Errorf("Content-Type: %q, want %q", h, tt.contentType)
			}
		})
	}

	t.Run("a storage answer is JSON", func(t *testing.T) {
		got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info))
		if got.status != 200 || got.header.Get("Content-Type") != "application/json" || !strings.Contains(got.body, `"version":[2,8,0]`) {
			t.Errorf("got %v, %v", got, got.header)
		}
	})
	t.Run("a ping names the node's key", func(t *testing.T) {
		got := net.send(0, "POST", "/ping_test/v1", nil)
		if h := got.header.Get(pingKeyHeader); h != base64.StdEncoding.EncodeToString(key[:]) {
			t.Errorf("got %q", h)
		}
		if k, err := Ping(t.Context(), nil, net.nodes[0].addr); k != key || err != nil {
			t.Errorf("Ping: %x, %v", k, err)
		}
	})
}

func TestNotReady(t *testing.T) {
	net := network3(t, func(k int, c *Config) { c.Limits.Body = 100 })
	net.nodes[0].notReady.Store(&[]string{"not in any swarm", "shutting down"})
	const want = "Service node is not ready: not in any swarm; shutting down\n"
	for _, path := range []string{"/storage_rpc/v1", "/onion_req/v2"} {
		// Readiness is looked at before anything else, the size included.
		if got := net.send(0, "POST", path, strings.NewReader(strings.Repeat("x", 101))); got.status != 503 || got.body != want {
			t.Errorf("%s: got %v", path, got)
		}
	}
	if got := net.send(0, "POST", "/ping_test/v1", nil); got.status != 200 {
		t.Errorf("a ping is answered all the same: got %v", got)
	}
}

func TestRequestsOverTheSizeLimit(t *testing.T) {
	net := network3(t)
	t.Run("judged by the header before any byte of the body", func(t *testing.T) {
		c, err := tls.Dial("tcp", net.nodes[0].addr.String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "POST /onion_req/v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 10485761\r\n\r\n")
		in := bufio.NewReader(c)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 413 || string(body) != "Request body too large" {
			t.Errorf("got %d %q", resp.StatusCode, body)
		}
		if _, err := in.ReadByte(); err != io.EOF {
			t.Errorf("the connection stays open: %v", err)
		}
	})
	t.Run("counted when there is no such header", func(t *testing.T) {
		small := network3(t, func(k int, c *Config) { c.Limits.Body = 20_000 })
		endless := struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 20_001))}
		if got := small.send(0, "POST", "/onion_req/v2", endless); got.status != 413 || got.body != "Request body too large" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("the limit itself is still fine", func(t *testing.T) {
		small := network3(t, func(k int, c *Config) { c.Limits.Body = 20_000 })
		endless := struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 20_000))}
		if got := small.send(0, "POST", "/storage_rpc/v1", endless); got.status != 400 || got.body != "invalid json" {
			t.Errorf("got %v", got)
		}
	})
}

func TestRateLimitIsForStorageRequestsOnly(t *testing.T) {
	now := time.Now()
	net := network3(t, func(k int, c *Config) { c.Now = func() time.Time { return now } })
	c := client(t)
	for i := range 600 {
		if got := net.sendWith(c, 0, "POST", "/storage_rpc/v1", strings.NewReader("x")); got.status != 400 {
			t.Fatalf("request %d: got %v", i, got)
		}
	}
	if got := net.sendWith(c, 0, "POST", "/storage_rpc/v1", strings.NewReader("x")); got.status != 429 || got.body != "Too Many Requests\n" {
		t.Errorf("request 601: got %v", got)
	}
	if got := net.sendWith(c, 0, "POST", "/onion_req/v2", strings.NewReader("x")); got.status != 400 {
		t.Errorf("an onion request: got %v", got)
	}
}

func TestMoreThanANodeCanDo(t *testing.T) {
	t.Run("more jobs than allowed", func(t *testing.T) {
		started, end := make(chan struct{}), make(chan struct{})
		net := network3(t, func(k int, c *Config) {
			c.Limits.Jobs = 1
			c.Storage = storageFunc(func(context.Context, []byte) rpc.Response {
				started <- struct{}{}
				<-end
				return rpc.Response{Status: 200, Body: "done"}
			})
		})
		var first sync.WaitGroup
		first.Go(func() {
			if got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info)); got.body != "done" {
				t.Errorf("the first: got %v", got)
			}
		})
		<-started
		if got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info)); got.status != 503 || got.body != "Server busy, try again later" {
			t.Errorf("the second: got %v", got)
		}
		close(end)
		first.Wait()
	})
	t.Run("more bytes than allowed", func(t *testing.T) {
		net := network3(t, func(k int, c *Config) { c.Limits.Memory = 16 << 10 })
		big := strings.NewReader(strings.Repeat("x", 100<<10))
		if got := net.send(0, "POST", "/onion_req/v2", big); got.status != 503 || got.body != "Server busy, try again later" {
			t.Errorf("got %v", got)
		}
		if got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info)); got.status != 200 {
			t.Errorf("the memory was not given back: got %v", got)
		}
	})
	t.Run("more connections than allowed", func(t *testing.T) {
		started, end := make(chan struct{}), make(chan struct{})
		net := network3(t, func(k int, c *Config) {
			c.Limits.Connections = 1
			c.Storage = storageFunc(func(context.Context, []byte) rpc.Response {
				started <- struct{}{}
				<-end
				return rpc.Response{Status: 200, Body: "done"}
			})
		})
		idle := dialTLS(t, net.nodes[0].addr.String())
		var first sync.WaitGroup
		first.Go(func() { // the idle one makes place
			if got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info)); got.body != "done" {
				t.Errorf("the first: got %v", got)
			}
		})
		<-started
		awaitClosed(t, idle)
		awaitClosed(t, dial(t, net.nodes[0].addr.String())) // a busy one does not
		close(end)
		first.Wait()
	})
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dialTLS(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// awaitClosed returns what still comes until the other side closes.
func awaitClosed(t *testing.T, c net.Conn) string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b, err := io.ReadAll(c)
	if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
		t.Fatalf("the server did not close the connection; it sent %q", b)
	}
	return string(b)
}

func TestSlowStrangersAreCutOff(t *testing.T) {
	const short = 50 * time.Millisecond
	tests := []struct {
		name  string
		limit func(l *Limits)
		send  string // over TLS; empty for a connection that never begins with TLS
		want  string // beginning of what comes back
	}{
		{"a connection that says nothing", func(l *Limits) { l.Handshake = short }, "", ""},
		{"a head that never ends", func(l *Limits) { l.Header = short }, "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\n", ""},
		{"a body that never ends", func(l *Limits) { l.Request = short }, "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", ""},
		{"an onion that never ends", func(l *Limits) { l.Request = short }, "POST /onion_req/v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", ""},
		{"a connection that stays idle", func(l *Limits) { l.Idle = short }, "POST /ping_test/v1 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			net := network3(t, func(k int, c *Config) { tt.limit(&c.Limits) })
			addr := net.nodes[0].addr.String()
			if tt.send == "" {
				if got := awaitClosed(t, dial(t, addr)); got != "" {
					t.Errorf("got %q", got)
				}
				return
			}
			c := dialTLS(t, addr)
			io.WriteString(c, tt.send)
			if got := awaitClosed(t, c); !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestNotHTTPS(t *testing.T) {
	net := network3(t)
	c := dial(t, net.nodes[0].addr.String())
	io.WriteString(c, "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	awaitClosed(t, c)
	c = dialTLS(t, net.nodes[0].addr.String())
	io.WriteString(c, "POST /storage_rpc/v1 HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	if got := awaitClosed(t, c); !strings.HasPrefix(got, "HTTP/1.0 505 ") {
		t.Errorf("HTTP/1.0: got %q", got)
	}
	// So does curl -0: it names the protocol before.
	old, err := tls.Dial("tcp", net.nodes[0].addr.String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	io.WriteString(old, "GET /get_stats/v1 HTTP/1.0\r\n\r\n")
	if got := awaitClosed(t, old); !strings.HasPrefix(got, "HTTP/1.0 505 ") || !strings.HasSuffix(got, "This server does not support HTTP/1.0.") {
		t.Errorf("HTTP/1.0, agreed upon in TLS: got %q", got)
	}
	if got := net.send(0, "POST", "/ping_test/v1", nil); got.status != 200 {
		t.Errorf("afterwards: got %v", got)
	}
}

func TestJobMayTakeLongerThanItsRequest(t *testing.T) {
	net := network3(t, func(k int, c *Config) {
		c.Limits.Request, c.Limits.Header, c.Limits.Idle = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
		c.Limits.Hop = 300 * time.Millisecond
		c.Storage = storageFunc(func(ctx context.Context, _ []byte) rpc.Response {
			<-ctx.Done() // as a peer that never answers
			return rpc.Response{Status: 200, Body: "done"}
		})
	})
	if got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info)); got.body != "done" {
		t.Errorf("got %v", got)
	}
}

func TestPanicHarmsNobodyElse(t *testing.T) {
	var logged bytes.Buffer
	net := network3(t, func(k int, c *Config) {
		c.Limits.Jobs = 1
		if k == 0 {
			c.Log = slog.New(slog.NewTextHandler(&logged, nil))
		}
		c.Storage = storageFunc(func(_ context.Context, body []byte) rpc.Response {
			if string(body) == "bad" {
				panic("a mistake")
			}
			return rpc.Response{Status: 200, Body: "done"}
		})
	})
	for range 2 {
		c := dialTLS(t, net.nodes[0].addr.String())
		io.WriteString(c, "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nbad")
		if got := awaitClosed(t, c); got != "" {
			t.Errorf("got %q", got)
		}
	}
	if got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info)); got.body != "done" {
		t.Errorf("afterwards: got %v", got)
	}
	if err := net.nodes[0].server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if text := logged.String(); !strings.Contains(text, "a mistake") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("logged %q", text)
	}
}

func TestShutdownLetsRequestsEnd(t *testing.T) {
	started, end := make(chan struct{}), make(chan struct{})
	net := network3(t, func(k int, c *Config) {
		c.Storage = storageFunc(func(ctx context.Context, _ []byte) rpc.Response {
			close(started)
			<-end
			return rpc.Response{Status: 200, Body: "done"}
		})
	})
	var both sync.WaitGroup
	both.Go(func() {
		if got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info)); got.status != 200 || got.body != "done" {
			t.Errorf("got %v", got)
		}
	})
	<-started
	both.Go(func() {
		if err := net.nodes[0].server.Shutdown(t.Context()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := net.nodes[0].server.Serve(listen(t, &net.nodes[0].accepted)); err != nil {
			t.Errorf("serving after the end: %v", err)
		}
	})
	close(end)
	both.Wait()
}

func TestShutdownCutsOffWhatDoesNotEnd(t *testing.T) {
	started := make(chan struct{})
	net := network3(t, func(k int, c *Config) {
		c.Storage = storageFunc(func(ctx context.Context, _ []byte) rpc.Response {
			close(started)
			<-ctx.Done()
			return rpc.Response{Status: 200, Body: "done"}
		})
	})
	c := dialTLS(t, net.nodes[0].addr.String())
	io.WriteString(c, "POST /storage_rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	<-started
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := net.nodes[0].server.Shutdown(over); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v", err)
	}
	awaitClosed(t, c)
}

func TestCertificateStays(t *testing.T) {
	dir := t.TempDir()
	first, err := Certificate(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Certificate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Certificate[0], second.Certificate[0]) {
		t.Error("a second start made another certificate")
	}
}
