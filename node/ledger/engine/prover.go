package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	cmtlight "github.com/cometbft/cometbft/light"
	"github.com/cometbft/cometbft/light/provider"
	cmtstate "github.com/cometbft/cometbft/proto/tendermint/state"
	sm "github.com/cometbft/cometbft/state"
	cmt "github.com/cometbft/cometbft/types"
	cmtversion "github.com/cometbft/cometbft/version"

	"hearth/node/ledger/light"
)

// prover tells the engine which state a snapshot must have. It has what it says
// from headers that the light client has proven.
type prover struct {
	genesis *cmt.GenesisDoc
	sources []light.Source
	mu      sync.Mutex
	light   *cmtlight.Client
}

func newProver(ctx context.Context, g *cmt.GenesisDoc, j *Join) (*prover, error) {
	if len(j.Sources) < 2 {
		return nil, fmt.Errorf("%w: %d, at least 2 are needed to join", light.ErrSources, len(j.Sources))
	}
	var providers []provider.Provider
	for i, s := range j.Sources {
		providers = append(providers, light.NewProvider(g.ChainID, fmt.Sprintf("source %d", i+1), s.Block))
	}
	// The engine's client gives up when the first one does not answer.
	var errs []error
	for range providers {
		l, err := light.NewVerifier(ctx, g.ChainID, j.Trust, light.TrustingPeriod, providers)
		if err == nil {
			return &prover{genesis: g, sources: j.Sources, light: l}, nil
		}
		errs = append(errs, err)
		providers = append(providers[1:], providers[0])
	}
	return nil, errors.Join(errs...)
}

// newest is the height of the newest block that can be proven.
func (p *prover) newest(ctx context.Context) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.light.Update(ctx, time.Now()); err != nil {
		return 0, err
	}
	return p.light.LastTrustedHeight()
}

func (p *prover) block(ctx context.Context, height uint64) (*cmt.LightBlock, error) {
	return p.light.VerifyLightBlockAtHeight(ctx, int64(height), time.Now())
}

// ordered gives the members of a block with the order in which they propose. No
// header proves it: two sources have to say the same, and the block's own proposer
// must fit.
func (p *prover) ordered(ctx context.Context, b *cmt.LightBlock) (*cmt.ValidatorSet, error) {
	answers := make([]string, len(p.sources))
	var asking sync.WaitGroup
	for i, s := range p.sources {
		asking.Go(func() {
			if a, err := s.Order(ctx, b.Height); err == nil {
				answers[i] = string(a)
			}
		})
	}
	asking.Wait()
	count := make(map[string]int)
	for _, a := range answers {
		if count[a]++; a == "" || count[a] != 2 {
			continue
		}
		if ordered, err := light.DecodeOrder(b.ValidatorSet, []byte(a)); err == nil && light.Proposed(ordered, b) {
			return ordered, nil
		}
	}
	return nil, fmt.Errorf("%w: no two of %d sources say the same about block %d", light.ErrOrder, len(answers), b.Height)
}

// AppHash is part of the engine's interface. The root of a height stands in the
// next header; and the one after that has to be there before State is asked.
func (p *prover) AppHash(ctx context.Context, height uint64) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next, err := p.block(ctx, height+1)
	if err != nil {
		return nil, err
	}
	if _, err := p.block(ctx, height+2); err != nil {
		return nil, err
	}
	return next.AppHash, nil
}

// Commit is part of the engine's interface.
func (p *prover) Commit(ctx context.Context, height uint64) (*cmt.Commit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.block(ctx, height)
	if err != nil {
		return nil, err
	}
	return b.Commit, nil
}

// State is part of the engine's interface.
func (p *prover) State(ctx context.Context, height uint64) (sm.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var blocks [3]*cmt.LightBlock
	for i := range blocks {
		b, err := p.block(ctx, height+uint64(i))
		if err != nil {
			return sm.State{}, err
		}
		// With another order than the others have this node would refuse their
		// proposals, and they its own.
		if b.ValidatorSet, err = p.ordered(ctx, b); err != nil {
			return sm.State{}, err
		}
		blocks[i] = b
	}
	last, current, next := blocks[0], blocks[1], blocks[2]
	params := *p.genesis.ConsensusParams
	// We never change them. Should a program of the future do so, this node must
	// not begin with the old ones.
	if string(params.Hash()) != string(current.ConsensusHash) {
		return sm.State{}, fmt.Errorf("%w: other consensus parameters than in this program's genesis", light.ErrTrust)
	}
	return sm.State{
		ChainID: p.genesis.ChainID, InitialHeight: p.genesis.InitialHeight,
		Version:         cmtstate.Version{Consensus: current.Version, Software: cmtversion.TMCoreSemVer},
		LastBlockHeight: last.Height, LastBlockTime: last.Time, LastBlockID: last.Commit.BlockID,
		AppHash: current.AppHash, LastResultsHash: current.LastResultsHash,
		LastValidators: last.ValidatorSet, Validators: current.ValidatorSet, NextValidators: next.ValidatorSet,
		LastHeightValidatorsChanged: next.Height,
		ConsensusParams:             params, LastHeightConsensusParamsChanged: current.Height,
	}, nil
}
