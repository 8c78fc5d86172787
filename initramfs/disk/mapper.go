package disk

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's device mapper turns an encrypted partition into a disk that can be
// used as any other. It is driven by ioctls on one control file; the numbers and the
// layout of struct dm_ioctl are those of include/uapi/linux/dm-ioctl.h.
const (
	mapperControl = "/dev/mapper/control"

	mapperCreate = 0xc138fd03
	mapperRemove = 0xc138fd04
	mapperResume = 0xc138fd06 // DM_DEV_SUSPEND without the flag to suspend
	mapperLoad   = 0xc138fd09

	secureData = 1 << 15 // the kernel overwrites its copy of the arguments

	structSize = 312
	targetSize = 40
	sector     = 512
	cryptBlock = 4096 // is encrypted as one
)

// Offsets in struct dm_ioctl and struct dm_target_spec.
const (
	mapperSizeAt    = 12
	mapperStartAt   = 16
	mapperTargetsAt = 20
	mapperFlagsAt   = 28
	mapperDeviceAt  = 40
	mapperNameAt    = 48
	mapperNameSize  = 128

	targetLengthAt = 8
	targetTypeAt   = 24
)

// ErrMapper says that this kernel cannot encrypt.
var ErrMapper = errors.New("the kernel has no device mapper with dm-crypt")

// Open makes the disk behind a partition of encrypted data appear, and returns its
// device file. A wrong key is not noticed here: what appears is noise then. The key
// stays in the kernel until Close.
func Open(partition *os.File, name string, c Cipher, key []byte) (device string, err error) {
	if len(key) != c.KeySize() {
		return "", fmt.Errorf("encrypted data: a key for %s has %d bytes, not %d", c, c.KeySize(), len(key))
	}
	size, err := Size(partition)
	if err != nil {
		return "", err
	}
	length := (size - Payload) / cryptBlock * cryptBlock
	if length <= 0 {
		return "", ErrSmall
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(partition.Fd()), &stat); err != nil {
		return "", err
	}
	control, err := os.OpenFile(mapperControl, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrMapper, err)
	}
	defer control.Close()

	answer, err := mapper(control, mapperCreate, name, nil)
	if err != nil {
		return "", fmt.Errorf("encrypted data: make the device: %w", err)
	}
	defer func() {
		if err != nil {
			_, _ = mapper(control, mapperRemove, name, nil)
		}
	}()
	target := cryptTarget(c, key, uint64(length/sector), unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
	defer clear(target)
	if _, err = mapper(control, mapperLoad, name, target); err != nil {
		return "", fmt.Errorf("encrypted data with %s: %w", c, err)
	}
	if _, err = mapper(control, mapperResume, name, nil); err != nil {
		return "", fmt.Errorf("encrypted data: start the device: %w", err)
	}
	number := binary.NativeEndian.Uint64(answer[mapperDeviceAt:])
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(number)), nil
}

// Close lets the disk behind encrypted data disappear, and the kernel forget the
// key. It must not be in use.
func Close(name string) error {
	control, err := os.OpenFile(mapperControl, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMapper, err)
	}
	defer control.Close()
	if _, err := mapper(control, mapperRemove, name, nil); err != nil {
		return fmt.Errorf("encrypted data: close the device: %w", err)
	}
	return nil
}

// cryptTarget is a dm_target_spec with its parameters: everything behind the header
// of a partition, sectors sectors of 512 bytes.
func cryptTarget(c Cipher, key []byte, sectors uint64, major, minor uint32) []byte {
	// The key is written straight into the buffer that is wiped.
	before := fmt.Appendf(nil, "%s ", c)
	after := fmt.Appendf(nil, " 0 %d:%d %d 1 sector_size:%d\x00", major, minor, Payload/sector, cryptBlock)
	size := (targetSize + len(before) + 2*len(key) + len(after) + 7) &^ 7
	b := make([]byte, size)
	binary.NativeEndian.PutUint64(b[targetLengthAt:], sectors)
	copy(b[targetTypeAt:targetSize], "crypt")
	n := targetSize + copy(b[targetSize:], before)
	n += hex.Encode(b[n:], key)
	copy(b[n:], after)
	return b
}

// mapper runs one command, with a target or without, and returns the header of the
// kernel's answer.
func mapper(control *os.File, command uintptr, name string, target []byte) ([]byte, error) {
	b := make([]byte, structSize+len(target))
	defer clear(b[structSize:])
	put := binary.NativeEndian.PutUint32
	put(b, 4) // version of the interface: 4.0.0
	put(b[mapperSizeAt:], uint32(len(b)))
	put(b[mapperStartAt:], structSize)
	if target != nil {
		put(b[mapperTargetsAt:], 1)
	}
	put(b[mapperFlagsAt:], secureData)
	copy(b[mapperNameAt:mapperNameAt+mapperNameSize-1], name)
	copy(b[structSize:], target)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), command, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return nil, errno
	}
	return b[:structSize], nil
}
