package boot

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hearth/node/wholefile"
)

// earliest is when this program was written: no clock can be before it. Boards
// without a battery-backed clock start in 1970, where every certificate and every
// message is from the future.
var earliest = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// latest is a time that this program will not see.
var latest = earliest.AddDate(30, 0, 0)

// clockFile keeps the last known time over a power cut.
var clockFile = filepath.Join(DataFolder, "clock")

// saveEvery bounds how far the clock can fall back in a power cut.
const saveEvery = 10 * time.Minute

// setClock makes sure that the time is not before what is known to have passed.
func setClock(path string, say Say) error {
	now := time.Now()
	if floor := clockFloor(path); now.Before(floor) {
		t := unix.NsecToTimeval(floor.UnixNano())
		if err := unix.Settimeofday(&t); err != nil {
			return err
		}
		say("was %s, set forward to %s", now.UTC().Format(time.DateTime), floor.UTC().Format(time.DateTime))
	} else {
		say("%s", now.UTC().Format(time.DateTime))
	}
	return nil
}

// keepClock saves the time every now and then, and a last time when ctx ends.
func keepClock(ctx context.Context, path string, say Say) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		if err := saveClock(path, time.Now()); err != nil {
			say("not saved: %v", err)
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// clockFloor is the later of earliest and the time in the file. A file that does
// not make sense counts as none: it must not be able to push the clock years
// ahead, for which a bit error would be enough.
func clockFloor(path string) time.Time {
	text, err := os.ReadFile(path)
	if err != nil {
		return earliest
	}
	saved, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err != nil || saved.Before(earliest) || saved.After(latest) {
		return earliest
	}
	return saved
}

// saveClock writes the time so that a power cut leaves the old or the new one.
func saveClock(path string, now time.Time) error {
	return wholefile.Write(path, []byte(now.UTC().Format(time.RFC3339)+"\n"))
}
