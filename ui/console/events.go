package console

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"hearth/node/api"
)

const (
	nextSetup     = "There is no account yet: choose a PIN of 6 to 32 characters with `setup`."
	developerMode = "DEVELOPER MODE: no TPM protects the keys of this device."
	// maxEvent is how many characters of a message its announcement shows.
	maxEvent = 500
	// rejoin is the pause before the messenger is asked for events again.
	rejoin = time.Second
)

func nextUnlock(s *api.MessengerState) string {
	text := "The account is locked: open it with `unlock`"
	if n := s.GetTriesLeft(); n > 0 {
		text += fmt.Sprintf(" (%d tries left)", n)
	}
	return text + "."
}

// follow prints what the messenger tells, for as long as the console runs and
// however often the messenger comes and goes.
func (c *Console) follow(ctx context.Context) {
	for ctx.Err() == nil {
		c.followOnce(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(rejoin):
		}
	}
}

func (c *Console) followOnce(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := c.cfg.Messenger.Events(ctx, &api.EventsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return
	}
	seen := c.states.Load()
	state, err := c.cfg.Messenger.State(ctx, &api.StateRequest{})
	if err != nil {
		return
	}
	if c.states.Load() == seen { // else a command has brought a newer one
		c.noteState(state, true)
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return
		}
		switch e := event.GetEvent().(type) {
		case *api.Event_State:
			c.noteState(e.State, false)
		case *api.Event_Received:
			c.announce(ctx, e.Received)
		default:
			c.happened(ctx, event)
		}
	}
}

func (c *Console) announce(ctx context.Context, m *api.Message) {
	c.cfg.Log.Info("message received")
	if m.GetRead() { // on another device
		return
	}
	from := person(c.nameOf(ctx, m.GetSessionId()), m.GetSessionId())
	if isGroup(m.GetSessionId()) {
		from = byline("", m.GetFrom(), m.GetFromName()) + " in " + from
	}
	c.term.print("* message from "+clip(from, 66)+": "+clip(m.GetText(), maxEvent), "  message received; `read` shows it with its time")
}

// transfer is a file on its way.
type transfer struct {
	with   string
	id     uint64
	upload bool
}

const (
	tellProgress = 5 * time.Second // of a file that takes longer
	maxMoving    = 32              // files whose progress is followed; some end without a word
)

// progress tells how far a file is that takes a while.
func (c *Console) progress(ctx context.Context, t *api.Transfer) {
	key := transfer{t.GetSessionId(), t.GetId(), t.GetUpload()}
	if t.GetDone() >= t.GetTotal() && t.GetTotal() > 0 {
		delete(c.moving, key)
		return
	}
	now := c.cfg.Now()
	last, known := c.moving[key]
	if known && now.Sub(last) < tellProgress {
		return
	}
	if !known && len(c.moving) >= maxMoving {
		clear(c.moving)
	}
	if c.moving == nil {
		c.moving = make(map[transfer]time.Time)
	}
	c.moving[key] = now
	if !known || t.GetTotal() == 0 {
		return
	}
	way := "fetching"
	if t.GetUpload() {
		way = "sending"
	}
	c.term.print(fmt.Sprintf("* %s the file of #%d with %s: %d %%", way, t.GetId(), clip(person(c.nameOf(ctx, t.GetSessionId()), t.GetSessionId()), 66), t.GetDone()*100/t.GetTotal()))
}

// setState remembers a state.
func (c *Console) setState(s *api.MessengerState) (before *api.MessengerState) {
	c.states.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	before, c.state = c.state, s
	return before
}

// noteState prints what is new in a state. What to do next about the account
// is said when it was asked for, once for each start of the messenger, or as
// soon as a messenger that was starting knows. Later events say nothing new about
// that, since only commands open an account.
func (c *Console) noteState(s *api.MessengerState, asked bool) {
	before := c.setState(s)
	var lines []string
	if s.GetDeveloper() && !before.GetDeveloper() {
		lines = append(lines, developerMode)
	}
	starting := s.GetAccount() == api.MessengerState_STARTING
	if !starting && (asked || before.GetAccount() == api.MessengerState_STARTING) && c.tell(s.GetAccount()) {
		switch s.GetAccount() {
		case api.MessengerState_NONE:
			lines = append(lines, nextSetup)
		case api.MessengerState_LOCKED:
			lines = append(lines, nextUnlock(s))
		case api.MessengerState_OPEN:
			lines = append(lines, opened(s))
		}
	}
	switch trouble := s.GetTrouble(); {
	case trouble != "" && trouble != before.GetTrouble() && !starting:
		lines = append(lines, "* trouble: "+trouble)
	case trouble == "" && !s.GetConnecting() && (before.GetTrouble() != "" || before.GetConnecting()) && s.GetAccount() == api.MessengerState_OPEN:
		lines = append(lines, "* messages flow")
	}
	if n := s.GetNewDevices(); asked && n > 0 && before.GetNewDevices() == 0 {
		lines = append(lines, newDevices(n))
	}
	if len(lines) > 0 {
		c.term.print(lines...)
	}
}

// tell notes that the user is told what the account is like, and whether that
// is news.
func (c *Console) tell(account api.MessengerState_Account) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	news = !c.told || c.account != account
	c.told, c.account = true, account
	return news
}

func opened(s *api.MessengerState) string {
	if n := s.GetUnread(); n > 0 {
		return fmt.Sprintf("The account is open; %s, see `read`.", unreadText(n))
	}
	return "The account is open."
}
