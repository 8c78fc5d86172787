// Package slot finds on an SD card what a given board starts from it, the way the
// board's own firmware does: from autoboot.txt in the boot partition to a slot, to
// its config.txt, to the files that are named there.
//
// An emulator without the vendor's firmware boots that, so that what runs is what is
// flashed; and the appliance measures it. Nothing is mounted, the file systems are
// only read.
package slot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"hearth/firmware/card"
	"hearth/firmware/pi"
)

// ErrNoBoot says that a board would not start from a card.
var ErrNoBoot = errors.New("the card does not start")

// Unused is how many bytes at the end of a partition its file system leaves alone:
// filling 64 MiB exactly, go-diskfs makes a table that is two entries short.
const Unused = 4096

// maxText bounds the text files that are read whole, in bytes.
const maxText = 64 << 10

// Slot is what a board starts from a card. It is good as long as the card is open.
type Slot struct {
	Partition               int    // its number on the card
	Kernel, Initramfs, Tree string // names of files
	CommandLine             string

	files *fat32.FileSystem
}

// Find follows the files of a card, or of an image of one. Filters are the sections
// of these files that hold for the board (see pi.Board), and "tryboot" for the one
// start that an update asks for. The error is ErrNoBoot.
func Find(disk *os.File, filters ...string) (*Slot, error) {
	sector := make([]byte, card.SectorSize)
	if _, err := disk.ReadAt(sector, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBoot, err)
	}
	partitions, err := card.Parse(sector)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBoot, err)
	}
	open := func(number int) (*Slot, error) {
		p := partitions[number-1]
		fs, err := fat32.Read(file.New(disk, true), p.Size-Unused, p.Start, card.SectorSize)
		if err != nil {
			return nil, fmt.Errorf("%w: partition %d: %w", ErrNoBoot, number, err)
		}
		return &Slot{Partition: number, files: fs}, nil
	}

	boot, err := open(card.Boot)
	if err != nil {
		return nil, err
	}
	first, err := boot.text(pi.AutoBoot)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(pi.Select(first, filters...)["boot_partition"])
	if err != nil || number < card.SlotA || number > card.SlotB {
		return nil, fmt.Errorf("%w: %s names no slot", ErrNoBoot, pi.AutoBoot)
	}
	s, err := open(number)
	if err != nil {
		return nil, err
	}
	text, err := s.text(pi.Config)
	if err != nil {
		return nil, err
	}
	config := pi.Select(text, filters...)
	for key, into := range map[string]*string{"kernel": &s.Kernel, "initramfs": &s.Initramfs, "device_tree": &s.Tree} {
		if *into = config[key]; *into == "" {
			return nil, fmt.Errorf("%w: %s says nothing about %s for this board", ErrNoBoot, pi.Config, key)
		}
	}
	line, err := s.text(pi.CmdLine)
	if err != nil {
		return nil, err
	}
	s.CommandLine = strings.TrimSpace(line)
	return s, nil
}

// Copy writes a file of the slot to w.
func (s *Slot) Copy(w io.Writer, name string) error {
	f, err := s.files.OpenFile("/"+name, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("%w: %s in partition %d: %w", ErrNoBoot, name, s.Partition, err)
	}
	defer f.Close()
	if _, err := io.Copy(w, f); err != nil {
		return fmt.Errorf("%w: %s in partition %d: %w", ErrNoBoot, name, s.Partition, err)
	}
	return nil
}

// Digest is the SHA-256 of a file of the slot.
func (s *Slot) Digest(name string) (digest [sha256.Size]byte, err error) {
	h := sha256.New()
	if err := s.Copy(h, name); err != nil {
		return digest, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// text reads a short file.
func (s *Slot) text(name string) (string, error) {
	var b limited
	if err := s.Copy(&b, name); err != nil {
		return "", err
	}
	return b.String(), nil
}

// limited takes maxText bytes and no more.
type limited struct{ strings.Builder }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxText {
		return 0, fmt.Errorf("more than %d bytes", maxText)
	}
	return l.Builder.Write(p)
}
