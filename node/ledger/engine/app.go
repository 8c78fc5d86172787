package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"hearth/node/ledger"
	"hearth/node/ledger/vrf"
)

const (
	appVersion = 1
	// keptVersions is for how many blocks proofs can be made, and for how long a
	// reader of the state may take.
	keptVersions = 100
	// txOverhead is what a block needs for a transaction beside its bytes.
	txOverhead = 4
)

// app puts the state machine under the engine. The engine calls one method at a
// time; only state is read by others.
type app struct {
	abci.BaseApplication

	dir       string
	tree      *tree
	machine   *ledger.Machine
	snapshots *snapshots
	every     int64 // heights from one snapshot to the next
	own       ledger.Key
	beacon    *vrf.Secret
	now       func() time.Time
	log       *slog.Logger
	blockTime func(height int64) (time.Time, bool) // nil until the engine's store is open
	retain    time.Duration
	retained  int64

	life     life
	door     *ledger.Door
	height   int64
	at       time.Time
	executed bool // FinalizeBlock without its Commit
	result   *ledger.Result
	incoming *restoring
	keys     map[[20]byte]ledger.Key // consensus keys by the engine's addresses

	state   atomic.Pointer[State]
	changed chan struct{}
	failed  atomic.Pointer[string] // why the ledger cannot go on
}

// State is the ledger after a block. It stays as it is while blocks go on, for
// at least a hundred of them.
type State struct {
	Height int64
	Time   time.Time // of the block; zero after a start until the next one
	Seen   time.Time // when this node executed it
	Head   ledger.ListHead
	List   []byte // encoded; its hash is Head's
	store  version
	tree   *tree
}

// View reads the state. Each caller needs its own.
func (s *State) View() *ledger.View { return ledger.NewView(s.store) }

// Root is the hash of the whole state. It stands in the header of the next block.
func (s *State) Root() [32]byte { return [32]byte(s.store.ImmutableTree.Hash()) }

func newApp(dir string, every int64, keep int, log *slog.Logger, now func() time.Time) (*app, error) {
	t, err := openTree(dir)
	if err != nil {
		return nil, err
	}
	s, err := openSnapshots(dir+"/snapshots", keep)
	if err != nil {
		t.close()
		return nil, err
	}
	a := &app{dir: dir, snapshots: s, every: every, log: log, now: now, changed: make(chan struct{}, 1), keys: make(map[[20]byte]ledger.Key)}
	a.use(t)
	if err := a.publish(); err != nil {
		t.close()
		return nil, err
	}
	return a, nil
}

func (a *app) use(t *tree) {
	a.tree, a.machine, a.door = t, ledger.New(t), nil
	a.height, a.executed = t.Version(), false
}

// close waits for calls under way and closes the state.
func (a *app) close() error {
	a.life.end()
	return a.tree.close()
}

// publish lets others see the newest finished version.
func (a *app) publish() error {
	if a.height == 0 {
		return nil
	}
	frozen, err := a.tree.finished.GetImmutable(a.height)
	if err != nil {
		return fmt.Errorf("reading version %d of the ledger: %w", a.height, err)
	}
	s := &State{Height: a.height, Time: a.at, Seen: a.now(), store: version{frozen}, tree: a.tree}
	v := s.View()
	s.Head = v.ListHead()
	// The list changes rarely; making it anew reads every node.
	if old := a.state.Load(); old != nil && old.Head == s.Head {
		s.List = old.List
	} else {
		s.List = ledger.EncodeList(v.Active())
	}
	if err := v.Err(); err != nil {
		return err
	}
	a.state.Store(s)
	select {
	case a.changed <- struct{}{}:
	default:
	}
	return nil
}

// stop is for errors after which the state cannot be trusted: the engine halts
// when it gets one.
func (a *app) stop(what string, err error) error {
	text := fmt.Sprintf("%s: %v", what, err)
	a.failed.Store(&text)
	a.log.Error("ledger stops", "doing", what, "err", err)
	return fmt.Errorf("%s: %w", what, err)
}

// Info is part of the engine's interface.
func (a *app) Info(context.Context, *abci.RequestInfo) (*abci.ResponseInfo, error) {
	r := &abci.ResponseInfo{Data: "hearth", AppVersion: appVersion, LastBlockHeight: a.tree.Version()}
	if r.LastBlockHeight > 0 {
		r.LastBlockAppHash = a.tree.Hash()
	}
	return r, nil
}

