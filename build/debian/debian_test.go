package debian

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const answer = `Package: linux-image-cloud-amd64
Source: linux-signed-amd64 (6.1.192+2)
Version: 6.1.192-2
Architecture: amd64
Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool
SHA256: e849faf31ca3555757f3a8877cb01af92122f744f75d1f3102734651c4e14703
Description: Linux for x86-64 cloud (meta-package)

Package: another
Version: 1
`

func TestAptsAnswerIsRead(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		want         Package
	}{
		{name: "nothing", answer: ""},
		{
			name: "the first of two packages", answer: answer,
			want: Package{
				Name: "linux-image-cloud-amd64", Version: "6.1.192-2", Architecture: "amd64",
				SHA256:  "e849faf31ca3555757f3a8877cb01af92122f744f75d1f3102734651c4e14703",
				Depends: []string{"linux-image-6.1.0-56-cloud-amd64", "initramfs-tools"},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := parse([]byte(c.answer))
			if got.Name != c.want.Name || got.Version != c.want.Version || got.Architecture != c.want.Architecture ||
				got.SHA256 != c.want.SHA256 || !slices.Equal(got.Depends, c.want.Depends) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestACachedFileIsOnlyTakenWhenItsHashIsRight(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.deb")
	if err := os.WriteFile(path, []byte("whole"), 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("whole"))
	if err := verify(path, hex.EncodeToString(sum[:])); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("who"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := verify(path, hex.EncodeToString(sum[:])); err == nil {
		t.Error("a file that was cut short was taken")
	}
}

// The archive is asked with a list of its own: whatever this machine's sources are,
// nothing is looked up in them and nothing of them changes.
func TestAnArchiveKeepsItsListsApart(t *testing.T) {
	dir := t.TempDir()
	options, err := Archive{Suite: "trixie", Component: "non-free-firmware"}.options(dir)
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "lists-trixie-non-free-firmware")
	for _, want := range []string{
		"Dir::Etc::SourceList=" + filepath.Join(home, "sources.list"), "Dir::Etc::SourceParts=/dev/null",
		"Dir::State::Lists=" + filepath.Join(home, "lists"), "Dir::Cache=" + home,
	} {
		if !slices.Contains(options, want) {
			t.Errorf("%q is not in %q", want, options)
		}
	}
	got, err := os.ReadFile(filepath.Join(home, "sources.list"))
	want := "deb [signed-by=" + Keyring + "] http://deb.debian.org/debian trixie non-free-firmware\n"
	if err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	// Its lists are empty, so that a package which every machine knows is unknown.
	if _, err := candidate(t.Context(), options, "dpkg"); !errors.Is(err, ErrUnknown) {
		t.Errorf("dpkg: %v", err)
	}
}
