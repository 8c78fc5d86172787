package archive

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

// Bounds on what strangers can put here. When they are reached the stranger
// whose conversation is oldest makes room for the new one: the newest is what the
// owner has not seen yet.
const (
	MaxStrangers      = 100
	MaxFromStranger   = 50      // messages of one stranger; further ones are left out
	MaxStrangersBytes = 8 << 20 // text of all strangers together

	previewRunes = 200
	keepSeen     = 16 * 24 * time.Hour // longer than a message lives in namespace 0
	maxSeen      = 50_000
	maxLast      = 64
)

// Message is one message of a conversation.
type Message struct {
	With      account.ID // the other side
	Outgoing  bool
	Text      string
	Timestamp int64 // sent time, ms
	Hash      string
	Read      bool
}

// Incoming is one message that a retrieve brought.
type Incoming struct {
	Hash string
	// Message is nil for one that is only to be remembered as seen: unreadable,
	// or of a kind that is not shown.
	Message    *Message
	Unreadable bool // to be counted
	// Profile is what the sender calls itself and since when, in seconds.
	Profile     string
	ProfileTime int64
}

// Place is where a retrieve goes on: a node and a namespace.
type Place struct {
	Node      [32]byte
	Namespace int16
}

// Seen tells for each hash whether its message was received before.
func (a *Archive) Seen(hashes []string) []bool {
	seen := make([]bool, len(hashes))
	// A read that fails leaves false, and the message is then found to be there
	// when it is added.
	_ = a.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketSeen)
		for i, h := range hashes {
			seen[i] = b.Get(a.tag("seen", []byte(h))) != nil
		}
		return nil
	})
	return seen
}

// Last returns the hash after which to go on, "" for the beginning.
func (a *Archive) Last(p Place) string {
	var last string
	_ = a.db.View(func(tx *bbolt.Tx) error {
		key := a.placeTag(p)
		if v, err := a.open(bucketLast, key, tx.Bucket(bucketLast).Get(key)); err == nil {
			last = string(v)
		}
		return nil
	})
	return last
}

func (a *Archive) placeTag(p Place) []byte {
	return a.tag("last", p.Node[:], binary.BigEndian.AppendUint16(nil, uint16(p.Namespace)))
}

// Receive adds what a retrieve brought, and where the next one goes on, in one
// step: after a crash either all of it is there or the node is asked again. It
// returns the messages that are new, those of strangers over their bounds left
// out, and the number left out.
func (a *Archive) Receive(p Place, last string, items []Incoming) (added []Message, refused int, err error) {
	if len(items) == 0 && (last == "" || last == a.Last(p)) {
		return nil, 0, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	work := newChange(a)
	seen := a.seen
	unreadable := uint32(0)
	err = a.db.Update(func(tx *bbolt.Tx) error {
		for _, in := range items {
			key := a.tag("seen", []byte(in.Hash))
			if tx.Bucket(bucketSeen).Get(key) != nil {
				continue
			}
			if err := a.put(tx, bucketSeen, key, binary.BigEndian.AppendUint64(nil, uint64(a.now().Unix()))); err != nil {
				return err
			}
			a.seen++
			if in.Unreadable {
				unreadable++
			}
			if in.Message == nil {
				continue
			}
			switch ok, err := work.add(tx, *in.Message, in); {
			case err != nil:
				return err
			case ok:
				added = append(added, *in.Message)
			default:
				refused++
			}
		}
		if a.seen >= maxSeen {
			if err := a.forgetSeen(tx); err != nil {
				return err
			}
		}
		if unreadable > 0 {
			total := binary.BigEndian.AppendUint32(nil, a.unreadable(tx)+unreadable)
			if err := a.put(tx, bucketMeta, metaUnreadable, total); err != nil {
				return err
			}
		}
		if last != "" {
			if err := a.putLast(tx, p, last); err != nil {
				return err
			}
		}
		return work.finish(tx)
	})
	if err != nil {
		a.seen = seen
		return nil, 0, err
	}
	work.publish()
	return added, refused - work.doubles, nil
}

// Sent adds a message that the owner sent and reports whether it was new: a note
// to self may have come back from the swarm before.
func (a *Archive) Sent(m Message) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	work := newChange(a)
	added := false
	seen := a.seen
	err := a.db.Update(func(tx *bbolt.Tx) (err error) {
		c := work.contact(m.With)
		c.Known = true
		work.touched[m.With] = c
		if added, err = work.add(tx, m, Incoming{}); err != nil {
			return err
		}
		if m.Timestamp > a.lastSent(tx) {
			if err := a.put(tx, bucketMeta, metaStamp, binary.BigEndian.AppendUint64(nil, uint64(m.Timestamp))); err != nil {
				return err
			}
		}
		return work.finish(tx)
	})
	if err != nil {
		a.seen = seen
		return false, err
	}
	work.publish()
	return added, nil
}

