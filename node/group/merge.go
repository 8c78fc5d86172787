package group

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// Fetched is one message that a swarm returned.
type Fetched struct {
	Namespace int16
	Hash      string
	At        int64 // when it was stored, ms
	Data      []byte
}

// Message is a message of the group whose author is proven.
type Message struct {
	*wire.Message
	Hash string
	// Member and Admin are what the list of members says of the author now. A message
	// of somebody who is not in it comes from a former member or from an intruder.
	Member, Admin bool
}

// Merged says what [Group.Merge] made of the messages.
type Merged struct {
	Messages []Message // in the order in which they were sent
	// Changed reports that info, members or keys may be others now.
	Changed bool
	// Kicked and Destroyed report that the group is over, for this account or for
	// everybody.
	Kicked, Destroyed bool
	// Unlisted reports that the account is not in the list of members. Somebody who
	// was removed while keys were exchanged may learn it from nothing else; but while
	// admins change the list at the same time it can also pass. An admin's device does
	// nothing for the group meanwhile.
	Unlisted bool
	// Refused are messages that nobody honest writes.
	Refused []config.Refusal
	// Waiting is how many messages no key opens. They are tried again when another
	// key comes, but are forgotten with the process.
	Waiting int
	// Err is why an admin's device could not make the next key, nil otherwise.
	Err error
}

// What is kept of messages that no key opens. Who was invited without history has
// some of them for ever.
const (
	maxHeld     = 512
	maxHeldSize = 4 << 20
	maxSeen     = 2 * MaxMembers
)

// Merge takes what was fetched of all namespaces of the group, in any order: keys
// first, then info and members, then removals, then messages. An admin's device
// does what follows from it, so that [Group.NeedsPush] may be true afterwards.
func (g *Group) Merge(fetched []Fetched) Merged {
	var out Merged
	newKeys := false
	byPlace := map[int16][]Fetched{}
	for _, f := range fetched {
		byPlace[f.Namespace] = append(byPlace[f.Namespace], f)
	}
	for _, f := range inOrder(byPlace[KeyList]) {
		found, err := g.keys.Load(f.Data, f.Hash, f.At)
		if err != nil {
			out.refuse(f, err)
		}
		newKeys = newKeys || found
	}
	if newKeys {
		g.setKeys()
		out.Changed = true
		for _, f := range g.held {
			byPlace[f.Namespace] = append(byPlace[f.Namespace], f)
		}
		g.held = nil
	}
	// What was stored and not fetched back is lost, or late: it will be stored again.
	g.outbox.stored = false

	g.mergeConfig(g.info.Object, byPlace, &out)
	g.mergeConfig(g.members.Object, byPlace, &out)
	g.removals(byPlace[Revoked], &out)
	for _, f := range inOrder(byPlace[Messages]) {
		m, err := g.open(f)
		switch {
		case errors.Is(err, ErrNotForUs):
			g.hold(f)
		case err != nil:
			out.refuse(f, err)
		default:
			out.Messages = append(out.Messages, *m)
		}
	}
	slices.SortStableFunc(out.Messages, func(a, b Message) int { return cmp.Compare(a.Timestamp, b.Timestamp) })
	out.Err = errors.Join(g.follow(out.Messages), g.settle())
	out.Kicked, out.Destroyed, out.Unlisted = g.kicked, g.info.Destroyed(), g.unlisted()
	out.Waiting = len(g.held)
	return out
}

func inOrder(list []Fetched) []Fetched {
	slices.SortStableFunc(list, func(a, b Fetched) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Hash, b.Hash)) })
	return list
}

func (m *Merged) refuse(f Fetched, err error) {
	m.Refused = append(m.Refused, config.Refusal{Hash: f.Hash, Err: err})
}

func (g *Group) mergeConfig(o *config.Object, byPlace map[int16][]Fetched, out *Merged) {
	list := byPlace[o.Kind().Namespace()]
	if len(list) == 0 {
		return
	}
	byHash, messages := map[string]Fetched{}, make([]config.Message, 0, len(list))
	for _, f := range list {
		byHash[f.Hash] = f
		messages = append(messages, config.Message{Hash: f.Hash, Data: f.Data})
	}
	m := o.Merge(messages)
	out.Changed = out.Changed || m.Changed
	for _, r := range m.Refused {
		if errors.Is(r.Err, config.ErrDecrypt) {
			g.hold(byHash[r.Hash])
		} else {
			out.Refused = append(out.Refused, r)
		}
	}
}

