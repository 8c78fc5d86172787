package relay

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
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

func TestStrangersAreCountedByAddress(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for _, tt := range []struct {
		name string
		from []string
		in   int // how many of them get in; the crowd has room for 6, and for 2 of each
	}{
		{"three of one address", []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"}, 2},
		{"three of one address, written in two ways", []string{"192.0.2.1:1", "[::ffff:192.0.2.1]:2", "192.0.2.1:3"}, 2},
		{"three addresses", []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"}, 3},
		{"three of one IPv6 network", []string{"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1"}, 2},
		{"two IPv6 networks", []string{"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:1::1]:1"}, 3},
		{"a developer's network on loopback", []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", "[::1]:1", "[::1]:2", "[::1]:3"}, 6},
		{"more than there is room for", []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "192.0.2.4:1", "192.0.2.5:1", "192.0.2.6:1", "192.0.2.7:1"}, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCrowd(6, 2)
			for range 2 { // all leave, and all come again
				var in []*guest
				for _, from := range tt.from {
					if g, ok := c.enter(tcp(from), nil); ok {
						g.busy(true)
						in = append(in, g)
					}
				}
				if len(in) != tt.in {
					t.Errorf("%d got in, want %d", len(in), tt.in)
				}
				for _, g := range in {
					g.Leave()
					g.Leave()
				}
				if c.all != 0 || len(c.by) != 0 || c.quiet.Len() != 0 {
					t.Errorf("%d of %d addresses left in an empty crowd", c.all, len(c.by))
				}
			}
		})
	}
	if _, ok := newCrowd(1, 1).enter(&net.UnixAddr{Name: "x"}, nil); !ok {
		t.Error("a connection without an address was refused")
	}
}

func TestWhoHasNoRequestMakesPlace(t *testing.T) {
	c := newCrowd(3, 3)
	var out []string
	enter := func(name string) *guest {
		g, ok := c.enter(net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2."+name+":1")), func() { out = append(out, name) })
		if !ok {
			out = append(out, "refused "+name)
		}
		return g
	}
	one, two, three := enter("1"), enter("2"), enter("3")
	one.busy(true)
	two.busy(true)
	two.busy(false) // now three has been quiet for longer
	four := enter("4")
	four.busy(true)
	enter("5").busy(true) // two makes place
	enter("6")            // and nobody more: all are busy
	three.busy(true)      // too late
	three.Leave()
	one.busy(false)
	enter("7")
	if want := []string{"3", "2", "refused 6", "1"}; !slices.Equal(out, want) || c.all != 3 {
		t.Errorf("out went %q, want %q; %d are in", out, want, c.all)
	}
}

func TestLimitsFitTheMachine(t *testing.T) {
	for _, tt := range []struct {
		memory int64
		want   Limits
	}{
		{1 << 20, Limits{Memory: 32 << 20, Connections: 64, Jobs: 64, Waiting: 32, Address: 8}},
		{64 << 20, Limits{Memory: 32 << 20, Connections: 256, Jobs: 512, Waiting: 128, Address: 32}},
		{96 << 20, Limits{Memory: 48 << 20, Connections: 384, Jobs: 768, Waiting: 192, Address: 48}},
		{1 << 40, Limits{}},
	} {
		if got, want := LimitsFor(tt.memory), tt.want.withDefaults(); got != want {
			t.Errorf("for %d MiB: %+v, want %+v", tt.memory>>20, got, want)
		}
	}
}

// elsewhere is a listener whose connections seem to come from another address.
type elsewhere struct {
	net.Listener
	from net.Addr
}

func (l elsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return elsewhereConn{c, l.from}, nil
}

type elsewhereConn struct {
	net.Conn
	from net.Addr
}

func (c elsewhereConn) RemoteAddr() net.Addr { return c.from }

func TestOneAddressCannotTakeAllConnections(t *testing.T) {
	network := network3(t, func(k int, c *Config) { c.Limits.Connections, c.Limits.Address = 10, 2 })
	n := network.nodes[0]
	from := func(ip string) string {
		l := elsewhere{listen(t, &n.accepted), &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}}
		go n.server.Serve(l)
		return l.Addr().String()
	}
	greedy, other := from("192.0.2.1"), from("192.0.2.2")
	first := dialTLS(t, greedy)
	dialTLS(t, greedy)
	third := dial(t, greedy)
	awaitClosed(t, third)
	dialTLS(t, other)
	if got := network.send(0, "POST", "/ping_test/v1", nil); got.status != 200 {
		t.Errorf("from loopback: %v", got)
	}
	first.Close()
	for { // the server notices in its own time
		c, err := tls.Dial("tcp", greedy, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			c.Close()
			break
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
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
