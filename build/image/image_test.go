package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"
)

func TestTheArchiveHoldsWhatTheKernelAndPID1Expect(t *testing.T) {
	var archive bytes.Buffer
	err := Pack(&archive, []byte("program"), map[string][]byte{"b.ko": []byte("b"), "a.ko": []byte("aa"), "load": []byte("b.ko\na.ko\n")}, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if archive.Len()%512 != 0 {
		t.Errorf("%d bytes are no multiple of 512", archive.Len())
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	seen := make(map[uint64]bool)
	for _, r := range records {
		if r.Name == cpio.Trailer {
			continue
		}
		got = append(got, fmt.Sprintf("%s %o %d:%d %d", r.Name, r.Mode, r.Rmajor, r.Rminor, r.FileSize))
		if seen[r.Ino] || r.NLink != 1 || r.UID != 0 || r.GID != 0 || r.MTime != 0 {
			t.Errorf("%s: %+v", r.Name, r.Info)
		}
		seen[r.Ino] = true
	}
	want := []string{
		"data 40755 0:0 0", "dev 40755 0:0 0", "dev/console 20600 5:1 0", "dev/null 20666 1:3 0",
		"etc 40755 0:0 0", "etc/genesis.json 100644 0:0 2", "etc/hosts 100644 0:0 20", "etc/resolv.conf 120777 0:0 23", "init 100755 0:0 7",
		"lib 40755 0:0 0", "lib/modules 40755 0:0 0", "lib/modules/a.ko 100644 0:0 2", "lib/modules/b.ko 100644 0:0 1",
		"lib/modules/load 100644 0:0 10", "proc 40755 0:0 0", "run 40755 0:0 0", "sys 40755 0:0 0", "tmp 40755 0:0 0",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheImageIsTheSameTwice(t *testing.T) {
	// Another folder, another umask, another mood of the environment.
	source := sourceFolder(t)
	first, err := Build(t.Context(), Options{Source: source, Arch: runtime.GOARCH, Output: filepath.Join(t.TempDir(), "a", "one.zst")})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOFLAGS", "-ldflags=-w")
	t.Setenv("TZ", "Asia/Tokyo")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	second, err := Build(t.Context(), Options{Source: source, Arch: runtime.GOARCH, Output: filepath.Join(t.TempDir(), "two.zst")})
	if err != nil {
		t.Fatal(err)
	}
	if first.SHA256 != second.SHA256 || first.Raw != second.Raw {
		t.Errorf("first %+v, second %+v", first, second)
	}
	if first.Compressed > 20<<20 {
		t.Errorf("%d bytes are more than 20 MiB", first.Compressed)
	}
	packed, err := os.ReadFile(second.Path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	raw, err := d.DecodeAll(packed, nil)
	if err != nil || int64(len(raw)) != second.Raw || !bytes.HasPrefix(raw, []byte("070701")) {
		t.Errorf("unpacked: %d bytes, %v", len(raw), err)
	}
}

// sourceFolder is the folder of the module, two above this package.
func sourceFolder(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
