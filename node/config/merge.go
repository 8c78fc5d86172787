package config

import (
	"errors"
	"fmt"
	"slices"
)

// Merged says what [Object.Merge] made of the messages.
type Merged struct {
	// Accepted are the hashes of the messages that were understood, stale ones
	// and parts of large messages included, in the order in which they came.
	// They need not be fetched again.
	Accepted []string
	// Refused are the others. They were ignored and will not be deleted: a
	// newer version may understand them.
	Refused []Refusal
	// Changed reports whether the data may be another now.
	Changed bool
}

// Refusal is a message that was not understood, and why.
type Refusal struct {
	Hash string
	Err  error // ErrDecrypt, ErrCompression, ErrFormat, ErrSignature or ErrLimit
}

// Err joins what was refused; nil when nothing was.
func (m Merged) Err() error {
	var all []error
	for _, r := range m.Refused {
		all = append(all, fmt.Errorf("message %.12q: %w", r.Hash, r.Err))
	}
	return errors.Join(all...)
}

// candidate is a message that came in.
type candidate struct {
	*message
	hashes   []string // the swarm's, one for each part
	firstKey bool     // sealed with the key that Push uses
}

// Merge takes in what the swarm has in the config's namespace. All messages that
// were fetched together should come together: the result does not depend on
// their order. Afterwards the config may need a push, when the messages were in
// conflict with each other or with changes here, and must be dumped.
//
// Messages that are not understood change nothing. Messages that take more than
// about 96 MiB of memory are merged in rounds.
func (o *Object) Merge(messages []Message) Merged {
	var out Merged
	now := o.options.Now()
	if o.parts.forget(now) {
		o.needsDump = true
	}
	var round []candidate
	budget := mergeBudget
	for _, m := range messages {
		c, err := o.read(m)
		if err != nil {
			out.Refused = append(out.Refused, Refusal{m.Hash, fmt.Errorf("reading %v: %w", o.kind, err)})
			continue
		}
		out.Accepted = append(out.Accepted, m.Hash)
		if c.message == nil {
			continue // a part that waits for others
		}
		if budget -= c.weight; budget < 0 && len(round) > 0 {
			out.Changed = o.take(round) || out.Changed
			round, budget = nil, mergeBudget-c.weight
		}
		round = append(round, c)
	}
	if len(round) > 0 {
		out.Changed = o.take(round) || out.Changed
	}
	return out
}

// read brings one message through all layers. A part that does not complete
// its config gives a candidate without a message.
func (o *Object) read(m Message) (candidate, error) {
	f := facts[o.kind]
	data := m.Data
	if f.wrapped != 0 {
		data = unwrap(o.options.Account, f.wrapped, data)
	}
	padded, key, err := o.decrypt(data)
	if err != nil {
		return candidate{}, err
	}
	plaintext, err := inflate(padded)
	if err != nil {
		return candidate{}, err
	}
	c := candidate{hashes: []string{m.Hash}, firstKey: key == 0}
	if plaintext[0] == divided {
		p, err := parsePart(plaintext)
		if err != nil {
			return candidate{}, err
		}
		whole, hashes, changed, err := o.parts.add(p, m.Hash, o.options.Now())
		o.needsDump = o.needsDump || changed
		if err != nil || whole == nil {
			return candidate{}, err
		}
		plaintext, c.hashes = whole, hashes
	}
	mode := unsigned
	if f.signed {
		mode = required
	}
	c.message, err = parseMessage(plaintext, mode, o.options.Group)
	return c, err
}

func (o *Object) decrypt(data []byte) (padded []byte, key int, err error) {
	for i, k := range o.keys {
		if padded, err := open(data, k, facts[o.kind].domain); err == nil {
			return padded, i, nil
		}
	}
	return nil, 0, ErrDecrypt
}

