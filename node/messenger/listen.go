package messenger

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"hearth/node/account"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

// Besides polling, one member of a swarm is asked to answer when a message comes. The
// request goes through an onion like any other, and a new one follows each answer, so
// that a message is here one way through the onion after it was stored. Polling goes
// on, slower, because that one member could miss a message, or keep it to itself.

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

// An ear waits for messages in one swarm, the own or a group's.
type ear struct {
	s     *session
	owner account.ID // whose swarm it is
	// ask has a member answer when there is something new, or else after wait, which
	// may be 0, and takes in what that is.
	ask  func(ctx context.Context, member swarm.Node, wait time.Duration) (news bool, err error)
	poll chan struct{} // receives when polling has to take over

	mu     sync.Mutex
	told   bool     // a member tells of messages
	member path.Key // which one
	slowed int      // rounds of polling since that began
}

// keep listens until ctx ends.
func (e *ear) keep(ctx context.Context) {
	resting := make(map[path.Key]time.Time) // and until when
	for ctx.Err() == nil {
		member, ok := e.choose(ctx, resting)
		if ok {
			rest := e.listen(ctx, member)
			e.set(member.Ed25519, false)
			resting[member.Ed25519] = e.s.m.cfg.Now().Add(rest)
			continue
		}
		if mailbox.Pause(ctx, listenRest) != nil {
			return
		}
	}
}

// choose gives a member that is not resting, if there is one.
func (e *ear) choose(ctx context.Context, resting map[path.Key]time.Time) (_ swarm.Node, ok bool) {
	now := e.s.m.cfg.Now()
	for k, until := range resting {
		// The clock may have been set back since.
		if left := until.Sub(now); left <= 0 || left > listenNever {
			delete(resting, k)
		}
	}
	members, _, err := e.s.box.Swarm(ctx, e.owner)
	if err != nil {
		return swarm.Node{}, false
	}
	for _, m := range members {
		if _, rests := resting[m.Ed25519]; !rests {
			return m, true
		}
	}
	return swarm.Node{}, false
}

// listen waits for messages at one member, until that fails, and says how long the
// member is to be left alone then.
func (e *ear) listen(ctx context.Context, member swarm.Node) (rest time.Duration) {
	vain := 0
	// The first request is answered at once: it shows whether the member can do it.
	for wait := time.Duration(0); ; wait = listenWait {
		began := e.s.m.cfg.Now()
		news, err := e.ask(ctx, member, wait)
		switch {
		case ctx.Err() != nil:
			return 0
		case errors.Is(err, mailbox.ErrNoMonitor):
			return listenNever
		case err != nil:
			e.s.log.Debug("waiting for messages", "err", err)
			return listenRest
		}
		e.set(member.Ed25519, true)
		// Polling may have been quicker, but not always: this member would have us
		// ask again and again.
		if vain++; news || e.s.m.cfg.Now().Sub(began) >= wait/2 {
			vain = 0
		}
		if vain >= listenVain {
			e.s.log.Debug("a service node answers without having news")
			return listenRepent
		}
	}
}

// set says whether a member tells of messages. When that ends, polling takes over at
// once.
func (e *ear) set(member path.Key, told bool) {
	e.mu.Lock()
	ended := e.told && !told
	e.member, e.told = member, told
	if !told {
		e.slowed = 0
	}
	e.mu.Unlock()
	if ended {
		nudge(e.poll)
	}
}

func (e *ear) tells() bool {
	_, told := e.at()
	return told
}

// at is the member that tells of messages, if one does.
func (e *ear) at() (member path.Key, told bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.member, e.told
}

// pause is the time until the next round of polling, which grows while a member
// tells of messages; ok is false when none does.
func (e *ear) pause(interval time.Duration) (_ time.Duration, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.told {
		return 0, false
	}
	e.slowed++
	return max(interval, min(interval<<min(e.slowed, 10), listenSlowest)), true
}

// keepListening waits for messages of the own swarm until ctx ends. It begins when
// polling has once fetched what there is.
func (s *session) keepListening(ctx context.Context) {
	select {
	case <-s.polledOnce:
		s.ear.keep(ctx)
	case <-ctx.Done():
	}
}

// askOwn is what the ear at the own swarm asks.
func (s *session) askOwn(ctx context.Context, member swarm.Node, wait time.Duration) (news bool, err error) {
	pages, err := s.box.Monitor(ctx, s.own, member, ownSpaces, s.lasts(member, ownSpaces), wait)
	if err != nil {
		return false, err
	}
	if news, err = s.takePages(member, pages); err != nil {
		return false, err
	}
	if slices.ContainsFunc(pages, func(p mailbox.Page) bool { return p.More }) {
		err = s.fetch(ctx, member)
	}
	return news, err
}
