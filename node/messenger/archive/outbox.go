package archive

import (
	"encoding/binary"
	"errors"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

// MaxOutbox is how many parcels may wait at a time.
const MaxOutbox = 10_000

// ParcelKind says what is to be done with a parcel.
type ParcelKind uint8

// The kinds of parcels.
const (
	ParcelStore   ParcelKind = iota // store Data in the swarm of To
	ParcelDelete                    // delete Hashes from the own swarm
	ParcelShorten                   // let Hashes end at Expiry in the own swarm
)

// Parcel is something that has to reach a swarm. It stays in the outbox, over
// restarts, until [Archive.Delivered] or [Archive.Failed] takes it out. Parcels
// for one account are delivered in the order of their IDs.
type Parcel struct {
	ID   uint64 `json:"-"`
	Kind ParcelKind
	To   account.ID // zero for the own swarm

	// Content is what is to be said, a protobuf, and stays until Data, the bytes
	// that are stored, is made from it. Data never changes once a node may have
	// it: stored twice, the same bytes are one message.
	Content   []byte `json:",omitempty"`
	Data      []byte `json:",omitempty"`
	Hash      string `json:",omitempty"` // of Data in the swarm of To
	Timestamp int64  `json:",omitempty"` // ms, inside Content
	TTL       int64  `json:",omitempty"` // ms that nodes keep it
	Until     int64  `json:",omitempty"` // ms, when it is of no use any more; 0 = never
	// Own is set for a parcel to the own account or a group, which polling must not
	// take for news.
	Own bool `json:",omitempty"`
	// Copy is the Content of the copy for the own account, to be sent when this
	// is delivered.
	Copy []byte `json:",omitempty"`
	// Upload is the file that must be on the network before, kept by
	// [Archive.StageFile].
	Upload *Attachment `json:",omitempty"`
	// Track says that the parcel is the message Message, whose state it changes.
	Track   bool `json:",omitempty"`
	Message Ref  `json:",omitzero"`
	// Follows is the message that this is the copy of.
	Follows Ref `json:",omitzero"`

	// Fixed says that Content is signed together with its time, which must stay.
	Fixed bool `json:",omitempty"`

	Hashes []string `json:",omitempty"`
	Expiry int64    `json:",omitempty"` // ms
}

// enqueue puts parcels into the outbox. Those with Track become the parcel of m.
func (w *change) enqueue(tx *bbolt.Tx, m *Message, parcels ...Parcel) error {
	b := tx.Bucket(bucketOutbox)
	for _, p := range parcels {
		switch {
		case w.waiting < MaxOutbox:
		case p.Kind == ParcelStore:
			return ErrFull
		default:
			continue // a courtesy to the own swarm, where everything ends by itself
		}
		id, err := b.NextSequence()
		if err != nil {
			return err
		}
		p.ID = id
		if p.Track && m != nil {
			p.Message = m.Ref()
		}
		if err := w.putParcel(tx, p); err != nil {
			return err
		}
		if p.Own && p.Hash != "" {
			if _, err := w.see(tx, p.Hash); err != nil {
				return err
			}
		}
		if err := w.stamped(tx, p.Timestamp); err != nil {
			return err
		}
		w.waiting++
		w.result.Parcels = append(w.result.Parcels, Parcel{ID: p.ID, Kind: p.Kind, To: p.To, Message: p.Message, Track: p.Track, Upload: p.Upload})
	}
	return nil
}

func (w *change) putParcel(tx *bbolt.Tx, p Parcel) error {
	return w.a.encode(tx, bucketOutbox, parcelKey(p.ID), p)
}

func parcelKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// stamped remembers the latest time of an own message.
func (w *change) stamped(tx *bbolt.Tx, ms int64) error {
	if ms <= w.a.lastSent(tx) {
		return nil
	}
	return w.a.put(tx, bucketMeta, metaStamp, binary.BigEndian.AppendUint64(nil, uint64(ms)))
}

// Write adds a message of the owner to its conversation and its parcels to the
// outbox, in one step. Whoever is written to is approved. The errors are
// [ErrTimeTaken], [ErrFull] and those of the disk.
func (a *Archive) Write(m Message, parcels ...Parcel) (Message, Result, error) {
	r, err := a.change(func(tx *bbolt.Tx, w *change) error {
		if _, taken := a.ownAt(tx, m.Timestamp); taken {
			return ErrTimeTaken
		}
		added, ok, err := w.add(tx, m)
		if err != nil {
			return err
		}
		if !ok {
			return ErrTimeTaken
		}
		if added.Kind == KindTimer {
			c := w.touched[m.With]
			c.Timer, c.TimerSet = m.Timer, m.Timestamp
		}
		m = added
		w.result.Added = append(w.result.Added, m)
		if err := w.nameFiles(tx, m); err != nil {
			return err
		}
		if err := w.stamped(tx, m.Timestamp); err != nil {
			return err
		}
		return w.enqueue(tx, &m, parcels...)
	})
	return m, r, err
}

// React puts the owner's emoji on a message, or takes it away, together with the
// parcels that say so.
func (a *Archive) React(r Ref, reaction Reaction, parcels ...Parcel) (Message, Result, error) {
	var m Message
	result, err := a.change(func(tx *bbolt.Tx, w *change) (err error) {
		if m, _, err = a.lookUp(tx, r); err != nil {
			return err
		}
		if m.Deleted {
			return ErrNoMessage
		}
		if err := w.putReaction(tx, m, reaction); err != nil {
			return err
		}
		m, _, err = a.lookUp(tx, r)
		if err != nil {
			return err
		}
		return w.enqueue(tx, nil, parcels...)
	})
	return m, result, err
}

// Unsend erases an own message, takes what has not been delivered of it out of
// the outbox, and puts the parcels that ask others to erase it there.
func (a *Archive) Unsend(r Ref, parcels ...Parcel) (Message, Result, error) {
	var m Message
	result, err := a.change(func(tx *bbolt.Tx, w *change) (err error) {
		if m, _, err = a.lookUp(tx, r); err != nil {
			return err
		}
		if m.Deleted || !m.Outgoing {
			return ErrNoMessage
		}
		if err := w.cancel(tx, r); err != nil {
			return err
		}
		if m, err = w.erase(tx, m); err != nil {
			return err
		}
		w.changed(ChangedUnsent, m)
		if err := w.forgetCopy(tx, m); err != nil {
			return err
		}
		return w.enqueue(tx, nil, parcels...)
	})
	return m, result, err
}

// cancel takes the parcels of a message out of the outbox.
func (w *change) cancel(tx *bbolt.Tx, r Ref) error {
	b := tx.Bucket(bucketOutbox)
	var ids []uint64
	err := b.ForEach(func(k, v []byte) error {
		p, err := w.a.parcel(k, v)
		if err != nil {
			return err
		}
		if p.Track && p.Message == r || p.Follows == r {
			ids = append(ids, p.ID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := b.Delete(parcelKey(id)); err != nil {
			return err
		}
		w.waiting--
	}
	return nil
}

// Enqueue puts parcels into the outbox that belong to no message.
func (a *Archive) Enqueue(parcels ...Parcel) (Result, error) {
	return a.change(func(tx *bbolt.Tx, w *change) error { return w.enqueue(tx, nil, parcels...) })
}

// Waiting is the number of parcels in the outbox.
func (a *Archive) Waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting
}

// Outbox returns all parcels in their order, without their content.
func (a *Archive) Outbox() ([]Parcel, error) {
	var list []Parcel
	err := a.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketOutbox).ForEach(func(k, v []byte) error {
			p, err := a.parcel(k, v)
			if err != nil {
				return err
			}
			list = append(list, Parcel{ID: p.ID, Kind: p.Kind, To: p.To, Message: p.Message, Track: p.Track, Upload: p.Upload})
			return nil
		})
	})
	return list, err
}

