package storage

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"hearth/node/account"
)

// Affected is a message that a change of many reached.
type Affected struct {
	Namespace int16
	Hash      string
}

// Effect is what a change did to the messages here.
type Effect struct {
	Affected []Affected       // removed, or for ExpireAll shortened
	Expiries map[string]int64 // of Expire: those that it set, ms
	Count    int              // of Unrevoke: tokens that had been withdrawn
}

// Apply carries out a change that the owner has just asked for, and remembers
// it. A stamp of 0 means now.
func (db *DB) Apply(c Change) (effect Effect, err error) {
	if err := c.check(); err != nil {
		return Effect{}, err
	}
	if c.Stamp == 0 {
		c.Stamp = db.NextStamp()
	}
	err = db.update(func(t tables) error {
		effect = Effect{}
		reached, err := t.reached(&c)
		if err != nil {
			return err
		}
		before := make(map[string]int64, len(reached))
		for _, key := range reached {
			r, err := t.record(key)
			if err != nil {
				return err
			}
			before[unpackHash(r.hash)] = r.expiry
		}
		if c.Kind == Unrevoke {
			for _, token := range slices.Compact(slices.SortedFunc(slices.Values(c.Tokens), compareTokens)) {
				if t.revoked.Get(revokedKey(c.Owner, token)) != nil {
					effect.Count++
				}
			}
		}
		if _, err := t.put(&c, db.room()); err != nil {
			return err
		}
		for _, key := range reached {
			r, err := t.record(key)
			if err != nil {
				return err
			}
			message := Affected{r.namespace, unpackHash(r.hash)}
			if err := t.settle(key, &c); err != nil {
				return err
			}
			if t.messages.Get(key) == nil || c.Kind == ExpireAll && before[message.Hash] > c.At {
				effect.Affected = append(effect.Affected, message)
			}
		}
		if c.Kind == Expire {
			effect.Expiries = make(map[string]int64)
			for i, h := range c.Hashes {
				current, here := before[h]
				if expiry, set := c.move(i, current); here && set {
					before[h], effect.Expiries[h] = expiry, expiry
				}
			}
		}
		return nil
	})
	if err != nil {
		return Effect{}, wrap("changing messages", err)
	}
	db.observeStamp(c.Stamp)
	return effect, nil
}

// Expiries returns the expiry (ms) of those of the hashes that belong to the
// owner.
func (db *DB) Expiries(owner account.ID, hashes []string) (expiries map[string]int64, err error) {
	expiries = make(map[string]int64)
	err = db.view(func(t tables) error {
		n, ok := t.owner(owner[:])
		if !ok {
			return nil
		}
		for _, h := range hashes {
			key := t.hashes.Get(packHash(h))
			if key == nil {
				continue
			}
			r, err := t.record(key)
			if err != nil {
				return err
			}
			if r.owner == n {
				expiries[h] = r.expiry
			}
		}
		return nil
	})
	if err != nil {
		return nil, wrap("reading expiries", err)
	}
	return expiries, nil
}

// Outcome is what became of a message or change that another node offered.
type Outcome byte

// The outcomes of Merge.
const (
	Kept    Outcome = iota // it was news
	Known                  // it, or something newer, was there
	Deleted                // the owner has it deleted
	Expired                // its time is over
	Full                   // there is no room
	Refused                // it cannot be right, or must not be here
)

// Merge adds what another node of the swarm has: first the changes, which the
// caller has found to be the owner's, then the messages. The stamps are those
// that they got when they came to the swarm. In which order and how often
// things are merged makes no difference to what is there in the end.
//
// alone says of a namespace that it holds a single message; one that no Replace
// of its stamp or a later one names is refused. Outcomes come in the order of the arguments, changes first.
func (db *DB) Merge(changes []Change, messages []Message, alone func(namespace int16) bool) (outcomes []Outcome, err error) {
	err = db.updateMany(len(changes)+len(messages), func(t tables) error {
		outcomes = outcomes[:0]
		for i := range changes {
			o, err := t.mergeChange(&changes[i], db)
			if err != nil {
				return err
			}
			outcomes = append(outcomes, o)
		}
		for i := range messages {
			o, err := t.mergeMessage(&messages[i], alone(messages[i].Namespace), db)
			if err != nil {
				return err
			}
			outcomes = append(outcomes, o)
		}
		return nil
	})
	if err != nil {
		return nil, wrap("merging", err)
	}
	for i, o := range outcomes {
		switch {
		case o != Kept:
		case i < len(changes):
			db.observeStamp(changes[i].Stamp)
		default:
			m := &messages[i-len(changes)]
			db.observeStamp(m.Stamp)
			db.tell(m.Owner, m.Namespace)
		}
	}
	return outcomes, nil
}

