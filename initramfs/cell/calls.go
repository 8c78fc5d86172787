package cell

// calls are what every role may call: what the Go runtime uses, files, sockets
// that are there. The test beside this file runs the roles and says which of
// these nobody used, and which are missing.
var calls = []string{
	// the runtime: threads, memory, time, signals to itself
	"clock_gettime", "clock_nanosleep", "epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2",
	"exit", "exit_group", "futex", "getpid", "getppid", "getrandom", "gettid", "gettimeofday", "madvise", "membarrier",
	"mincore", "mlockall", "munmap", "nanosleep", "pipe2", "restart_syscall", "rseq", "rt_sigaction", "rt_sigprocmask",
	"rt_sigreturn", "sched_getaffinity", "sched_yield", "set_robust_list", "sigaltstack", "sysinfo", "timer_create", "timer_delete",
	"timer_settime", "uname",
	// who one is
	"getegid", "geteuid", "getgid", "getuid",
	// files
	"close", "dup", "dup3", "faccessat", "faccessat2", "fchmod", "fchmodat", "fchown", "fchownat", "fcntl", "fdatasync",
	"flock", "fstat", "fstatfs", "fsync", "ftruncate", "getcwd", "getdents64", "ioctl", "linkat", "lseek", "mkdirat", "msync", "openat",
	"pread64", "preadv", "pselect6", "ppoll", "pwrite64", "pwritev", "read", "readlinkat", "readv", "renameat", "renameat2",
	"statfs", "statx", "symlinkat", "sync_file_range", "unlinkat", "utimensat", "write", "writev",
	// sockets; which kinds can be made is a matter of the socket call
	"accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg",
	"recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
	// to lock itself in further
	"landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp",
}

// callsOf are those with other names on other architectures.
var callsOf = map[string][]string{
	"amd64": {"newfstatat", "arch_prctl", "epoll_wait", "poll", "getrlimit"},
	"arm64": {"fstatat"},
}

// doors are the calls by which a socket becomes one that others can reach.
var doors = []string{"bind", "listen"}
