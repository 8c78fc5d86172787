package boot

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/u-root/u-root/pkg/dhclient"
	"github.com/vishvananda/netlink"
)

const (
	// How long one question to the DHCP server waits for its answer: short at
	// first, when the link may just be coming up, longer later.
	firstAnswer   = 300 * time.Millisecond
	longestAnswer = 8 * time.Second

	// networkGrace is how long the stage itself lasts without an answer; after
	// that the search goes on beside everything else.
	networkGrace = 20 * time.Second
)

// network gets an address by DHCP on the first interface that is offered one, and
// keeps it, in one of the background tasks. It only fails when nothing answered for
// a while; the search then goes on, and address is told whenever there is one ("" when
// it is lost).
func network(ctx context.Context, background *tasks, address func(string), say Say) error {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
	}
	first := make(chan struct{})
	background.Go(func(ctx context.Context) {
		keepLease(ctx, address, say, sync.OnceFunc(func() { close(first) }))
	})
	select {
	case <-first:
		return nil
	case <-time.After(networkGrace):
		return fmt.Errorf("no answer from a DHCP server yet, the search goes on")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keepLease asks until it has a lease, and again when half of it is over.
func keepLease(ctx context.Context, address func(string), say Say, got func()) {
	for wait := firstAnswer; ctx.Err() == nil; wait = min(2*wait, longestAnswer) {
		lease, link := askAll(ctx, wait, say)
		if lease == nil {
			continue
		}
		if err := dhclient.Configure4(link, lease.ACK); err != nil {
			say("%s: %v", link.Attrs().Name, err)
			sleep(ctx, wait)
			continue
		}
		if err := os.Chmod(ResolvConf, 0o644); err != nil { // made under PID 1's narrow umask
			say("%v", err)
		}
		ip := lease.ACK.YourIPAddr.String()
		address(ip)
		say("%s has %s", link.Attrs().Name, ip)
		got()
		for {
			half := max(lease.ACK.IPAddressLeaseTime(time.Hour)/2, 30*time.Second)
			if sleep(ctx, half); ctx.Err() != nil {
				return
			}
			again, _ := askAll(ctx, longestAnswer, say)
			if again == nil || !again.ACK.YourIPAddr.Equal(lease.ACK.YourIPAddr) {
				break
			}
			lease = again
		}
		say("lease of %s was not renewed", ip)
		address("")
		wait = firstAnswer
	}
}

// askAll asks on every wired interface, one after the other.
func askAll(ctx context.Context, wait time.Duration, say Say) (*nclient4.Lease, netlink.Link) {
	links, err := netlink.LinkList()
	if err != nil {
		say("%v", err)
	}
	asked := false
	for _, link := range links {
		a := link.Attrs()
		if a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 || link.Type() != "device" {
			continue
		}
		if a.Flags&net.FlagUp == 0 {
			if err := netlink.LinkSetUp(link); err != nil {
				say("%s: %v", a.Name, err)
				continue
			}
		}
		// Without a carrier a question would go nowhere and cost its whole wait.
		if !poll(ctx, wait, func() bool { return carrier(a.Name) }) {
			asked = true
			continue
		}
		asked = true
		// No host name, no vendor class: the network learns no more than it must.
		client, err := nclient4.New(a.Name, nclient4.WithTimeout(wait), nclient4.WithRetry(1))
		if err != nil {
			say("%s: %v", a.Name, err)
			continue
		}
		lease, err := client.Request(ctx)
		client.Close()
		if err == nil {
			return lease, link
		}
	}
	if !asked {
		sleep(ctx, wait) // an adapter on USB may still appear
	}
	return nil, nil
}

// carrier tells whether the cable is plugged in and the other end is there.
func carrier(name string) bool {
	text, err := os.ReadFile("/sys/class/net/" + name + "/carrier")
	return err == nil && strings.TrimSpace(string(text)) == "1"
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
