package messenger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

const (
	pollMembers = 2 // swarm members asked in one round (Session desktop)
	pollTries   = 6 // members asked until one answers
	pollPages   = 50
	pollFast    = time.Second      // between rounds while somebody is talking
	pollStirred = 30 * time.Second // how long that is
	pollLongest = time.Minute      // between rounds while nobody answers
	pollRenew   = 3                // failed rounds after which a new node list is wanted
)

// keepPolling fetches messages until ctx ends.
func (s *session) keepPolling(ctx context.Context) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return
	}
	failed, woken := 0, false
	for {
		err := s.poll(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			// Who was woken has asked twice in a moment: that makes the swarm no worse.
			if !woken || failed == 0 {
				failed++
			}
			if failed%pollRenew == 0 {
				nudge(s.renew)
			}
			s.log.Warn("polling the own swarm", "err", err)
		} else {
			if failed > 0 {
				s.outbox.again()
			}
			failed = 0
		}
		s.polled(err)

		timer := time.NewTimer(s.pollPause(failed))
		select {
		case <-timer.C:
			woken = false
		case <-s.wake:
			woken = true
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// pollPause is the time until the next round.
func (s *session) pollPause(failed int) time.Duration {
	interval := s.m.cfg.PollInterval
	if failed > 0 {
		return max(interval, min(interval<<min(failed-1, 10), pollLongest))
	}
	if pause, told := s.ear.pause(interval); told {
		return pause
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.active.IsZero() && s.m.cfg.Now().Sub(s.active) < pollStirred {
		return min(pollFast, interval)
	}
	return interval
}

func (s *session) polled(err error) {
	s.mu.Lock()
	switch {
	case err == nil:
		if s.lastPoll.IsZero() {
			close(s.polledOnce)
		}
		s.lastPoll, s.pollTrouble = s.clock.Now(), ""
	case errors.Is(err, path.ErrTooFewNodes):
		s.pollTrouble = "too few service nodes"
	case errors.Is(err, path.ErrClock):
		s.pollTrouble = "the clock is wrong and the network does not tell the time"
	default:
		s.pollTrouble = "no answer from the own swarm"
	}
	s.mu.Unlock()
	s.m.publishState()
}

// poll is one round: two random members of the own swarm, and others when
// neither answers. When the members say that the swarm is another one by now,
// that one is asked at once.
func (s *session) poll(ctx context.Context) error {
	err := s.pollSwarm(ctx)
	if errors.Is(err, path.ErrWrongSwarm) && ctx.Err() == nil {
		err = s.pollSwarm(ctx)
	}
	if err == nil {
		err = s.configsPolled()
	}
	return err
}

func (s *session) pollSwarm(ctx context.Context) error {
	members, _, err := s.box.Swarm(ctx, s.own.ID())
	if err != nil {
		return err
	}
	// The first round asks every member: after a restoration, or a long time away,
	// one of them may be the only one that still has a message.
	all := !s.asked
	if !all {
		members = members[:min(len(members), pollTries)]
	}
	if all {
		if err := s.fetchConfigs(ctx, members); err != nil {
			return err
		}
	}
	var failed error
	answered := false
	for len(members) > 0 {
		n := min(pollMembers, len(members))
		errs := make([]error, n)
		var wait sync.WaitGroup
		for i, node := range members[:n] {
			wait.Go(func() { errs[i] = s.fetch(ctx, node) })
		}
		wait.Wait()
		members = members[n:]
		err = errors.Join(errs...)
		if ctx.Err() != nil || errors.Is(err, ErrDisk) {
			return err
		}
		if slices.Contains(errs, nil) {
			if !all {
				return nil
			}
			answered = true
		}
		failed = errors.Join(failed, err)
	}
	if all && failed == nil {
		s.asked = true
	}
	if answered && !errors.Is(failed, path.ErrWrongSwarm) {
		return nil // the others have their turn in the next round
	}
	return failed
}

// fetch reads what one member has that is new.
func (s *session) fetch(ctx context.Context, node swarm.Node) error {
	return s.fetchFrom(ctx, node, ownSpaces)
}

// take opens messages, writes them down, and then tells about them.
func (s *session) take(place archive.Place, messages []mailbox.Message) error {
	hashes := make([]string, len(messages))
	for i, m := range messages {
		hashes[i] = m.Hash
	}
	seen := s.archive.Seen(hashes)
	var items []archive.Incoming
	var notes []typingNote
	for i, m := range messages {
		if !seen[i] {
			in, note := s.read(m)
			if in.Invite != nil {
				if err := s.invited(*in.Invite); err != nil {
					s.diskFailed(err)
					return fmt.Errorf("%w: %w", ErrDisk, err)
				}
			}
			items = append(items, in)
			if note != nil {
				notes = append(notes, *note)
			}
		}
	}
	result, err := s.archive.Receive(place, hashes[len(hashes)-1], items)
	if err != nil {
		s.diskFailed(err)
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	s.diskFailed(nil)
	if result.Refused > 0 {
		s.log.Warn("messages of strangers left out: too many", "count", result.Refused)
	}
	for _, m := range result.Added {
		s.typingEnds(m.With)
	}
	s.publish(result)
	for _, n := range notes {
		s.typing(n.from, n.sent, n.stopped)
	}
	if len(result.Added) > 0 {
		s.log.Info("messages received", "count", len(result.Added))
		s.stirred()
	}
	if len(items) > 0 {
		s.m.publishState()
	}
	return nil
}
