package path

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"hearth/node/onion"
	"hearth/node/swarm"
)

const (
	// FileLimit is the longest that a request to a web server may take on one
	// path: a large file takes its time on a slow line. The nodes behind the guard
	// keep to TimeLimit among themselves.
	FileLimit = 3 * time.Minute
	// MaxFileReply bounds the answer of a web server, in bytes: a file of the
	// largest size, which an old hop may have turned into base64.
	MaxFileReply = 15 << 20
	// TimeLimit is the longest that a whole onion request may take (Session
	// desktop); the nodes on the way wait up to 30 s for each other.
	TimeLimit = 30 * time.Second
	// MaxReply bounds what is read from a guard, in bytes. The retrieve requests
	// of this messenger ask for answers well below it.
	MaxReply = 4 << 20

	maxTries  = 3 // paths for one request
	dialLimit = 10 * time.Second
	// patience is how long a caller must have waited before its giving up counts
	// against the path.
	patience = 10 * time.Second
	// The storage server closes idle connections after 10 s; a client that
	// closes first does not write into a connection that is going away.
	idleLimit = 8 * time.Second
)

// Client sends onion requests over the paths of a pool. It is safe for
// concurrent use.
type Client struct {
	pool *Pool
	rand io.Reader
	log  *slog.Logger
	http *http.Client
	file *http.Client // the same with FileLimit
}

// DialFunc opens a connection, as net.Dialer.DialContext does.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// NewClient makes a client whose only connections are to guards of the pool,
// opened by dial. random must be safe for concurrent use.
func NewClient(pool *Pool, random io.Reader, dial DialFunc, log *slog.Logger) *Client {
	c := &Client{
		pool: pool,
		rand: random,
		log:  log,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy: nil, // a proxy from the environment would see the guards
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					ctx, cancel := context.WithTimeout(ctx, dialLimit)
					defer cancel()
					conn, err := dial(ctx, network, address)
					if err != nil {
						return nil, &dialError{err}
					}
					return conn, nil
				},
				// Nodes have self-signed certificates that nothing ties to their
				// keys. What protects a request is its layers.
				TLSClientConfig:        &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:    dialLimit,
				MaxIdleConnsPerHost:    2,
				IdleConnTimeout:        idleLimit,
				MaxResponseHeaderBytes: 16 << 10,
				DisableCompression:     true,
			},
			// A redirect would make this machine connect wherever a guard likes.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       TimeLimit,
		},
	}
	file := *c.http
	file.Timeout = FileLimit
	c.file = &file
	return c
}

// Pool is the pool that the client chooses its paths from.
func (c *Client) Pool() *Pool { return c.pool }

// Close gives idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Reply is what the destination answered.
type Reply struct {
	Status int
	Body   []byte
	Sent   time.Time     // by this machine's clock
	Took   time.Duration // until the whole answer was there
}

// Ask sends body, a storage RPC request, to the destination over a random path.
// When the path fails, another one is tried; when that fails too, a third one
// unless the destination is the likely cause. Each path has [TimeLimit] to
// answer. Every failure is counted against whom it concerns.
//
// A status other than 200 of the destination is a [*StatusError], with the reply
// filled in as well. A status of 200 does not yet clear the strikes of the
// destination, because the answer may be nonsense: call [Pool.Cleared] when it
// was of use. [Retryable] tells whether another destination is worth a try.
// Further errors: [ErrTooFewNodes], and that of ctx.
func (c *Client) Ask(ctx context.Context, destination swarm.Node, body []byte) (Reply, error) {
	var reply Reply
	err := c.overPaths(ctx, destination.Ed25519, func(path *Path) (f failure, err error) {
		reply, f, err = c.once(ctx, path, destination, body)
		return f, err
	})
	return reply, err
}

// overPaths tries paths to a destination, zero for one that is no node, and counts
// their failures.
func (c *Client) overPaths(ctx context.Context, destination Key, once func(path *Path) (failure, error)) (err error) {
	var failed []Failed
	var faults []failure
	for len(failed) < maxTries {
		path, noPath := c.pool.For(destination, failed...)
		if noPath != nil {
			if len(failed) == 0 {
				return noPath
			}
			break
		}
		var f failure
		if f, err = once(path); !errors.Is(err, ErrPath) {
			break
		}
		failed = append(failed, Failed{path, f.Fault == FaultGuard})
		faults = append(faults, f)
		if ctx.Err() != nil {
			break
		}
		if destination == (Key{}) {
			continue
		}
		if _, still := c.pool.Find(destination); !still {
			err = fmt.Errorf("%w: %w", ErrNode, err) // the way failed because its end is gone
			break
		}
		if len(failed) == 2 && failed[0].Path != path && faults[0].Fault == FaultPath && f.Fault == FaultPath {
			// Two ways that share nothing but their end.
			c.pool.Doubt(failed[0].Path, path, destination, faults[0].answered || f.answered)
			return err
		}
		c.log.Debug("trying another path", "guard", short(path.Guard().Ed25519), "err", err)
	}
	for i, f := range faults {
		if destination == (Key{}) && f.Fault == FaultPath && (err != nil || f.answered) {
			// The server may be to blame, or the last hop for not reaching it, or
			// for not letting anybody out. Requests to nodes show what a path is
			// worth; what counts here is silence where another path had an answer.
			continue
		}
		if f.Fault == FaultPath || f.Fault == FaultGuard {
			c.pool.StrikePath(failed[i].Path, f.Fault == FaultPath, f.answered)
		}
	}
	return err
}

