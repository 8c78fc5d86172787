package attachment

import (
	"bytes"
	"fmt"
	"io"
	"math/bits"

	"hearth/node/internal/blake2b"
)

// Domain separates the keys of files that mean different things.
type Domain string

// The domains of libsession.
const (
	File           Domain = "SessionAttachmnt"
	ProfilePicture Domain = "Session_Prof_Pic"
)

const (
	streamChunk  = 32768 // bytes of plain text
	sealedChunk  = streamChunk + streamOverhead
	streamMark   = 'S'
	streamKey    = 32
	maxPlain     = 10_218_286 // fills MaxUpload exactly
	streamPrefix = 1 + streamHeader
)

// DeterministicPadding is the number of bytes (at least 1) that stand in front
// of a file of size bytes inside the deterministic stream, and the size in bytes
// of the whole stream (libsession, attachment padding).
func DeterministicPadding(size int64) (padding, encrypted int64) {
	chunks := (size + streamChunk - 1) / streamChunk
	least := size + streamPrefix + 1 + streamOverhead*chunks
	step := int64(1) << (bits.Len64(uint64(max(least, 131072))) - 1) / 32
	encrypted = (least + step - 1) / step * step
	padding = encrypted - least + 1
	// Padding needs chunks too, and chunks have overhead.
	whole, rest := padding/sealedChunk, padding%sealedChunk
	padding -= streamOverhead * whole
	if rest > streamChunk*chunks-size {
		padding -= streamOverhead
	}
	return padding, encrypted
}

// EncryptDeterministic writes the deterministic stream of a file of size bytes
// to dst. The key follows from the uploader's Ed25519 seed, the domain and the
// content; src is read twice for it. Only the recipients of the key can read the
// file, and nobody who sees two uploads of it is told more than that they are
// the same.
//
// Errors: [ErrTooLarge] above 10,218,286 bytes, [ErrSize] when src is shorter,
// and those of src and dst.
func EncryptDeterministic(dst io.Writer, src io.ReaderAt, size int64, seed [32]byte, domain Domain) (Secret, error) {
	if size < 0 || size > maxPlain {
		return Secret{}, fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	h, err := blake2b.New(streamHeader+streamKey, seed[:], nil, []byte(domain))
	if err != nil {
		return Secret{}, fmt.Errorf("deriving a file key: %w", err)
	}
	read := func() *sized { return &sized{r: io.NewSectionReader(src, 0, size), left: size, ended: true} }
	if _, err := io.CopyBuffer(h, read(), make([]byte, pieceSize)); err != nil {
		return Secret{}, fmt.Errorf("encrypting a file: %w", err)
	}
	derived := h.Sum(nil)
	header, key := derived[:streamHeader], Key(bytes.Clone(derived[streamHeader:]))
	stream, err := newSecretstream(key, header)
	if err != nil {
		return Secret{}, fmt.Errorf("encrypting a file: %w", err)
	}
	out := append(make([]byte, 0, sealedChunk), streamMark)
	if _, err := dst.Write(append(out, header...)); err != nil {
		return Secret{}, err
	}

	padding, _ := DeterministicPadding(size)
	left := padding + size
	plain := io.MultiReader(&sized{zeros: padding - 1, ended: true}, bytes.NewReader([]byte{1}), read())
	piece := make([]byte, streamChunk)
	for left > 0 {
		n := min(streamChunk, left)
		if _, err := io.ReadFull(plain, piece[:n]); err != nil {
			return Secret{}, fmt.Errorf("encrypting a file: %w", err)
		}
		tag := byte(tagMessage)
		if left -= n; left == 0 {
			tag = tagFinal
		}
		if out, err = stream.seal(out[:0], piece[:n], tag); err != nil {
			return Secret{}, fmt.Errorf("encrypting a file: %w", err)
		}
		if _, err := dst.Write(out); err != nil {
			return Secret{}, err
		}
	}
	return Secret{Key: key, Size: size}, nil
}

// DecryptDeterministic reads a deterministic stream to its end and writes the
// file to dst. It returns the size of the file in bytes. Each chunk is written
// when it has proven authentic; that the last one was there shows at the end
// only, so after an error the caller throws away what dst got. Errors:
// [ErrKey], [ErrForged], [ErrMalformed], and those of src and dst.
func DecryptDeterministic(dst io.Writer, src io.Reader, key Key) (int64, error) {
	if len(key) != streamKey {
		return 0, fmt.Errorf("%w: %d bytes, want %d", ErrKey, len(key), streamKey)
	}
	var head [streamPrefix]byte
	if _, err := io.ReadFull(src, head[:]); err != nil {
		return 0, early(err)
	}
	if head[0] != streamMark {
		return 0, fmt.Errorf("%w: it begins with %#02x", ErrMalformed, head[0])
	}
	stream, err := newSecretstream(key, head[1:])
	if err != nil {
		return 0, err
	}

	size := int64(0)
	padding := true
	chunk := make([]byte, sealedChunk)
	for {
		n, err := io.ReadFull(src, chunk)
		if err != nil && (err != io.ErrUnexpectedEOF || n == 0) {
			return size, early(err)
		}
		message, tag, ok := stream.open(chunk[:n])
		switch {
		case !ok:
			return size, fmt.Errorf("%w: chunk does not decrypt", ErrForged)
		case tag != tagMessage && tag != tagFinal:
			return size, fmt.Errorf("%w: chunk with tag %d", ErrMalformed, tag)
		}
		if padding {
			message = bytes.TrimLeft(message, "\x00")
			if len(message) > 0 {
				if message[0] != 1 {
					return size, fmt.Errorf("%w: padding", ErrMalformed)
				}
				message, padding = message[1:], false
			}
		}
		if len(message) > 0 {
			if _, err := dst.Write(message); err != nil {
				return size, err
			}
			size += int64(len(message))
		}
		if tag == tagFinal {
			break
		}
	}
	if padding {
		return 0, fmt.Errorf("%w: nothing but padding", ErrMalformed)
	}
	switch n, err := io.ReadFull(src, chunk[:1]); {
	case n > 0:
		return size, fmt.Errorf("%w: it goes on after its end", ErrMalformed)
	case err != io.EOF:
		return size, err
	}
	return size, nil
}

// early says what the end of a stream means that should go on.
func early(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it ends early", ErrMalformed)
	}
	return err
}
