package relay

import (
	"net"

	"golang.org/x/sys/unix"
)

// preferBBR asks the kernel to judge the way of a connection by the delays that it
// sees and not by the packets that are lost. A link between homes loses some that
// say nothing about its load: with one in a hundred lost over 100 ms, 25 MB took 5 s
// with BBR and 175 s with cubic, the kernel's usual choice, behind which everything
// else on the link waits. Where the kernel has no BBR, or this user may not choose,
// things stay as they are.
func preferBBR(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
		})
	}
}

// unsentMost is how many bytes of a link the kernel holds that it has not sent. What
// waits there is sent in the order in which it came, and a small message after all
// of it.
const unsentMost = 128 << 10

// prepareLink sets a connection up that many requests share.
func prepareLink(conn net.Conn) {
	preferBBR(conn)
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMost)
		})
	}
}
