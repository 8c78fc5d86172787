package boot

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// earliest is when this program was written: no clock can be before it. Boards
// without a battery-backed clock start in 1970, where every certificate and every
// message is from the future.
var earliest = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// clockFile keeps the last known time over a power cut.
const clockFile = "clock"

// saveEvery bounds how far the clock can fall back in a power cut.
const saveEvery = 10 * time.Minute

// setClock makes sure that the time is not before what is known to have passed,
// and remembers it from then on.
func setClock(say Say) error {
	path := filepath.Join(DataFolder, clockFile)
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
	go func() {
		for {
			if err := saveClock(path, time.Now()); err != nil {
				say("not saved: %v", err)
			}
			time.Sleep(saveEvery)
		}
	}()
	return nil
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
	if err != nil || saved.Before(earliest) || saved.After(earliest.AddDate(30, 0, 0)) {
		return earliest
	}
	return saved
}

// saveClock writes the time so that a power cut leaves the old or the new one.
func saveClock(path string, now time.Time) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(now.UTC().Format(time.RFC3339) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
