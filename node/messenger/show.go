package messenger

import (
	"fmt"
	"time"

	"hearth/node/api"
	"hearth/node/messenger/archive"
)

func (s *session) apiContact(c archive.Contact) *api.Contact {
	name := c.DisplayName()
	if c.ID == s.own.ID() {
		name = NoteToSelf
	}
	return &api.Contact{
		SessionId:   c.ID.String(),
		Name:        name,
		Unread:      c.Unread,
		LastText:    c.LastText,
		LastTime:    c.LastTime,
		Approved:    c.Approved,
		ApprovedMe:  c.ApprovedMe,
		Blocked:     c.Blocked,
		Timer:       apiTimer(c.Timer),
		ProfileName: c.Profile,
		Picture:     c.PictureURL != "",

		MarkedUnread: c.MarkedUnread,
	}
}

func apiTimer(t archive.Timer) *api.Timer {
	if t.Type == archive.TimerOff {
		return nil
	}
	return &api.Timer{Type: api.Timer_Type(t.Type), Seconds: t.Seconds}
}

// apiMessage looks up what a message quotes.
func (s *session) apiMessage(msg archive.Message) *api.Message {
	m := &api.Message{
		SessionId: msg.With.String(),
		Outgoing:  msg.Outgoing,
		Text:      msg.Text,
		Timestamp: msg.Shown(),
		Hash:      msg.Hash,
		Read:      msg.Read || msg.Outgoing,
		Id:        msg.Number,
		State:     api.Message_State(msg.State),
		Stored:    uint32(msg.Stored),
		Swarm:     uint32(msg.Swarm),
		Failure:   msg.Failure,
		Kind:      api.Message_Kind(msg.Kind),
		Timer:     apiTimer(msg.Timer),
		Expires:   msg.Expires,
		Deleted:   msg.Deleted,
	}
	m.From, m.FromName = s.author(msg.With, msg.From)
	m.ByAdmin = msg.ByAdmin
	for _, id := range msg.Members {
		m.Members = append(m.Members, id.String())
	}
	if msg.Quote != nil {
		m.Quote = &api.Quote{Timestamp: msg.Quote.Timestamp, Outgoing: msg.Quote.Outgoing}
		m.Quote.From, m.Quote.FromName = s.author(msg.With, msg.Quote.From)
		quoted, err := s.archive.FindFrom(msg.With, msg.Quote.From, msg.Quote.Outgoing, msg.Quote.Timestamp)
		if err == nil && !msg.Quote.Other && !quoted.Deleted {
			m.Quote.Found, m.Quote.Id = true, quoted.Number
			if m.Quote.Text = firstRunes(quoted.Text, quoteRunes); m.Quote.Text == "" && len(quoted.Attachments) > 0 {
				m.Quote.Text = onlyAttachment
			}
		}
	}
	for _, r := range msg.Reactions {
		if !r.Gone {
			shown := &api.Reaction{Emoji: r.Emoji, Outgoing: r.Mine}
			shown.From, shown.FromName = s.author(msg.With, r.By)
			m.Reactions = append(m.Reactions, shown)
		}
	}
	if p := msg.Preview; p != nil {
		m.Preview = &api.Preview{Url: p.URL, Title: p.Title}
	}
	if i := msg.Invitation; i != nil {
		m.Invitation = &api.Invitation{Url: i.URL, Name: i.Name}
	}
	for _, a := range msg.Attachments {
		m.Attachments = append(m.Attachments, &api.Attachment{Name: a.Name, Type: a.Type, Size: uint64(a.Size), Voice: a.Voice,
			Width: a.Width, Height: a.Height, Caption: a.Caption, Kept: s.archive.HasFile(a)})
	}
	switch {
	case msg.Kind != archive.KindText:
		m.Text = infoText(msg)
		if isGroup(msg.With) {
			m.Text = s.groupText(msg)
		}
	case m.Text == "" && len(m.Attachments) > 0:
		m.Text = onlyAttachment
	}
	return m
}

const (
	quoteRunes     = 200
	onlyAttachment = "[attachment]" // the text of a message that has none
)

// infoText is the sentence of a line that nobody wrote. "You" and "they" are left
// to the caller, who knows names: it goes on after who it was.
func infoText(msg archive.Message) string {
	switch msg.Kind {
	case archive.KindTimer:
		switch msg.Timer.Type {
		case archive.TimerAfterRead:
			return "set messages to disappear " + duration(msg.Timer.Seconds) + " after reading"
		case archive.TimerAfterSend:
			return "set messages to disappear " + duration(msg.Timer.Seconds) + " after sending"
		}
		return "set messages to stay"
	case archive.KindScreenshot:
		return "took a screenshot"
	case archive.KindMediaSaved:
		return "saved an attachment"
	case archive.KindCall:
		return "called; this device takes no calls"
	case archive.KindAccepted:
		return "accepted your message request"
	}
	return ""
}

func duration(seconds uint32) string {
	d := time.Duration(seconds) * time.Second
	for _, unit := range []struct {
		name string
		d    time.Duration
	}{{"week", 7 * 24 * time.Hour}, {"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if n := d / unit.d; n > 0 && d%unit.d == 0 {
			if n == 1 {
				return "1 " + unit.name
			}
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return fmt.Sprintf("%d seconds", seconds)
}
