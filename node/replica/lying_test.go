package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/account"
	"hearth/node/keys"
	"hearth/node/rpc"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// asked answers a request that pretends to come from a node.
func (n *labNode) asked(from *labNode, what op, body []byte) (status, []byte) {
	n.t.Helper()
	parts := n.replica.Serve(n.t.Context(), from.keys.Ed25519(), [][]byte{{byte(what)}, body})
	if len(parts) != 2 || len(parts[0]) != 1 {
		n.t.Fatalf("%q", parts)
	}
	return status(parts[0][0]), parts[1]
}

func messageTo(owner account.ID, ns int16, data string) storage.Message {
	now := time.Now()
	return storage.Message{
		Owner: owner, Namespace: ns, Hash: rpc.MessageHash(owner, ns, []byte(data)), Data: []byte(data),
		Timestamp: now.UnixMilli(), Expiry: now.Add(time.Hour).UnixMilli(), Stamp: now.UnixMicro(),
	}
}

// signedBy gives a change the proof that its owner's request would have, made
// with any key.
func signedBy(k *keys.Pair, c storage.Change, text []byte) storage.Change {
	ed := k.Ed25519()
	c.Proof = append(append([]byte{1}, k.Sign(text)...), ed[:]...)
	return c
}

func TestLyingMemberIsRefused(t *testing.T) {
	const west, east = swarm.ID(1 << 62), swarm.ID(3 << 62)
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		defer l.close()
		l.swarms(west, west, east)
		l.start(0, 1)
		time.Sleep(soon)
		victim, liar := l.nodes[0], l.nodes[1]
		var alice, stranger person
		for i := byte(0); alice.keys == nil || stranger.keys == nil; i++ {
			p := newPerson(t, i)
			if id, _ := l.list.Load().Of(p.id); id == west {
				alice = p
			} else {
				stranger = p
			}
		}
		mallory := newPerson(t, 200)
		hash := alice.store(victim, 5, "precious", 10*time.Hour)
		inbox := alice.store(victim, 0, "public", 10*time.Hour)
		outbox := alice.store(victim, -1, "profile", 10*time.Hour)
		time.Sleep(soon)
		want := victim.holds([]person{alice}, 0, 5, -1)
		now := time.Now()
		at, stamp := now.UnixMilli(), now.UnixMicro()
		base := storage.Change{Owner: alice.id, Stamp: stamp}
		with := func(edit func(c *storage.Change)) storage.Change {
			c := base
			edit(&c)
			return c
		}
		deletion := with(func(c *storage.Change) { c.Kind, c.Hashes = storage.Delete, []string{hash} })
		token := rpc.NewToken(alice.id, rpc.Read|rpc.Write, mallory.keys.Ed25519())
		asDelegate := func(c storage.Change, text []byte) storage.Change {
			c = signedBy(mallory.keys, c, text)
			ed := alice.keys.Ed25519()
			c.Proof = append(append(append([]byte{3}, mallory.keys.Sign(text)...), ed[:]...), alice.keys.Sign(token[:])...)
			c.Delegate = token[:]
			return c
		}

		cases := map[string]any{
			"a message that is too large":        messageTo(alice.id, 0, string(make([]byte, rpc.MaxData+1))),
			"a message for another swarm":        messageTo(stranger.id, 0, "x"),
			"a message that lives too long":      func() any { m := messageTo(alice.id, 0, "x"); m.Expiry += 31 * 86_400_000; return m }(),
			"a message from the future":          func() any { m := messageTo(alice.id, 0, "x"); m.Stamp += 100_000_000; return m }(),
			"a message sent long after it came":  func() any { m := messageTo(alice.id, 0, "x"); m.Timestamp += 600_000; return m }(),
			"a message in the place of the only": messageTo(alice.id, -1, "x"),
			"a message whose time is over":       func() any { m := messageTo(alice.id, 0, "x"); m.Expiry = at - 1; return m }(),
			"a delete without a proof":           deletion,
			"a delete signed by somebody else":   signedBy(mallory.keys, deletion, rpc.DeleteText(deletion.Hashes)),
			"a delete of something else":         signedBy(alice.keys, deletion, rpc.DeleteText([]string{inbox})),
			"a delete from the future": func() any {
				c := deletion
				c.Stamp += 100_000_000
				return signedBy(alice.keys, c, rpc.DeleteText(c.Hashes))
			}(),
			"a delete by a delegate without right": asDelegate(deletion, rpc.DeleteText(deletion.Hashes)),
			"an old delete_all": signedBy(alice.keys, with(func(c *storage.Change) { c.Kind, c.All, c.At = storage.DeleteAll, true, at-600_000 }),
				rpc.DeleteAllText(rpc.AllNamespaces, at-600_000)),
			"a delete_all of a wider scope": signedBy(alice.keys, with(func(c *storage.Change) { c.Kind, c.All, c.At = storage.DeleteAll, true, at }),
				rpc.DeleteAllText(5, at)),
			"a delete_before of later messages": signedBy(alice.keys, with(func(c *storage.Change) { c.Kind, c.Namespace, c.At = storage.DeleteBefore, 5, at }),
				rpc.DeleteBeforeText(5, at-3_600_000)),
			"an expire_all that is long over": signedBy(alice.keys, with(func(c *storage.Change) { c.Kind, c.All, c.At = storage.ExpireAll, true, at-600_000 }),
				rpc.ExpireAllText(rpc.AllNamespaces, at-600_000)),
			"an expire that was to extend": signedBy(alice.keys, with(func(c *storage.Change) {
				c.Kind, c.Hashes, c.Expiries, c.Mode = storage.Expire, []string{hash}, []int64{at + 60_000}, storage.Shorten
			}), rpc.ExpireText(rpc.ExpireExtend, []int64{at + 60_000}, []string{hash})),
			"an expire into the past": signedBy(alice.keys, with(func(c *storage.Change) {
				c.Kind, c.Hashes, c.Expiries = storage.Expire, []string{hash}, []int64{at - 600_000}
			}), rpc.ExpireText(rpc.ExpireSet, []int64{at - 600_000}, []string{hash})),
			"a delegate's extension as an expire": asDelegate(with(func(c *storage.Change) {
				c.Kind, c.Hashes, c.Expiries = storage.Expire, []string{hash}, []int64{at + 60_000}
			}), rpc.ExpireText(rpc.ExpireSet, []int64{at + 60_000}, []string{hash})),
			"a replacement in a namespace of many": signedBy(alice.keys, with(func(c *storage.Change) {
				c.Kind, c.Namespace, c.At, c.Hashes = storage.Replace, 5, at, []string{hash}
			}), rpc.StoreText(5, at)),
			"a replacement with an old signature": signedBy(alice.keys, with(func(c *storage.Change) {
				c.Kind, c.Namespace, c.At, c.Hashes = storage.Replace, -1, at-600_000, []string{outbox[:42] + "A"}
			}), rpc.StoreText(-1, at-600_000)),
			"a revocation signed by somebody else": signedBy(mallory.keys, with(func(c *storage.Change) {
				c.Kind, c.At, c.Tokens = storage.Revoke, at, [][36]byte{token}
			}), rpc.RevokeText(at, []rpc.Token{token})),
		}
		for name, c := range cases {
			e := element{set: storage.Messages}
			switch c := c.(type) {
			case storage.Message:
				e.message = c
			case storage.Change:
				e.set, e.change = storage.Changes, c
			}
			s, body := victim.asked(liar, opPut, e.appendTo([]byte{byte(e.set)}))
			if s != statusOK || len(body) != 1 || storage.Outcome(body[0]) != storage.Refused && storage.Outcome(body[0]) != storage.Expired {
				t.Errorf("%s: status %d, outcome %v", name, s, body)
			}
			if got := victim.holds([]person{alice, stranger}, 0, 5, -1); got != want {
				t.Fatalf("%s: changed what there is:\n%s", name, got)
			}
		}
		// The same way, but true.
		good := signedBy(alice.keys, deletion, rpc.DeleteText(deletion.Hashes))
		e := element{set: storage.Changes, change: good}
		if s, body := victim.asked(liar, opPut, e.appendTo([]byte{0})); s != statusOK || !bytes.Equal(body, []byte{byte(storage.Kept)}) {
			t.Errorf("a real delete: %d, %v", s, body)
		}
		if got := victim.texts(alice, 5); got != "" {
			t.Errorf("after a real delete: %q", got)
		}
	})
}

