package kernel

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"hearth/build/debian"
)

// recipeAMD64 is part of the cache key of the packaged kernel.
const recipeAMD64 = "1"

// packaged are the packages that lead to a kernel for virtual machines: Debian's
// cloud kernel, and Ubuntu's counterpart.
var packaged = []string{"linux-image-cloud-amd64", "linux-image-virtual"}

// wantedModules are the drivers for QEMU's standard machine. A kernel may have
// any of them built in.
var wantedModules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
	"ext4", "tpm_tis", "dm_crypt", "xts",
}

// helpfulModules are loaded when the package has them: ext4 asks for its checksum
// by the name of the algorithm, which no dependency shows; DHCP needs packet
// sockets, which newer kernels may have built in without listing them; the
// processor's own AES makes the encrypted data several times as fast.
var helpfulModules = []string{"crc32c_generic", "crc32c_intel", "af_packet", "aesni_intel"}

// AMD64 returns the distribution's own kernel for virtual machines. The first
// call downloads 30 to 100 MB; nothing is compiled and nothing is installed.
func AMD64(ctx context.Context, cache string, progress io.Writer) (Kernel, error) {
	packages, err := kernelPackages(ctx)
	if err != nil {
		return Kernel{}, err
	}
	inputs := "amd64\n" + recipeAMD64 + "\n" + strings.Join(wantedModules, " ") + "\n" + strings.Join(helpfulModules, " ") + "\n"
	for _, p := range packages {
		inputs += p.Name + " " + p.Version + " " + p.SHA256 + "\n"
	}
	home := filepath.Join(cache, "kernel-"+key(inputs))
	source := packages[0].String()
	if k, err := cachedAMD64(home, source); err == nil {
		return k, nil
	}

	unlock, err := lock(cache, progress)
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	if k, err := cachedAMD64(home, source); err == nil {
		return k, nil
	}
	work, err := os.MkdirTemp(cache, "building-")
	if err != nil {
		return Kernel{}, err
	}
	defer os.RemoveAll(work)
	files, ready := filepath.Join(work, "files"), filepath.Join(work, "ready")
	for _, p := range packages {
		fmt.Fprintf(progress, "kernel: downloading and unpacking %s\n", p)
		deb, err := debian.Fetch(ctx, p, filepath.Join(cache, "packages"))
		if err != nil {
			return Kernel{}, fmt.Errorf("kernel: %w", err)
		}
		if err := debian.Unpack(ctx, deb, files); err != nil {
			return Kernel{}, fmt.Errorf("kernel: %w", err)
		}
	}
	if err := os.Mkdir(ready, 0o755); err != nil {
		return Kernel{}, err
	}
	image, err := one(files, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz", "lib/modules/*/vmlinuz")
	if err != nil {
		return Kernel{}, err
	}
	if err := os.Rename(image, filepath.Join(ready, "vmlinuz")); err != nil {
		return Kernel{}, err
	}
	tree, err := one(files, "lib/modules/*/kernel", "usr/lib/modules/*/kernel")
	if err != nil {
		return Kernel{}, err
	}
	if err := gatherModules(filepath.Dir(tree), filepath.Join(ready, "modules")); err != nil {
		return Kernel{}, err
	}
	os.RemoveAll(home)
	if err := os.Rename(ready, home); err != nil {
		return Kernel{}, err
	}
	return cachedAMD64(home, source)
}

// kernelPackages follows the dependencies from the first package that the archive
// knows to all packages that hold parts of that kernel, the one with the most
// telling version first. How a kernel is divided differs: Debian 12 and 13 have
// one package, Ubuntu and later Debian put the modules into a second.
func kernelPackages(ctx context.Context) ([]debian.Package, error) {
	meta, err := debian.First(ctx, packaged...)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if meta.Architecture != "amd64" {
		return nil, fmt.Errorf("kernel: this machine's archive has no amd64 kernel, only %s; the target virt-arm64 works everywhere", meta.Architecture)
	}
	var list []debian.Package
	seen := make(map[string]bool)
	for queue := meta.Depends; len(queue) > 0; {
		name := queue[0]
		queue = queue[1:]
		if seen[name] || !hasPrefix(name, "linux-image-", "linux-binary-", "linux-modules-") {
			continue
		}
		seen[name] = true
		p, err := debian.Candidate(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("kernel: %w", err)
		}
		list, queue = append(list, p), append(queue, p.Depends...)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("kernel: %s depends on no kernel", meta)
	}
	return list, nil
}

// cachedAMD64 reads a finished folder.
func cachedAMD64(home, source string) (Kernel, error) {
	k := Kernel{Image: filepath.Join(home, "vmlinuz"), Source: source}
	if _, err := os.Stat(k.Image); err != nil {
		return Kernel{}, err
	}
	list, err := os.ReadFile(filepath.Join(home, "modules", orderFile))
	if err != nil {
		return Kernel{}, err
	}
	for _, name := range strings.Fields(string(list)) {
		k.Modules = append(k.Modules, filepath.Join(home, "modules", name))
	}
	return k, nil
}

// one returns the first match of the first pattern that has one.
func one(dir string, patterns ...string) (string, error) {
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("kernel: the package has no %s", patterns[0])
}

func hasPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
