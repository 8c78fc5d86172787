package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Counter is a number that the chip keeps and that only ever grows, whatever
// happens to the card. A counter that is deleted and made again goes on above every
// number that it had.
type Counter int

const (
	// CardCounter counts the states of the card, so that an older copy is noticed.
	CardCounter Counter = iota
	// DeviceCounter is the generation of the secrets without PIN, AccountCounter that
	// of those with one: see [TPM.Revoke].
	DeviceCounter
	AccountCounter
)

// indices are the counters' places in the chip's memory, in the range that belongs to
// the owner.
var indices = map[Counter]tpm2.TPMHandle{CardCounter: 0x01b48450, DeviceCounter: 0x01b48451, AccountCounter: 0x01b48452}

// counterSize is the size of a counter's value in bytes.
const counterSize = 8

// ErrCounter says that the chip uses the place of a counter for something else.
var ErrCounter = errors.New("the TPM keeps something else where our counter belongs; clear the TPM")

// ErrRevoked says that everything of the secret's generation was revoked: nothing
// opens it again.
var ErrRevoked error = unusable("the secret was revoked: it is an old copy")

// generation is the counter that secrets of a kind are bound to.
func generation(withPIN bool) Counter {
	if withPIN {
		return AccountCounter
	}
	return DeviceCounter
}

// area is what the chip knows about the counter once it has a value. The name that
// follows from it goes into policies, so it is computed here and never asked of the
// chip: a chip with another index in this place does not satisfy the policy.
func (c Counter) area(written bool) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex: indices[c],
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{
			NT: tpm2.TPMNTCounter, AuthRead: true, AuthWrite: true, NoDA: true, Written: written,
		},
		DataSize: counterSize,
	}
}

func (c Counter) handle(written bool) (tpm2.NamedHandle, error) {
	area := c.area(written)
	name, err := tpm2.NVName(&area)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	return tpm2.NamedHandle{Handle: area.NVIndex, Name: *name}, nil
}

// Count gives the value of a counter, which is made when the chip has none: it is at
// least 1 then.
func (t *TPM) Count(c Counter) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	srk, err := t.storageKey()
	if err != nil {
		return 0, err
	}
	defer srk.flush()
	return srk.count(c)
}

// Advance adds 1 to a counter and gives its new value. It is durable when Advance
// returns.
func (t *TPM) Advance(c Counter) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	srk, err := t.storageKey()
	if err != nil {
		return 0, err
	}
	defer srk.flush()
	if _, err := srk.count(c); err != nil {
		return 0, err
	}
	if err := srk.increment(c, true); err != nil {
		return 0, err
	}
	return srk.count(c)
}

// Generation is that of the secrets that are sealed with a PIN, or without, from now
// on.
func (t *TPM) Generation(withPIN bool) (uint64, error) { return t.Count(generation(withPIN)) }

// Revoke ends the present generation of secrets with a PIN, or of those without: the
// chip itself refuses all of it from then on, with or without the right PIN, on
// whatever copy of the card. Those sealed for the next generation begin to open. It
// is one step: a power cut leaves it undone or done.
func (t *TPM) Revoke(withPIN bool) error {
	_, err := t.Advance(generation(withPIN))
	return err
}

// GenerationOf is the generation that a blob was sealed for, 0 for one that is bound
// to none. The error is that of [TPM.Unseal] for a blob of another chip.
func (t *TPM) GenerationOf(blob []byte) (uint64, error) {
	s, err := ParseSealed(blob)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	srk, err := t.storageKey()
	if err != nil {
		return 0, err
	}
	defer srk.flush()
	if string(srk.name.Buffer) != string(s.Parent[:]) {
		return 0, ErrOtherTPM
	}
	return s.Generation, nil
}

func (k *storageKey) count(c Counter) (uint64, error) {
	value, err := k.read(c)
	if !errors.Is(err, tpm2.TPMRCHandle) && !errors.Is(err, tpm2.TPMRCNVUninitialized) {
		return value, err
	}
	if errors.Is(err, tpm2.TPMRCHandle) {
		_, err := tpm2.NVDefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Name: tpm2.HandleName(tpm2.TPMRHOwner), Auth: tpm2.PasswordAuth(nil)},
			PublicInfo: tpm2.New2B(c.area(false)),
		}.Execute(k.t)
		if err != nil {
			return 0, fmt.Errorf("making a counter in the TPM: %w", err)
		}
	}
	// A new counter has no value before the first increment.
	if err := k.increment(c, false); err != nil {
		return 0, err
	}
	return k.read(c)
}

// read asks in a session that proves that the answer is the chip's.
func (k *storageKey) read(c Counter) (uint64, error) {
	public, err := tpm2.NVReadPublic{NVIndex: indices[c]}.Execute(k.t)
	if err != nil {
		return 0, fmt.Errorf("reading a counter of the TPM: %w", err)
	}
	area, err := public.NVPublic.Contents()
	if err != nil {
		return 0, fmt.Errorf("reading a counter of the TPM: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(*area), tpm2.Marshal(c.area(area.Attributes.Written))) {
		return 0, ErrCounter
	}
	if !area.Attributes.Written {
		return 0, tpm2.TPMRCNVUninitialized
	}
	index, err := c.handle(true)
	if err != nil {
		return 0, err
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: k.session(nil)},
		NVIndex:    index, Size: counterSize,
	}.Execute(k.t)
	if err != nil {
		return 0, fmt.Errorf("reading a counter of the TPM: %w", err)
	}
	if len(rsp.Data.Buffer) != counterSize {
		return 0, ErrCounter
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}

func (k *storageKey) increment(c Counter, written bool) error {
	index, err := c.handle(written)
	if err != nil {
		return err
	}
	// A session of ours could not check the answer to a first increment, which the
	// chip gives under the name that the counter has afterwards; whoever calls reads
	// the value again.
	_, err = tpm2.NVIncrement{
		AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    index,
	}.Execute(k.t)
	if err != nil {
		return fmt.Errorf("advancing a counter of the TPM: %w", err)
	}
	return nil
}

// policyOf is the part of a secret's policy that compares the counter with the
// generation.
func policyOf(withPIN bool, value uint64) (tpm2.PolicyNV, error) {
	index, err := generation(withPIN).handle(true)
	if err != nil {
		return tpm2.PolicyNV{}, err
	}
	return tpm2.PolicyNV{
		AuthHandle: tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    index,
		OperandB:   tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, value)},
		Operation:  tpm2.TPMEOEq,
	}, nil
}
