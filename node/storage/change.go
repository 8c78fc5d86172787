package storage

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/blake2b"

	"hearth/node/account"
)

// Kind says what a change does.
type Kind byte

// The kinds of changes. Those up to Replace concern all messages of a scope.
const (
	DeleteAll    Kind = 1 + iota // removes the messages of the scope
	DeleteBefore                 // removes those whose timestamp is At or earlier
	ExpireAll                    // lets none of them live longer than At
	Replace                      // removes all of the namespace but the one message named
	Revoke                       // withdraws tokens of delegates
	Unrevoke                     // takes that back
	Delete                       // removes the messages named
	Expire                       // sets the expiries of the messages named
)

// Mode says in which direction an Expire moves expiries.
type Mode byte

// The modes of Expire.
const (
	Move    Mode = iota // in both directions
	Shorten             // only to an earlier time
	Extend              // only to a later time
)

// Change is what an account asked to be done with its messages, other than to
// store one. The database carries it out and remembers it, because it may meet
// one of these messages later: another node of the swarm may not have heard.
//
// A change reaches the messages with a stamp below its own (or equal to it, for
// the deleting kinds). What is stored afterwards, the same message again too,
// has a later stamp and is left alone.
type Change struct {
	Owner account.ID
	Kind  Kind
	Stamp int64 // µs, see DB.NextStamp

	All       bool  // every namespace, and not only
	Namespace int16 // this one; of the kinds with a scope
	At        int64 // ms: the time that the owner signed

	Hashes   []string // of Delete, Expire and Replace
	Expiries []int64  // ms, of Expire: one for all hashes, or one for each
	Mode     Mode     // of Expire
	Tokens   [][tokenSize]byte

	Delegate []byte // the token of the delegate who signed, or nothing
	Proof    []byte // by which others can tell that the owner asked; not looked at here
}

const (
	maxProof = 512

	// MaxChange is the size of the largest change that is remembered, in bytes as
	// AppendTo writes it: of one that names about 15,000 messages.
	MaxChange = 500_000

	// MaxLife is how long after its stamp a change can still matter: no expiry is
	// later than that, neither one that a message came with nor one that it got.
	MaxLife = 30 * 24 * 3600 * 1000 // ms

	// lifeSlack covers clocks that go wrong by a minute or two.
	lifeSlack = 10 * 60 * 1000 // ms
)

// StampTime gives a stamp as ms since 1970.
func StampTime(stamp int64) int64 { return stamp / 1000 }

// ErrChange is returned for a change that cannot be read or makes no sense.
var ErrChange = errors.New("malformed change")

// inScope reports whether a namespace is in the scope of the change.
func (c *Change) inScope(ns int16) bool { return c.All || c.Namespace == ns }

// scoped reports whether the change is about the messages of a scope.
func (c *Change) scoped() bool { return c.Kind <= Replace }

// due is when the change can be forgotten, in ms.
func (c *Change) due() int64 { return StampTime(c.Stamp) + MaxLife + lifeSlack }

// check tells whether the change is complete for its kind.
func (c *Change) check() error {
	named, timed, tokens := 0, false, false
	switch c.Kind {
	case DeleteAll, DeleteBefore, ExpireAll:
	case Replace:
		named = 1
		if c.All || len(c.Hashes) != 1 {
			return fmt.Errorf("%w: it replaces by %d messages", ErrChange, len(c.Hashes))
		}
	case Revoke, Unrevoke:
		tokens = true
	case Delete:
		named = len(c.Hashes)
	case Expire:
		named, timed = len(c.Hashes), true
		if len(c.Expiries) != 1 && len(c.Expiries) != named {
			return fmt.Errorf("%w: %d expiries for %d messages", ErrChange, len(c.Expiries), named)
		}
	default:
		return fmt.Errorf("%w: kind %d", ErrChange, c.Kind)
	}
	switch {
	case named != len(c.Hashes) || !timed && len(c.Expiries) > 0 || !tokens && len(c.Tokens) > 0,
		c.Mode > Extend || !timed && c.Mode != Move,
		(c.Kind == Delete || c.Kind == Expire) && named == 0:
		return fmt.Errorf("%w: kind %d with %d hashes, %d expiries, %d tokens", ErrChange, c.Kind, len(c.Hashes), len(c.Expiries), len(c.Tokens))
	case len(c.Delegate) != 0 && len(c.Delegate) != tokenSize, len(c.Proof) > maxProof:
		return fmt.Errorf("%w: proof of %d bytes", ErrChange, len(c.Proof))
	}
	for _, h := range c.Hashes {
		if len(h) == 0 || len(h) > maxHash {
			return fmt.Errorf("%w: hash of %d bytes", ErrChange, len(h))
		}
	}
	return nil
}

