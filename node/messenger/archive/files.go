package archive

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/crypto/chacha20poly1305"
)

// Files that belong to messages lie in a folder beside the database, as they are
// on the network, that is encrypted under keys that stand in the database, and
// sealed once more under the database's own key, so that nobody can find out by
// their content which files of the network they are. A file is named by a tag of
// its [Attachment].
//
// The bucket of files names those that messages have. It changes in one step with
// the messages: a file that is not in it is removed at the next start at the
// latest, and one that was written for a message that never came to be as well.

// MaxFileBytes is how much room files have altogether, in bytes. Those that can be
// fetched again give way to new ones, the longest unused first.
const MaxFileBytes = 256 << 20

// Errors of files, for errors.Is.
var (
	ErrNoFile = errors.New("the file is not on this device")
	ErrNoRoom = errors.New("too many files wait to be sent")
)

var bucketFiles = []byte("files") // tag of the attachment

// filesFolder is where the files of a database are.
func filesFolder(file string) string { return file + ".files" }

const unfinished = ".new" // what a file is called until it is on the disk

// shelf knows which files there are.
type shelf struct {
	dir   string
	space int64

	mu    sync.Mutex
	files map[string]kept
	used  int64
	holds map[string]int // files that must not give way, or go
}

type kept struct {
	size int64
	used time.Time
}

// fileTag names the file of an attachment. What it is decrypted with is part of the
// name, so that nobody's message can stand in for another one's.
func (a *Archive) fileTag(f Attachment) []byte {
	return a.tag("file", []byte(f.URL), binary.BigEndian.AppendUint64(nil, f.ID), f.Key, f.Digest)
}

// loadFiles finds out which files are there, and removes those that no message
// has.
func (a *Archive) loadFiles(tx *bbolt.Tx) error {
	entries, err := os.ReadDir(a.shelf.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("folder of files: %w", err)
	}
	for _, e := range entries {
		tag, ok := tagOf(e.Name())
		info, err := e.Info()
		if !ok || err != nil || tx.Bucket(bucketFiles).Get(tag) == nil {
			if err := os.Remove(filepath.Join(a.shelf.dir, e.Name())); err != nil {
				return fmt.Errorf("folder of files: %w", err)
			}
			continue
		}
		a.shelf.files[e.Name()] = kept{info.Size(), info.ModTime()}
		a.shelf.used += info.Size()
	}
	return tx.Bucket(bucketOutbox).ForEach(func(k, v []byte) error {
		p, err := a.parcel(k, v)
		if err == nil && p.Upload != nil {
			a.shelf.holds[hex.EncodeToString(a.fileTag(*p.Upload))]++
		}
		return nil // a damaged one is for the outbox to deal with
	})
}

// StageFile keeps the bytes of an attachment that is going to be sent. It returns
// when they are on the disk. They stay until [Archive.ReleaseFile], or as long as
// a message has them. Errors: [ErrNoRoom], and those of the disk.
func (a *Archive) StageFile(f Attachment, content []byte) error {
	name := hex.EncodeToString(a.fileTag(f))
	a.shelf.hold(name)
	if err := a.writeFile(f, content); err != nil {
		a.shelf.release(name)
		return err
	}
	return nil
}

// ReleaseFile lets a staged file give way to others. Without a message that has it,
// it is removed.
func (a *Archive) ReleaseFile(f Attachment) {
	tag := a.fileTag(f)
	name := hex.EncodeToString(tag)
	a.shelf.release(name)
	// A closed database looks after it when it is opened.
	_ = a.db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketFiles).Get(tag) == nil {
			a.shelf.remove(name)
			a.shelf.remove(name + partial)
		}
		return nil
	})
}

// KeepFile keeps the bytes of an attachment of a message that was downloaded. One
// for which there is no room is not kept, which is no error. The errors are
// [ErrNoMessage] when the message is no longer there, and those of the disk.
func (a *Archive) KeepFile(r Ref, f Attachment, content []byte) error {
	tag := a.fileTag(f)
	name := hex.EncodeToString(tag)
	a.shelf.hold(name) // until the database names it
	defer a.ReleaseFile(f)
	if err := a.writeFile(f, content); errors.Is(err, ErrNoRoom) {
		return nil
	} else if err != nil {
		return err
	}
	a.DropPart(f) // nobody needs it any more
	return a.nameFile(r, f)
}

// HasFile tells whether the bytes of an attachment are on this device.
func (a *Archive) HasFile(f Attachment) bool {
	name := hex.EncodeToString(a.fileTag(f))
	a.shelf.mu.Lock()
	defer a.shelf.mu.Unlock()
	_, ok := a.shelf.files[name]
	return ok
}

