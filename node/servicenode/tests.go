package servicenode

import (
	"context"
	"crypto/rand"
	"time"

	"hearth/node/account"
	"hearth/node/peertest"
	"hearth/node/relay"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// Tests is what the node found out about the other nodes: who answers, since when,
// and who keeps what it has to keep. It is what a ledger judges nodes by.
func (n *Node) Tests() *peertest.Tester { return n.tests }

// AskLedger sends parts to the ledger of another node, over the link to it, and
// returns its answer. [Ledger.Hear] is the other end.
func (n *Node) AskLedger(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error) {
	return n.links.Request(ctx, to, relay.CommandLedger, parts)
}

func (n *Node) newTests(file string) *peertest.Tester {
	return peertest.New(peertest.Config{
		Self: n.cfg.Keys.Ed25519(),
		List: n.List,
		Probes: []peertest.Probe{
			{Name: peertest.OverHTTPS.String(), Test: func(ctx context.Context, to swarm.Node) error {
				return relay.PingNode(ctx, n.cfg.Dial, to)
			}},
			{Name: peertest.OverLink.String(), Test: func(ctx context.Context, to swarm.Node) error {
				return relay.PingLink(ctx, n.links, to)
			}},
		},
		Messages: kept{n.db, n.List, n.cfg.Keys.Ed25519(), n.cfg.Now},
		Ask: func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error) {
			return n.links.Request(ctx, to, relay.CommandStorageTest, parts)
		},
		Report: n.cfg.Report,
		Every:  n.cfg.Test,
		File:   file,
		Now:    n.cfg.Now,
		Log:    n.log,
	})
}

const (
	// settled is how old a message is that a storage test asks for: a member that
	// was away for a moment has it by then.
	settled = 10 * time.Minute
	// spare is how long it has to live.
	spare = time.Minute
	// probes is how many messages are looked at for one that can be asked for.
	probes = 64
)

// kept lets peers test what the database keeps.
type kept struct {
	db   *storage.DB
	list func() *swarm.List
	self [32]byte
	now  func() time.Time
}

// Random implements [peertest.Messages].
func (k kept) Random() (hash [32]byte, data []byte, ok bool) {
	list := k.list()
	self, _ := list.Find(k.self)
	own := func(owner account.ID) bool {
		in, _ := list.Of(owner)
		return in == self.Swarm && in != swarm.None
	}
	from := make([]byte, len(hash))
	rand.Read(from)
	now := k.now()
	for _, start := range [][]byte{from, nil} { // nil: around the end
		items, _, err := k.db.List(storage.Messages, start, nil, probes, own)
		if err != nil {
			return hash, nil, false
		}
		for _, item := range items {
			if len(item.Key) != len(hash) || now.Sub(time.UnixMilli(storage.StampTime(item.Stamp))) < settled {
				continue
			}
			m, found, err := k.db.LoadMessage(item.Key)
			if err != nil || !found || !k.lives(m, now.Add(spare)) {
				continue
			}
			return [32]byte(item.Key), m.Data, true
		}
	}
	return hash, nil, false
}

// Load implements [peertest.Messages].
func (k kept) Load(hash [32]byte) (data []byte, ok bool) {
	m, ok, err := k.db.LoadMessage(hash[:])
	if err != nil || !ok || !k.lives(m, k.now()) {
		return nil, false
	}
	return m.Data, true
}

// lives reports whether a message will still be there at a moment, whatever its
// account has changed since it was stored.
func (k kept) lives(m storage.Message, at time.Time) bool {
	expiries, err := k.db.Expiries(m.Owner, []string{m.Hash})
	return err == nil && expiries[m.Hash] > at.UnixMilli()
}
