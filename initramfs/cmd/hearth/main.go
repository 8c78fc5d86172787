// Command hearth is everything that runs on the appliance, in one file: PID 1,
// and each of its services as a role of its own process.
//
//	hearth ROLE [flags]        hearth node -help
//
// The kernel starts it as /init, which is the role init; a link with a role's
// name works the same way. On a developer's machine every role but init runs as
// an ordinary program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// roles are the programs in this file. A role ends in order when ctx is
// cancelled, which SIGTERM and SIGINT do.
var roles = []struct {
	name string
	does string
	run  func(ctx context.Context, args []string) error
}{
	{"init", "PID 1: starts the appliance and keeps its services running", runInit},
	{"vault", "seals the keys with the TPM and opens them with the PIN", runVault},
	{"node", "the service node: storage and relay", runNode},
	{"messenger", "sends, receives and keeps the messages", runMessenger},
	{"panel", "draws the screens of the panel and reads its buttons", runPanel},
	{"console", "the commands on the serial line", runConsole},
	{"chat", "all that a person needs on an ordinary machine: vault, messenger and console in one", runChat},
}

func main() {
	name, args := role(os.Args)
	for _, r := range roles {
		if r.name != name {
			continue
		}
		if name != "init" {
			// Keys are in this memory: no core dump, and no other program of the
			// same user may look into it.
			unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		if err := r.run(ctx, args); err != nil && !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(os.Stderr, "hearth %s: %v\n", name, err)
			os.Exit(1)
		}
		return
	}
	fmt.Fprintln(os.Stderr, "usage: hearth ROLE [flags]")
	for _, r := range roles {
		fmt.Fprintf(os.Stderr, "  %-10s %s\n", r.name, r.does)
	}
	os.Exit(2)
}

// role finds out what to be. The pid does not count: in a PID namespace of its
// own, any service is process number 1.
func role(argv []string) (name string, args []string) {
	if len(argv) == 0 {
		return "", nil
	}
	if base := filepath.Base(argv[0]); base != "hearth" {
		for _, r := range roles {
			if r.name == base {
				return base, argv[1:]
			}
		}
	}
	if len(argv) < 2 || strings.HasPrefix(argv[1], "-") {
		return "", nil
	}
	return argv[1], argv[2:]
}
