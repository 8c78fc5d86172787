package devnet

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// space is a network namespace without a name: it ends with the last process and
// socket in it.
type space struct{ handle netns.NsHandle }

// newSpace makes a namespace, with its loopback up.
func newSpace() (space, error) {
	var s space
	err := elsewhere(func() (err error) {
		s.handle, err = netns.New()
		return err
	})
	if err != nil {
		return s, err
	}
	return s, s.configure(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
}

// elsewhere runs something on a thread that is not used for anything else
// afterwards: it may have gone to another namespace.
func elsewhere(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		done <- do()
	}()
	return <-done
}

// inside runs something whose sockets and processes belong to the namespace.
func (s space) inside(do func() error) error {
	return elsewhere(func() error {
		if err := netns.Set(s.handle); err != nil {
			return err
		}
		return do()
	})
}

func (s space) configure(do func(h *netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(s.handle)
	if err != nil {
		return err
	}
	defer h.Close()
	return do(h)
}

func (s space) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = s.inside(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// mayMakeNamespaces reports whether this user may.
func mayMakeNamespaces() bool {
	if os.Geteuid() != 0 {
		return false
	}
	s, err := newSpace()
	if err != nil {
		return false
	}
	defer s.handle.Close()
	return s.configure(func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Bridge{LinkAttrs: named("br0")})
	}) == nil
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// spacesOnASwitch gives each node a namespace of its own, joined by a switch that has
// a bridge for each side. Node k is 10.99.k.1, and the switch 10.99.0.1, on side 0.
func spacesOnASwitch(t *testing.T, nodes int) (hub space, spaces []space, cut cutter) {
	const sides = 3
	hub, err := newSpace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hub.handle.Close() })
	bridge := func(side int) string { return "side" + strconv.Itoa(side) }
	port := func(k int) string { return "port" + strconv.Itoa(k) }
	spaces = make([]space, nodes+1)
	err = hub.configure(func(h *netlink.Handle) error {
		for side := range sides {
			b := &netlink.Bridge{LinkAttrs: named(bridge(side))}
			if err := h.LinkAdd(b); err != nil {
				return err
			}
			if err := h.LinkSetUp(b); err != nil {
				return err
			}
		}
		return address(h, bridge(0), "10.99.0.1/16")
	})
	if err != nil {
		t.Fatal(err)
	}
	for k := 1; k <= nodes; k++ {
		if spaces[k], err = newSpace(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { spaces[k].handle.Close() })
		err := hub.configure(func(h *netlink.Handle) error {
			attrs := named(port(k))
			return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(spaces[k].handle)})
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := spaces[k].configure(func(h *netlink.Handle) error { return address(h, "eth0", spaceOf(k).String()+"/16") }); err != nil {
			t.Fatal(err)
		}
	}
	cut = func(side []int) error {
		return hub.configure(func(h *netlink.Handle) error {
			for i, s := range side {
				link, err := h.LinkByName(port(i + 1))
				if err != nil {
					return err
				}
				to, err := h.LinkByName(bridge(s))
				if err != nil {
					return err
				}
				if err := h.LinkSetMaster(link, to); err != nil {
					return err
				}
				if err := h.LinkSetUp(link); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := cut(make([]int, nodes)); err != nil {
		t.Fatal(err)
	}
	return hub, spaces, cut
}

// spaceOf is the address of node k in its namespace.
func spaceOf(k int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, byte(k), 1}) }

// startInNamespaces puts the seed at the switch.
func startInNamespaces(t *testing.T, nodes int) (*chaos, cutter) {
	hub, spaces, cut := spacesOnASwitch(t, nodes)
	c := startChaos(t, ProcessConfig{
		Nodes:   nodes,
		Address: func(k, base int) netip.AddrPort { return netip.AddrPortFrom(spaceOf(k), uint16(base+k)) },
		Seed: func(base int) (l net.Listener, at string, err error) {
			at = net.JoinHostPort("10.99.0.1", strconv.Itoa(base))
			err = hub.inside(func() error {
				l, err = net.Listen("tcp", at)
				return err
			})
			return l, at, err
		},
		Dial:  hub.dial,
		Spawn: func(k int, cmd *exec.Cmd) error { return spaces[k].inside(cmd.Start) },
	}, func(k int) func(context.Context, string, string) (net.Conn, error) { return spaces[k].dial })
	return c, cut
}

// address gives a link an address and switches it on.
func address(h *netlink.Handle, name, prefix string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	if err := h.AddrAdd(link, addr); err != nil {
		return err
	}
	return h.LinkSetUp(link)
}
