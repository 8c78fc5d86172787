package devnet_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/node/api"
	"hearth/node/ledger/light"
	"hearth/node/seed"
	"hearth/node/swarm"
)

// askNode sends a storage request to a node, without an onion.
func askNode(ctx context.Context, to swarm.Node, request []byte) ([]byte, error) {
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer c.CloseIdleConnections()
	return postTo(ctx, c, "https://"+to.Address.String()+"/storage_rpc/v1", request)
}

func postTo(ctx context.Context, c *http.Client, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d, %s", resp.StatusCode, b)
	}
	return b, err
}

// TestAChatProvesItsNodes runs the program as a person does, over a ledger that
// began ten days ago: its first header is one that nobody may begin with any more.
func TestAChatProvesItsNodes(t *testing.T) {
	t.Parallel() // it mostly waits
	file := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	n, err := devnet.StartLedger(ctx, devnet.LedgerConfig{
		Program: file, Dir: t.TempDir(), Nodes: 9, Pace: 100 * time.Millisecond, Began: time.Now().Add(-light.TrustingPeriod - 24*time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.Until(ctx, "some blocks", func(s map[int]*api.NodeStatus) bool { return s[1] != nil && s[1].Ledger.Height >= 3 }); err != nil {
		t.Fatal(err)
	}
	list, err := n.ListOf(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := n.Pin(2)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("stock clients read the list in each of their shapes", func(t *testing.T) { checkShapes(t, n, list) })

	first := light.Anchor{Chain: n.Genesis().Chain, Trust: light.Trust{Height: 1}}
	b, err := light.NewRemote(list.Nodes[0], askNode).Block(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	block, err := light.DecodeBlock(b, first.Chain)
	if err != nil {
		t.Fatal(err)
	}
	first.Hash = [32]byte(block.Hash())
	newest, err := n.Anchor(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}

	sit := func(dir string, more ...string) *chatter {
		return chat(t, file, false, append([]string{"-dir", dir, "-developer", "-seed", n.SeedURL(2), "-seed-pin", fmt.Sprintf("%x", pin), "-poll", "300ms"}, more...)...)
	}
	leave := func(c *chatter) {
		t.Helper()
		c.line("exit")
		if err := c.ends(); err != nil {
			t.Errorf("%v\n%s", err, c.all())
		}
	}
	aliceDir, bobDir := shortDir(t), shortDir(t)
	t.Cleanup(func() {
		if t.Failed() {
			log, err := os.ReadFile(filepath.Join(aliceDir, "chat.log"))
			t.Logf("alice's log: %s, %v", log, err)
		}
	})
	kept := func() (a light.Anchor) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(aliceDir, "trust"))
		if err == nil {
			err = a.UnmarshalText(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		return a
	}

	// Alice was away for too long.
	alice := sit(aliceDir, "-trust", first.String())
	alice.shows(`There is no account yet`)
	alice.line("setup 271828")
	aliceID := alice.shows(`Your Session ID is\s+(05[0-9a-f]{64})`)[1]
	alice.mu.Lock()
	alice.from = 0 // the trouble may be known before the account is ready
	alice.mu.Unlock()
	alice.shows(`trouble: no list of service nodes: this device was away for more than 9 days .* Ask for a newer trusted header, from a release or from somebody you trust .*-trust`)
	leave(alice)
	if kept() != first {
		t.Errorf("from an expired header came %v", kept())
	}

	// Somebody whom she trusts tells her a newer one; once is enough.
	bob := sit(bobDir, "-trust", newest.String())
	bob.line("setup 314159")
	bobID := bob.shows(`Your Session ID is\s+(05[0-9a-f]{64})`)[1]
	bob.line("add " + aliceID + " Alice")
	bob.shows(`Alice is ` + aliceID)
	alice = sit(aliceDir, "-trust", newest.String())
	alice.line("unlock 271828")
	alice.line("add " + bobID + " Bob")
	alice.shows(`Bob is ` + bobID)
	alice.line("send Bob over proven nodes")
	bob.shows(`over proven nodes`)
	leave(alice)
	proven := kept()
	if proven.Chain != newest.Chain || proven.Height < newest.Height {
		t.Errorf("it keeps %v after %v", proven, newest)
	}
	bob.line("send " + aliceID + " still there?")
	alice = sit(aliceDir)
	alice.line("unlock 271828")
	alice.shows(`still there\?`)
	leave(alice)
	if log, err := os.ReadFile(filepath.Join(aliceDir, "chat.log")); err != nil || !strings.Contains(string(log), "the list of nodes is proven\" from="+proven.String()) {
		t.Errorf("it did not begin with what it had kept, %v: %v\n%s", proven, err, log)
	}

	// What people may type wrongly.
	for _, c := range []struct{ trust, says string }{
		{"yesterday", `the trusted header is not the nodes'.*want chain:height:hash`},
		{strings.Replace(newest.String(), n.Genesis().Chain, "another", 1), ""},
	} {
		dir := shortDir(t)
		wrong := sit(dir, "-trust", c.trust)
		if c.says == "" {
			wrong.line("setup 161803")
			wrong.shows(`trouble: no list of service nodes: what nodes say is not proven.*another network`)
			leave(wrong)
			continue
		}
		wrong.shows(c.says)
		if wrong.ends() == nil {
			t.Errorf("-trust %s was taken", c.trust)
		}
	}
	leave(bob)
}

// checkShapes reads the list as Session's clients do.
func checkShapes(t *testing.T, n *devnet.LedgerNetwork, list *swarm.List) {
	want := list.Records()
	if len(want) != 9*swarm.RecordSize {
		t.Fatalf("%d bytes for 9 nodes", len(want))
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	for k := 1; k <= 9; k++ {
		to := "https://" + n.Address(k).String()
		raw, err := postTo(t.Context(), client, to+"/storage_rpc/v1", []byte(`{"method":"active_nodes_bin","params":{"active_only":true,"fields":["public_ip"]}}`))
		if err != nil || !bytes.Equal(raw, want) {
			t.Errorf("node %d gives the binary list %s, %v", k, base64.StdEncoding.EncodeToString(raw), err)
		}
		const fields = `{"active_only":true,"fields":{"public_ip":true,"storage_port":true,"storage_lmq_port":true,"storage_server_version":true,"pubkey_x25519":true,"pubkey_ed25519":true,"swarm_id":true}}`
		for _, c := range []struct{ path, body string }{
			{"/json_rpc", `{"jsonrpc":"2.0","id":0,"method":"get_n_service_nodes","params":` + fields + `}`},
			{"/json_rpc", `{"jsonrpc":"2.0","id":0,"method":"get_service_nodes","params":` + fields + `}`},
			{"/storage_rpc/v1", `{"method":"oxend_request","params":{"endpoint":"get_service_nodes","params":` + fields + `}}`},
		} {
			b, err := postTo(t.Context(), client, to+c.path, []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			var answer struct{ Result json.RawMessage }
			if err := json.Unmarshal(b, &answer); err != nil {
				t.Fatal(err)
			}
			got, _, err := seed.ParseServiceNodes(answer.Result)
			if err != nil || !bytes.Equal(got.Records(), want) || got.Hash != list.Hash {
				t.Errorf("node %d, %s: %v, %s", k, c.path, err, b)
			}
		}
	}
}