func (t tables) mergeChange(c *Change, db *DB) (Outcome, error) {
	if c.check() != nil {
		return Refused, nil
	}
	if c.Kind != Revoke && c.due() <= db.now().UnixMilli() {
		return Expired, nil
	}
	o, err := t.put(c, db.room())
	if err != nil || o != Kept {
		return o, err
	}
	reached, err := t.reached(c)
	if err != nil {
		return 0, err
	}
	for _, key := range reached {
		if err := t.settle(key, c); err != nil {
			return 0, err
		}
	}
	return Kept, nil
}

func (t tables) mergeMessage(m *Message, alone bool, db *DB) (Outcome, error) {
	if len(m.Hash) == 0 || len(m.Hash) > maxHash {
		return Refused, nil
	}
	packed := packHash(m.Hash)
	latest, named, err := t.coverage(m.Owner[:], m.Namespace, packed, m.Timestamp)
	switch {
	case err != nil:
		return 0, err
	case latest >= m.Stamp:
		return Deleted, nil
	case alone && named < m.Stamp:
		return Refused, nil
	}
	if key := t.hashes.Get(packed); key != nil {
		r, err := t.record(key)
		if err != nil {
			return 0, err
		}
		// The latest store says what time the message has.
		newer := cmp.Or(cmp.Compare(m.Stamp, r.stamp), cmp.Compare(m.Expiry, r.base), cmp.Compare(r.timestamp, m.Timestamp))
		if newer <= 0 {
			return Known, nil
		}
		r.timestamp, r.base, r.stamp = m.Timestamp, m.Expiry, m.Stamp
		if err := t.rewrite(key, r); err != nil {
			return 0, err
		}
		return Kept, t.settle(key, nil)
	}
	expiry, err := t.fold(m.Owner[:], m.Namespace, packed, m.Expiry, m.Stamp, nil)
	switch {
	case err != nil:
		return 0, err
	case expiry <= db.now().UnixMilli():
		return Expired, nil
	}
	if limit := db.limit.Load(); limit > 0 && t.totals.bytes+size(*m) > limit {
		return Full, nil
	}
	return Kept, t.insert(*m, expiry)
}

// room is how many bytes changes may take.
func (db *DB) room() int64 {
	if limit := db.limit.Load(); limit > 0 {
		return limit / 4
	}
	return 1 << 62
}

// reached finds the messages that a change is about, which it may still leave
// alone.
func (t tables) reached(c *Change) (keys [][]byte, err error) {
	switch {
	case c.Kind == Replace:
		keep := packHash(c.Hashes[0])
		err = t.each(c.Owner, &c.Namespace, func(k []byte, r record) {
			if !bytes.Equal(r.hash, keep) {
				keys = append(keys, k)
			}
		})
	case c.scoped():
		namespace := &c.Namespace
		if c.All {
			namespace = nil
		}
		err = t.each(c.Owner, namespace, func(k []byte, r record) {
			if c.Kind != DeleteBefore || r.timestamp <= c.At {
				keys = append(keys, k)
			}
		})
	default:
		n, ok := t.owner(c.Owner[:])
		if !ok {
			return nil, nil
		}
		seen := make(map[string]bool, len(c.Hashes))
		for _, h := range c.Hashes {
			key := t.hashes.Get(packHash(h))
			if key == nil || seen[h] {
				continue
			}
			seen[h] = true
			r, err := t.record(key)
			if err != nil {
				return nil, err
			}
			if r.owner == n {
				keys = append(keys, key)
			}
		}
	}
	return keys, err
}

