package ledger

import (
	"encoding/json"
	"fmt"
	"math"

	"hearth/node/swarm"
)

// Coin is how many of the smallest units make one coin. All amounts are in units.
const Coin = 1_000_000_000

// MaxSupply bounds the sum of everything, so that no sum of amounts overflows.
const MaxSupply = math.MaxInt64

// Limits that are not parameters.
const (
	MaxContributors = 10     // with the operator (oxen-core, oxen_economy.h)
	MaxFeeBasis     = 10_000 // all of the reward, in hundredths of a percent
	MaxTx           = 16 << 10
	MaxCommittee    = 100
	MaxChain        = 50 // bytes of a chain id, as the engine allows

	operatorShare   = 4 // the operator holds at least one part in four
	testersOfSlot   = 10
	fewestTesters   = 4
	subjectsOfSlot  = 50
	floorOfMembers  = 4 // absence and leaving never make the committee smaller
	secondsOfYear   = 31_536_000
	secondsOfDay    = 86_400
	feeStep         = 1024 // bytes of a transaction for which one fee is due
	fallbackOfLeave = 2    // a node leaves the committee at the latest after so many unlock times
)

// Params are the numbers of a network that genesis chooses. Those marked as
// voted can be changed later by two thirds of the committee, within bounds.
// Times are in seconds of block time, shares in hundredths of a percent.
//
// The defaults are those of the public network (oxen-core,
// service_node_rules.h and the network configuration) with its blocks of two
// minutes turned into seconds; the credit is larger, because lines at home fail
// for longer than those of servers.
type Params struct {
	Requirement uint64 // voted; units that a node's contributors stake together
	MinFee      uint64 // voted; units for each started KiB of a transaction
	RewardRate  uint64 // voted; share of the pool that is paid in a year
	SlashRate   uint64 // voted; share of the whole stake lost for signing twice, taken from the operator's part
	Committee   uint64 // voted; most members, at most MaxCommittee

	Epoch          uint64 // between two seeds
	EvidenceAge    uint64 // as the engine's; a stake stays for longer than this after its node left the committee
	EvidenceBlocks uint64 // as the engine's; both must have passed
	Unlock         uint64 // from the request until the node leaves; longer than EvidenceAge
	DeregisterLock uint64 // from deregistration until the stake is paid back
	Await          uint64 // for the contributors of a new node, then all is paid back
	SmallLock      uint64 // before somebody with less than a quarter may ask for the unlock
	PayableAfter   uint64 // without a break before a node earns
	EndpointPause  uint64 // between two changes of a node's address

	CreditStart  uint64 // credit of a new node
	CreditPerDay uint64 // earned in a day of being active
	CreditCap    uint64
	CreditLeast  uint64 // below it a failing node is deregistered at once

	Slot     uint64 // a set of testers and subjects is drawn for each
	VoteLife uint64 // how long testers' votes can be used

	AbsentStep  uint64 // how often at most a member's absence is noted
	AbsentSteps uint64 // as many in a row and the member leaves the committee
	Jail        uint64 // before an absent member may come back

	SwarmMin    uint64 // as swarm.Rules
	SwarmMargin uint64
	SwarmNew    uint64

	Private uint64 // 1 lets nodes have addresses that the internet does not reach
}

// parameter is one of the Params with its name in files and its bounds.
type parameter struct {
	name     string
	of       func(*Params) *uint64
	usual    uint64
	min, max uint64
	voted    bool
}

const century = 100 * secondsOfYear

