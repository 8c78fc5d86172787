package console

import (
	"strings"
	"testing"

	"hearth/ui/devicetest"
)

func TestAConsoleWithoutNodeAndDeviceOffersOnlyWhatThereIs(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	s.Change(func() { s.State.Developer = true })
	u := sit(t, s, func(c *Config) { c.Node, c.Device, c.MayLeave = nil, nil, true })
	at := u.waitPrompt(0)
	for _, line := range []string{"node", "peers", "logs", "restart", "poweroff yes", "help node"} {
		u.key(line + "\r")
		before := at
		at = u.waitPrompt(before)
		if answer := strings.Join(u.lines(before, at-1), "\n"); !strings.Contains(answer, "There is no command") {
			t.Errorf("%s: %q", line, answer)
		}
	}
	u.key("help\r")
	before := at
	at = u.waitPrompt(before)
	help := strings.Join(u.lines(before, at-1), "\n")
	for word, wanted := range map[string]bool{"send": true, "wipe": true, "exit": true, "\n  node ": false, "peers": false, "poweroff": false, "logs": false} {
		if strings.Contains(help, word) != wanted {
			t.Errorf("help mentions %q: %v\n%s", word, !wanted, help)
		}
	}
	u.key("status\r")
	before = at
	at = u.waitPrompt(before)
	status := strings.Join(u.lines(before, at-1), "\n")
	if strings.Contains(status, "node  ") || strings.Contains(status, "device  ") || !strings.Contains(status, "account   open") || !strings.Contains(status, developerMode) {
		t.Errorf("status:\n%s", status)
	}
	u.leave()
}
