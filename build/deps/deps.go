// Package deps installs the programs that building, running and testing the
// appliance needs, on Debian and Ubuntu.
//
// Missing looks for the programs themselves, not for packages, so it is quick and
// also content with programs that came another way. Install asks apt-get for the
// packages of those that are missing, and for nothing else.
package deps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"hearth/build/debian"
)

// Need is a thing to have, and the package that brings it.
type Need struct {
	Package string
	Program string // looked up in PATH; "" = see File
	File    string // a header or library, for packages without a program
	For     string // what it is needed for
}

// Needs lists everything. Package names are those of Debian 12 and 13 and of
// Ubuntu 24.04.
var Needs = []Need{
	{Package: "qemu-system-x86", Program: "qemu-system-x86_64", For: "running the amd64 image"},
	{Package: "qemu-system-arm", Program: "qemu-system-aarch64", For: "running the arm64 image"},
	{Package: "swtpm", Program: "swtpm", For: "the emulated TPM"},
	{Package: "zbar-tools", Program: "zbarimg", For: "reading the panel's QR code with a foreign eye"},
	{Package: "dpkg", Program: "dpkg-deb", For: "unpacking Debian's kernels"},
	{Package: "make", Program: "make", For: "building"},
	{Package: "gcc", Program: "gcc", For: "the arm64 kernel"},
	{Package: "libc6-dev", File: "/usr/include/stdio.h", For: "the arm64 kernel"},
	{Package: "bc", Program: "bc", For: "the arm64 kernel"},
	{Package: "flex", Program: "flex", For: "the arm64 kernel"},
	{Package: "bison", Program: "bison", For: "the arm64 kernel"},
	{Package: "perl", Program: "perl", For: "the arm64 kernel"},
	{Package: "tar", Program: "tar", For: "the arm64 kernel"},
	{Package: "xz-utils", Program: "xz", For: "the arm64 kernel"},
	{Package: "bzip2", Program: "bzip2", For: "the arm64 kernel"},
	{Package: "device-tree-compiler", Program: "fdtoverlay", For: "the device trees of the SD card"},
	{Package: "debian-archive-keyring", File: debian.Keyring, For: "checking the Raspberry Pi's firmware"},
	{Package: "gcc-aarch64-linux-gnu", Program: "aarch64-linux-gnu-gcc", For: "the arm64 kernel"},
}

// Missing returns the needs that this machine does not meet.
func Missing() []Need { return missing(Needs, exec.LookPath) }

func missing(needs []Need, look func(string) (string, error)) []Need {
	var list []Need
	for _, n := range needs {
		if n.Program != "" {
			if _, err := look(n.Program); err == nil {
				continue
			}
		} else if _, err := os.Stat(n.File); err == nil {
			continue
		}
		list = append(list, n)
	}
	return list
}

// Install installs what is missing and says on progress what it does. It runs
// apt-get, through sudo when the user is not root. The list of packages is
// fetched when there is none yet, as in a fresh container, and again when an
// installation does not work: the archive may have moved on.
func Install(ctx context.Context, progress io.Writer) error {
	needs := Missing()
	// The kernels come straight out of the archive, so apt must know it.
	_, err := debian.First(ctx, "linux-source", "linux-image-cloud-amd64", "linux-image-virtual")
	indexed := err == nil
	if len(needs) == 0 && indexed {
		fmt.Fprintln(progress, "deps: everything is installed")
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		var names []string
		for _, n := range needs {
			names = append(names, fmt.Sprintf("%s%s (%s)", n.Program, n.File, n.For))
		}
		return fmt.Errorf("no apt-get here; install by hand: %s", strings.Join(names, ", "))
	}
	var packages []string
	for _, n := range needs {
		fmt.Fprintf(progress, "deps: %s is missing, for %s\n", n.Package, n.For)
		packages = append(packages, n.Package)
	}
	a := apt{progress: progress}
	if !indexed {
		fmt.Fprintln(progress, "deps: fetching the list of packages")
		if err := a.run(ctx, "update"); err != nil {
			return err
		}
	}
	if len(packages) == 0 {
		return nil
	}
	fmt.Fprintf(progress, "deps: installing %s\n", strings.Join(packages, " "))
	install := append([]string{"install", "--yes", "--no-install-recommends"}, packages...)
	if err := a.run(ctx, install...); err != nil {
		if !indexed {
			return err
		}
		fmt.Fprintln(progress, "deps: that did not work; again with a fresh list of packages")
		if err := a.run(ctx, "update"); err != nil {
			return err
		}
		if err := a.run(ctx, install...); err != nil {
			return err
		}
	}
	if left := Missing(); len(left) > 0 {
		return fmt.Errorf("apt-get is content, but %s%s is still not there", left[0].Program, left[0].File)
	}
	return nil
}

type apt struct{ progress io.Writer }

func (a apt) run(ctx context.Context, args ...string) error {
	args = append([]string{"apt-get", "-q"}, args...)
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return errors.New("this needs root, or sudo: " + strings.Join(args, " "))
		}
		args = append([]string{"sudo", "--preserve-env=DEBIAN_FRONTEND"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdin = os.Stdin // sudo's password
	cmd.Stdout, cmd.Stderr = a.progress, a.progress
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}
