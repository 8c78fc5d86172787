package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
	"hearth/node/keys"
	"hearth/node/relay"
	"hearth/node/seed"
	"hearth/node/swarm"
)

// sleepyVault gives the node seed when it is asked for the third time.
type sleepyVault struct {
	api.UnimplementedVaultServer
	seed  [32]byte
	asked int
}

func (v *sleepyVault) NodeSeed(context.Context, *api.NodeSeedRequest) (*api.NodeSeedReply, error) {
	if v.asked++; v.asked < 3 {
		return nil, status.Error(codes.Unavailable, "the TPM is not awake yet")
	}
	return &api.NodeSeedReply{Seed: v.seed[:]}, nil
}

func TestNodeRoleJoinsTheNetwork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := shortDir(t)

	// The seed.
	authority, err := seed.New(seed.Config{
		Dir: filepath.Join(dir, "seed"), Now: time.Now,
		Rules: swarm.Rules{MinSize: 3, NewSize: 3, FillPercentile: 25, StealPercentile: 75},
		Ping: func(ctx context.Context, addr netip.AddrPort) ([32]byte, error) {
			return relay.Ping(ctx, nil, addr)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pin := authority.Pin()
	seedURL := "https://" + l.Addr().String() + "/json_rpc"
	runs(t, func(ctx context.Context) error { return authority.Serve(ctx, l) })

	// The vault.
	vault := &sleepyVault{seed: sha256.Sum256([]byte("node"))}
	vaultSocket := filepath.Join(dir, "vault.sock")
	vl, err := api.Listen(vaultSocket)
	if err != nil {
		t.Fatal(err)
	}
	vs := api.NewServer()
	api.RegisterVaultServer(vs, vault)
	runs(t, func(ctx context.Context) error {
		context.AfterFunc(ctx, vs.Stop)
		return vs.Serve(vl)
	})

	// The node.
	address := freeAddress(t)
	socket := filepath.Join(dir, "node.sock")
	runs(t, func(ctx context.Context) error {
		return runNode(ctx, []string{
			"-dir", filepath.Join(dir, "node"), "-listen", address, "-public", address,
			"-seed", seedURL, "-seed-pin", hex.EncodeToString(pin[:]), "-vault", vaultSocket, "-api", socket,
			"-metrics", filepath.Join(dir, "figures", "node.sock"),
		})
	})

	conn, err := api.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	key := keys.FromSeed(vault.seed).Ed25519()
	for {
		s, err := api.NewNodeClient(conn).Status(ctx, &api.NodeStatusRequest{}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		if s.Ed25519 != hex.EncodeToString(key[:]) || s.Address != address {
			t.Fatalf("status %v", s)
		}
		if s.Ready {
			break
		}
	}
	if n, ok := authority.List().Find(key); !ok || n.Address.String() != address {
		t.Errorf("listed as %+v", n)
	}

	figures := filepath.Join(dir, "figures", "node.sock")
	local := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", figures)
	}}}
	defer local.CloseIdleConnections()
	for path, want := range map[string]string{"/health": "ready\n", "/metrics": "\nhearth_ready 1\n"} {
		resp, err := local.Get("http://node" + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !strings.Contains(string(b), want) {
			t.Errorf("%s: %d %s, %v", path, resp.StatusCode, b, err)
		}
	}
	if info, err := os.Stat(figures); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket of the figures: %v, %v", info, err)
	}
}

// runs keeps something running until the test ends, and then waits for it.
func runs(t *testing.T, do func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- do(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestNodeRoleRefusesFlagsThatMakeNoSense(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	seed := []string{"-seed", "https://127.0.0.1:1/json_rpc", "-seed-pin", pin}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no public address", seed, "-public"},
		{"a public address without a port", append(seed, "-public", "1.2.3.4"), "-public"},
		{"a public address of IPv6", append(seed, "-public", "[::1]:22021"), "-public"},
		{"no seed", []string{"-public", "1.2.3.4:22021"}, "-seed"},
		{"a seed without a pin", []string{"-public", "1.2.3.4:22021", "-seed", "https://127.0.0.1:1/json_rpc"}, "-seed-pin"},
		{"a header that is none", []string{"-public", "1.2.3.4:22021", "-ledger", "genesis.json", "-join", "yesterday"}, "want chain:height:hash"},
		{"a name in place of an address to join from", []string{"-public", "1.2.3.4:22021", "-ledger", "genesis.json", "-join-from", "node.example:22021"}, "-join-from"},
		{"two sources of the list", append(slices.Clone(seed), "-public", "1.2.3.4:22021", "-ledger", "genesis.json"), "a node has one network"},
		{"something beside flags", []string{"x"}, "unexpected argument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := runNode(t.Context(), tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNodeRoleStopsWhileItWaitsForTheVault(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := shortDir(t)
	err := runNode(ctx, []string{"-dir", dir, "-public", "1.2.3.4:22021", "-seed", "https://127.0.0.1:1/json_rpc", "-seed-pin", strings.Repeat("ab", 32), "-vault", filepath.Join(dir, "vault.sock")})
	if err == nil || !strings.Contains(err.Error(), "vault") {
		t.Errorf("got %v", err)
	}
}
