package seed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/node/swarm"
)

// serve runs the authority on loopback and returns a client of it.
func serve(t *testing.T, a *Authority) *Client {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx, l) }()
	c := &Client{URL: "https://" + l.Addr().String() + "/json_rpc", Pin: a.Pin()}
	t.Cleanup(func() {
		c.Close()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return c
}

func TestClientAndAuthority(t *testing.T) {
	a, w := open(t, t.TempDir(), 4)
	c := serve(t, a)
	if l, err := c.ServiceNodes(t.Context()); err != nil || len(l.Nodes) != 0 {
		t.Fatalf("an empty network: %v, %v", l, err)
	}
	for k := 1; k <= 4; k++ {
		if err := c.Announce(t.Context(), pairNo(k), addrNo(k)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := c.ServiceNodes(t.Context())
	if err != nil || l.Height != 4 || l.Hash != a.List().Hash || !slices.Equal(l.Nodes, a.List().Nodes) {
		t.Errorf("got %+v, %v", l, err)
	}

	same, err := c.Poll(t.Context(), l)
	if same != l || err != nil {
		t.Errorf("a poll without news: %p, %v", same, err)
	}
	w.remove(addrNo(2))
	a.nodes[pairNo(2).Ed25519()].seen = time.Now().Add(-time.Hour)
	a.round(t.Context())
	newer, err := c.Poll(t.Context(), l)
	if err != nil || newer.Height != 5 || !slices.Equal(newer.Nodes, a.List().Nodes) {
		t.Errorf("a poll with news: %+v, %v", newer, err)
	}
	active, err := c.ServiceNodes(t.Context())
	if _, listed := active.Find(pairNo(2).Ed25519()); err != nil || listed || len(active.Nodes) != 3 {
		t.Errorf("clients see %d nodes, %v", len(active.Nodes), err)
	}

	if err := c.Announce(t.Context(), pairNo(9), addrNo(9)); !errors.Is(err, ErrAnswer) || !strings.Contains(err.Error(), "no answer at 127.0.9.1:22021") {
		t.Errorf("announcing what does not answer: %v", err)
	}
	c.Now = func() time.Time { return time.Now().Add(time.Hour) }
	if err := c.Announce(t.Context(), pairNo(1), addrNo(1)); !errors.Is(err, ErrAnswer) {
		t.Errorf("announcing with a wrong clock: %v", err)
	}
}

func TestClientChecksThePin(t *testing.T) {
	a, _ := open(t, t.TempDir(), 0)
	good := serve(t, a)
	bad := &Client{URL: good.URL, Pin: sha256.Sum256([]byte("another"))}
	defer bad.Close()
	if _, err := bad.ServiceNodes(t.Context()); !errors.Is(err, ErrPin) {
		t.Errorf("another certificate: %v", err)
	}
	plain := &Client{URL: strings.Replace(good.URL, "https", "http", 1), Pin: good.Pin}
	if _, err := plain.ServiceNodes(t.Context()); !errors.Is(err, ErrPin) {
		t.Errorf("no certificate: %v", err)
	}
}

func TestJSONRPC(t *testing.T) {
	a, _ := open(t, t.TempDir(), 1)
	a.join(t, 1)
	c := serve(t, a)
	tests := []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"another path", "POST", "/", "{}", 404, "404 page not found\n"},
		{"another method of HTTP", "GET", "/json_rpc", "", 404, "404 page not found\n"},
		{"no JSON", "POST", "/json_rpc", "{nope", 200, `{"error":{"code":-32700,"message":"Parse error"},"id":null,"jsonrpc":"2.0"}`},
		{"an unknown method", "POST", "/json_rpc", `{"id":"x","method":"get_info"}`, 200, `{"error":{"code":-32601,"message":"Method not found"},"id":"x","jsonrpc":"2.0"}`},
		{"bad parameters", "POST", "/json_rpc", `{"id":1,"method":"get_n_service_nodes","params":[]}`, 200, `{"error":{"code":-32602,"message":"Invalid params"},"id":1,"jsonrpc":"2.0"}`},
		{"a bad announcement", "POST", "/json_rpc", `{"method":"announce","params":{}}`, 200, `{"error":{"code":-32000,"message":"invalid announcement: key of the node"},"id":null,"jsonrpc":"2.0"}`},
		{"too much", "POST", "/json_rpc", strings.Repeat("x", maxRequest+1), 413, "request body too large or incomplete\n"},
		{"what Session desktop sends", "POST", "/json_rpc",
			`{"jsonrpc":"2.0","method":"get_n_service_nodes","params":{"active_only":true,"fields":{"public_ip":true,"storage_port":true}}}`, 200,
			fmt.Sprintf(`{"id":null,"jsonrpc":"2.0","result":{"block_hash":"%x","height":1,"service_node_states":[{"public_ip":"127.0.1.1","storage_port":22021}],"status":"OK"}}`, a.List().Hash)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			url := strings.TrimSuffix(c.URL, "/json_rpc") + tt.path
			req, err := http.NewRequest(tt.method, url, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status || string(got) != tt.want {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, got, tt.status, tt.want)
			}
		})
	}
}

