package relay

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"hearth/node/swarm"
)

// Dialer opens an outgoing connection, like net.Dialer.DialContext.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// pingKeyHeader is the header in which a node names its primary key.
const pingKeyHeader = "X-Oxen-Snode-Pubkey"

// Ping asks the node at addr for its key. A nil dial is the ordinary one.
func Ping(ctx context.Context, dial Dialer, addr netip.AddrPort) ([32]byte, error) {
	header, err := ping(ctx, dial, addr, addr.String(), "")
	if err == nil {
		for _, decode := range []func(string) ([]byte, error){base64.StdEncoding.DecodeString, hex.DecodeString} {
			if key, err := decode(header); err == nil && len(key) == 32 {
				return [32]byte(key), nil
			}
		}
		err = errors.New("no node key in the answer")
	}
	return [32]byte{}, fmt.Errorf("ping %s: %w", addr, err)
}

// PingNode is the reachability test that nodes of the network make of each other
// over HTTPS: whether the node answers at its address and names its key. The
// request goes to the node's name, as the storage server's does; the name means
// nothing to DNS.
func PingNode(ctx context.Context, dial Dialer, node swarm.Node) error {
	header, err := ping(ctx, dial, node.Address, net.JoinHostPort(node.Name(), strconv.Itoa(int(node.Address.Port()))), node.Name())
	if err == nil {
		key := node.Ed25519
		switch header {
		case base64.StdEncoding.EncodeToString(key[:]), base64.RawStdEncoding.EncodeToString(key[:]),
			hex.EncodeToString(key[:]), strings.TrimSuffix(node.Name(), ".snode"), string(key[:]):
			return nil
		}
		err = errors.New("another node answers")
	}
	return fmt.Errorf("ping %s: %w", node.Address, err)
}

// ping returns the header in which a node names its key.
func ping(ctx context.Context, dial Dialer, addr netip.AddrPort, host, name string) (string, error) {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, addr.String())
		},
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true, ServerName: name}, // the answer's key is the test, not the certificate
		TLSHandshakeTimeout:    5 * time.Second,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+"/ping_test/v1", nil)
	if err != nil {
		return "", err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp.Header.Get(pingKeyHeader), nil
}
