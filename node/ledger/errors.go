package ledger

import "errors"

// Why a transaction is refused. Every refusal is one of these, wrapped with the
// particulars; the state is then as it was.
var (
	ErrMalformed = errors.New("malformed transaction")
	ErrOversized = errors.New("transaction too large")
	ErrChain     = errors.New("transaction is for another chain")
	ErrSignature = errors.New("signature does not match")
	ErrNonce     = errors.New("nonce is not the account's next one")
	ErrFee       = errors.New("fee too low")
	ErrFunds     = errors.New("balance too low")
	ErrAmount    = errors.New("amount out of range")
	ErrUnknown   = errors.New("no such node")
	ErrNotYours  = errors.New("key may not do this")
	ErrTaken     = errors.New("key already in use")
	ErrBarred    = errors.New("consensus key barred after signing twice")
	ErrStatus    = errors.New("not possible in the node's present state")
	ErrTooSoon   = errors.New("too soon")
	ErrVotes     = errors.New("votes do not carry the change")
	ErrBounds    = errors.New("parameter out of bounds")
	ErrEndpoint  = errors.New("unusable node address")
)

// ErrGenesis reports a genesis file that cannot start a ledger.
var ErrGenesis = errors.New("unusable genesis")

// ErrState reports a state that this program did not write, or a store that
// failed: the ledger cannot go on with it.
var ErrState = errors.New("ledger state unreadable")

// refusals gives every reason its number, which the engine keeps in blocks: the
// numbers never change.
var refusals = []struct {
	err  error
	code uint32
}{
	{ErrMalformed, 1}, {ErrOversized, 2}, {ErrChain, 3}, {ErrSignature, 4}, {ErrNonce, 5},
	{ErrFee, 6}, {ErrFunds, 7}, {ErrAmount, 8}, {ErrUnknown, 9}, {ErrNotYours, 10},
	{ErrTaken, 11}, {ErrBarred, 12}, {ErrStatus, 13}, {ErrTooSoon, 14}, {ErrVotes, 15},
	{ErrBounds, 16}, {ErrEndpoint, 17},
}

// Code is the number of a refusal, 0 for none.
func Code(err error) uint32 {
	if err == nil {
		return 0
	}
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return r.code
		}
	}
	return 255
}

// Refusal is the way back from [Code]; nil for 0 and for numbers that no refusal
// has.
func Refusal(code uint32) error {
	for _, r := range refusals {
		if r.code == code {
			return r.err
		}
	}
	return nil
}
