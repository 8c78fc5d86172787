package tpm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Policy is what must hold, besides the PIN, for a secret to open.
type Policy struct {
	// PCRs (SHA-256 bank, 0 to 23) whose values must be those of the moment of
	// sealing. Empty: the boot is not measured.
	PCRs []uint
}

// SealWithPIN seals a secret of 1 to [MaxSecret] bytes under a PIN and gives the
// blob to keep. The PIN's form is the caller's rule; the chip sees a digest.
//
// Write the blob to stable storage, then open it once with [TPM.UnsealWithPIN]:
// that proves that it opens, and only then is the chip's lockout authorisation,
// which exists nowhere but in this blob, put in force. A power cut between the
// two costs nothing.
func (t *TPM) SealWithPIN(secret []byte, pin string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	srk, err := t.storageKey()
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	defer srk.flush()
	lockout, err := t.prepareLockout(srk)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	auth := authValue(pin)
	defer wipe(lockout, auth)
	return t.seal(srk, payload{secret, lockout}, auth, true, 0)
}

// UnsealWithPIN opens a blob of [TPM.SealWithPIN]. The caller wipes the secret.
//
// Errors: *[WrongPINError], *[LockedOutError], [ErrOtherTPM], [ErrDamaged],
// [ErrKind], [ErrPolicy], [ErrRevoked], or what went wrong with the device. Only a wrong PIN
// costs a try.
func (t *TPM) UnsealWithPIN(blob []byte, pin string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	auth := authValue(pin)
	defer wipe(auth)
	srk, p, err := t.unseal(blob, auth, true)
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	defer srk.flush()
	t.clearCounter(srk, p.lockout)
	wipe(p.lockout)
	return p.secret, nil
}

// Seal seals a secret of 1 to [MaxSecret] bytes that opens without a person.
func (t *TPM) Seal(secret []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	srk, err := t.storageKey()
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	defer srk.flush()
	return t.seal(srk, payload{secret: secret}, nil, false, 0)
}

// Unseal opens a blob of [TPM.Seal], whatever the lockout's state. Errors as
// those of [TPM.UnsealWithPIN] that are not about PINs.
func (t *TPM) Unseal(blob []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	srk, p, err := t.unseal(blob, nil, false)
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	srk.flush()
	return p.secret, nil
}

// seal seals for the present generation, or one that is so much later.
func (t *TPM) seal(srk *storageKey, p payload, auth []byte, withPIN bool, later uint64) ([]byte, error) {
	if len(p.secret) == 0 || len(p.secret) > MaxSecret {
		return nil, ErrSecretSize
	}
	for _, pcr := range t.policy.PCRs {
		if pcr >= pcrBytes*8 {
			return nil, fmt.Errorf("sealing: there is no PCR %d", pcr)
		}
	}
	pcrs := slices.Compact(slices.Sorted(slices.Values(t.policy.PCRs)))
	present, err := srk.count(generation(withPIN))
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	s := Sealed{PIN: withPIN, PCRs: pcrs, Generation: present + later}
	digest, err := srk.policyDigest(&s)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	data := p.marshal()
	defer wipe(data)
	rsp, err := tpm2.Create{
		ParentHandle: srk.auth(),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			UserAuth: tpm2.TPM2BAuth{Buffer: auth},
			Data:     tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: data}),
		}},
		InPublic: tpm2.New2B(template(withPIN, digest)),
	}.Execute(t.t)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	s.Public, s.Private = rsp.OutPublic.Bytes(), rsp.OutPrivate.Buffer
	copy(s.Parent[:], srk.name.Buffer)
	return s.Marshal(), nil
}