// LastParcel is the ID of the newest parcel that was ever written, 0 before the
// first.
func (a *Archive) LastParcel() (id uint64, err error) {
	err = a.db.View(func(tx *bbolt.Tx) error {
		id = tx.Bucket(bucketOutbox).Sequence()
		return nil
	})
	return id, err
}

// Parcel returns one parcel, and false when it is not, or no longer, there.
func (a *Archive) Parcel(id uint64) (p Parcel, ok bool, err error) {
	err = a.db.View(func(tx *bbolt.Tx) (err error) {
		key := parcelKey(id)
		if v := tx.Bucket(bucketOutbox).Get(key); v != nil {
			ok = true
			p, err = a.parcel(key, v)
		}
		return err
	})
	return p, ok, err
}

func (a *Archive) parcel(k, v []byte) (Parcel, error) {
	var p Parcel
	if err := a.decode(bucketOutbox, k, v, &p); err != nil {
		return p, err
	}
	if len(k) != 8 {
		return p, ErrDamaged
	}
	p.ID = binary.BigEndian.Uint64(k)
	return p, nil
}

// Sealed writes down the bytes that a parcel has become, before any node gets
// them, and its time where that is another now. The message it is follows. ok is
// false when the parcel is no longer in the outbox. The error may be
// [ErrTimeTaken].
func (a *Archive) Sealed(p Parcel) (ok bool, r Result, err error) {
	r, err = a.change(func(tx *bbolt.Tx, w *change) error {
		key := parcelKey(p.ID)
		v := tx.Bucket(bucketOutbox).Get(key)
		if v == nil {
			return nil
		}
		ok = true
		before, err := a.parcel(key, v)
		if err != nil {
			return err
		}
		if p.Track {
			m, _, err := a.lookUp(tx, p.Message)
			if err != nil {
				return absent(err)
			}
			if p.Timestamp != before.Timestamp {
				if _, taken := a.ownAt(tx, p.Timestamp); taken {
					return ErrTimeTaken
				}
				if err := w.dropIdents(tx, m); err != nil {
					return err
				}
				m.Timestamp = p.Timestamp
				if err := w.putIdents(tx, m); err != nil {
					return err
				}
				if c := w.contact(m.With); m.Kind == KindText {
					c.LastTime = m.Timestamp
					w.touch(c)
				}
			}
			if err := w.rehash(tx, &m, p.Hash); err != nil {
				return err
			}
			if err := w.save(tx, m); err != nil {
				return err
			}
			w.changed(ChangedState, m)
		}
		if p.Own {
			if _, err := w.see(tx, p.Hash); err != nil {
				return err
			}
		}
		if err := w.stamped(tx, p.Timestamp); err != nil {
			return err
		}
		return w.putParcel(tx, p)
	})
	return ok, r, err
}

