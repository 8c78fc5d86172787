package config

import (
	"fmt"
	"slices"

	"hearth/node/bt"
)

// diff says what one message changed. It mirrors the data: a scalar is "changed"
// or "removed" without its value, which is read from the data of the message
// that carries the diff; a set lists what came and what went.
type diff struct{ entries []change }

type change struct {
	key   string
	kind  changeKind
	sub   *diff // dictionaries
	added []Value
	gone  []Value
}

type changeKind uint8

const (
	assigned changeKind = iota // a scalar was added or changed
	removed                    // a scalar was removed
	inside                     // something changed in a dictionary
	elements                   // a set changed
)

// between computes what leads from one tree to another. Both must be pruned.
// Dictionaries that the trees share were not changed and are not looked into.
func between(from, to *Dict) *diff {
	d := new(diff)
	if from == to {
		return d
	}
	i, j := 0, 0
	for i < len(from.entries) || j < len(to.entries) {
		var old, new Value
		var key string
		switch {
		case j == len(to.entries) || i < len(from.entries) && from.entries[i].key < to.entries[j].key:
			key, old = from.entries[i].key, from.entries[i].value
			i++
		case i == len(from.entries) || to.entries[j].key < from.entries[i].key:
			key, new = to.entries[j].key, to.entries[j].value
			j++
		default:
			key, old, new = to.entries[j].key, from.entries[i].value, to.entries[j].value
			i++
			j++
		}
		if c, changed := betweenValues(key, old, new); changed {
			d.entries = append(d.entries, c)
		}
	}
	return d
}

func betweenValues(key string, from, to Value) (change, bool) {
	c := change{key: key}
	if to.Exists() && from.shape() != to.shape() {
		from = Value{} // another type is written as if it were new
	}
	shape := to.shape()
	if shape == absent {
		shape = from.shape()
	}
	switch shape {
	case set:
		c.kind = elements
		c.added = without(to.elems, from.elems)
		c.gone = without(from.elems, to.elems)
		return c, len(c.added)+len(c.gone) > 0
	case dict:
		c.kind = inside
		c.sub = between(from.Dict(), to.Dict())
		return c, len(c.sub.entries) > 0
	}
	if !to.Exists() {
		c.kind = removed
		return c, true
	}
	return c, !from.Exists() || compareScalars(from, to) != 0
}

// without returns the elements of a that b lacks.
func without(a, b []Value) []Value {
	var out []Value
	for _, v := range a {
		if _, there := slices.BinarySearchFunc(b, v, compareScalars); !there {
			out = append(out, v)
		}
	}
	return out
}

func appendDiff(dst []byte, d *diff) []byte {
	dst = append(dst, 'd')
	for i := range d.entries {
		c := &d.entries[i]
		dst = bt.AppendBytes(dst, c.key)
		switch c.kind {
		case assigned:
			dst = append(dst, "0:"...)
		case removed:
			dst = append(dst, "1:-"...)
		case inside:
			dst = appendDiff(dst, c.sub)
		case elements:
			dst = append(dst, 'l')
			dst = appendElems(dst, c.added)
			dst = appendElems(dst, c.gone)
			dst = append(dst, 'e')
		}
	}
	return append(dst, 'e')
}

// diff reads a diff. An integer in it is refused; libsession-util of January
// 2025 never returns from one.
func (r *reader) diff(depth int) (*diff, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("changes nested deeper than %d: %w", MaxDepth, ErrLimit)
	}
	start := len(r.changes)
	err := r.keys(func(key string) error {
		kind, err := r.Kind()
		if err != nil {
			return formatError(err)
		}
		c := change{key: key}
		switch kind {
		case 's':
			var mark string
			if mark, err = r.str(); err != nil {
				return err
			}
			switch mark {
			case "":
			case "-":
				c.kind = removed
			default:
				return fmt.Errorf("unknown mark in a list of changes: %w", ErrFormat)
			}
		case 'd':
			c.kind = inside
			c.sub, err = r.diff(depth + 1)
		case 'l':
			c.kind = elements
			lists := 0
			err = r.list(func() error {
				elems, err := r.elems()
				switch lists++; lists {
				case 1:
					c.added = elems
				case 2:
					c.gone = elems
				default:
					return fmt.Errorf("changes of a set with %d lists: %w", lists, ErrFormat)
				}
				return err
			})
			if err == nil && lists != 2 {
				err = fmt.Errorf("changes of a set with %d lists: %w", lists, ErrFormat)
			}
		default:
			err = fmt.Errorf("neither mark nor list nor dictionary among changes: %w", ErrFormat)
		}
		r.changes = append(r.changes, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	d := &diff{slices.Clone(r.changes[start:])}
	clear(r.changes[start:])
	r.changes = r.changes[:start]
	return d, nil
}

// apply replays a diff onto the dictionary at path of t, which t owns, with the
// values of source. The rules are libsession-util's apply_diff: where source no
// longer has what the diff speaks of, or has it with another type, the key goes.
func (t *tree) apply(target *Dict, d *diff, source *Dict) {
	for i := range d.entries {
		c := &d.entries[i]
		from := source.Get(c.key)
		switch {
		case c.kind == removed,
			c.kind == assigned && !from.scalar(),
			c.kind == inside && from.kind != dict,
			c.kind == elements && from.kind != set:
			target.drop(c.key)
		case c.kind == assigned:
			target.put(c.key, from)
		case c.kind == inside:
			sub := &Dict{owner: t.owner}
			if old := target.Get(c.key); old.kind == dict {
				sub = t.own(old.dict)
			}
			target.put(c.key, Value{kind: dict, dict: sub})
			t.apply(sub, c.sub, from.dict)
		case c.kind == elements:
			var elems []Value
			if old := target.Get(c.key); old.kind == set {
				elems = old.elems
			}
			elems = union(elems, c.added)
			target.put(c.key, Value{kind: set, elems: without(elems, c.gone)})
		}
	}
}

// union merges two ascending lists.
func union(a, b []Value) []Value {
	if len(b) == 0 {
		return a
	}
	out := make([]Value, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := compareScalars(a[0], b[0]); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, a[0]), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}
