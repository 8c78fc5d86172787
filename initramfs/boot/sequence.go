package boot

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// Say writes a line about a stage while it runs.
type Say func(format string, args ...any)

// Stage is one named step of the start.
type Stage struct {
	Name  string
	After []string // the stages that must have succeeded before this one starts
	Run   func(ctx context.Context, say Say) error
}

// Degraded is the error of a stage that has done its work, but not as it should:
// the stages after it start, and the trouble is told everywhere.
type Degraded struct{ Err error }

func (d *Degraded) Error() string { return d.Err.Error() }

// Unwrap returns Err.
func (d *Degraded) Unwrap() error { return d.Err }

// degrade makes an error that ends nothing of one, nil of none.
func degrade(err error) error {
	if err == nil {
		return nil
	}
	return &Degraded{err}
}

// StageState is what became of a stage.
type StageState struct {
	Name    string
	Done    time.Duration // uptime at its end, 0 while it runs or waits
	Trouble string        // why it failed, was not started, or is degraded; empty = fine
}

// Sequence runs stages.
type Sequence struct {
	Stages  []Stage
	Uptime  func() time.Duration
	Say     func(from, format string, args ...any)
	Changed func(StageState) // told of every change; may be nil
}

// Run starts every stage as soon as the stages it comes after have succeeded, and
// returns when all have ended: the names of those that failed or were not
// started. Stages that come after each other in the list and name each other run
// in that order; all others run side by side.
func (s *Sequence) Run(ctx context.Context) (failed map[string]bool) {
	type end struct {
		done chan struct{}
		ok   bool // read after done
	}
	ends := make(map[string]*end)
	for _, stage := range s.Stages {
		ends[stage.Name] = &end{done: make(chan struct{})}
		s.changed(StageState{Name: stage.Name})
	}
	var all sync.WaitGroup
	for _, stage := range s.Stages {
		all.Go(func() {
			own := ends[stage.Name]
			defer close(own.done)
			var lost []string
			for _, name := range stage.After {
				before, ok := ends[name]
				if ok {
					<-before.done
				}
				if !ok || !before.ok {
					lost = append(lost, name)
				}
			}
			if lost != nil {
				trouble := "not started, it needs: " + strings.Join(lost, ", ")
				s.Say(stage.Name, "%s", trouble)
				s.changed(StageState{Name: stage.Name, Trouble: trouble})
				return
			}
			started := s.Uptime()
			s.Say(stage.Name, "start")
			err := s.guard(ctx, stage)
			var degraded *Degraded
			if errors.As(err, &degraded) {
				own.ok = true
				s.Say(stage.Name, "DEGRADED: %v", err)
				s.changed(StageState{Name: stage.Name, Done: s.Uptime(), Trouble: err.Error()})
				return
			}
			if err != nil {
				s.Say(stage.Name, "FAILED: %v", err)
				s.changed(StageState{Name: stage.Name, Done: s.Uptime(), Trouble: err.Error()})
				return
			}
			own.ok = true
			s.Say(stage.Name, "done, %d ms", (s.Uptime() - started).Milliseconds())
			s.changed(StageState{Name: stage.Name, Done: s.Uptime()})
		})
	}
	all.Wait()
	failed = make(map[string]bool)
	for name, e := range ends {
		if !e.ok {
			failed[name] = true
		}
	}
	return failed
}

// guard runs a stage. A panic is the stage's failure: as the end of PID 1 it
// would be the end of the kernel, with nothing on the screen.
func (s *Sequence) guard(ctx context.Context, stage Stage) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
			for line := range strings.Lines(string(debug.Stack())) {
				s.Say(stage.Name, "%s", strings.TrimRight(line, "\n"))
			}
		}
	}()
	return stage.Run(ctx, func(format string, args ...any) { s.Say(stage.Name, format, args...) })
}

func (s *Sequence) changed(state StageState) {
	if s.Changed != nil {
		s.Changed(state)
	}
}