// Delivered takes a parcel out of the outbox that members of the swarm have
// confirmed, so many of so many, and puts the copy for the own account there in
// its place. One that is not there any more has been cancelled.
func (a *Archive) Delivered(id uint64, stored, swarm int, copied *Parcel) (Result, error) {
	return a.change(func(tx *bbolt.Tx, w *change) error {
		key := parcelKey(id)
		v := tx.Bucket(bucketOutbox).Get(key)
		if v == nil {
			return nil
		}
		p, err := a.parcel(key, v)
		if err != nil {
			return err
		}
		if err := w.takeOut(tx, key); err != nil {
			return err
		}
		if p.Track {
			if err := w.delivered(tx, p, stored, swarm, copied); err != nil {
				return err
			}
		}
		if copied == nil {
			return nil
		}
		return w.enqueue(tx, nil, *copied)
	})
}

func (w *change) delivered(tx *bbolt.Tx, p Parcel, stored, swarm int, copied *Parcel) error {
	m, _, err := w.a.lookUp(tx, p.Message)
	if err != nil {
		return absent(err)
	}
	if err := w.rehash(tx, &m, p.Hash); err != nil {
		return err
	}
	switch {
	case p.Own:
		m.CopyHash = p.Hash
	case copied != nil:
		m.CopyHash = copied.Hash
		copied.Follows = m.Ref()
	}
	if m.State != StateSeen {
		m.State = StateStored
	}
	m.Stored, m.Swarm, m.Failure = stored, swarm, ""
	from := w.a.now().UnixMilli()
	if m.Timer.Type == TimerAfterSend {
		from = m.Timestamp // as the recipient counts
	}
	if m.Kind == KindText && !m.Deleted {
		if err := w.startTimer(tx, &m, from+int64(m.Timer.Seconds)*1000); err != nil {
			return err
		}
	}
	if err := w.save(tx, m); err != nil {
		return err
	}
	w.changed(ChangedState, m)
	return nil
}

// Failed takes a parcel out of the outbox that will never arrive, and says why
// in its message.
func (a *Archive) Failed(id uint64, reason string) (Result, error) {
	return a.change(func(tx *bbolt.Tx, w *change) error {
		key := parcelKey(id)
		v := tx.Bucket(bucketOutbox).Get(key)
		if v == nil {
			return nil
		}
		p, err := a.parcel(key, v)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		if err := w.takeOut(tx, key); err != nil || !p.Track {
			return err
		}
		m, _, err := a.lookUp(tx, p.Message)
		if err != nil || m.State != StateWaiting {
			return absent(err)
		}
		m.State, m.Failure = StateFailed, reason
		if err := w.startTimer(tx, &m, a.now().UnixMilli()+int64(m.Timer.Seconds)*1000); err != nil {
			return err
		}
		if err := w.save(tx, m); err != nil {
			return err
		}
		w.changed(ChangedState, m)
		return nil
	})
}

func (w *change) takeOut(tx *bbolt.Tx, key []byte) error {
	w.waiting--
	return tx.Bucket(bucketOutbox).Delete(key)
}
