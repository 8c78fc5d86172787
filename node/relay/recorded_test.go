package relay

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// recorded is what the real storage server did with requests that were good or bad
// as HTTP goes, and with those that came when it was not ready.
type recorded struct {
	Raw []struct {
		Name, Transport, Sent, Received string
		Closed                          bool `json:"closed_by_server"`
	}
	Exchanges []struct {
		Name, HTTP, Body, Response, Why string
		Status                          int
		Header                          map[string]string
		ResponseHeaders                 map[string]string `json:"response_headers"`
	}
}

func loadRecorded(t *testing.T) (r recorded) {
	t.Helper()
	b, err := os.ReadFile("testdata/storage-server-2.8.0.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// timeless makes answers comparable that have the time in them, or the network's
// fork, which a test of HTTP need not have.
func timeless(s string) string {
	s = regexp.MustCompile(`"(t|timestamp)":\d+`).ReplaceAllString(s, `"$1":0`)
	return regexp.MustCompile(`"hf":\[\d+,\d+\]`).ReplaceAllString(s, `"hf":[]`)
}

func TestRoutesAndReadinessEqualTheStorageServers(t *testing.T) {
	r := loadRecorded(t)
	if len(r.Exchanges) < 26 {
		t.Fatalf("only %d recorded exchanges", len(r.Exchanges))
	}
	net := network3(t)
	for _, c := range r.Exchanges {
		t.Run(c.Name, func(t *testing.T) {
			if c.Why != "" {
				net.nodes[0].notReady.Store(&[]string{c.Why})
				defer net.nodes[0].notReady.Store(nil)
			}
			method, path, _ := strings.Cut(c.HTTP, " ")
			var header []string
			for k, v := range c.Header {
				header = append(header, k, v)
			}
			got := net.send(0, method, path, strings.NewReader(c.Body), header...)
			if got.status != c.Status || timeless(got.body) != timeless(c.Response) {
				t.Errorf("got %v, want %d %q", got, c.Status, c.Response)
			}
			for k, want := range c.ResponseHeaders {
				switch have := got.header.Get(k); {
				case k == pingKeyHeader: // another node's
					if len(have) != len(want) {
						t.Errorf("%s: %q", k, have)
					}
				case have != want:
					t.Errorf("%s: %q, want %q", k, have, want)
				}
			}
		})
	}
}

// otherwise is what this node does differently. Statuses are the same; pages that
// the HTTP library of the storage server makes are not imitated.
var otherwise = map[string]string{
	"content-length not a number":  "HTTP/1.1 400 ",
	"missing Host header":          "HTTP/1.1 400 ",
	"HTTP/1.0":                     "HTTP/1.0 505 ",
	"garbage instead of HTTP":      "HTTP/1.1 400 ", // 505 there
	"two pipelined requests":       "HTTP/1.1 200 ", // no answer at all there
	"plain HTTP to the HTTPS port": "",
}

func TestHTTPEqualsTheStorageServers(t *testing.T) {
	r := loadRecorded(t)
	if len(r.Raw) != 13 {
		t.Fatalf("%d recorded exchanges", len(r.Raw))
	}
	const short = 300 * time.Millisecond
	network := network3(t, func(k int, c *Config) { c.Limits.Idle, c.Limits.Request = short, 2*short })
	addr := network.nodes[0].addr.String()
	for _, c := range r.Raw {
		t.Run(c.Name, func(t *testing.T) {
			var conn net.Conn
			var err error
			if c.Transport == "raw TCP" {
				conn, err = net.Dial("tcp", addr)
			} else {
				conn, err = tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, strings.Replace(c.Sent, "@8192@", strings.Repeat("a", 8192), 1))
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			b, err := io.ReadAll(conn) // an idle connection is closed after a while in any case
			if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
				t.Fatalf("the connection stays open after %q", b)
			}
			if want, ok := otherwise[c.Name]; ok {
				if !bytes.HasPrefix(b, []byte(want)) {
					t.Errorf("got %q, want %q…", b, want)
				}
				return
			}
			head, body, _ := strings.Cut(string(b), "\r\n\r\n")
			wantHead, wantBody, _ := strings.Cut(c.Received, "\r\n\r\n")
			if strings.HasPrefix(wantHead, "HTTP/1.1 100") {
				if !strings.HasPrefix(head, "HTTP/1.1 100 Continue") {
					t.Errorf("first came %q", head)
				}
				head, body, _ = strings.Cut(body, "\r\n\r\n")
				wantHead, wantBody, _ = strings.Cut(wantBody, "\r\n\r\n")
			}
			if timeless(body) != timeless(wantBody) {
				t.Errorf("body %q, want %q", body, wantBody)
			}
			for i, line := range strings.Split(wantHead, "\r\n") {
				switch {
				case line == "", strings.HasPrefix(line, "Date:"):
				case i == 0: // the reason of 413 has another name by now
					if len(head) < 12 || head[:12] != line[:12] {
						t.Errorf("status line of %q, want %q", head, line)
					}
				case !strings.Contains(head+"\r\n", line+"\r\n"):
					t.Errorf("%q lacks %q", head, line)
				}
			}
		})
	}
}
