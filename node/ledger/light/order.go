package light

import (
	"encoding/binary"
	"errors"
	"fmt"

	cmt "github.com/cometbft/cometbft/types"
)

// ErrOrder reports bytes that do not say who proposes blocks when.
var ErrOrder = errors.New("unusable order of proposers")

const maxPriority = 1 << 40 // far above what the engine gives

// EncodeOrder gives what a light block leaves out and only a node needs that begins
// to take part in deciding: for each member how soon it is its turn to propose (the
// engine's proposer priority). Headers do not prove it; whoever believes a false one
// harms nobody but itself.
func EncodeOrder(members *cmt.ValidatorSet) []byte {
	var b []byte
	for _, m := range members.Validators {
		b = binary.AppendVarint(b, m.ProposerPriority)
	}
	return b
}

// DecodeOrder gives the members of a light block with their order. The error is
// [ErrOrder].
func DecodeOrder(members *cmt.ValidatorSet, b []byte) (*cmt.ValidatorSet, error) {
	var all []*cmt.Validator
	for _, m := range members.Validators {
		v, n := binary.Varint(b)
		if n <= 0 || v > maxPriority || v < -maxPriority {
			return nil, fmt.Errorf("%w: of member %d", ErrOrder, len(all))
		}
		b = b[n:]
		m = m.Copy()
		m.ProposerPriority = v
		all = append(all, m)
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the end", ErrOrder, len(b))
	}
	ordered, err := cmt.ValidatorSetFromExistingValidators(all)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrder, err)
	}
	return ordered, nil
}

// Proposed reports whether in this order the block's proposer can have been it: in
// one of the rounds until the one that decided.
func Proposed(ordered *cmt.ValidatorSet, block *cmt.LightBlock) bool {
	const mostRounds = 1000
	turn := ordered.Copy()
	for round := int32(0); ; round++ {
		if string(turn.GetProposer().Address) == string(block.ProposerAddress) {
			return true
		}
		if round >= min(block.Commit.Round, mostRounds) {
			return false
		}
		turn.IncrementProposerPriority(1)
	}
}
