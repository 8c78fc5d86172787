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

// sendPatience is how long a message waits for the first node list.
const sendPatience = 20 * time.Second

// Send seals a text for somebody and stores it in their swarm. When it returns
// without an error the message is in at least one member of the swarm and in the
// own database.
//
// Errors: [ErrEmpty], [ErrTooLong], [ErrNotText], [ErrBadID], [ErrUnknown],
// [ErrAmbiguous], [ErrLocked], [ErrNoAccount], [ErrNetwork], [ErrDisk],
// [ErrBusy].
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
	select {
	case m.calls <- struct{}{}:
		defer func() { <-m.calls }()
	default:
		return nil, ErrBusy
	}
	return s.send(ctx, to, req.GetText())
}

func (s *session) send(ctx context.Context, to account.ID, text string) (*api.SendReply, error) {
	if err := s.awaitNodes(ctx); err != nil {
		return nil, err
	}
	stored, err := s.box.Store(ctx, to, s.stamp, func(ms int64) ([]byte, error) {
		return wire.Seal(s.m.cfg.Rand, s.own, to, s.content(to, text, ms))
	})
	if err != nil {
		s.log.Warn("sending a message", "err", err)
		if errors.Is(err, mailbox.ErrNoSwarm) {
			nudge(s.renew)
		}
		return nil, forCaller(ErrNetwork, err)
	}
	msg := archive.Message{With: to, Outgoing: true, Text: text, Timestamp: stored.Timestamp, Hash: stored.Hash, Read: true}
	added, err := s.archive.Sent(msg)
	if err != nil {
		s.diskFailed(err)
		return nil, fmt.Errorf("%w: the message was sent but not written down: %w", ErrDisk, err)
	}
	s.diskFailed(nil)
	if added { // a note to self may have been polled already
		s.m.publishMessage(apiMessage(msg))
	}
	s.stirred()
	s.m.publishState()
	s.log.Info("message sent", "stored", stored.Members, "swarm", stored.Swarm)
	return &api.SendReply{
		Timestamp: stored.Timestamp,
		Hash:      stored.Hash,
		Stored:    uint32(stored.Members),
		Swarm:     uint32(stored.Swarm),
	}, nil
}

// content is what the recipient reads. A note to self names its conversation,
// as the copies of sent messages do that Session clients exchange.
func (s *session) content(to account.ID, text string, ms int64) *sessionpb.Content {
	c := wire.Text(text, uint64(ms))
	switch {
	case to == s.own.ID():
		c.DataMessage.SyncTarget = proto.String(to.String())
	case s.profile.Name != "":
		c.DataMessage.Profile = &sessionpb.LokiProfile{
			DisplayName:              proto.String(s.profile.Name),
			LastProfileUpdateSeconds: proto.Uint64(uint64(max(s.profile.Since, 0))),
		}
	}
	return c
}

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

// whom finds out who is meant by a Session ID or a name.
func (s *session) whom(text string) (account.ID, error) {
	text = strings.TrimSpace(text)
	if id, err := account.ParseSessionID(text); err == nil {
		return id, nil
	}
	if looksLikeID(text) {
		return account.ID{}, ErrBadID
	}
	switch found := s.archive.Named(text); len(found) {
	case 0:
		return account.ID{}, ErrUnknown
	case 1:
		return found[0].ID, nil
	}
	return account.ID{}, ErrAmbiguous
}

// looksLikeID tells a mistyped Session ID from a name.
func looksLikeID(text string) bool {
	hex := strings.Trim(text, "0123456789abcdefABCDEF") == ""
	return hex && len(text) >= 32
}
