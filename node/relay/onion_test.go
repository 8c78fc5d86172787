package relay

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hearth/node/internal/vectortest"
	"hearth/node/keys"
	"hearth/node/onion"
	"hearth/node/swarm"
)

func TestOnionReachesTheDestination(t *testing.T) {
	net := newNetwork(t, [][32]byte{{1}, {2}, {3}, {4}})
	tests := []struct {
		name string
		path []int
		dest int
	}{
		{"over three nodes to a fourth", []int{0, 1, 2}, 3},
		{"over a single node", []int{0}, 1},
		{"over the same node three times", []int{0, 0, 0}, 0},
		{"there and back again", []int{0, 1, 0, 1}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := net.build(net.hops(tt.path...), net.nodes[tt.dest].hop(), info)
			got := net.post(tt.path[0], req.Body)
			if got.status != 200 || got.header.Get("Content-Type") != "text/plain" {
				t.Fatalf("got %v", got)
			}
			status, body, err := req.OpenReply([]byte(got.body))
			if err != nil || status != 200 || !strings.Contains(string(body), `"version":[2,8,0]`) {
				t.Errorf("got %d %q, %v", status, body, err)
			}
		})
	}
	t.Run("whose error is inside", func(t *testing.T) {
		req := net.build(net.hops(0, 1, 2), net.nodes[3].hop(), `{"method":"nope","params":{}}`)
		got := net.post(0, req.Body)
		status, body, err := req.OpenReply([]byte(got.body))
		if got.status != 200 || err != nil || status != 400 || string(body) != "no method nope" {
			t.Errorf("got %v, %d %q, %v", got, status, body, err)
		}
	})
	t.Run("with nearly all that a request may hold", func(t *testing.T) {
		req := net.build(net.hops(0, 1, 2), net.nodes[3].hop(), strings.Repeat("x", onion.MaxRequest-4096))
		got := net.post(0, req.Body)
		status, body, err := req.OpenReply([]byte(got.body))
		if got.status != 200 || err != nil || status != 400 || string(body) != "invalid json" {
			t.Errorf("got %d with %d bytes, %d %q, %v", got.status, len(got.body), status, body, err)
		}
	})
	t.Run("and every layer is counted", func(t *testing.T) {
		before := net.nodes[2].server.Onions()
		net.post(0, net.build(net.hops(0, 1, 2), net.nodes[2].hop(), info).Body)
		if n := net.nodes[2].server.Onions() - before; n != 2 {
			t.Errorf("%d layers", n)
		}
	})
}

// withHop sets the hop number that a client pretends to have.
func withHop(t *testing.T, body []byte, hop int) []byte {
	t.Helper()
	blob, control, err := onion.ParseFrame(body)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(control, &fields); err != nil {
		t.Fatal(err)
	}
	fields["hop_no"] = hop
	control, err = json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return onion.EncodeFrame(blob, control)
}

