package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"hearth/node/swarm"
)

// Prefixes of the state's keys.
const (
	prefixNode    = 'n' // node key → Node
	prefixAccount = 'a' // address → Account
	prefixDue     = 'u' // time, event, node key → nothing: what happens by itself
	prefixMember  = 'c' // consensus key → member
	prefixBarred  = 'b' // consensus key → nothing
	prefixSwarm   = 'w' // swarm → keys of its members
	keyChain      = "p" // parameters and seed
	keyRewards    = "r" // pool and index
)

// KeyList is the key whose proof a light client asks for: [ListHead].
const KeyList = "l"

func stateKey(prefix byte, k Key) []byte { return append([]byte{prefix}, k[:]...) }

// Account is what an address has.
type Account struct {
	Balance uint64
	Nonce   uint64 // of its next transaction
}

func (a *Account) code(c *coder) {
	number(c, &a.Balance)
	number(c, &a.Nonce)
}

// Status is where a node is in its life.
type Status uint8

// All states, in the order in which a node without trouble goes through them.
const (
	Awaiting       Status = iota + 1 // not all of the stake is there
	Waiting                          // becomes active, in a swarm, at the end of the epoch
	Active                           //
	Decommissioned                   // failed tests; out of its swarm, earns nothing
	Leaving                          // gone for good; the stake is still locked
)

func (s Status) String() string {
	names := [...]string{"unknown", "awaiting contributors", "waiting for the next epoch", "active", "decommissioned", "leaving"}
	if int(s) >= len(names) {
		return names[0]
	}
	return names[s]
}

// Contributor is somebody with a stake in a node.
type Contributor struct {
	Staker      Address
	Beneficiary Address
	Amount      uint64 // paid
	Reserved    uint64 // to be paid by this staker alone; 0 once it is
}

// Node is everything the ledger knows of a node. Times are Unix seconds of block
// time, 0 when it has not happened.
type Node struct {
	Key       Key `json:"-"` // also the key of the record
	Consensus Key
	Beacon    Key
	Status    Status
	Since     int64 // of Status

	Requirement  uint64
	Fee          uint16        // operator's, in hundredths of a percent
	Contributors []Contributor // operator first

	Endpoint   Endpoint
	EndpointAt int64

	Registered int64
	Credit     uint64 // seconds, at Since; see CreditAt
	Payable    bool   // earns a share
	Index      uint64 // of the rewards that are paid out

	UnlockHeight uint64 // block of the request, 0 when nobody asked
	UnlockAt     int64
	Release      int64 // of a Leaving node's stake, not before

	Jailed     int64 // no committee until then
	Left       int64 // the committee, for the last time
	LeftHeight uint64

	Outages    uint32 // decommissions so far
	ReasonsAll uint16 // of the last one: named by all testers, by any of them
	ReasonsAny uint16
}

func (n *Node) code(c *coder) {
	key32(c, &n.Consensus)
	key32(c, &n.Beacon)
	number(c, &n.Status)
	number(c, &n.Since)
	number(c, &n.Requirement)
	number(c, &n.Fee)
	list(c, &n.Contributors, MaxContributors, func(c *coder, o *Contributor) {
		key32(c, &o.Staker)
		key32(c, &o.Beneficiary)
		number(c, &o.Amount)
		number(c, &o.Reserved)
	})
	n.Endpoint.code(c)
	number(c, &n.EndpointAt)
	number(c, &n.Registered)
	number(c, &n.Credit)
	c.flag(&n.Payable)
	number(c, &n.Index)
	number(c, &n.UnlockHeight)
	number(c, &n.UnlockAt)
	number(c, &n.Release)
	number(c, &n.Jailed)
	number(c, &n.Left)
	number(c, &n.LeftHeight)
	number(c, &n.Outages)
	number(c, &n.ReasonsAll)
	number(c, &n.ReasonsAny)
}

// Stake is what the contributors have paid and not lost, in units.
func (n *Node) Stake() uint64 {
	var sum uint64
	for _, o := range n.Contributors {
		sum += o.Amount
	}
	return sum
}

// Operator is the account that registered the node.
func (n *Node) Operator() Address { return n.Contributors[0].Staker }

// CreditAt is for how many seconds the node could be away at that time before
// it is deregistered; negative when it has been away for longer. The rule is the
// public network's (oxen-core, calculate_decommission_credit), in seconds.
func (n *Node) CreditAt(p *Params, now int64) int64 {
	switch n.Status {
	case Active:
		earned := mulDiv(uint64(max(now-n.Since, 0)), p.CreditPerDay, secondsOfDay)
		return int64(min(n.Credit+earned, max(p.CreditCap, n.Credit)))
	case Decommissioned:
		return int64(n.Credit) - (now - n.Since)
	}
	return int64(n.Credit)
}

