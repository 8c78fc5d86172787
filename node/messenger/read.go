package messenger

import (
	"encoding/hex"
	"strings"

	"hearth/node/account"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// Bounds on what a message brings with it; more is cut off or left out.
const (
	maxAttachments = 32
	maxFileName    = 255   // bytes
	maxType        = 100   // bytes of a content type
	maxCaption     = 1_000 // bytes
	maxURL         = 500   // bytes; a longer one is left out
	maxTitle       = 300   // bytes of what a link or a community is called
	maxTimes       = 2_000 // messages of one receipt
	pictureKey     = 32    // bytes
)

// typingNote is word that somebody writes, or no longer does.
type typingNote struct {
	from    account.ID
	sent    int64
	stopped bool
}

// read opens one message. One that cannot be read is counted and otherwise left
// alone: anybody may put anything into this swarm. What is of no use here is only
// remembered as seen.
func (s *session) read(stored mailbox.Message) (in archive.Incoming, note *typingNote) {
	in.Hash = stored.Hash
	m, err := wire.Open(s.own, stored.Data)
	if err != nil {
		s.log.Warn("unreadable message", "hash", stored.Hash, "bytes", len(stored.Data), "err", err)
		in.Unreadable = true
		return in, nil
	}
	with, own := m.Sender, m.Sender == s.own.ID()
	if target := m.Content.GetDataMessage().GetSyncTarget(); target != "" {
		// A copy of what this account sent from another device, or a note to self.
		// Only the own account may say whom a message was for, and a group is
		// nothing that this messenger knows.
		var err error
		if with, err = account.ParseSessionID(target); err != nil || !own {
			return in, nil
		}
	}
	in.With, in.Own, in.Sent = with, own, int64(m.Timestamp)
	c := m.Content
	switch {
	case c.GetDataMessage() != nil:
		s.readData(&in, c)
	case c.GetUnsendRequest() != nil:
		s.readUnsend(&in, c.GetUnsendRequest())
	case own:
		in.With = account.ID{} // nothing else is for other devices to know
	case c.GetReceiptMessage() != nil:
		if r := c.GetReceiptMessage(); r.GetType() == sessionpb.ReceiptMessage_READ && s.wants().ReadReceipts {
			for _, t := range r.GetTimestamp()[:min(len(r.GetTimestamp()), maxTimes)] {
				in.Receipt = append(in.Receipt, int64(t))
			}
		}
	case c.GetTypingMessage() != nil:
		if t := c.GetTypingMessage(); t.GetTimestamp() == m.Timestamp {
			note = &typingNote{with, in.Sent, t.GetAction() == sessionpb.TypingMessage_STOPPED}
		}
	case c.GetDataExtractionNotification() != nil:
		switch c.GetDataExtractionNotification().GetType() {
		case sessionpb.DataExtractionNotification_SCREENSHOT:
			s.readInfo(&in, c, archive.KindScreenshot)
		case sessionpb.DataExtractionNotification_MEDIA_SAVED:
			s.readInfo(&in, c, archive.KindMediaSaved)
		}
	case c.GetMessageRequestResponse() != nil:
		if r := c.GetMessageRequestResponse(); r.GetIsApproved() {
			in.Accepted = true
			in.Profile = theirProfile(r.GetProfile(), r.GetProfileKey())
			s.readInfo(&in, c, archive.KindAccepted)
		}
	case c.GetCallMessage() != nil:
		if c.GetCallMessage().GetType() == sessionpb.CallMessage_PRE_OFFER {
			s.readInfo(&in, c, archive.KindCall)
			in.Message.Read = false
		}
	}
	return in, note
}

// readData reads what a person wrote or did with a message. Which flags and parts
// make it one is as in Session desktop.
func (s *session) readData(in *archive.Incoming, c *sessionpb.Content) {
	data := c.GetDataMessage()
	if !in.Own {
		in.Profile = theirProfile(data.GetProfile(), data.GetProfileKey())
	}
	switch {
	case data.GetGroupUpdateMessage() != nil:
		s.readInvite(in, in.With, c)
		return
	case data.GetFlags() == uint32(sessionpb.DataMessage_EXPIRATION_TIMER_UPDATE):
		t := timerOf(c)
		s.readInfo(in, c, archive.KindTimer)
		in.Timer, in.Message.Timer, in.Message.Expires = &t, t, 0
		return
	case data.GetFlags() != 0:
		return
	case data.GetReaction() != nil:
		r := data.GetReaction()
		outgoing, from, ok := s.side(in.With, r.GetAuthor())
		if !ok || !validEmoji(r.GetEmoji()) {
			return
		}
		in.Reaction = &archive.Reacting{Outgoing: outgoing, From: from, Timestamp: int64(r.GetId()), Emoji: r.GetEmoji(),
			Remove: r.GetAction() == sessionpb.DataMessage_Reaction_REMOVE}
		return
	}
	msg := archive.Message{With: in.With, Outgoing: in.Own, Timestamp: in.Sent, Hash: in.Hash,
		Text: firstRunes(data.GetBody(), maxTextIn), Timer: timerOf(c)}
	if q := data.GetQuote(); q != nil {
		outgoing, from, ok := s.side(in.With, q.GetAuthor())
		msg.Quote = &archive.Quote{Outgoing: outgoing, Other: !ok, From: from, Timestamp: int64(q.GetId())}
	}
	for _, a := range data.GetAttachments()[:min(len(data.GetAttachments()), maxAttachments)] {
		msg.Attachments = append(msg.Attachments, attachmentOf(a))
	}
	if list := data.GetPreview(); len(list) > 0 && isLink(list[0].GetUrl()) {
		msg.Preview = &archive.Preview{URL: tidyLine(list[0].GetUrl(), maxURL), Title: tidyLine(list[0].GetTitle(), maxTitle)}
	}
	if i := data.GetCommunityInvitation(); i != nil && isLink(i.GetUrl()) {
		msg.Invitation = &archive.Invitation{URL: tidyLine(i.GetUrl(), maxURL), Name: tidyLine(i.GetName(), maxTitle)}
	}
	if msg.Text == "" && msg.Quote == nil && msg.Attachments == nil && msg.Preview == nil && msg.Invitation == nil {
		return
	}
	if in.Own {
		msg.CopyHash, msg.Read, msg.State = in.Hash, true, archive.StateStored
	}
	if msg.Timer.Type == archive.TimerAfterSend || in.Own && msg.Timer.Type != archive.TimerOff {
		msg.Expires = in.Sent + int64(msg.Timer.Seconds)*1000
	}
	in.Message = &msg
}

// readInfo makes a line of something that nobody wrote. It counts as read as soon
// as it is there.
func (s *session) readInfo(in *archive.Incoming, c *sessionpb.Content, kind archive.Kind) {
	in.Message = &archive.Message{With: in.With, Outgoing: in.Own, Kind: kind, Timestamp: in.Sent, Hash: in.Hash, Read: true, Timer: timerOf(c)}
	if t := in.Message.Timer; t.Type != archive.TimerOff {
		in.Message.Expires = s.clock.Now().UnixMilli() + int64(t.Seconds)*1000
	}
	if in.Own {
		in.Message.CopyHash, in.Message.State = in.Hash, archive.StateStored
	}
}

// readUnsend honours only a message's own author, and other devices of the owner.
func (s *session) readUnsend(in *archive.Incoming, u *sessionpb.UnsendRequest) {
	author, err := account.ParseSessionID(u.GetAuthor())
	if err != nil || author != in.With && !in.Own {
		return
	}
	in.Unsend = &archive.Unsending{Timestamp: int64(u.GetTimestamp())}
	if in.Own {
		in.Unsend.Outgoing = author == s.own.ID()
		in.With = author
	}
}

// side finds out whose message in a conversation an author's is: the owner's or
// the other side's, or in a group that of the person from. ok is false for anybody
// else.
func (s *session) side(with account.ID, author string) (outgoing bool, from account.ID, ok bool) {
	id, err := account.ParseSessionID(author)
	switch {
	case err != nil:
		return false, account.ID{}, false
	case id == s.own.ID():
		return true, account.ID{}, true
	case isGroup(with):
		return false, id, true
	}
	return false, account.ID{}, id == with
}

func timerOf(c *sessionpb.Content) archive.Timer {
	switch t := archive.TimerType(c.GetExpirationType()); t {
	case archive.TimerAfterRead, archive.TimerAfterSend:
		if c.GetExpirationTimer() > 0 {
			return archive.Timer{Type: t, Seconds: c.GetExpirationTimer()}
		}
	}
	return archive.Timer{}
}

// theirProfile reads a profile. A picture's address and key belong together.
func theirProfile(p *sessionpb.LokiProfile, key []byte) *archive.TheirProfile {
	if p == nil {
		return nil
	}
	t := &archive.TheirProfile{Name: tidyName(p.GetDisplayName()), Since: int64(min(p.GetLastProfileUpdateSeconds(), 1<<40))}
	if isLink(p.GetProfilePicture()) && len(key) == pictureKey {
		t.PictureURL, t.PictureKey = p.GetProfilePicture(), hex.EncodeToString(key)
	}
	return t
}

func attachmentOf(p *sessionpb.AttachmentPointer) archive.Attachment {
	name := p.GetFileName()
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	a := archive.Attachment{
		Name:    tidyLine(name, maxFileName),
		Type:    tidyLine(p.GetContentType(), maxType),
		Caption: tidyLine(p.GetCaption(), maxCaption),
		Size:    p.GetSize(),
		Voice:   p.GetFlags()&uint32(sessionpb.AttachmentPointer_VOICE_MESSAGE) != 0,
		Width:   p.GetWidth(),
		Height:  p.GetHeight(),
		ID:      p.GetDeprecatedId(),
	}
	if isLink(p.GetUrl()) {
		a.URL = p.GetUrl()
	}
	if len(p.GetKey()) <= 64 {
		a.Key = p.GetKey()
	}
	if len(p.GetDigest()) <= 64 {
		a.Digest = p.GetDigest()
	}
	return a
}

func isLink(url string) bool {
	return len(url) <= maxURL && tidyLine(url, maxURL) == url && (strings.HasPrefix(url, "https://") || strings.HasPrefix(url, "http://"))
}

// firstRunes cuts a text after n code points.
func firstRunes(text string, n int) string {
	for i := range text {
		if n == 0 {
			return text[:i]
		}
		n--
	}
	return text
}

// tidyName makes a stranger's name fit to be shown, in at most 100 bytes.
func tidyName(name string) string { return tidyLine(name, MaxName) }
