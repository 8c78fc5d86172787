package servicenode

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"hearth/node/api"
	"hearth/node/swarm"
)

// Status tells the owner how the node does.
func (n *Node) Status(context.Context, *api.NodeStatusRequest) (*api.NodeStatus, error) {
	key := n.cfg.Keys.Ed25519()
	reasons := n.NotReady()
	ready := len(reasons) == 0
	reasons = append(reasons, n.trouble()...)
	var ledger *api.LedgerStatus
	if n.cfg.Ledger != nil {
		ledger = n.cfg.Ledger.Status()
	}
	s := &api.NodeStatus{
		Ledger:   ledger,
		Ed25519:  hex.EncodeToString(key[:]),
		Address:  n.cfg.Public.String(),
		Ready:    ready,
		Trouble:  strings.Join(reasons, "; "),
		Onions:   n.server.Onions(),
		Requests: n.storage.Requests(),
		Started:  n.started.UnixMilli(),
	}
	s.Messages, s.Bytes = n.db.Stats()
	kept := n.files.Stats()
	s.Files, s.FileBytes, s.FileQuota, s.FilesTrouble = kept.Files, uint64(kept.Bytes), uint64(kept.Quota), kept.Trouble
	health := n.tests.Health()
	s.Reachable, s.Failing, s.ReachTrouble = uint32(health.Reachable), uint32(health.Failing), health.Trouble
	s.Heard = lastMoment(health.Heard[:]...)
	if list := n.List(); list != nil {
		s.KnownNodes = uint32(len(list.Nodes))
		if self, ok := list.Find(key); ok {
			s.KnownNodes--
			if self.Swarm != swarm.None {
				s.Swarm = self.Swarm.String()
				s.SwarmMembers = uint32(len(list.Members(self.Swarm)))
			}
		}
	}
	return s, nil
}

// trouble lists what the owner should know though the node serves.
func (n *Node) trouble() (trouble []string) {
	if crowded := n.crowded.Load(); crowded != nil && *crowded != "" {
		trouble = append(trouble, *crowded)
	}
	if n.restarted != "" && n.cfg.Now().Sub(n.started) < newsworthy {
		trouble = append(trouble, n.restarted)
	}
	if n.cfg.Ledger != nil {
		if s := n.cfg.Ledger.Status(); s.Trouble != "" {
			trouble = append(trouble, s.Trouble)
		}
	}
	return trouble
}

// Peers lists the other nodes, those of the own swarm first. Nodes that are away
// have no swarm.
func (n *Node) Peers(context.Context, *api.PeersRequest) (*api.PeersReply, error) {
	reply := new(api.PeersReply)
	list := n.List()
	if list == nil {
		return reply, nil
	}
	key := n.cfg.Keys.Ed25519()
	self, listed := list.Find(key)
	for _, p := range list.Nodes {
		if p.Ed25519 == key {
			continue
		}
		peer := &api.Peer{Ed25519: hex.EncodeToString(p.Ed25519[:]), Address: p.Address.String()}
		if p.Swarm != swarm.None {
			peer.Swarm = p.Swarm.String()
			peer.OwnSwarm = listed && p.Swarm == self.Swarm
		}
		if known, ok := n.tests.Of(p.Ed25519); ok && !known.Since.IsZero() {
			peer.Since, peer.Failures, peer.Trouble = known.Since.UnixMilli(), uint32(known.Failures), known.Trouble
		}
		reply.Peers = append(reply.Peers, peer)
	}
	slices.SortStableFunc(reply.Peers, func(a, b *api.Peer) int {
		if a.OwnSwarm != b.OwnSwarm {
			if a.OwnSwarm {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.Swarm, b.Swarm), strings.Compare(a.Ed25519, b.Ed25519))
	})
	return reply, nil
}

// lastMoment returns the latest of some moments in Unix milliseconds, 0 for none.
func lastMoment(times ...time.Time) (last int64) {
	for _, at := range times {
		if !at.IsZero() {
			last = max(last, at.UnixMilli())
		}
	}
	return last
}
