// Package disk makes, checks and enlarges the file system that holds everything
// the appliance keeps.
//
// On an SD card a start goes: GrowPartition, when the card is larger than its
// table says; Format, when the partition is blank; Inspect, and Repair when the
// superblock is damaged; then the kernel mounts it and replays its journal, and
// GrowFileSystem tells it about room that it does not use yet. Each step can be cut
// off at any moment and is done again at the next start.
//
// The file system is ext4 with checksums on all its metadata, so that a card that
// forgets is noticed. What needs e2fsck is not repaired here: the file system is
// then used read-only, see State.Errors.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/ext4"
	"golang.org/x/sys/unix"

	"hearth/firmware/card"
)

const (
	mib = 1 << 20

	// Smallest is the least size of a partition, in bytes: room for a journal and
	// a service node's first messages, and for the header of encrypted data.
	Smallest = 64 * mib
	// initial is how much of a partition Format takes, in bytes. The kernel adds
	// the rest in a moment and without writing much; making it here would write
	// megabytes of empty tables for every gigabyte.
	initial = 256 * mib
)

// ErrSmall says that a partition has no room for the file system.
var ErrSmall = errors.New("too small for the data of the appliance")

// Format makes an empty ext4 file system at the start of a disk or partition of
// size bytes, at least 63 MiB, and waits until it is written. It takes 256 MiB at
// most, see GrowFileSystem. The file may be sparse: about 10 MB are written.
func Format(disk *os.File, size int64, label string) error {
	if least := int64(Smallest - Payload); size < least {
		return fmt.Errorf("%w: it has %d MiB, and must have %d", ErrSmall, size/mib, least/mib)
	}
	made, err := ext4.Create(file.New(disk, false), min(size, initial), 0, 512, &ext4.Params{
		VolumeName:      label,
		SectorsPerBlock: blockSize / 512,
		InodeRatio:      32 << 10, // a file for every 32 KiB
		Features: []ext4.FeatureOpt{
			// The library's reserved blocks for growing do not fit a small disk; the
			// kernel grows a file system without them as well.
			ext4.WithFeatureReservedGDTBlocksForExpansion(false),
			ext4.WithFeatureMetadataChecksums(true),
		},
	})
	if err != nil {
		return fmt.Errorf("make file system: %w", err)
	}
	if err := made.Close(); err != nil {
		return fmt.Errorf("make file system: %w", err)
	}
	return disk.Sync()
}

// Size is the number of bytes of a disk, partition or file.
func Size(disk *os.File) (int64, error) { return disk.Seek(0, io.SeekEnd) }

// GrowPartition lets the data partition of a card reach to the end of the card, in
// the table on the card and in the kernel's, also while others of its partitions
// are in use. It reports whether that was a change. The error is card.ErrForeign
// when the disk is no card of ours.
func GrowPartition(disk *os.File) (changed bool, err error) {
	size, err := Size(disk)
	if err != nil {
		return false, err
	}
	sector := make([]byte, card.SectorSize)
	if _, err := disk.ReadAt(sector, 0); err != nil {
		return false, err
	}
	grown, data, changed, err := card.Grow(sector, size)
	if err != nil || !changed {
		return false, err
	}
	if _, err := disk.WriteAt(grown, 0); err != nil {
		return false, fmt.Errorf("write partition table: %w", err)
	}
	if err := disk.Sync(); err != nil {
		return false, fmt.Errorf("write partition table: %w", err)
	}
	partition := unix.BlkpgPartition{Start: data.Start, Length: data.Size, Pno: card.Data}
	argument := unix.BlkpgIoctlArg{
		Op: unix.BLKPG_RESIZE_PARTITION, Datalen: int32(unsafe.Sizeof(partition)), Data: (*byte)(unsafe.Pointer(&partition)),
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&argument))); errno != 0 {
		return true, fmt.Errorf("tell the kernel about the larger partition: %w", errno)
	}
	return true, nil
}

// resizeFS is the kernel's EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64).
const resizeFS = 0x40086610

// GrowFileSystem lets a mounted ext4 file system, whose superblock says blocks
// blocks, use a device of size bytes. It reports whether there was anything to
// gain. The kernel does it in its journal: a power cut leaves the old size or the
// new one.
func GrowFileSystem(folder string, blocks uint64, size int64) (changed bool, err error) {
	want := uint64(size / blockSize)
	// The kernel drops a last group that is too small for its own tables; asking
	// again at every start for a few megabytes gains nothing.
	if want < blocks+blocksPerGroup/4 {
		return false, nil
	}
	f, err := os.Open(folder)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), resizeFS, uintptr(unsafe.Pointer(&want))); errno != 0 {
		return false, fmt.Errorf("enlarge file system: %w", errno)
	}
	return true, nil
}
