package archive

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

// A closed group is a conversation like those with people: its [Contact] has the
// group's ID, and its messages say in From who wrote them. What package group knows
// of it lies beside, in a [Group], and changes in one step with the messages that
// were read with it: after a crash the same messages are fetched again, and none
// twice.

// Group is what this device keeps of a closed group, whose secrets are in it.
type Group struct {
	ID   account.ID
	Dump []byte // what group.Load restores; nil before anything is known
	// Last says where retrieving goes on: the hash by node and namespace.
	Last map[string]string
	// Waiting says that there were messages that no key opened. They are nowhere
	// but in the swarm, so that retrieving begins anew after a restart.
	Waiting bool
	Leaving bool  // as soon as the others have been told, the group is forgotten
	Over    Over  // why nothing more comes
	Renewed int64 // when the lifetimes of keys and configurations were extended, ms
	// By is who invites the owner, or promoted them, and what they call themselves.
	By     account.ID `json:",omitzero"`
	ByName string     `json:",omitempty"`

	// Names are what members call themselves.
	Names map[account.ID]string `json:",omitempty"`
	// Erased are the members of whom everything that was sent before then, in ms,
	// was deleted, and Before is that of everybody, FilesBefore of messages with files.
	Erased      map[account.ID]int64 `json:",omitempty"`
	Before      int64                `json:",omitempty"`
	FilesBefore int64                `json:",omitempty"`
}

// Over is why nothing more comes from a group.
type Over uint8

// The values of Over.
const (
	NotOver Over = iota
	Kicked
	Destroyed
)

// Face is how a group shows in lists.
type Face struct {
	Name       string
	PictureURL string // with PictureKey, 64 hexadecimal digits, or both are empty
	PictureKey string
	Timer      Timer
}

// Invite is an invitation to a group, or a promotion to be its admin, which somebody
// sent one to one. It was checked.
type Invite struct {
	Group account.ID
	Name  string // of the group
	Auth  []byte // for a member
	Seed  []byte // for an admin
	By    account.ID
	// ByName is what the sender calls themselves, or nothing.
	ByName string
}

// Erasing deletes messages of a group.
type Erasing struct {
	Hashes  []string     // of messages; only those of the sender unless ByAdmin
	Members []account.ID // everything of theirs that was sent before
	ByAdmin bool
}

const maxErased = 2_000 // members of a group whose messages were deleted

func isGroup(id account.ID) bool { return id.Prefix() == account.PrefixGroup }

// Groups returns all groups that this device keeps something of.
func (a *Archive) Groups() (list []Group, err error) {
	err = a.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketGroups).ForEach(func(k, v []byte) error {
			var g Group
			if err := a.decode(bucketGroups, k, v, &g); err != nil {
				return fmt.Errorf("a group: %w", err)
			}
			list = append(list, g)
			return nil
		})
	})
	return list, err
}

// GroupStep is what changes together with a [Group].
type GroupStep struct {
	Face    *Face      // how it shows from now on; nil for as before
	Items   []Incoming // what was read; it may change what was erased of the group
	Parcels []Parcel   // for the outbox
	// List changes the account's list of groups; nil for nothing.
	List func(*Configs) error
}

// KeepGroup keeps a group and does the rest of a step, all of it or nothing. A group
// that has never had a face is no conversation yet.
func (a *Archive) KeepGroup(g *Group, step GroupStep) (Result, error) {
	return a.change(func(tx *bbolt.Tx, w *change) error {
		if step.List != nil {
			if err := step.List(w.configs()); err != nil {
				return err
			}
		}
		if step.Face != nil {
			w.face(g.ID, *step.Face)
		}
		for _, in := range step.Items {
			if in.Hash != "" {
				fresh, err := w.see(tx, in.Hash)
				if err != nil {
					return err
				}
				if !fresh {
					continue
				}
			}
			if err := w.takeOfGroup(tx, g, in); err != nil {
				return err
			}
		}
		if w.seen >= maxSeen {
			left, err := a.forgetSeen(tx)
			if err != nil {
				return err
			}
			w.seen = left
		}
		if err := w.enqueue(tx, nil, step.Parcels...); err != nil {
			return err
		}
		return a.encode(tx, bucketGroups, a.tag("group", g.ID[:]), g)
	})
}

