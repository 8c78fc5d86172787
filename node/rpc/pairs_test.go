package rpc

import (
	"encoding/binary"
	"errors"
	"testing"

	"hearth/node/keys"
)

func TestPairsAreRememberedAndBounded(t *testing.T) {
	var p pairs
	check := func(n int) {
		t.Helper()
		var seed [32]byte
		binary.BigEndian.PutUint32(seed[:], uint32(n))
		pair := keys.FromSeed(seed)
		if x, err := p.x25519(pair.Ed25519()); err != nil || x != pair.X25519() {
			t.Fatalf("pair %d: %x, %v", n, x, err)
		}
	}
	for n := range 2*maxPairs + 10 {
		check(n)
		check(0) // is asked for all the time, and never forgotten
		if len(p.recent) > maxPairs || len(p.older) > maxPairs {
			t.Fatalf("%d and %d pairs are kept", len(p.recent), len(p.older))
		}
		_, recent := p.recent[keys.FromSeed([32]byte{}).Ed25519()]
		if !recent {
			t.Fatalf("after %d others the first is forgotten", n)
		}
	}
	check(1) // is forgotten, and worked out again
	size := len(p.recent)
	if _, err := p.x25519([32]byte{1}); !errors.Is(err, keys.ErrInvalidPoint) || len(p.recent) != size {
		t.Errorf("the neutral point: %v, %d pairs", err, len(p.recent)-size)
	}
}

func BenchmarkPairs(b *testing.B) {
	pub := keys.FromSeed([32]byte{7}).Ed25519()
	b.Run("the first time", func(b *testing.B) {
		for b.Loop() {
			if _, err := new(pairs).x25519(pub); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		var p pairs
		for b.Loop() {
			if _, err := p.x25519(pub); err != nil {
				b.Fatal(err)
			}
		}
	})
}
