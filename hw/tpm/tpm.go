// Package tpm keeps small secrets so that only one TPM 2.0 chip gives them back:
// with a PIN for a person's keys, without one for keys that must come back by
// themselves after a power cut.
//
//	t, err := tpm.Open("/dev/tpmrm0")
//	blob, err := t.SealWithPIN(seed, "482915")   // write blob to the card …
//	seed, err := t.UnsealWithPIN(blob, "482915") // … and open it at every start
//
// The blob is worthless elsewhere: it is encrypted to a key that never leaves
// the chip. Guessing PINs is limited by the chip itself (see [Limits]).
//
// # What the chip checks
//
// A sealed secret is a keyed-hash object under the chip's ECC storage key. It
// cannot be moved (fixedTPM, fixedParent) and opens only through its policy:
// the PCRs of [Policy], when there are any, the generation, then the authorisation
// value made from the PIN. Every session is salted with the storage key and encrypted with
// AES-128-CFB, so a probe on the wires between board and chip sees neither PIN
// nor secret, and nothing to try PINs on. The blob names the storage key; a chip
// that shows another one is refused before the PIN is used, so nobody can slip
// their own chip in between without also changing the card.
//
// # Generations
//
// The chip keeps two counters that only grow, one for secrets with a PIN and one for
// those without. A sealed secret names a value of its counter (PolicyNV), and opens at
// no other: [TPM.Revoke] adds 1, and with that single command every blob of the
// generation is worthless, copies of it on other cards included. A secret that has a
// stand-in for the next generation ([TPM.SealTwofold]) is replaced by it in the same
// moment. A third counter numbers the states of the card, see [CardCounter].
//
// # Lockout
//
// Wrong PINs are counted by the chip: [MaxTries], then one more every
// [Recovery]. A right PIN does not clear that counter by itself, and every power
// cut after a PIN was used counts as one wrong try. So that an honest owner is
// never locked out by bad power, the counter is cleared after each right PIN.
// Clearing needs the chip's lockout authorisation; we draw it at random and keep
// it inside the PIN-sealed blob next to the secret, so only who knows the PIN can
// clear the counter. A chip whose lockout authorisation an earlier card has taken
// works too, with the parameters that it has and without clearing; the log says
// so.
//
// # Measurements
//
// [TPM.Measure] extends a PCR with the digest of something that was started; a [Log]
// of these can be replayed and compared with the chip by [TPM.Verify]. What that is
// worth depends on who measures first, see [PCRSettings].
//
// # Without a chip
//
// [OpenDeveloper] offers the same methods on files, for development only.
package tpm

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// TPM is an open chip. Its methods may be called from several goroutines; they
// take turns. A call takes up to a second on a hardware chip.
type TPM struct {
	mu     sync.Mutex
	t      transport.TPMCloser
	policy Policy
	log    *slog.Logger
}

// Option changes how a TPM is used.
type Option func(*TPM)

// WithPolicy seals from now on under p. Blobs carry the policy that they were
// sealed under, so those sealed before keep theirs.
func WithPolicy(p Policy) Option { return func(t *TPM) { t.policy = p } }

// WithLog takes what an operator should know, never a secret. The default is
// [slog.Default].
func WithLog(l *slog.Logger) Option { return func(t *TPM) { t.log = l } }

// Open opens the TPM at path: the kernel's device (/dev/tpmrm0, whose resource
// manager cleans up after a process that dies) or the Unix socket of a software
// TPM. TPM2_Startup must have been done, as the kernel does.
func Open(path string, options ...Option) (*TPM, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening the TPM: %w", err)
	}
	var tr transport.TPMCloser
	if info.Mode().Type() == fs.ModeSocket {
		tr, err = linuxudstpm.Open(path)
	} else {
		tr, err = linuxtpm.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the TPM: %w", err)
	}
	t := open(tr, options...)
	if _, err := t.Limits(); err != nil {
		t.Close()
		return nil, fmt.Errorf("opening the TPM %s: %w", path, err)
	}
	return t, nil
}