func TestServiceNodes(t *testing.T) {
	list := &swarm.List{Height: 7, Hash: [32]byte{0xab}}
	for k := 1; k <= 4; k++ {
		list.Nodes = append(list.Nodes, swarm.Node{Ed25519: pairNo(k).Ed25519(), X25519: pairNo(k).X25519(), Address: addrNo(k), Swarm: swarm.ID(k % 2), QUIC: uint16(22100 + k), Version: swarm.Version})
	}
	list.Nodes[3].Swarm = swarm.None
	all := []string{"active", "funded", "payable", "pubkey_ed25519", "pubkey_x25519", "public_ip", "requested_unlock_height", "service_node_pubkey", "storage_lmq_port", "storage_port", "storage_server_version", "swarm", "swarm_id"}
	hash := fmt.Sprintf("%x", list.Hash)
	key := pairNo(2).Ed25519()
	tests := []struct {
		name, params string
		nodes        int
		fields       []string // of every node
		top          []string // besides status, height, block_hash and the list
	}{
		{"no parameters", ``, 4, all, []string{"hardfork", "snode_revision", "target_height"}},
		{"null", `null`, 4, all, []string{"hardfork", "snode_revision", "target_height"}},
		{"an empty list of fields", `{"fields":[]}`, 4, all, []string{"hardfork", "snode_revision", "target_height"}},
		{"a list of fields", `{"fields":["public_ip","swarm_id"]}`, 4, []string{"public_ip", "swarm_id"}, nil},
		{"a list of fields for the top", `{"fields":["public_ip","hardfork"]}`, 4, []string{"public_ip"}, []string{"hardfork"}},
		{"all but some", `{"fields":["all","-swarm","-swarm_id","-hardfork"]}`, 4, all[:11], []string{"snode_revision", "target_height"}},
		{"a minus without all", `{"fields":["-swarm","public_ip"]}`, 4, []string{"public_ip"}, nil},
		{"an object of fields", `{"fields":{"public_ip":true,"swarm":false}}`, 4, []string{"public_ip"}, nil},
		{"an object in which nothing is true", `{"fields":{"public_ip":false}}`, 4, all, []string{"hardfork", "snode_revision", "target_height"}},
		{"an object with all", `{"fields":{"public_ip":true,"all":true}}`, 4, all, []string{"hardfork", "snode_revision", "target_height"}},
		{"active nodes only", `{"active_only":true,"fields":["active"]}`, 3, []string{"active"}, nil},
		{"a limit", `{"limit":2,"fields":["active"]}`, 2, []string{"active"}, nil},
		{"a limit above the number", `{"limit":20,"fields":["active"]}`, 4, []string{"active"}, nil},
		{"a negative limit", `{"limit":-1,"fields":["active"]}`, 4, []string{"active"}, nil},
		{"certain nodes, one of them unknown", fmt.Sprintf(`{"service_node_pubkeys":["%x","%064d"],"fields":["active"]}`, key, 0), 1, []string{"active"}, nil},
		{"an older hash", fmt.Sprintf(`{"poll_block_hash":"%064d","fields":["active"]}`, 0), 4, []string{"active"}, []string{"unchanged"}},
		{"an empty hash", `{"poll_block_hash":"","fields":["active"]}`, 4, []string{"active"}, nil},
		{"the newest hash", `{"poll_block_hash":"` + hash + `","fields":["active"]}`, -1, nil, []string{"unchanged"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := ServiceNodes(list, json.RawMessage(tt.params))
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]json.RawMessage
			var nodes []map[string]json.RawMessage
			if err := json.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
			want := append([]string{"block_hash", "height", "status"}, tt.top...)
			if tt.nodes >= 0 {
				want = append(want, "service_node_states")
				if err := json.Unmarshal(got["service_node_states"], &nodes); err != nil || len(nodes) != tt.nodes {
					t.Errorf("%d nodes, %v", len(nodes), err)
				}
			}
			slices.Sort(want)
			if names := sortedKeys(got); !slices.Equal(names, want) {
				t.Errorf("has %v, want %v", names, want)
			}
			for _, n := range nodes {
				if names := sortedKeys(n); !slices.Equal(names, tt.fields) {
					t.Errorf("a node has %v, want %v", names, tt.fields)
				}
			}
		})
	}

	for _, params := range []string{`[]`, `"x"`, `{"fields":7}`, `{"fields":[1]}`, `{"fields":{"a":1}}`, `{"limit":"2"}`, `{"active_only":1}`, `{"service_node_pubkeys":["xy"]}`, `{`} {
		if _, err := ServiceNodes(list, json.RawMessage(params)); !errors.Is(err, ErrParams) {
			t.Errorf("%s: %v", params, err)
		}
	}
	t.Run("every identifier of a swarm survives", func(t *testing.T) {
		for _, id := range []swarm.ID{0, 1<<53 + 1, 1<<64 - 2, swarm.None} {
			one := &swarm.List{Nodes: []swarm.Node{list.Nodes[0]}}
			one.Nodes[0].Swarm = id
			for _, field := range []string{"swarm", "swarm_id"} {
				b, err := ServiceNodes(one, json.RawMessage(`{"fields":["pubkey_ed25519","pubkey_x25519","public_ip","storage_port","storage_lmq_port","storage_server_version","`+field+`"]}`))
				if err != nil {
					t.Fatal(err)
				}
				back, _, err := ParseServiceNodes(b)
				if err != nil || len(back.Nodes) != 1 || back.Nodes[0] != one.Nodes[0] {
					t.Errorf("%s %v came back as %+v, %v", field, id, back, err)
				}
			}
		}
	})
}

