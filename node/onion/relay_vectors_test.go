package onion

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"hearth/node/bt"
	"hearth/node/internal/vectortest"
	"hearth/node/keys"
)

type relayNode struct {
	Seed    vectortest.Hex `json:"ed25519_seed"`
	Ed25519 vectortest.Hex `json:"ed25519_public"`
	Secret  vectortest.Hex `json:"x25519_secret"`
	X25519  vectortest.Hex `json:"x25519_public"`
}

func (n relayNode) pair(t *testing.T) *keys.Pair {
	t.Helper()
	return nodeVector(n).pair(t)
}

func TestRelayNodes(t *testing.T) {
	sections(t, "onion-relay.json", "channel_encryption", "nodes", "inner_payload_classification", "url_target_filter",
		"onions", "final_replies", "relay_responses", "status_codes_passed_through")
	var file struct{ Nodes []relayNode }
	vectortest.Load(t, "onion-relay.json", &file)
	vectortest.Each(t, "nodes", file.Nodes, func(t *testing.T, n relayNode) { n.pair(t) })
}

func TestChannelEncryption(t *testing.T) {
	type channelCase struct {
		EncType      string         `json:"enc_type"`
		Direction    string         `json:"direction"`
		ClientSecret vectortest.Hex `json:"client_secret"`
		ClientPublic vectortest.Hex `json:"client_public"`
		ServerSecret vectortest.Hex `json:"server_secret"`
		ServerPublic vectortest.Hex `json:"server_public"`
		Shared       vectortest.Hex `json:"shared_secret"`
		Key          vectortest.Hex `json:"derived_key"`
		Nonce        vectortest.Hex
		Plaintext    vectortest.Hex `json:"plaintext_hex"`
		Ciphertext   vectortest.Hex `json:"ciphertext_hex"`
	}
	var file struct {
		Cases []channelCase `json:"channel_encryption"`
	}
	vectortest.Load(t, "onion-relay.json", &file)
	vectortest.Each(t, "channels", file.Cases, func(t *testing.T, c channelCase) {
		enc, err := ParseEncType(c.EncType)
		if err != nil {
			t.Fatal(err)
		}
		client := agreed(t, enc, c.ClientSecret, c.ServerPublic, true)
		server := agreed(t, enc, c.ServerSecret, c.ClientPublic, false)
		direct := newChannel(enc, slices.Clone(c.Shared), [32]byte(c.ClientPublic), [32]byte(c.ServerPublic))
		if client != server || client != direct || !bytes.Equal(client.key[:], c.Key) {
			t.Fatalf("keys %x, %x, %x; want %x", client.key, server.key, direct.key, c.Key)
		}
		from, to := client, server
		switch c.Direction {
		case "client_to_server":
		case "server_to_client":
			from, to = server, client
		default:
			t.Fatalf("direction %q", c.Direction)
		}
		if got := sealed(t, from, c.Nonce, c.Plaintext); !bytes.Equal(got, c.Ciphertext) {
			t.Errorf("ciphertext %x", got)
		}
		if got, err := to.open(c.Ciphertext); err != nil || !bytes.Equal(got, c.Plaintext) {
			t.Errorf("plain text %x, %v", got, err)
		}
		for cut := range len(c.Ciphertext) {
			if enc == CBC && cut >= 32 {
				break // without authentication a shorter message can be valid
			}
			if _, err := to.open(c.Ciphertext[:cut]); err == nil {
				t.Errorf("opens when cut to %d bytes", cut)
			}
		}
	})
}

