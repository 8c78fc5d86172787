//go:build boot

package lab

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/build/emulator"
	"hearth/build/image"
	"hearth/build/kernel"
	"hearth/hw/panel/viewer"
	initboot "hearth/initramfs/boot"
	"hearth/node/api"
	"hearth/node/ledger"
)

// ledgerPort is where the appliance's node listens for others of the ledger.
const ledgerPort = 22022

// TestTheApplianceTakesPartInALedger boots an image that was made for a ledger: its
// node joins with a snapshot, its owner is paid coins, stakes them on the serial
// line and is in service; its messenger proves the list. It prints what the node
// needs in memory.
func TestTheApplianceTakesPartInALedger(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	dir := t.TempDir()
	program, err := devnet.BuildProgram(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := devnet.StartLedger(ctx, devnet.LedgerConfig{
		Program: program, Dir: filepath.Join(dir, "network"), Nodes: 5, Spare: 1,
		Args: func(int) []string { return []string{"-ledger-snapshots", "5"} },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	// The guest reaches this machine's 127.0.0.1 only.
	peers := make([]string, 5)
	for k := range peers {
		g := n.Genesis().Nodes[k].Endpoint
		for _, port := range []uint16{g.HTTPS, g.Ledger} {
			pass(t, port, netip.AddrPortFrom(g.IP, port))
		}
		peers[k] = fmt.Sprintf("%x@%s:%d", n.Keys(k+1).Ed25519(), gateway, g.Ledger)
	}
	if err := n.Until(ctx, "a snapshot", func(s map[int]*api.NodeStatus) bool { return s[1] != nil && s[1].Ledger.Height > 12 }); err != nil {
		t.Fatal(err)
	}
	anchor, err := n.Anchor(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := n.Pin(1)
	if err != nil {
		t.Fatal(err)
	}

	cache, err := kernel.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.For(ctx, emulator.AMD64.Arch(), cache, runtime.NumCPU(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	initramfs, err := image.Build(ctx, image.Options{
		Source: "../..", Arch: emulator.AMD64.Arch(), Modules: k.Modules, Output: filepath.Join(dir, "initramfs.zst"),
		Genesis: filepath.Join(dir, "network", "genesis.json"),
	})
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "data.img")
	if err := emulator.NewDisk(disk, diskSize); err != nil {
		t.Fatal(err)
	}
	public := netip.AddrPortFrom(applianceHost, freePort(t, applianceHost))
	machine, err := emulator.Start(ctx, emulator.Options{
		Target: emulator.AMD64, Cache: cache, Kernel: k.Image, Initramfs: initramfs.Path, Disk: disk, TPM: filepath.Join(dir, "tpm"),
		CommandLine: fmt.Sprintf("hearth.ledger=%s hearth.peer=%s hearth.trust=%v hearth.seed=%s hearth.seed-pin=%x hearth.gateway=%s hearth.public=%s",
			initboot.GenesisFile, strings.Join(peers, ","), anchor, n.SeedURL(1), pin, gatewayRule, public),
		Forwards: []emulator.Forward{
			{Host: public, Guest: nodePort},
			{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), public.Port()), Guest: nodePort},
			{Host: netip.AddrPortFrom(applianceHost, ledgerPort), Guest: ledgerPort},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	a := &Appliance{Machine: machine, Panel: viewer.New(viewer.Unix(filepath.Join(dir, "none")), slog.New(slog.DiscardHandler)), stop: machine.Stop}
	t.Cleanup(a.Stop)
	c := attach(t, a)

	c.expect(`There is no account yet`)
	c.setup()
	c.expect(`messages flow`) // over nodes that were proven: there is no other way
	wallet := ""
	c.until("rewards", `wallet    ([0-9a-f]{64})`, func(found []string) { wallet = found[1] })
	pay(t, ctx, n, wallet, 2000*ledger.Coin)
	c.until("rewards", `balance   2000 coins`, nil)
	c.send("stake")
	c.expect(`address becomes public`)
	c.expect(`Type stake to go on`)
	c.send("stake")
	c.expect(`Waiting for a block`)
	if err := n.Until(ctx, "the appliance to be in service", func(s map[int]*api.NodeStatus) bool { return s[1] != nil && s[1].Ledger.Active == 6 }); err != nil {
		c.fail(err)
	}
	c.until("node", `(?i)ready`, nil)
	c.send("trust")
	c.expect(regexp.QuoteMeta(anchor.Chain) + `:\d+:[0-9a-f]{64}`)
	c.send("status")
	services := c.expect(`(?s)services(.*?)start +mounts`)[1]
	t.Logf("memory of the services:\n%s", services)
	c.powerOff()
}

// until asks again and again until the answer matches.
func (c *console) until(line, pattern string, found func([]string)) {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		c.send(line)
		answer := c.expect(regexp.QuoteMeta(line) + `(?s)(.*?)hearth> `)[1]
		if m := re.FindStringSubmatch(answer); m != nil {
			if found != nil {
				found(m)
			}
			return
		}
		select {
		case <-time.After(500 * time.Millisecond): // a machine of its own
		case <-c.machine.Done():
		}
	}
	c.fail(fmt.Errorf("waited %v for %q after %s", patience, pattern, line))
}

// pay gives coins of the first node's operator to a wallet.
func pay(t *testing.T, ctx context.Context, n *devnet.LedgerNetwork, wallet string, units uint64) {
	t.Helper()
	owner, done, err := n.Owner(1)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	plan, err := owner.Plan(ctx, &api.PlanRequest{Step: api.PlanRequest_PAY, Node: wallet, Amount: units})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Do(ctx, &api.DoRequest{Token: plan.Token}); err != nil {
		t.Fatal(err)
	}
}

// pass lets the guest reach an address of this machine's loopback: whoever comes to
// the same port of 127.0.0.1 comes there.
func pass(t *testing.T, port uint16, to netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to.String())
			if err != nil {
				in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					io.Copy(way[0], way[1])
					in.Close()
					out.Close()
				}()
			}
		}
	}()
}

func freePort(t *testing.T, host netip.Addr) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(host, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}
