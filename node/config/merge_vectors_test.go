package config

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"hearth/node/account"
	"hearth/node/internal/vectortest"
	"hearth/node/keys"
)

// plainTree turns a tree into what encoding/json makes of the vectors' form.
func plainTree(d *Dict) map[string]any {
	out := map[string]any{}
	for key, v := range d.All() {
		switch v.kind {
		case dict:
			out[key] = plainTree(v.dict)
		case set:
			var list []any
			for e := range v.Set() {
				list = append(list, plainScalar(e))
			}
			out[key] = list
		default:
			out[key] = plainScalar(v)
		}
	}
	return out
}

func plainScalar(v Value) any {
	if n, ok := v.Int(); ok {
		return float64(n)
	}
	s, _ := v.Bytes()
	return s
}

func equalTrees(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			if w, ok := b[k]; !ok || !equalTrees(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equalTrees)
	}
	return a == b
}

func TestMessageMergeVectors(t *testing.T) {
	var file struct {
		Levels []struct {
			Name     string
			Messages []struct {
				Name      string
				Plaintext vectortest.Hex `json:"plaintext_hex"`
				Hash      vectortest.Hex `json:"hash_hex"`
			}
			Merges []struct {
				Inputs    []string
				Merged    bool
				Index     int `json:"unmerged_index"`
				Seqno     int64
				Then      string
				Data      map[string]any
				Plaintext vectortest.Hex `json:"plaintext_hex"`
				Hash      vectortest.Hex `json:"hash_hex"`
				Error     string
			}
			Group struct {
				Seed vectortest.Hex `json:"seed_hex"`
			}
			Items []struct {
				Name      string
				Plaintext vectortest.Hex `json:"plaintext_hex"`
				Outcome   struct{ Result, Error string }
				A         vectortest.Hex `json:"a_hex"`
				B         vectortest.Hex `json:"b_hex"`
				Kept      int            `json:"kept_index"`
				Seqno     int64
			}
			NoteLast string `json:"note_last"`
		} `json:"message_level"`
	}
	vectortest.Load(t, "config-merge-conflicts.json", &file)
	merges, signed := 0, 0
	for _, level := range file.Levels {
		messages := map[string]*message{}
		for _, m := range level.Messages {
			parsed, err := parseMessage(m.Plaintext, unsigned, [32]byte{})
			if err != nil {
				t.Fatalf("%s: %v", m.Name, err)
			}
			if parsed.hash != [hashSize]byte(m.Hash) || !bytes.Equal(parsed.append(nil, nil), m.Plaintext) {
				t.Errorf("%s: hash %x, written again as %q", m.Name, parsed.hash, parsed.append(nil, nil))
			}
			messages[m.Name] = parsed
		}
		for i, c := range level.Merges {
			t.Run(level.Name+" "+strings.Join(c.Inputs, " and "), func(t *testing.T) {
				merges++
				var all []*message
				for _, name := range c.Inputs {
					if m := messages[name]; m != nil {
						all = append(all, m)
					} else if _, err := parseMessage([]byte(name), unsigned, [32]byte{}); !errors.Is(err, ErrFormat) {
						t.Errorf("%q is read as a message: %v", name, err)
					}
				}
				if c.Error != "" { // the reference gives up; a bad message must not stop the others
					if m, index := resolve(all, false); index != 0 || m != all[0] {
						t.Errorf("kept %d", index)
					}
					return
				}
				got, index := resolve(all, false)
				if (index < 0) != c.Merged && c.Then == "" || index >= 0 && index != c.Index {
					t.Fatalf("kept %d, want %d", index, c.Index)
				}
				if c.Then != "" {
					o := vectorObject(t, UserProfile)
					o.begin(detach(got), new(owner))
					o.change(func(tr *tree) { tr.include(IntValue(789), "dictA", "goodbye") })
					o.finish(nil)
					got = o.message
				}
				if level.NoteLast != "" && i == len(level.Merges)-1 {
					// A window of one, which no config has: same data, and no
					// earlier changes are written.
					got.lagged = nil
				}
				if got.seqno != c.Seqno || !equalTrees(plainTree(got.data), c.Data) {
					t.Errorf("seqno %d, data %v; want %d, %v", got.seqno, plainTree(got.data), c.Seqno, c.Data)
				}
				if plaintext := got.seal(nil); !bytes.Equal(plaintext, c.Plaintext) {
					t.Errorf("plaintext\n%q, want\n%q", plaintext, c.Plaintext)
				}
				if c.Hash != nil && got.hash != [hashSize]byte(c.Hash) {
					t.Errorf("hash %x, want %x", got.hash, c.Hash)
				}
			})
		}
		if level.Items == nil {
			continue
		}
		pair := keys.FromSeed([32]byte(level.Group.Seed))
		var a, b *message
		for _, it := range level.Items {
			signed++
			switch {
			case it.A != nil:
				var err1, err2 error
				a, err1 = parseMessage(it.A, required, pair.Ed25519())
				b, err2 = parseMessage(it.B, required, pair.Ed25519())
				if err1 != nil || err2 != nil {
					t.Fatal(err1, err2)
				}
				if _, index := resolve([]*message{a, b}, true); index != it.Kept {
					t.Errorf("a reader keeps %d, want %d", index, it.Kept)
				}
			case it.Seqno != 0:
				got, index := resolve([]*message{a, b}, false)
				if plaintext := got.seal(pair); index != -1 || got.seqno != it.Seqno || !bytes.Equal(plaintext, it.Plaintext) {
					t.Errorf("an admin makes %d, %q; want %q", index, plaintext, it.Plaintext)
				}
			default:
				_, err := parseMessage(it.Plaintext, required, pair.Ed25519())
				if (err != nil) != (it.Outcome.Error != "") || err != nil && !errors.Is(err, ErrSignature) {
					t.Errorf("%s: %v, want %q", it.Name, err, it.Outcome.Error)
				}
			}
		}
	}
	if merges != 14 || signed != 6 {
		t.Errorf("%d merges and %d signed items, want 14 and 6", merges, signed)
	}
}

