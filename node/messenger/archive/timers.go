package archive

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

// maxExpire bounds the messages that one step deletes.
const maxExpire = 1000

func (a *Archive) loadTimers(tx *bbolt.Tx) error {
	return tx.Bucket(bucketTimers).ForEach(func(k, v []byte) error {
		t, err := a.open(bucketTimers, k, v)
		if err != nil || len(t) != 8 {
			return ErrDamaged
		}
		a.timers[string(k)] = int64(binary.BigEndian.Uint64(t))
		return nil
	})
}

// setTimer makes the message under that key disappear at a time, 0 for never.
func (w *change) setTimer(tx *bbolt.Tx, key []byte, due int64) error {
	k := string(key)
	before, ok := w.timers[k]
	if !ok {
		before = w.a.timers[k]
	}
	if before == due {
		return nil
	}
	w.timers[k] = due
	if due == 0 {
		return tx.Bucket(bucketTimers).Delete(key)
	}
	return w.a.put(tx, bucketTimers, key, binary.BigEndian.AppendUint64(nil, uint64(due)))
}

// startTimer lets the clock of a message run until due, unless it runs already.
func (w *change) startTimer(tx *bbolt.Tx, m *Message, due int64) error {
	if m.Timer.Type == TimerOff || m.Expires != 0 {
		return nil
	}
	m.Expires = due
	return w.setTimer(tx, w.a.messageKey(m.Ref()), due)
}

// NextExpiry is when the next message disappears, in ms, or 0.
func (a *Archive) NextExpiry() (next int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, due := range a.timers {
		if next == 0 || due < next {
			next = due
		}
	}
	return next
}

// Expire deletes the messages whose time has come, at most a thousand, and
// returns what they were.
func (a *Archive) Expire() (Result, error) {
	return a.change(func(tx *bbolt.Tx, w *change) error {
		now := a.now().UnixMilli()
		n := 0
		for k, due := range a.timers {
			if due > now {
				continue
			}
			if n++; n > maxExpire {
				break
			}
			v := tx.Bucket(bucketMessages).Get([]byte(k))
			if v == nil {
				if err := w.setTimer(tx, []byte(k), 0); err != nil {
					return err
				}
				continue
			}
			m, err := a.message([]byte(k), v)
			if err != nil {
				return err
			}
			if err := w.delete(tx, m); err != nil {
				return err
			}
			w.changed(ChangedExpired, Message{With: m.With, Number: m.Number, Outgoing: m.Outgoing, Timestamp: m.Timestamp, Received: m.Received})
		}
		return nil
	})
}

// Unstarted returns messages that disappear after reading and were not read on this
// device: at most max of them.
func (a *Archive) Unstarted(max int) ([]Message, error) {
	var found []Message
	for _, c := range a.Contacts() {
		if c.Unread == 0 {
			continue
		}
		err := a.db.View(func(tx *bbolt.Tx) error {
			return a.eachUnread(tx, c.ID, c.Unread, func(m Message) {
				if m.Timer.Type == TimerAfterRead && m.Expires == 0 && m.Hash != "" && len(found) < max {
					found = append(found, m)
				}
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// eachUnread goes through the last so many unread messages of a conversation, the
// latest first.
func (a *Archive) eachUnread(tx *bbolt.Tx, with account.ID, count uint32, f func(Message)) error {
	prefix := a.tag("conversation", with[:])
	cursor := tx.Bucket(bucketMessages).Cursor()
	for k, v := seekLast(cursor, prefix); k != nil && bytes.HasPrefix(k, prefix) && count > 0; k, v = cursor.Prev() {
		m, err := a.message(k, v)
		if err != nil {
			return err
		}
		if !m.Read && !m.Outgoing {
			count--
			f(m)
		}
	}
	return nil
}

// ReadElsewhere is for messages that another device of the owner has read: they
// count as read, and disappear when they do there, in ms, or before.
func (a *Archive) ReadElsewhere(ends map[Ref]int64) (Result, error) {
	return a.change(func(tx *bbolt.Tx, w *change) error {
		for ref, end := range ends {
			m, _, err := a.lookUp(tx, ref)
			if err != nil {
				if err = absent(err); err != nil {
					return err
				}
				continue
			}
			if m.Outgoing || m.Deleted || m.Expires != 0 && m.Expires <= end {
				continue
			}
			if m.Expires != 0 { // it was not known better
				m.Expires = end
				if err := w.setTimer(tx, a.messageKey(ref), end); err != nil {
					return err
				}
			}
			if c := w.contact(m.With); !m.Read && c.Unread > 0 {
				c.Unread--
				w.touch(c)
			}
			m.Read = true
			if err := w.startTimer(tx, &m, end); err != nil {
				return err
			}
			if err := w.save(tx, m); err != nil {
				return err
			}
			w.changed(ChangedRead, m)
		}
		return nil
	})
}
