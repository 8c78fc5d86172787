package boot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder takes down what a sequence says and reports.
type recorder struct {
	mu    sync.Mutex
	said  []string
	state map[string]StageState
}

func (r *recorder) sequence(stages ...Stage) *Sequence {
	r.state = make(map[string]StageState)
	began := time.Now()
	return &Sequence{
		Stages: stages,
		Uptime: func() time.Duration { return time.Since(began) },
		Say: func(from, format string, args ...any) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.said = append(r.said, from+": "+fmt.Sprintf(format, args...))
		},
		Changed: func(s StageState) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.state[s.Name] = s
		},
	}
}

// lasting is a stage that takes a while.
func lasting(name string, d time.Duration, after ...string) Stage {
	return Stage{Name: name, After: after, Run: func(context.Context, Say) error { time.Sleep(d); return nil }}
}

func TestStagesWaitForThoseTheyNameAndForNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		began := time.Now()
		failed := r.sequence(
			lasting("mounts", time.Second),
			lasting("network", time.Hour, "mounts"),
			lasting("data", 3*time.Second, "mounts"),
			lasting("tpm", 2*time.Second, "mounts"),
			lasting("run", time.Second, "data", "tpm"),
		).Run(t.Context())
		if len(failed) != 0 {
			t.Errorf("failed: %v", failed)
		}
		for name, want := range map[string]time.Duration{"mounts": 1, "tpm": 3, "data": 4, "run": 5, "network": 3601} {
			if got := r.state[name].Done; got != want*time.Second {
				t.Errorf("%s was done after %v, want %v", name, got, want*time.Second)
			}
		}
		if took := time.Since(began); took != time.Hour+time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestAFailureStopsThoseThatNeedIt(t *testing.T) {
	chip := errors.New("no TPM found")
	for _, c := range []struct {
		name   string
		tpm    func(context.Context, Say) error
		says   string
		reason string
	}{
		{
			name: "an error", says: "tpm: FAILED: no TPM found", reason: "no TPM found",
			tpm: func(context.Context, Say) error { return chip },
		},
		{
			name: "a panic", says: "tpm: FAILED: panic: oops", reason: "panic: oops",
			tpm: func(context.Context, Say) error { panic("oops") },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r recorder
				failed := r.sequence(
					lasting("mounts", time.Second),
					Stage{Name: "tpm", After: []string{"mounts"}, Run: c.tpm},
					lasting("data", 3*time.Second, "mounts"),
					lasting("run", time.Second, "tpm", "data"),
					lasting("after", time.Second, "run"),
				).Run(t.Context())
				if len(failed) != 3 || !failed["tpm"] || !failed["run"] || !failed["after"] {
					t.Errorf("failed: %v", failed)
				}
				if got := r.state["tpm"].Trouble; got != c.reason {
					t.Errorf("tpm's trouble %q, want %q", got, c.reason)
				}
				if got := r.state["run"].Trouble; got != "not started, it needs: tpm" {
					t.Errorf("run's trouble %q", got)
				}
				if r.state["data"].Trouble != "" || r.state["data"].Done == 0 {
					t.Error("data does not need the TPM, but was not done")
				}
				if !slices.Contains(r.said, c.says) {
					t.Errorf("said:\n%s", strings.Join(r.said, "\n"))
				}
			})
		})
	}
}

func TestADegradedStageLetsTheOthersStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		failed := r.sequence(
			Stage{Name: "data", Run: func(context.Context, Say) error { return &Degraded{ErrReadOnly} }},
			lasting("run", time.Second, "data"),
		).Run(t.Context())
		if len(failed) != 0 || r.state["run"].Done != time.Second {
			t.Errorf("failed %v, run %+v", failed, r.state["run"])
		}
		if got := r.state["data"].Trouble; got != ErrReadOnly.Error() {
			t.Errorf("data's trouble %q", got)
		}
		if !slices.Contains(r.said, "data: DEGRADED: "+ErrReadOnly.Error()) {
			t.Errorf("said:\n%s", strings.Join(r.said, "\n"))
		}
	})
}

func TestAStageThatNeedsAnUnknownOneIsNotStarted(t *testing.T) {
	var r recorder
	failed := r.sequence(lasting("run", 0, "mount")).Run(t.Context())
	if !failed["run"] || r.state["run"].Trouble != "not started, it needs: mount" {
		t.Errorf("failed %v, state %+v", failed, r.state["run"])
	}
}
