package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"slices"
	"strings"

	crdb "github.com/cockroachdb/errors"
	"github.com/cockroachdb/pebble"
	"github.com/cockroachdb/pebble/bloom"
	"github.com/cockroachdb/pebble/vfs"

	"hearth/node/account"
)

// The sizes of the engine, in bytes. A service node has a few dozen megabytes, and
// the kernel keeps what was read in a cache of its own.
const (
	memTable   = 1 << 20 // writes that are only in the log, and as large the log is
	blockCache = 4 << 20
	blockSize  = 8 << 10 // what one look-up reads
	tableSize  = 1 << 20 // of a file; those of the lower levels have four times as much
	openFiles  = 128
)

// Fixed is how many bytes of disk a database takes however little is in it: the log
// that is written, those kept to be written over, and what is being merged.
const Fixed = 10 << 20

// options of the engine. Nothing is compressed: messages are ciphertext, and what
// else there is are hashes.
func options(fs vfs.FS, cache *pebble.Cache, seen *pebble.EventListener) *pebble.Options {
	o := &pebble.Options{
		Cache: cache, FS: fs, EventListener: seen, Logger: quiet{},
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       memTable, MaxOpenFiles: openFiles,
		L0CompactionThreshold: 4, FlushSplitBytes: memTable / 4,
		MaxConcurrentCompactions: func() int { return 1 },
	}
	for level := range 7 {
		o.Levels = append(o.Levels, pebble.LevelOptions{
			BlockSize: blockSize, TargetFileSize: tableSize << min(level, 2),
			Compression: pebble.NoCompression, FilterPolicy: bloom.FilterPolicy(10), FilterType: pebble.TableFilter,
		})
	}
	return o
}

// quiet lets the engine say nothing but that it cannot go on.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}

// Fatalf must not return. It is called when the disk takes no more. Within a commit it
// ends the commit, see ErrEnded; in the background, with the engine's locks held, it
// ends the process, and the next one begins with what is on disk.
func (quiet) Fatalf(format string, args ...any) {
	if n := len(args); n > 0 {
		if _, ok := args[n-1].(error); ok {
			format = strings.Replace(format, "%v", "%w", 1) // so that callers find the system's error
		}
	}
	panic(fatal{fmt.Errorf(format, args...)})
}

type fatal struct{ error }

// tx is what one transaction sees, of one moment and with its own writes.
type tx struct {
	reader pebble.Reader
	batch  *pebble.Batch // nil when it only reads
	err    error         // the first that the engine reported

	state
	sums    []delta
	leavers map[number5]struct{} // accounts that lost a message, and perhaps the last
}

// state is what a commit changes besides the tables; all of it is one entry in meta.
type state struct {
	totals
	nextMessage, nextOwner uint64
}

// table is one of the tables within a transaction: its keys have their first byte in
// common, which only this file sees. What it returns belongs to the caller.
type table struct {
	*tx
	tag byte
}

func (t table) key(k []byte) []byte { return append(append(make([]byte, 0, 64), t.tag), k...) }

// Get returns the value of a key, nil when it is not there, and what is not nil
// otherwise. An error of the engine ends the transaction when it is over.
func (t table) Get(k []byte) []byte {
	v, closer, err := t.reader.Get(t.key(k))
	if err != nil {
		if !errors.Is(err, pebble.ErrNotFound) {
			t.failed(err)
		}
		return nil
	}
	clone := append(make([]byte, 0, len(v)), v...)
	t.failed(closer.Close())
	return clone
}

func (t table) Put(k, v []byte) error { return t.batch.Set(t.key(k), v, nil) }

func (t table) Delete(k []byte) error { return t.batch.Delete(t.key(k), nil) }

// within visits the entries whose keys begin with prefix, in order. Keys and values
// are valid until the next. Writes meanwhile are not seen.
func (t table) within(prefix []byte) iter.Seq2[[]byte, []byte] {
	lower := t.key(prefix)
	return t.scan(lower, lower, successor(lower))
}

// from visits the entries from a key on whose keys begin with prefix.
func (t table) from(prefix, k []byte) iter.Seq2[[]byte, []byte] {
	lower := t.key(prefix)
	return t.scan(t.key(k), lower, successor(lower))
}

func (t table) scan(first, lower, upper []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		it, err := t.reader.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			t.failed(err)
			return
		}
		defer func() { t.failed(it.Close()) }()
		for ok := it.SeekGE(first); ok; ok = it.Next() {
			v, err := it.ValueAndErr()
			if err != nil {
				t.failed(err)
				return
			}
			if !yield(it.Key()[1:], v) {
				return
			}
		}
	}
}

// first returns a copy of the first key that begins with prefix, or nil.
func (t table) first(prefix []byte) []byte {
	for k := range t.within(prefix) {
		return bytes.Clone(k)
	}
	return nil
}

// lookUps gives a Get for many keys, which is cheaper than as many of table's own when
// each key is a little above the one before. done must be called at the end.
func (t table) lookUps() (get func(k []byte) []byte, done func()) {
	var it *pebble.Iterator
	get = func(k []byte) []byte {
		if it == nil {
			var err error
			lower := []byte{t.tag}
			if it, err = t.reader.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: successor(lower)}); err != nil {
				t.failed(err)
				return nil
			}
		}
		key := t.key(k)
		if !it.SeekGE(key) || !bytes.Equal(it.Key(), key) {
			return nil
		}
		v, err := it.ValueAndErr()
		if err != nil {
			t.failed(err)
			return nil
		}
		return append(make([]byte, 0, len(v)), v...)
	}
	return get, func() {
		if it != nil {
			t.failed(it.Close())
		}
	}
}

