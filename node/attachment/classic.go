package attachment

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math"
)

const (
	classicKey  = 64 // AES-256, then HMAC
	minPadded   = 541
	pieceSize   = 32 << 10
	classicHead = aes.BlockSize // iv
	classicTail = sha256.Size   // HMAC
)

// PaddedSize is the size in bytes to which zero bytes fill up a file of size
// bytes before the classic encryption, so that the upload tells less about it:
// the next power of 1.05, at least 541 and at most [MaxSize] (Session desktop,
// addAttachmentPadding).
func PaddedSize(size int64) int64 {
	if size <= minPadded {
		return minPadded
	}
	exponent := math.Ceil(math.Log(float64(size)) / math.Log(1.05))
	padded := int64(math.Floor(math.Pow(1.05, exponent)))
	// A file above the limit stays as it is; floor may fall below an exact power.
	return max(min(padded, MaxSize), size)
}

// UploadSize is the number of bytes that [Encrypt] writes for a file of size
// bytes.
func UploadSize(size int64, padded bool) int64 {
	if padded {
		size = PaddedSize(size)
	}
	return classicHead + size - size%aes.BlockSize + aes.BlockSize + classicTail
}

// Encrypt reads a file of size bytes from src and writes its classic upload to
// dst: iv, AES-256-CBC of the padded file, HMAC-SHA256 of both. Images of link
// previews are not padded, everything else is (Session desktop,
// encryptAttachment). From rand it reads 64 bytes of key and 16 of iv.
//
// The errors are [ErrTooLarge] above [MaxSize], [ErrSize] when src holds more or
// less than it should, and those of rand, src and dst.
func Encrypt(rand io.Reader, dst io.Writer, src io.Reader, size int64, padded bool) (Secret, error) {
	if size < 0 || size > MaxSize {
		return Secret{}, fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	secret := Secret{Key: make(Key, classicKey), Size: size}
	iv := make([]byte, classicHead)
	if _, err := io.ReadFull(rand, secret.Key); err != nil {
		return Secret{}, fmt.Errorf("drawing a file key: %w", err)
	}
	if _, err := io.ReadFull(rand, iv); err != nil {
		return Secret{}, fmt.Errorf("drawing an iv: %w", err)
	}
	block, mac, err := secret.Key.classic()
	if err != nil {
		return Secret{}, err
	}
	digest := sha256.New()
	all := io.MultiWriter(dst, digest)
	out := io.MultiWriter(all, mac)
	if _, err := out.Write(iv); err != nil {
		return Secret{}, err
	}

	total := size
	if padded {
		total = PaddedSize(size)
	}
	plain := &sized{r: src, left: size, zeros: total - size}
	encrypter := cipher.NewCBCEncrypter(block, iv)
	piece := make([]byte, pieceSize, pieceSize+aes.BlockSize)
	for last := false; !last; {
		n, err := io.ReadFull(plain, piece)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			last = true
			pad := aes.BlockSize - n%aes.BlockSize
			for range pad {
				piece = append(piece[:n], byte(pad))
				n++
			}
		default:
			return Secret{}, fmt.Errorf("encrypting a file: %w", err)
		}
		encrypter.CryptBlocks(piece[:n], piece[:n])
		if _, err := out.Write(piece[:n]); err != nil {
			return Secret{}, err
		}
		piece = piece[:pieceSize]
	}
	if _, err := all.Write(mac.Sum(nil)); err != nil {
		return Secret{}, err
	}
	secret.Digest = digest.Sum(nil)
	return secret, nil
}

// sized reads exactly left bytes of r and then zeros.
type sized struct {
	r           io.Reader
	left, zeros int64
	ended       bool
}

func (s *sized) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.left > 0 {
		n, err := s.r.Read(p[:min(int64(len(p)), s.left)])
		s.left -= int64(n)
		if err == io.EOF && s.left > 0 {
			return n, fmt.Errorf("%w: %d bytes missing", ErrSize, s.left)
		}
		if err == io.EOF {
			err, s.ended = nil, true
		}
		return n, err
	}
	if !s.ended {
		var more [1]byte
		n, err := io.ReadFull(s.r, more[:])
		if n > 0 {
			return 0, fmt.Errorf("%w: it goes on", ErrSize)
		}
		if err != io.EOF {
			return 0, err
		}
		s.ended = true
	}
	if s.zeros == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.zeros))
	clear(p[:n])
	s.zeros -= int64(n)
	return n, nil
}

