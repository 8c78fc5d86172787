package tpm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func newDeveloper(t testing.TB, dir string, now func() time.Time) *Developer {
	t.Helper()
	d, err := OpenDeveloper(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDeveloperSealerKeepsSecretsOverRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	d := newDeveloper(t, dir, time.Now)
	withPIN, err := d.SealWithPIN(secret, pin)
	if err != nil {
		t.Fatal(err)
	}
	without, err := d.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	d = newDeveloper(t, dir, time.Now)
	if got, err := d.UnsealWithPIN(withPIN, pin); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("with PIN: %x, %v", got, err)
	}
	if got, err := d.Unseal(without); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("without PIN: %x, %v", got, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("files: %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
	for _, size := range []int{0, MaxSecret + 1} {
		if _, err := d.Seal(make([]byte, size)); !errors.Is(err, ErrSecretSize) {
			t.Errorf("sealing %d bytes: %v", size, err)
		}
	}
	other := newDeveloper(t, t.TempDir(), time.Now)
	if _, err := other.UnsealWithPIN(withPIN, pin); !errors.Is(err, ErrOtherTPM) {
		t.Errorf("in another folder: %v", err)
	}
	if _, err := d.Unseal(withPIN); !errors.Is(err, ErrKind) {
		t.Errorf("with PIN opened without: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "developer.key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDeveloper(dir, time.Now); err == nil {
		t.Error("a damaged key was taken, or replaced")
	}
}

func TestDeveloperSealerCountsWrongPINsLikeAChip(t *testing.T) {
	dir := t.TempDir()
	now := time.UnixMilli(1_800_000_000_000)
	d := newDeveloper(t, dir, func() time.Time { return now })
	blob, err := d.SealWithPIN(secret, pin)
	if err != nil {
		t.Fatal(err)
	}
	left := func(want int) {
		t.Helper()
		if got, recovery, err := d.Tries(); err != nil || got != want || recovery != Recovery {
			t.Fatalf("%d left, %v, %v; want %d", got, recovery, err, want)
		}
	}
	wrong := func(want int) {
		t.Helper()
		_, err := d.UnsealWithPIN(blob, "000000")
		var w *WrongPINError
		if !errors.As(err, &w) || w.Left != want {
			t.Fatalf("got %v, want a wrong PIN with %d left", err, want)
		}
	}
	left(MaxTries)
	wrong(9)
	d = newDeveloper(t, dir, func() time.Time { return now }) // a restart gives nothing back
	wrong(8)
	if got, err := d.UnsealWithPIN(blob, pin); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("%x, %v", got, err)
	}
	left(MaxTries)
	for i := range MaxTries {
		wrong(MaxTries - 1 - i)
	}
	now = now.Add(Recovery - time.Minute)
	_, err = d.UnsealWithPIN(blob, pin)
	var locked *LockedOutError
	if !errors.As(err, &locked) || locked.Wait != time.Minute {
		t.Fatalf("got %v, want locked out for a minute", err)
	}
	if !strings.Contains(err.Error(), "the next try comes within 60 seconds") {
		t.Errorf("text %q", err)
	}
	now = now.Add(-time.Hour) // a clock that goes back gives nothing back
	left(0)
	now = now.Add(time.Hour + time.Minute)
	left(1)
	wrong(0)
	now = now.Add(2 * Recovery)
	left(2)
	if _, err := d.UnsealWithPIN(blob, pin); err != nil {
		t.Fatal(err)
	}
	left(MaxTries)
	if err := os.WriteFile(filepath.Join(dir, "developer.tries"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	left(0)
}

func TestDeveloperSealerPrintsNoKey(t *testing.T) {
	d := newDeveloper(t, t.TempDir(), time.Now)
	want := "tpm.Developer{" + d.dir + "}"
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, d); got != want {
			t.Errorf("%s prints %q, want %q", verb, got, want)
		}
	}
	if b, err := json.Marshal(d); err != nil || string(b) != "{}" {
		t.Errorf("JSON %s, %v", b, err)
	}
}

func TestDeveloperSealerRefusesDamage(t *testing.T) {
	d := newDeveloper(t, t.TempDir(), time.Now)
	blob, err := d.SealWithPIN(secret, pin)
	if err != nil {
		t.Fatal(err)
	}
	for i := range blob {
		b := slices.Clone(blob)
		b[i] ^= 1
		var u interface{ Unusable() bool }
		if _, err := d.UnsealWithPIN(b, pin); !errors.As(err, &u) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	if left, _, _ := d.Tries(); left != MaxTries {
		t.Errorf("damage cost a try: %d left", left)
	}
}
