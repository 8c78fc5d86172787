package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// side is a machine of its own as far as the network is concerned: a namespace
// with one interface, the packets of which this program carries.
type side struct {
	space netns.NsHandle
	tun   *os.File
	addr  string

	control func(network, address string, c syscall.RawConn) error // of TCP sockets
}

// link joins two sides and delays, and loses, what passes, each way.
type link struct {
	delay time.Duration
	loss  float64 // of 1

	congestion string // control of TCP
}

// newSides makes two machines that are joined by a link until closed.
func newSides(l link) (client, server *side, closed func(), err error) {
	control := func(_, _ string, raw syscall.RawConn) (err error) {
		e := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, l.congestion)
		})
		return errors.Join(e, err)
	}
	closed = func() {
		for _, s := range []*side{client, server} {
			if s != nil {
				s.tun.Close()
				s.space.Close()
			}
		}
	}
	if client, err = newSide("10.98.0.1"); err == nil {
		server, err = newSide("10.98.0.2")
	}
	if err != nil {
		closed()
		return nil, nil, nil, fmt.Errorf("a network of its own (needs root): %w", err)
	}
	client.control, server.control = control, control
	go l.carry(client.tun, server.tun)
	go l.carry(server.tun, client.tun)
	return client, server, closed, nil
}

// carry takes packets from one side to the other until one is closed.
func (l link) carry(from, to *os.File) {
	type packet struct {
		due  time.Time
		data []byte
	}
	under := make(chan packet, 20_000) // a long line
	defer close(under)
	go func() {
		for p := range under {
			time.Sleep(time.Until(p.due))
			to.Write(p.data)
		}
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if rand.Float64() < l.loss {
			continue
		}
		select {
		case under <- packet{time.Now().Add(l.delay), append([]byte(nil), b[:n]...)}:
		default: // the line is full
		}
	}
}

func newSide(addr string) (*side, error) {
	s := &side{addr: addr}
	err := elsewhere(func() (err error) {
		if s.space, err = netns.New(); err != nil {
			return err
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq("tun0")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			unix.Close(fd)
			return fmt.Errorf("tun: %w", err)
		}
		s.tun = os.NewFile(uintptr(fd), "tun0")
		for _, name := range []string{"lo", "tun0"} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if name == "tun0" {
				a, err := netlink.ParseAddr(addr + "/24")
				if err != nil {
					return err
				}
				if err := netlink.AddrAdd(l, a); err != nil {
					return err
				}
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		return nil
	})
	return s, err
}

// elsewhere runs something on a thread that ends with it.
func elsewhere(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// inside runs something whose sockets belong to this side.
func (s *side) inside(do func() error) error {
	return elsewhere(func() error {
		if err := netns.Set(s.space); err != nil {
			return err
		}
		return do()
	})
}

func (s *side) listen(port string) (l net.Listener, err error) {
	err = s.inside(func() error {
		l, err = (&net.ListenConfig{Control: s.control}).Listen(context.Background(), "tcp4", net.JoinHostPort(s.addr, port))
		return err
	})
	return l, err
}

func (s *side) dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = s.inside(func() error {
		c, err = (&net.Dialer{Control: s.control}).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

func (s *side) packets() (c net.PacketConn, err error) {
	err = s.inside(func() error {
		c, err = net.ListenPacket("udp4", net.JoinHostPort(s.addr, "0"))
		return err
	})
	return c, err
}
