package messenger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/group"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/rpc"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// Why a message to a group never arrives, for people.
const reasonOver = "you are no longer in this group"

var errOver = errors.New(reasonOver)

// mayWrite reports why the owner cannot write to a group, or nil.
func (s *session) mayWrite(to account.ID) error {
	c := s.circleOf(to)
	if c == nil {
		return ErrNoGroup
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state() {
	case api.Group_INVITED:
		return ErrNotJoined
	case api.Group_JOINED:
		if c.g != nil {
			return nil
		}
	}
	return ErrGroupOver
}

// toGroup makes the parcel of content for a group. Its bytes are made when it is
// delivered, under the key that the group has then.
func (s *session) toGroup(to account.ID, content *sessionpb.Content, at stamp, ttl time.Duration) (archive.Parcel, error) {
	content.SigTimestamp = at.field()
	if d := content.GetDataMessage(); d != nil {
		d.Profile, d.ProfileKey = s.ownProfile()
	}
	p := archive.Parcel{To: to, TTL: min(ttl, group.MessageLife).Milliseconds(), Timestamp: at.ms, Own: true}
	var err error
	if p.Content, err = proto.Marshal(content); err != nil {
		return p, fmt.Errorf("%w: %w", errSeal, err)
	}
	return p, nil
}

// sealFor makes the bytes of content for an account or a group.
func (s *session) sealFor(to account.ID, content *sessionpb.Content) (data []byte, hash string, err error) {
	if !isGroup(to) {
		if data, err = wire.Seal(s.m.cfg.Rand, s.own, to, content); err != nil {
			return nil, "", fmt.Errorf("%w: %w", errSeal, err)
		}
		return data, rpc.MessageHash(to, 0, data), nil
	}
	c := s.circleOf(to)
	if c == nil {
		return nil, "", errOver
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.g == nil || c.rec.Over != archive.NotOver {
		return nil, "", errOver
	}
	data, err = c.g.Seal(content)
	switch {
	case errors.Is(err, group.ErrUnsent), errors.Is(err, group.ErrNoKey):
		nudge(c.wake)
		return nil, "", err // as soon as the group's key lies in the swarm
	case err != nil:
		return nil, "", fmt.Errorf("%w: %w", errSeal, err)
	}
	return data, rpc.MessageHash(to, group.Messages, data), nil
}

// storeFor stores in the swarm of an account or of a group.
func (s *session) storeFor(ctx context.Context, to account.ID, ttl time.Duration, seal func(int64) ([]byte, error)) (mailbox.Stored, error) {
	stamp := func() int64 { return s.clock.Now().UnixMilli() }
	if !isGroup(to) {
		return s.box.Store(ctx, to, ttl, stamp, seal)
	}
	c := s.circleOf(to)
	if c == nil {
		return mailbox.Stored{}, errOver
	}
	who, err := c.signer()
	if err != nil {
		return mailbox.Stored{}, errOver
	}
	stored, err := s.box.StoreAs(ctx, who, group.Messages, ttl, stamp, seal)
	c.mu.Lock()
	if err == nil {
		c.active = s.m.cfg.Now()
	}
	c.mu.Unlock()
	if err != nil {
		nudge(c.wake) // the swarm may say why
	}
	return stored, err
}

// unsendOfGroup deletes a message of a group for all members, as its writer or as an
// admin.
func (s *session) unsendOfGroup(msg archive.Message) (*api.Message, error) {
	c := s.circleOf(msg.With)
	if c == nil {
		return nil, ErrNoGroup
	}
	if err := s.mayWrite(msg.With); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.g == nil {
		c.mu.Unlock()
		return nil, ErrGroupOver
	}
	if !msg.Outgoing && !c.g.Admin() {
		c.mu.Unlock()
		return nil, ErrNotOwn
	}
	var err error
	if msg.Hash != "" {
		if err = c.g.DeleteMessages(nil, []string{msg.Hash}); err == nil {
			_, err = c.save(archive.GroupStep{})
		}
	}
	c.mu.Unlock()
	if err != nil {
		return nil, groupError(err)
	}
	waiting := msg.State == archive.StateWaiting
	msg, result, err := s.archive.EraseOfGroup(msg.Ref())
	if err == nil && waiting {
		s.outbox.again() // whoever waits for its delivery hears at once
	}
	nudge(c.wake)
	return s.done(msg, result, err)
}
