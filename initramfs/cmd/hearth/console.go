package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"hearth/hw/serial"
	"hearth/initramfs/cell"
	"hearth/node/api"
	"hearth/ui/console"
)

// runConsole serves the serial console, or a terminal of a developer's machine.
func runConsole(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("console", flag.ContinueOnError)
	services := serviceFlags(flags)
	device := flags.String("serial", "", "serial `device`, such as /dev/ttyS0")
	baud := flags.Int("baud", 115200, "speed of the serial line in bits per second")
	stdio := flags.Bool("stdio", false, "use standard input and output instead of a serial line")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *stdio == (*device != "") {
		return fmt.Errorf("either -serial or -stdio has to be given")
	}
	log := newLog(false)
	if err := enterCell(log, cell.Rules{Kind: cell.Local, Devices: []string{*device}}); err != nil {
		return err
	}
	conns, err := services.dial()
	if err != nil {
		return err
	}
	defer conns.close()
	if err := settleCell(); err != nil {
		return err
	}
	cfg := console.Config{
		Messenger: api.NewMessengerClient(conns.messenger),
		Node:      api.NewNodeClient(conns.node),
		Ledger:    api.NewLedgerClient(conns.node),
		Device:    api.NewDeviceClient(conns.device),
	}
	if *stdio {
		// No log: it would run into what the terminal shows.
		return runStdio(ctx, cfg)
	}
	cfg.Log = log
	line, err := serial.Open(*device, *baud)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { line.Close() })()
	defer line.Close()
	return console.New(cfg).Run(ctx, line)
}

func runStdio(ctx context.Context, cfg console.Config) error {
	cfg.MayLeave = true
	stdin := int(os.Stdin.Fd())
	cfg.Plain = !term.IsTerminal(stdin)
	if !cfg.Plain {
		before, err := term.MakeRaw(stdin)
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		defer term.Restore(stdin, before)
	}
	return console.New(cfg).Run(ctx, struct {
		io.Reader
		io.Writer
	}{os.Stdin, os.Stdout})
}
