package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/firmware/card"
	"hearth/hw/tpm"
	"hearth/hw/tpm/swtpmtest"
	"hearth/initramfs/disk"
)

// superblock is the start of a disk with an ext4 file system of that label.
func superblock(label string) []byte {
	disk := make([]byte, 2048)
	binary.LittleEndian.PutUint16(disk[1024+56:], 0xef53)
	copy(disk[1024+120:1024+136], label)
	return disk
}

// header is the start of a disk with encrypted data.
func header() []byte { return disk.Header{Cipher: disk.AES, Sealed: []byte("sealed")}.Marshal() }

func TestTheDataIsFoundByWhatIsOnTheDisks(t *testing.T) {
	for _, c := range []struct {
		name  string
		disks map[string][]byte // "disk" or "disk/partition", whose last character is its number
		want  string
		card  string
		blank bool
		err   error
	}{
		{name: "no disk at all", err: ErrNoData},
		{name: "the only disk", disks: map[string][]byte{"vda": superblock(DataLabel)}, want: "vda"},
		{name: "a partition among others", want: "mmcblk0p3", disks: map[string][]byte{
			"mmcblk0": make([]byte, 4096), "mmcblk0/mmcblk0p1": superblock("boot"), "mmcblk0/mmcblk0p3": superblock(DataLabel),
		}},
		{name: "a label that only begins the same", err: ErrNoData, disks: map[string][]byte{"vda": superblock(DataLabel + "2")}},
		{name: "an empty card reader and a tiny disk", err: ErrNoData, disks: map[string][]byte{"sda": {}, "sdb": make([]byte, 1100)}},
		{name: "the label without a file system", err: ErrNoData, disks: map[string][]byte{"sda": bytes.ReplaceAll(superblock(DataLabel), []byte{0x53, 0xef}, []byte{0, 0})}},
		{name: "a loop device does not count", err: ErrNoData, disks: map[string][]byte{"loop0": superblock(DataLabel)}},
		{name: "two of them", err: ErrManyData, disks: map[string][]byte{"sda": superblock(DataLabel), "sdb": superblock(DataLabel)}},
		{name: "a new card", want: "mmcblk0p4", card: "mmcblk0", blank: true, disks: map[string][]byte{
			"mmcblk0": card.Table(), "mmcblk0/mmcblk0p1": make([]byte, 512), "mmcblk0/mmcblk0p4": card.Blank(),
		}},
		{name: "a card in use", want: "mmcblk0p4", card: "mmcblk0", disks: map[string][]byte{
			"mmcblk0": card.Table(), "mmcblk0/mmcblk0p4": superblock(DataLabel),
		}},
		{name: "a card with a damaged superblock", want: "mmcblk0p4", card: "mmcblk0", disks: map[string][]byte{
			"mmcblk0": card.Table(), "mmcblk0/mmcblk0p4": make([]byte, 4096),
		}},
		{name: "a mark on somebody else's card", err: ErrNoData, disks: map[string][]byte{
			"mmcblk0": make([]byte, 512), "mmcblk0/mmcblk0p4": card.Blank(),
		}},
		{name: "a blank disk", want: "vda", blank: true, disks: map[string][]byte{"vda": card.Blank()}},
		{name: "a disk with encrypted data", want: "vda", disks: map[string][]byte{"vda": header()}},
		{name: "encrypted data with one of its headers", want: "vda", disks: map[string][]byte{"vda": append(make([]byte, 64<<10), header()...)}},
		{name: "a card with encrypted data", want: "mmcblk0p4", card: "mmcblk0", disks: map[string][]byte{
			"mmcblk0": card.Table(), "mmcblk0/mmcblk0p4": header(),
		}},
		{name: "the device mapper's disk does not count twice", want: "vda", disks: map[string][]byte{"vda": header(), "dm-0": superblock(DataLabel)}},
		{name: "a card and a disk", err: ErrManyData, disks: map[string][]byte{
			"mmcblk0": card.Table(), "mmcblk0/mmcblk0p4": superblock(DataLabel), "sda": superblock(DataLabel),
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			devices, sysfs, dev := t.TempDir(), t.TempDir(), t.TempDir()
			for path, content := range c.disks {
				folder, name := filepath.Join(devices, path), filepath.Base(path)
				if err := os.MkdirAll(folder, 0o755); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(path, "/") {
					if err := os.WriteFile(filepath.Join(folder, "partition"), []byte(name[len(name)-1:]+"\n"), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.Symlink(folder, filepath.Join(sysfs, name)); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dev, name), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			os.Mkdir(filepath.Join(sysfs, "sr0"), 0o755) // no medium: its device does not open
			want := place{blank: c.blank}
			if c.want != "" {
				want.device = filepath.Join(dev, c.want)
			}
			if c.card != "" {
				want.card = filepath.Join(dev, c.card)
			}
			got, err := findData(sysfs, dev)
			if !errors.Is(err, c.err) || got != want {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, want, c.err)
			}
		})
	}
}

func TestABlankPartitionIsFormattedOnceAndADamagedOneRepaired(t *testing.T) {
	dev := t.TempDir()
	p := place{device: filepath.Join(dev, "mmcblk0p4"), card: filepath.Join(dev, "mmcblk0"), blank: true}
	if err := os.WriteFile(p.card, card.Table(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p.card, card.ImageSize); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.device, card.Blank(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p.device, 300<<20); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	say := func(format string, args ...any) { said.WriteString(format + "\n") }
	ready, err := prepare(p, nil, say)
	if err != nil || ready.state.Label != DataLabel || ready.cipher != "" {
		t.Fatalf("%+v, %v", ready, err)
	}
	if !strings.Contains(said.String(), "NOT encrypted") {
		t.Errorf("it did not say that nothing is encrypted:\n%s", &said)
	}
	f, err := os.OpenFile(p.device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if card.IsBlank(firstSector(f)) || !strings.Contains(said.String(), "first start") {
		t.Errorf("it is blank still; said:\n%s", &said)
	}

	// Something only a new file system would not have.
	if _, err := f.WriteAt([]byte("kept"), 200<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 1024), 1024); err != nil {
		t.Fatal(err)
	}
	p.blank, said = false, strings.Builder{}
	if ready, err = prepare(p, nil, say); err != nil || ready.state.Label != DataLabel || !ready.state.Unclean {
		t.Errorf("after the damage: %+v, %v", ready, err)
	}
	kept := make([]byte, 4)
	if _, err := f.ReadAt(kept, 200<<20); err != nil || string(kept) != "kept" {
		t.Errorf("%q, %v", kept, err)
	}
	if strings.Contains(said.String(), "first start") || !strings.Contains(said.String(), "put back from a copy") {
		t.Errorf("said:\n%s", &said)
	}
}

func TestAPartitionThatHoldsSomethingElseIsNotTouched(t *testing.T) {
	dev := t.TempDir()
	p := place{device: filepath.Join(dev, "mmcblk0p4"), card: filepath.Join(dev, "mmcblk0")}
	content := bytes.Repeat([]byte("something else "), 1<<20)
	for path, b := range map[string][]byte{p.device: content, p.card: card.Table()} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := prepare(p, nil, t.Logf); err == nil {
		t.Error("it was taken")
	}
	if after, err := os.ReadFile(p.device); err != nil || !bytes.Equal(after, content) {
		t.Errorf("it changed: %v", err)
	}
}

func TestItIsToldOnceWhenTheKernelStopsWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(time.Minute)
		var told []time.Duration
		began := time.Now()
		watchData(t.Context(), func() bool { return time.Now().Before(ends) }, func(err error) {
			if !errors.Is(err, ErrReadOnly) {
				t.Error(err)
			}
			told = append(told, time.Since(began))
		})
		if len(told) != 1 || told[0] < time.Minute || told[0] > time.Minute+lookEvery {
			t.Errorf("told after %v", told)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		watchData(ctx, func() bool { return true }, func(err error) { t.Error(err) })
	})
}

func TestEncryptedDataStaysShutWithoutItsKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vda")
	if err := os.WriteFile(path, header(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	chip, err := tpm.Open(swtpmtest.New(t).Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	for name, c := range map[string]struct {
		keys keeper
		err  error
	}{
		"in developer mode":     {nil, ErrDeveloperData},
		"without a TPM":         {noTPM{ErrNoTPM}, ErrNoTPM},
		"with something sealed": {chip, tpm.ErrDamaged},
	} {
		if _, err := prepare(place{device: path}, c.keys, t.Logf); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("something was written, %v", err)
	}

	// A blank one stays blank until there is a TPM.
	copy(before, make([]byte, 8192))
	copy(before, card.Blank())
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := prepare(place{device: path, blank: true}, noTPM{ErrNoTPM}, t.Logf); !errors.Is(err, ErrNoTPM) {
		t.Errorf("a blank disk without a TPM: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("something was written, %v", err)
	}
}
