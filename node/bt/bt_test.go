package bt_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"hearth/node/bt"
	"hearth/node/internal/vectortest"
)

// encoded holds the Go value of every case that the vectors describe in words.
var encoded = map[string]any{
	"0":                               0,
	"-1":                              -1,
	"-9223372036854775808":            int64(math.MinInt64),
	"18446744073709551615 (unsigned)": uint64(math.MaxUint64),
	"empty string":                    "",
	"bytes 00 ff":                     []byte{0x00, 0xff},
	"UTF-8 é (2 bytes)":               "é",
	"empty list":                      []any{},
	"empty dict":                      bt.Dict{},
	"dict with keys b, a, '', B, \\xff, ab (sorted by raw bytes)": bt.Dict{
		"a": 2, "b": 1, "": 3, "B": 4, "\xff": 5, "ab": 6,
	},
	"string of 10 digits length prefix": strings.Repeat("z", 10),
}

func TestVectors(t *testing.T) {
	var file struct {
		Encode []struct {
			Value   string
			Encoded vectortest.Hex `json:"encoded_hex"`
		}
		Decode []struct {
			What    string
			Encoded vectortest.Hex `json:"encoded_hex"`
			Outcome struct{ Result, Error string }
		}
	}
	vectortest.Load(t, "bt-encoding.json", &file)

	vectortest.Each(t, "encode", file.Encode, func(t *testing.T, c struct {
		Value   string
		Encoded vectortest.Hex `json:"encoded_hex"`
	}) {
		v, known := encoded[c.Value]
		if !known {
			t.Fatalf("no Go value for case %q", c.Value)
		}
		got, err := bt.Marshal(v)
		if err != nil || !bytes.Equal(got, c.Encoded) {
			t.Errorf("%s: got %q, %v; want %q", c.Value, got, err, c.Encoded)
		}
	})

	vectortest.Each(t, "decode", file.Decode, func(t *testing.T, c struct {
		What    string
		Encoded vectortest.Hex `json:"encoded_hex"`
		Outcome struct{ Result, Error string }
	}) {
		v, err := bt.Unmarshal(c.Encoded)
		if c.Outcome.Error != "" {
			if !errors.Is(err, bt.ErrSyntax) && !errors.Is(err, bt.ErrRange) && !errors.Is(err, bt.ErrType) {
				t.Errorf("%s: got %v, %v; want an error", c.What, v, err)
			}
			return
		}
		want, ok := strings.CutPrefix(c.Outcome.Result, "accepted; re-encodes to ")
		if !ok {
			t.Fatalf("%s: outcome %q not understood", c.What, c.Outcome.Result)
		}
		if err != nil {
			t.Fatalf("%s: %v", c.What, err)
		}
		if again, err := bt.Marshal(v); err != nil || string(again) != want {
			t.Errorf("%s: re-encodes to %q, %v; want %q", c.What, again, err, want)
		}
	})
}

func TestUnmarshal(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     any
		err      error
	}{
		{"an integer above int64 is a uint64", "i9223372036854775808e", uint64(1 << 63), nil},
		{"the smallest integer is read", "i-9223372036854775808e", int64(math.MinInt64), nil},
		{"an integer below int64 is out of range", "i-9223372036854775809e", nil, bt.ErrRange},
		{"a lone minus sign is no integer", "i-e", nil, bt.ErrSyntax},
		{"a key given twice is refused", "d1:ai1e1:ai2ee", nil, bt.ErrSyntax},
		{"a length that overflows is refused", "99999999999999999999999999:a", nil, bt.ErrSyntax},
		{"nothing is no value", "", nil, bt.ErrSyntax},
		{"nested values keep their types", "d1:ald1:bi-1eee1:c2:xye", bt.Dict{"a": []any{bt.Dict{"b": int64(-1)}}, "c": []byte("xy")}, nil},
		{"the deepest allowed nesting is read", strings.Repeat("l", bt.MaxDepth+1) + strings.Repeat("e", bt.MaxDepth+1), nil, nil},
		{"one level deeper is refused", strings.Repeat("l", bt.MaxDepth+2) + strings.Repeat("e", bt.MaxDepth+2), nil, bt.ErrLimit},
		{"a million opened lists are refused", strings.Repeat("l", 1<<20), nil, bt.ErrLimit},
		{"more values than the limit are refused", "l" + strings.Repeat("le", bt.MaxValues) + "e", nil, bt.ErrLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := bt.Unmarshal([]byte(c.in))
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if c.want != nil && !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %#v, want %#v", got, c.want)
			}
		})
	}
}

