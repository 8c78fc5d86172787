package bt

import "fmt"

// Scanner takes one value after another from the front of a byte slice, for a
// format whose shape decides what may come next and which must not be read into
// maps first. Byte strings share memory with the input.
//
//	s := bt.NewScanner(b)
//	err := s.Open('d')
//	for {
//		if done, err := s.End(); err != nil || done {
//			break
//		}
//		key, err := s.Bytes()
//		…
//	}
//
// It accepts what [Unmarshal] accepts: the order of keys is the caller's
// business, and so is how deep it follows the nesting.
type Scanner struct {
	c    cursor
	size int
}

// NewScanner begins at the start of b.
func NewScanner(b []byte) *Scanner {
	return &Scanner{c: cursor{rest: b}, size: len(b)}
}

// Kind looks at the next value without taking it: 'i' for an integer, 's' for a
// byte string, 'l' and 'd' for a list or dictionary that begins, 'e' for one
// that ends. Anything else, the end of the input included, is [ErrSyntax].
func (s *Scanner) Kind() (byte, error) {
	first, err := s.c.peek()
	switch {
	case err != nil:
		return 0, err
	case isDigit(first):
		return 's', nil
	case first == 'i' || first == 'l' || first == 'd' || first == 'e':
		return first, nil
	}
	return 0, fmt.Errorf("%w: unexpected byte 0x%02x", ErrSyntax, first)
}

// Open takes the byte that begins a list ('l') or a dictionary ('d'); another
// value is [ErrType].
func (s *Scanner) Open(kind byte) error { return s.c.open(kind) }

// End takes the byte that ends a list or dictionary if it is next, and reports
// whether it was.
func (s *Scanner) End() (bool, error) { return s.c.end() }

// Int takes an integer; one beyond int64 is [ErrRange].
func (s *Scanner) Int() (int64, error) { return s.c.int64() }

// Bytes takes a byte string.
func (s *Scanner) Bytes() ([]byte, error) { return s.c.bytes() }

// Value takes a value of any type, as [Unmarshal] does.
func (s *Scanner) Value() (any, error) {
	values := 0
	return s.c.value(0, &values)
}

// Offset is how many bytes have been taken.
func (s *Scanner) Offset() int { return s.size - len(s.c.rest) }
