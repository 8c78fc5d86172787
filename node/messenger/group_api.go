package messenger

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/attachment"
	"hearth/node/blind"
	"hearth/node/config"
	"hearth/node/group"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
)

// groupPatience is how long a change of a group waits for the group's swarm before
// it is left to the circle.
const groupPatience = sendPatience

// groupError gives errors of packages group and config their code and text.
func groupError(err error) error {
	for _, e := range []struct {
		is error
		as *Error
	}{
		{group.ErrNotAdmin, ErrNotAdmin}, {group.ErrNoKey, ErrGroupEarly}, {group.ErrTooLarge, ErrGroupFull},
		{group.ErrMalformed, ErrNotMember}, {account.ErrNotSessionID, ErrNobody}, {blind.ErrNoPoint, ErrNobody},
		{config.ErrLimit, ErrGroupFull}, {config.ErrReadOnly, ErrNotAdmin},
	} {
		if errors.Is(err, e.is) {
			return e.as
		}
	}
	return forCaller(ErrDisk, err)
}

// Groups lists the closed groups, the latest conversation first. Errors:
// [ErrNoGroup], [ErrGroupAmbiguous].
func (m *Messenger) Groups(ctx context.Context, req *api.GroupsRequest) (*api.GroupsReply, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	list := s.circles()
	if req.GetGroup() != "" {
		c, err := s.anyGroup(req.GetGroup())
		if err != nil {
			return nil, err
		}
		list = []*circle{c}
	}
	reply := &api.GroupsReply{}
	for _, c := range list {
		reply.Groups = append(reply.Groups, s.showGroup(c))
	}
	slices.SortFunc(reply.Groups, func(a, b *api.Group) int {
		return cmp.Or(cmp.Compare(b.LastTime, a.LastTime), cmp.Compare(a.Id, b.Id))
	})
	return reply, nil
}

