package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hearth/node/api"
)

// The hardware watchdog restarts the device when nobody feeds it for watchdogLimit.
const (
	watchdogDevice = "/dev/watchdog"
	watchdogLimit  = 60 * time.Second
	watchdogFeed   = 15 * time.Second
	// healthLimit is how long PID 1 may take to answer; a card that is busy can hold
	// everything up for seconds.
	healthLimit = 10 * time.Second
)

// watchdog is the device, as far as it is used.
type watchdog interface {
	Feed() error
}

// hardwareWatchdog is the kernel's device file.
type hardwareWatchdog struct{ f *os.File }

func (w hardwareWatchdog) Feed() error {
	_, err := w.f.Write([]byte{0})
	return err
}

// startWatchdog begins to feed the hardware's watchdog, if there is one. From then on
// the device restarts when PID 1 does not.
func startWatchdog(off bool, background *tasks, healthy func(context.Context) error, say Say) {
	if off {
		say("watchdog: left alone, as the command line says")
		return
	}
	f, err := os.OpenFile(watchdogDevice, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		say("watchdog: this board has none")
		return
	}
	if err != nil {
		say("watchdog: %v", err)
		return
	}
	limit := watchdogLimit
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, int(limit/time.Second)); err != nil {
		// The hardware's own: a Raspberry Pi's is 15 seconds at most.
		if seconds, err := unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETTIMEOUT); err == nil && seconds > 0 {
			limit = time.Duration(seconds) * time.Second
		}
	}
	every := min(watchdogFeed, limit/3)
	say("watchdog: restarts the device after %v without a sign of life, given every %v", limit, every)
	// The file stays open: closing it would look like the end of PID 1.
	background.Go(func(ctx context.Context) { feed(ctx, hardwareWatchdog{f}, every, healthy, say) })
}

// feed feeds the watchdog for as long as healthy says that all is well, and for a last
// time when ctx ends: switching off has as long as the watchdog waits.
func feed(ctx context.Context, w watchdog, every time.Duration, healthy func(context.Context) error, say Say) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	ill := false
	for {
		err := check(ctx, healthy)
		if ctx.Err() != nil || err == nil {
			if ill && err == nil {
				say("watchdog: fed again")
			}
			ill = false
			if err := w.Feed(); err != nil {
				say("watchdog: %v", err)
			}
		} else {
			ill = true
			say("watchdog: NOT fed, the device restarts soon: %v", err)
		}
		select {
		case <-ctx.Done():
			_ = w.Feed()
			return
		case <-tick.C:
		}
	}
}

// check asks for health, and takes no answer for an answer.
func check(ctx context.Context, healthy func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- healthy(ctx) }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer within %v", healthLimit)
	}
}

// health is what a device must be able to do that need not be restarted: PID 1 answers
// as it does to the console, and the kernel about the data. What a restart would not
// make better (a missing TPM, a service that ends again and again) does not count.
func (d *device) health(ctx context.Context) error {
	if _, err := d.Status(ctx, &api.DeviceStatusRequest{}); err != nil {
		return err
	}
	var s unix.Statfs_t
	if err := unix.Statfs(DataFolder, &s); err != nil {
		return fmt.Errorf("%s: %w", DataFolder, err)
	}
	return nil
}
