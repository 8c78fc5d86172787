package tpm

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"hearth/hw/tpm/swtpmtest"
)

// changer is what both sealers can do with a blob that exists.
type changer interface {
	SealWithPIN(secret []byte, pin string) ([]byte, error)
	UnsealWithPIN(blob []byte, pin string) ([]byte, error)
	ResealWithPIN(blob []byte, pin, newPIN string) ([]byte, error)
	Release(blob []byte, pin string) error
	Tries() (int, time.Duration, error)
}

const newPIN = "a longer one"

func eachChanger(t *testing.T, do func(t *testing.T, s changer)) {
	t.Run("with a TPM", func(t *testing.T) { do(t, newDevice(t)) })
	t.Run("in developer mode", func(t *testing.T) { do(t, newDeveloper(t, t.TempDir(), time.Now)) })
}

func sealOnce(t *testing.T, s changer) []byte {
	t.Helper()
	blob, err := s.SealWithPIN(secret, pin)
	if err != nil {
		t.Fatal(err)
	}
	opens(t, s, blob, pin)
	return blob
}

func opens(t *testing.T, s changer, blob []byte, pin string) {
	t.Helper()
	if got, err := s.UnsealWithPIN(blob, pin); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("unsealed %x, %v", got, err)
	}
}

func TestAnotherPINOpensTheSameSecret(t *testing.T) {
	eachChanger(t, func(t *testing.T, s changer) {
		old := sealOnce(t, s)
		if _, err := s.ResealWithPIN(old, newPIN, pin); !errors.Is(err, ErrWrongPIN) {
			t.Errorf("with a wrong PIN: %v", err)
		}
		fresh, err := s.ResealWithPIN(old, pin, newPIN)
		if err != nil {
			t.Fatal(err)
		}
		opens(t, s, fresh, newPIN)
		opens(t, s, old, pin) // until the caller has put the new one in its place
		if _, err := s.UnsealWithPIN(fresh, pin); !errors.Is(err, ErrWrongPIN) {
			t.Errorf("the old PIN on the new blob: %v", err)
		}
		// The new blob can take wrong tries back, as the old one could.
		opens(t, s, fresh, newPIN)
		if left, _, err := s.Tries(); err != nil || left != MaxTries {
			t.Errorf("%d tries left, %v", left, err)
		}
	})
}

func TestAPowerCutWhileThePINChangesLeavesBothBlobs(t *testing.T) {
	d := newDevice(t)
	old := d.sealed(t)
	fresh, err := d.ResealWithPIN(old, pin, newPIN)
	if err != nil {
		t.Fatal(err)
	}
	d.chip.PowerCut()
	d.chip.PowerOn(t)
	d.openAgain(t)
	for range 2 * MaxTries { // and none of it uses up tries
		opens(t, d, old, pin)
		opens(t, d, fresh, newPIN)
	}
	d.mustLeft(t, MaxTries)
}

func TestAReleasedChipIsAsOnTheFirstDay(t *testing.T) {
	d := newDevice(t)
	old := d.sealed(t)
	if err := d.Release(old, "000000"); !errors.Is(err, ErrWrongPIN) {
		t.Errorf("with a wrong PIN: %v", err)
	}
	if l, err := d.Limits(); err != nil || !l.Claimed || l.Failed != 1 {
		t.Fatalf("limits %+v, %v", l, err)
	}
	if err := d.Release(old, pin); err != nil {
		t.Fatal(err)
	}
	if l, err := d.Limits(); err != nil || l.Claimed || l.Failed != 0 {
		t.Fatalf("limits after the release: %+v, %v", l, err)
	}
	// A second release, after a power cut before the blob was destroyed.
	if err := d.Release(old, pin); err != nil {
		t.Fatal(err)
	}
	// The next account gets all that the first one had.
	next := d.sealed(t)
	if strings.Contains(d.log.String(), "earlier card") {
		t.Errorf("the chip is still taken: %s", d.log)
	}
	if _, err := d.UnsealWithPIN(next, "000000"); !errors.Is(err, ErrWrongPIN) {
		t.Error(err)
	}
	d.mustOpen(t, next)
	d.mustLeft(t, MaxTries)
}

func TestABlobThatOutlivesItsReleaseTakesTheChipAgain(t *testing.T) {
	d := newDevice(t)
	blob := d.sealed(t)
	if err := d.Release(blob, pin); err != nil {
		t.Fatal(err)
	}
	d.chip.PowerCut()
	d.chip.PowerOn(t)
	d.openAgain(t)
	d.mustOpen(t, blob)
	if l, err := d.Limits(); err != nil || !l.Claimed {
		t.Errorf("limits %+v, %v", l, err)
	}
}

func TestAReleaseOnAChipOfAnEarlierCardLeavesItAlone(t *testing.T) {
	d := newDevice(t)
	d.sealed(t)
	second := d.sealed(t) // without the lockout authorisation, which the first has
	fresh, err := d.ResealWithPIN(second, pin, newPIN)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Release(fresh, newPIN); err != nil {
		t.Fatal(err)
	}
	if l, err := d.Limits(); err != nil || !l.Claimed {
		t.Errorf("limits %+v, %v", l, err)
	}
}

func TestADeveloperSealerForgetsItsTriesWithTheAccount(t *testing.T) {
	dir := t.TempDir()
	d := newDeveloper(t, dir, time.Now)
	blob := sealOnce(t, d)
	if err := d.Release(blob, pin); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "developer.tries")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the count is still there: %v", err)
	}
}

// A probe on the bus sees neither the PINs nor the lockout authorisation.
func TestProbeOnTheWiresSeesNoSecretOfAChange(t *testing.T) {
	socket, err := linuxudstpm.Open(swtpmtest.New(t).Socket)
	if err != nil {
		t.Fatal(err)
	}
	w := &wires{TPMCloser: socket}
	d := open(w, WithLog(slog.New(slog.DiscardHandler)))
	blob := sealOnce(t, d)
	fresh, err := d.ResealWithPIN(blob, pin, newPIN)
	if err != nil {
		t.Fatal(err)
	}
	srk, p, err := d.unseal(fresh, authValue(newPIN), true)
	if err != nil {
		t.Fatal(err)
	}
	srk.flush()
	if err := d.Release(fresh, newPIN); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string][]byte{
		"the secret": secret, "the PIN": authValue(pin), "the new PIN": authValue(newPIN), "the lockout authorisation": p.lockout,
	} {
		if len(s) == 0 || bytes.Contains(w.passed, s) {
			t.Errorf("%s is on the wires, or empty (%d bytes)", name, len(s))
		}
	}
}
