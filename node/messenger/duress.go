package messenger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"hearth/node/api"
	"hearth/node/messenger/archive"
	"hearth/node/wholefile"
)

// maxLockMinutes bounds the setting.
const maxLockMinutes = 24 * 60

// SetDuress chooses the PIN that wipes this device's account wherever its PIN is
// asked for: the vault makes the account unusable in one step and opens an empty one,
// and the messenger erases the database, at the latest when it starts again. What the
// network keeps for the account stays there; nobody on this device can read it.
//
// Errors of the vault come through with their code and text.
func (m *Messenger) SetDuress(ctx context.Context, req *api.SetDuressRequest) (*api.MessengerState, error) {
	if m.cfg.Vault == nil {
		return nil, ErrNoVault
	}
	for _, pin := range []string{req.GetPin(), req.GetDuressPin()} {
		if err := checkPIN(pin); err != nil {
			return nil, err
		}
	}
	m.opening.Lock()
	defer m.opening.Unlock()
	_, err := m.cfg.Vault.SealDuress(context.WithoutCancel(ctx), &api.SealDuressRequest{Pin: req.GetPin(), DuressPin: req.GetDuressPin()})
	m.askVault(ctx)
	m.succeed()
	if err != nil {
		return nil, vaultError(err)
	}
	return m.state(), nil
}

// generationFile says for which account of the vault the database is.
func (m *Messenger) generationFile() string { return m.cfg.DBPath + ".generation" }

// vaultGeneration is 0 when the vault has not told.
func (m *Messenger) vaultGeneration() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vault.GetGeneration()
}

// noteGeneration writes down that the database belongs to the vault's account.
func (m *Messenger) noteGeneration() {
	present := m.vaultGeneration()
	if present == 0 {
		return
	}
	if kept, err := m.keptGeneration(); err == nil && kept == present {
		return
	}
	if err := wholefile.Write(m.generationFile(), []byte(strconv.FormatUint(present, 10)+"\n")); err != nil {
		m.log.Warn("writing down whose database it is", "err", err)
	}
}

func (m *Messenger) keptGeneration() (uint64, error) {
	text, err := os.ReadFile(m.generationFile())
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// succeed closes and erases what belongs to an account in whose place the vault has
// put another. The caller holds opening.
func (m *Messenger) succeed() {
	present := m.vaultGeneration()
	if present == 0 {
		return
	}
	kept, err := m.keptGeneration()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("reading whose database it is", "err", err)
	}
	if err != nil || kept >= present {
		return
	}
	if s := m.detach(); s != nil {
		s.close()
	}
	if err := archive.Erase(m.cfg.DBPath); err != nil {
		// Nobody can open it any more; the next start tries again.
		m.setTrouble(fmt.Errorf("%w: %w", ErrDisk, err))
		return
	}
	m.noteGeneration()
	m.publishState()
}

func (m *Messenger) setTrouble(err error) {
	m.mu.Lock()
	m.trouble = err.Error()
	m.mu.Unlock()
	m.publishState()
}

// lockWhenIdle locks the account when nobody has asked for anything for as long as
// the owner has set.
func (m *Messenger) lockWhenIdle(ctx context.Context) {
	for {
		m.mu.Lock()
		s, used, turned := m.session, m.used, m.turned
		m.mu.Unlock()
		var after time.Duration
		if s != nil {
			after = time.Duration(s.wants().LockMinutes) * time.Minute
		}
		var look <-chan time.Time
		if after > 0 {
			left := after - m.cfg.Now().Sub(used)
			if left <= 0 {
				if _, err := m.Lock(ctx, &api.LockRequest{}); err != nil {
					m.log.Warn("locking after a time without use", "err", err)
				}
				continue
			}
			look = time.After(left)
		}
		select {
		case <-ctx.Done():
			return
		case <-turned:
		case <-m.patience: // another time was set
		case <-look:
		}
	}
}
