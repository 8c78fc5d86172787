package tpm

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"hearth/hw/tpm/swtpmtest"
)

const pin = "482915"

var secret = []byte("sixteen byte key")

// device is a TPM of its own for a test, and what it logged.
type device struct {
	*TPM
	chip *swtpmtest.TPM
	log  *strings.Builder
}

func newDevice(t testing.TB, options ...Option) *device {
	t.Helper()
	d := &device{chip: swtpmtest.New(t)}
	d.openAgain(t, options...)
	return d
}

func (d *device) openAgain(t testing.TB, options ...Option) {
	t.Helper()
	d.log = &strings.Builder{}
	dev, err := Open(d.chip.Socket, append(options, WithLog(slog.New(slog.NewTextHandler(d.log, nil))))...)
	if err != nil {
		t.Fatal(err)
	}
	d.TPM = dev
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// sealed gives a blob with PIN that was opened once, as every caller does.
func (d *device) sealed(t testing.TB) []byte {
	t.Helper()
	blob, err := d.SealWithPIN(secret, pin)
	if err != nil {
		t.Fatal(err)
	}
	d.mustOpen(t, blob)
	return blob
}

func (d *device) mustOpen(t testing.TB, blob []byte) {
	t.Helper()
	got, err := d.UnsealWithPIN(blob, pin)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, secret) {
		t.Fatalf("unsealed %x, want %x", got, secret)
	}
}

func (d *device) mustLeft(t testing.TB, want int) {
	t.Helper()
	left, recovery, err := d.Tries()
	if err != nil {
		t.Fatal(err)
	}
	if left != want || recovery != Recovery {
		t.Fatalf("%d tries left, one more every %v; want %d and %v", left, recovery, want, Recovery)
	}
}

func TestSealedSecretComesBack(t *testing.T) {
	d := newDevice(t)
	for _, size := range []int{1, 16, 32, MaxSecret} {
		want := make([]byte, size)
		rand.Read(want)
		t.Run(fmt.Sprintf("with PIN, %d bytes", size), func(t *testing.T) {
			blob, err := d.SealWithPIN(want, pin)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := d.UnsealWithPIN(blob, pin); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %x, %v; want %x", got, err, want)
			}
		})
		t.Run(fmt.Sprintf("without PIN, %d bytes", size), func(t *testing.T) {
			blob, err := d.Seal(want)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := d.Unseal(blob); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %x, %v; want %x", got, err, want)
			}
		})
	}
	for _, size := range []int{0, MaxSecret + 1} {
		if _, err := d.SealWithPIN(make([]byte, size), pin); !errors.Is(err, ErrSecretSize) {
			t.Errorf("sealing %d bytes: %v", size, err)
		}
		if _, err := d.Seal(make([]byte, size)); !errors.Is(err, ErrSecretSize) {
			t.Errorf("sealing %d bytes: %v", size, err)
		}
	}
}

// A digest with a zero byte in the middle or at the end is where TPMs and go-tpm
// disagree about what the authorisation value is.
func TestEveryPINWorks(t *testing.T) {
	d := newDevice(t)
	digest := func(pin string) []byte {
		h := sha256.Sum256([]byte("hearth: PIN to TPM authorisation value\x00" + pin))
		return h[:]
	}
	search := func(want func([]byte) bool) string {
		for i := range 1_000_000 {
			if p := fmt.Sprintf("%06d", i); want(digest(p)) {
				return p
			}
		}
		t.Fatal("no such PIN")
		return ""
	}
	for name, p := range map[string]string{
		"digits":                  "000000",
		"32 characters":           strings.Repeat("é", 32),
		"zero byte in front":      search(func(h []byte) bool { return h[0] == 0 }),
		"zero byte in the middle": search(func(h []byte) bool { return h[15] == 0 }),
		"zero byte at the end":    search(func(h []byte) bool { return h[31] == 0 }),
		"two zero bytes at end":   search(func(h []byte) bool { return h[31] == 0 && h[30] == 0 }),
	} {
		t.Run(name, func(t *testing.T) {
			blob, err := d.SealWithPIN(secret, p)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := d.UnsealWithPIN(blob, p); err != nil || !bytes.Equal(got, secret) {
				t.Fatalf("got %x, %v", got, err)
			}
		})
	}
}

