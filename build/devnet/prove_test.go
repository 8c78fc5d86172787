package devnet

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/node/api"
	"hearth/node/ledger/light"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

func TestTheNodeListIsProvenOverOnionRequests(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLedger(t, 9, 0, nil)
	var trust light.Trust
	l.until("some blocks", func(s map[int]*api.NodeStatus) bool {
		return s[1] != nil && s[1].Ledger.Height >= 3 && trust.UnmarshalText([]byte(s[1].Ledger.Trust)) == nil
	})
	first := trust
	l.higher(1, 3)

	// What the client begins with is the word of one node that it need not trust.
	unproven, err := l.ListOf(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := path.NewPool(rand.Reader, time.Now, slog.New(slog.DiscardHandler), path.Saved{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := pool.Replace(unproven); err != nil {
		t.Fatal(err)
	}
	client := path.NewClient(pool, rand.Reader, new(net.Dialer).DialContext, slog.New(slog.DiscardHandler))
	defer client.Close()
	onion := func(ctx context.Context, to swarm.Node, request []byte) ([]byte, error) {
		reply, err := client.Ask(ctx, to, request)
		return reply.Body, err
	}
	direct := func(ctx context.Context, to swarm.Node, request []byte) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+to.Address.String()+"/storage_rpc/v1", strings.NewReader(string(request)))
		if err != nil {
			return nil, err
		}
		resp, err := l.http.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		return io.ReadAll(resp.Body)
	}
	for _, way := range []struct {
		name string
		ask  light.Ask
	}{{"over onion requests", onion}, {"directly", direct}} {
		t.Run(way.name, func(t *testing.T) {
			p := light.NewProver(l.Genesis().Chain, first, func(ctx context.Context, to swarm.Node, request []byte) ([]byte, error) {
				answer, err := way.ask(ctx, to, request)
				return answer, err
			})
			var newest light.Trust
			p.Save = func(t light.Trust) { newest = t }
			began := time.Now()
			got, err := p.Prove(t.Context(), unproven.Nodes)
			if err != nil {
				t.Fatal(err)
			}
			cold := time.Since(began)
			for _, n := range got.Nodes {
				if known, ok := unproven.Find(n.Key); !ok || known.Swarm != n.Swarm || known.Address.Port() != n.Endpoint.HTTPS {
					t.Errorf("node %x is proven as %+v, and shown as %+v", n.Key[:4], n, known)
				}
			}
			if len(got.List.Nodes) != 9 || newest.Height <= first.Height {
				t.Errorf("%d nodes proven, header %v after %v", len(got.List.Nodes), newest, first)
			}
			began = time.Now()
			if _, err := p.Prove(t.Context(), got.List.Nodes); err != nil {
				t.Fatal(err)
			}
			t.Logf("proven from cold in %v, %d blocks on; again in %v", cold.Round(time.Millisecond), newest.Height-first.Height, time.Since(began).Round(time.Millisecond))
		})
	}

	t.Run("a false trusted header proves nothing", func(t *testing.T) {
		wrong := first
		wrong.Hash[0]++
		if got, err := light.NewProver(l.Genesis().Chain, wrong, direct).Prove(t.Context(), unproven.Nodes); !errors.Is(err, light.ErrTrust) {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("a client that slept too long says so", func(t *testing.T) {
		p := light.NewProver(l.Genesis().Chain, first, direct)
		p.Now = func() time.Time { return time.Now().Add(light.TrustingPeriod + time.Hour) }
		if got, err := p.Prove(t.Context(), unproven.Nodes); !errors.Is(err, light.ErrExpired) {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("nodes that change the list are not believed", func(t *testing.T) {
		lying := func(ctx context.Context, to swarm.Node, request []byte) ([]byte, error) {
			answer, err := direct(ctx, to, request)
			if strings.Contains(string(request), `"list"`) {
				// In the middle of the base64 of the list.
				at := slices.Index(answer, '"') + len(answer)/2
				answer[at] ^= 1
			}
			return answer, err
		}
		if got, err := light.NewProver(l.Genesis().Chain, first, lying).Prove(t.Context(), unproven.Nodes); err == nil {
			t.Errorf("believed %v", got.Head)
		}
	})
}
