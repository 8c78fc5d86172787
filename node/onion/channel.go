package onion

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"
)

// EncType names how a layer and its answer are encrypted, in the form that
// nodes send. The empty EncType means [GCM], as a missing enc_type key does.
type EncType string

// The types that the storage server knows. Requests built here use GCM, as
// those of Session desktop do.
//
// CBC has no authentication, no client sends it, and whoever uses it lets
// anybody who recorded a layer probe its padding. It is accepted because the
// network's nodes accept it.
const (
	GCM       EncType = "aes-gcm"   // iv 12, ciphertext, tag 16
	XChaCha20 EncType = "xchacha20" // nonce 24, ciphertext, tag 16
	CBC       EncType = "aes-cbc"   // iv 16, ciphertext with PKCS #7 padding
)

// ParseEncType reads a name as clients and nodes write it: canonical, or one of
// gcm, xchacha20-poly1305 and cbc; case matters. The error is [ErrMalformed]
// with the storage server's text.
func ParseEncType(name string) (EncType, error) {
	switch name {
	case "aes-gcm", "gcm":
		return GCM, nil
	case "xchacha20", "xchacha20-poly1305":
		return XChaCha20, nil
	case "aes-cbc", "cbc":
		return CBC, nil
	}
	const enough = 64 // the name goes back to whoever sent it
	return "", detail("Invalid encryption type " + name[:min(len(name), enough)])
}

// tagSize is what encryption appends at most: an authentication tag, or a
// block of padding.
const tagSize = 16

func (e EncType) nonceSize() int {
	switch e {
	case XChaCha20:
		return chacha20poly1305.NonceSizeX
	case CBC:
		return aes.BlockSize
	}
	return 12
}

// channel is the symmetric key that client and node share for one layer. It
// serves both directions, each message with a nonce of its own.
type channel struct {
	enc EncType
	key [32]byte
}

// newChannel derives the key from the raw X25519 secret, which it wipes. The
// client's ephemeral key comes first, whoever encrypts.
func newChannel(enc EncType, shared []byte, client, node [32]byte) channel {
	c := channel{enc: enc}
	switch enc {
	case XChaCha20:
		var in [96]byte
		copy(in[:32], shared)
		copy(in[32:64], client[:])
		copy(in[64:], node[:])
		c.key = blake2b.Sum256(in[:])
		clear(in[:])
	case CBC:
		copy(c.key[:], shared)
	default:
		mac := hmac.New(sha256.New, []byte("LOKI"))
		mac.Write(shared)
		mac.Sum(c.key[:0])
	}
	clear(shared)
	return c
}

// seal encrypts the end of buf in place. From at on, buf holds the nonce and
// then the plain text; the result ends with the tag or the padding.
func (c *channel) seal(buf []byte, at int) ([]byte, error) {
	text := at + c.enc.nonceSize()
	if c.enc == CBC {
		pad := aes.BlockSize - (len(buf)-text)%aes.BlockSize
		for range pad {
			buf = append(buf, byte(pad))
		}
		block, err := aes.NewCipher(c.key[:])
		if err != nil {
			return nil, fmt.Errorf("sealing onion layer: %w", err)
		}
		cipher.NewCBCEncrypter(block, buf[at:text]).CryptBlocks(buf[text:], buf[text:])
		return buf, nil
	}
	aead, err := c.aead()
	if err != nil {
		return nil, fmt.Errorf("sealing onion layer: %w", err)
	}
	buf = slices.Grow(buf, tagSize) // so that Seal extends this very memory
	sealed := aead.Seal(buf[text:text], buf[at:text], buf[text:], nil)
	return buf[:text+len(sealed)], nil
}

var errOpen = errors.New("message does not decrypt")

// open returns the plain text of nonce, ciphertext and tag in new memory.
func (c *channel) open(message []byte) ([]byte, error) {
	nonceSize := c.enc.nonceSize()
	if len(message) < nonceSize+tagSize {
		return nil, errOpen
	}
	nonce, sealed := message[:nonceSize], message[nonceSize:]
	if c.enc == CBC {
		return c.openCBC(nonce, sealed)
	}
	aead, err := c.aead()
	if err != nil {
		return nil, err
	}
	text, err := aead.Open(make([]byte, 0, len(sealed)), nonce, sealed, nil)
	if err != nil {
		return nil, errOpen
	}
	return text, nil
}

func (c *channel) openCBC(iv, sealed []byte) ([]byte, error) {
	block, err := aes.NewCipher(c.key[:])
	if err != nil || len(sealed)%aes.BlockSize != 0 {
		return nil, errOpen
	}
	text := make([]byte, len(sealed))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(text, sealed)
	pad := int(text[len(text)-1])
	if pad == 0 || pad > aes.BlockSize {
		return nil, errOpen
	}
	for _, b := range text[len(text)-pad:] {
		if int(b) != pad {
			return nil, errOpen
		}
	}
	return text[:len(text)-pad], nil
}

func (c *channel) aead() (cipher.AEAD, error) {
	if c.enc == XChaCha20 {
		return chacha20poly1305.NewX(c.key[:])
	}
	block, err := aes.NewCipher(c.key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