func TestOnlyMembersMayCompare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 4)
		defer l.close()
		l.swarms(1<<62, 1<<62, 3<<62) // node 3 is not listed
		l.start(0)
		time.Sleep(soon)
		victim := l.nodes[0]
		s := victim.replica.view.Load().span
		requests := map[op][]byte{
			opRoots:    s[:],
			opBranches: append(s[:], 0, 0, 0),
			opList:     appendKey(append(append(s[:], 0, 0), make([]byte, leafBits)...), nil),
			opGet:      append(s[:], 0),
			opOffer:    {0},
			opPut:      {0},
		}
		for what, body := range requests {
			if got, _ := victim.asked(l.nodes[1], what, body); got != statusOK {
				t.Errorf("%c by a member: %d", what, got)
			}
			want := statusStranger
			if what == opOffer || what == opPut {
				want = statusOK
			}
			if got, _ := victim.asked(l.nodes[2], what, body); got != want {
				t.Errorf("%c by a node of another swarm: %d", what, got)
			}
			if got, _ := victim.asked(l.nodes[3], what, body); got != statusStranger {
				t.Errorf("%c by a node that is not listed: %d", what, got)
			}
			if what != opOffer && what != opPut {
				other := bytes.Clone(body)
				other[0] ^= 1
				if got, _ := victim.asked(l.nodes[1], what, other); got != statusView {
					t.Errorf("%c by a member that sees another swarm: %d", what, got)
				}
			}
			for _, bad := range [][]byte{body[:0], append(bytes.Clone(body), 9)} {
				if got, _ := victim.asked(l.nodes[1], what, bad); got != statusBad {
					t.Errorf("%c with %d bytes: %d", what, len(bad), got)
				}
			}
		}
		if got, _ := victim.asked(l.nodes[1], 'x', s[:]); got != statusBad {
			t.Errorf("an unknown request: %d", got)
		}
	})
}

