package storage

import (
	"bytes"
	"encoding/binary"

	"hearth/node/account"
)

const (
	tokenSize = 36

	// maxRevoked is how many revocations an account keeps; the oldest give way.
	maxRevoked = 50
)

// Revoke remembers that the owner has withdrawn the tokens of delegates. As
// upstream, it does so only while the owner has messages here, and only for the
// 50 tokens revoked last: otherwise anybody could fill the database with
// revocations of accounts that nobody uses.
func (db *DB) Revoke(owner account.ID, tokens [][tokenSize]byte) error {
	return wrap("revoking", db.update(func(t tables) error {
		if k, _ := t.messages.Cursor().Seek(owner[:]); !bytes.HasPrefix(k, owner[:]) {
			return nil
		}
		for _, token := range tokens {
			seq, err := t.revoked.NextSequence()
			if err != nil {
				return err
			}
			if err := t.revoked.Put(revokedKey(owner, token), binary.BigEndian.AppendUint64(nil, seq)); err != nil {
				return err
			}
		}
		return t.trimRevocations(owner)
	}))
}

// Unrevoke takes revocations back and says how many there were.
func (db *DB) Unrevoke(owner account.ID, tokens [][tokenSize]byte) (removed int, err error) {
	err = db.update(func(t tables) error {
		removed = 0
		for _, token := range tokens {
			key := revokedKey(owner, token)
			if t.revoked.Get(key) == nil {
				continue
			}
			if err := t.revoked.Delete(key); err != nil {
				return err
			}
			removed++
		}
		return nil
	})
	return removed, wrap("taking back revocations", err)
}

// Revoked reports whether the owner has withdrawn the token.
func (db *DB) Revoked(owner account.ID, token [tokenSize]byte) (revoked bool, err error) {
	err = db.view(func(t tables) error {
		revoked = t.revoked.Get(revokedKey(owner, token)) != nil
		return nil
	})
	return revoked, wrap("looking up a revocation", err)
}

// trimRevocations drops the owner's oldest revocations above the limit.
func (t tables) trimRevocations(owner account.ID) error {
	for {
		var oldest []byte
		first, n := uint64(0), 0
		c := t.revoked.Cursor()
		for k, v := c.Seek(owner[:]); bytes.HasPrefix(k, owner[:]); k, v = c.Next() {
			if seq := binary.BigEndian.Uint64(v); oldest == nil || seq < first {
				oldest, first = bytes.Clone(k), seq
			}
			n++
		}
		if n <= maxRevoked {
			return nil
		}
		if err := t.revoked.Delete(oldest); err != nil {
			return err
		}
	}
}

// forgetRevocations drops the revocations of an owner who has no messages left.
func (t tables) forgetRevocations(owner []byte) error {
	if k, _ := t.revoked.Cursor().Seek(owner); !bytes.HasPrefix(k, owner) {
		return nil // nearly always
	}
	if k, _ := t.messages.Cursor().Seek(owner); bytes.HasPrefix(k, owner) {
		return nil
	}
	var keys [][]byte
	c := t.revoked.Cursor()
	for k, _ := c.Seek(owner); bytes.HasPrefix(k, owner); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := t.revoked.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

func revokedKey(owner account.ID, token [tokenSize]byte) []byte {
	return append(append(make([]byte, 0, ownerSize+tokenSize), owner[:]...), token[:]...)
}
