package emulator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hearth/initramfs/boot"
	"hearth/initramfs/disk"
)

// NewDisk makes a data disk of the given size in MiB, at least 64: an empty ext4
// file system with the label that the appliance looks for, which the appliance lets
// grow to the end of the disk. The file is sparse, an empty disk takes about ten
// megabytes. An existing file is left as it is.
func NewDisk(path string, mebibytes int) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
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
	size := int64(mebibytes) << 20
	if err := tmp.Truncate(size); err != nil {
		return err
	}
	if err := disk.Format(tmp, size, boot.DataLabel); err != nil {
		return fmt.Errorf("make data disk: %w", err)
	}
	return os.Rename(tmp.Name(), path)
}
