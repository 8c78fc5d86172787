package onion

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"hearth/node/bt"
	"hearth/node/internal/vectortest"
	"hearth/node/keys"
)

// sections fails when a vector file holds a section that no test here names.
func sections(t *testing.T, file string, known ...string) {
	t.Helper()
	var all map[string]json.RawMessage
	vectortest.Load(t, file, &all)
	known = append(known, "description", "rules", "sources", "how_made", "note_on_running")
	for name := range all {
		if !slices.Contains(known, name) {
			t.Errorf("%s: section %q is not tested", file, name)
		}
	}
}

// agreed derives the channel of an X25519 secret with a peer, as seen by the
// client or by the node.
func agreed(t *testing.T, enc EncType, secret, peer []byte, isClient bool) channel {
	t.Helper()
	private, err := ecdh.X25519().NewPrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := private.ECDH(public)
	if err != nil {
		t.Fatal(err)
	}
	own := [32]byte(private.PublicKey().Bytes())
	if isClient {
		return newChannel(enc, shared, own, [32]byte(peer))
	}
	return newChannel(enc, shared, [32]byte(peer), own)
}

// sealed encrypts text with a fixed nonce.
func sealed(t *testing.T, c channel, nonce, text []byte) []byte {
	t.Helper()
	out, err := c.seal(slices.Concat(nonce, text), 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// played is a source of randomness that gives fixed bytes: for every layer its
// ephemeral secret and then its nonce.
func played(secrets, nonces []vectortest.Hex) io.Reader {
	var all []byte
	for i, secret := range secrets {
		all = append(append(all, secret...), nonces[i]...)
	}
	return bytes.NewReader(all)
}

func TestUpstreamHopEncryption(t *testing.T) {
	sections(t, "onion.json", "node_keys", "hop_encryption_upstream", "parser_upstream", "single_hop", "framing",
		"full_onion_to_service_node", "full_onion_v4_to_server", "v4_request_encoding", "v4_response_decoding")
	var file struct {
		Hop struct {
			ClientPublic vectortest.Hex `json:"client_x25519_public"`
			ClientSecret vectortest.Hex `json:"client_x25519_secret"`
			ServerPublic vectortest.Hex `json:"server_x25519_public"`
			ServerSecret vectortest.Hex `json:"server_x25519_secret"`
			Plaintext    string         `json:"plaintext_ascii"`
			GCM          vectortest.Hex `json:"aes_gcm_hex"`
			XChaCha20    vectortest.Hex `json:"xchacha20_hex"`
			MustFail     []struct {
				EncType string `json:"enc_type"`
				Hex     vectortest.Hex
			} `json:"must_fail"`
		} `json:"hop_encryption_upstream"`
	}
	vectortest.Load(t, "onion.json", &file)
	hop := file.Hop
	for enc, message := range map[EncType][]byte{GCM: hop.GCM, XChaCha20: hop.XChaCha20} {
		client := agreed(t, enc, hop.ClientSecret, hop.ServerPublic, true)
		server := agreed(t, enc, hop.ServerSecret, hop.ClientPublic, false)
		if client != server {
			t.Errorf("%s: client and server derive different keys", enc)
		}
		if text, err := server.open(message); err != nil || string(text) != hop.Plaintext {
			t.Errorf("%s: got %q, %v", enc, text, err)
		}
		if again := sealed(t, client, message[:enc.nonceSize()], []byte(hop.Plaintext)); !bytes.Equal(again, message) {
			t.Errorf("%s: encrypts to %x", enc, again)
		}
	}
	vectortest.Each(t, "must fail", hop.MustFail, func(t *testing.T, c struct {
		EncType string `json:"enc_type"`
		Hex     vectortest.Hex
	}) {
		enc, err := ParseEncType(c.EncType)
		if err != nil {
			t.Fatal(err)
		}
		server := agreed(t, enc, hop.ServerSecret, hop.ClientPublic, false)
		if text, err := server.open(c.Hex); err == nil {
			t.Errorf("%s %x opens to %q", enc, c.Hex, text)
		}
	})
}

func TestUpstreamParser(t *testing.T) {
	var file struct {
		Parser struct {
			ClientPublic vectortest.Hex `json:"client_x25519_public"`
			ServerPublic vectortest.Hex `json:"server_x25519_public"`
			ServerSecret vectortest.Hex `json:"server_x25519_secret"`
			Payload      string         `json:"payload_ascii"`
			GCM          vectortest.Hex `json:"framed_gcm_hex"`
			XChaCha20    vectortest.Hex `json:"framed_xchacha20_hex"`
			Sizes        struct {
				Plaintext int
				GCM       int `json:"aes_gcm"`
				XChaCha20 int
			} `json:"reply_sizes"`
		} `json:"parser_upstream"`
	}
	vectortest.Load(t, "onion.json", &file)
	p := file.Parser
	if secret, err := ecdh.X25519().NewPrivateKey(p.ServerSecret); err != nil || !bytes.Equal(secret.PublicKey().Bytes(), p.ServerPublic) {
		t.Errorf("the server's secret has another public key (%v)", err)
	}
	for enc, framed := range map[EncType][]byte{GCM: p.GCM, XChaCha20: p.XChaCha20} {
		l, err := ParseEntry(framed)
		if err != nil {
			t.Fatalf("%s: %v", enc, err)
		}
		if l.EncType != enc || !bytes.Equal(l.EphemeralKey[:], p.ClientPublic) || l.HopNo != 0 {
			t.Errorf("%s: got %+v", enc, l)
		}
		c := agreed(t, enc, p.ServerSecret, p.ClientPublic, false)
		if text, err := c.open(l.Ciphertext); err != nil || string(text) != p.Payload {
			t.Errorf("%s: got %q, %v", enc, text, err)
		}
		want := map[EncType]int{GCM: p.Sizes.GCM, XChaCha20: p.Sizes.XChaCha20}[enc]
		reply := sealed(t, c, make([]byte, enc.nonceSize()), make([]byte, p.Sizes.Plaintext))
		if len(reply) != want {
			t.Errorf("%s: reply of %d bytes, want %d", enc, len(reply), want)
		}
	}
}

func TestSingleHop(t *testing.T) {
	var file struct {
		Hop struct {
			Plaintext  vectortest.Hex `json:"plaintext_hex"`
			Recipient  vectortest.Hex `json:"recipient_x25519"`
			Random     vectortest.Hex `json:"ephemeral_random32"`
			Ephemeral  vectortest.Hex `json:"ephemeral_pubkey"`
			IV         vectortest.Hex
			Key        vectortest.Hex `json:"symmetric_key"`
			Ciphertext vectortest.Hex `json:"ciphertext_hex"`
		} `json:"single_hop"`
	}
	vectortest.Load(t, "onion.json", &file)
	hop := file.Hop
	public, shared, err := agree(bytes.NewReader(hop.Random), [32]byte(hop.Recipient))
	if err != nil || !bytes.Equal(public[:], hop.Ephemeral) {
		t.Fatalf("ephemeral key %x, %v", public, err)
	}
	c := newChannel(GCM, shared, public, [32]byte(hop.Recipient))
	if !bytes.Equal(c.key[:], hop.Key) {
		t.Errorf("symmetric key %x", c.key)
	}
	if got := sealed(t, c, hop.IV, hop.Plaintext); !bytes.Equal(got, hop.Ciphertext) {
		t.Errorf("ciphertext %x", got)
	}
}

func TestFraming(t *testing.T) {
	type frameCase struct {
		Hex    *vectortest.Hex `json:"ciphertext_hex"`
		ASCII  string          `json:"ciphertext_ascii"`
		JSON   json.RawMessage
		Result vectortest.Hex `json:"result_hex"`
		Prefix vectortest.Hex `json:"result_prefix_hex"`
	}
	var file struct {
		Framing struct{ Vectors []frameCase }
	}
	vectortest.Load(t, "onion.json", &file)
	vectortest.Each(t, "framing", file.Framing.Vectors, func(t *testing.T, c frameCase) {
		blob := []byte(c.ASCII)
		if c.Hex != nil {
			blob = *c.Hex
		}
		var text bytes.Buffer
		if err := json.Compact(&text, c.JSON); err != nil {
			t.Fatal(err)
		}
		frame := EncodeFrame(blob, text.Bytes())
		if c.Prefix != nil {
			if !bytes.HasPrefix(frame, c.Prefix) {
				t.Errorf("frame %x", frame)
			}
		} else if !bytes.Equal(frame, c.Result) {
			t.Errorf("frame %x", frame)
		}
		gotBlob, gotText, err := ParseFrame(frame)
		if err != nil || !bytes.Equal(gotBlob, blob) || !bytes.Equal(gotText, text.Bytes()) {
			t.Errorf("back: %x, %q, %v", gotBlob, gotText, err)
		}
	})
}

type nodeVector struct {
	Seed    vectortest.Hex `json:"ed_seed"`
	Ed25519 vectortest.Hex `json:"pubkey_ed25519"`
	Secret  vectortest.Hex `json:"x25519_secret"`
	X25519  vectortest.Hex `json:"pubkey_x25519"`
}

func (n nodeVector) pair(t *testing.T) *keys.Pair {
	t.Helper()
	p := keys.FromSeed([32]byte(n.Seed))
	ed, x, secret := p.Ed25519(), p.X25519(), p.X25519Secret()
	if !bytes.Equal(ed[:], n.Ed25519) || !bytes.Equal(x[:], n.X25519) || !bytes.Equal(secret[:], n.Secret) {
		t.Fatalf("keys of seed %x differ: %x, %x", n.Seed, ed, x)
	}
	return p
}

func (n nodeVector) hop() Hop { return Hop{[32]byte(n.Ed25519), [32]byte(n.X25519)} }

// peelTo peels a request at every node of the path in turn and returns what the
// last one finds.
func peelTo(t *testing.T, body []byte, path ...*keys.Pair) (Layer, Inner) {
	t.Helper()
	l, err := ParseEntry(body)
	if err != nil {
		t.Fatal(err)
	}
	for i, node := range path {
		if l.HopNo != i {
			t.Errorf("hop number %d at hop %d", l.HopNo, i)
		}
		inner, err := l.Peel(node)
		if err != nil {
			t.Fatalf("hop %d: %v", i, err)
		}
		if i == len(path)-1 {
			return l, inner
		}
		next, ok := inner.(*Node)
		if !ok {
			t.Fatalf("hop %d finds %#v", i, inner)
		}
		if next.Next != path[i+1].Ed25519() {
			t.Fatalf("hop %d names %x", i, next.Next)
		}
		if l, err = ParseLayerBT(next.Layer.MarshalBT()); err != nil {
			t.Fatalf("between hops %d and %d: %v", i, i+1, err)
		}
	}
	return Layer{}, nil
}

func TestFullOnionToServiceNode(t *testing.T) {
	var file struct {
		Keys struct{ Nodes map[string]nodeVector } `json:"node_keys"`
		Full struct {
			Path        []string
			Destination string
			Request     string           `json:"request_body"`
			Control     json.RawMessage  `json:"control_json"`
			Innermost   vectortest.Hex   `json:"innermost_plaintext_hex"`
			Secrets     []vectortest.Hex `json:"ephemeral_randoms_in_order_dest_exit_middle_guard"`
			IVs         []vectortest.Hex `json:"ivs_in_same_order"`
			Key         vectortest.Hex   `json:"destination_symmetric_key"`
			Body        vectortest.Hex   `json:"http_post_body_hex"`
			Reply       struct {
				Body      string `json:"http_body_base64"`
				Decrypted string
			}
		} `json:"full_onion_to_service_node"`
	}
	vectortest.Load(t, "onion.json", &file)
	full := file.Full
	var path []Hop
	var pairs []*keys.Pair
	for _, name := range full.Path {
		path = append(path, file.Keys.Nodes[name].hop())
		pairs = append(pairs, file.Keys.Nodes[name].pair(t))
	}
	dest := file.Keys.Nodes[full.Destination]
	pairs = append(pairs, dest.pair(t))

	request, err := Build(played(full.Secrets, full.IVs), path, dest.hop(), []byte(full.Request))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(request.Body, full.Body) {
		t.Errorf("body differs:\n%x", request.Body)
	}
	if !bytes.Equal(request.reply.key[:], full.Key) {
		t.Errorf("destination key %x", request.reply.key)
	}
	if got := EncodeFrame([]byte(full.Request), []byte(control)); !bytes.Equal(got, full.Innermost) {
		t.Errorf("innermost plain text %x", got)
	}
	var compact bytes.Buffer
	if json.Compact(&compact, full.Control); compact.String() != control {
		t.Errorf("control JSON is %s", control)
	}

	_, inner := peelTo(t, full.Body, pairs...)
	final, ok := inner.(*Final)
	if !ok || string(final.Body) != full.Request || final.JSON || !final.Base64 {
		t.Errorf("destination finds %#v", inner)
	}

	var want struct {
		Status int
		Body   string
	}
	if err := json.Unmarshal([]byte(full.Reply.Decrypted), &want); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{full.Reply.Body, `{"result":"` + full.Reply.Body + `"}`, full.Reply.Body + "\n"} {
		status, reply, err := request.OpenReply([]byte(body))
		if err != nil || status != want.Status || string(reply) != want.Body {
			t.Errorf("reply %d, %q, %v", status, reply, err)
		}
	}
}

func TestFullOnionToServer(t *testing.T) {
	var file struct {
		Keys struct{ Nodes map[string]nodeVector } `json:"node_keys"`
		Full struct {
			Path   []string
			Server string
			Relay  struct {
				Host, Target, Method, Protocol string
				Port                           int
			}
			Payload vectortest.Hex   `json:"v4_plaintext_hex"`
			ASCII   string           `json:"v4_plaintext_ascii"`
			Secrets []vectortest.Hex `json:"ephemeral_randoms_in_order_server_exit_middle_guard"`
			IVs     []vectortest.Hex `json:"ivs_in_same_order"`
			Key     vectortest.Hex   `json:"server_symmetric_key"`
			Body    vectortest.Hex   `json:"http_post_body_hex"`
		} `json:"full_onion_v4_to_server"`
	}
	vectortest.Load(t, "onion.json", &file)
	full := file.Full
	var path []Hop
	var pairs []*keys.Pair
	for _, name := range full.Path {
		path = append(path, file.Keys.Nodes[name].hop())
		pairs = append(pairs, file.Keys.Nodes[name].pair(t))
	}
	server := file.Keys.Nodes[full.Server]

	payload := V4Request{Method: "POST", Endpoint: "/file", Body: []byte("file-bytes")}.Encode()
	if !bytes.Equal(payload, full.Payload) || string(payload) != full.ASCII {
		t.Errorf("payload %q", payload)
	}
	to := WebServer{Host: full.Relay.Host, Target: full.Relay.Target, Protocol: full.Relay.Protocol, Port: full.Relay.Port, X25519: server.hop().X25519}
	request, err := BuildServer(played(full.Secrets, full.IVs), path, to, payload)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(request.Body, full.Body) {
		t.Errorf("body differs:\n%x", request.Body)
	}
	if !bytes.Equal(request.reply.key[:], full.Key) {
		t.Errorf("server key %x", request.reply.key)
	}

	_, inner := peelTo(t, full.Body, pairs...)
	post, ok := inner.(*Server)
	if !ok || post.Host != to.Host || post.Target != to.Target || post.Protocol != to.Protocol || post.Port != to.Port || !post.Allowed() {
		t.Fatalf("exit finds %#v", inner)
	}
	if post.URL() != "http://filev2.getsession.org/oxen/v4/lsrpc" {
		t.Errorf("URL %s", post.URL())
	}
	// What is posted has the form of an entry request, with the server as entry.
	l, err := ParseEntry(post.Post)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.channel(server.pair(t))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := c.open(l.Ciphertext); err != nil || !bytes.Equal(text, full.Payload) {
		t.Errorf("server reads %q, %v", text, err)
	}

	answer := sealed(t, c, make([]byte, 12), []byte("not a list"))
	if _, err := request.OpenServerReply(answer); !errors.Is(err, ErrReply) {
		t.Errorf("broken answer: %v", err)
	}
	answer = sealed(t, c, make([]byte, 12), v4Answer(`{"code":201}`, "ok"))
	for _, body := range [][]byte{answer, []byte(base64.StdEncoding.EncodeToString(answer))} {
		if r, err := request.OpenServerReply(body); err != nil || r.Code != 201 || string(r.Body) != "ok" {
			t.Errorf("answer %+v, %v", r, err)
		}
	}
	for _, body := range []string{"", "Bad Gateway", "Request", "\xff\xfe"} {
		if _, err := request.OpenServerReply([]byte(body)); !errors.Is(err, ErrUndecryptable) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestV4(t *testing.T) {
	type requestCase struct {
		Request struct {
			Method, Endpoint string
			Headers          map[string]string
			Body             *string
		}
		Encoded string
	}
	type responseCase struct {
		Encoded  string
		Metadata struct {
			Code    int
			Headers map[string]string
		}
		Body   string          `json:"body_utf8"`
		Parsed json.RawMessage `json:"parsed_body"`
	}
	var file struct {
		Requests  struct{ Vectors []requestCase }  `json:"v4_request_encoding"`
		Responses struct{ Vectors []responseCase } `json:"v4_response_decoding"`
	}
	vectortest.Load(t, "onion.json", &file)
	vectortest.Each(t, "requests", file.Requests.Vectors, func(t *testing.T, c requestCase) {
		r := V4Request{Method: c.Request.Method, Endpoint: c.Request.Endpoint, Headers: c.Request.Headers}
		if c.Request.Body != nil {
			r.Body = []byte(*c.Request.Body)
		}
		if got := string(r.Encode()); got != c.Encoded {
			t.Errorf("got %q, want %q", got, c.Encoded)
		}
	})
	vectortest.Each(t, "responses", file.Responses.Vectors, func(t *testing.T, c responseCase) {
		r, err := DecodeV4Response([]byte(c.Encoded))
		if err != nil {
			t.Fatal(err)
		}
		if r.Code != c.Metadata.Code || !maps.Equal(r.Headers, c.Metadata.Headers) || string(r.Body) != c.Body {
			t.Errorf("got %+v", r)
		}
		var want, got any
		if err := json.Unmarshal(c.Parsed, &want); err != nil {
			t.Fatal(err)
		}
		switch contentType := r.Headers["content-type"]; {
		case contentType == "application/json":
			err = json.Unmarshal(r.Body, &got)
		case strings.HasPrefix(contentType, "text/plain"):
			got = map[string]any{"plainText": string(r.Body)}
		}
		if err != nil || !jsonEqual(got, want) {
			t.Errorf("body %v, %v; want %v", got, err, want)
		}
	})
}

func jsonEqual(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// v4Answer is a v4 answer with the given metadata and further parts.
func v4Answer(meta string, parts ...string) []byte {
	b := bt.AppendBytes([]byte("l"), meta)
	for _, part := range parts {
		b = bt.AppendBytes(b, part)
	}
	return append(b, 'e')
}

func TestDecodeV4Response(t *testing.T) {
	const ok = `{"code":200}`
	for name, in := range map[string][]byte{
		"nothing":                   nil,
		"a dictionary":              []byte("de"),
		"an empty list":             []byte("le"),
		"a number for metadata":     []byte("li1ee"),
		"a number for a body":       []byte("l12:" + ok + "i1ee"),
		"metadata that is no JSON":  v4Answer("abc"),
		"metadata that is a list":   v4Answer("[]"),
		"metadata without a code":   v4Answer(`{}`),
		"a code that is a string":   v4Answer(`{"code":"200"}`),
		"a code below 100":          v4Answer(`{"code":99}`),
		"a code above 999":          v4Answer(`{"code":1000}`),
		"headers that are a list":   v4Answer(`{"code":200,"headers":[]}`),
		"a header that is a number": v4Answer(`{"code":200,"headers":{"a":1}}`),
		"three parts":               v4Answer(ok, "", ""),
		"bytes after the list":      append(v4Answer(ok), 'x'),
		"a list without an end":     []byte("l12:" + ok),
	} {
		if r, err := DecodeV4Response(in); !errors.Is(err, ErrReply) {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
	r, err := DecodeV4Response(v4Answer(`{"code":200,"headers":{"Ab":"B"}}`))
	if err != nil || r.Headers["ab"] != "B" || r.Body != nil {
		t.Errorf("header names are not lowered, or a body appears: %+v, %v", r, err)
	}
}
