package light

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/light/provider"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/proto/tendermint/version"
	cmt "github.com/cometbft/cometbft/types"
	"github.com/cosmos/iavl"
	iavldb "github.com/cosmos/iavl/db"

	"hearth/node/keys"
	"hearth/node/ledger"
)

const chainID = "light-test"

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// chain is a ledger's history with true signatures and proofs. Each height has
// its own list, of as many nodes as the height says.
type chain struct {
	t      testing.TB
	step   time.Duration
	blocks []*cmt.LightBlock // from height 1 on
	roots  [][]byte          // state after each height
	heads  [][]byte
	lists  map[[32]byte][]byte
}

// members gives each height its keys.
type members func(height int) []ed25519.PrivKey

func key(i int) ed25519.PrivKey {
	var seed [32]byte
	binary.BigEndian.PutUint32(seed[:], uint32(i+1))
	return ed25519.GenPrivKeyFromSecret(seed[:])
}

// always is the same so many members.
func always(n int) members {
	var all []ed25519.PrivKey
	for i := range n {
		all = append(all, key(i))
	}
	return func(int) []ed25519.PrivKey { return all }
}

// rolling exchanges one of ten members at each height.
func rolling(height int) []ed25519.PrivKey {
	var all []ed25519.PrivKey
	for i := range 10 {
		all = append(all, key(height+i))
	}
	return all
}

func listOf(n int) []ledger.Listed {
	var all []ledger.Listed
	for i := range n {
		k := keys.FromSeed([32]byte{byte(i), byte(i >> 8), 1}).Ed25519()
		all = append(all, ledger.Listed{Key: k, Endpoint: ledger.Endpoint{IP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), HTTPS: 22021}})
	}
	slices.SortFunc(all, func(a, b ledger.Listed) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	return all
}

func newChain(t testing.TB, heights int, step time.Duration, who members, lists func(height int) int) *chain {
	c := &chain{t: t, step: step, lists: make(map[[32]byte][]byte)}
	tree := iavl.NewMutableTree(iavldb.NewMemDB(), 1000, true, iavl.NewNopLogger())
	for h := 1; h <= heights; h++ {
		list := ledger.EncodeList(listOf(lists(h)))
		sum := sha256.Sum256(list)
		c.lists[sum] = list
		value := binary.AppendUvarint(nil, uint64(h))
		value = binary.AppendUvarint(value, uint64(h))
		value = binary.AppendUvarint(value, uint64(start.Unix()))
		value = append(value, sum[:]...)
		for k, v := range map[string][]byte{ledger.KeyList: value, "a": {1}, "n": {2}, "p": {byte(h)}} {
			if _, err := tree.Set([]byte(k), v); err != nil {
				t.Fatal(err)
			}
		}
		root, _, err := tree.SaveVersion()
		if err != nil {
			t.Fatal(err)
		}
		proof, err := tree.GetMembershipProof([]byte(ledger.KeyList))
		if err != nil {
			t.Fatal(err)
		}
		head, err := EncodeHead(value, proof)
		if err != nil {
			t.Fatal(err)
		}
		c.roots, c.heads = append(c.roots, root), append(c.heads, head)
		appHash := []byte{}
		if h > 1 {
			appHash = c.roots[h-2]
		}
		c.blocks = append(c.blocks, block(t, h, start.Add(time.Duration(h)*step), who(h), who(h+1), appHash))
	}
	return c
}

func setOf(all []ed25519.PrivKey) *cmt.ValidatorSet {
	var v []*cmt.Validator
	for _, k := range all {
		v = append(v, cmt.NewValidator(k.PubKey(), 1))
	}
	return cmt.NewValidatorSet(v)
}

