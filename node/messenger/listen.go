package messenger

import (
	"context"
	"errors"
	"slices"
	"time"

	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

// Besides polling, one member of the own swarm is asked to answer when a message
// comes. The request goes through an onion like any other, and a new one follows
// each answer, so that a message is here one way through the onion after it was
// stored. Polling goes on, slower, because that one member could miss a message, or
// keep it to itself.

const (
	// listenWait is how long a member is to wait. The nodes of the path wait 30 s,
	// and so do we; what lies between is for slow ways.
	listenWait    = 20 * time.Second
	listenSlowest = 30 * time.Second // between rounds of polling meanwhile
	listenRest    = time.Minute      // before a member that failed, or had no room, is asked again
	listenRepent  = 10 * time.Minute // before one that answered in vain is
	listenNever   = time.Hour        // before one that does not know the method is
	listenVain    = 3                // answers before their time and without news, in a row, that are put up with
)

// keepListening waits for messages until ctx ends. It begins when polling has once
// fetched what there is.
func (s *session) keepListening(ctx context.Context) {
	select {
	case <-s.polledOnce:
	case <-ctx.Done():
		return
	}
	resting := make(map[path.Key]time.Time) // and until when
	for ctx.Err() == nil {
		node, ok, rest := s.listener(ctx, resting)
		if ok {
			rest = s.listen(ctx, node)
			s.setListening(false)
			resting[node.Ed25519] = s.m.cfg.Now().Add(rest)
			continue
		}
		if mailbox.Pause(ctx, rest) != nil {
			return
		}
	}
}

// listener chooses a member of the own swarm that is not resting. When there is
// none, it says how long to wait.
func (s *session) listener(ctx context.Context, resting map[path.Key]time.Time) (_ swarm.Node, ok bool, rest time.Duration) {
	now := s.m.cfg.Now()
	for k, until := range resting {
		// The clock may have been set back since.
		if left := until.Sub(now); left <= 0 || left > listenNever {
			delete(resting, k)
		}
	}
	members, _, err := s.box.Swarm(ctx, s.own.ID())
	if err != nil {
		return swarm.Node{}, false, listenRest
	}
	for _, m := range members {
		if _, rests := resting[m.Ed25519]; !rests {
			return m, true, 0
		}
	}
	return swarm.Node{}, false, listenRest
}

// listen waits for messages at one member, until that fails, and says how long the
// member is to be left alone then.
func (s *session) listen(ctx context.Context, node swarm.Node) (rest time.Duration) {
	vain := 0
	// The first request is answered at once: it shows whether the member can do it.
	for wait := time.Duration(0); ; wait = listenWait {
		began := s.m.cfg.Now()
		pages, err := s.box.Monitor(ctx, s.own, node, ownSpaces, s.lasts(node, ownSpaces), wait)
		switch {
		case ctx.Err() != nil:
			return 0
		case errors.Is(err, mailbox.ErrNoMonitor):
			return listenNever
		case err != nil:
			s.log.Debug("waiting for messages", "err", err)
			return listenRest
		}
		news, err := s.takePages(node, pages)
		if err != nil {
			return listenRest
		}
		if slices.ContainsFunc(pages, func(p mailbox.Page) bool { return p.More }) {
			if err := s.fetch(ctx, node); err != nil {
				return listenRest
			}
		}
		s.setListening(true)
		// Polling may have been quicker, but not always: this member would have us
		// ask again and again.
		if vain++; news || s.m.cfg.Now().Sub(began) >= wait/2 {
			vain = 0
		}
		if vain >= listenVain {
			s.log.Debug("a service node answers without having news")
			return listenRepent
		}
	}
}

// setListening says whether messages are waited for at a member. When that ends,
// polling takes over at once.
func (s *session) setListening(works bool) {
	s.mu.Lock()
	ended := s.listening && !works
	s.listening = works
	if !works {
		s.slowed = 0
	}
	s.mu.Unlock()
	if ended {
		nudge(s.wake)
	}
}
