package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// What we ask of a chip that nobody has set up before.
const (
	// MaxTries is how many wrong PINs in a row the chip takes.
	MaxTries = 10
	// Recovery is the time, with power on, after which it takes one more.
	Recovery = 600 * time.Second
)

// Limits is the state of the chip's lockout.
type Limits struct {
	Failed    int           // wrong tries (and power cuts) that count now
	Max       int           // lockout from here
	Recovery  time.Duration // after which Failed goes down by one
	Claimed   bool          // the chip has a lockout authorisation, ours or another
	LockedOut bool          // no PIN is looked at now
}

// Left is the number of tries that are left.
func (l Limits) Left() int {
	if l.LockedOut {
		return 0
	}
	return max(0, l.Max-l.Failed)
}

// Tries gives the PIN tries that are left and the time after which one more
// comes back.
func (t *TPM) Tries() (left int, recovery time.Duration, err error) {
	l, err := t.Limits()
	return l.Left(), l.Recovery, err
}

// Limits asks the chip for the state of its lockout.
func (t *TPM) Limits() (Limits, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limits()
}

func (t *TPM) limits() (Limits, error) {
	rsp, err := tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      uint32(tpm2.TPMPTPermanent),
		PropertyCount: uint32(tpm2.TPMPTLockoutRecovery-tpm2.TPMPTPermanent) + 1,
	}.Execute(t.t)
	if err != nil {
		return Limits{}, fmt.Errorf("reading the TPM's lockout state: %w", err)
	}
	properties, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return Limits{}, fmt.Errorf("reading the TPM's lockout state: %w", err)
	}
	var l Limits
	found := 0
	for _, p := range properties.TPMProperty {
		switch p.Property {
		case tpm2.TPMPTPermanent: // TPMA_PERMANENT: bit 2 lockoutAuthSet, bit 9 inLockout
			l.Claimed, l.LockedOut = p.Value&(1<<2) != 0, p.Value&(1<<9) != 0
		case tpm2.TPMPTLockoutCounter:
			l.Failed = int(p.Value)
		case tpm2.TPMPTMaxAuthFail:
			l.Max = int(p.Value)
		case tpm2.TPMPTLockoutInterval:
			l.Recovery = time.Duration(p.Value) * time.Second
		default:
			continue
		}
		found++
	}
	if found != 4 {
		return Limits{}, errors.New("reading the TPM's lockout state: it tells only a part")
	}
	return l, nil
}

// prepareLockout sets the limits on a chip that nobody has set up, before the
// first PIN can be tried, and gives a new lockout authorisation to seal with the
// secret. It gives none when an earlier card has that.
func (t *TPM) prepareLockout(srk *storageKey) ([]byte, error) {
	l, err := t.limits()
	if err != nil {
		return nil, err
	}
	if l.Claimed {
		t.log.Warn("an earlier card has set up this TPM: its limits stay, and power cuts count as wrong PINs until they expire; clear the TPM to start afresh",
			"max_tries", l.Max, "recovery", l.Recovery)
		return nil, nil
	}
	if err := srk.setLimits(nil); err != nil {
		return nil, err
	}
	lockout := make([]byte, lockoutSize)
	if err := srk.random(lockout); err != nil {
		return nil, err
	}
	return withoutZeros(lockout), nil
}

// clearCounter takes back the wrong tries after a right PIN. When that does not
// work the secret is open all the same, and the log says what to expect.
func (t *TPM) clearCounter(srk *storageKey, lockout []byte) {
	if len(lockout) == 0 {
		t.log.Warn("this TPM was set up by an earlier card: wrong PINs and power cuts stay counted until they expire")
		return
	}
	if err := t.tryClearCounter(srk, lockout); err != nil {
		t.log.Warn("the TPM does not clear its count of wrong PINs: they and power cuts stay counted until they expire", "error", err)
	}
}