func block(t testing.TB, height int, at time.Time, now, next []ed25519.PrivKey, appHash []byte) *cmt.LightBlock {
	set := setOf(now)
	sum := sha256.Sum256(fmt.Append(nil, height))
	h := &cmt.Header{
		Version: version.Consensus{Block: 11}, ChainID: chainID, Height: int64(height), Time: at,
		LastBlockID:    cmt.BlockID{Hash: sum[:], PartSetHeader: cmt.PartSetHeader{Total: 1, Hash: sum[:]}},
		LastCommitHash: sum[:], DataHash: sum[:], ValidatorsHash: set.Hash(), NextValidatorsHash: setOf(next).Hash(),
		ConsensusHash: sum[:], AppHash: appHash, LastResultsHash: sum[:], EvidenceHash: sum[:], ProposerAddress: set.Validators[0].Address,
	}
	id := cmt.BlockID{Hash: h.Hash(), PartSetHeader: cmt.PartSetHeader{Total: 1, Hash: sum[:]}}
	commit := &cmt.Commit{Height: h.Height, BlockID: id}
	for i, v := range set.Validators {
		k := now[slices.IndexFunc(now, func(k ed25519.PrivKey) bool { return k.PubKey().Equals(v.PubKey) })]
		vote := &cmtproto.Vote{Type: cmtproto.PrecommitType, Height: h.Height, BlockID: id.ToProto(), Timestamp: at.Add(time.Duration(i) * time.Millisecond), ValidatorAddress: v.Address, ValidatorIndex: int32(i)}
		sig, err := k.Sign(cmt.VoteSignBytes(chainID, vote))
		if err != nil {
			t.Fatal(err)
		}
		commit.Signatures = append(commit.Signatures, cmt.CommitSig{BlockIDFlag: cmt.BlockIDFlagCommit, ValidatorAddress: v.Address, Timestamp: vote.Timestamp, Signature: sig})
	}
	return &cmt.LightBlock{SignedHeader: &cmt.SignedHeader{Header: h, Commit: commit}, ValidatorSet: set}
}

func (c *chain) trust(height int) Trust {
	return Trust{int64(height), [32]byte(c.blocks[height-1].Hash())}
}

func (c *chain) end() time.Time { return c.blocks[len(c.blocks)-1].Time.Add(time.Second) }

// node is a source; what is not nil replaces its true answers.
type node struct {
	*chain
	block func(height int64, b []byte) []byte
	head  func(b []byte) []byte
	list  func(b []byte) []byte
	gone  bool
	asked int // bytes sent; each source is asked by one goroutine at a time
}

var errGone = errors.New("node does not answer")

func (n *node) Block(_ context.Context, height int64) ([]byte, error) {
	if n.gone {
		return nil, errGone
	}
	if height == 0 {
		height = int64(len(n.blocks))
	}
	if height > int64(len(n.blocks)) {
		return nil, ErrNotYet
	}
	b, err := EncodeBlock(n.blocks[height-1])
	if n.block != nil {
		b = n.block(height, b)
	}
	n.asked += len(b)
	return b, err
}

func (n *node) Head(_ context.Context, height int64) ([]byte, error) {
	if n.gone {
		return nil, errGone
	}
	b := bytes.Clone(n.heads[height-2])
	if n.head != nil {
		b = n.head(b)
	}
	n.asked += len(b)
	return b, nil
}

func (n *node) Order(_ context.Context, height int64) ([]byte, error) {
	return EncodeOrder(n.blocks[height-1].ValidatorSet), nil
}

func (n *node) List(_ context.Context, hash [32]byte) ([]byte, error) {
	if n.gone {
		return nil, errGone
	}
	b := bytes.Clone(n.lists[hash])
	if n.list != nil {
		b = n.list(b)
	}
	n.asked += len(b)
	return b, nil
}

func (c *chain) client(trust Trust, now time.Time, nodes ...*node) (*Client, error) {
	var sources []Source
	for _, n := range nodes {
		sources = append(sources, n)
	}
	return New(context.Background(), Config{Chain: chainID, Trust: trust, Sources: sources, Now: func() time.Time { return now }})
}

func seven(int) int { return 7 }

