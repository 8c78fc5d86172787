package group

import (
	"crypto/cipher"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"hearth/node/bt"
	"hearth/node/keys"
)

const nonceSize = chacha20poly1305.NonceSizeX

// MultiEncrypt encrypts for several X25519 keys at once: one nonce and one
// ciphertext for each recipient, who tries them all. There is either one message
// for everybody, or one for each recipient in their order. Equal input gives equal
// output, so a nonce must never come back with other messages. The result names
// no recipient and is not signed.
//
// Errors: keys.ErrLowOrder for a recipient's key that is none, [ErrMalformed] when
// the messages do not match the recipients.
func MultiEncrypt(sender *keys.Pair, domain string, nonce [nonceSize]byte, recipients [][32]byte, messages ...[]byte) ([]byte, error) {
	if len(messages) != 1 && len(messages) != len(recipients) {
		return nil, fmt.Errorf("%d messages for %d recipients: %w", len(messages), len(recipients), ErrMalformed)
	}
	sealed := make([][]byte, 0, len(recipients))
	for i, r := range recipients {
		aead, err := multiKey(sender, r, sender.X25519(), r, domain)
		if err != nil {
			return nil, fmt.Errorf("encrypting for recipient %d: %w", i, err)
		}
		sealed = append(sealed, aead.Seal(nil, nonce[:], messages[i%len(messages)], nil))
	}
	return bt.Marshal(bt.Dict{"#": nonce[:], "e": sealed})
}

// MultiDecrypt opens the message that the owner of the X25519 key sender made for
// own with [MultiEncrypt]. Errors: [ErrMalformed], [ErrNotForUs].
func MultiDecrypt(own *keys.Pair, sender [32]byte, domain string, encoded []byte) ([]byte, error) {
	d, err := bt.ReadDict(encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	nonce, err := bytesAt(d, "#", nonceSize)
	if err != nil {
		return nil, err
	}
	entries, err := listAt(d, "e", 0)
	if err != nil {
		return nil, err
	}
	if err := d.Close(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return multiOpen(own, sender, domain, nonce, entries)
}

// multiOpen tries every ciphertext with the one key that sender and own share.
func multiOpen(own *keys.Pair, sender [32]byte, domain string, nonce []byte, entries [][]byte) ([]byte, error) {
	aead, err := multiKey(own, sender, sender, own.X25519(), domain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotForUs, err)
	}
	for _, e := range entries {
		if plain, err := aead.Open(nil, nonce, e, nil); err == nil {
			return plain, nil
		}
	}
	return nil, ErrNotForUs
}

// multiKey is what own and peer share for messages from sender to recipient.
func multiKey(own *keys.Pair, peer, sender, recipient [32]byte, domain string) (cipher.AEAD, error) {
	shared, err := own.Shared(peer)
	if err != nil {
		return nil, err
	}
	defer clear(shared)
	key := hash(32, domain, shared, sender[:], recipient[:])
	defer clear(key)
	return chacha20poly1305.NewX(key)
}

// bytesAt takes the byte string at key, which must come next and have size bytes
// (0 for any size).
func bytesAt(d *bt.DictReader, key string, size int) ([]byte, error) {
	if err := find(d, key); err != nil {
		return nil, err
	}
	b, err := d.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if size > 0 && len(b) != size {
		return nil, fmt.Errorf("%w: %q has %d bytes, not %d", ErrMalformed, key, len(b), size)
	}
	return b, nil
}

// intAt takes the integer at key.
func intAt(d *bt.DictReader, key string) (int64, error) {
	if err := find(d, key); err != nil {
		return 0, err
	}
	n, err := d.Int()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return n, nil
}

// listAt takes the list of byte strings at key, each of at least atLeast bytes.
func listAt(d *bt.DictReader, key string, atLeast int) ([][]byte, error) {
	if err := find(d, key); err != nil {
		return nil, err
	}
	raw, err := d.Raw()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	l, err := bt.ReadList(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var list [][]byte
	for l.More() {
		b, err := l.Bytes()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if len(b) < atLeast {
			return nil, fmt.Errorf("%w: entry %d of %q has %d bytes", ErrMalformed, len(list), key, len(b))
		}
		list = append(list, b)
	}
	if err := l.Close(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return list, nil
}

func find(d *bt.DictReader, key string) error {
	ok, err := d.Find(key)
	if err == nil && ok {
		return nil
	}
	if err == nil {
		return fmt.Errorf("%w: no %q", ErrMalformed, key)
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}
