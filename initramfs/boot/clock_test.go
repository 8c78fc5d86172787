package boot

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheClockDoesNotFallBehindWhatWasSaved(t *testing.T) {
	later := earliest.AddDate(1, 2, 3)
	for _, c := range []struct {
		name, content string
		want          time.Time
	}{
		{name: "a saved time", content: later.Format(time.RFC3339) + "\n", want: later},
		{name: "a time before this program was written", content: "1970-01-01T00:00:00Z\n", want: earliest},
		{name: "a time that a bit error put far ahead", content: "6027-01-01T00:00:00Z\n", want: earliest},
		{name: "an empty file", want: earliest},
		{name: "garbage", content: "\x00\xff", want: earliest},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "clock")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := clockFloor(path); !got.Equal(c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	if got := clockFloor(filepath.Join(t.TempDir(), "none")); !got.Equal(earliest) {
		t.Errorf("without a file: %v", got)
	}
}

func TestTheClockIsSavedWholeAndReadBack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "clock")
	for _, now := range []time.Time{earliest.Add(time.Hour), earliest.Add(48 * time.Hour)} {
		if err := saveClock(path, now); err != nil {
			t.Fatal(err)
		}
		if got := clockFloor(path); !got.Equal(now) {
			t.Errorf("saved %v, read %v", now, got)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestTheClockIsSavedNowAndThenAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(earliest.AddDate(0, 1, 0).Sub(time.Now())) // of the bubble's clock
		path := filepath.Join(t.TempDir(), "clock")
		running := newTasks()
		running.Go(func(ctx context.Context) {
			keepClock(ctx, path, func(format string, args ...any) { t.Errorf(format, args...) })
		})
		began := time.Now()
		for _, after := range []time.Duration{time.Second, saveEvery - time.Second, saveEvery} {
			time.Sleep(after)
			synctest.Wait()
			if got, want := clockFloor(path), began.Add(time.Since(began).Truncate(saveEvery)); !got.Equal(want) {
				t.Errorf("after %v it has %v, want %v", time.Since(began), got, want)
			}
		}
		time.Sleep(time.Minute)
		if !running.end(time.Second) {
			t.Error("it did not end")
		}
		if got := clockFloor(path); !got.Equal(time.Now().Truncate(time.Second)) {
			t.Errorf("at the end it has %v, want %v", got, time.Now())
		}
	})
}