// AppendTo writes the change without its stamp: what is the same at every node.
func (c *Change) AppendTo(b []byte) []byte {
	b = append(b, byte(c.Kind))
	b = append(b, c.Owner[:]...)
	scope := byte(0)
	if c.All {
		scope = 1
	}
	b = append(b, scope)
	b = binary.BigEndian.AppendUint16(b, uint16(c.Namespace))
	b = binary.BigEndian.AppendUint64(b, uint64(c.At))
	b = append(b, byte(c.Mode))
	b = binary.AppendUvarint(b, uint64(len(c.Hashes)))
	for _, h := range c.Hashes {
		p := packHash(h)
		b = append(append(b, byte(len(p))), p...)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Expiries)))
	for _, e := range c.Expiries {
		b = binary.BigEndian.AppendUint64(b, uint64(e))
	}
	b = binary.AppendUvarint(b, uint64(len(c.Tokens)))
	for _, t := range c.Tokens {
		b = append(b, t[:]...)
	}
	b = append(append(b, byte(len(c.Delegate))), c.Delegate...)
	b = binary.AppendUvarint(b, uint64(len(c.Proof)))
	return append(b, c.Proof...)
}

// ParseChange reads what AppendTo wrote. The error wraps ErrChange.
func ParseChange(b []byte) (Change, error) {
	r := reader{rest: b}
	var c Change
	c.Kind = Kind(r.byte())
	copy(c.Owner[:], r.take(ownerSize))
	c.All = r.byte() == 1
	c.Namespace = int16(r.uint(2))
	c.At = int64(r.uint(8))
	c.Mode = Mode(r.byte())
	// A count is not believed: memory grows with what is really there.
	for n := r.count(); n > 0 && !r.short; n-- {
		c.Hashes = append(c.Hashes, unpackHash(r.take(int(r.byte()))))
	}
	for n := r.count(); n > 0 && !r.short; n-- {
		c.Expiries = append(c.Expiries, int64(r.uint(8)))
	}
	for n := r.count(); n > 0 && !r.short; n-- {
		var t [tokenSize]byte
		copy(t[:], r.take(tokenSize))
		c.Tokens = append(c.Tokens, t)
	}
	c.Delegate = bytes.Clone(r.take(int(r.byte())))
	c.Proof = bytes.Clone(r.take(int(min(r.count(), maxProof+1))))
	if r.short || len(r.rest) > 0 {
		return Change{}, fmt.Errorf("%w: %d bytes", ErrChange, len(b))
	}
	return c, c.check()
}

// reader takes values off the front of bytes; short means that they did not
// suffice.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.short, r.rest = true, nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte { return byte(r.uint(1)) }

func (r *reader) uint(n int) (v uint64) {
	for _, x := range r.take(n) {
		v = v<<8 | uint64(x)
	}
	return v
}

func (r *reader) count() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.short, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Key is the name of the change in lists of changes, see [DB.List]. It does not
// depend on the stamp.
func (c *Change) Key() []byte {
	return changeKey(c, c.AppendTo(nil))
}

const (
	leafSize      = 2
	idSize        = 16
	changeKeySize = leafSize + ownerSize + 1 + idSize
	changeFixed   = 8 + 8 // stamp and due, before the change itself
)

