package files

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hearth/node/attachment"
)

// store keeps files in a folder. The folder is all there is: a file's name is
// its ID, its time of modification the moment it expires, and behind its content
// stand 8 bytes, the time of upload. So there is no index that could disagree with
// the files or be lost, a power cut leaves a whole file or none, and what fsck
// brings back is right or is noticed by its hash.
//
// What is kept in memory is found again by a scan after the start. Until that is
// through, files are looked up on the disk, and new ones wait.
type store struct {
	dir   string
	quota int64
	free  func() (int64, error)
	now   func() time.Time

	scanned chan struct{} // closed when entries are complete
	damaged atomic.Uint64 // files dropped because of what was read

	mu      sync.Mutex
	entries map[attachment.ID]entry
	used    int64 // bytes charged, for files under way too
	next    int64 // no file expires before, ms
}

type entry struct {
	size    int64
	expires int64 // ms
}

// meta describes a file.
type meta struct {
	id                attachment.ID
	size              int64
	uploaded, expires int64 // ms
}

const (
	trailer  = 8
	incoming = ".incoming-"

	// maxFiles bounds memory and the file system's inodes: small files are
	// charged as if there could be no more of them than this.
	maxFiles = 200_000
	minFile  = 16 << 10
	block    = 4 << 10

	// leaveFree is what files never take of a disk, for everything else on it.
	leaveFree = 128 << 20
	// soon is the part of the quota, in percent, from which on the owner is told.
	soon = 90
)

func openStore(dir string, quota int64, free func() (int64, error), now func() time.Time) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if free == nil {
		free = func() (int64, error) {
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				return 0, err
			}
			return int64(st.Bavail) * int64(st.Bsize), nil
		}
	}
	return &store{
		dir: dir, quota: quota, free: free, now: now,
		scanned: make(chan struct{}), entries: make(map[attachment.ID]entry),
	}, nil
}

// charge is what a file counts for: its blocks and what the file system needs
// beside them.
func (s *store) charge(size int64) int64 {
	blocks := (size+trailer+block-1)/block*block + block
	return max(blocks, minFile, s.quota/maxFiles)
}

