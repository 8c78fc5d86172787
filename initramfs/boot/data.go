package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DataLabel is the file system label of the partition, or whole disk, that
	// holds everything the appliance keeps.
	DataLabel = "hearth-data"
	// DataFolder is where it is mounted.
	DataFolder = "/data"
)

// Errors of the data stage.
var (
	ErrNoData   = errors.New("no disk or partition with an ext4 file system labelled " + DataLabel)
	ErrManyData = errors.New("more than one file system is labelled " + DataLabel)
)

// mountData finds and mounts the data partition and makes the services' folders.
func mountData(ctx context.Context, say Say) error {
	var device string
	var err error
	// SD cards and USB disks appear seconds after the kernel has started us.
	poll(ctx, 15*time.Second, func() bool {
		device, err = findLabel("/sys/class/block", "/dev", DataLabel)
		return !errors.Is(err, ErrNoData)
	})
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err() // the appliance is being switched off
	}
	if err := unix.Mount(device, DataFolder, "ext4", sealed|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	say("%s at %s", device, DataFolder)
	// Services may pass through the top folder, not list it.
	if err := os.Chmod(DataFolder, 0o711); err != nil {
		return err
	}
	for _, r := range storing {
		folder := filepath.Join(DataFolder, r.name)
		if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chown(folder, int(r.uid), int(r.uid)); err != nil {
			return err
		}
		if err := os.Chmod(folder, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// findLabel returns the device file of the one block device with that label. It
// goes by what is on the disk: the kernel's names depend on the order in which
// drivers find their hardware.
func findLabel(sysfs, dev, label string) (string, error) {
	entries, err := os.ReadDir(sysfs)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "loop") || strings.HasPrefix(e.Name(), "ram") {
			continue
		}
		path := filepath.Join(dev, e.Name())
		f, err := os.Open(path)
		if err != nil {
			continue // an empty card reader, for example
		}
		if ext4Label(f) == label {
			found = append(found, path)
		}
		f.Close()
	}
	switch len(found) {
	case 0:
		return "", ErrNoData
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%w: %s", ErrManyData, strings.Join(found, ", "))
}

// ext4Label reads the label of an ext2, ext3 or ext4 file system, "" when there is
// none. The superblock starts at byte 1024; in it, the magic number is at byte 56
// and the label at byte 120, 16 bytes filled up with zeros.
func ext4Label(disk io.ReaderAt) string {
	var super [136]byte
	if _, err := disk.ReadAt(super[:], 1024); err != nil {
		return ""
	}
	if binary.LittleEndian.Uint16(super[56:]) != 0xef53 {
		return ""
	}
	label, _, _ := bytes.Cut(super[120:136], []byte{0})
	return string(label)
}