func TestWrongPINCountsUntilTheRightOneComes(t *testing.T) {
	d := newDevice(t)
	blob := d.sealed(t)
	d.mustLeft(t, MaxTries)
	for left := MaxTries - 1; left >= MaxTries-3; left-- {
		_, err := d.UnsealWithPIN(blob, "000000")
		var wrong *WrongPINError
		if !errors.Is(err, ErrWrongPIN) || !errors.As(err, &wrong) || wrong.Left != left || wrong.Recovery != Recovery {
			t.Fatalf("got %v, want a wrong PIN with %d left", err, left)
		}
		if want := fmt.Sprintf("wrong PIN, %d tries left", left); !strings.Contains(err.Error(), want) {
			t.Errorf("the text is %q, want %q in it", err, want)
		}
		d.mustLeft(t, left)
	}
	d.mustOpen(t, blob)
	d.mustLeft(t, MaxTries)
	if d.log.Len() != 0 {
		t.Errorf("something to complain about: %s", d.log)
	}
}

func TestLockoutAfterTooManyWrongPINs(t *testing.T) {
	d := newDevice(t)
	blob := d.sealed(t)
	node, err := d.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for i := range MaxTries {
		_, err := d.UnsealWithPIN(blob, "000000")
		if !errors.Is(err, ErrWrongPIN) {
			t.Fatalf("try %d: %v", i+1, err)
		}
		if i == MaxTries-1 && !strings.Contains(err.Error(), "no try left; the next one comes in 10 minutes") {
			t.Errorf("the last try says %q", err)
		}
	}
	for _, p := range []string{"000000", pin} { // not even the right one
		_, err := d.UnsealWithPIN(blob, p)
		var locked *LockedOutError
		if !errors.Is(err, ErrLockedOut) || !errors.As(err, &locked) || locked.Wait != Recovery {
			t.Fatalf("got %v, want locked out for %v", err, Recovery)
		}
		if want := "too many wrong PINs; the next try comes within 10 minutes"; !strings.Contains(err.Error(), want) {
			t.Errorf("the text is %q, want %q in it", err, want)
		}
	}
	d.mustLeft(t, 0)
	if got, err := d.Unseal(node); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("the node's secret must open during a lockout: %v", err)
	}

	d.chip.PowerCut()
	d.chip.PowerOn(t)
	if _, err := d.UnsealWithPIN(blob, pin); !errors.Is(err, ErrLockedOut) {
		t.Errorf("switching off and on got around the lockout: %v", err)
	}
}

func TestPowerCutsNeverLockAnHonestOwnerOut(t *testing.T) {
	d := newDevice(t)
	blob := d.sealed(t)
	counted := false
	for i := range 3 * MaxTries {
		d.chip.PowerCut()
		d.chip.PowerOn(t)
		left, _, err := d.Tries()
		if err != nil {
			t.Fatal(err)
		}
		if left < MaxTries-1 {
			t.Fatalf("%d tries left after power cut %d", left, i+1)
		}
		counted = counted || left == MaxTries-1
		d.mustOpen(t, blob)
		d.mustLeft(t, MaxTries)
	}
	if !counted {
		t.Error("no power cut counted as a wrong try: this test shows nothing")
	}
}

func TestLockoutAuthorisationIsTakenOnlyAfterTheBlobOpened(t *testing.T) {
	d := newDevice(t)
	lost, err := d.SealWithPIN(secret, pin) // and the power goes before it is written
	if err != nil {
		t.Fatal(err)
	}
	d.chip.PowerCut()
	d.chip.PowerOn(t)
	if l, err := d.Limits(); err != nil || l.Claimed || l.Max != MaxTries || l.Recovery != Recovery {
		t.Fatalf("limits %+v, %v", l, err)
	}
	blob := d.sealed(t)
	if l, err := d.Limits(); err != nil || !l.Claimed {
		t.Fatalf("limits %+v, %v; want claimed", l, err)
	}
	if d.log.Len() != 0 {
		t.Errorf("something to complain about: %s", d.log)
	}
	// The lost blob holds another authorisation. It opens, and says what it cannot do.
	d.mustOpen(t, lost)
	if !strings.Contains(d.log.String(), "does not clear its count") {
		t.Errorf("log: %s", d.log)
	}
	d.mustOpen(t, blob)
}

