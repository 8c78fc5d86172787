package onion

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"hearth/node/internal/vectortest"
	"hearth/node/keys"
)

func TestV4RequestReachesAServerAndItsAnswerTheClient(t *testing.T) {
	pairs, hops := testPath()
	server := keys.FromSeed([32]byte{77})
	request := V4Request{Method: "POST", Endpoint: "/file", Headers: map[string]string{"X-FS-TTL": "30"}, Body: []byte("content")}
	req, err := BuildServer(rand.Reader, hops[:1], WebServer{Host: "h", Target: "/oxen/v4/lsrpc", X25519: server.X25519()}, request.Encode())
	if err != nil {
		t.Fatal(err)
	}
	entry, err := ParseEntry(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := entry.Peel(pairs[0])
	if err != nil {
		t.Fatal(err)
	}
	layer, err := ParseServerPost(inner.(*Server).Post)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := layer.OpenServer(pairs[0]); !errors.Is(err, ErrDecrypt) {
		t.Errorf("another key: %v", err)
	}
	payload, err := layer.OpenServer(server)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeV4Request(payload)
	if err != nil || got.Method != "POST" || got.Endpoint != "/file" || got.Headers["x-fs-ttl"] != "30" || string(got.Body) != "content" {
		t.Errorf("got %+v, %v", got, err)
	}
	answer := V4Response{Code: 413, Headers: map[string]string{"Content-Type": `te"xt`, "expires": "later"}, Body: bytes.Repeat([]byte{0xff}, 1000)}
	sealed, err := layer.SealV4Reply(rand.Reader, server, answer)
	if err != nil {
		t.Fatal(err)
	}
	back, err := req.OpenServerReply(sealed)
	if err != nil || back.Code != 413 || !maps.Equal(back.Headers, map[string]string{"content-type": `te"xt`, "expires": "later"}) || !bytes.Equal(back.Body, answer.Body) {
		t.Errorf("back came %+v, %v", back, err)
	}
	if _, err := layer.SealV4Reply(bytes.NewReader(nil), server, answer); err == nil {
		t.Error("sealed without randomness")
	}
}

// A client of another make, session.js, wrote the requests: it uploads a file
// and downloads the same.
func TestRecordedFileRequests(t *testing.T) {
	type exchange struct {
		Layers []struct {
			Plaintext vectortest.Hex `json:"plaintext"`
		} `json:"layers"`
		ResponsePlaintext vectortest.Hex `json:"response_plaintext"`
	}
	var capture struct {
		Requests struct {
			Upload   exchange `json:"file_upload_v4"`
			Download exchange `json:"file_download_v4"`
		} `json:"onion_requests"`
	}
	vectortest.Load(t, "sessionjs-capture.json", &capture)
	read := func(x exchange) (*V4Request, *V4Response) {
		t.Helper()
		if len(x.Layers) == 0 {
			t.Fatal("no layers")
		}
		request, err := DecodeV4Request(x.Layers[0].Plaintext)
		if err != nil {
			t.Fatal(err)
		}
		response, err := DecodeV4Response(x.ResponsePlaintext)
		if err != nil || response.Code != 200 {
			t.Fatalf("answered %+v, %v", response, err)
		}
		return request, response
	}
	up, _ := read(capture.Requests.Upload)
	down, file := read(capture.Requests.Download)
	if up.Method != "POST" || up.Endpoint != "/file" || len(up.Body) == 0 || !bytes.Equal(up.Body, file.Body) {
		t.Errorf("upload %s %s of %d bytes", up.Method, up.Endpoint, len(up.Body))
	}
	if down.Method != "GET" || down.Endpoint != "/file/1000012" || down.Body != nil {
		t.Errorf("download %+v", down)
	}
}

func TestDecodeV4Request(t *testing.T) {
	list := func(parts ...string) string {
		s := "l"
		for _, p := range parts {
			s += fmt.Sprintf("%d:%s", len(p), p)
		}
		return s + "e"
	}
	for _, tt := range []struct {
		name, text string
		want       V4Request
	}{
		{"without a body", list(`{"endpoint":"/file/1000012","headers":{},"method":"GET"}`), V4Request{Method: "GET", Endpoint: "/file/1000012"}},
		{"without headers", list(`{"endpoint":"/x","method":"GET"}`), V4Request{Method: "GET", Endpoint: "/x"}},
		{"with headers of null", list(`{"endpoint":"/x","method":"GET","headers":null}`), V4Request{Method: "GET", Endpoint: "/x"}},
		{"with an empty body", list(`{"endpoint":"/x","method":"GET"}`, ""), V4Request{Method: "GET", Endpoint: "/x", Body: []byte{}}},
	} {
		r, err := DecodeV4Request([]byte(tt.text))
		if err != nil || r.Method != tt.want.Method || r.Endpoint != tt.want.Endpoint || (r.Body == nil) != (tt.want.Body == nil) || len(r.Headers) != 0 {
			t.Errorf("%s: %+v, %v", tt.name, r, err)
		}
	}
	for name, text := range map[string]string{
		"nothing":                  "",
		"no list":                  "de",
		"an empty list":            "le",
		"a number first":           "li1ee",
		"three parts":              list(`{"endpoint":"/x","method":"GET"}`, "", ""),
		"no JSON":                  list("x"),
		"a JSON list":              list("[]"),
		"no method":                list(`{"endpoint":"/x"}`),
		"no endpoint":              list(`{"method":"GET"}`),
		"a number for a method":    list(`{"endpoint":"/x","method":1}`),
		"a relative endpoint":      list(`{"endpoint":"x","method":"GET"}`),
		"a number for an endpoint": list(`{"endpoint":1,"method":"GET"}`),
		"a list of headers":        list(`{"endpoint":"/x","method":"GET","headers":[]}`),
		"a number for a header":    list(`{"endpoint":"/x","method":"GET","headers":{"a":1}}`),
		"endless JSON":             list(`{"endpoint":"/x","method":"GET"}` + strings.Repeat(" ", maxV4Meta)),
		"more behind it":           list(`{"endpoint":"/x","method":"GET"}`) + "e",
	} {
		if r, err := DecodeV4Request([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func FuzzDecodeV4Request(f *testing.F) {
	f.Add(V4Request{Method: "POST", Endpoint: "/file", Headers: map[string]string{"a": "b"}, Body: []byte("x")}.Encode())
	f.Add([]byte(`l56:{"endpoint":"/file/1000012","headers":{},"method":"GET"}e`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := DecodeV4Request(payload)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("another error: %v", err)
			}
			return
		}
		again, err := DecodeV4Request(r.Encode())
		if err != nil || again.Method != r.Method || again.Endpoint != r.Endpoint || !maps.Equal(again.Headers, r.Headers) || !bytes.Equal(again.Body, r.Body) {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
	})
}
