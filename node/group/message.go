package group

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/config"
	"hearth/node/keys"
	"hearth/node/wire"
)

const (
	// MaxPlaintext is the largest message in bytes before it is compressed.
	MaxPlaintext = 1_000_000

	maxNotice      = wire.MaxData
	sealOverhead   = 24 + 16 // nonce and authenticator
	paddingBlock   = 256
	messageVersion = 1
)

// Framing says what the author of a group message signs.
type Framing int

const (
	// Current signs the message and the group's key. Everything is written so since
	// February 2025.
	Current Framing = iota
	// Historic signs the message alone, so that a member of two groups can carry what
	// somebody said from one to the other. Read it only where older libraries write,
	// and write it never.
	Historic
)

// Style is how [Seal] writes; the zero value is what clients do.
type Style struct {
	Framing   Framing
	Plain     bool // do not compress
	NoPadding bool
}

// Seal signs plaintext as sender and encrypts it under the group's key: what lies
// in the namespace [Messages]. The swarm sees neither author nor content, and the
// size in steps of 256 bytes only. It is [ErrTooLarge] for more than
// [MaxPlaintext] bytes, or when the result does not fit into a stored message.
func Seal(rand io.Reader, group account.ID, key config.Key, sender *keys.Pair, plaintext []byte, o Style) ([]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("group message of %d bytes: %w", len(plaintext), ErrTooLarge)
	}
	if len(plaintext) == 0 {
		return nil, fmt.Errorf("empty group message: %w", ErrMalformed)
	}
	data, field := plaintext, "d"
	if !o.Plain {
		if small := encoder().EncodeAll(plaintext, nil); len(small) < len(plaintext) {
			data, field = small, "z"
		}
	}
	author := sender.Ed25519()
	signature := sender.Sign(signedText(o.Framing, group, data))

	b := make([]byte, 0, len(data)+160+paddingBlock)
	b = bt.AppendInt(bt.AppendBytes(append(b, 'd'), ""), messageVersion)
	b = bt.AppendBytes(bt.AppendBytes(b, "a"), author[:])
	if field == "d" {
		b = bt.AppendBytes(bt.AppendBytes(b, "d"), data)
	}
	b = bt.AppendBytes(bt.AppendBytes(b, "s"), signature)
	if field == "z" {
		b = bt.AppendBytes(bt.AppendBytes(b, "z"), data)
	}
	b = append(b, 'e')
	if rest := (len(b) + sealOverhead) % paddingBlock; rest != 0 && !o.NoPadding {
		b = append(b, make([]byte, paddingBlock-rest)...)
	}
	if len(b)+sealOverhead > wire.MaxData {
		return nil, fmt.Errorf("group message of %d bytes: %w", len(b), ErrTooLarge)
	}
	return wire.SealPayload(rand, key, b)
}

// Open reads what [Seal] made, under any of the keys, and returns its author, who
// signed it: whether they are a member is for the caller to check. Errors:
// [ErrNotForUs], [ErrMalformed], [ErrSignature].
func Open(group account.ID, all []config.Key, message []byte, f Framing) (author account.ID, plaintext []byte, err error) {
	if len(message) > wire.MaxData || len(message) < sealOverhead {
		return account.ID{}, nil, fmt.Errorf("group message of %d bytes: %w", len(message), ErrMalformed)
	}
	for _, key := range all {
		plain, err := wire.OpenPayload(key, message)
		if err == nil {
			return parseMessage(group, plain, f)
		}
	}
	return account.ID{}, nil, fmt.Errorf("group message: %w", ErrNotForUs)
}

// parseMessage reads the decrypted dictionary.
func parseMessage(group account.ID, padded []byte, f Framing) (author account.ID, plaintext []byte, err error) {
	d, err := bt.ReadDict(bytes.TrimRight(padded, "\x00"))
	if err != nil {
		return author, nil, fmt.Errorf("group message: %w: %w", ErrMalformed, err)
	}
	m, err := readMessage(d)
	if err != nil {
		return author, nil, fmt.Errorf("group message: %w", err)
	}
	if author, err = account.IDFromEd25519(m.author); err != nil {
		return author, nil, fmt.Errorf("group message: %w: %w", ErrSignature, err)
	}
	if !keys.Verify(m.author, signedText(f, group, m.data), m.signature) {
		return account.ID{}, nil, fmt.Errorf("group message: %w", ErrSignature)
	}
	if !m.compressed {
		return author, bytes.Clone(m.data), nil
	}
	plaintext, err = decoder().DecodeAll(m.data, nil)
	if err != nil || len(plaintext) > MaxPlaintext {
		return account.ID{}, nil, fmt.Errorf("group message: %w: it does not inflate to %d bytes", ErrMalformed, MaxPlaintext)
	}
	return author, plaintext, nil
}

type signedMessage struct {
	author     [32]byte
	data       []byte
	compressed bool
	signature  []byte
}

func readMessage(d *bt.DictReader) (m signedMessage, err error) {
	version, err := intAt(d, "")
	if err != nil {
		return m, err
	}
	if version != messageVersion {
		return m, fmt.Errorf("%w: version %d", ErrMalformed, version)
	}
	author, err := bytesAt(d, "a", 32)
	if err != nil {
		return m, err
	}
	m.author = [32]byte(author)
	plain, err := d.Find("d")
	if err == nil && plain {
		m.data, err = d.Bytes()
	}
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if m.signature, err = bytesAt(d, "s", 64); err != nil {
		return m, err
	}
	if m.compressed, err = d.Find("z"); err != nil {
		return m, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if m.compressed == plain {
		return m, fmt.Errorf("%w: either d or z, not both and not none", ErrMalformed)
	}
	if m.compressed {
		if m.data, err = d.Bytes(); err != nil {
			return m, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	if len(m.data) == 0 {
		return m, fmt.Errorf("%w: empty", ErrMalformed)
	}
	if err := d.Close(); err != nil {
		return m, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return m, nil
}

func signedText(f Framing, group account.ID, data []byte) []byte {
	if f == Historic {
		return data
	}
	return append(data[:len(data):len(data)], group[1:]...)
}

// Both are safe for concurrent use and keep their buffers, which are larger than
// most messages.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false),
			zstd.WithAllLitEntropyCompression(true)) // as libzstd: it halves lists of IDs
		if err != nil {
			panic("group: " + err.Error()) // the options are right
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(MaxPlaintext))
		if err != nil {
			panic("group: " + err.Error()) // the options are right
		}
		return d
	})
)
