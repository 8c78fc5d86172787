package ledger

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

func FuzzTx(f *testing.F) {
	w := newWorld(f, 1, 6, 20, nil)
	fee := w.fee()
	n := w.nodes[8]
	share := Share{n.operator.Ed25519(), n.operator.Ed25519(), 1000 * Coin}
	change, by := w.change(w.now+5, w.nodes[0].node.Ed25519(), Decommission, 7)
	for _, raw := range [][]byte{
		w.sign(w.accounts[0], fee, &Transfer{w.accounts[1].Ed25519(), 5}),
		w.sign(n.operator, fee, w.registration(n, 5, share)),
		w.sign(w.accounts[0], fee, &AddStake{n.node.Ed25519(), Key{}, 5}),
		w.sign(w.accounts[0], fee, &RequestUnlock{w.nodes[0].node.Ed25519()}),
		w.sign(w.nodes[0].node, 0, &ChangeEndpoint{w.nodes[0].node.Ed25519(), endpoint(99)}),
		w.sign(w.accounts[0], fee, &Claim{w.nodes[0].node.Ed25519()}),
		w.sign(w.accounts[0], fee, w.vote("min_fee", 1500, 9)),
		w.sign(by, 0, change),
		BeaconTx(w.nodes[0].beacon.Prove([]byte("x"))),
	} {
		f.Add(raw)
	}
	root := w.store.Root()
	f.Fuzz(func(t *testing.T, raw []byte) {
		if x, err := DecodeTx(raw); err == nil {
			again, err := x.Encode()
			if err != nil || !bytes.Equal(again, raw) {
				t.Errorf("encodes as %x, %v", again, err)
			}
		}
		store := w.store.Clone()
		m := New(store)
		b := &Block{Height: 1, Time: time.Unix(testStart+5, 0), Txs: [][]byte{raw}}
		r, err := m.Execute(b)
		if err != nil {
			t.Fatal(err)
		}
		if r.Refused[0] != nil && (store.Root() != root || Code(r.Refused[0]) == 255) {
			t.Errorf("refused with %v and the state is another one", r.Refused[0])
		}
		if err := CheckState(m.View()); err != nil {
			t.Error(err)
		}
	})
}

func FuzzGenesis(f *testing.F) {
	w := newWorld(f, 1, 3, 3, nil)
	good, err := json.Marshal(w.genesis)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"chain":"a","time":1,"params":{},"nodes":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGenesis(b)
		if err != nil {
			return
		}
		m := New(new(Memory))
		members, err := m.Start(g)
		if err != nil || len(members) == 0 {
			t.Fatalf("%d members, %v", len(members), err)
		}
		if err := CheckState(m.View()); err != nil {
			t.Error(err)
		}
	})
}

func FuzzList(f *testing.F) {
	w := newWorld(f, 1, 3, 3, nil)
	f.Add(EncodeList(w.machine.View().Active()))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The head is that of the bytes: what is read is what was written.
		if _, nodes, err := DecodeList(b, ListHead{Hash: TxHash(b)}); err == nil && !bytes.Equal(EncodeList(nodes), b) {
			t.Error("encodes differently")
		}
	})
}

func FuzzUpdates(f *testing.F) {
	f.Add([]byte{0, 1, 1, 0, 2, 1})
	members := map[Key]uint64{pair("k", 0).Ed25519(): 1, pair("k", 1).Ed25519(): 1, pair("k", 2).Ed25519(): 1}
	f.Fuzz(func(t *testing.T, b []byte) {
		var updates []Validator
		after := make(map[Key]uint64)
		for k, p := range members {
			after[k] = p
		}
		for ; len(b) >= 2; b = b[2:] {
			u := Validator{Consensus: pair("k", int(b[0]%8)).Ed25519(), Power: uint64(b[1] % 3)}
			updates = append(updates, u)
			if after[u.Consensus] = u.Power; u.Power == 0 {
				delete(after, u.Consensus)
			}
		}
		if CheckUpdates(members, updates) == nil && len(after) == 0 {
			t.Error("nobody is left")
		}
	})
}
