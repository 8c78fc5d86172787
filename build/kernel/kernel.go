// Package kernel gets the Linux kernel for a target of the image builder.
//
// Arm64 compiles our own small kernel from Debian's packaged source and the
// configuration in firmware/kernel. AMD64 takes Debian's packaged cloud kernel
// with the few modules that QEMU's standard machine needs. Both return a Kernel,
// whose files lie in the user's cache folder and are made only once for the same
// inputs.
package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Kernel is a kernel that is ready to boot.
type Kernel struct {
	Image   string   // path of the file for QEMU's -kernel
	Source  string   // package and version it comes from
	Modules []string // paths of uncompressed modules (.ko), in the order to load them
	Trees   string   // folder of the boards' device trees; "" = the machine describes itself
}

// CacheDir is where kernels and downloaded packages are kept: "hearth" in the
// user's cache folder (normally ~/.cache/hearth). Deleting it is always safe.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(dir, "hearth"), nil
}

// key is a short hash of everything that decides what a cached kernel contains.
func key(inputs string) string {
	sum := sha256.Sum256([]byte(inputs))
	return hex.EncodeToString(sum[:8])
}

// lock keeps two builds from doing the same long work in one cache folder. The
// returned function releases it; the system does so too when the process dies.
func lock(cache string, progress io.Writer) (func(), error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, "kernel.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		fmt.Fprintln(progress, "kernel: waiting for another build of this user to finish")
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
	return func() { f.Close() }, nil
}

// For returns the kernel for a processor: "amd64" or "arm64", as in GOARCH. See
// AMD64 and Arm64.
func For(ctx context.Context, arch, cache string, jobs int, progress io.Writer) (Kernel, error) {
	switch arch {
	case "amd64":
		return AMD64(ctx, cache, progress)
	case "arm64":
		return Arm64(ctx, cache, jobs, progress)
	}
	return Kernel{}, fmt.Errorf("kernel: none for %q", arch)
}
