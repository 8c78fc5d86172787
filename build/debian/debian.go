// Package debian fetches packages of the host's Debian or Ubuntu archive and
// unpacks them into a folder, without installing anything: the kernels of the
// appliance come from there.
//
// Candidate asks apt what it would install, Fetch downloads that file into a
// cache and checks its SHA-256 against apt's signed index, Unpack lays its files
// out in a folder. The commands used are apt-cache, apt-get and dpkg-deb. What the
// machine's own apt does not offer comes from an Archive.
package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ErrUnknown says that apt's index does not hold the package.
var ErrUnknown = errors.New("package is not in apt's index")

// Package is one version of a binary package.
type Package struct {
	Name, Version, Architecture string
	SHA256                      string   // lower-case hex, from apt's index
	Depends                     []string // names only; of alternatives, the first
}

// String gives name and version, as a person would write them.
func (p Package) String() string { return p.Name + " " + p.Version }

// Candidate looks up the version of the package that apt would install now. The
// error is ErrUnknown when the archive has no such package, or apt's lists were
// never fetched.
func Candidate(ctx context.Context, name string) (Package, error) {
	return candidate(ctx, nil, name)
}

// candidate asks apt with more options.
func candidate(ctx context.Context, options []string, name string) (Package, error) {
	out, err := command(ctx, "", "apt-cache", append(options, "show", "--no-all-versions", name)...)
	if errors.Is(err, exec.ErrNotFound) {
		return Package{}, fmt.Errorf("%w: this needs a Debian or Ubuntu machine", err)
	}
	if err != nil {
		return Package{}, fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	p := parse(out)
	if p.Name == "" || p.Version == "" || len(p.SHA256) != 64 {
		return Package{}, fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	return p, nil
}

// First is the candidate of the first name that the archive knows.
func First(ctx context.Context, names ...string) (Package, error) {
	for _, name := range names {
		p, err := Candidate(ctx, name)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, ErrUnknown) {
			return Package{}, err
		}
	}
	return Package{}, fmt.Errorf("%w: none of %s (is the list of packages there? run: apt-get update)",
		ErrUnknown, strings.Join(names, ", "))
}

// parse reads the first stanza of apt-cache's answer.
func parse(out []byte) Package {
	var p Package
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			break
		}
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Architecture = value
		case "SHA256":
			p.SHA256 = value
		case "Depends":
			for item := range strings.SplitSeq(value, ",") {
				if fields := strings.Fields(item); len(fields) > 0 {
					p.Depends = append(p.Depends, fields[0])
				}
			}
		}
	}
	return p
}

// Fetch downloads the package into the folder, unless the same file is there
// already, and returns its path. The file's name carries the start of its
// SHA-256, so versions do not overwrite each other.
func Fetch(ctx context.Context, p Package, dir string) (string, error) {
	return fetch(ctx, nil, p, dir)
}

func fetch(ctx context.Context, options []string, p Package, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, p.Name+"-"+p.SHA256[:16]+".deb")
	if err := verify(path, p.SHA256); err == nil {
		return path, nil
	}
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	args := append(slices.Concat(options, sandbox()), "-q", "download", p.Name+"="+p.Version)
	if out, err := command(ctx, tmp, "apt-get", args...); err != nil {
		return "", fmt.Errorf("download %s: %w (an outdated list of packages? run: apt-get update)\n%s", p, err, out)
	}
	found, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("download %s: apt-get left %d files", p, len(found))
	}
	if err := verify(found[0], p.SHA256); err != nil {
		return "", fmt.Errorf("download %s: %w", p, err)
	}
	return path, os.Rename(found[0], path)
}

// sandbox keeps apt from dropping to a user that cannot write where we want it to,
// which it would do for root.
func sandbox() []string {
	if os.Geteuid() == 0 {
		return []string{"-o", "APT::Sandbox::User=root"}
	}
	return nil
}

func verify(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%s has SHA-256 %s, not %s", path, got, want)
	}
	return nil
}

// Unpack lays out the files of a package below dir. No script of the package runs.
func Unpack(ctx context.Context, deb, dir string) error {
	if out, err := command(ctx, "", "dpkg-deb", "-x", deb, dir); err != nil {
		return fmt.Errorf("unpack %s: %w\n%s", filepath.Base(deb), err, out)
	}
	return nil
}

// command runs a program in dir with English messages and returns everything
// that it wrote.
func command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.Bytes(), err
}