// ReadFile returns the bytes of an attachment as they are on the network. A file
// that the disk has damaged is removed. The errors are [ErrNoFile] and those of
// the disk.
func (a *Archive) ReadFile(f Attachment) ([]byte, error) {
	tag := a.fileTag(f)
	name := hex.EncodeToString(tag)
	a.shelf.mu.Lock()
	k, ok := a.shelf.files[name]
	if ok {
		k.used = a.now()
		a.shelf.files[name] = k
	}
	a.shelf.mu.Unlock()
	if !ok {
		return nil, ErrNoFile
	}
	path := filepath.Join(a.shelf.dir, name)
	sealed, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading a file: %w", err)
	}
	content, openErr := a.open(bucketFiles, tag, sealed)
	if err != nil || openErr != nil {
		a.shelf.remove(name)
		return nil, ErrNoFile
	}
	_ = os.Chtimes(path, k.used, k.used) // for the order in which they give way after a restart
	return content, nil
}

func (a *Archive) writeFile(f Attachment, content []byte) error {
	tag := a.fileTag(f)
	name := hex.EncodeToString(tag)
	sealed := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(content)+a.aead.Overhead())
	if _, err := io.ReadFull(a.rand, sealed); err != nil {
		return fmt.Errorf("drawing a nonce: %w", err)
	}
	sealed = a.aead.Seal(sealed, sealed, content, place(bucketFiles, tag))
	s := &a.shelf
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeRoom(name, int64(len(sealed))); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("keeping a file: %w", err)
	}
	path := filepath.Join(s.dir, name)
	if err := writeSynced(path, sealed); err != nil {
		os.Remove(path + unfinished)
		return fmt.Errorf("keeping a file: %w", err)
	}
	s.forget(name)
	s.files[name] = kept{int64(len(sealed)), a.now()}
	s.used += int64(len(sealed))
	return nil
}

// writeSynced makes a file that is there as a whole or not at all.
func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path+unfinished, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+unfinished, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// makeRoom removes the longest unused files. The caller holds s.mu.
func (s *shelf) makeRoom(name string, size int64) error {
	type aged struct {
		name string
		kept
	}
	var free []aged
	left := s.space - s.used - size
	for n, k := range s.files {
		switch {
		case n == name:
			left += k.size // it is replaced
		case s.holds[n] == 0:
			free = append(free, aged{n, k})
		}
	}
	slices.SortFunc(free, func(x, y aged) int { return cmp.Or(x.used.Compare(y.used), cmp.Compare(x.name, y.name)) })
	var gone []string
	for _, f := range free {
		if left >= 0 {
			break
		}
		left += f.size
		gone = append(gone, f.name)
	}
	if left < 0 {
		return ErrNoRoom
	}
	for _, n := range gone {
		if err := os.Remove(filepath.Join(s.dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("making room for a file: %w", err)
		}
		s.forget(n)
	}
	return nil
}

// forget is for a file that is no longer there. The caller holds s.mu.
func (s *shelf) forget(name string) {
	s.used -= s.files[name].size
	delete(s.files, name)
}

// remove removes a file. One that cannot be removed goes at the next start.
func (s *shelf) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.files[name]; ok {
		_ = os.Remove(filepath.Join(s.dir, name))
		s.forget(name)
	}
}

func (s *shelf) hold(name string) {
	s.mu.Lock()
	s.holds[name]++
	s.mu.Unlock()
}

func (s *shelf) release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds[name]--; s.holds[name] <= 0 {
		delete(s.holds, name)
	}
}

// nameFiles says that a message has its files.
func (w *change) nameFiles(tx *bbolt.Tx, m Message) error {
	for _, f := range m.Attachments {
		if err := w.a.put(tx, bucketFiles, w.a.fileTag(f), nil); err != nil {
			return err
		}
	}
	return nil
}

// dropFiles is for a message that is going away.
func (w *change) dropFiles(tx *bbolt.Tx, m Message) error {
	for _, f := range m.Attachments {
		tag := w.a.fileTag(f)
		if err := tx.Bucket(bucketFiles).Delete(tag); err != nil {
			return err
		}
		w.dropped = append(w.dropped, hex.EncodeToString(tag), hex.EncodeToString(tag)+partial)
	}
	return nil
}

// Uploaded takes note that a parcel's file is on the network, so that only its
// message is left to be delivered. ok is false when the parcel is no longer in
// the outbox.
func (a *Archive) Uploaded(id uint64) (ok bool, err error) {
	_, err = a.change(func(tx *bbolt.Tx, w *change) error {
		key := parcelKey(id)
		v := tx.Bucket(bucketOutbox).Get(key)
		if v == nil {
			return nil
		}
		p, err := a.parcel(key, v)
		if err != nil {
			return err
		}
		ok = true
		p.Upload = nil
		return w.putParcel(tx, p)
	})
	return ok, err
}
