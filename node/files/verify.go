package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hearth/node/attachment"
)

// Disks lose what nobody reads. So every file is read from time to time, slowly,
// and one that no longer is what its name says is removed while other members
// still have it: comparing with them brings it back.
const (
	verifyLeast = time.Second // between two files
	verifyMost  = time.Hour
	verifyPiece = 256 << 10 // bytes read at a time
	verifyPause = 50 * time.Millisecond
)

// verify reads all files, one after the other, once in cfg.Check, until ctx ends.
func (s *Service) verify(ctx context.Context) {
	select {
	case <-s.store.scanned:
	case <-ctx.Done():
		return
	}
	// Beginning anywhere, a node that is switched off every evening gets round, too.
	var at attachment.ID
	for i := range at {
		at[i] = byte(rand.Uint32())
	}
	for {
		m, n, ok := s.store.after(at)
		wait := verifyMost
		if ok {
			wait = max(verifyLeast, min(s.cfg.Check/time.Duration(n), verifyMost))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if !ok {
			continue
		}
		at = m.id
		err := s.store.check(ctx, m, verifyPause)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errDamaged):
			s.cfg.Log.Warn("a damaged file was removed, the swarm has it", "error", err)
			s.Wake()
		case err != nil && !errors.Is(err, errAbsent):
			s.cfg.Log.Warn("verifying a file", "error", err)
		case err == nil:
			s.checked.Add(1)
		}
	}
}

// after finds the file that follows in the order of IDs, going round the end, and
// the number of all files.
func (s *store) after(id attachment.ID) (m meta, n int, ok bool) {
	now := s.now().UnixMilli()
	var first, next *attachment.ID
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.entries {
		if e.expires <= now {
			continue
		}
		if first == nil || bytes.Compare(k[:], first[:]) < 0 {
			first = &k
		}
		if bytes.Compare(k[:], id[:]) > 0 && (next == nil || bytes.Compare(k[:], next[:]) < 0) {
			next = &k
		}
	}
	if next == nil {
		next = first
	}
	if next == nil {
		return m, 0, false
	}
	e := s.entries[*next]
	return meta{id: *next, size: e.size, expires: e.expires}, len(s.entries), true
}

// check reads a whole file and drops it when it is damaged; the error is then
// errDamaged. A pause that is not 0 is for whoever has time: it is made after each
// piece, and the disk itself is read and not what is still in memory of it.
func (s *store) check(ctx context.Context, m meta, pause time.Duration) error {
	f, err := os.Open(s.path(m.id))
	if err != nil {
		return s.lost(m.id, err)
	}
	defer f.Close()
	if pause > 0 {
		// Best effort; without it the check is of the copy in memory.
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	hash := attachment.ContentHash()
	for left := m.size; left > 0; left -= verifyPiece {
		if _, err := io.CopyN(hash, f, min(left, verifyPiece)); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return s.lost(m.id, err)
		}
		if pause == 0 {
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if attachment.ID(hash.Sum(nil)) != m.id {
		return s.lost(m.id, errDamaged)
	}
	return nil
}

// lost judges an error of reading a file: whether the file is gone or damaged, and
// then it is dropped, or only cannot be read just now, as when the process has too
// many files open. The error is errAbsent, errDamaged or another one.
func (s *store) lost(id attachment.ID, err error) error {
	err = nameless(err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.drop(id)
		return errAbsent
	case errors.Is(err, errDamaged):
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EIO), errors.Is(err, syscall.EUCLEAN), errors.Is(err, syscall.EBADMSG):
		err = fmt.Errorf("%w: %w", errDamaged, err)
	default:
		return err
	}
	s.damaged.Add(1)
	s.drop(id)
	return err
}
