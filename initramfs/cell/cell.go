// Package cell locks a process into what its role needs, so that whoever takes
// the process over gains no more than that.
//
// A role calls [Enter] first thing, with the files it will use, and [Settle] when
// its sockets listen. Enter takes away: gaining privileges, every file that is not
// named (Landlock), and every system call that is not on the list of its [Kind]
// (seccomp): no other program can be started, no code loaded, no other process
// touched, no kind of socket made that the role does not use. Settle takes away
// opening further doors. Neither can be undone, by anybody.
//
// What only the parent can do is done by PID 1 before the process exists: its
// user, an empty capability bounding set, namespaces, limits.
package cell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Variable is set, to anything, in the environment of a process that shall go into
// its cell.
const Variable = "HEARTH_CELL"

// Kind says which system calls a process may make.
type Kind int

const (
	Local  Kind = iota // talks to other processes of the device, over Unix sockets, and to its files
	Online             // also to the network
)

// Rules say what a process may do. Files that are not there when it enters cannot
// be reached later either, unless their folder is named.
type Rules struct {
	Kind    Kind
	Read    []string // files, and folders with all below them
	Write   []string // the same, to read, write, make and remove
	Devices []string // device files, to read, write and control
	Listen  []uint16 // TCP ports, where the kernel can tell (Landlock 4, Linux 6.7)
}

// Strength says what this kernel could do of it.
type Strength struct {
	Landlock int // version of its interface, 0 = the kernel has none: any file that the user may open
}

func (s Strength) String() string {
	if s.Landlock == 0 {
		return "seccomp; this kernel has no Landlock"
	}
	return fmt.Sprintf("seccomp, Landlock %d", s.Landlock)
}

// Enter locks the process in. An error means that it is not, or not wholly,
// locked in, and must not go on.
func Enter(r Rules) (Strength, error) {
	var s Strength
	if version, err := llsys.LandlockGetABIVersion(); err == nil {
		s.Landlock = version
		if err := restrictFiles(r); err != nil {
			return s, fmt.Errorf("cell: files: %w", err)
		}
	}
	err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync, // the runtime's other threads, too
		Policy:     r.policy(seccomp.ActionErrno),
	})
	if err != nil {
		return s, fmt.Errorf("cell: system calls: %w", err)
	}
	return s, nil
}

// Settle takes away naming a socket and listening: from now on the doors are those
// that are open.
func Settle() error {
	err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls:      []seccomp.SyscallGroup{{Names: doors, Action: seccomp.ActionErrno}},
		},
	})
	if err != nil {
		return fmt.Errorf("cell: no more listening: %w", err)
	}
	return nil
}

func restrictFiles(r Rules) error {
	var rules []landlock.Rule
	sort := func(paths []string, file, dir func(...string) landlock.FSRule) error {
		for _, p := range paths {
			info, err := os.Stat(p)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue
			case err != nil:
				return err
			case info.IsDir():
				rules = append(rules, dir(p))
			default:
				rules = append(rules, file(p))
			}
		}
		return nil
	}
	device := func(p ...string) landlock.FSRule { return landlock.RWFiles(p...).WithIoctlDev() }
	folder := func(p ...string) landlock.FSRule { return landlock.RWDirs(p...).WithRefer() }
	if err := errors.Join(
		sort(r.Read, landlock.ROFiles, landlock.RODirs),
		sort(r.Write, landlock.RWFiles, folder),
		sort(r.Devices, device, device),
	); err != nil {
		return err
	}
	for _, port := range r.Listen {
		rules = append(rules, landlock.BindTCP(port))
	}
	// BestEffort takes the newest that the kernel has. Connecting is left to
	// seccomp and to namespaces, which know a role that is online from one that
	// is not; ports of strangers' nodes are anything.
	best := landlock.MustConfig(
		landlock.AccessFSSet(llsys.AccessFSExecute|llsys.AccessFSWriteFile|llsys.AccessFSReadFile|llsys.AccessFSReadDir|
			llsys.AccessFSRemoveDir|llsys.AccessFSRemoveFile|llsys.AccessFSMakeChar|llsys.AccessFSMakeDir|llsys.AccessFSMakeReg|
			llsys.AccessFSMakeSock|llsys.AccessFSMakeFifo|llsys.AccessFSMakeBlock|llsys.AccessFSMakeSym|llsys.AccessFSRefer|
			llsys.AccessFSTruncate|llsys.AccessFSIoctlDev),
		landlock.AccessNetSet(llsys.AccessNetBindTCP),
		landlock.ScopedSet(llsys.ScopeSignal|llsys.ScopeAbstractUnixSocket),
	)
	return best.BestEffort().Restrict(rules...)
}

// policy is the filter: refused for everything but what the kind may.
func (r Rules) policy(refused seccomp.Action) seccomp.Policy {
	families := []uint64{unix.AF_UNIX}
	if r.Kind == Online {
		families = append(families, unix.AF_INET, unix.AF_INET6)
	}
	own := uint64(os.Getpid())
	conditional := []seccomp.NameWithConditions{
		// threads, never processes
		{Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD}}},
		// memory that can be written is never run
		{Name: "mmap", Conditions: seccomp.ArgumentConditions{{Argument: 2, Operation: seccomp.BitsNotSet, Value: unix.PROT_EXEC}}},
		{Name: "mprotect", Conditions: seccomp.ArgumentConditions{{Argument: 2, Operation: seccomp.BitsNotSet, Value: unix.PROT_EXEC}}},
		// signals to oneself only: the runtime uses them to stop its threads
		{Name: "tgkill", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.Equal, Value: own}}},
		{Name: "kill", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.Equal, Value: own}}},
		{Name: "prlimit64", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.Equal, Value: 0}}},
	}
	for _, p := range []struct{ option, value uint64 }{{unix.PR_SET_VMA, unix.PR_SET_VMA_ANON_NAME}, {unix.PR_SET_NO_NEW_PRIVS, 1}, {unix.PR_SET_DUMPABLE, 0}} {
		conditional = append(conditional, seccomp.NameWithConditions{Name: "prctl", Conditions: seccomp.ArgumentConditions{
			{Argument: 0, Operation: seccomp.Equal, Value: p.option},
			{Argument: 1, Operation: seccomp.Equal, Value: p.value},
		}})
	}
	for _, family := range families {
		protocols := []uint64{0}
		if family != unix.AF_UNIX {
			protocols = append(protocols, unix.IPPROTO_TCP, unix.IPPROTO_UDP)
		}
		for _, protocol := range protocols {
			for _, kind := range []uint64{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
				const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
				for _, with := range []uint64{0, unix.SOCK_CLOEXEC, flags} {
					conditional = append(conditional, seccomp.NameWithConditions{Name: "socket", Conditions: seccomp.ArgumentConditions{
						{Argument: 0, Operation: seccomp.Equal, Value: family},
						{Argument: 1, Operation: seccomp.Equal, Value: kind | with},
						{Argument: 2, Operation: seccomp.Equal, Value: protocol},
					}})
				}
			}
		}
	}
	return seccomp.Policy{
		DefaultAction: refused,
		Syscalls: []seccomp.SyscallGroup{{
			Names:              slices.Concat(calls, callsOf[runtime.GOARCH]),
			NamesWithCondtions: conditional,
			Action:             seccomp.ActionAllow,
		}},
	}
}