// Messages returns the newest messages of a conversation, the oldest of them
// first: at most limit, and no more than maxBytes of text. "Newest" is by
// arrival, so that a message that comes late is seen; the order is by sent time.
func (a *Archive) Messages(with account.ID, limit, maxBytes int) ([]Message, error) {
	var list []Message
	size := 0
	err := a.db.View(func(tx *bbolt.Tx) error {
		prefix := a.tag("conversation", with[:])
		c := tx.Bucket(bucketMessages).Cursor()
		for k, v := seekLast(c, prefix); k != nil && bytes.HasPrefix(k, prefix) && len(list) < limit; k, v = c.Prev() {
			var m Message
			if err := a.decode(bucketMessages, k, v, &m); err != nil {
				return err
			}
			if size += len(m.Text); size > maxBytes && len(list) > 0 {
				break
			}
			list = append(list, m)
		}
		return nil
	})
	slices.Reverse(list)
	slices.SortStableFunc(list, func(x, y Message) int { return int(min(max(x.Timestamp-y.Timestamp, -1), 1)) })
	return list, err
}

// MarkRead marks a whole conversation read.
func (a *Archive) MarkRead(with account.ID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.contactOrNew(with)
	if c.Unread == 0 {
		return nil
	}
	err := a.db.Update(func(tx *bbolt.Tx) error {
		prefix := a.tag("conversation", with[:])
		changed := make(map[string]Message)
		cursor := tx.Bucket(bucketMessages).Cursor()
		for k, v := seekLast(cursor, prefix); k != nil && bytes.HasPrefix(k, prefix) && c.Unread > 0; k, v = cursor.Prev() {
			var m Message
			if err := a.decode(bucketMessages, k, v, &m); err != nil {
				return err
			}
			if !m.Read && !m.Outgoing {
				m.Read = true
				changed[string(k)] = m
				c.Unread--
			}
		}
		c.Unread = 0
		for k, m := range changed {
			if err := a.encode(tx, bucketMessages, []byte(k), m); err != nil {
				return err
			}
		}
		return a.putContact(tx, &c)
	})
	if err == nil {
		a.contacts[with] = &c
	}
	return err
}

// seekLast moves to the last key that can begin with prefix.
func seekLast(c *bbolt.Cursor, prefix []byte) (k, v []byte) {
	after := append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, 9)...)
	if k, _ := c.Seek(after); k == nil {
		return c.Last()
	}
	return c.Prev()
}

// change collects what one transaction does to contacts, so that the cache
// changes only when it is committed.
type change struct {
	a       *Archive
	touched map[account.ID]*Contact
	gone    map[account.ID]bool
	doubles int // messages that were there already
}

func newChange(a *Archive) *change {
	return &change{a: a, touched: make(map[account.ID]*Contact), gone: make(map[account.ID]bool)}
}

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

// add stores a message unless it is there already or a stranger is over the
// bounds.
func (w *change) add(tx *bbolt.Tx, m Message, in Incoming) (bool, error) {
	ident := w.ident(m)
	if tx.Bucket(bucketIdents).Get(ident) != nil {
		w.doubles++
		return false, nil
	}
	c := w.contact(m.With)
	if m.Outgoing {
		c.Known = true
	}
	if !c.Known {
		if c.Count >= MaxFromStranger {
			return false, nil
		}
		if err := w.makeRoom(tx, m); err != nil {
			return false, err
		}
	}
	key := binary.BigEndian.AppendUint64(w.a.tag("conversation", m.With[:]), c.Next)
	if err := w.a.encode(tx, bucketMessages, key, m); err != nil {
		return false, err
	}
	if err := w.a.put(tx, bucketIdents, ident, nil); err != nil {
		return false, err
	}
	c.Next++
	c.Count++
	c.Bytes += uint64(len(m.Text))
	if m.Timestamp >= c.LastTime || c.Count == 1 {
		c.LastTime, c.LastText = m.Timestamp, preview(m.Text)
	}
	if !m.Outgoing && !m.Read {
		c.Unread++
	}
	if in.Profile != "" && (in.ProfileTime > c.ProfileTime || c.Profile == "") {
		c.Profile, c.ProfileTime = in.Profile, in.ProfileTime
	}
	w.touched[m.With] = c
	delete(w.gone, m.With)
	return true, nil
}

