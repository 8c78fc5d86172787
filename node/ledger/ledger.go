// Package ledger is the staking ledger: who is a service node, with whose stake,
// in which swarm, tested how, paid what.
//
// It is a state machine in plain Go. [Machine.Start] writes the state of a
// [Genesis] into a [Store], [Machine.Execute] applies one [Block] after the
// other, and a [View] reads. Everything that a block does follows from the
// state and the block alone: no clock, no randomness but the seed in the state,
// integers, sorted iteration. So all nodes that execute the same blocks have the
// same state, byte for byte. Which blocks there are, and that all nodes get the
// same ones, is the business of an engine; the package engine beside this one
// has it.
//
// Transactions ([Tx]) are signed by an account, which is an Ed25519 key. A
// [Door] says whether one would be accepted, before it is shown to anybody.
//
//	register ─► awaiting contributors ─► waiting ─► active ◄─► decommissioned
//	                  │ a day               epoch      │ unlock,       │
//	                  ▼                                ▼ deregistered, ▼ signed twice
//	               paid back                        leaving ─► paid back after its lock
//
// The rules are those of the public network of Session nodes (oxen-core,
// service_node_list, service_node_quorum_cop; session-token-contracts), with
// times in seconds instead of blocks, and without a second chain. What an own
// network needs in addition is the committee: up to a hundred of the nodes that
// decide on blocks.
package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"hearth/node/keys"
	"hearth/node/ledger/vrf"
)

// Block is what the engine has decided.
type Block struct {
	Height   uint64
	Time     time.Time // counted in whole seconds
	Proposer Key       // its consensus key; zero when it is not known
	Signers  []Presence
	Evidence []Key // consensus keys that provably signed two blocks of one height
	Txs      [][]byte
}

// Presence says whether a member of the committee signed the block before.
type Presence struct {
	Consensus Key
	Absent    bool
}

// Result is what a block did.
type Result struct {
	Refused []error     // for each transaction, nil when it was executed
	Updates []Validator // of the committee, by ascending key; a power of 0 takes a key out
	List    bool        // the list of active nodes is another one
	Epoch   bool        // the block ended an epoch

	// Suppressed says why the committee stays as it was although the rules wanted
	// to change it. The check that speaks here stands between a fault in the rules
	// and a halt of the whole network; it has nothing to say as long as there is none.
	Suppressed error
}

// Machine executes blocks. It is not safe for concurrent use.
type Machine struct{ store Store }

// New makes a machine over the state in the store.
func New(s Store) *Machine { return &Machine{store: s} }

// View reads the state after the last block.
func (m *Machine) View() *View { return NewView(m.store) }

// Execute applies a block to the store. An error is [ErrState], and nothing is
// written then; whatever is wrong with a transaction is only in the result.
func (m *Machine) Execute(b *Block) (*Result, error) {
	d, err := m.begin(b)
	if err != nil {
		return nil, err
	}
	r := &Result{Refused: make([]error, len(b.Txs))}
	for _, consensus := range b.Evidence {
		d.slash(consensus)
	}
	for _, s := range b.Signers {
		d.present(s)
	}
	var drawn *Key
	for i, raw := range b.Txs {
		if proof, ok := beaconOf(raw); ok {
			if i > 0 {
				r.Refused[i] = fmt.Errorf("%w: a part of the seed stands first in its block", ErrMalformed)
				continue
			}
			drawn, r.Refused[i] = d.beacon(proof)
			continue
		}
		r.Refused[i] = d.try(raw)
	}
	d.happenDue()
	r.Epoch = d.endEpoch(drawn)
	if d.regroup {
		d.composeSwarms()
	}
	if d.regroup || d.relist {
		r.List = d.writeList()
	}
	r.Updates, r.Suppressed = d.updates()
	if d.err == nil {
		d.fail(d.over.flush())
	}
	if d.err != nil {
		return nil, d.err
	}
	return r, nil
}

// draft is the state while a block or a transaction is applied: a view that also
// writes, into a layer.
type draft struct {
	View
	over  *layer
	block *Block
	now   int64
	chain Chain // as saveChain writes it

	regroup bool           // the set of active nodes has changed
	relist  bool           // what the list says of a node has changed
	powers  map[Key]uint64 // of the members that changed, as they were before the block
}

func (m *Machine) begin(b *Block) (*draft, error) {
	over := newLayer(m.store)
	d := &draft{View: View{store: over}, over: over, block: b, now: b.Time.Unix(), powers: make(map[Key]uint64)}
	d.chain = d.Chain()
	if d.now < 0 {
		d.fail(fmt.Errorf("block of %d, before 1970", d.now))
	}
	return d, d.err
}

