package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
)

// An account may have a stand-in: another seed, under a PIN of its own, the duress
// PIN. Giving that PIN anywhere revokes the account in the sealer, in one step, and
// from then on the stand-in is the account.
//
// Nobody must see whether there is one. So there always is one, if need be under a
// PIN that nobody knows; and a wrong PIN always costs one try: the file has a salt by
// which every PIN belongs to one of two halves, the account's PIN to one and the
// duress PIN to the other, and only one blob is tried. Whoever reads the file learns
// of the PIN which half of all PINs it belongs to.

// The blobs of an account.
const (
	account   = iota // the account's seed and part of a digest of the duress PIN, under the PIN
	standIn          // the stand-in's, under the duress PIN
	successor        // the same, for the next generation
)

// sealedAccount is the account's file. What is in it:
//
//	 4  "HACC"
//	 1  version, 1
//	 1  the half of the account's PIN, 0 or 1
//	16  salt
//	 3 times: 2 size, big-endian, and the blob; size 0 for none
//	32  SHA-256 of all above, against wear of the card
//
// A file of an earlier version is the account's blob alone.
type sealedAccount struct {
	half  byte
	salt  [16]byte
	blobs [3][]byte
}

const (
	accountMagic = "HACC\x01"
	digestSize   = 16 // bytes of the PIN's digest
	secretSize   = AccountSeedSize + digestSize
)

