package emulator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/ext4"

	"hearth/initramfs/boot"
)

// NewDisk makes a data disk of the given size in MiB, 64 to 1024: an empty ext4
// file system with the label that the appliance looks for. The file is sparse,
// an empty disk takes about a megabyte. An existing file is left as it is.
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
	features := []ext4.FeatureOpt{}
	if mebibytes < 256 {
		// The library's reserved blocks for growing do not fit a small disk.
		features = append(features, ext4.WithFeatureReservedGDTBlocksForExpansion(false))
	}
	disk, err := ext4.Create(file.New(tmp, false), size, 0, 512, &ext4.Params{
		VolumeName:      boot.DataLabel,
		SectorsPerBlock: 8, // 4096-byte blocks
		Features:        features,
	})
	if err != nil {
		return fmt.Errorf("make data disk: %w", err)
	}
	if err := disk.Close(); err != nil {
		return fmt.Errorf("make data disk: %w", err)
	}
	return os.Rename(tmp.Name(), path)
}
