package archive

import (
	"cmp"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

// Contact is somebody there is a conversation with, or a closed group: then ID has
// the prefix 03, Profile is the group's name, and Approved is set.
type Contact struct {
	ID           account.ID
	Name         string // given by the owner of this account; at most 100 bytes
	Profile      string // what they call themselves; at most 100 bytes
	ProfileTime  int64  // when they last changed it, in seconds; 0 = they do not say
	ProfileSent  int64  // sent time of the message that brought it, ms
	PictureURL   string // of their picture, "" = none; at most 500 bytes
	PictureKey   string // 64 hexadecimal digits that open the picture
	Approved     bool   // named, written to or accepted by the owner; otherwise a stranger
	ApprovedMe   bool   // they wrote to the owner or accepted a request
	Blocked      bool   // nothing of theirs is taken
	Timer        Timer  // of messages that are sent to them
	TimerSet     int64  // sent time of the message that set it, ms
	Unread       uint32
	LastRead     int64  `json:",omitempty"` // shown time of the last message that was read on any device, ms
	MarkedUnread bool   `json:",omitempty"` // by hand
	Shared       bool   `json:",omitempty"` // the configs know them, and all down to Timer but TimerSet and ProfileSent is there
	LastText     string // beginning of the latest message
	LastTime     int64  // of the latest message, ms; when it was added, if there is none

	Next  uint64 // running number of the next message
	Count uint64 // messages kept
	Bytes uint64 // text of the messages kept
}

// IsRequest reports whether a stranger wrote and waits for the owner to decide.
func (c Contact) IsRequest() bool { return !c.Approved && !c.Blocked && c.Count > 0 && !c.IsGroup() }

// IsGroup reports whether the conversation is a closed group.
func (c Contact) IsGroup() bool { return isGroup(c.ID) }

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
// the owner gave it to, or else all that call themselves so. Strangers, who may
// call themselves as they like, are only looked for when requests is true and
// nobody else has the name.
func (a *Archive) Named(name string, requests bool) []Contact {
	name = strings.TrimSpace(name)
	if name == "" {
		return nil
	}
	var given, called, strangers []Contact
	for _, c := range a.Contacts() {
		switch {
		case c.Name != "" && strings.EqualFold(c.Name, name):
			given = append(given, c)
		case c.Name != "" || !strings.EqualFold(c.Profile, name):
		case c.Approved:
			called = append(called, c)
		default:
			strangers = append(strangers, c)
		}
	}
	switch {
	case len(given) > 0:
		return given
	case len(called) > 0 || !requests:
		return called
	}
	return strangers
}

// Unread is the number of unread messages in all conversations with contacts.
func (a *Archive) Unread() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var n uint32
	for _, c := range a.contacts {
		if c.Approved && !c.Blocked {
			n += c.Unread
		}
	}
	return n
}

// Requests is the number of strangers who wait for the owner to decide.
func (a *Archive) Requests() (n uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.contacts {
		if c.IsRequest() {
			n++
		}
	}
	return n
}

// AddContact names somebody, who is no stranger from then on, and puts what tells them
// into the outbox, if anything does. The error is [ErrNameTaken], [ErrFull] or that of
// the disk.
func (a *Archive) AddContact(id account.ID, name string, parcels ...Parcel) (Contact, Result, error) {
	r, err := a.change(func(tx *bbolt.Tx, w *change) error {
		for _, c := range a.contacts {
			if name != "" && c.ID != id && strings.EqualFold(c.Name, name) {
				return ErrNameTaken
			}
		}
		c := w.contact(id)
		if c.IsRequest() {
			c.ApprovedMe = true // they wrote
		}
		c.Name, c.Approved = name, true
		if c.LastTime == 0 {
			c.LastTime = a.now().UnixMilli()
		}
		w.touch(c)
		return w.enqueue(tx, nil, parcels...)
	})
	if err != nil {
		return Contact{}, Result{}, err
	}
	c, _ := a.Contact(id)
	return c, r, nil
}

// Approve makes a contact of somebody who wrote, and puts what tells them into
// the outbox.
func (a *Archive) Approve(id account.ID, parcels ...Parcel) (Contact, Result, error) {
	r, err := a.change(func(tx *bbolt.Tx, w *change) error {
		c := w.contact(id)
		c.Approved, c.Blocked = true, false
		if c.Count > 0 {
			c.ApprovedMe = true // they wrote
		}
		if c.LastTime == 0 {
			c.LastTime = a.now().UnixMilli()
		}
		w.touched[id] = c
		return w.enqueue(tx, nil, parcels...)
	})
	c, _ := a.Contact(id)
	return c, r, err
}

// Block drops whatever comes from somebody from now on. What a stranger wrote is
// deleted; what a contact did stays. A device that comes to the account during the
// block takes nothing of theirs, as with Session's clients: nobody knows how long the
// block has been there.
func (a *Archive) Block(id account.ID) (Contact, error) {
	_, err := a.change(func(tx *bbolt.Tx, w *change) error {
		c := *w.contact(id)
		if !c.Approved {
			if err := w.remove(tx, id); err != nil {
				return err
			}
			delete(w.gone, id)
			c = Contact{ID: id, Profile: c.Profile, ProfileTime: c.ProfileTime, LastTime: c.LastTime}
		}
		if c.LastTime == 0 {
			c.LastTime = a.now().UnixMilli()
		}
		c.Blocked = true
		w.touched[id] = &c
		return nil
	})
	c, _ := a.Contact(id)
	return c, err
}

// Unblock ends that. What was dropped stays away, from other devices as well: see
// deleteDropped. Somebody who was a stranger is forgotten.
func (a *Archive) Unblock(id account.ID) (Contact, Result, error) {
	r, err := a.change(func(tx *bbolt.Tx, w *change) error {
		c := w.contact(id)
		if !c.Blocked {
			return nil
		}
		if err := w.deleteDropped(tx, id); err != nil {
			return err
		}
		if !c.Approved {
			return w.remove(tx, id)
		}
		c.Blocked = false
		w.touched[id] = c
		return nil
	})
	if c, ok := a.Contact(id); ok {
		return c, r, err
	}
	return Contact{ID: id}, r, err
}

// Forget deletes somebody with the whole conversation.
func (a *Archive) Forget(id account.ID) error {
	_, err := a.change(func(tx *bbolt.Tx, w *change) error {
		w.forgotten[id] = true
		return w.remove(tx, id)
	})
	return err
}

// contactOrNew returns a copy to work on; the cache changes after the commit.
func (a *Archive) contactOrNew(id account.ID) Contact {
	if c := a.contacts[id]; c != nil {
		return *c
	}
	c := Contact{ID: id}
	a.fill(&c)
	return c
}

func (a *Archive) putContact(tx *bbolt.Tx, c *Contact) error {
	return a.encode(tx, bucketContacts, a.tag("contact", c.ID[:]), c.local(a.own))
}
