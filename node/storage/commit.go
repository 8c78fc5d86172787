package storage

import (
	bolt "go.etcd.io/bbolt"
)

// write is a change that waits for a commit.
type write struct {
	do   func(tables) error
	turn chan bool // true: lead the next commit; false: err is set
	err  error
}

// maxBatch bounds the changes in one transaction, and with it the memory that
// the transaction takes.
const maxBatch = 256

// update makes a change and returns when it is on disk. do may be called more
// than once and must set its results anew each time.
//
// Whoever finds nobody writing commits at once. Those who arrive meanwhile wait,
// and the first of them then commits for all: a lone write costs one flush and
// no delay, and a crowd shares flushes (bbolt's own Batch makes a lone write
// wait for company that may not come).
func (db *DB) update(do func(tables) error) error {
	w := &write{do: do, turn: make(chan bool, 1)}
	db.mu.Lock()
	db.waiting = append(db.waiting, w)
	leads := !db.writing
	db.writing = true
	db.mu.Unlock()
	if leads || <-w.turn {
		db.lead()
	}
	return w.err
}

// lead commits the changes at the head of the queue, the first of which is the
// caller's, and passes the turn on.
func (db *DB) lead() {
	db.mu.Lock()
	n := min(len(db.waiting), maxBatch)
	batch := db.waiting[:n:n]
	db.waiting = db.waiting[n:]
	db.mu.Unlock()

	if err := db.commit(batch); err != nil {
		// One change may have met a damaged record: the others need not suffer.
		for _, w := range batch {
			w.err = db.commit([]*write{w})
		}
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
	var changed []delta
	err := classify(guarded(func() error {
		return db.bolt.Update(func(tx *bolt.Tx) error {
			t, err := open(tx)
			if err != nil {
				return err
			}
			for _, w := range batch {
				if err := w.do(t); err != nil {
					return err
				}
			}
			after := t.totals()
			changed = *t.sums
			tx.OnCommit(func() { db.observe(after) })
			return t.meta.Put(keyStamp, appendNumber(nil, db.stamp.Load()))
		})
	}))
	if err == nil {
		db.sums.Load().apply(changed)
	}
	return err
}
