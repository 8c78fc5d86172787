package tpm

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/scrypt"
)

// Developer seals without a TPM, so that everything else can be developed on any
// machine. It protects nothing: whoever can read its folder has the key of the
// secrets without a PIN, and can try PINs elsewhere as fast as scrypt allows, with
// no chip to count. Programs that use it say so on every screen.
//
// The folder holds
//
//	developer.key    32 random bytes, mode 0600: the key of secrets without a PIN
//	developer.tries  wrong PINs that count now (4 bytes) and since when (8 bytes, Unix ms)
//	developer.generations  of the secrets without PIN and with one (8 bytes each), once one is above 1
type Developer struct {
	mu  sync.Mutex
	dir string
	now func() time.Time
	key [chacha20poly1305.KeySize]byte
}

// The marshalled form of a developer blob, numbers big-endian:
//
//	 4  "HSDV"
//	 1  version, 2; 1 = without a generation, which has salt in its place
//	 1  1 = with PIN, 0 = without
//	 8  salt of scrypt, zeros without PIN
//	 8  generation
//	 8  first bytes of SHA-256 of developer.key
//	24  nonce of XChaCha20-Poly1305
//	 n  secret and tag, encrypted; all above is authenticated with it
//	32  SHA-256 of all above, so that damage is not taken for a wrong PIN
const (
	developerMagic  = "HSDV"
	developerHeader = 4 + 1 + 1 + 16 + 8 + chacha20poly1305.NonceSizeX

	// scrypt's cost: 32 MiB and about 0.1 s on a desktop core.
	scryptN, scryptR, scryptP = 1 << 15, 8, 1
)

// OpenDeveloper uses dir, made when missing. now is the clock that gives tries
// back.
func OpenDeveloper(dir string, now func() time.Time) (*Developer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("developer sealer: %w", err)
	}
	d := &Developer{dir: dir, now: now}
	path := filepath.Join(dir, "developer.key")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, _ = rand.Read(d.key[:]) // never fails
		if err := writeFile(path, d.key[:]); err != nil {
			return nil, fmt.Errorf("developer sealer: %w", err)
		}
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("developer sealer: %w", err)
	}
	if len(b) != len(d.key) {
		return nil, fmt.Errorf("developer sealer: %s has %d bytes instead of %d", path, len(b), len(d.key))
	}
	copy(d.key[:], b)
	wipe(b)
	return d, nil
}

// Close forgets the key.
func (d *Developer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	wipe(d.key[:])
	return nil
}

// Developer is true: nothing protects the secrets.
func (d *Developer) Developer() bool { return true }

// Format prints where the sealer works and never its key.
func (d *Developer) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "tpm.Developer{%s}", d.dir)
}

// Read fills p with random bytes of the kernel.
func (d *Developer) Read(p []byte) (int, error) { return rand.Read(p) }

// Tries is as [TPM.Tries].
func (d *Developer) Tries() (left int, recovery time.Duration, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.failed()
	return max(0, MaxTries-f.count), Recovery, err
}

// SealWithPIN is as [TPM.SealWithPIN].
func (d *Developer) SealWithPIN(secret []byte, pin string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seal(secret, &pin, 0)
}

// Seal is as [TPM.Seal].
func (d *Developer) Seal(secret []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seal(secret, nil, 0)
}

// UnsealWithPIN is as [TPM.UnsealWithPIN]. A try is written down before the PIN
// is looked at, so a power cut gives none back.
func (d *Developer) UnsealWithPIN(blob []byte, pin string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unsealWithPIN(blob, pin)
}

