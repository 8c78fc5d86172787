package bt

import (
	"fmt"
	"math"
)

// Unmarshal decodes the value at the start of b. Integers come back as int64,
// or as uint64 when they need it, byte strings as []byte sharing memory with b,
// lists as []any and dictionaries as [Dict].
//
// Like the network's decoder it accepts leading zeros, unsorted keys and bytes
// after the value. Unlike it, a key given twice is [ErrSyntax], because two
// programs could read two different dictionaries out of it.
func Unmarshal(b []byte) (any, error) {
	c := cursor{rest: b}
	values := 0
	v, err := c.value(0, &values)
	if err != nil {
		return nil, fmt.Errorf("decoding bt: %w", err)
	}
	return v, nil
}

// cursor is the part of the input that has not been read yet.
type cursor struct{ rest []byte }

// peek returns the next byte without taking it.
func (c *cursor) peek() (byte, error) {
	if len(c.rest) == 0 {
		return 0, fmt.Errorf("%w: end of input where a value was expected", ErrSyntax)
	}
	return c.rest[0], nil
}

// end takes the e that closes a list or dictionary, if it is next.
func (c *cursor) end() (bool, error) {
	first, err := c.peek()
	if err != nil || first != 'e' {
		return false, err
	}
	c.rest = c.rest[1:]
	return true, nil
}

// open takes the byte that begins a list ('l') or dictionary ('d').
func (c *cursor) open(kind byte) error {
	first, err := c.peek()
	if err != nil {
		return err
	}
	if first != kind {
		return wrongType(first)
	}
	c.rest = c.rest[1:]
	return nil
}

func (c *cursor) value(depth int, values *int) (any, error) {
	if *values++; depth > MaxDepth || *values > MaxValues {
		return nil, ErrLimit
	}
	first, err := c.peek()
	if err != nil {
		return nil, err
	}
	switch {
	case first == 'i':
		negative, magnitude, err := c.integer()
		switch {
		case err != nil:
			return nil, err
		case negative:
			return int64(-magnitude), nil // two's complement also covers -2^63
		case magnitude <= math.MaxInt64:
			return int64(magnitude), nil
		}
		return magnitude, nil
	case isDigit(first):
		return c.bytes()
	case first == 'l':
		return c.list(depth, values)
	case first == 'd':
		return c.dict(depth, values)
	}
	return nil, fmt.Errorf("%w: unexpected byte 0x%02x", ErrSyntax, first)
}

func (c *cursor) list(depth int, values *int) (any, error) {
	if err := c.open('l'); err != nil {
		return nil, err
	}
	list := []any{}
	for {
		if done, err := c.end(); err != nil || done {
			return list, err
		}
		v, err := c.value(depth+1, values)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}

func (c *cursor) dict(depth int, values *int) (any, error) {
	if err := c.open('d'); err != nil {
		return nil, err
	}
	dict := Dict{}
	for {
		if done, err := c.end(); err != nil || done {
			return dict, err
		}
		key, err := c.bytes()
		if err != nil {
			return nil, err
		}
		v, err := c.value(depth+1, values)
		if err != nil {
			return nil, err
		}
		if _, twice := dict[string(key)]; twice {
			return nil, fmt.Errorf("%w: key given twice", ErrSyntax)
		}
		dict[string(key)] = v
	}
}

// skip passes over one value of any type.
func (c *cursor) skip(depth int) error {
	if depth > MaxDepth {
		return ErrLimit
	}
	first, err := c.peek()
	if err != nil {
		return err
	}
	switch {
	case first == 'i':
		_, _, err = c.integer()
		return err
	case isDigit(first):
		_, err = c.bytes()
		return err
	case first != 'l' && first != 'd':
		return fmt.Errorf("%w: unexpected byte 0x%02x", ErrSyntax, first)
	}
	c.rest = c.rest[1:]
	for {
		if done, err := c.end(); err != nil || done {
			return err
		}
		if first == 'd' {
			if _, err := c.bytes(); err != nil {
				return err
			}
		}
		if err := c.skip(depth + 1); err != nil {
			return err
		}
	}
}

// bytes takes one byte string; the result aliases the input.
func (c *cursor) bytes() ([]byte, error) {
	first, err := c.peek()
	if err != nil {
		return nil, err
	}
	if !isDigit(first) {
		return nil, wrongType(first)
	}
	size, i := 0, 0
	for ; i < len(c.rest) && isDigit(c.rest[i]); i++ {
		// A length beyond the input is refused before it can overflow.
		if size = size*10 + int(c.rest[i]-'0'); size > len(c.rest) {
			return nil, fmt.Errorf("%w: byte string longer than the input", ErrSyntax)
		}
	}
	if i == len(c.rest) || c.rest[i] != ':' {
		return nil, fmt.Errorf("%w: no colon after the length of a byte string", ErrSyntax)
	}
	body := c.rest[i+1:]
	if size > len(body) {
		return nil, fmt.Errorf("%w: byte string longer than the input", ErrSyntax)
	}
	c.rest = body[size:]
	return body[:size:size], nil
}

// integer takes one integer as sign and magnitude. A negative magnitude is at
// most 2^63.
func (c *cursor) integer() (negative bool, magnitude uint64, err error) {
	if err := c.open('i'); err != nil {
		return false, 0, err
	}
	if len(c.rest) > 0 && c.rest[0] == '-' {
		negative, c.rest = true, c.rest[1:]
	}
	i := 0
	for ; i < len(c.rest) && isDigit(c.rest[i]); i++ {
		digit := uint64(c.rest[i] - '0')
		if magnitude > (math.MaxUint64-digit)/10 {
			return false, 0, ErrRange
		}
		magnitude = magnitude*10 + digit
	}
	if i == 0 || i == len(c.rest) || c.rest[i] != 'e' {
		return false, 0, fmt.Errorf("%w: unfinished integer", ErrSyntax)
	}
	if negative && magnitude > 1<<63 {
		return false, 0, ErrRange
	}
	c.rest = c.rest[i+1:]
	return negative, magnitude, nil
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// wrongType tells a well-formed value of another type from a byte that begins
// no value at all.
func wrongType(first byte) error {
	switch {
	case first == 'i', first == 'l', first == 'd', isDigit(first):
		return fmt.Errorf("%w: it begins with %q", ErrType, first)
	}
	return fmt.Errorf("%w: unexpected byte 0x%02x", ErrSyntax, first)
}
