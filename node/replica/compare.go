package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"hearth/node/account"
	"hearth/node/rpc"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// outcome is what a comparison came to.
type outcome struct {
	equal bool // at its beginning
	moved int  // messages and changes that were news for one of the two
	young int  // that were left alone because they may be on their way
}

// Bounds on one comparison. What is left is for the next.
const (
	comparisonTime = 10 * time.Minute
	parallel       = 4       // parts of a set at a time
	maxItems       = 1 << 20 // named by the other node
	maxWrong       = 16      // elements that cannot be right
)

// comparison is one comparison with one member, as seen by the one who began it.
type comparison struct {
	*Replica
	peer   swarm.Node
	view   *view
	settle time.Duration

	moved, young, items, wrong atomic.Int64
}

func (r *Replica) compare(ctx context.Context, peer swarm.Node, settle time.Duration) (outcome, error) {
	v := r.view.Load()
	if v == nil || !v.member(peer.Ed25519) {
		return outcome{}, errView
	}
	ctx, cancel := context.WithTimeout(ctx, comparisonTime)
	defer cancel()
	c := &comparison{Replica: r, peer: peer, view: v, settle: settle}
	err := c.run(ctx)
	result := outcome{moved: int(c.moved.Load()), young: int(c.young.Load())}
	result.equal = err == nil && c.items.Load() == 0
	return result, err
}

func (c *comparison) run(ctx context.Context) error {
	body, err := c.ask(ctx, c.peer, opRoots, c.view.span[:])
	if err != nil {
		return err
	}
	if len(body) != int(storage.Sets)*sumSize {
		return errWire
	}
	roots, ok := c.cfg.DB.Roots()
	if !ok {
		return errBusy
	}
	for set := range storage.Sets {
		theirs := body[int(set)*sumSize:]
		if binary.BigEndian.Uint64(theirs) == roots[set][0] && binary.BigEndian.Uint64(theirs[8:]) == roots[set][1] {
			continue
		}
		if err := c.compareSet(ctx, set); err != nil {
			return fmt.Errorf("comparing set %d: %w", set, err)
		}
	}
	return nil
}

func (c *comparison) compareSet(ctx context.Context, set storage.Set) error {
	differ, err := c.branches(ctx, set, -1)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for first := range 256 {
		if !differ.has(first) {
			continue
		}
		group.Go(func() error {
			leaves, err := c.branches(ctx, set, first)
			if err != nil {
				return err
			}
			return c.comparePart(ctx, set, byte(first), leaves)
		})
		if ctx.Err() != nil {
			break
		}
	}
	return group.Wait()
}

// leaves is a set of parts, by the second byte of the keys in them.
type leaves [leafBits]byte

func (l *leaves) has(i int) bool { return l[i/8]&(1<<(i%8)) != 0 }

func (l *leaves) add(i int) { l[i/8] |= 1 << (i % 8) }

// branches finds the parts that differ: of the whole set when first is negative.
func (c *comparison) branches(ctx context.Context, set storage.Set, first int) (differ leaves, err error) {
	level := byte(1)
	if first < 0 {
		level = 0
	}
	body, err := c.ask(ctx, c.peer, opBranches, append(c.view.span[:], byte(set), level, byte(max(first, 0))))
	if err != nil {
		return differ, err
	}
	mine := c.cfg.DB.Branches(set, first)
	if len(body) != len(mine)*8 {
		return differ, errWire
	}
	for i := range mine {
		if binary.BigEndian.Uint64(body[i*8:]) != mine[i] {
			differ.add(i)
		}
	}
	return differ, nil
}

// comparePart compares what the leaves of one part hold, page by page.
func (c *comparison) comparePart(ctx context.Context, set storage.Set, first byte, parts leaves) error {
	if parts == (leaves{}) {
		return nil // equal by now
	}
	for from := []byte(nil); ; {
		request := append(c.view.span[:], byte(set), first)
		request = appendKey(append(request, parts[:]...), from)
		body, err := c.ask(ctx, c.peer, opList, request)
		if err != nil {
			return err
		}
		theirs, next, err := parseList(body, first, from)
		if err != nil {
			return err
		}
		if c.items.Add(int64(len(theirs))+1) > maxItems {
			return fmt.Errorf("%w: no end of messages", errLying)
		}
		if err := c.comparePage(ctx, set, first, parts, from, next, theirs); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		from = next
	}
}

// parseList reads a page: the keys from from on, in their order, and where the
// next page begins, nil when there is none.
func parseList(body []byte, first byte, from []byte) (list []marked, next []byte, err error) {
	r := reader{rest: body}
	more := r.byte() == 1
	next = r.key()
	list = r.marked(maxKeys)
	if err := r.end(); err != nil {
		return nil, nil, err
	}
	last := from
	for i, m := range list {
		if order := bytes.Compare(m.key, last); order < 0 || order == 0 && i > 0 || len(m.key) == 0 || m.key[0] != first {
			return nil, nil, fmt.Errorf("%w: keys out of order", errLying)
		}
		last = m.key
	}
	if !more {
		return list, nil, nil
	}
	if bytes.Compare(next, last) <= 0 || len(next) == 0 || next[0] != first {
		return nil, nil, fmt.Errorf("%w: a list that does not go on", errLying)
	}
	return list, next, nil
}

