package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	cmt "github.com/cometbft/cometbft/types"
	"github.com/cosmos/iavl"
	iavldb "github.com/cosmos/iavl/db"

	"hearth/node/ledger"
	"hearth/node/ledger/light"
)

// chain drives applications as the engine does.
type chain struct {
	t       *testing.T
	genesis *ledger.Genesis
	nonce   uint64
	at      time.Time
	height  int64
	blocks  []*abci.RequestFinalizeBlock
	roots   [][]byte
}

func newChain(t *testing.T) *chain {
	g := testGenesis(4, pair("owner", 0))
	g.Time = 1_800_000_000
	return &chain{t: t, genesis: g, at: time.Unix(g.Time, 0)}
}

func (c *chain) app(dir string) *app {
	c.t.Helper()
	a, err := newApp(dir, 10, 3, slog.New(slog.DiscardHandler), func() time.Time { return c.at })
	if err != nil {
		c.t.Fatal(err)
	}
	a.own, a.beacon = pair("consensus", 0).Ed25519(), BeaconKey(pair("node", 0))
	return a
}

func (c *chain) init(a *app) {
	c.t.Helper()
	state, err := json.Marshal(c.genesis)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := a.InitChain(c.t.Context(), &abci.RequestInitChain{Time: c.at, ChainId: c.genesis.Chain, AppStateBytes: state, InitialHeight: 1})
	if err != nil || len(r.Validators) != 4 {
		c.t.Fatalf("%v, %v", r, err)
	}
}

// next makes a block with a transfer to a fresh account.
func (c *chain) next(a *app) *abci.RequestFinalizeBlock {
	c.t.Helper()
	c.height++
	c.at = c.at.Add(time.Second)
	owner := pair("owner", 0)
	x := &ledger.Tx{Chain: c.genesis.Chain, Nonce: c.nonce, Fee: c.genesis.Params.MinFee, Body: &ledger.Transfer{To: pair("to", int(c.nonce)).Ed25519(), Amount: 5}}
	c.nonce++
	x.Sign(owner)
	raw, err := x.Encode()
	if err != nil {
		c.t.Fatal(err)
	}
	proposer := cmtAddress(pair("consensus", 0).Ed25519())
	p, err := a.PrepareProposal(c.t.Context(), &abci.RequestPrepareProposal{Height: c.height, Time: c.at, Txs: [][]byte{raw, []byte("nonsense")}, MaxTxBytes: 1 << 16})
	if err != nil || len(p.Txs) == 0 || !bytes.Equal(p.Txs[len(p.Txs)-1], raw) {
		c.t.Fatalf("proposed %d, %v", len(p.Txs), err)
	}
	ok, err := a.ProcessProposal(c.t.Context(), &abci.RequestProcessProposal{Height: c.height, Time: c.at, Txs: p.Txs, ProposerAddress: proposer})
	if err != nil || ok.Status != abci.ResponseProcessProposal_ACCEPT {
		c.t.Fatalf("own proposal: %v, %v", ok, err)
	}
	b := &abci.RequestFinalizeBlock{Height: c.height, Time: c.at, Txs: p.Txs, ProposerAddress: proposer}
	c.blocks = append(c.blocks, b)
	return b
}

func (c *chain) execute(a *app, b *abci.RequestFinalizeBlock) []byte {
	c.t.Helper()
	r, err := a.FinalizeBlock(c.t.Context(), b)
	if err != nil {
		c.t.Fatal(err)
	}
	for i, x := range r.TxResults {
		if x.Code != 0 {
			c.t.Fatalf("block %d, transaction %d: %s", b.Height, i, x.Log)
		}
	}
	return r.AppHash
}

func (c *chain) commit(a *app) {
	c.t.Helper()
	if _, err := a.Commit(c.t.Context(), nil); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chain) run(a *app, blocks int) {
	c.t.Helper()
	for range blocks {
		c.roots = append(c.roots, c.execute(a, c.next(a)))
		c.commit(a)
	}
}

