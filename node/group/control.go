package group

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/keys"
	"hearth/node/wire/sessionpb"
)

// What an admin tells is signed with the group's key over words and the message's
// sigTimestamp in ms; [Sign] does it when the time is known. Neither the group nor,
// in announcements, the changed values are signed (so Session desktop):
// announcements only tell people what happened, the truth is in the
// configurations.

type (
	update    = sessionpb.GroupUpdateMessage
	invite    = sessionpb.GroupUpdateInviteMessage
	promote   = sessionpb.GroupUpdatePromoteMessage
	infoChg   = sessionpb.GroupUpdateInfoChangeMessage
	memberChg = sessionpb.GroupUpdateMemberChangeMessage
	deletion  = sessionpb.GroupUpdateDeleteMemberContentMessage
)

// Content wraps an update for sending at timestamp (ms), with disappearing messages
// off: announcements, invitations and answers never disappear by themselves.
func Content(u *sessionpb.GroupUpdateMessage, timestamp uint64) *sessionpb.Content {
	return &sessionpb.Content{
		DataMessage:     &sessionpb.DataMessage{GroupUpdateMessage: u},
		ExpirationType:  sessionpb.Content_UNKNOWN.Enum(),
		ExpirationTimer: proto.Uint32(0),
		SigTimestamp:    proto.Uint64(timestamp),
	}
}

// Invite makes the invitation that the account gets one to one. Errors: as of
// [NewAuth].
func Invite(group *keys.Pair, name string, to account.ID, timestamp uint64) (*sessionpb.GroupUpdateMessage, error) {
	auth, err := NewAuth(group, to, MemberAccess)
	if err != nil {
		return nil, err
	}
	return &update{InviteMessage: &invite{
		GroupSessionId: proto.String(ID(group).String()),
		Name:           proto.String(name),
		MemberAuthData: auth[:],
		AdminSignature: group.Sign(inviteText(to, timestamp)),
	}}, nil
}

// Invitation is an invitation that an admin of the group signed for the account
// that holds it.
type Invitation struct {
	Group account.ID
	Name  string
	Auth  Auth
}

// OpenInvite checks an invitation that own received one to one with this
// timestamp. Errors: [ErrMalformed], [ErrSignature], [ErrAuth].
func OpenInvite(own *keys.Pair, m *sessionpb.GroupUpdateInviteMessage, timestamp uint64) (*Invitation, error) {
	group, err := account.ParseID(m.GetGroupSessionId())
	if err != nil || group.Prefix() != account.PrefixGroup {
		return nil, fmt.Errorf("invitation: %w: the group's ID", ErrMalformed)
	}
	if !keys.Verify(group.Key(), inviteText(sessionID(own), timestamp), m.GetAdminSignature()) {
		return nil, fmt.Errorf("invitation to %s: %w", group, ErrSignature)
	}
	auth, err := ParseAuth(m.GetMemberAuthData())
	if err != nil {
		return nil, fmt.Errorf("invitation to %s: %w", group, err)
	}
	if err := auth.Verify(group, own, MemberAccess); err != nil {
		return nil, fmt.Errorf("invitation to %s: %w", group, err)
	}
	return &Invitation{group, config.CutName(m.GetName()), auth}, nil
}

// Promote makes the message that makes an admin of its recipient. It holds the
// group's seed: it goes one to one and nowhere else.
func Promote(group *keys.Pair, name string) *sessionpb.GroupUpdateMessage {
	seed := group.Seed()
	return &update{PromoteMessage: &promote{GroupIdentitySeed: seed[:], Name: proto.String(name)}}
}

// OpenPromote reads the group's pair and name. Anybody can send a seed: whoever
// receives one from a stranger has been given a group, not a friend. The error is
// [ErrMalformed].
func OpenPromote(m *sessionpb.GroupUpdatePromoteMessage) (*keys.Pair, string, error) {
	seed := m.GetGroupIdentitySeed()
	if len(seed) != 32 {
		return nil, "", fmt.Errorf("promotion: %w: seed of %d bytes", ErrMalformed, len(seed))
	}
	return keys.FromSeed([32]byte(seed)), config.CutName(m.GetName()), nil
}

// InviteResponse tells the group that its sender takes part.
func InviteResponse(approved bool) *sessionpb.GroupUpdateMessage {
	return &update{InviteResponse: &sessionpb.GroupUpdateInviteResponseMessage{IsApproved: proto.Bool(approved)}}
}

// Left asks the admins to remove its sender. It must have another timestamp than
// [LeftNotice].
func Left() *sessionpb.GroupUpdateMessage {
	return &update{MemberLeftMessage: &sessionpb.GroupUpdateMemberLeftMessage{}}
}

// LeftNotice tells people that its sender left.
func LeftNotice() *sessionpb.GroupUpdateMessage {
	return &update{MemberLeftNotificationMessage: &sessionpb.GroupUpdateMemberLeftNotificationMessage{}}
}

// NameChanged announces a name; [Sign] it.
func NameChanged(name string) *sessionpb.GroupUpdateMessage {
	return &update{InfoChangeMessage: &infoChg{
		Type:        sessionpb.GroupUpdateInfoChangeMessage_NAME.Enum(),
		UpdatedName: proto.String(name),
	}}
}

