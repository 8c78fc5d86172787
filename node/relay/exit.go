package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sync/semaphore"

	"hearth/node/onion"
)

// Exit says how a node posts onion requests to web servers (file, push and
// community servers). The zero value is right for a node of the public network.
type Exit struct {
	// Allow decides whether an address, found after resolving the host, may be
	// reached; nil means [PublicAddress]. Without it strangers could send
	// requests into the owner's home network.
	Allow func(netip.Addr) bool
	// Resolve and Dial reach the servers; nil means the system's own way.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial    Dialer
	Roots   *x509.CertPool // who may vouch for servers; nil means the system's
	Time    time.Duration  // for one request; 25 s when zero, 5 s below the wait of a link
	Limit   int64          // requests at a time; 128 when zero
}

// maxExitAnswer leaves room for what an answer is wrapped in on its way back.
const maxExitAnswer = onion.MaxRequest - 64<<10

// errForbidden means that the layer names a server that must not be asked.
var errForbidden = errors.New("server not allowed")

// errRedirect has the text that the storage server answers with.
var errRedirect = errors.New("Maximum (0) redirects followed")

type exit struct {
	cfg    Exit
	agent  string
	slots  *semaphore.Weighted
	client *http.Client
}

func newExit(cfg Exit, agent string) *exit {
	if cfg.Allow == nil {
		cfg.Allow = PublicAddress
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Time == 0 {
		cfg.Time = 25 * time.Second
	}
	if cfg.Limit == 0 {
		cfg.Limit = 128
	}
	e := &exit{cfg: cfg, agent: agent, slots: semaphore.NewWeighted(cfg.Limit)}
	e.client = &http.Client{
		// No proxy of the environment: it would be an address of the own network.
		Transport: &http.Transport{
			DialContext:            e.dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots},
			TLSHandshakeTimeout:    10 * time.Second,
			MaxIdleConns:           32,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errRedirect
		},
	}
	return e
}

func (e *exit) close() { e.client.CloseIdleConnections() }

// post sends the whole plain text of the layer to the server and hands the
// server's answer back as it is. The error is errForbidden or nil.
func (e *exit) post(ctx context.Context, to *onion.Server) (answer, error) {
	target, err := url.Parse(to.URL())
	if err != nil || !to.Allowed() || target.Hostname() == "" {
		return answer{}, errForbidden
	}
	if !e.slots.TryAcquire(1) {
		return busy, nil
	}
	defer e.slots.Release(1)
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Time)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(to.Post))
	if err != nil {
		return answer{}, errForbidden
	}
	req.Header.Set("User-Agent", e.agent)
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Accept", "*/*")
	resp, err := e.client.Do(req)
	if errors.Is(err, errForbidden) {
		return answer{}, errForbidden
	}
	if err != nil {
		return e.trouble(ctx, err), nil
	}
	defer resp.Body.Close()
	body, err := readAll(resp.Body, maxExitAnswer, shareOf(ctx))
	switch {
	case errors.Is(err, errBusy):
		return busy, nil
	case err != nil:
		return e.trouble(ctx, err), nil
	case resp.StatusCode < 200:
		return text(http.StatusBadGateway, "unexpected status "+strconv.Itoa(resp.StatusCode)), nil
	}
	return answer{status: resp.StatusCode, body: body, contentType: resp.Header.Get("Content-Type")}, nil
}

// trouble is the answer when the server gave none. The storage server puts its
// HTTP library's text here, which no client reads.
func (e *exit) trouble(ctx context.Context, err error) answer {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return text(http.StatusGatewayTimeout, fmt.Sprintf("Operation timed out after %d milliseconds", e.cfg.Time.Milliseconds()))
	}
	// The URL that the library wraps around the cause is the client's own.
	if u := new(url.Error); errors.As(err, &u) {
		err = u.Err
	}
	return text(http.StatusBadGateway, err.Error())
}

// dial connects to the first address of the host that is allowed and answers.
func (e *exit) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errForbidden, err)
	}
	var addrs []netip.Addr
	if literal, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{literal}
	} else if addrs, err = e.cfg.Resolve(ctx, host); err != nil {
		return nil, err
	}
	failed := errForbidden
	for _, a := range addrs {
		if a = a.Unmap(); !e.cfg.Allow(a) {
			continue
		}
		conn, err := e.cfg.Dial(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		failed = err
	}
	return nil, failed
}

// notPublic are the ranges that lead to the own machine, the own network or
// nowhere, beside those that netip has names for.
var notPublic = func() (ranges []netip.Prefix) {
	for _, r := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
		"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		// IPv6 that carries an IPv4 address inside, and documentation.
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		ranges = append(ranges, netip.MustParsePrefix(r))
	}
	return ranges
}()

// PublicAddress reports whether an address belongs to the public internet: not
// loopback, private, link-local, shared, reserved or multicast.
func PublicAddress(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	if a.Is6() && !netip.MustParsePrefix("2000::/3").Contains(a) {
		return false
	}
	for _, r := range notPublic {
		if r.Contains(a) {
			return false
		}
	}
	return true
}
