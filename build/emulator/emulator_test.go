package emulator

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/ext4"
)

func TestANewDataDiskIsEmptyLabelledAndSparse(t *testing.T) {
	for _, mebibytes := range []int{64, 128, 256} {
		path := filepath.Join(t.TempDir(), "disks", "data.img")
		if err := NewDisk(path, mebibytes); err != nil {
			t.Fatalf("%d MiB: %v", mebibytes, err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		disk, err := ext4.Read(file.New(f, true), int64(mebibytes)<<20, 0, 512)
		if err != nil {
			t.Fatalf("%d MiB: %v", mebibytes, err)
		}
		if got := strings.TrimRight(disk.Label(), "\x00"); got != "hearth-data" {
			t.Errorf("%d MiB: label %q", mebibytes, got)
		}
		// A second opinion, where the distribution's own tool is installed.
		if check, err := exec.LookPath("e2fsck"); err == nil {
			if out, err := exec.Command(check, "-fn", path).CombinedOutput(); err != nil {
				t.Errorf("%d MiB: %v\n%s", mebibytes, err, out)
			}
		}
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
