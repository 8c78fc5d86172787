package card

import (
	"bytes"
	"errors"
	"testing"
)

func TestThePartitionsFollowEachOtherAndFillTheImage(t *testing.T) {
	at := int64(4 * mib)
	for i, p := range Layout {
		if p.Start != at || p.Start%(4*mib) != 0 || p.Size <= 0 {
			t.Errorf("partition %d starts at %d, not %d", i+1, p.Start, at)
		}
		at += p.Size
	}
	if at != ImageSize {
		t.Errorf("they end at %d, the image at %d", at, ImageSize)
	}
	got, err := Parse(Table())
	if err != nil || got != Layout {
		t.Errorf("read back: %v, %v", got, err)
	}
}

func TestTheDataPartitionGrowsToTheEndOfTheCard(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		want int64 // of the data partition
		err  error
	}{
		{"a card of the image's size", ImageSize, 4 * mib, nil},
		{"a card of 32 GB", 31_914_983_424, 31_914_983_424/mib*mib - 172*mib, nil},
		{"a few sectors more", ImageSize + 5*SectorSize, 4 * mib, nil},
		{"a card beyond what the table can say", 1 << 43, (172*mib+int64(^uint32(0))*SectorSize)/mib*mib - 172*mib, nil},
		{"a card that is too small", ImageSize - 1, 0, ErrSmall},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := Table()
			grown, data, changed, err := Grow(before, c.size)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if !bytes.Equal(before, Table()) {
				t.Error("it changed its argument")
			}
			if err != nil {
				return
			}
			if data.Size != c.want || changed != (c.want != 4*mib) {
				t.Errorf("%d bytes, changed: %v; want %d", data.Size, changed, c.want)
			}
			found, err := Parse(grown)
			if err != nil || found[Data-1] != data || found[SlotA-1] != Layout[SlotA-1] {
				t.Errorf("read back: %v, %v", found, err)
			}
			if _, _, changed, err := Grow(grown, c.size); changed || err != nil {
				t.Errorf("once more: changed %v, %v", changed, err)
			}
		})
	}
}

func TestAForeignCardIsLeftAlone(t *testing.T) {
	for name, change := range map[string]func(sector []byte) []byte{
		"empty":                 func(s []byte) []byte { clear(s); return s },
		"short":                 func(s []byte) []byte { return s[:100] },
		"another identifier":    func(s []byte) []byte { s[signatureAt]++; return s },
		"another partition":     func(s []byte) []byte { s[entriesAt+4] = 0x83; return s },
		"a slot of another end": func(s []byte) []byte { s[entriesAt+16+13]++; return s },
		"data that was moved":   func(s []byte) []byte { s[entriesAt+48+9]++; return s },
	} {
		if _, _, _, err := Grow(change(Table()), 1<<34); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyTheBuildersWordsMakeAPartitionBlank(t *testing.T) {
	if !IsBlank(Blank()) {
		t.Error("a blank partition is not")
	}
	almost := Blank()
	almost[SectorSize-1] = 1
	for _, sector := range [][]byte{nil, make([]byte, SectorSize), almost, Blank()[:100]} {
		if IsBlank(sector) {
			t.Errorf("%d other bytes are blank", len(sector))
		}
	}
}

func FuzzGrow(f *testing.F) {
	f.Add(Table(), int64(1<<35))
	f.Add([]byte{}, int64(-1))
	f.Fuzz(func(t *testing.T, sector []byte, size int64) {
		grown, data, changed, err := Grow(sector, size)
		if err == nil && (len(grown) != len(sector) || data.Start+data.Size > size || changed == bytes.Equal(grown, sector)) {
			t.Errorf("%v %v", data, changed)
		}
	})
}
