package storage

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	bolterrors "go.etcd.io/bbolt/errors"
	"hearth/node/account"
)

// DB is an open message database. Its methods may be used by several goroutines
// at once; not after Close.
type DB struct {
	bolt *bolt.DB
	now  func() time.Time

	limit, messages, bytes atomic.Int64
	stamp                  atomic.Int64 // the latest given or seen

	committing sync.Mutex
	sums       atomic.Pointer[sums] // nil until Track

	touches atomic.Uint64 // see touched

	watcher atomic.Pointer[func(owner account.ID, namespace int16)] // see Watch

	mu      sync.Mutex
	waiting []*write      // in order of arrival
	writing bool          // somebody commits, and will pass the turn on
	crowd   int           // changes in the last commit
	enough  chan struct{} // closed when as many wait; nil when nobody wants to know
}

// lockTimeout is how long Open waits for another process to let go of the file.
const lockTimeout = time.Second

// Open opens the database file at path and creates it when it does not exist.
// now is the clock that decides what has expired.
//
// Open reads the whole structure of an existing file before anything is written
// to it: a file cut short, overwritten or inconsistent gives ErrDamaged. ErrInUse
// means that another process holds it.
func Open(path string, now func() time.Time) (*DB, error) {
	db := &DB{now: now}
	_, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("opening message database: %w", err)
	default:
		if err := verify(path); err != nil {
			return nil, fmt.Errorf("opening message database %s: %w", path, err)
		}
	}
	err = guarded(func() (err error) {
		if db.bolt, err = bolt.Open(path, 0o600, options(false)); err != nil {
			return err
		}
		return db.bolt.Update(func(tx *bolt.Tx) error {
			for _, name := range buckets {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			t, err := open(tx)
			if err != nil {
				return err
			}
			db.observe(t.totals())
			if v := t.meta.Get(keyStamp); len(v) == 8 {
				db.stamp.Store(number(v))
			}
			return t.meta.Put(keyFormat, []byte{format})
		})
	})
	if err != nil {
		if db.bolt != nil {
			db.bolt.Close()
		}
		return nil, fmt.Errorf("opening message database %s: %w", path, classify(err))
	}
	return db, nil
}

// Close waits for running transactions and closes the file.
func (db *DB) Close() error { return db.bolt.Close() }

// options: the list of free pages is not kept in the file but found again when
// it is opened. A large list would be rewritten with every commit, and a damaged
// one could hand out pages that are in use.
func options(readOnly bool) *bolt.Options {
	return &bolt.Options{
		Timeout: lockTimeout, ReadOnly: readOnly,
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
	}
}

// verify reads the frame of every page and every record of an existing file.
func verify(path string) error {
	return classify(guarded(func() error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() == 0 {
			return nil // created, then the power went: bbolt starts it anew
		}
		db, err := bolt.Open(path, 0o600, options(true))
		if err != nil {
			return err
		}
		defer db.Close() // until then the file is locked against writers
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := checkPages(file); err != nil {
			return err
		}
		return db.View(func(tx *bolt.Tx) error {
			if k, _ := tx.Cursor().First(); k == nil {
				return nil // made, but nothing was ever committed
			}
			t, err := open(tx)
			if err != nil {
				return err
			}
			return t.verify()
		})
	}))
}

// verify checks that the buckets agree with each other.
func (t tables) verify() error {
	if v := t.meta.Get(keyFormat); len(v) != 1 || v[0] != format {
		return fmt.Errorf("%w: unknown format %x", ErrDamaged, v)
	}
	// Whether each message is in both indices is found out by sums over the pairs:
	// looking up two entries for each took a second for 100,000 messages.
	seed := maphash.MakeSeed()
	pair := func(a, b []byte) uint64 {
		var h maphash.Hash
		h.SetSeed(seed)
		h.Write(a)
		h.Write(b)
		return h.Sum64()
	}
	var found totals
	var hashes, expiries index
	var last, due []byte
	err := t.messages.ForEach(func(k, v []byte) error {
		r, err := decode(v)
		switch {
		case err != nil:
			return err
		case len(k) != keySize || bytes.Compare(last, k) >= 0:
			return fmt.Errorf("%w: messages out of order", ErrDamaged)
		}
		last = k
		due = append(appendNumber(due[:0], r.expiry), k...)
		hashes.add(pair(r.hash, k))
		expiries.add(pair(due, nil))
		found.messages++
		found.bytes += recordSize(len(r.hash), len(r.data))
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what   string
		bucket *bolt.Bucket
		want   index
	}{{"hash", t.hashes, hashes}, {"expiry", t.expiries, expiries}} {
		var is index
		if err := c.bucket.ForEach(func(k, v []byte) error { is.add(pair(k, v)); return nil }); err != nil {
			return err
		}
		if is != c.want {
			return fmt.Errorf("%w: %d entries by %s do not lead to the %d messages", ErrDamaged, is.entries, c.what, found.messages)
		}
	}
	err = t.revoked.ForEach(func(k, v []byte) error {
		if len(k) != ownerSize+tokenSize || len(v) != 8 {
			return fmt.Errorf("%w: revocation of %d bytes", ErrDamaged, len(k))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if found.changes, err = t.verifyChanges(); err != nil {
		return err
	}
	if kept := t.totals(); kept != found {
		return fmt.Errorf("%w: totals say %d messages, there are %d", ErrDamaged, kept.messages, found.messages)
	}
	return nil
}

// index stands for the entries of an index, in any order.
type index struct {
	entries int64
	sum     uint64
}

func (x *index) add(entry uint64) {
	x.entries++
	x.sum += entry
}

// view runs a reading transaction.
func (db *DB) view(do func(tables) error) error {
	db.touched()
	return classify(guarded(func() error {
		return db.bolt.View(func(tx *bolt.Tx) error {
			t, err := open(tx)
			if err != nil {
				return err
			}
			return do(t)
		})
	}))
}

func (db *DB) observe(t totals) {
	db.messages.Store(t.messages)
	db.bytes.Store(t.bytes + t.changes)
}

// guarded turns a panic into an error. bbolt panics when it meets a page that went
// bad after Open, and a wrong offset within a page makes it read outside the
// mapped file, which would end the process if it were not made a panic first.
func guarded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return do()
}

// classify gives bbolt's errors the names of this package.
func classify(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrDamaged):
		return err
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrInUse
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
		errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
