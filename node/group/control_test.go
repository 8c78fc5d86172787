package group

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/keys"
	"hearth/node/rpc"
	"hearth/node/wire/sessionpb"
)

const sent = uint64(start)

func TestOnlyTheInvitedCanUseAnInvitation(t *testing.T) {
	pairs, ids := crowd(2)
	u, err := Invite(groupPair, "Friends", ids[0], sent)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenInvite(pairs[0], u.InviteMessage, sent)
	if err != nil || got.Group != ID(groupPair) || got.Name != "Friends" {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := MemberSigner(pairs[0], got.Group, got.Auth); err != nil {
		t.Errorf("the invited cannot sign: %v", err)
	}
	for _, c := range []struct {
		name   string
		own    *keys.Pair
		at     uint64
		change func(m *sessionpb.GroupUpdateInviteMessage)
		err    error
	}{
		{"read by somebody else", pairs[1], sent, func(*sessionpb.GroupUpdateInviteMessage) {}, ErrSignature},
		{"sent again at another time", pairs[0], sent + 1, func(*sessionpb.GroupUpdateInviteMessage) {}, ErrSignature},
		{"for another group", pairs[0], sent, func(m *sessionpb.GroupUpdateInviteMessage) {
			m.GroupSessionId = proto.String(ID(person(7)).String())
		}, ErrSignature},
		{"for an account", pairs[0], sent, func(m *sessionpb.GroupUpdateInviteMessage) {
			m.GroupSessionId = proto.String(ids[1].String())
		}, ErrMalformed},
		{"for nothing", pairs[0], sent, func(m *sessionpb.GroupUpdateInviteMessage) { m.GroupSessionId = nil }, ErrMalformed},
		{"with short authentication data", pairs[0], sent, func(m *sessionpb.GroupUpdateInviteMessage) {
			m.MemberAuthData = m.MemberAuthData[:99]
		}, ErrAuth},
		{"with another's authentication data", pairs[0], sent, func(m *sessionpb.GroupUpdateInviteMessage) {
			a, err := NewAuth(groupPair, ids[1], MemberAccess)
			if err != nil {
				t.Fatal(err)
			}
			m.MemberAuthData = a[:]
		}, ErrAuth},
		{"with more rights than were signed", pairs[0], sent, func(m *sessionpb.GroupUpdateInviteMessage) { m.MemberAuthData[1] |= byte(rpc.Delete) }, ErrAuth},
		{"with rights to read alone", pairs[0], sent, func(m *sessionpb.GroupUpdateInviteMessage) {
			a, err := NewAuth(groupPair, ids[0], rpc.Read)
			if err != nil {
				t.Fatal(err)
			}
			m.MemberAuthData = a[:]
		}, ErrAuth},
		{"with a factor of zero", pairs[0], sent, func(m *sessionpb.GroupUpdateInviteMessage) { clear(m.MemberAuthData[4:36]) }, ErrAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := proto.Clone(u.InviteMessage).(*sessionpb.GroupUpdateInviteMessage)
			c.change(m)
			if got, err := OpenInvite(c.own, m, c.at); !errors.Is(err, c.err) {
				t.Errorf("%+v, error %v, want %v", got, err, c.err)
			}
		})
	}
	if _, err := Invite(groupPair, "", account.ID{account.PrefixAccount}, sent); err == nil {
		t.Error("an ID without a key was invited")
	}
	long := proto.Clone(u.InviteMessage).(*sessionpb.GroupUpdateInviteMessage)
	long.Name = proto.String(strings.Repeat("é", 80))
	if got, err := OpenInvite(pairs[0], long, sent); err != nil || got.Name != strings.Repeat("é", 50) {
		t.Errorf("a long name becomes %q, %v", got.Name, err)
	}
}

func TestPromotionsCarryTheSeed(t *testing.T) {
	u := Promote(groupPair, "Friends")
	pair, name, err := OpenPromote(u.PromoteMessage)
	if err != nil || ID(pair) != ID(groupPair) || name != "Friends" {
		t.Errorf("%v, %q, %v", pair, name, err)
	}
	u.PromoteMessage.GroupIdentitySeed = u.PromoteMessage.GroupIdentitySeed[:31]
	if _, _, err := OpenPromote(u.PromoteMessage); !errors.Is(err, ErrMalformed) {
		t.Errorf("a short seed: %v", err)
	}
}

