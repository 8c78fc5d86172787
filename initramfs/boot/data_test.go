package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// superblock is the start of a disk with an ext4 file system of that label.
func superblock(label string) []byte {
	disk := make([]byte, 2048)
	binary.LittleEndian.PutUint16(disk[1024+56:], 0xef53)
	copy(disk[1024+120:1024+136], label)
	return disk
}

func TestTheDataDiskIsFoundByItsLabel(t *testing.T) {
	for _, c := range []struct {
		name  string
		disks map[string][]byte
		want  string
		err   error
	}{
		{name: "no disk at all", err: ErrNoData},
		{name: "the only disk", disks: map[string][]byte{"vda": superblock(DataLabel)}, want: "vda"},
		{name: "a partition among others", want: "mmcblk0p3", disks: map[string][]byte{
			"mmcblk0": make([]byte, 4096), "mmcblk0p1": superblock("boot"), "mmcblk0p3": superblock(DataLabel),
		}},
		{name: "a label that only begins the same", err: ErrNoData, disks: map[string][]byte{"vda": superblock(DataLabel + "2")}},
		{name: "an empty card reader and a tiny disk", err: ErrNoData, disks: map[string][]byte{"sda": {}, "sdb": make([]byte, 1100)}},
		{name: "the label without a file system", err: ErrNoData, disks: map[string][]byte{"sda": bytes.ReplaceAll(superblock(DataLabel), []byte{0x53, 0xef}, []byte{0, 0})}},
		{name: "a loop device does not count", err: ErrNoData, disks: map[string][]byte{"loop0": superblock(DataLabel)}},
		{name: "two of them", err: ErrManyData, disks: map[string][]byte{"sda": superblock(DataLabel), "sdb": superblock(DataLabel)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sysfs, dev := t.TempDir(), t.TempDir()
			for name, content := range c.disks {
				if err := os.Mkdir(filepath.Join(sysfs, name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dev, name), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			os.Mkdir(filepath.Join(sysfs, "sr0"), 0o755) // no medium: its device does not open
			got, err := findLabel(sysfs, dev, DataLabel)
			if !errors.Is(err, c.err) || (c.err == nil && got != filepath.Join(dev, c.want)) {
				t.Errorf("got %q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func FuzzExt4Label(f *testing.F) {
	f.Add(superblock(DataLabel))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, disk []byte) {
		if label := ext4Label(bytes.NewReader(disk)); len(label) > 16 || strings.Contains(label, "\x00") {
			t.Errorf("label %q", label)
		}
	})
}
