package messenger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
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

// Restore makes the account of a recovery phrase, or of a seed in hexadecimal
// digits, under a new PIN and opens it. What its swarm still keeps for it comes
// back by itself: the first round asks every member, from the beginning.
//
// Without a PIN only the phrase is checked, and whether there is room for its
// account. The text of [ErrPhrase] names the place of a word that is wrong, never a
// word.
func (m *Messenger) Restore(ctx context.Context, req *api.RestoreRequest) (*api.MessengerState, error) {
	seed, err := account.ParseRecovery(req.GetPhrase())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPhrase, err)
	}
	defer seed.Wipe()
	if req.GetPin() == "" {
		return m.vacant(ctx, seed)
	}
	return m.settle(ctx, req.GetPin(), seed)
}

// vacant reports whether there is no account here yet, and nothing of another than
// the seed's.
func (m *Messenger) vacant(ctx context.Context, seed account.Seed) (*api.MessengerState, error) {
	if err := m.noAccount(ctx); err != nil {
		return nil, err
	}
	m.opening.Lock()
	defer m.opening.Unlock()
	if m.isOpen() {
		return nil, ErrOpen
	}
	if err := m.checkDatabase(seed); err != nil {
		return nil, err
	}
	return m.state(), nil
}

// noAccount reports whether an account could come to this device.
func (m *Messenger) noAccount(ctx context.Context) error {
	switch {
	case m.isClosed():
		return ErrStopped
	case m.cfg.Vault == nil || !m.askVault(ctx):
		return ErrNoVault
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session != nil || m.vault.GetHasAccount() {
		return ErrOpen
	}
	return nil
}

// settle seals a seed that came from elsewhere with a PIN, and opens its account.
func (m *Messenger) settle(ctx context.Context, pin string, seed account.Seed) (*api.MessengerState, error) {
	return m.admit(ctx, pin, func(ctx context.Context) (*api.AccountSeed, error) {
		// A database of another account would be found out only when the seed is
		// sealed already.
		if err := m.checkDatabase(seed); err != nil {
			return nil, err
		}
		given := bytes.Clone(seed[:])
		defer clear(given)
		return m.cfg.Vault.RestoreAccount(ctx, &api.RestoreAccountRequest{Pin: pin, Seed: given})
	})
}

// checkDatabase reports whether the database that is there, if any, is that of the
// seed's account.
func (m *Messenger) checkDatabase(seed account.Seed) error {
	if _, err := os.Stat(m.cfg.DBPath); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	own := account.New(seed)
	defer own.Wipe()
	a, err := archive.Open(m.cfg.DBPath, own, m.cfg.Rand, m.cfg.Now)
	if err != nil {
		return forCaller(ErrDisk, err)
	}
	return forCaller(ErrDisk, a.Close())
}

// ChangePIN chooses another PIN. An open account stays open, a locked one locked.
// Errors of the vault come through with their code and text.
//
// Without a new PIN the vault only judges the old one, as with any PIN: a wrong one
// costs a try, and the duress PIN does what it is for.
func (m *Messenger) ChangePIN(ctx context.Context, req *api.ChangePINRequest) (*api.MessengerState, error) {
	if m.cfg.Vault == nil {
		return nil, ErrNoVault
	}
	checkOnly := req.GetNewPin() == ""
	if err := checkPIN(req.GetPin()); err != nil {
		return nil, err
	}
	if !checkOnly {
		if err := checkPIN(req.GetNewPin()); err != nil {
			return nil, err
		}
	}
	if req.GetPin() == req.GetNewPin() {
		return nil, ErrSamePIN
	}
	m.opening.Lock()
	defer m.opening.Unlock()
	ctx = context.WithoutCancel(ctx) // the caller's going away must not end it half-way
	var err error
	if checkOnly {
		var opened *api.AccountSeed
		opened, err = m.cfg.Vault.OpenAccount(ctx, &api.OpenAccountRequest{Pin: req.GetPin()})
		clear(opened.GetSeed())
	} else {
		_, err = m.cfg.Vault.ResealAccount(ctx, &api.ResealAccountRequest{Pin: req.GetPin(), NewPin: req.GetNewPin()})
	}
	m.askVault(ctx)
	m.succeed()
	if err != nil {
		return nil, vaultError(err)
	}
	if !checkOnly {
		m.log.Info("PIN changed")
	}
	return m.state(), nil
}

// Lock closes the account until the next [Messenger.Unlock]: requests end, the
// database is closed, the keys are overwritten. Locking a locked account changes
// nothing. The error is [ErrNoVault] when nobody could open it again.
func (m *Messenger) Lock(ctx context.Context, _ *api.LockRequest) (*api.MessengerState, error) {
	if m.cfg.Vault == nil {
		return nil, ErrNoVault
	}
	m.opening.Lock()
	defer m.opening.Unlock()
	if s := m.detach(); s != nil {
		s.close()
		m.log.Info("account locked")
	}
	m.askVault(ctx)
	m.publishState()
	return m.state(), nil
}

func (m *Messenger) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

func (m *Messenger) isOpen() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session != nil
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
	m.askVault(ctx)
	m.succeed()
	return &api.PhraseReply{Phrase: seed.Phrase()}, nil
}

// admit asks the vault for the seed and opens the account with it.
func (m *Messenger) admit(ctx context.Context, pin string, ask func(context.Context) (*api.AccountSeed, error)) (*api.MessengerState, error) {
	if err := checkPIN(pin); err != nil {
		return nil, err
	}
	m.opening.Lock()
	defer m.opening.Unlock()
	switch {
	case m.isClosed():
		return nil, ErrStopped
	case m.isOpen():
		return nil, ErrOpen
	case m.cfg.Vault == nil:
		return nil, ErrNoVault
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
	m.askVault(ctx)
	m.succeed()
	a := account.New(seed)
	if err := m.open(a, true); err != nil {
		a.Wipe()
		m.mu.Lock()
		m.trouble = err.Error()
		m.mu.Unlock()
		return nil, err
	}
	m.noteGeneration()
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
	m.mu.Lock()
	m.vaultAsked++
	asked := m.vaultAsked
	m.mu.Unlock()
	st, err := m.cfg.Vault.Status(ctx, &api.VaultStatusRequest{})
	if err != nil {
		m.log.Debug("asking the vault", "err", err)
		return false
	}
	m.mu.Lock()
	if asked > m.vaultTold { // or a later question was answered before
		m.vault, m.vaultTold = st, asked
	}
	m.mu.Unlock()
	m.publishState()
	return true
}

// watchVault waits for the vault and follows its count of tries while no account
// is open.
func (m *Messenger) watchVault(ctx context.Context) {
	m.log.Info("waiting for the vault")
	told := false
	for {
		m.mu.Lock()
		open, turned := m.session != nil, m.turned
		m.mu.Unlock()
		var again <-chan time.Time
		if !open {
			wait := vaultRetry
			if m.askVault(ctx) {
				if m.opening.TryLock() { // whoever has it changes things just now
					m.succeed()
					m.opening.Unlock()
				}
				if wait = vaultWatch; !told {
					m.log.Info("the vault answers")
					told = true
				}
			}
			again = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-turned:
		case <-again:
		}
	}
}