// inner is a draft over this one, which adopt takes over or which is forgotten.
func (d *draft) inner() *draft {
	over := newLayer(d.over)
	return &draft{View: View{store: over}, over: over, block: d.block, now: d.now, chain: d.chain, powers: maps.Clone(d.powers)}
}

func (d *draft) adopt(i *draft) {
	d.fail(i.over.flush())
	d.chain, d.powers = i.chain, i.powers
	d.regroup = d.regroup || i.regroup
	d.relist = d.relist || i.relist
}

// try executes a transaction, or leaves everything as it was and says why.
func (d *draft) try(raw []byte) error {
	t, err := DecodeTx(raw)
	if err != nil {
		return err
	}
	i := d.inner()
	err = i.apply(t, len(raw))
	if i.err != nil { // what apply says then comes from records that were not read
		d.fail(i.err)
		return i.err
	}
	if err == nil {
		d.adopt(i)
	}
	return err
}

// apply checks what costs little before it checks signatures.
func (d *draft) apply(t *Tx, size int) error {
	if t.Chain != d.chain.ID {
		return fmt.Errorf("%w: %q, this is %q", ErrChain, t.Chain, d.chain.ID)
	}
	least := d.chain.Params.Fee(size)
	if d.free(t) {
		least = 0
	}
	if t.Fee < least {
		return fmt.Errorf("%w: %d units, at least %d are due for %d bytes", ErrFee, t.Fee, least, size)
	}
	a := d.Account(t.Signer)
	switch {
	case t.Nonce != a.Nonce:
		return fmt.Errorf("%w: %d, the next one is %d", ErrNonce, t.Nonce, a.Nonce)
	case t.Fee > a.Balance:
		return fmt.Errorf("%w: %d units are there, the fee is %d", ErrFunds, a.Balance, t.Fee)
	case !keys.Verify(t.Signer, t.message(), t.Signature[:]):
		return fmt.Errorf("%w: not one of %x over this transaction", ErrSignature, t.Signer[:4])
	}
	a.Nonce++
	a.Balance -= t.Fee
	d.saveAccount(t.Signer, a)
	if t.Fee > 0 {
		r := d.Rewards()
		r.Pool += t.Fee
		d.saveRewards(r)
	}
	switch b := t.Body.(type) {
	case *Transfer:
		return d.transfer(t.Signer, b)
	case *Register:
		return d.register(t.Signer, b)
	case *AddStake:
		return d.addStake(t.Signer, b)
	case *RequestUnlock:
		return d.requestUnlock(t.Signer, b)
	case *ChangeEndpoint:
		return d.changeEndpoint(t.Signer, b)
	case *StateChange:
		return d.changeState(t.Signer, b)
	case *Claim:
		return d.claim(t.Signer, b)
	case *ParameterChange:
		return d.changeParameter(b)
	}
	return fmt.Errorf("%w: of an unknown kind", ErrMalformed)
}

// free reports whether nodes may send the transaction without a fee, because
// their stake and other rules already bound how many there can be.
func (d *draft) free(t *Tx) bool {
	switch b := t.Body.(type) {
	case *ChangeEndpoint:
		return t.Signer == b.Node
	case *StateChange:
		n, ok := d.Node(t.Signer)
		return ok && n.Status == Active
	}
	return false
}

func (d *draft) transfer(from Address, b *Transfer) error {
	if b.Amount == 0 {
		return fmt.Errorf("%w: nothing to transfer", ErrAmount)
	}
	if err := d.take(from, b.Amount); err != nil {
		return err
	}
	d.pay(b.To, b.Amount)
	return nil
}

// happenDue does what was scheduled for the block's time or earlier.
func (d *draft) happenDue() {
	var due [][]byte
	d.fail(d.store.Range([]byte{prefixDue}, dueKey(d.now+1, 0, Key{}), func(key, _ []byte) bool {
		due = append(due, slices.Clone(key))
		return true
	}))
	for _, k := range due {
		if len(k) != 1+8+1+32 {
			d.fail(fmt.Errorf("event with a key of %d bytes", len(k)))
			return
		}
		at, e, node := int64(binary.BigEndian.Uint64(k[1:])), event(k[9]), Key(k[10:])
		n, ok := d.Node(node)
		if !ok {
			d.drop(k)
			continue
		}
		again := int64(0)
		switch e {
		case eventExpire:
			if n.Status == Awaiting {
				d.dissolve(n)
			}
		case eventPayable:
			d.startEarning(n)
		case eventUnlock:
			d.unlock(n)
		case eventRelease:
			again = d.release(n)
		case eventLeft:
			again = d.noteLeft(n, at)
		}
		if again == at {
			continue // looked at again in the next block
		}
		d.drop(k)
		if again != 0 {
			d.schedule(again, e, node)
		}
	}
}