func TestAPowerCutBetweenExecutingAndSavingIsRepeated(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	a := c.app(dir)
	c.init(a)
	c.run(a, 5)
	b := c.next(a)
	want := c.execute(a, b)
	if err := a.tree.close(); err != nil { // without Commit
		t.Fatal(err)
	}
	a = c.app(dir)
	defer a.tree.close()
	info, err := a.Info(t.Context(), nil)
	if err != nil || info.LastBlockHeight != 5 || !bytes.Equal(info.LastBlockAppHash, c.roots[4]) {
		t.Fatalf("%+v, %v", info, err)
	}
	if got := c.execute(a, b); !bytes.Equal(got, want) {
		t.Errorf("root %x, was %x", got, want)
	}
	if got := c.execute(a, b); !bytes.Equal(got, want) { // and again in the same process
		t.Errorf("root %x, was %x", got, want)
	}
	c.commit(a)
	if s := a.state.Load(); s.Height != 6 || ledger.CheckState(s.View()) != nil {
		t.Errorf("height %d", s.Height)
	}
}

func TestASnapshotGivesTheSameRootsFromThenOn(t *testing.T) {
	c := newChain(t)
	a := c.app(t.TempDir())
	defer a.tree.close()
	c.init(a)
	c.run(a, 45)
	list, err := a.ListSnapshots(t.Context(), nil)
	if err != nil || len(list.Snapshots) != 3 || list.Snapshots[0].Height != 20 {
		t.Fatalf("%v, %v", list, err)
	}
	s := list.Snapshots[2]
	chunks := func() [][]byte {
		var all [][]byte
		for i := range s.Chunks {
			r, err := a.LoadSnapshotChunk(t.Context(), &abci.RequestLoadSnapshotChunk{Height: s.Height, Format: s.Format, Chunk: i})
			if err != nil || len(r.Chunk) == 0 {
				t.Fatalf("chunk %d: %v", i, err)
			}
			all = append(all, slices.Clone(r.Chunk))
		}
		return all
	}()
	root := c.roots[s.Height-1]
	dir := t.TempDir()
	b := c.app(dir)
	defer func() { b.tree.close() }()
	offer := func(x abci.Snapshot, root []byte) abci.ResponseOfferSnapshot_Result {
		r, err := b.OfferSnapshot(t.Context(), &abci.RequestOfferSnapshot{Snapshot: &x, AppHash: root})
		if err != nil {
			t.Fatal(err)
		}
		return r.Result
	}
	apply := func(all [][]byte) (last abci.ResponseApplySnapshotChunk_Result) {
		for i, chunk := range all {
			r, err := b.ApplySnapshotChunk(t.Context(), &abci.RequestApplySnapshotChunk{Index: uint32(i), Chunk: chunk})
			if err != nil {
				t.Fatal(err)
			}
			last = r.Result
		}
		return last
	}
	sum := func(all [][]byte) []byte { h := sha256.Sum256(slices.Concat(all...)); return h[:] }
	damaged := [][]byte{slices.Clone(chunks[0])}
	damaged[0][len(damaged[0])/2] ^= 1
	for _, x := range []struct {
		name   string
		change func(*abci.Snapshot)
		root   []byte
		chunks [][]byte
		offer  abci.ResponseOfferSnapshot_Result
		apply  abci.ResponseApplySnapshotChunk_Result
	}{
		{"of another format", func(s *abci.Snapshot) { s.Format = 9 }, root, nil, abci.ResponseOfferSnapshot_REJECT_FORMAT, 0},
		{"of too many chunks", func(s *abci.Snapshot) { s.Chunks = 1 << 30 }, root, nil, abci.ResponseOfferSnapshot_REJECT, 0},
		{"without a hash", func(s *abci.Snapshot) { s.Hash = nil }, root, nil, abci.ResponseOfferSnapshot_REJECT, 0},
		{"with a changed chunk", func(s *abci.Snapshot) {}, root, damaged, abci.ResponseOfferSnapshot_ACCEPT, abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT},
		{"changed as a whole", func(s *abci.Snapshot) { s.Hash = sum(damaged) }, root, damaged, abci.ResponseOfferSnapshot_ACCEPT, abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT},
		{"of another state", func(s *abci.Snapshot) {}, c.roots[3], chunks, abci.ResponseOfferSnapshot_ACCEPT, abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT},
		{"with an empty chunk", func(s *abci.Snapshot) {}, root, [][]byte{{}}, abci.ResponseOfferSnapshot_ACCEPT, abci.ResponseApplySnapshotChunk_RETRY},
		{"that is true", func(s *abci.Snapshot) {}, root, chunks, abci.ResponseOfferSnapshot_ACCEPT, abci.ResponseApplySnapshotChunk_ACCEPT},
	} {
		offered := *s
		x.change(&offered)
		if got := offer(offered, x.root); got != x.offer {
			t.Errorf("a snapshot %s, offered: %v", x.name, got)
		}
		if x.offer != abci.ResponseOfferSnapshot_ACCEPT {
			continue
		}
		if got := apply(x.chunks); got != x.apply {
			t.Errorf("a snapshot %s, applied: %v", x.name, got)
		}
	}
	// Who executed everything has the same.
	again := c.app(t.TempDir())
	defer again.tree.close()
	at := c.at
	c.at = time.Unix(c.genesis.Time, 0)
	c.init(again)
	c.at = at
	for _, block := range c.blocks {
		if got := c.execute(again, block); !bytes.Equal(got, c.roots[block.Height-1]) {
			t.Fatalf("block %d executed again: another root", block.Height)
		}
		c.commit(again)
	}
	info, err := b.Info(t.Context(), nil)
	if err != nil || info.LastBlockHeight != 40 || !bytes.Equal(info.LastBlockAppHash, root) {
		t.Fatalf("%+v, %v", info, err)
	}
	for _, block := range c.blocks[40:] {
		if got := c.execute(b, block); !bytes.Equal(got, c.roots[block.Height-1]) {
			t.Fatalf("block %d: another root", block.Height)
		}
		c.commit(b)
	}
	if err := ledger.CheckState(b.state.Load().View()); err != nil {
		t.Error(err)
	}
}