func TestMarshal(t *testing.T) {
	deep := any("x")
	for range bt.MaxDepth + 1 {
		deep = []any{deep}
	}
	for _, c := range []struct {
		name string
		in   any
		want string
		err  error
	}{
		{"booleans become one and zero", []any{true, false}, "li1ei0ee", nil},
		{"typed lists are taken", bt.Dict{"s": []string{"a"}, "b": [][]byte{{1}}, "d": []bt.Dict{{}}}, "d1:bl1:\x01e1:dldee1:sl1:aee", nil},
		{"every width of integer is taken", []any{int8(-8), int16(-16), int32(-32), uint8(8), uint16(16), uint32(32), uint(64)}, "li-8ei-16ei-32ei8ei16ei32ei64ee", nil},
		{"floating point has no form", 1.5, "", bt.ErrType},
		{"nil has no form", []any{nil}, "", bt.ErrType},
		{"a value that is too deep is refused", deep, "", bt.ErrLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := bt.Marshal(c.in)
			if !errors.Is(err, c.err) || string(got) != c.want {
				t.Errorf("got %q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestDictReader(t *testing.T) {
	read := func(in string, keys ...string) (found string, err error) {
		r, err := bt.ReadDict([]byte(in))
		if err != nil {
			return "", err
		}
		for _, key := range keys {
			ok, err := r.Find(key)
			if err != nil {
				return found, err
			}
			if !ok {
				continue
			}
			if key == "n" {
				if _, err := r.Int(); err != nil {
					return found, err
				}
				found += "n"
				continue
			}
			b, err := r.Bytes()
			if err != nil {
				return found, err
			}
			found += string(b)
		}
		return found, r.Close()
	}
	for _, c := range []struct {
		name, in, found string
		err             error
	}{
		{"keys are found and others skipped", "d1:a1:A1:bli1e1:ze1:c1:C1:ni-5e1:zdee", "ACn", nil},
		{"a missing key does not lose the next one", "d1:c1:Ce", "C", nil},
		{"a key out of order counts as absent", "d1:c1:C1:a1:Ae", "C", nil},
		{"an empty dictionary has no key", "de", "", nil},
		{"a list is no dictionary", "le", "", bt.ErrType},
		{"an integer is no byte string", "d1:ai1ee", "", bt.ErrType},
		{"a byte string is no integer", "d1:n1:xe", "", bt.ErrType},
		{"an integer beyond int64 is out of range", "d1:ni9223372036854775808ee", "", bt.ErrRange},
		{"a missing end is noticed", "d1:a1:A", "A", bt.ErrSyntax},
		{"bytes after the end are noticed", "d1:a1:Aex", "A", bt.ErrSyntax},
		{"a skipped value that is too deep is refused", "d1:0" + strings.Repeat("l", 100), "", bt.ErrLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := read(c.in, "a", "c", "n")
			if !errors.Is(err, c.err) || found != c.found {
				t.Errorf("got %q, %v; want %q, %v", found, err, c.found, c.err)
			}
		})
	}
	r, err := bt.ReadDict([]byte("de"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Bytes(); !errors.Is(err, bt.ErrType) {
		t.Errorf("taking a value before finding its key: %v", err)
	}
}

func TestListReader(t *testing.T) {
	r, err := bt.ReadList([]byte("l3:abci7e0:e"))
	if err != nil {
		t.Fatal(err)
	}
	a, err1 := r.Bytes()
	n, err2 := r.Int()
	if string(a) != "abc" || n != 7 || err1 != nil || err2 != nil || !r.More() {
		t.Errorf("got %q, %d, %v, %v", a, n, err1, err2)
	}
	if err := r.Close(); !errors.Is(err, bt.ErrSyntax) {
		t.Errorf("closing before the end: %v", err)
	}
	if b, err := r.Bytes(); err != nil || len(b) != 0 || r.More() {
		t.Errorf("last value: %q, %v", b, err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	if _, err := bt.ReadList([]byte("de")); !errors.Is(err, bt.ErrType) {
		t.Errorf("a dictionary as list: %v", err)
	}
}

func TestScanner(t *testing.T) {
	s := bt.NewScanner([]byte("d1:ali7e2:xyee trailing"))
	var kinds []byte
	kind := func() {
		k, err := s.Kind()
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, k)
	}
	kind()
	if err := s.Open('l'); !errors.Is(err, bt.ErrType) {
		t.Errorf("a dictionary opened as a list: %v", err)
	}
	err1 := s.Open('d')
	key, err2 := s.Bytes()
	kind()
	err3 := s.Open('l')
	kind()
	n, err4 := s.Int()
	kind()
	v, err5 := s.Value()
	kind()
	inner, err6 := s.End()
	outer, err7 := s.End()
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		t.Fatal(err)
	}
	if string(key) != "a" || n != 7 || !reflect.DeepEqual(v, []byte("xy")) || !inner || !outer || string(kinds) != "dlise" || s.Offset() != 14 {
		t.Errorf("key %q, %d, %q, ends %v and %v, kinds %q, offset %d", key, n, v, inner, outer, kinds, s.Offset())
	}
	if _, err := s.Kind(); !errors.Is(err, bt.ErrSyntax) {
		t.Errorf("a byte that begins nothing: %v", err)
	}
	if _, err := bt.NewScanner(nil).Kind(); !errors.Is(err, bt.ErrSyntax) {
		t.Errorf("the end of the input: %v", err)
	}
	if _, err := bt.NewScanner([]byte("i9223372036854775808e")).Int(); !errors.Is(err, bt.ErrRange) {
		t.Errorf("an integer beyond int64: %v", err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{"i1e", "i-0e", "03:abc", "d1:bi1e1:ai2ee", "li1eXe", "d4:data1:x6:hop_noi1ee"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := bt.ReadDict(b); err == nil {
			if ok, err := r.Find("m"); ok && err == nil {
				r.Bytes()
			}
			r.Close()
		}
		v, err := bt.Unmarshal(b)
		if err != nil {
			return
		}
		once, err := bt.Marshal(v)
		if err != nil {
			t.Fatalf("%q was read but cannot be written: %v", b, err)
		}
		again, err := bt.Unmarshal(once)
		if err != nil || !reflect.DeepEqual(v, again) {
			t.Errorf("%q became %q on the way out and back: %v", b, once, err)
		}
	})
}
