// Package bt reads and writes bt-encoding: the bencode dialect in which the
// nodes of the Session network talk to each other and in which clients write
// configurations and v4 requests.
//
// Values go out through [Marshal] (or, on a hot path, [AppendBytes] and
// [AppendInt]) and come in through [Unmarshal]. A reader that knows which keys
// it wants uses [ReadDict] or [ReadList] instead, which walk forward through
// the bytes without copying or allocating, as the storage server does.
//
//	integer      i<decimal>e, -2^63 … 2^64-1
//	byte string  <decimal length>:<bytes>, also for text, keys and hashes
//	list         l<value>*e
//	dictionary   d(<byte string><value>)*e, keys ascending by raw bytes
//
// What is written is always canonical: keys sorted, no leading zeros. What is
// read may be laxer, because the network's own decoder (oxen-encoding's
// bt_deserialize) is: it takes i042e, i-0e, 03:abc, unsorted keys and bytes
// after the value. Depth and number of values are bounded, so a stranger's
// bytes cost at most a fixed multiple of their length.
package bt

import "errors"

// Dict is a dictionary with byte-string keys.
type Dict = map[string]any

const (
	// MaxDepth is how deep lists and dictionaries may be nested, both ways.
	MaxDepth = 64
	// MaxValues is how many values [Unmarshal] builds, those inside lists and
	// dictionaries included.
	MaxValues = 1 << 20
)

// Errors that callers can test with errors.Is.
var (
	// ErrSyntax reports bytes that are not bt-encoding, or that end too early.
	ErrSyntax = errors.New("invalid bt-encoding")
	// ErrRange reports an integer that does not fit in 64 bits.
	ErrRange = errors.New("bt integer out of range")
	// ErrLimit reports a value above [MaxDepth] or [MaxValues].
	ErrLimit = errors.New("bt value too deep or too large")
	// ErrType reports a value of another type than the one asked for, or a Go
	// value that has no bt form.
	ErrType = errors.New("wrong type of bt value")
)