// settle brings a message to the state that the changes give it: removed, or
// with another expiry. news is the change that gave cause, if one did; it counts
// even if there was no room to remember it.
func (t tables) settle(key []byte, news *Change) error {
	r, err := t.record(key)
	if err != nil {
		return err
	}
	owner, err := t.name(r.owner)
	if err != nil {
		return err
	}
	expires := news == nil || news.Kind == ExpireAll || news.Kind == Expire
	if news == nil || !expires {
		latest, _, err := t.coverage(owner[:], r.namespace, r.hash, r.timestamp)
		if news != nil {
			latest = max(latest, news.Stamp) // it reaches this message
		}
		if err != nil {
			return err
		}
		if latest >= r.stamp {
			return t.remove(key)
		}
	}
	if !expires {
		return nil
	}
	expiry, err := t.fold(owner[:], r.namespace, r.hash, r.base, r.stamp, news)
	if err != nil || expiry == r.expiry {
		return err
	}
	return t.setExpiry(key, r, expiry)
}

// coverage gives the stamp of the latest change that deletes such a message, and
// of the latest Replace that names it; 0 when there is none.
func (t tables) coverage(owner []byte, ns int16, packed []byte, timestamp int64) (latest, named int64, err error) {
	prefix := append(touch(owner, packed), byte(Delete))
	for _, v := range t.touches.within(prefix) {
		latest = max(latest, number(v))
	}
	err = t.scopes(owner, func(c *Change) {
		if !c.inScope(ns) {
			return
		}
		switch c.Kind {
		case DeleteAll:
		case DeleteBefore:
			if timestamp > c.At {
				return
			}
		case Replace:
			if bytes.Equal(packHash(c.Hashes[0]), packed) {
				named = max(named, c.Stamp)
				return
			}
		default:
			return
		}
		latest = max(latest, c.Stamp)
	})
	return latest, named, err
}

// fold gives the expiry of a message that was stored with base. news is one more
// change that reaches it, or nil.
func (t tables) fold(owner []byte, ns int16, packed []byte, base, stamp int64, news *Change) (int64, error) {
	var later []Change
	if news != nil && news.Stamp > stamp {
		later = append(later, *news) // twice makes no difference
	}
	prefix := append(touch(owner, packed), byte(Expire))
	for k, v := range t.touches.within(prefix) {
		if number(v) <= stamp {
			continue
		}
		c, _, err := t.change(append(changesOf(owner, Expire), k[len(prefix):]...))
		if err != nil {
			return 0, err
		}
		later = append(later, c)
	}
	err := t.scopes(owner, func(c *Change) {
		if c.Kind == ExpireAll && c.Stamp > stamp && c.inScope(ns) {
			later = append(later, *c)
		}
	})
	if err != nil || len(later) == 0 {
		return base, err
	}
	slices.SortFunc(later, compareChanges)
	for i := range later {
		c := &later[i]
		if c.Kind == ExpireAll {
			base = min(base, c.At)
			continue
		}
		for i, h := range c.Hashes {
			if bytes.Equal(packHash(h), packed) {
				base, _ = c.move(i, base)
			}
		}
	}
	return base, nil
}

// compareChanges orders changes by their stamps, and in some fixed way when
// those are equal.
func compareChanges(a, b Change) int {
	return cmp.Or(cmp.Compare(a.Stamp, b.Stamp), bytes.Compare(a.Key(), b.Key()))
}

// scopes visits the changes of an owner that are about scopes.
func (t tables) scopes(owner []byte, visit func(*Change)) error {
	prefix := changesOf(owner)
	for k, v := range t.changes.within(prefix) {
		if kindOf(k) > Replace {
			break
		}
		c, _, err := decodeChange(v)
		if err != nil {
			return err
		}
		visit(&c)
	}
	return nil
}

func (t tables) change(key []byte) (c Change, due int64, err error) {
	v := t.changes.Get(key)
	if v == nil {
		return c, 0, fmt.Errorf("%w: an entry points to no change", ErrDamaged)
	}
	return decodeChange(v)
}

