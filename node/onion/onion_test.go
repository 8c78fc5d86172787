package onion

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"hearth/node/keys"
)

const keyHex = "0000111122223333444455556666777788889999000011112222333344445555"

// path is three nodes and a destination.
func testPath() ([]*keys.Pair, []Hop) {
	var pairs []*keys.Pair
	var hops []Hop
	for i := range byte(4) {
		pair := keys.FromSeed([32]byte{'n', i})
		pairs = append(pairs, pair)
		hops = append(hops, Hop{pair.Ed25519(), pair.X25519()})
	}
	return pairs, hops
}

func TestRequestAndReplyGoThroughTheNetwork(t *testing.T) {
	pairs, hops := testPath()
	for _, size := range []int{0, 1, 1000, 1 << 20} {
		body := make([]byte, size)
		rand.Read(body)
		request, err := Build(rand.Reader, hops[:3], hops[3], body)
		if err != nil {
			t.Fatal(err)
		}
		l, inner := peelTo(t, request.Body, pairs...)
		final, ok := inner.(*Final)
		if !ok || !bytes.Equal(final.Body, body) || l.HopNo != 3 {
			t.Fatalf("destination finds %#v at hop %d", inner, l.HopNo)
		}
		reply, err := l.SealReply(rand.Reader, pairs[3], 421, base64.StdEncoding.EncodeToString(body), final.JSON, final.Base64)
		if err != nil {
			t.Fatal(err)
		}
		status, text, err := request.OpenReply(reply)
		if err != nil || status != 421 || string(text) != base64.StdEncoding.EncodeToString(body) {
			t.Errorf("client reads %d, %d bytes, %v", status, len(text), err)
		}
		// Another request's key does not open it.
		other, err := Build(rand.Reader, hops[:3], hops[3], body)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := other.OpenReply(reply); !errors.Is(err, ErrUndecryptable) {
			t.Errorf("a foreign reply: %v", err)
		}
	}
}

