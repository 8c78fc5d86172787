package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hearth/node/onion"
)

// web is a web server with a name of its own.
type web struct {
	host  string
	addr  string
	roots *x509.CertPool
}

// newWeb starts an HTTPS server, or without a host a plain HTTP server.
func newWeb(t *testing.T, host string, serve http.HandlerFunc) *web {
	t.Helper()
	s := httptest.NewUnstartedServer(serve)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	if host == "" {
		s.Start()
		return &web{addr: s.Listener.Addr().String()}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: certificateFrom, NotAfter: certificateTo,
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	w := &web{host: host, roots: x509.NewCertPool()}
	w.roots.AddCert(cert)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	w.addr = s.Listener.Addr().String()
	return w
}

// exit lets a node find the server under its name, on any port.
func (w *web) exit() Exit {
	return Exit{
		Allow: func(netip.Addr) bool { return true },
		Roots: w.roots,
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != w.host {
				return nil, fmt.Errorf("no such host %s", host)
			}
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, w.addr)
		},
	}
}

// webRequest is what a web server got.
type webRequest struct {
	method, url string
	header      http.Header
	body        []byte
}

func readWebRequest(r *http.Request) webRequest {
	body, _ := io.ReadAll(r.Body)
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return webRequest{r.Method, scheme + "://" + r.Host + r.URL.String(), r.Header, body}
}

func TestExitToWebServer(t *testing.T) {
	posted := make(chan webRequest, 1)
	release := make(chan struct{})
	serve := func(w http.ResponseWriter, r *http.Request) {
		got := readWebRequest(r)
		switch r.URL.Path {
		case "/oxen/err/lsrpc":
			w.WriteHeader(418)
			io.WriteString(w, "teapot")
		case "/oxen/created/lsrpc":
			w.WriteHeader(201)
			io.WriteString(w, "made")
		case "/oxen/empty/lsrpc":
			w.WriteHeader(204)
		case "/oxen/redir/lsrpc":
			http.Redirect(w, r, "/oxen/v4/lsrpc", http.StatusFound)
		case "/oxen/slow/lsrpc":
			<-release
		case "/oxen/big/lsrpc":
			w.Write(make([]byte, maxExitAnswer+1))
		default:
			w.Header().Set("Content-Type", "application/x-test")
			w.Header().Set("X-Secret", "stays here")
			io.WriteString(w, "answer")
			posted <- got
		}
	}
	secure := newWeb(t, "files.example.org", serve)
	plain := newWeb(t, "", serve)
	t.Cleanup(func() { close(release) })
	plainPort := plain.addr[strings.LastIndex(plain.addr, ":")+1:]

	const patient, impatient = 0, 1 // nodes
	net := network3(t, func(k int, c *Config) {
		c.Exit = secure.exit()
		if k == impatient {
			c.Exit.Time = 500 * time.Millisecond
		}
		dial := c.Exit.Dial
		c.Exit.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			switch {
			case strings.HasSuffix(addr, ":"+plainPort):
				return dialOther(ctx, plain.addr)
			case strings.HasSuffix(addr, ":1"):
				return dialOther(ctx, "127.0.0.1:1")
			}
			return dial(ctx, network, addr)
		}
		c.Exit.Allow = func(a netip.Addr) bool { return a.String() != "10.1.2.3" }
	})
	askOf := func(t *testing.T, k int, control string) (got reply, open func([]byte) (string, error), sent []byte) {
		sent = onion.EncodeFrame([]byte("for the server"), []byte(control))
		entry, open := layerTo(t, net.nodes[k].keys, sent)
		return net.post(k, entry), open, sent
	}
	ask := func(t *testing.T, control string) (reply, func([]byte) (string, error), []byte) {
		return askOf(t, patient, control)
	}

	allowed := []struct{ name, control, url string }{
		{"over TLS on the port that is the default", `{"host":"files.example.org","target":"/oxen/v4/lsrpc"}`, "https://files.example.org/oxen/v4/lsrpc"},
		{"over TLS on another port", `{"host":"files.example.org","target":"/loki/v3/lsrpc","port":8443}`, "https://files.example.org:8443/loki/v3/lsrpc"},
		{"without TLS", `{"host":"127.0.0.1","target":"/oxen/v4/lsrpc","protocol":"http","port":` + plainPort + `}`, "http://127.0.0.1:" + plainPort + "/oxen/v4/lsrpc"},
	}
	for _, tt := range allowed {
		t.Run(tt.name, func(t *testing.T) {
			got, _, sent := ask(t, tt.control)
			if got.status != 200 || got.body != "answer" {
				t.Fatalf("got %v", got)
			}
			if got.header.Get("Content-Type") != "application/x-test" || got.header.Get("X-Secret") != "" {
				t.Errorf("headers %v", got.header)
			}
			r := <-posted
			if r.method != "POST" || r.url != tt.url || !bytes.Equal(r.body, sent) {
				t.Errorf("the server got %s %s %q", r.method, r.url, r.body)
			}
			if r.header.Get("User-Agent") != "Oxen Storage Server/2.8.0" || r.header.Get("Content-Type") != "application/octet-stream" || r.header.Get("Accept") != "*/*" {
				t.Errorf("the server got headers %v", r.header)
			}
			for name := range r.header {
				switch name {
				case "User-Agent", "Content-Type", "Content-Length", "Accept", "Accept-Encoding":
				default:
					t.Errorf("the server got a header %s", name)
				}
			}
		})
	}

	answers := []struct {
		name, control string
		status        int
		want          string // all of the body, or its beginning before "…"
	}{
		{"the server's status comes back", `{"host":"files.example.org","target":"/oxen/err/lsrpc"}`, 418, "teapot"},
		{"also one that nodes do not pass on", `{"host":"files.example.org","target":"/oxen/created/lsrpc"}`, 201, "made"},
		{"and one without a body", `{"host":"files.example.org","target":"/oxen/empty/lsrpc"}`, 204, ""},
		{"a redirect is not followed", `{"host":"files.example.org","target":"/oxen/redir/lsrpc"}`, 502, "Maximum (0) redirects followed"},
		{"an answer beyond all bounds", `{"host":"files.example.org","target":"/oxen/big/lsrpc"}`, 502, "message over the size limit"},
		{"an unknown host", `{"host":"nowhere.example.org","target":"/oxen/v4/lsrpc"}`, 502, "no such host…"},
		{"a closed port", `{"host":"127.0.0.1","target":"/oxen/v4/lsrpc","port":1}`, 502, "dial tcp 127.0.0.1:1: …"},
		{"a server that does not speak TLS", `{"host":"127.0.0.1","target":"/oxen/v4/lsrpc","port":` + plainPort + `}`, 502, "…"},
		{"a certificate for another name", `{"host":"127.0.0.1","target":"/oxen/v4/lsrpc"}`, 502, "tls: failed to verify…"},
	}
	for _, tt := range answers {
		t.Run(tt.name, func(t *testing.T) {
			got, _, _ := ask(t, tt.control)
			start, whole := strings.CutSuffix(tt.want, "…")
			if got.status != tt.status || !strings.HasPrefix(got.body, start) || !whole && got.body != tt.want {
				t.Errorf("got %v, want %d %q", got, tt.status, tt.want)
			}
		})
	}

	t.Run("a slow server", func(t *testing.T) {
		got, _, _ := askOf(t, impatient, `{"host":"files.example.org","target":"/oxen/slow/lsrpc"}`)
		if got.status != 504 || got.body != "Operation timed out after 500 milliseconds" {
			t.Errorf("got %v", got)
		}
	})

	refused := []struct{ name, control string }{
		{"another path", `{"host":"files.example.org","target":"/file"}`},
		{"a query", `{"host":"files.example.org","target":"/oxen/v4/lsrpc?x=1/lsrpc"}`},
		{"another protocol", `{"host":"files.example.org","target":"/oxen/v4/lsrpc","protocol":"ftp"}`},
		{"a host that is more than a host", `{"host":"a@files.example.org","target":"/oxen/v4/lsrpc"}`},
		{"a host that contains the path", `{"host":"files.example.org/x","target":"/oxen/v4/lsrpc"}`},
		{"a host with brackets that do not match", `{"host":"]127.0.0.1","target":"/oxen/v4/lsrpc"}`},
		{"an address of the own network", `{"host":"10.1.2.3","target":"/oxen/v4/lsrpc"}`},
	}
	for _, tt := range refused {
		t.Run(tt.name+" is refused", func(t *testing.T) {
			got, open, _ := ask(t, tt.control)
			expectSealed(t, got, open, `{"body":"Invalid url","status":400}`)
		})
	}

	t.Run("over a link only what nodes know comes back", func(t *testing.T) {
		req, err := onion.BuildServer(rand.Reader, net.hops(0, 1, 2), onion.WebServer{Host: "files.example.org", Target: "/oxen/err/lsrpc", X25519: net.nodes[0].keys.X25519()}, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if got := net.post(0, req.Body); got.status != 500 || got.body != "teapot" || got.header.Get("Content-Type") != "text/plain" {
			t.Errorf("got %v", got)
		}
	})
}

