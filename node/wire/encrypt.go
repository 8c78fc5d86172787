package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"fmt"
	"io"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/nacl/box"

	"hearth/node/account"
	"hearth/node/keys"
)

const (
	keySize = 32
	// trailer is what Encrypt appends to the plaintext inside the box: the
	// sender's Ed25519 key and signature.
	trailer = keySize + ed25519.SignatureSize

	// Overhead is how many bytes longer a ciphertext of [Encrypt] is than its
	// plaintext: the trailer, a one-time public key and an authenticator.
	Overhead = trailer + box.AnonymousOverhead
)

// ephemeralDomain is the BLAKE2b key of [EncryptDeterministic].
const ephemeralDomain = "SessionBoxEphemeralHashKey"

// Encrypt signs plaintext as sender and seals it for the account to: an
// anonymous box (X25519, XSalsa20-Poly1305) around plaintext, the sender's
// Ed25519 key and a signature over both and the recipient's key. Only the
// recipient learns who sent it. It does not pad.
//
// Errors: account.ErrNotSessionID, and keys.ErrLowOrder for an ID whose
// messages anybody could read.
func Encrypt(rand io.Reader, sender *account.Account, to account.ID, plaintext []byte) ([]byte, error) {
	return encrypt(rand, sender.Keys(), to, plaintext)
}

func encrypt(rand io.Reader, sender *keys.Pair, to account.ID, plaintext []byte) ([]byte, error) {
	if to.Prefix() != account.PrefixAccount {
		return nil, fmt.Errorf("encrypting: %w", account.ErrNotSessionID)
	}
	recipient := to.Key()
	if _, err := sender.Shared(recipient); err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}

	public := sender.Ed25519()
	inner := make([]byte, 0, len(plaintext)+trailer)
	inner = append(inner, plaintext...)
	inner = append(inner, public[:]...)
	// The recipient's key is signed but not sent, so that a recipient cannot
	// seal the message again for somebody else in the sender's name.
	signature := sender.Sign(append(inner, recipient[:]...))
	inner = append(inner, signature...)

	sealed, err := box.SealAnonymous(nil, inner, &recipient, rand)
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return sealed, nil
}

// EncryptDeterministic is [Encrypt] with a one-time key derived from the
// sender's seed, the recipient and the plaintext, so that equal input gives
// equal output. libsession wraps configuration messages this way; a
// conversation must not use it, because it shows that a message was repeated.
func EncryptDeterministic(sender *account.Account, to account.ID, plaintext []byte) ([]byte, error) {
	return encryptDeterministic(sender.Keys(), to, plaintext)
}

func encryptDeterministic(sender *keys.Pair, to account.ID, plaintext []byte) ([]byte, error) {
	hash, err := blake2b.New256([]byte(ephemeralDomain))
	if err != nil {
		return nil, fmt.Errorf("deriving a one-time key: %w", err)
	}
	seed, recipient := sender.Seed(), to.Key()
	defer clear(seed[:])
	hash.Write(seed[:])
	hash.Write(recipient[:])
	hash.Write(plaintext)

	// libsodium's box key pair of a seed has the first half of its SHA-512 as
	// secret key; SealAnonymous reads exactly that secret from its source.
	expanded := sha512.Sum512(hash.Sum(nil))
	defer clear(expanded[:])
	return encrypt(bytes.NewReader(expanded[:keySize]), sender, to, plaintext)
}

// Decrypt opens a ciphertext of [Encrypt] and returns the verified sender and
// the plaintext, still padded if it was. Errors: [ErrMalformed] when it is too
// short, [ErrNotForUs], [ErrSignature].
func Decrypt(recipient *account.Account, ciphertext []byte) (sender account.ID, plaintext []byte, err error) {
	return decrypt(recipient.Keys(), ciphertext)
}

func decrypt(recipient *keys.Pair, ciphertext []byte) (sender account.ID, plaintext []byte, err error) {
	if len(ciphertext) < Overhead {
		return account.ID{}, nil, fmt.Errorf("ciphertext of %d bytes: %w", len(ciphertext), ErrMalformed)
	}
	public, secret := recipient.X25519(), recipient.X25519Secret()
	defer clear(secret[:])
	inner, ok := box.OpenAnonymous(nil, ciphertext, &public, &secret)
	if !ok {
		return account.ID{}, nil, ErrNotForUs
	}

	signedSize := len(inner) - ed25519.SignatureSize
	plaintextSize := signedSize - keySize
	signer := [keySize]byte(inner[plaintextSize:signedSize])
	signature := bytes.Clone(inner[signedSize:])
	if !keys.Verify(signer, append(inner[:signedSize], public[:]...), signature) {
		return account.ID{}, nil, ErrSignature
	}
	sender, err = account.IDFromEd25519(signer)
	if err != nil {
		return account.ID{}, nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return sender, inner[:plaintextSize:plaintextSize], nil
}
