package config

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/blake2b"

	"hearth/node/bt"
)

// A config above [MaxMessage] is cut into parts after compression and padding,
// and each part is encrypted on its own. Sizes and times are libsession-util's;
// that parts are kept within bounds is ours.
const (
	chunkSize    = 76_710 // bytes of the config in one part
	partOverhead = 50     // bytes around a chunk, its length taken as five digits
	maxParts     = 255

	partsLife    = 7 * 24 * time.Hour  // after the last part that came
	finishedLife = 14 * 24 * time.Hour // late copies are recognised that long

	maxIncomplete = 8   // configs of which parts are missing
	maxFinished   = 256 // names of complete ones
)

// part is one piece of a large config.
type part struct {
	whole [hashSize]byte // BLAKE2b-256 of the whole
	index int
	count int
	chunk []byte
}

// split cuts a padded config into the plaintexts of its parts.
func split(padded []byte) ([][]byte, error) {
	if len(padded) > MaxPadded {
		return nil, fmt.Errorf("%d bytes after compression: %w", len(padded), ErrLimit)
	}
	whole := blake2b.Sum256(padded)
	chunks := slices.Collect(slices.Chunk(padded, chunkSize))
	if len(chunks) < 2 || len(chunks) > maxParts {
		return nil, fmt.Errorf("%d parts: %w", len(chunks), ErrLimit)
	}
	parts := make([][]byte, len(chunks))
	for i, chunk := range chunks {
		// The reference reserves five digits for the length of the chunk and
		// sends the bytes that a shorter number leaves, so everybody does.
		b := make([]byte, 0, len(chunk)+partOverhead)
		b = append(b, divided, 'l')
		b = bt.AppendBytes(b, whole[:])
		b = bt.AppendBytes(b, []byte{byte(i)})
		b = bt.AppendBytes(b, []byte{byte(len(chunks))})
		b = bt.AppendBytes(b, chunk)
		b = append(b, 'e')
		parts[i] = b[:len(chunk)+partOverhead]
	}
	return parts, nil
}

// parsePart reads a part; the chunk shares memory with b.
func parsePart(b []byte) (part, error) {
	if len(b) == 0 || b[0] != divided {
		return part{}, fmt.Errorf("not a part: %w", ErrFormat)
	}
	s := bt.NewScanner(b[1:])
	if err := s.Open('l'); err != nil {
		return part{}, formatError(err)
	}
	var fields [4][]byte
	for i := range fields {
		var err error
		if fields[i], err = s.Bytes(); err != nil {
			return part{}, formatError(err)
		}
	}
	done, err := s.End()
	switch {
	case err != nil:
		return part{}, formatError(err)
	case !done:
		return part{}, fmt.Errorf("part with more than four elements: %w", ErrFormat)
	case len(bytes.Trim(b[1+s.Offset():], "\x00")) > 0:
		return part{}, fmt.Errorf("something follows the part: %w", ErrFormat)
	case len(fields[0]) != hashSize || len(fields[1]) != 1 || len(fields[2]) != 1 || len(fields[3]) == 0:
		return part{}, fmt.Errorf("part with fields of wrong size: %w", ErrFormat)
	}
	p := part{[hashSize]byte(fields[0]), int(fields[1][0]), int(fields[2][0]), fields[3]}
	if p.count < 2 || p.index >= p.count {
		return part{}, fmt.Errorf("part %d of %d: %w", p.index, p.count, ErrFormat)
	}
	return p, nil
}

// parts are the pieces of one config that have arrived.
type parts struct {
	count   int
	chunks  map[int]arrived
	size    int // bytes of all chunks
	expires time.Time
}

type arrived struct {
	hash  string // the swarm's
	chunk []byte
}

// collector puts parts together.
type collector struct {
	incomplete map[[hashSize]byte]*parts
	finished   map[[hashSize]byte]time.Time // when it may be forgotten
}