// AskServer sends payload, a v4 request, to a web server over a random path, and
// over up to two others when that fails. Each has [FileLimit]. progress, which may
// be nil, is told how much of the request went out and how much of the answer, of
// total bytes or 0, has come; every try begins anew. The answer may have any
// status, and is whatever the server, or who has its key, says. The errors are
// [ErrPath], [ErrTooFewNodes], and that of ctx.
func (c *Client) AskServer(ctx context.Context, to onion.WebServer, payload []byte, progress func(sent, received, total int64)) (answer *onion.V4Response, err error) {
	err = c.overPaths(ctx, Key{}, func(path *Path) (f failure, err error) {
		answer, f, err = c.serverOnce(ctx, path, to, payload, progress)
		return f, err
	})
	return answer, err
}

func (c *Client) serverOnce(ctx context.Context, path *Path, to onion.WebServer, payload []byte, progress func(sent, received, total int64)) (*onion.V4Response, failure, error) {
	request, err := onion.BuildServer(c.rand, path.onion(), to, payload)
	if errors.Is(err, onion.ErrPath) && sealable(to.X25519) {
		return nil, failure{}, c.unbuildable(path, path.Guard(), err)
	}
	if err != nil {
		return nil, failure{}, fmt.Errorf("building the onion: %w", err)
	}
	began := c.pool.now()
	status, sealed, err := c.exchange(ctx, c.file, path.Guard(), request.Body, MaxFileReply, progress)
	if err != nil {
		// Whoever calls a transfer off does so when they like, however long it has
		// been going: that says nothing about the path. Time that ran out does.
		if errors.Is(ctx.Err(), context.Canceled) || ctx.Err() != nil && c.pool.now().Sub(began) < patience {
			return nil, failure{}, ctx.Err()
		}
		f := failure{Fault: FaultGuard}
		if isTimeout(err) {
			f.Fault = FaultPath
		}
		return nil, f, fmt.Errorf("%w: guard: %w", ErrPath, err)
	}
	if status != http.StatusOK {
		v := judgePath(status, string(sealed[:min(len(sealed), 512)]), path, Key{})
		if !errors.Is(v.Err, ErrPath) {
			// Nobody but the path has spoken, and another one may reach the server.
			v.Err, v.Retry = ErrPath, true
		}
		c.punish(v)
		return nil, failure{v.Fault, true}, &StatusError{Verdict: v, Status: status, Text: excerpt(sealed)}
	}
	answer, err := request.OpenServerReply(sealed)
	if errors.Is(err, onion.ErrReply) {
		c.pool.Succeeded(path)
		return nil, failure{FaultNone, true}, fmt.Errorf("%w: %w", ErrPath, err)
	}
	if err != nil {
		return nil, failure{FaultPath, true}, fmt.Errorf("%w: reply of %d bytes: %w", ErrPath, len(sealed), err)
	}
	c.pool.Succeeded(path)
	return answer, failure{}, nil
}

type waitingKey struct{}

// Waiting returns the context of a request that is meant to take long, because its
// destination waits for something. That the caller gives it up is then no sign of a
// bad path, however late it is.
func Waiting(ctx context.Context) context.Context {
	return context.WithValue(ctx, waitingKey{}, true)
}

// failure is what is to be counted against a path.
type failure struct {
	Fault    Fault // FaultPath and FaultGuard; all else is counted already
	answered bool  // the guard said something, so that this machine is online
}

