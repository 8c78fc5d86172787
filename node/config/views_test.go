package config

import (
	"errors"
	"slices"
	"testing"

	"hearth/node/account"
)

func TestBlindedContacts(t *testing.T) {
	c := Contacts{vectorObject(t, ContactList)}
	one := BlindedContact{Server: "https://example.org", ServerKey: [32]byte{1}, ID: account.ID{account.PrefixBlinded15, 7}, Name: "old", Priority: -1, Created: 1748000000}
	two := BlindedContact{Server: "https://example.org", ServerKey: [32]byte{1}, ID: account.ID{account.PrefixBlinded25, 8}, Picture: Picture{"u", Key{1}}, Updated: 1748000001}
	typed := two
	typed.Server = "HTTPS://Example.org:443/"
	for _, b := range []BlindedContact{one, typed} {
		if err := c.PutBlinded(b); err != nil {
			t.Fatal(err)
		}
	}
	if got := slices.Collect(c.Blinded()); !slices.Equal(got, []BlindedContact{one, two}) {
		t.Errorf("%+v", got)
	}
	if err := c.PutBlinded(BlindedContact{Server: "https://example.org", ID: account.ID{account.PrefixAccount}}); !errors.Is(err, ErrValue) {
		t.Errorf("an id that is not blinded: %v", err)
	}
	if slices.Collect(c.All()) != nil {
		t.Error("blinded contacts among the others")
	}
	for _, b := range []BlindedContact{one, typed} {
		if was, err := c.RemoveBlinded(b); !was || err != nil {
			t.Errorf("%v, %v", was, err)
		}
	}
	if c.Data().Len() != 0 {
		t.Error("the server stays without contacts")
	}
}

func TestNewerProfiles(t *testing.T) {
	p := Profile{vectorObject(t, UserProfile)}
	first, again := Picture{"first", Key{1}}, Picture{"again", Key{2}}
	p.SetPicture(first)
	p.SetUpdated(1760000000)
	p.Renewed(again, 1760000100)
	if p.Picture() != again || p.Updated() != 1760000100 {
		t.Errorf("a picture that was stored again: %q, %d", p.Picture().URL, p.Updated())
	}
	p.SetUpdated(1760000200)
	if p.Updated() != 1760000200 || p.Picture() != again {
		t.Errorf("after a change of the name: %q, %d", p.Picture().URL, p.Updated())
	}
	p.SetPicture(first)
	if p.Picture() != first {
		t.Errorf("a new picture: %q", p.Picture().URL)
	}
	// Times that a client has written in milliseconds and microseconds.
	for _, n := range []int64{1760000000, 1760000000_000, 1760000000_000_000} {
		p.Set(IntValue(n), profileUpdated)
		if p.Updated() != 1760000000 {
			t.Errorf("%d is read as %d", n, p.Updated())
		}
	}
}

func TestUnknownKeysStayAtEveryLevel(t *testing.T) {
	id := testID(t, "alice")
	o := vectorObject(t, ContactList)
	c := Contacts{o}
	c.Put(Contact{ID: id, Name: "Alice"})
	o.Set(IntValue(1), "future")
	o.Set(BytesValue("x"), contactDict, string(id[:]), "future")
	o.Set(IntValue(2), contactDict, "not an id", "future")
	alice, _ := c.Find(id)
	alice.Name, alice.Blocked = "", true
	c.Put(alice)
	if !o.Get("future").Exists() || !o.Get(contactDict, string(id[:]), "future").Exists() || !o.Get(contactDict, "not an id", "future").Exists() {
		t.Error("a key of another version is gone")
	}
	if got := slices.Collect(c.All()); len(got) != 1 || got[0] != alice {
		t.Errorf("%+v", got)
	}
}

func TestInfoLimitsAndDestruction(t *testing.T) {
	o, err := New(GroupInfo, groupOptions(testPair("group"), true))
	if err != nil {
		t.Fatal(err)
	}
	i := Info{o}
	long := string(make([]byte, 2001))
	if err := i.SetName(long[:101]); !errors.Is(err, ErrValue) {
		t.Errorf("a name of 101 bytes: %v", err)
	}
	if err := i.SetDescription(long); !errors.Is(err, ErrValue) {
		t.Errorf("a description of 2001 bytes: %v", err)
	}
	if err := errors.Join(i.SetDescription(long[:2000]), i.Destroy()); err != nil || !i.Destroyed() {
		t.Errorf("%v", err)
	}
}
