package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// orderFile lists the gathered modules in the order to load them.
const orderFile = "order"

// gatherModules copies the wanted modules, and those they depend on, out of a
// package's modules folder (the one with modules.builtin), uncompressed. An
// unpacked package has no modules.dep, which is made at installation; so the
// dependencies are read from the modules themselves.
func gatherModules(from, to string) error {
	set, err := openModules(from)
	if err != nil {
		return err
	}
	for _, name := range wantedModules {
		if err := set.add(name, nil); err != nil {
			return fmt.Errorf("kernel: %w", err)
		}
	}
	for _, name := range helpfulModules {
		if err := set.add(name, nil); err != nil && !errors.Is(err, errNoModule) {
			return fmt.Errorf("kernel: %w", err)
		}
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	var order strings.Builder
	for _, m := range set.order {
		name := m.name + ".ko"
		fmt.Fprintln(&order, name)
		if err := os.WriteFile(filepath.Join(to, name), m.object, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(to, orderFile), []byte(order.String()), 0o644)
}

var errNoModule = errors.New("the package has no such module")

// moduleSet finds modules by name and collects them in load order.
type moduleSet struct {
	files   map[string]string // name → path of the file
	builtin map[string]bool
	added   map[string]bool
	order   []module
}

type module struct {
	name   string
	object []byte // ELF, uncompressed
}

func openModules(dir string) (*moduleSet, error) {
	s := &moduleSet{files: make(map[string]string), builtin: make(map[string]bool), added: make(map[string]bool)}
	list, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		s.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(e.Name(), ".ko") {
			s.files[moduleName(path)] = path
		}
		return err
	})
	return s, err
}

// moduleName takes a module's name from its file. The kernel treats - and _ in it
// as the same.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// add puts a module behind everything it depends on. chain are the modules on
// whose behalf, to find circles.
func (s *moduleSet) add(name string, chain []string) error {
	name = strings.ReplaceAll(name, "-", "_")
	if s.added[name] || s.builtin[name] {
		return nil
	}
	if len(chain) > 32 {
		return fmt.Errorf("module %s depends on itself: %s", name, strings.Join(chain, " → "))
	}
	path, ok := s.files[name]
	if !ok {
		return fmt.Errorf("%s: %w", name, errNoModule)
	}
	object, err := readModule(path)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	depends, soft, err := dependencies(object)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	chain = append(chain, name)
	for _, d := range soft { // nice to have; often an alias that only depmod could resolve
		if err := s.add(d, chain); err != nil && !errors.Is(err, errNoModule) {
			return err
		}
	}
	for _, d := range depends {
		if err := s.add(d, chain); err != nil {
			return fmt.Errorf("%s needs %w", name, err)
		}
	}
	s.added[name] = true
	s.order = append(s.order, module{name: name, object: object})
	return nil
}

// dependencies reads the section .modinfo, a list of key=value, each ended by a
// zero byte.
func dependencies(object []byte) (depends, soft []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil, errors.New("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, nil, err
	}
	for item := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(item), "=")
		switch key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					depends = append(depends, name)
				}
			}
		case "softdep": // "pre: a b post: c"
			before := true
			for word := range strings.FieldsSeq(value) {
				switch {
				case word == "pre:":
					before = true
				case word == "post:":
					before = false
				case before:
					soft = append(soft, word)
				}
			}
		}
	}
	return depends, soft, nil
}

// readModule reads a module file and undoes its compression.
func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".xz":
		r, err = xz.NewReader(f)
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(f); err == nil {
			defer d.Close()
			r = d
		}
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
