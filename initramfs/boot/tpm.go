package boot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hearth/hw/tpm"
	"hearth/node/api"
)

// tpmDevice goes through the kernel's resource manager, which keeps the sessions
// of different users of the chip apart.
const tpmDevice = "/dev/tpmrm0"

// ErrNoTPM says that there is no chip to seal the keys.
var ErrNoTPM = errors.New("no TPM found: the keys of this device could not be sealed (hearth.developer on the kernel's command line runs without, for development only)")

// findTPM waits for the TPM and gives it to the vault alone. In developer mode it
// may be missing.
func findTPM(ctx context.Context, developer bool, say Say) error {
	limit := 10 * time.Second // a chip on SPI or I2C takes a while
	if developer {
		limit = time.Second
	}
	if !poll(ctx, limit, func() bool { return exists(tpmDevice) }) {
		if developer {
			say("none found: DEVELOPER MODE, nothing protects the keys on the disk")
			return nil
		}
		return ErrNoTPM
	}
	if err := give(tpmDevice, api.UIDVault); err != nil {
		return err
	}
	driver := "unknown"
	if target, err := os.Readlink("/sys/class/tpm/tpm0/device/driver"); err == nil {
		driver = filepath.Base(target)
	}
	version := "?"
	if text, err := os.ReadFile("/sys/class/tpm/tpm0/tpm_version_major"); err == nil {
		version = strings.TrimSpace(string(text))
	}
	say("TPM %s.0 at %s, driver %s", version, tpmDevice, driver)
	return nil
}

// cardTPM opens the chip for PID 1 itself. It is nil in developer mode, and when there
// is none.
func cardTPM(developer bool) (*tpm.TPM, error) {
	if developer || !exists(tpmDevice) {
		return nil, nil
	}
	return tpm.Open(tpmDevice)
}

// noTPM is the keeper of keys where there should be a chip and is none that works.
type noTPM struct{ err error }

func (n noTPM) Read([]byte) (int, error)      { return 0, n.err }
func (n noTPM) Seal([]byte) ([]byte, error)   { return nil, n.err }
func (n noTPM) Unseal([]byte) ([]byte, error) { return nil, n.err }

// dataKeys gives what seals the key of the data, nil in developer mode, and what to
// call when it is used no more.
func dataKeys(developer bool, say Say) (keys keeper, done func()) {
	if developer {
		return nil, func() {}
	}
	chip, err := cardTPM(developer)
	if err != nil {
		say("%v", err)
		return noTPM{err}, func() {}
	}
	if chip == nil {
		return noTPM{ErrNoTPM}, func() {}
	}
	return chip, func() { chip.Close() }
}