func TestServerWithDefaults(t *testing.T) {
	pairs, hops := testPath()
	for name, to := range map[string]WebServer{
		"https://files.example.org/oxen/v4/lsrpc":      {Host: "files.example.org"},
		"http://files.example.org:443/oxen/v4/lsrpc":   {Host: "files.example.org", Protocol: "http"},
		"https://files.example.org:8443/oxen/v4/lsrpc": {Host: "files.example.org", Port: 8443},
	} {
		to.Target, to.X25519 = "/oxen/v4/lsrpc", hops[3].X25519
		request, err := BuildServer(rand.Reader, hops[:3], to, []byte("payload"))
		if err != nil {
			t.Fatal(err)
		}
		_, inner := peelTo(t, request.Body, pairs[:3]...)
		server, ok := inner.(*Server)
		if !ok || server.URL() != name || !server.Allowed() {
			t.Errorf("exit finds %#v, want %s", inner, name)
		}
		plain := to.Protocol == "" && to.Port == 0
		if bytes.Contains(server.Post, []byte("protocol")) == plain {
			t.Errorf("%s: control JSON is %s", name, server.Post)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	_, hops := testPath()
	long := make([]Hop, MaxHops+1)
	for i := range long {
		long[i] = hops[0]
	}
	lowOrder := Hop{Ed25519: hops[0].Ed25519}
	for _, c := range []struct {
		name string
		rand io.Reader
		path []Hop
		dest Hop
		body int
		err  error
	}{
		{"an empty path", rand.Reader, nil, hops[3], 1, ErrPath},
		{"a path that the last node would refuse", rand.Reader, long, hops[3], 1, ErrPath},
		{"a node whose key is of low order", rand.Reader, []Hop{hops[0], lowOrder}, hops[3], 1, ErrPath},
		{"a destination whose key is of low order", rand.Reader, hops[:3], lowOrder, 1, ErrPath},
		{"a body that makes the request too large", rand.Reader, hops[:3], hops[3], MaxRequest - 600, ErrTooLarge},
		{"a body that is too large by itself", bytes.NewReader(nil), hops[:3], hops[3], MaxRequest + 1, ErrTooLarge},
		{"randomness that ends", bytes.NewReader(make([]byte, 100)), hops[:3], hops[3], 1, io.ErrUnexpectedEOF},
		{"randomness that is not there", bytes.NewReader(nil), hops[:3], hops[3], 1, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, err := Build(c.rand, c.path, c.dest, make([]byte, c.body))
			if !errors.Is(err, c.err) || request != nil {
				t.Errorf("got %v, %v; want %v", request, err, c.err)
			}
		})
	}
	if _, err := BuildServer(rand.Reader, nil, WebServer{X25519: hops[0].X25519}, nil); !errors.Is(err, ErrPath) {
		t.Errorf("an empty path to a server: %v", err)
	}
	if _, err := Build(rand.Reader, long[:MaxHops], hops[3], nil); err != nil {
		t.Errorf("the longest path: %v", err)
	}
}

func TestParseEntry(t *testing.T) {
	frame := func(tail string) []byte { return EncodeFrame([]byte("blob"), []byte(tail)) }
	for _, c := range []struct {
		name   string
		in     []byte
		enc    EncType
		hopNo  int
		refuse string
	}{
		{name: "the key alone is enough", in: frame(`{"ephemeral_key":"` + keyHex + `"}`), enc: GCM},
		{name: "white space and unknown keys do not matter", in: frame(" {\n\"x\":{\"ephemeral_key\":[\"}\\\"\",1.5e3]}, \"ephemeral_key\" :\t\"" + keyHex + "\" } \r\n"), enc: GCM},
		{name: "upper-case digits are digits", in: frame(`{"ephemeral_key":"` + strings.ToUpper(keyHex) + `"}`), enc: GCM},
		{name: "a key may be written with escapes", in: frame(`{"\u0065phemeral_key":"\u0030` + keyHex[1:] + `"}`), enc: GCM},
		{name: "the last of two values counts", in: frame(`{"enc_type":1,"ephemeral_key":"` + keyHex + `","enc_type":"cbc"}`), enc: CBC},
		{name: "the short name of GCM is taken", in: frame(`{"ephemeral_key":"` + keyHex + `","enc_type":"gcm"}`), enc: GCM},
		{name: "the long name of XChaCha20 is taken", in: frame(`{"ephemeral_key":"` + keyHex + `","enc_type":"xchacha20-poly1305"}`), enc: XChaCha20},
		{name: "a hop number beyond the limit passes here", in: frame(`{"ephemeral_key":"` + keyHex + `","hop_no":99}`), enc: GCM, hopNo: 99},
		{name: "a negative hop number is none", in: frame(`{"ephemeral_key":"` + keyHex + `","hop_no":-3}`), enc: GCM},
		{name: "a giant hop number does not wrap around", in: frame(`{"ephemeral_key":"` + keyHex + `","hop_no":99999999999999999999999}`), enc: GCM, hopNo: 1<<31 - 2},

		{name: "nothing", in: nil, refuse: "Unexpected payload size; expected ciphertext size"},
		{name: "three bytes", in: []byte("abc"), refuse: "Unexpected payload size; expected ciphertext size"},
		{name: "a blob longer than the rest", in: []byte("\xff\xff\xff\xffabc"), refuse: "Unexpected payload size 3, expected >= 4294967295"},
		{name: "no JSON", in: frame(""), refuse: "invalid JSON"},
		{name: "JSON with something after it", in: frame(`{} {}`), refuse: "invalid JSON"},
		{name: "JSON that is not UTF-8", in: frame("{\"x\":\"\xff\"}"), refuse: "invalid JSON"},
		{name: "JSON nested too deep", in: frame(strings.Repeat("[", 20000) + strings.Repeat("]", 20000)), refuse: "invalid JSON"},
		{name: "an array", in: frame(`[]`), refuse: "JSON is not an object"},
		{name: "null", in: frame(`null`), refuse: "JSON is not an object"},
		{name: "no key", in: frame(`{"Ephemeral_Key":"` + keyHex + `"}`), refuse: "key 'ephemeral_key' not found"},
		{name: "a key that is null", in: frame(`{"ephemeral_key":null}`), refuse: "key 'ephemeral_key' must be string"},
		{name: "a key of 63 digits", in: frame(`{"ephemeral_key":"` + keyHex[1:] + `"}`), refuse: "Hex key data is invalid: data is not hex"},
		{name: "a key of 62 digits", in: frame(`{"ephemeral_key":"` + keyHex[2:] + `"}`), refuse: "Hex key data is invalid: expected 32 hex digits, received 62"},
		{name: "an empty key", in: frame(`{"ephemeral_key":""}`), refuse: "Hex key data is invalid: expected 32 hex digits, received 0"},
		{name: "a key with another letter", in: frame(`{"ephemeral_key":"g` + keyHex[1:] + `"}`), refuse: "Hex key data is invalid: data is not hex"},
		{name: "an unknown type", in: frame(`{"ephemeral_key":"` + keyHex + `","enc_type":"rot13"}`), refuse: "Invalid encryption type rot13"},
		{name: "a type in capitals", in: frame(`{"ephemeral_key":"` + keyHex + `","enc_type":"AES-GCM"}`), refuse: "Invalid encryption type AES-GCM"},
		{name: "a type that is empty", in: frame(`{"ephemeral_key":"` + keyHex + `","enc_type":""}`), refuse: "Invalid encryption type "},
		{name: "a type that is null", in: frame(`{"ephemeral_key":"` + keyHex + `","enc_type":null}`), refuse: "key 'enc_type' must be string"},
		{name: "a type of a megabyte", in: frame(`{"ephemeral_key":"` + keyHex + `","enc_type":"` + strings.Repeat("x", 1<<20) + `"}`), refuse: "Invalid encryption type " + strings.Repeat("x", 64)},
		{name: "a hop number in quotes", in: frame(`{"ephemeral_key":"` + keyHex + `","hop_no":"1"}`), refuse: "key 'hop_no' must be integer"},
		{name: "a hop number with a fraction", in: frame(`{"ephemeral_key":"` + keyHex + `","hop_no":1.5}`), refuse: "key 'hop_no' must be integer"},
		{name: "a hop number that is true", in: frame(`{"ephemeral_key":"` + keyHex + `","hop_no":true}`), refuse: "key 'hop_no' must be integer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := ParseEntry(c.in)
			if c.refuse != "" {
				if !errors.Is(err, ErrMalformed) || err.Error() != c.refuse {
					t.Errorf("got %+v, %v; want %s", l, err, c.refuse)
				}
				return
			}
			if err != nil || string(l.Ciphertext) != "blob" || fmt.Sprintf("%x", l.EphemeralKey) != keyHex || l.EncType != c.enc || l.HopNo != c.hopNo {
				t.Errorf("got %+v, %v", l, err)
			}
		})
	}
}

