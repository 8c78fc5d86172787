package console

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"hearth/node/api"
	"hearth/ui/qr"
)

// Sizes of a PIN in characters, as the messenger's API has them.
const (
	minPIN = 6
	maxPIN = 32
)

// pinFrom takes the PIN out of the line or asks for it.
func (c *Console) pinFrom(ctx context.Context, rest, question string) (string, error) {
	pin := strings.TrimSpace(rest)
	if pin == "" {
		answer, err := c.ask(ctx, question, true)
		if err != nil {
			return "", err
		}
		pin = strings.TrimSpace(answer)
	}
	if pin == "" {
		return "", usageError("No PIN was given; nothing was done.")
	}
	return pin, nil
}

func (c *Console) setup(ctx context.Context, rest string) error {
	switch account, err := c.accountNow(ctx); {
	case err != nil:
		return err
	case account == api.MessengerState_LOCKED:
		return usageError("There is an account already; `unlock` opens it.")
	case account == api.MessengerState_OPEN:
		return usageError("There is an account already, and it is open.")
	}
	pin, err := c.pinFrom(ctx, rest, "New PIN: ")
	if err != nil {
		return err
	}
	if n := utf8.RuneCountInString(pin); n < minPIN || n > maxPIN {
		return usageError(fmt.Sprintf("A PIN has %d to %d characters; this one has %d.", minPIN, maxPIN, n))
	}
	if strings.TrimSpace(rest) == "" {
		again, err := c.ask(ctx, "The same PIN again: ", true)
		if err != nil {
			return err
		}
		if strings.TrimSpace(again) != pin {
			return usageError("The two PINs differ; nothing was done.")
		}
	}
	state, err := c.cfg.Messenger.Create(ctx, &api.CreateRequest{Pin: pin})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.setState(state)
	c.tell(state.GetAccount())
	c.term.print("Your account is ready. Your Session ID is", state.GetSessionId(),
		"`id` shows it as a QR code. Next, write down the 13 words that `phrase` shows: they bring the account back when this device is lost.")
	return nil
}

func (c *Console) unlock(ctx context.Context, rest string) error {
	switch account, err := c.accountNow(ctx); {
	case err != nil:
		return err
	case account == api.MessengerState_NONE:
		return usageError(nextSetup)
	case account == api.MessengerState_OPEN:
		return usageError("The account is open already.")
	}
	pin, err := c.pinFrom(ctx, rest, "PIN: ")
	if err != nil {
		return err
	}
	state, err := c.cfg.Messenger.Unlock(ctx, &api.UnlockRequest{Pin: pin})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.setState(state)
	c.tell(state.GetAccount())
	c.term.print(opened(state))
	return nil
}

func (c *Console) id(ctx context.Context, _ string) error {
	state, err := c.openState(ctx)
	if err != nil {
		return err
	}
	id := state.GetSessionId()
	code, err := qr.New(id)
	if err != nil {
		return err
	}
	c.term.print("Your Session ID:", id)
	c.term.printRaw(code.Text()...)
	return nil
}

func (c *Console) phrase(ctx context.Context, rest string) error {
	if account, err := c.accountNow(ctx); err != nil {
		return err
	} else if account == api.MessengerState_NONE {
		return usageError(nextSetup)
	}
	pin, err := c.pinFrom(ctx, rest, "PIN: ")
	if err != nil {
		return err
	}
	reply, err := c.cfg.Messenger.Phrase(ctx, &api.PhraseRequest{Pin: pin})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.term.print("Whoever sees these 13 words can read and write in your name. Be alone, copy them to paper, clear this screen.", reply.GetPhrase())
	return nil
}

// accountNow spares the user a PIN that is not wanted.
func (c *Console) accountNow(ctx context.Context) (api.MessengerState_Account, error) {
	state, err := c.cfg.Messenger.State(ctx, &api.StateRequest{})
	if err != nil {
		return 0, serviceError{messenger, err}
	}
	c.setState(state)
	return state.GetAccount(), nil
}

// openState gives the messenger's state, or why there is no open account.
func (c *Console) openState(ctx context.Context) (*api.MessengerState, error) {
	state, err := c.cfg.Messenger.State(ctx, &api.StateRequest{})
	if err != nil {
		return nil, serviceError{messenger, err}
	}
	c.setState(state)
	switch state.GetAccount() {
	case api.MessengerState_STARTING:
		return nil, usageError("The vault is still starting; try again in a moment.")
	case api.MessengerState_NONE:
		return nil, usageError(nextSetup)
	case api.MessengerState_LOCKED:
		return nil, usageError(nextUnlock(state))
	}
	return state, nil
}
