// Package storage is the message database of a service node: a folder in which
// the messages of all accounts of the node's swarm wait until they expire.
//
// Messages come in through [DB.Store] and leave in the order in which they came,
// through [DB.Retrieve]. They stay until they are deleted or until [DB.Sweep],
// called every few seconds, finds that their time is over. The database knows
// nothing of signatures, swarms or the meaning of namespaces: whoever calls it has
// checked the request.
//
// What else an account asks for, to delete messages or to change how long they
// live, goes through [DB.Apply] as a [Change], which the database remembers. So
// the databases of a swarm can be brought to the same state whatever each of them
// missed: every message and every change has a stamp from when it came to the
// swarm, what is there is a function of the set of both, and [DB.Merge] adds to
// that set. [DB.Track], [DB.Roots], [DB.Branches] and [DB.List] find out cheaply
// where two sets differ.
//
// Every write is on disk when its method returns. Writes that arrive while
// another is being committed share one commit, so that a busy node pays for one
// flush per batch and not per message.
//
// The engine is pebble, log-structured: what comes is appended to a log, and from
// there goes in large pieces to files that are merged now and then. For 100,000
// messages of 1,000 bytes, synced, on ext4 (build/measure counts them on a disk of its
// own), with 1, 8 and 32 writers at a time, where pebble is with an owner in each key:
//
//	              MB written        writes, thousands   flushes, thousands   bytes a message   CPU ms at 32
//	bbolt         6000 3200 2300    1300  630  430      245  55  17          2360              0.09
//	pebble        1700  980  880     270   63   28      170  33  14          1390              0.05
//	badger        4100 1500  910     320   75   24      215  52  17          1270              0.03
//	sqlite (WAL)  3200 2400 2000     290  198  149      108  28   9          1460              0.04
//
// Accounts and messages have numbers here, and messages lie in the order in which they
// came (see tables). That makes 1,160 bytes a message, and of the 340 MB that pebble
// then says it writes in batches of 16 the messages are two thirds: once to the log,
// once to a file.
package storage

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"hearth/node/account"
)

// Message is one stored message.
type Message struct {
	Owner     account.ID
	Namespace int16
	Hash      string // identifies the message in the whole database; at most 254 bytes
	Timestamp int64  // ms since 1970, set by the sender
	Expiry    int64  // ms since 1970
	Data      []byte

	// Stamp is when the message came to the swarm, see DB.NextStamp; it moves
	// when the message is stored again. Retrieve leaves it out.
	Stamp int64
}

// Errors of the database; test with errors.Is.
var (
	// ErrFull is returned by a store that would exceed the limit of SetLimit.
	// Everything else still works.
	ErrFull = errors.New("message database is full")
	// ErrDamaged means that the folder is not a message database or that a file of
	// it is no longer what was written. Nothing repairs it: the swarm's other nodes hold the messages.
	ErrDamaged = errors.New("message database is damaged")
	// ErrEnded is what writes give after the disk has refused one, because it is full
	// or broken. Reading still works; the process has to start again.
	ErrEnded = errors.New("message database takes no more writes until the process starts again")
	// ErrInUse means that another process has the database open.
	ErrInUse = errors.New("message database is in use by another process")
)

// Store adds a message that a client has just sent. When its hash is already
// there, nothing is added, but a later expiry replaces the stored one; already is
// then true. expiry is the one now in the database. The error is ErrFull when a
// new message does not fit.
//
// A stamp of 0 means now. An earlier one, given by the node that took the
// message, is moved forward when a change here would delete the message, and the
// two are so close that clocks which differ may have turned them round: whoever
// stores after a delete wants the message back. A store that was on its way for
// longer has been overtaken by the delete: it counts as carried out, and leaves
// nothing.
func (db *DB) Store(m Message) (already bool, expiry int64, err error) {
	return db.store(m, nil)
}

// StoreAlone is Store for a namespace that holds a single message: in the same
// step every other message of that owner in that namespace is removed. by is the
// change of kind Replace that says so; its stamp becomes the message's.
func (db *DB) StoreAlone(m Message, by Change) (already bool, expiry int64, err error) {
	if err := by.check(); err != nil || by.Kind != Replace || by.Hashes[0] != m.Hash || by.Namespace != m.Namespace || by.Owner != m.Owner {
		return false, 0, fmt.Errorf("storing message: %w", cmp.Or(err, ErrChange))
	}
	return db.store(m, &by)
}

