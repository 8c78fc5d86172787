package archive

import (
	"fmt"
	"slices"
	"strings"

	"hearth/node/bt"
	"hearth/node/config"
)

// The format of configs forgets what is older than five messages: what a device
// changed without the network would be lost when the others have changed more than
// that in the meantime. So what is changed here is remembered, value by value, until
// the swarm has it and has been asked for what else there is; when a merge has
// skipped it, it is changed once more. What others have changed since stays theirs.
// The rule is ours; the notes never leave the device.

const (
	extraEdits = "hearth edits"

	window  = 5 // messages that the format remembers
	maxOlds = 8 // values that one place is remembered to have had
)

// edit is one value that was changed here.
type edit struct {
	path []string
	olds []config.Value // it had before, the first one first
	now  config.Value   // absent = erased
	// step is 0 until the swarm has confirmed it, and counts the rounds of polling
	// since then.
	step int64
}

// noteEdits adds what was changed here to the edits of a config.
func noteEdits(o *config.Object, before, now *config.Dict) {
	changed := differences(before, now)
	if len(changed) == 0 {
		return
	}
	edits := editsOf(o)
	at := make(map[string]int)
	for i, e := range edits {
		at[e.key()] = i
	}
	for _, e := range changed {
		i, ok := at[e.key()]
		if !ok {
			edits = append(edits, e)
			continue
		}
		old := &edits[i]
		if len(old.olds) == maxOlds {
			old.olds = slices.Delete(old.olds, 1, 2)
		}
		old.olds = append(old.olds, old.now)
		old.now, old.step = e.now, 0
	}
	setEdits(o, edits)
}

func (e edit) key() string { return strings.Join(e.path, "\x00\xff\x00") }

// differences are the values that are not the same in two trees. Sets are left out:
// nothing here changes one.
func differences(before, now *config.Dict) (list []edit) {
	var walk func(path []string, before, now *config.Dict)
	walk = func(path []string, before, now *config.Dict) {
		if before == now || len(path) >= config.MaxDepth {
			return
		}
		changed := func(key string, old, new config.Value) {
			at := append(slices.Clone(path), key)
			switch {
			case old.Dict().Len() > 0 || new.Dict().Len() > 0:
				walk(at, old.Dict(), new.Dict())
			case !equalScalars(old, new):
				list = append(list, edit{path: at, olds: []config.Value{old}, now: new})
			}
		}
		for key, v := range now.All() {
			changed(key, before.Get(key), v)
		}
		for key, v := range before.All() {
			if !now.Get(key).Exists() {
				changed(key, v, config.Value{})
			}
		}
	}
	walk(nil, before, now)
	return list
}

// redoEdits is for after a merge, before which the config had that seqno. A change
// can only have been skipped when others were further than the format remembers;
// otherwise they have changed it back.
func redoEdits(o *config.Object, before int64) error {
	edits := editsOf(o)
	if len(edits) == 0 {
		return nil
	}
	skipped := o.Seqno() >= before+window
	var left []edit
	for _, e := range edits {
		now := o.Get(e.path...)
		switch {
		case equalScalars(now, e.now):
		case skipped && e.had(now):
			if err := e.redo(o); err != nil {
				return err
			}
			e.step = 0
		default:
			continue // another device has the last word
		}
		left = append(left, e)
	}
	setEdits(o, left)
	return nil
}

// had reports whether the place had that value before.
func (e edit) had(v config.Value) bool {
	return slices.ContainsFunc(e.olds, func(old config.Value) bool { return equalScalars(old, v) })
}

func (e edit) redo(o *config.Object) error {
	var err error
	if e.now.Exists() {
		err = o.Set(e.now, e.path...)
	} else {
		err = o.Erase(e.path...)
	}
	if err != nil {
		return fmt.Errorf("keeping a change: %w", err)
	}
	return nil
}

// stepEdits takes edits further when the swarm has confirmed them: those with that
// step and all after it. They are forgotten after two rounds of polling that began
// later, when whatever was in the swarm at that time has been merged.
func stepEdits(o *config.Object, from int64) {
	edits := editsOf(o)
	var left []edit
	moved := false
	for _, e := range edits {
		if e.step >= from {
			e.step++
			moved = true
		}
		if e.step < 3 {
			left = append(left, e)
		}
	}
	if moved {
		setEdits(o, left)
	}
}

// settling reports whether there are edits that the swarm has.
func settling(o *config.Object) bool {
	return slices.ContainsFunc(editsOf(o), func(e edit) bool { return e.step > 0 || !o.NeedsPush() })
}

func editsOf(o *config.Object) (edits []edit) {
	list, _ := o.Extra()[extraEdits].([]any)
	for _, v := range list {
		d, _ := v.(bt.Dict)
		e := edit{now: valueOf(d["v"])}
		e.step, _ = d["s"].(int64)
		path, _ := d["p"].([]any)
		for _, k := range path {
			key, _ := k.([]byte)
			e.path = append(e.path, string(key))
		}
		olds, _ := d["o"].([]any)
		for _, old := range olds {
			e.olds = append(e.olds, valueOf(old))
		}
		if len(e.path) > 0 && len(e.olds) > 0 {
			edits = append(edits, e)
		}
	}
	return edits
}

func setEdits(o *config.Object, edits []edit) {
	list := []any{}
	for _, e := range edits {
		path, olds := []any{}, []any{}
		for _, key := range e.path {
			path = append(path, []byte(key))
		}
		for _, old := range e.olds {
			olds = append(olds, plainOf(old))
		}
		list = append(list, bt.Dict{"p": path, "o": olds, "v": plainOf(e.now), "s": e.step})
	}
	setExtra(o, extraEdits, list)
}

// setExtra replaces one entry of the local data of a config.
func setExtra(o *config.Object, key string, list []any) {
	extra := bt.Dict{}
	for k, v := range o.Extra() {
		extra[k] = v
	}
	if extra[key] = list; len(list) == 0 {
		delete(extra, key)
	}
	o.SetExtra(extra)
}

// plainOf writes a value for a dump: no value is an empty list.
func plainOf(v config.Value) any {
	if n, ok := v.Int(); ok {
		return n
	}
	if s, ok := v.Bytes(); ok {
		return []byte(s)
	}
	return []any{}
}

func valueOf(v any) config.Value {
	switch v := v.(type) {
	case int64:
		return config.IntValue(v)
	case []byte:
		return config.BytesValue(string(v))
	}
	return config.Value{}
}

// equalScalars compares integers, byte strings and nothing. A set or dictionary is
// equal to none of them.
func equalScalars(x, y config.Value) bool {
	if !x.Exists() && !y.Exists() {
		return true
	}
	if n, ok := x.Int(); ok {
		m, ok := y.Int()
		return ok && m == n
	}
	s, ok := x.Bytes()
	t, ok2 := y.Bytes()
	return ok && ok2 && s == t
}
