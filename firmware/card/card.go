// Package card is the layout of the appliance's SD card: four partitions in an old
// MBR table, which is what the ROM of a Raspberry Pi 3 can read.
//
//	1  boot   FAT32  the first program, and which slot to start
//	2  A      FAT32  firmware, kernel, initramfs, device trees
//	3  B      FAT32  the same once more, for updates
//	4  data   ext4   all that the appliance keeps; to the end of the card
//
// The image builder writes Table and fills the partitions. In the image the data
// partition is small and only says that it is Blank; the appliance lets it grow to
// the end of the card (Grow) and makes the file system there on its first start.
package card

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// SectorSize is the unit of the table, in bytes.
const SectorSize = 512

const mib = 1 << 20

// Partition is a partition of the card. Start and Size are in bytes.
type Partition struct {
	Name        string
	Start, Size int64
	Type        byte // of the MBR: 0x0c is FAT32, 0x83 Linux
}

// Numbers of the partitions, as the kernel and the firmware count them.
const (
	Boot = 1 + iota
	SlotA
	SlotB
	Data
)

// MaxSlot is how many bytes the files of a slot may have together.
const MaxSlot = 24 * mib

// Layout lists the partitions of the image. They begin at multiples of 4 MiB, which
// cards erase as one; the FAT partitions are just large enough to be FAT32 by the
// number of their clusters.
var Layout = [4]Partition{
	{"boot", 4 * mib, 40 * mib, 0x0c},
	{"A", 44 * mib, 64 * mib, 0x0c},
	{"B", 108 * mib, 64 * mib, 0x0c},
	{"data", 172 * mib, 4 * mib, 0x83},
}

// ImageSize is the size of the image, in bytes.
const ImageSize = 176 * mib

// signature is the disk identifier in the table, by which the appliance knows a
// card of its own. It is the same on all cards: it tells what a card is, not which.
const signature = 0x68746568 // "heth" on the disk

// Offsets in the first sector.
const (
	signatureAt = 440
	entriesAt   = 446
	magicAt     = 510
	entrySize   = 16
)

// Errors of Parse and Grow.
var (
	ErrForeign = errors.New("not a card of this appliance")
	ErrSmall   = errors.New("the card is smaller than its partitions")
)

// Table is the first sector of the image.
func Table() []byte {
	sector := make([]byte, SectorSize)
	binary.LittleEndian.PutUint32(sector[signatureAt:], signature)
	for i, p := range Layout {
		put(sector[entriesAt+i*entrySize:], p)
	}
	sector[magicAt], sector[magicAt+1] = 0x55, 0xaa
	return sector
}

// put writes an entry of the table. Nobody reads cylinders, heads and sectors any
// more; the values say "look at the other numbers".
func put(entry []byte, p Partition) {
	clear(entry[:entrySize])
	copy(entry[1:4], []byte{0xfe, 0xff, 0xff})
	copy(entry[5:8], []byte{0xfe, 0xff, 0xff})
	entry[4] = p.Type
	binary.LittleEndian.PutUint32(entry[8:], uint32(p.Start/SectorSize))
	binary.LittleEndian.PutUint32(entry[12:], uint32(p.Size/SectorSize))
}

// Parse reads the first sector of a card. The error is ErrForeign when it is not
// one that Table made, whatever the size of its data partition.
func Parse(sector []byte) ([4]Partition, error) {
	found := Layout
	if len(sector) < SectorSize || sector[magicAt] != 0x55 || sector[magicAt+1] != 0xaa ||
		binary.LittleEndian.Uint32(sector[signatureAt:]) != signature {
		return found, ErrForeign
	}
	for i := range found {
		entry := sector[entriesAt+i*entrySize:]
		p := Partition{
			Name: Layout[i].Name, Type: entry[4],
			Start: int64(binary.LittleEndian.Uint32(entry[8:])) * SectorSize,
			Size:  int64(binary.LittleEndian.Uint32(entry[12:])) * SectorSize,
		}
		if p.Type != Layout[i].Type || p.Start != Layout[i].Start ||
			i+1 != Data && p.Size != Layout[i].Size || p.Size < Layout[i].Size {
			return found, fmt.Errorf("%w: partition %d is of type %#x at %d, %d bytes", ErrForeign, i+1, p.Type, p.Start, p.Size)
		}
		found[i] = p
	}
	return found, nil
}

// Grow returns the first sector with a data partition that reaches to the end of a
// card of size bytes, in whole MiB and at most the 2 TiB that the table can say; and
// whether that is a change.
func Grow(sector []byte, size int64) (grown []byte, data Partition, changed bool, err error) {
	partitions, err := Parse(sector)
	if err != nil {
		return nil, data, false, err
	}
	data = partitions[Data-1]
	end := min(size, data.Start+int64(^uint32(0))*SectorSize) / mib * mib
	if end < data.Start+data.Size {
		return nil, data, false, fmt.Errorf("%w: %d bytes", ErrSmall, size)
	}
	if end == data.Start+data.Size {
		return sector, data, false, nil
	}
	data.Size = end - data.Start
	grown = bytes.Clone(sector)
	put(grown[entriesAt+(Data-1)*entrySize:], data)
	return grown, data, true, nil
}

// blank is what the first sector of a data partition says as long as there is no
// file system. ext4 leaves that sector alone, so it is taken away when the file
// system is complete.
const blank = "Hearth: nothing is kept here yet; the first start makes a file system.\n"

// Blank is the first sector of a data partition without a file system.
func Blank() []byte {
	sector := make([]byte, SectorSize)
	copy(sector, blank)
	return sector
}

// IsBlank tells whether the first sector of a partition is Blank's. Any other, an
// empty one too, may be what is left of somebody's data.
func IsBlank(sector []byte) bool { return bytes.Equal(sector, Blank()) }