// editors are the changes that the vectors describe in words: what each device
// did before it pushed that message.
func edit(t *testing.T, o *Object, want vectorPush) {
	t.Helper()
	if want.Plaintext == nil {
		want.Plaintext = want.PlaintextB64
	}
	m, err := parseMessage(want.Plaintext, unsigned, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	if m.seqno != o.Seqno()+1 {
		return // a merge that has happened already
	}
	// The change itself, replayed as a person's edits would do it.
	o.change(func(tr *tree) { become(tr, nil, m.data) })
}

// become makes the dictionary at path hold what want holds, step by step.
func become(t *tree, path []string, want *Dict) {
	at := func(key string) []string { return append(slices.Clone(path), key) }
	var gone []string
	for key := range t.root.Get(path...).Dict().All() {
		if !want.Get(key).Exists() {
			gone = append(gone, key)
		}
	}
	for _, key := range gone {
		t.erase(at(key)...)
	}
	for key, v := range want.All() {
		switch v.kind {
		case dict:
			become(t, at(key), v.dict)
		case set:
			fields{t, path}.members(key, v.elems)
		default:
			t.set(v, at(key)...)
		}
	}
}

func TestDeviceMergeVectors(t *testing.T) {
	var file struct {
		Levels []struct {
			Name   string
			Note   string
			Events []struct {
				Device, Op, Message string
				Push                *vectorPush
				Confirmed           bool
				Messages            []string
				Accepted            struct{ Result []string }
				After               struct {
					NeedsPush bool `json:"needs_push"`
					Dirty     bool
					Current   []string       `json:"current_hashes"`
					Plaintext vectortest.Hex `json:"plaintext_hex"`
				}
				Equal bool
			}
		} `json:"device_level"`
	}
	vectortest.Load(t, "config-merge-conflicts.json", &file)
	kinds := map[string]Kind{
		"two-devices-profile": UserProfile, "three-devices-legacy-group-sets": UserGroups, "merge-while-dirty": ContactList,
		"late-and-stale": UserProfile, "undecryptable-among-good": UserProfile,
	}
	merges := 0
	for _, level := range file.Levels {
		t.Run(level.Name, func(t *testing.T) {
			devices, wire := map[string]*Object{}, map[string][]byte{}
			device := func(name string) *Object {
				if devices[name] == nil {
					devices[name] = vectorObject(t, kinds[level.Name])
				}
				return devices[name]
			}
			for i, e := range level.Events {
				switch {
				case e.Push != nil:
					o := device(e.Device)
					edit(t, o, *e.Push)
					sent := checkPush(t, o, *e.Push)
					if wire[e.Message] != nil && !bytes.Equal(wire[e.Message], sent) {
						t.Errorf("%s differs between devices", e.Message)
					}
					wire[e.Message] = sent
					if e.Confirmed {
						o.Confirm(e.Push.Seqno, e.Message)
					}
				case e.Op == "merge":
					merges++
					o := device(e.Device)
					if level.Name == "merge-while-dirty" && e.Device == "B" && i == 3 {
						// B's own change of the vector: Alice blocked, Bob added.
						bob := testID(t, "bob")
						contacts := Contacts{o}
						alice, _ := contacts.Find(testID(t, "alice"))
						alice.Blocked = true
						contacts.Put(alice)
						contacts.Put(Contact{ID: bob, Name: contactOf(t, e.After.Plaintext, bob)})
					}
					var in []Message
					for _, name := range e.Messages {
						if name == "tampered" {
							wire[name] = bytes.Clone(wire["m1b"])
							wire[name][len(wire[name])-20] ^= 1
						}
						in = append(in, Message{name, wire[name]})
					}
					got := o.Merge(in)
					if !slices.Equal(got.Accepted, e.Accepted.Result) {
						t.Errorf("event %d: accepted %q, %v", i, got.Accepted, got.Err())
					}
					if o.NeedsPush() != e.After.NeedsPush || (o.State() == Dirty) != e.After.Dirty || !slices.Equal(o.CurrentHashes(), e.After.Current) {
						t.Errorf("event %d: %v, current %q; want %+v", i, o, o.CurrentHashes(), e.After)
					}
					if plaintext := o.finish(nil); !bytes.Equal(plaintext, e.After.Plaintext) {
						t.Fatalf("event %d: plaintext\n%q, want\n%q", i, plaintext, e.After.Plaintext)
					}
				}
			}
		})
	}
	if merges != 20 {
		t.Errorf("%d merges, want 20", merges)
	}
}

func contactOf(t *testing.T, plaintext []byte, id account.ID) string {
	t.Helper()
	m, err := parseMessage(plaintext, unsigned, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return m.data.Get(contactDict, string(id[:])).Dict().text(contactName)
}
