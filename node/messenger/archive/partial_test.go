package archive

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hearth/node/account"
)

// parts keeps a download of three parts.
func parts(t *testing.T, a *Archive, m Message, f Attachment) (whole []byte) {
	t.Helper()
	whole = bytes.Repeat([]byte("content "), 3000)
	for i := range 3 {
		if err := a.KeepPart(m.Ref(), f, int64(i*5000), int64(len(whole)), whole[i*5000:(i+1)*5000]); err != nil {
			t.Fatal(err)
		}
	}
	return whole
}

func have(t *testing.T, a *Archive, f Attachment) []byte {
	t.Helper()
	got, _, err := a.Partial(f)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestADownloadIsKeptInParts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a := openForFiles(t, file)
	m := wrote(t, a, 1000, attached(1))
	if got := have(t, a, attached(1)); got != nil {
		t.Fatalf("%d bytes of nothing", len(got))
	}
	whole := parts(t, a, m, attached(1))
	name := filepath.Join(filesFolder(file), hex.EncodeToString(a.fileTag(attached(1)))+partial)
	sealed, err := os.ReadFile(name)
	if err != nil || bytes.Contains(sealed, []byte("content")) {
		t.Fatalf("it lies open, %v", err)
	}
	a.Close()
	a = openForFiles(t, file)
	if got, total, err := a.Partial(attached(1)); err != nil || !bytes.Equal(got, whole[:15_000]) || total != int64(len(whole)) {
		t.Fatalf("after a restart %d bytes of %d, %v", len(got), total, err)
	}
	if a.HasFile(attached(1)) {
		t.Error("part of a file counts as the file")
	}
	if _, err := a.ReadFile(attached(1)); !errors.Is(err, ErrNoFile) {
		t.Errorf("reading it as a whole: %v", err)
	}

	// A part that does not follow is not kept, one from the beginning replaces all.
	if err := a.KeepPart(m.Ref(), attached(1), 20_000, int64(len(whole)), whole[20_000:]); err != nil || len(have(t, a, attached(1))) != 15_000 {
		t.Errorf("behind a gap: %v", err)
	}
	if err := a.KeepPart(m.Ref(), attached(1), 0, 9, whole[:5]); err != nil || !bytes.Equal(have(t, a, attached(1)), whole[:5]) {
		t.Errorf("anew: %v", err)
	}
	if _, err := os.Stat(name); err != nil {
		t.Error(err)
	}

	// The whole takes their place; without its message nothing is left.
	if err := a.KeepFile(m.Ref(), attached(1), whole); err != nil || have(t, a, attached(1)) != nil || onDisk(t, file) != 1 {
		t.Errorf("%d files, %v", onDisk(t, file), err)
	}
	other := wrote(t, a, 2000, attached(2))
	parts(t, a, other, attached(2))
	if err := a.Forget(account.ID{5}); err != nil || onDisk(t, file) != 0 || have(t, a, attached(2)) != nil {
		t.Errorf("%d files of somebody forgotten, %v", onDisk(t, file), err)
	}
	if err := a.KeepPart(other.Ref(), attached(2), 0, 5, whole[:5]); !errors.Is(err, ErrNoMessage) || onDisk(t, file) != 0 {
		t.Errorf("for a message that is gone: %v", err)
	}
}

func TestPartsThatAPowerCutOrTheDiskDamagedAreCutOff(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(b []byte) []byte
		left   int // bytes
	}{
		"the last part is half written": {func(b []byte) []byte { return b[:len(b)-100] }, 10_000},
		"the last length is cut":        {func(b []byte) []byte { return b[:2*len(b)/3+2] }, 10_000},
		"a byte of the second changed":  {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, 5_000},
		"the length is enormous":        {func(b []byte) []byte { b[0] = 0xff; return b }, 0},
		"parts have changed places": {func(b []byte) []byte {
			n := len(b) / 3
			return append(append(append([]byte(nil), b[n:2*n]...), b[:n]...), b[2*n:]...)
		}, 0},
		"nothing is left": {func([]byte) []byte { return nil }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "db")
			a := openForFiles(t, file)
			m := wrote(t, a, 1000, attached(1))
			whole := parts(t, a, m, attached(1))
			path := filepath.Join(filesFolder(file), hex.EncodeToString(a.fileTag(attached(1)))+partial)
			a.Close()
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, c.damage(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			a = openForFiles(t, file)
			if got := have(t, a, attached(1)); !bytes.Equal(got, whole[:c.left]) {
				t.Fatalf("%d bytes are left, want %d", len(got), c.left)
			}
			// It goes on from there.
			if err := a.KeepPart(m.Ref(), attached(1), int64(c.left), int64(len(whole)), whole[c.left:]); err != nil {
				t.Fatal(err)
			}
			if got := have(t, a, attached(1)); !bytes.Equal(got, whole) {
				t.Errorf("%d bytes afterwards", len(got))
			}
		})
	}
}

func TestPartsGiveWayToOtherFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a := openForFiles(t, file)
	a.shelf.space = 40_000
	m := wrote(t, a, 1000, attached(1))
	parts(t, a, m, attached(1))
	if err := a.StageFile(attached(2), make([]byte, 30_000)); err != nil {
		t.Fatal(err)
	}
	if got := have(t, a, attached(1)); got != nil {
		t.Errorf("%d bytes are left", len(got))
	}
	// Where there is no room, the download goes on without a net.
	if err := a.KeepPart(m.Ref(), attached(1), 0, 20_000, make([]byte, 20_000)); err != nil || have(t, a, attached(1)) != nil {
		t.Errorf("without room: %v", err)
	}
}
