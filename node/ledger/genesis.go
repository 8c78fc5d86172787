package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// MaxGenesis is how many bytes a genesis file may have.
const MaxGenesis = 4 << 20

const (
	maxGenesisAccounts = 20_000
	maxGenesisNodes    = 2_000
)

// Genesis is how a ledger begins. Its file is JSON:
//
//	{
//	  "chain": "hearth-1",
//	  "time": 1800000000,
//	  "params": {"requirement": 25000000000000},
//	  "pool": 40000000000000000,
//	  "accounts": [{"address": "…64 hex digits…", "balance": 1000000000}],
//	  "nodes": [{
//	    "node": "…", "consensus": "…", "beacon": "…", "operator": "…", "fee": 1000,
//	    "endpoint": {"ip": "203.0.113.7", "https": 22021, "quic": 22020, "ledger": 22022, "version": [2, 8, 0]}
//	  }]
//	}
//
// Amounts are in units, of which 10^9 make a coin; what is missing in params has
// its default. The nodes are active from the beginning, with the whole stake paid
// by their operators out of nothing: it is part of the supply, like the pool and
// the balances. Whoever runs another file runs another ledger.
type Genesis struct {
	Chain    string           `json:"chain"`
	Time     int64            `json:"time"` // Unix seconds
	Params   Params           `json:"params"`
	Pool     uint64           `json:"pool"`
	Accounts []GenesisAccount `json:"accounts"`
	Nodes    []GenesisNode    `json:"nodes"`
}

// GenesisAccount is an account with a balance.
type GenesisAccount struct {
	Address HexKey `json:"address"`
	Balance uint64 `json:"balance"`
}

// GenesisNode is a node of the first hour.
type GenesisNode struct {
	Node        HexKey          `json:"node"`
	Consensus   HexKey          `json:"consensus"`
	Beacon      HexKey          `json:"beacon"`
	Operator    HexKey          `json:"operator"`
	Beneficiary *HexKey         `json:"beneficiary,omitempty"` // the operator when missing
	Fee         uint16          `json:"fee"`
	Endpoint    GenesisEndpoint `json:"endpoint"`
}

// GenesisEndpoint is an [Endpoint] in a file.
type GenesisEndpoint struct {
	IP      netip.Addr `json:"ip"`
	HTTPS   uint16     `json:"https"`
	QUIC    uint16     `json:"quic"`
	Ledger  uint16     `json:"ledger"`
	Version [3]uint8   `json:"version"`
}

// HexKey is a key that files write in hexadecimal.
type HexKey Key

// MarshalText writes 64 hexadecimal digits.
func (k HexKey) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText reads them.
func (k *HexKey) UnmarshalText(b []byte) error {
	if len(b) != 64 {
		return fmt.Errorf("key of %d characters, it has 64 hexadecimal digits", len(b))
	}
	_, err := hex.Decode(k[:], b)
	return err
}

// ReadGenesis reads a file and checks all of it. The error is [ErrGenesis].
func ReadGenesis(r io.Reader) (*Genesis, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxGenesis+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGenesis, err)
	}
	return ParseGenesis(b)
}

// ParseGenesis is [ReadGenesis] for bytes.
func ParseGenesis(b []byte) (*Genesis, error) {
	if len(b) > MaxGenesis {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrGenesis, MaxGenesis)
	}
	g := &Genesis{Params: DefaultParams()}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(g); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGenesis, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows its end", ErrGenesis)
	}
	if err := g.Check(); err != nil {
		return nil, err
	}
	return g, nil
}

// Check returns [ErrGenesis] for what cannot start a ledger.
func (g *Genesis) Check() error {
	_, err := g.supply()
	return err
}

