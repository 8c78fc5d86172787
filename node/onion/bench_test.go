package onion

import (
	"crypto/rand"
	"strings"
	"testing"

	"hearth/node/keys"
)

// The bodies are 1 KiB, about the size of a request that stores a message.

func BenchmarkBuildThreeHops(b *testing.B) {
	_, hops := testPath()
	body := make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(rand.Reader, hops[:3], hops[3], body); err != nil {
			b.Fatal(err)
		}
	}
}

// testNodes is testPath with keys as a running node has them.
func testNodes(b *testing.B) ([]*keys.Pair, []Hop) {
	pairs, hops := testPath()
	for _, p := range pairs {
		if err := p.Expand(); err != nil {
			b.Fatal(err)
		}
	}
	return pairs, hops
}

func BenchmarkPeelLayer(b *testing.B) {
	pairs, hops := testNodes(b)
	request, err := Build(rand.Reader, hops[:3], hops[3], make([]byte, 1024))
	if err != nil {
		b.Fatal(err)
	}
	l, err := ParseEntry(request.Body)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Peel(pairs[0]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRelayLayer is the whole work of a middle hop: from the bytes of one
// node to the bytes for the next.
func BenchmarkRelayLayer(b *testing.B) {
	pairs, hops := testNodes(b)
	request, err := Build(rand.Reader, hops[:3], hops[3], make([]byte, 1024))
	if err != nil {
		b.Fatal(err)
	}
	entry, err := ParseEntry(request.Body)
	if err != nil {
		b.Fatal(err)
	}
	inner, err := entry.Peel(pairs[0])
	if err != nil {
		b.Fatal(err)
	}
	in := inner.(*Node).Layer.MarshalBT()
	b.ReportAllocs()
	for b.Loop() {
		l, err := ParseLayerBT(in)
		if err != nil {
			b.Fatal(err)
		}
		inner, err := l.Peel(pairs[1])
		if err != nil {
			b.Fatal(err)
		}
		inner.(*Node).Layer.MarshalBT()
	}
}

func BenchmarkSealReply(b *testing.B) {
	pairs, hops := testNodes(b)
	l := Layer{EphemeralKey: hops[1].X25519, EncType: GCM}
	body := map[string]any{"messages": []any{}, "more": false, "data": strings.Repeat("A", 1024)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.SealReply(rand.Reader, pairs[0], 200, body, false, true); err != nil {
			b.Fatal(err)
		}
	}
}
