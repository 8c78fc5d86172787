package keys

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"hearth/node/internal/vectortest"
)

func TestVectorsOfOtherPrograms(t *testing.T) {
	var file struct {
		Convert []struct {
			Kind         string
			Ed25519      vectortest.Hex `json:"ed25519_public_hex"`
			X25519       vectortest.Hex `json:"x25519_public_hex"`
			Seed         vectortest.Hex `json:"ed25519_seed32_hex"`
			X25519Secret vectortest.Hex `json:"x25519_secret_hex"`
		} `json:"ed25519_to_x25519"`
		Sign []struct {
			Seed      vectortest.Hex `json:"seed32_hex"`
			Public    vectortest.Hex `json:"public_hex"`
			Message   string         `json:"message_ascii"`
			Signature vectortest.Hex `json:"signature_hex"`
		} `json:"ed25519_sign"`
	}
	vectortest.Load(t, "identity.json", &file)

	kinds := map[string]int{}
	for _, c := range file.Convert {
		kinds[c.Kind]++
		switch c.Kind {
		case "public":
			got, err := X25519FromEd25519([32]byte(c.Ed25519))
			if err != nil || !bytes.Equal(got[:], c.X25519) {
				t.Errorf("converting %x gave %x, %v, want %x", c.Ed25519, got, err, c.X25519)
			}
		case "secret":
			got := FromSeed([32]byte(c.Seed)).X25519Secret()
			if !bytes.Equal(got[:], c.X25519Secret) {
				t.Errorf("X25519 secret of %x is %x, want %x", c.Seed, got, c.X25519Secret)
			}
		default:
			t.Errorf("conversion of unknown kind %q", c.Kind)
		}
	}
	if kinds["public"] == 0 || kinds["secret"] == 0 {
		t.Errorf("conversions by kind: %v, want some of both", kinds)
	}

	vectortest.Each(t, "ed25519_sign", file.Sign, func(t *testing.T, c struct {
		Seed      vectortest.Hex `json:"seed32_hex"`
		Public    vectortest.Hex `json:"public_hex"`
		Message   string         `json:"message_ascii"`
		Signature vectortest.Hex `json:"signature_hex"`
	}) {
		p := FromSeed([32]byte(c.Seed))
		if got := p.Ed25519(); !bytes.Equal(got[:], c.Public) {
			t.Errorf("public key %x, want %x", got, c.Public)
		}
		if got := p.Sign([]byte(c.Message)); !bytes.Equal(got, c.Signature) {
			t.Errorf("signature %x, want %x", got, c.Signature)
		}
		if !Verify(p.Ed25519(), []byte(c.Message), c.Signature) {
			t.Error("the signature does not verify")
		}
		if Verify(p.Ed25519(), []byte(c.Message+"!"), c.Signature) {
			t.Error("the signature verifies for another message")
		}
		if Verify(p.Ed25519(), []byte(c.Message), c.Signature[:63]) {
			t.Error("a signature of 63 bytes verifies")
		}
	})
}

func TestBothHalvesOfAPairBelongTogether(t *testing.T) {
	a, b := FromSeed([32]byte{1}), FromSeed([32]byte{2})
	for _, p := range []*Pair{a, b} {
		converted, err := X25519FromEd25519(p.Ed25519())
		if err != nil || converted != p.X25519() {
			t.Errorf("converted public key is %x, %v, want %x", converted, err, p.X25519())
		}
	}
	ab, err := a.Shared(b.X25519())
	if err != nil {
		t.Fatal(err)
	}
	ba, err := b.Shared(a.X25519())
	if err != nil {
		t.Fatal(err)
	}
	if len(ab) != 32 || !bytes.Equal(ab, ba) {
		t.Errorf("shared secrets %x and %x differ", ab, ba)
	}
}

