package messenger

import (
	"context"
	"slices"
	"time"

	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
)

// The clock of a message that disappears after reading starts on the device that
// reads it, which tells the own swarm when it is to end. Other devices of the
// account, and one that was just restored, hear of that from the swarm only
// (get_expiries, as Session desktop does).

const (
	elsewhereAgain = time.Hour // between questions, while there are such messages
	elsewhereMost  = 500       // messages that are asked for at a time
	elsewhereOne   = 100       // of them in one request
	// ends are compared with this much for clocks that differ.
	elsewhereSlack = time.Minute
)

// keepLearning asks when messages end that may have been read on another device,
// until ctx ends. It begins when polling has once fetched what there is.
func (s *session) keepLearning(ctx context.Context) {
	select {
	case <-s.polledOnce:
	case <-ctx.Done():
		return
	}
	for {
		if err := s.learnEnds(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("asking when messages end", "err", err)
		}
		timer := time.NewTimer(elsewhereAgain)
		select {
		case <-timer.C:
		case <-s.shared.guess: // what was read on another device just now
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (s *session) learnEnds(ctx context.Context) error {
	unread, err := s.archive.Unstarted(elsewhereMost)
	if err != nil {
		s.diskFailed(err)
		return err
	}
	unread = append(unread, s.shared.guesses()...)
	for part := range slices.Chunk(unread, elsewhereOne) {
		hashes := make([]string, len(part))
		for i, m := range part {
			hashes[i] = m.Hash
		}
		ends, err := s.box.Expiries(ctx, s.own, hashes)
		if err != nil {
			return err
		}
		now := s.clock.Now()
		read := make(map[archive.Ref]int64)
		for _, m := range part {
			if end, ok := ends[m.Hash]; ok && shortened(m, time.UnixMilli(end), now) {
				read[m.Ref()] = end
			}
		}
		if len(read) == 0 {
			continue
		}
		result, err := s.archive.ReadElsewhere(read)
		if err != nil {
			s.diskFailed(err)
			return err
		}
		s.publish(result)
	}
	return nil
}

// shortened tells whether a message ends as one does that was read by now: sooner
// than it was stored for, and not later than if it were read at this moment.
func shortened(m archive.Message, end, now time.Time) bool {
	natural := time.UnixMilli(m.Shown()).Add(mailbox.TTL)
	latest := now.Add(time.Duration(m.Timer.Seconds) * time.Second)
	return end.Before(natural.Add(-elsewhereSlack)) && end.Before(latest.Add(elsewhereSlack))
}
