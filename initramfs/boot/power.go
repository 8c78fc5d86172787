package boot

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hearth/initramfs/journal"
	"hearth/initramfs/supervise"
)

// power ends the appliance in order.
type power struct {
	log        *journal.Journal
	services   *supervise.Supervisor
	background *tasks
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
		unix.Sync()
		if err := unix.Unmount(DataFolder, 0); err != nil && err != unix.EINVAL { // EINVAL: was not mounted
			p.log.Say("power", "unmount %s: %v", DataFolder, err)
			unix.Mount("", DataFolder, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
			unix.Sync()
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