func TestOnionErrors(t *testing.T) {
	nowhere := keys.FromSeed([32]byte{99})
	unlisted := onion.Hop{Ed25519: nowhere.Ed25519(), X25519: nowhere.X25519()}
	silent := listenSilently(t)
	net := newNetwork(t, [][32]byte{{1}, {2}, {3}}, func(k int, c *Config) { c.Limits.Hop = 200 * time.Millisecond })
	list := net.list.Load()
	add := func(seed byte, addr string) onion.Hop {
		pair := keys.FromSeed([32]byte{seed})
		list.Nodes = append(list.Nodes, swarm.Node{Ed25519: pair.Ed25519(), X25519: pair.X25519(), Address: netip.MustParseAddrPort(addr), Swarm: swarm.None})
		return onion.Hop{Ed25519: pair.Ed25519(), X25519: pair.X25519()}
	}
	list = &swarm.List{Nodes: list.Nodes}
	dead := add(50, "127.0.0.1:1")
	mute := add(51, silent)
	homeless := add(52, "0.0.0.0:0")
	impostor := add(53, net.nodes[2].addr.String())
	net.list.Store(list)

	name := func(h onion.Hop) string { return hex.EncodeToString(h.Ed25519[:]) }
	wrongKey := net.nodes[1].hop()
	wrongKey.X25519 = nowhere.X25519()
	a := net.nodes[0].hop()
	b := net.nodes[1].hop()
	c := net.nodes[2].hop()
	long := []onion.Hop{a, b, a, b, a, b, a, b, a, b, a, b, a, b, a}

	tests := []struct {
		name   string
		body   []byte
		status int
		want   string
	}{
		{"three bytes", []byte("abc"), 400, "Error parsing onion request: Unexpected payload size; expected ciphertext size"},
		{"a length beyond the end", []byte{0xff, 0xff, 0xff, 0x7f, 'a', 'b', 'c'}, 400, "Error parsing onion request: Unexpected payload size 3, expected >= 2147483647"},
		{"the body of a storage request", []byte(info), 400, "Error parsing onion request: Unexpected payload size 25, expected >= 1701651067"},
		{"a key that is not hexadecimal", onion.EncodeFrame(nil, []byte(`{"ephemeral_key":"xyz"}`)), 400, "Error parsing onion request: Hex key data is invalid: data is not hex"},
		{"a key that is short", onion.EncodeFrame(nil, []byte(`{"ephemeral_key":"abcd"}`)), 400, "Error parsing onion request: Hex key data is invalid: expected 32 hex digits, received 4"},
		{"an unknown cipher", onion.EncodeFrame(nil, []byte(`{"enc_type":"rot13","ephemeral_key":"`+strings.Repeat("ab", 32)+`"}`)), 400, "Error parsing onion request: Invalid encryption type rot13"},
		{"an empty ciphertext", onion.EncodeFrame(nil, []byte(`{"ephemeral_key":"`+strings.Repeat("ab", 32)+`"}`)), 400, "Invalid ciphertext"},
		{"a key of low order", onion.EncodeFrame(make([]byte, 64), []byte(`{"ephemeral_key":"`+strings.Repeat("00", 32)+`"}`)), 400, "Invalid ciphertext"},
		{"garbage for the entry", onion.EncodeFrame(make([]byte, 64), []byte(`{"ephemeral_key":"`+strings.Repeat("ab", 32)+`"}`)), 400, "Invalid ciphertext"},
		{"a layer that the middle node cannot open", net.build([]onion.Hop{a, wrongKey, c}, c, info).Body, 400, "Invalid ciphertext"},
		{"a layer that the destination cannot open", net.build([]onion.Hop{a, b, c}, wrongKey, info).Body, 400, "Invalid ciphertext"},
		{"an unknown next hop", net.build([]onion.Hop{a, unlisted, c}, c, info).Body, 502, "Next node not found: " + name(unlisted)},
		{"an unknown destination", net.build([]onion.Hop{a, b, c}, unlisted, info).Body, 502, "Next node not found: " + name(unlisted)},
		{"a next hop without an address", net.build([]onion.Hop{a, b, homeless}, c, info).Body, 502, "Next node is currently unreachable: " + name(homeless)},
		{"a next hop that is gone", net.build([]onion.Hop{a, b, dead}, c, info).Body, 504, "Request time out"},
		{"a next hop that says nothing", net.build([]onion.Hop{a, mute, b}, c, info).Body, 504, "Request time out"},
		{"a next hop at whose address another node lives", net.build([]onion.Hop{a, impostor, b}, c, info).Body, 504, "Request time out"},
		{"a hop number of 14 at the entry, refused at the third node", withHop(t, net.build([]onion.Hop{a, b, c}, c, info).Body, 14), 400, "onion request max path length exceeded"},
		{"a path that bites its tail for too long", withHop(t, net.build([]onion.Hop{a, a, a, a}, a, info).Body, 12), 400, "onion request max path length exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := net.post(0, tt.body); got.status != tt.status || got.body != tt.want {
				t.Errorf("got %v, want %d %q", got, tt.status, tt.want)
			}
		})
	}

	t.Run("a node that is not ready names itself", func(t *testing.T) {
		net.nodes[1].notReady.Store(&[]string{"not in any swarm"})
		defer net.nodes[1].notReady.Store(nil)
		got := net.post(0, net.build([]onion.Hop{a, b, c}, c, info).Body)
		if want := "Snode not ready: " + name(b); got.status != 503 || got.body != want {
			t.Errorf("got %v", got)
		}
	})
	t.Run("a path of fifteen nodes and the destination is fine", func(t *testing.T) {
		slow := newNetwork(t, [][32]byte{{1}, {2}, {3}})
		req := slow.build(long, c, info)
		got := slow.post(0, req.Body)
		if status, _, err := req.OpenReply([]byte(got.body)); got.status != 200 || status != 200 || err != nil {
			t.Errorf("got %v, %d, %v", got, status, err)
		}
	})

	unreadable := []struct{ name, control string }{
		{"no JSON", "nope"},
		{"no known kind", `{}`},
		{"a flag that is no boolean", `{"headers":[],"json":1}`},
		{"a server without a target", `{"host":"127.0.0.1"}`},
		{"a next node with a bad key", `{"destination":"abc","ephemeral_key":"` + strings.Repeat("ab", 32) + `"}`},
		{"an unknown cipher for the next node", `{"destination":"` + name(b) + `","ephemeral_key":"` + strings.Repeat("ab", 32) + `","enc_type":"rot13"}`},
	}
	for _, tt := range unreadable {
		t.Run("a layer with "+tt.name, func(t *testing.T) {
			entry, open := layerTo(t, net.nodes[0].keys, onion.EncodeFrame([]byte(info), []byte(tt.control)))
			expectSealed(t, net.post(0, entry), open, `{"body":"Invalid json","status":400}`)
		})
	}
}