func TestTPMOfAnEarlierCard(t *testing.T) {
	d := newDevice(t)
	d.sealed(t)
	d.openAgain(t)
	blob := d.sealed(t) // a new card
	if !strings.Contains(d.log.String(), "an earlier card has set up this TPM") {
		t.Errorf("log: %s", d.log)
	}
	if _, err := d.UnsealWithPIN(blob, "000000"); !errors.Is(err, ErrWrongPIN) {
		t.Fatal(err)
	}
	d.mustOpen(t, blob)
	d.mustLeft(t, MaxTries-1) // it cannot be cleared, and expires
	if !strings.Contains(d.log.String(), "stay counted until they expire") {
		t.Errorf("log: %s", d.log)
	}
}

func TestLimitsThatSomebodyChangedAreSetAgain(t *testing.T) {
	d := newDevice(t)
	blob, err := d.SealWithPIN(secret, pin)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody weakens them while the lockout authorisation is still empty.
	srk, err := d.storageKey()
	if err != nil {
		t.Fatal(err)
	}
	weak := []byte{0, 0, 0x7f, 0xff, 0, 0, 0, 1, 0, 0, 0, 1}
	if err := srk.lockoutCommand(tpm2.TPMCCDictionaryAttackParameters, nil, weak); err != nil {
		t.Fatal(err)
	}
	srk.flush()
	if l, err := d.Limits(); err != nil || l.Max != 0x7fff || l.Recovery != time.Second {
		t.Fatalf("limits %+v, %v", l, err)
	}
	d.mustOpen(t, blob)
	d.mustLeft(t, MaxTries)
	if l, err := d.Limits(); err != nil || l.Max != MaxTries || l.Recovery != Recovery {
		t.Fatalf("limits %+v, %v", l, err)
	}
}

func TestBlobOfAnotherTPMIsRefused(t *testing.T) {
	d, other := newDevice(t), newDevice(t)
	blob := other.sealed(t)
	d.sealed(t)
	if _, err := d.UnsealWithPIN(blob, pin); !errors.Is(err, ErrOtherTPM) {
		t.Errorf("with PIN: %v", err)
	}
	node, err := other.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Unseal(node); !errors.Is(err, ErrOtherTPM) {
		t.Errorf("without PIN: %v", err)
	}
	// Somebody writes this chip's name over the other's: the chip itself refuses.
	s, err := ParseSealed(blob)
	if err != nil {
		t.Fatal(err)
	}
	own, err := d.storageKey()
	if err != nil {
		t.Fatal(err)
	}
	copy(s.Parent[:], own.name.Buffer)
	own.flush()
	if _, err := d.UnsealWithPIN(s.Marshal(), pin); !errors.Is(err, ErrDamaged) {
		t.Errorf("with a false name: %v", err)
	}
	d.mustLeft(t, MaxTries)
}

func TestTPMThatWasClearedIsAnother(t *testing.T) {
	d := newDevice(t)
	blob := d.sealed(t)
	if _, err := (tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}}).Execute(d.t); err != nil {
		t.Fatal(err)
	}
	if _, err := d.UnsealWithPIN(blob, pin); !errors.Is(err, ErrOtherTPM) {
		t.Errorf("got %v", err)
	}
	d.mustOpen(t, d.sealed(t)) // and may be set up anew
	d.mustLeft(t, MaxTries)
}

