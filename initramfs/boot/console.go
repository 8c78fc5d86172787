package boot

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hearth/hw/panel"
	"hearth/initramfs/journal"
	"hearth/node/api"
)

// openConsole reads the kernel's command line, lets the journal speak on the
// console, and gives the serial line to the console service.
func openConsole(log *journal.Journal, say Say) (Parameters, string, error) {
	// O_NOCTTY: PID 1 must not make the line its controlling terminal, or a key
	// on it would be a signal.
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return Parameters{}, "", err
	}
	go log.Attach(context.Background(), console) // to the very end: it says that the power goes off

	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return Parameters{}, "", err
	}
	p := ParseParameters(string(line), say)
	if p.Developer {
		say("DEVELOPER MODE: keys may be kept without a TPM")
	}
	if p.Serial == "" {
		say("no serial line on the kernel's command line: no console service")
		return p, "", nil
	}
	serial := "/dev/" + p.Serial
	if err := give(serial, api.UIDConsole); err != nil {
		return p, "", fmt.Errorf("serial line: %w", err)
	}
	say("serial line %s, %d baud", serial, p.Baud)
	return p, serial, nil
}

// panelPort finds the virtual panel, a virtio serial port of the emulator. It
// returns its device file, owned by the panel service, or "" when there is none.
func panelPort(say Say) string {
	device, err := panel.FindPort(os.DirFS("/"), panel.PortName)
	if err == nil {
		err = give(device, api.UIDPanel)
	}
	if err != nil {
		say("no panel: %v", err)
		return ""
	}
	say("virtual panel at %s", device)
	return device
}

// give makes a device file the private property of one service.
func give(device string, uid uint32) error {
	if err := os.Chown(device, int(uid), int(uid)); err != nil {
		return err
	}
	return os.Chmod(device, 0o600)
}

// poll waits until found reports true, and looks every few milliseconds. The
// files of /dev and /sys do not tell when they appear. It gives up after limit, or
// when ctx ends.
func poll(ctx context.Context, limit time.Duration, found func() bool) bool {
	deadline := time.Now().Add(limit)
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		if found() {
			return true
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return false
		}
		sleep(ctx, wait)
	}
}