func (t *tx) failed(err error) {
	if t.err == nil && err != nil {
		t.err = err
	}
}

// successor is the least key above all that begin with prefix, which has a tag.
func successor(prefix []byte) []byte {
	s := slices.Clone(prefix)
	for i := len(s) - 1; ; i-- {
		if s[i]++; s[i] != 0 {
			return s[:i+1]
		}
	}
}

// begin makes the tables of a transaction; committing is held if it has a batch.
func (db *DB) begin(r pebble.Reader, b *pebble.Batch) tables {
	x := &tx{reader: r, batch: b}
	if b != nil {
		x.state = db.state
	}
	return tables{
		tx: x,
		// Messages come last, and apart from what is written with each of them, so that
		// files of new ones do not overlap files of old ones: those are moved from level
		// to level and not written again.
		messages: table{x, 'z'}, boxes: table{x, 'b'}, hashes: table{x, 'h'}, expiries: table{x, 'e'},
		owners: table{x, 'o'}, names: table{x, 'n'},
		revoked: table{x, 'r'}, changes: table{x, 'c'}, touches: table{x, 't'}, dues: table{x, 'd'},
		meta: table{x, 'x'},
	}
}

// view runs a reading transaction.
func (db *DB) view(do func(tables) error) error {
	db.reading.RLock()
	defer db.reading.RUnlock()
	if db.closed {
		return errClosed
	}
	return db.notice(guarded(func() error {
		s := db.engine.NewSnapshot()
		defer s.Close()
		return db.look(s, do)
	}))
}

var errClosed = errors.New("message database is closed")

func (db *DB) look(s *pebble.Snapshot, do func(tables) error) error {
	t := db.begin(s, nil)
	err := do(t)
	if t.err != nil {
		return t.err
	}
	return err
}

// notice gives the engine's errors the names of this package, and remembers when one
// of them means that the database cannot be trusted any more.
func (db *DB) notice(err error) error {
	if err == nil {
		return nil
	}
	if corrupt(err) && !errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if errors.Is(err, ErrDamaged) && !errors.Is(err, errPanic) {
		db.suspect(err)
	}
	return err
}

// corrupt reports whether the engine found a wrong sum. Its marks are only seen by
// the package that set them.
func corrupt(err error) bool { return crdb.Is(err, pebble.ErrCorruption) }

// errPanic marks what guarded caught: a mistake of ours, or of the engine about what
// it read.
var errPanic = errors.New("panic")

// guarded turns a panic into an error.
func guarded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case fatal:
			err = p.error
		default:
			err = fmt.Errorf("%w: %w: %v", ErrDamaged, errPanic, p)
		}
	}()
	return do()
}

// number5 is the number of an account, which stands for its 33 bytes in all tables
// about messages.
type number5 [5]byte

func toNumber5(n uint64) (b number5) {
	var all [8]byte
	binary.BigEndian.PutUint64(all[:], n)
	copy(b[:], all[3:])
	return b
}

// owner finds the number of an account.
func (t tables) owner(id []byte) (n number5, ok bool) {
	v := t.owners.Get(id)
	if len(v) != len(n) {
		return n, false
	}
	return number5(v), true
}

// name finds the account of a number.
func (t tables) name(n number5) (id account.ID, err error) {
	v := t.names.Get(n[:])
	if len(v) != ownerSize {
		return id, fmt.Errorf("%w: a message is nobody's", ErrDamaged)
	}
	return account.ID(v), nil
}

// enter gives an account a number if it has none.
func (t tables) enter(id []byte) (number5, error) {
	n, ok := t.owner(id)
	if ok {
		delete(t.leavers, n)
		return n, nil
	}
	n = toNumber5(t.nextOwner)
	t.nextOwner++
	return n, errors.Join(t.owners.Put(id, n[:]), t.names.Put(n[:], id))
}

// leave is called when an account lost a message.
func (t tables) leave(n number5) {
	if t.leavers == nil {
		t.leavers = make(map[number5]struct{})
	}
	t.leavers[n] = struct{}{}
}

// finish writes what a transaction changed besides the tables.
func (t tables) finish(stamp int64) error {
	for n := range t.leavers {
		if t.boxes.first(n[:]) != nil {
			continue
		}
		id, err := t.name(n)
		if err != nil {
			return err
		}
		if err := errors.Join(t.owners.Delete(id[:]), t.names.Delete(n[:])); err != nil {
			return err
		}
	}
	v := []byte{format}
	for _, n := range []int64{t.totals.messages, t.bytes, t.totals.changes, stamp, int64(t.nextMessage), int64(t.nextOwner)} {
		v = appendNumber(v, n)
	}
	return t.meta.Put(nil, v)
}

const stateSize = 1 + 6*8

// load reads what finish wrote.
func (t tables) load() (s state, stamp int64, err error) {
	v := t.meta.Get(nil)
	switch {
	case t.err != nil:
		return s, 0, t.err
	case v == nil:
		return s, 0, nil
	case len(v) != stateSize || v[0] != format:
		return s, 0, fmt.Errorf("%w: unknown format %.1x", ErrDamaged, v)
	}
	at := func(i int) int64 { return number(v[1+8*i:]) }
	return state{totals{at(0), at(1), at(2)}, uint64(at(4)), uint64(at(5))}, at(3), nil
}
