package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sort"
)

// Store is the ordered map that holds the state. The engine's is a Merkle tree;
// [Memory] is a plain one. Keys and values that come out of it must not be
// changed. An error is one of the disk: the block that met it is not executed.
type Store interface {
	// Get returns nil for a key that is not there.
	Get(key []byte) ([]byte, error)
	Set(key, value []byte) error
	Delete(key []byte) error
	// Range calls visit for the keys from start up to, not including, end, in
	// ascending order, until it returns false. visit does not write.
	Range(start, end []byte, visit func(key, value []byte) bool) error
}

// Memory is a [Store] in memory: for tests, simulations and questions such as
// what a block would do. The zero value is empty.
type Memory struct {
	values map[string][]byte
	keys   []string // ascending
}

// Get is part of [Store].
func (m *Memory) Get(key []byte) ([]byte, error) { return m.values[string(key)], nil }

// Set is part of [Store].
func (m *Memory) Set(key, value []byte) error {
	if m.values == nil {
		m.values = make(map[string][]byte)
	}
	k := string(key)
	if _, known := m.values[k]; !known {
		i := sort.SearchStrings(m.keys, k)
		m.keys = slices.Insert(m.keys, i, k)
	}
	m.values[k] = bytes.Clone(value)
	return nil
}

// Delete is part of [Store].
func (m *Memory) Delete(key []byte) error {
	k := string(key)
	if _, known := m.values[k]; known {
		delete(m.values, k)
		i := sort.SearchStrings(m.keys, k)
		m.keys = slices.Delete(m.keys, i, i+1)
	}
	return nil
}

// Range is part of [Store].
func (m *Memory) Range(start, end []byte, visit func(key, value []byte) bool) error {
	for i := sort.SearchStrings(m.keys, string(start)); i < len(m.keys) && m.keys[i] < string(end); i++ {
		if !visit([]byte(m.keys[i]), m.values[m.keys[i]]) {
			break
		}
	}
	return nil
}

// Clone copies everything.
func (m *Memory) Clone() *Memory {
	c := &Memory{values: make(map[string][]byte, len(m.values)), keys: slices.Clone(m.keys)}
	for k, v := range m.values {
		c.values[k] = v // values are never changed in place
	}
	return c
}

// Root is a hash of all keys and values. It is not the Merkle root of the
// engine's store.
func (m *Memory) Root() [32]byte {
	h := sha256.New()
	var length [8]byte
	for _, k := range m.keys {
		v := m.values[k]
		binary.BigEndian.PutUint32(length[:4], uint32(len(k)))
		binary.BigEndian.PutUint32(length[4:], uint32(len(v)))
		h.Write(length[:])
		h.Write([]byte(k))
		h.Write(v)
	}
	return [32]byte(h.Sum(nil))
}

// layer is a Store whose writes stay in memory until flush: one lies over the
// store while a block is executed, and one over that for each transaction, so
// that a transaction that fails half-way has changed nothing.
type layer struct {
	below Store
	dirty map[string][]byte // nil = deleted
}

func newLayer(below Store) *layer { return &layer{below: below, dirty: make(map[string][]byte)} }

func (l *layer) Get(key []byte) ([]byte, error) {
	if v, ok := l.dirty[string(key)]; ok {
		return v, nil
	}
	return l.below.Get(key)
}

func (l *layer) Set(key, value []byte) error {
	l.dirty[string(key)] = value
	return nil
}

func (l *layer) Delete(key []byte) error {
	l.dirty[string(key)] = nil
	return nil
}

func (l *layer) Range(start, end []byte, visit func(key, value []byte) bool) error {
	var fresh []string
	for k := range l.dirty {
		if k >= string(start) && k < string(end) {
			fresh = append(fresh, k)
		}
	}
	slices.Sort(fresh)
	stopped := false
	// own visits the writes of this layer that come before key; all when it is nil.
	own := func(key []byte) bool {
		for len(fresh) > 0 && (key == nil || fresh[0] < string(key)) {
			k := fresh[0]
			fresh = fresh[1:]
			if v := l.dirty[k]; v != nil && !visit([]byte(k), v) {
				stopped = true
				return false
			}
		}
		return true
	}
	err := l.below.Range(start, end, func(key, value []byte) bool {
		if !own(key) {
			return false
		}
		if _, written := l.dirty[string(key)]; written {
			return true // own gets to it
		}
		if !visit(key, value) {
			stopped = true
		}
		return !stopped
	})
	if err == nil && !stopped {
		own(nil)
	}
	return err
}

// flush writes to the store below, in the order of the keys: a Merkle tree's
// root depends on the order.
func (l *layer) flush() error {
	keys := make([]string, 0, len(l.dirty))
	for k := range l.dirty {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		v := l.dirty[k]
		old, err := l.below.Get([]byte(k))
		if err != nil {
			return err
		}
		switch {
		case v == nil && old == nil, v != nil && bytes.Equal(v, old) && old != nil:
			// An unnecessary write would change the root of a Merkle tree with
			// versions, and a changed root costs one more block.
		case v == nil:
			err = l.below.Delete([]byte(k))
		default:
			err = l.below.Set([]byte(k), v)
		}
		if err != nil {
			return err
		}
	}
	clear(l.dirty)
	return nil
}
