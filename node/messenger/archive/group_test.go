package archive

import (
	"path/filepath"
	"slices"
	"testing"

	"hearth/node/account"
	"hearth/node/config"
)

var tea = account.ID{account.PrefixGroup, 1, 2, 3}

// said is message i of somebody in the group.
func said(from account.ID, i int, text string) Incoming {
	in := incoming(tea, i, text)
	in.From, in.Message.From = from, from
	return in
}

func keep(t testing.TB, a *Archive, g *Group, items ...Incoming) Result {
	t.Helper()
	r, err := a.KeepGroup(g, GroupStep{Face: &Face{Name: "Tea"}, Items: items})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shown are the texts of the group, with their authors' numbers.
func shown(t testing.TB, a *Archive) (list []string) {
	t.Helper()
	all, err := a.Messages(tea, 0, 100, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		text := m.Text
		if m.Deleted {
			text = "deleted"
			if m.ByAdmin {
				text = "deleted by an admin"
			}
		}
		list = append(list, text)
	}
	return list
}

func TestMessagesOfAGroupAreToldApartByTheirAuthors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	a, _ := open(t, file)
	alice, bob := someone(1), someone(2)
	g := &Group{ID: tea, Dump: []byte("dump"), Last: map[string]string{"node/11": hash(1)}, Names: map[account.ID]string{bob: "Bob"}}
	r := keep(t, a, g, said(alice, 1, "a"), said(bob, 1, "never"), said(alice, 2, "b"))
	if len(r.Added) != 2 { // the second has the hash of the first
		t.Errorf("%d added", len(r.Added))
	}
	same := said(bob, 3, "same time")
	same.Sent, same.Message.Timestamp = 1_699_999_000_001, 1_699_999_000_001
	other := said(alice, 4, "other bytes")
	other.Sent, other.Message.Timestamp = 1_699_999_000_001, 1_699_999_000_001
	r = keep(t, a, g, same, other)
	if len(r.Added) != 1 || r.Added[0].Text != "same time" || r.Added[0].From != bob {
		t.Errorf("%+v", r.Added)
	}
	if c, ok := a.Contact(tea); !ok || !c.IsGroup() || !c.Approved || c.DisplayName() != "Tea" || c.Unread != 3 || c.IsRequest() {
		t.Errorf("the conversation is %+v", c)
	}
	a.Close()
	a, _ = open(t, file)
	list, err := a.Groups()
	if err != nil || len(list) != 1 || string(list[0].Dump) != "dump" || list[0].Last["node/11"] != hash(1) || list[0].Names[bob] != "Bob" {
		t.Errorf("after a restart: %+v, %v", list, err)
	}
	m, err := a.FindFrom(tea, bob, false, 1_699_999_000_001)
	if err != nil || m.Text != "same time" {
		t.Errorf("found %+v, %v", m, err)
	}
}

func TestEachMemberReactsForThemselves(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	g := &Group{ID: tea}
	alice, bob, carol := someone(1), someone(2), someone(3)
	react := func(from account.ID, i int, emoji string, remove bool) Incoming {
		return Incoming{Hash: hash(100 + i), With: tea, From: from, Sent: int64(i),
			Reaction: &Reacting{From: alice, Timestamp: 1_699_999_000_001, Emoji: emoji, Remove: remove}}
	}
	// One of them comes before the message.
	keep(t, a, g, react(bob, 1, "👍", false))
	keep(t, a, g, said(alice, 1, "a"), react(carol, 2, "👍", false), react(bob, 3, "👍", true), react(alice, 4, "🫖", false))
	m, err := a.FindFrom(tea, alice, false, 1_699_999_000_001)
	if err != nil {
		t.Fatal(err)
	}
	var left []account.ID
	for _, r := range m.Reactions {
		if !r.Gone {
			left = append(left, r.By)
		}
	}
	if !slices.Equal(left, []account.ID{carol, alice}) {
		t.Errorf("%+v", m.Reactions)
	}
	for i := range 3 * maxAllReactions {
		keep(t, a, g, react(someone(10+i), 10+i, "👍", false))
	}
	m, _ = a.FindFrom(tea, alice, false, 1_699_999_000_001)
	if len(m.Reactions) > maxAllReactions {
		t.Errorf("%d reactions on one message", len(m.Reactions))
	}
}

