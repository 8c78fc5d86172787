package boot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

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
