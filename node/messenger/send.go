package messenger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// sendPatience is how long Send waits for the network before it leaves the
// message to the outbox.
const sendPatience = 20 * time.Second

// Send writes a text for somebody down and delivers it. When it returns without
// an error the message is in the database, and either in at least one member of
// the recipient's swarm, which has signed for it, or, with the state WAITING, in
// the outbox: it is then sent as soon as that works, also after a restart. When
// ctx ends, the message stays in the outbox, too.
//
// Errors, after which nothing is sent: [ErrEmpty], [ErrTooLong], [ErrNotText],
// [ErrBadID], [ErrNobody], [ErrUnknown], [ErrAmbiguous], [ErrBlocked],
// [ErrNoMessage] for a quote, [ErrFull], [ErrLocked], [ErrNoAccount], [ErrDisk];
// and [ErrNetwork] when the message can never arrive.
func (m *Messenger) Send(ctx context.Context, req *api.SendRequest) (*api.SendReply, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := checkText(req.GetText()); err != nil {
		return nil, err
	}
	to, err := s.whom(req.GetTo())
	if err != nil {
		return nil, err
	}
	quote, err := s.quoted(to, req.GetReplyTo())
	if err != nil {
		return nil, err
	}
	patience := sendPatience
	select {
	case m.calls <- struct{}{}:
		defer func() { <-m.calls }()
	default:
		patience = 0 // many wait already: this one is left to the outbox
	}
	return s.send(ctx, to, req.GetText(), quote, patience)
}

// quoted finds the message that another one answers; number is 0 for none.
func (s *session) quoted(with account.ID, number uint64) (*archive.Quote, error) {
	if number == 0 {
		return nil, nil
	}
	m, err := s.archive.Message(archive.Ref{With: with, Number: number})
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	return &archive.Quote{Outgoing: m.Outgoing, From: m.From, Timestamp: m.Timestamp}, nil
}

func (s *session) setQuote(content *sessionpb.Content, with account.ID, quote *archive.Quote) {
	if quote == nil {
		return
	}
	author := with
	if quote.Outgoing {
		author = s.own.ID()
	} else if isGroup(with) {
		author = quote.From
	}
	content.DataMessage.Quote = &sessionpb.DataMessage_Quote{Id: proto.Uint64(uint64(quote.Timestamp)), Author: proto.String(author.String())}
}

func (s *session) send(ctx context.Context, to account.ID, text string, quote *archive.Quote, patience time.Duration) (*api.SendReply, error) {
	msg, result, err := s.write(to, func(ms int64, c archive.Contact) (archive.Message, *sessionpb.Content) {
		content := wire.Text(text, uint64(ms))
		setTimer(content, c.Timer)
		s.setQuote(content, to, quote)
		return archive.Message{Text: text, Quote: quote, Timer: c.Timer}, content
	})
	if err != nil {
		return nil, err
	}
	return s.deliver(ctx, msg, result, patience)
}

// deliver hands what was written down to the outbox, and waits a while for it.
func (s *session) deliver(ctx context.Context, msg archive.Message, result archive.Result, patience time.Duration) (*api.SendReply, error) {
	var wait <-chan outcome
	var parcel uint64
	for _, p := range result.Parcels {
		if p.Track {
			parcel, wait = p.ID, s.outbox.await(p.ID)
			defer s.outbox.forget(parcel)
		}
	}
	s.publish(result)
	s.stirred()
	reply := &api.SendReply{Timestamp: msg.Timestamp, Hash: msg.Hash, Id: msg.Number, State: api.Message_WAITING}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case what := <-wait:
		if what.failure != "" {
			return nil, fmt.Errorf("%w: %s", ErrNetwork, what.failure)
		}
		reply.Timestamp, reply.Hash, reply.State = what.timestamp, what.hash, api.Message_STORED
		reply.Stored, reply.Swarm = uint32(what.stored), uint32(what.swarm)
	case <-timer.C:
	case <-ctx.Done():
		return nil, forCaller(ErrNetwork, ctx.Err())
	}
	return reply, nil
}

