package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	"hearth/node/account"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// handover brings what this node holds for other swarms to them.
type handover struct {
	*Replica
	wanted chan struct{}
	turn   chan struct{} // held by whoever is at it
	left   bool          // something could not be handed over; with the turn
}

// keepers is how many members of the other swarm must have acknowledged each
// message: with one, its word alone would stand for it.
const keepers = 2

// firstRetry is short: most often somebody has not heard of the new swarms yet.
const firstRetry = 2 * time.Second

func newHandover(r *Replica) *handover {
	h := &handover{Replica: r, wanted: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	return h
}

// start makes it look for what belongs elsewhere: the swarms have changed, or a
// request that was under way when they did has brought more.
func (h *handover) start() { poke(h.wanted) }

func (h *handover) run(ctx context.Context) {
	retry := time.Duration(0)
	for {
		var again <-chan time.Time
		if retry > 0 {
			again = time.After(h.spread(retry))
		}
		select {
		case <-h.wanted:
			retry = 0
		case <-again:
		case <-ctx.Done():
			return
		}
		if h.round(ctx) {
			retry = 0
		} else {
			retry = min(max(2*retry, firstRetry), longestPause)
		}
	}
}

// last tries once more, if there is anything left.
func (h *handover) last(ctx context.Context) {
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	left := h.left
	<-h.turn
	if left {
		h.round(ctx)
	}
}

// round offers everything once and reports whether all of it is in good hands.
func (h *handover) round(ctx context.Context) bool {
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-h.turn }()
	v := h.view.Load()
	if v == nil || len(v.ids) == 0 {
		return true
	}
	moved, all := 0, true
	foreign := func(owner account.ID) bool { return !v.owns(owner) }
	for set := range storage.Sets {
		for from := []byte{}; from != nil; {
			items, next, err := h.cfg.DB.List(set, from, nil, maxKeys, foreign)
			if err != nil {
				h.cfg.Log.Error("looking for messages of other swarms", "error", err)
				return false
			}
			bySwarm := make(map[swarm.ID][]storage.Item)
			for _, item := range items {
				id := v.home(item.Owner)
				bySwarm[id] = append(bySwarm[id], item)
			}
			for id, items := range bySwarm {
				n, err := h.handOver(ctx, v, set, id, items)
				moved += n
				if err != nil {
					h.cfg.Log.Debug("handing over", "swarm", id, "error", err)
					all = false
				}
			}
			if ctx.Err() != nil {
				all, next = false, nil
			}
			from = next
		}
	}
	if moved > 0 {
		h.cfg.Log.Info("handed over to other swarms", "moved", moved, "all", all)
	}
	h.left = !all
	return all
}

var errKeepers = errors.New("not enough members took it")

// handOver gives items to members of a swarm, beginning with any of them.
func (h *handover) handOver(ctx context.Context, v *view, set storage.Set, id swarm.ID, items []storage.Item) (moved int, err error) {
	members := v.list.Members(id)
	need := min(keepers, len(members))
	var trouble error
	for _, i := range rand.Perm(len(members)) {
		if members[i].Ed25519 == h.cfg.Self {
			continue
		}
		n, err := h.offer(ctx, members[i], set, items)
		moved += n
		if err != nil {
			trouble = err
			continue
		}
		if need--; need == 0 {
			return moved, nil
		}
	}
	return moved, errors.Join(errKeepers, trouble)
}

// offer gives one node those of the items that it lacks. No error means that it
// has them, or never will.
func (h *handover) offer(ctx context.Context, to swarm.Node, set storage.Set, items []storage.Item) (moved int, err error) {
	body := []byte{byte(set)}
	for _, item := range items {
		body = binary.BigEndian.AppendUint64(appendKey(body, item.Key), item.Mark)
	}
	wanted, err := h.ask(ctx, to, opOffer, body)
	if err != nil {
		return 0, err
	}
	if len(wanted) != (len(items)+7)/8 {
		return 0, errWire
	}
	var keys [][]byte
	for i, item := range items {
		if wanted[i/8]&(1<<(i%8)) != 0 {
			keys = append(keys, item.Key)
		}
	}
	outcomes, err := h.put(ctx, to, set, keys)
	for _, o := range outcomes {
		switch o {
		case storage.Kept:
			moved++
		case storage.Full, storage.Refused:
			// Refused is also what a node says that has not seen the new list yet.
			err = errors.Join(err, errRefused)
		}
	}
	return moved, err
}

var errRefused = errors.New("the other node did not take everything")