// parameters is the one list of them. Its order is that of the encoding: new
// ones go to the end.
var parameters = []parameter{
	{"requirement", func(p *Params) *uint64 { return &p.Requirement }, 25_000 * Coin, 100, MaxSupply / 16, true},
	{"min_fee", func(p *Params) *uint64 { return &p.MinFee }, Coin / 1000, 1, 1000 * Coin, true},
	{"reward_rate", func(p *Params) *uint64 { return &p.RewardRate }, 1510, 0, 5000, true},
	{"slash_rate", func(p *Params) *uint64 { return &p.SlashRate }, 500, 1, 2500, true},
	{"committee", func(p *Params) *uint64 { return &p.Committee }, MaxCommittee, floorOfMembers, MaxCommittee, true},

	{"epoch", func(p *Params) *uint64 { return &p.Epoch }, 3600, 1, century, false},
	{"evidence_age", func(p *Params) *uint64 { return &p.EvidenceAge }, 14 * secondsOfDay, 1, century, false},
	{"evidence_blocks", func(p *Params) *uint64 { return &p.EvidenceBlocks }, 14 * secondsOfDay / 120, 1, math.MaxInt32, false},
	{"unlock", func(p *Params) *uint64 { return &p.Unlock }, 15 * secondsOfDay, 2, century, false},
	{"deregister_lock", func(p *Params) *uint64 { return &p.DeregisterLock }, 30 * secondsOfDay, 2, century, false},
	{"await", func(p *Params) *uint64 { return &p.Await }, secondsOfDay, 1, century, false},
	{"small_lock", func(p *Params) *uint64 { return &p.SmallLock }, 30 * secondsOfDay, 0, century, false},
	{"payable_after", func(p *Params) *uint64 { return &p.PayableAfter }, secondsOfDay, 0, century, false},
	{"endpoint_pause", func(p *Params) *uint64 { return &p.EndpointPause }, 2 * 3600, 0, century, false},

	{"credit_start", func(p *Params) *uint64 { return &p.CreditStart }, 2 * 3600, 0, century, false},
	{"credit_per_day", func(p *Params) *uint64 { return &p.CreditPerDay }, 4 * 3600, 0, secondsOfDay, false},
	{"credit_cap", func(p *Params) *uint64 { return &p.CreditCap }, 7 * secondsOfDay, 0, century, false},
	{"credit_least", func(p *Params) *uint64 { return &p.CreditLeast }, 2 * 3600, 0, century, false},

	{"slot", func(p *Params) *uint64 { return &p.Slot }, 120, 1, secondsOfDay, false},
	{"vote_life", func(p *Params) *uint64 { return &p.VoteLife }, 2 * 3600, 1, century, false},

	{"absent_step", func(p *Params) *uint64 { return &p.AbsentStep }, 600, 1, century, false},
	{"absent_steps", func(p *Params) *uint64 { return &p.AbsentSteps }, 7, 1, 1000, false},
	{"jail", func(p *Params) *uint64 { return &p.Jail }, secondsOfDay, 0, century, false},

	{"swarm_min", func(p *Params) *uint64 { return &p.SwarmMin }, uint64(swarm.MainnetRules.MinSize), 1, 1000, false},
	{"swarm_margin", func(p *Params) *uint64 { return &p.SwarmMargin }, uint64(swarm.MainnetRules.IdealMargin), 0, 1000, false},
	{"swarm_new", func(p *Params) *uint64 { return &p.SwarmNew }, uint64(swarm.MainnetRules.NewSize), 1, 1000, false},

	{"private", func(p *Params) *uint64 { return &p.Private }, 0, 0, 1, false},
}

// DefaultParams are the numbers of a public network.
func DefaultParams() Params {
	var p Params
	for _, d := range parameters {
		*d.of(&p) = d.usual
	}
	return p
}

// Rules are the sizes of swarms.
func (p *Params) Rules() swarm.Rules {
	r := swarm.MainnetRules
	r.MinSize, r.IdealMargin, r.NewSize = int(p.SwarmMin), int(p.SwarmMargin), int(p.SwarmNew)
	return r
}

func (p *Params) code(c *coder) {
	for _, d := range parameters {
		number(c, d.of(p))
	}
}

// check returns [ErrBounds] for numbers with which a ledger would not be safe.
func (p *Params) check() error {
	for _, d := range parameters {
		if v := *d.of(p); v < d.min || v > d.max {
			return fmt.Errorf("%w: %s is %d, allowed are %d to %d", ErrBounds, d.name, v, d.min, d.max)
		}
	}
	for _, o := range []struct {
		more, less         uint64
		moreName, lessName string
	}{
		{p.Unlock, p.EvidenceAge, "unlock", "evidence_age"},
		{p.DeregisterLock, p.EvidenceAge, "deregister_lock", "evidence_age"},
	} {
		if o.more <= o.less {
			return fmt.Errorf("%w: %s (%d s) must be longer than %s (%d s)", ErrBounds, o.moreName, o.more, o.lessName, o.less)
		}
	}
	if p.SwarmNew < p.SwarmMin {
		return fmt.Errorf("%w: a new swarm of %d would be below the minimum of %d", ErrBounds, p.SwarmNew, p.SwarmMin)
	}
	return nil
}

// MarshalJSON writes an object with the names that genesis files use.
func (p Params) MarshalJSON() ([]byte, error) {
	m := make(map[string]uint64, len(parameters))
	for _, d := range parameters {
		m[d.name] = *d.of(&p)
	}
	return json.Marshal(m) // sorts the names
}

// UnmarshalJSON reads the same; what is missing has its default, and a name that
// is none of the parameters is an error.
func (p *Params) UnmarshalJSON(b []byte) error {
	var m map[string]uint64
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*p = DefaultParams()
	for _, d := range parameters {
		if v, given := m[d.name]; given {
			*d.of(p) = v
			delete(m, d.name)
		}
	}
	for name := range m {
		return fmt.Errorf("%w: there is no parameter %q", ErrBounds, name)
	}
	return nil
}

// votable finds a parameter that the committee may change.
func votable(name string) (int, error) {
	for i, d := range parameters {
		if d.name == name && d.voted {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: %q cannot be voted on", ErrBounds, name)
}

// step checks a change of a voted parameter: within its bounds, and at most to
// the double or the half, so that a bad vote is noticed before it has done much.
func (d *parameter) step(old, new uint64) error {
	if new < d.min || new > d.max {
		return fmt.Errorf("%w: %s of %d, allowed are %d to %d", ErrBounds, d.name, new, d.min, d.max)
	}
	if new > max(2*old, 1) || new < old/2 {
		return fmt.Errorf("%w: %s from %d to %d is more than the double or less than the half", ErrBounds, d.name, old, new)
	}
	return nil
}
