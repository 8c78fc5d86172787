// Command image makes the image of an SD card for Raspberry Pi boards, or the kernel
// and the initramfs of an emulated machine, and prints where they are, how big they
// are, their SHA-256, and what to do with them.
//
//	go run ./build/cmd/image -target pi
//	go run ./build/cmd/image -target pi -append "hearth.public=192.0.2.7:22021"
//	go run ./build/cmd/image -target virt-arm64 -out out
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"hearth/build/emulator"
	"hearth/build/image"
	"hearth/build/kernel"
	"hearth/build/sdcard"
	"hearth/firmware/card"
	"hearth/firmware/pi"
	"hearth/initramfs/boot"
	"hearth/initramfs/disk"
)

// raspberryPi is the target that has an SD card.
const raspberryPi = "pi"

func main() {
	target := flag.String("target", raspberryPi, "what to build for: pi, amd64 or virt-arm64")
	out := flag.String("out", "out", "folder for the result")
	source := flag.String("source", ".", "folder of the source code")
	words := flag.String("append", "", "words to add to the kernel's command line on the SD card")
	genesis := flag.String("genesis", "", "the genesis `FILE` of a ledger that the image's nodes take part in; on a virtual machine hearth.ledger="+boot.GenesisFile+" switches it on")
	jobs := flag.Int("jobs", runtime.NumCPU(), "compilers to run at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cache, err := kernel.CacheDir()
	if err == nil {
		switch emulated := emulator.Target(*target); {
		case *target == raspberryPi || emulated == emulator.RaspberryPi3:
			err = makeCard(ctx, sdcard.Options{
				Source: *source, Output: filepath.Join(*out, "hearth-pi.img"), Cache: cache, Jobs: *jobs,
				Words: ledgerWords(*genesis, *words), Genesis: *genesis, Progress: os.Stderr,
			})
		case *words != "":
			err = fmt.Errorf("-append: only the SD card keeps a command line")
		case slices.Contains(emulator.Targets, emulated):
			err = makeParts(ctx, emulated, *source, *out, *genesis, cache, *jobs)
		default:
			err = fmt.Errorf("unknown target %q: use %s or one of %v", *target, raspberryPi, emulator.Targets)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// flashing tells how the image gets onto a card. Its arguments are the image's path
// and the least size of a card in MiB.
const flashing = `
To write it to an SD card of %[2]d MiB or more, which loses what is on it:
    Raspberry Pi Imager   choose your board, "Use custom" as operating system, this file,
                          your card, and no to its own settings
    Linux                 find the card's name with lsblk, before and after putting it in, then
                          sudo dd if=%[1]s of=/dev/NAME bs=4M conv=fsync status=progress
The first start gives the rest of the card to the data and makes a file system there.
The console is on pins 8 and 10 (GPIO 14 and 15), 115200 baud, 3.3 volts; the device
needs Ethernet and a TPM with SPI at the second chip select.
`

// ledgerWords are the words for the command line; an image with a genesis uses it.
func ledgerWords(genesis, words string) []string {
	all := strings.Fields(words)
	if genesis != "" {
		all = append([]string{"hearth.ledger=" + boot.GenesisFile}, all...) // a later word wins
	}
	return all
}

func makeCard(ctx context.Context, o sdcard.Options) error {
	made, err := sdcard.Build(ctx, o)
	if err != nil {
		return err
	}
	var boards []string
	for _, b := range pi.Boards {
		boards = append(boards, strings.TrimPrefix(b.Name, "Raspberry Pi "))
	}
	fmt.Printf("sd card    %s, for Raspberry Pi %s\n           %d bytes, of them %d in each slot\n           sha256 %s\n",
		made.Path, strings.Join(boards, ", "), made.Size, made.Slot, made.SHA256)
	if err := printKernel(made.Kernel); err != nil {
		return err
	}
	fmt.Printf("initramfs  %d bytes, %d before compression\n           sha256 %s\nfirmware   %s\n",
		made.Initramfs.Compressed, made.Initramfs.Raw, made.Initramfs.SHA256, made.Firmware)
	fmt.Printf(flashing, made.Path, (card.Layout[card.Data-1].Start+disk.Smallest)>>20)
	return nil
}

func makeParts(ctx context.Context, target emulator.Target, source, out, genesis, cache string, jobs int) error {
	k, err := kernel.For(ctx, target.Arch(), cache, jobs, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "image: compiling and packing the initramfs")
	initramfs, err := image.Build(ctx, image.Options{
		Source: source, Arch: target.Arch(), Modules: k.Modules,
		Output: filepath.Join(out, "initramfs-"+string(target)+".zst"), Genesis: genesis,
	})
	if err != nil {
		return err
	}
	if err := printKernel(k); err != nil {
		return err
	}
	fmt.Printf("initramfs  %s\n           %d bytes, %d before compression\n           sha256 %s\n",
		initramfs.Path, initramfs.Compressed, initramfs.Raw, initramfs.SHA256)
	return nil
}

func printKernel(k kernel.Kernel) error {
	content, err := os.ReadFile(k.Image)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	fmt.Printf("kernel     %s\n           %s, %d bytes\n           sha256 %s\n", k.Image, k.Source, len(content), hex.EncodeToString(sum[:]))
	return nil
}
