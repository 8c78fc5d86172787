package messenger

import (
	"time"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/config"
	"hearth/node/group"
	"hearth/node/messenger/archive"
	"hearth/node/wire/sessionpb"
)

// read makes of one message of the group what the archive does. What is of no use
// here is only remembered as seen. The caller holds c.mu.
func (c *circle) read(m group.Message) (in archive.Incoming) {
	in.Hash = m.Hash
	own := m.Sender == c.s.own.ID()
	if !own {
		in.From = m.Sender
	}
	content := m.Content
	data := content.GetDataMessage()
	if talk := content.GetUnsendRequest() != nil || data != nil && data.GetGroupUpdateMessage() == nil; talk && !own {
		if who, _ := c.s.archive.Contact(m.Sender); who.Blocked {
			return in
		}
	}
	in.With, in.Own, in.Sent = c.id, own, int64(m.Timestamp)
	switch {
	case data.GetGroupUpdateMessage() != nil:
		c.readUpdate(&in, content)
	case data != nil:
		if data.GetFlags() == uint32(sessionpb.DataMessage_EXPIRATION_TIMER_UPDATE) {
			return in // the timer is in the group's info, which only admins change
		}
		c.s.readData(&in, content)
	case content.GetUnsendRequest() != nil:
		u := content.GetUnsendRequest()
		if author, err := account.ParseSessionID(u.GetAuthor()); err == nil && author == m.Sender {
			in.Unsend = &archive.Unsending{Outgoing: own, Timestamp: int64(u.GetTimestamp())}
		}
	}
	if in.Message != nil {
		in.Message.From = in.From
		if t := &in.Message.Timer; t.Type == archive.TimerAfterRead {
			t.Type = archive.TimerAfterSend // in groups there is nothing else
			in.Message.Expires = in.Sent + int64(t.Seconds)*1000
		}
	}
	if in.Profile != nil && m.Member {
		c.learnName(m.Sender, in.Profile.Name)
	}
	return in
}

// readUpdate reads what is told about the group. Its signatures were checked; it
// changes nothing, because the truth is in the group's configurations.
func (c *circle) readUpdate(in *archive.Incoming, content *sessionpb.Content) {
	u := content.GetDataMessage().GetGroupUpdateMessage()
	line := func(kind archive.Kind) *archive.Message {
		c.s.readInfo(in, content, kind)
		return in.Message
	}
	switch {
	case u.GetInfoChangeMessage() != nil:
		switch change := u.GetInfoChangeMessage(); change.GetType() {
		case sessionpb.GroupUpdateInfoChangeMessage_NAME:
			line(archive.KindGroupName).Text = tidyName(change.GetUpdatedName())
		case sessionpb.GroupUpdateInfoChangeMessage_AVATAR:
			line(archive.KindGroupPicture)
		case sessionpb.GroupUpdateInfoChangeMessage_DISAPPEARING_MESSAGES:
			m := line(archive.KindTimer)
			if seconds := change.GetUpdatedExpiration(); seconds > 0 {
				m.Timer = archive.Timer{Type: archive.TimerAfterSend, Seconds: seconds}
			}
		}
	case u.GetMemberChangeMessage() != nil:
		change := u.GetMemberChangeMessage()
		kind := archive.KindGroupAdded
		switch change.GetType() {
		case sessionpb.GroupUpdateMemberChangeMessage_REMOVED:
			kind = archive.KindGroupRemoved
		case sessionpb.GroupUpdateMemberChangeMessage_PROMOTED:
			kind = archive.KindGroupPromoted
		}
		m := line(kind)
		for _, text := range change.GetMemberSessionIds()[:min(len(change.GetMemberSessionIds()), group.MaxMembers)] {
			if id, err := account.ParseSessionID(text); err == nil {
				m.Members = append(m.Members, id)
			}
		}
		if len(m.Members) == 0 {
			in.Message = nil
		}
	case u.GetMemberLeftMessage() != nil:
		if in.Own && in.Sent >= c.entry.Joined*1000 {
			c.rec.Leaving = true // on another device
		}
	case u.GetMemberLeftNotificationMessage() != nil:
		line(archive.KindGroupLeft)
	case u.GetInviteResponse() != nil:
		if u.GetInviteResponse().GetIsApproved() {
			line(archive.KindGroupJoined)
		}
	case u.GetDeleteMemberContent() != nil:
		d, err := group.OpenDeleteContent(c.id, u.GetDeleteMemberContent(), uint64(in.Sent))
		if err == nil {
			in.Erase = &archive.Erasing{Hashes: d.Hashes, Members: d.Members, ByAdmin: d.ByAdmin}
		}
	}
}

