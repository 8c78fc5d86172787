package tpm

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
)

// ResealWithPIN opens a blob of [TPM.SealWithPIN] and seals what it holds under
// another PIN, the chip's lockout authorisation included: both blobs open from
// then on, each with its PIN, so the caller may put one in the place of the other
// at any moment. Errors are those of [TPM.UnsealWithPIN].
//
// The chip cannot take the old blob back. Whoever kept a copy of it, and the old
// PIN, still opens it on this chip.
func (t *TPM) ResealWithPIN(blob []byte, pin, newPIN string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	auth, newAuth := authValue(pin), authValue(newPIN)
	defer wipe(auth, newAuth)
	srk, p, err := t.unseal(blob, auth, true)
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	defer srk.flush()
	defer wipe(p.secret, p.lockout)
	t.clearCounter(srk, p.lockout)
	return t.seal(srk, p, newAuth, true, 0)
}

// Release gives the chip back before a blob of [TPM.SealWithPIN] is destroyed:
// the lockout authorisation, which would be lost with the blob, becomes empty
// again, so that the next account can set the chip up as the first one did. The
// blob still opens afterwards, and takes the chip again when it does. Errors are
// those of [TPM.UnsealWithPIN].
func (t *TPM) Release(blob []byte, pin string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	auth := authValue(pin)
	defer wipe(auth)
	srk, p, err := t.unseal(blob, auth, true)
	if err != nil {
		return fmt.Errorf("unsealing: %w", err)
	}
	defer srk.flush()
	defer wipe(p.secret, p.lockout)
	if len(p.lockout) == 0 {
		return nil // an earlier card has it
	}
	l, err := t.limits()
	if err != nil || !l.Claimed {
		return err
	}
	t.clearCounter(srk, p.lockout)
	var empty = []byte{0, 0} // TPM2B_AUTH
	if err := srk.lockoutCommand(tpm2.HierarchyChangeAuth{}.Command(), p.lockout, empty); err != nil {
		return fmt.Errorf("giving up the lockout authorisation: %w", err)
	}
	if l, err = t.limits(); err == nil && l.Claimed {
		err = errors.New("giving up the lockout authorisation: the TPM still has one")
	}
	return err
}

// ResealWithPIN is as [TPM.ResealWithPIN].
func (d *Developer) ResealWithPIN(blob []byte, pin, newPIN string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	secret, err := d.unsealWithPIN(blob, pin)
	if err != nil {
		return nil, err
	}
	defer wipe(secret)
	return d.seal(secret, &newPIN, 0)
}

// Release is as [TPM.Release]: it forgets the count of wrong PINs.
func (d *Developer) Release(blob []byte, pin string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	secret, err := d.unsealWithPIN(blob, pin)
	if err != nil {
		return err
	}
	wipe(secret)
	if err := os.Remove(d.triesPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
