package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Keyring holds Debian's keys; it comes with the package debian-archive-keyring,
// which Ubuntu has as well.
const Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Archive is a part of Debian's archive that the machine's own apt need not know:
// another release, or a component that its owner has not chosen. apt checks its
// signatures as always, but keeps its lists in a folder of ours, and nothing about
// the machine changes.
type Archive struct {
	Suite     string // a release's name, such as "trixie"
	Component string // such as "non-free-firmware"
}

// Get looks a package up and downloads it, unless the same file is in the folder
// already, and returns its path. The folder also keeps the archive's lists; an
// outdated one, or none, is fetched anew.
func (a Archive) Get(ctx context.Context, name, dir string) (Package, string, error) {
	options, err := a.options(dir)
	if err != nil {
		return Package{}, "", err
	}
	p, err := candidate(ctx, options, name)
	if err == nil {
		path, err := fetch(ctx, options, p, dir)
		if err == nil {
			return p, path, nil
		}
	} else if !errors.Is(err, ErrUnknown) {
		return Package{}, "", err
	}
	out, err := command(ctx, "", "apt-get", append(append(options, sandbox()...), "-q", "update")...)
	if err != nil {
		return Package{}, "", fmt.Errorf("fetch the list of packages of %s: %w\n%s", a, err, out)
	}
	if p, err = candidate(ctx, options, name); err != nil {
		return Package{}, "", fmt.Errorf("%s: %w", a, err)
	}
	path, err := fetch(ctx, options, p, dir)
	return p, path, err
}

// String names the archive as a person would.
func (a Archive) String() string { return "Debian " + a.Suite + " " + a.Component }

// options tell apt to use this archive only, and folders of its own below dir.
func (a Archive) options(dir string) ([]string, error) {
	dir, err := filepath.Abs(filepath.Join(dir, "lists-"+a.Suite+"-"+a.Component))
	if err != nil {
		return nil, err
	}
	for _, folder := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			return nil, err
		}
	}
	sources := filepath.Join(dir, "sources.list")
	line := fmt.Sprintf("deb [signed-by=%s] http://deb.debian.org/debian %s %s\n", Keyring, a.Suite, a.Component)
	if err := os.WriteFile(sources, []byte(line), 0o644); err != nil {
		return nil, err
	}
	return []string{
		"-o", "Dir::Etc::SourceList=" + sources, "-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::State::Lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::Cache=" + dir, "-o", "Dir::Cache::Archives=" + filepath.Join(dir, "archives"),
	}, nil
}
