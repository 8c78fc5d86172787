// Command deps installs the Debian or Ubuntu packages that building, running and
// testing the appliance needs, if they are missing.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"hearth/build/deps"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := deps.Install(ctx, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "deps:", err)
		os.Exit(1)
	}
}
