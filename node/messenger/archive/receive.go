package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

// Bounds on what others can put here. When strangers reach theirs, the one whose
// conversation is oldest makes room for the new one: the newest is what the owner
// has not seen yet.
const (
	MaxStrangers      = 100
	MaxFromStranger   = 50      // messages of one stranger; further ones are left out
	MaxStrangersBytes = 8 << 20 // content of all strangers together

	maxReactions    = 20                  // emojis of one side on one message, those taken away included
	maxAllReactions = 500                 // emojis on one message of a group
	maxOrphans      = 500                 // messages that are not there yet and about which there is word
	keepSeen        = 16 * 24 * time.Hour // longer than a message lives in namespace 0
	maxSeen         = 50_000
	maxLast         = 2_048 // about ten members of a swarm, each with some namespaces
)

// Incoming is what one stored message of the own swarm amounts to. At most one of
// the pointers and Receipt is set, besides Profile.
type Incoming struct {
	Hash       string
	Unreadable bool // to be counted; nothing else is set

	// With is the conversation. Without one the hash is only remembered as seen.
	With account.ID
	From account.ID // who sent it, in a group; zero for the owner
	Own  bool       // from the own account, on another device or this one
	Sent int64      // ms

	Profile  *TheirProfile // of the sender, who is not the owner
	Message  *Message      // for the conversation With
	Reaction *Reacting
	Unsend   *Unsending
	Receipt  []int64 // sent times of own messages that were read
	Timer    *Timer  // of the conversation from now on; comes with Message
	Accepted bool    // the owner's request

	Erase  *Erasing // what an admin of the group, or a message's writer, wants deleted
	Invite *Invite  // to a group, one to one; for the caller
}

// TheirProfile is what somebody says about themselves.
type TheirProfile struct {
	Name       string // at most 100 bytes
	Since      int64  // seconds, 0 = they do not say
	PictureURL string // with PictureKey, or both are empty
	PictureKey string
}

// Reacting puts an emoji on a message of one side, or takes it away. Whoever
// sent it is the one who reacts.
type Reacting struct {
	Outgoing  bool       // the message is the owner's
	From      account.ID // whose it is, in a group; zero for the owner
	Timestamp int64
	Emoji     string
	Remove    bool
}

