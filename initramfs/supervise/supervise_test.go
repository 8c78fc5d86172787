package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// stage is a launcher whose processes do what the test says.
type stage struct {
	mu       sync.Mutex
	launched []time.Time
	signals  []string
	refuse   error
	stubborn bool // ignores SIGTERM
	procs    []*actor
}

type actor struct {
	stage *stage
	name  string
	pid   int
	done  chan struct{}
	once  sync.Once
	how   string
}

func (s *stage) Launch(service Service, output io.Writer) (Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.launched = append(s.launched, time.Now())
	if s.refuse != nil {
		return nil, s.refuse
	}
	a := &actor{stage: s, name: service.Name, pid: len(s.launched), done: make(chan struct{})}
	s.procs = append(s.procs, a)
	return a, nil
}

func (s *stage) newest() *actor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.procs[len(s.procs)-1]
}

func (a *actor) exit(how string) { a.once.Do(func() { a.how = how; close(a.done) }) }

func (a *actor) PID() int              { return a.pid }
func (a *actor) Done() <-chan struct{} { return a.done }
func (a *actor) Ending() string        { return a.how }
func (a *actor) Signal(sig syscall.Signal) {
	a.stage.mu.Lock()
	a.stage.signals = append(a.stage.signals, fmt.Sprintf("%s %v", a.name, sig))
	a.stage.mu.Unlock()
	if sig == syscall.SIGKILL || !a.stage.stubborn {
		a.exit(sig.String())
	}
}

type silent struct{}

func (silent) Say(string, string, ...any) {}

func newTest(s *stage) *Supervisor {
	return New(s, silent{}, func(string) io.Writer { return io.Discard })
}

func (s *stage) pauses() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []time.Duration
	for i := 1; i < len(s.launched); i++ {
		list = append(list, s.launched[i].Sub(s.launched[i-1]))
	}
	return list
}

func TestAServiceThatCannotStartIsTriedLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{refuse: errors.New("no such file")}
		v := newTest(s)
		v.Start(Service{Name: "node"})
		time.Sleep(3 * time.Minute) // of the bubble's clock
		v.Stop()
		got := s.pauses()
		want := []time.Duration{200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000}
		for i := range want {
			want[i] *= time.Millisecond
		}
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("pauses %v, want %v", got, want)
		}
		status := v.Status()[0]
		if status.PID != 0 || status.Trouble != "no such file" || int(status.Restarts) != len(s.launched)-1 {
			t.Errorf("status %+v after %d starts", status, len(s.launched))
		}
	})
}

func TestAServiceThatWasHealthyIsRestartedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{}
		v := newTest(s)
		v.Start(Service{Name: "node"})
		defer v.Stop()
		for range 4 { // four quick deaths: the pause grows to 3.2 s
			synctest.Wait()
			s.newest().exit("exit status 2")
			time.Sleep(5 * time.Second)
		}
		time.Sleep(Healthy)
		s.newest().exit("exit status 2")
		died := time.Now()
		time.Sleep(10 * time.Second)
		s.mu.Lock()
		got := s.launched[len(s.launched)-1].Sub(died)
		s.mu.Unlock()
		if got != FirstPause {
			t.Errorf("restarted after %v, want %v", got, FirstPause)
		}
	})
}

func TestStopEndsTheYoungestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{}
		v := newTest(s)
		for _, name := range []string{"vault", "node", "messenger"} {
			v.Start(Service{Name: name})
			synctest.Wait()
		}
		began := time.Now()
		v.Stop()
		want := "messenger terminated, node terminated, vault terminated"
		if got := strings.Join(s.signals, ", "); got != want {
			t.Errorf("signals %q, want %q", got, want)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v although everybody ended at once", took)
		}
		v.Start(Service{Name: "late"})
		v.Stop()
		if len(s.launched) != 3 {
			t.Error("a service was started after Stop")
		}
	})
}

func TestAStubbornServiceIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{stubborn: true}
		v := newTest(s)
		v.Start(Service{Name: "node"})
		synctest.Wait()
		began := time.Now()
		v.Stop()
		if got := strings.Join(s.signals, ", "); got != "node terminated, node killed" {
			t.Errorf("signals %q", got)
		}
		if took := time.Since(began); took != Patience {
			t.Errorf("killed after %v, want %v", took, Patience)
		}
	})
}

func TestStopDoesNotWaitForAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{refuse: errors.New("no")}
		v := newTest(s)
		v.Start(Service{Name: "node"})
		time.Sleep(time.Minute + time.Millisecond)
		began := time.Now()
		v.Stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("Stop took %v", took)
		}
	})
}

func TestMemoryOfThisProcessIsKnown(t *testing.T) {
	kib, err := Memory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if kib < 500 || kib > 4<<20 {
		t.Errorf("%d KiB", kib)
	}
	if _, err := Memory(-1); err == nil {
		t.Error("a process that does not exist has memory")
	}
}
