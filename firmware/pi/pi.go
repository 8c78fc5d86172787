// Package pi knows what a Raspberry Pi wants to find on its SD card: which files
// the boot partition and a slot hold, what config.txt, cmdline.txt and autoboot.txt
// say, which device tree belongs to which board, and how the TPM hangs on its pins.
//
// The board's own firmware reads autoboot.txt in the boot partition, which names
// the partition of a slot; everything else it takes from there. BootPartition and
// Slot list the files; Select reads config.txt as the firmware does, for an emulator
// that has no such firmware.
//
// This package only knows names and contents. Fetching the vendor's firmware,
// compiling device trees and writing cards are the image builder's work. The rules
// are the vendor's, from the documentation of config.txt, autoboot.txt and the boot
// flow; none of it was tried on a board yet.
package pi

import (
	_ "embed"
	"fmt"
	"strings"
)

// Board is a kind of Raspberry Pi that the card starts on.
type Board struct {
	Name    string   // as its maker writes it
	Filters []string // the sections of config.txt that apply to it, besides "all"
	Tree    string   // file name of its device tree, the kernel's own name
}

// Boards lists the boards. The last filter of a board is its own, those before it
// are shared with other boards.
//
// Raspberry Pi 5 is missing: its Ethernet, USB and pins hang on a chip that
// kernels before 7.x have no driver for.
var Boards = []Board{
	{"Raspberry Pi 3 Model B", []string{"pi3"}, "bcm2837-rpi-3-b.dtb"},
	{"Raspberry Pi 3 Model B+", []string{"pi3", "pi3+"}, "bcm2837-rpi-3-b-plus.dtb"},
	{"Raspberry Pi 4 Model B", []string{"pi4"}, "bcm2711-rpi-4-b.dtb"},
}

// Trees lists the file names of all device trees.
func Trees() []string {
	var names []string
	for _, b := range Boards {
		names = append(names, b.Tree)
	}
	return names
}

// Names of files that we make.
const (
	Config    = "config.txt"
	CmdLine   = "cmdline.txt"
	AutoBoot  = "autoboot.txt"
	Kernel    = "kernel8.img"   // the kernel, compressed with gzip
	Initramfs = "initramfs.zst" // PID 1 and all else
	Licence   = "LICENCE.txt"   // of the vendor's firmware
	Notice    = "NOTICE.txt"    // what the card holds, and from where
)

// FirmwarePackage is the Debian package of the vendor's firmware, in the component
// non-free-firmware. Its files may be passed on unchanged for use with a Raspberry
// Pi, if the licence goes with them; the Wi-Fi chips' files in it have another
// licence and stay out.
const FirmwarePackage = "raspi-firmware"

// Paths in that package.
const (
	FirmwareFolder  = "usr/lib/raspi-firmware"
	FirmwareLicence = "usr/share/doc/raspi-firmware/copyright"
)

// BootFirmware are the vendor's files in the boot partition: the first program that
// the ROM of a Pi 3 loads, from the first partition and no other. A Pi 4 has it in
// a chip.
var BootFirmware = []string{"bootcode.bin"}

// SlotFirmware are the vendor's files in a slot: for Pi 3, and for Pi 4.
var SlotFirmware = []string{"start.elf", "fixup.dat", "start4.elf", "fixup4.dat"}

// TPMOverlay is the source of the device tree overlay that adds the TPM.
//
//go:embed tpm.dts
var TPMOverlay []byte

// Words is the kernel's command line. The serial line on the pins is ttyS1 with
// the kernel's own device trees, on Pi 3 and Pi 4 alike.
const Words = "console=ttyS1,115200 panic=-1 oops=panic quiet loglevel=1 slab_nomerge init_on_free=1 page_alloc.shuffle=1"

// CommandLine is cmdline.txt: one line. More words may be added, for a network of
// one's own or for development; the error says which word cannot be.
func CommandLine(more ...string) (string, error) {
	line := Words
	for _, word := range more {
		if word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", fmt.Errorf("%q cannot be a word of the kernel's command line", word)
		}
		line += " " + word
	}
	return line + "\n", nil
}

// ConfigText is config.txt of a slot. Comments have lines of their own: the
// firmware knows none behind a value.
func ConfigText() string {
	var b strings.Builder
	b.WriteString(`# What the board's firmware starts. Made by Hearth; see NOTICE.txt.
arm_64bit=1
# The kernel's own names of device trees, not the vendor's.
upstream_kernel=1
kernel=` + Kernel + `
initramfs ` + Initramfs + ` followkernel
enable_uart=1
disable_splash=1
boot_delay=0
`)
	// A later section wins, so a board's own comes after the one that it shares.
	for _, board := range Boards {
		fmt.Fprintf(&b, "[%s]\ndevice_tree=%s\n", board.Filters[len(board.Filters)-1], board.Tree)
	}
	return b.String()
}

// BootConfigText is config.txt of the boot partition. A Pi 3 does not look at
// autoboot.txt in a partition without one, and a Pi 5 takes it as the sign of a
// partition to boot from.
const BootConfigText = "# Everything is in the slot that autoboot.txt names.\n"

// AutoBootText is autoboot.txt: the partition to boot from, and the one to try once
// when a restart asks for it.
func AutoBootText(partition, try int) string {
	return fmt.Sprintf("[all]\ntryboot_a_b=1\nboot_partition=%d\n[tryboot]\nboot_partition=%d\n", partition, try)
}

// Select reads a file in the format of config.txt as a board does for which the
// given filters hold: key to value, the last one that applies. "initramfs NAME
// WHERE", which has no equals sign, becomes the key initramfs.
func Select(text string, filters ...string) map[string]string {
	values := make(map[string]string)
	applies := true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if filter, ok := strings.CutPrefix(line, "["); ok {
			filter, _, _ = strings.Cut(filter, "]")
			applies = filter == "all"
			for _, f := range filters {
				applies = applies || f == filter
			}
			continue
		}
		if !applies {
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok {
			values[strings.TrimSpace(key)] = strings.TrimSpace(value)
		} else if words := strings.Fields(line); len(words) > 1 && words[0] == "initramfs" {
			values["initramfs"] = words[1]
		}
	}
	return values
}
