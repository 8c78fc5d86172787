package config

import (
	"fmt"
	"slices"
	"time"

	"hearth/node/bt"
)

// The keys of a dump. It is that of libsession-util, but for two things: the
// message of a group's config keeps its signature, which spares making it again,
// and what is under '*' is our own. A dump never leaves the device.
const (
	dumpState    = "!"
	dumpMessage  = "$"
	dumpCurrent  = "(" // a string; a list when there are several
	dumpObsolete = ")"
	dumpParts    = "*"
	dumpExtra    = "+"
)

// maxHashes and maxHash bound the swarm's hashes in a dump.
const (
	maxHashes = 1 << 16
	maxHash   = 256
)

// Dump writes the config for [Load]. Nothing in it is encrypted.
func (o *Object) Dump() []byte {
	plaintext := o.finish(nil)
	d := bt.Dict{
		dumpState:    int64(o.state),
		dumpMessage:  plaintext,
		dumpObsolete: o.ObsoleteHashes(),
		dumpExtra:    o.extra,
	}
	switch len(o.current) {
	case 0:
		d[dumpCurrent] = ""
	case 1:
		d[dumpCurrent] = o.current[0]
	default:
		d[dumpCurrent] = o.current
	}
	if list := o.parts.dump(); len(list) > 0 {
		d[dumpParts] = list
	}
	out, err := bt.Marshal(d)
	if err != nil {
		// Only the caller's extra data can be of a type that bt lacks.
		delete(d, dumpExtra)
		out, _ = bt.Marshal(d)
	}
	o.needsDump = false
	return out
}

// Load brings a dump back. A config that was dirty takes one seqno more, in
// case the last one was sent but the dump after it was lost. Errors: those of
// [New], and [ErrFormat], [ErrLimit] and [ErrSignature] for a broken dump.
func Load(kind Kind, options Options, dump []byte) (*Object, error) {
	o, err := New(kind, options)
	if err != nil {
		return nil, err
	}
	if err := o.load(dump); err != nil {
		return nil, fmt.Errorf("loading %v: %w", kind, err)
	}
	return o, nil
}

func (o *Object) load(dump []byte) error {
	v, err := bt.Unmarshal(dump)
	if err != nil {
		return formatError(err)
	}
	d, ok := v.(bt.Dict)
	state, hasState := d[dumpState].(int64)
	plaintext, hasMessage := d[dumpMessage].([]byte)
	if !ok || !hasState || !hasMessage || state < 0 || state > int64(Waiting) {
		return fmt.Errorf("dump without state or message: %w", ErrFormat)
	}
	if len(plaintext) > MaxPlaintext {
		return fmt.Errorf("message of %d bytes in a dump: %w", len(plaintext), ErrLimit)
	}
	mode := unsigned
	if o.kind.Signed() {
		mode = optional
	}
	m, err := parseMessage(plaintext, mode, o.options.Group)
	if err != nil {
		return err
	}
	o.message, o.state = m, State(state)
	switch {
	case o.state == Dirty:
		o.begin(m.next(), new(owner))
	case m.seqno != 0 && m.signature == nil && o.options.Signer != nil:
		m.seal(o.options.Signer) // the reference leaves the signature out
	}

	if o.current, err = hashList(d[dumpCurrent]); err != nil {
		return err
	}
	obsolete, err := hashList(d[dumpObsolete])
	if err != nil {
		return err
	}
	o.discard(obsolete)
	if extra, ok := d[dumpExtra].(bt.Dict); ok {
		o.extra = extra
	}
	if list, ok := d[dumpParts].([]any); ok {
		if err := o.parts.load(list); err != nil {
			return err
		}
	}
	o.pushed = m.seqno
	o.needsDump = o.state == Dirty
	return nil
}

// hashList reads one hash or a list of them.
func hashList(v any) ([]string, error) {
	var out []string
	add := func(v any) bool {
		b, ok := v.([]byte)
		if !ok || len(b) > maxHash || len(out) == maxHashes {
			return false
		}
		if len(b) > 0 {
			out = append(out, string(b))
		}
		return true
	}
	list, ok := v.([]any)
	if !ok && v != nil {
		list = []any{v}
	}
	for _, v := range list {
		if !add(v) {
			return nil, fmt.Errorf("hashes in a dump: %w", ErrFormat)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// dump writes the parts as a list with one dictionary for each config: "h" its
// hash, "e" when it expires in unix seconds, and unless it is complete "c" the
// count of its parts and "p" a list of [index, hash, chunk].
func (c *collector) dump() []any {
	var list []any
	for _, whole := range sortedKeys(c.finished) {
		list = append(list, bt.Dict{"h": whole[:], "e": c.finished[whole].Unix()})
	}
	for _, whole := range sortedKeys(c.incomplete) {
		set := c.incomplete[whole]
		var pieces []any
		for i := range set.count {
			if a, ok := set.chunks[i]; ok {
				pieces = append(pieces, []any{int64(i), a.hash, a.chunk})
			}
		}
		list = append(list, bt.Dict{"h": whole[:], "e": set.expires.Unix(), "c": int64(set.count), "p": pieces})
	}
	return list
}

func (c *collector) load(list []any) error {
	bad := fmt.Errorf("parts in a dump: %w", ErrFormat)
	for _, v := range list {
		d, _ := v.(bt.Dict)
		hash, _ := d["h"].([]byte)
		unix, ok := d["e"].(int64)
		if len(hash) != hashSize || !ok {
			return bad
		}
		whole, expires := [hashSize]byte(hash), time.Unix(unix, 0)
		pieces, incomplete := d["p"].([]any)
		if !incomplete {
			c.finish(whole, expires)
			continue
		}
		count, _ := d["c"].(int64)
		if count < 2 || count > maxParts || int64(len(pieces)) >= count || len(pieces) == 0 {
			return bad
		}
		set := &parts{count: int(count), chunks: map[int]arrived{}}
		for _, v := range pieces {
			fields, _ := v.([]any)
			if len(fields) != 3 {
				return bad
			}
			index, ok1 := fields[0].(int64)
			name, ok2 := fields[1].([]byte)
			chunk, ok3 := fields[2].([]byte)
			if !ok1 || !ok2 || !ok3 || index < 0 || index >= count || len(name) > maxHash || set.size+len(chunk) > MaxPadded {
				return bad
			}
			if _, twice := set.chunks[int(index)]; twice {
				return bad
			}
			p := part{whole: whole, index: int(index)}
			c.store(p, set, arrived{string(name), slices.Clone(chunk)}, expires)
		}
	}
	return nil
}
