package light

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"hearth/node/swarm"
)

// Endpoint names the questions of this package among the storage requests of a
// node: {"method":"oxend_request","params":{"endpoint":…,"params":{…}}}.
const Endpoint = "hearth_ledger"

// question is what a client asks a node.
type question struct {
	Want   string `json:"want"`             // block, head, list or order
	Height int64  `json:"height,omitempty"` // of block, head and order
	Hash   string `json:"hash,omitempty"`   // of list, hex
}

// reply is what the node says.
type reply struct {
	Data  []byte `json:"data,omitempty"`
	Error string `json:"error,omitempty"`
}

const (
	notYet = "not yet"
	pruned = "pruned"
)

// ErrQuestion reports a question that makes no sense.
var ErrQuestion = errors.New("no such question about the ledger")

// Answer answers a question that a client has sent to a node. The error is
// [ErrQuestion]; what the node does not have is part of the answer.
func Answer(ctx context.Context, s Source, params json.RawMessage) (json.RawMessage, error) {
	var q question
	if err := json.Unmarshal(params, &q); err != nil || q.Height < 0 {
		return nil, ErrQuestion
	}
	var r reply
	var err error
	switch q.Want {
	case "block":
		r.Data, err = s.Block(ctx, q.Height)
	case "head":
		r.Data, err = s.Head(ctx, q.Height)
	case "order":
		r.Data, err = s.Order(ctx, q.Height)
	case "list":
		hash, bad := hex.DecodeString(q.Hash)
		if bad != nil || len(hash) != 32 {
			return nil, ErrQuestion
		}
		r.Data, err = s.List(ctx, [32]byte(hash))
	default:
		return nil, ErrQuestion
	}
	switch {
	case errors.Is(err, ErrNotYet):
		r = reply{Error: notYet}
	case err != nil:
		r = reply{Error: pruned}
	}
	return json.Marshal(r)
}

// Ask sends a storage request to a node, such as through an onion, and returns the
// text of its answer.
type Ask func(ctx context.Context, to swarm.Node, request []byte) ([]byte, error)

// remote is a node that is asked over the network.
type remote struct {
	node swarm.Node
	ask  Ask
}

// NewRemote makes a source of a node.
func NewRemote(node swarm.Node, ask Ask) Source { return &remote{node, ask} }

// errAnswer reports an answer that no node of ours gives.
var errAnswer = errors.New("not an answer about the ledger")

func (r *remote) call(ctx context.Context, q question) ([]byte, error) {
	request, err := json.Marshal(map[string]any{"method": "oxend_request", "params": map[string]any{"endpoint": Endpoint, "params": q}})
	if err != nil {
		return nil, err
	}
	text, err := r.ask(ctx, r.node, request)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Result *reply `json:"result"`
	}
	if len(text) > 2*maxList || json.Unmarshal(text, &answer) != nil || answer.Result == nil {
		return nil, errAnswer
	}
	switch answer.Result.Error {
	case "":
		return answer.Result.Data, nil
	case notYet:
		return nil, ErrNotYet
	}
	return nil, ErrPruned
}

// Block is part of Source.
func (r *remote) Block(ctx context.Context, height int64) ([]byte, error) {
	return r.call(ctx, question{Want: "block", Height: height})
}

// Head is part of Source.
func (r *remote) Head(ctx context.Context, height int64) ([]byte, error) {
	return r.call(ctx, question{Want: "head", Height: height})
}

// Order is part of Source.
func (r *remote) Order(ctx context.Context, height int64) ([]byte, error) {
	return r.call(ctx, question{Want: "order", Height: height})
}

// List is part of Source.
func (r *remote) List(ctx context.Context, hash [32]byte) ([]byte, error) {
	return r.call(ctx, question{Want: "list", Hash: hex.EncodeToString(hash[:])})
}

// Prover proves the node list for somebody who knows some nodes already, however
// little they are trusted, and one header. It is safe for concurrent use.
type Prover struct {
	Chain  string
	Ask    Ask
	Period time.Duration // TrustingPeriod when zero
	Now    func() time.Time
	Save   func(Trust) // hears of each newer header; may be nil

	mu    sync.Mutex
	trust Trust
	last  *Proven
}

// tries is how many sets of nodes are asked before it is given up.
const tries = 3

// NewProver begins with a header that a release or a person vouches for, or that
// an earlier run has proven.
func NewProver(chain string, trust Trust, ask Ask) *Prover {
	return &Prover{Chain: chain, Ask: ask, trust: trust}
}

// Prove asks nodes drawn from known, of different swarms if there are enough, and
// returns the newest list that they can prove. Errors are those of Client.Update;
// after [ErrExpired] and [ErrForked] a person has to decide.
func (p *Prover) Prove(ctx context.Context, known []swarm.Node) (*Proven, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for range tries {
		got, err := p.attempt(ctx, known)
		if err == nil {
			// A header that is older than the one before would be a step back.
			p.trust, p.last = got.Trust, got
			if p.Save != nil {
				p.Save(got.Trust)
			}
			return got, nil
		}
		errs = append(errs, err)
		if errors.Is(err, ErrExpired) || errors.Is(err, ErrForked) || ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (p *Prover) attempt(ctx context.Context, known []swarm.Node) (*Proven, error) {
	var sources []Source
	for _, n := range drawn(known) {
		sources = append(sources, NewRemote(n, p.Ask))
	}
	c, err := New(ctx, Config{Chain: p.Chain, Trust: p.trust, Sources: sources, Period: p.Period, Now: p.Now})
	if err != nil {
		return nil, err
	}
	c.newest = p.last
	return c.Update(ctx)
}

// drawn takes as many nodes as a client needs, at random, and of different swarms
// while there are any.
func drawn(known []swarm.Node) []swarm.Node {
	order := rand.Perm(len(known))
	var chosen []swarm.Node
	taken := make(map[int]bool)
	seen := make(map[swarm.ID]bool)
	for _, any := range []bool{false, true} {
		for _, i := range order {
			n := known[i]
			if len(chosen) == MinSources {
				return chosen
			}
			if taken[i] || !any && seen[n.Swarm] && n.Swarm != swarm.None {
				continue
			}
			taken[i], seen[n.Swarm] = true, true
			chosen = append(chosen, n)
		}
	}
	return chosen
}
