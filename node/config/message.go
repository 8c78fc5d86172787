package config

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"fmt"
	"slices"

	"golang.org/x/crypto/blake2b"

	"hearth/node/bt"
	"hearth/node/keys"
)

// lag is how many seqnos a message looks back: it repeats the changes of the
// four before it, and what is five or more behind is not merged any more.
// libsession-util has it adjustable, but every config uses this value.
const lag = 5

// The keys of the outer dictionary. What else stands between them is kept.
const (
	keySeqno     = "#"
	keyData      = "&"
	keyLagged    = "<"
	keyDiff      = "="
	keySignature = "~"
)

// hashSize is the size of a message's hash, BLAKE2b-256 of its plaintext. It
// has nothing to do with the hash by which a swarm calls the stored message.
const hashSize = blake2b.Size256

// id names a message among all of its config.
type id struct {
	seqno int64
	hash  [hashSize]byte
}

func compareIDs(a, b id) int {
	if c := cmp.Compare(a.seqno, b.seqno); c != 0 {
		return c
	}
	return bytes.Compare(a.hash[:], b.hash[:])
}

// message is one state of a config with the changes that led to it.
type message struct {
	id
	data      *Dict
	lagged    []lagged // ascending by id
	diff      *diff
	unknown   []unknown // ascending by key
	signature []byte
	weight    int // bytes of memory, about, when it was read
}

// valueWeight is what a key with its value takes in memory, about.
const valueWeight = 96

// lagged is what an earlier message changed.
type lagged struct {
	id
	diff *diff
}

// unknown is a top-level key that this version does not know, with its value
// as it is written.
type unknown struct {
	key   string
	value []byte
}

// genesis is the state before any change. All devices begin with it, so that
// their first messages have a common ancestor.
func genesis() *message {
	m := &message{data: emptyDict, diff: new(diff)}
	m.hash = blake2b.Sum256(m.append(nil, nil))
	return m
}

// append writes the plaintext; signer may be nil. A signature that the message
// already has is written as it is.
func (m *message) append(dst []byte, signer Signer) []byte {
	start := len(dst)
	rest := m.unknown
	before := func(key string) {
		for len(rest) > 0 && rest[0].key < key {
			dst = bt.AppendBytes(dst, rest[0].key)
			dst = append(dst, rest[0].value...)
			rest = rest[1:]
		}
		dst = bt.AppendBytes(dst, key)
	}
	dst = append(dst, 'd')
	before(keySeqno)
	dst = bt.AppendInt(dst, m.seqno)
	before(keyData)
	dst = appendDict(dst, m.data)
	before(keyLagged)
	dst = append(dst, 'l')
	for _, l := range m.lagged {
		if l.seqno <= m.seqno-lag || l.seqno >= m.seqno {
			continue
		}
		dst = append(dst, 'l')
		dst = bt.AppendInt(dst, l.seqno)
		dst = bt.AppendBytes(dst, l.hash[:])
		dst = appendDiff(dst, l.diff)
		dst = append(dst, 'e')
	}
	dst = append(dst, 'e')
	before(keyDiff)
	dst = appendDiff(dst, m.diff)
	for _, u := range rest {
		dst = bt.AppendBytes(dst, u.key)
		dst = append(dst, u.value...)
	}
	signature := m.signature
	if signature == nil && signer != nil {
		signature = signer.Sign(dst[start:])
	}
	if signature != nil {
		dst = bt.AppendBytes(dst, keySignature)
		dst = bt.AppendBytes(dst, signature)
	}
	return append(dst, 'e')
}

// seal writes the plaintext of a message that is about to leave, gives it its
// signature if there is a signer, and its hash.
func (m *message) seal(signer Signer) []byte {
	plaintext := m.append(nil, signer)
	if signer != nil && m.signature == nil {
		end := len(plaintext) - 1
		m.signature = bytes.Clone(plaintext[end-ed25519.SignatureSize : end])
	}
	m.hash = blake2b.Sum256(plaintext)
	return plaintext
}

// next begins the message after m: same data, m's changes among the lagged.
func (m *message) next() *message {
	n := &message{data: m.data, diff: new(diff), unknown: m.unknown}
	n.seqno = m.seqno + 1
	n.lagged = make([]lagged, 0, len(m.lagged)+1)
	for _, l := range m.lagged {
		if l.seqno > m.seqno-lag && l.seqno < m.seqno {
			n.lagged = append(n.lagged, l)
		}
	}
	n.lagged = append(n.lagged, lagged{m.id, m.diff})
	return n
}

// signing says what parseMessage does about the signature.
type signing uint8

