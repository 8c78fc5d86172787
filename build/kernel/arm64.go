package kernel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"hearth/build/debian"
	appliance "hearth/firmware/kernel"
	"hearth/firmware/pi"
)

// recipe is part of the cache key: raise it when the steps below change what
// comes out.
const recipe = "2"

// trees is where a kernel's device trees lie in the cache.
const trees = "trees"

// steps is the number of lines that make prints for our configuration, counted
// with 6.12; it only feeds the percentage on the screen.
const steps = 2130

// sources are the packages that may hold the kernel's source, best first. 6.12 is
// the long-term kernel the configuration is tested with: Debian 13 has it, and
// Debian 12 through its security and backports archives. linux-source is whatever
// else the distribution maintains (Ubuntu, or a later Debian).
var sources = []string{"linux-source-6.12", "linux-source"}

// reproducible pins everything that the kernel's build would otherwise take from
// the machine and the moment.
var reproducible = []string{
	"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 2026",
	"KBUILD_BUILD_USER=build",
	"KBUILD_BUILD_HOST=hearth",
	"KBUILD_BUILD_VERSION=1",
	"LC_ALL=C", "TZ=UTC",
}

// Arm64 returns the appliance's own kernel for 64-bit ARM: QEMU's virt machine
// and the boards. The first call for given inputs downloads about 150 MB and
// compiles for about ten minutes on two cores; later ones return at once.
func Arm64(ctx context.Context, cache string, jobs int, progress io.Writer) (Kernel, error) {
	source, err := source(ctx)
	if err != nil {
		return Kernel{}, err
	}
	inputs := fmt.Sprintf("arm64\n%s\n%s\n%s\n%s\n%x\n%s\n", recipe, source.Name, source.Version, source.SHA256,
		appliance.Config, strings.Join(pi.Trees(), " "))
	home := filepath.Join(cache, "kernel-"+key(inputs))
	done := Kernel{Image: filepath.Join(home, "Image"), Source: source.String(), Trees: filepath.Join(home, trees)}
	if _, err := os.Stat(done.Image); err == nil {
		return done, nil
	}

	unlock, err := lock(cache, progress)
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	if _, err := os.Stat(done.Image); err == nil { // the other build made it
		return done, nil
	}
	if err := tools("make", "gcc", "bc", "flex", "bison", "xz", "tar", "perl", crossPrefix()+"gcc"); err != nil {
		return Kernel{}, err
	}

	if left, _ := filepath.Glob(filepath.Join(cache, "building-*")); left != nil {
		for _, dir := range left { // of builds that were killed: we hold the lock
			os.RemoveAll(dir)
		}
	}
	start := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(progress, "kernel: %s (%s)\n", fmt.Sprintf(format, args...), time.Since(start).Round(time.Second))
	}
	say("compiling the arm64 kernel from %s, once; takes about ten minutes on two cores", source)
	// In the cache folder and not in /tmp, which is memory on newer systems: the
	// unpacked source and the objects need 2.5 GB.
	work, err := os.MkdirTemp(cache, "building-")
	if err != nil {
		return Kernel{}, err
	}
	defer os.RemoveAll(work)

	say("downloading %s, 150 MB", source.Name)
	deb, err := debian.Fetch(ctx, source, filepath.Join(cache, "packages"))
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel source: %w", err)
	}
	say("unpacking")
	tree, err := unpackSource(ctx, deb, work)
	if err != nil {
		return Kernel{}, err
	}

	b := builder{tree: tree, out: filepath.Join(work, "out"), jobs: jobs, log: filepath.Join(cache, filepath.Base(home)+".log"), say: say}
	if err := b.configure(ctx, work); err != nil {
		return Kernel{}, err
	}
	if err := b.make(ctx, "Image"); err != nil {
		return Kernel{}, err
	}
	// With symbols, so that the TPM can be added to a finished tree.
	targets := []string{"DTC_FLAGS=-@"}
	for _, name := range pi.Trees() {
		targets = append(targets, "broadcom/"+name)
	}
	if err := b.make(ctx, targets...); err != nil {
		return Kernel{}, err
	}

	// Put the result in place in one step, so that an interrupted build is never
	// taken for a finished one.
	ready := filepath.Join(work, "ready")
	if err := os.MkdirAll(filepath.Join(ready, trees), 0o755); err != nil {
		return Kernel{}, err
	}
	results := map[string]string{
		filepath.Join(b.out, "arch/arm64/boot/Image"): "Image",
		filepath.Join(b.out, ".config"):               "config",
	}
	for _, name := range pi.Trees() {
		results[filepath.Join(b.out, "arch/arm64/boot/dts/broadcom", name)] = filepath.Join(trees, name)
	}
	for from, to := range results {
		if err := os.Rename(from, filepath.Join(ready, to)); err != nil {
			return Kernel{}, fmt.Errorf("kernel: the build left no %s: %w", to, err)
		}
	}
	origin := fmt.Sprintf("source %s\nsha256 %s\nrecipe %s\ncompiler %s\n", source, source.SHA256, recipe, compiler(ctx))
	if err := os.WriteFile(filepath.Join(ready, "origin"), []byte(origin), 0o644); err != nil {
		return Kernel{}, err
	}
	os.RemoveAll(home)
	if err := os.Rename(ready, home); err != nil {
		return Kernel{}, err
	}
	say("done: %s", done.Image)
	return done, nil
}