func decodeChange(v []byte) (c Change, due int64, err error) {
	if len(v) < changeFixed {
		return c, 0, fmt.Errorf("%w: change of %d bytes", ErrDamaged, len(v))
	}
	c, err = ParseChange(v[changeFixed:])
	if err != nil {
		return c, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	c.Stamp = number(v)
	return c, number(v[8:]), nil
}

// Bounds on what one account can make others look through.
const (
	maxScoped  = 64 // changes of one kind about scopes, the latest stay
	maxTouches = 64 // of one kind on one message
)

// put remembers a change unless that would not matter.
func (t tables) put(c *Change, room int64) (Outcome, error) {
	encoded := c.AppendTo(nil)
	key := changeKey(c, encoded)
	if v := t.changes.Get(key); v != nil {
		if len(v) < changeFixed {
			return 0, fmt.Errorf("%w: change of %d bytes", ErrDamaged, len(v))
		}
		if number(v) >= c.Stamp {
			return Known, nil
		}
		if err := t.drop(key); err != nil {
			return 0, err
		}
	}
	if len(c.Delegate) == tokenSize {
		if v := t.revoked.Get(revokedKey(c.Owner, [tokenSize]byte(c.Delegate))); v != nil && number(v) <= c.Stamp {
			return Refused, nil
		}
	}
	tokens := c.Kind == Revoke || c.Kind == Unrevoke
	if c.Kind == Revoke {
		if needed, err := t.needsRevocations(c.Owner[:]); err != nil || !needed {
			return Refused, err
		}
	}
	if !tokens {
		mates, err := t.mates(c)
		if err != nil {
			return 0, err
		}
		for _, m := range mates {
			if m.Stamp >= c.Stamp && m.dominates(c) {
				return Known, nil
			}
		}
		for _, m := range mates {
			if m.Stamp <= c.Stamp && c.dominates(&m) {
				if err := t.drop(m.Key()); err != nil {
					return 0, err
				}
			}
		}
	}
	taken := changeSize(c, encoded)
	if t.totals.changes+taken > room || len(encoded) > MaxChange {
		return Full, nil
	}
	due := c.due()
	v := appendNumber(make([]byte, 0, changeFixed+len(encoded)), c.Stamp)
	v = append(appendNumber(v, due), encoded...)
	t.add(totals{changes: taken})
	err := t.changes.Put(key, v)
	if c.Kind != Revoke {
		err = errors.Join(err, t.dues.Put(expiryKey(due, key), nil))
	}
	if !c.scoped() {
		for _, h := range c.Hashes {
			err = errors.Join(err, t.touches.Put(touchKey(c.Owner[:], packHash(h), key), appendNumber(nil, c.Stamp)))
		}
	}
	t.sum(Changes, key[:leafSize], c.Owner, changeMark(key, c.Stamp), 1)
	if err != nil {
		return 0, err
	}
	if tokens {
		return Kept, t.settleTokens(c.Owner)
	}
	return Kept, t.bound(c)
}

// touchKey is the entry from one message to one change.
func touchKey(owner, packed, changeKey []byte) []byte {
	return append(touch(owner, packed), changeKey[leafSize+ownerSize:]...)
}

func changeSize(c *Change, encoded []byte) int64 {
	n := 2*changeKeySize + changeFixed + 8 + len(encoded)
	if !c.scoped() {
		n += len(c.Hashes) * (idSize + 1 + idSize + 8)
	}
	return int64(n)
}

// drop forgets a change. What it did stays done.
func (t tables) drop(key []byte) error {
	key = bytes.Clone(key)
	v := t.changes.Get(key)
	c, due, err := decodeChange(v)
	if err != nil {
		return err
	}
	t.add(totals{changes: -changeSize(&c, v[changeFixed:])})
	err = t.changes.Delete(key)
	if c.Kind != Revoke {
		err = errors.Join(err, t.dues.Delete(expiryKey(due, key)))
	}
	if !c.scoped() {
		for _, h := range c.Hashes {
			err = errors.Join(err, t.touches.Delete(touchKey(c.Owner[:], packHash(h), key)))
		}
	}
	t.sum(Changes, key[:leafSize], c.Owner, changeMark(key, c.Stamp), -1)
	if err == nil && len(c.Delegate) > 0 {
		return t.forgetRevocations(c.Owner[:])
	}
	return err
}

// mates finds the changes that could make c superfluous, or c them.
func (t tables) mates(c *Change) (mates []Change, err error) {
	if c.scoped() {
		err = t.scopes(c.Owner[:], func(m *Change) {
			if m.Kind == c.Kind {
				mates = append(mates, *m)
			}
		})
		return mates, err
	}
	prefix := append(touch(c.Owner[:], packHash(c.Hashes[0])), byte(c.Kind))
	for k := range t.touches.within(prefix) {
		m, _, err := t.change(append(changesOf(c.Owner[:], c.Kind), k[len(prefix):]...))
		if err != nil {
			return nil, err
		}
		mates = append(mates, m)
	}
	return mates, nil
}

// bound drops the oldest of too many changes that concern the same messages.
func (t tables) bound(c *Change) error {
	if c.scoped() {
		mates, err := t.mates(c)
		if err != nil || len(mates) <= maxScoped {
			return err
		}
		oldest := slices.MinFunc(mates, compareChanges)
		return t.drop(oldest.Key())
	}
	for _, h := range c.Hashes {
		prefix := append(touch(c.Owner[:], packHash(h)), byte(c.Kind))
		n, oldest, stamp := 0, []byte(nil), int64(0)
		for k, v := range t.touches.within(prefix) {
			if n++; oldest == nil || number(v) < stamp {
				oldest, stamp = append(changesOf(c.Owner[:], c.Kind), k[len(prefix):]...), number(v)
			}
		}
		if n > maxTouches {
			if err := t.drop(oldest); err != nil {
				return err
			}
		}
	}
	return nil
}

// forgetDue drops up to n changes that no longer matter.
func (t tables) forgetDue(now int64, n int) (dropped int, err error) {
	var keys [][]byte
	for k := range t.dues.within(nil) {
		if expiryOf(k) > now || len(keys) == n {
			break
		}
		keys = append(keys, bytes.Clone(k[8:]))
	}
	for _, key := range keys {
		if kindOf(key) == Replace {
			// Its message may have been given more time, and without the Replace
			// other nodes would not take that message.
			c, due, err := t.change(key)
			if err != nil {
				return 0, err
			}
			if m := t.hashes.Get(packHash(c.Hashes[0])); m != nil {
				r, err := t.record(m)
				if err != nil {
					return 0, err
				}
				if until := r.expiry + lifeSlack; until > now {
					v := t.changes.Get(key)
					binary.BigEndian.PutUint64(v[8:], uint64(until)^signFlip)
					if err := errors.Join(t.changes.Put(key, v), t.dues.Delete(expiryKey(due, key)), t.dues.Put(expiryKey(until, key), nil)); err != nil {
						return 0, err
					}
					continue
				}
			}
		}
		if err := t.drop(key); err != nil {
			return 0, err
		}
	}
	return len(keys), nil
}

// verifyChanges checks that the buckets about changes agree with each other, and
// returns what they take.
func (t tables) verifyChanges() (taken int64, err error) {
	touches, dues := 0, 0
	for k, v := range t.changes.within(nil) {
		c, due, err := decodeChange(v)
		switch {
		case err != nil:
			return 0, err
		case !bytes.Equal(k, c.Key()):
			return 0, fmt.Errorf("%w: a change is not under its key", ErrDamaged)
		}
		if c.Kind != Revoke {
			if dues++; t.dues.Get(expiryKey(due, k)) == nil {
				return 0, fmt.Errorf("%w: a change is not under its end", ErrDamaged)
			}
		}
		taken += changeSize(&c, v[changeFixed:])
		if c.scoped() {
			continue
		}
		seen := make(map[string]bool, len(c.Hashes))
		for _, h := range c.Hashes {
			if seen[h] {
				continue
			}
			seen[h] = true
			touches++
			if v := t.touches.Get(touchKey(c.Owner[:], packHash(h), k)); len(v) != 8 || number(v) != c.Stamp {
				return 0, fmt.Errorf("%w: a message does not lead to its change", ErrDamaged)
			}
		}
	}
	for _, index := range []struct {
		table table
		want  int
	}{{t.touches, touches}, {t.dues, dues}} {
		n := 0
		for range index.table.within(nil) {
			n++
		}
		if n != index.want {
			return 0, fmt.Errorf("%w: %d index entries for changes, want %d", ErrDamaged, n, index.want)
		}
	}
	return taken, t.err
}