func TestDamagedBlobIsRefusedAndCostsNoTry(t *testing.T) {
	d := newDevice(t)
	blob := d.sealed(t)
	refused := func(t *testing.T, b []byte) {
		t.Helper()
		_, err := d.UnsealWithPIN(b, pin)
		var u interface{ Unusable() bool }
		if err == nil || !errors.As(err, &u) || !u.Unusable() {
			t.Errorf("got %v", err)
		}
	}
	for i := range blob {
		b := slices.Clone(blob)
		b[i] ^= 1
		refused(t, b)
	}
	for _, n := range []int{0, 1, 31, 32, len(blob) / 2, len(blob) - 1} {
		refused(t, blob[:n])
	}
	refused(t, append(slices.Clone(blob), 0))

	// With a good checksum it is the chip that refuses, whatever was changed.
	whole, err := ParseSealed(blob)
	if err != nil {
		t.Fatal(err)
	}
	change := func(name string, f func(s *Sealed)) {
		t.Run(name, func(t *testing.T) {
			s := *whole
			s.Public, s.Private = slices.Clone(whole.Public), slices.Clone(whole.Private)
			f(&s)
			refused(t, s.Marshal())
		})
	}
	change("private area flipped", func(s *Sealed) { s.Private[len(s.Private)-1] ^= 1 })
	change("private area short", func(s *Sealed) { s.Private = s.Private[:10] })
	change("private area empty", func(s *Sealed) { s.Private = nil })
	change("public area flipped at its end", func(s *Sealed) { s.Public[len(s.Public)-1] ^= 1 })
	change("public area short", func(s *Sealed) { s.Public = s.Public[:20] })
	change("public area empty", func(s *Sealed) { s.Public = nil })
	change("userWithAuth on", func(s *Sealed) { s.Public[7] |= 1 << 6 })
	change("wrong PINs not counted", func(s *Sealed) { s.Public[6] |= 1 << 2 })
	change("as if without PIN", func(s *Sealed) { s.PIN = false })
	d.mustLeft(t, MaxTries)
	d.mustOpen(t, blob)
}

// An object with weaker attributes opens on this chip, but it is not ours.
func TestObjectOfSomebodyElseIsRefused(t *testing.T) {
	d := newDevice(t)
	srk, err := d.storageKey()
	if err != nil {
		t.Fatal(err)
	}
	public := template(true, nil)
	public.ObjectAttributes.NoDA = true
	public.ObjectAttributes.UserWithAuth = true
	rsp, err := tpm2.Create{
		ParentHandle: srk.auth(),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: payload{secret: secret}.marshal()}),
		}},
		InPublic: tpm2.New2B(public),
	}.Execute(d.t)
	if err != nil {
		t.Fatal(err)
	}
	s := Sealed{PIN: true, Public: rsp.OutPublic.Bytes(), Private: rsp.OutPrivate.Buffer}
	copy(s.Parent[:], srk.name.Buffer)
	srk.flush()
	if _, err := d.UnsealWithPIN(s.Marshal(), pin); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

func TestBlobOfTheOtherKindIsRefused(t *testing.T) {
	d := newDevice(t)
	withPIN := d.sealed(t)
	without, err := d.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Unseal(withPIN); !errors.Is(err, ErrKind) {
		t.Errorf("with PIN: %v", err)
	}
	if _, err := d.UnsealWithPIN(without, pin); !errors.Is(err, ErrKind) {
		t.Errorf("without PIN: %v", err)
	}
	dev := newDeveloper(t, t.TempDir(), time.Now)
	soft, err := dev.SealWithPIN(secret, pin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.UnsealWithPIN(soft, pin); !errors.Is(err, ErrKind) || !strings.Contains(err.Error(), "developer mode") {
		t.Errorf("of developer mode: %v", err)
	}
	if _, err := dev.UnsealWithPIN(withPIN, pin); !errors.Is(err, ErrKind) || !strings.Contains(err.Error(), "by a TPM") {
		t.Errorf("of a TPM in developer mode: %v", err)
	}
}

func TestSecretSealedToPCRsOpensOnlyWhileTheyHold(t *testing.T) {
	d := newDevice(t, WithPolicy(Policy{PCRs: []uint{11, 7, 11}}))
	blob := d.sealed(t)
	node, err := d.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := ParseSealed(blob); err != nil || !slices.Equal(s.PCRs, []uint{7, 11}) {
		t.Fatalf("the blob names PCRs %v, %v", s.PCRs, err)
	}
	// A blob carries its policy: a program without one opens it as well.
	d.openAgain(t)
	d.mustOpen(t, blob)

	extend := func(pcr uint) {
		t.Helper()
		digest := sha256.Sum256([]byte("another kernel"))
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
				{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]},
			}},
		}.Execute(d.t)
		if err != nil {
			t.Fatal(err)
		}
	}
	extend(8)
	d.mustOpen(t, blob)
	if _, err := d.Unseal(node); err != nil {
		t.Errorf("extending a PCR that is not named: %v", err)
	}
	extend(11)
	if _, err := d.UnsealWithPIN(blob, pin); !errors.Is(err, ErrPolicy) {
		t.Errorf("with PIN: %v", err)
	}
	if _, err := d.Unseal(node); !errors.Is(err, ErrPolicy) {
		t.Errorf("without PIN: %v", err)
	}
	d.mustLeft(t, MaxTries) // a right PIN costs nothing there

	// Nor does it help to leave the PCRs out of the blob.
	s, err := ParseSealed(blob)
	if err != nil {
		t.Fatal(err)
	}
	s.PCRs = nil
	if _, err := d.UnsealWithPIN(s.Marshal(), pin); !errors.Is(err, ErrPolicy) {
		t.Errorf("without the PCRs: %v", err)
	}

	d.chip.PowerCut() // the PCRs begin anew
	d.chip.PowerOn(t)
	d.mustOpen(t, blob)

	if _, err := open(d.t, WithPolicy(Policy{PCRs: []uint{24}})).Seal(secret); err == nil {
		t.Error("sealed to PCR 24, which does not exist")
	}
}

