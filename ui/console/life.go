package console

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"hearth/node/api"
)

// newPIN asks for a PIN twice.
func (c *Console) newPIN(ctx context.Context) (string, error) {
	pin, err := c.pinFrom(ctx, "", "New PIN: ")
	if err != nil {
		return "", err
	}
	if n := utf8.RuneCountInString(pin); n < minPIN || n > maxPIN {
		return "", usageError(fmt.Sprintf("A PIN has %d to %d characters; this one has %d.", minPIN, maxPIN, n))
	}
	again, err := c.ask(ctx, "The same PIN again: ", true)
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(again) != pin {
		return "", usageError("The two PINs differ; nothing was done.")
	}
	return pin, nil
}

// restore leaves it to the messenger to judge the words: its answer names the
// place of a wrong one. They are shown while they are typed, because nobody types
// 13 words blindly, and forgotten with the line.
func (c *Console) restore(ctx context.Context, rest string) error {
	switch account, err := c.accountNow(ctx); {
	case err != nil:
		return err
	case account == api.MessengerState_LOCKED, account == api.MessengerState_OPEN:
		return usageError("There is an account already; `wipe` leaves it for good.")
	}
	phrase := strings.TrimSpace(rest)
	if phrase == "" {
		answer, err := c.ask(ctx, "The 13 words: ", false)
		if err != nil {
			return err
		}
		phrase = strings.TrimSpace(answer)
	}
	if phrase == "" {
		return usageError("No words were given; nothing was done.")
	}
	if _, err := c.cfg.Messenger.Restore(ctx, &api.RestoreRequest{Phrase: phrase}); err != nil {
		return serviceError{messenger, err}
	}
	pin, err := c.newPIN(ctx)
	if err != nil {
		return err
	}
	state, err := c.cfg.Messenger.Restore(ctx, &api.RestoreRequest{Pin: pin, Phrase: phrase})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.setState(state)
	c.tell(state.GetAccount())
	c.term.print("Your account is back. Your Session ID is", state.GetSessionId(),
		"What the network still keeps for you arrives now. Clear this screen: the words are on it.")
	return nil
}

func (c *Console) changePIN(ctx context.Context, _ string) error {
	if account, err := c.accountNow(ctx); err != nil {
		return err
	} else if account == api.MessengerState_NONE {
		return usageError(nextSetup)
	}
	old, pin, err := c.twoPINs(ctx)
	if err != nil {
		return err
	}
	state, err := c.cfg.Messenger.ChangePIN(ctx, &api.ChangePINRequest{Pin: old, NewPin: pin})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.setState(state)
	c.term.print("The PIN is another now.")
	return nil
}

// twoPINs asks for the PIN, and for another one. A wrong PIN is told before anybody
// thinks of another one and types that twice.
func (c *Console) twoPINs(ctx context.Context) (old, other string, err error) {
	if old, err = c.pinFrom(ctx, "", "PIN: "); err != nil {
		return "", "", err
	}
	if _, err := c.cfg.Messenger.ChangePIN(ctx, &api.ChangePINRequest{Pin: old}); err != nil {
		return "", "", serviceError{messenger, err}
	}
	other, err = c.newPIN(ctx)
	return old, other, err
}

func (c *Console) lock(ctx context.Context, _ string) error {
	switch account, err := c.accountNow(ctx); {
	case err != nil:
		return err
	case account == api.MessengerState_NONE:
		return usageError(nextSetup)
	case account == api.MessengerState_LOCKED:
		return usageError("The account is locked already.")
	}
	state, err := c.cfg.Messenger.Lock(ctx, &api.LockRequest{})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.setState(state)
	c.tell(state.GetAccount())
	c.term.print(nextUnlock(state))
	return nil
}

