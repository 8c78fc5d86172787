package ledger

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"

	"hearth/node/keys"
)

// Key is an Ed25519 public key: of an account, a node, or a node's part in the
// consensus.
type Key = [32]byte

// Address names an account: the public key of its owner.
type Address = Key

// Signer signs with an Ed25519 key; [keys.Pair] is one.
type Signer interface {
	Ed25519() [32]byte
	Sign(msg []byte) []byte
}

// Kind says what a transaction does. The numbers are part of its bytes.
type Kind uint8

// All kinds.
const (
	KindTransfer Kind = iota + 1
	KindRegister
	KindAddStake
	KindUnlock
	KindEndpoint
	KindStateChange
	KindClaim
	KindParameter
	kindBeacon
)

const txVersion = 1

// Every signature covers one of these tags and the chain id, so that it is worth
// nothing anywhere else.
const (
	tagTx        = "hearth ledger v1 transaction"
	tagNode      = "hearth ledger v1 node joins"
	tagVote      = "hearth ledger v1 test vote"
	tagParameter = "hearth ledger v1 parameter vote"
)

// Tx is one transaction. Signer pays the fee and counts the nonce: the first
// transaction of an account has nonce 0, the next 1.
type Tx struct {
	Chain     string
	Signer    Address
	Nonce     uint64
	Fee       uint64
	Body      Body
	Signature [64]byte
}

// Body is what a transaction does: one of the types below.
type Body interface {
	record
	Kind() Kind
}

// Transfer moves units to another account.
type Transfer struct {
	To     Address
	Amount uint64
}

// Share is what one contributor has or should have in a node.
type Share struct {
	Staker      Address // gets the stake back
	Beneficiary Address // gets the rewards
	Amount      uint64
}

// Endpoint is where a node is reached. Everybody can read it.
type Endpoint struct {
	IP      netip.Addr // public IPv4
	HTTPS   uint16     // storage requests
	QUIC    uint16     // links between nodes, 0 when there is none
	Ledger  uint16     // peers of the ledger, 0 when there is none
	Version [3]uint8   // of the storage server whose behaviour it has
}

// Register makes a new node. The transaction's signer is the operator, whose
// share is paid at once. Further shares are reserved for their stakers, who pay
// them with AddStake. Both keys of the node sign the whole registration, so that
// nobody registers a node that is not theirs.
type Register struct {
	Node      Key
	Consensus Key
	Beacon    Key     // verifies the node's part in the seeds; see package vrf
	Fee       uint16  // operator's part of the rewards, in hundredths of a percent
	Shares    []Share // the operator's first
	Endpoint  Endpoint

	NodeSignature      [64]byte
	ConsensusSignature [64]byte
}

// AddStake pays a share of a node that waits for contributors.
type AddStake struct {
	Node        Key
	Beneficiary Address
	Amount      uint64
}

// RequestUnlock starts the time after which a node leaves and all of its
// contributors get their stakes back. Every contributor may ask, with less than
// a quarter of the stake only after a while. For a node that still waits for
// contributors the operator may ask, and everything is paid back at once.
type RequestUnlock struct{ Node Key }

// ChangeEndpoint says where a node is now. The operator signs the transaction,
// or the node itself, which pays no fee for it.
type ChangeEndpoint struct {
	Node     Key
	Endpoint Endpoint
}

// Verdict is what testers decide about a node.
type Verdict uint8

// All verdicts.
const (
	Deregister Verdict = iota
	Decommission
	Recommission
)

func (v Verdict) String() string {
	return [...]string{"deregister", "decommission", "recommission"}[min(v, 2)]
}

// Vote is one tester's part of a state change.
type Vote struct {
	Tester    uint8  // place in the slot's testers; see View.Testers
	Reasons   uint16 // bits of the tests that the node failed (oxen-core, tx_extra.h)
	Signature [64]byte
}

// StateChange is carried by the votes of testers drawn for a slot. One of the
// testers signs the transaction with its node key and pays no fee.
type StateChange struct {
	Node    Key
	Verdict Verdict
	Slot    uint64
	Votes   []Vote // by ascending tester
}

// Claim pays a node's rewards to all of its beneficiaries. Stakers and
// beneficiaries of the node may ask.
type Claim struct{ Node Key }

// MemberVote is one committee member's part of a parameter change.
type MemberVote struct {
	Member    uint8 // place in the committee; see View.Committee
	Signature [64]byte
}

// ParameterChange gives one of the voted parameters another value. More than two
// thirds of the committee sign it with their node keys.
type ParameterChange struct {
	Name   string
	Value  uint64
	Serial uint64 // how many changes there were before
	Votes  []MemberVote
}

// beacon carries a proposer's part of the next seed. The engine's adapter puts
// it in front of a block's transactions; nobody can send one.
type beacon struct{ Proof [80]byte }

