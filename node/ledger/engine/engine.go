// Package engine runs the staking ledger: the state machine of package ledger
// under the consensus of CometBFT, with its state in an iavl tree.
//
// [Start] opens everything below one folder, connects to peers and takes part in
// deciding blocks as soon as the ledger has the node's consensus key in its
// committee; until then, and for a node that only looks on, it follows. What
// others need comes out of an [Engine]: the state after the last block
// ([Engine.State]), what a light client asks for ([Engine.Block], [Engine.Head],
// [Engine.List]), and the way in for transactions ([Engine.Submit]).
//
// When more than a third of the committee is away the ledger halts, and Start's
// process with it does not: the last state stays readable, [Engine.Status] says
// how old it is, and blocks go on when the members are back.
package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/crypto/ed25519"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/mempool"
	nm "github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/proxy"
	rpccore "github.com/cometbft/cometbft/rpc/core"
	rpctypes "github.com/cometbft/cometbft/rpc/jsonrpc/types"
	cmt "github.com/cometbft/cometbft/types"

	"hearth/node/keys"
	"hearth/node/ledger"
	"hearth/node/ledger/light"
	"hearth/node/ledger/vrf"
)

// Errors that callers can test with errors.Is; the reasons why a transaction is
// refused are those of package ledger.
var (
	// ErrSignState says that the record of what this node has signed is missing
	// although it has taken part. Signing without it could be signing twice, which
	// costs stake.
	ErrSignState = errors.New("the record of what this node signed is missing: delete the ledger's folder to follow from the beginning, and wait until all blocks that it may have signed are over")
	// ErrBusy says that so many transactions wait that none is taken.
	ErrBusy = errors.New("too many transactions wait")
	// ErrKnown says that the transaction is waiting already.
	ErrKnown = errors.New("transaction is already waiting")
	// ErrNoState says that the node has not executed a block yet.
	ErrNoState = errors.New("ledger has no state yet")
)

// Timing is how fast blocks come. The zero value is that of a real network; all
// nodes of a network should have the same.
type Timing struct {
	Propose, Vote time.Duration // 3 s and 1 s when zero
	Commit        time.Duration // pause after a block; 10 s when zero
	Empty         time.Duration // between blocks when nothing happens; 120 s when zero
	Dial          time.Duration // longest pause between two tries to reach a peer; 60 s when zero
}

func (t Timing) filled() Timing {
	for _, d := range []struct {
		v     *time.Duration
		usual time.Duration
	}{{&t.Propose, 3 * time.Second}, {&t.Vote, time.Second}, {&t.Commit, 10 * time.Second}, {&t.Empty, 120 * time.Second}, {&t.Dial, time.Minute}} {
		if *d.v == 0 {
			*d.v = d.usual
		}
	}
	return t
}

// Config is what an Engine is made of.
type Config struct {
	Dir       string          // keeps everything; made when missing
	Genesis   *ledger.Genesis // the same for all nodes of a network
	Node      *keys.Pair      // the node's identity, also for its peers
	Consensus *keys.Pair      // signs votes; must never be used on two machines
	Listen    string          // host:port for peers
	External  netip.AddrPort  // where peers reach it, when that is known
	Peers     []string        // to begin with; see Peer
	Local     bool            // peers may have addresses that the internet does not reach, and share one

	// Join lets a node without a state begin with a snapshot of its peers, if the
	// ledger is old enough to have one; else it begins with the first block.
	Join *Join

	Timing        Timing
	SnapshotEvery int64         // blocks; 720 when zero
	Snapshots     int           // how many are kept; 3 when zero, never less than 3
	Retain        time.Duration // how old kept blocks get; 10 days when zero
	Now           func() time.Time
	Log           *slog.Logger
}

// Join says where a new node gets proven headers for its snapshot.
type Join struct {
	Trust   light.Trust
	Sources []light.Source // at least two
}

// BeaconKey is the key with which a node takes part in the ledger's seeds. It is
// derived from the node's.
func BeaconKey(node *keys.Pair) *vrf.Secret {
	seed := node.Seed()
	defer clear(seed[:])
	return vrf.FromSeed(sha256.Sum256(append([]byte("hearth ledger v1 beacon key"), seed[:]...)))
}

