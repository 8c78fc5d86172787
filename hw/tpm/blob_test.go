package tpm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sample() Sealed {
	s := Sealed{PIN: true, PCRs: []uint{0, 7, 8, 23}, Public: bytes.Repeat([]byte{1}, 78), Private: bytes.Repeat([]byte{2}, 190)}
	copy(s.Parent[:], bytes.Repeat([]byte{3}, len(s.Parent)))
	return s
}

func TestBlobLayout(t *testing.T) {
	s := sample()
	b := s.Marshal()
	if want := 4 + 1 + 1 + 3 + 34 + 2 + 78 + 2 + 190 + 32; len(b) != want {
		t.Errorf("%d bytes, want %d", len(b), want)
	}
	if want := []byte("HSTP\x01\x01\x81\x01\x80\x03"); !bytes.HasPrefix(b, want) {
		t.Errorf("begins with %x, want %x", b[:10], want)
	}
	got, err := ParseSealed(b)
	if err != nil || !reflect.DeepEqual(*got, s) {
		t.Errorf("parsed %+v, %v", got, err)
	}
}

// resum puts a right checksum on a blob that was changed.
func resum(b []byte) []byte {
	body := b[:len(b)-sha256.Size]
	sum := sha256.Sum256(body)
	return append(bytes.Clone(body), sum[:]...)
}

func TestBlobParserRefuses(t *testing.T) {
	s := sample()
	good := s.Marshal()
	changed := func(i int, v byte) []byte {
		b := bytes.Clone(good)
		b[i] = v
		return resum(b)
	}
	for name, c := range map[string]struct {
		blob []byte
		want error
		text string
	}{
		"nothing":              {nil, ErrDamaged, "0 bytes"},
		"only a checksum":      {resum(make([]byte, 32)), ErrDamaged, "something else"},
		"too long":             {make([]byte, maxBlob+1), ErrDamaged, "2049 bytes"},
		"other magic":          {changed(0, 'X'), ErrDamaged, "something else"},
		"a later version":      {changed(4, 3), ErrDamaged, "version 3 is unknown"},
		"unknown kind":         {changed(5, 2), ErrDamaged, "structure"},
		"public area too long": {changed(44, 79), ErrDamaged, "structure"},
		"public area huge":     {changed(43, 0xff), ErrDamaged, "structure"},
		"public area short":    {changed(44, 77), ErrDamaged, "structure"},
		"no checksum":          {good[:len(good)-32], ErrDamaged, "checksum"},
		"developer mode":       {[]byte("HSDV"), ErrKind, "developer mode"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseSealed(c.blob)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestPayload(t *testing.T) {
	for name, c := range map[string]struct {
		in payload
		ok bool
	}{
		"secret and lockout authorisation": {payload{bytes.Repeat([]byte{1}, MaxSecret), bytes.Repeat([]byte{2}, lockoutSize)}, true},
		"secret alone":                     {payload{secret: []byte{1}}, true},
		"no secret":                        {payload{lockout: bytes.Repeat([]byte{2}, lockoutSize)}, false},
		"lockout authorisation too short":  {payload{[]byte{1}, []byte{2}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.in.marshal()
			got, err := parsePayload(b)
			if (err == nil) != c.ok {
				t.Fatal(err)
			}
			if c.ok && (!bytes.Equal(got.secret, c.in.secret) || !bytes.Equal(got.lockout, c.in.lockout)) {
				t.Errorf("got %x", got)
			}
			if len(b) > 128 {
				t.Errorf("%d bytes do not fit into a TPM object", len(b))
			}
			if c.ok && cap(got.secret) != len(got.secret) {
				t.Error("the secret's slice reaches into the lockout authorisation")
			}
		})
	}
}

func FuzzParseSealed(f *testing.F) {
	s := sample()
	f.Add(s.Marshal())
	s.PIN, s.PCRs, s.Public, s.Private = false, nil, nil, nil
	f.Add(s.Marshal())
	f.Add([]byte("HSTP"))
	f.Add([]byte("HSDV"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// As it is, and with a right checksum, which no fuzzer finds by itself.
		whole := sha256.Sum256(b)
		for _, in := range [][]byte{b, append(bytes.Clone(b), whole[:]...)} {
			s, err := ParseSealed(in)
			if err != nil {
				if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrKind) {
					t.Fatalf("an error of no kind: %v", err)
				}
				continue
			}
			if !bytes.Equal(s.Marshal(), in) {
				t.Fatalf("%x came back as %x", in, s.Marshal())
			}
			_ = s.check() // reads the public area
		}
		_, _ = parsePayload(b)
	})
}

func FuzzDeveloperBlob(f *testing.F) {
	d := newDeveloper(f, f.TempDir(), time.Now)
	good, err := d.Seal([]byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("HSDV"))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := sha256.Sum256(b)
		for _, in := range [][]byte{b, append(bytes.Clone(b), whole[:]...)} {
			if _, err := d.Unseal(in); err == nil && !bytes.Equal(in, good) {
				t.Fatalf("opened %x", in)
			}
		}
	})
}
