// Package swtpmtest runs swtpm, the software TPM 2.0, for tests.
//
// A test that needs a TPM calls [New] and opens the socket it gets:
//
//	s := swtpmtest.New(t)
//	dev, err := tpm.Open(s.Socket)
//	s.PowerCut() // as if the plug were pulled
//	s.PowerOn(t)
//
// A program calls [Start]. The folder is the TPM: its seeds, counters and lockout
// state live there and survive the process.
package swtpmtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ErrNotFound says that swtpm is not installed.
var ErrNotFound = errors.New("swtpm not found: install it with `make deps`")

// startLimit is how long swtpm may take until it answers.
const startLimit = 20 * time.Second

// Process is a running software TPM.
type Process struct {
	// Socket is the Unix socket that takes TPM commands.
	Socket string

	kill func() error
	done chan struct{} // closed when the process has ended
	out  bytes.Buffer  // what it said; read only after done
}

// Start runs a TPM with its state in dir (made when missing) that is powered on
// and has had TPM2_Startup(CLEAR), as a kernel leaves it. Commands go to the
// socket dir/s, one connection after the other. The path of dir must be shorter
// than 100 bytes, a limit of Unix sockets.
func Start(dir string) (*Process, error) {
	program, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, ErrNotFound
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "s")
	if len(socket) > 107 {
		return nil, fmt.Errorf("swtpm: the path of the socket %s has more than 107 bytes", socket)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}

	p := &Process{Socket: socket, done: make(chan struct{})}
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	// The software TPM must not outlive us, however we end. The kernel watches
	// the thread that started it, so that thread stays until it has ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting swtpm: %w", err)
	}
	p.kill = cmd.Process.Kill
	if err := p.ready(); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// ready waits until somebody answers on the socket.
func (p *Process) ready() error {
	deadline := time.NewTimer(startLimit)
	defer deadline.Stop()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		if c, err := net.Dial("unix", p.Socket); err == nil {
			return c.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("swtpm ended at once: %s", p.Said())
		case <-deadline.C:
			return fmt.Errorf("swtpm is not ready after %v", startLimit)
		case <-again.C:
		}
	}
}

// Kill ends the process as a power cut would and waits until it is gone. What
// the TPM had not written is lost.
func (p *Process) Kill() {
	_ = p.kill() // an error says that it has ended already
	<-p.done
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Said waits for the end of the process and gives what it said, usually nothing
// unless something went wrong.
func (p *Process) Said() string {
	<-p.done
	return strings.TrimSpace(p.out.String())
}

// TPM is a software TPM that belongs to a test.
type TPM struct {
	*Process
	Dir string // its state
}

// New gives a test a TPM of its own, never used before and powered on. It goes
// with the test. Without swtpm the test fails.
func New(t testing.TB) *TPM {
	t.Helper()
	// Not t.TempDir: the test's name would make the socket's path too long.
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	s := &TPM{Dir: dir}
	t.Cleanup(func() {
		s.PowerCut()
		os.RemoveAll(dir)
	})
	s.PowerOn(t)
	return s
}

// PowerCut ends the TPM without TPM2_Shutdown. Doing so twice is harmless.
func (s *TPM) PowerCut() {
	if s.Process != nil {
		s.Kill()
	}
}

// PowerOn starts the TPM again, with its state, at the same socket.
func (s *TPM) PowerOn(t testing.TB) {
	t.Helper()
	p, err := Start(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Process = p
}