func (d *Developer) unsealWithPIN(blob []byte, pin string) ([]byte, error) {
	if err := d.check(blob, true); err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	f, err := d.failed()
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	now := d.now()
	if f.count >= MaxTries {
		return nil, fmt.Errorf("unsealing: %w", &LockedOutError{Wait: f.since.Add(Recovery).Sub(now)})
	}
	if f.count == 0 {
		f.since = now
	}
	f.count++
	if err := d.setFailed(f); err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	secret, err := d.open(blob, &pin)
	if errors.Is(err, errAuthentication) {
		return nil, fmt.Errorf("unsealing: %w", &WrongPINError{Left: MaxTries - f.count, Recovery: Recovery})
	}
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	if err := d.setFailed(failures{}); err != nil {
		wipe(secret)
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	return secret, nil
}

// Unseal is as [TPM.Unseal].
func (d *Developer) Unseal(blob []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(blob, false); err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	secret, err := d.open(blob, nil)
	if errors.Is(err, errAuthentication) {
		err = ErrDamaged
	}
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	return secret, nil
}

// seal seals for the present generation, or one that is so much later.
func (d *Developer) seal(secret []byte, pin *string, later uint64) ([]byte, error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, ErrSecretSize
	}
	present, err := d.generation(pin != nil)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	b := append([]byte(developerMagic), 2, 0)
	var salt [16]byte
	if pin != nil {
		b[len(b)-1] = 1
		_, _ = rand.Read(salt[:8]) // never fails
	}
	binary.BigEndian.PutUint64(salt[8:], present+later)
	b = append(b, salt[:]...)
	b = append(b, d.keyID()...)
	var nonce [chacha20poly1305.NonceSizeX]byte
	_, _ = rand.Read(nonce[:])
	b = append(b, nonce[:]...)
	key, err := d.blobKey(salt[:], pin)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	defer wipe(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	b = aead.Seal(b, nonce[:], secret, b)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// check looks at a blob without a key: whole, of the right kind, and ours.
func (d *Developer) check(b []byte, withPIN bool) error {
	if bytes.HasPrefix(b, []byte(blobMagic)) {
		return fmt.Errorf("%w: it was sealed by a TPM, and this is developer mode", ErrKind)
	}
	least := developerHeader + chacha20poly1305.Overhead + 1 + sha256.Size
	if len(b) < least || len(b) > least+MaxSecret-1 {
		return fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return fmt.Errorf("%w: its checksum is wrong", ErrDamaged)
	}
	if string(b[:4]) != developerMagic || b[4] != 1 && b[4] != 2 || b[5] > 1 {
		return fmt.Errorf("%w: its structure is wrong", ErrDamaged)
	}
	if (b[5] == 1) != withPIN {
		return fmt.Errorf("%w: with and without PIN are not the same", ErrKind)
	}
	if !bytes.Equal(b[22:30], d.keyID()) {
		return fmt.Errorf("%w: it belongs to another developer.key", ErrOtherTPM)
	}
	if b[4] == 1 {
		return nil
	}
	present, err := d.generation(withPIN)
	if err == nil && binary.BigEndian.Uint64(b[14:]) != present {
		err = ErrRevoked
	}
	return err
}

// Generation is as [TPM.Generation].
func (d *Developer) Generation(withPIN bool) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.generation(withPIN)
}

// Revoke is as [TPM.Revoke], for who plays by the rules.
func (d *Developer) Revoke(withPIN bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b []byte
	for _, kind := range []bool{false, true} {
		present, err := d.generation(kind)
		if err != nil {
			return err
		}
		if kind == withPIN {
			present++
		}
		b = binary.BigEndian.AppendUint64(b, present)
	}
	return writeFile(d.generationsPath(), b)
}

// GenerationOf is as [TPM.GenerationOf].
func (d *Developer) GenerationOf(blob []byte) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	withPIN := len(blob) > 5 && blob[5] == 1
	if err := d.check(blob, withPIN); err != nil && !errors.Is(err, ErrRevoked) {
		return 0, err
	}
	if blob[4] == 1 {
		return 0, nil
	}
	return binary.BigEndian.Uint64(blob[14:]), nil
}

func (d *Developer) generation(withPIN bool) (uint64, error) {
	b, err := os.ReadFile(d.generationsPath())
	if errors.Is(err, fs.ErrNotExist) {
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	if len(b) != 16 {
		return 0, fmt.Errorf("developer sealer: %s has %d bytes instead of 16", d.generationsPath(), len(b))
	}
	if withPIN {
		b = b[8:]
	}
	return binary.BigEndian.Uint64(b), nil
}

func (d *Developer) generationsPath() string { return filepath.Join(d.dir, "developer.generations") }

var errAuthentication = errors.New("authentication failed")

// open expects a blob that check has passed.
func (d *Developer) open(b []byte, pin *string) ([]byte, error) {
	header, nonce, ciphertext := b[:developerHeader], b[30:developerHeader], b[developerHeader:len(b)-sha256.Size]
	key, err := d.blobKey(b[6:22], pin)
	if err != nil {
		return nil, err
	}
	defer wipe(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	secret, err := aead.Open(nil, nonce, ciphertext, header)
	if err != nil {
		return nil, errAuthentication
	}
	return secret, nil
}

func (d *Developer) blobKey(salt []byte, pin *string) ([]byte, error) {
	if pin == nil {
		return bytes.Clone(d.key[:]), nil
	}
	return scrypt.Key([]byte(*pin), salt, scryptN, scryptR, scryptP, chacha20poly1305.KeySize)
}

func (d *Developer) keyID() []byte {
	sum := sha256.Sum256(d.key[:])
	return sum[:8]
}

// failures are the wrong PINs that count, as of a time.
type failures struct {
	count int
	since time.Time // when the oldest began to expire
}

// failed reads the count and takes off what has expired.
func (d *Developer) failed() (failures, error) {
	b, err := os.ReadFile(d.triesPath())
	if errors.Is(err, fs.ErrNotExist) {
		return failures{}, nil
	}
	if err != nil {
		return failures{}, err
	}
	now := d.now()
	if len(b) != 12 {
		return failures{MaxTries, now}, nil // somebody wrote into it; better safe
	}
	f := failures{
		count: int(min(binary.BigEndian.Uint32(b), MaxTries)),
		since: time.UnixMilli(int64(binary.BigEndian.Uint64(b[4:]))),
	}
	if f.since.After(now) { // the clock went back
		f.since = now
	}
	expired := min(int64(f.count), int64(now.Sub(f.since)/Recovery))
	f.count -= int(expired)
	f.since = f.since.Add(time.Duration(expired) * Recovery)
	return f, nil
}

func (d *Developer) setFailed(f failures) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(f.count))
	b = binary.BigEndian.AppendUint64(b, uint64(f.since.UnixMilli()))
	return writeFile(d.triesPath(), b)
}

func (d *Developer) triesPath() string { return filepath.Join(d.dir, "developer.tries") }

// writeFile replaces a file so that after a power cut either the old or the new
// one is there, whole.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
