// Package lab puts an appliance among others: a network of service nodes on
// this machine, a second person with a messenger who answers, and the appliance
// itself in an emulator with its panel on a web page.
//
// Open brings up everything but the appliance; Boot switches that on, as often
// as one likes. What has to survive a power cut lies in a folder: the TPM's state,
// the data disk or the SD card, the network's nodes and the friend's account. Opening the same
// folder again continues the same world.
package lab

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"hearth/build/devnet"
	"hearth/build/emulator"
	"hearth/build/image"
	"hearth/build/kernel"
	"hearth/build/sdcard"
	"hearth/firmware/pi"
	"hearth/hw/panel/viewer"
	"hearth/initramfs/ntptest"
)

const (
	nodePort   = 22021   // of the node in the guest, the storage server's port
	portsApart = 200     // from the seed's port to that of the appliance's node
	diskSize   = 512     // MiB, sparse
	cardSize   = 1 << 30 // bytes, sparse; QEMU wants a power of two

	// emulatedTree belongs to the one board that QEMU has.
	emulatedTree = "bcm2837-rpi-3-b.dtb"
	gateway      = "10.0.2.2" // this machine, as the guest sees it
	gatewayRule  = "127.0.0.0/8=" + gateway
)

// applianceHost is where the appliance's node is found: in a /24 of its own, as
// every node of the network.
var applianceHost = netip.AddrFrom4([4]byte{127, 0, 200, 1})

// Options say what to open.
type Options struct {
	Board     emulator.Target
	Source    string       // folder of the Go module
	Dir       string       // what survives; made when there is none
	Nodes     int          // of the network, 9 when 0
	BasePort  int          // of the network; 0 picks a free range
	PanelPage string       // address of the panel's web page, such as 127.0.0.1:8180; "" = none
	Progress  io.Writer    // lines for people
	Log       *slog.Logger // of the network and the friend; nil = none
	Tags      string       // build tags of the appliance's program, empty but in tests
}

// Lab is everything around the appliance.
type Lab struct {
	Network   *devnet.Network
	Friend    *Friend
	Kernel    kernel.Kernel
	Initramfs image.Initramfs
	Card      sdcard.Image // of a Raspberry Pi
	PanelURL  string

	options   Options
	page      net.Listener // the panel's, nil = none
	cache     string
	run       string // folder of this run's sockets
	closers   []func()
	closeOnce sync.Once
}

// Open builds what has to be built and starts everything but the appliance.
func Open(ctx context.Context, o Options) (_ *Lab, err error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	// What is asked for is checked before anything slow begins.
	if o.BasePort < 0 || o.BasePort > 65535-portsApart {
		return nil, fmt.Errorf("base port %d: choose one up to %d", o.BasePort, 65535-portsApart)
	}
	l := &Lab{options: o}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.cache, err = kernel.CacheDir(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the lab's folder: %w", err)
	}
	if o.PanelPage != "" {
		listener, err := viewer.Listen(o.PanelPage)
		if err != nil {
			return nil, fmt.Errorf("serving the panel's page (choose another address): %w", err)
		}
		l.closers = append(l.closers, func() { listener.Close() })
		l.page = listener
		l.PanelURL = "http://" + listener.Addr().String() + "/"
	}

	if o.Board == emulator.RaspberryPi3 {
		err = l.buildCard(ctx)
	} else {
		err = l.build(ctx)
	}
	if err != nil {
		return nil, err
	}

	l.say("network    starting service nodes on loopback")
	l.Network, err = devnet.Start(ctx, devnet.Config{
		Nodes: o.Nodes, Dir: filepath.Join(o.Dir, "network"), BasePort: o.BasePort, Log: o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the network: %w", err)
	}
	l.closers = append(l.closers, func() { l.Network.Close() })
	list := l.Network.List()
	l.say("           %d nodes in %d swarms, list at %s", len(list.Nodes), len(list.Swarms()), l.Network.SeedURL())

	l.say("friend     a second person, on this machine")
	if l.Friend, err = newFriend(filepath.Join(o.Dir, "friend"), l.Network, o.Log); err != nil {
		return nil, fmt.Errorf("starting the friend: %w", err)
	}
	l.closers = append(l.closers, l.Friend.close)
	l.say("           %s", l.Friend.ID())

	// Unix sockets allow 107 bytes of path, so they do not lie in Dir.
	if l.run, err = os.MkdirTemp("", "hearth-lab-"); err != nil {
		return nil, err
	}
	l.closers = append(l.closers, func() { os.RemoveAll(l.run) })
	return l, nil
}

// build makes kernel and initramfs of a virtual machine.
func (l *Lab) build(ctx context.Context) (err error) {
	o := l.options
	l.say("kernel     for %s", o.Board)
	if l.Kernel, err = kernel.For(ctx, o.Board.Arch(), l.cache, runtime.NumCPU(), o.Progress); err != nil {
		return fmt.Errorf("getting the kernel: %w", err)
	}
	l.say("           %s", l.Kernel.Source)

	l.say("image      compiling and packing")
	l.Initramfs, err = image.Build(ctx, image.Options{
		Source: o.Source, Arch: o.Board.Arch(), Modules: l.Kernel.Modules,
		Output: filepath.Join(o.Dir, "initramfs.zst"), Tags: o.Tags,
	})
	if err != nil {
		return fmt.Errorf("building the image: %w", err)
	}
	l.say("           %.1f MiB compressed, sha256 %s", float64(l.Initramfs.Compressed)/(1<<20), l.Initramfs.SHA256)
	return nil
}

// buildCard makes the image of a board's SD card.
func (l *Lab) buildCard(ctx context.Context) (err error) {
	o := l.options
	l.say("image      of the SD card for %s", o.Board)
	l.Card, err = sdcard.Build(ctx, sdcard.Options{
		Source: o.Source, Output: filepath.Join(o.Dir, "sdcard.img"), Cache: l.cache, Tags: o.Tags, Progress: o.Progress,
	})
	if err != nil {
		return fmt.Errorf("building the image: %w", err)
	}
	l.Kernel, l.Initramfs = l.Card.Kernel, l.Card.Initramfs
	l.say("           %s, %s", l.Kernel.Source, l.Card.Firmware)
	l.say("           a slot has %.1f MiB, image sha256 %s", float64(l.Card.Slot)/(1<<20), l.Card.SHA256)
	return nil
}

// Appliance is the appliance while it is switched on.
type Appliance struct {
	*emulator.Machine
	Panel *viewer.Viewer

	stop func()
}

// Boot switches the appliance on. Its serial line is Machine.Serial. The panel's
// page, if asked for, shows the first appliance that was booted, until its Stop.
func (l *Lab) Boot(ctx context.Context) (a *Appliance, err error) {
	return l.BootAs(ctx, func(*emulator.Options) {})
}

// BootAs is Boot of a machine that change has made another.
func (l *Lab) BootAs(ctx context.Context, change func(*emulator.Options)) (a *Appliance, err error) {
	public := l.address()
	pin := l.Network.Pin()
	socket := filepath.Join(l.run, "panel")
	l.say("appliance  switching on, its node is %s", public)
	o := emulator.Options{
		Target: l.options.Board, Cache: l.cache,
		CommandLine: fmt.Sprintf("hearth.seed=%s hearth.seed-pin=%s hearth.gateway=%s hearth.public=%s",
			l.Network.SeedURL(), hex.EncodeToString(pin[:]), gatewayRule, public),
		// The guest reaches its own public address through the gateway, which is
		// this machine's 127.0.0.1.
		Forwards: []emulator.Forward{
			{Host: public, Guest: nodePort},
			{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), public.Port()), Guest: nodePort},
		},
	}
	if o.Target == emulator.RaspberryPi3 {
		err = l.insertCard(&o)
	} else {
		o.Panel = socket
		err = l.plug(&o)
	}
	if err != nil {
		return nil, err
	}
	change(&o)
	machine, err := emulator.Start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("starting the emulator: %w", err)
	}

	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	a = &Appliance{Machine: machine, Panel: viewer.New(viewer.Unix(socket), l.options.Log)}
	a.stop = sync.OnceFunc(func() {
		machine.Stop()
		cancel()
		tasks.Wait()
	})
	tasks.Go(func() { a.Panel.Run(ctx) })
	if l.page != nil {
		tasks.Go(func() { a.Panel.Serve(ctx, l.page) })
		l.say("panel      %s", l.PanelURL)
	}
	return a, nil
}

