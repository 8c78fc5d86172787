// Package boot is PID 1: it turns a kernel that has just started into a running
// appliance.
//
// Run is the whole story, a list of stages from top to bottom:
//
//	mounts   the kernel's file systems, a read-only root
//	console  the serial line, and what the kernel's command line asks for
//	modules  drivers, where the kernel has them in files
//	screen   panel and console start, so that there is something to look at
//	tpm      the chip that seals the keys
//	data     the card's last partition, or the one labelled "hearth-data"; with a TPM
//	         it is encrypted
//	copy     whether the card is an older copy of itself
//	measure  what has started, into the TPM's PCRs
//	network  an address by DHCP; may come late, or never
//	clock    a time that does not run backwards; the network's, where there is one
//	run      the vault, the node and the messenger
//
// A stage starts when the stages it names are done, so the slow ones (a disk that
// takes seconds to appear, DHCP) wait side by side. A stage that fails says so on
// the console and in the Device interface; those that need it are not started,
// the others are. A stage may also be degraded: the data can be read, but no longer
// changed, for example. PID 1 never exits: in the end it waits for somebody to switch
// the appliance off.
package boot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hearth/initramfs/journal"
	"hearth/initramfs/supervise"
)

// Version is the appliance's own version, as shown by the Device interface.
const Version = "0.1"

// Run starts the appliance and does not return.
func Run() {
	debug.SetMemoryLimit(20 << 20)
	debug.SetGCPercent(50)
	log := journal.New(1000, Uptime)
	reaper := supervise.NewReaper(nil)
	services := supervise.New(reaper, log, newOutput(log))
	device := newDevice(log, services)
	background := newTasks()
	power := &power{log: log, services: services, background: background}
	device.powerOff = power.off

	var (
		parameters Parameters
		serial     string // the serial line's device file
		data       mounted
		program    = programDigest()
	)
	searched := make(chan struct{}) // closed when the TPM was found, or not
	power.last = func() error {
		chip, err := cardTPM(parameters.Developer)
		if chip == nil || err != nil || data.partition == "" || !dataWritable() {
			return err
		}
		defer chip.Close()
		return leaveCopy(chip, stateFile)
	}
	device.revoke = func() error {
		chip, err := cardTPM(parameters.Developer)
		if err != nil {
			return err
		}
		if chip == nil {
			return ErrNotRevoked
		}
		defer chip.Close()
		return revokeAll(chip)
	}
	device.wipe = func() {
		power.last = nil
		power.after = func() error {
			if data.partition == "" {
				return nil
			}
			return blank(data.partition, data.cipher != "", func(format string, args ...any) { log.Say("wipe", format, args...) })
		}
		power.off(true)
	}
	stages := []Stage{
		{Name: "mounts", Run: func(context.Context, Say) error {
			return mounts()
		}},
		{Name: "console", After: []string{"mounts"}, Run: func(_ context.Context, say Say) (err error) {
			parameters, serial, err = openConsole(log, say)
			device.developer.Store(parameters.Developer)
			return err
		}},
		{Name: "modules", After: []string{"console"}, Run: func(_ context.Context, say Say) error {
			background.Go(func(context.Context) { program() })
			return loadModules(modulesFolder, say)
		}},
		{Name: "screen", After: []string{"modules"}, Run: func(_ context.Context, say Say) error {
			limitServices(reaper, say)
			startWatchdog(parameters.NoWatchdog, background, device.health, say)
			for _, s := range screenServices(parameters, serial, panelPort(say)) {
				services.Start(s)
			}
			return device.serve(background) // they ask for it once they are up
		}},
		{Name: "tpm", After: []string{"modules"}, Run: func(ctx context.Context, say Say) error {
			defer close(searched)
			return findTPM(ctx, parameters.Developer, say)
		}},
		{Name: "data", After: []string{"modules"}, Run: func(ctx context.Context, say Say) (err error) {
			<-searched // without a TPM it tells what it can
			keys, closeKeys := dataKeys(parameters.Developer, say)
			defer closeKeys()
			data, err = mountData(ctx, keys, say)
			var degraded *Degraded
			if err != nil && !errors.As(err, &degraded) {
				return err
			}
			device.setData(data)
			background.Go(func(ctx context.Context) {
				if err := log.Keep(ctx, logFile); err != nil {
					say("the log is not kept: %v", err)
				}
			})
			background.Go(func(ctx context.Context) {
				watchData(ctx, dataWritable, func(err error) {
					say("DEGRADED: %v", err)
					device.setTrouble("data", err.Error())
				})
			})
			return err
		}},
		{Name: "copy", After: []string{"tpm", "data"}, Run: func(_ context.Context, say Say) error {
			chip, err := cardTPM(parameters.Developer)
			if chip == nil || err != nil {
				say("nothing: no TPM counts the states of the card")
				return degrade(err)
			}
			defer chip.Close()
			return degrade(checkCopy(chip, stateFile, data.fresh, say))
		}},
		{Name: "network", After: []string{"modules"}, Run: func(ctx context.Context, say Say) error {
			return network(ctx, background, device.setAddress, say)
		}},
		{Name: "clock", After: []string{"data"}, Run: func(_ context.Context, say Say) error {
			if err := setClock(clockFile, say); err != nil {
				return err
			}
			background.Go(func(ctx context.Context) { keepClock(ctx, clockFile, say) })
			if parameters.NTP != "" {
				servers := strings.Split(parameters.NTP, ",")
				background.Go(func(ctx context.Context) { systemClock().follow(ctx, servers, askNTP, say) })
			}
			return nil
		}},
		{Name: "measure", After: []string{"tpm", "data"}, Run: func(_ context.Context, say Say) error {
			return measureAll(program, data.card, say)
		}},
		{Name: "run", After: []string{"measure", "clock", "screen"}, Run: func(_ context.Context, say Say) error {
			for _, s := range keyServices(parameters, say) {
				services.Start(s)
			}
			return nil
		}},
	}

	// Nothing below PID 1 may gain privileges or leave a core dump: all inherit it.
	if err := confine(); err != nil {
		log.Say("init", "%v", err)
	}
	go reaper.Run(context.Background())
	sequence := Sequence{Stages: stages, Uptime: Uptime, Say: log.Say, Changed: device.setStage}
	ended := make(chan map[string]bool, 1)
	background.Go(func(ctx context.Context) { ended <- sequence.Run(ctx) })
	failed := <-ended
	if failed["mounts"] || failed["console"] || failed["modules"] || failed["screen"] {
		// Nobody else can take the order to switch off.
		power.ask(serial)
	} else if failed["run"] {
		log.Say("init", "the account stays closed; on the console, status tells more and poweroff switches off")
	}
	select {}
}

// Uptime is the time since the kernel started.
func Uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// logFile keeps the newest lines of the log over a restart.
var logFile = filepath.Join(DataFolder, "log")

// self is the file of all roles.
const self = "/init"

// exists tells whether there is something at path.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
