package sdcard

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/partition/mbr"

	"hearth/firmware/card"
	"hearth/firmware/pi"
	"hearth/firmware/slot"
)

// contents are those of a card whose large files are noise.
func contents(seed byte) Contents {
	noise := rand.NewChaCha8([32]byte{seed})
	file := func(size int) []byte {
		b := make([]byte, size)
		noise.Read(b)
		return b
	}
	c := Contents{
		Boot: map[string][]byte{
			pi.AutoBoot: []byte(pi.AutoBootText(card.SlotA, card.SlotB)), pi.Config: []byte(pi.BootConfigText), "bootcode.bin": file(52_476),
		},
		Slot: map[string][]byte{
			pi.Config: []byte(pi.ConfigText()), pi.CmdLine: []byte(pi.Words + "\n"),
			pi.Kernel: file(5_300_001), pi.Initramfs: file(6_000_000), "start.elf": file(2_981_056),
		},
	}
	for _, name := range pi.Trees() {
		c.Slot[name] = append(file(20_000), name...)
	}
	return c
}

func write(t *testing.T, c Contents) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "card.img")
	if err := Write(path, c); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEachBoardReadsItsOwnFilesFromTheCard(t *testing.T) {
	c := contents(1)
	path := write(t, c)
	for _, b := range pi.Boards {
		for want, filters := range map[int][]string{card.SlotA: b.Filters, card.SlotB: append([]string{"tryboot"}, b.Filters...)} {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			found, err := slot.Find(f, filters...)
			if err != nil || found.Partition != want {
				t.Fatalf("%s: %v, %v", b.Name, found, err)
			}
			if got, err := found.Digest(found.Kernel); err != nil || got != sha256.Sum256(c.Slot[pi.Kernel]) {
				t.Errorf("%s: kernel %x, %v", b.Name, got, err)
			}
			got, err := Extract(path, t.TempDir(), filters...)
			if err != nil || got.CommandLine != pi.Words {
				t.Errorf("%s: %+v, %v", b.Name, got, err)
			}
			for file, want := range map[string][]byte{got.Kernel: c.Slot[pi.Kernel], got.Initramfs: c.Slot[pi.Initramfs], got.Tree: c.Slot[b.Tree]} {
				if content, err := os.ReadFile(file); err != nil || !bytes.Equal(content, want) {
					t.Errorf("%s, %v: %s has %d bytes, %v", b.Name, filters, file, len(content), err)
				}
			}
		}
	}
	if _, err := Extract(path, t.TempDir(), "pi5"); !errors.Is(err, slot.ErrNoBoot) {
		t.Errorf("a board that the card is not for: %v", err)
	}
}

