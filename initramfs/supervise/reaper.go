package supervise

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reaper is the Launcher of PID 1.
//
// PID 1 is the parent of its services, and of every process whose own parent has
// died. It must collect all of them, and waiting for "any child" would take away
// the status of a service from whoever waits for that one. So there is one place
// that waits, Run, which knows the services by pid, hands each its status, and
// drops the status of strangers.
type Reaper struct {
	mu       sync.Mutex // held over fork and over collecting: a child is known before its status can come
	children map[int]*child
	orphans  func(pid int, ending string)
	groups   *Groups // nil: nothing is limited
}

// NewReaper makes a reaper. orphans is told of every collected process that was
// not launched here; it may be nil. Nothing else in the process may wait for
// children.
func NewReaper(orphans func(pid int, ending string)) *Reaper {
	return &Reaper{children: make(map[int]*child), orphans: orphans}
}

// Limit lets the services that are launched from now on have groups with their
// limits.
func (r *Reaper) Limit(g *Groups) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups = g
}

// Run collects processes until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	ended := make(chan os.Signal, 1) // one is enough: collect takes all there are
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		r.collect()
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c, ok := r.children[pid]; ok {
			delete(r.children, pid)
			c.ending = describe(status)
			close(c.done)
		} else if r.orphans != nil {
			r.orphans(pid, describe(status))
		}
	}
}

// Launch starts a service as its own user, in its own process group, with
// nothing but /dev/null and the output pipe open.
func (r *Reaper) Launch(s Service, output io.Writer) (Process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	attributes := &syscall.SysProcAttr{Setpgid: true}
	apart := false
	if os.Geteuid() == 0 {
		// Changing away from root also drops all capabilities but those of the
		// bounding set, which a program file could give back.
		attributes.Credential = &syscall.Credential{Uid: s.UID, Gid: s.GID}
		if apart = s.Apart; apart {
			attributes.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS
			if s.Offline {
				attributes.Cloneflags |= syscall.CLONE_NEWNET
			}
		}
	}

	r.mu.Lock()
	if r.groups != nil {
		group, err := r.groups.open(s.Name, s.Limits)
		if err != nil {
			r.mu.Unlock()
			read.Close()
			return nil, fmt.Errorf("limits of %s: %w", s.Name, err)
		}
		defer group.Close()
		attributes.UseCgroupFD, attributes.CgroupFD = true, int(group.Fd())
	}
	pid, err := forkExec(s.Nice, apart, s.Path, s.Args, &syscall.ProcAttr{
		Dir: "/", Env: s.Env, Files: []uintptr{null.Fd(), write.Fd(), write.Fd()}, Sys: attributes,
	})
	if err != nil {
		r.mu.Unlock()
		read.Close()
		return nil, fmt.Errorf("start %s: %w", s.Path, err)
	}
	c := &child{reaper: r, pid: pid, done: make(chan struct{})}
	r.children[pid] = c
	r.mu.Unlock()
	if s.Limits.Expendable != 0 {
		if err := setExpendable(pid, s.Limits.Expendable); err != nil {
			fmt.Fprintf(output, "not marked as expendable: %v\n", err)
		}
	}

	go func() { // ends when the last holder of the pipe has ended
		defer read.Close()
		io.Copy(output, read)
	}()
	return c, nil
}

// forkExec is syscall.ForkExec with a niceness on top of our own, and without
// capabilities in the bounding set if bare. A process inherits both from the
// thread that makes it; setting the niceness afterwards would miss the threads
// that the process has made by then, and the bounding set only root may change.
func forkExec(nice int, bare bool, path string, argv []string, attributes *syscall.ProcAttr) (int, error) {
	if nice == 0 && !bare {
		return syscall.ForkExec(path, argv, attributes)
	}
	type result struct {
		pid int
		err error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread, and what it became, end with this goroutine.
		runtime.LockOSThread()
		own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0) // counts from 20 downwards
		if err == nil {
			err = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 20-own+nice)
		}
		if err != nil {
			done <- result{0, fmt.Errorf("niceness: %w", err)}
			return
		}
		if bare {
			if err := dropBoundingSet(); err != nil {
				done <- result{0, fmt.Errorf("capabilities: %w", err)}
				return
			}
		}
		pid, err := syscall.ForkExec(path, argv, attributes)
		done <- result{pid, err}
	}()
	r := <-done
	return r.pid, r.err
}

// dropBoundingSet empties the calling thread's set of what programs can gain.
func dropBoundingSet() error {
	for capability := uintptr(0); ; capability++ {
		switch err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err {
		case nil:
		case unix.EINVAL: // beyond the kernel's last one
			return nil
		default:
			return err
		}
	}
}

// child is a process made by Launch.
type child struct {
	reaper *Reaper
	pid    int
	done   chan struct{}
	ending string // written before done is closed
}

func (c *child) PID() int              { return c.pid }
func (c *child) Done() <-chan struct{} { return c.done }
func (c *child) Ending() string        { return c.ending }

func (c *child) Signal(sig syscall.Signal) {
	// The lock keeps the pid from being collected, and given to another process,
	// between the look and the kill.
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	if _, ok := c.reaper.children[c.pid]; !ok {
		return
	}
	target := c.pid
	if sig == syscall.SIGKILL {
		target = -c.pid
	}
	syscall.Kill(target, sig)
}
