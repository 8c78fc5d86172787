package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// Sealed is a sealed secret as it is kept on the card. Nothing in it is secret,
// and nothing in it is believed without the chip: a doctored blob does not open.
type Sealed struct {
	// PIN says that it opens with a PIN; otherwise without.
	PIN bool
	// PCRs that must be as they were at sealing time, ascending; usually none.
	PCRs []uint
	// Generation is the value of the chip's counter at which it opens, see
	// [TPM.Revoke]; 0 for one of an earlier version, which is bound to none.
	Generation uint64
	// Parent is the name of the storage key that it is encrypted to: the
	// algorithm (2 bytes) and SHA-256 of the public area.
	Parent [2 + sha256.Size]byte
	// Public and Private are TPM2B_PUBLIC and TPM2B_PRIVATE without their sizes.
	Public, Private []byte
}

// The marshalled form, all numbers big-endian:
//
//	 4  "HSTP"
//	 1  version, 2; 1 = without a generation
//	 1  1 = with PIN, 0 = without
//	 3  PCRs as in TPMS_PCR_SELECTION: bit k of byte n is PCR 8n+k
//	 8  generation, from version 2 on
//	34  name of the parent
//	 2  size of the public area, then the public area
//	 2  size of the private area, then the private area
//	32  SHA-256 of all above, against wear of the card, not against people
const (
	blobMagic   = "HSTP"
	blobUnbound = 1
	blobVersion = 2
	maxArea     = 512  // bytes of a public or private area; ours have 78 and about 190
	maxBlob     = 2048 // bytes
	pcrBytes    = 3
)

// Marshal gives the blob's bytes.
func (s *Sealed) Marshal() []byte {
	b := []byte(blobMagic)
	b = append(b, blobVersion, 0)
	if s.Generation == 0 {
		b[len(b)-2] = blobUnbound
	}
	if s.PIN {
		b[len(b)-1] = 1
	}
	var mask [pcrBytes]byte
	for _, p := range s.PCRs {
		mask[p/8] |= 1 << (p % 8)
	}
	b = append(b, mask[:]...)
	if s.Generation != 0 {
		b = binary.BigEndian.AppendUint64(b, s.Generation)
	}
	b = append(b, s.Parent[:]...)
	for _, area := range [][]byte{s.Public, s.Private} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(area)))
		b = append(b, area...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// ParseSealed reads what [Sealed.Marshal] wrote. The error is [ErrDamaged], or
// [ErrKind] for a blob of developer mode.
func ParseSealed(b []byte) (*Sealed, error) {
	if bytes.HasPrefix(b, []byte(developerMagic)) {
		return nil, fmt.Errorf("%w: it was made in developer mode, without a TPM", ErrKind)
	}
	if len(b) > maxBlob || len(b) < sha256.Size {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrDamaged)
	}
	r := blobReader{rest: body}
	if string(r.take(len(blobMagic))) != blobMagic {
		return nil, fmt.Errorf("%w: it is something else", ErrDamaged)
	}
	version := r.byte()
	if version != blobVersion && version != blobUnbound {
		return nil, fmt.Errorf("%w: version %d is unknown to this program", ErrDamaged, version)
	}
	s := &Sealed{}
	kind := r.byte()
	s.PIN = kind == 1
	for i, m := range r.take(pcrBytes) {
		for k := range uint(8) {
			if m&(1<<k) != 0 {
				s.PCRs = append(s.PCRs, uint(i)*8+k)
			}
		}
	}
	if version == blobVersion {
		if s.Generation = binary.BigEndian.Uint64(r.take(8)); s.Generation == 0 {
			r.short = true
		}
	}
	copy(s.Parent[:], r.take(len(s.Parent)))
	s.Public = r.area()
	s.Private = r.area()
	if r.short || len(r.rest) != 0 || kind > 1 {
		return nil, fmt.Errorf("%w: its structure is wrong", ErrDamaged)
	}
	return s, nil
}

// blobReader takes bytes from the front; after a shortage it gives zeros.
type blobReader struct {
	rest  []byte
	short bool
}

func (r *blobReader) take(n int) []byte {
	if n > len(r.rest) {
		r.short, r.rest = true, nil
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *blobReader) byte() byte { return r.take(1)[0] }

func (r *blobReader) area() []byte {
	n := int(binary.BigEndian.Uint16(r.take(2)))
	if n > maxArea {
		r.short = true
		return nil
	}
	return slices.Clone(r.take(n))
}

// payload is what the chip keeps: the secret, and with a PIN the chip's lockout
// authorisation unless an earlier card has that.
type payload struct {
	secret  []byte
	lockout []byte // lockoutSize bytes or none
}

// Sizes in bytes. A keyed-hash object holds up to 128.
const (
	MaxSecret      = 64
	lockoutSize    = 32
	payloadVersion = 1
)

// marshal gives version, size of the secret, secret, lockout authorisation.
func (p payload) marshal() []byte {
	b := make([]byte, 0, 2+len(p.secret)+len(p.lockout))
	b = append(b, payloadVersion, byte(len(p.secret)))
	b = append(b, p.secret...)
	return append(b, p.lockout...)
}

// parsePayload gives slices of b.
func parsePayload(b []byte) (payload, error) {
	if len(b) < 2 || b[0] != payloadVersion || len(b) < 2+int(b[1]) {
		return payload{}, fmt.Errorf("%w: what was sealed in it is not ours", ErrDamaged)
	}
	end := 2 + int(b[1])
	p := payload{secret: b[2:end:end], lockout: b[end:]}
	if len(p.secret) == 0 || (len(p.lockout) != 0 && len(p.lockout) != lockoutSize) {
		return payload{}, fmt.Errorf("%w: what was sealed in it is not ours", ErrDamaged)
	}
	return p, nil
}