// readInvite reads an invitation to a group, or a promotion, that came one to one.
func (s *session) readInvite(in *archive.Incoming, sender account.ID, content *sessionpb.Content) {
	in.With = account.ID{} // no line of the conversation with the sender
	if in.Own {
		return
	}
	data := content.GetDataMessage()
	u := data.GetGroupUpdateMessage()
	inv := &archive.Invite{By: sender, ByName: tidyName(data.GetProfile().GetDisplayName())}
	switch {
	case u.GetInviteMessage() != nil:
		got, err := group.OpenInvite(s.own.Keys(), u.GetInviteMessage(), uint64(in.Sent))
		if err != nil {
			s.log.Warn("refused invitation to a group", "err", err)
			return
		}
		inv.Group, inv.Name, inv.Auth = got.Group, tidyName(got.Name), got.Auth[:]
	case u.GetPromoteMessage() != nil:
		pair, name, err := group.OpenPromote(u.GetPromoteMessage())
		if err != nil {
			s.log.Warn("refused promotion in a group", "err", err)
			return
		}
		seed := pair.Seed()
		inv.Group, inv.Name, inv.Seed = group.ID(pair), tidyName(name), seed[:]
	default:
		return
	}
	in.Invite = inv
}

// invited takes an invitation or a promotion in. It may come any number of times.
// That of a contact is accepted at once, as in Session desktop; that of a stranger
// waits for the owner. The error is that of the disk.
func (s *session) invited(inv archive.Invite) error {
	by, _ := s.archive.Contact(inv.By)
	if by.Blocked {
		return nil
	}
	c := s.circleOf(inv.Group)
	if c == nil {
		return s.newlyInvited(inv, by.Approved)
	}
	c.mu.Lock()
	state := c.state()
	if state == api.Group_DESTROYED || state == api.Group_LEAVING {
		c.mu.Unlock()
		return nil
	}
	entry := c.entry
	if inv.Seed != nil {
		entry.Admin, entry.Seed, entry.Auth = true, config.Key(inv.Seed), nil
	} else if !entry.Admin {
		entry.Auth = inv.Auth
	}
	if state == api.Group_REMOVED || state == api.Group_INVITED {
		c.mu.Unlock()
		s.dropCircle(c)
		return s.newlyInvited(inv, by.Approved || state == api.Group_INVITED && !entry.Invited)
	}
	before := c.entry
	c.entry = entry
	last := c.rec.Last
	if c.g != nil && entry.Admin && !c.g.Admin() {
		c.becomeAdmin()
	} else if c.g != nil && !entry.Admin {
		if auth, err := group.ParseAuth(entry.Auth); err == nil {
			_ = c.g.SetAuth(auth) // it was checked
			clear(c.refused)
		}
	}
	result, err := c.save(archive.GroupStep{List: putListed(entry)})
	if err != nil {
		c.entry, c.rec.Last = before, last
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	s.publish(result)
	nudge(c.wake)
	c.tell()
	return nil
}

// newlyInvited is for a group that the owner is not in.
func (s *session) newlyInvited(inv archive.Invite, trusted bool) error {
	if len(s.circles()) >= maxGroups {
		s.log.Warn("invitation to a group left out: too many groups")
		return nil
	}
	if !trusted {
		if err := s.boundInvitations(); err != nil {
			return err
		}
	}
	entry, known := s.listedGroup(inv.Group)
	if !known {
		entry = config.Group{ID: inv.Group}
		entry.Joined = s.clock.Now().Unix()
	}
	entry.Name, entry.Removed, entry.Invited = inv.Name, config.Staying, !trusted
	if inv.Seed != nil {
		entry.Admin, entry.Seed = true, config.Key(inv.Seed)
	} else {
		entry.Auth = inv.Auth
	}
	c := s.newCircle(archive.Group{ID: inv.Group, By: inv.By, ByName: inv.ByName}, entry)
	if trusted {
		return s.join(c)
	}
	c.mu.Lock()
	_, err := c.save(archive.GroupStep{List: putListed(entry)})
	c.mu.Unlock()
	if err != nil {
		return err
	}
	s.begin(c)
	c.tell()
	return nil
}

// join is for a circle of an invitation that was accepted.
func (s *session) join(c *circle) error {
	c.mu.Lock()
	c.entry.Invited = false
	c.entry.Joined = s.clock.Now().Unix()
	c.open()
	if c.g == nil {
		c.mu.Unlock()
		return nil // open has said why
	}
	err := c.g.Accept()
	var result archive.Result
	if err == nil {
		result, err = c.save(archive.GroupStep{List: putListed(c.entry)})
	}
	if err != nil {
		c.g = nil
		c.entry.Invited = true
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	s.publish(result)
	s.begin(c)
	c.tell()
	return nil
}

// boundInvitations makes room for one more of a stranger.
func (s *session) boundInvitations() error {
	var oldest *circle
	var since time.Time
	n := 0
	for _, c := range s.circles() {
		c.mu.Lock()
		if c.state() == api.Group_INVITED {
			n++
			if at := time.Unix(c.entry.Joined, 0); oldest == nil || at.Before(since) {
				oldest, since = c, at
			}
		}
		c.mu.Unlock()
	}
	if n < maxInvitations {
		return nil
	}
	s.dropCircle(oldest)
	return s.archive.ForgetGroup(oldest.id)
}