func (t *TPM) tryClearCounter(srk *storageKey, lockout []byte) error {
	l, err := t.limits()
	if err != nil {
		return err
	}
	if !l.Claimed {
		// The first right PIN: the blob with the authorisation is on the card. The
		// old, empty value is given as it is, and a session of its own encrypts the
		// new one: a session that proved the old value could not check the answer,
		// which the chip already signs with the new one.
		if _, err := (tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Name: tpm2.HandleName(tpm2.TPMRHLockout), Auth: tpm2.PasswordAuth(nil)},
			NewAuth:    tpm2.TPM2BAuth{Buffer: lockout},
		}).Execute(t.t, srk.session(nil, encryptIn)); err != nil {
			return fmt.Errorf("setting the lockout authorisation: %w", err)
		}
	}
	if l.Max != MaxTries || l.Recovery != Recovery {
		if err := srk.setLimits(lockout); err != nil {
			return err
		}
	}
	if err := srk.lockoutCommand(tpm2.TPMCCDictionaryAttackLockReset, lockout, nil); err != nil {
		return fmt.Errorf("clearing the count: %w", err)
	}
	return nil
}

// setLimits is TPM2_DictionaryAttackParameters.
func (k *storageKey) setLimits(lockout []byte) error {
	var p []byte
	p = binary.BigEndian.AppendUint32(p, MaxTries)
	p = binary.BigEndian.AppendUint32(p, uint32(Recovery/time.Second))
	p = binary.BigEndian.AppendUint32(p, uint32(Recovery/time.Second)) // until a failed lockout authorisation may be tried again
	if err := k.lockoutCommand(tpm2.TPMCCDictionaryAttackParameters, lockout, p); err != nil {
		return fmt.Errorf("setting the TPM's limits for wrong PINs: %w", err)
	}
	return nil
}

// lockoutCommand runs a command on the lockout hierarchy that go-tpm has no type
// for: one handle, one session, plain parameters, an empty answer. The
// authorisation value never travels; a salted HMAC session proves that we know it.
func (k *storageKey) lockoutCommand(cc tpm2.TPMCC, lockout, parameters []byte) (err error) {
	session := k.session(lockout)
	if err := session.Init(k.t); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = session.CleanupFailure(k.t) // the chip may have ended it itself
		}
	}()
	if err := session.NewNonceCaller(); err != nil {
		return err
	}
	names := []tpm2.TPM2BName{tpm2.HandleName(tpm2.TPMRHLockout)}
	auth, err := session.Authorize(cc, parameters, nil, names, 0)
	if err != nil {
		return err
	}
	area := tpm2.Marshal(*auth)

	const header = 10 // bytes: tag, size, code
	c := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
	c = binary.BigEndian.AppendUint32(c, uint32(header+4+4+len(area)+len(parameters)))
	c = binary.BigEndian.AppendUint32(c, uint32(cc))
	c = binary.BigEndian.AppendUint32(c, uint32(tpm2.TPMRHLockout))
	c = binary.BigEndian.AppendUint32(c, uint32(len(area)))
	c = append(append(c, area...), parameters...)
	answer, err := k.t.Send(c)
	if err != nil {
		return err
	}
	if len(answer) < header {
		return errors.New("the TPM's answer is too short")
	}
	if rc := tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:])); rc != tpm2.TPMRCSuccess {
		return rc
	}
	if cc == (tpm2.HierarchyChangeAuth{}).Command() {
		// The chip signs this answer with the new value already. Whether it did
		// what it says is seen in its state.
		return nil
	}
	answer = answer[header:]
	if len(answer) < 4 || !bytes.Equal(answer[:4], make([]byte, 4)) {
		return errors.New("the TPM's answer has parameters where none belong")
	}
	proof, err := tpm2.Unmarshal[tpm2.TPMSAuthResponse](answer[4:])
	if err != nil {
		return fmt.Errorf("the TPM's answer: %w", err)
	}
	return session.Validate(tpm2.TPMRCSuccess, cc, nil, names, 0, proof)
}
