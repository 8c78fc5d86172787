package archive

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hearth/node/account"
)

func openForFiles(t *testing.T, file string) *Archive {
	t.Helper()
	at := time.UnixMilli(1_700_000_000_000)
	a, err := Open(file, account.New(account.Seed{1}), rand.Reader, func() time.Time { at = at.Add(time.Second); return at })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func attached(n byte) Attachment {
	return Attachment{URL: "http://x/file/" + string('a'+rune(n)), Key: []byte{n}}
}

// wrote adds an own message with a file.
func wrote(t *testing.T, a *Archive, ms int64, f Attachment) Message {
	t.Helper()
	m, _, err := a.Write(Message{With: account.ID{5}, Outgoing: true, Timestamp: ms, Attachments: []Attachment{f}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func onDisk(t *testing.T, file string) int {
	t.Helper()
	entries, err := os.ReadDir(filesFolder(file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return len(entries)
}

func TestFilesAreThereAsLongAsTheirMessages(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a := openForFiles(t, file)
	content := bytes.Repeat([]byte("content"), 1000)
	var messages []Message
	for i := range byte(4) {
		if err := a.StageFile(attached(i), content); err != nil {
			t.Fatal(err)
		}
		messages = append(messages, wrote(t, a, 1000+int64(i), attached(i)))
		a.ReleaseFile(attached(i))
	}
	if err := a.StageFile(attached(9), content); err != nil { // its message never comes
		t.Fatal(err)
	}
	if got, err := a.ReadFile(attached(2)); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	other := attached(2)
	other.Key = []byte{99}
	if _, err := a.ReadFile(other); !errors.Is(err, ErrNoFile) || a.HasFile(other) {
		t.Errorf("with another key: %v", err)
	}
	entries, err := os.ReadDir(filesFolder(file))
	if err != nil || len(entries) != 5 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(filesFolder(file), e.Name()))
		if err != nil || bytes.Contains(b, []byte("content")) {
			t.Errorf("it lies open, %v", err)
		}
	}
	if _, _, err := a.Unsend(messages[0].Ref()); err != nil {
		t.Fatal(err)
	}
	if a.HasFile(attached(0)) || onDisk(t, file) != 4 {
		t.Error("the file of an unsent message is still there")
	}
	// What comes after a power cut: half a file, and one that was overlooked.
	for _, name := range []string{"0123" + unfinished, "00112233445566778899aabbccddeeff"} {
		if err := os.WriteFile(filepath.Join(filesFolder(file), name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	a = openForFiles(t, file)
	if n := onDisk(t, file); n != 3 || !a.HasFile(attached(1)) || a.HasFile(attached(9)) {
		t.Errorf("after a restart %d files", n)
	}
	if got, err := a.ReadFile(attached(1)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after a restart %d bytes, %v", len(got), err)
	}
	if err := a.Forget(account.ID{5}); err != nil || onDisk(t, file) != 0 {
		t.Errorf("%d files of somebody forgotten, %v", onDisk(t, file), err)
	}
}

func TestAFileThatTheDiskDamagedIsNotThere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a := openForFiles(t, file)
	m := wrote(t, a, 1, attached(0))
	if err := a.KeepFile(m.Ref(), attached(0), []byte("content")); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(filesFolder(file), "*"))
	if len(names) != 1 {
		t.Fatalf("files %q", names)
	}
	if err := os.WriteFile(names[0], []byte("damage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.ReadFile(attached(0)); !errors.Is(err, ErrNoFile) || onDisk(t, file) != 0 {
		t.Errorf("error %v", err)
	}
	if err := a.KeepFile(m.Ref(), attached(0), []byte("content")); err != nil || !a.HasFile(attached(0)) {
		t.Errorf("fetched again: %v", err)
	}
	if err := a.KeepFile(m.Ref(), attached(1), []byte("content")); !errors.Is(err, ErrNoMessage) || a.HasFile(attached(1)) {
		t.Errorf("a file of no message: %v", err)
	}
}

func TestOldFilesGiveWayAndWaitingOnesDoNot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a := openForFiles(t, file)
	const each = 1000 + 40
	a.shelf.space = 3 * each
	content := make([]byte, 1000)
	for i := range byte(3) {
		m := wrote(t, a, 1+int64(i), attached(i))
		if err := a.KeepFile(m.Ref(), attached(i), content); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.ReadFile(attached(0)); err != nil { // it is used again
		t.Fatal(err)
	}
	for i := byte(3); i < 6; i++ {
		if err := a.StageFile(attached(i), content); err != nil {
			t.Fatal(err)
		}
		if i == 3 && (a.HasFile(attached(1)) || !a.HasFile(attached(0)) || !a.HasFile(attached(2))) {
			t.Error("another one than the longest unused gave way")
		}
	}
	if err := a.StageFile(attached(7), content); !errors.Is(err, ErrNoRoom) {
		t.Errorf("one too many waits: %v", err)
	}
	m := wrote(t, a, 9, attached(8))
	if err := a.KeepFile(m.Ref(), attached(8), content); err != nil || a.HasFile(attached(8)) {
		t.Errorf("there was room for one more: %v", err)
	}
	if a.shelf.used != 3*each || onDisk(t, file) != 3 {
		t.Errorf("%d bytes in %d files", a.shelf.used, onDisk(t, file))
	}
	for i := byte(3); i < 6; i++ {
		a.ReleaseFile(attached(i)) // no message has it
	}
	if a.shelf.used != 0 || onDisk(t, file) != 0 || len(a.shelf.holds) != 0 {
		t.Errorf("%d bytes are left, holds %v", a.shelf.used, a.shelf.holds)
	}
}

func TestAParcelHoldsItsFileOverARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a := openForFiles(t, file)
	f := attached(0)
	if err := a.StageFile(f, []byte("content")); err != nil {
		t.Fatal(err)
	}
	_, r, err := a.Write(Message{With: account.ID{5}, Outgoing: true, Timestamp: 1, State: StateWaiting, Attachments: []Attachment{f}},
		Parcel{To: account.ID{5}, Track: true, Upload: &f})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	a = openForFiles(t, file)
	a.shelf.space = 1
	if err := a.StageFile(attached(1), []byte("x")); !errors.Is(err, ErrNoRoom) || !a.HasFile(f) {
		t.Errorf("it gave way: %v", err)
	}
	left, err := a.Outbox()
	if err != nil || len(left) != 1 || left[0].Upload == nil || left[0].Upload.URL != f.URL {
		t.Fatalf("outbox %+v, %v", left, err)
	}
	if ok, err := a.Uploaded(r.Parcels[0].ID); !ok || err != nil {
		t.Errorf("uploaded: %v, %v", ok, err)
	}
	if p, ok, err := a.Parcel(r.Parcels[0].ID); !ok || err != nil || p.Upload != nil {
		t.Errorf("parcel %+v, %v, %v", p, ok, err)
	}
	if ok, err := a.Uploaded(99); ok || err != nil {
		t.Errorf("no parcel: %v, %v", ok, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Erase(file); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filesFolder(file)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("files after a wipe: %v", err)
	}
}