func open(tr transport.TPMCloser, options ...Option) *TPM {
	t := &TPM{t: tr, log: slog.Default()}
	for _, o := range options {
		o(t)
	}
	return t
}

// Close gives the device back.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.t.Close(); err != nil && !errors.Is(err, linuxudstpm.ErrNotOpen) { // its socket is closed after each command
		return err
	}
	return nil
}

// Developer is false: secrets are protected by a chip.
func (t *TPM) Developer() bool { return false }

// Read fills p with random bytes made from the chip's generator and the
// kernel's together (HKDF-SHA-256 over both), so that they are unpredictable as
// long as either of the two is.
func (t *TPM) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	srk, err := t.storageKey()
	if err != nil {
		return 0, err
	}
	defer srk.flush()
	const most = 255 * sha256.Size // that HKDF gives from one seed
	for n := 0; n < len(p); n += most {
		if err := srk.random(p[n:min(len(p), n+most)]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

func (k *storageKey) random(p []byte) error {
	rsp, err := tpm2.GetRandom{BytesRequested: sha256.Size}.Execute(k.t, k.session(nil, encryptOut))
	if err != nil {
		return fmt.Errorf("random bytes from the TPM: %w", err)
	}
	if len(rsp.RandomBytes.Buffer) < 16 {
		return fmt.Errorf("random bytes from the TPM: it gave only %d", len(rsp.RandomBytes.Buffer))
	}
	var own [sha256.Size]byte
	_, _ = rand.Read(own[:]) // never fails
	seed := append(rsp.RandomBytes.Buffer, own[:]...)
	out, err := hkdf.Key(sha256.New, seed, nil, "hearth: random bytes of TPM and kernel", len(p))
	wipe(seed, own[:])
	if err != nil {
		return err
	}
	copy(p, out)
	wipe(out)
	return nil
}

// storageKey is the chip's ECC P-256 storage root key, loaded for one operation.
// Chips derive it from their owner seed each time, so it is always the same one
// until somebody clears the TPM.
type storageKey struct {
	t      transport.TPM
	handle tpm2.TPMHandle
	public tpm2.TPMTPublic
	name   tpm2.TPM2BName
}

func (t *TPM) storageKey() (*storageKey, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(t.t)
	if err != nil {
		if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
			return nil, fmt.Errorf("storage key: the TPM has an owner password that is not ours; clear the TPM: %w", err)
		}
		return nil, fmt.Errorf("storage key: %w", err)
	}
	k := &storageKey{t: t.t, handle: rsp.ObjectHandle}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		k.flush()
		return nil, fmt.Errorf("storage key: %w", err)
	}
	// The name is computed here, not taken from the answer: it must be the name
	// of the very key that the sessions are salted with.
	name, err := tpm2.ObjectName(public)
	if err != nil {
		k.flush()
		return nil, fmt.Errorf("storage key: %w", err)
	}
	k.public, k.name = *public, *name
	return k, nil
}

func (k *storageKey) flush() { flush(k.t, k.handle) }

// auth lets a command use the storage key, whose own authorisation value is
// empty; the command's first parameter travels encrypted.
func (k *storageKey) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: k.session(nil, encryptIn)}
}

// session is good for one command: an HMAC session salted with the storage key,
// for the given authorisation value.
func (k *storageKey) session(auth []byte, options ...tpm2.AuthOption) tpm2.Session {
	options = append(options, tpm2.Salted(k.handle, k.public), tpm2.Auth(auth))
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, options...)
}

// What a session encrypts: the first parameter of the command, or of the answer.
var (
	encryptIn  = tpm2.AESEncryption(128, tpm2.EncryptIn)
	encryptOut = tpm2.AESEncryption(128, tpm2.EncryptOut)
)

const nonceSize = 16 // bytes

// flush forgets an object or session in the chip. An error would mean that it is
// gone already, which is what we want.
func flush(t transport.TPM, h tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t)
}

func wipe(secrets ...[]byte) {
	for _, s := range secrets {
		clear(s)
	}
}