// ConsensusKey is the key with which a node signs votes on blocks. It is derived
// from the node's, so that there is one secret to seal; it is another one, because
// what it signs stands in other people's headers.
func ConsensusKey(node *keys.Pair) *keys.Pair {
	seed := node.Seed()
	defer clear(seed[:])
	return keys.FromSeed(sha256.Sum256(append([]byte("hearth ledger v1 consensus key"), seed[:]...)))
}

// WalletKey is the account of the node's owner: what they stake with and what
// rewards come to. It is derived from the node's key, so whatever seals that, such
// as a TPM, seals the wallet too, and what loses the device loses the wallet.
func WalletKey(node *keys.Pair) *keys.Pair {
	seed := node.Seed()
	defer clear(seed[:])
	return keys.FromSeed(sha256.Sum256(append([]byte("hearth ledger v1 wallet key"), seed[:]...)))
}

// Peer is the form in which Config.Peers names a node.
func Peer(node ledger.Key, address string) string {
	sum := sha256.Sum256(node[:])
	return hex.EncodeToString(sum[:20]) + "@" + address
}

// Engine is a running node of the ledger.
type Engine struct {
	cfg  Config
	app  *app
	node *nm.Node
	env  *rpccore.Environment

	stop sync.Once
}

// Start runs the ledger until Stop. ctx is for starting alone: with Join it asks
// the sources for the trusted header.
func Start(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.SnapshotEvery == 0 {
		cfg.SnapshotEvery = 720
	}
	if cfg.Retain == 0 {
		cfg.Retain = 10 * 24 * time.Hour
	}
	if err := cfg.Genesis.Check(); err != nil {
		return nil, err
	}
	for _, d := range []string{"config", "data"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("folder of the ledger: %w", err)
		}
	}
	settings := cfg.settings()
	genesis, err := genesisDoc(cfg.Genesis)
	if err != nil {
		return nil, err
	}
	signer, err := cfg.signer(settings)
	if err != nil {
		return nil, err
	}
	a, err := newApp(settings.DBDir(), cfg.SnapshotEvery, max(cfg.Snapshots, 3), cfg.Log, cfg.Now)
	if err != nil {
		return nil, err
	}
	a.own, a.beacon, a.retain = cfg.Consensus.Ed25519(), BeaconKey(cfg.Node), cfg.Retain

	var options []nm.Option
	if cfg.Join != nil && a.tree.Version() == 0 {
		p, err := newProver(ctx, genesis, cfg.Join)
		if err != nil {
			a.close()
			return nil, fmt.Errorf("joining the ledger: %w", err)
		}
		// While nobody can have a snapshot the engine would wait for one, though all
		// blocks are there soon.
		newest, err := p.newest(ctx)
		if err != nil {
			a.close()
			return nil, fmt.Errorf("joining the ledger: %w", err)
		}
		if newest > cfg.SnapshotEvery+2 {
			settings.StateSync.Enable = true
			options = append(options, nm.StateProvider(p))
		}
	}
	n, err := nm.NewNodeWithContext(ctx, settings, signer,
		&p2p.NodeKey{PrivKey: ed25519.PrivKey(cfg.Node.Ed25519Private())},
		proxy.NewLocalClientCreator(a), func() (*cmt.GenesisDoc, error) { return genesis, nil },
		openDB, nm.DefaultMetricsProvider(settings.Instrumentation), logger{to: cfg.Log}, options...)
	if err != nil {
		a.close()
		return nil, fmt.Errorf("starting the ledger: %w", err)
	}
	e := &Engine{cfg: cfg, app: a, node: n}
	// Blocks that were replayed until here released none: only now is there a
	// store to ask.
	blocks := n.BlockStore()
	a.retained = max(a.retained, blocks.Base()-1)
	a.blockTime = func(height int64) (time.Time, bool) {
		meta := blocks.LoadBlockMeta(height)
		if meta == nil {
			return time.Time{}, false
		}
		return meta.Header.Time, true
	}
	if e.env, err = n.ConfigureRPC(); err == nil {
		err = n.Start()
	}
	if err != nil {
		// A node that did not start does not stop either.
		n.OnStop()
		a.close()
		return nil, fmt.Errorf("starting the ledger: %w", err)
	}
	return e, nil
}

