package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"hearth/node/rpc"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// Serve answers a request of another node, which has proven the key from. The
// answer is nil for a request that has not the right parts.
func (r *Replica) Serve(_ context.Context, from [32]byte, parts [][]byte) [][]byte {
	if len(parts) != 2 || len(parts[0]) != 1 {
		return nil
	}
	what := op(parts[0][0])
	r.received.Add(uint64(len(parts[1])) + 1)
	s, body := r.serve(from, what, parts[1])
	r.sent.Add(uint64(len(body)) + 1)
	return [][]byte{{byte(s)}, body}
}

func (r *Replica) serve(from [32]byte, what op, body []byte) (status, []byte) {
	v := r.view.Load()
	if v == nil {
		return statusBusy, nil
	}
	if _, listed := v.list.Find(from); !listed {
		return statusStranger, nil
	}
	if what != opOffer && what != opPut {
		if !v.member(from) {
			return statusStranger, nil
		}
		r.heard(from)
	}
	done, ok := r.work.begin(from, r.cfg.Now)
	if !ok {
		return statusBusy, nil
	}
	defer done()

	answer, err := r.answer(v, from, what, body)
	switch {
	case err == nil:
		return statusOK, answer
	case errors.Is(err, errWire):
		return statusBad, nil
	case errors.Is(err, errView):
		return statusView, nil
	case errors.Is(err, errBusy):
		return statusBusy, nil
	}
	r.cfg.Log.Error("answering a member of the swarm", "error", err)
	return statusTrouble, nil
}

// heard notes that a member asks. One that could not be reached is back.
func (r *Replica) heard(from [32]byte) {
	r.mu.Lock()
	p := r.peers[from]
	r.mu.Unlock()
	if p == nil {
		return
	}
	p.asked.Store(r.cfg.Now().UnixMilli())
	if p.failures.Load() > 0 {
		poke(p.wanted)
	}
}

// compareSoon lets this node compare with all other members.
func (r *Replica) compareSoon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		poke(p.wanted)
	}
}

func (r *Replica) answer(v *view, from [32]byte, what op, body []byte) ([]byte, error) {
	q := reader{rest: body}
	if what != opOffer && what != opPut {
		if s := span(q.take(len(span{}))); q.bad {
			return nil, errWire
		} else if s != v.span {
			return nil, errView
		}
	}
	switch what {
	case opRoots:
		if err := q.end(); err != nil {
			return nil, err
		}
		roots, ok := r.cfg.DB.Roots()
		if !ok {
			return nil, errBusy
		}
		var b []byte
		for _, sum := range roots {
			b = binary.BigEndian.AppendUint64(b, sum[0])
			b = binary.BigEndian.AppendUint64(b, sum[1])
		}
		return b, nil

	case opBranches:
		set, level, first := q.set(), q.byte(), int(q.byte())
		if err := q.end(); err != nil || level > 1 {
			return nil, errWire
		}
		if level == 0 {
			first = -1
		}
		sums := r.cfg.DB.Branches(set, first)
		b := make([]byte, 0, len(sums)*8)
		for _, sum := range sums {
			b = binary.BigEndian.AppendUint64(b, sum)
		}
		return b, nil

	case opList:
		set, first, parts, start := q.set(), q.byte(), leaves(q.take(leafBits)), q.key()
		if err := q.end(); err != nil {
			return nil, err
		}
		items, next, err := r.list(v, set, first, parts, start, nil)
		if err != nil {
			return nil, err
		}
		more := byte(0)
		if next != nil {
			more = 1
		}
		b := appendKey([]byte{more}, next)
		for _, item := range items {
			b = binary.BigEndian.AppendUint64(appendKey(b, item.Key), item.Mark)
		}
		return b, nil

	case opGet:
		set := q.set()
		keys := q.keys()
		if err := q.end(); err != nil {
			return nil, err
		}
		return r.get(v, set, keys)

	case opOffer:
		set := q.set()
		offered := q.marked(maxKeys)
		if err := q.end(); err != nil {
			return nil, err
		}
		keys := make([][]byte, len(offered))
		for i := range offered {
			keys[i] = offered[i].key
		}
		marks, err := r.cfg.DB.Lookup(set, keys)
		if err != nil {
			return nil, err
		}
		if !v.member(from) {
			// What comes from another swarm the other members want too, also what this
			// one knows: it may have got it after it compared with them.
			r.compareSoon()
		}
		wanted := make([]byte, (len(offered)+7)/8)
		for i := range offered {
			if marks[i] != offered[i].mark {
				wanted[i/8] |= 1 << (i % 8)
			}
		}
		return wanted, nil

	case opPut:
		return r.take(v, &q)
	}
	return nil, errWire
}