// again is how old a stamp must be (µs) for a repeated store to renew it.
// Clients send the same message to several nodes of the swarm, which all pass it
// on: such repetitions change nothing and need no write.
const again = 5_000_000

// skew is how much (µs) the clocks of a swarm's nodes may differ for the order of a
// delete and a store to be the one that the client meant. It is less than the time
// after which a node gives up passing a store on (5 s): what lies in a broken link
// from then on, and arrives when it heals, must not bring back what the client has
// deleted after the answer.
const skew = 3_000_000

func (db *DB) store(m Message, alone *Change) (already bool, expiry int64, err error) {
	if len(m.Hash) == 0 || len(m.Hash) > maxHash {
		return false, 0, fmt.Errorf("storing message: hash of %d bytes", len(m.Hash))
	}
	if m.Stamp == 0 {
		m.Stamp = db.NextStamp()
	}
	packed := packHash(m.Hash)
	if alone == nil {
		unchanged := false
		err := db.view(func(t tables) error {
			if key := t.hashes.Get(packed); key != nil {
				r, err := t.record(key)
				already, expiry, unchanged = true, r.expiry, r.expiry >= m.Expiry && m.Stamp-r.stamp <= again
				return err
			}
			return nil
		})
		if err != nil || unchanged {
			return already, expiry, wrap("storing message", err)
		}
	}
	full, overtaken, stamp := false, false, int64(0)
	err = db.update(func(t tables) error {
		already, expiry, full, overtaken, stamp = false, m.Expiry, false, false, m.Stamp
		var others [][]byte
		var freed int64
		if alone != nil {
			var err error
			if others, freed, err = t.others(m); err != nil {
				return err
			}
		}
		if key := t.hashes.Get(packed); key != nil {
			r, err := t.record(key)
			if err != nil {
				return err
			}
			already, expiry = true, max(r.expiry, m.Expiry)
			if stamp-r.stamp > again || expiry > r.expiry || alone != nil {
				stamp = max(stamp, r.stamp+1)
				r.base, r.stamp = expiry, stamp
				if err := t.rewrite(key, r); err != nil {
					return err
				}
				if err := t.setExpiry(key, r, expiry); err != nil {
					return err
				}
			}
		} else {
			latest, _, err := t.coverage(m.Owner[:], m.Namespace, packed, m.Timestamp)
			if err != nil {
				return err
			}
			if latest-stamp > skew {
				overtaken = true
				return nil
			}
			if limit := db.limit.Load(); limit > 0 && t.totals.bytes-freed+size(m) > limit {
				full = true
				return nil
			}
			stamp = max(stamp, latest+1)
			if expiry, err = t.fold(m.Owner[:], m.Namespace, packed, m.Expiry, stamp, nil); err != nil {
				return err
			}
			stamped := m
			stamped.Stamp = stamp
			if err := t.insert(stamped, expiry); err != nil {
				return err
			}
		}
		if alone == nil {
			return nil
		}
		by := *alone
		by.Stamp = stamp
		if _, err := t.put(&by, db.room()); err != nil {
			return err
		}
		for _, key := range others { // last, so that the owner is never without a message
			if err := t.settle(key, &by); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && full {
		err = ErrFull
	}
	if err == nil {
		db.observeStamp(stamp)
		if !already && !overtaken {
			db.tell(m.Owner, m.Namespace)
		}
	}
	return already, expiry, wrap("storing message", err)
}

// Retrieve returns the owner's messages of a namespace in the order in which
// this node got them, beginning after the message lastHash. When that hash is
// empty or not among them it begins with the oldest.
//
// It stops before message maxCount+1 and before the answer would exceed maxSize
// bytes, counted as the network counts them: 100 bytes, the length of the hash
// and four thirds of the data for each message. At least one message is returned
// however small maxSize is. 0 means no such bound. more says whether messages
// remain after the returned ones.
func (db *DB) Retrieve(owner account.ID, namespace int16, lastHash string, maxCount, maxSize int) (msgs []Message, more bool, err error) {
	err = db.view(func(t tables) error {
		n, ok := t.owner(owner[:])
		if !ok {
			return nil
		}
		prefix := boxPrefix(n, namespace)
		start := prefix
		var last []byte
		if lastHash != "" {
			if id := t.hashes.Get(packHash(lastHash)); id != nil {
				if last = append(bytes.Clone(prefix), id...); t.boxes.Get(last) != nil {
					start = last
				}
			}
		}
		total := 0
		get, done := t.messages.lookUps()
		defer done()
		for k := range t.boxes.from(prefix, start) {
			if bytes.Equal(k, last) {
				continue
			}
			r, err := recordIn(get(k[len(prefix):]))
			if err != nil {
				return err
			}
			hash := unpackHash(r.hash)
			total += perMessage + len(hash) + len(r.data)*4/3
			if maxCount > 0 && len(msgs) >= maxCount || maxSize > 0 && len(msgs) > 0 && total > maxSize {
				more = true
				return nil
			}
			msgs = append(msgs, Message{
				Owner: owner, Namespace: namespace, Hash: hash,
				Timestamp: r.timestamp, Expiry: r.expiry, Data: r.data,
			})
		}
		return nil
	})
	if err != nil {
		return nil, false, wrap("retrieving messages", err)
	}
	return msgs, more, nil
}

// perMessage is what the network adds to each message when it counts the size
// of an answer.
const perMessage = 100

// sweepStep bounds how many messages one transaction of Sweep removes, so that
// stores do not wait long behind it.
const sweepStep = 500

// Sweep removes the messages whose time is over and says how many they were; it
// also forgets the changes that no longer matter. Upstream does this every 10 s;
// it costs two look-ups when nothing has expired. It is also how the node learns
// that the database cannot go on: ErrDamaged when any call has met damage, ErrEnded.
func (db *DB) Sweep() (int, error) {
	if err := db.suspicion.Load(); err != nil {
		return 0, wrap("sweeping", *err)
	}
	db.committing.Lock()
	ended := db.ended
	db.committing.Unlock()
	if ended != nil {
		return 0, wrap("sweeping", ended)
	}
	now, removed := db.now().UnixMilli(), 0
	for {
		due := false
		err := db.view(func(t tables) error {
			k, c := t.expiries.first(nil), t.dues.first(nil)
			due = k != nil && expiryOf(k) <= now || c != nil && expiryOf(c) <= now
			return nil
		})
		if err != nil || !due {
			return removed, wrap("sweeping", err)
		}
		step := 0
		err = db.update(func(t tables) error {
			var keys [][]byte
			for k := range t.expiries.within(nil) {
				if expiryOf(k) > now || len(keys) == sweepStep {
					break
				}
				keys = append(keys, bytes.Clone(k[8:]))
			}
			step = len(keys)
			if err := t.removeAll(keys); err != nil {
				return err
			}
			_, err := t.forgetDue(now, sweepStep)
			return err
		})
		if err != nil {
			return removed, wrap("sweeping", err)
		}
		removed += step
	}
}

// Stats says how many messages the database holds and how many bytes they and
// the changes count, keys and indices included. Expired ones count until they are
// swept.
func (db *DB) Stats() (messages, bytes uint64) {
	return uint64(db.messages.Load()), uint64(db.bytes.Load())
}

// SetLimit bounds the bytes of messages; a store beyond it fails with ErrFull.
// Changes may take a quarter of it on top: beyond that they are carried out, but
// not remembered. 0 means no bound.
func (db *DB) SetLimit(bytes uint64) { db.limit.Store(int64(min(bytes, 1<<62))) }

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// The tables:
//
//	messages  message 6 → owner 5, namespace 2, hash length 1, hash, stamp, timestamp, base, expiry, data
//	boxes     owner 5, namespace 2, message 6 → nothing
//	hashes    hash → message 6
//	expiries  expiry 8, message 6 → nothing
//	owners    account 33 → owner 5
//	names     owner 5 → account 33
//	revoked   account 33, token 36 → stamp 8
//	changes   first 2 bytes of the account's key, account 33, kind 1, identifier 16 → stamp 8, due 8, change
//	touches   identifier of account and hash 16, kind 1, identifier 16 → stamp 8
//	dues      due 8, key in changes → nothing
//	meta      nothing → format 1, messages 8, bytes 8, bytes of changes 8, stamp 8, next message 8, next owner 8
//
// Messages are numbered as they come, and so are accounts, which have a number while
// they have messages: what comes later is written behind what is there, and the
// engine has no reason to write messages again when it merges its files.
//
// base is the expiry that the message was stored with, expiry what changes have
// made of it. In a record each of the four times is written as the difference to the
// one before it, in few bytes. An identifier is the BLAKE2b-128 of what it stands
// for. All numbers in keys are big-endian, signed ones with the sign bit flipped, so
// that keys sort as the numbers do.
const (
	format    = 3
	ownerSize = 33
	boxSize   = 5 + 2
	keySize   = 6 // of a message
	maxHash   = 254
	signFlip  = 1 << 63

	// fixed is what a message takes besides its data and twice its hash: keys, times,
	// and what the engine adds to each of four entries.
	fixed = 120
)

// tables are the tables within one transaction.
type tables struct {
	*tx
	messages, boxes, hashes, expiries, owners, names, revoked, changes, touches, dues, meta table
}

// record is a decoded value of the messages table.
type record struct {
	owner                          number5
	namespace                      int16
	timestamp, expiry, base, stamp int64
	hash, data                     []byte
}

func decode(v []byte) (r record, err error) {
	rest := v
	if len(v) < boxSize+1 || len(v) < boxSize+1+int(v[boxSize]) {
		return r, fmt.Errorf("%w: message record of %d bytes", ErrDamaged, len(v))
	}
	r.owner = number5(v)
	r.namespace = int16(binary.BigEndian.Uint16(v[len(r.owner):]) ^ 1<<15)
	rest = v[boxSize+1+int(v[boxSize]):]
	r.hash = v[boxSize+1 : len(v)-len(rest)]
	for _, to := range []*int64{&r.stamp, &r.timestamp, &r.base, &r.expiry} {
		d, n := binary.Varint(rest)
		if n <= 0 {
			return r, fmt.Errorf("%w: message record of %d bytes", ErrDamaged, len(v))
		}
		*to, rest = d, rest[n:]
	}
	r.timestamp += StampTime(r.stamp)
	r.base += r.timestamp
	r.expiry += r.base
	r.data = rest
	return r, nil
}

func (r record) encode() []byte {
	v := make([]byte, 0, boxSize+1+len(r.hash)+4*binary.MaxVarintLen64+len(r.data))
	v = append(v, r.owner[:]...)
	v = binary.BigEndian.AppendUint16(v, uint16(r.namespace)^1<<15)
	v = append(v, byte(len(r.hash)))
	v = append(v, r.hash...)
	v = binary.AppendVarint(v, r.stamp)
	v = binary.AppendVarint(v, r.timestamp-StampTime(r.stamp))
	v = binary.AppendVarint(v, r.base-r.timestamp)
	v = binary.AppendVarint(v, r.expiry-r.base)
	return append(v, r.data...)
}

// box is the message's entry in boxes.
func (r record) box(key []byte) []byte { return append(boxPrefix(r.owner, r.namespace), key...) }

func (t tables) record(key []byte) (record, error) { return recordIn(t.messages.Get(key)) }

func recordIn(v []byte) (record, error) {
	if v == nil {
		return record{}, fmt.Errorf("%w: an entry points to no message", ErrDamaged)
	}
	return decode(v)
}

// insert adds a message; m.Expiry is its base.
func (t tables) insert(m Message, expiry int64) error {
	owner, err := t.enter(m.Owner[:])
	if err != nil {
		return err
	}
	key := binary.BigEndian.AppendUint64(nil, t.nextMessage)[8-keySize:]
	t.nextMessage++
	r := record{owner, m.Namespace, m.Timestamp, expiry, m.Expiry, m.Stamp, packHash(m.Hash), m.Data}
	t.sum(Messages, r.hash, m.Owner, r.mark(), 1)
	t.add(totals{messages: 1, bytes: size(m)})
	return errors.Join(
		t.messages.Put(key, r.encode()),
		t.boxes.Put(r.box(key), nil),
		t.hashes.Put(r.hash, key),
		t.expiries.Put(expiryKey(expiry, key), nil),
	)
}

// remove deletes a message by its key.
func (t tables) remove(key []byte) error {
	r, err := t.record(key)
	if err != nil {
		return err
	}
	owner, err := t.name(r.owner)
	if err != nil {
		return err
	}
	t.sum(Messages, r.hash, owner, r.mark(), -1)
	t.add(totals{messages: -1, bytes: -recordSize(len(r.hash), len(r.data))})
	t.leave(r.owner)
	return errors.Join(
		t.hashes.Delete(r.hash),
		t.expiries.Delete(expiryKey(r.expiry, key)),
		t.boxes.Delete(r.box(key)),
		t.messages.Delete(key),
		t.forgetRevocations(owner[:]),
	)
}

func (t tables) removeAll(keys [][]byte) error {
	for _, key := range keys {
		if err := t.remove(key); err != nil {
			return err
		}
	}
	return nil
}

// rewrite replaces what a record says about the store; its expiry stays.
func (t tables) rewrite(key []byte, r record) error {
	old, err := t.record(key)
	if err != nil {
		return err
	}
	r.expiry = old.expiry
	owner, err := t.name(old.owner)
	if err != nil {
		return err
	}
	t.sum(Messages, old.hash, owner, old.mark(), -1)
	t.sum(Messages, r.hash, owner, r.mark(), 1)
	return t.messages.Put(key, r.encode())
}

// others finds the messages in m's namespace except m itself, and what they take.
func (t tables) others(m Message) (keys [][]byte, taken int64, err error) {
	packed := packHash(m.Hash)
	err = t.each(m.Owner, &m.Namespace, func(k []byte, r record) {
		if !bytes.Equal(r.hash, packed) {
			keys = append(keys, k)
			taken += recordSize(len(r.hash), len(r.data))
		}
	})
	return keys, taken, err
}

// each visits the messages of an owner, of one namespace or of all.
func (t tables) each(owner account.ID, namespace *int16, visit func(key []byte, r record)) error {
	n, ok := t.owner(owner[:])
	if !ok {
		return nil
	}
	prefix := n[:]
	if namespace != nil {
		prefix = boxPrefix(n, *namespace)
	}
	get, done := t.messages.lookUps()
	defer done()
	for k := range t.boxes.within(prefix) {
		key := bytes.Clone(k[boxSize:])
		r, err := recordIn(get(key))
		if err != nil {
			return err
		}
		visit(key, r)
	}
	return nil
}

// setExpiry rewrites a record with another expiry. r may be newer than what is
// stored, except for its expiry.
func (t tables) setExpiry(key []byte, r record, expiry int64) error {
	stored, err := t.record(key)
	if err != nil {
		return err
	}
	old := stored.expiry
	if old == expiry {
		return nil
	}
	r.expiry = expiry
	return errors.Join(
		t.messages.Put(key, r.encode()),
		t.expiries.Delete(expiryKey(old, key)),
		t.expiries.Put(expiryKey(expiry, key), nil),
	)
}

// totals are what Stats reports, kept in the file so that opening needs no
// count.
type totals struct {
	messages int64
	bytes    int64 // of messages
	changes  int64 // bytes
}

func (t tables) add(more totals) {
	t.totals.messages += more.messages
	t.totals.bytes += more.bytes
	t.totals.changes += more.changes
}

func size(m Message) int64 { return recordSize(len(packHash(m.Hash)), len(m.Data)) }

// recordSize is what one message takes in all tables.
func recordSize(hash, data int) int64 { return int64(fixed + 2*hash + data) }

func boxPrefix(owner number5, namespace int16) []byte {
	k := append(make([]byte, 0, boxSize+keySize), owner[:]...)
	return binary.BigEndian.AppendUint16(k, uint16(namespace)^1<<15)
}

func expiryKey(expiry int64, key []byte) []byte {
	return append(appendNumber(make([]byte, 0, 8+keySize), expiry), key...)
}

func expiryOf(k []byte) int64 { return number(k) }

func number(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ signFlip) }

func appendNumber(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(n)^signFlip)
}