// InitChain is part of the engine's interface.
func (a *app) InitChain(_ context.Context, r *abci.RequestInitChain) (*abci.ResponseInitChain, error) {
	g, err := ledger.ParseGenesis(r.AppStateBytes)
	if err != nil {
		return nil, a.stop("reading genesis", err)
	}
	if r.ChainId != g.Chain || r.Time.Unix() != g.Time || r.InitialHeight != 1 {
		return nil, a.stop("reading genesis", fmt.Errorf("%w: the engine starts %s at height %d", ledger.ErrGenesis, r.ChainId, r.InitialHeight))
	}
	a.tree.Rollback() // an earlier InitChain that no block followed
	members, err := a.machine.Start(g)
	if err != nil {
		return nil, a.stop("executing genesis", err)
	}
	a.at = r.Time
	return &abci.ResponseInitChain{Validators: updates(members), AppHash: a.tree.WorkingHash()}, nil
}

func updates(members []ledger.Validator) []abci.ValidatorUpdate {
	all := make([]abci.ValidatorUpdate, len(members))
	for i, m := range members {
		all[i] = abci.Ed25519ValidatorUpdate(m.Consensus[:], int64(m.Power))
	}
	return all
}

// CheckTx is part of the engine's interface.
func (a *app) CheckTx(_ context.Context, r *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	if !a.life.enter() {
		return &abci.ResponseCheckTx{Code: ledger.Code(errClosed), Log: errClosed.Error()}, nil
	}
	defer a.life.leave()
	if a.door == nil {
		// The next block's time is close to the clock's, while the last block may be
		// minutes old.
		at := a.now()
		if a.at.After(at) {
			at = a.at
		}
		door, err := a.machine.Door(uint64(a.height), at)
		if err != nil {
			// The engine panics on an error of this call.
			a.stop("opening the door", err)
			return &abci.ResponseCheckTx{Code: ledger.Code(err), Log: err.Error()}, nil
		}
		a.door = door
	}
	if err := a.door.Check(r.Tx); err != nil {
		return &abci.ResponseCheckTx{Code: ledger.Code(err), Log: err.Error()}, nil
	}
	return &abci.ResponseCheckTx{}, nil
}

// PrepareProposal is part of the engine's interface.
func (a *app) PrepareProposal(_ context.Context, r *abci.RequestPrepareProposal) (*abci.ResponsePrepareProposal, error) {
	if !a.life.enter() {
		return nil, errClosed
	}
	defer a.life.leave()
	b := &ledger.Block{Height: uint64(r.Height), Time: r.Time, Proposer: a.own, Txs: r.Txs}
	txs, err := a.machine.Fill(b, a.beacon, r.MaxTxBytes, txOverhead)
	if err != nil {
		return nil, a.stop("filling a block", err)
	}
	return &abci.ResponsePrepareProposal{Txs: txs}, nil
}

// ProcessProposal is part of the engine's interface.
func (a *app) ProcessProposal(_ context.Context, r *abci.RequestProcessProposal) (*abci.ResponseProcessProposal, error) {
	if !a.life.enter() {
		return nil, errClosed
	}
	defer a.life.leave()
	b := &ledger.Block{Height: uint64(r.Height), Time: r.Time, Proposer: a.key(r.ProposerAddress), Txs: r.Txs}
	if err := a.machine.Proper(b); err != nil {
		a.log.Warn("ledger: proposed block refused", "height", r.Height, "err", err)
		return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_REJECT}, nil
	}
	return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_ACCEPT}, nil
}

// key finds the consensus key of one of the engine's addresses, zero when no node
// has it.
func (a *app) key(address []byte) ledger.Key {
	if len(address) != 20 {
		return ledger.Key{}
	}
	if k, known := a.keys[[20]byte(address)]; known {
		return k
	}
	clear(a.keys) // nodes that left need no room
	for _, m := range a.machine.View().Consensus() {
		sum := sha256.Sum256(m.Consensus[:])
		a.keys[[20]byte(sum[:20])] = m.Consensus
	}
	return a.keys[[20]byte(address)]
}

