// Package probe tries, from inside a cell, what whoever takes a process over would
// try next. It is in no released image: the test of the cells builds one with it.
package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Result is one attempt.
type Result struct {
	What    string
	Refused bool
	How     string // the error, or "it worked"
}

func (r Result) String() string {
	word := "refused"
	if !r.Refused {
		word = "BREACH"
	}
	return fmt.Sprintf("%-7s %-48s %s", word, r.What, r.How)
}

// Own says what a role has of its own, which is then not tried.
type Own struct {
	Folder  string   // its data, "" = none
	Devices []string // device files
	Network bool     // it may open TCP and UDP sockets
}

// Run tries everything once. What the machine does not have counts as refused,
// and says so.
func Run(own Own) []Result {
	var all []Result
	for _, a := range attempts(own) {
		err := a.try()
		r := Result{What: a.what, Refused: err != nil, How: "it worked"}
		if err != nil {
			r.How = reason(err)
		}
		all = append(all, r)
	}
	return all
}

// reason is the system's word alone: longer texts would not fit the table.
func reason(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return unix.ErrnoName(number)
	}
	return err.Error()
}

type attempt struct {
	what string
	try  func() error
}

func attempts(own Own) []attempt {
	list := []attempt{
		// others' files
		{"list the data partition", func() error { _, err := os.ReadDir("/data"); return err }},
		{"read PID 1's environment", read("/proc/1/environ")},
		{"read PID 1's memory", read("/proc/1/mem")},
		{"see another process", seeOthers},
		{"read the kernel's messages", func() error { return first(read("/dev/kmsg")(), call(unix.SYS_SYSLOG, 3, 0, 0)) }},
		{"write into the program", write("/init")},
		{"make a file in /", create("/probe")},
		{"make a file in /etc", create("/etc/probe")},
		{"make a file in /run", create("/run/probe")},
		{"make a file in /dev", create("/dev/probe")},
		{"make a device node", func() error {
			return unix.Mknod(filepath.Join(folder(own), "node"), unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0)))
		}},
		{"change a kernel setting", write("/proc/sys/kernel/core_pattern")},
		// devices
		{"open the memory", read("/dev/mem")},
		{"open a watchdog", write("/dev/watchdog")},
		// other programs and code
		{"start the program again", func() error { return call(unix.SYS_EXECVE, text("/init"), 0, 0) }},
		{"start a program from memory", func() error { return call(unix.SYS_EXECVEAT, 3, text(""), 0) }},
		{"make a process", fork},
		{"make a file in memory", func() error { return call(unix.SYS_MEMFD_CREATE, text("probe"), 0, 0) }},
		{"map memory that can be run", func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
			return err
		}},
		{"make written memory run", makeRunnable},
		{"load a kernel module", func() error { return call(unix.SYS_INIT_MODULE, text("x"), 1, text("")) }},
		{"load a kernel module from a file", func() error { return call(unix.SYS_FINIT_MODULE, 3, text(""), 0) }},
		{"load another kernel", func() error { return call(unix.SYS_KEXEC_LOAD, 0, 0, 0) }},
		{"load a BPF program", func() error { return call(unix.SYS_BPF, 5, 0, 0) }},
		// other processes
		{"trace PID 1", func() error { return call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1, 0) }},
		{"be traced", func() error { return call(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0) }},
		{"read another process's memory", func() error { return call(unix.SYS_PROCESS_VM_READV, 1, 0, 0) }},
		{"end another process", func() error { return unix.Kill(otherPID(), 0) }},
		{"end everybody", func() error { return unix.Kill(-1, 0) }},
		// privileges
		{"become root", func() error { return call(unix.SYS_SETUID, 0, 0, 0) }},
		{"join root's group", func() error { return call(unix.SYS_SETGID, 0, 0, 0) }},
		{"gain a capability", gainCapability},
		{"allow new privileges again", func() error { return call(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 0, 0) }},
		{"raise a limit", func() error {
			return unix.Prlimit(1, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}, nil)
		}},
		{"run before all others", func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -20) }},
		{"allow core dumps", func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }},
		// the machine
		{"mount a file system", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
		{"unmount one", func() error { return unix.Unmount("/proc", 0) }},
		{"change the root folder", func() error { return unix.Chroot("/") }},
		{"make namespaces", func() error { return unix.Unshare(unix.CLONE_NEWNS) }},
		{"set the clock", func() error {
			now := unix.Timespec{}
			return call(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&now)), 0)
		}},
		{"switch the machine off", func() error { return call(unix.SYS_REBOOT, 0, 0, 0) }},
		{"rename the machine", func() error { return unix.Sethostname([]byte("probe")) }},
		// dark corners of the kernel
		{"use io_uring", func() error { return call(unix.SYS_IO_URING_SETUP, 1, 0, 0) }},
		{"use perf", func() error { return call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0) }},
		{"use userfaultfd", func() error { return call(unix.SYS_USERFAULTFD, 0, 0, 0) }},
		{"use the key ring", func() error {
			return first(call(unix.SYS_ADD_KEY, text("user"), text("x"), text("y")), call(unix.SYS_KEYCTL, 0, 0, 0))
		}},
		{"use file handles", func() error { return call(unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0) }},
		// the network
		{"open a raw socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{"open a packet socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
		{"open a netlink socket", socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)},
		{"open a cipher socket", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
		{"open a socket to the hypervisor", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
		{"listen on a port", listen},
		{"listen on a socket for other processes", listenUnix(own)},
	}
	for _, name := range []string{"vault", "node", "messenger"} {
		if path := "/data/" + name; path != own.Folder {
			list = append(list, attempt{"read the folder of " + name, func() error { _, err := os.ReadDir(path); return err }})
		}
	}
	for _, pattern := range []string{"/dev/tpmrm0", "/dev/tpm0", "/dev/vd*", "/dev/mmcblk*", "/dev/ttyS*", "/dev/ttyAMA*", "/dev/vport*"} {
		list = append(list, attempt{"open " + pattern, device(pattern, own.Devices)})
	}
	if !own.Network {
		list = append(list,
			attempt{"open a TCP socket", socket(unix.AF_INET, unix.SOCK_STREAM, 0)},
			attempt{"open a UDP socket", socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)},
			attempt{"see a network interface", seeNetwork})
	}
	return list
}