func (w *change) face(id account.ID, f Face) {
	c := w.contact(id)
	before := *c
	c.Approved = true
	if c.LastTime == 0 {
		c.LastTime = w.a.now().UnixMilli()
	}
	c.Profile, c.PictureURL, c.PictureKey, c.Timer = f.Name, f.PictureURL, f.PictureKey, f.Timer
	if *c != before {
		w.touch(c)
	}
}

// takeOfGroup does what one message of a group says.
func (w *change) takeOfGroup(tx *bbolt.Tx, g *Group, in Incoming) error {
	if in.With != g.ID {
		return nil // only seen
	}
	if in.Profile != nil {
		if author := w.contact(in.From); author.Approved && !author.Blocked {
			w.profile(author, in.Sent, *in.Profile)
		}
		in.Profile = nil
	}
	if m := in.Message; m != nil && g.erased(*m) {
		return nil
	}
	if in.Erase != nil {
		return w.eraseOfGroup(tx, g, in)
	}
	return w.take(tx, in)
}

// erased reports whether a message that comes late was deleted with others.
func (g *Group) erased(m Message) bool {
	return m.Timestamp < g.Before || m.Timestamp < g.FilesBefore && len(m.Attachments) > 0 ||
		!m.Outgoing && m.Timestamp < g.Erased[m.From]
}

func (w *change) eraseOfGroup(tx *bbolt.Tx, g *Group, in Incoming) error {
	for _, hash := range in.Erase.Hashes {
		number, ok := w.a.numberAt(tx, w.a.hashIdent(g.ID, hash))
		if !ok {
			err := w.orphan(tx, w.a.hashIdent(g.ID, hash), func(o *orphan) {
				o.By, o.ByAdmin, o.Before = in.From, in.Erase.ByAdmin, in.Sent
			})
			if err != nil {
				return err
			}
			continue
		}
		m, _, err := w.a.lookUp(tx, Ref{g.ID, number})
		if err != nil {
			if err = absent(err); err != nil {
				return err
			}
			continue
		}
		own := m.Outgoing == in.Own && m.From == in.From
		if m.Hash != hash || !own && !in.Erase.ByAdmin || m.Timestamp >= in.Sent {
			continue
		}
		if err := w.eraseOne(tx, m, !own); err != nil {
			return err
		}
	}
	if !in.Erase.ByAdmin || len(in.Erase.Members) == 0 {
		return nil
	}
	if g.Erased == nil || len(g.Erased)+len(in.Erase.Members) > maxErased {
		g.Erased = make(map[account.ID]int64)
	}
	for _, id := range in.Erase.Members {
		g.Erased[id] = max(g.Erased[id], in.Sent)
	}
	return w.eachOf(tx, g.ID, func(m Message) error {
		if m.Outgoing || m.Timestamp >= in.Sent || !slices.Contains(in.Erase.Members, m.From) {
			return nil
		}
		return w.eraseOne(tx, m, true)
	})
}

func (w *change) eraseOne(tx *bbolt.Tx, m Message, byAdmin bool) error {
	if m.Deleted || m.Kind != KindText {
		return nil
	}
	if m.Outgoing {
		if err := w.cancel(tx, m.Ref()); err != nil {
			return err
		}
	}
	m, err := w.erase(tx, m)
	if err != nil {
		return err
	}
	if byAdmin {
		m.ByAdmin = true
		if err := w.save(tx, m); err != nil {
			return err
		}
	}
	w.changed(ChangedUnsent, m)
	return nil
}

// eachOf goes through the messages of a conversation; f may change them.
func (w *change) eachOf(tx *bbolt.Tx, with account.ID, f func(Message) error) error {
	prefix := w.a.tag("conversation", with[:])
	var keys [][]byte
	cursor := tx.Bucket(bucketMessages).Cursor()
	for k, _ := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = cursor.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		m, err := w.a.message(k, tx.Bucket(bucketMessages).Get(k))
		if err != nil {
			return err
		}
		if err := f(m); err != nil {
			return err
		}
	}
	return nil
}

