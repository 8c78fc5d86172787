package host

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"time"

	"hearth/node/ledger"
	"hearth/node/ledger/engine"
	"hearth/node/ledger/light"
	"hearth/node/swarm"
)

const (
	joinTime    = 10 * time.Second // for one question
	joinSources = 8
	joinAnswer  = 1 << 20 // bytes
)

// ErrJoin says that Config.Join belongs to another ledger.
var ErrJoin = errors.New("the header to join with is that of another ledger")

// join prepares the sources for a node that begins with a snapshot, nil when it does
// not want to. The second result is to be called when nobody asks them any more.
func (cfg *Config) join() (*engine.Join, func(), error) {
	if cfg.Join == (light.Anchor{}) {
		return nil, func() {}, nil
	}
	if cfg.Join.Chain != cfg.Genesis.Chain {
		return nil, nil, fmt.Errorf("%w: %s, and this node is on %s", ErrJoin, cfg.Join.Chain, cfg.Genesis.Chain)
	}
	at := cfg.JoinFrom
	own := cfg.Keys.Ed25519()
	for _, i := range rand.Perm(len(cfg.Genesis.Nodes)) {
		if n := cfg.Genesis.Nodes[i]; ledger.Key(n.Node) != own && len(at) < joinSources {
			at = append(at, netip.AddrPortFrom(n.Endpoint.IP, n.Endpoint.HTTPS))
		}
	}
	// Nobody's certificate counts: what a node says is proven, or refused.
	transport := &http.Transport{
		DialContext: cfg.Dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, IdleConnTimeout: time.Minute,
	}
	client := &http.Client{Transport: transport, Timeout: joinTime}
	ask := func(ctx context.Context, to swarm.Node, request []byte) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+to.Address.String()+"/storage_rpc/v1", bytes.NewReader(request))
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("status %d", resp.StatusCode)
		}
		return io.ReadAll(io.LimitReader(resp.Body, joinAnswer))
	}
	join := &engine.Join{Trust: cfg.Join.Trust}
	for _, a := range at {
		join.Sources = append(join.Sources, light.NewRemote(swarm.Node{Address: a}, ask))
	}
	return join, transport.CloseIdleConnections, nil
}
