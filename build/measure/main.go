// Command measure takes the figures by which Hearth's message store and its links
// between nodes were chosen. It is a module of its own, so that what it compares
// with never becomes part of the product.
//
//	cd build/measure && go run . store        # as root: on a disk of its own that counts
//	cd build/measure && go run . transport    # as root: over a network with delay and loss
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	what := ""
	if len(args) > 0 {
		what, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("measure "+what, flag.ContinueOnError)
	switch what {
	case "store":
		var m storeMeasure
		flags.IntVar(&m.messages, "messages", 100_000, "of 1,000 bytes, for each engine and number of writers")
		only := flags.String("only", "", "engines, separated by commas")
		if err := flags.Parse(args); err != nil {
			return err
		}
		m.only = strings.FieldsFunc(*only, func(r rune) bool { return r == ',' })
		return m.run(ctx, out)
	case "transport":
		m := transportMeasure{delay: 50e6}
		flags.DurationVar(&m.delay, "delay", m.delay, "each way")
		flags.IntVar(&m.small, "small", 2000, "requests of 300 bytes")
		flags.IntVar(&m.large, "large", 100, "answers of 256 KiB")
		if err := flags.Parse(args); err != nil {
			return err
		}
		return m.run(ctx, out)
	}
	return fmt.Errorf("measure what? store or transport")
}
