package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Erase removes the folder of files, then overwrites the database file and removes
// it. What is not there is no error. Nobody may have it open.
//
// A flash card may keep older copies of its blocks; what is in them is sealed
// under a key that comes from the account's seed.
func Erase(file string) error {
	if err := os.RemoveAll(filesFolder(file)); err != nil {
		return fmt.Errorf("erasing the files: %w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("erasing the database: %w", err)
	}
	err = overwrite(f)
	f.Close()
	if err := errors.Join(err, os.Remove(file)); err != nil {
		return fmt.Errorf("erasing the database: %w", err)
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("erasing the database: %w", err)
	}
	defer dir.Close()
	return dir.Sync()
}

func overwrite(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, zeros{}, info.Size()); err != nil {
		return err
	}
	return f.Sync()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