// write writes down what make makes for a time, an own message to somebody, with
// what is to be delivered. Somebody who asked to be a contact is told that they
// are one.
func (s *session) write(to account.ID, make func(ms int64, c archive.Contact) (archive.Message, *sessionpb.Content)) (archive.Message, archive.Result, error) {
	if isGroup(to) {
		if err := s.mayWrite(to); err != nil {
			return archive.Message{}, archive.Result{}, err
		}
	}
	contact, _ := s.archive.Contact(to)
	if contact.Blocked {
		return archive.Message{}, archive.Result{}, ErrBlocked
	}
	var parcels []archive.Parcel
	if contact.IsRequest() {
		p, err := s.acceptance(to)
		if err != nil {
			return archive.Message{}, archive.Result{}, forCaller(ErrNobody, err)
		}
		parcels = append(parcels, p)
	}
	for {
		at := s.stamp()
		msg, content := make(at.ms, contact)
		msg.With, msg.Outgoing, msg.Read, msg.State = to, true, true, archive.StateWaiting
		msg.Timestamp = at.ms
		p, err := s.outgoing(to, content, at, mailbox.TTL)
		if err != nil {
			return msg, archive.Result{}, forCaller(ErrNobody, err)
		}
		p.Track = true
		if len(msg.Attachments) > 0 {
			p.Upload = &msg.Attachments[0]
		}
		if msg.Kind == archive.KindText && msg.Timer.Type == archive.TimerAfterSend {
			p.TTL = int64(msg.Timer.Seconds) * 1000
			p.Until = msg.Timestamp + p.TTL
		}
		msg.Hash = p.Hash
		msg, result, err := s.archive.Write(msg, append(parcels, p)...)
		if errors.Is(err, archive.ErrTimeTaken) {
			continue
		}
		if err != nil {
			if !errors.Is(err, archive.ErrFull) {
				s.diskFailed(err)
			}
			return msg, result, forCaller(ErrDisk, err)
		}
		s.diskFailed(nil)
		return msg, result, nil
	}
}

// acceptance tells somebody that their request was accepted.
func (s *session) acceptance(to account.ID) (archive.Parcel, error) {
	profile, key := s.ownProfile()
	return s.parcel(to, &sessionpb.Content{
		MessageRequestResponse: &sessionpb.MessageRequestResponse{IsApproved: proto.Bool(true), Profile: profile, ProfileKey: key},
	}, s.stamp(), mailbox.TTL)
}

// awaitNodes waits for the first list of service nodes.
func (s *session) awaitNodes(ctx context.Context) error {
	timer := time.NewTimer(sendPatience)
	defer timer.Stop()
	select {
	case <-s.ready:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: no list of service nodes yet", ErrNetwork)
	case <-ctx.Done():
		return forCaller(ErrNetwork, ctx.Err())
	}
}

// setTimer says how long a message stays.
func setTimer(c *sessionpb.Content, t archive.Timer) {
	c.ExpirationType = sessionpb.Content_ExpirationType(t.Type).Enum()
	c.ExpirationTimer = proto.Uint32(t.Seconds)
}

func checkText(text string) error {
	switch {
	case !utf8.ValidString(text):
		return ErrNotText
	case strings.TrimSpace(text) == "":
		return ErrEmpty
	}
	if n := utf8.RuneCountInString(text); n > MaxText {
		return fmt.Errorf("%w: %d characters of at most %d", ErrTooLong, n, MaxText)
	}
	return nil
}

// whom finds out which contact is meant by a Session ID or a name. A stranger is
// only found by the ID: names are for anybody to choose.
func (s *session) whom(text string) (account.ID, error) { return s.find(text, false) }

// whomever is whom for what is done about strangers.
func (s *session) whomever(text string) (account.ID, error) { return s.find(text, true) }

func (s *session) find(text string, requests bool) (account.ID, error) {
	text = strings.TrimSpace(text)
	if id, err := account.ParseSessionID(text); err == nil {
		return id, nil
	}
	if id, err := account.ParseID(text); err == nil && isGroup(id) {
		if s.circleOf(id) == nil {
			return account.ID{}, ErrNoGroup
		}
		return id, nil
	}
	if looksLikeID(text) {
		return account.ID{}, ErrBadID
	}
	if isMe(text) {
		return s.own.ID(), nil
	}
	switch found := s.archive.Named(text, requests); len(found) {
	case 0:
		return account.ID{}, ErrUnknown
	case 1:
		return found[0].ID, nil
	}
	return account.ID{}, ErrAmbiguous
}

// NoteToSelf is what the conversation of the owner with themselves is called, as in
// Session's clients.
const NoteToSelf = "Note to self"

// isMe tells whether a name means the owner. It is nobody else's, whatever they call
// themselves: what is meant for the owner alone must not go to a stranger.
func isMe(name string) bool {
	return strings.EqualFold(name, "me") || strings.EqualFold(name, NoteToSelf)
}

// looksLikeID tells a mistyped Session ID from a name.
func looksLikeID(text string) bool {
	hex := strings.Trim(text, "0123456789abcdefABCDEF") == ""
	return hex && len(text) >= 32
}