// endEpoch begins another epoch when its time has come and a proposer has given
// its part of the seed. When none does for another epoch's time, the seed goes
// on without.
func (d *draft) endEpoch(drawn *Key) bool {
	if !d.epochDue() {
		return false
	}
	next := Key(sha256.Sum256(fmt.Appendf(nil, "hearth ledger v1 seed without a proposer%s%d", d.chain.Seed[:], d.chain.Epoch)))
	if drawn != nil {
		next = *drawn
	} else if d.now < d.chain.Started+2*int64(d.chain.Params.Epoch) {
		return false
	}
	d.chain.Epoch++
	d.chain.LastEpoch, d.chain.LastSeed = d.chain.Started, d.chain.Seed
	d.chain.Started, d.chain.Seed = d.now, next
	d.accrue()
	for _, n := range d.Nodes() {
		if n.Status == Waiting {
			d.activate(n)
		}
	}
	d.chooseCommittee()
	d.saveChain()
	return true
}

func (d *draft) epochDue() bool { return d.now >= d.chain.Started+int64(d.chain.Params.Epoch) }

// SeedMessage is what proposers prove with package vrf to end the epoch after
// which c stands.
func (c *Chain) SeedMessage() []byte {
	return binary.BigEndian.AppendUint64(slices.Concat([]byte("hearth ledger v1 seed"), []byte(c.ID), c.Seed[:]), c.Epoch)
}

// EpochDue reports whether a block of that time may end the epoch.
func (c *Chain) EpochDue(t time.Time) bool {
	return t.Unix() >= c.Started+int64(c.Params.Epoch)
}

// beacon checks a proposer's part of the seed and returns the next seed.
func (d *draft) beacon(proof [80]byte) (*Key, error) {
	if !d.epochDue() {
		return nil, fmt.Errorf("%w: the epoch has not ended", ErrTooSoon)
	}
	m, ok := d.member(d.block.Proposer)
	if !ok {
		return nil, fmt.Errorf("%w: the proposer", ErrUnknown)
	}
	n, ok := d.Node(m.Node)
	if !ok {
		return nil, fmt.Errorf("%w: the proposer", ErrUnknown)
	}
	out, err := vrf.Verify(n.Beacon, d.chain.SeedMessage(), proof)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	next := Key(sha256.Sum256(slices.Concat([]byte("hearth ledger v1 next seed"), d.chain.Seed[:], out[:])))
	return &next, nil
}

// Door says which transactions a node takes in and passes on. It remembers those
// it has let in, so that the next transaction of the same account fits behind
// them. It is not safe for concurrent use.
type Door struct{ d *draft }

// Door opens the door after a block of that height and time. When the next block
// has been executed there must be a new one.
func (m *Machine) Door(height uint64, at time.Time) (*Door, error) {
	d, err := m.begin(&Block{Height: height + 1, Time: at})
	if err != nil {
		return nil, err
	}
	return &Door{d}, nil
}

// Check returns why a transaction is refused, nil when it is let in. It returns
// [ErrState] when the state cannot be read.
func (o *Door) Check(raw []byte) error {
	if _, ok := beaconOf(raw); ok {
		return fmt.Errorf("%w: a part of the seed comes with its block alone", ErrMalformed)
	}
	return o.d.try(raw)
}

// Fill chooses the transactions of a new block with that proposer: those that
// will be executed, in the given order, up to so many bytes. seed, when the
// epoch is due, is the proposer's key for its part of the next seed; nil leaves
// it out. extra is what the engine adds to each transaction.
func (m *Machine) Fill(b *Block, seed *vrf.Secret, limit int64, extra int64) ([][]byte, error) {
	d, err := m.begin(b)
	if err != nil {
		return nil, err
	}
	var chosen [][]byte
	if seed != nil && d.epochDue() {
		tx := BeaconTx(seed.Prove(d.chain.SeedMessage()))
		chosen = append(chosen, tx)
		limit -= int64(len(tx)) + extra
	}
	for _, raw := range b.Txs {
		if _, ok := beaconOf(raw); ok || int64(len(raw))+extra > limit {
			continue
		}
		if d.try(raw) == nil {
			chosen = append(chosen, raw)
			limit -= int64(len(raw)) + extra
		}
		if d.err != nil {
			return nil, d.err
		}
	}
	return chosen, nil
}

// Proper reports what makes a proposed block one that no honest node proposes:
// a transaction that is none, or a false part of the seed. Transactions that
// will be refused are no reason: a node may have seen another state.
func (m *Machine) Proper(b *Block) error {
	for i, raw := range b.Txs {
		proof, ok := beaconOf(raw)
		if !ok {
			if _, err := DecodeTx(raw); err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			return fmt.Errorf("%w: a part of the seed stands first in its block", ErrMalformed)
		}
		d, err := m.begin(b)
		if err != nil {
			return err
		}
		if _, err := d.beacon(proof); err != nil {
			return err
		}
	}
	return nil
}
