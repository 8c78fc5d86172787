package wire

import (
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"
)

// SealPayload encrypts plaintext under a shared key as group messages and push
// notifications are: a random 24-byte nonce, then XChaCha20-Poly1305 ciphertext
// with its 16-byte tag, no associated data.
func SealPayload(rand io.Reader, key [32]byte, plaintext []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		return nil, fmt.Errorf("sealing a payload: %w", err)
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plaintext)+aead.Overhead())
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	return aead.Seal(nonce, nonce, plaintext, nil), nil
}

// OpenPayload decrypts what [SealPayload] made. Errors: [ErrMalformed] when
// payload is shorter than nonce and tag, [ErrNotForUs] when key does not open
// it.
func OpenPayload(key [32]byte, payload []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		return nil, fmt.Errorf("opening a payload: %w", err)
	}
	if len(payload) < aead.NonceSize()+aead.Overhead() {
		return nil, fmt.Errorf("payload of %d bytes: %w", len(payload), ErrMalformed)
	}
	nonce, sealed := payload[:aead.NonceSize()], payload[aead.NonceSize():]
	plaintext, err := aead.Open(nil, nonce, sealed, nil)
	if err != nil {
		return nil, ErrNotForUs
	}
	return plaintext, nil
}