func (k Key) classic() (cipher.Block, hash.Hash, error) {
	if len(k) != classicKey {
		return nil, nil, fmt.Errorf("%w: %d bytes, want %d", ErrKey, len(k), classicKey)
	}
	block, err := aes.NewCipher(k[:32])
	return block, hmac.New(sha256.New, k[32:]), err
}

func decryptClassic(dst io.Writer, src io.ReaderAt, length int64, secret Secret) error {
	block, mac, err := secret.Key.classic()
	if err != nil {
		return err
	}
	if len(secret.Digest) != sha256.Size {
		return fmt.Errorf("%w: digest of %d bytes", ErrKey, len(secret.Digest))
	}
	encrypted := length - classicHead - classicTail
	if encrypted < 0 {
		return fmt.Errorf("%w: %d bytes", ErrMalformed, length)
	}

	// First everything is read for digest and HMAC, so that not one byte of
	// somebody else's is decrypted.
	digest := sha256.New()
	if err := copyRange(io.MultiWriter(digest, mac), src, 0, length-classicTail); err != nil {
		return err
	}
	sum := make([]byte, classicTail)
	if err := readAt(src, sum, length-classicTail); err != nil {
		return err
	}
	digest.Write(sum)
	if !hmac.Equal(digest.Sum(nil), secret.Digest) {
		return fmt.Errorf("%w: digest", ErrForged)
	}
	if !hmac.Equal(mac.Sum(nil), sum) {
		return fmt.Errorf("%w: HMAC", ErrForged)
	}

	size, err := plainSize(block, src, encrypted)
	if err != nil {
		return err
	}
	// The rest is padding.
	if secret.Size < 0 || secret.Size > size {
		return fmt.Errorf("%w: %d bytes, said to be %d", ErrSize, size, secret.Size)
	}
	size = secret.Size
	iv := make([]byte, classicHead)
	if err := readAt(src, iv, 0); err != nil {
		return err
	}
	decrypter := cipher.NewCBCDecrypter(block, iv)
	piece := make([]byte, pieceSize)
	for at := int64(0); at < size; at += pieceSize {
		n := min(pieceSize, encrypted-at)
		if err := readAt(src, piece[:n], classicHead+at); err != nil {
			return err
		}
		decrypter.CryptBlocks(piece[:n], piece[:n])
		if _, err := dst.Write(piece[:min(n, size-at)]); err != nil {
			return err
		}
	}
	return nil
}

// plainSize returns the number of bytes in front of the PKCS #7 padding.
func plainSize(block cipher.Block, src io.ReaderAt, encrypted int64) (int64, error) {
	if encrypted == 0 || encrypted%aes.BlockSize != 0 {
		return 0, fmt.Errorf("%w: %d encrypted bytes", ErrMalformed, encrypted)
	}
	// The last block and the one before it, which may be the iv.
	var end [2 * aes.BlockSize]byte
	if err := readAt(src, end[:], classicHead+encrypted-int64(len(end))); err != nil {
		return 0, err
	}
	last := end[aes.BlockSize:]
	cipher.NewCBCDecrypter(block, end[:aes.BlockSize]).CryptBlocks(last, last)
	pad := int(last[len(last)-1])
	if pad == 0 || pad > aes.BlockSize {
		return 0, fmt.Errorf("%w: padding", ErrMalformed)
	}
	for _, b := range last[len(last)-pad:] {
		if int(b) != pad {
			return 0, fmt.Errorf("%w: padding", ErrMalformed)
		}
	}
	return encrypted - int64(pad), nil
}

// readAt fills p; bytes that are missing make [ErrMalformed].
func readAt(src io.ReaderAt, p []byte, at int64) error {
	n, err := src.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		err = fmt.Errorf("%w: it ends early", ErrMalformed)
	}
	return err
}

func copyRange(dst io.Writer, src io.ReaderAt, from, to int64) error {
	piece := make([]byte, pieceSize)
	for from < to {
		n := min(pieceSize, to-from)
		if err := readAt(src, piece[:n], from); err != nil {
			return err
		}
		if _, err := dst.Write(piece[:n]); err != nil {
			return err
		}
		from += n
	}
	return nil
}