// GroupCreate makes a group, invites people, and waits a while for the group's
// swarm. Errors: [ErrGroupName], [ErrDescription], [ErrGroupFull], those of
// [Messenger.Send] for a person, [ErrIsGroup], [ErrSelf], [ErrNetwork] while the
// network's time is not known, and [ErrDisk].
func (m *Messenger) GroupCreate(ctx context.Context, req *api.GroupCreateRequest) (*api.Group, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	name, err := groupName(req.GetName())
	if err != nil {
		return nil, err
	}
	if err := checkDescription(req.GetDescription()); err != nil {
		return nil, err
	}
	members, err := s.newMembers(req.GetMembers())
	if err != nil {
		return nil, err
	}
	if len(s.circles()) >= maxGroups {
		return nil, ErrGroupFull
	}
	if err := s.knowTime(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	own := s.profile.Name
	s.mu.Unlock()
	g, err := group.Create(group.Options{Own: s.own.Keys(), Now: s.clock.Now, Rand: m.cfg.Rand}, name, own)
	if err == nil && req.GetDescription() != "" {
		err = g.Describe(req.GetDescription())
	}
	if err == nil {
		err = g.Invite(members, false)
	}
	if err != nil {
		return nil, groupError(err)
	}
	for _, m := range members {
		g.Members().SetOnTheWay(m.ID, true)
	}
	entry := config.Group{ID: g.ID(), Name: name, Admin: true, Seed: config.Key(g.Seed().Seed())}
	entry.Joined = s.clock.Now().Unix()
	c := s.newCircle(archive.Group{ID: g.ID()}, entry)
	c.g = g
	c.mu.Lock()
	result, err := c.save(archive.GroupStep{List: putListed(entry)})
	c.mu.Unlock()
	if err != nil {
		s.diskFailed(err)
		return nil, err
	}
	s.publish(result)
	s.begin(c)
	c.tell()
	return s.settled(ctx, c)
}

// GroupInvite invites people into a group; who is invited already is invited once
// more. Errors: [ErrIsMember] with one who takes part already, those of GroupCreate, [ErrNoGroup], [ErrGroupAmbiguous],
// [ErrNotAdmin], [ErrGroupOver], [ErrGroupEarly].
func (m *Messenger) GroupInvite(ctx context.Context, req *api.GroupInviteRequest) (*api.Group, error) {
	return m.changeGroup(ctx, req.GetGroup(), func(s *session, c *circle) error {
		members, err := s.newMembers(req.GetMembers())
		if err != nil {
			return err
		}
		if len(members) == 0 {
			return ErrNobodyNamed
		}
		for _, m := range members {
			known, ok := c.g.Members().Find(m.ID)
			if ok && known.Removal == config.Stays && (known.Admin && known.Promotion == config.Accepted || !known.Admin && known.Invite == config.Accepted) {
				return fmt.Errorf("%w (%s)", ErrIsMember, s.shownAs(m.ID, c.called(m.ID)))
			}
		}
		for _, m := range members {
			known, ok := c.g.Members().Find(m.ID)
			if ok && known.Removal == config.Stays && (known.Admin && known.Promotion != config.Accepted || !known.Admin && known.Invite != config.Accepted) {
				if err := c.g.Retry(m.ID); err != nil {
					return err
				}
			}
		}
		if err := c.g.Invite(members, req.GetHistory()); err != nil {
			return err
		}
		for _, m := range members {
			c.g.Members().SetOnTheWay(m.ID, true)
		}
		return nil
	})
}

// GroupAccept accepts an invitation. Errors: [ErrNoGroup], [ErrGroupAmbiguous],
// [ErrNoInvitation], [ErrNetwork], [ErrDisk].
func (m *Messenger) GroupAccept(ctx context.Context, req *api.GroupRequest) (*api.Group, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := s.invitation(req.GetGroup())
	if err != nil {
		return nil, err
	}
	if err := s.knowTime(ctx); err != nil {
		return nil, err
	}
	if err := s.join(c); err != nil {
		return nil, groupError(err)
	}
	return s.settled(ctx, c)
}

// GroupDecline deletes an invitation. Nothing is sent. Errors: those of GroupAccept.
func (m *Messenger) GroupDecline(ctx context.Context, req *api.GroupRequest) (*api.DeclineReply, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := s.invitation(req.GetGroup())
	if err != nil {
		return nil, err
	}
	if err := s.forgetCircle(c); err != nil {
		return nil, err
	}
	return &api.DeclineReply{}, nil
}

// invitation finds a group that waits for the owner's answer.
func (s *session) invitation(text string) (*circle, error) {
	c, err := s.anyGroup(text)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state() != api.Group_INVITED {
		return nil, ErrNoInvitation
	}
	return c, nil
}

func (s *session) forgetCircle(c *circle) error {
	s.dropCircle(c)
	if err := s.archive.ForgetGroup(c.id); err != nil {
		s.diskFailed(err)
		return forCaller(ErrDisk, err)
	}
	s.outbox.again()
	s.m.publishState()
	return nil
}

// GroupPromote makes admins of members. Errors: [ErrIsAdmin], [ErrNotMember], and
// those of GroupInvite.
func (m *Messenger) GroupPromote(ctx context.Context, req *api.GroupMembersRequest) (*api.Group, error) {
	return m.changeGroup(ctx, req.GetGroup(), func(s *session, c *circle) error {
		ids, err := c.membersNamed(req.GetMembers())
		if err != nil {
			return err
		}
		for _, id := range ids {
			if m, _ := c.g.Members().Find(id); m.Admin && m.Promotion == config.Accepted {
				return fmt.Errorf("%w (%s)", ErrIsAdmin, s.shownAs(id, c.called(id)))
			}
		}
		if err := c.g.Promote(ids); err != nil {
			return err
		}
		for _, id := range ids {
			if m, _ := c.g.Members().Find(id); m.Admin && m.Promotion != config.Accepted {
				c.g.Members().SetOnTheWay(id, true)
			}
		}
		return nil
	})
}

// GroupRemove removes members. Errors: those of GroupPromote, [ErrSelf].
func (m *Messenger) GroupRemove(ctx context.Context, req *api.GroupRemoveRequest) (*api.Group, error) {
	return m.changeGroup(ctx, req.GetGroup(), func(s *session, c *circle) error {
		ids, err := c.membersNamed(req.GetMembers())
		if err != nil {
			return err
		}
		if slices.Contains(ids, s.own.ID()) {
			return ErrSelf
		}
		return c.g.Remove(ids, req.GetWithMessages())
	})
}

// GroupLeave leaves a group, and deletes it here when the others have been told. A
// group that is over, or an invitation, is deleted at once. Errors: [ErrNoGroup],
// [ErrGroupAmbiguous], [ErrDisk].
func (m *Messenger) GroupLeave(ctx context.Context, req *api.GroupRequest) (*api.GroupLeaveReply, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := s.anyGroup(req.GetGroup())
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.g == nil {
		c.mu.Unlock()
		if err := s.forgetCircle(c); err != nil {
			return nil, err
		}
		return &api.GroupLeaveReply{}, nil
	}
	if !c.rec.Leaving {
		if err = c.g.Leave(); err == nil {
			c.rec.Leaving = true
			_, err = c.save(archive.GroupStep{})
		}
	}
	c.mu.Unlock()
	if err != nil {
		return nil, groupError(err)
	}
	c.tell()
	if _, err := s.settled(ctx, c); err != nil {
		return nil, err
	}
	return &api.GroupLeaveReply{}, nil
}

// GroupRename names a group. Errors: those of GroupInvite and [ErrGroupName].
func (m *Messenger) GroupRename(ctx context.Context, req *api.GroupTextRequest) (*api.Group, error) {
	name, err := groupName(req.GetText())
	if err != nil {
		return nil, err
	}
	return m.changeGroup(ctx, req.GetGroup(), func(_ *session, c *circle) error { return c.g.Rename(name) })
}

// GroupDescribe describes a group. Errors: those of GroupInvite and
// [ErrDescription].
func (m *Messenger) GroupDescribe(ctx context.Context, req *api.GroupTextRequest) (*api.Group, error) {
	if err := checkDescription(req.GetText()); err != nil {
		return nil, err
	}
	return m.changeGroup(ctx, req.GetGroup(), func(_ *session, c *circle) error { return c.g.Describe(req.GetText()) })
}

// GroupDestroy ends a group for everybody. Errors: those of GroupInvite.
func (m *Messenger) GroupDestroy(ctx context.Context, req *api.GroupRequest) (*api.Group, error) {
	return m.changeGroup(ctx, req.GetGroup(), func(_ *session, c *circle) error { return c.g.Destroy() })
}

// GroupDelete deletes a message for all members: an admin anybody's, others their
// own. Errors: [ErrNoGroup], [ErrGroupAmbiguous], [ErrNoMessage], [ErrNotOwn],
// [ErrGroupOver], [ErrDisk].
func (m *Messenger) GroupDelete(ctx context.Context, req *api.GroupDeleteRequest) (*api.Message, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := s.anyGroup(req.GetGroup())
	if err != nil {
		return nil, err
	}
	msg, err := s.archive.Message(archive.Ref{With: c.id, Number: req.GetId()})
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	if msg.Deleted || msg.Kind != archive.KindText {
		return nil, ErrNoMessage
	}
	return s.unsendOfGroup(msg)
}

// GroupSetPicture is [Messenger.GroupSetPictureFrom] over gRPC.
func (m *Messenger) GroupSetPicture(stream grpc.ClientStreamingServer[api.GroupSetPictureRequest, api.Group]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	rest := &pieces{left: first.GetData(), next: func() ([]byte, error) {
		r, err := stream.Recv()
		return r.GetData(), err
	}}
	g, err := m.GroupSetPictureFrom(stream.Context(), first.GetGroup(), rest)
	if err != nil {
		return err
	}
	return stream.SendAndClose(g)
}

// GroupSetPictureFrom is [Messenger.SetPictureFrom] for a group. Errors: its own and
// those of GroupInvite.
func (m *Messenger) GroupSetPictureFrom(ctx context.Context, of string, file io.Reader) (*api.Group, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := s.anyGroup(of)
	if err != nil {
		return nil, err
	}
	if err := c.adminOnly(); err != nil { // before anything is uploaded
		return nil, err
	}
	given, err := io.ReadAll(io.LimitReader(file, attachment.MaxSize+1))
	switch {
	case err != nil:
		return nil, forCaller(ErrFileHead, err)
	case len(given) > attachment.MaxSize:
		return nil, ErrFileSize
	}
	var p config.Picture
	if len(given) > 0 {
		small, err := attachment.Shrink(given, ownPictureSize)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoPreview, err)
		}
		key, upload, err := attachment.EncryptPicture(m.cfg.Rand, small)
		if err != nil {
			return nil, forCaller(ErrDisk, err)
		}
		if err := s.uploadPicture(ctx, upload); err != nil {
			return nil, forCaller(ErrUpload, err)
		}
		p = config.Picture{URL: attachment.NodeURL(attachment.IDOf(upload), false).Text(), Key: config.Key(bytes.Clone(key))}
	}
	return m.changeGroup(ctx, c.id.String(), func(_ *session, c *circle) error { return c.g.SetPicture(p) })
}