// PictureChanged announces that there is another picture; [Sign] it.
func PictureChanged() *sessionpb.GroupUpdateMessage {
	return &update{InfoChangeMessage: &infoChg{Type: sessionpb.GroupUpdateInfoChangeMessage_AVATAR.Enum()}}
}

// TimerChanged announces a timer for disappearing messages, 0 for none; [Sign] it.
func TimerChanged(seconds uint32) *sessionpb.GroupUpdateMessage {
	return &update{InfoChangeMessage: &infoChg{
		Type:              sessionpb.GroupUpdateInfoChangeMessage_DISAPPEARING_MESSAGES.Enum(),
		UpdatedExpiration: proto.Uint32(seconds),
	}}
}

// Sign signs what needs it in an update that is sent to the group at timestamp
// (ms): announcements, and requests to delete.
func Sign(group *keys.Pair, u *sessionpb.GroupUpdateMessage, timestamp uint64) {
	if m := u.InfoChangeMessage; m != nil {
		m.AdminSignature = group.Sign(changeText("INFO_CHANGE", int32(m.GetType()), timestamp))
	}
	if m := u.MemberChangeMessage; m != nil {
		m.AdminSignature = group.Sign(changeText("MEMBER_CHANGE", int32(m.GetType()), timestamp))
	}
	if m := u.DeleteMemberContent; m != nil {
		m.AdminSignature = group.Sign(deleteText(m.GetMemberSessionIds(), m.GetMessageHashes(), timestamp))
	}
}

// VerifyInfoChange reports whether an admin announced the change with this
// timestamp.
func VerifyInfoChange(group account.ID, m *sessionpb.GroupUpdateInfoChangeMessage, timestamp uint64) bool {
	return keys.Verify(group.Key(), changeText("INFO_CHANGE", int32(m.GetType()), timestamp), m.GetAdminSignature())
}

// MembersChanged announces members who were added, removed or promoted; [Sign] it.
func MembersChanged(kind sessionpb.GroupUpdateMemberChangeMessage_Type, members []account.ID, historyShared bool) *sessionpb.GroupUpdateMessage {
	m := &memberChg{Type: kind.Enum(), MemberSessionIds: texts(members)}
	if kind == sessionpb.GroupUpdateMemberChangeMessage_ADDED {
		m.HistoryShared = proto.Bool(historyShared)
	}
	return &update{MemberChangeMessage: m}
}

// VerifyMembersChanged reports whether an admin announced the change with this
// timestamp.
func VerifyMembersChanged(group account.ID, m *sessionpb.GroupUpdateMemberChangeMessage, timestamp uint64) bool {
	return keys.Verify(group.Key(), changeText("MEMBER_CHANGE", int32(m.GetType()), timestamp), m.GetAdminSignature())
}

// DeleteContent asks everybody to delete the messages of these members and those
// with these swarm hashes. An admin [Sign]s it; without signature it is a member's
// request about messages of their own.
func DeleteContent(members []account.ID, hashes []string) *sessionpb.GroupUpdateMessage {
	return &update{DeleteMemberContent: &deletion{MemberSessionIds: texts(members), MessageHashes: hashes}}
}

// Deletion is what a request to delete allows.
type Deletion struct {
	// Members whose messages, sent before the request, all go. Empty unless an admin
	// asks.
	Members []account.ID
	// Hashes of messages that go; those of other people only if ByAdmin.
	Hashes  []string
	ByAdmin bool
}

// OpenDeleteContent checks a request with this timestamp. A request with a
// signature that is not the group's is [ErrSignature]; what is no Session ID in it
// is left out.
func OpenDeleteContent(group account.ID, m *sessionpb.GroupUpdateDeleteMemberContentMessage, timestamp uint64) (*Deletion, error) {
	d := &Deletion{Hashes: m.GetMessageHashes()}
	if len(m.GetAdminSignature()) == 0 {
		return d, nil
	}
	if !keys.Verify(group.Key(), deleteText(m.GetMemberSessionIds(), m.GetMessageHashes(), timestamp), m.GetAdminSignature()) {
		return nil, fmt.Errorf("request to delete: %w", ErrSignature)
	}
	d.ByAdmin = true
	for _, text := range m.GetMemberSessionIds() {
		if id, err := account.ParseSessionID(text); err == nil {
			d.Members = append(d.Members, id)
		}
	}
	return d, nil
}

func inviteText(to account.ID, timestamp uint64) []byte {
	return strconv.AppendUint([]byte("INVITE"+to.String()), timestamp, 10)
}

func changeText(word string, kind int32, timestamp uint64) []byte {
	return strconv.AppendUint(strconv.AppendInt([]byte(word), int64(kind), 10), timestamp, 10)
}

func deleteText(members, hashes []string, timestamp uint64) []byte {
	b := strconv.AppendUint([]byte("DELETE_CONTENT"), timestamp, 10)
	for _, list := range [][]string{members, hashes} {
		for _, s := range list {
			b = append(b, s...)
		}
	}
	return b
}

func texts(ids []account.ID) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = id.String()
	}
	return list
}
