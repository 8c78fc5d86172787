// Command image makes the kernel and the initramfs of a target and prints where
// they are, how big they are, and their SHA-256.
//
//	go run ./build/cmd/image -target amd64
//	go run ./build/cmd/image -target virt-arm64 -out out
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"hearth/build/emulator"
	"hearth/build/image"
	"hearth/build/kernel"
)

func main() {
	target := flag.String("target", string(emulator.AMD64), "what to build for: amd64 or virt-arm64")
	out := flag.String("out", "out", "folder for the result")
	source := flag.String("source", ".", "folder of the source code")
	jobs := flag.Int("jobs", runtime.NumCPU(), "compilers to run at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, emulator.Target(*target), *source, *out, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, target emulator.Target, source, out string, jobs int) error {
	cache, err := kernel.CacheDir()
	if err != nil {
		return err
	}
	k, err := kernel.For(ctx, target.Arch(), cache, jobs, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "image: compiling and packing the initramfs")
	initramfs, err := image.Build(ctx, image.Options{
		Source: source, Arch: target.Arch(), Modules: k.Modules,
		Output: filepath.Join(out, "initramfs-"+string(target)+".zst"),
	})
	if err != nil {
		return err
	}
	content, err := os.ReadFile(k.Image)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	fmt.Printf("kernel     %s\n           %s, %d bytes\n           sha256 %s\n", k.Image, k.Source, len(content), hex.EncodeToString(sum[:]))
	fmt.Printf("initramfs  %s\n           %d bytes, %d before compression\n           sha256 %s\n",
		initramfs.Path, initramfs.Compressed, initramfs.Raw, initramfs.SHA256)
	return nil
}
