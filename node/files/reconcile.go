package files

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"hearth/node/attachment"
	"hearth/node/bt"
	"hearth/node/swarm"
)

// Reconcile compares with every other member of the swarm once, fetches what is
// missing here, and hands over what is not this swarm's.
func (s *Service) Reconcile(ctx context.Context) error {
	select {
	case <-s.store.scanned:
	case <-ctx.Done():
		return ctx.Err()
	}
	list := s.cfg.List()
	self, ok := list.Find(s.self)
	if !ok {
		return nil
	}
	var errs []error
	if self.Swarm != swarm.None {
		for _, member := range list.Members(self.Swarm) {
			if member.Ed25519 == s.self || ctx.Err() != nil {
				continue
			}
			if err := s.compare(ctx, member); err != nil {
				errs = append(errs, fmt.Errorf("with node %x: %w", member.Ed25519[:4], err))
			}
		}
	}
	return errors.Join(append(errs, s.handOver(ctx, list))...)
}

// compare fetches what another member has and this node has not.
func (s *Service) compare(ctx context.Context, with swarm.Node) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d, err := s.call(ctx, with, verbDigest, bt.Dict{})
	if err != nil {
		return err
	}
	f := fields{d: d}
	theirs, ours := f.bytes("d", buckets*8), s.digest()
	if f.err != nil {
		return f.err
	}
	var failed error
	for b := range buckets {
		if bytes.Equal(theirs[8*b:8*b+8], ours[8*b:8*b+8]) {
			continue
		}
		after := attachment.ID{}
		for more := true; more; {
			d, err := s.call(ctx, with, verbList, bt.Dict{"a": after[:], "b": b})
			if err != nil {
				return err
			}
			f := fields{d: d}
			records := f.bytes("f", -1)
			more = f.int("m", 0, 1) == 1 && len(records) > 0
			if f.err != nil || len(records)%recordSize != 0 {
				return errors.Join(errForm, f.err)
			}
			for record := range slices.Chunk(records, recordSize) {
				m := meta{expires: int64(binary.BigEndian.Uint64(record[33:])), size: int64(binary.BigEndian.Uint32(record[41:]))}
				copy(m.id[:], record)
				if int(m.id[0]) != b || bytes.Compare(m.id[:], after[:]) <= 0 {
					return fmt.Errorf("%w: a list out of order", errForm)
				}
				after = m.id
				if err := s.learn(ctx, m, with); err != nil {
					if errors.Is(err, errFull) || ctx.Err() != nil {
						return err
					}
					failed = err // one file must not keep the others away
				}
			}
		}
	}
	return failed
}

// learn hears that another member has a file.
func (s *Service) learn(ctx context.Context, m meta, from swarm.Node) error {
	now := s.cfg.Now()
	if _, own := s.members(m.id); !own || m.size < 1 || m.size > attachment.MaxUpload ||
		m.expires < now.Add(margin).UnixMilli() || m.expires > maxTime {
		return nil
	}
	m.expires = min(m.expires, now.Add(TTL+skew).UnixMilli())
	if _, ok := s.store.extend(m.id, m.expires); ok {
		return nil
	}
	p, err := s.read(ctx, from, m.id, 0, 0)
	if err != nil {
		return err
	}
	m.uploaded = p.uploaded
	_, err = s.take(ctx, m, &from)
	return err
}

// handOver offers files that belong to another swarm to its members. When all of
// them keep one, it goes.
func (s *Service) handOver(ctx context.Context, list *swarm.List) error {
	var foreign []attachment.ID
	s.store.each(func(id attachment.ID, e entry) {
		if _, own := s.members(id); !own {
			foreign = append(foreign, id)
		}
	})
	var errs error
	away := make(map[[32]byte]bool)
	for _, id := range foreign {
		m, ok := s.store.info(id)
		members, own := s.members(id)
		if !ok || own || len(members) == 0 {
			continue
		}
		kept := 0
		for _, to := range members {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if away[to.Ed25519] {
				continue
			}
			_, err := s.offer(ctx, to, m)
			switch {
			case err == nil:
				kept++
				continue
			case !errors.Is(err, errFull) && !errors.Is(err, errAbsent) && !errors.Is(err, errRefused):
				away[to.Ed25519] = true // waiting for it once a round is enough
			}
			errs = fmt.Errorf("handing a file over: %w", err)
		}
		if kept == len(members) {
			s.store.drop(id)
		}
	}
	return errs
}