func TestAnnouncementsAreSignedByAdmins(t *testing.T) {
	_, ids := crowd(2)
	id, mallory := ID(groupPair), person(9)
	for name, u := range map[string]*sessionpb.GroupUpdateMessage{"name": NameChanged("New"), "picture": PictureChanged(), "timer": TimerChanged(60)} {
		Sign(groupPair, u, sent)
		m := u.InfoChangeMessage
		if !VerifyInfoChange(id, m, sent) || VerifyInfoChange(id, m, sent+1) {
			t.Errorf("%s: the signature is not over the time", name)
		}
		m.Type = sessionpb.GroupUpdateInfoChangeMessage_Type(m.GetType()%3 + 1).Enum()
		if VerifyInfoChange(id, m, sent) {
			t.Errorf("%s: the signature is not over the type", name)
		}
		if Sign(mallory, u, sent); VerifyInfoChange(id, m, sent) {
			t.Errorf("%s: a member can sign", name)
		}
	}
	u := MembersChanged(sessionpb.GroupUpdateMemberChangeMessage_ADDED, ids, true)
	Sign(groupPair, u, sent)
	m := u.MemberChangeMessage
	if !VerifyMembersChanged(id, m, sent) || VerifyMembersChanged(id, m, sent+1) || !m.GetHistoryShared() || !slices.Equal(m.GetMemberSessionIds(), texts(ids)) {
		t.Errorf("members: %v", m)
	}
	if Sign(mallory, u, sent); VerifyMembersChanged(id, m, sent) {
		t.Error("a member can announce members")
	}
	// The texts as Session desktop writes them.
	if got := string(changeText("INFO_CHANGE", 3, 1748736000000)); got != "INFO_CHANGE31748736000000" {
		t.Error(got)
	}
	if got := string(inviteText(ids[0], 17)); got != "INVITE"+ids[0].String()+"17" {
		t.Error(got)
	}
	if got := string(deleteText([]string{"05a", "05b"}, []string{"h1", "h2"}, 17)); got != "DELETE_CONTENT1705a05bh1h2" {
		t.Error(got)
	}
}

func TestRequestsToDelete(t *testing.T) {
	_, ids := crowd(2)
	id := ID(groupPair)
	admins := DeleteContent(ids, []string{"h"})
	Sign(groupPair, admins, sent)
	own := DeleteContent(ids, []string{"h"})
	forged := DeleteContent(ids, []string{"h"})
	Sign(person(9), forged, sent)
	strange := DeleteContent(ids[:1], nil)
	strange.DeleteMemberContent.MemberSessionIds = append(strange.DeleteMemberContent.MemberSessionIds, "nobody", id.String())
	Sign(groupPair, strange, sent)

	for _, c := range []struct {
		name    string
		u       *sessionpb.GroupUpdateMessage
		members []account.ID
		byAdmin bool
		err     error
	}{
		{"an admin's", admins, ids, true, nil},
		{"a member's own", own, nil, false, nil},
		{"a member's in the name of an admin", forged, nil, false, ErrSignature},
		{"with what is no account", strange, ids[:1], true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := OpenDeleteContent(id, c.u.DeleteMemberContent, sent)
			if !errors.Is(err, c.err) {
				t.Fatal(err)
			}
			if err == nil && (!slices.Equal(d.Members, c.members) || d.ByAdmin != c.byAdmin) {
				t.Errorf("%+v", d)
			}
		})
	}
	if _, err := OpenDeleteContent(id, admins.DeleteMemberContent, sent+1); !errors.Is(err, ErrSignature) {
		t.Errorf("at another time: %v", err)
	}
}

func TestRevocationsAreWhatAStorageServerVerifies(t *testing.T) {
	_, ids := crowd(120)
	for _, c := range []struct {
		name string
		make func(*keys.Pair, []account.ID, int64) ([]Request, error)
		text func(int64, []rpc.Token) []byte
		key  string
	}{
		{"revoke_subaccount", Revocations, rpc.RevokeText, "revoke"},
		{"unrevoke_subaccount", Unrevocations, rpc.UnrevokeText, "unrevoke"},
	} {
		requests, err := c.make(groupPair, ids, start)
		if err != nil || len(requests) != 3 {
			t.Fatalf("%d requests, %v", len(requests), err)
		}
		seen := 0
		for _, r := range requests {
			var tokens []rpc.Token
			for _, s := range r.Params[c.key].([]string) {
				token, err := rpc.ParseToken(s)
				if err != nil {
					t.Fatal(err)
				}
				tokens = append(tokens, token)
			}
			seen += len(tokens)
			signature := decode64(t, r.Params["signature"].(string))
			if r.Method != c.name || len(tokens) > maxTokens || r.Params["pubkey"] != ID(groupPair).String() || !keys.Verify(groupPair.Ed25519(), c.text(start, tokens), signature) {
				t.Errorf("%s: %v", c.name, r)
			}
		}
		if seen != len(ids) {
			t.Errorf("%d tokens", seen)
		}
	}
	if _, err := Revocations(groupPair, []account.ID{{account.PrefixAccount}}, start); err == nil {
		t.Error("an ID without a key has a token")
	}
}

func FuzzControl(f *testing.F) {
	_, ids := crowd(1)
	u, err := Invite(groupPair, "n", ids[0], sent)
	if err != nil {
		f.Fatal(err)
	}
	deletion := DeleteContent(ids, []string{"h"})
	Sign(groupPair, deletion, sent)
	for _, u := range []*sessionpb.GroupUpdateMessage{u, deletion, Promote(groupPair, "n")} {
		b, err := proto.Marshal(u)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		u := new(sessionpb.GroupUpdateMessage)
		if proto.Unmarshal(b, u) != nil {
			return
		}
		if i, err := OpenInvite(person(0), u.InviteMessage, sent); err == nil && (i.Group != ID(groupPair) || len(i.Name) > config.MaxName) {
			t.Errorf("invitation %+v", i)
		}
		OpenPromote(u.PromoteMessage)
		VerifyInfoChange(ID(groupPair), u.InfoChangeMessage, sent)
		VerifyMembersChanged(ID(groupPair), u.MemberChangeMessage, sent)
		if d, err := OpenDeleteContent(ID(groupPair), u.DeleteMemberContent, sent); err == nil && d.ByAdmin && len(d.Members) > 1 {
			t.Errorf("deletion %+v", d)
		}
	})
}

func decode64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
