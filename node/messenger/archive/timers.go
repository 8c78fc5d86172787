package archive

import (
	"encoding/binary"

	"go.etcd.io/bbolt"
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