// comparePage settles the keys from from to to (nil: the end of the part), of
// which the other node named those that it has.
func (c *comparison) comparePage(ctx context.Context, set storage.Set, first byte, parts leaves, from, to []byte, theirs []marked) error {
	for {
		mine, next, err := c.list(c.view, set, first, parts, from, to)
		if err != nil {
			return err
		}
		// Of theirs, those on this page of mine.
		n := len(theirs)
		if next != nil {
			n = 0
			for n < len(theirs) && bytes.Compare(theirs[n].key, next) < 0 {
				n++
			}
		}
		want, give := c.differences(mine, theirs[:n])
		theirs = theirs[n:]
		if err := c.fetch(ctx, set, want); err != nil {
			return err
		}
		if err := c.push(ctx, set, give); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		from = next
	}
}

// differences finds what the other node has and this one lacks, and the reverse.
// Where they have different records of the same thing, both get the other's.
func (c *comparison) differences(mine []storage.Item, theirs []marked) (want, give [][]byte) {
	for len(mine) > 0 || len(theirs) > 0 {
		order := 0
		switch {
		case len(mine) == 0:
			order = 1
		case len(theirs) == 0:
			order = -1
		default:
			order = bytes.Compare(mine[0].Key, theirs[0].key)
		}
		if order >= 0 && (order > 0 || mine[0].Mark != theirs[0].mark) {
			want = append(want, theirs[0].key)
		}
		if order <= 0 && (order < 0 || mine[0].Mark != theirs[0].mark) {
			if c.isYoung(mine[0].Stamp) {
				c.young.Add(1)
			} else {
				give = append(give, mine[0].Key)
			}
		}
		if order <= 0 {
			mine = mine[1:]
		}
		if order >= 0 {
			theirs = theirs[1:]
		}
	}
	return want, give
}

// isYoung reports whether something came to the swarm so recently that it may be
// on its way to the other node.
func (c *comparison) isYoung(stamp int64) bool {
	return c.settle > 0 && stamp > c.cfg.Now().Add(-c.settle).UnixMicro()
}

// fetch gets and merges elements.
func (c *comparison) fetch(ctx context.Context, set storage.Set, keys [][]byte) error {
	for len(keys) > 0 {
		request := append(c.view.span[:], byte(set))
		asked := keys[:min(len(keys), maxKeys)]
		for _, k := range asked {
			request = appendKey(request, k)
		}
		body, err := c.ask(ctx, c.peer, opGet, request)
		if err != nil {
			return err
		}
		r := reader{rest: body}
		n := 0
		var batch []element
		for ; r.more() && n < len(asked); n++ {
			b := r.take(int(min(r.uint32(), maxElement+1)))
			if len(b) == 0 {
				continue // gone meanwhile
			}
			e, err := parseElement(set, b, rpc.MessageHash)
			if err == nil && !bytes.Equal(e.key, asked[n]) {
				err = fmt.Errorf("%w: another element than the one asked for", errLying)
			}
			if err == nil {
				err = verify(&e, c.view.owns)
			}
			switch {
			case err != nil:
				c.cfg.Log.Debug("refused from a member of the swarm", "node", shortKey(&c.peer), "error", err)
				if c.wrong.Add(1) > maxWrong {
					return err
				}
			case c.ahead(&e):
				// Some clock is wrong; it will be right later.
			case c.isYoung(e.stamp()):
				c.young.Add(1)
			default:
				batch = append(batch, e)
			}
		}
		if err := r.end(); err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: an empty answer", errLying)
		}
		keys = keys[n:]
		outcomes, err := c.merge(batch)
		if err != nil {
			return err
		}
		for _, o := range outcomes {
			if o == storage.Kept {
				c.moved.Add(1)
			}
		}
	}
	return nil
}

// push sends elements to the other node.
func (c *comparison) push(ctx context.Context, set storage.Set, keys [][]byte) error {
	outcomes, err := c.put(ctx, c.peer, set, keys)
	for _, o := range outcomes {
		if o == storage.Kept {
			c.moved.Add(1)
		}
	}
	return err
}