func (a sealedAccount) marshal() []byte {
	b := append([]byte(accountMagic), a.half)
	b = append(b, a.salt[:]...)
	for _, blob := range a.blobs {
		b = binary.BigEndian.AppendUint16(b, uint16(len(blob)))
		b = append(b, blob...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// parseAccount reads what marshal wrote. Anything else is taken for the account's
// blob alone, about which the sealer knows more.
func parseAccount(b []byte) sealedAccount {
	alone := sealedAccount{blobs: [3][]byte{account: b}}
	rest, ok := bytes.CutPrefix(b, []byte(accountMagic))
	if !ok || len(rest) < 1+16+3*2+sha256.Size {
		return alone
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return alone
	}
	rest = rest[:len(rest)-sha256.Size]
	a := sealedAccount{half: rest[0] & 1, salt: [16]byte(rest[1:17])}
	rest = rest[17:]
	for i := range a.blobs {
		if len(rest) < 2 {
			return alone
		}
		size := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; size > len(rest) {
			return alone
		}
		a.blobs[i], rest = rest[:size:size], rest[size:]
	}
	return a
}

// pinDigest is what is kept of the duress PIN, sealed under the PIN.
func pinDigest(pin string) (digest [digestSize]byte) {
	sum := sha256.Sum256([]byte("hearth: a PIN's half\x00" + pin))
	copy(digest[:], sum[:])
	return digest
}

// halfOf is the half that a PIN belongs to.
func (a *sealedAccount) halfOf(digest [digestSize]byte) byte {
	sum := sha256.Sum256(append(a.salt[:], digest[:]...))
	return sum[0] & 1
}

// divide draws a salt that puts the PIN and the duress PIN into different halves.
func (v *Vault) divide(a *sealedAccount, pin string, other [digestSize]byte) error {
	own := pinDigest(pin)
	if own == other {
		return status.Error(codes.InvalidArgument, "the PIN and the duress PIN must be two different ones")
	}
	for {
		salt, err := v.draw(len(a.salt))
		if err != nil {
			return err
		}
		a.salt = [16]byte(salt)
		if a.half = a.halfOf(own); a.half != a.halfOf(other) {
			return nil
		}
	}
}

// sealAlone seals a new account, with a stand-in that nobody can open.
func (v *Vault) sealAlone(seed []byte, pin string) (a sealedAccount, err error) {
	unknown, err := v.draw(2*secretSize + digestSize)
	if err != nil {
		return a, err
	}
	defer clear(unknown)
	digest := [digestSize]byte(unknown)
	if err := v.divide(&a, pin, digest); err != nil {
		return a, err
	}
	secret := append(append(make([]byte, 0, secretSize), seed...), digest[:]...)
	defer clear(secret)
	a.blobs, err = v.sealer.SealTwofold(secret, pin, unknown[digestSize:][:secretSize], hex.EncodeToString(unknown[digestSize+secretSize:]))
	return a, err
}

// opened is an account that was opened with its PIN.
type opened struct {
	sealedAccount
	pin    string // in the form that it was sealed with
	secret []byte
}

func (o *opened) seed() []byte { return o.secret[:AccountSeedSize:AccountSeedSize] }

// otherPIN is the digest of the duress PIN, or random. An account of an earlier
// version has none.
func (o *opened) otherPIN() (digest [digestSize]byte) {
	copy(digest[:], o.secret[AccountSeedSize:])
	return digest
}

// open opens the account with a PIN as it was typed, and after the duress PIN the
// stand-in in its place. A refusal costs a try; refused is how the log names it. The
// error is a status.
func (v *Vault) open(typed, refused string) (o opened, err error) {
	if err := v.settle(); err != nil {
		return o, err
	}
	if o.sealedAccount, err = v.account(); err != nil {
		return o, err
	}
	// A PIN that could not have been chosen is not worth a try.
	if o.pin, err = checkPIN(typed); err != nil {
		return o, err
	}
	which := account
	if len(o.blobs[standIn]) > 0 && o.halfOf(pinDigest(o.pin)) != o.half {
		which = standIn
	}
	if o.secret, err = v.sealer.UnsealWithPIN(o.blobs[which], o.pin); err != nil {
		err = explain("account", err)
		v.refused(refused, err)
		return o, err
	}
	if n := len(o.secret); n != AccountSeedSize && n != secretSize {
		clear(o.secret)
		return o, status.Errorf(codes.FailedPrecondition, "the sealed account seed has %d bytes instead of %d", n, AccountSeedSize)
	}
	if which == standIn {
		// From here on there is no way back, whatever happens to the power.
		if err := v.sealer.Revoke(true); err != nil {
			clear(o.secret)
			return o, explain("account", err)
		}
		v.settled = false
		if err := v.settle(); err != nil {
			clear(o.secret)
			return o, err
		}
		if o.sealedAccount, err = v.account(); err != nil {
			clear(o.secret)
			return o, err
		}
	}
	return o, nil
}

// settle makes the file agree with the sealer's generation: an account that was
// revoked is replaced by its stand-in, or removed when it has none. It does so at
// every start, and so for every old copy of the card.
func (v *Vault) settle() error {
	if v.settled {
		return nil
	}
	b, err := v.read(accountFile)
	if errors.Is(err, fs.ErrNotExist) || status.Code(err) == codes.FailedPrecondition {
		v.settled = true
		return nil
	}
	if err != nil {
		return err
	}
	a := parseAccount(b)
	present, err := v.sealer.Generation(true)
	if err != nil {
		return explain("account", err)
	}
	of, err := v.sealer.GenerationOf(a.blobs[account])
	if err != nil {
		// Another sealer's, or damaged: opening it tells, and nothing is touched.
		v.settled = true
		return nil
	}
	if of != 0 && of < present {
		if err := v.succeed(a, present); err != nil {
			return err
		}
	}
	v.settled, v.generation = true, present
	return nil
}

// succeed puts the stand-in in the place of a revoked account.
func (v *Vault) succeed(a sealedAccount, present uint64) error {
	if of, err := v.sealer.GenerationOf(a.blobs[successor]); err != nil || of != present {
		if err := v.card.destroy(v.path(accountFile)); err != nil {
			return status.Errorf(codes.Internal, "removing the account: %v", err)
		}
		return nil
	}
	now, next, err := v.sealer.Blanks(secretSize)
	if err != nil {
		return status.Errorf(codes.Internal, "sealing: %v", err)
	}
	// Those in the other half are now the account's.
	a.half, a.blobs = 1-a.half, [3][]byte{a.blobs[successor], now, next}
	if err := v.card.replace(v.path(accountFile), a.marshal()); err != nil {
		return status.Errorf(codes.Internal, "writing the account: %v", err)
	}
	return nil
}

// account gives the sealed account, or a status.
func (v *Vault) account() (sealedAccount, error) {
	b, err := v.read(accountFile)
	if errors.Is(err, fs.ErrNotExist) {
		return sealedAccount{}, status.Error(codes.NotFound, "there is no account on this device yet")
	}
	if err != nil {
		return sealedAccount{}, err
	}
	return parseAccount(b), nil
}

// SealDuress is for the messenger. The log does not name it.
func (v *Vault) SealDuress(ctx context.Context, req *api.SealDuressRequest) (*api.SealDuressReply, error) {
	done, err := v.begin(ctx, api.UIDMessenger)
	if err != nil {
		return nil, err
	}
	defer done()
	duress, err := checkPIN(req.GetDuressPin())
	if err != nil {
		return nil, err
	}
	o, err := v.open(req.GetPin(), "account not opened")
	if err != nil {
		return nil, err
	}
	defer clear(o.secret)
	digest := pinDigest(duress)
	a := o.sealedAccount
	if err := v.divide(&a, o.pin, digest); err != nil {
		return nil, err
	}
	secret := append(append(make([]byte, 0, secretSize), o.seed()...), digest[:]...)
	other, err := v.draw(secretSize)
	if err != nil {
		return nil, err
	}
	defer func() {
		clear(secret)
		clear(other)
	}()
	if a.blobs, err = v.sealer.ResealTwofold(o.blobs[account], o.pin, secret, other, duress); err != nil {
		return nil, explain("account", err)
	}
	for _, test := range []struct {
		blob   int
		pin    string
		secret []byte
	}{{standIn, duress, other}, {account, o.pin, secret}} {
		if err := opensAs(test.secret, a.blobs[test.blob], func(b []byte) ([]byte, error) { return v.sealer.UnsealWithPIN(b, test.pin) }); err != nil {
			return nil, doesNotOpen(err)
		}
	}
	if err := v.card.replace(v.path(accountFile), a.marshal()); err != nil {
		return nil, status.Errorf(codes.Internal, "writing the account: %v", err)
	}
	return &api.SealDuressReply{}, nil
}
