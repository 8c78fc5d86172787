package messenger

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
)

// Contacts lists everybody known, the latest conversation first.
func (m *Messenger) Contacts(ctx context.Context, _ *api.ContactsRequest) (*api.ContactsReply, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	reply := &api.ContactsReply{}
	for _, c := range s.archive.Contacts() {
		reply.Contacts = append(reply.Contacts, apiContact(c))
	}
	return reply, nil
}

// AddContact names a Session ID; an empty name takes a name away. Errors:
// [ErrBadID], [ErrName], [ErrNameTaken], [ErrDisk].
func (m *Messenger) AddContact(ctx context.Context, req *api.AddContactRequest) (*api.Contact, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	id, err := account.ParseSessionID(req.GetSessionId())
	if err != nil {
		return nil, ErrBadID
	}
	name := strings.TrimSpace(req.GetName())
	if !validName(name) || looksLikeID(name) {
		return nil, ErrName
	}
	c, err := s.archive.AddContact(id, name)
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	m.publishState()
	return apiContact(c), nil
}

// Messages lists a conversation. With mark_read the messages come back as they
// were before, so that a screen can tell which are new. Errors: [ErrBadID],
// [ErrUnknown], [ErrAmbiguous], [ErrDisk].
func (m *Messenger) Messages(ctx context.Context, req *api.MessagesRequest) (*api.MessagesReply, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	with, err := s.whom(req.GetWith())
	if err != nil {
		return nil, err
	}
	limit := int(min(req.GetLimit(), maxCount))
	if limit == 0 {
		limit = defaultCount
	}
	list, err := s.archive.Messages(with, limit, maxReplyBytes)
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	if req.GetMarkRead() {
		if err := s.archive.MarkRead(with); err != nil {
			return nil, forCaller(ErrDisk, err)
		}
		m.publishState()
	}
	reply := &api.MessagesReply{}
	for _, msg := range list {
		reply.Messages = append(reply.Messages, apiMessage(msg))
	}
	return reply, nil
}

func validName(name string) bool {
	return len(name) <= MaxName && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

func apiContact(c archive.Contact) *api.Contact {
	return &api.Contact{
		SessionId: c.ID.String(),
		Name:      c.DisplayName(),
		Unread:    c.Unread,
		LastText:  c.LastText,
		LastTime:  c.LastTime,
	}
}
