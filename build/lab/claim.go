package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another run has the folder open: two machines with one disk
// and one TPM would destroy both.
var ErrInUse = errors.New("another run is using this folder")

// Claim makes the folder of a lab and locks it for this process until unlock.
// With fresh, the world that an earlier run left there is deleted.
func Claim(dir string, fresh bool) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the run: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s: %w; end it, or choose another with -dir", dir, ErrInUse)
	}
	if fresh {
		// By name, so that a wrong folder loses nothing.
		for _, name := range []string{"data.img", "card.img", "tpm", "network", "friend"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				lock.Close()
				return nil, fmt.Errorf("forgetting an earlier run: %w", err)
			}
		}
	}
	return func() { lock.Close() }, nil
}