// ident names a message by conversation, sender and sent time, which is how
// copies under another hash are recognised.
func (w *change) ident(m Message) []byte {
	side := []byte{0}
	if m.Outgoing {
		side[0] = 1
	}
	return w.a.tag("ident", m.With[:], side, binary.BigEndian.AppendUint64(nil, uint64(m.Timestamp)))
}

// makeRoom removes the oldest strangers until there is room for a message of
// one more.
func (w *change) makeRoom(tx *bbolt.Tx, m Message) error {
	for {
		strangers, size := 0, uint64(len(m.Text))
		var oldest *Contact
		all := maps.Clone(w.a.contacts)
		maps.Copy(all, w.touched)
		for id, c := range all {
			if c.Known || w.gone[id] {
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
	var keys, idents [][]byte
	cursor := tx.Bucket(bucketMessages).Cursor()
	for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		keys = append(keys, bytes.Clone(k))
		var m Message
		if w.a.decode(bucketMessages, k, v, &m) == nil {
			idents = append(idents, w.ident(m))
		}
	}
	for _, k := range keys {
		if err := tx.Bucket(bucketMessages).Delete(k); err != nil {
			return err
		}
	}
	for _, k := range idents {
		if err := tx.Bucket(bucketIdents).Delete(k); err != nil {
			return err
		}
	}
	delete(w.touched, id)
	w.gone[id] = true
	return tx.Bucket(bucketContacts).Delete(w.a.tag("contact", id[:]))
}

func (w *change) finish(tx *bbolt.Tx) error {
	for _, c := range w.touched {
		if err := w.a.putContact(tx, c); err != nil {
			return err
		}
	}
	return nil
}

func (w *change) publish() {
	for id := range w.gone {
		delete(w.a.contacts, id)
	}
	maps.Copy(w.a.contacts, w.touched)
}

// putLast bounds the places that are remembered: a swarm has about ten members,
// so that more are left over from former swarms.
func (a *Archive) putLast(tx *bbolt.Tx, p Place, last string) error {
	key := a.placeTag(p)
	b := tx.Bucket(bucketLast)
	if b.Get(key) == nil {
		var keys [][]byte
		if err := b.ForEach(func(k, _ []byte) error { keys = append(keys, bytes.Clone(k)); return nil }); err != nil {
			return err
		}
		if len(keys) >= maxLast {
			for _, k := range keys {
				if err := b.Delete(k); err != nil {
					return err
				}
			}
		}
	}
	return a.put(tx, bucketLast, key, []byte(last))
}

// forgetSeen removes hashes of messages that no node keeps any more and, when
// that is not enough, the oldest until there is some room again.
func (a *Archive) forgetSeen(tx *bbolt.Tx) error {
	type entry struct {
		key []byte
		at  int64
	}
	var entries []entry
	b := tx.Bucket(bucketSeen)
	err := b.ForEach(func(k, v []byte) error {
		e := entry{key: bytes.Clone(k)}
		if t, err := a.open(bucketSeen, k, v); err == nil && len(t) == 8 {
			e.at = int64(binary.BigEndian.Uint64(t))
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(x, y entry) int { return int(min(max(x.at-y.at, -1), 1)) })
	keep := a.now().Add(-keepSeen).Unix()
	left := len(entries)
	for _, e := range entries {
		if e.at >= keep && left < maxSeen*9/10 {
			break
		}
		if err := b.Delete(e.key); err != nil {
			return err
		}
		left--
	}
	a.seen = left
	return nil
}

// preview is the beginning of a text, for lists.
func preview(text string) string {
	if utf8.RuneCountInString(text) <= previewRunes {
		return text
	}
	n := 0
	for i := range text {
		if n == previewRunes {
			return text[:i]
		}
		n++
	}
	return text
}
