package blake2b

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"golang.org/x/crypto/blake2b"
)

func TestWithoutSaltItIsTheOrdinaryHash(t *testing.T) {
	for _, key := range [][]byte{nil, []byte("k"), bytes.Repeat([]byte{7}, 64)} {
		for _, n := range []int{0, 1, 127, 128, 129, 5000} {
			data := bytes.Repeat([]byte{0xa5}, n)
			ours, err := New(64, key, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := blake2b.New512(key)
			if err != nil {
				t.Fatal(err)
			}
			ours.Write(data)
			theirs.Write(data)
			if !bytes.Equal(ours.Sum(nil), theirs.Sum(nil)) {
				t.Errorf("key of %d, data of %d bytes: another digest", len(key), n)
			}
			ours.Reset()
			ours.Write(data)
			if !bytes.Equal(ours.Sum(nil), theirs.Sum(nil)) {
				t.Errorf("key of %d, data of %d bytes: another digest after Reset", len(key), n)
			}
		}
	}
}

// The digests are those of hashlib of Python 3, blake2b(data, digest_size=,
// key=, salt=, person=).
func TestAgainstAnotherImplementation(t *testing.T) {
	for _, tt := range []struct {
		name              string
		size              int
		key, salt, person string
		data              string
		want              string
	}{
		{"the hash that names a file", 33, "", "SessionFileSvr", "", "content", "f12d200d4f3d7500654fcfec565bc04c43b04c7e0da5b4d4744657f22d66e801f1"},
		{"of nothing, keyed and personalised", 56, "0123456789abcdef0123456789abcdef", "", "SessionAttachmnt", "", "b0d9b1dbb78c3e7d573d3275a60726978085b29255a6396eec6003bf0dbaf8ce3e68ef02cbe7a5f62889387608f1d6ca19f07ca0c0ce6055"},
		{"everything at once", 64, "key", "salt", "person", string(bytes.Repeat([]byte("data"), 200)), "f2ccaf324bb8eb308693d5f3e2bbc7ff533b5e9352a8c4e811bb50c9547e886eccc70ee0c32d4e86f21d44b0badc6c5144a1315a6b87eb04cec6460cd905b7ad"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, err := New(tt.size, []byte(tt.key), []byte(tt.salt), []byte(tt.person))
			if err != nil {
				t.Fatal(err)
			}
			h.Write([]byte(tt.data))
			if got := hex.EncodeToString(h.Sum(nil)); got != tt.want || h.Size() != tt.size {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestParametersOutOfRange(t *testing.T) {
	for name, size := range map[string]int{"no digest": 0, "too long a digest": 65} {
		if _, err := New(size, nil, nil, nil); !errors.Is(err, ErrParameter) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := make([]byte, 65)
	if _, err := New(32, long, nil, nil); !errors.Is(err, ErrParameter) {
		t.Errorf("too long a key: %v", err)
	}
	if _, err := New(32, nil, long[:17], nil); !errors.Is(err, ErrParameter) {
		t.Errorf("too long a salt: %v", err)
	}
	if _, err := New(32, nil, nil, long[:17]); !errors.Is(err, ErrParameter) {
		t.Errorf("too long a personalisation: %v", err)
	}
}
