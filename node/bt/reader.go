package bt

import (
	"fmt"
	"math"
)

// DictReader walks forward through one dictionary. Values that are not asked
// for are skipped; byte strings share memory with the input.
//
//	r, err := bt.ReadDict(b)
//	ok, err := r.Find("data")
//	data, err := r.Bytes()
//
// The reader only moves forward, so keys must be asked for in ascending order,
// and a key that the sender put out of order counts as absent. That is how the
// storage server reads the messages of other nodes.
type DictReader struct {
	c    cursor
	key  []byte
	held bool // key has been read, its value not yet
	done bool // the closing e has been read
}

// ReadDict begins the dictionary at the start of b.
func ReadDict(b []byte) (*DictReader, error) {
	r := &DictReader{c: cursor{rest: b}}
	if err := r.c.open('d'); err != nil {
		return nil, fmt.Errorf("reading bt dictionary: %w", err)
	}
	return r, nil
}

// Find moves to key and reports whether it is there; the next call then takes
// its value. It stops at the first key that is not below the one asked for.
func (r *DictReader) Find(key string) (bool, error) {
	for {
		if err := r.next(); err != nil {
			return false, fmt.Errorf("reading bt dictionary: %w", err)
		}
		if r.done || string(r.key) >= key {
			return !r.done && string(r.key) == key, nil
		}
		r.held = false
		if err := r.c.skip(1); err != nil {
			return false, fmt.Errorf("reading bt dictionary: %w", err)
		}
	}
}

// Bytes takes the byte string that [DictReader.Find] found.
func (r *DictReader) Bytes() ([]byte, error) {
	if !r.held {
		return nil, fmt.Errorf("reading bt dictionary: %w: no key found", ErrType)
	}
	r.held = false
	b, err := r.c.bytes()
	if err != nil {
		return nil, fmt.Errorf("reading bt key %.32q: %w", r.key, err)
	}
	return b, nil
}

// Int takes the integer that [DictReader.Find] found; one beyond int64 is
// [ErrRange].
func (r *DictReader) Int() (int64, error) {
	if !r.held {
		return 0, fmt.Errorf("reading bt dictionary: %w: no key found", ErrType)
	}
	r.held = false
	n, err := r.c.int64()
	if err != nil {
		return 0, fmt.Errorf("reading bt key %.32q: %w", r.key, err)
	}
	return n, nil
}

// Close passes over the remaining keys and checks that the dictionary ends and
// that nothing follows it.
func (r *DictReader) Close() error {
	for !r.done {
		if err := r.next(); err != nil {
			return fmt.Errorf("reading bt dictionary: %w", err)
		}
		if r.done {
			break
		}
		r.held = false
		if err := r.c.skip(1); err != nil {
			return fmt.Errorf("reading bt dictionary: %w", err)
		}
	}
	return r.c.finished()
}

// next makes sure that a key is held or that the dictionary is done.
func (r *DictReader) next() error {
	if r.held || r.done {
		return nil
	}
	done, err := r.c.end()
	if err != nil || done {
		r.done = done
		return err
	}
	r.key, err = r.c.bytes()
	r.held = err == nil
	return err
}

// ListReader walks forward through one list.
type ListReader struct{ c cursor }

// ReadList begins the list at the start of b.
func ReadList(b []byte) (*ListReader, error) {
	r := &ListReader{c: cursor{rest: b}}
	if err := r.c.open('l'); err != nil {
		return nil, fmt.Errorf("reading bt list: %w", err)
	}
	return r, nil
}

// More reports whether another value follows.
func (r *ListReader) More() bool {
	return len(r.c.rest) > 0 && r.c.rest[0] != 'e'
}

// Bytes takes the next value, a byte string that shares memory with the input.
func (r *ListReader) Bytes() ([]byte, error) {
	b, err := r.c.bytes()
	if err != nil {
		return nil, fmt.Errorf("reading bt list: %w", err)
	}
	return b, nil
}

// Int takes the next value, an integer; one beyond int64 is [ErrRange].
func (r *ListReader) Int() (int64, error) {
	n, err := r.c.int64()
	if err != nil {
		return 0, fmt.Errorf("reading bt list: %w", err)
	}
	return n, nil
}

// Close checks that the list ends here and that nothing follows it.
func (r *ListReader) Close() error {
	done, err := r.c.end()
	if err == nil && !done {
		err = fmt.Errorf("%w: more values than expected", ErrSyntax)
	}
	if err != nil {
		return fmt.Errorf("reading bt list: %w", err)
	}
	return r.c.finished()
}

func (c *cursor) int64() (int64, error) {
	negative, magnitude, err := c.integer()
	switch {
	case err != nil:
		return 0, err
	case negative:
		return int64(-magnitude), nil
	case magnitude > math.MaxInt64:
		return 0, ErrRange
	}
	return int64(magnitude), nil
}

func (c *cursor) finished() error {
	if len(c.rest) > 0 {
		return fmt.Errorf("%w: bytes after the value", ErrSyntax)
	}
	return nil
}
