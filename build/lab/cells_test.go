//go:build boot

package lab

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"hearth/build/emulator"
)

// TestCells boots an image in which every service, once it is locked in, tries
// what whoever took it over would try, and prints the table.
func TestCells(t *testing.T) {
	for _, board := range []emulator.Target{emulator.AMD64, emulator.VirtARM64} {
		t.Run(string(board), func(t *testing.T) { tryCells(t, board) })
	}
}

func tryCells(t *testing.T, board emulator.Target) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	l, err := Open(ctx, Options{Board: board, Source: "../..", Dir: t.TempDir(), Nodes: 3, Tags: "probe", Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := boot(t, ctx, l)
	c.expect(`There is no account yet`)
	c.setup()
	if err := l.WaitForNode(ctx); err != nil {
		c.fail(err)
	}
	c.send("logs 1000")
	c.expect(`(?s)logs 1000.*hearth> `)
	attempt := regexp.MustCompile(`(vault|node|messenger|panel|console): (?:probe: )?((?:refused|BREACH|\d+ attempts|locked into its cell).*)`)
	tables := make(map[string][]string)
	for line := range strings.Lines(c.log()) {
		if m := attempt.FindStringSubmatch(line); m != nil {
			tables[m[1]] = append(tables[m[1]], strings.TrimRight(m[2], "\r\n"))
		}
	}
	for _, service := range []string{"vault", "node", "messenger", "panel", "console"} {
		t.Run(service, func(t *testing.T) {
			t.Log("\n" + strings.Join(tables[service], "\n"))
			var attempts, breaches int
			for _, line := range tables[service] {
				if n, _ := fmt.Sscanf(line, "%d attempts, %d breaches", &attempts, &breaches); n == 2 {
					break
				}
			}
			if attempts < 40 || breaches != 0 {
				t.Errorf("%d attempts, %d breaches", attempts, breaches)
			}
		})
	}
	c.powerOff()
}