const (
	unsigned signing = iota // not asked for; dropped if there is one
	required                // must be there and be the group's
	optional                // checked if it is there: a dump is not signed
)

// parseMessage reads a plaintext. What follows the dictionary is ignored, as
// libsession-util ignores it; the hash covers it nevertheless.
func parseMessage(plaintext []byte, mode signing, group [32]byte) (*message, error) {
	r := newReader(plaintext)
	m := &message{diff: new(diff)}
	m.hash = blake2b.Sum256(plaintext)
	last, hasData := "", false
	valueEnd := 1     // where the value before this key ended
	var signed []byte // what the signature covers: all that stands before it
	err := r.keys(func(key string) error {
		if last == "" && key != keySeqno {
			// A key before it says: do not touch what you do not understand.
			return fmt.Errorf("first key is not %q: %w", keySeqno, ErrFormat)
		}
		if last == keySignature {
			return fmt.Errorf("something follows the signature: %w", ErrFormat)
		}
		if key > keyData && !hasData {
			return fmt.Errorf("no data: %w", ErrFormat)
		}
		last, hasData = key, hasData || key == keyData
		if key == keySignature {
			signed = plaintext[:valueEnd]
		}
		err := r.outer(m, key)
		valueEnd = r.Offset()
		return err
	})
	if err != nil {
		return nil, err
	}
	if !hasData || last < keyDiff {
		return nil, fmt.Errorf("ends before its changes: %w", ErrFormat)
	}
	m.weight = len(plaintext) + valueWeight*r.values
	switch {
	case mode == unsigned:
		m.signature = nil
	case m.signature == nil && mode == required:
		return nil, fmt.Errorf("no signature: %w", ErrSignature)
	case m.signature != nil && !keys.Verify(group, signed, m.signature):
		return nil, fmt.Errorf("wrong signature: %w", ErrSignature)
	}
	return m, nil
}

// outer reads the value of one top-level key.
func (r *reader) outer(m *message, key string) (err error) {
	switch key {
	case keySeqno:
		if m.seqno, err = r.int(); err == nil && (m.seqno >= MaxSeqno || m.seqno <= -MaxSeqno) {
			err = fmt.Errorf("seqno %d: %w", m.seqno, ErrLimit)
		}
	case keyData:
		m.data, err = r.data(0)
	case keyLagged:
		err = r.lagged(m)
	case keyDiff:
		m.diff, err = r.diff(0)
	case keySignature:
		if m.signature, err = r.Bytes(); err != nil {
			return formatError(err)
		}
		m.signature = bytes.Clone(m.signature)
		if len(m.signature) != ed25519.SignatureSize {
			err = fmt.Errorf("signature of %d bytes: %w", len(m.signature), ErrFormat)
		}
	default:
		var v any
		if v, err = r.Value(); err != nil {
			return formatError(err)
		}
		u := unknown{key: key}
		if u.value, err = bt.Marshal(v); err != nil {
			return formatError(err)
		}
		m.unknown = append(m.unknown, u)
	}
	return err
}

// lagged reads the earlier changes. Those outside of the window are dropped.
func (r *reader) lagged(m *message) error {
	var previous id
	first := true
	return r.list(func() error {
		var l lagged
		if err := r.count(); err != nil {
			return err
		}
		if err := r.Open('l'); err != nil {
			return formatError(err)
		}
		seqno, err := r.int()
		if err != nil {
			return err
		}
		hash, err := r.Bytes()
		if err != nil {
			return formatError(err)
		}
		if len(hash) != hashSize {
			return fmt.Errorf("earlier change with a hash of %d bytes: %w", len(hash), ErrFormat)
		}
		l.id = id{seqno, [hashSize]byte(hash)}
		if l.diff, err = r.diff(0); err != nil {
			return err
		}
		if done, err := r.End(); err != nil {
			return formatError(err)
		} else if !done {
			return fmt.Errorf("earlier change with more than three elements: %w", ErrFormat)
		}
		switch {
		case seqno >= m.seqno:
			return fmt.Errorf("earlier change that is not earlier: %w", ErrFormat)
		case !first && compareIDs(previous, l.id) >= 0:
			return fmt.Errorf("earlier changes out of order: %w", ErrFormat)
		}
		previous, first = l.id, false
		if seqno > m.seqno-lag {
			m.lagged = append(m.lagged, l)
		}
		return nil
	})
}

// contains reports whether the message with that id is among m's ancestors.
func (m *message) contains(other id) bool {
	_, there := slices.BinarySearchFunc(m.lagged, other, func(l lagged, o id) int { return compareIDs(l.id, o) })
	return there
}
