package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"hearth/node/attachment"
	"hearth/node/bt"
	"hearth/node/swarm"
)

// spread brings a file, or a later end of its life, to all members of its swarm
// and returns when that ends. content is nil for a file that they have already.
// One member that keeps it is enough: the others find it by comparing.
func (s *Service) spread(ctx context.Context, m meta, content []byte) (expires int64, err error) {
	others, own := s.members(m.id)
	if len(others) == 0 && !own {
		return 0, errors.New("no swarm for the file")
	}
	if content != nil {
		// The members read it from here. A member that is slow is not waited
		// for, but must not find the place empty that it reads from.
		defer s.lend(m, content)()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		expires int64
		err     error
	}
	results := make(chan result, len(others)+1)
	var asked sync.WaitGroup
	defer asked.Wait()
	for _, member := range others {
		asked.Go(func() {
			e, err := s.offer(ctx, member, m)
			results <- result{e, err}
		})
	}
	pending := len(others)
	if own {
		pending++
		asked.Go(func() {
			e, err := s.keep(ctx, m, content)
			results <- result{e, err}
		})
	}

	var late <-chan time.Time
	for ; pending > 0; pending-- {
		select {
		case r := <-results:
			if r.err != nil {
				if err == nil || errors.Is(r.err, errFull) {
					err = r.err
				}
				continue
			}
			expires = max(expires, r.expires)
			if late == nil {
				late = time.After(lateness)
			}
		case <-late:
			cancel()
			late = nil
			pending++ // nothing came
		}
	}
	if expires > 0 {
		return expires, nil
	}
	return 0, err
}

func (s *Service) offer(ctx context.Context, to swarm.Node, m meta) (expires int64, err error) {
	d, err := s.call(ctx, to, verbOffer, bt.Dict{"e": m.expires, "i": m.id[:], "s": m.size, "u": m.uploaded})
	if err != nil {
		return 0, err
	}
	f := fields{d: d}
	expires = f.int("e", 1, maxTime)
	return expires, f.err
}

// keep stores a file on this node. Without content the file is looked for in the
// swarm, if it is not here.
func (s *Service) keep(ctx context.Context, m meta, content []byte) (expires int64, err error) {
	if content == nil {
		return s.take(ctx, m, nil)
	}
	return s.store.put(ctx, m, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// take makes this node keep a file that others have, first of all from.
func (s *Service) take(ctx context.Context, m meta, from *swarm.Node) (expires int64, err error) {
	if expires, ok := s.store.extend(m.id, m.expires); ok {
		return expires, nil
	}
	if err := s.fetch.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer s.fetch.Release(1)
	err = errAbsent
	for _, source := range s.sources(m.id, from) {
		expires, err = s.store.put(ctx, m, func(w io.Writer) error {
			_, err := s.copyFrom(ctx, source, m.id, m.size, w)
			return err
		})
		if err == nil || errors.Is(err, errFull) || ctx.Err() != nil {
			break
		}
	}
	return expires, err
}

// sources are the nodes that should have a file: first, then the members of its
// swarm in any order.
func (s *Service) sources(id attachment.ID, first *swarm.Node) []swarm.Node {
	others, _ := s.members(id)
	list := slices.Clone(others)
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	if first != nil {
		list = slices.DeleteFunc(list, func(n swarm.Node) bool { return n.Ed25519 == first.Ed25519 })
		list = slices.Insert(list, 0, *first)
	}
	return list
}

// piece is what another node gave.
type piece struct {
	meta
	data []byte
}

func (s *Service) read(ctx context.Context, from swarm.Node, id attachment.ID, at, n int64) (p piece, err error) {
	d, err := s.call(ctx, from, verbRead, bt.Dict{"i": id[:], "n": n, "o": at})
	if err != nil {
		return p, err
	}
	f := fields{d: d}
	p.id = id
	p.data = f.bytes("d", -1)
	p.expires = f.int("e", 1, maxTime)
	p.size = f.int("s", 1, attachment.MaxUpload)
	p.uploaded = f.int("u", 0, maxTime)
	if f.err == nil && int64(len(p.data)) != min(n, max(p.size-at, 0)) {
		f.err = fmt.Errorf("%w: a piece of %d bytes", errForm, len(p.data))
	}
	return p, f.err
}

// copyFrom writes a file of size bytes that another node has to w, in pieces of
// which several are on their way. Whether it is the right one is for the caller
// to check.
func (s *Service) copyFrom(ctx context.Context, from swarm.Node, id attachment.ID, size int64, w io.Writer) (last meta, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	type result struct {
		piece
		err error
	}
	var ahead []chan result
	asked := int64(0)
	for done := int64(0); done < size; done += pieceSize {
		for len(ahead) < window && asked < size {
			at, n, here := asked, min(pieceSize, size-asked), make(chan result, 1)
			ahead = append(ahead, here)
			asked += n
			reading.Go(func() {
				p, err := s.read(ctx, from, id, at, n)
				here <- result{p, err}
			})
			if at == 0 {
				break // the other node checks the file with the first piece
			}
		}
		r := <-ahead[0]
		ahead = ahead[1:]
		if r.err != nil {
			return last, r.err
		}
		if r.size != size {
			return last, fmt.Errorf("%w: %d bytes, want %d", errDamaged, r.size, size)
		}
		if _, err := w.Write(r.data); err != nil {
			return last, err
		}
		last = r.meta
	}
	return last, nil
}

// describe tells about a file, wherever it is.
func (s *Service) describe(ctx context.Context, id attachment.ID) (meta, error) {
	if m, ok := s.store.info(id); ok {
		return m, nil
	}
	failed := errAbsent
	for _, source := range s.sources(id, nil) {
		p, err := s.read(ctx, source, id, 0, 0)
		if err == nil {
			return p.meta, nil
		}
		if !errors.Is(err, errAbsent) {
			failed = err
		}
	}
	return meta{}, failed
}

// find returns a file with its content, wherever it is. A member that lacks it
// keeps it then.
func (s *Service) find(ctx context.Context, id attachment.ID, hold *held) (meta, []byte, error) {
	if m, ok := s.store.info(id); ok {
		if !hold.want(ctx, 2*m.size) { // the file, and the answer with it
			return m, nil, ctx.Err()
		}
		content, err := s.store.read(m)
		if err == nil {
			return m, content, nil
		}
		if !errors.Is(err, errAbsent) {
			s.cfg.Log.Warn("a kept file cannot be read", "error", err)
		}
		s.Wake()
	}
	failed := errAbsent
	for _, source := range s.sources(id, nil) {
		p, err := s.read(ctx, source, id, 0, 0)
		if err == nil && !hold.want(ctx, 2*p.size) {
			return p.meta, nil, ctx.Err()
		}
		var b bytes.Buffer
		if err == nil {
			b.Grow(int(p.size))
			_, err = s.copyFrom(ctx, source, id, p.size, &b)
		}
		if err == nil && attachment.IDOf(b.Bytes()) == id {
			if _, own := s.members(id); own && p.expires > s.cfg.Now().UnixMilli() {
				if _, err := s.keep(ctx, p.meta, b.Bytes()); err != nil {
					s.cfg.Log.Debug("a file that was missing is not kept", "error", err)
				}
			}
			return p.meta, b.Bytes(), nil
		}
		if err != nil && !errors.Is(err, errAbsent) {
			failed = err
		}
	}
	return meta{}, nil, failed
}
