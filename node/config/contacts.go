package config

import (
	"fmt"
	"iter"

	"hearth/node/account"
)

// The keys of a contact, by the letters of libsession-util's contacts.hpp.
const (
	contactDict     = "c"
	contactName     = "n"
	contactNickname = "N"
	contactURL      = "p"
	contactKey      = "q"
	contactApproved = "a"
	contactMe       = "A"
	contactBlocked  = "b"
	contactNotify   = "@"
	contactMute     = "!"
	contactPriority = "+"
	contactExpiry   = "e"
	contactTimer    = "E"
	contactCreated  = "j"
	contactUpdated  = "t"
)

// Contacts is the view of a [ContactList].
type Contacts struct{ *Object }

// Contact is a person and the settings of the conversation with them.
type Contact struct {
	ID            account.ID
	Name          string // what they call themselves
	Nickname      string // what the owner calls them
	Picture       Picture
	Approved      bool // the owner accepts their messages
	ApprovedMe    bool // they accept the owner's
	Blocked       bool
	Notifications Notifications // NotifyMentions is stored as NotifyAll
	MutedUntil    int64         // unix seconds
	Priority      int64         // 0 as it comes, higher further up, -1 hidden
	Expiry        Expiry
	Timer         int64 // seconds; stored together with Expiry or not at all
	Created       int64 // unix seconds
	Updated       int64 // unix seconds; when their profile changed, 0 = unknown
}

// DisplayName is the nickname, or else the name.
func (c Contact) DisplayName() string {
	if c.Nickname != "" {
		return c.Nickname
	}
	return c.Name
}

// All visits the contacts in ascending order of their ids. Entries that are no
// contacts are passed over.
func (c Contacts) All() iter.Seq[Contact] {
	entries := c.Get(contactDict).Dict()
	return func(yield func(Contact) bool) {
		for key, v := range entries.All() {
			id, ok := idOf(key, account.PrefixAccount)
			if ok && v.kind == dict && !yield(readContact(id, v.dict)) {
				return
			}
		}
	}
}

// Len is the number of entries.
func (c Contacts) Len() int { return c.message.data.Get(contactDict).Dict().Len() }

// Find returns one contact.
func (c Contacts) Find(id account.ID) (Contact, bool) {
	v := c.message.data.Get(contactDict, string(id[:]))
	if v.kind != dict {
		return Contact{}, false
	}
	return readContact(id, v.dict), true
}

// Put stores a contact, whether there was one or not. Names above [MaxName]
// bytes are cut there, as libsession-util does it; see [CutName]. Errors:
// [ErrValue] for what is no Session ID and for an address above
// [MaxPictureURL] bytes.
func (c Contacts) Put(contact Contact) error {
	if err := checkID(contact.ID, account.PrefixAccount); err != nil {
		return fmt.Errorf("storing a contact: %w", err)
	}
	if err := checkLength("picture address", contact.Picture.URL, MaxPictureURL); err != nil {
		return err
	}
	return c.change(func(t *tree) {
		f := t.at(contactDict, string(contact.ID[:]))
		f.always(contactName, cut(contact.Name))
		f.text(contactNickname, cut(contact.Nickname))
		f.picture(contactURL, contactKey, contact.Picture)
		f.flag(contactApproved, contact.Approved)
		f.flag(contactMe, contact.ApprovedMe)
		f.flag(contactBlocked, contact.Blocked)
		notify := contact.Notifications
		if notify == NotifyMentions {
			notify = NotifyAll
		}
		f.positive(contactNotify, int64(notify))
		f.positive(contactMute, contact.MutedUntil)
		f.int(contactPriority, contact.Priority)
		if contact.Expiry == ExpiryNone || contact.Timer <= 0 {
			contact.Expiry, contact.Timer = ExpiryNone, 0
		}
		f.int(contactExpiry, int64(contact.Expiry))
		f.int(contactTimer, contact.Timer)
		f.positive(contactCreated, contact.Created)
		f.positive(contactUpdated, contact.Updated)
	})
}

// SetNickname stores one nickname. Errors: [ErrValue] above [MaxName] bytes and
// for what is no Session ID.
func (c Contacts) SetNickname(id account.ID, nickname string) error {
	if err := checkLength("nickname", nickname, MaxName); err != nil {
		return err
	}
	contact, _ := c.Find(id)
	contact.ID, contact.Nickname = id, nickname
	return c.Put(contact)
}

// Remove erases a contact and reports whether there was one.
func (c Contacts) Remove(id account.ID) (bool, error) {
	return c.remove(contactDict, string(id[:]))
}

// remove erases an entry and reports whether there was one.
func (o *Object) remove(path ...string) (was bool, err error) {
	err = o.change(func(t *tree) { was = t.erase(path...) })
	return was && err == nil, err
}

// cut shortens a name in the middle of a character if need be, as the reference
// does when it stores a whole entry.
func cut(name string) string { return name[:min(len(name), MaxName)] }

func readContact(id account.ID, d *Dict) Contact {
	c := Contact{
		ID:         id,
		Name:       d.text(contactName),
		Nickname:   d.text(contactNickname),
		Picture:    d.picture(contactURL, contactKey),
		Approved:   d.flag(contactApproved),
		ApprovedMe: d.flag(contactMe),
		Blocked:    d.flag(contactBlocked),
		MutedUntil: d.unixTime(contactMute),
		Priority:   d.int(contactPriority),
		Created:    d.unixTime(contactCreated),
		Updated:    d.unixTime(contactUpdated),
	}
	switch n := Notifications(d.int(contactNotify)); n {
	case NotifyAll, NotifyOff:
		c.Notifications = n
	case NotifyMentions:
		c.Notifications = NotifyAll
	}
	mode, timer := Expiry(d.int(contactExpiry)), d.positive(contactTimer)
	if (mode == ExpiryAfterSend || mode == ExpiryAfterRead) && timer > 0 {
		c.Expiry, c.Timer = mode, timer
	}
	return c
}
