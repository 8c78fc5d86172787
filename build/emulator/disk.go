package emulator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hearth/firmware/card"
	"hearth/initramfs/disk"
)

// NewDisk makes a data disk of the given size in MiB, at least 64, that says that
// nothing is kept on it yet: the appliance makes its file system at the first start,
// encrypted when there is a TPM. The file is sparse. An existing file is left as it
// is.
func NewDisk(path string, mebibytes int) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if size := int64(mebibytes) << 20; size < disk.Smallest {
		return fmt.Errorf("make data disk: %w: %d MiB", disk.ErrSmall, mebibytes)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".disk-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := tmp.Truncate(int64(mebibytes) << 20); err != nil {
		return err
	}
	if _, err := tmp.WriteAt(card.Blank(), 0); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