func TestOldVersionsGoAndProofsOfTheNewestStay(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	a := c.app(dir)
	c.init(a)
	c.run(a, keptVersions+60)
	if n := len(a.tree.AvailableVersions()); n > keptVersions+2 {
		t.Errorf("%d versions", n)
	}
	for _, height := range []int64{c.height, c.height - keptVersions + 2} {
		proof, value, err := a.tree.proof(height)
		if err != nil {
			t.Fatal(err)
		}
		b, err := light.EncodeHead(value, proof)
		if err != nil {
			t.Fatal(err)
		}
		head, err := light.VerifyHead(c.roots[height-1], b)
		if err != nil || head.Hash != a.state.Load().Head.Hash {
			t.Errorf("%+v, %v", head, err)
		}
		if _, err := light.VerifyHead(c.roots[2], b); !errors.Is(err, light.ErrProof) {
			t.Errorf("under another root: %v", err)
		}
		t.Logf("proof of the list's head: %d bytes", len(b))
	}
	if _, _, err := a.tree.proof(3); err == nil {
		t.Error("a version that was deleted is there")
	}
	a.tree.close()
	a = c.app(dir)
	defer a.tree.close()
	c.run(a, 5)
	if a.tree.oldest < 40 {
		t.Errorf("after a restart the oldest version is %d", a.tree.oldest)
	}
}

func TestOldBlocksAreReleasedButNotThoseBehindASnapshot(t *testing.T) {
	c := newChain(t)
	a := c.app(t.TempDir())
	defer a.tree.close()
	c.init(a)
	a.retain = 20 * time.Second // a block each second
	a.blockTime = func(height int64) (time.Time, bool) { return time.Unix(c.genesis.Time+height, 0), true }
	c.run(a, 75)
	if a.retained < 40 || a.retained >= 50 {
		t.Errorf("blocks below %d are released at height 75, with snapshots of 50, 60 and 70", a.retained)
	}
}

func TestWhatTheEngineGetsFromTheLedgerNeverHaltsIt(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	key := func(i int) ledger.Key { return pair("member", i).Ed25519() }
	members := map[ledger.Key]uint64{}
	var first []*cmt.Validator
	for i := range 4 {
		members[key(i)] = 1
		first = append(first, cmt.NewValidator(edKey(key(i)), 1))
	}
	set := cmt.NewValidatorSet(first)
	passed, stopped := 0, 0
	for range 3000 {
		var random []ledger.Validator
		for range 1 + rng.IntN(4) {
			random = append(random, ledger.Validator{Consensus: key(rng.IntN(12)), Power: uint64(rng.IntN(5) / 2)})
		}
		if ledger.CheckUpdates(members, random) != nil {
			stopped++
			continue
		}
		changes, err := cmt.PB2TM.ValidatorUpdates(updates(random))
		if err != nil {
			t.Fatal(err)
		}
		if err := set.UpdateWithChangeSet(changes); err != nil {
			t.Fatalf("the engine does not take %v: %v", random, err)
		}
		for _, u := range random {
			if u.Power == 0 {
				delete(members, u.Consensus)
			} else {
				members[u.Consensus] = u.Power
			}
		}
		if len(members) != set.Size() {
			t.Fatalf("%d members, the engine has %d", len(members), set.Size())
		}
		passed++
	}
	if passed < 300 || stopped < 300 {
		t.Errorf("%d passed, %d were stopped", passed, stopped)
	}
}

