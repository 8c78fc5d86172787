package light

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cometbft/cometbft/crypto/ed25519"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmt "github.com/cometbft/cometbft/types"
)

// A light block is a header, the signatures that decided it, and the keys that
// could sign. Its bytes here leave out everything that follows from the rest:
// addresses, the block's own hash, the order of proposers. 100 members need
// 11 kB.
//
//	version 1
//	header     length, protobuf as the engine hashes it
//	parts      number and hash of the block's parts, as the signatures cover them
//	round
//	members    number; for each key (32 bytes) and power
//	signatures for each member a byte: 1 absent, 2 for the block, 3 for none; if
//	           not absent the time of its vote, as the distance in nanoseconds from
//	           the header's, and 64 bytes
const (
	blockVersion  = 1
	maxHeader     = 4 << 10 // bytes
	maxMembers    = 256
	maxPower      = 1 << 32
	maxBlockBytes = 64 << 10
)

// ErrBlock reports bytes that are no light block, or one that contradicts itself.
var ErrBlock = errors.New("unusable light block")

// EncodeBlock gives a light block's bytes.
func EncodeBlock(l *cmt.LightBlock) ([]byte, error) {
	header, err := l.Header.ToProto().Marshal()
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrBlock, err)
	}
	c, members := l.Commit, l.ValidatorSet.Validators
	if len(c.Signatures) != len(members) || len(members) > maxMembers {
		return nil, fmt.Errorf("%w: %d signatures of %d members", ErrBlock, len(c.Signatures), len(members))
	}
	b := []byte{blockVersion}
	b = append(binary.AppendUvarint(b, uint64(len(header))), header...)
	b = binary.AppendUvarint(b, uint64(c.BlockID.PartSetHeader.Total))
	b = append(b, c.BlockID.PartSetHeader.Hash...)
	b = binary.AppendUvarint(b, uint64(c.Round))
	b = binary.AppendUvarint(b, uint64(len(members)))
	for _, m := range members {
		b = append(b, m.PubKey.Bytes()...)
		b = binary.AppendUvarint(b, uint64(m.VotingPower))
	}
	for _, s := range c.Signatures {
		b = append(b, byte(s.BlockIDFlag))
		if s.BlockIDFlag == cmt.BlockIDFlagAbsent {
			continue
		}
		b = binary.AppendVarint(b, s.Timestamp.UnixNano()-l.Time.UnixNano())
		b = append(b, s.Signature...)
	}
	return b, nil
}

// reader walks through the bytes of a light block.
type reader struct {
	b   []byte
	err error
}

func (r *reader) bytes(n int) []byte {
	if r.err == nil && len(r.b) < n {
		r.err = fmt.Errorf("%w: %d bytes missing", ErrBlock, n-len(r.b))
	}
	if r.err != nil {
		return make([]byte, n) // n is never a stranger's
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) number(most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if r.err == nil && (n <= 0 || v > most) {
		r.err = fmt.Errorf("%w: number incomplete or above %d", ErrBlock, most)
	}
	if r.err != nil {
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) signed() int64 {
	v, n := binary.Varint(r.b)
	if r.err == nil && n <= 0 {
		r.err = fmt.Errorf("%w: number incomplete", ErrBlock)
	}
	if r.err != nil {
		return 0
	}
	r.b = r.b[n:]
	return v
}

// DecodeBlock reads a light block and checks that its parts belong together. It
// does not check signatures. The error is [ErrBlock].
func DecodeBlock(b []byte, chain string) (*cmt.LightBlock, error) {
	if len(b) > maxBlockBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrBlock, len(b))
	}
	r := &reader{b: b}
	if v := r.number(math.MaxUint8); r.err == nil && v != blockVersion {
		return nil, fmt.Errorf("%w: version %d", ErrBlock, v)
	}
	var p cmtproto.Header
	if err := p.Unmarshal(r.bytes(int(r.number(maxHeader)))); r.err == nil && err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrBlock, err)
	}
	if r.err != nil {
		return nil, r.err
	}
	header, err := cmt.HeaderFromProto(&p)
	if err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrBlock, err)
	}
	commit := &cmt.Commit{Height: header.Height}
	commit.BlockID = cmt.BlockID{Hash: header.Hash(), PartSetHeader: cmt.PartSetHeader{
		Total: uint32(r.number(math.MaxUint16)),
		Hash:  r.bytes(32),
	}}
	commit.Round = int32(r.number(math.MaxInt32))
	count := int(r.number(maxMembers))
	if r.err != nil || count == 0 {
		return nil, fmt.Errorf("%w: no members: %w", ErrBlock, r.err)
	}
	members := &cmt.ValidatorSet{}
	for range count {
		key := ed25519.PubKey(r.bytes(ed25519.PubKeySize))
		power := int64(r.number(maxPower))
		if r.err != nil || power == 0 {
			return nil, fmt.Errorf("%w: a member without power: %w", ErrBlock, r.err)
		}
		members.Validators = append(members.Validators, cmt.NewValidator(key, power))
	}
	members.Proposer = members.Validators[0] // not proven, and nobody asks
	for _, m := range members.Validators {
		s := cmt.CommitSig{BlockIDFlag: cmt.BlockIDFlag(r.bytes(1)[0])}
		if s.BlockIDFlag != cmt.BlockIDFlagAbsent {
			s.ValidatorAddress = m.Address
			s.Timestamp = time.Unix(0, header.Time.UnixNano()+r.signed()).UTC()
			s.Signature = r.bytes(ed25519.SignatureSize)
		}
		if r.err != nil {
			return nil, r.err
		}
		commit.Signatures = append(commit.Signatures, s)
	}
	if len(r.b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the end", ErrBlock, len(r.b))
	}
	l := &cmt.LightBlock{SignedHeader: &cmt.SignedHeader{Header: &header, Commit: commit}, ValidatorSet: members}
	if err := l.ValidateBasic(chain); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBlock, err)
	}
	return l, nil
}