func TestGenerateTakesTheSeedFromRand(t *testing.T) {
	seed := [32]byte{7, 7, 7}
	p, err := Generate(bytes.NewReader(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	if p.Seed() != seed || p.Ed25519() != FromSeed(seed).Ed25519() {
		t.Error("the pair does not come from the drawn seed")
	}
	if _, err := Generate(bytes.NewReader(seed[:31])); err == nil {
		t.Error("a short random source gave a pair")
	}
}

func TestBadPublicKeysAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name, key string
	}{
		{"a y that no point has", "0200000000000000000000000000000000000000000000000000000000000000"},
		{"the identity", "0100000000000000000000000000000000000000000000000000000000000000"},
		{"a point of order two", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"},
		{"a point of order four", "0000000000000000000000000000000000000000000000000000000000000000"},
		{"a point of order eight", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"},
		{"a point with a part of order two", outsideSubgroup(t)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key, err := hex.DecodeString(tc.key)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := X25519FromEd25519([32]byte(key)); !errors.Is(err, ErrInvalidPoint) {
				t.Errorf("got %x, %v, want ErrInvalidPoint", got, err)
			}
		})
	}

	p := FromSeed([32]byte{1})
	for _, u := range [][32]byte{{}, {1}} {
		if _, err := p.Shared(u); !errors.Is(err, ErrLowOrder) {
			t.Errorf("shared secret with u=%d: %v, want ErrLowOrder", u[0], err)
		}
	}
}

// outsideSubgroup is a valid public key plus the point of order two, (0, -1):
// adding it negates both coordinates, so y becomes p-y and the sign flips.
func outsideSubgroup(t *testing.T) string {
	t.Helper()
	pub := FromSeed([32]byte{1}).Ed25519()
	sign := pub[31] & 0x80
	pub[31] &= 0x7f
	prime := [32]byte{0: 0xed, 31: 0x7f}
	for i := 1; i < 31; i++ {
		prime[i] = 0xff
	}
	borrow := 0
	for i := range pub {
		d := int(prime[i]) - int(pub[i]) - borrow
		borrow = 0
		if d < 0 {
			d += 256
			borrow = 1
		}
		pub[i] = byte(d)
	}
	pub[31] |= sign ^ 0x80
	return hex.EncodeToString(pub[:])
}

func TestAPairDoesNotPrintItsSecrets(t *testing.T) {
	p := FromSeed([32]byte{0xab, 0xcd, 0xef, 0x01})
	seed, x := p.Seed(), p.X25519Secret()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("pair", "p", p)
	asJSON, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{
		fmt.Sprint(p), fmt.Sprintf("%v %+v %#v %s %q %x %X %d", p, p, p, p, p, p, p, p),
		fmt.Sprintf("%+v", struct{ P *Pair }{p}), log.String(), string(asJSON),
	} {
		low := strings.ToLower(out)
		for _, secret := range [][]byte{seed[:], x[:]} {
			if strings.Contains(low, hex.EncodeToString(secret[:4])) ||
				strings.Contains(out, fmt.Sprint(secret[:4])[1:10]) {
				t.Errorf("%q shows a secret", out)
			}
		}
	}
}

func TestAnExpandedPairSharesTheSameSecrets(t *testing.T) {
	plain, expanded, peer := FromSeed([32]byte{1}), FromSeed([32]byte{1}), FromSeed([32]byte{2}).X25519()
	if err := expanded.Expand(); err != nil {
		t.Fatal(err)
	}
	want, err := plain.Shared(peer)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := expanded.Shared(peer); err != nil || string(got) != string(want) {
		t.Errorf("got %x, %v", got, err)
	}
	expanded.Wipe()
	if got, err := expanded.Shared(peer); err == nil && string(got) == string(want) {
		t.Error("a wiped pair still shares its secret")
	}
}

func TestWipeLeavesNoSecret(t *testing.T) {
	p := FromSeed([32]byte{1})
	public := p.Ed25519()
	p.Wipe()
	if p.Seed() != [32]byte{} || p.X25519Secret() != [32]byte{} {
		t.Error("a secret survived")
	}
	if p.Ed25519() != public {
		t.Error("the public key is gone")
	}
}

func BenchmarkSign(b *testing.B) {
	p, msg := FromSeed([32]byte{1}), make([]byte, 1024)
	for b.Loop() {
		p.Sign(msg)
	}
}

func BenchmarkShared(b *testing.B) {
	plain, expanded, q := FromSeed([32]byte{1}), FromSeed([32]byte{1}), FromSeed([32]byte{2}).X25519()
	if err := expanded.Expand(); err != nil {
		b.Fatal(err)
	}
	for name, p := range map[string]*Pair{"plain": plain, "expanded": expanded} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := p.Shared(q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
