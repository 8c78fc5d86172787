// Command panelview shows a virtual panel on a local web page: one that an
// emulator offers on a Unix socket, or one on this machine:
//
//	hearth panel -virtual /tmp/panel.sock &
//	panelview -panel /tmp/panel.sock
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"hearth/hw/panel/viewer"
)

func main() {
	socket := flag.String("panel", "", "Unix `socket` of the panel")
	address := flag.String("http", "127.0.0.1:8080", "loopback `address` of the page")
	verbose := flag.Bool("verbose", false, "log why the panel is not connected")
	flag.Parse()
	if *socket == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	v := viewer.New(viewer.Unix(*socket), log)
	var tasks sync.WaitGroup
	tasks.Go(func() { v.Run(ctx) })
	err := v.ListenAndServe(ctx, *address, func(url string) { fmt.Println(url) })
	stop()
	tasks.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, "panelview:", err)
		os.Exit(1)
	}
}
