package storage

import (
	"bytes"
	"cmp"
	"slices"

	"hearth/node/account"
)

const (
	tokenSize = 36

	// maxRevoked is how many revocations an account keeps; the oldest give way.
	maxRevoked = 50
)

// Revoked reports whether the owner has withdrawn the token.
//
// As upstream, the database remembers that only while the owner has messages
// here (or a delegate's change, which may have removed them), and only for the 50
// tokens revoked last: otherwise anybody could fill it with revocations of
// accounts that nobody uses.
func (db *DB) Revoked(owner account.ID, token [tokenSize]byte) (revoked bool, err error) {
	err = db.view(func(t tables) error {
		revoked = t.revoked.Get(revokedKey(owner, token)) != nil
		return nil
	})
	return revoked, wrap("looking up a revocation", err)
}

// settleTokens works out which of the owner's tokens are revoked, and drops the
// changes that no longer have a part in that, and those that a delegate asked
// for after its token was revoked: a node that had not heard of it took them. What they
// deleted comes back from the other nodes.
func (t tables) settleTokens(owner account.ID) error {
	type verdict struct {
		token   [tokenSize]byte
		stamp   int64
		revoked bool
		by      int
	}
	var changes []Change
	for _, kind := range []Kind{Revoke, Unrevoke} {
		prefix := changesOf(owner[:], kind)
		for _, v := range t.changes.within(prefix) {
			c, _, err := decodeChange(v)
			if err != nil {
				return err
			}
			changes = append(changes, c)
		}
	}
	slices.SortFunc(changes, compareChanges)
	last := make(map[[tokenSize]byte]verdict)
	for i, c := range changes {
		for _, token := range c.Tokens {
			last[token] = verdict{token, c.Stamp, c.Kind == Revoke, i}
		}
	}
	var verdicts []verdict
	for _, v := range last {
		verdicts = append(verdicts, v)
	}
	slices.SortFunc(verdicts, func(a, b verdict) int {
		return cmp.Or(cmp.Compare(b.stamp, a.stamp), compareTokens(a.token, b.token))
	})

	// The newest stand, as many of each sort as there may be.
	needed := make([]bool, len(changes))
	stand := make(map[[tokenSize]byte]int64)
	taken := 0
	for _, v := range verdicts {
		if v.revoked && len(stand) < maxRevoked {
			stand[v.token] = v.stamp
			needed[v.by] = true
		} else if !v.revoked && taken < maxRevoked {
			taken++
			needed[v.by] = true
		}
	}
	for i := range changes {
		if !needed[i] {
			if err := t.drop(changes[i].Key()); err != nil {
				return err
			}
		}
	}
	if err := t.clearRevoked(owner[:]); err != nil {
		return err
	}
	for token, stamp := range stand {
		if err := t.revoked.Put(revokedKey(owner, token), appendNumber(nil, stamp)); err != nil {
			return err
		}
	}
	return t.dropUnauthorised(owner, stand)
}

func (t tables) dropUnauthorised(owner account.ID, revoked map[[tokenSize]byte]int64) error {
	var late []Change
	prefix := changesOf(owner[:])
	for _, v := range t.changes.within(prefix) {
		c, _, err := decodeChange(v)
		if err != nil {
			return err
		}
		if len(c.Delegate) != tokenSize {
			continue
		}
		if stamp, is := revoked[[tokenSize]byte(c.Delegate)]; is && c.Stamp >= stamp {
			late = append(late, c)
		}
	}
	for i := range late {
		if err := t.drop(late[i].Key()); err != nil {
			return err
		}
		reached, err := t.reached(&late[i])
		if err != nil {
			return err
		}
		for _, key := range reached {
			if err := t.settle(key, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// needsRevocations reports whether the owner has anything that a revoked delegate
// could have something to do with.
func (t tables) needsRevocations(owner []byte) (bool, error) {
	if n, ok := t.owner(owner); ok && t.boxes.first(n[:]) != nil {
		return true, nil
	}
	prefix := changesOf(owner)
	for _, v := range t.changes.within(prefix) {
		c, _, err := decodeChange(v)
		if err != nil || len(c.Delegate) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// forgetRevocations drops the revocations of an owner who needs none any more.
func (t tables) forgetRevocations(owner []byte) error {
	if t.revoked.first(owner) == nil {
		return nil // nearly always
	}
	if needed, err := t.needsRevocations(owner); err != nil || needed {
		return err
	}
	prefix := changesOf(owner, Revoke)
	var keys [][]byte
	for k := range t.changes.within(prefix) {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := t.drop(k); err != nil {
			return err
		}
	}
	return t.clearRevoked(owner)
}

func (t tables) clearRevoked(owner []byte) error {
	var keys [][]byte
	for k := range t.revoked.within(owner) {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := t.revoked.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

func compareTokens(a, b [tokenSize]byte) int { return bytes.Compare(a[:], b[:]) }

func revokedKey(owner account.ID, token [tokenSize]byte) []byte {
	return append(append(make([]byte, 0, ownerSize+tokenSize), owner[:]...), token[:]...)
}