// duress does not say whether there was such a PIN before, and nothing else does.
func (c *Console) duress(ctx context.Context, _ string) error {
	if account, err := c.accountNow(ctx); err != nil {
		return err
	} else if account == api.MessengerState_NONE {
		return usageError(nextSetup)
	}
	c.term.print("Where this device asks for the PIN, the duress PIN wipes the account for good and shows an empty one. Only the 13 words bring the account back then.",
		"First your PIN, then the duress PIN, twice.")
	old, pin, err := c.twoPINs(ctx)
	if err != nil {
		return err
	}
	state, err := c.cfg.Messenger.SetDuress(ctx, &api.SetDuressRequest{Pin: old, DuressPin: pin})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.setState(state)
	c.term.print("The duress PIN is set. Nobody can ask this device whether there is one; another `duress` replaces it.")
	return nil
}

// wipeEverything is for the day on which the device changes hands.
func (c *Console) wipeEverything(ctx context.Context) error {
	if c.cfg.Device == nil {
		return usageError("Only a device can be wiped wholly; `wipe` leaves the account.")
	}
	c.term.print("This makes everything that the device keeps unreadable for good, on its card and on every copy of it: account, messages, contacts, the service node's key and store.",
		"What the network keeps for the account goes by itself within 30 days; `wipe` alone deletes it at once, and gives the TPM back, so do that before if you know the PIN.")
	answer, err := c.ask(ctx, "Type wipe everything to go on: ", false)
	if err != nil {
		return err
	}
	if strings.TrimSpace(answer) != "wipe everything" {
		return usageError("Nothing was done.")
	}
	reply, err := c.cfg.Device.WipeEverything(ctx, &api.WipeEverythingRequest{})
	if err != nil {
		return serviceError{"device", err}
	}
	if reply.GetTrouble() != "" {
		c.term.print(sentence(reply.GetTrouble()))
	}
	c.term.print("The keys are gone. The device removes the rest and restarts as on its first day.")
	return nil
}

func (c *Console) wipe(ctx context.Context, rest string) error {
	switch strings.TrimSpace(rest) {
	case "":
	case "everything":
		return c.wipeEverything(ctx)
	default:
		return usageError("Type wipe to leave the account, or wipe everything before the device changes hands.")
	}
	if _, err := c.accountNow(ctx); err != nil {
		return err
	}
	c.term.print("This leaves your account for good: its messages here and in the network, its contacts, its keys.",
		"Only the 13 words bring the account back, without any of its messages.")
	answer, err := c.ask(ctx, "Type wipe to go on: ", false)
	if err != nil {
		return err
	}
	if strings.TrimSpace(answer) != "wipe" {
		return usageError("Nothing was done.")
	}
	pin, err := c.pinFrom(ctx, "", "PIN: ")
	if err != nil {
		return err
	}
	reply, err := c.cfg.Messenger.Wipe(ctx, &api.WipeRequest{Pin: pin})
	if err != nil {
		return serviceError{messenger, err}
	}
	if !reply.GetWiped() {
		c.term.print(sentence(reply.GetTrouble()), "What is left there goes by itself within 30 days, and only the account's key reads it.")
		answer, err := c.ask(ctx, "Wipe this device all the same? Type yes: ", false)
		if err != nil {
			return err
		}
		if strings.TrimSpace(answer) != "yes" {
			return usageError("Nothing on this device was touched.")
		}
		if reply, err = c.cfg.Messenger.Wipe(ctx, &api.WipeRequest{Pin: pin, Anyway: true}); err != nil {
			return serviceError{messenger, err}
		}
	}
	if state, err := c.cfg.Messenger.State(ctx, &api.StateRequest{}); err == nil {
		c.setState(state)
		c.tell(state.GetAccount())
	}
	done := "The account is gone from this device."
	if n := reply.GetSwarm(); n > 0 {
		done += fmt.Sprintf(" %d of the %d nodes of its swarm have deleted what they kept.", reply.GetConfirmed(), n)
	}
	c.term.print(done, nextSetup)
	return nil
}
