package seed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"hearth/node/keys"
	"hearth/node/swarm"
)

const (
	listTime     = 5 * time.Second  // as clients of the public network wait
	announceTime = 15 * time.Second // the authority pings back before it answers
	maxAnswer    = 8 << 20          // bytes
)

// ErrPin is returned when the other side does not show the certificate that
// the client was told to expect.
var ErrPin = errors.New("not the pinned certificate")

// Client asks a seed for the node list. It must not be copied after first use.
type Client struct {
	URL  string   // https://host:port/json_rpc
	Pin  [32]byte // SHA-256 of the seed's certificate (DER); the only thing that vouches for the seed
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	Now  func() time.Time // for announcements; nil means time.Now

	once sync.Once
	http *http.Client
}

// clientFields are those that Session desktop asks for, the swarm, and what nodes
// pass on to clients of the binary list.
var clientFields = map[string]bool{
	"public_ip": true, "storage_port": true, "pubkey_x25519": true, "pubkey_ed25519": true,
	"requested_unlock_height": true, "swarm_id": true, "height": true,
	"storage_lmq_port": true, "storage_server_version": true,
}

// ServiceNodes returns the active nodes: those that a client builds paths from.
// It waits 5 s at most. Errors wrap [ErrPin], [ErrAnswer] or what the network
// gave.
func (c *Client) ServiceNodes(ctx context.Context) (*swarm.List, error) {
	result, err := c.call(ctx, listTime, "get_n_service_nodes", map[string]any{"active_only": true, "fields": clientFields})
	if err != nil {
		return nil, err
	}
	list, _, err := ParseServiceNodes(result)
	return list, err
}

// Poll returns all nodes, those that are away included, or known itself when
// the seed has nothing newer. A nil known asks for the list in any case.
func (c *Client) Poll(ctx context.Context, known *swarm.List) (*swarm.List, error) {
	params := map[string]any{"active_only": false, "fields": clientFields}
	if known != nil {
		params["poll_block_hash"] = hex.EncodeToString(known.Hash[:])
	}
	result, err := c.call(ctx, listTime, "get_service_nodes", params)
	if err != nil {
		return nil, err
	}
	list, unchanged, err := ParseServiceNodes(result)
	if unchanged {
		list = known
	}
	return list, err
}

// Announce tells the authority where the node is. The authority must be able to
// reach the node at addr while it is asked.
func (c *Client) Announce(ctx context.Context, node *keys.Pair, addr netip.AddrPort) error {
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	_, err := c.call(ctx, announceTime, "announce", NewRecord(node, addr, now()))
	return err
}

// Close closes idle connections.
func (c *Client) Close() { c.client().CloseIdleConnections() }

func (c *Client) client() *http.Client {
	c.once.Do(func() {
		c.http = &http.Client{
			Transport: &http.Transport{
				DialContext:         c.Dial,
				TLSHandshakeTimeout: listTime,
				IdleConnTimeout:     30 * time.Second,
				MaxIdleConns:        2,
				TLSClientConfig: &tls.Config{
					InsecureSkipVerify: true, // the pin says more than an authority could
					VerifyConnection: func(state tls.ConnectionState) error {
						if sha256.Sum256(state.PeerCertificates[0].Raw) != c.Pin {
							return ErrPin
						}
						return nil
					},
				},
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	})
	return c.http
}

func (c *Client) call(ctx context.Context, limit time.Duration, method string, params any) (json.RawMessage, error) {
	result, err := c.post(ctx, limit, method, params)
	if err != nil {
		return nil, fmt.Errorf("asking the seed (%s): %w", method, err)
	}
	return result, nil
}

func (c *Client) post(ctx context.Context, limit time.Duration, method string, params any) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if req.URL.Scheme != "https" {
		return nil, fmt.Errorf("%w: %s has no certificate", ErrPin, c.URL)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: HTTP status %d", ErrAnswer, resp.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, fmt.Errorf("%w: content type %.60q", ErrAnswer, resp.Header.Get("Content-Type"))
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(answer) > maxAnswer {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrAnswer, maxAnswer)
	}
	return parseResult(answer)
}

// parseResult takes the result, or the error, out of a JSON-RPC answer.
func parseResult(answer []byte) (json.RawMessage, error) {
	var r struct {
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if r.Error != nil {
		return nil, fmt.Errorf("%w: the seed refused: %.200q (%d)", ErrAnswer, r.Error.Message, r.Error.Code)
	}
	if len(r.Result) == 0 {
		return nil, fmt.Errorf("%w: no result", ErrAnswer)
	}
	return r.Result, nil
}
