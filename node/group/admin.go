package group

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/wire/sessionpb"
)

// What people do to a group. Every operation changes what this device knows and
// what [Group.Push] sends; those of admins return [ErrNotAdmin] to others and
// [ErrNoKey] before the group was fetched.

// ready checks that an admin knows the group: whoever changed an empty
// configuration would take the others' along.
func (g *Group) ready() error {
	switch {
	case g.options.Seed == nil || g.kicked || g.unlisted():
		return ErrNotAdmin
	case g.info.Seqno() == 0 || g.members.Seqno() == 0:
		return ErrNoKey
	}
	if _, err := g.keys.Current(); err != nil {
		return err
	}
	return nil
}

// Invite adds members, who have not been told yet: after the push, send each of
// them what [Group.Invitation] returns. With history they get the keys of what was
// written before, otherwise the next one alone. Members who were removed before
// are let in again. Errors: as above; account.ErrNotSessionID and blind.ErrNoPoint
// for IDs that cannot be members, of which then none is added.
func (g *Group) Invite(members []config.Member, history bool) error {
	if err := g.ready(); err != nil {
		return err
	}
	members = slices.DeleteFunc(slices.Clone(members), func(m config.Member) bool {
		old, known := g.members.Find(m.ID)
		return known && old.Removal == config.Stays
	})
	if len(members) == 0 {
		return nil
	}
	if g.members.Len()+len(members) > MaxMembers {
		return fmt.Errorf("a group of %d: %w", g.members.Len()+len(members), ErrTooLarge)
	}
	ids := make([]account.ID, len(members))
	for i, m := range members {
		if _, err := TokenOf(g.options.Seed, m.ID); err != nil {
			return err
		}
		ids[i] = m.ID
	}
	for _, m := range members {
		invited := config.NewMember(m.ID)
		invited.Name, invited.Picture, invited.Supplement = m.Name, m.Picture, history
		if err := g.members.Put(invited); err != nil {
			return err
		}
		g.seen[m.ID] = max(g.seen[m.ID], g.stamp()) // what they wrote before is no answer
	}
	g.outbox.admit = append(g.outbox.admit, ids...)
	if history {
		g.outbox.share = append(g.outbox.share, ids...)
	}
	g.outbox.rekey, g.changed = true, true
	if err := g.announce(MembersChanged(sessionpb.GroupUpdateMemberChangeMessage_ADDED, ids, history)); err != nil {
		return err
	}
	return g.settle()
}

// Invitation is the message for the member, one to one, with a timestamp in ms: an
// invitation, or for an admin the promotion. Afterwards call [Group.Invited]. The
// error is [ErrMalformed] for somebody who is not in the list.
func (g *Group) Invitation(to account.ID, timestamp uint64) (*sessionpb.GroupUpdateMessage, error) {
	if err := g.ready(); err != nil {
		return nil, err
	}
	m, known := g.members.Find(to)
	switch {
	case !known || m.Removal != config.Stays:
		return nil, fmt.Errorf("inviting %s, who is not in the list: %w", to, ErrMalformed)
	case m.Admin:
		return Promote(g.options.Seed, g.info.Name()), nil
	}
	return Invite(g.options.Seed, g.info.Name(), to, timestamp)
}

// Invited notes whether the member was sent what [Group.Invitation] returned.
func (g *Group) Invited(to account.ID, sent bool) error {
	if err := g.ready(); err != nil {
		return err
	}
	m, known := g.members.Find(to)
	if !known {
		return nil
	}
	state := config.Sent
	if !sent {
		state = config.Failed
	}
	switch {
	case m.Removal != config.Stays:
		return nil
	case m.Admin && m.Promotion != config.Accepted:
		m.Promotion = state
	case !m.Admin && m.Invite != config.Accepted:
		m.Invite = state
	default:
		return nil // has answered in the meantime
	}
	return g.members.Put(m)
}

// Retry prepares another invitation of a member who has not answered: the keys of
// the history and the token once more. After the push, send [Group.Invitation].
func (g *Group) Retry(to account.ID) error {
	if err := g.ready(); err != nil {
		return err
	}
	m, known := g.members.Find(to)
	if !known || m.Removal != config.Stays {
		return fmt.Errorf("inviting %s, who is not in the list: %w", to, ErrMalformed)
	}
	if m.Supplement && len(g.keys.list) > 0 {
		s, err := g.keys.Supplement([]account.ID{to})
		if err != nil {
			return err
		}
		g.outbox.supplements = append(g.outbox.supplements, s...)
	}
	g.outbox.admit = append(g.outbox.admit, to)
	g.changed = true
	return nil
}

// Accept answers an invitation: the group learns that this account takes part.
func (g *Group) Accept() error {
	return g.announce(InviteResponse(true))
}

