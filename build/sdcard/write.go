package sdcard

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"hearth/firmware/card"
	"hearth/firmware/slot"
)

// Contents are the files of a card, by name. There are no folders: the boot
// partitions are flat.
type Contents struct {
	Boot map[string][]byte // of the boot partition
	Slot map[string][]byte // of slot A, and of slot B
}

// Errors of Write: the files of a slot are more than card.MaxSlot bytes; a file has
// none, which is a mistake of whoever gathered them.
var (
	ErrLarge = errors.New("the slot is too large")
	ErrEmpty = errors.New("the file is empty")
)

func (c Contents) slotSize() (n int64) {
	for _, content := range c.Slot {
		n += int64(len(content))
	}
	return n
}

// Write makes an image at path with these files, and a blank data partition. The
// file is sparse. The same contents give the same bytes.
func Write(path string, c Contents) error {
	if n := c.slotSize(); n > card.MaxSlot {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrLarge, n, card.MaxSlot)
	}
	defer fixTime()()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(card.ImageSize); err != nil {
		return err
	}
	if _, err := f.WriteAt(card.Table(), 0); err != nil {
		return err
	}
	disk := file.New(f, false)
	for i, files := range []map[string][]byte{c.Boot, c.Slot, c.Slot} {
		p := card.Layout[i]
		if err := writeFAT(disk, p, files); err != nil {
			return fmt.Errorf("partition %s: %w", p.Name, err)
		}
	}
	if _, err := f.WriteAt(card.Blank(), card.Layout[card.Data-1].Start); err != nil {
		return err
	}
	return f.Close()
}

// made is when all files on a card were made: at the start of 2026, like the kernel.
const made = "1767225600"

// fixTime makes go-diskfs give that time to files and labels, for which it has no
// other means than the variable of reproducible-builds.org. The function that it
// returns puts the variable back.
func fixTime() (restore func()) {
	const variable = "SOURCE_DATE_EPOCH"
	before, set := os.LookupEnv(variable)
	os.Setenv(variable, made)
	return func() {
		if set {
			os.Setenv(variable, before)
		} else {
			os.Unsetenv(variable)
		}
	}
}

func writeFAT(disk backend.Storage, p card.Partition, files map[string][]byte) error {
	fs, err := fat32.Create(disk, p.Size-slot.Unused, p.Start, card.SectorSize, strings.ToUpper("HEARTH-"+p.Name), true)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if len(files[name]) == 0 {
			return fmt.Errorf("%s: %w", name, ErrEmpty)
		}
		f, err := fs.OpenFile("/"+name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		n, err := f.Write(files[name])
		if err == nil && n != len(files[name]) {
			err = io.ErrShortWrite
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return fs.Close()
}

// Flash brings a card up to date: it writes the boot partition and the slots of an
// image to it, and leaves its table and its data alone. A card that does not exist,
// or is no card of ours, becomes a copy of the image with size bytes, at least
// card.ImageSize.
func Flash(image, path string, size int64) error {
	from, err := os.Open(image)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	first := make([]byte, card.SectorSize)
	_, err = to.ReadAt(first, 0)
	if err == nil {
		_, err = card.Parse(first)
	}
	end := card.Layout[card.Data-1].Start
	if err != nil {
		if size < card.ImageSize {
			return fmt.Errorf("a card of %d bytes: %w", size, card.ErrSmall)
		}
		if err := errors.Join(to.Truncate(0), to.Truncate(size)); err != nil {
			return err
		}
		if err := copyRange(to, from, 0, card.Layout[0].Start); err != nil {
			return err
		}
		end = card.ImageSize
	}
	if err := copyRange(to, from, card.Layout[0].Start, end); err != nil {
		return err
	}
	return to.Close()
}

// copyRange copies the bytes from start to end. Where both have only zeros, nothing
// is written, so that a sparse file stays one.
func copyRange(to, from *os.File, start, end int64) error {
	const step = 1 << 20
	source, target := make([]byte, step), make([]byte, step)
	for at := start; at < end; at += step {
		n := min(step, end-at)
		if _, err := from.ReadAt(source[:n], at); err != nil {
			return err
		}
		if _, err := to.ReadAt(target[:n], at); err == nil && slices.Equal(source[:n], target[:n]) {
			continue
		}
		if _, err := to.WriteAt(source[:n], at); err != nil {
			return err
		}
	}
	return nil
}
