package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandPrintsAndDraws(t *testing.T) {
	file := filepath.Join(t.TempDir(), "picture.png")
	var out strings.Builder
	if err := run([]string{"-nodes", "20", "-hours", "1", "-png", file}, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "20 nodes, 1 hours") || !strings.Contains(out.String(), "simulated in") {
		t.Errorf("it printed\n%s", out.String())
	}
	if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), "\x89PNG") {
		t.Errorf("no picture: %v", err)
	}
}

func TestCommandRefusesFlagsThatMakeNoSense(t *testing.T) {
	for _, args := range [][]string{{"-nodes", "many"}, {"something"}, {"-nodes", "0"}, {"-nodes", "5000"}, {"-hours", "-1"}, {"-lying", "2"}, {"-nodes", "20", "-hours", "1", "-png", filepath.Join(t.TempDir(), "no", "where.png")}} {
		if err := run(args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q were accepted", args)
		}
	}
}
