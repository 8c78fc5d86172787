package console

import (
	"context"
	"fmt"
	"strings"
	"time"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/ui/qr"
)

// These commands are about the other devices of the account.
func deviceCommands() []*command {
	return []*command{
		{name: "link", arguments: "[CODE]", summary: "gives another device the account, or gets it with its code", secret: true, slow: true, run: (*Console).link,
			more: []string{"On the device that has the account: `link` asks for the PIN and shows a code, good for ten minutes and one device.",
				"On the new one, which has no account yet: `link CODE`, and then a PIN of its own. It types no phrase.",
				"Whoever sees the code can have the account. Afterwards `devices` lists the new device on both."}},
		{name: "devices", arguments: "[NAME]", summary: "lists the devices of the account, or names this one", run: (*Console).devices,
			more: []string{"Each says itself that it is there, and when, to the day; apps that know nothing of it are not in the list.",
				"No device can be locked out of an account: that takes another protocol than today's. `wipe` takes the account from the device",
				"it is typed on, and what the network keeps; the others stay. If one is lost, or not yours, begin a new account and tell your contacts."}},
		{name: "unread", arguments: "NAME", summary: "marks a conversation as unread, on all devices", run: (*Console).markUnread},
	}
}

func (c *Console) link(ctx context.Context, rest string) error {
	state, err := c.accountNow(ctx)
	if err != nil {
		return err
	}
	code := strings.TrimSpace(rest)
	switch {
	case state == api.MessengerState_LOCKED:
		return usageError(nextUnlock(nil))
	case state == api.MessengerState_OPEN && code != "":
		return usageError("There is an account already: a code is for a device without one. `link` alone makes a code.")
	case state == api.MessengerState_OPEN:
		return c.showLink(ctx)
	case state == api.MessengerState_STARTING:
		return usageError("The vault is still starting; try again in a moment.")
	}
	if code == "" {
		answer, err := c.ask(ctx, "The code that `link` shows on the other device: ", false)
		if err != nil {
			return err
		}
		code = strings.TrimSpace(answer)
	}
	if code == "" {
		return usageError("No code was given; nothing was done.")
	}
	c.term.print("Asking the network for what waits under the code.")
	if _, err := c.cfg.Messenger.Join(ctx, &api.JoinRequest{Code: code}); err != nil {
		return serviceError{messenger, err}
	}
	c.term.print("The other device is there. Choose a PIN for this one.")
	pin, err := c.newPIN(ctx)
	if err != nil {
		return err
	}
	joined, err := c.cfg.Messenger.Join(ctx, &api.JoinRequest{Code: code, Pin: pin})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.setState(joined)
	c.tell(joined.GetAccount())
	c.term.print("This device has the account now. Its Session ID is", joined.GetSessionId(),
		"Profile, contacts and what the network still keeps arrive now. The code is used up. `devices NAME` names this device.")
	return nil
}

func (c *Console) showLink(ctx context.Context) error {
	pin, err := c.pinFrom(ctx, "", "PIN: ")
	if err != nil {
		return err
	}
	reply, err := c.cfg.Messenger.Link(ctx, &api.LinkRequest{Pin: pin})
	if err != nil {
		return serviceError{messenger, err}
	}
	code, err := qr.New(reply.GetCode())
	if err != nil {
		return err
	}
	c.term.print("Whoever sees this code can have your account, for ten minutes. Be alone.", "On the new device, before it has an account:", "link "+reply.GetCode())
	c.term.printRaw(code.Text()...)
	c.term.print("It is good for one device, until " + stamp(reply.GetExpires()) + ". Clear this screen afterwards.")
	return nil
}

func (c *Console) devices(ctx context.Context, rest string) error {
	if name := unquote(strings.TrimSpace(rest)); name != "" {
		device, err := c.cfg.Messenger.RenameDevice(ctx, &api.RenameDeviceRequest{Name: name})
		if err != nil {
			return serviceError{messenger, err}
		}
		c.term.print("This device is called " + clip(device.GetName(), 66) + ".")
		return nil
	}
	reply, err := c.cfg.Messenger.Devices(ctx, &api.DevicesRequest{})
	if err != nil {
		return serviceError{messenger, err}
	}
	if len(reply.GetDevices()) == 0 {
		c.term.print("The network has not been asked yet; try again in a moment.")
		return nil
	}
	var lines []string
	named := make(map[string]int)
	for _, d := range reply.GetDevices() {
		named[deviceText(d)]++
	}
	for _, d := range reply.GetDevices() {
		line := deviceText(d)
		if named[line] > 1 { // nobody could tell them apart
			line += ", " + account.ShortID(d.GetId())
		}
		switch {
		case d.GetOwn():
			line = "this one: " + line
		case d.GetFresh():
			line = "new: " + line
		}
		lines = append(lines, fmt.Sprintf("%s, here since %s, last at work on %s", line, day(d.GetFirstSeen()), day(d.GetLastSeen())))
	}
	c.term.print(append(lines, "`devices NAME` names this one.")...)
	return nil
}

func deviceText(d *api.AccountDevice) string {
	text := clip(d.GetName(), 66)
	if text == "" {
		text = "(no name)"
	}
	if d.GetKind() != "" {
		text += ", " + clip(d.GetKind(), 30)
	}
	return text
}

// day is a date without its time, which nobody knows.
func day(ms int64) string {
	if ms <= 0 {
		return "an unknown day"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02")
}

func (c *Console) markUnread(ctx context.Context, rest string) error {
	who := unquote(strings.TrimSpace(rest))
	if who == "" {
		return usageError("Say which conversation: unread NAME")
	}
	if _, err := c.cfg.Messenger.MarkUnread(ctx, &api.WhoRequest{Who: who}); err != nil {
		return serviceError{messenger, err}
	}
	c.term.print("Marked as unread, until somebody reads it on one of your devices.")
	return nil
}

// newDevice says that somebody else has the account as well: the owner, one hopes.
func (c *Console) newDevice(d *api.AccountDevice) {
	c.term.print("* a device has come to your account: "+deviceText(d), "  `devices` lists them; if it is not yours, see `help devices`")
}

// newDevices is for those that came while nobody looked.
func newDevices(n uint32) string {
	if n == 1 {
		return "* a device has come to your account that you have not looked at; `devices` lists them"
	}
	return fmt.Sprintf("* %d devices have come to your account that you have not looked at; `devices` lists them", n)
}
