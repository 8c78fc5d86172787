package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"hearth/node/account"
)

// Set is one of the two sets of which a database consists.
type Set byte

// The sets. Changes come first: they decide what messages are worth taking.
const (
	Changes Set = iota
	Messages
	Sets
)

// Sum stands for a set, or for the part of it whose keys begin alike: the sum,
// in two halves, of the marks of its members. Equal sets have equal sums;
// different sets do not, short of somebody who searches for messages that fit.
type Sum [2]uint64

func (s *Sum) add(o Sum) { s[0] += o[0]; s[1] += o[1] }

func (s *Sum) sub(o Sum) { s[0] -= o[0]; s[1] -= o[1] }

// sums are the sums of all parts whose keys begin with the same two bytes.
type sums struct {
	scope   func(account.ID) bool
	outside func() // see Track

	mu     sync.Mutex
	whole  bool // everything that was there before has been added
	leaves [Sets][1 << 16]Sum
	roots  [Sets]Sum
}

// delta is what a transaction adds to a sum or takes from it.
type delta struct {
	set   Set
	leaf  uint16
	sign  int8
	owner account.ID
	mark  Sum
}

func (t tables) sum(set Set, key []byte, owner account.ID, mark Sum, sign int8) {
	t.sums = append(t.sums, delta{set, leafOf(key), sign, owner, mark})
}

// leafOf gives the first two bytes of a key as a number.
func leafOf(key []byte) uint16 {
	var b [leafSize]byte
	copy(b[:], key)
	return binary.BigEndian.Uint16(b[:])
}

// apply takes in what was committed.
func (s *sums) apply(list []delta) {
	if s != nil && s.add(list) {
		s.outside()
	}
}

// add reports whether something came that is outside the scope.
func (s *sums) add(list []delta) (outside bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range list {
		d := &list[i]
		if !s.scope(d.owner) {
			outside = outside || d.sign > 0
			continue
		}
		if d.sign > 0 {
			s.leaves[d.set][d.leaf].add(d.mark)
			s.roots[d.set].add(d.mark)
		} else {
			s.leaves[d.set][d.leaf].sub(d.mark)
			s.roots[d.set].sub(d.mark)
		}
	}
	return outside
}

// mark stands for a message with everything in it that nodes can differ in.
func (r record) mark() Sum {
	return markOf(r.hash, appendNumber(nil, r.timestamp), appendNumber(nil, r.base), appendNumber(nil, r.stamp))
}

func changeMark(key []byte, stamp int64) Sum {
	return markOf(key, appendNumber(nil, stamp))
}

