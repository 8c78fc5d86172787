// Command devnet runs a network of service nodes on this machine's loopback
// until it is interrupted.
//
//	go run ./build/cmd/devnet -n 9 -dir /tmp/devnet
//
// With -ledger there is no seed: the nodes, each a process, decide on their list
// themselves.
//
//	go run ./build/cmd/devnet -ledger
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"hearth/build/devnet"
	"hearth/build/kernel"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "devnet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, errs io.Writer) error {
	flags := flag.NewFlagSet("devnet", flag.ContinueOnError)
	flags.SetOutput(errs)
	nodes := flags.Int("n", 9, "number of nodes")
	dir := flags.String("dir", "", "folder that keeps the network's keys and messages (default: devnet in the cache folder)")
	base := flags.Int("base-port", 22100, "port of the seed; node k listens on the k-th after it; 0 picks a free range")
	onLedger := flags.Bool("ledger", false, "no seed: the nodes are processes and decide on their list themselves, in a staking ledger")
	epoch := flags.Duration("epoch", 10*time.Second, "with -ledger: time between two changes of who is where")
	pace := flags.Duration("pace", 500*time.Millisecond, "with -ledger: pause after a block; real networks have 10s")
	verbose := flags.Bool("verbose", false, "log what the nodes do")
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		return nil
	case err != nil:
		return err
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *dir == "" {
		cache, err := kernel.CacheDir()
		if err != nil {
			return err
		}
		*dir = filepath.Join(cache, "devnet")
		if *onLedger {
			*dir += "-ledger"
		}
	}
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelDebug
	}

	if *onLedger {
		return runLedger(ctx, out, devnet.LedgerConfig{Nodes: *nodes, Dir: *dir, Epoch: *epoch, Pace: *pace, Spare: 1})
	}
	began := time.Now()
	fmt.Fprintf(out, "starting %d nodes in %s\n", *nodes, *dir)
	network, err := devnet.Start(ctx, devnet.Config{
		Nodes: *nodes, Dir: *dir, BasePort: *base,
		Log: slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, strings.TrimRight(table(network, *nodes), "\n"))
	fmt.Fprintf(out, "seed  %s\npin   %x\n", network.SeedURL(), network.Pin())
	fmt.Fprintf(out, "talk  go run ./initramfs/cmd/hearth chat -developer -dir /tmp/alice -seed %s -seed-pin %x\n", network.SeedURL(), network.Pin())
	fmt.Fprintf(out, "ready after %.1f s; Ctrl-C ends it\n", time.Since(began).Seconds())

	<-ctx.Done()
	fmt.Fprintln(out, "\nstopping")
	return network.Close()
}

// table lists the nodes with what a person wants to look up.
func table(network *devnet.Network, nodes int) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "node\taddress\tswarm\tkey")
	lines := make([]string, nodes+1)
	for _, n := range network.List().Nodes {
		if k := network.Number(n.Ed25519); k > 0 {
			lines[k] = fmt.Sprintf("%d\t%s\t%s\t%x\n", k, n.Address, n.Swarm, n.Ed25519)
		}
	}
	io.WriteString(w, strings.Join(lines, ""))
	w.Flush()
	return b.String()
}
