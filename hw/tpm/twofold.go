package tpm

import "fmt"

// Twofold are the blobs of a secret that has a stand-in: the secret under its PIN,
// the stand-in under another one, and the stand-in once more for the next generation.
// After one [TPM.Revoke] the third is the only one that opens, so that step alone, a
// single command to the chip, puts the stand-in in the place of the secret.
//
// All three hold the same lockout authorisation.
type Twofold = [3][]byte

// SealTwofold seals a secret and its stand-in, each of 1 to [MaxSecret] bytes. As
// after [TPM.SealWithPIN], write the blobs to stable storage and open the first.
func (t *TPM) SealTwofold(secret []byte, pin string, other []byte, otherPIN string) (Twofold, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	srk, err := t.storageKey()
	if err != nil {
		return Twofold{}, fmt.Errorf("sealing: %w", err)
	}
	defer srk.flush()
	lockout, err := t.prepareLockout(srk)
	if err != nil {
		return Twofold{}, fmt.Errorf("sealing: %w", err)
	}
	defer wipe(lockout)
	return t.sealTwofold(srk, secret, pin, other, otherPIN, lockout)
}

// ResealTwofold is [TPM.SealTwofold] with the lockout authorisation of a blob that
// pin opens; the secret is sealed under the same PIN. Errors are those of
// [TPM.UnsealWithPIN].
func (t *TPM) ResealTwofold(blob []byte, pin string, secret, other []byte, otherPIN string) (Twofold, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	auth := authValue(pin)
	defer wipe(auth)
	srk, p, err := t.unseal(blob, auth, true)
	if err != nil {
		return Twofold{}, fmt.Errorf("unsealing: %w", err)
	}
	defer srk.flush()
	defer wipe(p.secret, p.lockout)
	t.clearCounter(srk, p.lockout)
	return t.sealTwofold(srk, secret, pin, other, otherPIN, p.lockout)
}

func (t *TPM) sealTwofold(srk *storageKey, secret []byte, pin string, other []byte, otherPIN string, lockout []byte) (sealed Twofold, err error) {
	for i, s := range []struct {
		secret []byte
		pin    string
		later  uint64
	}{{secret, pin, 0}, {other, otherPIN, 0}, {other, otherPIN, 1}} {
		auth := authValue(s.pin)
		sealed[i], err = t.seal(srk, payload{s.secret, lockout}, auth, true, s.later)
		wipe(auth)
		if err != nil {
			return Twofold{}, err
		}
	}
	return sealed, nil
}

// Blanks seals size random bytes under a PIN that nobody knows, for this generation
// and for the next: what stands beside a secret that has no stand-in, and cannot be
// told from one.
func (t *TPM) Blanks(size int) (present, next []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	srk, err := t.storageKey()
	if err != nil {
		return nil, nil, fmt.Errorf("sealing: %w", err)
	}
	defer srk.flush()
	random := make([]byte, size+2*lockoutSize)
	if err := srk.random(random); err != nil {
		return nil, nil, fmt.Errorf("sealing: %w", err)
	}
	defer wipe(random)
	secret, auth := random[:size], withoutZeros(random[size+lockoutSize:])
	p := payload{secret, random[size : size+lockoutSize]}
	if present, err = t.seal(srk, p, auth, true, 0); err != nil {
		return nil, nil, err
	}
	next, err = t.seal(srk, p, auth, true, 1)
	return present, next, err
}

// SealTwofold is as [TPM.SealTwofold].
func (d *Developer) SealTwofold(secret []byte, pin string, other []byte, otherPIN string) (sealed Twofold, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sealTwofold(secret, pin, other, otherPIN)
}

// ResealTwofold is as [TPM.ResealTwofold].
func (d *Developer) ResealTwofold(blob []byte, pin string, secret, other []byte, otherPIN string) (Twofold, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, err := d.unsealWithPIN(blob, pin)
	if err != nil {
		return Twofold{}, err
	}
	wipe(old)
	return d.sealTwofold(secret, pin, other, otherPIN)
}

func (d *Developer) sealTwofold(secret []byte, pin string, other []byte, otherPIN string) (sealed Twofold, err error) {
	if sealed[0], err = d.seal(secret, &pin, 0); err != nil {
		return Twofold{}, err
	}
	if sealed[1], err = d.seal(other, &otherPIN, 0); err != nil {
		return Twofold{}, err
	}
	sealed[2], err = d.seal(other, &otherPIN, 1)
	return sealed, err
}

// Blanks is as [TPM.Blanks].
func (d *Developer) Blanks(size int) (present, next []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	random := make([]byte, size+lockoutSize)
	if _, err := d.Read(random); err != nil {
		return nil, nil, err
	}
	pin := string(random[size:])
	if present, err = d.seal(random[:size], &pin, 0); err != nil {
		return nil, nil, err
	}
	next, err = d.seal(random[:size], &pin, 1)
	return present, next, err
}