// settings are the values that measurements on small boards led to: few peers
// and slow blocks, because traffic and wear grow with both.
func (cfg *Config) settings() *config.Config {
	c := config.DefaultConfig()
	c.SetRoot(cfg.Dir)
	c.DBBackend = "goleveldb"
	c.RPC.ListenAddress = ""
	c.TxIndex.Indexer = "null"
	c.Storage.DiscardABCIResponses = true
	c.Instrumentation.Prometheus = false

	c.P2P.ListenAddress = "tcp://" + cfg.Listen
	if cfg.External.IsValid() {
		c.P2P.ExternalAddress = cfg.External.String()
	}
	c.P2P.PersistentPeers = strings.Join(cfg.Peers, ",")
	c.P2P.MaxNumOutboundPeers, c.P2P.MaxNumInboundPeers = 4, 8
	c.P2P.AllowDuplicateIP, c.P2P.AddrBookStrict = cfg.Local, !cfg.Local

	t := cfg.Timing.filled()
	c.P2P.PersistentPeersMaxDialPeriod = t.Dial // the engine's own back-off reaches hours
	c.Consensus.TimeoutPropose, c.Consensus.TimeoutCommit = t.Propose, t.Commit
	c.Consensus.TimeoutPrevote, c.Consensus.TimeoutPrecommit = t.Vote, t.Vote
	c.Consensus.CreateEmptyBlocks = false
	c.Consensus.CreateEmptyBlocksInterval = t.Empty

	c.Mempool.Size, c.Mempool.CacheSize = 2000, 4000
	c.Mempool.MaxTxsBytes, c.Mempool.MaxTxBytes = 4<<20, ledger.MaxTx
	c.StateSync.DiscoveryTime = 5 * time.Second // the least that the engine takes
	return c
}

// maxBlock is a bound on the time that a small board needs for a block: about a
// thousand transactions.
const maxBlock = 256 << 10

// genesisDoc is the engine's form of a genesis. It must be the same on every
// node, byte for byte.
func genesisDoc(g *ledger.Genesis) (*cmt.GenesisDoc, error) {
	state, err := json.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ledger.ErrGenesis, err)
	}
	p := cmt.DefaultConsensusParams()
	p.Block.MaxBytes = maxBlock
	p.Evidence.MaxAgeDuration = time.Duration(g.Params.EvidenceAge) * time.Second
	p.Evidence.MaxAgeNumBlocks = int64(g.Params.EvidenceBlocks)
	p.Evidence.MaxBytes = 16 << 10
	p.Validator.PubKeyTypes = []string{cmt.ABCIPubKeyTypeEd25519}
	doc := &cmt.GenesisDoc{
		ChainID: g.Chain, GenesisTime: time.Unix(g.Time, 0).UTC(), InitialHeight: 1,
		ConsensusParams: p, AppState: state,
	}
	if err := doc.ValidateAndComplete(); err != nil {
		return nil, fmt.Errorf("%w: %w", ledger.ErrGenesis, err)
	}
	return doc, nil
}

// signer keeps the consensus key in memory and only what it has signed on disk.
func (cfg *Config) signer(settings *config.Config) (*privval.FilePV, error) {
	path := filepath.Join(cfg.Dir, "data", "signed.json")
	pv := privval.NewFilePV(ed25519.PrivKey(cfg.Consensus.Ed25519Private()), "", path)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(settings.DBDir(), "state.db")); err == nil {
			return nil, ErrSignState
		}
		pv.LastSignState.Save()
		return pv, nil
	} else if err != nil {
		return nil, fmt.Errorf("reading what was signed: %w", err)
	}
	var last privval.FilePVLastSignState
	if err := cmtjson.Unmarshal(b, &last); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignState, err)
	}
	s := &pv.LastSignState
	s.Height, s.Round, s.Step, s.Signature, s.SignBytes = last.Height, last.Round, last.Step, last.Signature, last.SignBytes
	return pv, nil
}

// Stop ends everything and closes the files. It may be called twice.
func (e *Engine) Stop() error {
	var err error
	e.stop.Do(func() {
		err = e.node.Stop()
		e.node.Wait()
		err = errors.Join(err, e.app.close())
	})
	return err
}

// State returns the ledger after the last block, nil before the first.
func (e *Engine) State() *State { return e.app.state.Load() }

// Changed gets a value after each block, if it has room.
func (e *Engine) Changed() <-chan struct{} { return e.app.changed }

