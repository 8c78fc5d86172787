package rpc

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

// BenchmarkStore stores messages of 1 KiB in a swarm of one node, one at a time
// and as many at once as a busy node sees.
func BenchmarkStore(b *testing.B) {
	n, nodes := swarmOf(b, 1)
	u := newUser(b, 1)
	var serial atomic.Int64
	body := func() []byte {
		data := fmt.Sprintf("%016d", serial.Add(1)) + strings.Repeat("x", 1008)
		return mustJSON(b, map[string]any{"method": "store", "params": n.storeParams(u.id, data)})
	}
	b.Run("single", func(b *testing.B) {
		for b.Loop() {
			if r := nodes[0].Handle(b.Context(), body()); r.Status != 200 {
				b.Fatal(r)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if r := nodes[0].Handle(b.Context(), body()); r.Status != 200 {
					b.Fatal(r)
				}
			}
		})
	})
}

// BenchmarkRetrieve is a client's poll: the signature is checked and one new
// message of 1 KiB comes back.
func BenchmarkRetrieve(b *testing.B) {
	n, nodes := swarmOf(b, 1)
	u := newUser(b, 1)
	for i := range 100 {
		data := fmt.Sprint(i, strings.Repeat("x", 1020))
		if status, body := nodes[0].call(b, "store", n.storeParams(u.id, data)); status != 200 {
			b.Fatal(body)
		}
	}
	last := MessageHash(u.id, 0, []byte(fmt.Sprint(98, strings.Repeat("x", 1020))))
	body := mustJSON(b, map[string]any{"method": "retrieve", "params": u.signed(
		RetrieveText(0, n.ms()), map[string]any{"timestamp": n.ms(), "last_hash": last})})
	for b.Loop() {
		if r := nodes[0].Handle(b.Context(), body); r.Status != 200 {
			b.Fatal(r)
		}
	}
}

// BenchmarkVerify is the check of a signature: of an account, and of a delegate.
func BenchmarkVerify(b *testing.B) {
	u := newUser(b, 1)
	text := RetrieveText(0, 1_800_000_000_000)
	ed := u.keys.Ed25519()
	token := NewToken(u.id, Read, ed)
	for name, who := range map[string]credentials{
		"account":    {owner: u.id, ed25519: &ed, signature: u.keys.Sign(text)},
		"subaccount": {owner: u.id, ed25519: &ed, signature: u.keys.Sign(text), token: &token, tokenSig: u.keys.Sign(token[:])},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if !who.verify(text, Read) {
					b.Fatal("refused")
				}
			}
		})
	}
}
