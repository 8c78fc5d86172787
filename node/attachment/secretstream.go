package attachment

import (
	"crypto/subtle"
	"encoding/binary"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/poly1305" // deprecated in favour of whole AEADs, of which this stream is none
)

// secretstream is libsodium's crypto_secretstream_xchacha20poly1305 as far as
// files need it: no additional data, no rekeying but the one that no file is
// long enough for.
type secretstream struct {
	key   []byte
	nonce [chacha20.NonceSize]byte // counter of the chunk, then 8 bytes that depend on all chunks before
}

const (
	streamHeader   = 24
	streamOverhead = 1 + poly1305.TagSize // tag byte, authenticator
	tagMessage     = 0
	tagFinal       = 3
)

func newSecretstream(key, header []byte) (*secretstream, error) {
	sub, err := chacha20.HChaCha20(key, header[:16])
	if err != nil {
		return nil, err
	}
	s := &secretstream{key: sub}
	binary.LittleEndian.PutUint32(s.nonce[:], 1)
	copy(s.nonce[4:], header[16:streamHeader])
	return s, nil
}

// seal appends an encrypted chunk to dst, which must not overlap message.
func (s *secretstream) seal(dst, message []byte, tag byte) ([]byte, error) {
	c, mac, err := s.begin()
	if err != nil {
		return nil, err
	}
	var first [64]byte
	first[0] = tag
	c.XORKeyStream(first[:], first[:])
	mac.Write(first[:])
	dst = append(dst, first[0])
	at := len(dst)
	dst = append(dst, message...)
	c.XORKeyStream(dst[at:], dst[at:])
	sum := s.end(mac, dst[at:])
	return append(dst, sum[:]...), nil
}

// open decrypts a chunk in place. ok is false for a chunk that is not the next
// one of this stream.
func (s *secretstream) open(chunk []byte) (message []byte, tag byte, ok bool) {
	if len(chunk) < streamOverhead {
		return nil, 0, false
	}
	c, mac, err := s.begin()
	if err != nil {
		return nil, 0, false
	}
	var first [64]byte
	first[0] = chunk[0]
	c.XORKeyStream(first[:], first[:])
	tag, first[0] = first[0], chunk[0]
	mac.Write(first[:])
	message, sum := chunk[1:len(chunk)-poly1305.TagSize], chunk[len(chunk)-poly1305.TagSize:]
	// The nonce is spoilt when the chunk is not authentic; nobody goes on then.
	want := s.end(mac, message)
	if subtle.ConstantTimeCompare(want[:], sum) != 1 {
		return nil, 0, false
	}
	c.XORKeyStream(message, message)
	return message, tag, true
}

func (s *secretstream) begin() (*chacha20.Cipher, *poly1305.MAC, error) {
	c, err := chacha20.NewUnauthenticatedCipher(s.key, s.nonce[:])
	if err != nil {
		return nil, nil, err
	}
	var first [64]byte
	c.XORKeyStream(first[:], first[:])
	return c, poly1305.New((*[32]byte)(first[:32])), nil
}

// end finishes the authenticator over the encrypted message and steps to the
// next chunk. The zero bytes in between are as many as the length modulo 16,
// which is not what fills up a block; libsodium has it that way for ever.
func (s *secretstream) end(mac *poly1305.MAC, encrypted []byte) (sum [poly1305.TagSize]byte) {
	mac.Write(encrypted)
	var lengths [16 + 16]byte
	zeros := len(encrypted) % 16
	binary.LittleEndian.PutUint64(lengths[zeros+8:], uint64(64+len(encrypted)))
	mac.Write(lengths[:zeros+16])
	mac.Sum(sum[:0])
	subtle.XORBytes(s.nonce[4:], s.nonce[4:], sum[:8])
	binary.LittleEndian.PutUint32(s.nonce[:], binary.LittleEndian.Uint32(s.nonce[:])+1)
	return sum
}