// Unsending deletes a message. An own device names no conversation for own
// messages; With is then not looked at.
type Unsending struct {
	Outgoing  bool
	Timestamp int64
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

// Receive does what a retrieve brought, and writes down where the next one goes
// on, in one step: after a crash either all of it is there or the node is asked
// again. What is there already, under the same hash or with the same sender and
// time, is left alone.
func (a *Archive) Receive(p Place, last string, items []Incoming) (Result, error) {
	if len(items) == 0 && (last == "" || last == a.Last(p)) {
		return Result{}, nil
	}
	return a.change(func(tx *bbolt.Tx, w *change) error {
		unreadable := uint32(0)
		for _, in := range items {
			new, err := w.see(tx, in.Hash)
			if err != nil {
				return err
			}
			if !new {
				continue
			}
			if in.Unreadable {
				unreadable++
				continue
			}
			if err := w.take(tx, in); err != nil {
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
		if unreadable > 0 {
			total := binary.BigEndian.AppendUint32(nil, a.unreadable(tx)+unreadable)
			if err := a.put(tx, bucketMeta, metaUnreadable, total); err != nil {
				return err
			}
		}
		if last != "" {
			return a.putLast(tx, p, last)
		}
		return nil
	})
}

// see remembers a hash and reports whether it is new.
func (w *change) see(tx *bbolt.Tx, hash string) (bool, error) {
	key := w.a.tag("seen", []byte(hash))
	if tx.Bucket(bucketSeen).Get(key) != nil {
		return false, nil
	}
	w.seen++
	return true, w.a.put(tx, bucketSeen, key, binary.BigEndian.AppendUint64(nil, uint64(w.a.now().Unix())))
}

// noteDropped remembers what was not taken because of a block, until no node keeps it
// any more: the time as in see, the sender, the hash.
func (w *change) noteDropped(tx *bbolt.Tx, in Incoming) error {
	note := binary.BigEndian.AppendUint64(nil, uint64(w.a.now().Unix()))
	return w.a.put(tx, bucketSeen, w.a.tag("seen", []byte(in.Hash)), append(append(note, in.With[:]...), in.Hash...))
}

// deleteDropped has the own swarm delete what somebody wrote during a block, so that
// it does not come to a device that the account gets after the block. Session's
// clients leave it there. It is for the device that ends the block: another one may
// not have heard of that yet when it drops something.
func (w *change) deleteDropped(tx *bbolt.Tx, from account.ID) error {
	var hashes []string
	err := tx.Bucket(bucketSeen).ForEach(func(k, v []byte) error {
		const whose = 8 // bytes of the time
		note, err := w.a.open(bucketSeen, k, v)
		if err == nil && len(note) > whose+len(from) && bytes.Equal(note[whose:whose+len(from)], from[:]) {
			hashes = append(hashes, string(note[whose+len(from):]))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for part := range slices.Chunk(hashes, maxHashes) {
		if err := w.enqueue(tx, nil, Parcel{Kind: ParcelDelete, Hashes: part}); err != nil {
			return err
		}
	}
	return nil
}

func (w *change) take(tx *bbolt.Tx, in Incoming) error {
	if in.With == (account.ID{}) && in.Unsend == nil {
		return nil
	}
	c := w.contact(in.With)
	if c.Blocked && !in.Own {
		if in.Message != nil || in.Reaction != nil || in.Unsend != nil {
			return w.noteDropped(tx, in)
		}
		return nil
	}
	trusted := in.Own || c.Approved
	known := in.Accepted && c.ApprovedMe // what this says is no news
	if in.Message != nil && !known && (trusted || in.Message.Kind == KindText) {
		m, ok, err := w.add(tx, *in.Message)
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		c = w.touched[in.With]
		if !m.Deleted { // by a word that was faster
			w.result.Added = append(w.result.Added, m)
		}
		if in.Timer != nil && trusted && in.Sent > c.TimerSet {
			c.Timer, c.TimerSet = *in.Timer, in.Sent
		}
	} else if !trusted {
		return nil // a stranger can write, and nothing else
	}
	if in.Profile != nil && !in.Own {
		w.profile(c, in.Sent, *in.Profile)
	}
	switch {
	case in.Reaction != nil:
		return w.react(tx, in)
	case in.Unsend != nil:
		return w.unsend(tx, in)
	case len(in.Receipt) > 0:
		return w.receipt(tx, in)
	case in.Accepted && !c.ApprovedMe:
		c.ApprovedMe = true
		w.touch(c)
	}
	return nil
}

// profile takes a newer profile only. Clients that say no time are believed in
// the order of their messages, until they say one.
func (w *change) profile(c *Contact, sent int64, p TheirProfile) {
	if p.Since < c.ProfileTime || p.Since == c.ProfileTime && (p.Since > 0 || sent < c.ProfileSent) {
		return
	}
	before := *c
	if p.Name != "" {
		c.Profile = p.Name
	}
	c.PictureURL, c.PictureKey = p.PictureURL, p.PictureKey
	c.ProfileTime, c.ProfileSent = p.Since, sent
	if *c != before {
		w.touch(c)
	}
}

func (w *change) react(tx *bbolt.Tx, in Incoming) error {
	r := Reaction{Emoji: in.Reaction.Emoji, Mine: in.Own, By: in.From, At: in.Sent, Gone: in.Reaction.Remove}
	ident := w.a.identOf(in.With, in.Reaction.From, in.Reaction.Outgoing, in.Reaction.Timestamp)
	number, ok := w.a.numberAt(tx, ident)
	if !ok {
		return w.orphan(tx, ident, func(o *orphan) {
			o.Reactions, _ = merge(o.Reactions, r)
		})
	}
	m, _, err := w.a.lookUp(tx, Ref{in.With, number})
	if err != nil {
		return absent(err)
	}
	return w.putReaction(tx, m, r)
}

func (w *change) putReaction(tx *bbolt.Tx, m Message, r Reaction) error {
	var ok bool
	if m.Reactions, ok = merge(m.Reactions, r); !ok || m.Deleted {
		return nil
	}
	if err := w.save(tx, m); err != nil {
		return err
	}
	w.changed(ChangedReaction, m)
	return nil
}

// merge adds the word of one side on one emoji. The latest word counts, in
// whatever order they come. ok is false when nothing changes.
func merge(list []Reaction, r Reaction) (merged []Reaction, ok bool) {
	list = slices.Clone(list)
	side := 0
	gone := -1
	for i, have := range list {
		if have.Mine != r.Mine || have.By != r.By {
			continue
		}
		if have.Emoji == r.Emoji {
			if r.At < have.At || r == have {
				return list, false
			}
			list[i] = r
			return list, true
		}
		side++
		if have.Gone && gone < 0 {
			gone = i
		}
	}
	if len(list) >= maxAllReactions && side < maxReactions && !r.Mine {
		return list, false
	}
	if side >= maxReactions {
		if gone < 0 {
			return list, false
		}
		list = slices.Delete(list, gone, gone+1)
	}
	return append(list, r), true
}

// unsend erases a message, here and in the own swarm.
func (w *change) unsend(tx *bbolt.Tx, in Incoming) error {
	with := in.With
	if in.Own && in.Unsend.Outgoing && !isGroup(in.With) {
		var ok bool
		if with, ok = w.a.ownAt(tx, in.Unsend.Timestamp); !ok {
			return nil
		}
	}
	if with == (account.ID{}) {
		return nil
	}
	ident := w.a.identOf(with, in.From, in.Unsend.Outgoing, in.Unsend.Timestamp)
	number, ok := w.a.numberAt(tx, ident)
	if !ok {
		return w.orphan(tx, ident, func(o *orphan) { o.Unsent = true })
	}
	m, _, err := w.a.lookUp(tx, Ref{with, number})
	if err != nil || m.Deleted || m.Kind != KindText {
		return absent(err)
	}
	if m, err = w.erase(tx, m); err != nil {
		return err
	}
	w.changed(ChangedUnsent, m)
	return w.forgetCopy(tx, m)
}

// forgetCopy has the own swarm delete what it keeps of a message.
func (w *change) forgetCopy(tx *bbolt.Tx, m Message) error {
	if isGroup(m.With) {
		return nil // its swarm is not the owner's; see package group
	}
	hash := m.Hash
	if m.Outgoing {
		hash = m.CopyHash
	}
	if hash == "" {
		return nil
	}
	return w.enqueue(tx, nil, Parcel{Kind: ParcelDelete, Hashes: []string{hash}})
}

func (w *change) receipt(tx *bbolt.Tx, in Incoming) error {
	for _, t := range in.Receipt {
		number, ok := w.a.numberOf(tx, in.With, true, t)
		if !ok {
			continue
		}
		m, _, err := w.a.lookUp(tx, Ref{in.With, number})
		if err != nil {
			if err = absent(err); err != nil {
				return err
			}
			continue
		}
		if m.State == StateSeen || m.Deleted || m.Kind != KindText {
			continue
		}
		m.State, m.Failure = StateSeen, ""
		if err := w.save(tx, m); err != nil {
			return err
		}
		w.changed(ChangedRead, m)
	}
	return nil
}

// absent forgives a message that is not there.
func absent(err error) error {
	if errors.Is(err, ErrNoMessage) {
		return nil
	}
	return err
}

// orphan is word about a message that is not there yet: members of a swarm may
// hand out messages in another order than they were sent in.
type orphan struct {
	At        int64 // seconds
	Unsent    bool  `json:",omitempty"`
	Reactions []Reaction
	// Of words that name a message of a group by its hash.
	By      account.ID `json:",omitzero"` // its writer, if they are who wants it deleted
	ByAdmin bool       `json:",omitempty"`
	Before  int64      `json:",omitempty"` // ms
}

func (w *change) orphan(tx *bbolt.Tx, ident []byte, f func(*orphan)) error {
	b := tx.Bucket(bucketOrphans)
	var o orphan
	if v := b.Get(ident); v != nil {
		if err := w.a.decode(bucketOrphans, ident, v, &o); err != nil {
			return err
		}
	} else {
		if w.orphans >= maxOrphans {
			if err := w.dropOrphans(tx); err != nil {
				return err
			}
		}
		w.orphans++
		o.At = w.a.now().Unix()
	}
	f(&o)
	return w.a.encode(tx, bucketOrphans, ident, o)
}

// dropOrphans forgets the older half.
func (w *change) dropOrphans(tx *bbolt.Tx) error {
	type entry struct {
		key []byte
		at  int64
	}
	var entries []entry
	b := tx.Bucket(bucketOrphans)
	err := b.ForEach(func(k, v []byte) error {
		var o orphan
		if err := w.a.decode(bucketOrphans, k, v, &o); err != nil {
			return err
		}
		entries = append(entries, entry{bytes.Clone(k), o.At})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(entries, func(x, y entry) int { return int(min(max(x.at-y.at, -1), 1)) })
	for _, e := range entries[:(len(entries)+1)/2] {
		if err := b.Delete(e.key); err != nil {
			return err
		}
	}
	w.orphans = len(entries) / 2
	return nil
}

// takeOrphan gives the word about a message that has come, and forgets it.
func (w *change) takeOrphan(tx *bbolt.Tx, key []byte) (o orphan, ok bool, err error) {
	b := tx.Bucket(bucketOrphans)
	v := b.Get(key)
	if v == nil {
		return o, false, nil
	}
	if err := w.a.decode(bucketOrphans, key, v, &o); err != nil {
		return o, false, err
	}
	w.orphans--
	return o, true, b.Delete(key)
}

// adopt applies what is known about a message that comes late.
func (w *change) adopt(tx *bbolt.Tx, ident []byte, m *Message) error {
	o, ok, err := w.takeOrphan(tx, ident)
	if err != nil || !ok {
		return err
	}
	if !o.Unsent {
		m.Reactions = o.Reactions
		return nil
	}
	*m = Message{With: m.With, From: m.From, Outgoing: m.Outgoing, Timestamp: m.Timestamp, Received: m.Received,
		Hash: m.Hash, CopyHash: m.CopyHash, Read: true, Deleted: true, Timer: m.Timer, Expires: m.Expires}
	return w.forgetCopy(tx, *m)
}

// MarkRead marks a whole conversation read. The clocks of messages that
// disappear after reading start, also in the own swarm. receipt makes what tells
// the sender, from the sent times of what was read; it may be nil.
func (a *Archive) MarkRead(with account.ID, receipt func(times []int64) (Parcel, error)) (Result, error) {
	if c, _ := a.Contact(with); c.Unread == 0 && !c.MarkedUnread {
		return Result{}, nil
	}
	return a.change(func(tx *bbolt.Tx, w *change) error {
		c := w.contact(with)
		var unread []Message
		if err := a.eachUnread(tx, with, c.Unread, func(m Message) { unread = append(unread, m) }); err != nil {
			return err
		}
		c.Unread, c.MarkedUnread = 0, false
		for _, m := range unread {
			c.LastRead = max(c.LastRead, m.Shown())
		}
		w.touch(c)
		now := a.now().UnixMilli()
		var times []int64
		shorten := make(map[int64][]string) // hashes by their new end
		for _, m := range unread {
			m.Read = true
			if m.Kind == KindText {
				times = append(times, m.Timestamp)
			}
			if m.Timer.Type == TimerAfterRead && m.Expires == 0 {
				if err := w.startTimer(tx, &m, now+int64(m.Timer.Seconds)*1000); err != nil {
					return err
				}
				shorten[m.Expires] = append(shorten[m.Expires], m.Hash)
			}
			if err := w.save(tx, m); err != nil {
				return err
			}
		}
		for expiry, hashes := range shorten {
			for part := range slices.Chunk(hashes, maxHashes) {
				if err := w.enqueue(tx, nil, Parcel{Kind: ParcelShorten, Hashes: part, Expiry: expiry, Until: expiry}); err != nil {
					return err
				}
			}
		}
		if receipt == nil || !c.Approved || c.Blocked {
			return nil
		}
		for part := range slices.Chunk(times, maxTimes) {
			p, err := receipt(part)
			if err != nil {
				return err
			}
			if err := w.enqueue(tx, nil, p); err != nil && !errors.Is(err, ErrFull) {
				return err
			}
		}
		return nil
	})
}

const (
	maxHashes = 100   // of one request to the own swarm
	maxTimes  = 1_000 // of one receipt
)

// putLast bounds the places that are remembered; more are left over from former
// swarms.
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
// that is not enough, the oldest until there is some room again. It returns the
// number left.
func (a *Archive) forgetSeen(tx *bbolt.Tx) (int, error) {
	type entry struct {
		key []byte
		at  int64
	}
	var entries []entry
	b := tx.Bucket(bucketSeen)
	err := b.ForEach(func(k, v []byte) error {
		e := entry{key: bytes.Clone(k)}
		if t, err := a.open(bucketSeen, k, v); err == nil && len(t) >= 8 {
			e.at = int64(binary.BigEndian.Uint64(t))
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return 0, err
	}
	slices.SortFunc(entries, func(x, y entry) int { return int(min(max(x.at-y.at, -1), 1)) })
	keep := a.now().Add(-keepSeen).Unix()
	left := len(entries)
	for _, e := range entries {
		if e.at >= keep && left < maxSeen*9/10 {
			break
		}
		if err := b.Delete(e.key); err != nil {
			return 0, err
		}
		left--
	}
	return left, nil
}