func sortedKeys(m map[string]json.RawMessage) (names []string) {
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// entry is a node's JSON with one thing replaced.
func entry(old, new string) string {
	ed, x := pairNo(1).Ed25519(), pairNo(1).X25519()
	e := fmt.Sprintf(`{"public_ip":"192.0.2.7","storage_port":22021,"pubkey_ed25519":"%x","pubkey_x25519":"%x","requested_unlock_height":5,"storage_lmq_port":22020,"storage_server_version":[2,300,-1,7],"swarm_id":9}`, ed, x)
	return strings.Replace(e, old, new, 1)
}

func TestParseServiceNodes(t *testing.T) {
	good, _, err := ParseServiceNodes([]byte(`{"status":"OK","height":3,"service_node_states":[` + entry("", "") + `]}`))
	if err != nil || good.Height != 3 || len(good.Nodes) != 1 {
		t.Fatalf("got %+v, %v", good, err)
	}
	want := swarm.Node{Ed25519: pairNo(1).Ed25519(), X25519: pairNo(1).X25519(), Swarm: 9, RequestedUnlockHeight: 5, QUIC: 22020, Version: [3]uint8{2, 255, 0}}
	want.Address = good.Nodes[0].Address
	if good.Nodes[0] != want || want.Address.String() != "192.0.2.7:22021" {
		t.Errorf("got %+v", good.Nodes[0])
	}

	for _, bad := range []string{
		entry("192.0.2.7", "0.0.0.0"), entry("192.0.2.7", "255.255.255.255"), entry("192.0.2.7", "::1"), entry("192.0.2.7", ""), entry("192.0.2.7", "x"),
		entry("22021", "0"), entry("22021", "65536"), entry("22021", "-1"), entry("22021", `"22021"`), entry(`"storage_port":22021,`, ""),
		entry("pubkey_ed25519", "x"), entry("pubkey_x25519", "x"), entry(`pubkey_ed25519":"`, `pubkey_ed25519":"0`),
		entry(`"public_ip":"192.0.2.7",`, ""), entry(fmt.Sprintf("%x", pairNo(1).Ed25519()), strings.Repeat("0", 64)),
		`null`, `7`, `"x"`, `[]`, `{}`,
	} {
		l, _, err := ParseServiceNodes([]byte(`{"status":"OK","service_node_states":[` + bad + `,` + entry("", "") + `,` + entry("9}", "8}") + `]}`))
		if err != nil || len(l.Nodes) != 1 || l.Nodes[0] != want {
			t.Errorf("beside %s: got %+v, %v", bad, l, err)
		}
	}

	for _, bad := range []string{
		``, `nope`, `[]`, `{}`, `{"service_node_states":[]}`, `{"status":"BUSY","service_node_states":[]}`, `{"status":"OK"}`,
		`{"status":"OK","service_node_states":{}}`, `{"status":"OK","height":-1,"service_node_states":[]}`,
		`{"status":"OK","block_hash":"xy","service_node_states":[]}`, `{"status":"OK","service_node_states":null}`,
		`{"status":"OK","service_node_states":[` + strings.Repeat(`0,`, maxEntries) + `0]}`,
	} {
		if l, unchanged, err := ParseServiceNodes([]byte(bad)); !errors.Is(err, ErrAnswer) {
			t.Errorf("%.80s: got %+v, %t, %v", bad, l, unchanged, err)
		}
	}
	if _, unchanged, err := ParseServiceNodes([]byte(`{"status":"OK","unchanged":true}`)); !unchanged || err != nil {
		t.Errorf("unchanged: %t, %v", unchanged, err)
	}
}

func TestAnswersThatClientsRefuse(t *testing.T) {
	list := `{"result":{"status":"OK","service_node_states":[` + entry("", "") + `]}}`
	tests := []struct {
		name, kind string
		status     int
		body       []byte
		ok         bool
	}{
		{"a good one", "application/json", 200, []byte(list), true},
		{"with a character set", "application/json; charset=utf-8", 200, []byte(list), true},
		{"another content type", "text/html", 200, []byte(list), false},
		{"another status", "application/json", 500, []byte(list), false},
		{"a redirect", "application/json", 302, []byte(list), false},
		{"no JSON", "application/json", 200, []byte("nope"), false},
		{"no result", "application/json", 200, []byte(`{}`), false},
		{"an error", "application/json", 200, []byte(`{"error":{"code":-1,"message":"no"}}`), false},
		{"more than anybody needs", "application/json", 200, append([]byte(list), bytes.Repeat([]byte(" "), maxAnswer)...), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", tt.kind)
				w.Header().Set("Location", "/json_rpc")
				w.WriteHeader(tt.status)
				w.Write(tt.body)
			}))
			defer s.Close()
			c := &Client{URL: s.URL + "/json_rpc", Pin: sha256.Sum256(s.Certificate().Raw)}
			defer c.Close()
			l, err := c.ServiceNodes(t.Context())
			if tt.ok && (err != nil || len(l.Nodes) != 1) || !tt.ok && !errors.Is(err, ErrAnswer) {
				t.Errorf("got %+v, %v", l, err)
			}
		})
	}
}

