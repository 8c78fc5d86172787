package emulator

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hearth/firmware/card"
	"hearth/initramfs/disk"
)

func TestANewDataDiskIsBlankAndSparse(t *testing.T) {
	for _, mebibytes := range []int{64, 512} {
		path := filepath.Join(t.TempDir(), "disks", "data.img")
		if err := NewDisk(path, mebibytes); err != nil {
			t.Fatalf("%d MiB: %v", mebibytes, err)
		}
		content, err := os.ReadFile(path)
		if err != nil || len(content) != mebibytes<<20 || !card.IsBlank(content[:card.SectorSize]) {
			t.Errorf("%d MiB: %d bytes, %v", mebibytes, len(content), err)
		}
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil || stat.Blocks*512 > 1<<20 {
			t.Errorf("%d MiB: it takes %d bytes, %v", mebibytes, stat.Blocks*512, err)
		}
	}
	if err := NewDisk(filepath.Join(t.TempDir(), "small"), 63); !errors.Is(err, disk.ErrSmall) {
		t.Errorf("a disk that is too small: %v", err)
	}
}

func TestAnExistingDataDiskIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.img")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := NewDisk(path, 64); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("it holds %d other bytes", len(got))
	}
}

func TestABoardHasNoTPM(t *testing.T) {
	if _, err := Start(t.Context(), Options{Target: RaspberryPi3, TPM: t.TempDir()}); !errors.Is(err, ErrNoDevice) {
		t.Errorf("error %v", err)
	}
}

func TestAnUnknownTargetIsRefused(t *testing.T) {
	if _, err := Start(t.Context(), Options{Target: "vax"}); err == nil {
		t.Error("it started")
	}
}

// fake puts a shell script into PATH under the name of a program.
func fake(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestAnEmulatorThatEndsAtOnceTellsWhy(t *testing.T) {
	fake(t, "qemu-system-x86_64", "echo 'qemu: could not open the kernel' >&2; exit 1")
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	_, err := Start(t.Context(), Options{Target: AMD64, Kernel: "k", Initramfs: "i"})
	if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "could not open the kernel") {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(tmp); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAMissingTPMProgramSaysWhatToDo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Start(t.Context(), Options{Target: AMD64, TPM: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "swtpm is not installed; run: make deps") {
		t.Errorf("error %v", err)
	}
}

func TestOnlyTheEndOfTheOutputIsKept(t *testing.T) {
	var out tail
	for range 1000 {
		out.Write(bytes.Repeat([]byte("x"), 100))
	}
	out.Write([]byte("the end"))
	if got := out.String(); len(got) != 4096 || !strings.HasSuffix(got, "the end") {
		t.Errorf("%d bytes, ending %q", len(got), got[len(got)-10:])
	}
}