func TestTheListIsProvenFromAnOldHeader(t *testing.T) {
	for name, c := range map[string]*chain{
		"by the same members":                   newChain(t, 40, time.Hour, always(10), seven),
		"although all members were exchanged":   newChain(t, 40, time.Hour, rolling, seven),
		"although the list is longer each time": newChain(t, 40, time.Hour, always(4), func(h int) int { return h }),
	} {
		client, err := c.client(c.trust(2), c.end(), &node{chain: c}, &node{chain: c}, &node{chain: c})
		if err != nil {
			t.Fatal(err)
		}
		p, err := client.Update(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.Trust != c.trust(40) || p.Head.Serial != 39 || len(p.List.Nodes) == 0 || p.List.Hash != p.Head.Hash || client.Newest() != p {
			t.Errorf("%s: %+v", name, p)
		}
		again, err := client.Update(t.Context())
		if err != nil || again != p {
			t.Errorf("%s, again: %v", name, err)
		}
	}
}

func TestLiesAreFoundOut(t *testing.T) {
	c := newChain(t, 20, time.Hour, always(4), seven)
	// The same members sign another history from height 15 on.
	fork := newChain(t, 20, time.Hour, always(4), func(h int) int {
		if h >= 15 {
			return 9
		}
		return 7
	})
	forger := newChain(t, 20, time.Hour, func(int) []ed25519.PrivKey { return []ed25519.PrivKey{key(90), key(91), key(92), key(93)} }, func(int) int { return 9 })
	flip := func(at int) func(int64, []byte) []byte {
		return func(_ int64, b []byte) []byte { b[(at+len(b))%len(b)] ^= 1; return b }
	}
	late := func(f func([]byte) []byte) func(int64, []byte) []byte {
		return func(h int64, b []byte) []byte {
			if h < 10 {
				return b
			}
			return f(b)
		}
	}
	true3 := func() []*node { return []*node{{chain: c}, {chain: c}, {chain: c}} }
	with := func(i int, n *node) []*node { all := true3(); all[i] = n; return all }
	nodesOf := func(b []byte) []byte {
		return ledger.EncodeList(listOf(8))
	}
	for _, x := range []struct {
		name  string
		nodes []*node
		trust Trust
		now   time.Time
		err   error // nil: the true list is proven all the same
	}{
		{"all are honest", true3(), c.trust(3), c.end(), nil},
		{"the first does not answer", with(0, &node{chain: c, gone: true}), c.trust(3), c.end(), nil},
		{"the first does not answer later", with(0, &node{chain: c, block: late(func([]byte) []byte { return nil })}), c.trust(3), c.end(), nil},
		{"the first breaks a signature", with(0, &node{chain: c, block: late(func(b []byte) []byte { b[len(b)-1] ^= 1; return b })}), c.trust(3), c.end(), nil},
		{"the first changes a header", with(0, &node{chain: c, block: late(func(b []byte) []byte { b[40] ^= 1; return b })}), c.trust(3), c.end(), nil},
		{"the first has a history signed by nobody", with(0, &node{chain: forger}), c.trust(3), c.end(), nil},
		{"all have a history signed by nobody", []*node{{chain: forger}, {chain: forger}, {chain: forger}}, c.trust(3), c.end(), ErrTrust},
		{"the first breaks all signatures", with(0, &node{chain: c, block: late(func(b []byte) []byte {
			for i := 300; i < len(b); i += 20 {
				b[i] ^= 1
			}
			return b
		})}), c.trust(3), c.end(), nil},
		{"the first and a watching node are silent", []*node{{chain: c, gone: true}, {chain: c, gone: true}, {chain: c}}, c.trust(3), c.end(), ErrSources},
		{"a watching node sends nonsense", with(2, &node{chain: c, block: late(func(b []byte) []byte { return b[:9] })}), c.trust(3), c.end(), nil},
		{"a watching node changes a byte", with(1, &node{chain: c, block: flip(-1)}), c.trust(3), c.end(), nil},
		{"members signed two histories and the first shows the other", with(0, &node{chain: fork}), c.trust(3), c.end(), ErrForked},
		{"members signed two histories and a watching node shows the other", with(1, &node{chain: fork}), c.trust(3), c.end(), ErrForked},
		{"the first changes the proof", with(0, &node{chain: c, head: func(b []byte) []byte { b[len(b)-3] ^= 1; return b }}), c.trust(3), c.end(), nil},
		{"the first proves the list of yesterday", with(0, &node{chain: c, head: func([]byte) []byte { return c.heads[4] }}), c.trust(3), c.end(), nil},
		{"the first sends no proof", with(0, &node{chain: c, head: func([]byte) []byte { return nil }}), c.trust(3), c.end(), nil},
		{"the first sends another list", with(0, &node{chain: c, list: nodesOf}), c.trust(3), c.end(), nil},
		{"all send another list", []*node{{chain: c, list: nodesOf}, {chain: c, list: nodesOf}, {chain: c, list: nodesOf}}, c.trust(3), c.end(), ErrProof},
		{"all send a proof of something else", []*node{{chain: c, head: func([]byte) []byte { return c.heads[0] }}, {chain: c, head: func([]byte) []byte { return c.heads[0] }}, {chain: c, head: func([]byte) []byte { return nil }}}, c.trust(3), c.end(), ErrProof},
		{"the trusted hash is another", true3(), Trust{3, [32]byte{1}}, c.end(), ErrTrust},
		{"the trusted height does not exist", true3(), Trust{99, [32]byte{1}}, c.end(), ErrTrust},
		{"only two can be asked", true3()[:2], c.trust(3), c.end(), ErrSources},
		{"nine days have passed", true3(), c.trust(3), c.blocks[2].Time.Add(TrustingPeriod), ErrExpired},
		{"nine days have almost passed", true3(), c.trust(3), c.blocks[2].Time.Add(TrustingPeriod - time.Second), nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			client, err := c.client(x.trust, x.now, x.nodes...)
			var p *Proven
			if err == nil {
				p, err = client.Update(t.Context())
			}
			if x.err != nil {
				if !errors.Is(err, x.err) {
					t.Errorf("got %v, want %v", err, x.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.Head.Serial != 19 || len(p.Nodes) != 7 {
				t.Errorf("list %d of %d nodes", p.Head.Serial, len(p.Nodes))
			}
		})
	}
}

func TestAClientThatSleptTooLongSaysSo(t *testing.T) {
	c := newChain(t, 20, time.Hour, always(4), seven)
	now := c.end()
	client, err := New(t.Context(), Config{Chain: chainID, Trust: c.trust(3), Now: func() time.Time { return now },
		Sources: []Source{&node{chain: c}, &node{chain: c}, &node{chain: c}}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := client.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(TrustingPeriod)
	if _, err := client.Update(t.Context()); !errors.Is(err, ErrExpired) {
		t.Errorf("got %v", err)
	}
	if client.Newest() != p {
		t.Error("the last list is gone")
	}
}

func TestTrustIsWrittenAndRead(t *testing.T) {
	want := Trust{1234567, [32]byte{1, 0xfe}}
	text, err := want.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var got Trust
	if err := got.UnmarshalText(text); err != nil || got != want {
		t.Errorf("%s: %+v, %v", text, got, err)
	}
	for _, bad := range []string{"", "5", ":", "x:" + string(text[8:]), "0:" + string(text[8:]), "-1:" + string(text[8:]), "99999999999999999999:" + string(text[8:]), "5:zz"} {
		if err := got.UnmarshalText([]byte(bad)); !errors.Is(err, ErrTrust) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestALightBlockSurvivesItsBytes(t *testing.T) {
	l := block(t, 7, start, always(100)(0), rolling(3), []byte("root"))
	l.Commit.Signatures[3] = cmt.NewCommitSigAbsent()
	l.Commit.Round = 2
	b, err := EncodeBlock(l)
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.ToProto()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("100 members: %d bytes, as the engine's protobuf %d", len(b), p.Size())
	got, err := DecodeBlock(b, chainID)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Hash(), l.Hash()) || !bytes.Equal(got.Commit.Hash(), l.Commit.Hash()) || !bytes.Equal(got.ValidatorSet.Hash(), l.ValidatorSet.Hash()) {
		t.Error("it is another one")
	}
	if _, err := DecodeBlock(b, "another-chain"); !errors.Is(err, ErrBlock) {
		t.Errorf("of another chain: %v", err)
	}
	for n := range len(b) {
		if _, err := DecodeBlock(b[:n], chainID); !errors.Is(err, ErrBlock) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := NewProvider(chainID, "x", func(context.Context, int64) ([]byte, error) { return b, nil }).LightBlock(t.Context(), 8); !errors.As(err, new(provider.ErrBadLightBlock)) {
		t.Errorf("another height than asked: %v", err)
	}
}

func FuzzDecodeBlock(f *testing.F) {
	b, err := EncodeBlock(block(f, 7, start, always(3)(0), rolling(3), []byte("root")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeBlock(b, chainID)
		if err != nil {
			return
		}
		again, err := EncodeBlock(l)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := DecodeBlock(again, chainID); err != nil || !bytes.Equal(twice.Hash(), l.Hash()) {
			t.Errorf("read again: %v", err)
		}
	})
}

func FuzzVerifyHead(f *testing.F) {
	c := newChain(f, 3, time.Hour, always(1), seven)
	f.Add(c.heads[1])
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := VerifyHead(c.roots[1], b); err == nil && h.Serial != 2 {
			t.Errorf("%+v was proven", h)
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{4, 100} {
		c := newChain(b, 10, time.Hour, always(n), func(int) int { return 1000 })
		b.Run(fmt.Sprintf("1000 nodes proven by %d members", n), func(b *testing.B) {
			var bytes int
			for b.Loop() {
				nodes := []*node{{chain: c}, {chain: c}, {chain: c}}
				client, err := c.client(c.trust(2), c.end(), nodes...)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := client.Update(b.Context()); err != nil {
					b.Fatal(err)
				}
				bytes = nodes[0].asked + nodes[1].asked + nodes[2].asked
			}
			b.ReportMetric(float64(bytes)/1000, "kB")
		})
	}
}
