package engine

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cosmos/iavl"
	iavldb "github.com/cosmos/iavl/db"
	ics23 "github.com/cosmos/ics23/go"

	"hearth/node/ledger"
)

// How many tree nodes stay in memory for writing and for reading, some hundred
// bytes each.
const writeCache, readCache = 10_000, 5_000

// tree is the ledger's state on disk: a Merkle tree with one version for each
// height. It implements ledger.Store over the version that is being made.
type tree struct {
	*iavl.MutableTree
	db   *iavldb.GoLevelDB
	path string // folder of the database

	// finished reads versions that are saved. The library lets versions share
	// their nodes in memory and changes those while it saves the next one, so who
	// reads while blocks go on needs nodes of its own.
	finished *iavl.MutableTree

	oldest int64 // version that has not been deleted
}

func openTree(dir string) (*tree, error) {
	db, err := iavldb.NewGoLevelDB("ledger", dir)
	if err != nil {
		return nil, fmt.Errorf("opening the ledger's state: %w", err)
	}
	t := &tree{db: db, path: filepath.Join(dir, "ledger"+iavldb.DBFileSuffix)}
	// The library's second index for fast reads would double what is written. A
	// power cut can lose the last versions; the engine then executes their blocks
	// again, so nothing is written out at once.
	t.MutableTree = iavl.NewMutableTree(db, writeCache, true, iavl.NewNopLogger())
	t.finished = iavl.NewMutableTree(db, readCache, true, iavl.NewNopLogger())
	if _, err := t.Load(); err != nil {
		db.Close()
		return nil, fmt.Errorf("reading the ledger's state: %w", err)
	}
	if v := t.AvailableVersions(); len(v) > 0 {
		t.oldest = int64(v[0])
	}
	return t, nil
}

func (t *tree) close() error { return t.db.Close() }

// remove closes the tree and deletes it from the disk.
func (t *tree) remove() error {
	if err := t.close(); err != nil {
		return err
	}
	return os.RemoveAll(t.path)
}

// Set is part of ledger.Store.
func (t *tree) Set(key, value []byte) error {
	_, err := t.MutableTree.Set(key, value)
	return err
}

// Delete is part of ledger.Store.
func (t *tree) Delete(key []byte) error {
	_, _, err := t.Remove(key)
	return err
}

// Range is part of ledger.Store.
func (t *tree) Range(start, end []byte, visit func(key, value []byte) bool) error {
	return rangeOf(t.ImmutableTree, start, end, visit)
}

// version is a finished version of the tree as a ledger.Store that cannot be
// written.
type version struct{ *iavl.ImmutableTree }

func (v version) Range(start, end []byte, visit func(key, value []byte) bool) error {
	return rangeOf(v.ImmutableTree, start, end, visit)
}

func (version) Set(_, _ []byte) error { return errReadOnly }

func (version) Delete([]byte) error { return errReadOnly }

var errReadOnly = fmt.Errorf("%w: a finished version is not written", ledger.ErrState)

func rangeOf(t *iavl.ImmutableTree, start, end []byte, visit func(key, value []byte) bool) error {
	it, err := t.Iterator(start, end, true)
	if err != nil {
		return err
	}
	defer it.Close()
	for ; it.Valid(); it.Next() {
		if !visit(it.Key(), it.Value()) {
			break
		}
	}
	return it.Error()
}

// prune deletes versions below keep, a few at a time: each costs reads and
// writes, and a block must not wait for many.
func (t *tree) prune(keep int64) error {
	const atATime = 3
	if t.oldest == 0 {
		t.oldest = max(t.Version(), 1)
	}
	to := min(keep-1, t.oldest+atATime-1)
	if to < t.oldest {
		return nil
	}
	if err := t.DeleteVersionsTo(to); err != nil {
		return fmt.Errorf("deleting versions up to %d: %w", to, err)
	}
	t.oldest = to + 1
	return nil
}

// proof proves the list's head in a finished version.
func (t *tree) proof(height int64) (*ics23.CommitmentProof, []byte, error) {
	frozen, err := t.finished.GetImmutable(height)
	if err != nil {
		return nil, nil, fmt.Errorf("version %d of the ledger: %w", height, err)
	}
	key := []byte(ledger.KeyList)
	value, err := frozen.Get(key)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the list's head: %w", err)
	}
	proof, err := frozen.GetMembershipProof(key)
	if err != nil {
		return nil, nil, fmt.Errorf("proving the list's head: %w", err)
	}
	return proof, value, nil
}
