package onion

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"unicode/utf8"

	"hearth/node/keys"
)

func FuzzParseEntry(f *testing.F) {
	f.Add([]byte("abc"))
	f.Add([]byte("\xff\xff\xff\x7fabc"))
	f.Add(EncodeFrame([]byte("blob"), []byte(`{"ephemeral_key":"`+keyHex+`","enc_type":"xchacha20","hop_no":14}`)))
	f.Add(EncodeFrame(nil, []byte(`{"a":{"b":["}",{}]},"ephemeral_key":"\u0030"}`)))
	f.Fuzz(func(t *testing.T, in []byte) {
		blob, text, frameErr := ParseFrame(in)
		if frameErr == nil {
			if !bytes.Equal(EncodeFrame(blob, text), in) {
				t.Errorf("%q is not the frame of %q and %q", in, blob, text)
			}
		} else if !errors.Is(frameErr, ErrMalformed) {
			t.Errorf("frame error of another kind: %v", frameErr)
		}
		l, err := ParseEntry(in)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		if frameErr != nil || !bytes.Equal(l.Ciphertext, blob) || l.HopNo < 0 {
			t.Errorf("%q is read as %+v", in, l)
		}
	})
}

func FuzzParseLayerBT(f *testing.F) {
	f.Add(Layer{Ciphertext: []byte("blob"), EncType: XChaCha20, HopNo: 3}.MarshalBT())
	f.Add([]byte("d4:data0:13:ephemeral_key0:e"))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := ParseLayerBT(in)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrPathLength) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		again, err := ParseLayerBT(l.MarshalBT())
		if err != nil || !reflect.DeepEqual(l, again) {
			t.Errorf("%+v comes back as %+v, %v", l, again, err)
		}
	})
}

func FuzzPeel(f *testing.F) {
	f.Add([]byte(`{"headers":{},"json":true,"base64":false}`), 4, byte(0))
	f.Add([]byte(`{"host":"h","target":"/oxen/v4/lsrpc","port":80,"protocol":"http"}`), 0, byte(1))
	f.Add([]byte(`{"destination":"`+keyHex+`","ephemeral_key":"`+keyHex+`","enc_type":"gcm"}`), 4, byte(2))
	node := keys.FromSeed([32]byte{1})
	client := keys.FromSeed([32]byte{2}).X25519()
	f.Fuzz(func(t *testing.T, plain []byte, blob int, enc byte) {
		// Half of the inputs are frames, so that the JSON is reached often.
		if blob >= 0 && blob <= len(plain) {
			plain = EncodeFrame(plain[:blob], plain[blob:])
		}
		l := Layer{EphemeralKey: client, EncType: []EncType{GCM, XChaCha20, CBC}[enc%3]}
		c, err := l.channel(node)
		if err != nil {
			t.Fatal(err)
		}
		l.Ciphertext = sealed(t, c, make([]byte, l.EncType.nonceSize()), plain)
		inner, err := l.Peel(node)
		if err != nil {
			t.Fatalf("a layer that was just sealed: %v", err)
		}
		switch inner := inner.(type) {
		case *Final:
		case *Server:
			if inner.Port < 1 || inner.Port > 65535 || !bytes.Equal(inner.Post, plain) {
				t.Errorf("server %+v", inner)
			}
			if inner.Allowed() && !TargetAllowed(inner.Target) {
				t.Errorf("allowed: %+v", inner)
			}
		case *Node:
			if _, err := ParseLayerBT(inner.Layer.MarshalBT()); err != nil || inner.Layer.HopNo != 1 {
				t.Errorf("node %+v: %v", inner, err)
			}
		case *Invalid:
			if !errors.Is(inner.Reason, ErrMalformed) {
				t.Errorf("reason of another kind: %v", inner.Reason)
			}
		default:
			t.Errorf("got %#v", inner)
		}
	})
}

func FuzzOpenReply(f *testing.F) {
	r := &Request{reply: channel{enc: XChaCha20, key: [32]byte{1}}}
	f.Add([]byte(`{"result":"AAAA"}`), false)
	f.Add([]byte(`{"status":200,"body":"x"}`), true)
	f.Add([]byte(`{"status_code":421,"body":{"snodes":[]}}`), true)
	f.Fuzz(func(t *testing.T, in []byte, inside bool) {
		if inside {
			in = []byte(base64.StdEncoding.EncodeToString(sealed(t, r.reply, make([]byte, 24), in)))
		}
		status, _, err := r.OpenReply(in)
		switch {
		case err == nil && (status < 100 || status > 999):
			t.Errorf("status %d", status)
		case err != nil && !errors.Is(err, ErrReply) && !errors.Is(err, ErrUndecryptable):
			t.Errorf("error of another kind: %v", err)
		}
		if _, err := r.OpenServerReply(in); err != nil && !errors.Is(err, ErrReply) && !errors.Is(err, ErrUndecryptable) {
			t.Errorf("error of another kind: %v", err)
		}
	})
}

func FuzzDecodeV4Response(f *testing.F) {
	f.Add(v4Answer(`{"code":200,"headers":{"a":"b"}}`, "body"))
	f.Add([]byte("le"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := DecodeV4Response(in)
		if err != nil {
			if !errors.Is(err, ErrReply) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		if r.Code < 100 || r.Code > 999 || len(r.Body) > len(in) {
			t.Errorf("got %+v", r)
		}
	})
}

// FuzzCanonicalJSON compares the writer of reply bodies with encoding/json.
func FuzzCanonicalJSON(f *testing.F) {
	f.Add([]byte(`{"b":[1,{"x":"\u00e9\n"}],"a":null,"b":2}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if !json.Valid(in) || !utf8.Valid(in) {
			return
		}
		in = bytes.TrimSpace(in)
		out := appendCanonical(nil, in)
		var want, got any
		decoder := json.NewDecoder(bytes.NewReader(in))
		decoder.UseNumber()
		if decoder.Decode(&want) != nil {
			return
		}
		decoder = json.NewDecoder(bytes.NewReader(out))
		decoder.UseNumber()
		if err := decoder.Decode(&got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s becomes %s: %v", in, out, err)
		}
		if again := appendCanonical(nil, out); !bytes.Equal(again, out) {
			t.Errorf("%s becomes %s on a second pass", out, again)
		}
	})
}