// DeleteBefore deletes what was sent to a group before a time, and messages with
// files that were sent before another, in ms, for good.
func (a *Archive) DeleteBefore(g *Group, before, filesBefore int64) (Result, error) {
	return a.change(func(tx *bbolt.Tx, w *change) error {
		g.Before, g.FilesBefore = before, filesBefore
		err := w.eachOf(tx, g.ID, func(m Message) error {
			if m.Timestamp >= before && (m.Timestamp >= filesBefore || len(m.Attachments) == 0) || m.Kind != KindText {
				return nil
			}
			if m.Outgoing {
				if err := w.cancel(tx, m.Ref()); err != nil {
					return err
				}
			}
			if err := w.delete(tx, m); err != nil {
				return err
			}
			w.changed(ChangedExpired, Message{With: m.With, From: m.From, Number: m.Number, Outgoing: m.Outgoing, Timestamp: m.Timestamp, Received: m.Received})
			return nil
		})
		if err != nil {
			return err
		}
		return a.encode(tx, bucketGroups, a.tag("group", g.ID[:]), g)
	})
}

// EraseOfGroup erases one message of a group on this device, as its writer, when it
// is the owner's, or as an admin.
func (a *Archive) EraseOfGroup(r Ref) (m Message, result Result, err error) {
	result, err = a.change(func(tx *bbolt.Tx, w *change) error {
		if m, _, err = a.lookUp(tx, r); err != nil {
			return err
		}
		if m.Deleted || m.Kind != KindText {
			return ErrNoMessage
		}
		if err := w.eraseOne(tx, m, !m.Outgoing); err != nil {
			return err
		}
		m, _, err = a.lookUp(tx, r)
		return err
	})
	return m, result, err
}

// ForgetGroup deletes a group with its conversation and what waits to be sent to it,
// and takes it off the account's list of groups.
func (a *Archive) ForgetGroup(id account.ID) error {
	_, err := a.change(func(tx *bbolt.Tx, w *change) error {
		if _, err := w.configs().Groups.Remove(id); err != nil {
			return err
		}
		var ids []uint64
		err := tx.Bucket(bucketOutbox).ForEach(func(k, v []byte) error {
			p, err := a.parcel(k, v)
			if err == nil && p.Kind == ParcelStore && p.To == id {
				ids = append(ids, p.ID)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, parcel := range ids {
			if err := w.takeOut(tx, parcelKey(parcel)); err != nil {
				return err
			}
		}
		if err := w.remove(tx, id); err != nil {
			return err
		}
		return tx.Bucket(bucketGroups).Delete(a.tag("group", id[:]))
	})
	return err
}

// hashIdent finds a message of a group by its hash.
func (a *Archive) hashIdent(with account.ID, hash string) []byte {
	return a.tag("group hash", with[:], []byte(hash))
}

// rehash gives a message the hash that it has in the swarm now.
func (w *change) rehash(tx *bbolt.Tx, m *Message, hash string) error {
	if m.Hash == hash || !isGroup(m.With) {
		m.Hash = hash
		return nil
	}
	if err := w.dropIdents(tx, *m); err != nil {
		return err
	}
	m.Hash = hash
	return w.putIdents(tx, *m)
}

// adoptByHash erases a message of a group that comes after word that it was deleted.
func (w *change) adoptByHash(tx *bbolt.Tx, m *Message) error {
	if !isGroup(m.With) || m.Hash == "" || m.Kind != KindText || m.Deleted {
		return nil
	}
	o, ok, err := w.takeOrphan(tx, w.a.hashIdent(m.With, m.Hash))
	if err != nil || !ok {
		return err
	}
	own := o.By == m.From
	if !own && !o.ByAdmin || m.Timestamp >= o.Before {
		return nil
	}
	*m = Message{With: m.With, From: m.From, Outgoing: m.Outgoing, Timestamp: m.Timestamp, Received: m.Received,
		Hash: m.Hash, CopyHash: m.CopyHash, Read: true, Deleted: true, ByAdmin: !own, Timer: m.Timer, Expires: m.Expires}
	return nil
}