// plug gives a virtual machine its disk and its TPM.
func (l *Lab) plug(o *emulator.Options) error {
	o.Kernel, o.Initramfs = l.Kernel.Image, l.Initramfs.Path
	o.Disk = filepath.Join(l.options.Dir, "data.img")
	if err := emulator.NewDisk(o.Disk, diskSize); err != nil {
		return fmt.Errorf("making the data disk: %w", err)
	}
	o.TPM = filepath.Join(l.options.Dir, "tpm")
	return os.MkdirAll(o.TPM, 0o700)
}

// insertCard gives a board its SD card, with the present image in its slots, and
// what the board's firmware would start from it. There is no TPM to emulate, so
// the appliance runs in developer mode.
func (l *Lab) insertCard(o *emulator.Options) error {
	o.Disk = filepath.Join(l.options.Dir, "card.img")
	if err := sdcard.Flash(l.Card.Path, o.Disk, cardSize); err != nil {
		return fmt.Errorf("writing the card: %w", err)
	}
	board := pi.Boards[slices.IndexFunc(pi.Boards, func(b pi.Board) bool { return b.Tree == emulatedTree })]
	found, err := sdcard.Extract(o.Disk, l.run, board.Filters...)
	if err != nil {
		return fmt.Errorf("reading the card: %w", err)
	}
	o.Kernel, o.Initramfs, o.Tree, o.BootLine = found.Kernel, found.Initramfs, found.Tree, found.CommandLine
	// A board has no clock of its own that runs without power.
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	l.closers = append(l.closers, func() { conn.Close() })
	go ntptest.Serve(conn, time.Now) // ends when conn is closed
	o.CommandLine += fmt.Sprintf(" hearth.developer hearth.ntp=%s:%d", gateway, conn.LocalAddr().(*net.UDPAddr).Port)
	return nil
}

// Stop pulls the plug, if the appliance has not switched itself off, and closes
// the panel's page.
func (a *Appliance) Stop() { a.stop() }

// Close stops everything that Open started.
func (l *Lab) Close() {
	l.closeOnce.Do(func() {
		for i := len(l.closers) - 1; i >= 0; i-- {
			l.closers[i]()
		}
	})
}

// address is where the appliance's node is found by the others.
func (l *Lab) address() netip.AddrPort {
	return netip.AddrPortFrom(applianceHost, l.Network.Address(1).Port()-1+portsApart)
}

func (l *Lab) say(format string, args ...any) {
	fmt.Fprintf(l.options.Progress, format+"\n", args...)
}

// WaitForNode waits until the appliance's node is a member of a swarm and can be
// reached by the others.
func (l *Lab) WaitForNode(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, n := range l.Network.List().Nodes {
			if n.Address == l.address() {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("the appliance's node did not join the network"), ctx.Err())
		case <-tick.C:
		}
	}
}
