package messenger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"hearth/node/account"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
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
	failed := 0
	for {
		err := s.poll(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if failed++; failed%pollRenew == 0 {
				nudge(s.renew)
			}
			s.log.Warn("polling the own swarm", "err", err)
		} else {
			failed = 0
		}
		s.polled(err)

		timer := time.NewTimer(s.pollPause(failed))
		select {
		case <-timer.C:
		case <-s.wake:
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
	return err
}

func (s *session) pollSwarm(ctx context.Context) error {
	members, _, err := s.box.Swarm(ctx, s.own.ID())
	if err != nil {
		return err
	}
	members = members[:min(len(members), pollTries)]
	for len(members) > 0 {
		n := min(pollMembers, len(members))
		errs := make([]error, n)
		var wait sync.WaitGroup
		for i, node := range members[:n] {
			wait.Go(func() { errs[i] = s.fetch(ctx, node) })
		}
		wait.Wait()
		members = members[n:]
		if slices.Contains(errs, nil) {
			return nil
		}
		err = errors.Join(errs...)
		if ctx.Err() != nil || errors.Is(err, ErrDisk) {
			break
		}
	}
	return err
}

// fetch reads one member's new messages, page by page.
func (s *session) fetch(ctx context.Context, node swarm.Node) error {
	place := archive.Place{Node: node.Ed25519}
	for range pollPages {
		last := s.archive.Last(place)
		messages, more, err := s.box.Retrieve(ctx, s.own, node, place.Namespace, last)
		if err != nil {
			return err
		}
		if len(messages) == 0 {
			return nil
		}
		if err := s.take(place, messages); err != nil {
			return err
		}
		if !more || messages[len(messages)-1].Hash == last {
			return nil
		}
	}
	return nil
}

// take opens messages, writes them down, and then tells about them.
func (s *session) take(place archive.Place, messages []mailbox.Message) error {
	hashes := make([]string, len(messages))
	for i, m := range messages {
		hashes[i] = m.Hash
	}
	seen := s.archive.Seen(hashes)
	var items []archive.Incoming
	for i, m := range messages {
		if !seen[i] {
			items = append(items, s.read(m))
		}
	}
	added, refused, err := s.archive.Receive(place, hashes[len(hashes)-1], items)
	if err != nil {
		s.diskFailed(err)
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	s.diskFailed(nil)
	if refused > 0 {
		s.log.Warn("messages of strangers left out: too many", "count", refused)
	}
	for _, m := range added {
		s.m.publishMessage(apiMessage(m))
	}
	if len(added) > 0 {
		s.log.Info("messages received", "count", len(added))
		s.stirred()
	}
	if len(items) > 0 {
		s.m.publishState()
	}
	return nil
}

// read opens one message. One that cannot be read is counted and otherwise left
// alone: anybody may put anything into this swarm.
func (s *session) read(stored mailbox.Message) archive.Incoming {
	in := archive.Incoming{Hash: stored.Hash}
	m, err := wire.Open(s.own, stored.Data)
	if err != nil {
		s.log.Warn("unreadable message", "hash", stored.Hash, "bytes", len(stored.Data), "err", err)
		in.Unreadable = true
		return in
	}
	text, ok := visible(m.Content)
	if !ok {
		return in
	}
	msg := archive.Message{With: m.Sender, Text: text, Timestamp: int64(m.Timestamp), Hash: stored.Hash}
	data := m.Content.GetDataMessage()
	target := data.GetSyncTarget()
	if m.Sender == s.own.ID() {
		// A copy of what this account sent from another device, or a note to self.
		msg.Outgoing = true
		if target != "" {
			with, err := account.ParseSessionID(target)
			if err != nil {
				return in // to a group, which this messenger does not know
			}
			msg.With = with
		}
	} else {
		if target != "" {
			return in // only the own account may say whom a message was for
		}
		in.Profile = tidyName(data.GetProfile().GetDisplayName())
		in.ProfileTime = int64(min(data.GetProfile().GetLastProfileUpdateSeconds(), 1<<40))
	}
	in.Message = &msg
	return in
}

// visible returns the text of a message that is shown, and false for all other
// kinds, among them those that this messenger does not know.
func visible(c *sessionpb.Content) (string, bool) {
	data := c.GetDataMessage()
	if data == nil || data.GetFlags() != 0 || data.GetGroupUpdateMessage() != nil || data.GetReaction() != nil {
		return "", false
	}
	text := data.GetBody()
	if text == "" && len(data.GetAttachments()) > 0 {
		text = "[attachment]"
	}
	if text == "" {
		return "", false
	}
	return firstRunes(text, maxTextIn), true
}

// firstRunes cuts a text after n code points.
func firstRunes(text string, n int) string {
	for i := range text {
		if n == 0 {
			return text[:i]
		}
		n--
	}
	return text
}

// tidyName makes a stranger's name fit for a line on a screen: no control
// characters, at most 100 bytes, cut between code points.
func tidyName(name string) string {
	name = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return -1
		}
		return r
	}, name))
	for i, r := range name {
		if i+len(string(r)) > MaxName {
			return strings.TrimSpace(name[:i])
		}
	}
	return name
}
