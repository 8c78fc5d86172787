package tpm

import (
	"errors"
	"fmt"
	"time"
)

// What can be wrong with a sealed secret or a PIN. Wrong PINs and lockouts come
// as *[WrongPINError] and *[LockedOutError], which carry the numbers.
var (
	ErrWrongPIN  = errors.New("wrong PIN")
	ErrLockedOut = errors.New("too many wrong PINs")
	// ErrOtherTPM: the blob belongs to another chip, or this chip was cleared.
	ErrOtherTPM error = unusable("the secret was sealed by another TPM (or this one was cleared since)")
	// ErrDamaged: the blob is not what sealing wrote.
	ErrDamaged error = unusable("the sealed secret is damaged")
	// ErrKind: a blob with a PIN was opened without one, or the other way round.
	ErrKind error = unusable("the sealed secret is of another kind")
	// ErrPolicy: the PCRs are not those the secret was sealed to.
	ErrPolicy = errors.New("the TPM refuses: the software that booted is not the one the secret was sealed to")
	// ErrSecretSize: a secret is 1 to [MaxSecret] bytes.
	ErrSecretSize = fmt.Errorf("a sealed secret has 1 to %d bytes", MaxSecret)
)

// unusable errors mean that the blob will never open here. Programs that know
// the sealer only by its methods ask for Unusable.
type unusable string

func (u unusable) Error() string  { return string(u) }
func (u unusable) Unusable() bool { return true }

// WrongPINError is [ErrWrongPIN] with what it cost.
type WrongPINError struct {
	Left     int           // tries that are left
	Recovery time.Duration // after which one try comes back
}

func (e *WrongPINError) Error() string {
	switch e.Left {
	case 0:
		return fmt.Sprintf("wrong PIN, no try left; the next one comes in %v", round(e.Recovery))
	case 1:
		return "wrong PIN, 1 try left"
	}
	return fmt.Sprintf("wrong PIN, %d tries left", e.Left)
}

func (e *WrongPINError) Is(target error) bool { return target == ErrWrongPIN }

// WrongPIN gives the tries that are left.
func (e *WrongPINError) WrongPIN() (left int) { return e.Left }

// LockedOutError is [ErrLockedOut] with the time to wait. The PIN that met it
// was not looked at and cost nothing.
type LockedOutError struct {
	Wait time.Duration // at most this long until there is a try again
}

func (e *LockedOutError) Error() string {
	return fmt.Sprintf("too many wrong PINs; the next try comes within %v", round(e.Wait))
}

func (e *LockedOutError) Is(target error) bool { return target == ErrLockedOut }

// LockedOut gives the time until there is a try again.
func (e *LockedOutError) LockedOut() (wait time.Duration) { return e.Wait }

// round gives a time as people say it.
func round(d time.Duration) string {
	if d > 90*time.Second {
		return fmt.Sprintf("%d minutes", (d+time.Minute-1)/time.Minute)
	}
	return fmt.Sprintf("%d seconds", (d+time.Second-1)/time.Second)
}