func TestParseLayerBT(t *testing.T) {
	key := strings.Repeat("k", 32)
	for _, c := range []struct {
		name   string
		in     string
		enc    EncType
		hopNo  int
		refuse string
	}{
		{name: "the two required keys are enough", in: "d4:data4:blob13:ephemeral_key32:" + key + "e", enc: GCM, hopNo: 1},
		{name: "unknown keys are skipped", in: "d1:ali1ee4:data4:blob2:dzde8:enc_type3:cbc13:ephemeral_key32:" + key + "1:g0:6:hop_noi15e1:zi0ee", enc: CBC, hopNo: 15},
		{name: "a hop number below one counts as one", in: "d4:data4:blob13:ephemeral_key32:" + key + "6:hop_noi-7ee", enc: GCM, hopNo: 1},
		{name: "a type behind its place counts as absent", in: "d4:data4:blob13:ephemeral_key32:" + key + "8:enc_type3:cbce", enc: GCM, hopNo: 1},

		{name: "a hop number of sixteen", in: "d4:data4:blob13:ephemeral_key32:" + key + "6:hop_noi16ee", refuse: "onion request max path length exceeded"},
		{name: "a giant hop number", in: "d4:data4:blob13:ephemeral_key32:" + key + "6:hop_noi9223372036854775807ee", refuse: "onion request max path length exceeded"},
		{name: "no data", in: "d13:ephemeral_key32:" + key + "e", refuse: "required data payload not found"},
		{name: "data behind its place", in: "d8:enc_type3:cbc4:data4:blobe", refuse: "required data payload not found"},
		{name: "no key", in: "d4:data4:blobe", refuse: "ephemeral key not found"},
		{name: "a key of 31 bytes", in: "d4:data4:blob13:ephemeral_key31:" + key[1:] + "e", refuse: "Key data is invalid: expected 32 bytes, received 31"},
		{name: "a key of no bytes", in: "d4:data4:blob13:ephemeral_key0:e", refuse: "Key data is invalid: expected 32 bytes, received 0"},
		{name: "an unknown type", in: "d4:data4:blob8:enc_type5:rot1313:ephemeral_key32:" + key + "e", refuse: "Invalid encryption type rot13"},
		{name: "a hop number in words", in: "d4:data4:blob13:ephemeral_key32:" + key + "6:hop_no3:onee", refuse: "bt"},
		{name: "data that is a number", in: "d4:datai1e13:ephemeral_key32:" + key + "e", refuse: "bt"},
		{name: "a list", in: "le", refuse: "bt"},
		{name: "nothing", in: "", refuse: "bt"},
		{name: "an unfinished dictionary", in: "d4:data4:blob13:ephemeral_key32:" + key, refuse: "bt"},
		{name: "bytes after the dictionary", in: "d4:data4:blob13:ephemeral_key32:" + key + "ex", refuse: "bt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := ParseLayerBT([]byte(c.in))
			if c.refuse != "" {
				tooLong := c.refuse == ErrPathLength.Error()
				if errors.Is(err, ErrPathLength) != tooLong || errors.Is(err, ErrMalformed) == tooLong ||
					(err.Error() != c.refuse && !(c.refuse == "bt" && strings.Contains(err.Error(), "bt"))) {
					t.Errorf("got %+v, %v; want %s", l, err, c.refuse)
				}
				return
			}
			if err != nil || string(l.Ciphertext) != "blob" || string(l.EphemeralKey[:]) != key || l.EncType != c.enc || l.HopNo != c.hopNo {
				t.Errorf("got %+v, %v", l, err)
			}
		})
	}
}

