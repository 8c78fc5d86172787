// Command ledgersim runs the staking ledger and the swarms of a whole network
// through hours of churn, within minutes and always the same for the same seed; it
// prints tables and draws a picture. Package hearth/node/ledger/sim says what is
// real in it.
//
//	go run ./build/cmd/ledgersim -nodes 1000 -hours 24 -png out/ledger.png
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"hearth/node/ledger/sim"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "ledgersim:", err)
		os.Exit(1)
	}
}

func run(args []string, out, errs io.Writer) error {
	flags := flag.NewFlagSet("ledgersim", flag.ContinueOnError)
	flags.SetOutput(errs)
	cfg := sim.Usual(1000, 24)
	flags.IntVar(&cfg.Nodes, "nodes", cfg.Nodes, "nodes with a stake from the beginning, 4 to 2000")
	flags.IntVar(&cfg.Hours, "hours", cfg.Hours, "virtual hours")
	flags.IntVar(&cfg.Messages, "messages", cfg.Messages, "messages that are kept")
	flags.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "of everything random")
	flags.Float64Var(&cfg.Lying, "lying", cfg.Lying, "share of nodes that lie")
	flags.Float64Var(&cfg.Drops, "drops", cfg.Drops, "losses of the connection per node and day")
	flags.DurationVar(&cfg.Shortest, "shortest", cfg.Shortest, "loss of the connection")
	flags.DurationVar(&cfg.Longest, "longest", cfg.Longest, "loss of the connection")
	flags.Float64Var(&cfg.Deaths, "deaths", cfg.Deaths, "nodes that never come back, per node and day")
	flags.Float64Var(&cfg.Joins, "joins", cfg.Joins, "new nodes per node and day")
	picture := flags.String("png", "", "file to draw a picture into")
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		return nil
	case err != nil:
		return err
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	began := time.Now()
	report, err := sim.Run(cfg)
	if err != nil {
		return err
	}
	if err := report.Print(out); err != nil {
		return err
	}
	fmt.Fprintf(out, "simulated in %.1f s\n", time.Since(began).Seconds())
	if *picture == "" {
		return nil
	}
	file, err := os.Create(*picture)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := report.Picture(file); err != nil {
		return err
	}
	return file.Close()
}
