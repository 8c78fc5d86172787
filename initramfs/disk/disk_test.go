package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hearth/firmware/card"
)

const label = "hearth-data"

// sparse is an empty file of size bytes.
func sparse(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func formatted(t testing.TB, size int64) *os.File {
	t.Helper()
	f := sparse(t, size)
	if err := Format(f, size, label); err != nil {
		t.Fatal(err)
	}
	return f
}

// check lets the distribution's own tool look at a file system, where there is one.
func check(t *testing.T, f *os.File) {
	t.Helper()
	tool, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Log("no e2fsck here, no second opinion")
		return
	}
	if out, err := exec.Command(tool, "-fn", f.Name()).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func TestANewFileSystemIsCleanAndKnowsItsLabel(t *testing.T) {
	for _, c := range []struct {
		mib    int64
		blocks uint64
	}{{63, 63 << 8}, {64, 64 << 8}, {100, 100 << 8}, {256, 256 << 8}, {30 << 10, 256 << 8}} {
		f := formatted(t, c.mib*mib)
		got, err := Inspect(f)
		if want := (State{Label: label, Blocks: c.blocks}); err != nil || got != want {
			t.Errorf("%d MiB: %+v, %v", c.mib, got, err)
		}
		check(t, f)
	}
	if err := Format(sparse(t, Smallest-Payload-1), Smallest-Payload-1, label); !errors.Is(err, ErrSmall) {
		t.Errorf("a partition that is too small: %v", err)
	}
}

func TestInspectTellsWhatIsWrong(t *testing.T) {
	set := func(at int, value uint32) func(super []byte) {
		return func(super []byte) {
			binary.LittleEndian.PutUint32(super[at:], value)
			binary.LittleEndian.PutUint32(super[checksumAt:], sum(super))
		}
	}
	for _, c := range []struct {
		name   string
		change func(super []byte)
		want   State
		err    error
	}{
		{name: "nothing", change: func([]byte) {}, want: State{Label: label, Blocks: 64 << 8}},
		{name: "the power failed", change: func(s []byte) {
			set(incompatAt, binary.LittleEndian.Uint32(s[incompatAt:])|needsRecovery)(s)
		}, want: State{Label: label, Blocks: 64 << 8, Unclean: true}},
		{name: "the kernel found errors", change: func(s []byte) {
			copy(s[errorFuncAt:], "ext4_lookup")
			set(errorTimeAt, 1_800_000_000)(s)
			set(errorCountAt, 3)(s)
		}, want: State{Label: label, Blocks: 64 << 8, Errors: `3 errors, the first on 2027-01-15 08:00:00 in "ext4_lookup"`}},
		{name: "a bit has turned over", change: func(s []byte) { s[300] ^= 4 }, err: ErrDamaged},
		{name: "it was overwritten", change: func(s []byte) { clear(s) }, err: ErrNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := formatted(t, 64*mib)
			super := make([]byte, superSize)
			if _, err := f.ReadAt(super, superAt); err != nil {
				t.Fatal(err)
			}
			c.change(super)
			if _, err := f.WriteAt(super, superAt); err != nil {
				t.Fatal(err)
			}
			got, err := Inspect(f)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("%+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
		})
	}
	if _, err := Inspect(bytes.NewReader(make([]byte, 1500))); !errors.Is(err, ErrNone) {
		t.Errorf("a disk of 1500 bytes: %v", err)
	}
}

func TestADamagedSuperblockIsRepairedFromItsCopy(t *testing.T) {
	f := formatted(t, 256*mib)
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, superSize), superAt); err != nil {
		t.Fatal(err)
	}
	if err := Repair(f, label); err != nil {
		t.Fatal(err)
	}
	got, err := Inspect(f)
	if want := (State{Label: label, Blocks: 256 << 8, Unclean: true}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	// The journal has nothing in it; e2fsck first says so, and then what else is wrong.
	if tool, err := exec.LookPath("e2fsck"); err == nil {
		exec.Command(tool, "-fy", f.Name()).Run()
		check(t, f)
	}
}

func TestNothingIsRepairedThatWasNotOurs(t *testing.T) {
	for name, f := range map[string]*os.File{
		"an empty partition": sparse(t, 300*mib),
		"another label":      formatted(t, 256*mib),
	} {
		before, err := Inspect(f)
		if err := Repair(f, "photographs"); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "photographs") {
			t.Errorf("%s: %v", name, err)
		}
		if after, again := Inspect(f); after != before || !errors.Is(again, err) {
			t.Errorf("%s changed", name)
		}
	}
}

func TestThePartitionGrowsInTheTableOfAnImage(t *testing.T) {
	f := sparse(t, 1<<30)
	if _, err := GrowPartition(f); !errors.Is(err, card.ErrForeign) {
		t.Errorf("a disk without our table: %v", err)
	}
	if _, err := f.WriteAt(card.Table(), 0); err != nil {
		t.Fatal(err)
	}
	// A file has no kernel that wants to be told; the table is written before.
	if changed, err := GrowPartition(f); !changed || err == nil {
		t.Errorf("changed %v, %v", changed, err)
	}
	sector := make([]byte, card.SectorSize)
	if _, err := f.ReadAt(sector, 0); err != nil {
		t.Fatal(err)
	}
	found, err := card.Parse(sector)
	if data := found[card.Data-1]; err != nil || data.Start+data.Size != 1<<30 {
		t.Errorf("%v, %v", found, err)
	}
	if changed, err := GrowPartition(f); changed || err != nil {
		t.Errorf("once more: %v, %v", changed, err)
	}
}

func FuzzInspect(f *testing.F) {
	super := make([]byte, superAt+superSize)
	file := formatted(f, 64*mib)
	if _, err := file.ReadAt(super, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(super)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, disk []byte) {
		s, err := Inspect(bytes.NewReader(disk))
		if err != nil && s != (State{}) || len(s.Label) > longestLabel {
			t.Errorf("%+v, %v", s, err)
		}
	})
}
