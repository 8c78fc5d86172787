package config

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"

	"hearth/node/bt"
)

// valueKind orders the two scalars as they stand in a set: integers first.
type valueKind uint8

const (
	absent valueKind = iota
	integer
	text
	set
	dict
)

// Value is one value of a config's tree: an integer, a byte string, a set of
// those two, or a dictionary. The zero Value is "there is none". What is asked
// for as another type than it has counts as absent, as in libsession-util.
type Value struct {
	kind  valueKind
	num   int64
	str   string
	elems []Value // of a set: ascending, integers before strings
	dict  *Dict
}

// IntValue makes an integer.
func IntValue(n int64) Value { return Value{kind: integer, num: n} }

// BytesValue makes a byte string.
func BytesValue(s string) Value { return Value{kind: text, str: s} }

// Exists reports whether there is a value, of any type.
func (v Value) Exists() bool { return v.kind != absent }

// Int returns the integer, or 0 and false.
func (v Value) Int() (int64, bool) { return v.num, v.kind == integer }

// Bytes returns the byte string, or "" and false.
func (v Value) Bytes() (string, bool) { return v.str, v.kind == text }

// Dict returns the dictionary, or an empty one.
func (v Value) Dict() *Dict {
	if v.kind == dict {
		return v.dict
	}
	return emptyDict
}

// Set visits the elements of a set: integers in ascending order, then byte
// strings in ascending order.
func (v Value) Set() iter.Seq[Value] { return slices.Values(v.elems) }

func (v Value) scalar() bool { return v.kind == integer || v.kind == text }

// shape is what a change of type is about: a scalar, a set or a dictionary.
func (v Value) shape() valueKind {
	if v.kind == integer {
		return text
	}
	return v.kind
}

func compareScalars(a, b Value) int {
	if c := cmp.Compare(a.kind, b.kind); c != 0 {
		return c
	}
	if a.kind == integer {
		return cmp.Compare(a.num, b.num)
	}
	return strings.Compare(a.str, b.str)
}

// Dict is a dictionary of a config's tree. It can only be read: [Object] makes
// the changes, on copies of the dictionaries along the way, so that the state
// before a change costs nothing to keep.
type Dict struct {
	owner   *owner
	entries []entry // ascending by key, which is unique
}

type entry struct {
	key   string
	value Value
}

// owner marks the dictionaries that one edit has copied already and may write.
type owner struct{ _ byte }

var emptyDict = new(Dict)

// Len is the number of keys.
func (d *Dict) Len() int { return len(d.entries) }

// All visits keys and values in ascending order of the keys' bytes.
func (d *Dict) All() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		for i := range d.entries {
			if !yield(d.entries[i].key, d.entries[i].value) {
				return
			}
		}
	}
}

// Get follows a path of keys. Where one is missing the result is absent.
func (d *Dict) Get(path ...string) Value {
	v := Value{kind: dict, dict: d}
	for _, key := range path {
		if v.kind != dict {
			return Value{}
		}
		i, ok := v.dict.find(key)
		if !ok {
			return Value{}
		}
		v = v.dict.entries[i].value
	}
	return v
}

func (d *Dict) find(key string) (int, bool) {
	// Keys mostly come in ascending order when a dictionary is built.
	if n := len(d.entries); n == 0 || d.entries[n-1].key < key {
		return n, false
	}
	return sort.Find(len(d.entries), func(i int) int { return strings.Compare(key, d.entries[i].key) })
}

// tree is a root that can be written. The dictionaries on the way to a change
// are copied unless this tree's owner has copied them before.
type tree struct {
	owner   *owner
	root    *Dict
	changed bool
}

// open returns the writable dictionary at path, making what is missing and
// replacing what is no dictionary.
func (t *tree) open(path ...string) *Dict {
	t.changed = true
	t.root = t.own(t.root)
	d := t.root
	for _, key := range path {
		i, ok := d.find(key)
		switch {
		case !ok:
			d.entries = slices.Insert(d.entries, i, entry{key, Value{kind: dict, dict: &Dict{owner: t.owner}}})
		case d.entries[i].value.kind != dict:
			d.entries[i].value = Value{kind: dict, dict: &Dict{owner: t.owner}}
		default:
			d.entries[i].value.dict = t.own(d.entries[i].value.dict)
		}
		d = d.entries[i].value.dict
	}
	return d
}