// bodies makes an empty body of each kind.
func newBody(k Kind) (Body, error) {
	switch k {
	case KindTransfer:
		return new(Transfer), nil
	case KindRegister:
		return new(Register), nil
	case KindAddStake:
		return new(AddStake), nil
	case KindUnlock:
		return new(RequestUnlock), nil
	case KindEndpoint:
		return new(ChangeEndpoint), nil
	case KindStateChange:
		return new(StateChange), nil
	case KindClaim:
		return new(Claim), nil
	case KindParameter:
		return new(ParameterChange), nil
	}
	return nil, fmt.Errorf("%w: there is no transaction of kind %d", ErrMalformed, k)
}

// Kind is part of [Body].
func (*Transfer) Kind() Kind { return KindTransfer }

// Kind is part of [Body].
func (*Register) Kind() Kind { return KindRegister }

// Kind is part of [Body].
func (*AddStake) Kind() Kind { return KindAddStake }

// Kind is part of [Body].
func (*RequestUnlock) Kind() Kind { return KindUnlock }

// Kind is part of [Body].
func (*ChangeEndpoint) Kind() Kind { return KindEndpoint }

// Kind is part of [Body].
func (*StateChange) Kind() Kind { return KindStateChange }

// Kind is part of [Body].
func (*Claim) Kind() Kind { return KindClaim }

// Kind is part of [Body].
func (*ParameterChange) Kind() Kind { return KindParameter }

func (b *Transfer) code(c *coder) {
	key32(c, &b.To)
	number(c, &b.Amount)
}

func (s *Share) code(c *coder) {
	key32(c, &s.Staker)
	key32(c, &s.Beneficiary)
	number(c, &s.Amount)
}

func (e *Endpoint) code(c *coder) {
	var ip [4]byte
	if e.IP.Is4() {
		ip = e.IP.As4()
	}
	c.fixed(ip[:])
	e.IP = netip.AddrFrom4(ip)
	number(c, &e.HTTPS)
	number(c, &e.QUIC)
	number(c, &e.Ledger)
	c.fixed(e.Version[:])
}

// unsigned is the registration without the node's signatures.
func (b *Register) unsigned(c *coder) {
	key32(c, &b.Node)
	key32(c, &b.Consensus)
	key32(c, &b.Beacon)
	number(c, &b.Fee)
	list(c, &b.Shares, MaxContributors, func(c *coder, s *Share) { s.code(c) })
	b.Endpoint.code(c)
}

func (b *Register) code(c *coder) {
	b.unsigned(c)
	c.fixed(b.NodeSignature[:])
	c.fixed(b.ConsensusSignature[:])
}

func (b *AddStake) code(c *coder) {
	key32(c, &b.Node)
	key32(c, &b.Beneficiary)
	number(c, &b.Amount)
}

func (b *RequestUnlock) code(c *coder) { key32(c, &b.Node) }

func (b *ChangeEndpoint) code(c *coder) {
	key32(c, &b.Node)
	b.Endpoint.code(c)
}

func (b *StateChange) code(c *coder) {
	key32(c, &b.Node)
	if number(c, &b.Verdict); b.Verdict > Recommission {
		c.fail("there is no verdict %d", b.Verdict)
	}
	number(c, &b.Slot)
	list(c, &b.Votes, testersOfSlot, func(c *coder, v *Vote) {
		number(c, &v.Tester)
		number(c, &v.Reasons)
		c.fixed(v.Signature[:])
	})
}

func (b *Claim) code(c *coder) { key32(c, &b.Node) }

func (b *ParameterChange) code(c *coder) {
	c.text(&b.Name, 32)
	number(c, &b.Value)
	number(c, &b.Serial)
	list(c, &b.Votes, MaxCommittee, func(c *coder, v *MemberVote) {
		number(c, &v.Member)
		c.fixed(v.Signature[:])
	})
}

// unsigned codes all but the signature.
func (t *Tx) unsigned(c *coder) {
	version := uint8(txVersion)
	if number(c, &version); version != txVersion {
		c.fail("version %d", version)
	}
	var kind Kind
	if !c.reading {
		kind = t.Body.Kind()
	}
	number(c, &kind)
	c.text(&t.Chain, MaxChain)
	key32(c, &t.Signer)
	number(c, &t.Nonce)
	number(c, &t.Fee)
	if c.err != nil {
		return
	}
	if c.reading {
		if t.Body, c.err = newBody(kind); c.err != nil {
			return
		}
	}
	t.Body.code(c)
}

func (t *Tx) message() []byte {
	c := coder{b: []byte(tagTx)}
	t.unsigned(&c)
	return c.b
}

// Sign sets Signer and Signature.
func (t *Tx) Sign(s Signer) {
	t.Signer = s.Ed25519()
	t.Signature = [64]byte(s.Sign(t.message()))
}