// mulDiv is a·b/d, rounded down, for results that fit.
func mulDiv(a, b, d uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	q, _ := bits.Div64(hi%d, lo, d)
	return q
}

// member is a consensus key with what the committee has to do with it.
type member struct {
	Node   Key
	Power  uint64 // 0 outside of the committee, 1 inside
	Absent uint64 // how often in a row it was found absent
	Noted  int64  // when Absent was written
}

func (m *member) code(c *coder) {
	key32(c, &m.Node)
	number(c, &m.Power)
	number(c, &m.Absent)
	number(c, &m.Noted)
}

// Chain is what all of the ledger has once.
type Chain struct {
	ID      string
	Supply  uint64
	Params  Params
	Serial  uint64 // parameter changes so far
	Changed uint64 // epoch of the last one

	Epoch     uint64
	Started   int64 // the epoch
	Seed      Key
	LastEpoch int64 // start of the epoch before
	LastSeed  Key
	Committee uint64 // members when the epoch started
}

func (s *Chain) code(c *coder) {
	c.text(&s.ID, MaxChain)
	number(c, &s.Supply)
	s.Params.code(c)
	number(c, &s.Serial)
	number(c, &s.Changed)
	number(c, &s.Epoch)
	number(c, &s.Started)
	key32(c, &s.Seed)
	number(c, &s.LastEpoch)
	key32(c, &s.LastSeed)
	number(c, &s.Committee)
}

// Rewards is the pool and what was taken out of it.
type Rewards struct {
	Pool    uint64 // not yet given to anybody
	Owed    uint64 // given to nodes, not yet paid to accounts
	Index   uint64 // units that a node would have got that earned since genesis
	At      int64  // when Index was brought up to date
	Earning uint64 // nodes that get a share
	Slashed uint64 // gone for good
}

func (r *Rewards) code(c *coder) {
	number(c, &r.Pool)
	number(c, &r.Owed)
	number(c, &r.Index)
	number(c, &r.At)
	number(c, &r.Earning)
	number(c, &r.Slashed)
}

// View reads the state. It is only as safe for concurrent use as the store
// under it, and only as constant.
type View struct {
	store Store
	err   error
}

// NewView reads what a [Machine] has written to the store.
func NewView(s Store) *View { return &View{store: s} }

// Err is the first error of the store or of a record that could not be read.
// After one the answers mean nothing.
func (v *View) Err() error { return v.err }

func (v *View) fail(err error) {
	if v.err == nil && err != nil {
		v.err = fmt.Errorf("%w: %w", ErrState, err)
	}
}

// load reads a record; false when there is none.
func (v *View) load(key []byte, r record) bool {
	b, err := v.store.Get(key)
	if err != nil {
		v.fail(err)
		return false
	}
	if b == nil {
		return false
	}
	if err := decode(b, r); err != nil {
		v.fail(fmt.Errorf("record %x: %w", key, err))
		return false
	}
	return true
}

// Chain returns the parameters, the seed and their like.
func (v *View) Chain() Chain {
	var c Chain
	if !v.load([]byte(keyChain), &c) {
		v.fail(errors.New("no chain: genesis was not executed"))
	}
	return c
}

// Rewards returns the pool.
func (v *View) Rewards() Rewards {
	var r Rewards
	v.load([]byte(keyRewards), &r)
	return r
}

// Account returns what an address has; nothing when it is not known.
func (v *View) Account(a Address) Account {
	var r Account
	v.load(stateKey(prefixAccount, a), &r)
	return r
}

// Node returns a node's record.
func (v *View) Node(k Key) (*Node, bool) {
	n := &Node{Key: k}
	return n, v.load(stateKey(prefixNode, k), n)
}

// Barred reports whether a consensus key has signed twice.
func (v *View) Barred(consensus Key) bool {
	b, err := v.store.Get(stateKey(prefixBarred, consensus))
	v.fail(err)
	return b != nil
}

// each visits the keys with a prefix, ascending, without the prefix. visit may
// write.
func (v *View) each(prefix byte, visit func(key, value []byte)) {
	type entry struct{ k, v []byte }
	var all []entry
	v.fail(v.store.Range([]byte{prefix}, []byte{prefix + 1}, func(key, value []byte) bool {
		all = append(all, entry{slices.Clone(key[1:]), value})
		return true
	}))
	for _, e := range all {
		visit(e.k, e.v)
	}
}

