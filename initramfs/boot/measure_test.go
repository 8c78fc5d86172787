package boot

import (
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"hearth/firmware/card"
	"hearth/firmware/pi"
	"hearth/firmware/slot"
	"hearth/hw/tpm"
	"hearth/hw/tpm/swtpmtest"
)

// running is the system that is measured.
func running() fstest.MapFS {
	return fstest.MapFS{
		"proc/cmdline": {Data: []byte("console=ttyS1\n")}, "proc/version": {Data: []byte("Linux version 6.12\n")},
		"init": {Data: []byte("the program")}, "sys/firmware/fdt": {Data: tree(node("", prop("model", "a board")))},
	}
}

func program(system fstest.MapFS) digester {
	return func() ([sha256.Size]byte, error) { return digest(system, programName, "init") }
}

func TestAStartIsMeasuredSoThatItsLogCanBeReplayed(t *testing.T) {
	simulated := swtpmtest.New(t)
	open := func() *tpm.TPM {
		d, err := tpm.Open(simulated.Socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	path := filepath.Join(t.TempDir(), "measurements")
	read := func() tpm.Log {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := tpm.ParseLog(text)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}

	d := open()
	if err := measure(d, running(), program(running()), "", path, t.Logf); err != nil {
		t.Fatal(err)
	}
	first := read()
	var names []string
	for _, m := range first {
		names = append(names, m.Name)
	}
	if want := []string{"command-line", "device-tree", "kernel-version", "program"}; !slices.Equal(names, want) {
		t.Errorf("measured %v, want %v", names, want)
	}
	if first[3].Digest != sha256.Sum256([]byte("the program")) {
		t.Error("the program's digest is another")
	}
	if err := d.Verify(first); err != nil {
		t.Error(err)
	}

	t.Log("a restart that the chip did not notice")
	var degraded *Degraded
	if err := measure(d, running(), program(running()), "", path, t.Logf); !errors.As(err, &degraded) || !errors.Is(err, tpm.ErrNotReset) {
		t.Errorf("error %v", err)
	}
	if err := d.Verify(read()); !errors.Is(err, tpm.ErrPCRs) {
		t.Errorf("the second log alone: %v", err)
	}
	if err := d.Verify(slices.Concat(first, read())); err != nil {
		t.Errorf("both logs together: %v", err)
	}

	t.Log("the same after a reset, and another command line")
	for _, c := range []struct {
		line string
		same bool
	}{{"console=ttyS1\n", true}, {"console=ttyS1 init=/bin/sh\n", false}} {
		simulated.PowerCut()
		simulated.PowerOn(t)
		d = open()
		system := running()
		system["proc/cmdline"].Data = []byte(c.line)
		if err := measure(d, system, program(system), "", path, t.Logf); err != nil {
			t.Fatal(err)
		}
		if err := d.Verify(first); (err == nil) != c.same {
			t.Errorf("%q: %v", c.line, err)
		}
	}
}

func TestWhatCannotBeMeasuredIsTold(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(fstest.MapFS)
		card   string
		says   string
		left   int
	}{
		{"a machine without a device tree", func(m fstest.MapFS) { delete(m, "sys/firmware/fdt") }, "", "", 3},
		{"a device tree that is none", func(m fstest.MapFS) { m["sys/firmware/fdt"].Data = []byte("tree") }, "", "measuring the device-tree", 3},
		{"a command line that cannot be read", func(m fstest.MapFS) { delete(m, "proc/cmdline") }, "", "measuring the command-line", 3},
		{"a card that is gone", func(fstest.MapFS) {}, "/nonexistent", "measuring the card", 4},
	} {
		system := running()
		c.change(system)
		var l tpm.Log
		err := measurements(system, program(system), c.card, func(m tpm.Measurement) error { l = append(l, m); return nil })
		if len(l) != c.left || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %d measurements, %v", c.name, len(l), err)
		}
	}
}

func TestTheFilesOfTheSlotAreMeasured(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "card"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(card.ImageSize); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(card.Table(), 0); err != nil {
		t.Fatal(err)
	}
	contents := []map[string]string{
		{pi.AutoBoot: pi.AutoBootText(card.SlotA, card.SlotB)},
		{pi.Config: pi.ConfigText(), pi.CmdLine: pi.Words, pi.Kernel: "a kernel", pi.Initramfs: strings.Repeat("programs", 1000)},
	}
	for i, files := range contents {
		p := card.Layout[i]
		fat, err := fat32.Create(file.New(f, false), p.Size-slot.Unused, p.Start, card.SectorSize, p.Name, true)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range files {
			to, err := fat.OpenFile("/"+name, os.O_CREATE|os.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := to.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
			to.Close()
		}
	}
	board := fstest.MapFS{"sys/firmware/devicetree/base/model": {Data: []byte("Raspberry Pi 4 Model B Rev 1.4\x00")}}
	var got tpm.Log
	if err := measureCard(board, f.Name(), func(m tpm.Measurement) error { got = append(got, m); return nil }); err != nil {
		t.Fatal(err)
	}
	want := tpm.Log{
		{PCR: tpm.PCRSettings, Name: "configuration", Digest: sha256.Sum256([]byte(contents[1][pi.Config]))},
		{PCR: tpm.PCRSoftware, Name: "kernel", Digest: sha256.Sum256([]byte(contents[1][pi.Kernel]))},
		{PCR: tpm.PCRSoftware, Name: "initramfs", Digest: sha256.Sum256([]byte(contents[1][pi.Initramfs]))},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}

	// A card that was made to upset its reader is told, and does not stop PID 1.
	noise := rand.NewChaCha8([32]byte{1})
	for range 20 {
		sector := make([]byte, 64)
		noise.Read(sector)
		if _, err := f.WriteAt(sector, card.Layout[0].Start+11); err != nil {
			t.Fatal(err)
		}
		if err := measureCard(board, f.Name(), func(tpm.Measurement) error { return nil }); err == nil {
			t.Error("noise was measured")
		}
	}
}

func TestABoardIsKnownByItsModel(t *testing.T) {
	const base = "sys/firmware/devicetree/base"
	for model, want := range map[string][]string{
		"Raspberry Pi 3 Model B\x00":              {"pi3"},
		"Raspberry Pi 3 Model B Rev 1.2\x00":      {"pi3"},
		"Raspberry Pi 3 Model B+\x00":             {"pi3", "pi3+"},
		"Raspberry Pi 3 Model B Plus Rev 1.3\x00": {"pi3", "pi3+"},
		"Raspberry Pi 4 Model B Rev 1.5\x00":      {"pi4"},
		"linux,dummy-virt\x00":                    nil,
	} {
		system := fstest.MapFS{base + "/model": {Data: []byte(model)}}
		if got := filters(system); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", model, got, want)
		}
		flag := []byte{0, 0, 0, 1}
		system[base+"/chosen/bootloader/tryboot"] = &fstest.MapFile{Data: flag}
		if got := filters(system); !slices.Equal(got, append(slices.Clone(want), "tryboot")) {
			t.Errorf("%q on trial: %v", model, got)
		}
		flag[3] = 0
		if got := filters(system); !slices.Equal(got, want) {
			t.Errorf("%q not on trial: %v", model, got)
		}
	}
	if got := filters(fstest.MapFS{}); got != nil {
		t.Errorf("a machine without a name: %v", got)
	}
}
