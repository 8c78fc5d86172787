package onion

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"testing"
)

func TestCBCPadding(t *testing.T) {
	c := channel{enc: CBC, key: [32]byte{1}}
	block, err := aes.NewCipher(c.key[:])
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		text []byte // with its padding
		size int    // of the text without it, -1 if it is refused
	}{
		{"one byte of padding", append(make([]byte, 15), 1), 15},
		{"a whole block of padding", bytes.Repeat([]byte{16}, 16), 0},
		{"no padding", make([]byte, 16), -1},
		{"more padding than a block", bytes.Repeat([]byte{17}, 32), -1},
		{"padding of unequal bytes", append(make([]byte, 14), 1, 2), -1},
	} {
		iv := make([]byte, aes.BlockSize)
		message := append(bytes.Clone(iv), make([]byte, len(test.text))...)
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(message[len(iv):], test.text)
		got, err := c.open(message)
		if refused := test.size < 0; (err != nil) != refused || !refused && !bytes.Equal(got, test.text[:test.size]) {
			t.Errorf("%s: got %x, %v", test.name, got, err)
		}
	}
}