// put sends elements to another node and returns what became of them, in the
// order of the keys. One that is gone counts as known.
func (r *Replica) put(ctx context.Context, to swarm.Node, set storage.Set, keys [][]byte) (outcomes []storage.Outcome, err error) {
	body := []byte{byte(set)}
	var sent []int // places in outcomes
	flush := func() error {
		if len(sent) == 0 {
			return nil
		}
		answer, err := r.ask(ctx, to, opPut, body)
		if err != nil {
			return err
		}
		if len(answer) != len(sent) {
			return errWire
		}
		for i, at := range sent {
			outcomes[at] = storage.Outcome(answer[i])
		}
		body, sent = []byte{byte(set)}, nil
		return nil
	}
	for _, key := range keys {
		e, ok, err := r.load(set, key)
		if err != nil {
			return outcomes, err
		}
		outcomes = append(outcomes, storage.Known)
		if !ok {
			continue
		}
		size := len(body)
		body = e.appendTo(body)
		if len(body) > maxPiece && len(sent) > 0 {
			last := append([]byte(nil), body[size:]...)
			body = body[:size]
			if err := flush(); err != nil {
				return outcomes[:len(outcomes)-1], err
			}
			body = append(body, last...)
		}
		if sent = append(sent, len(outcomes)-1); len(sent) == maxKeys {
			if err := flush(); err != nil {
				return outcomes, err
			}
		}
	}
	return outcomes, flush()
}

// load reads an element from the database.
func (r *Replica) load(set storage.Set, key []byte) (e element, ok bool, err error) {
	e.set, e.key = set, key
	if set == storage.Changes {
		e.change, ok, err = r.cfg.DB.LoadChange(key)
	} else {
		e.message, ok, err = r.cfg.DB.LoadMessage(key)
	}
	return e, ok, err
}

// verify checks what another node sent as far as it can be checked.
func verify(e *element, owns func(account.ID) bool) error {
	var err error
	if e.set == storage.Changes {
		err = rpc.VerifyChange(&e.change)
	} else {
		err = rpc.VerifyMessage(&e.message)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errLying, err)
	case !owns(e.owner()):
		return fmt.Errorf("%w: an account of another swarm", errLying)
	}
	return nil
}

// ahead reports whether an element has a stamp from the future.
func (r *Replica) ahead(e *element) bool {
	return e.stamp() > r.cfg.Now().Add(rpc.StampTolerance).UnixMicro()
}

// merge adds elements of one set, all verified, to the database.
func (r *Replica) merge(batch []element) ([]storage.Outcome, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	var changes []storage.Change
	var messages []storage.Message
	for i := range batch {
		if batch[i].set == storage.Changes {
			changes = append(changes, batch[i].change)
		} else {
			messages = append(messages, batch[i].message)
		}
	}
	return r.cfg.DB.Merge(changes, messages, rpc.HoldsOne)
}

// ask sends a request and returns the body of the answer. It waits for a node
// that is busy, but not for long.
func (r *Replica) ask(ctx context.Context, to swarm.Node, what op, body []byte) ([]byte, error) {
	for try := 1; ; try++ {
		answer, err := r.askOnce(ctx, to, what, body)
		if err != errBusy || try == 5 {
			return answer, err
		}
		select {
		case <-time.After(r.spread(time.Duration(try) * time.Second)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (r *Replica) askOnce(ctx context.Context, to swarm.Node, what op, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	r.sent.Add(uint64(len(body)) + 1)
	parts, err := r.cfg.Request(ctx, to, [][]byte{{byte(what)}, body})
	if err != nil {
		return nil, err
	}
	if len(parts) != 2 || len(parts[0]) != 1 {
		return nil, errWire
	}
	r.received.Add(uint64(len(parts[1])) + 1)
	switch s := status(parts[0][0]); s {
	case statusOK:
		return parts[1], nil
	case statusView, statusStranger:
		return nil, errView
	case statusBusy:
		return nil, errBusy
	default:
		return nil, fmt.Errorf("the other node answers with status %d", s)
	}
}

// list gives a page of what this node has in the leaves of one part of a set,
// from a key on and below another (nil: to the end of the part).
func (r *Replica) list(v *view, set storage.Set, first byte, parts leaves, from, to []byte) (items []storage.Item, next []byte, err error) {
	for leaf := 0; leaf < 256; leaf++ {
		if !parts.has(leaf) {
			continue
		}
		start, end := []byte{first, byte(leaf)}, after(first, leaf)
		if bytes.Compare(start, from) < 0 {
			start = from
		}
		if to != nil && (end == nil || bytes.Compare(to, end) < 0) {
			end = to
		}
		if end != nil && bytes.Compare(start, end) >= 0 {
			continue
		}
		if len(items) == maxKeys {
			return items, start, nil
		}
		more, next, err := r.cfg.DB.List(set, start, end, maxKeys-len(items), v.owns)
		if err != nil {
			return nil, nil, err
		}
		items = append(items, more...)
		if next != nil {
			return items, next, nil
		}
	}
	return items, nil, nil
}

// after is the first key behind a leaf, nil when there is none.
func after(first byte, leaf int) []byte {
	n := int(first)<<8 | leaf + 1
	if n > 0xffff {
		return nil
	}
	return binary.BigEndian.AppendUint16(nil, uint16(n))
}
