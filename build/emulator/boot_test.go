//go:build boot

package emulator_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"hearth/build/emulator"
	"hearth/build/image"
	"hearth/build/kernel"
)

// The real thing: the image of each target starts in QEMU, with a TPM and a disk,
// and gets to the last stage. Run it with -tags boot.
func TestTheApplianceStarts(t *testing.T) {
	for _, target := range []emulator.Target{emulator.AMD64, emulator.VirtARM64} {
		t.Run(string(target), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
			defer cancel()
			o := machine(t, ctx, target)
			o.TPM = filepath.Join(filepath.Dir(o.Disk), "tpm")
			o.CommandLine = os.Getenv("HEARTH_TEST_CMDLINE")
			ctx, cancel = context.WithTimeout(ctx, 90*time.Second)
			defer cancel()
			m, err := emulator.Start(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Stop()
			started := time.Now()
			var reached, asked bool
			for text := range pieces(m.Serial) {
				t.Logf("%5d ms  %s", time.Since(started).Milliseconds(), text)
				switch {
				case strings.Contains(text, "FAILED"):
					t.Fatal("a stage failed")
				case strings.Contains(text, "] run: done"):
					reached = true
				case strings.Contains(text, "Type yes:"):
					io.WriteString(m.Serial, "yes\r")
				}
				if reached && !asked && strings.Contains(text, "hearth>") {
					asked = true
					io.WriteString(m.Serial, "poweroff\r")
				}
			}
			<-m.Done()
			if err := m.Err(); err != nil || !asked {
				t.Fatalf("the machine ended, asked to: %v, error: %v", asked, err)
			}
		})
	}
}

// machine is a board with the image of this tree, a panel and an empty disk; it has
// no TPM.
func machine(t *testing.T, ctx context.Context, target emulator.Target) emulator.Options {
	t.Helper()
	cache, err := kernel.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.For(ctx, target.Arch(), cache, runtime.NumCPU(), testLog{t})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	initramfs, err := image.Build(ctx, image.Options{
		Source: "../..", Arch: target.Arch(), Modules: k.Modules, Output: filepath.Join(dir, "initramfs.zst"),
	})
	if err != nil {
		t.Fatal(err)
	}
	o := emulator.Options{
		Target: target, Kernel: k.Image, Initramfs: initramfs.Path, Cache: cache,
		Disk: filepath.Join(dir, "data.img"), Panel: filepath.Join(dir, "panel"),
	}
	if err := emulator.NewDisk(o.Disk, 64); err != nil {
		t.Fatal(err)
	}
	return o
}

// pieces yields what comes over a serial line: whole lines, and a prompt as soon
// as it waits for an answer.
func pieces(r io.Reader) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		var line []byte
		for in := bufio.NewReader(r); ; {
			b, err := in.ReadByte()
			if err == nil && b != '\n' {
				line = append(line, b)
			}
			if err != nil || b == '\n' || in.Buffered() == 0 && (strings.HasSuffix(string(line), "hearth> ") || strings.HasSuffix(string(line), "Type yes: ")) {
				if text := strings.TrimSpace(string(line)); text != "" && !yield(text) {
					return
				}
				line = line[:0]
			}
			if err != nil {
				return
			}
		}
	}
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
