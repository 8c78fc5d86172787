package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"
)

const (
	modulesFolder = "/lib/modules"
	// ModulesList names the file in that folder that lists the module files, one
	// in a line, in the order to load them. The image builder writes it.
	ModulesList = "load"
)

// loadModules loads the kernel modules of the image. A kernel that has everything
// built in comes without a list.
func loadModules(folder string, say Say) error {
	list, err := os.ReadFile(filepath.Join(folder, ModulesList))
	if errors.Is(err, fs.ErrNotExist) {
		say("none, the kernel has everything built in")
		return nil
	}
	if err != nil {
		return err
	}
	names := strings.Fields(string(list))
	for _, name := range names {
		if err := loadModule(filepath.Join(folder, name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	say("%d loaded", len(names))
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// EEXIST: another module has pulled it in, or it is built in after all.
	if err := kmodule.FileInit(f, "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
