// Package light proves the list of service nodes to somebody who is no node.
//
// A [Client] begins with a header that it trusts ([Trust], shipped with a
// release and renewed while it runs), asks nodes of different swarms for newer
// ones, and believes a header only when members with more than two thirds of the
// power that it trusted signed it. The header has the root of the ledger's state,
// a proof leads from the root to the hash of the list, and the list itself may
// come from anybody ([Client.Update]).
//
// What travels is bytes from a [Source]; a messenger gets them through onion
// requests. The verification is CometBFT's, the form of the proof is ICS 23.
//
// A client that slept for longer than [TrustingPeriod] cannot go on: the keys
// that it trusts may have left and may sign anything now. It gets [ErrExpired]
// and has to be given another trusted header by a release or by a person.
package light

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	cmtlog "github.com/cometbft/cometbft/libs/log"
	cmtmath "github.com/cometbft/cometbft/libs/math"
	cmtlight "github.com/cometbft/cometbft/light"
	"github.com/cometbft/cometbft/light/provider"
	lightdb "github.com/cometbft/cometbft/light/store/db"
	cmt "github.com/cometbft/cometbft/types"
	ics23 "github.com/cosmos/ics23/go"

	"hearth/node/ledger"
	"hearth/node/swarm"
)

const (
	// TrustingPeriod is how old the newest header may be that a client trusts. It
	// is shorter than the time for which a stake stays locked, so whoever signs a
	// false header within it can still be punished.
	TrustingPeriod = 9 * 24 * time.Hour

	// MinSources is one node that is asked and two that watch it. With one
	// watching, a lying node would end the attempt; with two it is replaced.
	MinSources = 3

	maxDrift   = 30 * time.Second // of a header's time beyond the own clock
	maxProof   = 16 << 10         // bytes
	maxList    = 4 << 20          // bytes
	keptBlocks = 16
)

// Errors that callers can test with errors.Is.
var (
	// ErrExpired says that the trusted header is too old to go on from.
	ErrExpired = errors.New("the trusted header has expired: a newer one from a release or from somebody you trust is needed")
	// ErrTrust says that nodes do not have the trusted header, or another one in
	// its place.
	ErrTrust = errors.New("the trusted header is not the nodes'")
	// ErrProof says that a node list, or the proof of its hash, is false.
	ErrProof = errors.New("the node list is not proven")
	// ErrForked says that nodes showed two headers for one height, both well
	// signed. One of them comes from an attack.
	ErrForked = errors.New("nodes disagree on the ledger: do not trust either side")
	// ErrSources says that too few nodes can be asked.
	ErrSources = errors.New("not enough nodes to ask")
)

// Source is one node that answers questions. Its answers are checked; it may be
// slow and it may lie.
type Source interface {
	// Block returns the bytes of the light block of a height ([EncodeBlock]), 0
	// for the newest.
	Block(ctx context.Context, height int64) ([]byte, error)
	// Head returns the list's head in the state whose root the header of height
	// has, with its proof ([EncodeHead]).
	Head(ctx context.Context, height int64) ([]byte, error)
	// List returns the bytes of the list with that hash (ledger.EncodeList).
	List(ctx context.Context, hash [32]byte) ([]byte, error)
	// Order returns in which order the members of a height propose blocks
	// ([EncodeOrder]). Clients do not need it.
	Order(ctx context.Context, height int64) ([]byte, error)
}

// Trust is a header that somebody vouches for.
type Trust struct {
	Height int64
	Hash   [32]byte
}

// String is the form for files and people: height, colon, 64 hexadecimal digits.
func (t Trust) String() string { return fmt.Sprintf("%d:%x", t.Height, t.Hash) }

// MarshalText writes what String gives.
func (t Trust) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads it.
func (t *Trust) UnmarshalText(b []byte) error {
	height, hash, ok := bytes.Cut(b, []byte{':'})
	if !ok || len(hash) != 64 || len(height) > 19 {
		return fmt.Errorf("%w: want height:hash", ErrTrust)
	}
	var n int64
	for _, c := range height {
		if c < '0' || c > '9' || n > math.MaxInt64/10-10 {
			return fmt.Errorf("%w: height is no number", ErrTrust)
		}
		n = n*10 + int64(c-'0')
	}
	if _, err := hex.Decode(t.Hash[:], hash); err != nil || n == 0 {
		return fmt.Errorf("%w: want height:hash", ErrTrust)
	}
	t.Height = n
	return nil
}