// supply checks everything and adds up all units.
func (g *Genesis) supply() (uint64, error) {
	bad := func(format string, args ...any) (uint64, error) {
		return 0, fmt.Errorf("%w: %w", ErrGenesis, fmt.Errorf(format, args...))
	}
	if g.Chain == "" || len(g.Chain) > MaxChain {
		return bad("the chain id has 1 to %d bytes", MaxChain)
	}
	for _, r := range g.Chain {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			return bad("the chain id has a character %q", r)
		}
	}
	if g.Time < 1 || g.Time > 1<<40 {
		return bad("a time of %d", g.Time)
	}
	if err := g.Params.check(); err != nil {
		return bad("params: %w", err)
	}
	if len(g.Accounts) > maxGenesisAccounts || len(g.Nodes) > maxGenesisNodes {
		return bad("%d accounts and %d nodes, at most %d and %d allowed", len(g.Accounts), len(g.Nodes), maxGenesisAccounts, maxGenesisNodes)
	}
	if len(g.Nodes) == 0 {
		return bad("no node, so nobody could decide on a block")
	}
	supply := uint64(0)
	add := func(amount uint64) bool {
		if amount > MaxSupply || supply+amount > MaxSupply {
			return false
		}
		supply += amount
		return true
	}
	if !add(g.Pool) {
		return bad("a pool of %d is too much", g.Pool)
	}
	seen := make(map[HexKey]bool)
	for i, a := range g.Accounts {
		switch {
		case seen[a.Address]:
			return bad("account %d is there twice", i)
		case a.Balance == 0:
			return bad("account %d has nothing", i)
		case !add(a.Balance):
			return bad("the balances are too much from account %d on", i)
		}
		seen[a.Address] = true
	}
	clear(seen)
	for i, n := range g.Nodes {
		for _, k := range []HexKey{n.Node, n.Consensus, n.Beacon} {
			if seen[k] {
				return bad("node %d has a key that is there twice", i)
			}
			seen[k] = true
		}
		if err := checkKeys(Key(n.Node), Key(n.Consensus), Key(n.Beacon)); err != nil {
			return bad("node %d: %w", i, err)
		}
		if n.Fee > MaxFeeBasis {
			return bad("node %d has a fee of %d", i, n.Fee)
		}
		e := Endpoint(n.Endpoint)
		if err := e.usable(g.Params.Private == 1); err != nil {
			return bad("node %d: %w", i, err)
		}
		if !add(g.Params.Requirement) {
			return bad("the stakes are too much from node %d on", i)
		}
	}
	return supply, nil
}

// seed is the first seed: it depends on all of the file.
func (g *Genesis) seed() (Key, error) {
	b, err := json.Marshal(g)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrGenesis, err)
	}
	return sha256.Sum256(append([]byte("hearth ledger v1 first seed"), b...)), nil
}

// Start writes the first state into the machine's store, which must be empty,
// and returns the first committee by ascending key.
func (m *Machine) Start(g *Genesis) ([]Validator, error) {
	supply, err := g.supply()
	if err != nil {
		return nil, err
	}
	seed, err := g.seed()
	if err != nil {
		return nil, err
	}
	over := newLayer(m.store)
	d := &draft{View: View{store: over}, over: over, now: g.Time, powers: make(map[Key]uint64),
		block: &Block{Time: time.Unix(g.Time, 0)}}
	d.fail(d.store.Range([]byte{0}, []byte{255}, func([]byte, []byte) bool {
		err = fmt.Errorf("%w: the store is not empty", ErrGenesis)
		return false
	}))
	if err != nil {
		return nil, err
	}
	d.chain = Chain{
		ID: g.Chain, Supply: supply, Params: g.Params,
		Started: g.Time, Seed: seed, LastEpoch: g.Time, LastSeed: seed,
	}
	d.saveRewards(Rewards{Pool: g.Pool, At: g.Time})
	for _, a := range g.Accounts {
		d.pay(Address(a.Address), a.Balance)
	}
	for _, in := range g.Nodes {
		beneficiary := in.Operator
		if in.Beneficiary != nil {
			beneficiary = *in.Beneficiary
		}
		n := &Node{
			Key: Key(in.Node), Consensus: Key(in.Consensus), Beacon: Key(in.Beacon),
			Requirement: g.Params.Requirement, Fee: in.Fee,
			Contributors: []Contributor{{Staker: Address(in.Operator), Beneficiary: Address(beneficiary), Amount: g.Params.Requirement}},
			Endpoint:     Endpoint(in.Endpoint), EndpointAt: g.Time, Registered: g.Time, Credit: g.Params.CreditStart,
		}
		d.saveMember(n.Consensus, member{Node: n.Key})
		d.activate(n)
	}
	first := draw(drawMembers, seed, 0, d.active())
	for _, n := range first[:min(len(first), int(min(g.Params.Committee, MaxCommittee)))] {
		d.saveMember(n.Consensus, member{Node: n.Key, Power: memberPower})
	}
	members := d.Committee()
	d.chain.Committee = uint64(len(members))
	d.saveChain()
	d.composeSwarms()
	d.writeList()
	if err := CheckUpdates(nil, members); err != nil {
		return nil, err
	}
	if d.fail(d.over.flush()); d.err != nil {
		return nil, d.err
	}
	return members, nil
}