// take merges understood messages with what is here and reports whether the
// data may have changed.
func (o *Object) take(incoming []candidate) bool {
	all := make([]*message, 0, len(incoming)+1)
	own := o.message.seqno != 0 || o.state == Dirty
	if own {
		// As if it had been sent, so that it does not matter whether it was.
		o.finish(o.options.Signer)
		all = append(all, o.message)
	}
	for _, c := range incoming {
		all = append(all, c.message)
	}
	winner, index := resolve(all, o.ReadOnly())
	lost := own && o.base != nil && o.overtaken(all, index < 0)
	if own {
		index-- // -1 is now the own message, -2 a new one
	} else if index < 0 {
		index = -2
	}

	mine, base, clean := o.message.data, o.base, o.state != Dirty
	switch {
	case index == -1:
		o.adopt(incoming)
	case index >= 0:
		o.retire()
		o.settle(winner, incoming[index].hashes)
	default:
		o.retire()
		o.begin(detach(winner), new(owner))
		if clean && !o.options.QuietMerges {
			// libsession-util writes the result as if everything in it were
			// new, unless there were changes here already. All devices have to
			// write the same bytes, so we do too. See reclaim for what it costs.
			o.original = emptyDict
		}
	}
	for _, c := range incoming {
		o.discard(c.hashes)
	}
	if index == -1 {
		return false
	}
	o.base = nil
	if lost {
		// A member cannot have had changes, so this is not refused.
		o.change(func(t *tree) { t.reclaim(nil, between(base, mine), base, mine) })
		o.base = undo(o.Data(), mine, base) // Data, so that later changes leave it alone
	}
	return true
}

// overtaken reports whether the changes of the own message, the first of all,
// may be missing in the result though no other message has taken them in: it
// was merged with messages that may undo them, or it was never stored and the
// others went on by more than the window. The reference loses the changes in
// both cases.
func (o *Object) overtaken(all []*message, merged bool) bool {
	late := false
	for _, m := range all[1:] {
		if m.contains(o.message.id) {
			return false
		}
		late = late || o.message.seqno <= m.seqno-lag
	}
	if late {
		return o.state != Clean
	}
	return merged
}

// reclaim makes own changes again that a merge has undone: where the tree holds
// what was there before them, nobody else has changed it. What others did change
// stays, so the settings of a device that starts empty fill gaps and replace
// nothing.
//
// The reference has nothing like it, and loses changes: a result of merging says
// that it changed everything (see take), so whoever merges it with a change that
// was made at the same time may undo that change. Only the device that made the
// change can know, and what it does about it is a change like any other.
func (t *tree) reclaim(path []string, d *diff, before, own *Dict) {
	for i := range d.entries {
		c := &d.entries[i]
		at := append(path[:len(path):len(path)], c.key)
		was, is, mine := before.Get(c.key), t.root.Get(at...), own.Get(c.key)
		switch c.kind {
		case assigned:
			if same(is, was) {
				t.set(mine, at...)
			}
		case removed:
			if is.Exists() && same(is, was) {
				t.erase(at...)
			}
		case inside:
			// A dictionary that somebody else removed or replaced stays so.
			if is.kind == dict || !is.Exists() && !was.Exists() {
				t.reclaim(at, c.sub, was.Dict(), mine.Dict())
			}
		case elements:
			if is.kind != set && (is.Exists() || was.Exists()) {
				continue
			}
			for _, v := range c.added {
				t.include(v, at...)
			}
			for _, v := range c.gone {
				t.exclude(v, at...)
			}
		}
	}
}

// same compares two values of any type.
func same(a, b Value) bool {
	if a.shape() != b.shape() || a.shape() == absent {
		return a.shape() == b.shape()
	}
	_, differ := betweenValues("", a, b)
	return !differ
}

// undo returns data with what leads from before to after taken back, so that
// own changes are known as such after a merge too.
func undo(data, after, before *Dict) *Dict {
	t := &tree{owner: new(owner), root: data}
	t.root = t.own(t.root)
	t.apply(t.root, between(after, before), before)
	t.prune()
	return t.root
}

// adopt handles messages of which the own one is the newest. When one of them
// is a copy of it that another device has stored, ours need not be stored. The
// reference stores it again and then asks to delete it.
func (o *Object) adopt(incoming []candidate) {
	i := slices.IndexFunc(incoming, func(c candidate) bool { return c.id == o.message.id && c.firstKey })
	if i < 0 {
		return
	}
	if o.state != Clean || len(o.current) == 0 {
		o.settle(o.message, incoming[i].hashes)
	}
}

// detach reads a merge result again from its own bytes, so that it does not
// keep the texts of all the messages in memory that it was made of.
func detach(m *message) *message {
	copied, err := parseMessage(m.append(nil, nil), unsigned, [32]byte{})
	if err != nil {
		return m // above a limit: Push reports it
	}
	return copied
}