// source picks the package with the kernel's source.
func source(ctx context.Context) (debian.Package, error) {
	p, err := debian.First(ctx, sources...)
	if err != nil {
		return debian.Package{}, fmt.Errorf("kernel source: %w", err)
	}
	// linux-source is an empty package that depends on the versioned one.
	for _, name := range p.Depends {
		if strings.HasPrefix(name, "linux-source-") {
			return debian.Candidate(ctx, name)
		}
	}
	return p, nil
}

// unpackSource lays the kernel's source out below work and returns its folder.
func unpackSource(ctx context.Context, deb, work string) (string, error) {
	files := filepath.Join(work, "deb")
	if err := debian.Unpack(ctx, deb, files); err != nil {
		return "", err
	}
	// Debian ships usr/src/linux-source-6.12.tar.xz, Ubuntu
	// usr/src/linux-source-6.8.0/linux-source-6.8.0.tar.bz2.
	var tarball string
	for _, pattern := range []string{"usr/src/linux-source-*.tar.*", "usr/src/linux-source-*/linux-source-*.tar.*"} {
		if found, _ := filepath.Glob(filepath.Join(files, pattern)); len(found) > 0 {
			tarball = found[0]
		}
	}
	if tarball == "" {
		return "", fmt.Errorf("kernel source: no tar file in %s", filepath.Base(deb))
	}
	tree := filepath.Join(work, "linux")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-xf", tarball, "-C", tree, "--strip-components=1").CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack kernel source: %w\n%s", err, out)
	}
	return tree, os.RemoveAll(files)
}

// builder runs the kernel's own makefiles.
type builder struct {
	tree, out, log string
	jobs           int
	say            func(format string, args ...any)
}

// configure makes .config and checks that nothing we need was lost on the way.
func (b builder) configure(ctx context.Context, work string) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	wanted := filepath.Join(work, "appliance.config")
	if err := os.WriteFile(wanted, appliance.Config, 0o644); err != nil {
		return err
	}
	if err := b.make(ctx, "KCONFIG_ALLCONFIG="+wanted, "allnoconfig"); err != nil {
		return err
	}
	dotConfig, err := os.ReadFile(filepath.Join(b.out, ".config"))
	if err != nil {
		return fmt.Errorf("kernel configuration: %w", err)
	}
	missing, unwelcome, dropped := appliance.Check(dotConfig)
	if len(dropped) > 0 {
		b.say("configured; this source does not know, or drops: %s", strings.Join(dropped, " "))
	}
	if len(missing) > 0 {
		return fmt.Errorf("kernel configuration lost %s: a parent option is off (see firmware/kernel)", strings.Join(missing, ", "))
	}
	if len(unwelcome) > 0 {
		return fmt.Errorf("kernel configuration turned on %s, which the appliance must not have", strings.Join(unwelcome, ", "))
	}
	return nil
}

// make runs one target, writes its output to the log and reports now and then.
func (b builder) make(ctx context.Context, args ...string) error {
	logFile, err := os.OpenFile(b.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	args = append([]string{"-C", b.tree, "O=" + b.out, "-j" + strconv.Itoa(max(b.jobs, 1))}, args...)
	cmd := exec.CommandContext(ctx, "make", args...)
	// On an interrupt let make stop its compilers and remove half-written files.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(append(os.Environ(), "ARCH=arm64", "CROSS_COMPILE="+crossPrefix()), reproducible...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	target, last := args[len(args)-1], []string{}
	lines, reported := 0, time.Now()
	for scanner := bufio.NewScanner(pipe); scanner.Scan(); {
		lines++
		fmt.Fprintln(logFile, scanner.Text())
		if last = append(last, scanner.Text()); len(last) > 25 {
			last = last[1:]
		}
		if time.Since(reported) > 20*time.Second {
			reported = time.Now()
			b.say("%s: %d%%", target, min(99, lines*100/steps))
		}
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("kernel: make %s: %w; everything it said is in %s, the end of it:\n%s",
			target, err, b.log, strings.Join(last, "\n"))
	}
	return nil
}

// crossPrefix starts the names of the compiler's programs.
func crossPrefix() string {
	if runtime.GOARCH == "arm64" {
		return ""
	}
	return "aarch64-linux-gnu-"
}

func compiler(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, crossPrefix()+"gcc", "--version").Output()
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line)
}

// tools makes sure that the programs are there before a long build starts.
func tools(names ...string) error {
	var missing []string
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return errors.New("missing programs: " + strings.Join(missing, ", ") + "; run: make deps")
	}
	return nil
}
