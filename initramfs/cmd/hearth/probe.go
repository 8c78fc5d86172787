//go:build probe

package main

import (
	"fmt"
	"os"

	"hearth/initramfs/cell"
	"hearth/initramfs/cell/probe"
)

// In the image that tests the cells, every role tries to get out of its own, and
// says how that went in lines that the test reads from the journal.
func init() {
	afterSettling = func(r cell.Rules) {
		own := probe.Own{Devices: r.Devices, Network: r.Kind == cell.Online}
		if len(r.Write) > 0 {
			own.Folder = r.Write[0]
		}
		results := probe.Run(own)
		breaches := 0
		for _, r := range results {
			if !r.Refused {
				breaches++
			}
			fmt.Fprintln(os.Stderr, "probe:", r)
		}
		fmt.Fprintf(os.Stderr, "probe: %d attempts, %d breaches\n", len(results), breaches)
	}
}