// unseal leaves the storage key loaded for the caller when there is no error.
func (t *TPM) unseal(blob, auth []byte, withPIN bool) (_ *storageKey, _ payload, err error) {
	s, err := ParseSealed(blob)
	if err != nil {
		return nil, payload{}, err
	}
	if s.PIN != withPIN {
		if s.PIN {
			return nil, payload{}, fmt.Errorf("%w: it needs a PIN", ErrKind)
		}
		return nil, payload{}, fmt.Errorf("%w: it has no PIN", ErrKind)
	}
	srk, err := t.storageKey()
	if err != nil {
		return nil, payload{}, err
	}
	defer func() {
		if err != nil {
			srk.flush()
		}
	}()
	if string(srk.name.Buffer) != string(s.Parent[:]) {
		return nil, payload{}, ErrOtherTPM
	}
	if err := s.check(); err != nil {
		return nil, payload{}, err
	}
	if s.Generation != 0 {
		// The policy says it as well, but does not tell what it refuses.
		present, err := srk.count(generation(withPIN))
		if err != nil {
			return nil, payload{}, err
		}
		if s.Generation != present {
			return nil, payload{}, ErrRevoked
		}
	}
	data, err := srk.unseal(s, auth)
	if err != nil {
		return nil, payload{}, t.explain(err)
	}
	p, err := parsePayload(data)
	if err != nil {
		wipe(data)
	}
	return srk, p, err
}

func (k *storageKey) unseal(s *Sealed, auth []byte) ([]byte, error) {
	object, err := tpm2.Load{
		ParentHandle: k.auth(),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: s.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](s.Public),
	}.Execute(k.t)
	if err != nil {
		// The storage key is the right one, so nothing but the blob is at fault.
		var rc tpm2.TPMRC
		if errors.As(err, &rc) && (errors.Is(rc, tpm2.TPMRCIntegrity) || errors.Is(rc, tpm2.TPMRCSize) ||
			errors.Is(rc, tpm2.TPMRCInsufficient) || errors.Is(rc, tpm2.TPMRCBinding)) {
			return nil, fmt.Errorf("%w: the TPM does not recognise it: %w", ErrDamaged, err)
		}
		return nil, err
	}
	defer flush(k.t, object.ObjectHandle)

	session, end, err := tpm2.PolicySession(k.t, tpm2.TPMAlgSHA256, nonceSize,
		tpm2.Salted(k.handle, k.public), tpm2.Auth(auth), encryptOut)
	if err != nil {
		return nil, err
	}
	defer end() // nothing can be done about an error
	if err := runPolicy(k, session.Handle(), s); err != nil {
		return nil, err
	}
	rsp, err := tpm2.Unseal{
		ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: session},
	}.Execute(k.t)
	if err != nil {
		return nil, err
	}
	return rsp.OutData.Buffer, nil
}

// explain turns the chip's codes into our errors. Lockout is a code of the chip,
// and so is the difference between objects that count (AUTH_FAIL) and those that
// do not (BAD_AUTH).
func (t *TPM) explain(err error) error {
	switch {
	case errors.Is(err, tpm2.TPMRCAuthFail):
		l, lerr := t.limits()
		if lerr != nil {
			return fmt.Errorf("%w (and how many tries are left is unknown: %w)", ErrWrongPIN, lerr)
		}
		return &WrongPINError{Left: l.Left(), Recovery: l.Recovery}
	case errors.Is(err, tpm2.TPMRCLockout):
		l, lerr := t.limits()
		if lerr != nil {
			return fmt.Errorf("%w (and for how long is unknown: %w)", ErrLockedOut, lerr)
		}
		return &LockedOutError{Wait: l.Recovery}
	case errors.Is(err, tpm2.TPMRCPolicyFail), errors.Is(err, tpm2.TPMRCPCRChanged):
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return err
}

// template is the public area of a sealed secret.
func template(withPIN bool, policy []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgKeyedHash,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:    true,
			FixedParent: true,
			// Neither use (userWithAuth off) nor management (adminWithPolicy on)
			// of the object with the PIN alone, past the policy.
			AdminWithPolicy: true,
			// Wrong PINs count; what opens without a person never waits for one.
			NoDA: !withPIN,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: make([]byte, sha256.Size)}),
	}
}

