package boot

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// eater is a watchdog that counts.
type eater struct{ fed int }

func (e *eater) Feed() error { e.fed++; return nil }

func TestTheWatchdogIsFedOnlyWhileHealthHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var state error
		hung := make(chan struct{})
		hang := false
		healthy := func(context.Context) error {
			if hang {
				<-hung
			}
			return state
		}
		w, running := &eater{}, newTasks()
		running.Go(func(ctx context.Context) { feed(ctx, w, 15*time.Second, healthy, t.Logf) })
		after := func(d time.Duration) (fed int) {
			before := w.fed
			time.Sleep(d)
			synctest.Wait()
			return w.fed - before
		}
		if fed := after(time.Minute + time.Second); fed != 5 {
			t.Errorf("fed %d times in a healthy minute", fed)
		}
		state = errors.New("ill")
		if fed := after(time.Minute); fed != 0 {
			t.Errorf("fed %d times while it was ill", fed)
		}
		state = nil
		if fed := after(time.Minute); fed != 4 {
			t.Errorf("fed %d times in the minute after", fed)
		}
		hang = true
		if fed := after(time.Minute); fed != 0 {
			t.Errorf("fed %d times while nobody answered", fed)
		}
		hang = false
		close(hung)
		after(time.Minute)
		if running.end(time.Second); after(0) > 2 {
			t.Error("it goes on after the end")
		}
	})
}

func TestHealthIsWhatPID1CanDo(t *testing.T) {
	d, _ := testDevice()
	if err := check(t.Context(), func(ctx context.Context) error {
		_, err := d.Status(ctx, nil)
		return err
	}); err != nil {
		t.Error(err)
	}
}
