package main

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hearth/hw/tpm"
	"hearth/hw/tpm/swtpmtest"
)

func TestALogIsReplayedAndCompared(t *testing.T) {
	dir := t.TempDir()
	kernel, other, path := filepath.Join(dir, "kernel"), filepath.Join(dir, "other"), filepath.Join(dir, "log")
	for file, content := range map[string]string{kernel: "a kernel", other: "another"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := tpm.Log{{PCR: tpm.PCRSoftware, Name: "kernel", Digest: sha256.Sum256([]byte("a kernel"))}}
	if err := os.WriteFile(path, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	chip := swtpmtest.New(t)
	var out strings.Builder
	if err := run(&out, chip.Socket, path, nil); !errors.Is(err, tpm.ErrPCRs) {
		t.Errorf("a chip that knows nothing of it: %v", err)
	}
	d, err := tpm.Open(chip.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Measure(log[0]); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if err := run(&out, chip.Socket, path, []string{kernel}); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"PCR 9   kernel ", "PCR 9   = ", kernel + " is kernel", "The TPM has the same values."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	if err := run(&out, "", path, []string{other}); err == nil || !strings.Contains(err.Error(), "was not measured") {
		t.Errorf("a file that was not measured: %v", err)
	}
}

func TestTheJournalIsALogAsWell(t *testing.T) {
	l := tpm.Log{{PCR: 8, Name: "command-line"}, {PCR: 9, Name: "kernel"}}
	lines := strings.SplitAfter(l.String(), "\n")
	journal := "[   2.449] measure: start\r\n[   4.883] measure: PCR " + lines[0] +
		"[   4.884] network: eth0 has 10.0.2.15\nhearth> \x1b[K[   4.9] measure: PCR " + strings.TrimSuffix(lines[1], "\n") + "\r\n"
	if got, err := tpm.ParseLog(fromJournal([]byte(journal))); err != nil || !slices.Equal(got, l) {
		t.Errorf("%v, %v", got, err)
	}
	if got := fromJournal([]byte(l.String())); string(got) != l.String() {
		t.Errorf("a log became %q", got)
	}
}
