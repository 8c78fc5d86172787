package boot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hearth/hw/tpm"
	"hearth/hw/tpm/swtpmtest"
)

// cutting is a TPM whose power fails before it counts.
type cutting struct{ counter }

var errCut = errors.New("the power failed")

func (c cutting) Advance(tpm.Counter) (uint64, error) { return 0, errCut }

func TestAnOldCopyOfTheCardIsNoticed(t *testing.T) {
	chip, err := tpm.Open(swtpmtest.New(t).Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	path := filepath.Join(t.TempDir(), "state")
	start := func(want error, fresh bool) {
		t.Helper()
		if err := checkCopy(chip, path, fresh, t.Logf); !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
	copied := func() []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	putBack := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	start(nil, true) // the first start of all
	start(nil, false)
	start(nil, false) // after power cuts, too
	while := copied()
	if err := leaveCopy(chip, path); err != nil {
		t.Fatal(err)
	}
	off := copied()
	start(nil, false)
	for name, b := range map[string][]byte{"made while it was on": while, "made when it was off": off} {
		putBack(b)
		t.Log(name)
		start(ErrOldCopy, false)
		start(nil, false) // it goes on from here
	}

	// The power fails between the two steps, once and again.
	for range 2 {
		if err := checkCopy(cutting{chip}, path, false, t.Logf); !errors.Is(err, errCut) {
			t.Fatal(err)
		}
	}
	start(nil, false)

	putBack([]byte("9999999\n"))
	start(ErrOtherState, false)
	putBack([]byte("garbage"))
	start(ErrOtherState, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	start(ErrOtherState, false)
	start(nil, false)

	// Another card that begins anew with the same TPM.
	putBack([]byte("1\n"))
	start(nil, true)
	start(nil, false)
}
