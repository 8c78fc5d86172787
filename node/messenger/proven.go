package messenger

import (
	"context"
	"errors"
	"slices"
	"sync"

	"hearth/node/ledger/light"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

// Ledger says how the node list is proven, in a network whose nodes keep a ledger.
type Ledger struct {
	Chain string      // its id
	Trust light.Trust // a header that a release, a person or an earlier run vouches for
	// Save hears of each newer header, to begin with it the next time; may be nil.
	Save func(light.Trust)

	mu     sync.Mutex
	newest light.Trust // that this run has proven
}

// begin is the header to go on from: an account that is opened again after weeks
// must not begin with what this process began with.
func (l *Ledger) begin() light.Trust {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.newest.Height > l.Trust.Height {
		return l.newest
	}
	return l.Trust
}

func (l *Ledger) proven(t light.Trust) {
	l.mu.Lock()
	l.newest = t
	l.mu.Unlock()
	if l.Save != nil {
		l.Save(t)
	}
}

// proverNodes is how many nodes a proof may draw its witnesses from.
const proverNodes = 4 * light.MinSources

func (s *session) newProver(l *Ledger) *light.Prover {
	p := light.NewProver(l.Chain, l.begin(), func(ctx context.Context, to swarm.Node, request []byte) ([]byte, error) {
		reply, err := s.client.Ask(ctx, to, request)
		return reply.Body, err
	})
	p.Now, p.Save = s.clock.Now, l.proven
	return p
}

// proveNodes takes a list over that the ledger proves. What seeds say is used for
// nothing but to reach nodes with the question.
func (s *session) proveNodes(ctx context.Context) error {
	few := s.pool.Size() <= path.Hops
	// Nodes of an earlier run may all have moved since. Once some are proven, the
	// seeds' word is worth less than theirs.
	if few || s.lost && !s.isReady() {
		l, err := s.askSeeds(ctx)
		if err == nil {
			err = s.pool.Replace(l)
		}
		if err != nil && few {
			return err
		}
	}
	proven, err := s.prover.Prove(ctx, s.pool.Random(proverNodes, nil))
	s.lost = err != nil && unprovenText(err) == ""
	if err != nil {
		return err
	}
	l := &swarm.List{Height: proven.List.Height, Hash: proven.List.Hash, Nodes: slices.Clone(proven.List.Nodes)}
	l.Nodes = slices.DeleteFunc(l.Nodes, func(n swarm.Node) bool { return n.Swarm == swarm.None })
	return s.takeNodes(l)
}

// unprovenText tells people why a list is not proven; empty for other errors.
func unprovenText(err error) string {
	switch {
	case errors.Is(err, light.ErrExpired):
		return "no list of service nodes: this device was away for more than 9 days and cannot prove one any more. Ask for a newer trusted header, from a release or from somebody you trust whose node runs (`trust` shows it there), and start again with -trust, or hearth.trust on a device"
	case errors.Is(err, light.ErrForked):
		return "no list of service nodes: nodes show two ledgers that contradict each other; trust neither, and ask people whom you know"
	case errors.Is(err, light.ErrTrust), errors.Is(err, light.ErrProof):
		return "no list of service nodes: what nodes say is not proven. Either they lie, or the trusted header is that of another network (-trust, hearth.trust)"
	}
	return ""
}
