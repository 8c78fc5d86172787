package tpm

import (
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
)

func measured(pcr uint, name string) Measurement {
	return Measurement{PCR: pcr, Name: name, Digest: sha256.Sum256([]byte("what " + name + " is"))}
}

func TestTheChipAddsUpToWhatTheLogSays(t *testing.T) {
	d := newDevice(t)
	if err := d.Fresh(PCRSettings, PCRSoftware); err != nil {
		t.Fatalf("after a reset: %v", err)
	}
	log := Log{measured(PCRSettings, "command-line"), measured(PCRSoftware, "kernel"), measured(PCRSettings, "device-tree")}
	for _, m := range log {
		if err := d.Measure(m); err != nil {
			t.Fatal(err)
		}
	}
	read, err := ParseLog([]byte(log.String()))
	if err != nil || !slices.Equal(read, log) {
		t.Errorf("read back: %v, %v", read, err)
	}
	if err := d.Verify(read); err != nil {
		t.Error(err)
	}

	for name, wrong := range map[string]Log{
		"one left out":       log[:2],
		"another order":      {log[2], log[1], log[0]},
		"another thing":      {log[0], measured(PCRSoftware, "another kernel"), log[2]},
		"one that never was": append(slices.Clone(log), measured(PCRSoftware, "more")),
	} {
		if err := d.Verify(wrong); !errors.Is(err, ErrPCRs) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A board's restart that the chip does not notice, and one that it does.
	d.openAgain(t)
	if err := d.Fresh(PCRSettings); !errors.Is(err, ErrNotReset) {
		t.Errorf("not reset: %v", err)
	}
	d.chip.PowerCut()
	d.chip.PowerOn(t)
	d.openAgain(t)
	if err := d.Fresh(PCRSettings, PCRSoftware); err != nil {
		t.Errorf("reset: %v", err)
	}
	if err := d.Verify(log); !errors.Is(err, ErrPCRs) {
		t.Errorf("the log of the start before: %v", err)
	}
}

func TestNothingIsMeasuredThatALogCannotSay(t *testing.T) {
	d := newDevice(t)
	for _, m := range []Measurement{
		measured(24, "kernel"), measured(8, ""), measured(8, "two words"), measured(8, "a\nb"), measured(8, strings.Repeat("x", maxName+1)),
	} {
		if err := d.Measure(m); !errors.Is(err, ErrLog) {
			t.Errorf("%d %q: %v", m.PCR, m.Name, err)
		}
	}
	if err := d.Fresh(8); err != nil {
		t.Error(err)
	}
}

func TestOnlyALogIsReadAsOne(t *testing.T) {
	good := Log{measured(8, "command-line")}.String()
	for name, text := range map[string]string{
		"an empty line": "\n", "no digest": "8 kernel\n", "half a digest": good[:len(good)-10] + "\n", "no number": "x" + good,
		"a PCR that no chip has": "24" + good[1:], "a minus": "-" + good, "windows": strings.Replace(good, "\n", "\r\n", 1),
		"too many lines": strings.Repeat(good, maxMeasurements+1), "no name": "8  " + good[len(good)-65:],
	} {
		if l, err := ParseLog([]byte(text)); !errors.Is(err, ErrLog) {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	if l, err := ParseLog(nil); err != nil || len(l) != 0 || len(l.Replay()) != 0 {
		t.Errorf("nothing: %v, %v", l, err)
	}
}

func FuzzParseLog(f *testing.F) {
	f.Add([]byte(Log{measured(8, "command-line"), measured(9, "kernel")}.String()))
	f.Add([]byte("8 x 00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := ParseLog(text)
		if err != nil {
			return
		}
		again, err := ParseLog([]byte(l.String()))
		if err != nil || !slices.Equal(again, l) {
			t.Errorf("%q became %v, %v", l.String(), again, err)
		}
	})
}
