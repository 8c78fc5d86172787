package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	hw "hearth/hw/panel"
	"hearth/initramfs/cell"
	"hearth/node/api"
	"hearth/ui/panel"
)

// runPanel draws the screens on the virtual panel and listens to its buttons.
func runPanel(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("panel", flag.ContinueOnError)
	services := serviceFlags(flags)
	virtual := flags.String("virtual", hw.PortName, "virtual panel: the name of a virtio serial port, or the `path` of a Unix socket to listen on")
	size := flags.String("size", "240x240", "size of the virtual panel in pixels, `WxH`")
	verbose := flags.Bool("verbose", false, "log viewers that come and go")
	if err := flags.Parse(args); err != nil {
		return err
	}
	log := newLog(*verbose)

	var width, height int
	if n, err := fmt.Sscanf(*size, "%dx%d", &width, &height); n != 2 || err != nil {
		return fmt.Errorf("size %q: want WxH, such as 240x240", *size)
	}
	ports, err := filepath.Glob("/dev/vport*")
	if err != nil {
		return err
	}
	rules := cell.Rules{Kind: cell.Local, Read: []string{"/proc/uptime", "/sys/class/virtio-ports", "/sys/devices"}, Devices: ports}
	if filepath.IsAbs(*virtual) {
		rules.Write = []string{filepath.Dir(*virtual)}
	}
	if err := enterCell(log, rules); err != nil {
		return err
	}
	display, err := hw.NewVirtual(width, height)
	if err != nil {
		return err
	}
	accept, closer, err := hw.OpenVirtual(*virtual)
	if err != nil {
		return err
	}
	defer closer.Close()
	conns, err := services.dial()
	if err != nil {
		return err
	}
	defer conns.close()

	if err := settleCell(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return display.Run(ctx, accept, log) })
	group.Go(func() error {
		return panel.Run(ctx, panel.Config{
			Panel:     display,
			Messenger: api.NewMessengerClient(conns.messenger),
			Node:      api.NewNodeClient(conns.node),
			Device:    api.NewDeviceClient(conns.device),
			Log:       log,
		})
	})
	return group.Wait()
}

// services are the sockets of the local APIs that screens and console use.
type services struct{ messenger, node, device *string }

func serviceFlags(flags *flag.FlagSet) services {
	return services{
		messenger: flags.String("messenger", "/run/hearth/messenger.sock", "`socket` of the messenger's local API"),
		node:      flags.String("node", "/run/hearth/node.sock", "`socket` of the node's local API"),
		device:    flags.String("device", "/run/hearth/device.sock", "`socket` of the device's local API"),
	}
}

type serviceConns struct{ messenger, node, device *grpc.ClientConn }

// dial prepares the connections; the services need not be there yet.
func (s services) dial() (c serviceConns, err error) {
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.messenger, err = api.Dial(*s.messenger, api.UIDMessenger); err != nil {
		return c, fmt.Errorf("the messenger's API: %w", err)
	}
	if c.node, err = api.Dial(*s.node, api.UIDNode); err != nil {
		return c, fmt.Errorf("the node's API: %w", err)
	}
	if c.device, err = api.Dial(*s.device, 0); err != nil { // PID 1 is root
		return c, fmt.Errorf("the device's API: %w", err)
	}
	return c, nil
}

func (c serviceConns) close() {
	for _, conn := range []*grpc.ClientConn{c.messenger, c.node, c.device} {
		if conn != nil {
			conn.Close()
		}
	}
}
