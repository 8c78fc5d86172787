package rpc

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"hearth/node/bt"
)

// FuzzHandle gives the service any body. It must answer every one with a status
// that relays know and a body that can be sent.
func FuzzHandle(f *testing.F) {
	var tr transcripts
	file, err := os.ReadFile("testdata/transcripts.json")
	if err != nil {
		f.Fatal(err)
	}
	if err := json.Unmarshal(file, &tr); err != nil {
		f.Fatal(err)
	}
	for _, c := range tr.Requests {
		f.Add([]byte(c.Request))
	}
	_, nodes := swarmOf(f, 2)
	f.Fuzz(func(t *testing.T, body []byte) {
		r := nodes[0].Handle(t.Context(), body)
		switch r.Status {
		case 200, 400, 401, 403, 404, 406, 421, 500, 502:
		default:
			t.Errorf("status %d", r.Status)
		}
		if _, err := json.Marshal(r.Body); err != nil {
			t.Errorf("body %v: %v", r.Body, err)
		}
	})
}

// FuzzHandleForwarded does the same for what peers send.
func FuzzHandleForwarded(f *testing.F) {
	var tr transcripts
	file, err := os.ReadFile("testdata/transcripts.json")
	if err != nil {
		f.Fatal(err)
	}
	if err := json.Unmarshal(file, &tr); err != nil {
		f.Fatal(err)
	}
	for _, c := range tr.Forwarded {
		f.Add(c.Method, c.Body)
	}
	f.Add("get_swarm", []byte("de"))
	_, nodes := swarmOf(f, 2)
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		parts := nodes[0].HandleForwarded(t.Context(), method, body)
		switch _, known := endpoints[method]; {
		case !known && parts != nil:
			t.Error("an answer to an unknown method")
		case known && len(parts) == 1:
			if _, err := bt.Unmarshal(parts[0]); err != nil {
				t.Errorf("answer %q: %v", parts[0], err)
			}
		case known && len(parts) != 2:
			t.Errorf("%d parts", len(parts))
		}
		if len(nodes[1].received) > 0 {
			t.Fatal("a forwarded request was passed on")
		}
	})
}

// FuzzParseToken checks that a token reads the same however it is written.
func FuzzParseToken(f *testing.F) {
	f.Add("AwcAABfLefsrQSDysexl5BmNbgiyjoE/6wHkpACDm4XhgIDO")
	f.Add("0307000017cb79fb2b4120f2b1ec65e4198d6e08b28e813feb01e4a400839b85e18080ce")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		for _, again := range []string{hex.EncodeToString(token[:]), base64.StdEncoding.EncodeToString(token[:])} {
			if got, err := ParseToken(again); err != nil || got != token {
				t.Errorf("%s became %x, %v", again, got, err)
			}
		}
	})
}

// FuzzJSON compares the cutting of JSON objects with the standard library.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,"]}",{}]},"c\u0064":"\"","a":null , "e" : -1.5e3}`))
	f.Add([]byte(` [ "x" , 1,true , [[]],{}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		body, ok := checkJSON(body)
		if !ok {
			return
		}
		var want map[string]json.RawMessage
		isObject := json.Unmarshal(body, &want) == nil && want != nil
		got, ok := object(body, func(string) bool { return true })
		if ok != isObject || len(got) != len(want) {
			t.Fatalf("object %v with %d fields, want %v with %d", ok, len(got), isObject, len(want))
		}
		for k, v := range want {
			if string(got[k]) != string(v) {
				t.Errorf("field %q is %s, want %s", k, got[k], v)
			}
		}
		var list, elements []json.RawMessage
		isList := json.Unmarshal(body, &list) == nil
		eachElement(body, func(v json.RawMessage) bool { elements = append(elements, v); return true })
		if isList && len(list) != len(elements) {
			t.Fatalf("%d elements, want %d", len(elements), len(list))
		}
		for i := range elements {
			if string(elements[i]) != string(list[i]) {
				t.Errorf("element %d is %s, want %s", i, elements[i], list[i])
			}
		}
	})
}
