//go:build boot

package sdcard

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"hearth/build/kernel"
	"hearth/firmware/card"
)

// Two people with the same source, in other folders and with other habits, make the
// same image. The kernel is in the cache and the same file for both; that it comes
// out the same is tried by deleting it there.
func TestTwoCheckoutsMakeTheSameImage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	cache, err := kernel.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "another", "checkout")
	for _, name := range []string{"build", "firmware", "hw", "initramfs", "node", "ui"} {
		if err := os.CopyFS(filepath.Join(other, name), os.DirFS(filepath.Join("../..", name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join("../..", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(other, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	make := func(source string) Image {
		made, err := Build(ctx, Options{
			Source: source, Output: filepath.Join(t.TempDir(), "card.img"), Cache: cache, Progress: t.Output(),
		})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	first := make("../..")
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("LANG", "tr_TR.UTF-8")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	second := make(other)
	if first.SHA256 != second.SHA256 {
		t.Errorf("sha256 %s and %s; initramfs %s and %s", first.SHA256, second.SHA256, first.Initramfs.SHA256, second.Initramfs.SHA256)
	}
	if first.Slot > card.MaxSlot {
		t.Errorf("a slot has %d bytes, at most %d", first.Slot, card.MaxSlot)
	}
	t.Logf("FIGURES sd card: image %d bytes, slot %d (%.1f MiB), sha256 %s", first.Size, first.Slot, float64(first.Slot)/(1<<20), first.SHA256)
}