// check refuses an object that this chip would open but that we did not make:
// one with weaker attributes, put on the card by somebody else. The policy
// needs no check here, because the chip runs the one that we ask for against it.
func (s *Sealed) check() error {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](s.Public)
	if err != nil {
		return fmt.Errorf("%w: its public area: %w", ErrDamaged, err)
	}
	want := template(s.PIN, nil)
	if public.Type != want.Type || public.NameAlg != want.NameAlg ||
		!reflect.DeepEqual(public.ObjectAttributes, want.ObjectAttributes) {
		return fmt.Errorf("%w: its public area is not as we make them", ErrDamaged)
	}
	return nil
}

// runPolicy satisfies a policy in a session: the PCRs, when there are any, the
// generation, then the authorisation value (the PIN's, or the empty one).
func runPolicy(k *storageKey, session tpm2.TPMHandle, s *Sealed) error {
	if len(s.PCRs) > 0 {
		if _, err := (tpm2.PolicyPCR{PolicySession: session, Pcrs: selection(s.PCRs)}).Execute(k.t); err != nil {
			return fmt.Errorf("policy of the PCRs: %w", err)
		}
	}
	if s.Generation != 0 {
		compare, err := policyOf(s.PIN, s.Generation)
		if err != nil {
			return err
		}
		compare.PolicySession = session
		if _, err := compare.Execute(k.t); err != nil {
			return fmt.Errorf("policy of the generation: %w", err)
		}
	}
	if _, err := (tpm2.PolicyAuthValue{PolicySession: session}).Execute(k.t); err != nil {
		return fmt.Errorf("policy of the PIN: %w", err)
	}
	return nil
}

// policyDigest computes the policy for the PCRs as they are now. It is computed
// here, from PCR values that the chip vouches for in an audit session: a digest
// asked of the chip in the clear could be exchanged for a weaker one on the way.
func (k *storageKey) policyDigest(s *Sealed) ([]byte, error) {
	policy, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	if len(s.PCRs) > 0 {
		values, err := k.readPCRs(s.PCRs)
		if err != nil {
			return nil, err
		}
		if err := (tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: values}, Pcrs: selection(s.PCRs)}).Update(policy); err != nil {
			return nil, err
		}
	}
	if s.Generation != 0 {
		compare, err := policyOf(s.PIN, s.Generation)
		if err != nil {
			return nil, err
		}
		if err := compare.Update(policy); err != nil {
			return nil, err
		}
	}
	if err := (tpm2.PolicyAuthValue{}).Update(policy); err != nil {
		return nil, err
	}
	return policy.Hash().Digest, nil
}

// readPCRs gives the SHA-256 of the PCRs' values, one after the other.
func (k *storageKey) readPCRs(pcrs []uint) ([]byte, error) {
	h := sha256.New()
	for _, pcr := range pcrs { // a chip gives up to 8 at a time; one is simplest
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection([]uint{pcr})}.Execute(k.t, k.session(nil, tpm2.Audit()))
		if err != nil {
			return nil, fmt.Errorf("reading PCR %d: %w", pcr, err)
		}
		if len(rsp.PCRValues.Digests) != 1 {
			return nil, fmt.Errorf("the TPM has no PCR %d in its SHA-256 bank", pcr)
		}
		h.Write(rsp.PCRValues.Digests[0].Buffer)
	}
	return h.Sum(nil), nil
}

func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      tpm2.TPMAlgSHA256,
		PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...),
	}}}
}

// authValue makes the authorisation value of a PIN: a digest, so that its length
// says nothing and every PIN fits into the 32 bytes that a SHA-256 object takes.
// It needs no stretching, since the chip counts the tries.
func authValue(pin string) []byte {
	h := sha256.New()
	h.Write([]byte("hearth: PIN to TPM authorisation value\x00"))
	h.Write([]byte(pin))
	return withoutZeros(h.Sum(nil))
}

// withoutZeros makes an authorisation value that every implementation takes for
// the same thing. TPMs strip zero bytes at the end of one; go-tpm v0.9.8 cuts it
// at the first zero byte when it makes the HMAC and not at all when it makes the
// encryption key. With 0 written as 1 there is nothing to strip, at the price of
// a fraction of a bit.
func withoutZeros(b []byte) []byte {
	for i := range b {
		if b[i] == 0 {
			b[i] = 1
		}
	}
	return b
}
