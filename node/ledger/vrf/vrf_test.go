package vrf

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The cases are RFC 9381, appendix B.3.
func TestExamplesOfTheStandard(t *testing.T) {
	for _, c := range []struct{ name, secret, public, message, proof, output string }{
		{
			"example 16", "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
			"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
			"8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f26f8a57ccaed74ee1b190bed1f479d9727d2d0f9b005a6e456a35d4fb0daab1268a1b0db10836d9826a528ca76567805",
			"90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff66b71dda49d2de59d03450451af026798e8f81cd2e333de5cdf4f3e140fdd8ae",
		},
		{
			"example 17", "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
			"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
			"f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed5933bf0864a62558b3ed7f2fea45c92a465301b3bbf5e3e54ddf2d935be3b67926da3ef39226bbc355bdc9850112c8f4b02",
			"eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb5e33821bc613efb94db5e5b54c70a848a0bef4553a41befc57663b56373a5031",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := FromSeed([32]byte(unhex(t, c.secret)))
			if p := s.Public(); hex.EncodeToString(p[:]) != c.public {
				t.Fatalf("public key %x", p)
			}
			proof := s.Prove(unhex(t, c.message))
			if hex.EncodeToString(proof[:]) != c.proof {
				t.Errorf("proof %x", proof)
			}
			out, err := Verify(s.Public(), unhex(t, c.message), Proof(unhex(t, c.proof)))
			if err != nil || hex.EncodeToString(out[:]) != c.output {
				t.Errorf("output %x, %v", out, err)
			}
		})
	}
}

func TestAChangedBitIsNoticed(t *testing.T) {
	s := FromSeed([32]byte{1})
	proof := s.Prove([]byte("message"))
	if _, err := Verify(s.Public(), []byte("message"), proof); err != nil {
		t.Fatal(err)
	}
	for bit := range ProofSize * 8 {
		changed := proof
		changed[bit/8] ^= 1 << (bit % 8)
		if _, err := Verify(s.Public(), []byte("message"), changed); !errors.Is(err, ErrProof) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	if _, err := Verify(s.Public(), []byte("messagf"), proof); !errors.Is(err, ErrProof) {
		t.Errorf("another message: %v", err)
	}
	if _, err := Verify(FromSeed([32]byte{2}).Public(), []byte("message"), proof); !errors.Is(err, ErrProof) {
		t.Errorf("another key: %v", err)
	}
}

func TestUnusableKeysAreRefused(t *testing.T) {
	for name, key := range map[string]string{
		"the identity":       "0100000000000000000000000000000000000000000000000000000000000000",
		"order four":         "0000000000000000000000000000000000000000000000000000000000000000",
		"no point":           "0200000000000000000000000000000000000000000000000000000000000000",
		"another spelling":   "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"above the modulus":  "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"order eight":        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"identity, sign set": "0100000000000000000000000000000000000000000000000000000000000080",
	} {
		if err := CheckKey([KeySize]byte(unhex(t, key))); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASecretDoesNotPrint(t *testing.T) {
	s := FromSeed([32]byte{7})
	for _, text := range []string{fmt.Sprintf("%v", s), fmt.Sprintf("%+v", s), fmt.Sprintf("%#v", s), fmt.Sprintf("%x", s)} {
		if strings.Contains(text, hex.EncodeToString(s.prefix[:4])) || !strings.Contains(text, hex.EncodeToString(s.public[:])) {
			t.Errorf("printed as %s", text)
		}
	}
}

func FuzzVerify(f *testing.F) {
	s := FromSeed([32]byte{1})
	key, proof := s.Public(), s.Prove([]byte("m"))
	f.Add(key[:], []byte("m"), proof[:])
	f.Fuzz(func(t *testing.T, key, message, proof []byte) {
		if len(key) != KeySize || len(proof) != ProofSize {
			return
		}
		Verify([KeySize]byte(key), message, Proof(proof))
	})
}

func BenchmarkVerify(b *testing.B) {
	s := FromSeed([32]byte{1})
	proof := s.Prove([]byte("message"))
	for b.Loop() {
		if _, err := Verify(s.Public(), []byte("message"), proof); err != nil {
			b.Fatal(err)
		}
	}
}