// scan looks at all files of the folder. What a power cut left half written, and
// what is no file of ours, goes.
func (s *store) scan(ctx context.Context) error {
	// Also when the folder cannot be read: uploads then meet the same error.
	defer close(s.scanned)
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	for ctx.Err() == nil {
		list, err := dir.ReadDir(256)
		for _, e := range list {
			id, ok := attachment.ParseID(e.Name())
			info, statErr := e.Info()
			if ok && statErr == nil && info.Mode().IsRegular() && info.Size() > trailer {
				s.mu.Lock()
				if _, known := s.entries[id]; !known {
					s.add(id, entry{info.Size() - trailer, info.ModTime().UnixMilli()})
					s.used += s.charge(info.Size() - trailer)
				}
				s.mu.Unlock()
			} else if ok && statErr == nil || strings.HasPrefix(e.Name(), incoming) {
				os.Remove(filepath.Join(s.dir, e.Name()))
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// add enters a file; s.mu is held.
func (s *store) add(id attachment.ID, e entry) {
	s.entries[id] = e
	s.next = min(s.next, e.expires)
}

func (s *store) path(id attachment.ID) string { return filepath.Join(s.dir, id.String()) }

// lookup finds a file that has not expired.
func (s *store) lookup(id attachment.ID) (entry, bool) {
	s.mu.Lock()
	e, ok := s.entries[id]
	s.mu.Unlock()
	if !ok {
		select {
		case <-s.scanned:
			return e, false
		default:
		}
		info, err := os.Stat(s.path(id))
		if err != nil || info.Size() <= trailer {
			return e, false
		}
		e = entry{info.Size() - trailer, info.ModTime().UnixMilli()}
	}
	return e, e.expires > s.now().UnixMilli()
}

// put keeps a file whose content write writes. It is on the disk when put
// returns. A file that is there already lives to the later of the two moments,
// which put returns. Errors: errFull, errDamaged for another content than the
// name says, and those of write and the disk.
func (s *store) put(ctx context.Context, m meta, write func(io.Writer) error) (expires int64, err error) {
	select {
	case <-s.scanned:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if expires, ok := s.extend(m.id, m.expires); ok {
		return expires, nil
	}
	charge := s.charge(m.size)
	if err := s.reserve(charge); err != nil {
		return 0, err
	}
	kept := false
	defer func() {
		if !kept {
			s.mu.Lock()
			s.used -= charge
			s.mu.Unlock()
		}
	}()
	name, err := s.write(m, write)
	if err != nil {
		err = nameless(err)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = fmt.Errorf("%w: %w", errFull, err)
		}
		return 0, err
	}
	defer os.Remove(name) // without effect once renamed

	// Under the lock, so that a sweep of an older copy does not take this one.
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Rename(name, s.path(m.id)); err != nil {
		return 0, nameless(err)
	}
	if old, ok := s.entries[m.id]; ok {
		// Somebody else was faster, or it had expired.
		s.used -= s.charge(old.size)
	}
	kept = true
	s.add(m.id, entry{m.size, m.expires})
	return m.expires, syncDir(s.dir)
}

// reserve takes room before a file is written.
func (s *store) reserve(charge int64) error {
	free, err := s.free()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+charge > s.quota || free < charge+leaveFree {
		return errFull
	}
	s.used += charge
	return nil
}

// write makes a file under a name of its own, whole and on the disk.
func (s *store) write(m meta, write func(io.Writer) error) (name string, err error) {
	f, err := os.CreateTemp(s.dir, incoming+"*")
	if err != nil {
		return "", err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	hash := attachment.ContentHash()
	if err := write(io.MultiWriter(f, hash)); err != nil {
		return "", err
	}
	if attachment.ID(hash.Sum(nil)) != m.id {
		return "", errDamaged
	}
	if _, err := f.Write(binary.BigEndian.AppendUint64(nil, uint64(m.uploaded))); err != nil {
		return "", err
	}
	at := time.UnixMilli(m.expires)
	if err := os.Chtimes(f.Name(), at, at); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// extend lets a file live until expires, unless it does longer already. ok is
// false when there is none.
func (s *store) extend(id attachment.ID, expires int64) (now int64, ok bool) {
	e, ok := s.lookup(id)
	if !ok || e.expires >= expires {
		return e.expires, ok
	}
	f, err := os.Open(s.path(id))
	if err != nil {
		_ = s.lost(id, err)
		return 0, false
	}
	defer f.Close()
	at := time.UnixMilli(expires)
	if os.Chtimes(f.Name(), at, at) != nil || f.Sync() != nil {
		return e.expires, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok = s.entries[id]; ok {
		e.expires = max(e.expires, expires)
		s.add(id, e)
	}
	return expires, true
}

// info describes a file that has not expired.
func (s *store) info(id attachment.ID) (meta, bool) {
	e, ok := s.lookup(id)
	if !ok {
		return meta{}, false
	}
	var b [trailer]byte
	if err := s.readAt(id, b[:], e.size); err != nil {
		_ = s.lost(id, err)
		return meta{}, false
	}
	// The hash does not cover it; a nonsense in it must not become one of ours.
	uploaded := min(int64(binary.BigEndian.Uint64(b[:])&(1<<62-1)), e.expires)
	return meta{id, e.size, uploaded, e.expires}, true
}

// read returns the content of a file. Errors are those of lost.
func (s *store) read(m meta) ([]byte, error) {
	content := make([]byte, m.size)
	err := s.readAt(m.id, content, 0)
	if err == nil && attachment.IDOf(content) != m.id {
		err = errDamaged
	}
	if err != nil {
		return nil, s.lost(m.id, err)
	}
	return content, nil
}

// readAt fills p from a place in a file.
func (s *store) readAt(id attachment.ID, p []byte, at int64) error {
	f, err := os.Open(s.path(id))
	if err != nil {
		return nameless(err)
	}
	defer f.Close()
	_, err = f.ReadAt(p, at)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return nameless(err)
}

// nameless takes the path out of an error of the file system: it is the file's name
// in the network, and errors end in logs.
func nameless(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("%s: %w", path.Op, path.Err)
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return fmt.Errorf("%s: %w", link.Op, link.Err)
	}
	return err
}

// drop removes a file.
func (s *store) drop(id attachment.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(id)
}

// remove removes a file; s.mu is held.
func (s *store) remove(id attachment.ID) {
	if e, ok := s.entries[id]; ok {
		s.used -= s.charge(e.size)
		delete(s.entries, id)
	}
	// What cannot be removed stays on the disk, and the next scan finds it.
	_ = os.Remove(s.path(id))
}

// maxSweep bounds how long a sweep keeps others from the store.
const maxSweep = 1000

// sweep removes what has expired, at most maxSweep files at a time. It costs
// nothing when nothing has.
func (s *store) sweep() (gone int) {
	select {
	case <-s.scanned:
	default:
		return 0
	}
	now := s.now().UnixMilli()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next > now {
		return 0
	}
	next := int64(1<<63 - 1)
	for id, e := range s.entries {
		if e.expires > now {
			next = min(next, e.expires)
			continue
		}
		if gone == maxSweep {
			return gone // the rest next time; s.next is as it was
		}
		s.remove(id)
		gone++
	}
	s.next = next
	return gone
}

// each calls do for every file that has not expired, as of now.
func (s *store) each(do func(id attachment.ID, e entry)) {
	now := s.now().UnixMilli()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, e := range s.entries {
		if e.expires > now {
			do(id, e)
		}
	}
}

func (s *store) stats() Stats {
	s.mu.Lock()
	st := Stats{Files: uint64(len(s.entries)), Bytes: s.used, Quota: s.quota}
	s.mu.Unlock()
	free, err := s.free()
	switch {
	case err != nil:
		st.Trouble = "the disk does not say how much is free"
	case s.quota == 0:
	case free < leaveFree+minFile:
		st.Trouble = "the disk is nearly full: no new files are taken"
	case st.Bytes+minFile > st.Quota:
		st.Trouble = "the share of the disk for files is used up: no new files are taken"
	case st.Bytes > st.Quota/100*soon:
		st.Trouble = fmt.Sprintf("%d %% of the share of the disk for files is used", st.Bytes*100/st.Quota)
	}
	return st
}
