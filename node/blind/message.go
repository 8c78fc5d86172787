package blind

import (
	"bytes"
	"fmt"
	"io"

	"filippo.io/edwards25519"
	"golang.org/x/crypto/chacha20poly1305"

	"hearth/node/account"
	"hearth/node/keys"
)

// version is the first byte of a blinded message.
const version = 0

// Overhead is how many bytes longer a ciphertext of [Key.Encrypt] is than its
// plaintext: version, the author's key, authenticator, nonce.
const Overhead = 1 + 32 + chacha20poly1305.Overhead + chacha20poly1305.NonceSizeX

// Encrypt encrypts plaintext from one blinded ID of a server to another; both must
// be of one kind. The recipient learns the author's Ed25519 key, the server does
// not. The error is [ErrNoPoint] for an ID that is none.
func (k *Key) Encrypt(rand io.Reader, to account.ID, plaintext []byte) ([]byte, error) {
	if to.Prefix() != k.prefix {
		return nil, fmt.Errorf("encrypting to %s: %w", to, ErrNoPoint)
	}
	aead, err := k.shared(to, k.ID(), to)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	author := k.pair.Ed25519()
	out := append(make([]byte, 0, Overhead+len(plaintext)), version)
	out = aead.Seal(out, nonce, append(bytes.Clone(plaintext), author[:]...), nil)
	return append(out, nonce...), nil
}

// Decrypt opens a message between the blinded IDs from and to of the server, of
// which one is k's own, and returns its author's Session ID. Errors: [ErrNotForUs]
// when it does not open, [ErrSender] when the author has not the ID from.
func (k *Key) Decrypt(server [32]byte, from, to account.ID, ciphertext []byte) (author account.ID, plaintext []byte, err error) {
	peer := from
	if from == k.ID() {
		peer = to
	}
	if len(ciphertext) < Overhead || ciphertext[0] != version || from.Prefix() != k.prefix || to.Prefix() != k.prefix {
		return account.ID{}, nil, ErrNotForUs
	}
	aead, err := k.shared(peer, from, to)
	if err != nil {
		return account.ID{}, nil, fmt.Errorf("%w: %w", ErrNotForUs, err)
	}
	split := len(ciphertext) - chacha20poly1305.NonceSizeX
	plain, err := aead.Open(nil, ciphertext[split:], ciphertext[1:split], nil)
	if err != nil {
		return account.ID{}, nil, ErrNotForUs
	}
	end := len(plain) - 32
	author, err = account.IDFromEd25519([32]byte(plain[end:]))
	if err != nil {
		return account.ID{}, nil, fmt.Errorf("%w: %w", ErrSender, err)
	}
	if !Matches(from, author, server) {
		return account.ID{}, nil, ErrSender
	}
	return author, plain[:end:end], nil
}

// shared is the key of the messages from one ID to another. libsession multiplies
// the account's plain scalar for the legacy kind and leaves the peer's factor in.
func (k *Key) shared(peer, from, to account.ID) (interface {
	Seal(dst, nonce, plaintext, additionalData []byte) []byte
	Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error)
}, error) {
	public := peer.Key()
	if _, err := keys.X25519FromEd25519(public); err != nil {
		return nil, ErrNoPoint
	}
	point, err := new(edwards25519.Point).SetBytes(public[:])
	if err != nil {
		return nil, ErrNoPoint
	}
	secret := k.secret
	if k.prefix == account.PrefixBlinded15 {
		secret = own(k.pair)
	}
	product := point.ScalarMult(secret, point).Bytes()
	defer clear(product)
	return chacha20poly1305.NewX(hash(32, "", product, from[1:], to[1:]))
}
