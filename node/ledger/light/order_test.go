package light

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cometbft/cometbft/crypto/ed25519"
	cmt "github.com/cometbft/cometbft/types"
)

// turns are some members, as they stand after so many blocks.
func turns(after int32) *cmt.ValidatorSet {
	var all []*cmt.Validator
	for i := range 5 {
		all = append(all, cmt.NewValidator(ed25519.GenPrivKeyFromSecret([]byte{byte(i)}).PubKey(), 10))
	}
	v := cmt.NewValidatorSet(all)
	if after > 0 {
		v.IncrementProposerPriority(after)
	}
	return v
}

func TestTheOrderOfProposersTravels(t *testing.T) {
	for after := range int32(12) {
		members := turns(after)
		b := EncodeOrder(members)
		blank := turns(0)
		got, err := DecodeOrder(blank, b)
		if err != nil || !bytes.Equal(EncodeOrder(got), b) || !bytes.Equal(got.Hash(), members.Hash()) {
			t.Fatalf("after %d blocks: %v, %v", after, got, err)
		}
		for range 7 { // and from then on it is the same
			if !bytes.Equal(got.GetProposer().Address, members.GetProposer().Address) {
				t.Errorf("after %d blocks it is another one's turn", after)
			}
			got.IncrementProposerPriority(1)
			members.IncrementProposerPriority(1)
		}
	}
	good := EncodeOrder(turns(3))
	for name, b := range map[string][]byte{"nothing": nil, "one too few": good[:4], "one too many": append(bytes.Clone(good), 0), "a huge one": append(bytes.Repeat([]byte{0xff}, 9), 1, 0, 0, 0, 0)} {
		if got, err := DecodeOrder(turns(0), b); !errors.Is(err, ErrOrder) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestABlocksProposerShowsAFalseOrder(t *testing.T) {
	members := turns(3)
	block := func(round int32) *cmt.LightBlock {
		return &cmt.LightBlock{SignedHeader: &cmt.SignedHeader{Header: &cmt.Header{ProposerAddress: members.GetProposer().Address}, Commit: &cmt.Commit{Round: round}}}
	}
	if !Proposed(members, block(0)) {
		t.Error("the true order is refused")
	}
	if Proposed(turns(4), block(0)) || Proposed(turns(2), block(0)) {
		t.Error("another order passes")
	}
	if !Proposed(turns(2), block(1)) {
		t.Error("in the second round it was the next one's turn")
	}
}

func FuzzDecodeOrder(f *testing.F) {
	f.Add(EncodeOrder(turns(3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := DecodeOrder(turns(0), b)
		if err != nil {
			return
		}
		v.IncrementProposerPriority(3)
	})
}
