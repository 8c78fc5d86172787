package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestRateLimiter(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	r := newRateLimiter(func() time.Time { return now })
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	through := func(a netip.Addr, tries int) (n int) {
		for range tries {
			if r.allow(a) {
				n++
			}
		}
		return n
	}
	if n := through(one, 700); n != 600 {
		t.Errorf("a burst of %d, want 600", n)
	}
	if !r.allow(other) {
		t.Error("one address uses up what another has")
	}
	now = now.Add(time.Second)
	if n := through(one, 700); n != 300 {
		t.Errorf("%d after a second, want 300", n)
	}
	now = now.Add(time.Hour)
	if n := through(one, 700); n != 600 {
		t.Errorf("%d after an hour, want 600", n)
	}

	// A request every 2.5 ms loses the rest of a token each time.
	let := 0
	for range 400 {
		now = now.Add(2500 * time.Microsecond)
		let += through(one, 1)
	}
	if let < 195 || let > 205 {
		t.Errorf("%d of 400 in a second, want about 200", let)
	}
}

func TestRateLimiterKnowsALimitedNumberOfAddresses(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	r := newRateLimiter(func() time.Time { return now })
	addr := netip.MustParseAddr("10.0.0.0")
	for range rateAddresses {
		if addr = addr.Next(); !r.allow(addr) {
			t.Fatal("refused too early")
		}
	}
	if addr = addr.Next(); r.allow(addr) {
		t.Error("one address too many")
	}
	now = now.Add(rateCleanup)
	if !r.allow(addr) {
		t.Error("those with full buckets were not forgotten")
	}
	if len(r.buckets) != 1 {
		t.Errorf("%d addresses known", len(r.buckets))
	}
}

func TestReadAll(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name  string
		size  int
		limit int64
		free  int64
		end   error // of the reader
		want  error
	}{
		{"nothing", 0, 10, 1 << 20, nil, nil},
		{"exactly the limit", 5000, 5000, 1 << 20, nil, nil},
		{"one byte more", 5001, 5000, 1 << 20, nil, errTooLarge},
		{"far more", 1 << 20, 5000, 1 << 20, nil, errTooLarge},
		{"more than there is memory", 20_000, 1 << 20, 10_000, nil, errBusy},
		{"no memory at all", 0, 10, 10, nil, errBusy},
		{"a reader that fails", 10, 100, 1 << 20, broken, broken},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory(tt.free)
			s := m.share()
			want := bytes.Repeat([]byte("x"), tt.size)
			var r io.Reader = bytes.NewReader(want)
			if tt.end != nil {
				r = io.MultiReader(r, iotest.ErrReader(tt.end))
			}
			got, err := readAll(r, tt.limit, s)
			if !errors.Is(err, tt.want) || err == nil && !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if tt.want == nil && s.held < int64(cap(got)) {
				t.Errorf("%d bytes in memory, %d accounted for", cap(got), s.held)
			}
			s.release()
			if !m.share().grow(tt.free) {
				t.Error("memory was not given back")
			}
			if s.grow(1) {
				t.Error("a share grows after its job is done")
			}
		})
	}
}

func TestParts(t *testing.T) {
	for _, parts := range [][][]byte{nil, {{}}, {{}, []byte("a"), {}}, {[]byte("200"), bytes.Repeat([]byte{0}, 1000)}} {
		got, err := ParseParts(MarshalParts(parts))
		if err != nil || !slices.EqualFunc(got, parts, bytes.Equal) {
			t.Errorf("%q came back as %q, %v", parts, got, err)
		}
	}
	for _, bad := range []string{"\x00", "\x00\x00\x00", "\x00\x00\x00\x01", "\xff\xff\xff\xffabc", strings.Repeat("\x00", 4*(maxParts+1))} {
		if got, err := ParseParts([]byte(bad)); !errors.Is(err, ErrParts) {
			t.Errorf("%q was read as %q, %v", bad, got, err)
		}
	}
}

func FuzzParseParts(f *testing.F) {
	f.Add(MarshalParts([][]byte{[]byte("200"), []byte("body")}))
	f.Add(binary.BigEndian.AppendUint32(nil, 1<<31))
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := ParseParts(b)
		if err != nil {
			if !errors.Is(err, ErrParts) {
				t.Errorf("error %v", err)
			}
			return
		}
		if len(parts) > maxParts {
			t.Errorf("%d parts", len(parts))
		}
		if again := MarshalParts(parts); !bytes.Equal(again, b) {
			t.Errorf("%q came back as %q", b, again)
		}
	})
}
