package messenger

import (
	"context"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
)

// Requests lists the strangers who wrote, the latest first.
func (m *Messenger) Requests(ctx context.Context, _ *api.RequestsRequest) (*api.ContactsReply, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	reply := &api.ContactsReply{}
	for _, c := range s.archive.Contacts() {
		if c.IsRequest() {
			reply.Contacts = append(reply.Contacts, s.apiContact(c))
		}
	}
	return reply, nil
}

// Accept makes a contact of a stranger who wrote, and tells them. A contact stays
// one. Errors: [ErrBadID], [ErrUnknown], [ErrAmbiguous], [ErrNoRequest],
// [ErrFull], [ErrDisk].
func (m *Messenger) Accept(ctx context.Context, req *api.WhoRequest) (*api.Contact, error) {
	return m.decidePerson(ctx, req, func(s *session, id account.ID, c archive.Contact) (archive.Contact, error) {
		if c.Approved && !c.Blocked {
			return c, nil
		}
		if !c.IsRequest() {
			return c, ErrNoRequest
		}
		p, err := s.acceptance(id)
		if err != nil {
			return c, forCaller(ErrNobody, err)
		}
		c, result, err := s.archive.Approve(id, p)
		if err == nil {
			s.publish(result)
		}
		return c, err
	})
}

// Decline deletes a request with all that came with it. Nothing is sent. Errors:
// [ErrBadID], [ErrUnknown], [ErrAmbiguous], [ErrNoRequest], [ErrDisk].
func (m *Messenger) Decline(ctx context.Context, req *api.WhoRequest) (*api.DeclineReply, error) {
	_, err := m.decidePerson(ctx, req, func(s *session, id account.ID, c archive.Contact) (archive.Contact, error) {
		if !c.IsRequest() {
			return c, ErrNoRequest
		}
		return c, s.archive.Forget(id)
	})
	if err != nil {
		return nil, err
	}
	return &api.DeclineReply{}, nil
}

// Block drops whatever somebody writes from now on; a request is deleted. Nothing
// is sent. Errors: [ErrBadID], [ErrUnknown], [ErrAmbiguous], [ErrSelf],
// [ErrDisk].
func (m *Messenger) Block(ctx context.Context, req *api.WhoRequest) (*api.Contact, error) {
	return m.decidePerson(ctx, req, func(s *session, id account.ID, c archive.Contact) (archive.Contact, error) {
		if id == s.own.ID() {
			return c, ErrSelf
		}
		s.typingEnds(id)
		return s.archive.Block(id)
	})
}

// Unblock ends Block. What was dropped meanwhile stays away. Errors: [ErrBadID],
// [ErrUnknown], [ErrAmbiguous], [ErrDisk].
func (m *Messenger) Unblock(ctx context.Context, req *api.WhoRequest) (*api.Contact, error) {
	return m.decidePerson(ctx, req, func(s *session, id account.ID, _ archive.Contact) (archive.Contact, error) {
		c, result, err := s.archive.Unblock(id)
		if err == nil {
			s.publish(result)
		}
		return c, err
	})
}

// decidePerson is decide for what cannot be done about groups.
func (m *Messenger) decidePerson(ctx context.Context, req *api.WhoRequest, f func(*session, account.ID, archive.Contact) (archive.Contact, error)) (*api.Contact, error) {
	return m.decide(ctx, req, func(s *session, id account.ID, c archive.Contact) (archive.Contact, error) {
		if isGroup(id) {
			return c, ErrIsGroup
		}
		return f(s, id, c)
	})
}

// decide does something about a contact, a stranger or a group.
func (m *Messenger) decide(ctx context.Context, req *api.WhoRequest, f func(*session, account.ID, archive.Contact) (archive.Contact, error)) (*api.Contact, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	id, err := s.whomever(req.GetWho())
	if err != nil {
		return nil, err
	}
	c, _ := s.archive.Contact(id)
	c.ID = id
	if c, err = f(s, id, c); err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	m.publishState()
	return s.apiContact(c), nil
}

// Settings returns the settings after changing those that are given. Errors:
// [ErrName], [ErrDisk].
func (m *Messenger) Settings(ctx context.Context, req *api.SettingsRequest) (*api.SettingsReply, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if req.DisplayName != nil && !validName(req.GetDisplayName()) {
		return nil, ErrName
	}
	if req.GetLockMinutes() > maxLockMinutes {
		return nil, ErrLockTime
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if req.DisplayName != nil {
		p, err := s.archive.SetProfile(tidyName(req.GetDisplayName()))
		if err != nil {
			return nil, forCaller(ErrDisk, err)
		}
		s.setProfile(p)
	}
	w := s.wants()
	if req.ReadReceipts != nil {
		w.ReadReceipts = req.GetReadReceipts()
	}
	if req.Typing != nil {
		w.Typing = req.GetTyping()
	}
	if req.LockMinutes != nil {
		w.LockMinutes = int(req.GetLockMinutes())
	}
	if w != s.wants() {
		if err := s.archive.SetSettings(w); err != nil {
			return nil, forCaller(ErrDisk, err)
		}
		s.mu.Lock()
		s.settings = w
		s.mu.Unlock()
		select {
		case m.patience <- struct{}{}:
		default:
		}
	}
	return s.apiSettings(), nil
}

func (s *session) apiSettings() *api.SettingsReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &api.SettingsReply{DisplayName: s.profile.Name, ReadReceipts: s.settings.ReadReceipts, Typing: s.settings.Typing, Picture: s.profile.PictureURL != "",
		LockMinutes: uint32(s.settings.LockMinutes)}
}

func (s *session) wants() archive.Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}
