package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// The PCRs that the appliance extends. A Raspberry Pi's firmware measures nothing,
// so the first program that can is PID 1: its log says what it found, and without
// signed boot another program in its place could say the same. A PC's firmware has
// the PCRs below 8.
const (
	PCRSettings = 8 // kernel command line, device tree
	PCRSoftware = 9 // kernel, initramfs
)

// Measurement is one line of a measurement log: that the chip's PCR was extended
// with the SHA-256 of something that has a name.
type Measurement struct {
	PCR    uint // 0 to 23
	Name   string
	Digest [sha256.Size]byte
}

// Log lists measurements in the order in which the chip got them. Its text has a
// line for each: PCR, name, and digest in hexadecimal, with a space between.
type Log []Measurement

// Limits of a log that is read.
const (
	maxMeasurements = 1000
	maxName         = 64 // bytes
	lastPCR         = 23
)

// Errors of logs and PCRs.
var (
	ErrLog = errors.New("not a log of measurements")
	// ErrPCRs: the chip was told something else than the log says.
	ErrPCRs = errors.New("the TPM's PCRs are not what the log adds up to")
	// ErrNotReset: the chip still has the measurements of an earlier start. A
	// restart of the board does not reset a chip whose reset line is not connected.
	ErrNotReset = errors.New("the TPM was not reset when the device was: take its power away for a moment")
)

// validName tells whether a log can say the name.
func validName(name string) bool {
	return name != "" && len(name) <= maxName && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' })
}

// String is the text of the log.
func (l Log) String() string {
	var b strings.Builder
	for _, m := range l {
		fmt.Fprintf(&b, "%d %s %x\n", m.PCR, m.Name, m.Digest)
	}
	return b.String()
}

// ParseLog reads what String wrote. The error is ErrLog.
func ParseLog(text []byte) (Log, error) {
	var l Log
	for line := range bytes.Lines(text) {
		if len(l) == maxMeasurements {
			return nil, fmt.Errorf("%w: more than %d lines", ErrLog, maxMeasurements)
		}
		pcr, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		name, digest, _ := strings.Cut(rest, " ")
		m := Measurement{Name: name}
		n, err := strconv.ParseUint(pcr, 10, 8)
		sum, hexErr := hex.DecodeString(digest)
		if err != nil || hexErr != nil || n > lastPCR || len(sum) != len(m.Digest) || !validName(name) {
			return nil, fmt.Errorf("%w: line %d", ErrLog, len(l)+1)
		}
		m.PCR, m.Digest = uint(n), [sha256.Size]byte(sum)
		l = append(l, m)
	}
	return l, nil
}

// Replay computes the values that the log's PCRs must have, if they began at zero.
func (l Log) Replay() map[uint][sha256.Size]byte {
	values := make(map[uint][sha256.Size]byte)
	for _, m := range l {
		before := values[m.PCR]
		values[m.PCR] = sha256.Sum256(append(before[:], m.Digest[:]...))
	}
	return values
}

// Measure extends the SHA-256 bank of the measurement's PCR.
func (t *TPM) Measure(m Measurement) error {
	if m.PCR > lastPCR || !validName(m.Name) {
		return fmt.Errorf("measuring %q into PCR %d: %w", m.Name, m.PCR, ErrLog)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(m.PCR), Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{
			HashAlg: tpm2.TPMAlgSHA256, Digest: m.Digest[:],
		}}},
	}.Execute(t.t)
	if err != nil {
		return fmt.Errorf("measuring %s into PCR %d: %w", m.Name, m.PCR, err)
	}
	return nil
}

// PCR reads a PCR's SHA-256 value. Nothing proves that the answer is the chip's:
// sealing asks in a session that does.
func (t *TPM) PCR(pcr uint) (value [sha256.Size]byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rsp, err := tpm2.PCRRead{PCRSelectionIn: selection([]uint{pcr})}.Execute(t.t)
	if err != nil {
		return value, fmt.Errorf("reading PCR %d: %w", pcr, err)
	}
	if len(rsp.PCRValues.Digests) != 1 || len(rsp.PCRValues.Digests[0].Buffer) != len(value) {
		return value, fmt.Errorf("the TPM has no PCR %d in its SHA-256 bank", pcr)
	}
	return [sha256.Size]byte(rsp.PCRValues.Digests[0].Buffer), nil
}

// Fresh checks that nothing was measured into the PCRs since the chip's reset. The
// error is ErrNotReset.
func (t *TPM) Fresh(pcrs ...uint) error {
	for _, pcr := range pcrs {
		value, err := t.PCR(pcr)
		if err != nil {
			return err
		}
		if value != [sha256.Size]byte{} {
			return ErrNotReset
		}
	}
	return nil
}

// Verify compares the chip's PCRs with what the log adds up to. The error is
// ErrPCRs, and names the PCR.
func (t *TPM) Verify(l Log) error {
	values := l.Replay()
	var pcrs []uint
	for pcr := range values {
		pcrs = append(pcrs, pcr)
	}
	slices.Sort(pcrs)
	for _, pcr := range pcrs {
		got, err := t.PCR(pcr)
		if err != nil {
			return err
		}
		if got != values[pcr] {
			return fmt.Errorf("%w: PCR %d is %x, the log says %x", ErrPCRs, pcr, got, values[pcr])
		}
	}
	return nil
}
