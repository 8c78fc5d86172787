package boot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"

	"hearth/firmware/pi"
	"hearth/firmware/slot"
	"hearth/hw/tpm"
)

// MeasurementsLog is where the log of this start's measurements is kept: package tpm
// reads it, and anybody may.
const MeasurementsLog = RunFolder + "/measurements"

// measurable lists what is measured everywhere, as files of the running system. A
// machine that describes itself otherwise has no device tree.
var measurable = []struct {
	pcr        uint
	name, path string
	optional   bool
}{
	{tpm.PCRSettings, "command-line", "proc/cmdline", false},
	{tpm.PCRSettings, treeName, "sys/firmware/fdt", true},
	{tpm.PCRSoftware, "kernel-version", "proc/version", false},
	{tpm.PCRSoftware, programName, self[1:], false},
}

const (
	// treeName is the one thing whose digest is not that of its file: see treeDigest.
	treeName = "device-tree"
	// programName is the one whose digest takes a while, a second on a slow board, and
	// is computed beforehand while others wait for their hardware: see programDigest.
	programName = "program"
)

// digester computes the digest of one thing.
type digester func() ([sha256.Size]byte, error)

// programDigest computes the digest of all that runs here, at the first call.
func programDigest() digester {
	return sync.OnceValues(func() ([sha256.Size]byte, error) { return digest(os.DirFS("/"), programName, self[1:]) })
}

// chip is what measuring needs of a TPM.
type chip interface {
	Fresh(pcrs ...uint) error
	Measure(tpm.Measurement) error
}

// measureAll measures this start with the machine's own TPM.
func measureAll(program digester, card string, say Say) error {
	if !exists(tpmDevice) {
		say("nothing: there is no TPM")
		return nil
	}
	t, err := tpm.Open(tpmDevice)
	if err != nil {
		return &Degraded{err}
	}
	defer t.Close()
	return measure(t, os.DirFS("/"), program, card, MeasurementsLog, say)
}

// measure tells the TPM what has started, in a fixed order, and writes the log. The
// firmware of our boards measures nothing, so this proves what runs only as far as
// PID 1 itself is what it should be. No secret depends on it yet; so what goes wrong
// here is told, and nothing stops.
func measure(t chip, root fs.FS, program digester, card, log string, say Say) error {
	var troubles []error
	if err := t.Fresh(tpm.PCRSettings, tpm.PCRSoftware); err != nil {
		troubles = append(troubles, err)
	}
	var told tpm.Log
	err := measurements(root, program, card, func(m tpm.Measurement) error {
		if err := t.Measure(m); err != nil {
			return err
		}
		told = append(told, m)
		say("PCR %d %s %x", m.PCR, m.Name, m.Digest)
		return nil
	})
	if err != nil {
		troubles = append(troubles, err)
	}
	if err := os.WriteFile(log, []byte(told.String()), 0o600); err != nil {
		troubles = append(troubles, err)
	} else if err := os.Chmod(log, 0o644); err != nil {
		troubles = append(troubles, err)
	}
	if err := errors.Join(troubles...); err != nil {
		return &Degraded{err}
	}
	return nil
}

// measurements computes one digest after the other and hands it on. It leaves out
// what it cannot compute, and returns why. card is the device of the SD card, "" when
// there is none.
func measurements(root fs.FS, program digester, card string, tell func(tpm.Measurement) error) error {
	var troubles []error
	for _, m := range measurable {
		compute := program
		if m.name != programName {
			compute = func() ([sha256.Size]byte, error) { return digest(root, m.name, m.path) }
		}
		digest, err := compute()
		if m.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = tell(tpm.Measurement{PCR: m.pcr, Name: m.name, Digest: digest})
		}
		if err != nil {
			troubles = append(troubles, fmt.Errorf("measuring the %s: %w", m.name, err))
		}
	}
	if card != "" {
		if err := measureCard(root, card, tell); err != nil {
			troubles = append(troubles, fmt.Errorf("measuring the card: %w", err))
		}
	}
	return errors.Join(troubles...)
}

// digest is the SHA-256 of one thing.
func digest(root fs.FS, name, path string) (sum [sha256.Size]byte, err error) {
	if name == treeName {
		tree, err := fs.ReadFile(root, path)
		if err != nil {
			return sum, err
		}
		return treeDigest(tree)
	}
	f, err := root.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// measureCard computes the digests of the files that the board's firmware started,
// as they are on the card now.
func measureCard(root fs.FS, card string, tell func(tpm.Measurement) error) (err error) {
	// A card's file system may have been made to upset who reads it.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading it went wrong: %v", r)
		}
	}()
	f, err := os.Open(card)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := slot.Find(f, filters(root)...)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		pcr        uint
		name, file string
	}{
		{tpm.PCRSettings, "configuration", pi.Config},
		{tpm.PCRSoftware, "kernel", s.Kernel},
		{tpm.PCRSoftware, "initramfs", s.Initramfs},
	} {
		digest, err := s.Digest(m.file)
		if err == nil {
			err = tell(tpm.Measurement{PCR: m.pcr, Name: m.name, Digest: digest})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// filters are the sections of config.txt that hold for this board, by the name in
// its device tree, which may go on: "Raspberry Pi 3 Model B Plus Rev 1.3".
func filters(root fs.FS) []string {
	const tree = "sys/firmware/devicetree/base"
	text, err := fs.ReadFile(root, tree+"/model")
	if err != nil {
		return nil
	}
	model := strings.ReplaceAll(strings.Trim(string(text), "\x00\n "), " Plus", "+")
	var best pi.Board
	for _, b := range pi.Boards {
		if strings.HasPrefix(model, b.Name) && len(b.Name) > len(best.Name) {
			best = b
		}
	}
	list := append([]string(nil), best.Filters...)
	if flag, err := fs.ReadFile(root, tree+"/chosen/bootloader/tryboot"); err == nil && strings.Trim(string(flag), "\x00") != "" {
		list = append(list, "tryboot")
	}
	return list
}