func changeKey(c *Change, encoded []byte) []byte {
	k := make([]byte, 0, changeKeySize)
	k = append(k, c.Owner[1:1+leafSize]...)
	k = append(k, c.Owner[:]...)
	k = append(k, byte(c.Kind))
	id := sum128(encoded)
	return append(k, id[:]...)
}

// changesOf is what the keys of an owner's changes begin with.
func changesOf(owner []byte, kind ...Kind) []byte {
	k := make([]byte, 0, changeKeySize)
	k = append(append(k, owner[1:1+leafSize]...), owner...)
	for _, x := range kind {
		k = append(k, byte(x))
	}
	return k
}

func kindOf(changeKey []byte) Kind { return Kind(changeKey[leafSize+ownerSize]) }

// touch is what the entries begin with that lead from a message to the changes
// that name it.
func touch(owner []byte, packed []byte) []byte {
	id := sum128(owner, packed)
	return append(make([]byte, 0, idSize+1+idSize), id[:]...)
}

func sum128(parts ...[]byte) (sum [16]byte) {
	h, err := blake2b.New(len(sum), nil)
	if err != nil {
		panic(err) // only size or key can be wrong
	}
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// dominates reports whether, once the database knows c, it does as if it had
// never heard of old. The order of the stamps is the caller's to check.
func (c *Change) dominates(old *Change) bool {
	if c.Kind != old.Kind || len(c.Delegate) != 0 && !bytes.Equal(c.Delegate, old.Delegate) {
		return false // what a delegate asked for falls when its token does
	}
	if c.scoped() && !c.All && (old.All || c.Namespace != old.Namespace) {
		return false
	}
	switch c.Kind {
	case DeleteAll, Replace:
		return true
	case DeleteBefore:
		return c.At >= old.At
	case ExpireAll:
		return c.At <= old.At
	case Delete:
		return slices.Equal(c.Hashes, old.Hashes)
	case Expire:
		if c.Mode != old.Mode || !slices.Equal(c.Hashes, old.Hashes) {
			return false
		}
		for i := range c.Hashes {
			a, b := c.expiry(i), old.expiry(i)
			if c.Mode == Extend && a < b || c.Mode == Shorten && a > b {
				return false
			}
		}
		return true
	}
	return false
}

// expiry is what an Expire sets message i to, in ms.
func (c *Change) expiry(i int) int64 {
	return min(c.Expiries[min(i, len(c.Expiries)-1)], StampTime(c.Stamp)+MaxLife)
}

// move gives the expiry of a message that had one of current, and whether the
// change is about to set it. name is the message's place in the list.
func (c *Change) move(i int, current int64) (expiry int64, set bool) {
	expiry = c.expiry(i)
	switch c.Mode {
	case Shorten:
		set = expiry < current
	case Extend:
		set = expiry > current
	default:
		set = true
	}
	if !set {
		expiry = current
	}
	return expiry, set
}

// Hashes are written as the 32 bytes that their text stands for. Anything that
// is not the text of 32 bytes is kept as it is, behind which one or two bytes
// keep the length from being 32.
func packHash(h string) []byte {
	if len(h) == 43 {
		if b, err := strictBase64.DecodeString(h); err == nil && len(b) == 32 {
			return b
		}
	}
	b := append([]byte(h), 1)
	if len(b) == 32 {
		b = append(b[:31], 1, 2)
	}
	return b
}

func unpackHash(p []byte) string {
	switch n := len(p); {
	case n == 32:
		return base64.RawStdEncoding.EncodeToString(p)
	case n == 33 && p[32] == 2:
		return string(p[:31])
	case n > 0:
		return string(p[:n-1])
	}
	return ""
}

var strictBase64 = base64.RawStdEncoding.Strict()

// HashBytes gives the hash of a message as its key in lists of messages.
func HashBytes(hash string) []byte { return packHash(hash) }
