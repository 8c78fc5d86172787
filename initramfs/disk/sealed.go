package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Cipher is how a partition is encrypted.
type Cipher byte

// The ciphers. AES is fast where the processor has instructions for it; elsewhere
// Adiantum, made for such processors, is several times as fast.
const (
	AES Cipher = 1 + iota
	Adiantum
)

// ciphers has the kernel's names of the ciphers and the sizes of their keys in bytes.
var ciphers = map[Cipher]struct {
	name    string
	keySize int
}{
	AES:      {"aes-xts-plain64", 64},
	Adiantum: {"xchacha12,aes-adiantum-plain64", 32},
}

func (c Cipher) String() string { return ciphers[c].name }

// KeySize is the size of the cipher's keys in bytes.
func (c Cipher) KeySize() int { return ciphers[c].keySize }

// ChooseCipher takes the one that is fast on this machine, whose /proc/cpuinfo is
// given.
func ChooseCipher(cpuinfo []byte) Cipher {
	for line := range bytes.Lines(cpuinfo) {
		name, flags, _ := bytes.Cut(line, []byte(":"))
		if name := string(bytes.TrimSpace(name)); name != "flags" && name != "Features" {
			continue
		}
		for flag := range bytes.FieldsSeq(flags) {
			if string(flag) == "aes" {
				return AES
			}
		}
	}
	return Adiantum
}

// Header stands in front of encrypted data. Nothing in it is secret: the key is
// sealed.
type Header struct {
	Cipher Cipher
	Sealed []byte // the key, as the TPM gave it; 1 to 2048 bytes
}

// A header, numbers big-endian:
//
//	 8  "HEARTHC1"
//	 1  cipher
//	 2  size of the sealed key, then the sealed key
//	    zeros
//	32  at 4064: SHA-256 of all above
//
// It stands twice, at 0 and at 64 KiB, so that one damaged block does not lose
// everything. The encrypted data begins at 1 MiB.
const (
	headerMagic = "HEARTHC1"
	headerSize  = 4096
	maxSealed   = 2048
	keyAt       = len(headerMagic) + 1 + 2
	headerSum   = headerSize - sha256.Size
	// Payload is where the encrypted data begins, in bytes.
	Payload = mib
)

var headersAt = []int64{0, 64 << 10}

// ErrHeader says that there is no header.
var ErrHeader = errors.New("no header of encrypted data")

// Marshal gives the 4096 bytes of a header.
func (h Header) Marshal() []byte {
	b := make([]byte, headerSize)
	copy(b, headerMagic)
	b[len(headerMagic)] = byte(h.Cipher)
	binary.BigEndian.PutUint16(b[len(headerMagic)+1:], uint16(len(h.Sealed)))
	copy(b[keyAt:headerSum], h.Sealed)
	sum := sha256.Sum256(b[:headerSum])
	copy(b[headerSum:], sum[:])
	return b
}

// ParseHeader reads what Marshal wrote. The error is ErrHeader.
func ParseHeader(b []byte) (Header, error) {
	if len(b) != headerSize || string(b[:len(headerMagic)]) != headerMagic {
		return Header{}, ErrHeader
	}
	if sum := sha256.Sum256(b[:headerSum]); !bytes.Equal(sum[:], b[headerSum:]) {
		return Header{}, fmt.Errorf("%w: its checksum is wrong", ErrHeader)
	}
	h := Header{Cipher: Cipher(b[len(headerMagic)])}
	size := int(binary.BigEndian.Uint16(b[len(headerMagic)+1:]))
	if _, known := ciphers[h.Cipher]; !known || size == 0 || size > maxSealed {
		return Header{}, fmt.Errorf("%w: this program does not know its kind", ErrHeader)
	}
	h.Sealed = bytes.Clone(b[keyAt : keyAt+size])
	if !bytes.Equal(h.Marshal(), b) {
		return Header{}, fmt.Errorf("%w: there is something behind its end", ErrHeader)
	}
	return h, nil
}

// ReadHeader gives the header of a disk or partition; whole is false when one of the
// two is lost. The error is ErrHeader when there is none.
func ReadHeader(disk io.ReaderAt) (h Header, whole bool, err error) {
	var found, lost int
	for _, at := range headersAt {
		b := make([]byte, headerSize)
		if _, err := disk.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			lost++
			continue
		}
		one, err := ParseHeader(b)
		switch {
		case err != nil:
			lost++
		case found == 0:
			h, found = one, 1
		}
	}
	if found == 0 {
		return Header{}, false, ErrHeader
	}
	return h, lost == 0, nil
}

// WriteHeader writes both headers, the second first: whoever reads at any moment
// finds what was there before, or one of the two at least.
func WriteHeader(disk *os.File, h Header) error {
	for i := len(headersAt) - 1; i >= 0; i-- {
		if _, err := disk.WriteAt(h.Marshal(), headersAt[i]); err != nil {
			return fmt.Errorf("write header: %w", err)
		}
		if err := disk.Sync(); err != nil {
			return fmt.Errorf("write header: %w", err)
		}
	}
	return nil
}

// Destroy overwrites the headers of encrypted data, and the sectors around them: the
// sealed key is gone, and with it everything.
func Destroy(disk *os.File) error {
	if _, err := disk.WriteAt(make([]byte, Payload), 0); err != nil {
		return fmt.Errorf("overwrite header: %w", err)
	}
	return disk.Sync()
}
