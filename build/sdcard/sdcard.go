// Package sdcard makes the image of an SD card for Raspberry Pi boards, and reads
// such a card as a board would.
//
// Build gathers everything: our kernel and its device trees, the initramfs, the
// vendor's firmware from Debian's package; it merges the TPM into the trees, and
// Write lays it all out as firmware/card says. Nothing needs root, no file system
// is mounted, and the same inputs give the same bytes: NOTICE.txt on the card says
// which they were.
//
// Flash writes an image to a card that may be in use already, Extract takes out of
// one what a given board would start.
package sdcard

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"hearth/build/debian"
	"hearth/build/image"
	"hearth/build/kernel"
	"hearth/firmware/card"
	"hearth/firmware/pi"
	"hearth/initramfs/boot"
)

// Options says what to build.
type Options struct {
	Source   string    // folder of the Go module
	Output   string    // path of the image to write
	Cache    string    // folder of kernels and packages, see kernel.CacheDir
	Jobs     int       // compilers to run at a time, 0 = one for each processor
	Words    []string  // added to the kernel's command line
	Genesis  string    // of a ledger, see image.Options
	Tags     string    // build tags of the program, see image.Options
	Progress io.Writer // lines for people
}

// Image is a finished image.
type Image struct {
	Path      string
	Size      int64  // bytes
	SHA256    string // lower-case hex
	Slot      int64  // bytes of the files of a slot
	Kernel    kernel.Kernel
	Initramfs image.Initramfs // its Path is gone: it is in the image
	Firmware  debian.Package
}

// firmware is where the vendor's files come from: the release of Debian whose
// package knows all boards that we do.
var firmware = debian.Archive{Suite: "trixie", Component: "non-free-firmware"}

// Build makes the image.
func Build(ctx context.Context, o Options) (Image, error) {
	k, err := kernel.Arm64(ctx, o.Cache, cmp.Or(o.Jobs, runtime.NumCPU()), o.Progress)
	if err != nil {
		return Image{}, err
	}
	if err := os.MkdirAll(filepath.Dir(o.Output), 0o755); err != nil {
		return Image{}, err
	}
	work, err := os.MkdirTemp(filepath.Dir(o.Output), ".card-")
	if err != nil {
		return Image{}, err
	}
	defer os.RemoveAll(work)
	made := Image{Path: o.Output, Size: card.ImageSize, Kernel: k}

	fmt.Fprintln(o.Progress, "image: compiling and packing the initramfs")
	made.Initramfs, err = image.Build(ctx, image.Options{
		Source: o.Source, Arch: "arm64", Output: filepath.Join(work, pi.Initramfs), Genesis: o.Genesis, Tags: o.Tags,
	})
	if err != nil {
		return Image{}, err
	}
	var vendor func(path string) ([]byte, error)
	if made.Firmware, vendor, err = unpackFirmware(ctx, o.Cache, work); err != nil {
		return Image{}, err
	}
	c := Contents{Boot: make(map[string][]byte), Slot: make(map[string][]byte)}
	if c.Slot[pi.Initramfs], err = os.ReadFile(made.Initramfs.Path); err != nil {
		return Image{}, err
	}
	if c.Slot[pi.Kernel], err = compress(k.Image); err != nil {
		return Image{}, err
	}
	for _, name := range pi.Trees() {
		if c.Slot[name], err = withTPM(ctx, filepath.Join(k.Trees, name), work); err != nil {
			return Image{}, err
		}
	}
	line, err := pi.CommandLine(o.Words...)
	if err != nil {
		return Image{}, err
	}
	c.Slot[pi.CmdLine], c.Slot[pi.Config] = []byte(line), []byte(pi.ConfigText())
	c.Boot[pi.AutoBoot] = []byte(pi.AutoBootText(card.SlotA, card.SlotB))
	c.Boot[pi.Config] = []byte(pi.BootConfigText)
	for _, part := range []struct {
		files map[string][]byte
		names []string
	}{{c.Boot, pi.BootFirmware}, {c.Slot, pi.SlotFirmware}} {
		for _, name := range part.names {
			if part.files[name], err = vendor(filepath.Join(pi.FirmwareFolder, name)); err != nil {
				return Image{}, err
			}
		}
		if part.files[pi.Licence], err = vendor(pi.FirmwareLicence); err != nil {
			return Image{}, err
		}
		part.files[pi.Notice] = made.notice()
	}
	made.Slot = c.slotSize()

	tmp := filepath.Join(work, "card.img")
	if err := Write(tmp, c); err != nil {
		return Image{}, err
	}
	if made.SHA256, err = digest(tmp); err != nil {
		return Image{}, err
	}
	return made, os.Rename(tmp, o.Output)
}

// notice tells whoever finds the card what is on it.
func (i Image) notice() []byte {
	return fmt.Appendf(nil, `Hearth %s, a service node and messenger, on the SD card of a Raspberry Pi.

kernel     %s of Debian,
           GNU General Public License version 2, configured and compiled by build/kernel
firmware   %s of %s,
           unchanged, for use with a Raspberry Pi only; its licence is in %s
program    Hearth, BSD licence, compiled by %s;
           initramfs sha256 %s

The third partition holds what the second does, for updates. The fourth belongs to
whoever uses the device.
`, boot.Version, i.Kernel.Source, i.Firmware, firmware, pi.Licence, runtime.Version(), i.Initramfs.SHA256)
}

// unpackFirmware gets the vendor's package and returns what reads its files.
func unpackFirmware(ctx context.Context, cache, work string) (debian.Package, func(path string) ([]byte, error), error) {
	p, deb, err := firmware.Get(ctx, pi.FirmwarePackage, filepath.Join(cache, "packages"))
	if err != nil {
		return p, nil, fmt.Errorf("firmware of the boards: %w", err)
	}
	dir := filepath.Join(work, "firmware")
	if err := debian.Unpack(ctx, deb, dir); err != nil {
		return p, nil, fmt.Errorf("firmware of the boards: %w", err)
	}
	return p, func(path string) ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return nil, fmt.Errorf("firmware of the boards, %s: %w", p, err)
		}
		return b, nil
	}, nil
}

// withTPM merges the overlay of the TPM into a device tree. The card has no
// overlays of its own: one file to read, to measure and to sign.
func withTPM(ctx context.Context, tree, work string) ([]byte, error) {
	source, overlay := filepath.Join(work, "tpm.dts"), filepath.Join(work, "tpm.dtbo")
	if err := os.WriteFile(source, pi.TPMOverlay, 0o644); err != nil {
		return nil, err
	}
	merged := filepath.Join(work, filepath.Base(tree))
	for _, command := range [][]string{
		{"dtc", "-q", "-@", "-I", "dts", "-O", "dtb", "-o", overlay, source},
		{"fdtoverlay", "-i", tree, "-o", merged, overlay},
	} {
		out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("%s is not installed; run: make deps", command[0])
		}
		if err != nil {
			return nil, fmt.Errorf("add the TPM to %s: %s: %w\n%s", filepath.Base(tree), command[0], err, out)
		}
	}
	content, err := os.ReadFile(merged)
	if err == nil && !bytes.Contains(content, []byte("tcg,tpm_tis-spi")) {
		err = fmt.Errorf("add the TPM to %s: it is not there", filepath.Base(tree))
	}
	return content, err
}

// compress packs a kernel. The boards' firmware knows gzip, and the header says
// nothing about when or where.
func compress(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// digest is the SHA-256 of a file.
func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
