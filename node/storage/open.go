package storage

import (
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble"
	"github.com/cockroachdb/pebble/vfs"

	"hearth/node/account"
)

// DB is an open message database. Its methods may be used by several goroutines
// at once; not after Close.
type DB struct {
	engine *pebble.DB
	lock   *pebble.Lock
	fs     vfs.FS
	path   string
	now    func() time.Time

	limit, messages, bytes atomic.Int64
	stamp                  atomic.Int64 // the latest given or seen

	reading    sync.RWMutex // held by readers; Close waits for them
	closed     bool
	committing sync.Mutex
	state      state                // as of the last commit
	ended      error                // why nothing can be written any more
	sums       atomic.Pointer[sums] // nil until Track

	suspicion atomic.Pointer[error] // what looked like damage first; nil while nothing has

	watcher atomic.Pointer[func(owner account.ID, namespace int16)] // see Watch

	mu      sync.Mutex
	waiting []*write      // in order of arrival
	writing bool          // somebody commits, and will pass the turn on
	crowd   int           // changes in the last commit
	enough  chan struct{} // closed when as many wait; nil when nobody wants to know
}

const (
	// lockTimeout is how long Open waits for another process to let go of the folder.
	lockTimeout = time.Second
	lockRetry   = 50 * time.Millisecond

	// suspected is the file in the folder that lets the next Open read everything.
	suspected = "SUSPECT"
)

// Open opens the message database in the folder path and creates it when it does not
// exist. now is the clock that decides what has expired.
//
// Files that are missing, too short or not a database's give ErrDamaged. Blocks of
// messages are not read: each has a sum, so damage in one is found by whoever reads
// it. That reader gets ErrDamaged, and so does Sweep from then on. The next Open then
// reads every record and gives ErrDamaged unless all are well. ErrInUse means that
// another process has the database.
func Open(path string, now func() time.Time) (*DB, error) {
	return openOn(vfs.Default, path, now)
}

func openOn(fs vfs.FS, path string, now func() time.Time) (*DB, error) {
	db := &DB{fs: fs, path: path, now: now}
	if err := db.open(); err != nil {
		return nil, fmt.Errorf("opening message database %s: %w", path, err)
	}
	return db, nil
}

func (db *DB) open() (err error) {
	switch info, err := db.fs.Stat(db.path); {
	case errors.Is(err, os.ErrNotExist):
		if err := db.fs.MkdirAll(db.path, 0o700); err != nil {
			return err
		}
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%w: it is a file", ErrDamaged)
	}
	if db.lock, err = lock(db.fs, db.path); err != nil {
		return err
	}
	defer func() {
		if err != nil && db.engine == nil {
			err = errors.Join(err, db.lock.Close())
		}
	}()
	_, err = db.fs.Stat(filepath.Join(db.path, suspected))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	closely := err == nil
	exists, err := begun(db.fs, db.path)
	if err != nil {
		return err
	}
	cache := pebble.NewCache(blockCache)
	defer cache.Unref()
	o := options(db.fs, cache, &pebble.EventListener{BackgroundError: func(err error) {
		if corrupt(err) {
			_ = db.notice(err) // somebody asks for it: Sweep
		}
	}})
	o.Lock, o.ErrorIfNotExists = db.lock, exists
	if err := guarded(func() (err error) { db.engine, err = pebble.Open(db.path, o); return err }); err != nil {
		db.engine = nil
		return ofOpening(err)
	}
	err = db.view(func(t tables) error {
		s, stamp, err := t.load()
		if err != nil {
			return err
		}
		db.state = s
		db.observe(s.totals)
		db.stamp.Store(stamp)
		if closely {
			return t.verify()
		}
		return nil
	})
	if err == nil && closely {
		err = db.fs.Remove(filepath.Join(db.path, suspected))
	}
	if err != nil {
		_ = db.Close() // the first error says more
		return err
	}
	return nil
}

