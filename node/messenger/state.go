package messenger

import (
	"context"
	"fmt"
	"time"

	"hearth/node/api"
)

// patience is how long an account that was just opened may take to reach its swarm
// before that is called trouble. Fetching the list of service nodes and building the
// first paths takes a second or so, and a device that has just been switched on may
// not even have its address yet.
const patience = 10 * time.Second

// State says how things are. It never fails.
func (m *Messenger) State(ctx context.Context, _ *api.StateRequest) (*api.MessengerState, error) {
	m.mu.Lock()
	ask := m.vault == nil && m.session == nil && !m.closed
	m.mu.Unlock()
	if ask {
		m.askVault(ctx) // the first screen should not have to wait for Run
	}
	return m.state(), nil
}

func (m *Messenger) state() *api.MessengerState {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := &api.MessengerState{TriesLeft: m.vault.GetTriesLeft(), Developer: m.vault.GetDeveloper()}
	switch {
	case m.closed:
		st.Account = api.MessengerState_LOCKED
		st.Trouble = ErrStopped.text
	case m.session != nil:
		st.Account = api.MessengerState_OPEN
		m.session.describe(st)
	case m.vault == nil:
		st.Account = api.MessengerState_STARTING
		st.Trouble = "waiting for the vault"
	case m.vault.HasAccount:
		st.Account = api.MessengerState_LOCKED
		st.Trouble = m.trouble
	default:
		st.Account = api.MessengerState_NONE
		st.Trouble = m.trouble
	}
	return st
}

// describe fills in what only an open account has.
func (s *session) describe(st *api.MessengerState) {
	st.SessionId = s.own.ID().String()
	st.Unread = s.archive.Unread()
	st.Unreadable = s.archive.Unreadable()
	st.Requests = s.archive.Requests() + s.groups.invited.Load()
	st.NewDevices = uint32(s.archive.FreshDevices())
	st.Waiting = uint32(s.outbox.messages())
	st.KnownNodes = uint32(s.pool.Size())
	st.Paths = uint32(len(s.pool.Paths()))
	st.ClockOff = int64(s.clock.Offset().Seconds())

	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lastPoll.IsZero() {
		st.LastPoll = s.lastPoll.UnixMilli()
	}
	st.Connecting = s.lastPoll.IsZero()
	switch {
	case s.disk != "":
		st.Trouble = s.disk
	case s.badSeed:
		st.Trouble = s.listTrouble
	case st.Connecting && !s.late:
	case st.KnownNodes == 0 && s.listTrouble != "":
		st.Trouble = s.listTrouble
	case st.KnownNodes == 0:
		st.Trouble = "still waiting for the list of service nodes"
	case st.Paths == 0:
		st.Trouble = fmt.Sprintf("too few service nodes for a path: %d known", st.KnownNodes)
	case s.pollTrouble != "":
		st.Trouble = s.pollTrouble
	}
}
