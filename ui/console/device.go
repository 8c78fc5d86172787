package console

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/account"
	"hearth/node/api"
)

// patience is how long status waits for each service that may be dead.
const patience = 3 * time.Second

// status shows what can be had; a service that is not there is a line, not an
// error.
func (c *Console) status(ctx context.Context, _ string) error {
	var lines []string
	add := func(label, format string, args ...any) {
		lines = append(lines, fmt.Sprintf("%-10s", label)+fmt.Sprintf(format, args...))
	}
	call := func(do func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return do(ctx)
	}

	var device *api.DeviceStatus
	var deviceErr error
	if c.cfg.Device != nil {
		deviceErr = call(func(ctx context.Context) (err error) {
			device, err = c.cfg.Device.Status(ctx, &api.DeviceStatusRequest{})
			return err
		})
	}
	var state *api.MessengerState
	stateErr := call(func(ctx context.Context) (err error) {
		state, err = c.cfg.Messenger.State(ctx, &api.StateRequest{})
		return err
	})
	var node *api.NodeStatus
	var nodeErr error
	if c.cfg.Node != nil {
		nodeErr = call(func(ctx context.Context) (err error) {
			node, err = c.cfg.Node.Status(ctx, &api.NodeStatusRequest{})
			return err
		})
	}
	if err := ctx.Err(); err != nil {
		return err
	}

	if device.GetDeveloper() || state.GetDeveloper() {
		lines = append(lines, developerMode)
	}
	switch {
	case c.cfg.Device == nil:
	case deviceErr != nil:
		add("device", "%s", absent(deviceErr))
	default:
		address := device.GetAddress()
		if address == "" {
			address = "no network address"
		}
		add("device", "Hearth %s on %s, up %s, %s", device.GetVersion(), device.GetBoard(), span(time.Duration(device.GetUptimeMs())*time.Millisecond), address)
		if device.GetData() != "" {
			add("data", "%s", device.GetData())
		}
	}
	switch {
	case stateErr != nil:
		add("account", "%s", absent(stateErr))
	case state.GetAccount() == api.MessengerState_STARTING:
		add("account", "starting")
	case state.GetAccount() == api.MessengerState_NONE:
		add("account", "none yet; `setup` makes one")
	case state.GetAccount() == api.MessengerState_LOCKED:
		add("account", "locked, %d tries left; `unlock` opens it", state.GetTriesLeft())
	default:
		add("account", "open, %s", state.GetSessionId())
		poll := "not asked for messages yet"
		if state.GetLastPoll() > 0 {
			poll = "asked for messages " + span(c.cfg.Now().Sub(time.UnixMilli(state.GetLastPoll()))) + " ago"
		}
		pending := ""
		if n := state.GetRequests(); n > 0 {
			pending += count(n, "request") + ", "
		}
		if n := state.GetWaiting(); n > 0 {
			pending += fmt.Sprintf("%d waiting to be sent, ", n)
		}
		add("messages", "%d unread, %s%s, %s, %s", state.GetUnread(), pending, count(state.GetPaths(), "path"), count(state.GetKnownNodes(), "known node"), poll)
		if n := state.GetUnreadable(); n > 0 {
			add("", "%d that could not be read", n)
		}
	}
	if off := time.Duration(state.GetClockOff()) * time.Second; off.Abs() >= wrongClock {
		word := "behind"
		if off < 0 {
			word = "ahead of"
		}
		add("clock", "%s %s the network's; messages bear the network's time", span(off.Abs()), word)
	}
	if state.GetTrouble() != "" {
		add("trouble", "%s", state.GetTrouble())
	}
	switch {
	case c.cfg.Node == nil:
	case nodeErr != nil:
		add("node", "%s", absent(nodeErr))
	default:
		add("node", "%s", nodeText(node))
	}
	for i, s := range device.GetServices() {
		text := fmt.Sprintf("%-10s process %d, %.1f MiB", s.GetName(), s.GetPid(), float64(s.GetMemoryKib())/1024)
		if s.GetPid() == 0 {
			text = fmt.Sprintf("%-10s not running", s.GetName())
		}
		if s.GetRestarts() > 0 {
			text += ", " + count(s.GetRestarts(), "restart")
		}
		if s.GetTrouble() != "" {
			text += ", last ended: " + s.GetTrouble()
		}
		add(first(i, "services"), "%s", text)
	}
	for i, s := range device.GetStages() {
		text := fmt.Sprintf("%-10s %.2f s", s.GetName(), float64(s.GetDoneMs())/1000)
		if s.GetTrouble() != "" {
			text += ", trouble: " + s.GetTrouble()
		}
		add(first(i, "start"), "%s", text)
	}
	c.term.print(lines...)
	return nil
}

// wrongClock is how far the clock may be from the network's before it is worth a line:
// a service node refuses what is a minute off.
const wrongClock = time.Minute

func absent(err error) string {
	switch status.Code(err) {
	case codes.Unavailable:
		return "not running yet"
	case codes.DeadlineExceeded:
		return "does not answer"
	}
	return status.Convert(err).Message()
}

func first(i int, label string) string {
	if i == 0 {
		return label
	}
	return ""
}