// FinalizeBlock is part of the engine's interface: it computes and saves nothing.
func (a *app) FinalizeBlock(_ context.Context, r *abci.RequestFinalizeBlock) (*abci.ResponseFinalizeBlock, error) {
	if !a.life.enter() {
		return nil, errClosed
	}
	defer a.life.leave()
	if a.executed {
		if a.tree.Version() == 0 {
			return nil, a.stop("executing a block", errors.New("the first block came twice; start the node again"))
		}
		a.tree.Rollback()
	}
	if r.Height != a.tree.WorkingVersion() {
		return nil, a.stop("executing a block", fmt.Errorf("height %d, the state is that of %d", r.Height, a.tree.Version()))
	}
	b := &ledger.Block{Height: uint64(r.Height), Time: r.Time, Proposer: a.key(r.ProposerAddress), Txs: r.Txs}
	for _, v := range r.DecidedLastCommit.Votes {
		b.Signers = append(b.Signers, ledger.Presence{
			Consensus: a.key(v.Validator.Address),
			Absent:    v.BlockIdFlag == 1, // absent; a vote for nothing is a sign of life
		})
	}
	for _, e := range r.Misbehavior {
		k := a.key(e.Validator.Address)
		a.log.Warn("ledger: a member signed twice", "consensus", fmt.Sprintf("%x", k[:4]), "height", e.Height)
		b.Evidence = append(b.Evidence, k)
	}
	result, err := a.machine.Execute(b)
	if err != nil {
		return nil, a.stop("executing a block", err)
	}
	if result.Suppressed != nil {
		a.log.Error("ledger: a change of the committee was not safe and did not happen", "err", result.Suppressed)
	}
	a.executed, a.result, a.height, a.at = true, result, r.Height, r.Time
	response := &abci.ResponseFinalizeBlock{
		TxResults:        make([]*abci.ExecTxResult, len(r.Txs)),
		ValidatorUpdates: updates(result.Updates),
		AppHash:          a.tree.WorkingHash(),
	}
	for i, err := range result.Refused {
		response.TxResults[i] = &abci.ExecTxResult{Code: ledger.Code(err)}
		if err != nil {
			response.TxResults[i].Log = err.Error() // not part of what nodes agree on
		}
	}
	return response, nil
}

// Commit is part of the engine's interface: it saves.
func (a *app) Commit(context.Context, *abci.RequestCommit) (*abci.ResponseCommit, error) {
	if !a.life.enter() {
		return nil, errClosed
	}
	defer a.life.leave()
	_, height, err := a.tree.SaveVersion()
	if err != nil {
		return nil, a.stop("saving the state", err)
	}
	a.executed, a.door, a.height = false, nil, height
	if err := a.publish(); err != nil {
		return nil, a.stop("saving the state", err)
	}
	if height%a.every == 0 {
		// Without a snapshot others join more slowly; the ledger goes on.
		if err := a.snapshots.take(a.state.Load().store.ImmutableTree); err != nil {
			a.log.Error("ledger: no snapshot", "height", height, "err", err)
		}
	}
	if err := a.tree.prune(height - keptVersions); err != nil {
		a.log.Error("ledger: old versions stay", "err", err)
	}
	return &abci.ResponseCommit{RetainHeight: a.retainHeight()}, nil
}

// retainHeight lets the engine forget blocks that are older than clients need,
// a few at a time, but none that a node needs which begins with one of the
// snapshots. 0 forgets nothing.
func (a *app) retainHeight() int64 {
	if a.blockTime == nil || a.retain <= 0 {
		return 0
	}
	limit := min(a.height, a.snapshots.oldest())
	for range 10 {
		at, known := a.blockTime(a.retained + 1)
		if a.retained+1 >= limit || known && a.at.Sub(at) < a.retain {
			break
		}
		a.retained++
	}
	return max(a.retained, 0)
}

// ListSnapshots is part of the engine's interface.
func (a *app) ListSnapshots(context.Context, *abci.RequestListSnapshots) (*abci.ResponseListSnapshots, error) {
	r := new(abci.ResponseListSnapshots)
	for _, s := range a.snapshots.all {
		r.Snapshots = append(r.Snapshots, &abci.Snapshot{Height: uint64(s.height), Format: snapshotFormat, Chunks: s.chunks, Hash: s.hash[:]})
	}
	return r, nil
}