func folder(own Own) string {
	if own.Folder != "" {
		return own.Folder
	}
	return "/tmp"
}

func read(path string) func() error {
	return func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.Read(make([]byte, 1))
		return err
	}
}

func write(path string) func() error {
	return func() error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		return err
	}
}

func create(path string) func() error {
	return func() error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			f.Close()
			os.Remove(path)
		}
		return err
	}
}

// device opens every file of a kind that is not one's own.
func device(pattern string, own []string) func() error {
	return func() error {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		refused := errors.New("not on this machine")
		for _, path := range found {
			mine := false
			for _, o := range own {
				mine = mine || o == path
			}
			if mine {
				refused = errors.New("its own")
				continue
			}
			f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
			if err == nil {
				f.Close()
				return nil
			}
			refused = err
		}
		return refused
	}
}

func socket(family, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(family, kind, protocol)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func listen() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 4444}); err != nil {
		return err
	}
	return unix.Listen(fd, 1)
}

func listenUnix(own Own) func() error {
	return func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		path := filepath.Join(folder(own), "probe.sock")
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return err
		}
		defer os.Remove(path)
		return unix.Listen(fd, 1)
	}
}

// seeOthers looks for a process that is not this one.
func seeOthers() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			if _, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
				return nil
			}
		}
	}
	return errors.New("none is to be seen")
}

// otherPID is a process that is not this one.
func otherPID() int {
	if os.Getpid() == 1 {
		return 2
	}
	return 1
}

func seeNetwork() error {
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lo" {
			return nil
		}
	}
	return errors.New("none but loopback")
}

func gainCapability() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	all := [2]unix.CapUserData{{Effective: 1, Permitted: 1}, {}}
	return unix.Capset(&header, &all[0])
}

// fork makes a child that ends at once, which no Go program could do anything
// else with.
func fork() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

func makeRunnable() error {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(page)
	return unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC)
}

func call(number, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall(number, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// first is the error of two ways, or nil when one of them worked.
func first(a, b error) error {
	if a == nil || b == nil {
		return nil
	}
	return a
}

var texts [][]byte // keeps what text points to

func text(s string) uintptr {
	b := append([]byte(s), 0)
	texts = append(texts, b)
	return uintptr(unsafe.Pointer(&b[0]))
}
