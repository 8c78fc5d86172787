package storage

import (
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble"
)

// write is a change that waits for a commit.
type write struct {
	do   func(tables) error
	size int       // messages and changes
	turn chan bool // true: lead the next commit; false: err is set
	err  error
}

// maxBatch bounds what is changed in one transaction, except by a single call, and
// with it the memory that the transaction takes: twice what is written.
const maxBatch = 256

// update makes a change and returns when it is on disk. do may be called more
// than once and must set its results anew each time.
//
// Whoever finds nobody writing commits at once. Those who arrive meanwhile wait,
// and the first of them then commits for all: a lone write costs one flush and
// no delay, and a crowd shares flushes.
func (db *DB) update(do func(tables) error) error { return db.updateMany(1, do) }

// updateMany is update for a change of so many messages.
func (db *DB) updateMany(size int, do func(tables) error) error {
	w := &write{do: do, size: size, turn: make(chan bool, 1)}
	db.mu.Lock()
	db.waiting = append(db.waiting, w)
	if db.enough != nil && len(db.waiting) >= db.crowd {
		close(db.enough)
		db.enough = nil
	}
	leads := !db.writing
	db.writing = true
	db.mu.Unlock()
	if leads || <-w.turn {
		db.lead()
	}
	return w.err
}

// gather is how long a leader waits for those who wrote together with the last
// batch, most of whom will be back with their next write. A commit costs two
// flushes and a dozen pages whether it carries one message or thirty; a lone
// writer waits for nobody.
const gather = time.Millisecond

// awaitCrowd waits until as many changes wait as the last commit had; db.mu is held.
func (db *DB) awaitCrowd() {
	if len(db.waiting) >= db.crowd {
		return
	}
	enough := make(chan struct{})
	db.enough = enough
	db.mu.Unlock()
	patience := time.NewTimer(gather)
	select {
	case <-enough:
	case <-patience.C:
	}
	patience.Stop()
	db.mu.Lock()
	db.enough = nil
}

// lead commits the changes at the head of the queue, the first of which is the
// caller's, and passes the turn on.
func (db *DB) lead() {
	db.mu.Lock()
	db.awaitCrowd()
	n := 1
	for size := db.waiting[0].size; n < len(db.waiting); n++ {
		if size += db.waiting[n].size; size > maxBatch {
			break
		}
	}
	db.crowd = n
	batch := db.waiting[:n:n]
	db.waiting = db.waiting[n:]
	db.mu.Unlock()

	if err := db.commit(batch); err != nil && len(batch) > 1 {
		// One change may have met a damaged record: the others need not suffer.
		for _, w := range batch {
			w.err = db.commit([]*write{w})
		}
	} else {
		batch[0].err = err
	}

	db.mu.Lock()
	if len(db.waiting) > 0 {
		db.waiting[0].turn <- true
	} else {
		db.waiting, db.writing = nil, false
	}
	db.mu.Unlock()
	for _, w := range batch[1:] {
		w.turn <- false
	}
}

func (db *DB) commit(batch []*write) error {
	db.committing.Lock() // see Track
	defer db.committing.Unlock()
	if err := db.ended; err != nil {
		return err
	}
	b := db.engine.NewIndexedBatch()
	t := db.begin(b, b)
	err := db.notice(guarded(func() error {
		for _, w := range batch {
			if err := errors.Join(w.do(t), t.err); err != nil {
				return err
			}
		}
		return errors.Join(t.finish(db.stamp.Load()), t.err)
	}))
	if err != nil {
		b.Close()
		return err
	}
	if err := guarded(func() error { return b.Commit(pebble.Sync) }); err != nil {
		// What of it is on disk nobody knows, and the engine takes nothing any more.
		db.ended = fmt.Errorf("%w: %w", ErrEnded, err)
		return db.ended
	}
	db.state = t.state
	db.observe(t.totals)
	db.sums.Load().apply(t.sums)
	return b.Close()
}