// hold keeps a message until a key for it comes.
func (g *Group) hold(f Fetched) {
	if slices.ContainsFunc(g.held, func(h Fetched) bool { return h.Hash == f.Hash && h.Namespace == f.Namespace }) {
		return
	}
	g.held = append(g.held, f)
	size := 0
	for i := len(g.held) - 1; i >= 0; i-- {
		if size += len(g.held[i].Data); size > maxHeldSize || len(g.held)-i > maxHeld {
			clear(g.held[:i+1])
			g.held = slices.Delete(g.held, 0, i+1)
			return
		}
	}
}

// removals looks whether this account is among those who were removed.
func (g *Group) removals(list []Fetched, out *Merged) {
	for _, f := range list {
		generation, err := OpenKicked(g.options.Own, g.options.ID, f.Data)
		switch {
		case errors.Is(err, ErrNotForUs):
		case err != nil:
			out.refuse(f, err)
		case len(g.keys.list) == 0:
			g.hold(f) // it may be older than the invitation, whose key has yet to come
		case generation >= g.keys.Generation() && !g.kicked:
			g.kicked, g.changed = true, true
		}
	}
}

// open reads a message and checks what in it needs an admin's signature.
func (g *Group) open(f Fetched) (*Message, error) {
	author, plain, err := Open(g.options.ID, g.keys.All(), f.Data, Current)
	if err != nil {
		return nil, err
	}
	m, err := wire.OpenGroupEnvelope(author, plain)
	if err != nil {
		return nil, err
	}
	u := m.Content.GetDataMessage().GetGroupUpdateMessage()
	if u.GetInviteMessage() != nil || u.GetPromoteMessage() != nil {
		return nil, fmt.Errorf("an invitation or promotion to everybody: %w", ErrMalformed)
	}
	if c := u.GetInfoChangeMessage(); c != nil && !VerifyInfoChange(g.options.ID, c, m.Timestamp) {
		return nil, fmt.Errorf("change of the group: %w", ErrSignature)
	}
	if c := u.GetMemberChangeMessage(); c != nil && !VerifyMembersChanged(g.options.ID, c, m.Timestamp) {
		return nil, fmt.Errorf("change of members: %w", ErrSignature)
	}
	if d := u.GetDeleteMemberContent(); d != nil {
		if _, err := OpenDeleteContent(g.options.ID, d, m.Timestamp); err != nil {
			return nil, err
		}
	}
	member, known := g.members.Find(author)
	return &Message{Message: m, Hash: f.Hash, Member: known, Admin: known && member.Admin}, nil
}

// follow does what an admin's device does about messages: whoever writes has
// accepted the invitation, whoever left is removed. An old goodbye must not undo a
// new invitation, so a message that is older than the newest of its author changes
// nothing; and as every invitation comes with a key, neither does a goodbye that is
// older than the newest key while the invitation is open. This rule is ours.
func (g *Group) follow(messages []Message) error {
	var errs []error
	last := map[account.ID]Message{}
	left := map[account.ID]bool{}
	for _, m := range messages {
		if m.Member && m.Sender != g.self && m.Timestamp > g.seen[m.Sender] {
			g.seen[m.Sender] = m.Timestamp
			g.changed = true
			last[m.Sender] = m
			u := m.Content.GetDataMessage().GetGroupUpdateMessage()
			// Of the two messages of a goodbye either may come last.
			left[m.Sender] = u.GetMemberLeftMessage() != nil || left[m.Sender] && u.GetMemberLeftNotificationMessage() != nil
		}
	}
	if len(g.seen) > maxSeen {
		// Of former members, then; a hostile admin could have added any number.
		maps.DeleteFunc(g.seen, func(id account.ID, _ uint64) bool { _, known := g.members.Find(id); return !known })
	}
	if g.options.Seed == nil {
		return nil
	}
	newest := uint64(0)
	if n := len(g.keys.list); n > 0 {
		newest = uint64(g.keys.list[n-1].at)
	}
	for id, m := range last {
		member, known := g.members.Find(id)
		invited := known && member.Invite != config.Accepted
		if !known || member.Removal != config.Stays {
			continue
		}
		u := m.Content.GetDataMessage().GetGroupUpdateMessage()
		switch {
		case left[id] && invited && m.Timestamp < newest:
			continue
		case left[id]:
			member.Remove(false)
		case invited && !declines(u):
			member.AcceptInvite()
		default:
			continue
		}
		errs = append(errs, g.members.Put(member))
	}
	if own, known := g.members.Find(g.self); known && own.Promotion != config.Accepted && own.Removal == config.Stays {
		own.Promotion = config.Accepted // the seed has arrived: this device holds it
		errs = append(errs, g.members.Put(own))
	}
	return errors.Join(errs...)
}

func declines(u *sessionpb.GroupUpdateMessage) bool {
	return u.GetInviteResponse() != nil && !u.GetInviteResponse().GetIsApproved()
}