func TestClassification(t *testing.T) {
	type innerCase struct {
		Plaintext vectortest.Hex `json:"plaintext_hex"`
		JSON      string
		Kind      string

		BodyText string `json:"body_text"`
		JSONFlag bool   `json:"json_flag"`
		Base64   bool   `json:"base64_flag"`

		Host, Protocol, Target string
		Port                   int
		PostBody               string `json:"post_body"`

		Payload   string         `json:"payload_text"`
		Next      vectortest.Hex `json:"next_ed25519"`
		Ephemeral vectortest.Hex `json:"ephemeral_key"`
		EncType   EncType        `json:"enc_type"`

		Error string
	}
	var file struct {
		Cases []innerCase `json:"inner_payload_classification"`
	}
	vectortest.Load(t, "onion-relay.json", &file)
	vectortest.Each(t, "plain texts", file.Cases, func(t *testing.T, c innerCase) {
		if !bytes.HasSuffix(c.Plaintext, []byte(c.JSON)) {
			t.Fatalf("plain text does not end in %q", c.JSON)
		}
		got, err := classify(c.Plaintext, 4)
		var want Inner
		switch c.Kind {
		case "final":
			want = &Final{Body: []byte(c.BodyText), JSON: c.JSONFlag, Base64: c.Base64}
		case "server":
			if c.PostBody != "whole plaintext" {
				t.Fatalf("post body %q", c.PostBody)
			}
			want = &Server{Host: c.Host, Target: c.Target, Protocol: c.Protocol, Port: c.Port, Post: c.Plaintext}
		case "node":
			want = &Node{Next: [32]byte(c.Next), Layer: Layer{Ciphertext: []byte(c.Payload),
				EphemeralKey: [32]byte(c.Ephemeral), EncType: c.EncType, HopNo: 5}}
		case "error":
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("got %#v, %v; want an error (%s)", got, err, c.Error)
			}
			return
		default:
			t.Fatalf("kind %q", c.Kind)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %#v, %v; want %#v", got, err, want)
		}
	})
}

func TestTargetFilter(t *testing.T) {
	type targetCase struct {
		Target  string
		Allowed bool
	}
	var file struct {
		Cases []targetCase `json:"url_target_filter"`
	}
	vectortest.Load(t, "onion-relay.json", &file)
	vectortest.Each(t, "targets", file.Cases, func(t *testing.T, c targetCase) {
		if got := TargetAllowed(c.Target); got != c.Allowed {
			t.Errorf("%s: %v", c.Target, got)
		}
		server := &Server{Host: "example.org", Protocol: "https", Port: 443, Target: c.Target}
		if got := server.Allowed(); got != c.Allowed {
			t.Errorf("server with %s: %v", c.Target, got)
		}
	})
}

