package group

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"

	"hearth/node/account"
	"hearth/node/keys"
)

const kickedDomain = "SessionGroupKickedMessage"

// Kicked makes the notice for the namespace [Revoked] by which the members learn
// that they were removed. generation is that of the keys before the rekey that
// follows the removal. IDs that cannot be members are left out; [ErrTooLarge] asks
// for fewer members at once.
func Kicked(rand io.Reader, group *keys.Pair, members []account.ID, generation int64) ([]byte, error) {
	var nonce [nonceSize]byte
	if _, err := io.ReadFull(rand, nonce[:]); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	var to [][32]byte
	var messages [][]byte
	for _, m := range members {
		if m.Prefix() != account.PrefixAccount || keys.CheckX25519(m.Key()) != nil {
			continue
		}
		to = append(to, m.Key())
		messages = append(messages, strconv.AppendInt(bytes.Clone(m[1:]), generation, 10))
	}
	if len(to) == 0 {
		messages = [][]byte{nil}
	}
	b, err := MultiEncrypt(group, kickedDomain, nonce, to, messages...)
	if err != nil {
		return nil, fmt.Errorf("notice of removal: %w", err)
	}
	if len(b) > maxNotice {
		return nil, fmt.Errorf("notice for %d members: %w", len(members), ErrTooLarge)
	}
	return b, nil
}

// KickedAtOnce is how many members one notice serves.
const KickedAtOnce = 900

// OpenKicked reads a notice of removal. It returns the generation of keys in which
// own was removed: if it is below the generation that the device knows
// ([Keys.Generation]), the notice is older than a new invitation. [ErrNotForUs]
// means that others were removed; [ErrMalformed] is possible, too.
func OpenKicked(own *keys.Pair, group account.ID, notice []byte) (generation int64, err error) {
	if len(notice) > maxNotice {
		return 0, fmt.Errorf("%w: notice of %d bytes", ErrMalformed, len(notice))
	}
	x, err := encryptionKey(group)
	if err != nil {
		return 0, err
	}
	plain, err := MultiDecrypt(own, x, kickedDomain, notice)
	if err != nil {
		return 0, err
	}
	public := own.X25519()
	digits, ours := bytes.CutPrefix(plain, public[:])
	if !ours {
		return 0, fmt.Errorf("notice for another key: %w", ErrMalformed)
	}
	// ParseInt would also take a sign.
	if len(digits) == 0 || slices.ContainsFunc(digits, func(c byte) bool { return c < '0' || c > '9' }) {
		return 0, fmt.Errorf("%w: notice without a generation", ErrMalformed)
	}
	if generation, err = strconv.ParseInt(string(digits), 10, 64); err != nil {
		return 0, fmt.Errorf("%w: generation of a notice", ErrMalformed)
	}
	return generation, nil
}