// Config is what a Client is made of.
type Config struct {
	Chain   string // id
	Trust   Trust
	Sources []Source      // at least MinSources, of different swarms
	Period  time.Duration // TrustingPeriod when zero; never longer than the ledger's evidence age
	Now     func() time.Time
}

// Proven is a list with what proves it.
type Proven struct {
	List  *swarm.List
	Nodes []ledger.Listed
	Bytes []byte // of the list, to pass on
	Head  ledger.ListHead
	Trust Trust     // to begin with the next time
	Time  time.Time // of that header
}

// Client follows the ledger. It is safe for concurrent use; one call works at a
// time.
type Client struct {
	cfg    Config
	mu     sync.Mutex
	light  *cmtlight.Client // nil when the next call makes another one
	trust  Trust            // newest header that was proven
	first  int              // source that is asked, the others watch
	newest *Proven
}

// New makes a client. It asks the sources for the trusted header.
func New(ctx context.Context, cfg Config) (*Client, error) {
	if len(cfg.Sources) < MinSources {
		return nil, fmt.Errorf("%w: %d, at least %d are needed", ErrSources, len(cfg.Sources), MinSources)
	}
	if cfg.Period == 0 {
		cfg.Period = TrustingPeriod
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Client{cfg: cfg, trust: cfg.Trust}
	return c, c.attempt(ctx, func(context.Context) error { return nil })
}

// attempt works with another first source when the one that is asked lies or is
// silent. CometBFT's light client does that by itself for some kinds of lies
// only.
func (c *Client) attempt(ctx context.Context, work func(context.Context) error) error {
	var errs []error
	for range c.cfg.Sources {
		err := c.connect(ctx)
		if err == nil {
			err = work(ctx)
		}
		if err == nil || errors.Is(err, ErrForked) || errors.Is(err, ErrExpired) || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
		c.light = nil
		c.first = (c.first + 1) % len(c.cfg.Sources)
	}
	return errors.Join(errs...)
}

// connect makes a light client of the sources that have the trusted header.
func (c *Client) connect(ctx context.Context) error {
	if c.light != nil {
		return nil
	}
	// CometBFT gives up when one of the watching nodes has another header there.
	// We know which one is right, so we do without that node.
	all := make([]*blocks, len(c.cfg.Sources))
	errs := make([]error, len(all))
	var asking sync.WaitGroup
	for i := range all {
		n := (c.first + i) % len(all)
		all[i] = &blocks{chain: c.cfg.Chain, name: fmt.Sprintf("source %d", n+1), fetch: c.cfg.Sources[n].Block}
		asking.Go(func() { errs[i] = all[i].begin(ctx, c.trust) })
	}
	asking.Wait()
	var able []provider.Provider
	for i, b := range all {
		if errs[i] == nil {
			able = append(able, b)
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(able) < 2:
		// Silence is a matter of connections, contradiction one of trust.
		for _, err := range errs {
			if errors.Is(err, ErrTrust) {
				return errors.Join(errs...)
			}
		}
		return fmt.Errorf("%w: %w", ErrSources, errors.Join(errs...))
	}
	l, err := NewVerifier(ctx, c.cfg.Chain, c.trust, c.cfg.Period, able)
	if err == nil {
		c.light = l
	}
	return err
}

// NewVerifier is CometBFT's light client with the settings of our network. Nodes
// that join by a snapshot use it as well.
func NewVerifier(ctx context.Context, chain string, trust Trust, period time.Duration, providers []provider.Provider) (*cmtlight.Client, error) {
	l, err := cmtlight.NewClient(ctx, chain, cmtlight.TrustOptions{Period: period, Height: trust.Height, Hash: trust.Hash[:]},
		providers[0], providers[1:], lightdb.New(dbm.NewMemDB(), "l"),
		// A third of the trusted members, which is the default, can be bad without
		// anybody noticing.
		cmtlight.SkippingVerification(cmtmath.Fraction{Numerator: 2, Denominator: 3}),
		cmtlight.MaxClockDrift(maxDrift), cmtlight.PruningSize(keptBlocks), cmtlight.Logger(cmtlog.NewNopLogger()))
	if err != nil {
		return nil, explain(fmt.Errorf("%w: %w", ErrTrust, err))
	}
	return l, nil
}

// explain turns the engine's errors into ours.
func explain(err error) error {
	var old cmtlight.ErrOldHeaderExpired
	switch {
	case err == nil:
		return nil
	case errors.As(err, &old):
		return fmt.Errorf("%w (it was good until %s)", ErrExpired, old.At.UTC().Format(time.DateOnly))
	case errors.Is(err, cmtlight.ErrLightClientAttack):
		return fmt.Errorf("%w: %w", ErrForked, err)
	case errors.Is(err, cmtlight.ErrNoWitnesses), errors.Is(err, cmtlight.ErrFailedHeaderCrossReferencing), errors.Is(err, provider.ErrNoResponse):
		return fmt.Errorf("%w: %w", ErrSources, err)
	}
	return err
}

// Newest returns what the last Update proved, nil before the first.
func (c *Client) Newest() *Proven {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest
}

// Update proves the newest list. When the list has not changed, only a header
// and a proof travel, about 11 kB.
func (c *Client) Update(ctx context.Context) (*Proven, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var p *Proven
	err := c.attempt(ctx, func(ctx context.Context) error {
		block, err := c.follow(ctx)
		if err != nil {
			return err
		}
		p, err = c.prove(ctx, block)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.newest = p
	return p, nil
}

// follow proves the newest header.
func (c *Client) follow(ctx context.Context) (*cmt.LightBlock, error) {
	now := c.cfg.Now()
	last, err := c.last()
	if err != nil {
		return nil, err
	}
	// CometBFT would first download, and then say something else.
	if cmtlight.HeaderExpired(last.SignedHeader, c.cfg.Period, now) {
		return nil, explain(cmtlight.ErrOldHeaderExpired{At: last.Time.Add(c.cfg.Period), Now: now})
	}
	if _, err := c.light.Update(ctx, now); err != nil {
		return nil, explain(err)
	}
	if last, err = c.last(); err != nil {
		return nil, err
	}
	c.trust = Trust{last.Height, [32]byte(last.Hash())}
	return last, nil
}

func (c *Client) last() (*cmt.LightBlock, error) {
	height, err := c.light.LastTrustedHeight()
	if err != nil {
		return nil, explain(err)
	}
	b, err := c.light.TrustedLightBlock(height)
	return b, explain(err)
}

// prove proves the list of a header.
func (c *Client) prove(ctx context.Context, block *cmt.LightBlock) (*Proven, error) {
	p := &Proven{Trust: Trust{block.Height, [32]byte(block.Hash())}, Time: block.Time}
	if c.newest != nil && c.newest.Trust == p.Trust {
		return c.newest, nil
	}
	if err := c.proveHead(ctx, block, p); err != nil {
		return nil, err
	}
	if c.newest != nil && c.newest.Head.Hash == p.Head.Hash {
		p.List, p.Nodes, p.Bytes = c.newest.List, c.newest.Nodes, c.newest.Bytes
		return p, nil
	}
	return p, c.fetchList(ctx, p)
}

// proveHead asks one source after the other for the list's head.
func (c *Client) proveHead(ctx context.Context, block *cmt.LightBlock, p *Proven) error {
	var errs []error
	for _, s := range c.cfg.Sources {
		b, err := s.Head(ctx, block.Height)
		if err == nil {
			if p.Head, err = VerifyHead(block.AppHash, b); err == nil {
				return nil
			}
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("%w: %w", ErrProof, errors.Join(errs...))
}

func (c *Client) fetchList(ctx context.Context, p *Proven) error {
	var errs []error
	for _, s := range c.cfg.Sources {
		b, err := s.List(ctx, p.Head.Hash)
		if err == nil && len(b) > maxList {
			err = fmt.Errorf("a list of %d bytes", len(b))
		}
		if err == nil {
			if p.List, p.Nodes, err = ledger.DecodeList(b, p.Head); err == nil {
				p.Bytes = b
				return nil
			}
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("%w: %w", ErrProof, errors.Join(errs...))
}

// EncodeHead puts the value under ledger.KeyList and its ICS 23 proof together.
func EncodeHead(value []byte, proof *ics23.CommitmentProof) ([]byte, error) {
	p, err := proof.Marshal()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	return append(append(binary.AppendUvarint(nil, uint64(len(value))), value...), p...), nil
}

// VerifyHead returns the list's head when the bytes prove it under that root,
// else [ErrProof].
func VerifyHead(root, b []byte) (ledger.ListHead, error) {
	size, n := binary.Uvarint(b)
	if len(b) > maxProof || n <= 0 || size > uint64(len(b)-n) {
		return ledger.ListHead{}, fmt.Errorf("%w: %d bytes are no proof", ErrProof, len(b))
	}
	value := b[n : n+int(size)]
	var proof ics23.CommitmentProof
	if err := proof.Unmarshal(b[n+int(size):]); err != nil {
		return ledger.ListHead{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	// Only a proof of this one key: the library's other kinds are not needed.
	if proof.GetExist() == nil || !ics23.VerifyMembership(ics23.IavlSpec, root, &proof, []byte(ledger.KeyList), value) {
		return ledger.ListHead{}, fmt.Errorf("%w: it does not lead to the root", ErrProof)
	}
	head, err := ledger.DecodeListHead(value)
	if err != nil {
		return ledger.ListHead{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	return head, nil
}

// blocks is a provider of CometBFT's light client over a function.
type blocks struct {
	chain, name string
	fetch       func(ctx context.Context, height int64) ([]byte, error)
	first       *cmt.LightBlock // at the trusted height; nil when not asked for
}

// begin fetches the trusted header.
func (b *blocks) begin(ctx context.Context, t Trust) error {
	l, err := b.LightBlock(ctx, t.Height)
	switch {
	case errors.Is(err, provider.ErrLightBlockNotFound), errors.Is(err, provider.ErrHeightTooHigh), errors.As(err, new(provider.ErrBadLightBlock)):
		return fmt.Errorf("%w: %s: %w", ErrTrust, b.name, err)
	case err != nil:
		return fmt.Errorf("%s: %w", b.name, err)
	case [32]byte(l.Hash()) != t.Hash:
		return fmt.Errorf("%w: %s has %v at height %d", ErrTrust, b.name, l.Hash(), t.Height)
	}
	b.first = l
	return nil
}

// NewProvider gives light blocks to CometBFT's light client. name stands in
// errors.
func NewProvider(chain, name string, fetch func(ctx context.Context, height int64) ([]byte, error)) provider.Provider {
	return &blocks{chain: chain, name: name, fetch: fetch}
}

func (b *blocks) ChainID() string { return b.chain }

func (b *blocks) String() string { return b.name }

func (b *blocks) LightBlock(ctx context.Context, height int64) (*cmt.LightBlock, error) {
	if b.first != nil && height == b.first.Height {
		return b.first, nil
	}
	raw, err := b.fetch(ctx, height)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, ErrNotYet):
		return nil, provider.ErrHeightTooHigh
	case errors.Is(err, ErrPruned):
		return nil, provider.ErrLightBlockNotFound
	case err != nil:
		return nil, provider.ErrNoResponse
	}
	l, err := DecodeBlock(raw, b.chain)
	if err != nil {
		return nil, provider.ErrBadLightBlock{Reason: err}
	}
	if height != 0 && l.Height != height {
		return nil, provider.ErrBadLightBlock{Reason: fmt.Errorf("%w: height %d instead of %d", ErrBlock, l.Height, height)}
	}
	return l, nil
}

// What a source answers when it does not have the block.
var (
	ErrNotYet = errors.New("no such block yet")
	ErrPruned = errors.New("block no longer kept")
)

// ReportEvidence does nothing: whoever finds an attack tells a person, and the
// nodes see double signatures themselves.
func (b *blocks) ReportEvidence(context.Context, cmt.Evidence) error { return nil }