func TestOnionsThroughThreeRelays(t *testing.T) {
	type onionCase struct {
		Label     string
		EncTypes  []EncType                                 `json:"enc_types"`
		Omitted   []int                                     `json:"enc_type_key_omitted_for_hops"`
		Ephemeral []struct{ Secret, Public vectortest.Hex } `json:"ephemeral_keys"`
		Nonces    []vectortest.Hex
		Entry     vectortest.Hex `json:"entry_body_hex"`
		Hop1      vectortest.Hex `json:"hop1_plaintext_hex"`
		Hop2      vectortest.Hex `json:"hop2_plaintext_hex"`
		Hop3      vectortest.Hex `json:"hop3_plaintext_hex"`
		Part2     vectortest.Hex `json:"hop1_to_hop2_sn_onion_request_part_hex"`
		Part3     vectortest.Hex `json:"hop2_to_hop3_sn_onion_request_part_hex"`
		Tail      string         `json:"hop3_plaintext_json_tail"`
		HTTP      *struct {
			Method, URL string
			Body        vectortest.Hex `json:"body_hex"`
		} `json:"expected_http_request"`
	}
	var file struct {
		Nodes  []relayNode
		Onions []onionCase
	}
	vectortest.Load(t, "onion-relay.json", &file)
	if len(file.Nodes) != 3 {
		t.Fatalf("%d nodes", len(file.Nodes))
	}
	vectortest.Each(t, "onions", file.Onions, func(t *testing.T, c onionCase) {
		texts := []vectortest.Hex{c.Hop1, c.Hop2, c.Hop3}
		parts := []vectortest.Hex{nil, c.Part2, c.Part3}
		l, err := ParseEntry(c.Entry)
		if err != nil {
			t.Fatal(err)
		}
		var inner Inner
		for i, node := range file.Nodes {
			if i > 0 {
				next := inner.(*Node)
				if !bytes.Equal(next.Next[:], node.Ed25519) {
					t.Errorf("hop %d sends to %x", i, next.Next)
				}
				part := next.Layer.MarshalBT()
				if !bytes.Equal(part, parts[i]) {
					t.Errorf("hop %d sends %x", i, part)
				}
				if l, err = ParseLayerBT(part); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(l, next.Layer) {
					t.Errorf("hop %d reads %+v of %+v", i+1, l, next.Layer)
				}
			}
			if l.EncType != c.EncTypes[i] || !bytes.Equal(l.EphemeralKey[:], c.Ephemeral[i].Public) {
				t.Errorf("hop %d gets %s, %x", i+1, l.EncType, l.EphemeralKey)
			}
			pair := node.pair(t)
			channel, err := l.channel(pair)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := channel.open(l.Ciphertext); err != nil || !bytes.Equal(text, texts[i]) {
				t.Errorf("hop %d decrypts %x, %v", i+1, text, err)
			}
			if inner, err = l.Peel(pair); err != nil {
				t.Fatal(err)
			}
		}
		blob, tail, err := ParseFrame(c.Hop3)
		if err != nil || string(tail) != c.Tail {
			t.Fatalf("third plain text: %q, %v", tail, err)
		}
		if c.HTTP == nil {
			want := &Final{Body: blob, JSON: strings.Contains(c.Tail, `"json":true`), Base64: !strings.Contains(c.Tail, `"base64":false`)}
			if !reflect.DeepEqual(inner, want) {
				t.Errorf("third hop finds %#v", inner)
			}
		} else {
			server, ok := inner.(*Server)
			if !ok || c.HTTP.Method != "POST" || server.URL() != c.HTTP.URL || !bytes.Equal(server.Post, c.HTTP.Body) || !server.Allowed() {
				t.Errorf("third hop finds %#v", inner)
			}
		}

		// The same bytes come out of building the request anew.
		stages := make([]stage, 3)
		var secrets, nonces []vectortest.Hex
		for i := range stages {
			hop := 2 - i
			node := file.Nodes[hop]
			lead := []byte("{")
			if hop > 0 {
				lead = leadToNode(Hop{Ed25519: [32]byte(node.Ed25519)})
			}
			stages[i] = stage{x25519: [32]byte(node.X25519), enc: c.EncTypes[hop], lead: lead}
			secrets = append(secrets, c.Ephemeral[hop].Secret)
			nonces = append(nonces, c.Nonces[hop])
		}
		request, err := build(played(secrets, nonces), stages, true, blob, c.Tail)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Replace(c.Entry, []byte(`,"hop_no":2}`), []byte(`}`), 1)
		if !bytes.Equal(request.Body, want) {
			t.Errorf("building gives %x", request.Body)
		}
		if slices.Contains(c.Omitted, 1) != !bytes.Contains(request.Body, []byte(`"enc_type"`)) {
			t.Error("enc_type of the entry layer")
		}
	})
}

