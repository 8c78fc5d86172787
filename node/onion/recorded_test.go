package onion

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"hearth/node/internal/vectortest"
	"hearth/node/keys"
)

// recorded is what real nodes of the network answered to onion requests that
// were good, damaged and wrong in many ways.
type recorded struct {
	Nodes []struct {
		Role    string
		Seed    vectortest.Hex `json:"ed25519_seed"`
		Ed25519 vectortest.Hex `json:"pubkey_ed25519"`
		X25519  vectortest.Hex `json:"pubkey_x25519"`
	}
	Exchanges []exchange
}

type exchange struct {
	Name, Node     string
	Status         int
	RequestBase64  []byte `json:"request_base64"`
	RequestText    string `json:"request_text"`
	ResponseText   string `json:"response_text"`
	ResponseBase64 []byte `json:"response_base64"`
	Onion          *struct {
		Control string
		Inner   json.RawMessage `json:"inner_request"`
		Layers  []struct {
			Secret  vectortest.Hex `json:"client_ephemeral_seckey"`
			EncType string         `json:"enc_type"`
			X25519  vectortest.Hex `json:"node_x25519"`
		}
		Decrypts  *int            `json:"reply_decrypts_with_layer"`
		WasBase64 *bool           `json:"reply_was_base64"`
		Plaintext json.RawMessage `json:"reply_plaintext"`
	}
}

// outcome is how far a request gets: a plain answer, or a layer to be answered
// by the node that opened it.
type outcome struct {
	status int
	text   string
	layer  Layer
	node   *keys.Pair
	inner  Inner
}

// TestRecordedTraffic sends every recorded request through nodes with the
// recorded keys and compares what they decide, and every byte that they answer,
// with what the real nodes did.
func TestRecordedTraffic(t *testing.T) {
	b, err := os.ReadFile("testdata/storage-server-2.8.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var file recorded
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	byRole, byKey := map[string]*keys.Pair{}, map[[32]byte]*keys.Pair{}
	for _, n := range file.Nodes {
		pair := keys.FromSeed([32]byte(n.Seed))
		if ed, x := pair.Ed25519(), pair.X25519(); !bytes.Equal(ed[:], n.Ed25519) || !bytes.Equal(x[:], n.X25519) {
			t.Fatalf("keys of %s differ", n.Role)
		}
		byRole[n.Role], byKey[pair.Ed25519()] = pair, pair
	}
	dead := byRole["dead"].Ed25519()

	walk := func(entry *keys.Pair, body []byte) outcome {
		l, err := ParseEntry(body)
		if err != nil {
			return outcome{status: 400, text: PrefixEntry + err.Error()}
		}
		node := entry
		for {
			inner, err := l.Peel(node)
			if err != nil {
				return outcome{status: 400, text: TextInvalidCiphertext}
			}
			next, ok := inner.(*Node)
			if !ok {
				return outcome{layer: l, node: node, inner: inner}
			}
			known := false
			if node, known = byKey[next.Next]; !known {
				return outcome{status: 502, text: "Next node not found: " + hex.EncodeToString(next.Next[:])}
			}
			if next.Next == dead {
				return outcome{status: 504, text: "Request time out"}
			}
			if l, err = ParseLayerBT(next.Layer.MarshalBT()); err != nil {
				return outcome{status: 400, text: err.Error()}
			}
		}
	}

	if len(file.Exchanges) == 0 {
		t.Fatal("no recorded exchanges")
	}
	for _, e := range file.Exchanges {
		t.Run(e.Name, func(t *testing.T) {
			body := e.RequestBase64
			if body == nil {
				body = []byte(e.RequestText)
			}
			response := e.ResponseBase64
			if response == nil {
				response = []byte(e.ResponseText)
			}
			got := walk(byRole[e.Node], body)

			switch inner := got.inner.(type) {
			case nil:
				// The texts of the C++ JSON library are not ours.
				want := e.ResponseText
				if i := strings.Index(want, "[json.exception"); i >= 0 {
					want, got.text = want[:i], got.text[:min(i, len(got.text))]
				}
				if got.status != e.Status || got.text != want {
					t.Errorf("answer %d %q, want %d %q", got.status, got.text, e.Status, want)
				}
				return
			case *Server:
				if inner.Allowed() {
					if e.Onion.Decrypts != nil {
						t.Errorf("%s is allowed", inner.URL())
					}
					compareControl(t, inner, e.Onion.Control)
					return
				}
				checkReply(t, e, got, response, 400, TextInvalidURL, false, true)
			case *Invalid:
				checkReply(t, e, got, response, 400, TextInvalidJSON, false, true)
			case *Final:
				if e.Onion.Inner != nil && !jsonEqual(json.RawMessage(inner.Body), e.Onion.Inner) {
					t.Errorf("destination reads %s, want %s", inner.Body, e.Onion.Inner)
				}
				var envelope struct{ Status int }
				if err := json.Unmarshal(e.Onion.Plaintext, &envelope); err != nil {
					t.Fatal(err)
				}
				body := envelopeBody(t, "", string(e.Onion.Plaintext))
				checkReply(t, e, got, response, envelope.Status, body, inner.JSON, inner.Base64)
			}
		})
	}
}

func compareControl(t *testing.T, s *Server, control string) {
	t.Helper()
	var want struct {
		Host, Target, Protocol string
		Port                   int
	}
	if err := json.Unmarshal([]byte(control), &want); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("%s://%s:%d%s", want.Protocol, want.Host, want.Port, want.Target)
	if s.URL() != url {
		t.Errorf("posts to %s, want %s", s.URL(), url)
	}
}

// checkReply seals the answer with the nonce that the real node drew, and opens
// the real answer as the client.
func checkReply(t *testing.T, e exchange, got outcome, response []byte, status int, body any, asJSON, asBase64 bool) {
	t.Helper()
	if e.Onion.Decrypts == nil {
		t.Fatalf("encrypted answer %d %v, want plain %d %q", status, body, e.Status, e.ResponseText)
	}
	layer := e.Onion.Layers[*e.Onion.Decrypts]
	if x := got.node.X25519(); !bytes.Equal(x[:], layer.X25519) {
		t.Fatal("another node answers")
	}
	if e.Status != 200 || asBase64 != *e.Onion.WasBase64 {
		t.Errorf("transport status %d, base64 %v", e.Status, asBase64)
	}
	raw := response
	if asBase64 {
		var err error
		if raw, err = base64.StdEncoding.DecodeString(string(response)); err != nil {
			t.Fatal(err)
		}
	}
	nonce := raw[:got.layer.EncType.nonceSize()]
	reply, err := got.layer.SealReply(bytes.NewReader(nonce), got.node, status, body, asJSON, asBase64)
	if err != nil || !bytes.Equal(reply, response) {
		t.Errorf("answer %q, %v; want %q", reply, err, response)
	}

	enc, err := ParseEncType(layer.EncType)
	if err != nil {
		t.Fatal(err)
	}
	client := agreed(t, enc, layer.Secret, layer.X25519, true)
	if text, err := client.open(raw); err != nil || !jsonEqual(json.RawMessage(text), e.Onion.Plaintext) {
		t.Errorf("client reads %q, %v; want %s", text, err, e.Onion.Plaintext)
	}
}