func markOf(parts ...[]byte) Sum {
	b := sum128(parts...)
	return Sum{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
}

// Track begins to keep sums of what belongs to the accounts in scope. It reads
// the whole database once; what is written meanwhile counts. A later Track takes
// the place of an earlier one. The sums take 2 MiB of memory.
//
// outside is called after every commit that brought something of an account that is
// not in scope. It must not block, and not use the database.
func (db *DB) Track(scope func(account.ID) bool, outside func()) error {
	s := &sums{scope: scope, outside: outside}
	db.committing.Lock() // before reading, as Close does
	db.reading.RLock()
	defer db.reading.RUnlock()
	if db.closed {
		db.committing.Unlock()
		return wrap("summing up", errClosed)
	}
	moment := db.engine.NewSnapshot()
	db.sums.Store(s) // from here on commits add to it, and moment shows what was before
	db.committing.Unlock()
	defer moment.Close()
	err := db.notice(guarded(func() error { return db.look(moment, func(t tables) error { return t.sumUp(s) }) }))
	if err != nil {
		return wrap("summing up", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole = true
	return nil
}

func (t tables) sumUp(s *sums) error {
	for _, v := range t.messages.within(nil) {
		r, err := decode(v)
		if err != nil {
			return err
		}
		owner, err := t.name(r.owner)
		if err != nil {
			return err
		}
		t.sum(Messages, r.hash, owner, r.mark(), 1)
		t.flush(s, 1<<10)
	}
	for k, v := range t.changes.within(nil) {
		if len(k) != changeKeySize || len(v) < changeFixed {
			return fmt.Errorf("%w: change of %d bytes", ErrDamaged, len(v))
		}
		t.sum(Changes, k, account.ID(k[leafSize:]), changeMark(k, number(v)), 1)
		t.flush(s, 1<<10)
	}
	t.flush(s, 1)
	return nil
}

// flush adds what has been collected once there is enough of it.
func (t tables) flush(to *sums, enough int) {
	if len(t.sums) >= enough {
		to.add(t.sums)
		t.sums = t.sums[:0]
	}
}

// Roots gives the sums of both sets; false while they are not known.
func (db *DB) Roots() (roots [Sets]Sum, ok bool) {
	s := db.sums.Load()
	if s == nil {
		return roots, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roots, s.whole
}

// Branches gives the sums of the 256 parts of a set by the first byte of the
// keys or, when first is not negative, of the 256 parts of that part by the
// second byte. Only the first halves.
func (db *DB) Branches(set Set, first int) (branches [256]uint64) {
	s := db.sums.Load()
	if s == nil {
		return branches
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range branches {
		if first >= 0 {
			branches[i] = s.leaves[set][first<<8|i][0]
			continue
		}
		for j := range 256 {
			branches[i] += s.leaves[set][i<<8|j][0]
		}
	}
	return branches
}

// Item is a member of a set as lists name it.
type Item struct {
	Key   []byte
	Mark  uint64 // differs when nodes differ about it
	Stamp int64
	Owner account.ID
}

// List gives the members of a set whose keys are at least from and below to (nil
// means to the end), in the order of the keys. It looks at limit entries at most
// and leaves out those that scope does not want; next is where to go on, nil at
// the end.
func (db *DB) List(set Set, from, to []byte, limit int, scope func(account.ID) bool) (items []Item, next []byte, err error) {
	err = db.view(func(t tables) error {
		list := t.hashes
		if set == Changes {
			list = t.changes
		}
		for k, v := range list.from(nil, from) {
			if to != nil && bytes.Compare(k, to) >= 0 {
				break
			}
			if limit--; limit < 0 {
				next = bytes.Clone(k)
				return nil
			}
			item, err := t.item(set, k, v, scope)
			if err != nil {
				return err
			}
			if item.Key != nil {
				items = append(items, item)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, wrap("listing", err)
	}
	return items, next, nil
}

// item describes an entry, or gives an item without key when it is not in scope.
func (t tables) item(set Set, k, v []byte, scope func(account.ID) bool) (Item, error) {
	if set == Changes {
		if len(k) != changeKeySize || len(v) < changeFixed {
			return Item{}, fmt.Errorf("%w: change of %d bytes", ErrDamaged, len(v))
		}
		owner, stamp := account.ID(k[leafSize:]), number(v)
		if !scope(owner) {
			return Item{}, nil
		}
		return Item{bytes.Clone(k), changeMark(k, stamp)[0], stamp, owner}, nil
	}
	r, err := t.record(v)
	if err != nil {
		return Item{}, err
	}
	owner, err := t.name(r.owner)
	if err != nil || !scope(owner) {
		return Item{}, err
	}
	return Item{bytes.Clone(k), r.mark()[0], r.stamp, owner}, nil
}

// Lookup gives the marks of members of a set by their keys, 0 for those that are
// not there.
func (db *DB) Lookup(set Set, keys [][]byte) (marks []uint64, err error) {
	all := func(account.ID) bool { return true }
	err = db.view(func(t tables) error {
		list := t.hashes
		if set == Changes {
			list = t.changes
		}
		for _, k := range keys {
			v := list.Get(k)
			if v == nil {
				marks = append(marks, 0)
				continue
			}
			item, err := t.item(set, k, v, all)
			if err != nil {
				return err
			}
			marks = append(marks, item.Mark)
		}
		return nil
	})
	return marks, wrap("looking up", err)
}

// LoadMessage returns a message by its key in lists, with the expiry that it was
// stored with, which changes may since have moved. It must not be changed; ok is
// false when it is gone.
func (db *DB) LoadMessage(key []byte) (m Message, ok bool, err error) {
	err = db.view(func(t tables) error {
		k := t.hashes.Get(key)
		if k == nil {
			return nil
		}
		r, err := t.record(k)
		if err != nil {
			return err
		}
		owner, err := t.name(r.owner)
		if err != nil {
			return err
		}
		m = Message{
			Owner: owner, Namespace: r.namespace, Hash: unpackHash(r.hash),
			Timestamp: r.timestamp, Expiry: r.base, Stamp: r.stamp, Data: r.data,
		}
		ok = true
		return nil
	})
	return m, ok, wrap("loading a message", err)
}

// LoadChange returns a change by its key in lists.
func (db *DB) LoadChange(key []byte) (c Change, ok bool, err error) {
	err = db.view(func(t tables) error {
		v := t.changes.Get(key)
		if v == nil {
			return nil
		}
		c, _, err = decodeChange(v)
		ok = err == nil
		return err
	})
	return c, ok, wrap("loading a change", err)
}

// stampAhead is how far (µs) the latest stamp may be ahead of the clock and still
// be believed. One further ahead was given when the clock was wrong.
const stampAhead = int64(2 * time.Minute / time.Microsecond)

// NextStamp returns a time in µs since 1970 that is later than every stamp that
// this database has given or seen. It is the clock's time, or a little later.
// Nodes of a swarm carry a request out under the stamp of the one that took it,
// so that they agree on what came before what.
func (db *DB) NextStamp() int64 {
	for {
		now, last := db.now().UnixMicro(), db.stamp.Load()
		next := now
		if last >= now && last-now < stampAhead {
			next = last + 1
		}
		if db.stamp.CompareAndSwap(last, next) {
			return next
		}
	}
}

func (db *DB) observeStamp(stamp int64) {
	for {
		last := db.stamp.Load()
		if last >= stamp || db.stamp.CompareAndSwap(last, stamp) {
			return
		}
	}
}
