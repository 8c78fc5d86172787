package messenger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/config"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
)

// wipeLimit is how long the members of the own swarm have to delete everything.
const wipeLimit = time.Minute

// Wipe leaves for good: the account's swarm deletes everything that it keeps for
// the account, then the database and the sealed seed are overwritten and removed,
// in this order, so that after a power cut whatever is left can be wiped again.
// Afterwards the device has no account, as on its first day.
//
// Unless anyway is set, nothing on the device is touched before every member of
// the swarm has signed that it deleted all. A locked account is opened for this
// and locked again when it comes to nothing.
//
// Errors: [ErrPIN], [ErrNoVault], [ErrStopped], [ErrDisk], and those of the vault
// with their code and text.
func (m *Messenger) Wipe(ctx context.Context, req *api.WipeRequest) (*api.WipeReply, error) {
	if m.cfg.Vault == nil {
		return nil, ErrNoVault
	}
	if err := checkPIN(req.GetPin()); err != nil {
		return nil, err
	}
	m.opening.Lock()
	defer m.opening.Unlock()
	if m.isClosed() {
		return nil, ErrStopped
	}
	reply := &api.WipeReply{}
	// The PIN first: a wrong one must not cost a message.
	seed, err := m.openSeed(ctx, req.GetPin())
	defer seed.Wipe()
	switch {
	case err == nil:
		m.askVault(ctx)
		m.succeed()
		err = m.leaveSwarm(ctx, seed, req.GetAnyway(), reply)
	case errors.Is(err, ErrNoVault):
	case status.Code(err) == codes.NotFound:
		err = nil // a database without an account is all that can be left
	case status.Code(err) == codes.FailedPrecondition:
		reply.Trouble, err = status.Convert(err).Message(), nil // it never opens here, so it cannot sign
	default:
		m.askVault(ctx) // how many tries are left now
	}
	if err != nil {
		return nil, err
	}
	if reply.Trouble != "" && !req.GetAnyway() {
		return reply, nil
	}

	if s := m.detach(); s != nil {
		s.close()
	}
	if err := archive.Erase(m.cfg.DBPath); err != nil {
		m.publishState()
		return nil, forCaller(ErrDisk, err)
	}
	// The caller may have gone; half of it is worse than either.
	ctx = context.WithoutCancel(ctx)
	if _, err := m.cfg.Vault.RemoveAccount(ctx, &api.RemoveAccountRequest{Pin: req.GetPin()}); err != nil && status.Code(err) != codes.NotFound {
		m.askVault(ctx)
		return nil, vaultError(err)
	}
	m.mu.Lock()
	m.trouble = ""
	m.mu.Unlock()
	m.askVault(ctx)
	m.log.Info("account wiped", "confirmed", reply.GetConfirmed(), "swarm", reply.GetSwarm())
	reply.Wiped = true
	return reply, nil
}

// openSeed asks the vault for the seed. The error is a status.
func (m *Messenger) openSeed(ctx context.Context, pin string) (account.Seed, error) {
	given, err := m.cfg.Vault.OpenAccount(ctx, &api.OpenAccountRequest{Pin: pin})
	if err != nil {
		return account.Seed{}, vaultError(err)
	}
	return takeSeed(given)
}

// leaveSwarm lets the own swarm delete everything, and puts into reply how that
// went. While the members are asked nothing else of the account is at work, so that
// nothing new gets there after the deletion, with one exception: where other devices
// have the account as well, they get a list of devices without this one.
func (m *Messenger) leaveSwarm(ctx context.Context, seed account.Seed, anyway bool, reply *api.WipeReply) error {
	m.mu.Lock()
	locked := m.session == nil
	m.mu.Unlock()
	if locked {
		own := account.New(seed)
		if err := m.open(own, true); err != nil {
			own.Wipe()
			reply.Trouble = err.Error()
			return nil
		}
	}
	err := m.awaitList(ctx)
	s := m.detach()
	if s == nil {
		return ErrStopped
	}
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, wipeLimit)
		var done mailbox.Deleted
		done, err = s.box.DeleteAll(limited, s.own)
		cancel()
		reply.Confirmed, reply.Swarm, reply.Deleted = uint32(done.Members), uint32(done.Swarm), uint32(done.Messages)
		if err == nil || anyway {
			s.signOut(ctx)
		}
	}
	if err == nil {
		s.close()
		return nil
	}
	m.log.Warn("the own swarm has not deleted everything", "confirmed", reply.GetConfirmed(), "swarm", reply.GetSwarm(), "err", err)
	reply.Trouble = "the network cannot be reached"
	if reply.GetSwarm() > 0 {
		reply.Trouble = fmt.Sprintf("only %d of the %d nodes of your swarm have deleted their copies", reply.GetConfirmed(), reply.GetSwarm())
	}
	s.close()
	if locked {
		m.publishState()
		return nil
	}
	own := account.New(seed)
	if err := m.open(own, true); err != nil {
		own.Wipe()
		return err
	}
	return nil
}

// signOut tells the account's other devices, if there are any, that this one is none
// any more. It is a courtesy: nothing waits for it.
func (s *session) signOut(ctx context.Context) {
	others, err := s.archive.SignOut()
	if err != nil || !others {
		return
	}
	list, err := s.archive.PushConfigs()
	if err == nil {
		list = slices.DeleteFunc(list, func(p archive.ConfigPush) bool { return p.Kind != config.DeviceList })
		err = s.storeConfigs(ctx, list)
	}
	if err != nil {
		s.log.Warn("the account's other devices still list this one", "err", err)
	}
}

// awaitList waits for the list of service nodes, which a session that has just
// been opened may not have yet.
func (m *Messenger) awaitList(ctx context.Context) error {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	return s.awaitNodes(ctx)
}
