package config

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"
)

// sealOverhead is how many bytes encryption adds: an authenticator and, at the
// end, the nonce.
const sealOverhead = chacha20poly1305.Overhead + chacha20poly1305.NonceSizeX

// nonceKey comes before the config's domain in the BLAKE2b key of the nonce.
const nonceKey = "libsessionutil-config-encrypted-"

// seal encrypts padded plaintext. The nonce is a hash of it, so that all
// devices write the same bytes for the same state, which a swarm keeps once.
func seal(padded []byte, key Key, domain string) ([]byte, error) {
	hash, err := blake2b.New(chacha20poly1305.NonceSizeX, []byte(nonceKey+domain))
	if err != nil {
		return nil, fmt.Errorf("hashing a config: %w", err)
	}
	hash.Write(padded)
	nonce := hash.Sum(nil)
	cipher, err := configCipher(len(padded), key, domain)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(padded)+sealOverhead)
	out = cipher.Seal(out, nonce, padded, nil)
	return append(out, nonce...), nil
}

// open is the reverse of [seal]. The nonce is taken as it is, not checked
// against the plaintext.
func open(sealed []byte, key Key, domain string) ([]byte, error) {
	size := len(sealed) - sealOverhead
	if size < 0 {
		return nil, fmt.Errorf("%d bytes: %w", len(sealed), ErrDecrypt)
	}
	cipher, err := configCipher(size, key, domain)
	if err != nil {
		return nil, err
	}
	end := len(sealed) - chacha20poly1305.NonceSizeX
	padded, err := cipher.Open(nil, sealed[end:], sealed[:end], nil)
	if err != nil {
		return nil, ErrDecrypt
	}
	return padded, nil
}

// aead is the part of cipher.AEAD that is used here.
type aead interface {
	Seal(dst, nonce, plaintext, additional []byte) []byte
	Open(dst, nonce, ciphertext, additional []byte) ([]byte, error)
}

// configCipher derives the key for a padded plaintext of size bytes.
func configCipher(size int, key Key, domain string) (aead, error) {
	input := make([]byte, 0, len(key)+8+len(domain))
	input = append(input, key[:]...)
	input = binary.BigEndian.AppendUint64(input, uint64(size))
	input = append(input, domain...)
	derived := blake2b.Sum256(input)
	clear(input[:len(key)])
	cipher, err := chacha20poly1305.NewX(derived[:])
	clear(derived[:])
	if err != nil {
		return nil, fmt.Errorf("preparing the cipher of a config: %w", err)
	}
	return cipher, nil
}

// pad puts zero bytes in front of b, so that the sealed size is a multiple of a
// unit that grows with the size: 256 bytes, 1, 2 or 5 KiB.
func pad(b []byte) []byte {
	size := len(b) + sealOverhead
	unit := 5120
	switch {
	case size < 5120:
		unit = 256
	case size < 20480:
		unit = 1024
	case size < 40960:
		unit = 2048
	}
	zeros := (unit - size%unit) % unit
	out := make([]byte, zeros+len(b))
	copy(out[zeros:], b)
	return out
}

// compressed is the first byte of a compressed plaintext, divided that of a
// part, plain that of a bt dictionary.
const (
	compressed = 'z'
	divided    = 'm'
	plain      = 'd'
)

// codec is made when it is first used: its tables are large. Both directions
// may be used by several goroutines.
var codec = sync.OnceValues(func() (*zstd.Encoder, *zstd.Decoder) {
	encoder, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest), // zstd's level 1
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), // the hash of the message is enough
		zstd.WithWindowSize(1<<20))
	if err != nil {
		panic("config: options of the compressor: " + err.Error())
	}
	decoder, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(MaxPlaintext),
		zstd.WithDecoderMaxWindow(MaxPlaintext))
	if err != nil {
		panic("config: options of the decompressor: " + err.Error())
	}
	return encoder, decoder
})

// compress returns plaintext, or its compressed form if that is smaller.
func compress(plaintext []byte) []byte {
	encoder, _ := codec()
	out := encoder.EncodeAll(plaintext, append(make([]byte, 0, len(plaintext)/2), compressed))
	if len(out) < len(plaintext) {
		return out
	}
	return plaintext
}

// inflate takes off padding and compression. Its result begins with the 'd' of
// a dictionary or the 'm' of a part.
func inflate(padded []byte) ([]byte, error) {
	b := bytes.TrimLeft(padded, "\x00")
	if len(b) == 0 {
		return nil, fmt.Errorf("nothing but padding: %w", ErrFormat)
	}
	if b[0] == divided {
		return b, nil
	}
	if b[0] == compressed {
		_, decoder := codec()
		out, err := decoder.DecodeAll(b[1:], nil)
		switch {
		case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
			return nil, fmt.Errorf("inflates beyond %d bytes: %w", MaxPlaintext, ErrLimit)
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrCompression, err)
		}
		b = out
	}
	if len(b) == 0 || b[0] != plain {
		return nil, fmt.Errorf("not a dictionary: %w", ErrFormat)
	}
	return b, nil
}
