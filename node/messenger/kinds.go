package messenger

import (
	"context"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/wire/sessionpb"
)

const (
	maxEmoji      = 64 // bytes: a family of four with skin colours has 41
	reactionsFast = 20 // in reactionsTime (Session desktop)
	reactionsTime = time.Minute

	typingShown = 15 * time.Second // after the last word of it (Session desktop)
	typingTTL   = 20 * time.Second
	typingCalls = 20 * time.Second // limit of one call

	typingBehind = 5 // messages among which that is looked for which was being written
)

// React puts an emoji on a message, for both sides to see, or takes the own one
// away. Errors: [ErrEmoji], [ErrFast], [ErrNoMessage], [ErrBlocked], [ErrBadID],
// [ErrUnknown], [ErrAmbiguous], [ErrFull], [ErrDisk].
func (m *Messenger) React(ctx context.Context, req *api.ReactRequest) (*api.Message, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if !validEmoji(req.GetEmoji()) {
		return nil, ErrEmoji
	}
	msg, err := s.message(req.GetWith(), req.GetId())
	if err != nil {
		return nil, err
	}
	if msg.Deleted || msg.Kind != archive.KindText {
		return nil, ErrNoMessage
	}
	if !s.mayReact() {
		return nil, ErrFast
	}
	at := s.stamp()
	author, action := msg.With, sessionpb.DataMessage_Reaction_REACT
	if msg.Outgoing {
		author = s.own.ID()
	} else if isGroup(msg.With) {
		author = msg.From
	}
	if req.GetRemove() {
		action = sessionpb.DataMessage_Reaction_REMOVE
	}
	p, err := s.outgoing(msg.With, &sessionpb.Content{
		DataMessage: &sessionpb.DataMessage{Reaction: &sessionpb.DataMessage_Reaction{
			Id: proto.Uint64(uint64(msg.Timestamp)), Author: proto.String(author.String()),
			Emoji: proto.String(req.GetEmoji()), Action: action.Enum()}},
	}, at, mailbox.TTL)
	if err != nil {
		return nil, forCaller(ErrNobody, err)
	}
	msg, result, err := s.archive.React(msg.Ref(), archive.Reaction{Emoji: req.GetEmoji(), Mine: true, At: at.ms, Gone: req.GetRemove()}, p)
	return s.done(msg, result, err)
}

// mayReact keeps to what clients allow themselves.
func (s *session) mayReact() bool {
	now := s.m.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reacted = slices.DeleteFunc(s.reacted, func(t time.Time) bool { return now.Sub(t) >= reactionsTime })
	if len(s.reacted) >= reactionsFast {
		return false
	}
	s.reacted = append(s.reacted, now)
	return true
}

// Unsend deletes an own message for both sides: here at once, in the own swarm,
// and at the recipient, who is asked to. Errors: [ErrNoMessage], [ErrNotOwn],
// [ErrBadID], [ErrUnknown], [ErrAmbiguous], [ErrFull], [ErrDisk].
func (m *Messenger) Unsend(ctx context.Context, req *api.UnsendRequest) (*api.Message, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	msg, err := s.message(req.GetWith(), req.GetId())
	if err != nil {
		return nil, err
	}
	switch {
	case msg.Deleted || msg.Kind != archive.KindText:
		return nil, ErrNoMessage
	case !msg.Outgoing:
		return nil, ErrNotOwn
	case isGroup(msg.With):
		return s.unsendOfGroup(msg)
	}
	p, err := s.outgoing(msg.With, &sessionpb.Content{
		UnsendRequest: &sessionpb.UnsendRequest{Timestamp: proto.Uint64(uint64(msg.Timestamp)), Author: proto.String(s.own.ID().String())},
	}, s.stamp(), mailbox.TTL)
	if err != nil {
		return nil, forCaller(ErrNobody, err)
	}
	waiting := msg.State == archive.StateWaiting
	msg, result, err := s.archive.Unsend(msg.Ref(), p)
	if err == nil && waiting {
		s.outbox.again() // whoever waits for its delivery hears at once
	}
	return s.done(msg, result, err)
}

// SetTimer makes what is written in a conversation disappear, from now on and for
// both sides. Errors: [ErrTimer], [ErrBlocked], [ErrBadID], [ErrUnknown],
// [ErrAmbiguous], [ErrFull], [ErrDisk].
func (m *Messenger) SetTimer(ctx context.Context, req *api.SetTimerRequest) (*api.Contact, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	with, err := s.whom(req.GetWith())
	if err != nil {
		return nil, err
	}
	if isGroup(with) {
		return s.setGroupTimer(ctx, with, req.GetTimer())
	}
	var t archive.Timer
	switch given := req.GetTimer(); given.GetType() {
	case api.Timer_OFF:
	case api.Timer_AFTER_READ, api.Timer_AFTER_SEND:
		t = archive.Timer{Type: archive.TimerType(given.GetType()), Seconds: given.GetSeconds()}
		d := time.Duration(t.Seconds) * time.Second
		// Nobody but its writer reads a note to self.
		if d < minTTL || d > mailbox.TTL || t.Type == archive.TimerAfterRead && with == s.own.ID() {
			return nil, ErrTimer
		}
	default:
		return nil, ErrTimer
	}
	_, result, err := s.write(with, func(ms int64, _ archive.Contact) (archive.Message, *sessionpb.Content) {
		content := &sessionpb.Content{
			DataMessage:  &sessionpb.DataMessage{Flags: proto.Uint32(uint32(sessionpb.DataMessage_EXPIRATION_TIMER_UPDATE))},
			SigTimestamp: proto.Uint64(uint64(ms)),
		}
		setTimer(content, t)
		return archive.Message{Kind: archive.KindTimer, Timer: t}, content
	})
	if err != nil {
		return nil, err
	}
	s.publish(result)
	c, _ := s.archive.Contact(with)
	return s.apiContact(c), nil
}

