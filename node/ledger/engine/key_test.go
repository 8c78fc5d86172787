package engine

import (
	"testing"

	"github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/klauspost/compress/zstd"
)

func edKey(k [32]byte) ed25519.PubKey { return ed25519.PubKey(k[:]) }

func pack(t testing.TB, b []byte) []byte {
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(b, nil)
}

func unpack(t testing.TB, b []byte) []byte {
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := z.DecodeAll(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
