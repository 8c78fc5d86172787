package replica

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"hearth/node/account"
	"hearth/node/storage"
)

// A request has two parts, one byte that says what is asked for and a body; an
// answer has two parts, one byte that says how it went and a body. Numbers are
// big-endian. A key is a byte with its length and the key.
//
//	roots     span 24                                        → 2 sums of 16
//	branches  span 24, set 1, level 1 (0, 1), first 1        → 256 sums of 8
//	list      span 24, set 1, first 1, leaves 32 (bits), key → more 1, key, { key, mark 8 }
//	get       span 24, set 1, { key }                        → { size 4, element }, size 0 for one that is gone
//	offer     set 1, { key, mark 8 }                         → bits, 1 for one that is wanted
//	put       set 1, { size 4, element }                     → { outcome 1 }
//
// An element is a message (owner 33, namespace 2, timestamp 8, expiry 8, stamp 8,
// data) or a change (stamp 8, and what storage.Change.AppendTo writes).
type op byte

const (
	opRoots    op = 'r'
	opBranches op = 'b'
	opList     op = 'l'
	opGet      op = 'g'
	opOffer    op = 'o'
	opPut      op = 'p'
)

type status byte

const (
	statusOK       status = iota
	statusView            // the nodes do not agree about the swarm
	statusBusy            // ask again later
	statusBad             // not to be read
	statusStranger        // not for nodes outside the swarm
	statusTrouble         // the database does not work
)

var (
	errWire  = errors.New("malformed message between replicas")
	errView  = errors.New("the other node sees another swarm")
	errBusy  = errors.New("the other node is busy")
	errLying = errors.New("the other node sends what cannot be right")
)

const (
	maxPiece   = 512 << 10 // bytes of elements in one message
	maxKeys    = 1024      // keys in one message
	maxElement = storage.MaxChange + 1024
	maxKey     = 64
	leafBits   = 32 // bytes of a set of leaves
	sumSize    = 16
)

// reader takes values off the front of a message.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.bad, r.rest = true, nil
		return make([]byte, min(n, 64))
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte { return r.take(1)[0] }

func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }

func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) set() storage.Set {
	s := storage.Set(r.byte())
	if s >= storage.Sets {
		r.bad = true
	}
	return s % storage.Sets
}

func (r *reader) key() []byte {
	n := int(r.byte())
	if n > maxKey {
		r.bad = true
		return nil
	}
	return r.take(n)
}

// more reports whether something follows that can be read.
func (r *reader) more() bool { return !r.bad && len(r.rest) > 0 }

// end gives an error unless everything was read.
func (r *reader) end() error {
	if r.bad || len(r.rest) > 0 {
		return errWire
	}
	return nil
}

func appendKey(b, key []byte) []byte { return append(append(b, byte(len(key))), key...) }

// keys reads keys to the end.
func (r *reader) keys() (keys [][]byte) {
	for r.more() {
		if len(keys) == maxKeys {
			r.bad = true
			return nil
		}
		keys = append(keys, r.key())
	}
	return keys
}

// marked is a key and the mark of what it stands for.
type marked struct {
	key  []byte
	mark uint64
}

func (r *reader) marked(limit int) (list []marked) {
	for r.more() {
		if len(list) == limit {
			r.bad = true
			return nil
		}
		list = append(list, marked{r.key(), r.uint64()})
	}
	return list
}

// element is a message or a change, with its key.
type element struct {
	set     storage.Set
	key     []byte
	message storage.Message
	change  storage.Change
}

func (e *element) owner() account.ID {
	if e.set == storage.Changes {
		return e.change.Owner
	}
	return e.message.Owner
}

func (e *element) stamp() int64 {
	if e.set == storage.Changes {
		return e.change.Stamp
	}
	return e.message.Stamp
}

// appendTo writes the element behind its size.
func (e *element) appendTo(b []byte) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	if e.set == storage.Changes {
		b = binary.BigEndian.AppendUint64(b, uint64(e.change.Stamp))
		b = e.change.AppendTo(b)
	} else {
		m := &e.message
		b = append(b, m.Owner[:]...)
		b = binary.BigEndian.AppendUint16(b, uint16(m.Namespace))
		for _, n := range []int64{m.Timestamp, m.Expiry, m.Stamp} {
			b = binary.BigEndian.AppendUint64(b, uint64(n))
		}
		b = append(b, m.Data...)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// parseElement reads an element, without its size. The hash of a message is
// worked out, not read.
func parseElement(set storage.Set, b []byte, hash func(owner account.ID, ns int16, data []byte) string) (e element, err error) {
	e.set = set
	r := reader{rest: b}
	if set == storage.Changes {
		stamp := int64(r.uint64())
		if r.bad {
			return e, errWire
		}
		if e.change, err = storage.ParseChange(r.rest); err != nil {
			return e, fmt.Errorf("%w: %w", errWire, err)
		}
		e.change.Stamp = stamp
		e.key = e.change.Key()
		return e, nil
	}
	m := &e.message
	copy(m.Owner[:], r.take(len(m.Owner)))
	m.Namespace = int16(binary.BigEndian.Uint16(r.take(2)))
	m.Timestamp, m.Expiry, m.Stamp = int64(r.uint64()), int64(r.uint64()), int64(r.uint64())
	if r.bad {
		return e, errWire
	}
	m.Data = r.rest
	m.Hash = hash(m.Owner, m.Namespace, m.Data)
	e.key = storage.HashBytes(m.Hash)
	return e, nil
}

func hexKey(key [32]byte) string { return hex.EncodeToString(key[:4]) }