// add takes a part in. When it was the last one missing, the whole plaintext
// comes back with the hashes of all its parts. It reports whether anything that
// a dump keeps has changed.
func (c *collector) add(p part, hash string, now time.Time) (whole []byte, hashes []string, changed bool, err error) {
	if _, known := c.finished[p.whole]; known {
		return nil, nil, false, nil
	}
	set := c.incomplete[p.whole]
	if set == nil {
		set = &parts{count: p.count, chunks: map[int]arrived{}}
	}
	switch _, twice := set.chunks[p.index]; {
	case set.count != p.count:
		return nil, nil, false, fmt.Errorf("part of %d among parts of %d: %w", p.count, set.count, ErrFormat)
	case twice:
		return nil, nil, false, nil
	case set.size+len(p.chunk) > MaxPadded:
		return nil, nil, false, fmt.Errorf("parts of more than %d bytes: %w", MaxPadded, ErrLimit)
	}
	c.store(p, set, arrived{hash, bytes.Clone(p.chunk)}, now.Add(partsLife))
	if len(set.chunks) < set.count {
		return nil, nil, true, nil
	}

	delete(c.incomplete, p.whole)
	c.finish(p.whole, now.Add(finishedLife))
	padded := make([]byte, 0, set.size)
	for i := range set.count {
		padded = append(padded, set.chunks[i].chunk...)
		hashes = append(hashes, set.chunks[i].hash)
	}
	if blake2b.Sum256(padded) != p.whole {
		return nil, nil, true, fmt.Errorf("parts that do not make the whole: %w", ErrFormat)
	}
	if whole, err = inflate(padded); err == nil && whole[0] != plain {
		err = fmt.Errorf("parts within parts: %w", ErrFormat)
	}
	if err != nil {
		return nil, nil, true, err
	}
	return whole, hashes, true, nil
}

func (c *collector) store(p part, set *parts, a arrived, expires time.Time) {
	if c.incomplete == nil {
		c.incomplete = map[[hashSize]byte]*parts{}
	}
	c.incomplete[p.whole] = set
	set.chunks[p.index] = a
	set.size += len(a.chunk)
	set.expires = expires
	for len(c.incomplete) > maxIncomplete || c.size() > 2*MaxPadded {
		delete(c.incomplete, oldest(c.incomplete, p.whole, func(s *parts) time.Time { return s.expires }))
	}
}

func (c *collector) size() int {
	n := 0
	for _, set := range c.incomplete {
		n += set.size
	}
	return n
}

func (c *collector) finish(whole [hashSize]byte, expires time.Time) {
	if c.finished == nil {
		c.finished = map[[hashSize]byte]time.Time{}
	}
	c.finished[whole] = expires
	for len(c.finished) > maxFinished {
		delete(c.finished, oldest(c.finished, whole, func(t time.Time) time.Time { return t }))
	}
}

// oldest returns the key that expires first, but not keep.
func oldest[V any](m map[[hashSize]byte]V, keep [hashSize]byte, expires func(V) time.Time) [hashSize]byte {
	keys := sortedKeys(m)
	keys = slices.DeleteFunc(keys, func(k [hashSize]byte) bool { return k == keep })
	return slices.MinFunc(keys, func(a, b [hashSize]byte) int { return expires(m[a]).Compare(expires(m[b])) })
}

func sortedKeys[V any](m map[[hashSize]byte]V) [][hashSize]byte {
	keys := make([][hashSize]byte, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b [hashSize]byte) int { return bytes.Compare(a[:], b[:]) })
	return keys
}

// forget drops what is past its time and reports whether there was anything.
func (c *collector) forget(now time.Time) bool {
	before := len(c.incomplete) + len(c.finished)
	for whole, set := range c.incomplete {
		if !set.expires.After(now) {
			delete(c.incomplete, whole)
		}
	}
	for whole, expires := range c.finished {
		if !expires.After(now) {
			delete(c.finished, whole)
		}
	}
	return len(c.incomplete)+len(c.finished) != before
}

// hashes are the swarm's names of the parts that wait for others.
func (c *collector) hashes() []string {
	var out []string
	for _, set := range c.incomplete {
		for _, a := range set.chunks {
			out = append(out, a.hash)
		}
	}
	slices.SortFunc(out, cmp.Compare[string])
	return out
}
