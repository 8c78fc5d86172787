package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"hearth/build/devnet"
	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger"
)

// Friend is a second person: a messenger on this machine, with an account and a
// database of its own, who answers every message.
type Friend struct {
	messenger *messenger.Messenger
	account   *account.Account
	stop      context.CancelFunc
	tasks     sync.WaitGroup
}

// newFriend opens the friend's account in dir, or makes it there. The seed lies
// in a plain file: this account is a toy of the development network.
func newFriend(dir string, network *devnet.Network, log *slog.Logger) (*Friend, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	seed, err := friendSeed(filepath.Join(dir, "seed"))
	if err != nil {
		return nil, err
	}
	f := &Friend{account: account.New(seed)}
	f.messenger, err = messenger.New(messenger.Config{
		Account: f.account, DBPath: filepath.Join(dir, "messenger.db"),
		Seeds: []messenger.NodeSource{network.Seed()}, Log: log.With("who", "friend"),
		PollInterval: time.Second, DisplayName: "Friend",
	})
	if err != nil {
		return nil, err
	}
	events, err := f.messenger.Subscribe()
	if err != nil {
		f.messenger.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	f.tasks.Go(func() { f.messenger.Run(ctx) })
	f.tasks.Go(func() {
		defer events.Close()
		for {
			event, err := events.Next(ctx)
			if err != nil {
				return
			}
			m := event.GetReceived()
			if m == nil {
				m = event.GetRequest() // the answer accepts it
			}
			if m != nil {
				f.answer(ctx, m, log)
			}
		}
	})
	return f, nil
}

func (f *Friend) answer(ctx context.Context, m *api.Message, log *slog.Logger) {
	if m.SessionId == f.ID() {
		return
	}
	text := []rune(m.Text)
	const quoted = 200
	if len(text) > quoted {
		text = append(text[:quoted:quoted], '…')
	}
	_, err := f.messenger.Send(ctx, &api.SendRequest{
		To:   m.SessionId,
		Text: fmt.Sprintf("You wrote %q. This answer came to you over three hops.", string(text)),
	})
	if err != nil && ctx.Err() == nil {
		log.Warn("the friend's answer was not sent", "error", err)
	}
}

// ID is the friend's Session ID.
func (f *Friend) ID() string { return f.account.ID().String() }

// Send writes to somebody, and returns when the message is stored or, when that
// takes long, is left to the outbox.
func (f *Friend) Send(ctx context.Context, to, text string) error {
	_, err := f.messenger.Send(ctx, &api.SendRequest{To: to, Text: text})
	return err
}

func (f *Friend) close() {
	f.stop()
	f.tasks.Wait()
	f.account.Wipe()
}

func friendSeed(path string) (seed account.Seed, err error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if seed, err = account.NewSeed(rand.Reader); err != nil {
			return seed, err
		}
		return seed, os.WriteFile(path, seed[:], 0o600)
	case err != nil:
		return seed, err
	case len(b) != len(seed):
		return seed, fmt.Errorf("%s is damaged: it must have %d bytes; delete it for a new account", path, len(seed))
	}
	return account.Seed(b), nil
}
