package attachment

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"io"
)

// PictureKeySize is the length of a profile key in bytes.
const PictureKeySize = 32

// EncryptPicture encrypts a profile picture with AES-256-GCM: iv of 12 bytes,
// ciphertext, tag of 16 (Session desktop, encryptProfile). From rand it reads
// the 32 bytes of key, which is the profileKey of messages, and the iv. The
// error is [ErrTooLarge] above [MaxSize], or rand's.
func EncryptPicture(rand io.Reader, picture []byte) (key Key, uploaded []byte, err error) {
	if len(picture) > MaxSize {
		return nil, nil, fmt.Errorf("%w: picture of %d bytes", ErrTooLarge, len(picture))
	}
	key = make(Key, PictureKeySize)
	if _, err := io.ReadFull(rand, key); err != nil {
		return nil, nil, fmt.Errorf("drawing a profile key: %w", err)
	}
	aead, err := key.picture()
	if err != nil {
		return nil, nil, err
	}
	uploaded = make([]byte, aead.NonceSize(), aead.NonceSize()+len(picture)+aead.Overhead())
	if _, err := io.ReadFull(rand, uploaded); err != nil {
		return nil, nil, fmt.Errorf("drawing an iv: %w", err)
	}
	return key, aead.Seal(uploaded, uploaded, picture, nil), nil
}

// DecryptPicture decrypts what [EncryptPicture] of anybody made. A picture
// whose URL is [URL.Deterministic] goes through [DecryptDeterministic] instead.
// The errors are [ErrKey], [ErrMalformed] and [ErrForged].
func DecryptPicture(key Key, uploaded []byte) ([]byte, error) {
	aead, err := key.picture()
	if err != nil {
		return nil, err
	}
	if len(uploaded) < aead.NonceSize()+aead.Overhead() {
		return nil, fmt.Errorf("%w: picture of %d bytes", ErrMalformed, len(uploaded))
	}
	picture, err := aead.Open(nil, uploaded[:aead.NonceSize()], uploaded[aead.NonceSize():], nil)
	if err != nil {
		return nil, fmt.Errorf("%w: picture does not decrypt", ErrForged)
	}
	return picture, nil
}

func (k Key) picture() (cipher.AEAD, error) {
	if len(k) != PictureKeySize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrKey, len(k), PictureKeySize)
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
