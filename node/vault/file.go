package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// unfinished is how files begin that a start removes: a new one that has not got
// its name yet, or an old one that has lost it.
const unfinished = ".unfinished-"

// card is the file system as a power cut sees it: a few steps, between any two of
// which the power may go.
type card struct {
	step func() // called after each of them, nil for nothing
}

func (c card) stepped() {
	if c.step != nil {
		c.step()
	}
}

// writeNew writes a file, mode 0600, that is whole or not there at all when the
// power goes at any moment, and durable when it returns. A file that is there
// already stays, and the error is fs.ErrExist.
func (c card) writeNew(path string, b []byte) error {
	return c.put(path, b, unix.RENAME_NOREPLACE)
}

// replace puts a file in the place of the one at path, which must be there:
// whenever the power goes, the old or the new one is there, whole. The old one's
// bytes are overwritten afterwards.
func (c card) replace(path string, b []byte) error {
	old, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := c.put(path, b, 0); err != nil {
		return err
	}
	return overwrite(old) // it has no name any more
}

func (c card) put(path string, b []byte, flags uint) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, unfinished) // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	c.stepped()
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	c.stepped()
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, path, flags); err != nil {
		return &fs.PathError{Op: "rename", Path: path, Err: err}
	}
	c.stepped()
	return syncDir(dir)
}

// destroy removes a file so that it is there, whole, or gone whenever the power
// goes, and overwrites its bytes before they are given back. A flash card may
// keep an older copy of them all the same; what is in the file is sealed.
func (c card) destroy(path string) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, unfinished)
	if err != nil {
		return err
	}
	f.Close()
	if err := os.Rename(path, f.Name()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	c.stepped()
	if err := syncDir(dir); err != nil {
		return err
	}
	return c.erase(f.Name())
}

// erase overwrites a file and removes it.
func (c card) erase(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = overwrite(f)
	f.Close()
	c.stepped()
	if err := errors.Join(err, os.Remove(path)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func overwrite(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// What is larger than a blob is not ours, and need not be held in memory.
	zeros := make([]byte, min(info.Size(), maxBlob))
	if _, err := f.WriteAt(zeros, 0); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// removeUnfinished takes away what a power cut left.
func (c card) removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unfinished) {
			if err := c.erase(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("removing an unfinished file: %w", err)
			}
		}
	}
	return nil
}
