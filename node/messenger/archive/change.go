package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"

	"go.etcd.io/bbolt"

	"hearth/node/account"
	"hearth/node/config"
)

// Change says in what way a message is another than before.
type Change uint8

// The changes.
const (
	ChangedState Change = iota
	ChangedReaction
	ChangedUnsent
	ChangedExpired
	ChangedRead
)

// Changed is a message after a change.
type Changed struct {
	Change  Change
	Message Message
}

// Result is what one step did: it is on the disk and may be shown.
type Result struct {
	Added   []Message
	Changed []Changed
	Refused int      // messages of strangers over their bounds
	Parcels []Parcel // new in the outbox, without their content
	Configs ConfigNews
	// Guessed are messages that another device has read: they disappear when they
	// would if that had been now. Their swarm knows better.
	Guessed []Message
}

// change collects what one transaction does to the caches, so that they change
// only when it is committed.
type change struct {
	a       *Archive
	touched map[account.ID]*Contact
	gone    map[account.ID]bool
	timers  map[string]int64 // 0 = gone
	seen    int
	orphans int
	waiting int
	dropped []string // names of files that no message has any more

	merged    map[account.ID]bool  // contacts whose change the configs know already
	forgotten map[account.ID]bool  // those of gone that the owner wants gone everywhere
	foreign   map[config.Kind]bool // configs that somebody else has changed
	device    *deviceSelf          // as it is now, nil = as before

	result Result
}

// change runs one transaction.
func (a *Archive) change(f func(tx *bbolt.Tx, w *change) error) (Result, error) {
	defer a.looked()
	a.mu.Lock()
	defer a.mu.Unlock()
	w := &change{a: a, touched: make(map[account.ID]*Contact), gone: make(map[account.ID]bool), timers: make(map[string]int64),
		seen: a.seen, orphans: a.orphans, waiting: a.waiting,
		merged: make(map[account.ID]bool), forgotten: make(map[account.ID]bool), foreign: make(map[config.Kind]bool)}
	var dumped map[config.Kind]bool
	err := a.db.Update(func(tx *bbolt.Tx) error {
		if err := f(tx, w); err != nil {
			return err
		}
		if err := w.share(); err != nil {
			return err
		}
		for _, c := range w.touched {
			if err := a.putContact(tx, c); err != nil {
				return err
			}
		}
		var err error
		dumped, err = a.dumpConfigs(tx, w.foreign)
		return err
	})
	a.settleConfigs(err == nil, dumped)
	if err != nil {
		return Result{}, err
	}
	for id := range w.gone {
		delete(a.contacts, id)
	}
	maps.Copy(a.contacts, w.touched)
	if w.device != nil {
		a.device = *w.device
	}
	for k, due := range w.timers {
		if due == 0 {
			delete(a.timers, k)
		} else {
			a.timers[k] = due
		}
	}
	a.seen, a.orphans, a.waiting = w.seen, w.orphans, w.waiting
	for _, name := range w.dropped {
		a.shelf.remove(name)
	}
	return w.result, nil
}

// contact returns a copy to work on. It counts once it is in touched.
func (w *change) contact(id account.ID) *Contact {
	if c := w.touched[id]; c != nil {
		return c
	}
	if w.gone[id] {
		return &Contact{ID: id}
	}
	c := w.a.contactOrNew(id)
	return &c
}

func (w *change) touch(c *Contact) {
	w.touched[c.ID] = c
	delete(w.gone, c.ID)
}

