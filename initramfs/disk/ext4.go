package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// Numbers of the file systems that Format makes.
const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize
)

// The superblock is 1024 bytes at byte 1024. The offsets in it and the meaning of
// the bits are the kernel's, fs/ext4/ext4.h.
const (
	superAt   = 1024
	superSize = 1024

	blocksAt       = 4
	blocksHighAt   = 336
	magicAt        = 56
	stateAt        = 58
	groupAt        = 90
	incompatAt     = 96
	roCompatAt     = 100
	labelAt        = 120
	errorCountAt   = 404
	errorTimeAt    = 408
	errorFuncAt    = 424
	checksumAt     = 1020
	magic          = 0xef53
	stateError     = 2
	needsRecovery  = 4
	metadataSums   = 0x400
	longestLabel   = 16
	longestErrFunc = 32
)

// Errors of Inspect and Repair.
var (
	ErrNone    = errors.New("no ext4 file system")
	ErrDamaged = errors.New("the superblock is damaged")
)

// State is what a superblock tells about its file system.
type State struct {
	Label   string
	Blocks  uint64 // of 4096 bytes, when Format made it
	Unclean bool   // was not unmounted; the kernel replays the journal when it mounts it
	// Errors says what the kernel found wrong with the file system, the first time;
	// "" when it never did. Only e2fsck can repair that, and writing may make it
	// worse.
	Errors string
}

// Inspect reads the superblock of a disk or partition. The error is ErrNone when
// there is none, ErrDamaged when its checksum does not hold.
func Inspect(disk io.ReaderAt) (State, error) {
	super := make([]byte, superSize)
	if _, err := disk.ReadAt(super, superAt); err != nil {
		if errors.Is(err, io.EOF) {
			return State{}, ErrNone
		}
		return State{}, err
	}
	if binary.LittleEndian.Uint16(super[magicAt:]) != magic {
		return State{}, ErrNone
	}
	if binary.LittleEndian.Uint32(super[roCompatAt:])&metadataSums != 0 && !summed(super) {
		return State{}, ErrDamaged
	}
	s := State{
		Label: text(super[labelAt : labelAt+longestLabel]),
		Blocks: uint64(binary.LittleEndian.Uint32(super[blocksAt:])) |
			uint64(binary.LittleEndian.Uint32(super[blocksHighAt:]))<<32,
		Unclean: binary.LittleEndian.Uint32(super[incompatAt:])&needsRecovery != 0,
	}
	count := binary.LittleEndian.Uint32(super[errorCountAt:])
	if count > 0 || binary.LittleEndian.Uint16(super[stateAt:])&stateError != 0 {
		first := time.Unix(int64(binary.LittleEndian.Uint32(super[errorTimeAt:])), 0).UTC()
		s.Errors = fmt.Sprintf("%d errors, the first on %s in %q", count, first.Format(time.DateTime),
			text(super[errorFuncAt:errorFuncAt+longestErrFunc]))
	}
	return s, nil
}

// copies are the groups that hold a copy of the superblock in every file system
// that is large enough: the first powers of 3, 5 and 7.
var copies = []int64{1, 3, 5, 7, 9, 25, 27, 49}

// Repair puts a copy of the superblock in place of a damaged one. The copy must
// have that label and a right checksum, so nothing happens to a partition that
// never was a file system of ours: the error is ErrNone then.
func Repair(disk interface {
	io.ReaderAt
	io.WriterAt
}, label string) error {
	super := make([]byte, superSize)
	for _, group := range copies {
		if _, err := disk.ReadAt(super, group*blocksPerGroup*blockSize); err != nil {
			continue // behind the end, or a place that cannot be read
		}
		if binary.LittleEndian.Uint16(super[magicAt:]) != magic || !summed(super) ||
			text(super[labelAt:labelAt+longestLabel]) != label {
			continue
		}
		// The kernel writes the copy's group here, go-diskfs does not.
		if in := int64(binary.LittleEndian.Uint16(super[groupAt:])); in != group && in != 0 {
			continue
		}
		binary.LittleEndian.PutUint16(super[groupAt:], 0)
		// A copy does not say whether there is something in the journal, and without
		// this bit the kernel would throw it away.
		incompat := binary.LittleEndian.Uint32(super[incompatAt:])
		binary.LittleEndian.PutUint32(super[incompatAt:], incompat|needsRecovery)
		binary.LittleEndian.PutUint32(super[checksumAt:], sum(super))
		_, err := disk.WriteAt(super, superAt)
		return err
	}
	return fmt.Errorf("%w labelled %s, and no copy of its superblock", ErrNone, label)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the checksum of a superblock: CRC-32C as everywhere, but not inverted at
// the end.
func sum(super []byte) uint32 { return ^crc32.Checksum(super[:checksumAt], castagnoli) }

func summed(super []byte) bool {
	return binary.LittleEndian.Uint32(super[checksumAt:]) == sum(super)
}

// text is a field that is filled up with zeros.
func text(field []byte) string {
	before, _, _ := bytes.Cut(field, []byte{0})
	return string(before)
}
