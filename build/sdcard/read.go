package sdcard

import (
	"os"
	"path/filepath"

	"hearth/firmware/slot"
)

// Boot are the parts of a card that a board starts, as an emulator wants them.
type Boot struct {
	Kernel, Initramfs, Tree string // paths
	CommandLine             string
}

// Extract takes out of a card, or an image of one, what a board with these filters
// starts (see slot.Find), and writes it into a folder.
func Extract(path, dir string, filters ...string) (Boot, error) {
	f, err := os.Open(path)
	if err != nil {
		return Boot{}, err
	}
	defer f.Close()
	s, err := slot.Find(f, filters...)
	if err != nil {
		return Boot{}, err
	}
	b := Boot{CommandLine: s.CommandLine}
	for _, part := range []struct {
		name string
		into *string
	}{{s.Kernel, &b.Kernel}, {s.Initramfs, &b.Initramfs}, {s.Tree, &b.Tree}} {
		*part.into = filepath.Join(dir, filepath.Base(part.name))
		to, err := os.Create(*part.into)
		if err != nil {
			return b, err
		}
		defer to.Close()
		if err := s.Copy(to, part.name); err != nil {
			return b, err
		}
		if err := to.Close(); err != nil {
			return b, err
		}
	}
	return b, nil
}
