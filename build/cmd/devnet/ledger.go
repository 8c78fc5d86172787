package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"hearth/build/devnet"
	"hearth/node/ledger"
)

// newsEvery is how often a running ledger is looked at.
const newsEvery = 2 * time.Second

// runLedger runs a network on a ledger until ctx ends, and writes a line whenever
// something changes.
func runLedger(ctx context.Context, out io.Writer, cfg devnet.LedgerConfig) (err error) {
	began := time.Now()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return err
	}
	fmt.Fprintf(out, "compiling hearth, then starting %d nodes with a ledger in %s\n", cfg.Nodes, cfg.Dir)
	if cfg.Program, err = devnet.BuildProgram(ctx, cfg.Dir); err != nil {
		return err
	}
	network, err := devnet.StartLedger(ctx, cfg)
	if err != nil {
		return err
	}
	list, err := network.ListOf(ctx, 1)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "node\taddress\tswarm\tstake\tprocess\tkey")
	for k := 1; k <= cfg.Nodes; k++ {
		key := network.Keys(k).Ed25519()
		n, _ := list.Find(key)
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%x\n", k, n.Address, n.Swarm, ledger.Coins(network.Genesis().Params.Requirement), network.PID(k), key)
	}
	w.Flush()
	pin, err := network.Pin(1)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "chain  %s, an epoch of %v\nlist   %s at any node; pin of node 1  %x\n", network.Genesis().Chain, cfg.Epoch, network.SeedURL(1), pin)
	anchor, err := network.Anchor(ctx, 1)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "talk   go run ./initramfs/cmd/hearth chat -developer -dir /tmp/alice -seed %s -seed-pin %x -trust %v\n", network.SeedURL(1), pin, anchor)
	fmt.Fprintf(out, "break  kill -9 one of the processes; a line below says what the ledger makes of it\n")
	fmt.Fprintf(out, "ready after %.1f s; Ctrl-C ends it\n", time.Since(began).Seconds())
	tick := time.NewTicker(newsEvery)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-tick.C:
			if line := news(ctx, network); line != "" && line != last {
				fmt.Fprintf(out, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
				last = line
			}
		case <-ctx.Done():
			fmt.Fprintln(out, "\nstopping")
			return network.Close()
		}
	}
}

// news is what somebody who looks on wants to know, in one line; without what
// changes with every block.
func news(ctx context.Context, network *devnet.LedgerNetwork) string {
	limit, cancel := context.WithTimeout(ctx, newsEvery)
	defer cancel()
	for _, k := range network.Running() {
		s, err := network.Status(limit, k)
		if err != nil || s.Ledger == nil {
			continue
		}
		list, err := network.ListOf(limit, k)
		if err != nil {
			continue
		}
		state := "blocks come"
		if s.Ledger.Halted {
			state = "the ledger stands still"
		}
		return fmt.Sprintf("%s; %d nodes in service in %d swarms, %d out of service", state, s.Ledger.Active, len(list.Swarms()), len(list.Nodes)-int(s.Ledger.Active))
	}
	return ""
}
