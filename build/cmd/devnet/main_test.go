package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"
	"time"
)

func TestCommandRunsUntilItIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	in, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"-n", "3", "-base-port", "0", "-dir", t.TempDir()}, out, t.Output())
		out.CloseWithError(err)
		ended <- err
	}()
	var text strings.Builder
	for lines := bufio.NewScanner(in); lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "ready") {
			cancel()
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"starting 3 nodes", "127.0.1.1:", "127.0.2.1:", "127.0.3.1:", "seed  https://127.0.0.1:", "pin   ", "talk  go run ./initramfs/cmd/hearth chat ", "stopping"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
}

func TestCommandRunsANetworkOnALedger(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	in, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"-ledger", "-n", "4", "-epoch", "2s", "-dir", t.TempDir()}, out, t.Output())
		out.CloseWithError(err)
		ended <- err
	}()
	var text strings.Builder
	for lines := bufio.NewScanner(in); lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "blocks come; 4 nodes in service") {
			cancel()
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"starting 4 nodes with a ledger", "127.0.4.1:", "chain  devnet-", "/json_rpc", "-seed-pin ", "ready after", "stopping"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
}

func TestCommandRefusesFlagsThatMakeNoSense(t *testing.T) {
	for _, args := range [][]string{{"-n", "0x"}, {"something"}, {"-n", "1000", "-dir", t.TempDir()}, {"-ledger", "-n", "3", "-dir", t.TempDir()}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q were accepted", args)
		}
	}
}