// TestLyingListsEnd lets the member that is asked make things up.
func TestLyingListsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		defer l.close()
		l.swarms(7, 7)
		l.start(0)
		time.Sleep(soon)
		victim := l.nodes[0]
		alice := newPerson(t, 1)
		alice.store(victim, 0, "hello", time.Hour)
		peer := l.list.Load().Nodes[1]
		victim.quiet()

		full := func(n int) []byte { return bytes.Repeat([]byte{0xaa}, n) }
		page := func(more byte, next []byte, keys ...[]byte) []byte {
			b := appendKey([]byte{more}, next)
			for _, k := range keys {
				b = append(appendKey(b, k), 1, 2, 3, 4, 5, 6, 7, 8)
			}
			return b
		}
		key := func(first byte, serial uint64) []byte {
			return binary.BigEndian.AppendUint64(append([]byte{first, 0}, make([]byte, 22)...), serial)
		}
		var requests, serial atomic.Uint64
		lies := map[string]func(what op, body []byte) []byte{
			"roots that are too short":  func(op, []byte) []byte { return full(31) },
			"branches that are too few": func(what op, _ []byte) []byte { return full(map[op]int{opRoots: 32, opBranches: 100}[what]) },
			"a list that does not go on": func(what op, body []byte) []byte {
				first := body[25]
				return map[op][]byte{opRoots: full(32), opBranches: full(2048), opList: page(1, key(first, 0))}[what]
			},
			"a list out of order": func(what op, body []byte) []byte {
				first := body[25]
				return map[op][]byte{opRoots: full(32), opBranches: full(2048), opList: page(0, nil, key(first, 2), key(first, 1))}[what]
			},
			"a list of other keys": func(what op, body []byte) []byte {
				first := body[25]
				return map[op][]byte{opRoots: full(32), opBranches: full(2048), opList: page(0, nil, key(first+1, 0))}[what]
			},
			"an endless list": func(what op, body []byte) []byte {
				first := body[25]
				at := serial.Add(1000)
				var keys [][]byte
				for i := range uint64(999) {
					keys = append(keys, key(first, at+i))
				}
				switch what {
				case opList:
					return page(1, key(first, at+1000), keys...)
				case opGet:
					return bytes.Repeat([]byte{0, 0, 0, 0}, bytes.Count(body, []byte{32})) // "gone meanwhile"
				}
				return map[op][]byte{opRoots: full(32), opBranches: full(2048)}[what]
			},
			"elements that were not asked for": func(what op, body []byte) []byte {
				first := body[25]
				var keys [][]byte
				for i := range uint64(100) {
					keys = append(keys, key(first, i))
				}
				if what == opGet {
					var b []byte
					for i := range 100 {
						e := element{set: storage.Messages, message: messageTo(alice.id, 0, fmt.Sprint("junk ", i))}
						b = e.appendTo(b)
					}
					return b
				}
				return map[op][]byte{opRoots: full(32), opBranches: full(2048), opList: page(0, nil, keys...)}[what]
			},
			"an element without an end": func(what op, body []byte) []byte {
				first := body[25]
				return map[op][]byte{opRoots: full(32), opBranches: full(2048), opList: page(0, nil, key(first, 1)), opGet: {0xff, 0xff, 0xff, 0xff, 1}}[what]
			},
		}
		for name, lie := range lies {
			requests.Store(0)
			victim.replica.cfg.Request = func(_ context.Context, _ swarm.Node, parts [][]byte) ([][]byte, error) {
				requests.Add(1)
				body := append(bytes.Clone(parts[1]), make([]byte, 3)...)
				answer := lie(op(parts[0][0]), body)
				if answer == nil && op(parts[0][0]) == opPut {
					return nil, errUnreachable
				}
				return [][]byte{{byte(statusOK)}, answer}, nil
			}
			_, err := victim.replica.compare(t.Context(), peer, 0)
			if !errors.Is(err, errWire) && !errors.Is(err, errLying) {
				t.Errorf("%s: %v", name, err)
			}
			if n := requests.Load(); n > 5000 {
				t.Errorf("%s: %d requests", name, n)
			}
			if got := victim.texts(alice, 0); got != "hello" {
				t.Errorf("%s: the victim holds %q", name, got)
			}
		}
	})
}