func nodeText(n *api.NodeStatus) string {
	text := "ready"
	if !n.GetReady() {
		text = "not ready"
	}
	if n.GetTrouble() != "" {
		text += ": " + n.GetTrouble()
	}
	if n.GetSwarm() != "" {
		text += fmt.Sprintf(", swarm %s of %s", n.GetSwarm(), count(n.GetSwarmMembers(), "node"))
	}
	return text
}

func (c *Console) node(ctx context.Context, _ string) error {
	n, err := c.cfg.Node.Status(ctx, &api.NodeStatusRequest{})
	if err != nil {
		return serviceError{"node", err}
	}
	lines := []string{
		"state     " + nodeText(n),
		"key       " + n.GetEd25519(),
		"address   " + orNone(n.GetAddress()),
		fmt.Sprintf("knows     %s", count(n.GetKnownNodes(), "other node")),
		fmt.Sprintf("keeps     %s, %s", count(n.GetMessages(), "message"), bytesText(n.GetBytes())),
		fmt.Sprintf("handled   %s, %s", count(n.GetOnions(), "onion layer"), count(n.GetRequests(), "storage request")),
	}
	if n.GetFileQuota() > 0 {
		line := fmt.Sprintf("files     %s, %s of %s", count(n.GetFiles(), "file"), bytesText(n.GetFileBytes()), bytesText(n.GetFileQuota()))
		if n.GetFilesTrouble() != "" {
			line += ": " + n.GetFilesTrouble()
		}
		lines = append(lines, line)
	}
	if n.GetReachable()+n.GetFailing() > 0 {
		line := fmt.Sprintf("tests     %s can be reached", count(n.GetReachable(), "other node"))
		if n.GetFailing() > 0 {
			line += fmt.Sprintf(", %d cannot", n.GetFailing())
		}
		lines = append(lines, line)
	}
	switch {
	case n.GetReachTrouble() != "":
		lines = append(lines, "tested    "+n.GetReachTrouble())
	case n.GetHeard() > 0:
		lines = append(lines, "tested    by another node "+span(c.cfg.Now().Sub(time.UnixMilli(n.GetHeard())))+" ago")
	}
	if n.GetStarted() > 0 {
		lines = append(lines, "runs for  "+span(c.cfg.Now().Sub(time.UnixMilli(n.GetStarted()))))
	}
	c.term.print(lines...)
	return nil
}

func (c *Console) peers(ctx context.Context, _ string) error {
	reply, err := c.cfg.Node.Peers(ctx, &api.PeersRequest{})
	if err != nil {
		return serviceError{"node", err}
	}
	if len(reply.GetPeers()) == 0 {
		c.term.print("The node knows no others yet.")
		return nil
	}
	var lines []string
	for _, p := range reply.GetPeers() {
		line := fmt.Sprintf("%-13s %-22s swarm %s", account.ShortID(p.GetEd25519()), p.GetAddress(), orNone(p.GetSwarm()))
		if p.GetOwnSwarm() {
			line += " (own)"
		}
		if p.GetFailures() > 0 && p.GetSince() > 0 {
			line += fmt.Sprintf(", not reached over %s for %s", orNone(p.GetTrouble()), span(c.cfg.Now().Sub(time.UnixMilli(p.GetSince()))))
		}
		lines = append(lines, line)
	}
	c.term.print(append(lines, count(len(reply.GetPeers()), "node")+".")...)
	return nil
}

// maxLogs is how many lines logs gives at most; the device keeps about as many.
const maxLogs = 1000

func (c *Console) logs(ctx context.Context, rest string) error {
	n := 50
	if word, _ := cutWord(rest); word != "" {
		var err error
		if n, err = strconv.Atoi(word); err != nil || n < 1 || n > maxLogs {
			return usageError(fmt.Sprintf("Say how many lines, 1 to %d: logs 20", maxLogs))
		}
	}
	reply, err := c.cfg.Device.Logs(ctx, &api.LogsRequest{Lines: uint32(n)})
	if err != nil {
		return serviceError{"device", err}
	}
	if len(reply.GetLines()) == 0 {
		c.term.print("The log is empty.")
		return nil
	}
	c.term.print(reply.GetLines()...)
	return nil
}

func (c *Console) restart(ctx context.Context, rest string) error {
	return c.power(ctx, rest, "Restart the device? Type yes: ", true, "The device restarts.")
}

func (c *Console) powerOff(ctx context.Context, rest string) error {
	return c.power(ctx, rest, "Switch the device off? Type yes: ", false, "The device switches off.")
}

func (c *Console) power(ctx context.Context, rest, question string, restart bool, done string) error {
	if strings.TrimSpace(rest) != "yes" {
		answer, err := c.ask(ctx, question, false)
		if err != nil {
			return err
		}
		if strings.TrimSpace(answer) != "yes" {
			return usageError("Nothing was done.")
		}
	}
	if _, err := c.cfg.Device.PowerOff(ctx, &api.PowerOffRequest{Restart: restart}); err != nil {
		return serviceError{"device", err}
	}
	c.term.print(done)
	return nil
}

func orNone(text string) string {
	if text == "" {
		return "none yet"
	}
	return text
}

// count writes a number with its noun.
func count[N int | uint32 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func bytesText(n uint64) string {
	switch {
	case n < 1<<10:
		return count(n, "byte")
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// span writes a duration as people say it, with its two largest units.
func span(d time.Duration) string {
	switch d = max(d, 0).Truncate(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