// Encode gives the transaction's bytes. An error is a value that no transaction
// can have, such as a chain id that is too long.
func (t *Tx) Encode() ([]byte, error) {
	var c coder
	t.unsigned(&c)
	c.fixed(t.Signature[:])
	return c.b, c.err
}

// DecodeTx reads a transaction. It checks the form alone: [ErrOversized],
// [ErrMalformed]. What it takes has one encoding only.
func DecodeTx(b []byte) (*Tx, error) {
	if len(b) > MaxTx {
		return nil, fmt.Errorf("%w: %d bytes, at most %d allowed", ErrOversized, len(b), MaxTx)
	}
	t := new(Tx)
	c := coder{b: b, reading: true}
	t.unsigned(&c)
	c.fixed(t.Signature[:])
	if err := c.done(); err != nil {
		return nil, err
	}
	return t, nil
}

// Fee is the least that a transaction of so many bytes costs.
func (p *Params) Fee(bytes int) uint64 {
	return p.MinFee * uint64((bytes+feeStep-1)/feeStep)
}

// SignNode puts the signatures of the node's two keys into the registration by
// that operator.
func (b *Register) SignNode(chain string, operator Address, node, consensus Signer) {
	b.Node, b.Consensus = node.Ed25519(), consensus.Ed25519()
	m := b.message(chain, operator)
	b.NodeSignature = [64]byte(node.Sign(m))
	b.ConsensusSignature = [64]byte(consensus.Sign(m))
}

func (b *Register) message(chain string, operator Address) []byte {
	c := coder{b: []byte(tagNode)}
	c.text(&chain, MaxChain)
	key32(&c, &operator)
	b.unsigned(&c)
	return c.b
}

// SignVote is a tester's signature for a state change.
func SignVote(chain string, tester Signer, place uint8, node Key, v Verdict, slot uint64, reasons uint16) Vote {
	return Vote{Tester: place, Reasons: reasons, Signature: [64]byte(tester.Sign(voteMessage(chain, node, v, slot, reasons)))}
}

// CheckVote reports whether the vote is tester's.
func CheckVote(chain string, tester Key, node Key, v Verdict, slot uint64, vote Vote) bool {
	return keys.Verify(tester, voteMessage(chain, node, v, slot, vote.Reasons), vote.Signature[:])
}

func voteMessage(chain string, node Key, v Verdict, slot uint64, reasons uint16) []byte {
	c := coder{b: []byte(tagVote)}
	c.text(&chain, MaxChain)
	key32(&c, &node)
	number(&c, &v)
	number(&c, &slot)
	number(&c, &reasons)
	return c.b
}

// SignParameter is a committee member's signature, with its node key, for a
// parameter change.
func SignParameter(chain string, member Signer, place uint8, name string, value, serial uint64) MemberVote {
	return MemberVote{Member: place, Signature: [64]byte(member.Sign(parameterMessage(chain, name, value, serial)))}
}

func parameterMessage(chain, name string, value, serial uint64) []byte {
	c := coder{b: []byte(tagParameter)}
	c.text(&chain, MaxChain)
	c.text(&name, 32)
	number(&c, &value)
	number(&c, &serial)
	return c.b
}

// BeaconTx wraps a proposer's proof as the first entry of a block's transactions.
func BeaconTx(proof [80]byte) []byte {
	return slices.Concat([]byte{txVersion, byte(kindBeacon)}, proof[:])
}

// beaconOf returns the proof of a transaction made by BeaconTx.
func beaconOf(tx []byte) ([80]byte, bool) {
	if len(tx) != 82 || tx[0] != txVersion || tx[1] != byte(kindBeacon) {
		return [80]byte{}, false
	}
	return [80]byte(tx[2:]), true
}

// usable checks that others can reach the endpoint. Private addresses are
// refused unless the network is one of development.
func (e *Endpoint) usable(private bool) error {
	switch {
	case !e.IP.Is4() || e.IP.IsUnspecified() || e.IP.IsMulticast() || e.IP == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%w: %v is not the IPv4 address of one host", ErrEndpoint, e.IP)
	case e.HTTPS == 0:
		return fmt.Errorf("%w: no HTTPS port", ErrEndpoint)
	case !private && !public(e.IP):
		return fmt.Errorf("%w: %v cannot be reached from everywhere", ErrEndpoint, e.IP)
	}
	return nil
}

// public is what receivers of uptime proofs accept (oxen-core,
// handle_uptime_proof).
func public(ip netip.Addr) bool {
	b := ip.As4()
	return !ip.IsPrivate() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && b[0] != 0 && b[0] < 224 &&
		!(b[0] == 100 && b[1]&0xc0 == 64)
}

// TxHash is how the engine names a transaction: SHA-256 of its bytes.
func TxHash(tx []byte) [32]byte { return sha256.Sum256(tx) }