func TestFinalReplies(t *testing.T) {
	type replyCase struct {
		Label        string
		EncType      EncType        `json:"enc_type"`
		JSONFlag     bool           `json:"request_json_flag"`
		Base64       bool           `json:"request_base64_flag"`
		Status       int            `json:"inner_status"`
		Plaintext    string         `json:"plaintext"`
		Nonce        vectortest.Hex `json:"nonce"`
		HTTPStatus   int            `json:"http_status"`
		Reply        vectortest.Hex `json:"reply_body_hex"`
		ReplyText    string         `json:"reply_body_text"`
		ClientSecret vectortest.Hex `json:"client_ephemeral_secret"`
		ClientPublic vectortest.Hex `json:"client_ephemeral_public"`
		NodeSecret   vectortest.Hex `json:"node_x25519_secret"`
		NodePublic   vectortest.Hex `json:"node_x25519_public"`
	}
	var file struct {
		Nodes   []relayNode
		Replies []replyCase `json:"final_replies"`
	}
	vectortest.Load(t, "onion-relay.json", &file)
	vectortest.Each(t, "replies", file.Replies, func(t *testing.T, c replyCase) {
		var node *keys.Pair
		for _, n := range file.Nodes {
			if bytes.Equal(n.X25519, c.NodePublic) && bytes.Equal(n.Secret, c.NodeSecret) {
				node = n.pair(t)
			}
		}
		if node == nil || c.HTTPStatus != 200 {
			t.Fatalf("node %x, transport status %d", c.NodePublic, c.HTTPStatus)
		}
		body := envelopeBody(t, c.Label, c.Plaintext)
		l := Layer{EphemeralKey: [32]byte(c.ClientPublic), EncType: c.EncType}
		got, err := l.SealReply(bytes.NewReader(c.Nonce), node, c.Status, body, c.JSONFlag, c.Base64)
		if err != nil || !bytes.Equal(got, c.Reply) {
			t.Errorf("%s: reply %q, %v; want %q", c.Label, got, err, c.Reply)
		}
		if c.Base64 && c.ReplyText != string(c.Reply) {
			t.Errorf("%s: texts of the vector differ", c.Label)
		}

		client := agreed(t, c.EncType, c.ClientSecret, c.NodePublic, true)
		plain := []byte(c.Reply)
		if c.Base64 {
			if plain, err = base64.StdEncoding.DecodeString(c.ReplyText); err != nil {
				t.Fatal(err)
			}
			request := &Request{reply: client}
			if status, _, err := request.OpenReply(c.Reply); err != nil || status != c.Status {
				t.Errorf("%s: client reads %d, %v", c.Label, status, err)
			}
		}
		if text, err := client.open(plain); err != nil || string(text) != c.Plaintext {
			t.Errorf("%s: client decrypts %q, %v", c.Label, text, err)
		}
	})
}

// envelopeBody takes from an envelope what a handler would have answered.
func envelopeBody(t *testing.T, label, envelope string) any {
	t.Helper()
	var e struct{ Body json.RawMessage }
	if err := json.Unmarshal([]byte(envelope), &e); err != nil {
		t.Fatal(err)
	}
	if e.Body[0] != '"' {
		return e.Body
	}
	var text string
	if err := json.Unmarshal(e.Body, &text); err != nil {
		t.Fatal(err)
	}
	// A handler's JSON that was asked for as a string is still JSON to it.
	if strings.HasPrefix(text, "{") && !strings.HasPrefix(label, "text") {
		return json.RawMessage(text)
	}
	return text
}

func TestStatusCodesPassedThrough(t *testing.T) {
	var file struct {
		Codes []int `json:"status_codes_passed_through"`
	}
	vectortest.Load(t, "onion-relay.json", &file)
	if len(file.Codes) == 0 {
		t.Fatal("no cases in status_codes_passed_through")
	}
	for status := -1; status < 1000; status++ {
		want := 500
		if slices.Contains(file.Codes, status) {
			want = status
		}
		if got := PassThrough(status); got != want {
			t.Errorf("%d becomes %d, want %d", status, got, want)
		}
	}
}

// elsewhere are the answers of a relay that are not made in this package.
var elsewhere = []string{
	"node not ready (HTTPS route)",
	"request body larger than 10485760 bytes",
	"next node's ed25519 key is not in the node list",
	"reply of the next node has fewer than two parts",
	"connection or TLS failure",
	"server answered",
}