// Nodes returns all nodes by ascending key.
func (v *View) Nodes() []*Node {
	var all []*Node
	v.each(prefixNode, func(key, value []byte) {
		if len(key) != 32 {
			v.fail(fmt.Errorf("node with a key of %d bytes", len(key)))
			return
		}
		n := &Node{Key: Key(key)}
		if err := decode(value, n); err != nil {
			v.fail(fmt.Errorf("node %x: %w", key, err))
			return
		}
		all = append(all, n)
	})
	return all
}

// active are the active nodes by ascending key.
func (v *View) active() []*Node {
	return slices.DeleteFunc(v.Nodes(), func(n *Node) bool { return n.Status != Active })
}

// Validator is a consensus key with its power: what the engine needs to know of
// a committee member.
type Validator struct {
	Consensus Key
	Node      Key
	Power     uint64 // 0 takes the key out
}

// Consensus returns the consensus keys of all nodes by ascending key, those
// outside of the committee with power 0.
func (v *View) Consensus() []Validator {
	var all []Validator
	v.each(prefixMember, func(key, value []byte) {
		var m member
		if err := decode(value, &m); err != nil || len(key) != 32 {
			v.fail(fmt.Errorf("member %x: %v", key, err))
			return
		}
		all = append(all, Validator{Key(key), m.Node, m.Power})
	})
	return all
}

// Committee returns the members by ascending consensus key.
func (v *View) Committee() []Validator {
	return slices.DeleteFunc(v.Consensus(), func(m Validator) bool { return m.Power == 0 })
}

func (v *View) member(consensus Key) (member, bool) {
	var m member
	ok := v.load(stateKey(prefixMember, consensus), &m)
	return m, ok
}

func swarmKey(id swarm.ID) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixSwarm}, uint64(id))
}

// Swarms returns the members of every swarm, by ascending key.
func (v *View) Swarms() map[swarm.ID][]Key {
	all := make(map[swarm.ID][]Key)
	v.each(prefixSwarm, func(key, value []byte) {
		if len(key) != 8 || len(value)%32 != 0 {
			v.fail(fmt.Errorf("swarm %x with %d bytes of members", key, len(value)))
			return
		}
		id := swarm.ID(binary.BigEndian.Uint64(key))
		for k := range slices.Chunk(value, 32) {
			all[id] = append(all[id], Key(k))
		}
	})
	return all
}

func (d *draft) save(key []byte, r record) { d.fail(d.over.Set(key, encode(r))) }

func (d *draft) drop(key []byte) { d.fail(d.over.Delete(key)) }

func (d *draft) saveChain() { d.save([]byte(keyChain), &d.chain) }

func (d *draft) saveNode(n *Node) { d.save(stateKey(prefixNode, n.Key), n) }

func (d *draft) saveMember(consensus Key, m member) { d.save(stateKey(prefixMember, consensus), &m) }

func (d *draft) saveAccount(a Address, r Account) {
	if r == (Account{}) {
		d.drop(stateKey(prefixAccount, a))
		return
	}
	d.save(stateKey(prefixAccount, a), &r)
}

// pay adds to a balance. The supply bounds all sums, so nothing overflows.
func (d *draft) pay(a Address, amount uint64) {
	if amount == 0 {
		return
	}
	r := d.Account(a)
	r.Balance += amount
	d.saveAccount(a, r)
}

// take takes from a balance.
func (d *draft) take(a Address, amount uint64) error {
	r := d.Account(a)
	if r.Balance < amount {
		return fmt.Errorf("%w: %d units are there, %d are needed", ErrFunds, r.Balance, amount)
	}
	r.Balance -= amount
	d.saveAccount(a, r)
	return nil
}

// event is what happens by itself at a time.
type event uint8

const (
	eventExpire  event = iota + 1 // a node did not find its contributors
	eventPayable                  // a node has been active for long enough to earn
	eventUnlock                   // a node's time to leave has come
	eventRelease                  // a stake is paid back
	eventLeft                     // a committee without a former member decides
)

func dueKey(at int64, e event, node Key) []byte {
	k := binary.BigEndian.AppendUint64([]byte{prefixDue}, uint64(at))
	return append(append(k, byte(e)), node[:]...)
}

func (d *draft) schedule(at int64, e event, node Key) {
	d.fail(d.over.Set(dueKey(at, e, node), []byte{1}))
}

func (d *draft) unschedule(at int64, e event, node Key) { d.drop(dueKey(at, e, node)) }
