// Package storage is the message database of a service node: one file in which
// the messages of all accounts of the node's swarm wait until they expire.
//
// Messages come in through [DB.Store] and leave in the order in which they came,
// through [DB.Retrieve]. They stay until they are deleted or until [DB.Sweep],
// called every few seconds, finds that their time is over. The database knows
// nothing of signatures, swarms or the meaning of namespaces: whoever calls it has
// checked the request.
//
// Every write is on disk when its method returns. Writes that arrive while
// another is being committed share one commit, so that a busy node pays for one
// flush per batch and not per message.
package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"hearth/node/account"
)

// Message is one stored message.
type Message struct {
	Owner     account.ID
	Namespace int16
	Hash      string // identifies the message in the whole database; at most 255 bytes
	Timestamp int64  // ms since 1970, set by the sender
	Expiry    int64  // ms since 1970
	Data      []byte
}

// Errors of the database; test with errors.Is.
var (
	// ErrFull is returned by a store that would exceed the limit of SetLimit.
	// Everything else still works.
	ErrFull = errors.New("message database is full")
	// ErrDamaged means that the file is not a message database or is no longer
	// consistent. Nothing repairs it: the swarm's other nodes hold the messages.
	ErrDamaged = errors.New("message database is damaged")
	// ErrInUse means that another process has the file open.
	ErrInUse = errors.New("message database is in use by another process")
)

// Store adds a message. When its hash is already there, nothing is added, but a
// later expiry replaces the stored one; already is then true. expiry is the one
// now in the database. The error is ErrFull when a new message does not fit.
func (db *DB) Store(m Message) (already bool, expiry int64, err error) {
	return db.store(m, false)
}

// StoreAlone is Store for a namespace that holds a single message: in the same
// step every other message of that owner in that namespace is removed.
func (db *DB) StoreAlone(m Message) (already bool, expiry int64, err error) {
	return db.store(m, true)
}