// once sends the request over one path. What can be ascribed to a node is counted
// here; what concerns the path is for the caller, who may know more.
func (c *Client) once(ctx context.Context, path *Path, destination swarm.Node, body []byte) (Reply, failure, error) {
	request, err := onion.Build(c.rand, path.onion(), onion.Hop{Ed25519: destination.Ed25519, X25519: destination.X25519}, body)
	if err != nil {
		return Reply{}, failure{}, c.unbuildable(path, destination, err)
	}
	sent := c.pool.now()
	status, answer, err := c.post(ctx, path.Guard(), request.Body)
	took := c.pool.now().Sub(sent)
	if err != nil {
		if ctx.Err() != nil && (took < patience || ctx.Value(waitingKey{}) != nil) {
			return Reply{}, failure{}, ctx.Err() // the caller left early: nobody's fault
		}
		// A connection that breaks is the guard's doing; silence can come from
		// any hop.
		f := failure{Fault: FaultGuard}
		if isTimeout(err) {
			f.Fault = FaultPath
		}
		return Reply{}, f, fmt.Errorf("%w: guard: %w", ErrPath, err)
	}
	if status != http.StatusOK {
		v := judgePath(status, string(answer[:min(len(answer), 512)]), path, destination.Ed25519)
		c.punish(v)
		return Reply{}, failure{v.Fault, true}, &StatusError{Verdict: v, Status: status, Text: excerpt(answer)}
	}
	inner, plain, err := request.OpenReply(answer)
	if errors.Is(err, onion.ErrReply) {
		// Only the destination has the key, so the nonsense is its own.
		c.pool.Succeeded(path)
		c.pool.StrikeNode(destination.Ed25519)
		return Reply{}, failure{}, fmt.Errorf("%w: %w", ErrNode, err)
	}
	if err != nil {
		// Not from the destination, so the text of a hop with nothing in it to
		// act upon.
		return Reply{}, failure{FaultPath, true}, fmt.Errorf("%w: reply of %d bytes: %w", ErrPath, len(answer), err)
	}
	reply := Reply{Status: inner, Body: plain, Sent: sent, Took: took}
	v := Judge(inner, string(plain[:min(len(plain), 512)]), destination.Ed25519)
	c.pool.Succeeded(path) // it did its work, whatever the destination says
	c.punish(v)
	if v.Err != nil {
		return reply, failure{}, &StatusError{Verdict: v, Status: inner, Text: excerpt(plain)}
	}
	return reply, failure{}, nil
}

// punish counts what a verdict says about one node.
func (c *Client) punish(v Verdict) {
	switch v.Fault {
	case FaultNode:
		c.pool.StrikeNode(v.Node)
	case FaultGone:
		c.pool.Drop(v.Node)
	}
}

// unbuildable drops the node whose key cannot be encrypted to: it can be named by
// the list, but never be reached.
func (c *Client) unbuildable(path *Path, destination swarm.Node, err error) error {
	if !errors.Is(err, onion.ErrPath) {
		return fmt.Errorf("building the onion: %w", err)
	}
	for _, n := range append(path.Nodes(), destination) {
		if !sealable(n.X25519) {
			c.pool.Drop(n.Ed25519)
		}
	}
	return fmt.Errorf("%w: building the onion: %w", ErrPath, err)
}

// sealable reports whether X25519 with the key gives a secret at all, which keys
// of low order do not. Any secret of our side shows it.
func sealable(key [32]byte) bool {
	ours, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{0x55}, 32))
	if err != nil {
		return false
	}
	theirs, err := ecdh.X25519().NewPublicKey(key[:])
	if err != nil {
		return false
	}
	_, err = ours.ECDH(theirs)
	return err == nil
}

// post sends one onion to a guard and reads at most [MaxReply] bytes.
func (c *Client) post(ctx context.Context, guard swarm.Node, onion []byte) (int, []byte, error) {
	return c.exchange(ctx, c.http, guard, onion, MaxReply, nil)
}

func (c *Client) exchange(ctx context.Context, by *http.Client, guard swarm.Node, onion []byte, limit int64, progress func(sent, received, total int64)) (int, []byte, error) {
	url := "https://" + guard.Address.String() + "/onion_req/v2"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(onion))
	if err != nil {
		return 0, nil, err
	}
	if progress != nil {
		again := req.GetBody
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := again()
			if err != nil {
				return nil, err
			}
			return io.NopCloser(&counted{r: body, tell: func(n int64) { progress(n, 0, 0) }}), nil
		}
		if req.Body, err = req.GetBody(); err != nil {
			return 0, nil, err
		}
	}
	// What Session clients send, so that a guard cannot tell them apart.
	req.Header.Set("User-Agent", "WhatsApp")
	req.Header.Set("Accept-Language", "en-us")
	// The empty value allows a second write when an idle connection turns out to
	// be closed; it is not sent. Storing the same bytes twice changes nothing.
	req.Header["Idempotency-Key"] = nil
	resp, err := by.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	var body io.Reader = resp.Body
	if progress != nil {
		total := min(max(resp.ContentLength, 0), limit)
		body = &counted{r: body, tell: func(n int64) { progress(int64(len(onion)), n, total) }}
	}
	answer, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return 0, nil, fmt.Errorf("reading the reply: %w", err)
	}
	if int64(len(answer)) > limit {
		return 0, nil, fmt.Errorf("reply longer than %d bytes", limit)
	}
	return resp.StatusCode, answer, nil
}

// counted tells how much was read.
type counted struct {
	r    io.Reader
	n    int64
	tell func(n int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}

// dialError marks a connection to a guard that was never made.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// isTimeout tells whether the guard took the request and nothing came back in
// time.
func isTimeout(err error) bool {
	if dial := (*dialError)(nil); errors.As(err, &dial) {
		return false
	}
	timeout := net.Error(nil)
	return errors.As(err, &timeout) && timeout.Timeout()
}

// excerpt makes a stranger's text fit for a log line.
func excerpt(b []byte) string {
	return strings.ToValidUTF8(string(b[:min(len(b), 120)]), "?")
}