func (t *tree) own(d *Dict) *Dict {
	if d.owner == t.owner {
		return d
	}
	return &Dict{owner: t.owner, entries: slices.Clone(d.entries)}
}

// set stores a value at path unless it is there already.
func (t *tree) set(v Value, path ...string) {
	old := t.root.Get(path...)
	if v.scalar() && old.scalar() && compareScalars(v, old) == 0 {
		return
	}
	t.open(path[:len(path)-1]...).put(path[len(path)-1], v)
}

// erase removes what is at path, and the dictionaries that this empties. It
// reports whether there was something.
func (t *tree) erase(path ...string) bool {
	if !t.root.Get(path...).Exists() {
		return false
	}
	for n := len(path) - 1; ; n-- {
		d := t.open(path[:n]...)
		d.drop(path[n])
		if n == 0 || len(d.entries) > 0 {
			return true
		}
	}
}

// include and exclude add an element to a set and take one out.
func (t *tree) include(v Value, path ...string) {
	old := t.root.Get(path...)
	if old.kind == set {
		if _, there := slices.BinarySearchFunc(old.elems, v, compareScalars); there {
			return
		}
	}
	t.open(path[:len(path)-1]...).put(path[len(path)-1], Value{kind: set, elems: insertElem(old.elems, v)})
}

func (t *tree) exclude(v Value, path ...string) {
	old := t.root.Get(path...)
	if _, there := slices.BinarySearchFunc(old.elems, v, compareScalars); !there {
		return
	}
	if len(old.elems) == 1 {
		t.erase(path...)
		return
	}
	t.open(path[:len(path)-1]...).put(path[len(path)-1], Value{kind: set, elems: removeElem(old.elems, v)})
}

// insertElem and removeElem return a changed copy: sets are never written, so
// that trees can share them.
func insertElem(elems []Value, v Value) []Value {
	i, there := slices.BinarySearchFunc(elems, v, compareScalars)
	if there {
		return elems
	}
	out := make([]Value, 0, len(elems)+1)
	out = append(out, elems[:i]...)
	out = append(out, v)
	return append(out, elems[i:]...)
}

func removeElem(elems []Value, v Value) []Value {
	i, there := slices.BinarySearchFunc(elems, v, compareScalars)
	if !there {
		return elems
	}
	return append(slices.Clone(elems[:i]), elems[i+1:]...)
}

// put and drop write a dictionary that the caller owns.
func (d *Dict) put(key string, v Value) {
	i, ok := d.find(key)
	if !ok {
		d.entries = slices.Insert(d.entries, i, entry{key: key})
	}
	d.entries[i].value = v
}

func (d *Dict) drop(key string) {
	if i, ok := d.find(key); ok {
		d.entries = slices.Delete(d.entries, i, i+1)
	}
}

// prune removes empty sets and dictionaries. Only what t's owner wrote can
// hold any: everything else was read, and reading refuses them.
func (t *tree) prune() { pruneDict(t.root, t.owner) }

func pruneDict(d *Dict, o *owner) {
	if d.owner != o || o == nil {
		return
	}
	d.entries = slices.DeleteFunc(d.entries, func(e entry) bool {
		switch e.value.kind {
		case set:
			return len(e.value.elems) == 0
		case dict:
			pruneDict(e.value.dict, o)
			return len(e.value.dict.entries) == 0
		}
		return false
	})
}

// appendDict writes d, which must be pruned.
func appendDict(dst []byte, d *Dict) []byte {
	dst = append(dst, 'd')
	for i := range d.entries {
		e := &d.entries[i]
		dst = bt.AppendBytes(dst, e.key)
		switch e.value.kind {
		case dict:
			dst = appendDict(dst, e.value.dict)
		case set:
			dst = appendElems(dst, e.value.elems)
		default:
			dst = appendScalar(dst, e.value)
		}
	}
	return append(dst, 'e')
}

func appendElems(dst []byte, elems []Value) []byte {
	dst = append(dst, 'l')
	for _, v := range elems {
		dst = appendScalar(dst, v)
	}
	return append(dst, 'e')
}

func appendScalar(dst []byte, v Value) []byte {
	if v.kind == integer {
		return bt.AppendInt(dst, v.num)
	}
	return bt.AppendBytes(dst, v.str)
}