func FuzzParseServiceNodes(f *testing.F) {
	f.Add([]byte(`{"result":{"status":"OK","height":3,"block_hash":"` + strings.Repeat("ab", 32) + `","service_node_states":[` + entry("", "") + `]}}`))
	f.Add([]byte(`{"result":{"status":"OK","unchanged":true}}`))
	f.Add([]byte(`{"error":{"code":-1,"message":"no"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		result, err := parseResult(b)
		if err != nil {
			if !errors.Is(err, ErrAnswer) {
				t.Errorf("error %v", err)
			}
			return
		}
		l, unchanged, err := ParseServiceNodes(result)
		if err != nil {
			if !errors.Is(err, ErrAnswer) {
				t.Errorf("error %v", err)
			}
			return
		}
		if unchanged {
			return
		}
		// What was accepted survives another round.
		again, err := ServiceNodes(l, nil)
		if err != nil {
			t.Fatal(err)
		}
		if back, _, err := ParseServiceNodes(again); err != nil || !slices.Equal(back.Nodes, l.Nodes) {
			t.Errorf("%+v came back as %+v, %v", l.Nodes, back, err)
		}
	})
}

func FuzzServiceNodesParams(f *testing.F) {
	for _, s := range []string{``, `{"fields":["all","-x"]}`, `{"fields":{"x":true},"limit":-1}`, `{"poll_block_hash":"ab"}`} {
		f.Add([]byte(s))
	}
	list := &swarm.List{Nodes: []swarm.Node{{Ed25519: pairNo(1).Ed25519(), X25519: pairNo(1).X25519(), Address: addrNo(1)}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ServiceNodes(list, b)
		if err != nil && !errors.Is(err, ErrParams) {
			t.Errorf("error %v", err)
		}
		if err == nil && !json.Valid(got) {
			t.Errorf("answer %q", got)
		}
	})
}
