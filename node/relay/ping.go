package relay

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Dialer opens an outgoing connection, like net.Dialer.DialContext.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// pingKeyHeader is the header in which a node names its primary key.
const pingKeyHeader = "X-Oxen-Snode-Pubkey"

// Ping asks the node at addr for its key: the reachability test that nodes of
// the network make of each other over HTTPS. A nil dial is the ordinary one.
func Ping(ctx context.Context, dial Dialer, addr netip.AddrPort) ([32]byte, error) {
	fail := func(err error) ([32]byte, error) {
		return [32]byte{}, fmt.Errorf("ping %s: %w", addr, err)
	}
	transport := &http.Transport{
		DialContext:         dial,
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, // the answer's key is the test, not the certificate
		TLSHandshakeTimeout: 5 * time.Second,
		DisableKeepAlives:   true,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr.String()+"/ping_test/v1", nil)
	if err != nil {
		return fail(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("status %d", resp.StatusCode))
	}
	key, err := base64.StdEncoding.DecodeString(resp.Header.Get(pingKeyHeader))
	if err != nil || len(key) != 32 {
		return fail(errors.New("no node key in the answer"))
	}
	return [32]byte(key), nil
}
