package boot

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hearth/initramfs/disk"
	"hearth/initramfs/journal"
	"hearth/initramfs/supervise"
)

// power ends the appliance in order.
type power struct {
	log        *journal.Journal
	services   *supervise.Supervisor
	background *tasks
	last       func() error // writes to the disk when nobody else does; may be nil
	after      func() error // when nothing is mounted any more; may be nil
	once       sync.Once
}

// goodbye is how long power off waits for PID 1's own tasks.
const goodbye = 5 * time.Second

// quiet ends all who write to the disk.
func (p *power) quiet() {
	p.log.Say("power", "stopping the services")
	p.services.Stop()
	if !p.background.end(goodbye) {
		p.log.Say("power", "something is still at work after %s", goodbye)
	}
}

// off stops the services, writes everything to disk and switches off or
// restarts. It does not return.
func (p *power) off(restart bool) {
	p.once.Do(func() {
		p.quiet()
		if p.last != nil {
			if err := p.last(); err != nil {
				p.log.Say("power", "%v", err)
			}
		}
		unix.Sync()
		if err := unix.Unmount(DataFolder, 0); err != nil && err != unix.EINVAL { // EINVAL: was not mounted
			p.log.Say("power", "unmount %s: %v", DataFolder, err)
			unix.Mount("", DataFolder, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
			unix.Sync()
		} else if err := disk.Close(dataMapping); err != nil && !errors.Is(err, disk.ErrMapper) && !errors.Is(err, unix.ENXIO) {
			p.log.Say("power", "%v", err)
		}
		if p.after != nil {
			if err := p.after(); err != nil {
				p.log.Say("power", "%v", err)
			}
		}
		command, word := unix.LINUX_REBOOT_CMD_POWER_OFF, "off"
		if restart {
			command, word = unix.LINUX_REBOOT_CMD_RESTART, "restarting"
		}
		p.log.Say("power", "%s", word)
		p.log.Drain(time.Second)
		err := unix.Reboot(command)
		// Some boards cannot switch themselves off.
		p.log.Say("power", "%s: %v; it is safe to pull the plug", word, err)
	})
	select {}
}

// ask offers the serial line a way out when the console service could not start.
func (p *power) ask(serial string) {
	if serial == "" {
		serial = "/dev/console"
	}
	line, err := os.OpenFile(serial, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		p.log.Say("power", "cannot start, and %v; it is safe to pull the plug", err)
		return
	}
	const offer = "\r\nThe appliance cannot start, the reason is above.\r\nType off or restart, then Enter: "
	fmt.Fprint(line, offer)
	for words := bufio.NewScanner(line); words.Scan(); {
		switch strings.ToLower(strings.TrimSpace(words.Text())) {
		case "off":
			p.off(false)
		case "restart":
			p.off(true)
		}
		fmt.Fprint(line, offer)
	}
}