func (c *circle) adminOnly() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.g == nil || c.rec.Leaving:
		return c.absent()
	case !c.g.Admin():
		return ErrNotAdmin
	}
	return nil
}

// absent is why the group cannot be changed. The caller holds c.mu.
func (c *circle) absent() error {
	if c.state() == api.Group_INVITED {
		return ErrNotJoined
	}
	return ErrGroupOver
}

// setGroupTimer makes the messages of a group disappear.
func (s *session) setGroupTimer(ctx context.Context, with account.ID, t *api.Timer) (*api.Contact, error) {
	seconds := t.GetSeconds()
	switch d := time.Duration(seconds) * time.Second; t.GetType() {
	case api.Timer_OFF:
		seconds = 0
	case api.Timer_AFTER_SEND:
		if d < minTTL || d > mailbox.TTL {
			return nil, ErrGroupTimer
		}
	default:
		return nil, ErrGroupTimer
	}
	_, err := s.m.changeGroup(ctx, with.String(), func(_ *session, c *circle) error { return c.g.SetTimer(seconds) })
	if err != nil {
		return nil, err
	}
	contact, _ := s.archive.Contact(with)
	return s.apiContact(contact), nil
}

// changeGroup does what an admin does to a group, writes it down, and waits a while
// for the group's swarm. change is called with c.mu held.
func (m *Messenger) changeGroup(ctx context.Context, text string, change func(s *session, c *circle) error) (*api.Group, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := s.anyGroup(text)
	if err != nil {
		return nil, err
	}
	if err := c.adminOnly(); err != nil {
		return nil, err
	}
	if err := s.knowTime(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	var result archive.Result
	if c.g == nil {
		err = c.absent()
	} else if err = change(s, c); err == nil {
		result, err = c.save(archive.GroupStep{})
	}
	c.mu.Unlock()
	if err != nil {
		return nil, groupError(err)
	}
	s.publish(result)
	c.tell()
	return s.settled(ctx, c)
}

// settled asks for a round at once, waits until everything is stored, or somebody's
// patience is over, and shows the group.
func (s *session) settled(ctx context.Context, c *circle) (*api.Group, error) {
	timer := time.NewTimer(groupPatience)
	defer timer.Stop()
	c.mu.Lock()
	c.active = s.m.cfg.Now()
	c.mu.Unlock()
	for {
		c.mu.Lock()
		busy := c.busy() || c.g != nil && (c.rec.Leaving || !c.asked)
		turned, failed := c.turned, c.failed
		c.mu.Unlock()
		if !busy {
			return s.showGroup(c), nil
		}
		if failed == 0 {
			nudge(c.wake)
		}
		select {
		case <-turned:
		case <-timer.C:
			return s.showGroup(c), nil
		case <-ctx.Done():
			return nil, forCaller(ErrNetwork, ctx.Err())
		}
	}
}

// knowTime waits a while for the network's time, with which everything about groups
// is signed.
func (s *session) knowTime(ctx context.Context) error {
	if s.clock.Known() {
		return nil
	}
	if err := s.awaitNodes(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, groupPatience)
	defer cancel()
	if err := s.box.KnowTime(ctx); err != nil && !s.clock.Known() {
		return fmt.Errorf("%w: %w", ErrNetwork, errNoTime)
	}
	return nil
}

// newMembers finds the people who are to be invited, with what they are called.
func (s *session) newMembers(texts []string) (list []config.Member, err error) {
	for _, text := range texts {
		id, err := s.whom(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w (%s)", err, tidyLine(text, MaxName))
		case isGroup(id):
			return nil, ErrIsGroup
		case id == s.own.ID():
			return nil, ErrSelf
		}
		if slices.ContainsFunc(list, func(m config.Member) bool { return m.ID == id }) {
			continue
		}
		m := config.NewMember(id)
		// What the owner calls them is the owner's business.
		if contact, ok := s.archive.Contact(id); ok {
			m.Name = contact.Profile
		}
		list = append(list, m)
	}
	return list, nil
}

// membersNamed finds members by their Session IDs or by what they are called. The
// caller holds c.mu.
func (c *circle) membersNamed(texts []string) (ids []account.ID, err error) {
	if len(texts) == 0 {
		return nil, ErrNobodyNamed
	}
	for _, text := range texts {
		id, err := c.memberNamed(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("%w (%s)", err, tidyLine(text, MaxName))
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (c *circle) memberNamed(text string) (account.ID, error) {
	if id, err := account.ParseSessionID(text); err == nil {
		if _, ok := c.g.Members().Find(id); !ok {
			return id, ErrNotMember
		}
		return id, nil
	}
	var given, called []account.ID
	for m := range c.g.Members().All() {
		contact, _ := c.s.archive.Contact(m.ID)
		switch {
		case text == "":
		case strings.EqualFold(contact.Name, text):
			given = append(given, m.ID)
		case strings.EqualFold(contact.Profile, text), strings.EqualFold(tidyName(m.Name), text), strings.EqualFold(c.rec.Names[m.ID], text):
			called = append(called, m.ID)
		}
	}
	if len(given) == 0 {
		given = called
	}
	switch len(given) {
	case 0:
		return account.ID{}, ErrNotMember
	case 1:
		return given[0], nil
	}
	return account.ID{}, ErrAmbiguous
}

func groupName(text string) (string, error) {
	name := strings.TrimSpace(text)
	if name == "" || !validName(name) || looksLikeID(name) {
		return "", ErrGroupName
	}
	return name, nil
}

func checkDescription(text string) error {
	bad := func(r rune) bool { return unicode.IsControl(r) && r != '\n' }
	if len(text) > config.MaxDescription || !utf8.ValidString(text) || strings.ContainsFunc(text, bad) {
		return ErrDescription
	}
	return nil
}

// author shows who wrote something in a conversation: nothing for the owner, and
// outside of groups.
func (s *session) author(with, from account.ID) (id, name string) {
	if from == (account.ID{}) {
		return "", ""
	}
	return from.String(), s.nameOf(with, from)
}

// groupText is [infoText] for a group.
func (s *session) groupText(msg archive.Message) string {
	switch msg.Kind {
	case archive.KindGroupName:
		return "named the group " + msg.Text
	case archive.KindGroupPicture:
		return "changed the group's picture"
	case archive.KindGroupAdded:
		return "added " + s.people(msg)
	case archive.KindGroupRemoved:
		return "removed " + s.people(msg)
	case archive.KindGroupPromoted:
		if len(msg.Members) == 1 {
			return "made " + s.people(msg) + " an admin"
		}
		return "made admins of " + s.people(msg)
	case archive.KindGroupJoined:
		return "accepted the invitation"
	case archive.KindGroupLeft:
		return "left the group"
	case archive.KindGroupKicked:
		return "You were removed from the group."
	case archive.KindGroupDestroyed:
		return "The group has ended."
	}
	return infoText(msg)
}

// shownAs is how a line names somebody: "you", the name they have, or the beginning
// and end of their Session ID.
func (s *session) shownAs(id account.ID, name string) string {
	switch {
	case id == s.own.ID():
		return "you"
	case name != "":
		return name
	}
	return account.ShortID(id.String())
}

// people names at most five.
func (s *session) people(msg archive.Message) string {
	const most = 5
	var names []string
	for _, id := range msg.Members[:min(len(msg.Members), most)] {
		names = append(names, s.shownAs(id, s.nameOf(msg.With, id)))
	}
	if more := len(msg.Members) - most; more > 0 {
		names = append(names, fmt.Sprintf("%d others", more))
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}
