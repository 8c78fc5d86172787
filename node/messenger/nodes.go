package messenger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/seed"
	"hearth/node/swarm"
)

const (
	listAge     = 2 * time.Hour    // after which the list is fetched anew (Session android)
	listFirst   = time.Second      // between first tries, doubled each time (Session desktop)
	listPause   = 30 * time.Second // at most, between tries and between fetches that somebody asks for
	listCrowded = time.Minute      // between fetches while the network is small
	listLimit   = time.Minute      // for one fetch: a path and another, then the seeds
)

// keepNodes fetches the list of service nodes when there is none, when it is
// old, small, or not right any more.
func (s *session) keepNodes(ctx context.Context) {
	pause := listFirst
	rest := listFirst // between fetches that somebody asks for
	var asked bool    // somebody noticed that the list is not right
	var seedsFirst bool
	for {
		size, age := s.pool.Size(), s.pool.Age()
		var err error
		if asked || size < path.MinPool || age < 0 || age > listAge || s.prover != nil && !s.isReady() { // kept nodes are not proven ones
			err = s.fetchNodes(ctx, seedsFirst || size < path.MinPool)
			if ctx.Err() != nil {
				return
			}
			s.listFailed(err)
		}
		fetched := s.m.cfg.Now()
		var wait time.Duration
		switch size = s.pool.Size(); {
		case size <= path.Hops || s.prover != nil && !s.isReady(): // not one path with a destination besides
			wait, pause = pause, min(2*pause, listPause)
		case size < path.MinPool || err != nil:
			wait, pause = listCrowded, listFirst
		default:
			wait, pause = listAge, listFirst
		}
		asked, seedsFirst = false, false
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			continue
		case <-s.renew:
			asked, seedsFirst = true, true
		case <-s.box.Unknown():
			asked = true
		}
		timer.Stop()
		// Whatever asks for a new list may ask all the time. Who asks for the first
		// time has perhaps just lost both guards, and cannot do anything without.
		old := s.m.cfg.Now().Sub(fetched)
		if old >= listPause {
			rest = listFirst
		}
		if err := mailbox.Pause(ctx, min(wait, rest-old)); err != nil {
			return
		}
		rest = min(2*rest, listPause)
	}
}

// listFailed remembers why there is no new list, or forgets it with nil.
func (s *session) listFailed(err error) {
	s.mu.Lock()
	s.badSeed = errors.Is(err, seed.ErrPin) || unprovenText(err) != ""
	switch {
	case err == nil:
		s.listTrouble = ""
	case errors.Is(err, seed.ErrPin):
		s.listTrouble = "no list of service nodes: the seed does not show the certificate it should"
	case unprovenText(err) != "":
		s.listTrouble = unprovenText(err)
	case len(s.m.cfg.Seeds) == 0:
		s.listTrouble = "no list of service nodes, and no seed to ask"
	default:
		s.listTrouble = "no list of service nodes: the seed does not answer"
	}
	if err != nil {
		s.log.Warn("node list", "err", err)
	}
	s.mu.Unlock()
	s.m.publishState()
}

func (s *session) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// fetchNodes asks the network itself, unless that is what does not work, and
// else the seeds.
func (s *session) fetchNodes(ctx context.Context, seedsFirst bool) error {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	if s.prover != nil {
		return s.proveNodes(ctx)
	}
	var errs []error
	if !seedsFirst {
		l, err := s.box.NodeList(ctx)
		if err == nil && len(l.Nodes) < max(path.MinPool, s.pool.Size()/2) {
			// Three nodes that agree on a much smaller network are more likely to
			// be three of one mind.
			err = fmt.Errorf("the network names only %d nodes", len(l.Nodes))
		}
		if err == nil {
			return s.takeNodes(l)
		}
		errs = append(errs, err)
	}
	l, err := s.askSeeds(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	return s.takeNodes(l)
}

func (s *session) takeNodes(l *swarm.List) error {
	if err := s.pool.Replace(l); err != nil {
		return err
	}
	s.log.Info("node list", "nodes", s.pool.Size(), "height", l.Height, "paths", len(s.pool.Paths()))
	if !s.isReady() {
		close(s.ready)
	}
	nudge(s.wake)
	s.outbox.again()
	return nil
}

// askSeeds asks all seeds at the same time; the first good answer wins.
func (s *session) askSeeds(ctx context.Context) (*swarm.List, error) {
	if len(s.m.cfg.Seeds) == 0 {
		return nil, errors.New("no seed is known")
	}
	ctx, cancel := context.WithCancel(ctx)
	type answer struct {
		list *swarm.List
		err  error
	}
	answers := make(chan answer, len(s.m.cfg.Seeds))
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	for _, source := range s.m.cfg.Seeds {
		wait.Go(func() {
			l, err := source.ServiceNodes(ctx)
			if err == nil && len(l.Nodes) == 0 {
				err = path.ErrTooFewNodes
			}
			answers <- answer{l, err}
		})
	}
	var errs []error
	for range s.m.cfg.Seeds {
		a := <-answers
		if a.err == nil {
			return a.list, nil
		}
		errs = append(errs, a.err)
	}
	return nil, fmt.Errorf("asking the seeds: %w", errors.Join(errs...))
}
