package boot

import (
	"slices"
	"strconv"
	"strings"
)

// Parameters is what the kernel's command line says to the appliance.
type Parameters struct {
	Seed      string // hearth.seed=URL: where the list of service nodes comes from
	SeedPin   string // hearth.seed-pin=HEX: SHA-256 of the seed's certificate
	Gateway   string // hearth.gateway=PREFIX=ADDRESS: see the node's flag of that name
	Public    string // hearth.public=IP:PORT: the node's address as others reach it
	Ledger    string // hearth.ledger=FILE: the genesis of the ledger that says who is a node, see GenesisFile
	Peers     string // hearth.peer=KEY@HOST:PORT[,…]: nodes of the ledger to begin with
	Trust     string // hearth.trust=CHAIN:HEIGHT:HASH: a header of the ledger, for the messenger and for a node that joins
	NTP       string // hearth.ntp=HOST[:PORT][,…]: time servers
	Developer bool   // hearth.developer, or the same =1, =yes, =true: run without a TPM, and say so everywhere
	// NoWatchdog is hearth.watchdog=off: QEMU's Raspberry Pi 3 restarts at once when
	// somebody opens its watchdog.
	NoWatchdog bool
	Serial     string // hearth.serial=ttyS0; without it, the last console= that names a real line
	Baud       int    // from console=ttyS0,115200; 115200 when it is not said
}

// ParseParameters reads a kernel command line. What it does not know belongs to
// the kernel and is passed over. A later word wins over an earlier one.
func ParseParameters(line string, say Say) Parameters {
	p := Parameters{Baud: 115200}
	var console string
	for word := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "hearth.seed":
			p.Seed = value
		case "hearth.seed-pin":
			p.SeedPin = value
		case "hearth.gateway":
			p.Gateway = value
		case "hearth.public":
			p.Public = value
		case "hearth.ledger":
			p.Ledger = value
		case "hearth.peer":
			p.Peers = value
		case "hearth.trust":
			p.Trust = value
		case "hearth.ntp":
			p.NTP = value
		case "hearth.developer":
			// Protection goes only when that is what was clearly asked for.
			_, given := strings.CutPrefix(word, "hearth.developer=")
			if p.Developer = !given || slices.Contains([]string{"1", "yes", "true"}, value); !p.Developer {
				say("%s: developer mode is off, it takes 1, yes or true", word)
			}
		case "hearth.watchdog":
			p.NoWatchdog = value == "off"
		case "hearth.serial":
			p.Serial = strings.TrimPrefix(value, "/dev/")
		case "console":
			device, options, _ := strings.Cut(value, ",")
			if !strings.HasPrefix(device, "tty") || strings.Contains(device, "/") {
				continue
			}
			console = device
			digits := strings.IndexFunc(options, func(r rune) bool { return r < '0' || r > '9' })
			if digits < 0 {
				digits = len(options)
			}
			if baud, err := strconv.Atoi(options[:digits]); err == nil && baud > 0 {
				p.Baud = baud
			}
		}
	}
	if p.Serial == "" || strings.Contains(p.Serial, "/") {
		p.Serial = console
	}
	return p
}