func TestNodeMaySpendOnlySoMuch(t *testing.T) {
	var g guests
	now := time.Unix(1000, 0)
	clock := func() time.Time { return now }
	a, b := [32]byte{1}, [32]byte{2}

	var running []func()
	for range maxGuest {
		done, ok := g.begin(a, clock)
		if !ok {
			t.Fatal("refused at the beginning")
		}
		running = append(running, done)
	}
	if _, ok := g.begin(a, clock); ok {
		t.Error("one request too many at a time")
	}
	if done, ok := g.begin(b, clock); !ok {
		t.Error("another node suffers")
	} else {
		done()
	}
	now = now.Add(3 * time.Second)
	for _, done := range running {
		done()
	}
	if _, ok := g.begin(a, clock); ok {
		t.Error("more work than there was credit for")
	}
	now = now.Add(8 * time.Second) // two seconds of credit, of which four were lacking
	if _, ok := g.begin(a, clock); ok {
		t.Error("credit comes too fast")
	}
	now = now.Add(10 * time.Second)
	if done, ok := g.begin(a, clock); !ok {
		t.Error("credit does not come back")
	} else {
		done()
	}
	g.keep(&swarm.List{Nodes: []swarm.Node{{Ed25519: b}}})
	if len(g.byNode) != 1 {
		t.Errorf("%d nodes remembered", len(g.byNode))
	}
}