// get collects elements, as many as fit into one answer.
func (r *Replica) get(v *view, set storage.Set, keys [][]byte) ([]byte, error) {
	var b []byte
	for _, key := range keys {
		e, ok, err := r.load(set, key)
		if err != nil {
			return nil, err
		}
		size := len(b)
		if ok && v.owns(e.owner()) {
			b = e.appendTo(b)
		} else {
			b = append(b, 0, 0, 0, 0)
		}
		if len(b) > maxPiece && size > 0 {
			return b[:size], nil
		}
	}
	return b, nil
}

// take merges what another node puts here.
func (r *Replica) take(v *view, q *reader) ([]byte, error) {
	set := q.set()
	var outcomes []byte
	var batch []element
	var places []int
	for q.more() {
		if len(outcomes) == maxKeys {
			return nil, errWire
		}
		b := q.take(int(min(q.uint32(), maxElement+1)))
		if q.bad {
			return nil, errWire
		}
		e, err := parseElement(set, b, rpc.MessageHash)
		if err == nil {
			err = verify(&e, v.owns)
		}
		outcomes = append(outcomes, byte(storage.Refused))
		if err == nil && !r.ahead(&e) {
			batch, places = append(batch, e), append(places, len(outcomes)-1)
		}
	}
	if err := q.end(); err != nil {
		return nil, err
	}
	merged, err := r.merge(batch)
	if err != nil {
		return nil, err
	}
	news := false
	for i, o := range merged {
		outcomes[places[i]] = byte(o)
		news = news || o == storage.Kept
	}
	if news {
		// Whoever brings it may have left this swarm and not be heard by all any more.
		r.compareSoon()
	}
	return outcomes, nil
}

// guests bounds what each other node makes this one spend: the requests at one
// time, and the time spent for it, of which it may use up some at once and then
// has to wait.
type guests struct {
	mu     sync.Mutex
	byNode map[[32]byte]*guest
}

type guest struct {
	requests int
	credit   time.Duration
	since    time.Time // credit was worked out
}

const (
	maxGuest    = 8                // requests at a time
	maxCredit   = 20 * time.Second // of work, saved up
	creditShare = 4                // one part in so many of the time that passes
)

func (g *guests) begin(node [32]byte, now func() time.Time) (done func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byNode == nil {
		g.byNode = make(map[[32]byte]*guest)
	}
	start := now()
	of := g.byNode[node]
	if of == nil {
		of = &guest{credit: maxCredit, since: start}
		g.byNode[node] = of
	}
	if passed := start.Sub(of.since); passed > 0 {
		of.credit = min(maxCredit, of.credit+passed/creditShare)
		of.since = start
	}
	if of.requests >= maxGuest || of.credit <= 0 {
		return nil, false
	}
	of.requests++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		of.requests--
		of.credit -= max(0, now().Sub(start))
	}, true
}

// keep forgets nodes that are not listed any more.
func (g *guests) keep(list *swarm.List) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, of := range g.byNode {
		if _, listed := list.Find(key); !listed && of.requests == 0 {
			delete(g.byNode, key)
		}
	}
}
