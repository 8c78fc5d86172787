package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/vfs"
	"github.com/cockroachdb/pebble/vfs/errorfs"
)

// folder is a database's files.
type folder map[string][]byte

func readFolder(t testing.TB, path string) folder {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	f := make(folder)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(path, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // of a running database
		}
		if err != nil {
			t.Fatal(err)
		}
		f[e.Name()] = b
	}
	return f
}

func (f folder) write(t testing.TB) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "messages")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range f {
		if err := os.WriteFile(filepath.Join(path, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func (f folder) with(name string, content []byte) folder {
	g := make(folder, len(f))
	for n, b := range f {
		g[n] = b
	}
	if g[name] = content; content == nil {
		delete(g, name)
	}
	return g
}

// of gives the largest file whose name fits.
func (f folder) of(t testing.TB, pattern string) string {
	t.Helper()
	best := ""
	for name, b := range f {
		if ok, _ := filepath.Match(pattern, name); ok && (best == "" || len(b) > len(f[best])) {
			best = name
		}
	}
	if best == "" {
		t.Fatalf("no file %s", pattern)
	}
	return best
}

// filled gives the files of a database with n messages of alice's, most of them in
// tables and the last in the log.
func filled(t testing.TB, n int) folder {
	t.Helper()
	path := filepath.Join(t.TempDir(), "messages")
	db, err := Open(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range n {
		m := message(alice, 0, fmt.Sprint("message ", i))
		m.Expiry = time.Now().Add(time.Hour).UnixMilli()
		m.Data = bytes.Repeat([]byte{byte(i)}, i%20*100)
		if err := db.update(func(t tables) error { return t.insert(m, m.Expiry) }); err != nil {
			t.Fatal(err)
		}
		if i == n*9/10 {
			if err := db.engine.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return readFolder(t, path)
}

// try opens the files and reads everything, and gives the first error.
func (f folder) try(t testing.TB) error {
	path := f.write(t)
	db, err := Open(path, time.Now)
	if err != nil {
		return err
	}
	defer db.Close()
	_, _, err = db.Retrieve(alice, 0, "", 0, 0)
	if err == nil {
		err = db.view(tables.verify)
	}
	if !errors.Is(err, ErrDamaged) {
		return err
	}
	// The node must get to know, and the next start too.
	if _, swept := db.Sweep(); !errors.Is(swept, ErrDamaged) {
		t.Errorf("sweeping after %v: %v", err, swept)
	}
	db.Close()
	if again, opened := Open(path, time.Now); !errors.Is(opened, ErrDamaged) {
		t.Errorf("opening again after %v: %v", err, opened)
		if opened == nil {
			again.Close()
		}
	}
	return err
}

// TestDamageIsNoticed breaks files in many ways. Whoever opens or reads them must
// either notice or have a database that works: never panic, never fault.
func TestDamageIsNoticed(t *testing.T) {
	whole := filled(t, 200)
	if err := whole.try(t); err != nil {
		t.Fatalf("the whole files: %v", err)
	}
	table, manifest, log := whole.of(t, "*.sst"), whole.of(t, "MANIFEST-*"), whole.of(t, "*.log")
	for name, f := range map[string]folder{
		"text instead of a table":  whole.with(table, bytes.Repeat([]byte("not a table\n"), 1000)),
		"zeros instead of a table": whole.with(table, make([]byte, len(whole[table]))),
		"half a table":             whole.with(table, whole[table][:len(whole[table])/2]),
		"no table":                 whole.with(table, nil),
		"no list of tables":        whole.with(manifest, nil),
		"an empty list of tables":  whole.with(manifest, []byte{}),
		"nothing that names the list": whole.with(whole.of(t, "marker.manifest.*"), nil).
			with("CURRENT", nil),
	} {
		if err := f.try(t); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, file := range []string{table, manifest, log} {
		noticed := 0
		for i := range 60 {
			content := bytes.Clone(whole[file])
			at := random.IntN(len(content))
			switch i % 3 {
			case 0: // a sector of noise
				for j := at &^ 511; j < min(len(content), at|511); j++ {
					content[j] = byte(random.Uint32())
				}
			case 1: // a sector that was not written
				clear(content[at&^511 : min(len(content), at|511)])
			case 2: // a bit
				content[at] ^= 1 << random.IntN(8)
			}
			if err := whole.with(file, content).try(t); err != nil {
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("%s: damage %d at %d: %v", file, i, at, err)
				}
				noticed++
			}
		}
		// What breaks the end of the log is as if the power had gone before it was
		// written; the swarm fills the gap.
		if noticed < 40 && file == table {
			t.Errorf("%s: only %d of 60 damages noticed", file, noticed)
		}
	}
}

// TestNothingAcknowledgedIsLostWhenThePowerGoes stores on a disk that forgets what
// was not synced, and cuts the power at many moments.
func TestNothingAcknowledgedIsLostWhenThePowerGoes(t *testing.T) {
	for cut := range 12 {
		disk := vfs.NewStrictMem()
		if err := disk.MkdirAll("/messages", 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := disk.OpenDir("/")
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Sync(); err != nil {
			t.Fatal(err)
		}
		var acknowledged []string
		for range 3 { // times that the power goes
			db, err := openOn(disk, "/messages", time.Now)
			if err != nil {
				t.Fatal(err)
			}
			db.consistent(t)
			for _, h := range acknowledged {
				if _, ok, err := db.LoadMessage(HashBytes(h)); err != nil || !ok {
					t.Fatalf("cut %d: %s is lost, %v", cut, h, err)
				}
			}
			var mu sync.Mutex
			var writers sync.WaitGroup
			off := false
			for w := range 4 {
				writers.Go(func() {
					for i := 0; ; i++ {
						h := fmt.Sprint(cut, " ", w, " ", i, " ", len(acknowledged))
						m := message(alice, int16(w), h)
						m.Data = bytes.Repeat([]byte{byte(i)}, 20_000)
						_, _, err := db.Store(m)
						mu.Lock()
						if err == nil && !off {
							acknowledged = append(acknowledged, h)
						}
						if !off && len(acknowledged) > (cut+1)*41 {
							disk.SetIgnoreSyncs(true)
							off = true
						}
						ends := off
						mu.Unlock()
						if ends {
							return
						}
					}
				})
			}
			writers.Wait()
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			disk.ResetToSyncedState()
			disk.SetIgnoreSyncs(false)
		}
	}
}

// TestCopiesOfARunningDatabaseOpen copies the files one after the other while they
// are written to, as a power cut on a disk that keeps everything leaves them.
func TestCopiesOfARunningDatabaseOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "messages")
	db, err := Open(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	opened := 0
	for i := range 40 {
		var acknowledged []string
		for j := range 20 {
			h := fmt.Sprint(i, "-", j)
			m := message(alice, 0, h)
			m.Data = make([]byte, 10_000)
			db.mustStore(t, m)
			acknowledged = append(acknowledged, h)
		}
		db.committing.Lock() // the copy is not of one moment otherwise
		f := readFolder(t, path)
		db.committing.Unlock()
		copied, err := Open(f.write(t), time.Now)
		if err != nil {
			if strings.Contains(err.Error(), "no such file") || strings.Contains(err.Error(), "does not exist") {
				continue // the engine merged files meanwhile
			}
			t.Fatalf("copy %d: %v", i, err)
		}
		opened++
		copied.consistent(t)
		for _, h := range acknowledged {
			if _, ok, err := copied.LoadMessage(HashBytes(h)); err != nil || !ok {
				t.Errorf("copy %d: %s is lost, %v", i, h, err)
			}
		}
		copied.Close()
	}
	if opened == 0 {
		t.Error("every copy was made while files were merged")
	}
}

func TestASuspicionThatWasWrongIsForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "messages")
	db, err := Open(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	db.mustStore(t, message(alice, 0, "a"))
	db.suspect(ErrDamaged)
	if _, err := db.Sweep(); !errors.Is(err, ErrDamaged) {
		t.Errorf("sweeping: %v", err)
	}
	db.Close()
	for range 2 {
		if db, err = Open(path, time.Now); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Sweep(); err != nil {
			t.Error(err)
		}
		db.Close()
	}
	if _, err := os.Stat(filepath.Join(path, suspected)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestADiskThatTakesNothingEndsTheWrites(t *testing.T) {
	var full atomic.Bool
	disk := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op, path string) error {
		if full.Load() && filepath.Ext(path) == ".log" && op.OpKind() == errorfs.OpKindWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	db, err := openOn(disk, "/messages", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	db.mustStore(t, message(alice, 0, "a"))
	full.Store(true)
	for _, h := range []string{"b", "c"} {
		if _, _, err := db.Store(message(alice, 0, h)); !errors.Is(err, ErrEnded) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("storing %s: %v", h, err)
		}
	}
	if got := db.hashes(t, alice, 0, ""); !strings.HasPrefix(got, "a") {
		t.Errorf("reading: %q", got)
	}
	if _, err := db.Sweep(); !errors.Is(err, ErrEnded) {
		t.Errorf("sweeping: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestAClosedDatabaseSaysSo(t *testing.T) {
	db, _ := testDB(t)
	for range 2 {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	_, _, retrieving := db.Retrieve(alice, 0, "", 0, 0)
	_, _, storing := db.Store(message(alice, 0, "a"))
	for _, err := range []error{retrieving, storing, db.Track(everyone, func() {})} {
		if !errors.Is(err, errClosed) {
			t.Error(err)
		}
	}
}

func TestADatabaseIsClosedWhileItIsSummedUp(t *testing.T) {
	for range 300 {
		db, err := openOn(vfs.NewMem(), "/messages", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		db.mustStore(t, message(alice, 0, "a"))
		var both sync.WaitGroup
		both.Go(func() {
			if err := db.Track(everyone, func() {}); err != nil && !errors.Is(err, errClosed) {
				t.Error(err)
			}
		})
		both.Go(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
	}
}

func TestAccountsAreForgottenWithTheirMessages(t *testing.T) {
	db, c := testDB(t)
	db.mustStore(t, message(alice, 0, "a"))
	db.mustStore(t, message(bob, 0, "b"))
	db.Delete(alice, []string{"a"})
	count := func() (n int) {
		if err := db.view(func(t tables) error {
			for range t.names.within(nil) {
				n++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 1 {
		t.Errorf("%d accounts", n)
	}
	db.mustStore(t, message(alice, 0, "c"))
	if got := db.hashes(t, alice, 0, ""); got != "c" || count() != 2 {
		t.Errorf("%q, %d accounts", got, count())
	}
	if _, _, err := db.alone(message(alice, 0, "d")); err != nil || count() != 2 {
		t.Errorf("replaced the only message: %d accounts, %v", count(), err)
	}
	db.consistent(t)
	c.now = time.UnixMilli(3_000_000)
	if _, err := db.Sweep(); err != nil || count() != 0 {
		t.Errorf("%d accounts are left, %v", count(), err)
	}
	db.consistent(t)
}

// FuzzOpen gives Open a file in place of one of its own.
func FuzzOpen(f *testing.F) {
	whole := filled(f, 40)
	patterns := []string{"*.sst", "MANIFEST-*", "*.log", "OPTIONS-*", "marker.manifest.*"}
	for i, p := range patterns {
		f.Add(byte(i), whole[whole.of(f, p)])
		f.Add(byte(i), []byte("text"))
	}
	f.Fuzz(func(t *testing.T, which byte, content []byte) {
		file := whole.of(t, patterns[int(which)%len(patterns)])
		if err := whole.with(file, append([]byte{}, content...)).try(t); err != nil && !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(record{hash: packHash(realHash(1)), stamp: 1 << 50, timestamp: 1 << 40, base: 1 << 41, expiry: -1, data: []byte("data")}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			return
		}
		again, err := decode(r.encode())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Errorf("%v, then %v, %v", r, again, err)
		}
	})
}
