package config

import (
	"fmt"
	"iter"
	"slices"

	"hearth/node/account"
	"hearth/node/bt"
)

// The keys of a member, by the letters of libsession-util's groups/members.hpp.
const (
	memberDict       = "m"
	memberName       = "n"
	memberURL        = "p"
	memberKey        = "q"
	memberInvite     = "I"
	memberSupplement = "s"
	memberAdmin      = "A"
	memberPromotion  = "P"
	memberRemoval    = "R"

	// memberSending is in the extra data of a dump: a list of the ids to whom
	// an invitation is on its way.
	memberSending = "pending_send_ids"
)

// Sending is how far an invitation or promotion has come.
type Sending int64

// The values of [Sending]. Zero is also what somebody has who was never asked.
const (
	Accepted Sending = iota
	Sent
	Failed
	NotSent
)

// Removal is whether a member is about to be removed.
type Removal int64

// The values of [Removal].
const (
	Stays Removal = iota
	Removed
	RemovedWithMessages
)

// Members is the view of a [GroupMembers]. Changes by a member who is no admin
// are [ErrReadOnly].
type Members struct{ *Object }

// Member is one member of a group.
type Member struct {
	ID         account.ID
	Name       string
	Picture    Picture
	Admin      bool
	Invite     Sending
	Supplement bool // invited with what was written before
	Promotion  Sending
	Removal    Removal
	OnTheWay   bool // this device is sending the invitation; not shared
}

// NewMember is a member who has not been invited yet.
func NewMember(id account.ID) Member { return Member{ID: id, Invite: NotSent} }

// Status is the one thing to show about a member: that they are being removed,
// or else how far a promotion has come, or else an invitation.
type Status uint8

// The values of [Status].
const (
	StatusMember Status = iota
	StatusInviteNotSent
	StatusInviteSending
	StatusInviteSent
	StatusInviteFailed
	StatusAdmin
	StatusPromotionNotSent
	StatusPromotionSending
	StatusPromotionSent
	StatusPromotionFailed
	StatusRemoved
	StatusRemovedWithMessages
)

var statusNames = [...]string{
	"member", "not invited", "being invited", "invited", "invitation failed",
	"admin", "not promoted", "being promoted", "promoted", "promotion failed",
	"removed", "removed with messages",
}

// String names the status.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Status is the one thing to show about the member.
func (m Member) Status() Status {
	switch {
	case m.Removal == RemovedWithMessages:
		return StatusRemovedWithMessages
	case m.Removal != Stays:
		return StatusRemoved
	case m.Admin:
		return sendingStatus(StatusAdmin, m.Promotion, m.OnTheWay)
	}
	return sendingStatus(StatusMember, m.Invite, m.OnTheWay)
}

// sendingStatus counts from the status of somebody who accepted.
func sendingStatus(accepted Status, s Sending, onTheWay bool) Status {
	switch {
	case s == Accepted:
		return accepted
	case onTheWay:
		return accepted + 2
	case s == Sent:
		return accepted + 3
	case s == Failed:
		return accepted + 4
	}
	return accepted + 1
}

// Promote makes the member an admin to whom the group's seed has yet to be sent.
func (m *Member) Promote() {
	m.Admin, m.Invite, m.Promotion = true, Accepted, NotSent
}

// AcceptInvite notes that the member is in.
func (m *Member) AcceptInvite() { m.Invite, m.Supplement = Accepted, false }

// Remove notes that the member is to be removed, by the next rotation of keys.
func (m *Member) Remove(withMessages bool) {
	m.Invite, m.Promotion, m.Removal = Accepted, Accepted, Removed
	if withMessages {
		m.Removal = RemovedWithMessages
	}
}

// All visits the members in ascending order of their ids. Entries that are no
// members are passed over.
func (m Members) All() iter.Seq[Member] {
	entries := m.Get(memberDict).Dict()
	sending := m.sending()
	return func(yield func(Member) bool) {
		for key, v := range entries.All() {
			id, ok := idOf(key, account.PrefixAccount)
			if ok && v.kind == dict && !yield(readMember(id, v.dict, sending)) {
				return
			}
		}
	}
}

