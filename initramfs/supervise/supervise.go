// Package supervise keeps a list of processes running, as PID 1 has to.
//
// Start a Service and it runs until Stop: when its process ends, it is started
// again after a pause that grows with every failure. Stop ends all services, the
// youngest first. Processes are made by a Launcher; on the appliance that is the
// Reaper, which also collects the orphans that the kernel hands to PID 1.
package supervise

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// FirstPause and LongestPause bound the wait before a restart; it doubles in
	// between.
	FirstPause   = 200 * time.Millisecond
	LongestPause = 30 * time.Second
	// Healthy is how long a process must have run for the pause to start small
	// again.
	Healthy = 60 * time.Second
	// Patience is how long a process may take to end after SIGTERM, before SIGKILL.
	Patience = 5 * time.Second
)

// Service is a program to keep running.
type Service struct {
	Name     string
	Path     string   // the program's file
	Args     []string // argv, the program's name included
	Env      []string // the whole environment
	UID, GID uint32   // both its user and group; it has no other groups
	Apart    bool     // without capabilities, in namespaces of its own; needs root
	Offline  bool     // when apart: in a network of its own that has no interface
	Nice     int      // how far it stands back for others when the processor is busy: 0, or up to 19 more than PID 1
	Limits   Limits
}

// Process is a running program.
type Process interface {
	PID() int
	// Signal sends a signal, SIGKILL to the whole process group. It does nothing
	// once the process has ended.
	Signal(sig syscall.Signal)
	// Done is closed when the process has ended and was collected.
	Done() <-chan struct{}
	// Ending says how it ended, in words; only to be asked after Done.
	Ending() string
}

// Launcher makes processes. Everything that the process writes goes to output.
type Launcher interface {
	Launch(s Service, output io.Writer) (Process, error)
}

// Journal is where the supervisor says what it does, and where the services'
// output goes.
type Journal interface {
	Say(from, format string, args ...any)
}

// Status is the state of one service.
type Status struct {
	Name     string
	PID      int    // 0 while it does not run
	Restarts uint32 // since the supervisor started
	Trouble  string // how it ended the last time, empty if it never did
}

// Supervisor owns one goroutine for each service. See New.
type Supervisor struct {
	launcher Launcher
	journal  Journal
	output   func(name string) io.Writer

	mu       sync.Mutex
	stopping bool
	watches  []*watch
}

// watch is one service and the state of its goroutine.
type watch struct {
	service Service
	stop    chan struct{} // closed by Stop
	gone    chan struct{} // closed when the goroutine has ended, and the process with it

	mu     sync.Mutex
	status Status
}

// New makes a supervisor. output gives the writer for all lines of a service.
func New(launcher Launcher, journal Journal, output func(name string) io.Writer) *Supervisor {
	return &Supervisor{launcher: launcher, journal: journal, output: output}
}

// Start begins to run a service. After Stop it does nothing.
func (s *Supervisor) Start(service Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return
	}
	w := &watch{service: service, stop: make(chan struct{}), gone: make(chan struct{}), status: Status{Name: service.Name}}
	s.watches = append(s.watches, w)
	go s.run(w)
}

// Stop ends all services in the reverse order of their start, each with SIGTERM
// and, when it does not end within Patience, SIGKILL. It returns when none is
// left.
func (s *Supervisor) Stop() {
	s.mu.Lock()
	s.stopping = true
	watches := s.watches
	s.mu.Unlock()
	for i := len(watches) - 1; i >= 0; i-- {
		select {
		case <-watches[i].stop: // a second Stop only waits
		default:
			close(watches[i].stop)
		}
		<-watches[i].gone
	}
}

// Status lists all services in the order of their start.
func (s *Supervisor) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Status, 0, len(s.watches))
	for _, w := range s.watches {
		w.mu.Lock()
		list = append(list, w.status)
		w.mu.Unlock()
	}
	return list
}

// run is the life of one service.
func (s *Supervisor) run(w *watch) {
	defer close(w.gone)
	name, output := w.service.Name, s.output(w.service.Name)
	pause := FirstPause
	for {
		started := time.Now()
		process, err := s.launcher.Launch(w.service, output)
		var ending string
		if err != nil {
			ending = err.Error()
		} else {
			w.set(func(st *Status) { st.PID = process.PID() })
			s.journal.Say("supervisor", "%s runs (pid %d)", name, process.PID())
			select {
			case <-process.Done():
				ending = process.Ending()
			case <-w.stop:
				end(process)
				w.set(func(st *Status) { st.PID = 0 })
				s.journal.Say("supervisor", "%s stopped (%s)", name, process.Ending())
				return
			}
		}
		if time.Since(started) >= Healthy {
			pause = FirstPause
		}
		w.set(func(st *Status) { st.PID, st.Trouble = 0, ending })
		s.journal.Say("supervisor", "%s ended (%s), again in %s", name, ending, pause)
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-w.stop:
			again.Stop()
			return
		}
		pause = min(2*pause, LongestPause)
		w.set(func(st *Status) { st.Restarts++ })
	}
}

func (w *watch) set(change func(*Status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.status)
}

// end asks a process to end, then makes it.
func end(p Process) {
	p.Signal(syscall.SIGTERM)
	limit := time.NewTimer(Patience)
	defer limit.Stop()
	select {
	case <-p.Done():
		return
	case <-limit.C:
	}
	p.Signal(syscall.SIGKILL)
	<-p.Done()
}

// describe puts an exit status into words.
func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "killed by signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// Memory returns the proportional set size of a process in KiB: its own pages,
// and its share of those that it has in common with others. All services run the
// same file, so plain resident sizes would count its pages many times over.
func Memory(pid int) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib uint64
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kib); err == nil {
			return kib, nil
		}
	}
	return 0, fmt.Errorf("%s has no Pss line", path)
}