func TestClassifyIsStrict(t *testing.T) {
	for _, c := range []struct{ name, tail, want string }{
		{"headers win over everything", `{"host":1,"destination":2,"headers":false,"port":0}`, "final false true"},
		{"both flags can be turned", `{"headers":{},"json":true,"base64":false}`, "final true false"},
		{"headers in capitals are no headers", `{"Headers":{}}`, "key 'destination' not found"},
		{"a flag that is 1 is refused", `{"headers":{},"json":1}`, "key 'json' must be boolean"},
		{"a flag that is null is refused", `{"headers":{},"base64":null}`, "key 'base64' must be boolean"},
		{"a flag in quotes is refused", `{"headers":{},"base64":"true"}`, "key 'base64' must be boolean"},

		{"https is the default", `{"host":"h","target":"/t"}`, "https://h/t"},
		{"http without a port goes to 443", `{"host":"h","target":"/t","protocol":"http"}`, "http://h:443/t"},
		{"http on its own port leaves it out", `{"host":"h","target":"/t","protocol":"http","port":80}`, "http://h/t"},
		{"a host that is null is refused", `{"host":null,"target":"/t"}`, "key 'host' must be string"},
		{"a target is required", `{"host":"h"}`, "key 'target' not found"},
		{"a target that is a number is refused", `{"host":"h","target":1}`, "key 'target' must be string"},
		{"a protocol that is null is refused", `{"host":"h","target":"/t","protocol":null}`, "key 'protocol' must be string"},
		{"port 65535 is one", `{"host":"h","target":"/t","port":65535}`, "https://h:65535/t"},
		{"port 0 is refused", `{"host":"h","target":"/t","port":0}`, "key 'port' must be 1 to 65535"},
		{"port 65536 is refused", `{"host":"h","target":"/t","port":65536}`, "key 'port' must be 1 to 65535"},
		{"a negative port is refused", `{"host":"h","target":"/t","port":-1}`, "key 'port' must be 1 to 65535"},
		{"a port in quotes is refused", `{"host":"h","target":"/t","port":"80"}`, "key 'port' must be integer"},
		{"a port that is null is refused", `{"host":"h","target":"/t","port":null}`, "key 'port' must be integer"},

		{"a node needs a key for the next layer", `{"destination":"` + keyHex + `"}`, "key 'ephemeral_key' not found"},
		{"a node's name has 64 digits", `{"destination":"` + keyHex + `00","ephemeral_key":"` + keyHex + `"}`, "Hex key data is invalid: expected 32 hex digits, received 66"},
		{"a type that is null is refused", `{"destination":"` + keyHex + `","ephemeral_key":"` + keyHex + `","enc_type":null}`, "key 'enc_type' must be string"},
		{"a node is next", `{"destination":"` + keyHex + `","ephemeral_key":"` + keyHex + `","enc_type":"xchacha20-poly1305","hop_no":7}`, "node xchacha20 3"},
		{"a string is no control", `"headers"`, "JSON is not an object"},
		{"a list is no control", `["headers"]`, "JSON is not an object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inner, err := classify(EncodeFrame([]byte("blob"), []byte(c.tail)), 2)
			var got string
			switch inner := inner.(type) {
			case *Final:
				if err == nil {
					got = fmt.Sprint("final ", inner.JSON, " ", inner.Base64)
				}
			case *Server:
				if err == nil {
					got = inner.URL()
				}
			case *Node:
				if err == nil {
					got = fmt.Sprint("node ", inner.Layer.EncType, " ", inner.Layer.HopNo)
				}
			}
			if err != nil {
				got = err.Error()
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("error of another kind: %v", err)
				}
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestPeelRefuses(t *testing.T) {
	pairs, hops := testPath()
	request, err := Build(rand.Reader, hops[:3], hops[3], []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	good, err := ParseEntry(request.Body)
	if err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(good.Ciphertext)
	for _, c := range []struct {
		name  string
		node  *keys.Pair
		spoil func(*Layer)
	}{
		{"another node's layer", pairs[1], func(*Layer) {}},
		{"a layer with one bit changed", pairs[0], func(l *Layer) { l.Ciphertext = bytes.Clone(l.Ciphertext); l.Ciphertext[40] ^= 1 }},
		{"another type", pairs[0], func(l *Layer) { l.EncType = XChaCha20 }},
		{"a key of low order", pairs[0], func(l *Layer) { l.EphemeralKey = [32]byte{} }},
		{"an empty layer", pairs[0], func(l *Layer) { l.Ciphertext = nil }},
		{"a layer shorter than its tag", pairs[0], func(l *Layer) { l.Ciphertext = l.Ciphertext[:27] }},
		{"CBC of no whole block", pairs[0], func(l *Layer) { l.EncType, l.Ciphertext = CBC, make([]byte, 33) }},
		{"CBC of an iv alone", pairs[0], func(l *Layer) { l.EncType, l.Ciphertext = CBC, make([]byte, 16) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := good
			c.spoil(&l)
			if inner, err := l.Peel(c.node); !errors.Is(err, ErrDecrypt) || inner != nil {
				t.Errorf("got %#v, %v", inner, err)
			}
		})
	}
	if _, err := good.Peel(pairs[0]); err != nil || !bytes.Equal(before, good.Ciphertext) {
		t.Errorf("peeling twice, as for a repeated request: %v", err)
	}
}

func TestServerAllowed(t *testing.T) {
	for _, c := range []struct {
		name    string
		server  Server
		allowed bool
	}{
		{"a name", Server{Host: "file-server.example.org", Protocol: "http"}, true},
		{"an IPv4 address", Server{Host: "192.0.2.1", Protocol: "https"}, true},
		{"an IPv6 address", Server{Host: "[2001:db8::1]", Protocol: "https"}, true},
		{"another protocol", Server{Host: "h", Protocol: "HTTPS"}, false},
		{"no protocol", Server{Host: "h"}, false},
		{"no host", Server{Protocol: "https"}, false},
		{"a host with user information", Server{Host: "a@b", Protocol: "https"}, false},
		{"a host with a path", Server{Host: "h/x", Protocol: "https"}, false},
		{"a host with a fragment", Server{Host: "h#", Protocol: "https"}, false},
		{"a host with a new line", Server{Host: "h\r\nX: y", Protocol: "https"}, false},
		{"a host with another script", Server{Host: "hé", Protocol: "https"}, false},
		{"a target with a new line", Server{Host: "h", Protocol: "https", Target: "/oxen/\r\n/lsrpc"}, false},
		{"a target with a fragment", Server{Host: "h", Protocol: "https", Target: "/oxen/#/lsrpc"}, false},
	} {
		if c.server.Target == "" {
			c.server.Target = "/oxen/v4/lsrpc"
		}
		if got := c.server.Allowed(); got != c.allowed {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// zero is a source of randomness whose bytes do not matter.
type zero struct{}

func (zero) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestEnvelope(t *testing.T) {
	node, client := keys.FromSeed([32]byte{1}), keys.FromSeed([32]byte{2})
	l := Layer{EphemeralKey: client.X25519()}
	type unsorted struct {
		Z int            `json:"z"`
		A string         `json:"a"`
		M map[string]any `json:"M"`
	}
	for _, c := range []struct {
		name   string
		status int
		body   any
		asJSON bool
		want   string
	}{
		{"text stays text, whatever was wished", 401, "no \"way\"", true, `{"body":"no \"way\"","status":401}`},
		{"bytes are text", 200, []byte("{}"), true, `{"body":"{}","status":200}`},
		{"control characters are escaped as upstream does", 200, "\b\f\n\r\t\x00\x1f\x7f\\", false, `{"body":"\b\f\n\r\t\u0000\u001f` + "\x7f" + `\\","status":200}`},
		{"nothing else is escaped", 200, "<é\u2028&>", false, "{\"body\":\"<é\u2028&>\",\"status\":200}"},
		{"a struct is sorted", 200, unsorted{1, "<", map[string]any{"b": nil, "B": []int{}}}, true, `{"body":{"M":{"B":[],"b":null},"a":"<","z":1},"status":200}`},
		{"JSON in a string is sorted too", 200, json.RawMessage(" { \"b\" : [ 1 , \"x\\u003c\\u2028\" ] , \"a\" : 1.50 } "), false, `{"body":"{\"a\":1.50,\"b\":[1,\"x<` + "\u2028" + `\"]}","status":200}`},
		{"empty objects and lists stay", 200, json.RawMessage(`[{},[],"",-0]`), true, `{"body":[{},[],"",-0],"status":200}`},
		{"the last of two equal keys stays", 200, json.RawMessage(`{"b":1,"a":1,"b":2}`), true, `{"body":{"a":1,"b":2},"status":200}`},
		{"no body is null", 200, nil, true, `{"body":null,"status":200}`},
		{"text that is not UTF-8 cannot be told", 200, "\xff", false, `{"body":"request failed","status":500}`},
		{"JSON that is not UTF-8 cannot be told", 200, json.RawMessage("\"\xff\""), true, `{"body":"request failed","status":500}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			reply, err := l.SealReply(zero{}, node, c.status, c.body, c.asJSON, false)
			if err != nil {
				t.Fatal(err)
			}
			channel, err := l.channel(node)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := channel.open(reply); err != nil || string(text) != c.want {
				t.Errorf("got %s, %v; want %s", text, err, c.want)
			}
		})
	}

	for name, body := range map[string]any{"a channel": make(chan int), "broken JSON": json.RawMessage("{"), "no JSON": json.RawMessage("")} {
		if reply, err := l.SealReply(zero{}, node, 200, body, true, true); err == nil {
			t.Errorf("%s is sealed as %s", name, reply)
		}
	}
	if _, err := l.SealReply(bytes.NewReader(nil), node, 200, "", false, true); !errors.Is(err, io.EOF) {
		t.Errorf("without randomness: %v", err)
	}
	if _, err := (Layer{}).SealReply(zero{}, node, 200, "", false, true); !errors.Is(err, keys.ErrLowOrder) {
		t.Errorf("for a key of low order: %v", err)
	}
}

func TestOpenReply(t *testing.T) {
	r := &Request{reply: channel{enc: GCM, key: [32]byte{1}}}
	reply := func(text string) string {
		return base64.StdEncoding.EncodeToString(sealed(t, r.reply, make([]byte, 12), []byte(text)))
	}
	for _, c := range []struct {
		name, in string
		status   int
		body     string
		err      error
	}{
		{"text", reply(`{"status":200,"body":"a\nb"}`), 200, "a\nb", nil},
		{"an object", reply(` {"body":{"a": 1},"status":421} `), 421, `{"a": 1}`, nil},
		{"the other name of the status", reply(`{"status_code":406,"body":""}`), 406, "", nil},
		{"a reply inside JSON", `{"id":1,"result":"` + reply(`{"status":200,"body":"x"}`) + `"}`, 200, "x", nil},

		{"an envelope without a status", reply(`{"body":"x"}`), 0, "", ErrReply},
		{"an envelope without a body", reply(`{"status":200}`), 0, "", ErrReply},
		{"a status in quotes", reply(`{"status":"200","body":"x"}`), 0, "", ErrReply},
		{"a status that is no HTTP status", reply(`{"status":20000,"body":"x"}`), 0, "", ErrReply},
		{"an envelope that is no object", reply(`[]`), 0, "", ErrReply},
		{"an envelope that is no JSON", reply(`x`), 0, "", ErrReply},

		{"nothing", "", 0, "", ErrUndecryptable},
		{"an error text of a hop", "Next node not found: " + keyHex, 0, "", ErrUndecryptable},
		{"an error text that happens to be base64", "Requests", 0, "", ErrUndecryptable},
		{"JSON without a result", `{"error":"x"}`, 0, "", ErrUndecryptable},
		{"JSON with a result that is null", `{"result":null}`, 0, "", ErrUndecryptable},
		{"broken JSON", `{"result":"`, 0, "", ErrUndecryptable},
		{"base64 of something else", base64.StdEncoding.EncodeToString(make([]byte, 100)), 0, "", ErrUndecryptable},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body, err := r.OpenReply([]byte(c.in))
			if !errors.Is(err, c.err) || status != c.status || string(body) != c.body {
				t.Errorf("got %d, %q, %v; want %d, %q, %v", status, body, err, c.status, c.body, c.err)
			}
		})
	}
}

func TestRequestDoesNotPrintItsKey(t *testing.T) {
	r := &Request{Body: []byte("ABCD"), reply: channel{enc: GCM, key: [32]byte(bytes.Repeat([]byte{0xab}, 32))}}
	asJSON, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(r), fmt.Sprintf("%+v %#v %x %s", *r, r, *r, r), fmt.Sprintf("%v", struct{ R Request }{*r}), string(asJSON)} {
		for _, secret := range []string{"171", "ab", "ABCD", "65"} {
			if strings.Contains(strings.ToLower(text), secret) {
				t.Errorf("%q shows %s", text, secret)
			}
		}
	}
}

func TestPeelingAndBuildingStayCheap(t *testing.T) {
	pairs, hops := testPath()
	body := make([]byte, 1024)
	request, err := Build(counting{}, hops[:3], hops[3], body)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ParseEntry(request.Body)
	if err != nil {
		t.Fatal(err)
	}
	// Loose bounds: what matters is that nobody adds a copy of each layer.
	if n := testing.AllocsPerRun(20, func() { l.Peel(pairs[0]) }); n > 40 {
		t.Errorf("peeling allocates %v times", n)
	}
	if n := testing.AllocsPerRun(20, func() { Build(counting{}, hops[:3], hops[3], body) }); n > 120 {
		t.Errorf("building allocates %v times", n)
	}
}

// counting gives ephemeral secrets that are valid without being random.
type counting struct{}

func (counting) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(i + 1)
	}
	return len(b), nil
}