// Status is how the node does.
type Status struct {
	Height  int64
	Time    time.Time // of the newest block
	Seen    time.Time // when it was executed; zero before the first
	Syncing bool      // older blocks are still being fetched
	Peers   int
	Waiting int    // transactions
	Failed  string // why it cannot go on at all; empty when it can
}

// Status tells how the node does. The ledger stands still when Seen is much older
// than the time between two empty blocks.
func (e *Engine) Status() Status {
	s := Status{
		Syncing: e.env.ConsensusReactor.WaitSync(),
		Peers:   e.node.Switch().Peers().Size(), Waiting: e.node.Mempool().Size(),
	}
	if last := e.State(); last != nil {
		s.Height, s.Time, s.Seen = last.Height, last.Time, last.Seen
	}
	if f := e.app.failed.Load(); f != nil {
		s.Failed = *f
	}
	return s
}

// Submit gives a transaction to the network. nil means that it passed the door
// and waits for a block, not that it was executed. Refusals are the errors of
// package ledger.
func (e *Engine) Submit(tx []byte) error {
	if len(tx) > ledger.MaxTx {
		return fmt.Errorf("%w: %d bytes", ledger.ErrOversized, len(tx))
	}
	r, err := e.env.BroadcastTxSync(&rpctypes.Context{}, tx)
	var full mempool.ErrMempoolIsFull
	switch {
	case errors.Is(err, mempool.ErrTxInCache):
		return ErrKnown
	case errors.As(err, &full):
		return ErrBusy
	case err != nil:
		return fmt.Errorf("passing a transaction on: %w", err)
	case r.Code != 0:
		if reason := ledger.Refusal(r.Code); reason != nil {
			return fmt.Errorf("%w (%s)", reason, r.Log)
		}
		return fmt.Errorf("%w: %s", ledger.ErrState, r.Log)
	}
	return nil
}

// Trust is the newest header, for those who trust this node.
func (e *Engine) Trust() (light.Trust, error) {
	height := e.env.BlockStore.Height()
	meta := e.env.BlockStore.LoadBlockMeta(height)
	if meta == nil {
		return light.Trust{}, ErrNoState
	}
	return light.Trust{Height: height, Hash: [32]byte(meta.BlockID.Hash)}, nil
}

// Block is part of [light.Source]: the light block of a height, 0 for the
// newest. Errors are light.ErrNotYet and light.ErrPruned.
func (e *Engine) Block(_ context.Context, height int64) ([]byte, error) {
	store := e.env.BlockStore
	top := store.Height()
	switch {
	case height == 0:
		height = top
	case height > top:
		return nil, light.ErrNotYet
	}
	meta := store.LoadBlockMeta(height)
	commit := store.LoadBlockCommit(height)
	if commit == nil {
		commit = store.LoadSeenCommit(height)
	}
	members, err := e.env.StateStore.LoadValidators(height)
	if meta == nil || commit == nil || err != nil {
		return nil, light.ErrPruned
	}
	return light.EncodeBlock(&cmt.LightBlock{SignedHeader: &cmt.SignedHeader{Header: &meta.Header, Commit: commit}, ValidatorSet: members})
}

// Head is part of [light.Source]: the list's head in the state whose root the
// header of that height has, with its proof. It is there for the last hundred
// heights.
func (e *Engine) Head(_ context.Context, height int64) ([]byte, error) {
	s := e.State()
	if s == nil || height < 2 || height-1 > s.Height {
		return nil, light.ErrNotYet
	}
	proof, value, err := s.tree.proof(height - 1)
	if err != nil {
		return nil, light.ErrPruned
	}
	return light.EncodeHead(value, proof)
}

// Order is part of [light.Source]: it is there for as long as the block is.
func (e *Engine) Order(_ context.Context, height int64) ([]byte, error) {
	if height > e.env.BlockStore.Height() {
		return nil, light.ErrNotYet
	}
	members, err := e.env.StateStore.LoadValidators(height)
	if err != nil {
		return nil, light.ErrPruned
	}
	return light.EncodeOrder(members), nil
}

// List is part of [light.Source]: the bytes of the newest list.
func (e *Engine) List(_ context.Context, hash [32]byte) ([]byte, error) {
	s := e.State()
	if s == nil || s.Head.Hash != hash {
		return nil, light.ErrPruned
	}
	return s.List, nil
}

var _ light.Source = (*Engine)(nil)
