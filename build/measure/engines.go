package main

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/dgraph-io/badger/v4"
	_ "modernc.org/sqlite" // registers itself

	"hearth/node/account"
	"hearth/node/storage"
)

// hearth is the store that a node has.
type hearth struct{ db *storage.DB }

func openHearth(dir string) (engine, error) {
	db, err := storage.Open(filepath.Join(dir, "messages.db"), time.Now)
	return hearth{db}, err
}

func (e hearth) put(list []storage.Message) error {
	for _, m := range list {
		if _, _, err := e.db.Store(m); err != nil {
			return err
		}
	}
	return nil
}

func (e hearth) get(owner account.ID, count int) (int, error) {
	list, _, err := e.db.Retrieve(owner, 0, "", count, 0)
	return len(list), err
}

func (e hearth) close() error { return e.db.Close() }

// keysOf are the keys under which a message is found in engines of keys and
// values, and the message's record.
func keysOf(m storage.Message, seq uint64) (box, hash, expiry, record []byte) {
	box = append([]byte{'m'}, m.Owner[:]...)
	box = binary.BigEndian.AppendUint16(box, uint16(m.Namespace))
	box = binary.BigEndian.AppendUint64(box, seq)
	packed := storage.HashBytes(m.Hash)
	hash = append([]byte{'h'}, packed...)
	expiry = binary.BigEndian.AppendUint64([]byte{'e'}, uint64(m.Expiry))
	expiry = append(expiry, box[1:]...)
	for _, n := range []int64{m.Timestamp, m.Expiry, m.Expiry, m.Timestamp} {
		record = binary.BigEndian.AppendUint64(record, uint64(n))
	}
	record = append(record, packed...)
	record = append(record, m.Data...)
	return box, hash, expiry, record
}

type pebbleEngine struct {
	db  *pebble.DB
	seq uint64
}

func openPebble(dir string) (engine, error) {
	cache := pebble.NewCache(8 << 20)
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{Cache: cache, MemTableSize: 4 << 20, Logger: silence{}})
	return &pebbleEngine{db: db}, err
}

type silence struct{}

func (silence) Infof(string, ...any)  {}
func (silence) Errorf(string, ...any) {}
func (silence) Fatalf(format string, args ...any) {
	panic(format)
}

func (e *pebbleEngine) put(list []storage.Message) error {
	b := e.db.NewBatch()
	defer b.Close()
	for _, m := range list {
		e.seq++
		box, hash, expiry, record := keysOf(m, e.seq)
		// A node looks first whether it has the message already.
		if _, c, err := e.db.Get(hash); err == nil {
			c.Close()
		} else if !errors.Is(err, pebble.ErrNotFound) {
			return err
		}
		err := errors.Join(b.Set(box, record, nil), b.Set(hash, box, nil), b.Set(expiry, nil, nil))
		if err != nil {
			return err
		}
	}
	return b.Commit(pebble.Sync)
}

func (e *pebbleEngine) get(owner account.ID, count int) (int, error) {
	prefix := append([]byte{'m'}, owner[:]...)
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: prefix})
	if err != nil {
		return 0, err
	}
	n := 0
	for ok := it.First(); ok && n < count && bytes.HasPrefix(it.Key(), prefix); ok = it.Next() {
		n++
	}
	return n, it.Close()
}

func (e *pebbleEngine) close() error { return e.db.Close() }

type badgerEngine struct {
	db  *badger.DB
	seq atomic.Uint64
}

func openBadger(dir string) (engine, error) {
	db, err := badger.Open(badger.DefaultOptions(dir).WithSyncWrites(true).WithLogger(nil).
		WithMemTableSize(8 << 20).WithBlockCacheSize(8 << 20).WithNumMemtables(2).WithValueLogFileSize(64 << 20))
	return &badgerEngine{db: db}, err
}

func (e *badgerEngine) put(list []storage.Message) error {
	return e.db.Update(func(tx *badger.Txn) error {
		for _, m := range list {
			box, hash, expiry, record := keysOf(m, e.seq.Add(1))
			if _, err := tx.Get(hash); err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
				return err
			}
			if err := errors.Join(tx.Set(box, record), tx.Set(hash, box), tx.Set(expiry, nil)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *badgerEngine) get(owner account.ID, count int) (n int, err error) {
	err = e.db.View(func(tx *badger.Txn) error {
		prefix := append([]byte{'m'}, owner[:]...)
		it := tx.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: count})
		defer it.Close()
		for it.Rewind(); it.Valid() && n < count; it.Next() {
			n++
		}
		return nil
	})
	return n, err
}

func (e *badgerEngine) close() error { return e.db.Close() }

// sqlite has the C++ storage server's tables, but syncs what it acknowledges.
type sqliteEngine struct {
	db    *sql.DB
	store *sql.Stmt
}

func openSQLite(dir string) (engine, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "messages.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	_, err = db.Exec(`CREATE TABLE owners (id INTEGER PRIMARY KEY, pubkey BLOB NOT NULL UNIQUE);
		CREATE TABLE messages (id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, owner INTEGER NOT NULL, namespace INTEGER NOT NULL,
			timestamp INTEGER NOT NULL, expiry INTEGER NOT NULL, data BLOB NOT NULL);
		CREATE INDEX by_owner ON messages (owner, namespace, timestamp);
		CREATE INDEX by_expiry ON messages (expiry);`)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	e := &sqliteEngine{db: db}
	e.store, err = db.Prepare(`INSERT INTO messages (hash, owner, namespace, timestamp, expiry, data)
		VALUES (?, (SELECT id FROM owners WHERE pubkey = ?), ?, ?, ?, ?)`)
	return e, err
}

func (e *sqliteEngine) put(list []storage.Message) error {
	tx, err := e.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	store := tx.Stmt(e.store)
	for _, m := range list {
		if _, err := tx.Exec("INSERT OR IGNORE INTO owners (pubkey) VALUES (?)", m.Owner[:]); err != nil {
			return err
		}
		if _, err := store.Exec(m.Hash, m.Owner[:], m.Namespace, m.Timestamp, m.Expiry, m.Data); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (e *sqliteEngine) get(owner account.ID, count int) (n int, err error) {
	rows, err := e.db.Query(`SELECT data FROM messages WHERE owner = (SELECT id FROM owners WHERE pubkey = ?) ORDER BY id LIMIT ?`, owner[:], count)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var data []byte
		if err := rows.Scan(&data); err != nil {
			return n, err
		}
		n++
	}
	return n, rows.Err()
}

func (e *sqliteEngine) close() error { return errors.Join(e.store.Close(), e.db.Close()) }