// wires records what passes between board and chip.
type wires struct {
	transport.TPMCloser
	mu       sync.Mutex
	passed   []byte
	commands int
}

func (w *wires) Send(command []byte) ([]byte, error) {
	answer, err := w.TPMCloser.Send(command)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commands++
	w.passed = append(append(w.passed, command...), answer...)
	return answer, err
}

func TestProbeOnTheWiresSeesNoSecret(t *testing.T) {
	chip := swtpmtest.New(t)
	socket, err := linuxudstpm.Open(chip.Socket)
	if err != nil {
		t.Fatal(err)
	}
	w := &wires{TPMCloser: socket}
	d := open(w, WithPolicy(Policy{PCRs: []uint{7}}), WithLog(slog.New(slog.DiscardHandler)))

	const pin = "correct horse battery"
	secret := make([]byte, 32)
	if _, err := d.Read(secret); err != nil {
		t.Fatal(err)
	}
	blob, err := d.SealWithPIN(secret, pin)
	if err != nil {
		t.Fatal(err)
	}
	node, err := d.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first one sets the lockout authorisation, the second uses it
		if got, err := d.UnsealWithPIN(blob, pin); err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("%x, %v", got, err)
		}
	}
	if _, err := d.UnsealWithPIN(blob, "wrong horse"); !errors.Is(err, ErrWrongPIN) {
		t.Fatal(err)
	}
	if got, err := d.Unseal(node); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("%x, %v", got, err)
	}
	_, p, err := d.unseal(blob, authValue(pin), true)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.lockout) != lockoutSize {
		t.Fatalf("lockout authorisation of %d bytes", len(p.lockout))
	}

	plain := sha256.Sum256([]byte(pin))
	for name, b := range map[string][]byte{
		"PIN":                         []byte(pin),
		"wrong PIN":                   []byte("wrong horse"),
		"digest of the PIN":           plain[:],
		"authorisation value":         authValue(pin),
		"authorisation value (wrong)": authValue("wrong horse"),
		"secret":                      secret,
		"lockout authorisation":       p.lockout,
	} {
		// Half of it would be too much already.
		for _, part := range [][]byte{b[:(len(b)+1)/2], b[len(b)/2:]} {
			if bytes.Contains(w.passed, part) {
				t.Errorf("%s passed over the wires", name)
			}
		}
	}
	if w.commands < 30 {
		t.Errorf("only %d commands recorded", w.commands)
	}
	// The recorder would have seen it: what is public did pass.
	if s, err := ParseSealed(blob); err != nil || !bytes.Contains(w.passed, s.Private) {
		t.Error("not even the sealed object was recorded")
	}
}

