package messenger

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

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
		if (c.Approved || c.Blocked) && !c.IsGroup() {
			reply.Contacts = append(reply.Contacts, s.apiContact(c))
		}
	}
	return reply, nil
}

// AddContact names a Session ID, which may be what a QR code held; an empty name takes
// a name away. A stranger who wrote is accepted with it, and told, as with
// [Messenger.Accept]: whoever has a name here must not go on waiting for an answer.
// Errors: [ErrBadID], [ErrSelfName], [ErrName], [ErrNameOwn], [ErrNameTaken],
// [ErrFull], [ErrDisk].
func (m *Messenger) AddContact(ctx context.Context, req *api.AddContactRequest) (*api.Contact, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	id, err := scannedID(req.GetSessionId())
	if err != nil {
		return nil, err
	}
	if id == s.own.ID() {
		return nil, ErrSelfName
	}
	name := strings.TrimSpace(req.GetName())
	if !validName(name) || looksLikeID(name) {
		return nil, ErrName
	}
	if isMe(name) {
		return nil, ErrNameOwn
	}
	var parcels []archive.Parcel
	if c, _ := s.archive.Contact(id); c.IsRequest() {
		p, err := s.acceptance(id)
		if err != nil {
			return nil, forCaller(ErrNobody, err)
		}
		parcels = append(parcels, p)
	}
	c, result, err := s.archive.AddContact(id, name, parcels...)
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	s.publish(result)
	m.publishState()
	return s.apiContact(c), nil
}

// Messages lists a conversation. With mark_read the messages come back as they
// were before, so that a screen can tell which are new; the whole conversation is
// marked, whatever part of it is listed. Errors: [ErrBadID],
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
	limit := countOf(req.GetLimit())
	list, err := s.archive.Messages(with, req.GetBefore(), limit, maxReplyBytes)
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

// Search finds messages that hold a text, whatever its case, the latest first:
// those of one conversation, or of all contacts. Nothing is marked read. Errors:
// [ErrEmpty], [ErrTooLong], [ErrNotText], [ErrBadID], [ErrUnknown], [ErrAmbiguous],
// [ErrBusy], [ErrDisk].
func (m *Messenger) Search(ctx context.Context, req *api.SearchRequest) (*api.MessagesReply, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := checkText(req.GetText()); err != nil {
		return nil, err
	}
	var with account.ID // all
	if req.GetWith() != "" {
		if with, err = s.whomever(req.GetWith()); err != nil {
			return nil, err
		}
	}
	select {
	case m.searching <- struct{}{}: // it takes a whole processor
		defer func() { <-m.searching }()
	case <-ctx.Done():
		return nil, forCaller(ErrBusy, ctx.Err())
	}
	list, err := s.archive.Search(ctx, with, req.GetText(), countOf(req.GetLimit()), maxReplyBytes)
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	reply := &api.MessagesReply{}
	for _, msg := range list {
		reply.Messages = append(reply.Messages, s.apiMessage(msg))
	}
	return reply, nil
}

// countOf is how many messages a reply has at most when so many are asked for.
func countOf(limit uint32) int {
	if limit == 0 {
		return defaultCount
	}
	return int(min(limit, maxCount))
}

func validName(name string) bool {
	return len(name) <= MaxName && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// receipt makes what tells somebody that their messages were read, or is nil.
func (s *session) receipt(with account.ID) func([]int64) (archive.Parcel, error) {
	if !s.wants().ReadReceipts || with == s.own.ID() || isGroup(with) {
		return nil
	}
	return func(times []int64) (archive.Parcel, error) {
		at := s.stamp()
		r := &sessionpb.ReceiptMessage{Type: sessionpb.ReceiptMessage_READ.Enum()}
		for _, t := range times {
			r.Timestamp = append(r.Timestamp, uint64(t))
		}
		return s.parcel(with, &sessionpb.Content{ReceiptMessage: r}, at, mailbox.TTL)
	}
}
