package relay

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestConnectionsUseBBRWhereTheKernelLetsThem(t *testing.T) {
	allowed, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	available, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	used := func() (name string) {
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION) })
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimRight(name, "\x00")
	}
	before := used()
	want := before
	may := os.Geteuid() == 0 && slices.Contains(strings.Fields(string(available)), "bbr")
	if may || slices.Contains(strings.Fields(string(allowed)), "bbr") {
		want = "bbr"
	}
	preferBBR(conn)
	if got := used(); got != want {
		t.Errorf("%s, before %s, want %s", got, before, want)
	}
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	preferBBR(near) // is no TCP, and stays what it is
}