// lyingChip is somebody between board and chip with a chip of their own.
type lyingChip struct {
	transport.TPMCloser
	other transport.TPMCloser
	sent  []tpm2.TPMCC
}

func (l *lyingChip) Send(command []byte) ([]byte, error) {
	cc := tpm2.TPMCC(uint32(command[6])<<24 | uint32(command[7])<<16 | uint32(command[8])<<8 | uint32(command[9]))
	l.sent = append(l.sent, cc)
	return l.other.Send(command)
}

func TestChipThatSlippedInBetweenIsRefusedBeforeThePINIsUsed(t *testing.T) {
	d, other := newDevice(t), newDevice(t)
	blob := d.sealed(t)
	l := &lyingChip{TPMCloser: d.t, other: other.t}
	if _, err := open(l).UnsealWithPIN(blob, pin); !errors.Is(err, ErrOtherTPM) {
		t.Fatalf("got %v", err)
	}
	if want := []tpm2.TPMCC{tpm2.TPMCCCreatePrimary, tpm2.TPMCCFlushContext}; !slices.Equal(l.sent, want) {
		t.Errorf("it saw the commands %v, want %v", l.sent, want)
	}
}

func TestNothingStaysLoadedInTheChip(t *testing.T) {
	d := newDevice(t)
	blob := d.sealed(t)
	for i := range 10 { // a chip holds about three objects and three sessions
		if _, err := d.UnsealWithPIN(blob, pin); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if i < MaxTries-1 {
			if _, err := d.UnsealWithPIN(blob, "000000"); !errors.Is(err, ErrWrongPIN) {
				t.Fatalf("round %d: %v", i, err)
			}
		}
		if _, err := d.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} { // objects, loaded and saved sessions
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 10}.Execute(d.t)
		if err != nil {
			t.Fatal(err)
		}
		h, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Handle) != 0 {
			t.Errorf("still loaded: %x", h.Handle)
		}
	}
}

func TestManyCallersTakeTurns(t *testing.T) {
	d := newDevice(t)
	blob := d.sealed(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, err := d.UnsealWithPIN(blob, pin); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("%x, %v", got, err)
			}
			if _, _, err := d.Tries(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestRandomBytes(t *testing.T) {
	d := newDevice(t)
	seen := map[string]bool{}
	for _, n := range []int{0, 1, 16, 32, 255 * 32, 255*32 + 7} {
		b := make([]byte, n)
		if got, err := d.Read(b); err != nil || got != n {
			t.Fatalf("reading %d: %d, %v", n, got, err)
		}
		if n >= 16 {
			for _, part := range [][]byte{b[:16], b[n-16:]} {
				if n > 16 && seen[string(part)] || bytes.Equal(part, make([]byte, 16)) {
					t.Errorf("reading %d: bytes repeat: %x", n, part)
				}
				seen[string(part)] = true
			}
		}
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	for _, path := range []string{t.TempDir() + "/tpmrm0", "/dev/null", t.TempDir()} {
		if _, err := Open(path); err == nil || !strings.HasPrefix(err.Error(), "opening the TPM") {
			t.Errorf("%s: %v", path, err)
		}
	}
	chip := swtpmtest.New(t)
	chip.PowerCut()
	if _, err := Open(chip.Socket); err == nil {
		t.Error("opened a TPM that is off")
	}
}

func TestDeveloperSaysSo(t *testing.T) {
	if newDevice(t).Developer() || !newDeveloper(t, t.TempDir(), time.Now).Developer() {
		t.Error("a TPM is not developer mode, files are")
	}
}

func BenchmarkSealWithPIN(b *testing.B) {
	d := newDevice(b)
	for b.Loop() {
		if _, err := d.SealWithPIN(secret, pin); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnsealWithPIN(b *testing.B) {
	d := newDevice(b)
	blob := d.sealed(b)
	for b.Loop() {
		if _, err := d.UnsealWithPIN(blob, pin); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnseal(b *testing.B) {
	d := newDevice(b)
	blob, err := d.Seal(secret)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := d.Unseal(blob); err != nil {
			b.Fatal(err)
		}
	}
}
