package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// coder writes or reads one value, so that a type says once how its bytes look.
// Numbers are unsigned varints in their shortest form, keys and signatures go as
// they are, lists begin with their length. The first error stays, and reading on
// after it gives zeros.
type coder struct {
	b       []byte
	reading bool
	err     error
}

func (c *coder) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

// number codes any integer that is not negative.
func number[T ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~int64](c *coder, v *T) {
	if !c.reading {
		if *v < 0 {
			c.fail("negative number %d", *v)
		}
		c.b = binary.AppendUvarint(c.b, uint64(*v))
		return
	}
	*v = 0
	if c.err != nil {
		return
	}
	u, n := binary.Uvarint(c.b)
	switch {
	case n <= 0:
		c.fail("number incomplete or above 64 bits")
		return
	case n > 1 && c.b[n-1] == 0:
		c.fail("number not in its shortest form")
		return
	}
	if *v = T(u); uint64(*v) != u || *v < 0 {
		*v = 0
		c.fail("number %d out of range", u)
		return
	}
	c.b = c.b[n:]
}

// fixed codes bytes whose number both sides know.
func (c *coder) fixed(v []byte) {
	if !c.reading {
		c.b = append(c.b, v...)
		return
	}
	if c.err != nil {
		return
	}
	if len(c.b) < len(v) {
		c.fail("%d bytes missing", len(v)-len(c.b))
		return
	}
	copy(v, c.b)
	c.b = c.b[len(v):]
}

// text codes a string of at most limit bytes.
func (c *coder) text(v *string, limit int) {
	n := uint64(len(*v))
	number(c, &n)
	if n > uint64(limit) {
		c.fail("text of %d bytes, at most %d allowed", n, limit)
		return
	}
	b := []byte(*v)
	if c.reading {
		b = make([]byte, n)
	}
	c.fixed(b)
	*v = string(b)
}

func (c *coder) flag(v *bool) {
	var n uint8
	if *v {
		n = 1
	}
	number(c, &n)
	if n > 1 {
		c.fail("flag is %d", n)
	}
	*v = n == 1
}

// list codes at most limit elements.
func list[E any](c *coder, v *[]E, limit int, each func(*coder, *E)) {
	n := uint64(len(*v))
	number(c, &n)
	if n > uint64(limit) {
		c.fail("list of %d, at most %d allowed", n, limit)
		return
	}
	if c.reading {
		*v = nil
		for range n {
			var e E
			if each(c, &e); c.err != nil {
				return
			}
			*v = append(*v, e)
		}
		return
	}
	for i := range *v {
		each(c, &(*v)[i])
	}
}

func key32(c *coder, k *[32]byte) { c.fixed(k[:]) }

// done reports the first error, or bytes that are left over.
func (c *coder) done() error {
	if c.err == nil && c.reading && len(c.b) > 0 {
		c.fail("%d bytes after the end", len(c.b))
	}
	return c.err
}

// record is a value of the state.
type record interface{ code(*coder) }

func encode(r record) []byte {
	var c coder
	r.code(&c)
	if c.err != nil {
		// Only our own arithmetic can put a negative number into a record.
		panic(c.err)
	}
	return slices.Clip(c.b)
}

func decode(b []byte, r record) error {
	c := coder{b: b, reading: true}
	r.code(&c)
	return c.done()
}
