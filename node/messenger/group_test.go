package messenger

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/config"
	"hearth/node/group"
	"hearth/node/keys"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// still opens a messenger that asks nobody.
func still(t testing.TB, own *account.Account) *Messenger {
	t.Helper()
	m, err := New(Config{Account: own, DBPath: filepath.Join(t.TempDir(), "messenger.db"), Seeds: []NodeSource{deadSeed{}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// arrives has a messenger take in what somebody put into its inbox.
func arrives(t testing.TB, m *Messenger, from *account.Account, u *sessionpb.GroupUpdateMessage, at uint64) {
	t.Helper()
	data := seal(t, from, m.session.own.ID(), group.Content(u, at))
	message := mailbox.Message{Hash: fmt.Sprintf("%043d", time.Now().UnixNano()), Data: data}
	if err := m.session.take(archive.Place{}, []mailbox.Message{message}); err != nil {
		t.Fatal(err)
	}
}

func groupsOf(t testing.TB, m *Messenger) []*api.Group {
	t.Helper()
	reply, err := m.Groups(context.Background(), &api.GroupsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return reply.Groups
}

func pair(b byte) *keys.Pair { return keys.FromSeed([32]byte{b}) }

func invite(t testing.TB, of *keys.Pair, name string, to account.ID, at uint64) *sessionpb.GroupUpdateMessage {
	t.Helper()
	u, err := group.Invite(of, name, to, at)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestOnlyGoodInvitationsCount(t *testing.T) {
	me, friend, stranger, enemy := person(1), person(2), person(3), person(4)
	const at = 1_700_000_000_000
	for _, c := range []struct {
		name string
		from *account.Account
		make func() *sessionpb.GroupUpdateMessage
		want []api.Group_State
	}{
		{"of a friend is accepted", friend, func() *sessionpb.GroupUpdateMessage { return invite(t, pair(9), "Tea", me.ID(), at) }, []api.Group_State{api.Group_JOINED}},
		{"of a stranger waits", stranger, func() *sessionpb.GroupUpdateMessage { return invite(t, pair(9), "Tea", me.ID(), at) }, []api.Group_State{api.Group_INVITED}},
		{"of somebody blocked is dropped", enemy, func() *sessionpb.GroupUpdateMessage { return invite(t, pair(9), "Tea", me.ID(), at) }, nil},
		{"a seed from a stranger waits", stranger, func() *sessionpb.GroupUpdateMessage { return group.Promote(pair(9), "Tea") }, []api.Group_State{api.Group_INVITED}},
		{"for somebody else", friend, func() *sessionpb.GroupUpdateMessage { return invite(t, pair(9), "Tea", stranger.ID(), at) }, nil},
		{"signed at another time", friend, func() *sessionpb.GroupUpdateMessage { return invite(t, pair(9), "Tea", me.ID(), at-1) }, nil},
		{"signed by another group", friend, func() *sessionpb.GroupUpdateMessage {
			u := invite(t, pair(9), "Tea", me.ID(), at)
			id := group.ID(pair(8)).String()
			u.InviteMessage.GroupSessionId = &id
			return u
		}, nil},
		{"with cut rights", friend, func() *sessionpb.GroupUpdateMessage {
			u := invite(t, pair(9), "Tea", me.ID(), at)
			u.InviteMessage.MemberAuthData = u.InviteMessage.MemberAuthData[:50]
			return u
		}, nil},
		{"with a cut seed", friend, func() *sessionpb.GroupUpdateMessage {
			u := group.Promote(pair(9), "Tea")
			u.PromoteMessage.GroupIdentitySeed = u.PromoteMessage.GroupIdentitySeed[:31]
			return u
		}, nil},
		{"an empty one", friend, func() *sessionpb.GroupUpdateMessage { return &sessionpb.GroupUpdateMessage{} }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := still(t, me)
			ctx := t.Context()
			if _, err := m.AddContact(ctx, &api.AddContactRequest{SessionId: friend.ID().String(), Name: "friend"}); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Block(ctx, &api.WhoRequest{Who: enemy.ID().String()}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // another device sends it again
				arrives(t, m, c.from, c.make(), at)
			}
			got := groupsOf(t, m)
			if len(got) != len(c.want) {
				t.Fatalf("%v, want %v", got, c.want)
			}
			for i, g := range got {
				if g.State != c.want[i] || g.Name != "Tea" {
					t.Errorf("%v, want %v", g, c.want[i])
				}
			}
			if st := m.state(); (st.Requests == 1) != (len(c.want) > 0 && c.want[0] == api.Group_INVITED) {
				t.Errorf("%d requests", st.Requests)
			}
		})
	}
}

func TestInvitationsOfStrangersAreBoundedAndCannotTakeANamesPlace(t *testing.T) {
	me, friend, stranger := person(1), person(2), person(3)
	m := still(t, me)
	if _, err := m.AddContact(t.Context(), &api.AddContactRequest{SessionId: friend.ID().String(), Name: "Bob"}); err != nil {
		t.Fatal(err)
	}
	const at = 1_700_000_000_000
	for i := range maxInvitations + 20 {
		of := keys.FromSeed([32]byte{7, byte(i)})
		arrives(t, m, stranger, invite(t, of, "Bob", me.ID(), at), at)
	}
	if n := len(groupsOf(t, m)); n != maxInvitations {
		t.Errorf("%d invitations, want %d", n, maxInvitations)
	}
	s := m.session
	if id, err := s.whom("Bob"); err != nil || id != friend.ID() {
		t.Errorf("Bob is %v, %v", id, err)
	}
	for _, g := range groupsOf(t, m)[:3] {
		if _, err := m.Send(t.Context(), &api.SendRequest{To: g.Id, Text: "hi"}); !errors.Is(err, ErrNotJoined) {
			t.Errorf("writing to a group that invites: %v", err)
		}
		if _, err := m.GroupDecline(t.Context(), &api.GroupRequest{Group: g.Id}); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.GroupAccept(t.Context(), &api.GroupRequest{Group: "Bob"}); !errors.Is(err, ErrGroupAmbiguous) {
		t.Errorf("accepting one of many with one name: %v", err)
	}
	if n := len(groupsOf(t, m)); n != maxInvitations-3 {
		t.Errorf("%d invitations after declining three", n)
	}
}

func TestBadInputAboutGroupsIsRefusedInWords(t *testing.T) {
	me := person(1)
	m := still(t, me)
	ctx := t.Context()
	long := make([]byte, MaxName+1)
	for i := range long {
		long[i] = 'x'
	}
	if _, err := m.AddContact(ctx, &api.AddContactRequest{SessionId: person(2).ID().String(), Name: "Bob"}); err != nil {
		t.Fatal(err)
	}
	create := func(name string, members ...string) func() error {
		return func() error {
			_, err := m.GroupCreate(ctx, &api.GroupCreateRequest{Name: name, Members: members})
			return err
		}
	}
	for _, c := range []struct {
		name string
		do   func() error
		want *Error
	}{
		{"no name", create("  ", "Bob"), ErrGroupName},
		{"a long name", create(string(long), "Bob"), ErrGroupName},
		{"a name with a line end", create("a\nb", "Bob"), ErrGroupName},
		{"an ID for a name", create(me.ID().String(), "Bob"), ErrGroupName},
		{"an unknown person", create("Tea", "Carol"), ErrUnknown},
		{"a mistyped ID", create("Tea", me.ID().String()[:60]), ErrBadID},
		{"oneself", create("Tea", me.ID().String()), ErrSelf},
		{"a group that is none", func() error {
			_, err := m.GroupLeave(ctx, &api.GroupRequest{Group: "Tea"})
			return err
		}, ErrNoGroup},
		{"a group's ID that is none", func() error {
			_, err := m.GroupRename(ctx, &api.GroupTextRequest{Group: group.ID(pair(5)).String(), Text: "x"})
			return err
		}, ErrNoGroup},
		{"a long description", func() error {
			_, err := m.GroupDescribe(ctx, &api.GroupTextRequest{Group: "x", Text: string(make([]byte, 3000))})
			return err
		}, ErrDescription},
	} {
		if err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// Somebody who was removed while the notice of it got lost learns it from the swarm
// that does not let them in; one node alone is not believed.
func TestARemovalWithoutNoticeIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 6, time.Now)
		a, b := person(1), person(2)
		alice, _ := start(t, n, Config{Account: a, PollInterval: time.Second})
		bob, _ := start(t, n, Config{Account: b, PollInterval: time.Second})
		bob.befriend(a.ID())
		made, err := alice.GroupCreate(t.Context(), &api.GroupCreateRequest{Name: "Tea", Members: []string{b.ID().String()}})
		if err != nil {
			t.Fatalf("%v\n%s", err, alice.log)
		}
		until := func(r *running, what string, wanted func(*api.Group) bool) {
			t.Helper()
			for end := time.Now().Add(time.Minute); ; {
				if all := groupsOf(t, r.Messenger); len(all) == 1 && wanted(all[0]) {
					return
				}
				if time.Now().After(end) {
					t.Fatalf("waiting for %s: %v\n%s", what, groupsOf(t, r.Messenger), r.log)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		until(bob, "the group", func(g *api.Group) bool { return g.State == api.Group_JOINED && len(g.Members) == 2 })

		id, err := account.ParseID(made.Id)
		if err != nil {
			t.Fatal(err)
		}
		c := alice.session.circleOf(id)
		c.mu.Lock()
		seed := c.g.Seed()
		c.mu.Unlock()
		requests, err := group.Revocations(seed, []account.ID{b.ID()}, time.Now().UnixMilli())
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]any{"method": requests[0].Method, "params": requests[0].Params})
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range n.Swarm(id) {
			if status, reply := n.Honest(t.Context(), node, body); status != 200 {
				t.Fatalf("revoking: %d %v", status, reply)
			}
		}
		until(bob, "the end", func(g *api.Group) bool { return g.State == api.Group_REMOVED })
		c.mu.Lock()
		if c.rec.Renewed == 0 {
			t.Error("the lives of the group's configurations were never extended")
		}
		c.mu.Unlock()
		bc := bob.session.circleOf(id)
		bc.mu.Lock()
		defer bc.mu.Unlock()
		if bc.g != nil || len(bc.entry.Auth) != 0 || bc.rec.Dump != nil {
			t.Error("what gave access is still there")
		}
	})
}

func TestNothingIsDoneForThoseWhoAreMembersOrAdminsAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, _, b := twoPolling(t, n, time.Second)
		time.Sleep(time.Minute)
		who := b.ID().String()
		must[*api.Contact](t)(alice.AddContact(t.Context(), &api.AddContactRequest{SessionId: who, Name: "Bob"}))
		must[*api.Group](t)(alice.GroupCreate(t.Context(), &api.GroupCreateRequest{Name: "Tea", Members: []string{who}}))
		time.Sleep(time.Minute)
		if g := groupsOf(t, bob.Messenger); len(g) != 1 || g[0].State != api.Group_JOINED {
			t.Fatalf("groups %v", g)
		}
		invite := func() error {
			_, err := alice.GroupInvite(t.Context(), &api.GroupInviteRequest{Group: "Tea", Members: []string{who, person(3).ID().String()}})
			return err
		}
		promote := func() error {
			_, err := alice.GroupPromote(t.Context(), &api.GroupMembersRequest{Group: "Tea", Members: []string{who}})
			return err
		}
		if err := invite(); !errors.Is(err, ErrIsMember) || len(groupsOf(t, alice.Messenger)[0].Members) != 2 {
			t.Errorf("a member is invited: %v, %v", err, groupsOf(t, alice.Messenger))
		}
		if err := promote(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := promote(); !errors.Is(err, ErrIsAdmin) || !strings.Contains(err.Error(), "(Bob)") {
			t.Errorf("an admin is promoted: %v", err)
		}
		if err := invite(); !errors.Is(err, ErrIsMember) {
			t.Errorf("an admin is invited: %v", err)
		}
	})
}

func TestADamagedGroupIsFetchedAnew(t *testing.T) {
	me := person(1)
	m := still(t, me)
	if _, err := m.AddContact(t.Context(), &api.AddContactRequest{SessionId: person(2).ID().String()}); err != nil {
		t.Fatal(err)
	}
	const at = 1_700_000_000_000
	arrives(t, m, person(2), invite(t, pair(9), "Tea", me.ID(), at), at)
	c := m.session.circleOf(group.ID(pair(9)))
	for _, dump := range [][]byte{nil, {}, []byte("de"), []byte("garbage"), make([]byte, 1000)} {
		c.mu.Lock()
		c.rec.Dump, c.g = dump, nil
		c.rec.Last = map[string]string{"x": "y"}
		c.open()
		if c.g == nil {
			t.Errorf("%q: not opened: %s", dump, c.trouble)
		}
		c.mu.Unlock()
	}
}

// FuzzWhatIsSaidInAGroup reads what a member can say.
func FuzzWhatIsSaidInAGroup(f *testing.F) {
	me := person(1)
	m, err := New(Config{Account: me, DBPath: filepath.Join(f.TempDir(), "messenger.db"), Seeds: []NodeSource{deadSeed{}}})
	if err != nil {
		f.Fatal(err)
	}
	defer m.Close()
	g, err := group.Create(group.Options{Own: me.Keys(), Now: time.Now, Rand: rand.Reader}, "Tea", "me")
	if err != nil {
		f.Fatal(err)
	}
	c := m.session.newCircle(archive.Group{ID: g.ID()}, config.Group{ID: g.ID(), Admin: true, Seed: config.Key(g.Seed().Seed())})
	c.g = g
	senders := []account.ID{me.ID(), person(2).ID(), person(3).ID()}
	for i, u := range []*sessionpb.GroupUpdateMessage{
		group.NameChanged("x"), group.TimerChanged(9), group.DeleteContent([]account.ID{me.ID()}, []string{"x"}), group.DeleteContent(nil, []string{"x"}),
		group.MembersChanged(sessionpb.GroupUpdateMemberChangeMessage_ADDED, senders, false), group.Left(), group.LeftNotice(), group.InviteResponse(true),
	} {
		if i != 3 {
			group.Sign(g.Seed(), u, 1_700_000_000_000)
		}
		b, err := proto.Marshal(group.Content(u, 1_700_000_000_000))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, byte(i))
	}
	f.Fuzz(func(t *testing.T, b []byte, who byte) {
		content := new(sessionpb.Content)
		if proto.Unmarshal(b, content) != nil {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		in := c.read(group.Message{Message: &wire.Message{Sender: senders[who%3], Timestamp: 1_700_000_000_000, Content: content}, Hash: "hash"})
		if in.Message != nil && (in.Message.With != c.id || in.Message.From == me.ID() || in.Message.Outgoing != in.Own) {
			t.Errorf("%+v", in.Message)
		}
		if in.Erase != nil && in.Erase.ByAdmin && in.From != (account.ID{}) && content.GetDataMessage().GetGroupUpdateMessage().GetDeleteMemberContent().GetAdminSignature() == nil {
			t.Error("an admin's word without a signature")
		}
	})
}

func TestQuietGroupsAreAskedSeldom(t *testing.T) {
	m := still(t, person(1))
	now := time.UnixMilli(1_700_000_000_000)
	m.cfg.Now = func() time.Time { return now }
	m.cfg.PollInterval = 5 * time.Second
	for _, c := range []struct {
		name    string
		quiet   time.Duration // since somebody said something
		hearing int           // rounds since a member tells of messages, 0 = none does
		failed  int           // rounds before
		err     error
		want    time.Duration
	}{
		{"while somebody talks", 10 * time.Second, 0, 0, nil, time.Second},
		{"on the same day", time.Hour, 0, 0, nil, 5 * time.Second},
		{"in the same week", 4 * 24 * time.Hour, 0, 0, nil, time.Minute},
		{"later", 30 * 24 * time.Hour, 0, 0, nil, 2 * time.Minute},
		{"while a member tells of messages", time.Hour, 1, 0, nil, 10 * time.Second},
		{"and after a while of that", time.Hour, 20, 0, nil, listenSlowest},
		{"after a failure", time.Hour, 0, 0, errors.New("x"), 5 * time.Second},
		{"after more of them", time.Hour, 0, 3, errors.New("x"), 40 * time.Second},
		{"after many", time.Hour, 0, 100, errors.New("x"), pollLongest},
	} {
		ci := m.session.newCircle(archive.Group{}, config.Group{})
		ci.active, ci.failed = now.Add(-c.quiet), c.failed
		ci.ear.told, ci.ear.slowed = c.hearing > 0, max(c.hearing-1, 0)
		if got := ci.rounded(c.err); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