// Typing tells a contact that the owner is writing, or no longer is. It does
// nothing when the setting is off, or for somebody who has not accepted the
// owner. Errors: [ErrBadID], [ErrUnknown], [ErrAmbiguous], [ErrBusy],
// [ErrNetwork].
func (m *Messenger) Typing(ctx context.Context, req *api.TypingRequest) (*api.TypingReply, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	with, err := s.whom(req.GetWith())
	if err != nil {
		return nil, err
	}
	c, _ := s.archive.Contact(with)
	if isGroup(with) { // nobody is told there
		return &api.TypingReply{}, nil
	}
	if !s.wants().Typing || !c.Approved || !c.ApprovedMe || c.Blocked || with == s.own.ID() {
		return &api.TypingReply{}, nil
	}
	select {
	case m.calls <- struct{}{}:
		defer func() { <-m.calls }()
	default:
		return nil, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, typingCalls)
	defer cancel()
	action := sessionpb.TypingMessage_STARTED
	if req.GetStopped() {
		action = sessionpb.TypingMessage_STOPPED
	}
	_, err = s.box.Store(ctx, with, typingTTL, func() int64 { return s.stamp().ms }, func(ms int64) ([]byte, error) {
		p, err := s.sealed(with, &sessionpb.Content{
			TypingMessage: &sessionpb.TypingMessage{Timestamp: proto.Uint64(uint64(ms)), Action: action.Enum()},
			SigTimestamp:  proto.Uint64(uint64(ms)),
		}, typingTTL)
		return p.Data, err
	})
	if err != nil {
		return nil, forCaller(ErrNetwork, err)
	}
	return &api.TypingReply{}, nil
}

// typing shows that somebody writes, for a while or until they stop.
func (s *session) typing(from account.ID, sent int64, stopped bool) {
	c, _ := s.archive.Contact(from)
	if !s.wants().Typing || !c.Approved || c.Blocked || s.clock.Now().Sub(time.UnixMilli(sent)) >= typingShown {
		return
	}
	if stopped {
		s.typingEnds(from)
		return
	}
	// What they were writing may be here before the word that they write it.
	last, err := s.archive.Messages(from, 0, typingBehind, 1<<20)
	if err != nil {
		s.diskFailed(err)
		return
	}
	if slices.ContainsFunc(last, func(m archive.Message) bool { return !m.Outgoing && m.Timestamp >= sent }) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.typists[from]; t != nil && t.Stop() {
		t.Reset(typingShown)
		return
	}
	s.typists[from] = time.AfterFunc(typingShown, func() { s.typingEnds(from) })
	s.m.events.publish(&api.Event{Event: &api.Event_Typing{Typing: &api.TypingEvent{SessionId: from.String()}}})
}

func (s *session) typingEnds(from account.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.typists[from]; t != nil {
		t.Stop()
		delete(s.typists, from)
		s.m.events.publish(&api.Event{Event: &api.Event_Typing{Typing: &api.TypingEvent{SessionId: from.String(), Stopped: true}}})
	}
}

// message finds a message by its conversation and number.
func (s *session) message(with string, number uint64) (archive.Message, error) {
	id, err := s.whom(with)
	if err != nil {
		return archive.Message{}, err
	}
	if c, _ := s.archive.Contact(id); c.Blocked {
		return archive.Message{}, ErrBlocked
	}
	m, err := s.archive.Message(archive.Ref{With: id, Number: number})
	return m, forCaller(ErrDisk, err)
}

// done answers for a change of one message.
func (s *session) done(msg archive.Message, result archive.Result, err error) (*api.Message, error) {
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	s.publish(result)
	return s.apiMessage(msg), nil
}

// keepExpiring deletes messages when their time has come, until ctx ends.
func (s *session) keepExpiring(ctx context.Context) {
	const longest = time.Hour // the network's time may be found to be another
	for {
		wait := longest
		if next := s.archive.NextExpiry(); next != 0 {
			wait = min(wait, max(time.UnixMilli(next).Sub(s.clock.Now()), 0))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.expiry:
			timer.Stop()
			continue
		case <-timer.C:
		}
		result, err := s.archive.Expire()
		if err != nil {
			s.diskFailed(err)
			if mailbox.Pause(ctx, time.Minute) != nil {
				return
			}
			continue
		}
		s.publish(result)
	}
}

// validEmoji keeps words and invisible things from being shown as a reaction.
func validEmoji(e string) bool {
	if e == "" || len(e) > maxEmoji || !utf8.ValidString(e) {
		return false
	}
	wide := false
	for _, r := range e {
		switch {
		case r == 0x200d || r == 0xfe0f || r == 0x2139: // joiner, picture form, ℹ
		case r >= 0xe0020 && r <= 0xe007f: // tags, of which flags of regions are made
		case r == utf8.RuneError || unicode.IsControl(r) || unicode.IsSpace(r) || unicode.IsLetter(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co):
			return false
		}
		wide = wide || r >= 0x80 && r != 0x200d && r != 0xfe0f && (r < 0xe0020 || r > 0xe007f)
	}
	return wide
}

// tidyLine makes a stranger's text fit for one line of a screen: no control or
// invisible characters, at most max bytes, cut between code points.
func tidyLine(text string, max int) string { return archive.Tidy(text, max) }
