package archive

import (
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.etcd.io/bbolt"

	"hearth/node/account"
	"hearth/node/config"
)

// What a contact shares with the other devices: who they are and what they are to
// the owner, the timer, and how far the conversation was read. A stranger shares
// nothing before the owner has decided about them, or every stranger could have all
// devices write to the swarm; until then all of it is kept here.

// fill reads a contact's shared part from the configs. Other devices may be of any
// make, so that names are made fit to be shown.
func (a *Archive) fill(c *Contact) {
	if a.configs.Contacts.Object == nil {
		return
	}
	if entry, ok := a.configs.Contacts.Find(c.ID); ok {
		c.take(entry)
	} else {
		c.Shared = false
	}
	if c.ID == a.own {
		c.Timer = selfTimer(a.configs.Profile)
	}
	if convo, ok := a.configs.Conversations.Find(conversation(c.ID)); ok {
		c.LastRead, c.MarkedUnread = max(c.LastRead, convo.Read), convo.Unread
	}
}

// take fills in what a config knows about somebody.
func (c *Contact) take(entry config.Contact) {
	c.Shared = true
	c.Name = Tidy(entry.Nickname, config.MaxName)
	c.Profile = Tidy(entry.Name, config.MaxName)
	c.ProfileTime = entry.Updated
	c.PictureURL, c.PictureKey = pictureOf(entry.Picture)
	c.Approved, c.ApprovedMe, c.Blocked = entry.Approved, entry.ApprovedMe, entry.Blocked
	c.Timer = Timer{}
	if entry.Timer > 0 && entry.Timer <= maxTimer {
		switch entry.Expiry {
		case config.ExpiryAfterSend:
			c.Timer = Timer{Type: TimerAfterSend, Seconds: uint32(entry.Timer)}
		case config.ExpiryAfterRead:
			c.Timer = Timer{Type: TimerAfterRead, Seconds: uint32(entry.Timer)}
		}
	}
	if c.LastTime == 0 {
		c.LastTime = entry.Created * 1000
	}
}

// maxTimer keeps a timer within the field that messages have for it.
const maxTimer = 1<<32 - 1

// local is what of a contact is kept here: that of somebody whom the configs know
// is there, and nowhere else.
func (c Contact) local(own account.ID) Contact {
	if c.Shared {
		c.Name, c.Profile, c.ProfileTime, c.PictureURL, c.PictureKey = "", "", 0, "", ""
		c.Approved, c.ApprovedMe, c.Blocked, c.Timer = false, false, false, Timer{}
	}
	if c.Shared || c.ID == own {
		c.Timer, c.LastRead, c.MarkedUnread = Timer{}, 0, false
	}
	return c
}

// share puts what this transaction did to contacts into the configs.
func (w *change) share() error {
	configs := w.configs()
	if configs.Contacts.Object == nil {
		return nil
	}
	for id, c := range w.touched {
		if w.merged[id] {
			continue
		}
		if err := w.shareContact(configs, c); err != nil {
			return err
		}
	}
	for id := range w.gone {
		entry, ok := configs.Contacts.Find(id)
		if w.merged[id] || !ok || !entry.Approved && !entry.Blocked && !w.forgotten[id] {
			continue
		}
		if _, err := configs.Contacts.Remove(id); err != nil {
			return err
		}
		if _, err := configs.Conversations.Remove(conversation(id)); err != nil {
			return err
		}
	}
	return nil
}

// shareContact changes what is another than before, and nothing else: the config
// may hold more than we show.
func (w *change) shareContact(configs *Configs, c *Contact) error {
	old := w.a.contactOrNew(c.ID)
	switch {
	case c.ID == w.a.own:
		if c.Timer != old.Timer {
			if err := configs.Profile.SetTimer(int64(c.Timer.Seconds)); err != nil {
				return err
			}
		}
	case c.ID.Prefix() == account.PrefixAccount:
		entry, ok := configs.Contacts.Find(c.ID)
		if !ok {
			if !c.Approved && !c.Blocked {
				return nil
			}
			entry = config.Contact{ID: c.ID, Created: w.a.now().Unix()}
			old = Contact{}
		}
		c.Shared = true
		if len(c.PictureURL) > config.MaxPictureURL {
			c.PictureURL, c.PictureKey = "", "" // no client could share it
		}
		give(&entry, old, *c)
		if err := configs.Contacts.Put(entry); err != nil {
			return err
		}
	}
	if c.LastRead == old.LastRead && c.MarkedUnread == old.MarkedUnread {
		return nil
	}
	convo := conversation(c.ID)
	convo.Read, convo.Unread = c.LastRead, c.MarkedUnread
	return configs.Conversations.Put(convo)
}

