package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/firmware/card"
	"hearth/initramfs/disk"
	"hearth/node/api"
)

// ErrNotRevoked says that copies of the card can still be read.
var ErrNotRevoked = errors.New("no TPM has the keys: copies of the card can be read as before, this one until it is overwritten")

// revoker is what wiping needs of a TPM.
type revoker interface{ Revoke(withPIN bool) error }

// revokeAll makes the keys of everything that the device keeps unusable: those of the
// data and of the node, and the account's with that of its stand-in. After the first
// step nothing on the card, nor on any copy of it, can be read.
func revokeAll(chip revoker) error {
	for _, withPIN := range []bool{false, true, true} {
		if err := chip.Revoke(withPIN); err != nil {
			return err
		}
	}
	return nil
}

// WipeEverything implements [api.DeviceServer]. The keys are gone when it answers;
// the rest follows, and where a power cut prevents that, the next start does it.
func (d *device) WipeEverything(ctx context.Context, _ *api.WipeEverythingRequest) (*api.WipeEverythingReply, error) {
	if who, ok := api.CallerOf(ctx); !ok || who.UID != api.UIDConsole {
		return nil, status.Error(codes.PermissionDenied, "only the console wipes the device")
	}
	d.log.Say("wipe", "everything, asked for on the console")
	err := d.revoke()
	if err != nil && !errors.Is(err, ErrNotRevoked) {
		return nil, status.Errorf(codes.Internal, "the TPM does not revoke the keys, nothing else was touched: %v", err)
	}
	reply := &api.WipeEverythingReply{}
	if err != nil {
		reply.Trouble = err.Error()
	}
	go d.wipe()
	return reply, nil
}

// blank overwrites a partition so that it begins as the image builder made it.
// Encrypted data is noise without the header, so that is enough; any other is
// overwritten to its end, which on a large card takes an hour.
func blank(partition string, encrypted bool, say Say) error {
	f, err := os.OpenFile(partition, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := disk.Destroy(f); err != nil {
		return err
	}
	size, err := disk.Size(f)
	if err != nil {
		return err
	}
	if encrypted {
		// A card that understands it forgets the rest as well.
		_ = blockRange(f, unix.BLKDISCARD, disk.Payload, size-disk.Payload)
	} else {
		const step = 64 << 20
		for at := int64(disk.Payload); at < size; at += step {
			if at%(16*step) == disk.Payload {
				say("%s: overwritten up to %d of %d MiB", partition, at>>20, size>>20)
			}
			if err := blockRange(f, blkZeroOut, at, min(step, size-at)); err != nil {
				return fmt.Errorf("overwriting: %w", err)
			}
		}
	}
	if _, err := f.WriteAt(card.Blank(), 0); err != nil {
		return err
	}
	return f.Sync()
}

// blkZeroOut is the kernel's BLKZEROOUT: _IO(0x12, 127).
const blkZeroOut = 0x127f

// blockRange runs one of the commands that take a start and a length in bytes.
func blockRange(f *os.File, command uint, from, length int64) error {
	span := [2]uint64{uint64(from), uint64(length)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(command), uintptr(unsafe.Pointer(&span))); errno != 0 {
		return errno
	}
	return nil
}