func TestWhoMayDeleteInAGroup(t *testing.T) {
	alice, bob := someone(1), someone(2)
	erase := func(from account.ID, i int, e Erasing) Incoming {
		return Incoming{Hash: hash(100 + i), With: tea, From: from, Sent: 1_699_999_000_000 + int64(i), Erase: &e}
	}
	for _, c := range []struct {
		name  string
		items []Incoming
		want  []string
	}{
		{"its writer", []Incoming{said(alice, 1, "a"), erase(alice, 5, Erasing{Hashes: []string{hash(1)}})}, []string{"deleted"}},
		{"another member not", []Incoming{said(alice, 1, "a"), erase(bob, 5, Erasing{Hashes: []string{hash(1)}})}, []string{"a"}},
		{"an admin", []Incoming{said(alice, 1, "a"), erase(bob, 5, Erasing{Hashes: []string{hash(1)}, ByAdmin: true})}, []string{"deleted by an admin"}},
		{"an admin, but not what is newer", []Incoming{said(alice, 7, "a"), erase(bob, 5, Erasing{Hashes: []string{hash(7)}, ByAdmin: true})}, []string{"a"}},
		{"its writer, before it comes", []Incoming{erase(alice, 5, Erasing{Hashes: []string{hash(1)}}), said(alice, 1, "a")}, []string{"deleted"}},
		{"another member not, before it comes", []Incoming{erase(bob, 5, Erasing{Hashes: []string{hash(1)}}), said(alice, 1, "a")}, []string{"a"}},
		{"an admin all of somebody's, what comes late as well",
			[]Incoming{said(alice, 1, "a"), said(bob, 2, "b"), erase(bob, 5, Erasing{Members: []account.ID{alice}, ByAdmin: true}), said(alice, 3, "late"), said(alice, 9, "new")},
			[]string{"deleted by an admin", "b", "new"}},
		{"a member nobody's all", []Incoming{said(alice, 1, "a"), erase(bob, 5, Erasing{Members: []account.ID{alice}})}, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _ := open(t, filepath.Join(t.TempDir(), "db"))
			g := &Group{ID: tea}
			for _, in := range c.items {
				keep(t, a, g, in)
			}
			if got := shown(t, a); !slices.Equal(got, c.want) {
				t.Errorf("shown: %q, want %q", got, c.want)
			}
		})
	}
}

func TestAGroupIsForgottenWithAllThatBelongsToIt(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	g := &Group{ID: tea}
	alice := someone(1)
	befriend(t, a, alice)
	list := func(c *Configs) error { return c.Groups.Put(config.Group{ID: tea, Name: "Tea"}) }
	if _, err := a.KeepGroup(g, GroupStep{Face: &Face{Name: "Tea"}, Items: []Incoming{said(alice, 1, "a")}, List: list}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Write(own(tea, 2, "mine"), Parcel{To: tea, Own: true, Track: true}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Write(own(alice, 3, "to a person"), Parcel{To: alice, Track: true}); err != nil {
		t.Fatal(err)
	}
	if err := a.ForgetGroup(tea); err != nil {
		t.Fatal(err)
	}
	kept, err := a.Groups()
	if err != nil || len(kept) != 0 || len(shown(t, a)) != 0 || a.Waiting() != 1 {
		t.Errorf("left: %v, %v, %q, %d parcels", kept, err, shown(t, a), a.Waiting())
	}
	if _, ok := a.Contact(tea); ok {
		t.Error("the conversation is still there")
	}
	a.ViewConfigs(func(c *Configs) {
		if _, ok := c.Groups.Find(tea); ok {
			t.Error("it is still in the list of groups")
		}
	})
}

func TestWhatAnAdminWantsDeletedByItsAgeGoesForGood(t *testing.T) {
	a, _ := open(t, filepath.Join(t.TempDir(), "db"))
	g := &Group{ID: tea}
	file := said(someone(1), 3, "with a file")
	file.Message.Attachments = []Attachment{{URL: "http://x/file/1"}}
	keep(t, a, g, said(someone(1), 1, "old"), said(someone(1), 2, "newer"), file)
	if _, err := a.DeleteBefore(g, 1_699_999_000_002, 1_699_999_000_009); err != nil {
		t.Fatal(err)
	}
	late := said(someone(2), 0, "old and late")
	keep(t, a, g, late, said(someone(2), 4, "new"))
	if got := shown(t, a); !slices.Equal(got, []string{"newer", "new"}) {
		t.Errorf("shown: %q", got)
	}
}