// expectSealed checks an encrypted answer of a hop.
func expectSealed(t *testing.T, got reply, open func([]byte) (string, error), want string) {
	t.Helper()
	sealed, err := base64.StdEncoding.DecodeString(got.body)
	if err != nil || got.status != 200 {
		t.Fatalf("got %v, %v", got, err)
	}
	if text, err := open(sealed); err != nil || text != want {
		t.Errorf("got %q, %v", text, err)
	}
}

// listenSilently accepts connections and never says a word.
func listenSilently(t *testing.T) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

func TestAnswersOfTheNextNode(t *testing.T) {
	tests := []struct {
		name   string
		parts  []string
		status int
		want   string
	}{
		{"nothing", nil, 500, "Invalid response from snode"},
		{"one part", []string{"200"}, 500, "Invalid response from snode"},
		{"two parts", []string{"200", "body"}, 200, "body"},
		{"more parts, of which the rest is ignored", []string{"421", "body", "rest"}, 421, "body"},
		{"a status that nodes do not know", []string{"418", "teapot"}, 500, "teapot"},
		{"a status that is no number", []string{"fine", "body"}, 500, "body"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			net := network3(t, func(k int, c *Config) {
				c.Peers = peersFunc(func(context.Context, swarm.Node, string, [][]byte) (parts [][]byte, err error) {
					for _, p := range tt.parts {
						parts = append(parts, []byte(p))
					}
					return parts, nil
				})
			})
			got := net.post(0, net.build(net.hops(0, 1), net.nodes[2].hop(), info).Body)
			if got.status != tt.status || got.body != tt.want {
				t.Errorf("got %v, want %d %q", got, tt.status, tt.want)
			}
		})
	}
}

// onionVector is a complete request that was made with the storage server's own
// code.
type onionVector struct {
	Label string         `json:"label"`
	Entry vectortest.Hex `json:"entry_body_hex"`
	First vectortest.Hex `json:"hop1_to_hop2_sn_onion_request_part_hex"`
	Then  vectortest.Hex `json:"hop2_to_hop3_sn_onion_request_part_hex"`
	Web   *struct {
		Method, URL string
		Body        vectortest.Hex `json:"body_hex"`
	} `json:"expected_http_request"`
}

// TestOnionVectors sends the requests of the vectors over three relays and
// compares what passes between them.
func TestOnionVectors(t *testing.T) {
	var v struct {
		Nodes []struct {
			Seed vectortest.Hex `json:"ed25519_seed"`
		} `json:"nodes"`
		Onions []onionVector `json:"onions"`
	}
	vectortest.Load(t, "onion-relay.json", &v)
	var seeds [][32]byte
	for _, n := range v.Nodes {
		seeds = append(seeds, [32]byte(n.Seed))
	}

	posted := make(chan webRequest, 1)
	web := newWeb(t, "files.example.org", func(w http.ResponseWriter, r *http.Request) {
		posted <- readWebRequest(r)
		io.WriteString(w, "bytes of the server")
	})
	passed := make(chan []byte, len(seeds))
	net := newNetwork(t, seeds, func(k int, c *Config) {
		over := c.Peers
		c.Peers = peersFunc(func(ctx context.Context, to swarm.Node, command string, parts [][]byte) ([][]byte, error) {
			passed <- parts[0]
			return over.Request(ctx, to, command, parts)
		})
		c.Exit = web.exit()
	})

	vectortest.Each(t, "onions", v.Onions, func(t *testing.T, o onionVector) {
		got := net.post(0, o.Entry)
		if got.status != 200 {
			t.Fatalf("%s: got %v", o.Label, got)
		}
		for i, want := range [][]byte{o.First, o.Then} {
			if p := <-passed; !bytes.Equal(p, want) {
				t.Errorf("%s: link %d carries %q, want %q", o.Label, i+1, p, want)
			}
		}
		if o.Web == nil {
			return
		}
		r := <-posted
		if r.method != o.Web.Method || r.url != o.Web.URL || !bytes.Equal(r.body, o.Web.Body) {
			t.Errorf("posted %s %s %x", r.method, r.url, r.body)
		}
		if got.body != "bytes of the server" {
			t.Errorf("got %v", got)
		}
	})
}