func (db *DB) store(m Message, alone bool) (already bool, expiry int64, err error) {
	if len(m.Hash) == 0 || len(m.Hash) > maxHash {
		return false, 0, fmt.Errorf("storing message: hash of %d bytes", len(m.Hash))
	}
	if !alone {
		// Clients send the same message to several nodes of the swarm, which all
		// pass it on: most repetitions change nothing and need no write.
		unchanged := false
		err := db.view(func(t tables) error {
			if key := t.hashes.Get([]byte(m.Hash)); key != nil {
				r, err := t.record(key)
				already, expiry, unchanged = true, r.expiry, r.expiry >= m.Expiry
				return err
			}
			return nil
		})
		if err != nil || unchanged {
			return already, expiry, wrap("storing message", err)
		}
	}
	full := false
	err = db.update(func(t tables) error {
		already, expiry, full = false, m.Expiry, false
		var others [][]byte
		var freed int64
		if alone {
			var err error
			if others, freed, err = t.others(m); err != nil {
				return err
			}
		}
		if key := t.hashes.Get([]byte(m.Hash)); key != nil {
			key = bytes.Clone(key)
			r, err := t.record(key)
			if err != nil {
				return err
			}
			already = true
			if expiry = max(r.expiry, m.Expiry); expiry != r.expiry {
				if err := t.setExpiry(key, r, expiry); err != nil {
					return err
				}
			}
		} else {
			if limit := db.limit.Load(); limit > 0 && t.totals().bytes-freed+size(m) > limit {
				full = true
				return nil
			}
			if err := t.insert(m); err != nil {
				return err
			}
		}
		return t.removeAll(others) // last, so that the owner is never without a message
	})
	if err == nil && full {
		err = ErrFull
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
		prefix := boxPrefix(owner, namespace)
		c := t.messages.Cursor()
		var k, v []byte
		if last := t.hashes.Get([]byte(lastHash)); lastHash != "" && bytes.HasPrefix(last, prefix) {
			if k, v = c.Seek(last); bytes.Equal(k, last) {
				k, v = c.Next()
			}
		} else {
			k, v = c.Seek(prefix)
		}
		total := 0
		for ; bytes.HasPrefix(k, prefix); k, v = c.Next() {
			r, err := decode(v)
			if err != nil {
				return err
			}
			total += perMessage + len(r.hash) + len(r.data)*4/3
			if maxCount > 0 && len(msgs) >= maxCount || maxSize > 0 && len(msgs) > 0 && total > maxSize {
				more = true
				return nil
			}
			msgs = append(msgs, Message{
				Owner: owner, Namespace: namespace, Hash: string(r.hash),
				Timestamp: r.timestamp, Expiry: r.expiry, Data: bytes.Clone(r.data),
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

// Delete removes those of the hashes that belong to the owner, in whichever
// namespace, and returns the removed ones in ascending order.
func (db *DB) Delete(owner account.ID, hashes []string) (deleted []string, err error) {
	err = db.update(func(t tables) error {
		deleted = deleted[:0]
		for _, h := range hashes {
			key := t.hashes.Get([]byte(h))
			if !bytes.HasPrefix(key, owner[:]) {
				continue
			}
			if err := t.remove(bytes.Clone(key)); err != nil {
				return err
			}
			deleted = append(deleted, h)
		}
		return nil
	})
	if err != nil {
		return nil, wrap("deleting messages", err)
	}
	slices.Sort(deleted)
	return deleted, nil
}

// sweepStep bounds how many messages one transaction of Sweep removes, so that
// stores do not wait long behind it.
const sweepStep = 500

// Sweep removes the messages whose time is over and says how many they were.
// Upstream does this every 10 s; it costs one look-up when nothing has expired.
func (db *DB) Sweep() (int, error) {
	now, removed := db.now().UnixMilli(), 0
	for {
		due := false
		err := db.view(func(t tables) error {
			k, _ := t.expiries.Cursor().First()
			due = k != nil && expiryOf(k) <= now
			return nil
		})
		if err != nil || !due {
			return removed, wrap("sweeping", err)
		}
		step := 0
		err = db.update(func(t tables) error {
			var keys [][]byte
			c := t.expiries.Cursor()
			for k, _ := c.First(); k != nil && expiryOf(k) <= now && len(keys) < sweepStep; k, _ = c.Next() {
				keys = append(keys, bytes.Clone(k[8:]))
			}
			step = len(keys)
			return t.removeAll(keys)
		})
		if err != nil {
			return removed, wrap("sweeping", err)
		}
		removed += step
	}
}

// Stats says how many messages the database holds and how many bytes they
// count, keys and indices included. Expired ones count until they are swept.
func (db *DB) Stats() (messages, bytes uint64) {
	return uint64(db.messages.Load()), uint64(db.bytes.Load())
}

// SetLimit bounds the bytes that Stats counts; a store beyond it fails with
// ErrFull. 0 means no bound.
func (db *DB) SetLimit(bytes uint64) { db.limit.Store(int64(min(bytes, 1<<62))) }

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// The file has five buckets:
//
//	messages  owner 33, namespace 2, sequence 8 → timestamp 8, expiry 8, hash length 1, hash, data
//	hashes    hash → key in messages
//	expiries  expiry 8, key in messages → nothing
//	revoked   owner 33, token 36 → sequence 8
//	meta      "format" → 1; "totals" → messages 8, bytes 8
//
// All numbers are big-endian, signed ones with the sign bit flipped, so that
// keys sort as the numbers do. A sequence is one counter for its whole bucket.
var (
	bucketMessages = []byte("messages")
	bucketHashes   = []byte("hashes")
	bucketExpiries = []byte("expiries")
	bucketRevoked  = []byte("revoked")
	bucketMeta     = []byte("meta")

	keyFormat = []byte("format")
	keyTotals = []byte("totals")
)

const (
	format    = 1
	ownerSize = 33
	boxSize   = ownerSize + 2
	keySize   = boxSize + 8
	maxHash   = 255
	fixed     = 8 + 8 + 1 // of a record
	signFlip  = 1 << 63
)

// tables are the buckets within one transaction.
type tables struct {
	messages, hashes, expiries, revoked, meta *bolt.Bucket
}

func open(tx *bolt.Tx) (tables, error) {
	t := tables{
		tx.Bucket(bucketMessages), tx.Bucket(bucketHashes), tx.Bucket(bucketExpiries),
		tx.Bucket(bucketRevoked), tx.Bucket(bucketMeta),
	}
	if t.messages == nil || t.hashes == nil || t.expiries == nil || t.revoked == nil || t.meta == nil {
		return t, fmt.Errorf("%w: a table is missing", ErrDamaged)
	}
	return t, nil
}

// record is a decoded value of the messages bucket. Its slices point into the
// file and live as long as the transaction.
type record struct {
	timestamp, expiry int64
	hash, data        []byte
}

func decode(v []byte) (record, error) {
	if len(v) < fixed || len(v) < fixed+int(v[16]) {
		return record{}, fmt.Errorf("%w: message record of %d bytes", ErrDamaged, len(v))
	}
	n := fixed + int(v[16])
	return record{number(v), number(v[8:]), v[fixed:n], v[n:]}, nil
}

func (r record) encode() []byte {
	v := make([]byte, 0, fixed+len(r.hash)+len(r.data))
	v = appendNumber(v, r.timestamp)
	v = appendNumber(v, r.expiry)
	v = append(v, byte(len(r.hash)))
	v = append(v, r.hash...)
	return append(v, r.data...)
}

func (t tables) record(key []byte) (record, error) {
	v := t.messages.Get(key)
	if v == nil {
		return record{}, fmt.Errorf("%w: a hash points to no message", ErrDamaged)
	}
	return decode(v)
}

func (t tables) insert(m Message) error {
	seq, err := t.messages.NextSequence()
	if err != nil {
		return err
	}
	key := binary.BigEndian.AppendUint64(boxPrefix(m.Owner, m.Namespace), seq)
	r := record{m.Timestamp, m.Expiry, []byte(m.Hash), m.Data}
	return errors.Join(
		t.messages.Put(key, r.encode()),
		t.hashes.Put(r.hash, key),
		t.expiries.Put(expiryKey(m.Expiry, key), nil),
		t.add(1, size(m)),
	)
}

// remove deletes a message by its key, which must not point into the file: the
// pages move while records go.
func (t tables) remove(key []byte) error {
	r, err := t.record(key)
	if err != nil {
		return err
	}
	freed := recordSize(len(r.hash), len(r.data))
	return errors.Join(
		t.hashes.Delete(bytes.Clone(r.hash)),
		t.expiries.Delete(expiryKey(r.expiry, key)),
		t.messages.Delete(key),
		t.add(-1, -freed),
		t.forgetRevocations(key[:ownerSize]),
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

// others finds the messages in m's namespace except m itself, and what they take.
func (t tables) others(m Message) (keys [][]byte, taken int64, err error) {
	err = t.each(boxPrefix(m.Owner, m.Namespace), func(k []byte, r record) {
		if string(r.hash) != m.Hash {
			keys = append(keys, bytes.Clone(k))
			taken += recordSize(len(r.hash), len(r.data))
		}
	})
	return keys, taken, err
}

// each visits the messages whose keys begin with prefix.
func (t tables) each(prefix []byte, visit func(key []byte, r record)) error {
	c := t.messages.Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		r, err := decode(v)
		if err != nil {
			return err
		}
		visit(k, r)
	}
	return nil
}

// setExpiry rewrites a record with another expiry.
func (t tables) setExpiry(key []byte, r record, expiry int64) error {
	old := r.expiry
	r.expiry = expiry
	return errors.Join(
		t.expiries.Delete(expiryKey(old, key)),
		t.expiries.Put(expiryKey(expiry, key), nil),
		t.messages.Put(key, r.encode()),
	)
}

// totals are what Stats reports, kept in the file so that opening needs no count.
type totals struct{ messages, bytes int64 }

func (t tables) totals() totals {
	v := t.meta.Get(keyTotals)
	if len(v) != 16 {
		return totals{}
	}
	return totals{number(v), number(v[8:])}
}

func (t tables) add(messages, bytes int64) error {
	now := t.totals()
	return t.meta.Put(keyTotals, appendNumber(appendNumber(nil, now.messages+messages), now.bytes+bytes))
}

func size(m Message) int64 { return recordSize(len(m.Hash), len(m.Data)) }

// recordSize is what one message takes in all buckets, without the slack of pages.
func recordSize(hash, data int) int64 {
	return int64(keySize+fixed+hash+data) + int64(hash+keySize) + int64(8+keySize)
}

func boxPrefix(owner account.ID, namespace int16) []byte {
	k := make([]byte, 0, keySize)
	k = append(k, owner[:]...)
	return binary.BigEndian.AppendUint16(k, uint16(namespace)^1<<15)
}

// namespaceOf reads the namespace out of a message's key.
func namespaceOf(key []byte) int16 {
	return int16(binary.BigEndian.Uint16(key[ownerSize:]) ^ 1<<15)
}

func expiryKey(expiry int64, key []byte) []byte {
	return append(appendNumber(make([]byte, 0, 8+keySize), expiry), key...)
}

func expiryOf(k []byte) int64 { return number(k) }

func number(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ signFlip) }

func appendNumber(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(n)^signFlip)
}