func TestRelayResponses(t *testing.T) {
	type responseCase struct {
		Where, Condition string
		Status           any
		Body             string
		Encrypted        any
	}
	var file struct {
		Cases []responseCase `json:"relay_responses"`
	}
	vectortest.Load(t, "onion-relay.json", &file)
	node := keys.FromSeed([32]byte{7})
	l := Layer{EphemeralKey: keys.FromSeed([32]byte{8}).X25519(), EncType: XChaCha20}
	open := func(t *testing.T, reply []byte) string {
		t.Helper()
		c, err := l.channel(node)
		if err != nil {
			t.Fatal(err)
		}
		status, body, err := (&Request{reply: c}).OpenReply(reply)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("body:'%s',status:%d", body, status)
	}

	// Each answer is made from the real condition and compared with the text of
	// the vector; where that stands for a part, a piece of it.
	made := map[string]func(t *testing.T) (answer, want string){
		"same as above": func(t *testing.T) (string, string) {
			_, err := ParseEntry([]byte("abc"))
			return PrefixEntry + err.Error(), "Error parsing onion request: "
		},
		"bt dictionary bad": func(t *testing.T) (string, string) {
			_, err := ParseLayerBT([]byte("de"))
			return PrefixLayer + err.Error(), "Invalid internal onion request: "
		},
		"hop_no above 15": func(t *testing.T) (string, string) {
			_, err := ParseLayerBT(Layer{HopNo: 16}.MarshalBT())
			if !errors.Is(err, ErrPathLength) {
				t.Errorf("error %v", err)
			}
			return err.Error(), "onion request max path length exceeded"
		},
		"decryption failed": func(t *testing.T) (string, string) {
			_, err := l.Peel(node)
			if !errors.Is(err, ErrDecrypt) {
				t.Errorf("error %v", err)
			}
			return TextInvalidCiphertext, "Invalid ciphertext"
		},
		"decrypted, but inner framing/JSON not understood": func(t *testing.T) (string, string) {
			c, err := l.channel(node)
			if err != nil {
				t.Fatal(err)
			}
			damaged := l
			damaged.Ciphertext = sealed(t, c, make([]byte, 24), []byte("abc"))
			inner, err := damaged.Peel(node)
			if _, ok := inner.(*Invalid); !ok {
				t.Fatalf("got %#v, %v", inner, err)
			}
			reply, err := l.SealReply(bytes.NewReader(make([]byte, 24)), node, 400, TextInvalidJSON, false, true)
			if err != nil {
				t.Fatal(err)
			}
			return open(t, reply), "body:'Invalid json',status:400"
		},
		"protocol not http/https or target not allowed": func(t *testing.T) (string, string) {
			if (&Server{Host: "h", Protocol: "ftp", Port: 21, Target: "/oxen/v4/lsrpc"}).Allowed() {
				t.Error("ftp is allowed")
			}
			reply, err := l.SealReply(bytes.NewReader(make([]byte, 24)), node, 400, TextInvalidURL, false, true)
			if err != nil {
				t.Fatal(err)
			}
			return open(t, reply), "body:'Invalid url',status:400"
		},
		"reply of the next node carries a status number outside the known table": func(t *testing.T) (string, string) {
			return fmt.Sprint(PassThrough(418)), "500"
		},
		"storage RPC done (any storage status)": func(t *testing.T) (string, string) {
			reply, err := l.SealReply(bytes.NewReader(make([]byte, 24)), node, 421, map[string]int{"t": 1}, false, true)
			if err != nil {
				t.Fatal(err)
			}
			return open(t, reply), `body:'{"t":1}',status:421`
		},
	}
	vectortest.Each(t, "answers", file.Cases, func(t *testing.T, c responseCase) {
		if slices.Contains(elsewhere, c.Condition) {
			return
		}
		make, known := made[c.Condition]
		if !known {
			t.Fatalf("condition %q is not tested", c.Condition)
		}
		answer, want := make(t)
		if !strings.HasPrefix(answer, want) {
			t.Errorf("%s: answer %q, want %q", c.Condition, answer, want)
		}
		general := strings.NewReplacer("<detail>", "", "envelope {body:<text or JSON>,status:<storage status>}", want,
			"<the next node's body, unchanged>", want).Replace(c.Body)
		if !strings.Contains(general, want) {
			t.Errorf("%s: the vector says %q, this test wants %q", c.Condition, c.Body, want)
		}
	})
}

func TestDictionaryOfAHopHasItsKeysInOrder(t *testing.T) {
	l := Layer{Ciphertext: []byte("x"), EncType: CBC, HopNo: 3}
	want, err := bt.Marshal(bt.Dict{"data": "x", "enc_type": "aes-cbc", "ephemeral_key": l.EphemeralKey[:], "hop_no": 3})
	if err != nil || !bytes.Equal(l.MarshalBT(), want) {
		t.Errorf("got %q, want %q, %v", l.MarshalBT(), want, err)
	}
}
