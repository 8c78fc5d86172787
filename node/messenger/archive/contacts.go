package archive

import (
	"cmp"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

// Contact is somebody there is a conversation with.
type Contact struct {
	ID          account.ID
	Name        string // given by the owner of this account; at most 100 bytes
	Profile     string // what they call themselves; at most 100 bytes
	ProfileTime int64  // when they last changed it, in seconds
	Known       bool   // named or written to by the owner; otherwise a stranger
	Unread      uint32
	LastText    string // beginning of the latest message
	LastTime    int64  // of the latest message, ms; when it was added, if there is none

	Next  uint64 // running number of the next message
	Count uint64 // messages kept
	Bytes uint64 // text of the messages kept
}

// DisplayName is the given name, or else what they call themselves, or nothing.
func (c Contact) DisplayName() string {
	if c.Name != "" {
		return c.Name
	}
	return c.Profile
}

// Contacts returns everybody, the latest conversation first.
func (a *Archive) Contacts() []Contact {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]Contact, 0, len(a.contacts))
	for _, c := range a.contacts {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(x, y Contact) int {
		return cmp.Or(cmp.Compare(y.LastTime, x.LastTime), slices.Compare(x.ID[:], y.ID[:]))
	})
	return all
}

// Contact returns one contact, if it is there.
func (a *Archive) Contact(id account.ID) (Contact, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.contacts[id]; c != nil {
		return *c, true
	}
	return Contact{}, false
}

// Named returns the contacts that a name means, without regard to case: the one
// the owner gave it to, or else all that call themselves so.
func (a *Archive) Named(name string) []Contact {
	name = strings.TrimSpace(name)
	if name == "" {
		return nil
	}
	var given, called []Contact
	for _, c := range a.Contacts() {
		switch {
		case strings.EqualFold(c.Name, name):
			given = append(given, c)
		case c.Name == "" && strings.EqualFold(c.Profile, name):
			called = append(called, c)
		}
	}
	if len(given) > 0 {
		return given
	}
	return called
}

// Unread is the number of unread messages in all conversations.
func (a *Archive) Unread() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var n uint32
	for _, c := range a.contacts {
		n += c.Unread
	}
	return n
}

// AddContact names somebody, who is no stranger from then on. The error is
// [ErrNameTaken] or that of the disk.
func (a *Archive) AddContact(id account.ID, name string) (Contact, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.contacts {
		if name != "" && c.ID != id && strings.EqualFold(c.Name, name) {
			return Contact{}, ErrNameTaken
		}
	}
	c := a.contactOrNew(id)
	c.Name, c.Known = name, true
	if c.LastTime == 0 {
		c.LastTime = a.now().UnixMilli()
	}
	err := a.db.Update(func(tx *bbolt.Tx) error { return a.putContact(tx, &c) })
	if err != nil {
		return Contact{}, err
	}
	a.contacts[id] = &c
	return c, nil
}

// contactOrNew returns a copy to work on; the cache changes after the commit.
func (a *Archive) contactOrNew(id account.ID) Contact {
	if c := a.contacts[id]; c != nil {
		return *c
	}
	return Contact{ID: id}
}

func (a *Archive) putContact(tx *bbolt.Tx, c *Contact) error {
	return a.encode(tx, bucketContacts, a.tag("contact", c.ID[:]), c)
}
