package boot

import (
	"fmt"
	"os"
	"syscall"

	"github.com/u-root/u-root/pkg/libinit"
	"golang.org/x/sys/unix"
)

const (
	sealed = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

	// RunFolder holds the sockets of the services and what the network told us.
	RunFolder = "/run/hearth"
	// ResolvConf is where the addresses of the name servers are written; the image
	// links /etc/resolv.conf there.
	ResolvConf = RunFolder + "/resolv.conf"
)

// namespace is everything that is mounted before anything else happens. The
// folders below / are in the initramfs already.
var namespace = []libinit.Creator{
	// hidepid: a service does not even see the others' processes.
	libinit.Mount{Source: "proc", Target: "/proc", FSType: "proc", Flags: sealed, Opts: "hidepid=2"},
	libinit.Mount{Source: "sysfs", Target: "/sys", FSType: "sysfs", Flags: sealed | unix.MS_RDONLY},
	libinit.Mount{Source: "devtmpfs", Target: "/dev", FSType: "devtmpfs", Flags: unix.MS_NOSUID | unix.MS_NOEXEC, Opts: "mode=0755"},
	libinit.Mount{Source: "tmpfs", Target: "/run", FSType: "tmpfs", Flags: sealed, Opts: "mode=0755,size=8m"},
	libinit.Mount{Source: "tmpfs", Target: "/tmp", FSType: "tmpfs", Flags: sealed, Opts: "mode=1777,size=16m"},
	libinit.Dir{Name: RunFolder, Mode: 0o755},
	// From here on nothing in the image changes any more; /etc/resolv.conf is a
	// link to a file below /run.
	libinit.Mount{Target: "/", Flags: unix.MS_REMOUNT | unix.MS_RDONLY},
}

// mounts makes the namespace, and the folder of sockets for each service.
func mounts() error {
	unix.Umask(0)
	defer unix.Umask(0o077)
	for _, c := range namespace {
		if err := c.Create(); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	return socketFolders()
}

// socketFolders gives every service that listens a folder of its own, so that
// none can take the place of another, and links the well-known names there.
func socketFolders() error {
	for _, r := range listening {
		folder := RunFolder + "/" + r.name
		if err := os.Mkdir(folder, 0o755); err != nil {
			return err
		}
		if err := os.Chown(folder, int(r.uid), int(r.uid)); err != nil {
			return err
		}
		if err := os.Symlink(ownSocket(r.name), socket(r.name)); err != nil {
			return err
		}
	}
	return nil
}

// confine takes from PID 1, and so from everything that it will start, what no
// process of the appliance needs.
func confine() error {
	// AllThreads: the flag belongs to a thread, and any of them may fork.
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("no_new_privs: %w", errno)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("core limit: %w", err)
	}
	files := unix.Rlimit{Cur: 1024, Max: 16384} // Go programs raise Cur to Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("file limit: %w", err)
	}
	return nil
}
