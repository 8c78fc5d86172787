package tpm

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

func TestCountersOnlyGrow(t *testing.T) {
	d := newDevice(t)
	first, err := d.Count(CardCounter)
	if err != nil || first == 0 {
		t.Fatalf("a new counter has %d, %v", first, err)
	}
	for i := range uint64(3) {
		if now, err := d.Advance(CardCounter); err != nil || now != first+i+1 {
			t.Fatalf("advanced to %d, %v; want %d", now, err, first+i+1)
		}
		d.chip.PowerCut()
		d.chip.PowerOn(t)
		if now, err := d.Count(CardCounter); err != nil || now != first+i+1 {
			t.Fatalf("after a power cut %d, %v", now, err)
		}
	}
	// Deleting it, as the owner may, does not bring an old value back.
	index, err := CardCounter.handle(true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Name: tpm2.HandleName(tpm2.TPMRHOwner), Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    index,
	}).Execute(d.t); err != nil {
		t.Fatal(err)
	}
	if now, err := d.Count(CardCounter); err != nil || now <= first+3 {
		t.Errorf("a counter that was deleted begins again at %d, %v; it had %d", now, err, first+3)
	}
}

func TestACounterIsNotTakenForSomethingElse(t *testing.T) {
	d := newDevice(t)
	foreign := CardCounter.area(false)
	foreign.Attributes.NT = tpm2.TPMNTOrdinary
	if _, err := (tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Name: tpm2.HandleName(tpm2.TPMRHOwner), Auth: tpm2.PasswordAuth(nil)},
		PublicInfo: tpm2.New2B(foreign),
	}).Execute(d.t); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Count(CardCounter); !errors.Is(err, ErrCounter) {
		t.Errorf("a value that anybody can write counts: %v", err)
	}
	if _, err := d.Advance(AccountCounter); err != nil {
		t.Errorf("another counter: %v", err)
	}
}

// revoker is what both sealers do with generations.
type revoker interface {
	Seal(secret []byte) ([]byte, error)
	Unseal(blob []byte) ([]byte, error)
	UnsealWithPIN(blob []byte, pin string) ([]byte, error)
	SealTwofold(secret []byte, pin string, other []byte, otherPIN string) (Twofold, error)
	ResealTwofold(blob []byte, pin string, secret, other []byte, otherPIN string) (Twofold, error)
	ResealWithPIN(blob []byte, pin, newPIN string) ([]byte, error)
	Blanks(size int) (present, next []byte, err error)
	Generation(withPIN bool) (uint64, error)
	GenerationOf(blob []byte) (uint64, error)
	Revoke(withPIN bool) error
	Tries() (int, time.Duration, error)
}

func revokers(t *testing.T, test func(t *testing.T, s revoker)) {
	t.Run("TPM", func(t *testing.T) { test(t, newDevice(t)) })
	t.Run("developer", func(t *testing.T) { test(t, newDeveloper(t, t.TempDir(), time.Now)) })
}

func mustGive(t *testing.T, s revoker, blob []byte, pin string, want []byte, wantErr error) {
	t.Helper()
	got, err := s.UnsealWithPIN(blob, pin)
	if !bytes.Equal(got, want) || !errors.Is(err, wantErr) {
		t.Errorf("got %x, %v; want %x, %v", got, err, want, wantErr)
	}
}

func TestOneStepPutsTheStandInInThePlaceOfTheSecret(t *testing.T) {
	revokers(t, func(t *testing.T, s revoker) {
		const otherPIN = "another PIN"
		other := []byte("stand-in of it")
		sealed, err := s.SealTwofold(secret, pin, other, otherPIN)
		if err != nil {
			t.Fatal(err)
		}
		node, err := s.Seal(secret)
		if err != nil {
			t.Fatal(err)
		}
		mustGive(t, s, sealed[0], pin, secret, nil)
		mustGive(t, s, sealed[1], otherPIN, other, nil)
		mustGive(t, s, sealed[2], otherPIN, nil, ErrRevoked)
		mustGive(t, s, sealed[0], otherPIN, nil, ErrWrongPIN)
		mustGive(t, s, sealed[0], pin, secret, nil)

		// With a new stand-in, and under a new PIN.
		if sealed, err = s.ResealTwofold(sealed[0], pin, secret, other, "a third PIN"); err != nil {
			t.Fatal(err)
		}
		if sealed[0], err = s.ResealWithPIN(sealed[0], pin, "a fourth PIN"); err != nil {
			t.Fatal(err)
		}
		mustGive(t, s, sealed[0], "a fourth PIN", secret, nil)
		mustGive(t, s, sealed[1], "a third PIN", other, nil)

		before, err := s.Generation(true)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Revoke(true); err != nil {
			t.Fatal(err)
		}
		for i, want := range []uint64{before, before, before + 1} {
			if of, err := s.GenerationOf(sealed[i]); err != nil || of != want {
				t.Errorf("blob %d is of generation %d, %v; want %d", i, of, err, want)
			}
		}
		mustGive(t, s, sealed[0], "a fourth PIN", nil, ErrRevoked)
		mustGive(t, s, sealed[1], "a third PIN", nil, ErrRevoked)
		mustGive(t, s, sealed[2], "a third PIN", other, nil)
		if left, _, err := s.Tries(); err != nil || left != MaxTries {
			t.Errorf("%d tries left, %v", left, err)
		}
		if got, err := s.Unseal(node); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("the node's key went with it: %v", err)
		}
		if err := s.Revoke(false); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Unseal(node); !errors.Is(err, ErrRevoked) {
			t.Errorf("a secret without PIN that was revoked: %v", err)
		}
		mustGive(t, s, sealed[2], "a third PIN", other, nil)
	})
}

func TestBlanksLookLikeAStandIn(t *testing.T) {
	revokers(t, func(t *testing.T, s revoker) {
		sealed, err := s.SealTwofold(secret, pin, secret, pin)
		if err != nil {
			t.Fatal(err)
		}
		mustGive(t, s, sealed[0], pin, secret, nil)
		present, next, err := s.Blanks(len(secret))
		if err != nil {
			t.Fatal(err)
		}
		if len(present) != len(sealed[1]) || len(next) != len(sealed[2]) {
			t.Errorf("%d and %d bytes, a stand-in has %d and %d", len(present), len(next), len(sealed[1]), len(sealed[2]))
		}
		mustGive(t, s, present, pin, nil, ErrWrongPIN)
		mustGive(t, s, next, pin, nil, ErrRevoked)
	})
}

// The generation in the blob is only what the policy is run with: the chip knows
// better.
func TestAGenerationCannotBeWrittenIntoABlob(t *testing.T) {
	d := newDevice(t)
	blob := d.sealed(t)
	if err := d.Revoke(true); err != nil {
		t.Fatal(err)
	}
	s, err := ParseSealed(blob)
	if err != nil {
		t.Fatal(err)
	}
	s.Generation++
	if _, err := d.UnsealWithPIN(s.Marshal(), pin); !errors.Is(err, ErrPolicy) {
		t.Errorf("with another generation: %v", err)
	}
	s.Generation = 0
	if _, err := d.UnsealWithPIN(s.Marshal(), pin); !errors.Is(err, ErrPolicy) {
		t.Errorf("without one: %v", err)
	}
}
