package messenger

import (
	"context"
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/account"
	"hearth/node/api"
)

const (
	vaultLimit = 5 * time.Second // for a question without a PIN; a TPM is slow with PINs only
	vaultRetry = 500 * time.Millisecond
	vaultWatch = 5 * time.Second // while the account is locked: tries come back with time
)

// Create makes the account under a PIN and opens it.
func (m *Messenger) Create(ctx context.Context, req *api.CreateRequest) (*api.MessengerState, error) {
	return m.admit(ctx, req.GetPin(), func(ctx context.Context) (*api.AccountSeed, error) {
		return m.cfg.Vault.CreateAccount(ctx, &api.CreateAccountRequest{Pin: req.GetPin()})
	})
}

// Unlock opens the account with its PIN. Errors of the vault come through with
// their code and text.
func (m *Messenger) Unlock(ctx context.Context, req *api.UnlockRequest) (*api.MessengerState, error) {
	return m.admit(ctx, req.GetPin(), func(ctx context.Context) (*api.AccountSeed, error) {
		return m.cfg.Vault.OpenAccount(ctx, &api.OpenAccountRequest{Pin: req.GetPin()})
	})
}

// Phrase gives the recovery phrase. The vault judges the PIN each time, also
// while the account is open: whoever finds the device unlocked does not get it.
func (m *Messenger) Phrase(ctx context.Context, req *api.PhraseRequest) (*api.PhraseReply, error) {
	if m.cfg.Vault == nil {
		return nil, ErrNoVault
	}
	if err := checkPIN(req.GetPin()); err != nil {
		return nil, err
	}
	m.opening.Lock()
	defer m.opening.Unlock()
	reply, err := m.cfg.Vault.OpenAccount(ctx, &api.OpenAccountRequest{Pin: req.GetPin()})
	if err != nil {
		m.askVault(ctx)
		return nil, vaultError(err)
	}
	seed, err := takeSeed(reply)
	if err != nil {
		return nil, err
	}
	defer seed.Wipe()
	return &api.PhraseReply{Phrase: seed.Phrase()}, nil
}

// admit asks the vault for the seed and opens the account with it.
func (m *Messenger) admit(ctx context.Context, pin string, ask func(context.Context) (*api.AccountSeed, error)) (*api.MessengerState, error) {
	if err := checkPIN(pin); err != nil {
		return nil, err
	}
	m.opening.Lock()
	defer m.opening.Unlock()
	m.mu.Lock()
	closed, open := m.closed, m.session != nil
	m.mu.Unlock()
	if closed {
		return nil, ErrStopped
	}
	if open {
		return nil, ErrOpen
	}
	reply, err := ask(ctx)
	if err != nil {
		m.askVault(ctx) // how many tries are left now
		return nil, vaultError(err)
	}
	seed, err := takeSeed(reply)
	if err != nil {
		return nil, err
	}
	defer seed.Wipe()
	a := account.New(seed)
	if err := m.open(a, true); err != nil {
		a.Wipe()
		m.mu.Lock()
		m.trouble = err.Error()
		m.mu.Unlock()
		return nil, err
	}
	m.askVault(ctx)
	m.log.Info("account opened")
	return m.state(), nil
}

func checkPIN(pin string) error {
	if n := utf8.RuneCountInString(pin); n < minPIN || n > maxPIN || !utf8.ValidString(pin) {
		return ErrPIN
	}
	return nil
}

// takeSeed moves the seed out of the vault's reply, which is wiped.
func takeSeed(reply *api.AccountSeed) (account.Seed, error) {
	defer clear(reply.GetSeed())
	if len(reply.GetSeed()) != account.SeedSize {
		return account.Seed{}, fmt.Errorf("%w: it gave a seed of %d bytes", ErrNoVault, len(reply.GetSeed()))
	}
	return account.Seed(reply.GetSeed()), nil
}

// vaultError passes on what the vault said. Where it said nothing, because it is
// not there, gRPC's text about sockets is no use to anybody.
func vaultError(err error) error {
	if status.Code(err) == codes.Unavailable {
		return ErrNoVault
	}
	return err
}

// askVault refreshes what is known of the vault and reports whether it answered.
func (m *Messenger) askVault(ctx context.Context) bool {
	if m.cfg.Vault == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, vaultLimit)
	defer cancel()
	st, err := m.cfg.Vault.Status(ctx, &api.VaultStatusRequest{})
	if err != nil {
		m.log.Debug("asking the vault", "err", err)
		return false
	}
	m.mu.Lock()
	m.vault = st
	m.mu.Unlock()
	m.publishState()
	return true
}

// watchVault waits for the vault and follows its count of tries until the
// account is open.
func (m *Messenger) watchVault(ctx context.Context) {
	m.log.Info("waiting for the vault")
	told := false
	for {
		wait := vaultRetry
		if m.askVault(ctx) {
			if wait = vaultWatch; !told {
				m.log.Info("the vault answers")
				told = true
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-m.opened:
			return
		case <-time.After(wait):
		}
	}
}