// LoadSnapshotChunk is part of the engine's interface.
func (a *app) LoadSnapshotChunk(_ context.Context, r *abci.RequestLoadSnapshotChunk) (*abci.ResponseLoadSnapshotChunk, error) {
	if !a.life.enter() {
		return nil, errClosed
	}
	defer a.life.leave()
	if r.Format != snapshotFormat || r.Height > 1<<62 {
		return new(abci.ResponseLoadSnapshotChunk), nil
	}
	return &abci.ResponseLoadSnapshotChunk{Chunk: a.snapshots.chunk(int64(r.Height), r.Chunk)}, nil
}

// OfferSnapshot is part of the engine's interface. The root comes from a proven
// header, everything else from a stranger.
func (a *app) OfferSnapshot(_ context.Context, r *abci.RequestOfferSnapshot) (*abci.ResponseOfferSnapshot, error) {
	answer := func(result abci.ResponseOfferSnapshot_Result) (*abci.ResponseOfferSnapshot, error) {
		return &abci.ResponseOfferSnapshot{Result: result}, nil
	}
	s := r.Snapshot
	switch {
	case s == nil || len(s.Hash) != 32 || s.Chunks == 0 || s.Chunks > maxChunks || s.Height == 0 || s.Height > 1<<40:
		return answer(abci.ResponseOfferSnapshot_REJECT)
	case s.Format != snapshotFormat:
		return answer(abci.ResponseOfferSnapshot_REJECT_FORMAT)
	case a.tree.Version() != 0:
		return answer(abci.ResponseOfferSnapshot_ABORT)
	}
	a.incoming = &restoring{height: int64(s.Height), hash: [32]byte(s.Hash), root: bytes.Clone(r.AppHash), chunks: s.Chunks}
	return answer(abci.ResponseOfferSnapshot_ACCEPT)
}

// ApplySnapshotChunk is part of the engine's interface.
func (a *app) ApplySnapshotChunk(_ context.Context, r *abci.RequestApplySnapshotChunk) (*abci.ResponseApplySnapshotChunk, error) {
	if !a.life.enter() {
		return nil, errClosed
	}
	defer a.life.leave()
	answer := func(result abci.ResponseApplySnapshotChunk_Result) (*abci.ResponseApplySnapshotChunk, error) {
		return &abci.ResponseApplySnapshotChunk{Result: result}, nil
	}
	in := a.incoming
	switch {
	case in == nil || r.Index != in.next:
		return answer(abci.ResponseApplySnapshotChunk_ABORT)
	case len(r.Chunk) == 0 || len(r.Chunk) > chunkSize || r.Index+1 < in.chunks && len(r.Chunk) != chunkSize:
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_RETRY, RefetchChunks: []uint32{r.Index}, RejectSenders: []string{r.Sender}}, nil
	}
	in.bytes.Write(r.Chunk)
	if in.next++; in.next < in.chunks {
		return answer(abci.ResponseApplySnapshotChunk_ACCEPT)
	}
	a.incoming = nil
	if sha256.Sum256(in.bytes.Bytes()) != in.hash {
		return answer(abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT)
	}
	err := readSnapshot(&in.bytes, a.tree.MutableTree, in.height)
	if err == nil {
		if _, err = a.tree.Load(); err == nil && !bytes.Equal(a.tree.Hash(), in.root) {
			err = fmt.Errorf("%w: its root is not the one of block %d", ErrSnapshot, in.height)
		}
	}
	if err != nil {
		a.log.Warn("ledger: snapshot refused", "height", in.height, "err", err)
		// What it wrote has to go, else the next one finds a tree that is not empty.
		if err := a.tree.remove(); err != nil {
			return nil, a.stop("removing a false snapshot", err)
		}
		t, err := openTree(a.dir)
		if err != nil {
			return nil, a.stop("removing a false snapshot", err)
		}
		a.use(t)
		return answer(abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT)
	}
	a.tree.oldest = in.height
	a.use(a.tree)
	a.retained = in.height
	if err := a.publish(); err != nil {
		return nil, a.stop("reading a snapshot", err)
	}
	return answer(abci.ResponseApplySnapshotChunk_ACCEPT)
}