// give writes into an entry what has changed.
func give(entry *config.Contact, old, now Contact) {
	if now.Name != old.Name {
		entry.Nickname = now.Name
	}
	if now.Profile != old.Profile {
		entry.Name = now.Profile
	}
	if now.ProfileTime != old.ProfileTime {
		entry.Updated = now.ProfileTime
	}
	if now.PictureURL != old.PictureURL || now.PictureKey != old.PictureKey {
		entry.Picture = pictureFrom(now.PictureURL, now.PictureKey)
	}
	if now.Approved != old.Approved {
		entry.Approved = now.Approved
	}
	if now.ApprovedMe != old.ApprovedMe {
		entry.ApprovedMe = now.ApprovedMe
	}
	if now.Blocked != old.Blocked {
		entry.Blocked = now.Blocked
	}
	if now.Timer != old.Timer {
		entry.Expiry, entry.Timer = config.ExpiryNone, int64(now.Timer.Seconds)
		switch now.Timer.Type {
		case TimerAfterSend:
			entry.Expiry = config.ExpiryAfterSend
		case TimerAfterRead:
			entry.Expiry = config.ExpiryAfterRead
		}
	}
}

// shared is what a config said before a merge, where it has to be compared.
type shared struct {
	contacts map[account.ID]config.Contact
	convos   map[account.ID]config.Conversation
	devices  map[[32]byte]bool
}

func (a *Archive) sharedBefore(kind config.Kind) (was shared) {
	switch kind {
	case config.ContactList:
		was.contacts = make(map[account.ID]config.Contact)
		for c := range a.configs.Contacts.All() {
			was.contacts[c.ID] = c
		}
	case config.ConvoVolatile:
		was.convos = a.readStates()
	case config.DeviceList:
		was.devices = make(map[[32]byte]bool)
		for d := range a.configs.Devices.All() {
			was.devices[d.ID] = true
		}
	}
	return was
}

func (a *Archive) readStates() map[account.ID]config.Conversation {
	states := make(map[account.ID]config.Conversation)
	for convo := range a.configs.Conversations.All() {
		if convo.Kind == config.OneToOne || convo.Kind == config.GroupConvo {
			states[convo.ID] = convo
		}
	}
	return states
}

// adoptShared does here what a merge has brought; at is when the other device
// stored it, in ms.
func (w *change) adoptShared(tx *bbolt.Tx, kind config.Kind, was shared, at int64) error {
	configs := w.configs()
	switch kind {
	case config.UserProfile:
		if t := selfTimer(configs.Profile); w.known(w.a.own) {
			if c := w.contact(w.a.own); c.Timer != t {
				c.Timer, c.TimerSet = t, max(c.TimerSet, at)
				w.adopted(c)
			}
		}
	case config.ContactList:
		for entry := range configs.Contacts.All() {
			before, had := was.contacts[entry.ID]
			delete(was.contacts, entry.ID)
			if had && before == entry || entry.ID == w.a.own {
				continue
			}
			if err := w.adoptContact(tx, entry, at); err != nil {
				return err
			}
		}
		for id := range was.contacts { // another device has deleted them
			if !w.known(id) || id == w.a.own {
				continue
			}
			if err := w.remove(tx, id); err != nil {
				return err
			}
			w.merged[id] = true
			w.result.Configs.Contacts = append(w.result.Configs.Contacts, id)
		}
	case config.ConvoVolatile:
		for id, convo := range w.a.readStates() {
			before := was.convos[id]
			if before == convo {
				continue
			}
			if convo.Read > 0 && convo.Read < before.Read {
				// Of two devices that read at once the one that read further counts.
				convo.Read = before.Read
				if err := configs.Conversations.Put(convo); err != nil {
					return err
				}
			}
			if !w.known(id) {
				continue
			}
			if err := w.readUntil(tx, id, convo.Read, convo.Unread); err != nil {
				return err
			}
		}
	case config.DeviceList:
		return w.newDevices(tx, was.devices)
	}
	return nil
}

