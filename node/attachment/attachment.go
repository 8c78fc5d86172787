// Package attachment is what a client does with a file before it is uploaded
// and after it was downloaded: files, voice notes and pictures of a message, and
// the picture of a profile.
//
// A sender calls [Encrypt], uploads what it wrote and puts the [Secret] and the
// [URL] of the upload into the message. A recipient downloads, and calls
// [Decrypt] with what the message says; it writes nothing unless every byte is
// the sender's. Profile pictures go through [EncryptPicture] and
// [DecryptPicture].
//
// There are two encryptions. All released clients send the classic one
// (AES-256-CBC with HMAC-SHA256 over a padded file, a key of 64 bytes and a
// digest); [EncryptDeterministic] makes the newer one, a stream of XChaCha20-Poly1305
// chunks under a key that follows from uploader and content, so that the same
// upload is made twice the same. Clients read both and tell them apart by the
// item d in the fragment of the URL. Rules and sizes are those of Session
// desktop and libsession; see the comment at each function.
//
// Files pass through in pieces of 32 KiB, only profile pictures are held whole.
package attachment

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"

	"hearth/node/account"
	"hearth/node/internal/blake2b"
)

const (
	// MaxSize is the largest file that clients send, in bytes before padding
	// and encryption (Session desktop, MAX_ATTACHMENT_FILESIZE_BYTES).
	MaxSize = 10_000_000
	// MaxUpload is the most that a file of MaxSize bytes can become, in bytes: a
	// deterministic stream. The classic form stays below it.
	MaxUpload = 10_223_616
	// MaxFiles is the most files that one message carries.
	MaxFiles = 32
)

// Errors that callers can test with errors.Is.
var (
	// ErrTooLarge reports a file above the size limit.
	ErrTooLarge = errors.New("file too large")
	// ErrSize reports a file that does not have the size it was said to have.
	ErrSize = errors.New("file of another size")
	// ErrKey reports a key or digest of the wrong length.
	ErrKey = errors.New("unusable file key")
	// ErrForged reports bytes that the sender did not make: a digest, HMAC or
	// tag that does not fit. The download is damaged, or somebody lies.
	ErrForged = errors.New("file is not what the sender uploaded")
	// ErrMalformed reports a file that is authentic and still makes no sense, or
	// is too short to be one.
	ErrMalformed = errors.New("malformed encrypted file")
	// ErrURL reports an address that names no file.
	ErrURL = errors.New("not the address of a file")
)

// Key is the key of one file. It does not print.
type Key []byte

// String redacts.
func (k Key) String() string { return "attachment.Key(" + strconv.Itoa(len(k)) + " bytes)" }

// GoString is [Key.String].
func (k Key) GoString() string { return k.String() }

// Format writes [Key.String] for every verb.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// MarshalJSON writes [Key.String].
func (k Key) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, k.String()), nil }

// Secret is what a recipient needs beside the uploaded bytes: the fields key,
// digest and size of an attachment pointer.
type Secret struct {
	Key    Key    // 64 bytes of a classic file, 32 of a deterministic one
	Digest []byte // SHA-256 of the uploaded bytes; none for a deterministic file
	Size   int64  // of the file itself, in bytes
}

// Decrypt reads a whole download, length bytes of src, and writes the file to
// dst. deterministic says which encryption it is ([URL.Deterministic]).
//
// A classic file is checked completely before the first byte is written. Of a
// deterministic one every piece is checked before it is written, but its end
// only at the end: after an error the caller throws away what dst got. The
// errors are [ErrKey], [ErrForged], [ErrMalformed], [ErrSize], and those of src
// and dst.
func Decrypt(dst io.Writer, src io.ReaderAt, length int64, secret Secret, deterministic bool) error {
	if !deterministic {
		return decryptClassic(dst, src, length, secret)
	}
	n, err := DecryptDeterministic(dst, io.NewSectionReader(src, 0, length), secret.Key)
	if err == nil && n != secret.Size {
		err = fmt.Errorf("%w: %d bytes, said to be %d", ErrSize, n, secret.Size)
	}
	return err
}

// idSize is the length of a content hash in bytes: one more than usual, so that
// base64 needs no padding.
const idSize = 33

// ContentHash hashes an upload for its name. Sum gives 33 bytes, which [ID]
// writes as text. It is BLAKE2b with the salt SessionFileSvr (Session file
// server, generate_file_id).
func ContentHash() interface {
	io.Writer
	Sum(b []byte) []byte
} {
	h, err := blake2b.New(idSize, nil, []byte("SessionFileSvr"), nil)
	if err != nil {
		panic(err) // the parameters above are constants
	}
	return h
}

// ID names a file by its content: 33 bytes, as text 44 characters of base64url.
type ID [idSize]byte

// IDOf names the uploaded bytes.
func IDOf(uploaded []byte) (id ID) {
	h := ContentHash()
	h.Write(uploaded)
	h.Sum(id[:0])
	return id
}

// ParseID reads the text of an ID. Every ID has one text only. Other names of
// files, such as the numbers of old servers, are no IDs.
func ParseID(text string) (id ID, ok bool) {
	if len(text) != 44 {
		return id, false
	}
	n, err := base64url.Decode(id[:], []byte(text))
	return id, err == nil && n == len(id)
}

// String is the text that stands in a URL.
func (id ID) String() string { return base64url.EncodeToString(id[:]) }

// Place is where a network without a file server keeps the file: with the swarm
// of an account whose key is the first 32 bytes of the hash.
func (id ID) Place() (place account.ID) {
	copy(place[1:], id[:32])
	return place
}

func parseKey32(text string) (key [32]byte, ok bool) {
	if len(text) != 64 {
		return key, false
	}
	_, err := hex.Decode(key[:], []byte(text))
	return key, err == nil
}
