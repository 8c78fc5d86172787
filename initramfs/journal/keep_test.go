package journal

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// start is one start of a device: what it says, from the journal's beginning to its end.
func start(t *testing.T, path string, before, after func(j *Journal)) (ring []string) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		j := New(20, fixedUptime)
		before(j)
		done := make(chan error)
		go func() { done <- j.Keep(ctx, path) }()
		synctest.Wait()
		after(j)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		ring = j.Last(100)
	})
	return ring
}

func nothing(*Journal) {}

func TestWhatPID1SaidOutlivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	start(t, path, func(j *Journal) { j.Say("mounts", "one") }, func(j *Journal) {
		j.Say("supervisor", "two")
		j.Source("node", true).Write([]byte("<4>three\n<6>not this\n"))
		j.Source("messenger", false).Write([]byte("<3>nor this\nnor a crash\n"))
	})
	got := start(t, path, func(j *Journal) { j.Say("mounts", "four") }, nothing)
	want := []string{
		"[   1.234] mounts: one", "[   1.234] supervisor: two", "[   1.234] node: WARN three",
		restored, "[   1.234] mounts: four",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the ring has %q, want %q", got, want)
	}
}

func TestTheLogIsWrittenSecondsAfterALineWasSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	start(t, path, nothing, func(j *Journal) {
		j.Say("supervisor", "node ended")
		j.Say("supervisor", "node runs")
		time.Sleep(keepEvery + time.Millisecond)
		synctest.Wait()
		// As after a power cut now.
		if text, err := os.ReadFile(path); err != nil || strings.Count(string(text), "\n") != 2 {
			t.Errorf("%q, %v", text, err)
		}
	})
}

func TestTheKeptLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for range 3 {
		start(t, path, nothing, func(j *Journal) {
			for range 10 {
				for range backlog {
					j.Say("stage", "%s", strings.Repeat("x", 200))
				}
				time.Sleep(keepEvery + time.Millisecond)
				synctest.Wait()
			}
		})
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) > MaxKept || len(text) < MaxKept/2 || !strings.HasPrefix(string(text), "[") {
		t.Errorf("%d bytes, begins with %.20q, %v", len(text), text, err)
	}
}

func TestADamagedKeptLogIsShownHarmlessly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("\x1b[2J\x00half a line"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := start(t, path, nothing, nothing); !slices.Equal(got, []string{"?[2J?half a line", restored}) {
		t.Errorf("%q", got)
	}
}

func TestALogThatCannotBeWrittenIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New(10, fixedUptime)
		j.Say("stage", "line")
		if err := j.Keep(t.Context(), filepath.Join(t.TempDir(), "missing", "log")); err == nil {
			t.Error("no error")
		}
	})
}