// Len is the number of entries.
func (m Members) Len() int { return m.message.data.Get(memberDict).Dict().Len() }

// Find returns one member.
func (m Members) Find(id account.ID) (Member, bool) {
	v := m.message.data.Get(memberDict, string(id[:]))
	if v.kind != dict {
		return Member{}, false
	}
	return readMember(id, v.dict, m.sending()), true
}

// Put stores a member, whether there was one or not. A name above [MaxName]
// bytes is cut there. OnTheWay is not stored; see [Members.SetOnTheWay].
// Errors: [ErrReadOnly], and [ErrValue] for what is no Session ID and for an
// address above [MaxPictureURL] bytes.
func (m Members) Put(member Member) error {
	if err := checkID(member.ID, account.PrefixAccount); err != nil {
		return fmt.Errorf("storing a member: %w", err)
	}
	if err := checkLength("picture address", member.Picture.URL, MaxPictureURL); err != nil {
		return err
	}
	return m.change(func(t *tree) {
		f := t.at(memberDict, string(member.ID[:]))
		f.always(memberName, cut(member.Name))
		f.picture(memberURL, memberKey, member.Picture)
		f.flag(memberAdmin, member.Admin)
		f.positive(memberPromotion, int64(member.Promotion))
		if member.Admin {
			member.Invite = Accepted
		}
		f.positive(memberInvite, int64(member.Invite))
		f.flag(memberSupplement, member.Supplement && member.Invite != Accepted)
		f.positive(memberRemoval, int64(member.Removal))
	})
}

// Expel erases a member and reports whether there was one.
func (m Members) Expel(id account.ID) (bool, error) {
	return m.remove(memberDict, string(id[:]))
}

// SetOnTheWay notes on this device alone that an invitation or promotion is
// being sent, so that it can be sent again after a restart.
func (m Members) SetOnTheWay(id account.ID, on bool) {
	sending := m.sending()
	if sending[id] == on {
		return
	}
	var list []any
	for _, v := range m.sendingList() {
		if b, ok := v.([]byte); ok && account.ID(b) != id {
			list = append(list, b)
		}
	}
	if on {
		list = append(list, slices.Clone(id[:]))
	}
	extra := bt.Dict{}
	for k, v := range m.Extra() {
		extra[k] = v
	}
	delete(extra, memberSending)
	if len(list) > 0 {
		extra[memberSending] = list
	}
	m.SetExtra(extra)
}

// sendingList returns what is an id in the local list.
func (m Members) sendingList() []any {
	list, _ := m.Extra()[memberSending].([]any)
	return slices.DeleteFunc(slices.Clone(list), func(v any) bool {
		b, ok := v.([]byte)
		return !ok || len(b) != account.IDSize
	})
}

func (m Members) sending() map[account.ID]bool {
	ids := map[account.ID]bool{}
	for _, v := range m.sendingList() {
		ids[account.ID(v.([]byte))] = true
	}
	return ids
}

func readMember(id account.ID, d *Dict, sending map[account.ID]bool) Member {
	m := Member{
		ID:        id,
		Name:      d.text(memberName),
		Picture:   d.picture(memberURL, memberKey),
		Admin:     d.flag(memberAdmin),
		Invite:    within(Sending(d.int(memberInvite)), Accepted, NotSent),
		Promotion: within(Sending(d.int(memberPromotion)), Accepted, NotSent),
		Removal:   within(Removal(d.int(memberRemoval)), Stays, RemovedWithMessages),
		OnTheWay:  sending[id],
	}
	if m.Admin || m.Promotion != Accepted {
		m.Admin, m.Invite = true, Accepted
	}
	m.Supplement = m.Invite != Accepted && d.flag(memberSupplement)
	return m
}

// within returns n if it is one of the known values, and low otherwise.
func within[T ~int64](n, low, high T) T {
	if n < low || n > high {
		return low
	}
	return n
}
