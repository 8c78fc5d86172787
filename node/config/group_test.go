package config

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/internal/vectortest"
	"hearth/node/keys"
)

// groupOptions are those of the vectors' group, for an admin or a member.
func groupOptions(pair *keys.Pair, admin bool) Options {
	o := Options{Group: pair.Ed25519(), Now: func() time.Time { return time.UnixMilli(vectorTime) }}
	if admin {
		o.Signer = pair
	}
	return o
}

type vectorMember struct {
	ID         account.ID `json:"session_id"`
	Name       string
	URL        string `json:"pic_url"`
	Admin      bool
	Supplement bool
	Invite     int64 `json:"invite_status"`
	Promotion  int64 `json:"promotion_status"`
	Removed    int64 `json:"removed_status"`
}

func (v vectorMember) member() Member {
	return Member{ID: v.ID, Name: v.Name, Picture: Picture{URL: v.URL}, Admin: v.Admin, Supplement: v.Supplement,
		Invite: Sending(v.Invite), Promotion: Sending(v.Promotion), Removal: Removal(v.Removed)}
}

func membersOf(list []vectorMember) []Member {
	var out []Member
	for _, v := range list {
		out = append(out, v.member())
	}
	return out
}

func TestGroupConfigVectors(t *testing.T) {
	var file struct {
		Events []struct {
			Op   string
			Push *struct {
				vectorPush
				Key vectortest.Hex `json:"encryption_key_hex"`
			}
			Members []vectorMember
			Name    string
			Expiry  int64
		}
	}
	vectortest.Load(t, "group-keys.json", &file)
	pair := testPair("group")
	open := func(kind Kind, admin bool) *Object {
		o, err := New(kind, groupOptions(pair, admin))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	info, members := Info{open(GroupInfo, true)}, Members{open(GroupMembers, true)}
	pushes, stored := 0, map[Kind]Message{}
	var groupKeys []Key
	for _, e := range file.Events {
		switch {
		case e.Push != nil:
			pushes++
			o := info.Object
			if e.Op == "push members" || e.Op == "push members with member3" {
				o = members.Object
			}
			if e.Op == "push info" {
				for _, err := range []error{
					info.SetName("GROUP Name"), info.SetDescription("some description 🎂"), info.SetCreated(1748700000),
					info.SetPicture(Picture{"http://example.com/12345", Key([]byte("qwertyuioqwertyuioqwertyuio12345"))}),
					info.SetTimer(3600), info.SetDeleteBefore(1748600000), info.SetDeleteFilesBefore(1748500000),
				} {
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			if e.Op == "push members with member3" {
				m := NewMember(testID(t, "member3"))
				m.Invite, m.Supplement = Sent, true
				if err := members.Put(m); err != nil {
					t.Fatal(err)
				}
			}
			if key := Key(e.Push.Key); !slices.Contains(groupKeys, key) {
				groupKeys = append([]Key{key}, groupKeys...)
				if len(groupKeys) > 1 {
					if err := o.Touch(); err != nil {
						t.Fatal(err)
					}
				}
			}
			o.SetKeys(groupKeys)
			e.Push.Obsolete = o.ObsoleteHashes() // the vector does not tell
			sent := checkPush(t, o, e.Push.vectorPush)
			hash := e.Op
			o.Confirm(e.Push.Seqno, hash)
			stored[o.Kind()] = Message{hash, sent}
		case e.Op == "member1 merges info and members":
			for admin, want := range map[bool]error{true: nil, false: ErrReadOnly} {
				i, m := Info{open(GroupInfo, admin)}, Members{open(GroupMembers, admin)}
				i.SetKeys(append([]Key{{9}}, groupKeys...)) // not the newest key, but one of them
				m.SetKeys(groupKeys)
				if err := i.Merge([]Message{stored[GroupInfo]}).Err(); err != nil {
					t.Fatal(err)
				}
				if err := m.Merge([]Message{stored[GroupMembers]}).Err(); err != nil {
					t.Fatal(err)
				}
				if i.Name() != e.Name || i.Timer() != e.Expiry || !slices.Equal(slices.Collect(m.All()), membersOf(e.Members)) {
					t.Errorf("%q, %d, %+v", i.Name(), i.Timer(), slices.Collect(m.All()))
				}
				if err := i.SetName("another"); !errors.Is(err, want) || i.NeedsPush() != admin {
					t.Errorf("a new name, admin %v: %v", admin, err)
				}
			}
		case e.Members != nil && e.Op == "admin marks member2 removed (with messages)":
			m, _ := members.Find(testID(t, "member2"))
			m.Remove(true)
			members.Put(m)
			fallthrough
		case e.Members != nil && pushes == 0:
			if pushes == 0 {
				for _, m := range membersOf(e.Members) {
					if err := members.Put(m); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := slices.Collect(members.All()); !slices.Equal(got, membersOf(e.Members)) {
				t.Errorf("%s: %+v, want %+v", e.Op, got, membersOf(e.Members))
			}
		}
	}
	if pushes != 4 {
		t.Errorf("%d pushes, want 4", pushes)
	}
}

func TestMemberLeavesMergingToAdmins(t *testing.T) {
	pair := testPair("group")
	key := []Key{{7}}
	open := func(admin bool) *Object {
		o, err := New(GroupInfo, groupOptions(pair, admin))
		if err != nil {
			t.Fatal(err)
		}
		o.SetKeys(key)
		return o
	}
	push := func(o *Object, hash string) Message {
		p, err := o.Push()
		if err != nil {
			t.Fatal(err)
		}
		o.Confirm(p.Seqno, hash)
		return Message{hash, p.Parts[0]}
	}
	a, b, reader := open(true), open(true), open(false)
	Info{a}.SetName("one")
	first := push(a, "h1")
	b.Merge([]Message{first})
	Info{a}.SetDescription("from a")
	Info{b}.SetTimer(60)
	both := []Message{push(a, "ha"), push(b, "hb")}

	got := reader.Merge(both)
	if reader.NeedsPush() || len(got.Accepted) != 2 || len(reader.ObsoleteHashes()) > 0 {
		t.Errorf("a member: %v, %+v, obsolete %q", reader, got, reader.ObsoleteHashes())
	}
	if err := reader.Set(IntValue(1), "x"); !errors.Is(err, ErrReadOnly) {
		t.Errorf("a member changes something: %v", err)
	}
	if _, err := reader.Push(); !errors.Is(err, ErrReadOnly) {
		t.Errorf("a member pushes: %v", err)
	}
	a.Merge(both)
	if !a.NeedsPush() || (Info{a}).Description() != "from a" || (Info{a}).Timer() != 60 {
		t.Errorf("an admin: %v", a)
	}
	merged := push(a, "hm")
	reader.Merge([]Message{merged})
	if reader.message.id != a.message.id || (Info{reader}).Timer() != 60 {
		t.Errorf("the member has %v, the admin %v", reader, a)
	}

	// A dump keeps the signature, so that the next change names the right
	// ancestor, and a promoted member can go on.
	again, err := Load(GroupInfo, groupOptions(pair, false), reader.Dump())
	if err != nil || again.message.id != reader.message.id {
		t.Fatalf("loaded %v, %v", again, err)
	}
	again.SetKeys(key)
	again.SetSigner(pair)
	Info{again}.SetName("two")
	a.Merge([]Message{push(again, "h5")})
	if a.NeedsPush() || (Info{a}).Name() != "two" {
		t.Errorf("after a promotion: %v, %q", a, Info{a}.Name())
	}

	forged := bytes.Clone(again.Dump())
	i := bytes.Index(forged, []byte("3:two"))
	forged[i+2] = 'T'
	if _, err := Load(GroupInfo, groupOptions(pair, true), forged); !errors.Is(err, ErrSignature) {
		t.Errorf("a dump that was changed: %v", err)
	}
}

func TestMemberStatus(t *testing.T) {
	id := testID(t, "member1")
	with := func(f func(*Member)) Member {
		m := NewMember(id)
		f(&m)
		return m
	}
	for _, c := range []struct {
		name   string
		member Member
		want   Status
	}{
		{"a new member has not been invited", NewMember(id), StatusInviteNotSent},
		{"an invitation on its way", with(func(m *Member) { m.OnTheWay = true }), StatusInviteSending},
		{"an invitation that failed", with(func(m *Member) { m.Invite = Failed }), StatusInviteFailed},
		{"a member who accepted", with((*Member).AcceptInvite), StatusMember},
		{"a promotion beats an invitation", with((*Member).Promote), StatusPromotionNotSent},
		{"a promotion that was sent", with(func(m *Member) { m.Promote(); m.Promotion = Sent }), StatusPromotionSent},
		{"an admin", with(func(m *Member) { m.Promote(); m.Promotion = Accepted }), StatusAdmin},
		{"a removal beats a promotion", with(func(m *Member) { m.Promote(); m.Remove(false); m.Promotion = Sent }), StatusRemoved},
		{"a removal with messages", with(func(m *Member) { m.Remove(true) }), StatusRemovedWithMessages},
	} {
		if got := c.member.Status(); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestMembersOnTheWaySurviveADump(t *testing.T) {
	pair := testPair("group")
	o, err := New(GroupMembers, groupOptions(pair, true))
	if err != nil {
		t.Fatal(err)
	}
	m := Members{o}
	one, two := testID(t, "member1"), testID(t, "member2")
	m.Put(NewMember(one))
	m.Put(NewMember(two))
	m.SetOnTheWay(one, true)
	m.SetOnTheWay(two, true)
	m.SetOnTheWay(two, false)
	again, err := Load(GroupMembers, groupOptions(pair, true), o.Dump())
	if err != nil {
		t.Fatal(err)
	}
	first, _ := Members{again}.Find(one)
	second, _ := Members{again}.Find(two)
	if !first.OnTheWay || second.OnTheWay {
		t.Errorf("on the way: %v and %v", first.OnTheWay, second.OnTheWay)
	}
}
