// Package wholefile replaces small files as a whole: after a power cut at any
// moment a reader finds the old contents or the new ones, and the new ones once
// Write has returned. For the latter the folder has to be written out too, which
// the known library for this (github.com/google/renameio) leaves to its caller.
package wholefile

import (
	"os"
	"path/filepath"
)

// Write replaces the file at path, readable by the owner only.
func Write(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // without effect once renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