// lock takes the folder for this process.
func lock(fs vfs.FS, path string) (*pebble.Lock, error) {
	for waited := time.Duration(0); ; waited += lockRetry {
		l, err := pebble.LockDirectory(path, fs)
		held := err != nil && (errors.Is(err, syscall.EAGAIN) ||
			strings.Contains(err.Error(), "lock held by current process"))
		switch {
		case !held:
			return l, err
		case waited >= lockTimeout:
			return nil, ErrInUse
		}
		time.Sleep(lockRetry)
	}
}

// begun reports whether the folder holds files of a database that was in use. The
// engine would begin anew beside them if the file that names them all were gone.
func begun(fs vfs.FS, path string) (bool, error) {
	names, err := fs.List(path)
	for _, name := range names {
		if ext := filepath.Ext(name); ext == ".sst" || ext == ".log" {
			return true, err
		}
	}
	return false, err
}

// ofOpening gives an error of opening its name: what the system does not answer for
// is the fault of the files.
func ofOpening(err error) error {
	var system syscall.Errno
	if errors.Is(err, ErrDamaged) || errors.As(err, &system) && system != syscall.ENOENT {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// suspect remembers that something looked like damage, here and in the folder.
func (db *DB) suspect(err error) {
	if !db.suspicion.CompareAndSwap(nil, &err) {
		return
	}
	f, failed := db.fs.Create(filepath.Join(db.path, suspected))
	if failed != nil {
		return // this process knows; the next one finds out by itself
	}
	_ = errors.Join(f.Sync(), f.Close())
}

// Close waits for running transactions and closes the files.
func (db *DB) Close() error {
	db.committing.Lock()
	defer db.committing.Unlock()
	db.reading.Lock()
	defer db.reading.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	if db.ended != nil {
		return nil // the engine would wait for the write that failed
	}
	db.ended = errClosed
	return errors.Join(guarded(db.engine.Close), db.lock.Close())
}

// verify reads everything and checks that the tables agree with each other.
func (t tables) verify() error {
	seed := maphash.MakeSeed()
	pair := func(a, b []byte) uint64 {
		var h maphash.Hash
		h.SetSeed(seed)
		h.Write(a)
		h.Write(b)
		return h.Sum64()
	}
	kept, _, err := t.load()
	if err != nil {
		return err
	}
	// Whether each message is in all indices is found out by sums over the pairs.
	var found totals
	var hashes, expiries, boxes, owners index
	for k, v := range t.messages.within(nil) {
		r, err := decode(v)
		switch {
		case err != nil:
			return err
		case len(k) != keySize:
			return fmt.Errorf("%w: message under a key of %d bytes", ErrDamaged, len(k))
		}
		hashes.add(pair(r.hash, k))
		expiries.add(pair(expiryKey(r.expiry, k), nil))
		boxes.add(pair(r.box(k), nil))
		found.messages++
		found.bytes += recordSize(len(r.hash), len(r.data))
	}
	var last number5
	for k := range t.boxes.within(nil) {
		if n := number5(k); owners.entries == 0 || n != last {
			last = n
			id, err := t.name(n)
			if err != nil {
				return err
			}
			owners.add(pair(id[:], n[:]))
		}
	}
	for _, c := range []struct {
		what  string
		table table
		want  index
	}{{"hash", t.hashes, hashes}, {"expiry", t.expiries, expiries}, {"account", t.boxes, boxes}, {"name", t.owners, owners}} {
		var is index
		for k, v := range c.table.within(nil) {
			is.add(pair(k, v))
		}
		if is != c.want {
			return fmt.Errorf("%w: %d entries by %s do not lead to the %d messages", ErrDamaged, is.entries, c.what, found.messages)
		}
	}
	names := int64(0)
	for range t.names.within(nil) {
		names++
	}
	if names != owners.entries {
		return fmt.Errorf("%w: %d names for %d accounts", ErrDamaged, names, owners.entries)
	}
	for k, v := range t.revoked.within(nil) {
		if len(k) != ownerSize+tokenSize || len(v) != 8 {
			return fmt.Errorf("%w: revocation of %d bytes", ErrDamaged, len(k))
		}
	}
	if found.changes, err = t.verifyChanges(); err != nil {
		return err
	}
	if kept.totals != found {
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

func (db *DB) observe(t totals) {
	db.messages.Store(t.messages)
	db.bytes.Store(t.bytes + t.changes)
}