func TestTheSameContentsGiveTheSameCard(t *testing.T) {
	first, err := digest(write(t, contents(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("SOURCE_DATE_EPOCH", "86400") // of another time
	second, err := digest(write(t, contents(1)))
	if err != nil || first != second {
		t.Errorf("%s and %s, %v", first, second, err)
	}
	if other, err := digest(write(t, contents(2))); err != nil || other == first {
		t.Errorf("other contents give %s, too; %v", other, err)
	}
}

func TestACardLooksRightToOthers(t *testing.T) {
	path := write(t, contents(1))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := mbr.Read(f, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range card.Layout {
		got := table.Partitions[i]
		if int64(got.Start)*512 != p.Start || int64(got.Size)*512 != p.Size || byte(got.Type) != p.Type {
			t.Errorf("partition %d: %+v", i+1, got)
		}
	}
	sector := make([]byte, card.SectorSize)
	if _, err := f.ReadAt(sector, card.Layout[card.Data-1].Start); err != nil || !card.IsBlank(sector) {
		t.Errorf("the data partition is not blank: %v", err)
	}
	// A second opinion on the file systems, where the distribution's tool is installed.
	tool, err := exec.LookPath("fsck.vfat")
	if err != nil {
		t.Log("no fsck.vfat here, no second opinion")
		return
	}
	for _, p := range card.Layout[:card.SlotB] {
		part := filepath.Join(t.TempDir(), p.Name)
		b := make([]byte, p.Size)
		if _, err := f.ReadAt(b, p.Start); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(part, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(tool, "-n", part).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", p.Name, err, out)
		}
	}
}

func TestASlotThatIsTooLargeAndAFileThatIsEmptyAreRefused(t *testing.T) {
	c := contents(1)
	c.Slot["more"] = make([]byte, card.MaxSlot-c.slotSize()+1)
	path := filepath.Join(t.TempDir(), "card.img")
	if err := Write(path, c); !errors.Is(err, ErrLarge) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("an image was left behind")
	}
	c = contents(1)
	c.Boot["nothing"] = nil
	if err := Write(path, c); !errors.Is(err, ErrEmpty) {
		t.Errorf("an empty file: %v", err)
	}
}

func TestFlashingACardAgainKeepsItsData(t *testing.T) {
	path, old, next := filepath.Join(t.TempDir(), "card"), write(t, contents(1)), write(t, contents(2))
	if err := Flash(old, path, card.ImageSize-1); !errors.Is(err, card.ErrSmall) {
		t.Errorf("a card that is too small: %v", err)
	}
	if err := Flash(old, path, 1<<30); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err != nil || size != 1<<30 {
		t.Errorf("a card of %d bytes, %v", size, err)
	}
	// As the first start does it.
	table, data, changed, err := card.Grow(card.Table(), 1<<30)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	kept := bytes.Repeat([]byte("kept"), 128)
	for at, b := range map[int64][]byte{0: table, data.Start: kept} {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}

	if err := Flash(next, path, 1<<30); err != nil {
		t.Fatal(err)
	}
	found, err := slot.Find(f, "pi3")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := found.Digest(found.Kernel); err != nil || got != sha256.Sum256(contents(2).Slot[pi.Kernel]) {
		t.Errorf("it starts the old kernel; %v", err)
	}
	for at, want := range map[int64][]byte{0: table, data.Start: kept} {
		b := make([]byte, len(want))
		if _, err := f.ReadAt(b, at); err != nil || !bytes.Equal(b, want) {
			t.Errorf("what was at %d is lost; %v", at, err)
		}
	}
}

func TestACardThatWouldNotStartSaysWhy(t *testing.T) {
	for name, change := range map[string]func(c Contents){
		"no autoboot.txt":      func(c Contents) { delete(c.Boot, pi.AutoBoot) },
		"a slot beyond":        func(c Contents) { c.Boot[pi.AutoBoot] = []byte("boot_partition=4\n") },
		"no config.txt":        func(c Contents) { delete(c.Slot, pi.Config) },
		"no kernel":            func(c Contents) { delete(c.Slot, pi.Kernel) },
		"no cmdline.txt":       func(c Contents) { delete(c.Slot, pi.CmdLine) },
		"a text of a megabyte": func(c Contents) { c.Slot[pi.Config] = bytes.Repeat([]byte("kernel=x\n"), 1<<17) },
		"no word of a board":   func(c Contents) { c.Slot[pi.Config] = []byte("kernel=kernel8.img\n") },
	} {
		c := contents(1)
		change(c)
		if _, err := Extract(write(t, c), t.TempDir(), "pi3"); !errors.Is(err, slot.ErrNoBoot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Extract(empty, t.TempDir(), "pi3"); !errors.Is(err, card.ErrForeign) {
		t.Errorf("an empty card: %v", err)
	}
}

func TestAKernelIsPackedWithoutAMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Image")
	if err := os.WriteFile(path, bytes.Repeat([]byte("kernel "), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	first, err := compress(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if second, err := compress(path); err != nil || !bytes.Equal(first, second) || len(first) > 200 {
		t.Errorf("%d and %d bytes, %v", len(first), len(second), err)
	}
}
