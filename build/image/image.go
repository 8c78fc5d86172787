// Package image makes the initramfs of the appliance: one compressed archive with
// the program hearth as /init, the kernel modules that a packaged kernel needs,
// and the few empty folders that PID 1 mounts things on.
//
// Build compiles the program and packs the archive. The same source and the same
// Go release give the same bytes, on any machine and in any folder.
package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"

	"hearth/initramfs/boot"
	"hearth/node/ledger"
)

// Options says what to build.
type Options struct {
	Source  string   // folder of the Go module
	Arch    string   // GOARCH: "amd64" or "arm64"
	Modules []string // paths of kernel modules (.ko), in the order to load them
	Output  string   // path of the file to write
	Genesis string   // file of a ledger's genesis to put in, at boot.GenesisFile; "" = none
	Tags    string   // build tags of the program, empty but in tests
}

// Initramfs is a finished archive.
type Initramfs struct {
	Path       string
	Raw        int64  // bytes before compression
	Compressed int64  // bytes of the file
	SHA256     string // of the file, lower-case hex
}

// Build makes the initramfs.
func Build(ctx context.Context, o Options) (Initramfs, error) {
	if err := os.MkdirAll(filepath.Dir(o.Output), 0o755); err != nil {
		return Initramfs{}, err
	}
	work, err := os.MkdirTemp(filepath.Dir(o.Output), ".image-")
	if err != nil {
		return Initramfs{}, err
	}
	defer os.RemoveAll(work)
	program := filepath.Join(work, "hearth")
	if err := compile(ctx, o.Source, o.Arch, o.Tags, program); err != nil {
		return Initramfs{}, err
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		return Initramfs{}, err
	}
	modules := make(map[string][]byte)
	var order strings.Builder
	for _, path := range o.Modules {
		object, err := os.ReadFile(path)
		if err != nil {
			return Initramfs{}, fmt.Errorf("kernel module: %w", err)
		}
		modules[filepath.Base(path)] = object
		fmt.Fprintln(&order, filepath.Base(path))
	}
	if len(modules) > 0 {
		modules[boot.ModulesList] = []byte(order.String())
	}

	var genesis []byte
	if o.Genesis != "" {
		if genesis, err = os.ReadFile(o.Genesis); err == nil {
			_, err = ledger.ParseGenesis(genesis)
		}
		if err != nil {
			return Initramfs{}, fmt.Errorf("%s: %w", o.Genesis, err)
		}
	}

	var archive bytes.Buffer
	if err := Pack(&archive, binary, modules, genesis); err != nil {
		return Initramfs{}, err
	}
	packed, err := compress(archive.Bytes())
	if err != nil {
		return Initramfs{}, err
	}
	// In place in one step: an emulator may be reading the old one.
	tmp := filepath.Join(work, "initramfs")
	if err := os.WriteFile(tmp, packed, 0o644); err != nil {
		return Initramfs{}, err
	}
	if err := os.Rename(tmp, o.Output); err != nil {
		return Initramfs{}, err
	}
	sum := sha256.Sum256(packed)
	return Initramfs{Path: o.Output, Raw: int64(archive.Len()), Compressed: int64(len(packed)), SHA256: hex.EncodeToString(sum[:])}, nil
}

// compile builds the program without anything that differs between two machines.
func compile(ctx context.Context, source, arch, tags, output string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=",
		"-tags", tags, "-o", output, "./initramfs/cmd/hearth")
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOEXPERIMENT=",
		"GOAMD64=v1", "GOARM64=v8.0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile hearth for %s: %w\n%s", arch, err, out)
	}
	return nil
}

// folders are empty in the archive: PID 1 mounts something on each, but etc and
// lib/modules, which have the files below.
var folders = []string{"data", "dev", "etc", "lib", "lib/modules", "proc", "run", "sys", "tmp"}

// Pack writes the archive, in the format "newc", to w. modules are the files of
// /lib/modules, genesis is that of a ledger or empty.
func Pack(w io.Writer, program []byte, modules map[string][]byte, genesis []byte) error {
	records := []cpio.Record{
		cpio.StaticFile("init", string(program), 0o755),
		// The kernel opens the console for PID 1 before /dev is mounted.
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
		cpio.StaticFile("etc/hosts", "127.0.0.1 localhost\n", 0o644),
		// The root is read-only when the network's answer comes.
		cpio.Symlink("etc/resolv.conf", boot.ResolvConf),
	}
	for _, name := range folders {
		records = append(records, cpio.Directory(name, 0o755))
	}
	if len(genesis) > 0 {
		records = append(records, cpio.StaticFile(strings.TrimPrefix(boot.GenesisFile, "/"), string(genesis), 0o644))
	}
	for name, object := range modules {
		records = append(records, cpio.StaticFile("lib/modules/"+name, string(object), 0o644))
	}
	// Sorted by name, which also puts every folder before its files.
	slices.SortFunc(records, func(a, b cpio.Record) int { return strings.Compare(a.Name, b.Name) })
	counter := &countingWriter{w: w}
	archive := cpio.Newc.Writer(counter)
	for i, record := range records {
		record = cpio.MakeReproducible(record)
		record.Ino, record.NLink = uint64(i+1), 1
		if err := archive.WriteRecord(record); err != nil {
			return fmt.Errorf("pack %s: %w", record.Name, err)
		}
	}
	if err := cpio.WriteTrailer(archive); err != nil {
		return err
	}
	_, err := w.Write(make([]byte, (512-counter.n%512)%512))
	return err
}

// compress uses one goroutine: how the work is divided shows in the result.
func compress(archive []byte) ([]byte, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer encoder.Close()
	return encoder.EncodeAll(archive, nil), nil
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
