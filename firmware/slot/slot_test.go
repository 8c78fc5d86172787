package slot

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"hearth/firmware/card"
	"hearth/firmware/pi"
)

// newCard is a card with these files: name of the partition, slash, name.
func newCard(t *testing.T, files map[string]string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "card"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(card.ImageSize); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(card.Table(), 0); err != nil {
		t.Fatal(err)
	}
	for _, p := range card.Layout[:card.SlotB] {
		fs, err := fat32.Create(file.New(f, false), p.Size-Unused, p.Start, card.SectorSize, p.Name, true)
		if err != nil {
			t.Fatal(err)
		}
		for path, content := range files {
			name, ok := strings.CutPrefix(path, p.Name+"/")
			if !ok {
				continue
			}
			to, err := fs.OpenFile("/"+name, os.O_CREATE|os.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := to.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
			to.Close()
		}
	}
	return f
}

func TestASlotIsFoundAsTheFirmwareFindsIt(t *testing.T) {
	files := map[string]string{
		"boot/" + pi.AutoBoot: pi.AutoBootText(card.SlotA, card.SlotB),
		"A/" + pi.Config:      pi.ConfigText(), "A/" + pi.CmdLine: "of A\n", "A/" + pi.Kernel: "kernel of A",
		"B/" + pi.Config: pi.ConfigText(), "B/" + pi.CmdLine: "of B\n", "B/" + pi.Kernel: strings.Repeat("kernel of B", 1000),
	}
	f := newCard(t, files)
	for _, c := range []struct {
		filters []string
		want    Slot
		kernel  string
	}{
		{[]string{"pi3"}, Slot{card.SlotA, pi.Kernel, pi.Initramfs, "bcm2837-rpi-3-b.dtb", "of A", nil}, files["A/"+pi.Kernel]},
		{[]string{"pi4", "tryboot"}, Slot{card.SlotB, pi.Kernel, pi.Initramfs, "bcm2711-rpi-4-b.dtb", "of B", nil}, files["B/"+pi.Kernel]},
	} {
		got, err := Find(f, c.filters...)
		if err != nil {
			t.Fatal(err)
		}
		if digest, err := got.Digest(got.Kernel); err != nil || digest != sha256.Sum256([]byte(c.kernel)) {
			t.Errorf("%v: the kernel is %x, %v", c.filters, digest, err)
		}
		if _, err := got.Digest(got.Initramfs); !errors.Is(err, ErrNoBoot) {
			t.Errorf("%v: an initramfs that is not there: %v", c.filters, err)
		}
		if got.files = nil; *got != c.want {
			t.Errorf("%v: %+v, want %+v", c.filters, *got, c.want)
		}
	}
	if _, err := Find(f, "pi5"); !errors.Is(err, ErrNoBoot) {
		t.Errorf("a board that the card is not for: %v", err)
	}
}

func TestTextsAreBounded(t *testing.T) {
	f := newCard(t, map[string]string{
		"boot/" + pi.AutoBoot: pi.AutoBootText(card.SlotA, card.SlotB), "A/" + pi.Config: strings.Repeat("#\n", maxText),
	})
	if _, err := Find(f, "pi3"); !errors.Is(err, ErrNoBoot) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("error %v", err)
	}
}
