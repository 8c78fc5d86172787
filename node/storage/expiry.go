package storage

import (
	"bytes"
	"math"

	"hearth/node/account"
)

// Affected is a message that a change of many reached.
type Affected struct {
	Namespace int16
	Hash      string
}

// DeleteAll removes the owner's messages in a namespace, or in all of them when
// namespace is nil.
func (db *DB) DeleteAll(owner account.ID, namespace *int16) ([]Affected, error) {
	return db.DeleteBefore(owner, namespace, math.MaxInt64)
}

// DeleteBefore is DeleteAll for messages with a timestamp (ms) of before or
// earlier.
func (db *DB) DeleteBefore(owner account.ID, namespace *int16, before int64) (deleted []Affected, err error) {
	err = db.update(func(t tables) error {
		deleted = nil
		var keys [][]byte
		err := t.each(scopePrefix(owner, namespace), func(k []byte, r record) {
			if r.timestamp <= before {
				keys = append(keys, bytes.Clone(k))
				deleted = append(deleted, Affected{namespaceOf(k), string(r.hash)})
			}
		})
		if err != nil {
			return err
		}
		return t.removeAll(keys)
	})
	if err != nil {
		return nil, wrap("deleting messages", err)
	}
	return deleted, nil
}

// ShortenAll sets the expiry (ms) of those of the owner's messages that would
// live longer; in one namespace, or in all of them when namespace is nil.
func (db *DB) ShortenAll(owner account.ID, namespace *int16, expiry int64) (shortened []Affected, err error) {
	err = db.update(func(t tables) error {
		shortened = nil
		var keys [][]byte
		err := t.each(scopePrefix(owner, namespace), func(k []byte, r record) {
			if r.expiry > expiry {
				keys = append(keys, bytes.Clone(k))
				shortened = append(shortened, Affected{namespaceOf(k), string(r.hash)})
			}
		})
		if err != nil {
			return err
		}
		for _, key := range keys {
			r, err := t.record(key)
			if err != nil {
				return err
			}
			if err := t.setExpiry(key, r, expiry); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, wrap("shortening expiries", err)
	}
	return shortened, nil
}

// UpdateExpiries asks decide for the new expiry (ms) of each of the hashes that
// belongs to the owner: i is its place in hashes, current the expiry it has. It
// returns the messages that decide chose to change, with their expiry now.
func (db *DB) UpdateExpiries(owner account.ID, hashes []string, decide func(i int, current int64) (expiry int64, change bool)) (changed map[string]int64, err error) {
	err = db.update(func(t tables) error {
		changed = make(map[string]int64)
		for i, h := range hashes {
			key := bytes.Clone(t.hashes.Get([]byte(h)))
			if !bytes.HasPrefix(key, owner[:]) {
				continue
			}
			r, err := t.record(key)
			if err != nil {
				return err
			}
			expiry, change := decide(i, r.expiry)
			if !change {
				continue
			}
			changed[h] = expiry
			if expiry == r.expiry {
				continue
			}
			if err := t.setExpiry(key, r, expiry); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, wrap("changing expiries", err)
	}
	return changed, nil
}

// Expiries returns the expiry (ms) of those of the hashes that belong to the
// owner.
func (db *DB) Expiries(owner account.ID, hashes []string) (expiries map[string]int64, err error) {
	expiries = make(map[string]int64)
	err = db.view(func(t tables) error {
		for _, h := range hashes {
			key := t.hashes.Get([]byte(h))
			if !bytes.HasPrefix(key, owner[:]) {
				continue
			}
			r, err := t.record(key)
			if err != nil {
				return err
			}
			expiries[h] = r.expiry
		}
		return nil
	})
	if err != nil {
		return nil, wrap("reading expiries", err)
	}
	return expiries, nil
}

func scopePrefix(owner account.ID, namespace *int16) []byte {
	if namespace == nil {
		return owner[:]
	}
	return boxPrefix(owner, *namespace)
}