func FuzzServe(f *testing.F) {
	l := newLab(f, 2)
	l.swarms(7, 7)
	l.start(0)
	f.Cleanup(l.close)
	n, from := l.nodes[0], l.nodes[1].keys.Ed25519()
	alice := newPerson(f, 1)
	hash := alice.store(n, 0, "hello", time.Hour)
	alice.store(n, -1, "profile", time.Hour)
	alice.delete(n, hash)
	for n.replica.view.Load() == nil {
		runtime.Gosched()
	}
	s := n.replica.view.Load().span
	f.Add(byte(opRoots), s[:])
	f.Add(byte(opBranches), append(s[:], 1, 1, 3))
	f.Add(byte(opList), appendKey(append(append(s[:], 1, storage.HashBytes(hash)[0]), bytes.Repeat([]byte{255}, leafBits)...), nil))
	f.Add(byte(opGet), appendKey(append(s[:], 1), storage.HashBytes(hash)))
	f.Add(byte(opOffer), append(appendKey([]byte{1}, storage.HashBytes(hash)), make([]byte, 8)...))
	items, _, err := n.db.List(storage.Changes, nil, nil, 10, func(account.ID) bool { return true })
	if err != nil || len(items) == 0 {
		f.Fatal(items, err)
	}
	for _, item := range items {
		e, _, err := n.replica.load(storage.Changes, item.Key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(opPut), e.appendTo([]byte{0}))
	}
	e := element{set: storage.Messages, message: messageTo(alice.id, 0, "another")}
	f.Add(byte(opPut), e.appendTo([]byte{1}))
	f.Fuzz(func(t *testing.T, what byte, body []byte) {
		parts := n.replica.Serve(t.Context(), from, [][]byte{{what}, body})
		if len(parts) != 2 || len(parts[0]) != 1 || len(parts[1]) > maxPiece+maxElement {
			t.Errorf("%d parts", len(parts))
		}
	})
}

func FuzzParseElement(f *testing.F) {
	alice := newPerson(f, 1)
	m := element{set: storage.Messages, message: messageTo(alice.id, 5, "hello")}
	f.Add(byte(1), m.appendTo(nil)[4:])
	c := element{set: storage.Changes, change: signedBy(alice.keys, storage.Change{
		Owner: alice.id, Kind: storage.Expire, Hashes: []string{m.message.Hash, "x"}, Expiries: []int64{1, 2}, Stamp: 7,
	}, nil)}
	f.Add(byte(0), c.appendTo(nil)[4:])
	f.Fuzz(func(t *testing.T, set byte, b []byte) {
		e, err := parseElement(storage.Set(set%2), b, rpc.MessageHash)
		if err != nil {
			return
		}
		// What was read is written the same way, or is the same when read again.
		again, err := parseElement(e.set, e.appendTo(nil)[4:], rpc.MessageHash)
		if err != nil || !bytes.Equal(again.key, e.key) || again.stamp() != e.stamp() {
			t.Errorf("%v: %x, then %x", err, e.key, again.key)
		}
		_ = verify(&e, func(account.ID) bool { return true })
	})
}

func FuzzParseList(f *testing.F) {
	f.Add([]byte{0, 0}, byte(0), []byte{})
	f.Add(append([]byte{1, 2, 5, 9, 2, 5, 1}, make([]byte, 8)...), byte(5), []byte{5})
	f.Fuzz(func(t *testing.T, body []byte, first byte, from []byte) {
		list, next, err := parseList(body, first, from)
		if err != nil {
			return
		}
		last := from
		for i, m := range list {
			if bytes.Compare(m.key, last) < 0 || i > 0 && bytes.Equal(m.key, last) {
				t.Fatal("out of order")
			}
			last = m.key
		}
		if next != nil && bytes.Compare(next, last) <= 0 {
			t.Fatal("does not go on")
		}
	})
}