func (w *change) adoptContact(tx *bbolt.Tx, entry config.Contact, at int64) error {
	known := w.known(entry.ID)
	if !known && !entry.Approved && !entry.Blocked {
		return nil // a stranger, who has not written to this device
	}
	c := *w.contact(entry.ID)
	if known && entry.Blocked && !c.Blocked && !c.Approved && !entry.Approved {
		if err := w.remove(tx, c.ID); err != nil { // as Block does
			return err
		}
		c = Contact{ID: c.ID, LastTime: c.LastTime}
	}
	timer := c.Timer
	c.take(entry)
	if c.LastTime == 0 {
		c.LastTime = w.a.now().UnixMilli()
	}
	if c.Timer != timer || !known {
		c.TimerSet = max(c.TimerSet, at)
	}
	w.adopted(&c)
	return nil
}

// adopted is touch for what the configs say already.
func (w *change) adopted(c *Contact) {
	w.touch(c)
	w.merged[c.ID] = true
	w.result.Configs.Contacts = append(w.result.Configs.Contacts, c.ID)
}

func (w *change) known(id account.ID) bool {
	return w.touched[id] != nil || w.a.contacts[id] != nil && !w.gone[id]
}

// readUntil marks what another device has read, which has also told the sender and
// the swarm.
func (w *change) readUntil(tx *bbolt.Tx, id account.ID, until int64, marked bool) error {
	c := w.contact(id)
	if c.LastRead == until && c.MarkedUnread == marked {
		return nil
	}
	var read []Message
	err := w.a.eachUnread(tx, id, c.Unread, func(m Message) {
		if m.Shown() <= until {
			read = append(read, m)
		}
	})
	if err != nil {
		return err
	}
	c.LastRead, c.MarkedUnread = max(c.LastRead, until), marked
	c.Unread -= min(c.Unread, uint32(len(read)))
	w.adopted(c)
	now := w.a.now().UnixMilli()
	for _, m := range read {
		m.Read = true
		if m.Timer.Type == TimerAfterRead && m.Expires == 0 {
			if err := w.startTimer(tx, &m, now+int64(m.Timer.Seconds)*1000); err != nil {
				return err
			}
			w.result.Guessed = append(w.result.Guessed, m)
		}
		if err := w.save(tx, m); err != nil {
			return err
		}
		w.changed(ChangedRead, m)
	}
	return nil
}

// MarkUnread marks a conversation by hand, on all devices, until it is read.
func (a *Archive) MarkUnread(with account.ID) (Contact, error) {
	_, err := a.change(func(_ *bbolt.Tx, w *change) error {
		c := w.contact(with)
		c.MarkedUnread = true
		w.touch(c)
		return nil
	})
	c, _ := a.Contact(with)
	return c, err
}

// conversation names the read state of a conversation.
func conversation(with account.ID) config.Conversation {
	if with.Prefix() == account.PrefixGroup {
		return config.Conversation{Kind: config.GroupConvo, ID: with}
	}
	return config.Conversation{Kind: config.OneToOne, ID: with}
}

func selfTimer(p config.Profile) Timer {
	if s := p.Timer(); s > 0 && s <= maxTimer {
		return Timer{Type: TimerAfterSend, Seconds: uint32(s)}
	}
	return Timer{}
}

func pictureOf(p config.Picture) (url, key string) {
	if p.URL == "" {
		return "", ""
	}
	return p.URL, hex.EncodeToString(p.Key[:])
}

func pictureFrom(url, key string) (p config.Picture) {
	b, err := hex.DecodeString(key)
	if url == "" || err != nil || len(b) != len(p.Key) {
		return config.Picture{}
	}
	return config.Picture{URL: url, Key: config.Key(b)}
}

// Tidy makes a stranger's text fit for one line of a screen: no control or
// invisible characters, at most max bytes, cut between code points.
func Tidy(text string, max int) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return -1
		}
		return r
	}, text))
	for i, r := range text {
		if i+utf8.RuneLen(r) > max {
			return strings.TrimSpace(text[:i])
		}
	}
	return text
}
