package bt

import "fmt"

// Raw takes the value that [DictReader.Find] found, of any type, as it is encoded;
// [ReadDict] or [ReadList] read further in it. It shares memory with the input.
func (r *DictReader) Raw() ([]byte, error) {
	if !r.held {
		return nil, fmt.Errorf("reading bt dictionary: %w: no key found", ErrType)
	}
	r.held = false
	b, err := r.c.raw()
	if err != nil {
		return nil, fmt.Errorf("reading bt key %.32q: %w", r.key, err)
	}
	return b, nil
}

// Raw takes the next value, of any type, as it is encoded. It shares memory with
// the input.
func (r *ListReader) Raw() ([]byte, error) {
	b, err := r.c.raw()
	if err != nil {
		return nil, fmt.Errorf("reading bt list: %w", err)
	}
	return b, nil
}

func (c *cursor) raw() ([]byte, error) {
	from := c.rest
	if err := c.skip(1); err != nil {
		return nil, err
	}
	n := len(from) - len(c.rest)
	return from[:n:n], nil
}