// add stores a message unless it is there already, has disappeared, or a
// stranger is over the bounds. It returns the message as it was stored.
func (w *change) add(tx *bbolt.Tx, m Message) (Message, bool, error) {
	ident := w.a.identOf(m.With, m.From, m.Outgoing, m.Timestamp)
	if tx.Bucket(bucketIdents).Get(ident) != nil {
		return m, false, nil
	}
	now := w.a.now().UnixMilli()
	if m.Expires != 0 && m.Expires <= now {
		return m, false, nil
	}
	c := w.contact(m.With)
	if m.Outgoing {
		c.Approved = true
	} else {
		m.Received = now
		if c.Approved {
			c.ApprovedMe = true
		}
	}
	if !c.Approved {
		if c.Count >= MaxFromStranger {
			w.result.Refused++
			return m, false, nil
		}
		if err := w.makeRoom(tx, m); err != nil {
			return m, false, err
		}
	}
	if err := w.adopt(tx, ident, &m); err != nil {
		return m, false, err
	}
	if err := w.adoptByHash(tx, &m); err != nil {
		return m, false, err
	}
	m.Number = c.Next + 1
	if !m.Outgoing && !m.Deleted && m.Shown() <= c.LastRead { // on another device
		m.Read = true
		if m.Timer.Type == TimerAfterRead && m.Expires == 0 {
			m.Expires = now + int64(m.Timer.Seconds)*1000
			m.Number = c.Next + 1
			w.result.Guessed = append(w.result.Guessed, m)
		}
	}
	key := w.a.messageKey(m.Ref())
	if err := w.a.encode(tx, bucketMessages, key, m); err != nil {
		return m, false, err
	}
	if err := w.putIdents(tx, m); err != nil {
		return m, false, err
	}
	if err := w.setTimer(tx, key, m.Expires); err != nil {
		return m, false, err
	}
	c.Next++
	c.Count++
	c.Bytes += uint64(m.weight())
	if m.Kind == KindText && (m.Shown() >= c.LastTime || c.LastText == "") {
		c.LastTime, c.LastText = m.Shown(), m.summary()
	}
	if !m.Outgoing && !m.Read {
		c.Unread++
	}
	w.touch(c)
	return m, true, nil
}

func (w *change) putIdents(tx *bbolt.Tx, m Message) error {
	number := binary.BigEndian.AppendUint64(nil, m.Number)
	if err := w.a.put(tx, bucketIdents, w.a.identOf(m.With, m.From, m.Outgoing, m.Timestamp), number); err != nil {
		return err
	}
	if isGroup(m.With) && m.Hash != "" {
		if err := w.a.put(tx, bucketIdents, w.a.hashIdent(m.With, m.Hash), number); err != nil {
			return err
		}
	}
	if m.Outgoing {
		return w.a.put(tx, bucketIdents, w.a.ownIdent(m.Timestamp), m.With[:])
	}
	return nil
}

func (w *change) dropIdents(tx *bbolt.Tx, m Message) error {
	b := tx.Bucket(bucketIdents)
	if err := b.Delete(w.a.identOf(m.With, m.From, m.Outgoing, m.Timestamp)); err != nil {
		return err
	}
	if isGroup(m.With) && m.Hash != "" {
		if err := b.Delete(w.a.hashIdent(m.With, m.Hash)); err != nil {
			return err
		}
	}
	if with, ok := w.a.ownAt(tx, m.Timestamp); m.Outgoing && ok && with == m.With {
		return b.Delete(w.a.ownIdent(m.Timestamp))
	}
	return nil
}

// save writes a message that was looked up and changed.
func (w *change) save(tx *bbolt.Tx, m Message) error {
	return w.a.encode(tx, bucketMessages, w.a.messageKey(m.Ref()), m)
}

// changed reports a message; of several changes of one kind the last one counts.
func (w *change) changed(what Change, m Message) {
	for i, c := range w.result.Changed {
		if c.Change == what && c.Message.With == m.With && c.Message.Number == m.Number {
			w.result.Changed[i].Message = m
			return
		}
	}
	w.result.Changed = append(w.result.Changed, Changed{what, m})
}