func TestAGenesisOfAnotherChainIsRefused(t *testing.T) {
	c := newChain(t)
	a := c.app(t.TempDir())
	defer a.tree.close()
	state, _ := json.Marshal(c.genesis)
	if _, err := a.InitChain(t.Context(), &abci.RequestInitChain{Time: c.at, ChainId: "other", AppStateBytes: state, InitialHeight: 1}); !errors.Is(err, ledger.ErrGenesis) {
		t.Errorf("got %v", err)
	}
	if a.failed.Load() == nil {
		t.Error("nobody is told")
	}
}

func TestAFalseProposalIsRefused(t *testing.T) {
	c := newChain(t)
	a := c.app(t.TempDir())
	defer a.tree.close()
	c.init(a)
	c.run(a, 2)
	for name, txs := range map[string][][]byte{
		"nonsense":                {[]byte("nonsense")},
		"a false part of a seed":  {ledger.BeaconTx([80]byte{1})},
		"a seed in second place":  {c.next(a).Txs[0], ledger.BeaconTx([80]byte{1})},
		"a transaction too large": {make([]byte, ledger.MaxTx+1)},
	} {
		r, err := a.ProcessProposal(t.Context(), &abci.RequestProcessProposal{Height: 3, Time: c.at, Txs: txs, ProposerAddress: cmtAddress(pair("consensus", 0).Ed25519())})
		if err != nil || r.Status != abci.ResponseProcessProposal_REJECT {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

func memoryTree() *iavl.MutableTree {
	return iavl.NewMutableTree(iavldb.NewMemDB(), 100, true, iavl.NewNopLogger())
}

func FuzzSnapshot(f *testing.F) {
	t := memoryTree()
	for version := range 3 {
		for i := range 20 {
			if _, err := t.Set([]byte(fmt.Sprint("key", i*version)), []byte(fmt.Sprint(i))); err != nil {
				f.Fatal(err)
			}
		}
		if _, _, err := t.SaveVersion(); err != nil {
			f.Fatal(err)
		}
	}
	frozen, err := t.GetImmutable(3)
	if err != nil {
		f.Fatal(err)
	}
	var good bytes.Buffer
	if err := writeSnapshot(&good, frozen); err != nil {
		f.Fatal(err)
	}
	f.Add(unpack(f, good.Bytes()))
	f.Add([]byte{0, 1, 1, 'a', 1, 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		// The compression is the library's to test: what lies in it is ours.
		to := memoryTree()
		err := readSnapshot(bytes.NewReader(pack(t, b)), to, 3)
		if err != nil {
			return
		}
		if _, err := to.Load(); err != nil {
			t.Fatal(err)
		}
		to.Iterate(func(key, value []byte) bool { return false })
	})
}

func BenchmarkBlockOnTheTree(b *testing.B) {
	for _, nodes := range []int{10, 1000} {
		b.Run(fmt.Sprintf("%d nodes", nodes), func(b *testing.B) {
			dir, err := os.MkdirTemp("", "ledger")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			g := testGenesis(nodes, pair("owner", 0))
			a, err := newApp(dir, 1<<40, 3, slog.New(slog.DiscardHandler), time.Now)
			if err != nil {
				b.Fatal(err)
			}
			defer a.tree.close()
			state, err := json.Marshal(g)
			if err != nil {
				b.Fatal(err)
			}
			at := time.Unix(g.Time, 0)
			ctx := context.Background()
			if _, err := a.InitChain(ctx, &abci.RequestInitChain{Time: at, ChainId: g.Chain, AppStateBytes: state, InitialHeight: 1}); err != nil {
				b.Fatal(err)
			}
			nonce, height := uint64(0), int64(0)
			for b.Loop() {
				height++
				x := &ledger.Tx{Chain: g.Chain, Nonce: nonce, Fee: g.Params.MinFee, Body: &ledger.Transfer{To: pair("to", int(nonce)).Ed25519(), Amount: 5}}
				x.Sign(pair("owner", 0))
				raw, err := x.Encode()
				if err != nil {
					b.Fatal(err)
				}
				nonce++
				r, err := a.FinalizeBlock(ctx, &abci.RequestFinalizeBlock{Height: height, Time: at, Txs: [][]byte{raw}})
				if err != nil || r.TxResults[0].Code != 0 {
					b.Fatal(r, err)
				}
				if _, err := a.Commit(ctx, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
