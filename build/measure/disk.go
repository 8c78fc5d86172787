package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// disk is a folder on a block device of its own, which counts what reaches it.
type disk struct {
	dir    string
	device string // name in /sys/block; empty when it could not be made
	close  func()
}

// written is what reached a device.
type written struct {
	bytes, writes, flushes int64
}

// newDisk makes a file system on a loop device in memory. Without the right to do
// so it is an ordinary folder, and only time and size are known.
func newDisk(size int64) (*disk, error) {
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	top, err := os.MkdirTemp(base, "hearth-measure")
	if err != nil {
		return nil, err
	}
	d := &disk{dir: filepath.Join(top, "disk"), close: func() { os.RemoveAll(top) }}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		return nil, err
	}
	image := filepath.Join(top, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(image, size); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 || command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image) != nil {
		return d, nil
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		return d, nil
	}
	loop := strings.TrimSpace(string(out))
	if err := syscall.Mount(loop, d.dir, "ext4", syscall.MS_NOATIME, ""); err != nil {
		return d, command("losetup", "--detach", loop)
	}
	d.device = filepath.Base(loop)
	d.close = func() {
		syscall.Unmount(d.dir, 0)
		command("losetup", "--detach", loop)
		os.RemoveAll(top)
	}
	return d, nil
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// count reads what has reached the device (Documentation/block/stat.rst).
func (d *disk) count() (w written, known bool) {
	if d.device == "" {
		return w, false
	}
	b, err := os.ReadFile("/sys/block/" + d.device + "/stat")
	fields := strings.Fields(string(b))
	if err != nil || len(fields) < 17 {
		return w, false
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(fields[i], 10, 64) // the kernel writes numbers
		return n
	}
	return written{bytes: number(6) * 512, writes: number(4), flushes: number(15)}, true
}

// Of an SD card of the better kind (A1): what it needs for a flush, for a write
// anywhere, and for a byte.
const (
	cardFlush = 3 * time.Millisecond
	cardWrite = 2 * time.Millisecond // 500 a second, the least that A1 promises
	cardBytes = 10 << 20             // a second, the least that class 10 promises
)

// onCard is how long a card would be busy with it.
func (w written) onCard() time.Duration {
	return time.Duration(w.flushes)*cardFlush + time.Duration(w.writes)*cardWrite +
		time.Duration(float64(w.bytes)/cardBytes*float64(time.Second))
}

// used is what the files in a folder take on disk.
func used(dir string) (sum int64) {
	filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				sum += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		return nil
	})
	return sum
}