// reader takes a message apart. Keys and strings are pieces of text, one copy
// of the message, so that a thousand contacts cost one string.
type reader struct {
	*bt.Scanner
	text   string
	values int

	// What is being read of all open dictionaries, so that each is allocated
	// once and in its final size.
	entries []entry
	changes []change
}

func newReader(plaintext []byte) *reader {
	return &reader{Scanner: bt.NewScanner(plaintext), text: string(plaintext)}
}

// str takes a byte string.
func (r *reader) str() (string, error) {
	b, err := r.Bytes()
	if err != nil {
		return "", formatError(err)
	}
	end := r.Offset()
	return r.text[end-len(b) : end], nil
}

// count admits one more key or value.
func (r *reader) count() error {
	if r.values++; r.values > MaxValues {
		return fmt.Errorf("more than %d values: %w", MaxValues, ErrLimit)
	}
	return nil
}

// keys visits the keys of a dictionary, which must ascend; take reads a value.
func (r *reader) keys(take func(key string) error) error {
	if err := r.Open('d'); err != nil {
		return formatError(err)
	}
	previous, first := "", true
	for {
		if done, err := r.End(); err != nil {
			return formatError(err)
		} else if done {
			return nil
		}
		key, err := r.str()
		if err != nil {
			return err
		}
		if err := r.count(); err != nil {
			return err
		}
		if !first && key <= previous {
			return fmt.Errorf("keys out of order: %w", ErrFormat)
		}
		previous, first = key, false
		if err := take(key); err != nil {
			return err
		}
	}
}

// list visits the elements of a list; take reads one.
func (r *reader) list(take func() error) error {
	if err := r.Open('l'); err != nil {
		return formatError(err)
	}
	for {
		if done, err := r.End(); err != nil {
			return formatError(err)
		} else if done {
			return nil
		}
		if err := take(); err != nil {
			return err
		}
	}
}

func (r *reader) int() (int64, error) {
	n, err := r.Int()
	if err != nil {
		return 0, formatError(err)
	}
	return n, nil
}

// data reads a dictionary of the tree. Only the outermost may be empty.
func (r *reader) data(depth int) (*Dict, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d: %w", MaxDepth, ErrLimit)
	}
	start := len(r.entries)
	err := r.keys(func(key string) error {
		kind, err := r.Kind()
		if err != nil {
			return formatError(err)
		}
		var v Value
		switch kind {
		case 'i', 's':
			v, err = r.scalar()
		case 'l':
			v.kind = set
			if v.elems, err = r.elems(); err == nil && len(v.elems) == 0 {
				err = fmt.Errorf("empty set: %w", ErrFormat)
			}
		case 'd':
			v.kind = dict
			if v.dict, err = r.data(depth + 1); err == nil && v.dict.Len() == 0 {
				err = fmt.Errorf("empty dictionary: %w", ErrFormat)
			}
		default:
			err = fmt.Errorf("key without a value: %w", ErrFormat)
		}
		r.entries = append(r.entries, entry{key, v})
		return err
	})
	if err != nil {
		return nil, err
	}
	d := &Dict{entries: slices.Clone(r.entries[start:])}
	clear(r.entries[start:])
	r.entries = r.entries[:start]
	return d, nil
}

func (r *reader) scalar() (Value, error) {
	kind, err := r.Kind()
	if err != nil {
		return Value{}, formatError(err)
	}
	if kind == 'i' {
		n, err := r.int()
		return IntValue(n), err
	}
	s, err := r.str()
	return BytesValue(s), err
}

// elems reads the elements of a set, which must ascend.
func (r *reader) elems() ([]Value, error) {
	var elems []Value
	err := r.list(func() error {
		if err := r.count(); err != nil {
			return err
		}
		v, err := r.scalar()
		if err != nil {
			return err
		}
		if n := len(elems); n > 0 && compareScalars(elems[n-1], v) >= 0 {
			return fmt.Errorf("set out of order: %w", ErrFormat)
		}
		elems = append(elems, v)
		return nil
	})
	return elems, err
}

// formatError makes an error of bt-encoding one of this package.
func formatError(err error) error { return fmt.Errorf("%w: %w", ErrFormat, err) }