func dialOther(ctx context.Context, addr string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

func TestNoMoreWebRequestsThanAllowed(t *testing.T) {
	started, end := make(chan struct{}), make(chan struct{})
	server := newWeb(t, "files.example.org", func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		<-end
	})
	net := network3(t, func(k int, c *Config) {
		c.Exit = server.exit()
		c.Exit.Limit = 1
	})
	frame := onion.EncodeFrame(nil, []byte(`{"host":"files.example.org","target":"/oxen/v4/lsrpc"}`))
	first := make(chan reply)
	entry, _ := layerTo(t, net.nodes[0].keys, frame)
	go func() { first <- net.post(0, entry) }()
	<-started
	entry, _ = layerTo(t, net.nodes[0].keys, frame)
	if got := net.post(0, entry); got.status != 503 || got.body != "Server busy, try again later" {
		t.Errorf("got %v", got)
	}
	close(end)
	if got := <-first; got.status != 200 {
		t.Errorf("the first: got %v", got)
	}
}

func TestPublicAddress(t *testing.T) {
	tests := []struct {
		addr string
		want bool
	}{
		{"9.9.9.9", true}, {"2620:fe::fe", true}, {"::ffff:9.9.9.9", true},
		{"127.0.0.1", false}, {"127.8.9.10", false}, {"::1", false}, {"::ffff:127.0.0.1", false},
		{"0.0.0.0", false}, {"::", false}, {"0.1.2.3", false},
		{"10.0.0.1", false}, {"172.16.0.1", false}, {"172.31.255.255", false}, {"172.32.0.1", true}, {"192.168.1.1", false}, {"fd00::1", false},
		{"169.254.169.254", false}, {"fe80::1", false}, {"100.64.0.1", false}, {"100.128.0.1", true},
		{"192.0.0.1", false}, {"198.18.0.1", false}, {"203.0.113.9", false},
		{"224.0.0.1", false}, {"ff02::1", false}, {"255.255.255.255", false}, {"240.0.0.1", false},
		{"64:ff9b::7f00:1", false}, {"2002:7f00:1::", false}, {"2001::1", false}, {"2001:db8::1", false},
	}
	for _, tt := range tests {
		if got := PublicAddress(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("%s: %t", tt.addr, got)
		}
	}
	if PublicAddress(netip.Addr{}) {
		t.Error("no address at all is public")
	}
}