// Promote makes admins of members. After the push, send each what
// [Group.Invitation] returns. What was given this way cannot be taken back: an
// admin who is removed still knows the seed.
func (g *Group) Promote(members []account.ID) error {
	if err := g.ready(); err != nil {
		return err
	}
	var changed []config.Member
	var ids []account.ID
	for _, id := range members {
		m, known := g.members.Find(id)
		if !known || m.Removal != config.Stays {
			return fmt.Errorf("promoting %s, who is not in the list: %w", id, ErrMalformed)
		}
		if m.Admin {
			continue
		}
		m.Promote()
		changed, ids = append(changed, m), append(ids, id)
	}
	if len(changed) == 0 {
		return nil
	}
	for _, m := range changed {
		if err := g.members.Put(m); err != nil {
			return err
		}
	}
	return g.announce(MembersChanged(sessionpb.GroupUpdateMemberChangeMessage_PROMOTED, ids, false))
}

// Remove removes members, and with everything that they wrote if so wanted. It
// takes two pushes: one tells them and closes the swarm to them, the second, after
// [Group.Confirm], brings the others a key that those removed do not get. Who is
// not a member is passed over, and so is this account, which can [Group.Leave].
func (g *Group) Remove(members []account.ID, withMessages bool) error {
	if err := g.ready(); err != nil {
		return err
	}
	var ids []account.ID
	for _, id := range members {
		m, known := g.members.Find(id)
		if !known || id == g.self || slices.Contains(ids, id) {
			continue
		}
		m.Remove(withMessages || m.Removal == config.RemovedWithMessages)
		if err := g.members.Put(m); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil
	}
	gone := func(id account.ID) bool { return slices.Contains(ids, id) }
	g.outbox.admit = slices.DeleteFunc(g.outbox.admit, gone)
	g.outbox.share = slices.DeleteFunc(g.outbox.share, gone)
	return g.announce(MembersChanged(sessionpb.GroupUpdateMemberChangeMessage_REMOVED, ids, false))
}

// Rename changes the name. Errors: as above, config.ErrValue.
func (g *Group) Rename(name string) error {
	return g.change(NameChanged(name), func() error { return g.info.SetName(name) })
}

// Describe changes the description, of which nobody is told.
func (g *Group) Describe(text string) error {
	return g.change(nil, func() error { return g.info.SetDescription(text) })
}

// SetPicture changes the picture; an empty one removes it.
func (g *Group) SetPicture(p config.Picture) error {
	return g.change(PictureChanged(), func() error { return g.info.SetPicture(p) })
}

// SetTimer changes after how many seconds messages disappear, 0 for never.
func (g *Group) SetTimer(seconds uint32) error {
	return g.change(TimerChanged(seconds), func() error { return g.info.SetTimer(int64(seconds)) })
}

// DeleteBefore makes all members delete what was sent before then, in unix seconds.
func (g *Group) DeleteBefore(at int64) error {
	return g.change(nil, func() error { return g.info.SetDeleteBefore(at) })
}

// DeleteFilesBefore is [Group.DeleteBefore] for attachments alone.
func (g *Group) DeleteFilesBefore(at int64) error {
	return g.change(nil, func() error { return g.info.SetDeleteFilesBefore(at) })
}

// change does one change of the info and announces it, if it was one.
func (g *Group) change(u *sessionpb.GroupUpdateMessage, set func() error) error {
	if err := g.ready(); err != nil {
		return err
	}
	before, seqno := g.info.Data(), g.info.Seqno()
	if err := set(); err != nil {
		return err
	}
	if u == nil || g.info.Seqno() == seqno && g.info.Data() == before {
		return nil
	}
	return g.announce(u)
}

// DeleteMessages asks everybody to delete messages with these swarm hashes; as an
// admin, anybody's, and those of all these members. A member names own messages
// alone. The swarm deletes them only for admins.
func (g *Group) DeleteMessages(members []account.ID, hashes []string) error {
	if g.options.Seed == nil && len(members) > 0 {
		return ErrNotAdmin
	}
	if g.options.Seed != nil {
		g.outbox.delete = append(g.outbox.delete, hashes...)
	}
	return g.announce(DeleteContent(members, hashes))
}

// Leave tells the group that this account leaves. After the push, forget the group.
// If no other admin would remain, it is destroyed instead.
func (g *Group) Leave() error {
	if g.options.Seed != nil {
		others := false
		for m := range g.members.All() {
			others = others || m.Admin && m.ID != g.self && m.Promotion == config.Accepted && m.Removal == config.Stays
		}
		if !others {
			return g.Destroy()
		}
	}
	return errors.Join(g.announce(LeftNotice()), g.announce(Left()))
}

// Destroy ends the group for everybody. The push has the swarm delete everything but
// the info and the keys that open it, which have to stay until all members have seen
// it.
func (g *Group) Destroy() error {
	if err := g.change(nil, g.info.Destroy); err != nil {
		return err
	}
	g.outbox.clear, g.changed = true, true
	return nil
}

// announce queues a message to the group.
func (g *Group) announce(u *sessionpb.GroupUpdateMessage) error {
	at := g.stamp()
	if g.options.Seed != nil {
		Sign(g.options.Seed, u, at)
	}
	b, err := proto.Marshal(Content(u, at))
	if err != nil {
		return fmt.Errorf("telling %s: %w", g.options.ID, err)
	}
	g.outbox.notices = append(g.outbox.notices, notice{at, b})
	g.changed = true
	return nil
}
