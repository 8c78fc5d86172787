package devicetest

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hearth/node/api"
)

// Stranger is the Session ID of somebody whom the owner does not know, in form
// only.
const Stranger = "05" + "c0ffee00c0ffee00c0ffee00c0ffee00" + "c0ffee00c0ffee00c0ffee00c0ffee00"

// strangers call themselves something; contacts of the tests do not, since only
// their names matter.
func isRequest(c *api.Contact) bool { return c.ProfileName != "" && !c.Approved && !c.Blocked }

// Request lets a stranger write.
func (s *Services) Request(name, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &api.Message{SessionId: Stranger, Text: text, Timestamp: Minute + int64(len(s.Messages))*60_000, Id: s.number(Stranger)}
	s.Messages = append(s.Messages, m)
	s.Contacts = append(s.Contacts, &api.Contact{SessionId: Stranger, Name: name, ProfileName: name, LastText: text, LastTime: m.Timestamp, Unread: 1})
	s.State.Requests++
	s.tell(&api.Event{Event: &api.Event_Request{Request: proto.CloneOf(m)}})
	s.tell(&api.Event{Event: &api.Event_State{State: proto.CloneOf(s.State)}})
}

// Update changes the message with that number in a conversation and tells it.
func (s *Services) Update(with string, number uint64, change api.Update_Change, f func(*api.Message)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.message(with, number); m != nil {
		f(m)
		s.tell(&api.Event{Event: &api.Event_Updated{Updated: &api.Update{Change: change, Message: proto.CloneOf(m)}}})
	}
}

// Tell sends any other event.
func (s *Services) Tell(e *api.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(e)
}

// number is that of the next message of a conversation.
func (s *Services) number(with string) uint64 {
	n := uint64(1)
	for _, m := range s.Messages {
		if m.SessionId == with {
			n++
		}
	}
	return n
}

func (s *Services) message(with string, number uint64) *api.Message {
	for _, m := range s.Messages {
		if m.SessionId == with && m.Id == number && number != 0 {
			return m
		}
	}
	return nil
}

func (s *Services) quote(with string, number uint64) *api.Quote {
	m := s.message(with, number)
	if m == nil {
		return nil
	}
	return &api.Quote{Timestamp: m.Timestamp, Outgoing: m.Outgoing, Found: true, Text: m.Text, Id: m.Id}
}

func (s *Services) contacts(wanted func(*api.Contact) bool) *api.ContactsReply {
	reply := &api.ContactsReply{}
	for _, c := range s.Contacts {
		if wanted(c) {
			reply.Contacts = append(reply.Contacts, proto.CloneOf(c))
		}
	}
	return reply
}

func (m messengerServer) named(with string, number uint64) (*api.Message, error) {
	id, err := m.find(with)
	if err != nil {
		return nil, err
	}
	if found := m.s.message(id, number); found != nil {
		return found, nil
	}
	return nil, status.Error(codes.NotFound, "there is no such message")
}

func (m messengerServer) React(_ context.Context, r *api.ReactRequest) (*api.Message, error) {
	msg, err := m.named(r.GetWith(), r.GetId())
	if err != nil {
		return nil, err
	}
	msg.Reactions = slices.DeleteFunc(msg.Reactions, func(x *api.Reaction) bool { return x.Outgoing && x.Emoji == r.GetEmoji() })
	if !r.GetRemove() {
		msg.Reactions = append(msg.Reactions, &api.Reaction{Emoji: r.GetEmoji(), Outgoing: true})
	}
	return proto.CloneOf(msg), nil
}

func (m messengerServer) Unsend(_ context.Context, r *api.UnsendRequest) (*api.Message, error) {
	msg, err := m.named(r.GetWith(), r.GetId())
	if err != nil {
		return nil, err
	}
	if !msg.Outgoing {
		return nil, status.Error(codes.PermissionDenied, "only its writer can unsend a message")
	}
	msg.Text, msg.Deleted, msg.Quote, msg.Reactions, msg.State = "", true, nil, nil, api.Message_NONE
	return proto.CloneOf(msg), nil
}

func (m messengerServer) SetTimer(_ context.Context, r *api.SetTimerRequest) (*api.Contact, error) {
	c, err := m.person(r.GetWith())
	if err != nil {
		return nil, err
	}
	if c.Timer = r.GetTimer(); c.Timer.GetType() == api.Timer_OFF {
		c.Timer = nil
	}
	return proto.CloneOf(c), nil
}

func (m messengerServer) person(who string) (*api.Contact, error) {
	id, err := m.find(who)
	if err != nil {
		return nil, err
	}
	for _, c := range m.s.Contacts {
		if c.SessionId == id {
			return c, nil
		}
	}
	return nil, status.Error(codes.NotFound, "this is no request")
}

func (m messengerServer) Requests(context.Context, *api.RequestsRequest) (*api.ContactsReply, error) {
	return m.s.contacts(isRequest), nil
}

func (m messengerServer) decide(who string, f func(*api.Contact)) (*api.Contact, error) {
	c, err := m.person(who)
	if err != nil {
		return nil, err
	}
	if isRequest(c) {
		m.s.State.Requests--
	}
	f(c)
	return proto.CloneOf(c), nil
}

func (m messengerServer) Accept(_ context.Context, r *api.WhoRequest) (*api.Contact, error) {
	return m.decide(r.GetWho(), func(c *api.Contact) { c.Approved, c.ApprovedMe = true, true })
}

func (m messengerServer) Decline(_ context.Context, r *api.WhoRequest) (*api.DeclineReply, error) {
	_, err := m.decide(r.GetWho(), func(c *api.Contact) {
		m.s.Contacts = slices.DeleteFunc(m.s.Contacts, func(x *api.Contact) bool { return x == c })
	})
	return &api.DeclineReply{}, err
}

func (m messengerServer) Block(_ context.Context, r *api.WhoRequest) (*api.Contact, error) {
	return m.decide(r.GetWho(), func(c *api.Contact) { c.Blocked = true })
}

func (m messengerServer) Unblock(_ context.Context, r *api.WhoRequest) (*api.Contact, error) {
	return m.decide(r.GetWho(), func(c *api.Contact) { c.Blocked = false })
}

func (m messengerServer) Typing(_ context.Context, r *api.TypingRequest) (*api.TypingReply, error) {
	select {
	case m.s.Typed <- r:
	default: // nobody looks
	}
	return &api.TypingReply{}, nil
}

func (m messengerServer) Settings(_ context.Context, r *api.SettingsRequest) (*api.SettingsReply, error) {
	if r.DisplayName != nil {
		m.s.Settings.DisplayName = r.GetDisplayName()
	}
	if r.ReadReceipts != nil {
		m.s.Settings.ReadReceipts = r.GetReadReceipts()
	}
	if r.Typing != nil {
		m.s.Settings.Typing = r.GetTyping()
	}
	return proto.CloneOf(m.s.Settings), nil
}
