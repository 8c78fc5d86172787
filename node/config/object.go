package config

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"hearth/node/bt"
)

// State says what the swarm knows of an [Object]. The numbers stand in dumps.
type State uint8

const (
	// Clean: the swarm has this state, or there never was a change.
	Clean State = iota
	// Dirty: there are changes, or the result of a merge, that have not been
	// handed out by [Object.Push].
	Dirty
	// Waiting: handed out and not yet confirmed by [Object.Confirm].
	Waiting
)

// String names the state in logs.
func (s State) String() string {
	switch s {
	case Clean:
		return "clean"
	case Dirty:
		return "dirty"
	case Waiting:
		return "waiting"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Object is one config. It must not be used by two goroutines at once. It
// prints as its kind, seqno and state, never with keys or data.
type Object struct {
	kind    Kind
	options Options
	keys    []Key

	state    State
	message  *message
	original *Dict  // while dirty: the data that the changes are written against
	base     *Dict  // message.data without the changes made here; nil = there are none
	owner    *owner // while dirty: may write the dictionaries of message.data

	current  []string        // the swarm's hashes of message, ascending
	obsolete map[string]bool // the swarm's hashes of what message replaces
	pushed   int64           // seqno of the last Push
	parts    collector
	extra    bt.Dict

	needsDump bool
}

// New begins an empty config. Errors: [ErrValue] for options that lack what
// the kind requires.
func New(kind Kind, options Options) (*Object, error) {
	f, known := facts[kind]
	switch {
	case !known:
		return nil, fmt.Errorf("%v: %w", kind, ErrValue)
	case options.Now == nil:
		return nil, fmt.Errorf("%v without a clock: %w", kind, ErrValue)
	case !f.signed && options.Account == nil:
		return nil, fmt.Errorf("%v without an account: %w", kind, ErrValue)
	case f.signed && options.Group == [32]byte{}:
		return nil, fmt.Errorf("%v without a group: %w", kind, ErrValue)
	}
	o := &Object{
		kind:     kind,
		options:  options,
		message:  genesis(),
		obsolete: map[string]bool{},
		extra:    bt.Dict{},
	}
	if f.signed {
		o.SetKeys(options.Keys)
	} else {
		o.options.Signer = nil
		o.keys = []Key{options.Account.Keys().Seed()}
	}
	o.options.Keys = nil // o.keys are the ones to wipe
	return o, nil
}

// Kind says which config it is.
func (o *Object) Kind() Kind { return o.kind }

// State says what the swarm knows of it.
func (o *Object) State() State { return o.state }

// Seqno counts the changes. It never falls.
func (o *Object) Seqno() int64 { return o.message.seqno }

// NeedsPush reports whether there is something to [Object.Push].
func (o *Object) NeedsPush() bool { return o.state != Clean }

// NeedsDump reports whether something has changed since [Object.Dump].
func (o *Object) NeedsDump() bool { return o.needsDump }

// ReadOnly reports whether changes are refused: the config is a group's and
// there is no key to sign for the group.
func (o *Object) ReadOnly() bool { return o.kind.Signed() && o.options.Signer == nil }

// SetSigner gives a group's config the group's key pair, when its owner becomes
// an admin, or takes it away with nil.
func (o *Object) SetSigner(s Signer) {
	if o.kind.Signed() {
		o.options.Signer = s
	}
}

// SetKeys replaces the encryption keys of a group's config, newest first. It
// does not change the config; after a rotation call [Object.Touch], so that it
// is pushed again under the new key. The keys of a user config stay.
func (o *Object) SetKeys(keys []Key) {
	if o.kind.Signed() {
		o.keys = slices.Clone(keys)
	}
}

// Wipe forgets the keys. Nothing can be merged or pushed after it.
func (o *Object) Wipe() {
	clear(o.keys)
	o.keys = nil
}

// Data is the tree of the config as it is now. It stays as it is when the
// config changes later.
func (o *Object) Data() *Dict {
	if o.state == Dirty {
		// From here on a change copies what the caller may be looking at.
		(&tree{owner: o.owner, root: o.message.data}).prune()
		o.owner = new(owner)
	}
	return o.message.data
}

// Get reads the value at a path of keys.
func (o *Object) Get(path ...string) Value {
	v := o.message.data.Get(path...)
	if v.kind == dict {
		return o.Data().Get(path...)
	}
	return v
}

// Set stores an integer or byte string at a path of keys, making dictionaries
// on the way. Storing what is there already changes nothing. It is meant for
// keys that no view names. Errors: [ErrReadOnly], and [ErrValue] for an empty
// path, for one deeper than [MaxDepth], and for other types.
func (o *Object) Set(v Value, path ...string) error {
	if !v.scalar() || len(path) == 0 || len(path) > MaxDepth {
		return fmt.Errorf("storing into %v: %w", o.kind, ErrValue)
	}
	return o.change(func(t *tree) { t.set(v, path...) })
}

// Erase removes what is at a path of keys, and dictionaries that become empty.
// Errors: [ErrReadOnly], and [ErrValue] for an empty path.
func (o *Object) Erase(path ...string) error {
	if len(path) == 0 {
		return fmt.Errorf("erasing from %v: %w", o.kind, ErrValue)
	}
	return o.change(func(t *tree) { t.erase(path...) })
}

// Touch makes the config dirty without a change of data, so that it is pushed
// again. Errors: [ErrReadOnly].
func (o *Object) Touch() error {
	return o.change(func(t *tree) { t.changed = true })
}

// change runs an edit. When it changes something, the config becomes dirty, and
// a new seqno begins unless one has begun already.
func (o *Object) change(edit func(t *tree)) error {
	if o.state == Dirty && o.base == nil {
		o.base = o.Data() // a merge result, about to get changes of our own
	}
	t := &tree{owner: o.owner, root: o.message.data}
	if t.owner == nil {
		t.owner = new(owner)
	}
	edit(t)
	if !t.changed {
		return nil
	}
	if o.ReadOnly() {
		return fmt.Errorf("changing %v: %w", o.kind, ErrReadOnly)
	}
	if o.state != Dirty {
		o.retire()
		o.begin(o.message.next(), t.owner)
		o.base = o.original
	}
	o.message.data = t.root
	o.needsDump = true
	return nil
}

// begin makes m the message that changes go into.
func (o *Object) begin(m *message, w *owner) {
	o.message, o.original, o.owner, o.state = m, m.data, w, Dirty
	o.needsDump = true
}

// settle makes m the message that the swarm has under those hashes.
func (o *Object) settle(m *message, hashes []string) {
	o.message, o.original, o.owner, o.state = m, nil, nil, Clean
	o.setCurrent(hashes)
}

func (o *Object) setCurrent(hashes []string) {
	o.current = slices.Compact(slices.Sorted(slices.Values(hashes)))
	for _, h := range o.current {
		delete(o.obsolete, h)
	}
	o.needsDump = true
}

// retire makes what the swarm has of this message obsolete.
func (o *Object) retire() {
	old := o.current
	o.current = nil
	o.discard(old)
}

// discard notes hashes that [Object.Push] will hand out for deletion. Somebody
// who cannot write does not delete either.
func (o *Object) discard(hashes []string) {
	for _, h := range hashes {
		if h == "" || o.obsolete[h] || o.ReadOnly() || slices.Contains(o.current, h) {
			continue
		}
		o.obsolete[h] = true
		o.needsDump = true
	}
}

// finish brings a dirty message into the form in which it would be sent and
// returns the plaintext. Others are returned as they were sent.
func (o *Object) finish(signer Signer) []byte {
	m := o.message
	if o.state != Dirty {
		return m.append(nil, signer)
	}
	(&tree{owner: o.owner, root: m.data}).prune()
	m.diff = between(o.original, m.data)
	m.signature = nil
	return m.seal(signer)
}

// Push is what [Object.Push] hands out for one `sequence` of requests.
type Push struct {
	Namespace int16
	Seqno     int64    // for Confirm
	Parts     [][]byte // to be stored, all of them; mostly one
	Obsolete  []string // hashes to be deleted after the parts have been stored
}

// Push encrypts the config for its namespace. What was dirty waits from now on
// for [Object.Confirm]. It can be called again at any time and gives the same
// parts until the next change; the obsolete hashes are handed out once, and
// when they cannot be deleted, the messages expire on their own.
//
// Errors: [ErrNoKey], [ErrReadOnly] for a member, [ErrLimit] for a config that
// has become too large; the state stays as it was.
func (o *Object) Push() (Push, error) {
	if o.kind == ConvoVolatile {
		if err := (Conversations{o}).Prune(); err != nil {
			return Push{}, err
		}
	}
	if len(o.keys) == 0 {
		return Push{}, fmt.Errorf("pushing %v: %w", o.kind, ErrNoKey)
	}
	if o.ReadOnly() {
		return Push{}, fmt.Errorf("pushing %v: %w", o.kind, ErrReadOnly)
	}
	out := Push{Namespace: o.kind.Namespace(), Seqno: o.message.seqno}
	plaintext := o.finish(o.options.Signer)
	var err error
	if out.Parts, err = o.encode(plaintext); err != nil {
		return Push{}, fmt.Errorf("pushing %v: %w", o.kind, err)
	}
	if o.state == Dirty {
		o.state, o.original, o.owner = Waiting, nil, nil
		o.needsDump = true
	}
	o.pushed = out.Seqno
	if len(o.obsolete) > 0 {
		out.Obsolete = slices.Sorted(maps.Keys(o.obsolete))
		clear(o.obsolete)
		o.needsDump = true
	}
	return out, nil
}

// encode takes a plaintext through all layers.
func (o *Object) encode(plaintext []byte) ([][]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("%d bytes: %w", len(plaintext), ErrLimit)
	}
	f := facts[o.kind]
	padded := pad(compress(plaintext))
	pieces := [][]byte{padded}
	if len(padded)+sealOverhead > MaxMessage {
		var err error
		if pieces, err = split(padded); err != nil {
			return nil, err
		}
	}
	for i, piece := range pieces {
		sealed, err := seal(piece, o.keys[0], f.domain)
		if err != nil {
			return nil, err
		}
		pieces[i] = sealed
	}
	if f.wrapped == 0 || len(pieces) > 1 {
		return pieces, nil
	}
	wrapped, err := wrap(o.options.Account, f.wrapped, o.message.seqno, pieces[0])
	if err != nil {
		return nil, err
	}
	if len(wrapped) <= MaxMessage {
		pieces[0] = wrapped
	}
	return pieces, nil
}

// Confirm says that the swarm has stored the parts of the push with that seqno,
// and under which hashes. If the config has changed in the meantime it stays as
// it is, and the hashes become obsolete: what follows contains what was stored.
func (o *Object) Confirm(seqno int64, hashes ...string) {
	switch {
	case o.state != Dirty && seqno == o.message.seqno:
		// A copy that another device stored may be current already.
		o.retire()
		o.state = Clean
		o.setCurrent(hashes)
	case seqno == o.pushed && seqno <= o.message.seqno:
		o.discard(hashes)
	}
}

// CurrentHashes are the swarm's names of the message that holds this state: one
// for each part, none while there are changes that are not stored.
func (o *Object) CurrentHashes() []string { return slices.Clone(o.current) }

// ActiveHashes are the messages whose lifetime has to be extended: the current
// ones and the parts of a large config that waits for its other parts.
func (o *Object) ActiveHashes() []string {
	all := append(o.parts.hashes(), o.current...)
	slices.Sort(all)
	return slices.Compact(all)
}

// ObsoleteHashes are the messages that the next [Object.Push] hands out for
// deletion.
func (o *Object) ObsoleteHashes() []string { return slices.Sorted(maps.Keys(o.obsolete)) }

// Extra is local data that is dumped with the config and never sent. The caller
// may change the dictionary and says so with [Object.SetExtra].
func (o *Object) Extra() bt.Dict { return o.extra }

// SetExtra replaces the local data. It must consist of what bt can write.
func (o *Object) SetExtra(d bt.Dict) {
	if d == nil {
		d = bt.Dict{}
	}
	o.extra, o.needsDump = d, true
}

// String names the config without revealing what is in it.
func (o *Object) String() string {
	return fmt.Sprintf("%v, seqno %d, %v", o.kind, o.message.seqno, o.state)
}

// GoString is [Object.String].
func (o *Object) GoString() string { return "config.Object(" + o.String() + ")" }

// Format is [Object.String] for every verb.
func (o *Object) Format(f fmt.State, _ rune) { io.WriteString(f, o.String()) }
