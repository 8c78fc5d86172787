package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The reaper collects every child of its process. So that it does not take those
// of the test framework, the tests run their scenes in a process of their own:
// this program again, with the scene's name in the environment.
const sceneVariable = "SUPERVISE_TEST_SCENE"

var scenes = map[string]func() error{
	"statuses": sceneStatuses,
	"orphans":  sceneOrphans,
	"kill":     sceneKill,
	"nice":     sceneNice,
	"output":   sceneOutput,
	"apart":    sceneApart,

	// what the processes of a scene are
	"exit": func() error { os.Exit(must(strconv.Atoi(os.Getenv("CODE")))); return nil },
	// An empty select would be a deadlock, of which the runtime lets a program die.
	"wait":   func() error { fmt.Println("ready"); <-time.After(time.Hour); return nil },
	"parent": sceneParent,
	"status": func() error {
		status, err := os.ReadFile("/proc/thread-self/status")
		interfaces, _ := net.Interfaces()
		fmt.Printf("%spid %d\ninterfaces %d\nend\n", status, os.Getpid(), len(interfaces))
		return err
	},
	"print": func() error { fmt.Println("to stdout"); fmt.Fprintln(os.Stderr, "to stderr"); return nil },
}

func TestMain(m *testing.M) {
	if scene := os.Getenv(sceneVariable); scene != "" {
		if err := scenes[scene](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestReaper(t *testing.T) {
	for name, scene := range map[string]string{
		"gives every service its own exit status":                              "statuses",
		"collects orphans without losing a service's status":                   "orphans",
		"kills the whole group and reports the signal":                         "kill",
		"starts a service that stands back for others":                         "nice",
		"gives a service apart no capability, no network and no other process": "apart",
		"hands both output streams to the writer of the name":                  "output",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), sceneVariable+"="+scene)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// self is a service that plays a scene.
func self(scene string, env ...string) Service {
	return Service{
		Name: scene, Path: must(os.Executable()), Args: []string{scene},
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		Env: append(env, sceneVariable+"="+scene),
	}
}

func sceneStatuses() error {
	r := NewReaper(nil)
	go r.Run(context.Background())
	processes := make(map[int]Process)
	for code := range 20 {
		p, err := r.Launch(self("exit", fmt.Sprintf("CODE=%d", code)), io.Discard)
		if err != nil {
			return err
		}
		processes[code] = p
	}
	for code, p := range processes {
		<-p.Done()
		if want := fmt.Sprintf("exit status %d", code); p.Ending() != want {
			return fmt.Errorf("ending %q, want %q", p.Ending(), want)
		}
		p.Signal(syscall.SIGKILL) // nobody must be hit
	}
	if _, err := r.Launch(Service{Path: "/nonexistent", Args: []string{"x"}}, io.Discard); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("a program that is not there: %v", err)
	}
	return nil
}

// sceneParent starts a child that it never waits for, tells its pid and ends.
func sceneParent() error {
	cmd := exec.Command(must(os.Executable()))
	cmd.Env = []string{sceneVariable + "=exit", "CODE=7"}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println(cmd.Process.Pid)
	return nil
}

func sceneOrphans() error {
	// As PID 1 does by nature: take over the processes whose parent has died.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	orphans := make(chan int, 10)
	r := NewReaper(func(pid int, ending string) {
		if ending == "exit status 7" {
			orphans <- pid
		}
	})
	go r.Run(context.Background())
	var out safeBuffer
	p, err := r.Launch(self("parent"), &out)
	if err != nil {
		return err
	}
	<-p.Done()
	if p.Ending() != "exit status 0" {
		return fmt.Errorf("parent: %s, %s", p.Ending(), out.String())
	}
	select {
	case orphan := <-orphans:
		if orphan == p.PID() {
			return errors.New("the service itself was taken for an orphan")
		}
	case <-time.After(20 * time.Second):
		return errors.New("the orphan was not collected")
	}
	return nil
}

func sceneKill() error {
	r := NewReaper(nil)
	go r.Run(context.Background())
	said, ready := speaks()
	p, err := r.Launch(self("wait"), said)
	if err != nil {
		return err
	}
	if group, err := syscall.Getpgid(p.PID()); err != nil || group != p.PID() {
		return fmt.Errorf("process group %d, %v", group, err)
	}
	<-ready
	p.Signal(syscall.SIGKILL)
	<-p.Done()
	if p.Ending() != "killed by signal: killed" {
		return errors.New(p.Ending())
	}
	return nil
}

func sceneNice() error {
	r := NewReaper(nil)
	go r.Run(context.Background())
	// The system call counts from 20 downwards.
	own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	if err != nil {
		return err
	}
	for _, nice := range []int{0, 7, 0} {
		service := self("wait")
		service.Nice = nice
		said, ready := speaks()
		p, err := r.Launch(service, said)
		if err != nil {
			return err
		}
		<-ready
		got, err := syscall.Getpriority(syscall.PRIO_PROCESS, p.PID())
		p.Signal(syscall.SIGKILL)
		<-p.Done()
		if more := own - got; err != nil || more != nice {
			return fmt.Errorf("niceness %d more than ours, %v; want %d", more, err, nice)
		}
	}
	return nil
}

func sceneOutput() error {
	r := NewReaper(nil)
	go r.Run(context.Background())
	lines := make(chan string, 10)
	p, err := r.Launch(self("print"), writerFunc(func(b []byte) { lines <- string(b) }))
	if err != nil {
		return err
	}
	<-p.Done()
	var got string
	for !strings.Contains(got, "to stdout\n") || !strings.Contains(got, "to stderr\n") {
		select {
		case piece := <-lines:
			got += piece
		case <-time.After(20 * time.Second):
			return fmt.Errorf("output %q", got)
		}
	}
	return nil
}

// sceneApart needs root, as PID 1 is. Anybody else's service must start all the
// same, as the programmer's user.
func sceneApart() error {
	r := NewReaper(nil)
	go r.Run(context.Background())
	service := self("status")
	service.Apart, service.Offline, service.UID, service.GID = true, true, 65534, 65534
	if os.Geteuid() != 0 {
		service.UID, service.GID = uint32(os.Getuid()), uint32(os.Getgid())
	} else {
		// The test's program lies in a folder that only root may look into.
		dir, err := os.MkdirTemp("", "apart")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		program, err := os.ReadFile(service.Path)
		if err != nil {
			return err
		}
		service.Path = filepath.Join(dir, "program")
		if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(service.Path, program, 0o755)); err != nil {
			return err
		}
	}
	// Twice: the reaper itself must keep what it needs for the next one.
	return errors.Join(launchApart(r, service), launchApart(r, service))
}

func launchApart(r *Reaper, service Service) error {
	var out safeBuffer
	p, err := r.Launch(service, &out)
	if err != nil {
		return err
	}
	<-p.Done()
	for !strings.HasSuffix(out.String(), "end\n") {
		if p.Ending() != "exit status 0" {
			return fmt.Errorf("%s: %s", p.Ending(), out.String())
		}
		runtime.Gosched() // the pipe is drained by a goroutine
	}
	if os.Geteuid() != 0 {
		return nil
	}
	for _, want := range []string{"CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "Uid:\t65534", "pid 1\n", "interfaces 1\n"} {
		if !strings.Contains(out.String(), want) {
			return fmt.Errorf("no %q in %s", want, out.String())
		}
	}
	return nil
}

// speaks gives an output, and a channel that is closed when something comes there; what
// a process says may come in pieces.
func speaks() (output io.Writer, ready <-chan struct{}) {
	first := make(chan struct{})
	once := sync.OnceFunc(func() { close(first) })
	return writerFunc(func([]byte) { once() }), first
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(bytes.Clone(p)); return len(p), nil }

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
