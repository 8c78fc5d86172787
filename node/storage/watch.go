package storage

import (
	"hearth/node/account"
)

// Watch has told called whenever a message came that was not there before, after it
// is on disk and before the call that brought it returns. called must not block. It
// takes the place of the one before.
func (db *DB) Watch(called func(owner account.ID, namespace int16)) { db.watcher.Store(&called) }

func (db *DB) tell(owner account.ID, namespace int16) {
	if called := db.watcher.Load(); called != nil {
		(*called)(owner, namespace)
	}
}
