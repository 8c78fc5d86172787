package messenger

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/wire/sessionpb"
)

// Contacts lists everybody known, the latest conversation first. Strangers who
// wrote are not among them: see [Messenger.Requests].
func (m *Messenger) Contacts(ctx context.Context, _ *api.ContactsRequest) (*api.ContactsReply, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	reply := &api.ContactsReply{}
	for _, c := range s.archive.Contacts() {
		if c.Approved || c.Blocked {
			reply.Contacts = append(reply.Contacts, apiContact(c))
		}
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
	with, err := s.whomever(req.GetWith())
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
		result, err := s.archive.MarkRead(with, s.receipt(with))
		if err != nil {
			return nil, forCaller(ErrDisk, err)
		}
		s.publish(result)
		nudge(s.expiry)
		m.publishState()
	}
	reply := &api.MessagesReply{}
	for _, msg := range list {
		reply.Messages = append(reply.Messages, s.apiMessage(msg))
	}
	return reply, nil
}

func validName(name string) bool {
	return len(name) <= MaxName && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// receipt makes what tells somebody that their messages were read, or is nil.
func (s *session) receipt(with account.ID) func([]int64) (archive.Parcel, error) {
	if !s.wants().ReadReceipts || with == s.own.ID() {
		return nil
	}
	return func(times []int64) (archive.Parcel, error) {
		r := &sessionpb.ReceiptMessage{Type: sessionpb.ReceiptMessage_READ.Enum()}
		for _, t := range times {
			r.Timestamp = append(r.Timestamp, uint64(t))
		}
		return s.parcel(with, &sessionpb.Content{ReceiptMessage: r, SigTimestamp: proto.Uint64(uint64(s.stamp()))}, mailbox.TTL)
	}
}