// erase leaves nothing of a message but that it was there.
func (w *change) erase(tx *bbolt.Tx, m Message) (Message, error) {
	if err := w.dropFiles(tx, m); err != nil {
		return m, err
	}
	c := w.contact(m.With)
	if !m.Outgoing && !m.Read && c.Unread > 0 {
		c.Unread--
	}
	c.Bytes -= min(c.Bytes, uint64(m.weight()))
	m = Message{With: m.With, From: m.From, Number: m.Number, Outgoing: m.Outgoing, Timestamp: m.Timestamp, Received: m.Received,
		Hash: m.Hash, CopyHash: m.CopyHash, Read: true, Deleted: true, Timer: m.Timer, Expires: m.Expires}
	if err := w.save(tx, m); err != nil {
		return m, err
	}
	w.touch(c)
	return m, w.refreshLast(tx, c)
}

// delete removes a message altogether.
func (w *change) delete(tx *bbolt.Tx, m Message) error {
	c := w.contact(m.With)
	if !m.Outgoing && !m.Read && c.Unread > 0 {
		c.Unread--
	}
	c.Count -= min(c.Count, 1)
	c.Bytes -= min(c.Bytes, uint64(m.weight()))
	key := w.a.messageKey(m.Ref())
	if err := tx.Bucket(bucketMessages).Delete(key); err != nil {
		return err
	}
	if err := w.dropIdents(tx, m); err != nil {
		return err
	}
	if err := w.setTimer(tx, key, 0); err != nil {
		return err
	}
	if err := w.dropFiles(tx, m); err != nil {
		return err
	}
	w.touch(c)
	return w.refreshLast(tx, c)
}

// lastLook is how many lines back the latest text of a conversation is looked
// for, when the one that was it is gone.
const lastLook = 20

func (w *change) refreshLast(tx *bbolt.Tx, c *Contact) error {
	prefix := w.a.tag("conversation", c.ID[:])
	cursor := tx.Bucket(bucketMessages).Cursor()
	c.LastText = ""
	for k, v := seekLast(cursor, prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Prev() {
		m, err := w.a.message(k, v)
		if err != nil {
			return err
		}
		if m.Kind == KindText && !m.Deleted {
			c.LastTime, c.LastText = m.Shown(), m.summary()
			return nil
		}
		if m.Number+lastLook <= c.Next {
			break
		}
	}
	return nil
}

// makeRoom removes the oldest strangers until there is room for a message of
// one more.
func (w *change) makeRoom(tx *bbolt.Tx, m Message) error {
	for {
		strangers, size := 0, uint64(m.weight())
		var oldest *Contact
		all := maps.Clone(w.a.contacts)
		maps.Copy(all, w.touched)
		for id, c := range all {
			if c.Approved || c.Blocked || c.Shared || w.gone[id] {
				continue
			}
			size += c.Bytes
			if id == m.With {
				continue
			}
			strangers++
			if oldest == nil || c.LastTime < oldest.LastTime {
				oldest = c
			}
		}
		if oldest == nil || strangers < MaxStrangers && size <= MaxStrangersBytes {
			return nil
		}
		if err := w.remove(tx, oldest.ID); err != nil {
			return err
		}
	}
}

// remove deletes a contact with its conversation.
func (w *change) remove(tx *bbolt.Tx, id account.ID) error {
	prefix := w.a.tag("conversation", id[:])
	var keys [][]byte
	var messages []Message
	cursor := tx.Bucket(bucketMessages).Cursor()
	for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		keys = append(keys, bytes.Clone(k))
		if m, err := w.a.message(k, v); err == nil {
			messages = append(messages, m)
		} else if !errors.Is(err, ErrDamaged) {
			return err
		}
	}
	for _, k := range keys {
		if err := tx.Bucket(bucketMessages).Delete(k); err != nil {
			return err
		}
		if err := w.setTimer(tx, k, 0); err != nil {
			return err
		}
	}
	for _, m := range messages {
		if err := w.dropIdents(tx, m); err != nil {
			return err
		}
		if err := w.dropFiles(tx, m); err != nil {
			return err
		}
	}
	delete(w.touched, id)
	w.gone[id] = true
	if err := tx.Bucket(bucketPictures).Delete(w.a.tag("picture", id[:])); err != nil {
		return err
	}
	return tx.Bucket(bucketContacts).Delete(w.a.tag("contact", id[:]))
}
