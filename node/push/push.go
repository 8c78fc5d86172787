// Package push knows who waits for messages of which account, and wakes them.
//
// A request that wants to hear of new messages takes a seat ([Hub.Enter]) for an
// account and some of its namespaces, looks into the database, and when nothing is
// there waits for [Seat.Woken]. Whatever puts a message into the database, a client,
// another member of the swarm or the comparison with one, calls [Hub.Stored]. Because
// the seat is taken before the look, no message falls between the two.
//
// A wake-up says no more than that another look is worth it. The number of seats is
// bounded, for each account and in all ([Limits]); whoever gets none polls.
package push

import (
	"errors"
	"slices"
	"sync"

	"hearth/node/account"
)

// Errors of [Hub.Enter].
var (
	ErrAccount = errors.New("too many subscriptions of this account")
	ErrNode    = errors.New("too many subscriptions at this node")
	ErrClosed  = errors.New("no more subscriptions: shutting down")
)

// Limits bound the seats. A field left zero takes the value given here.
type Limits struct {
	Account int // of one account: 32, for a person's devices or the members of a group
	Node    int // of all: 1000
}

// Hub holds the seats of one node. It is safe for concurrent use.
type Hub struct {
	limits Limits
	closed chan struct{}

	mu    sync.Mutex
	over  bool
	seats map[account.ID][]*Seat
	taken int
}

// Seat is the place of one waiting request.
type Seat struct {
	hub        *Hub
	owner      account.ID
	namespaces []int16
	woken      chan struct{}
	left       bool
}

// New returns a hub without seats taken.
func New(limits Limits) *Hub {
	if limits.Account == 0 {
		limits.Account = 32
	}
	if limits.Node == 0 {
		limits.Node = 1000
	}
	return &Hub{limits: limits, closed: make(chan struct{}), seats: make(map[account.ID][]*Seat)}
}

// Enter takes a seat for new messages in the namespaces, until Leave. The list is
// kept, not copied. The errors are [ErrAccount], [ErrNode] and [ErrClosed].
func (h *Hub) Enter(owner account.ID, namespaces []int16) (*Seat, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.over:
		return nil, ErrClosed
	case len(h.seats[owner]) >= h.limits.Account:
		return nil, ErrAccount
	case h.taken >= h.limits.Node:
		return nil, ErrNode
	}
	s := &Seat{hub: h, owner: owner, namespaces: namespaces, woken: make(chan struct{}, 1)}
	h.seats[owner] = append(h.seats[owner], s)
	h.taken++
	return s, nil
}

// Stored wakes those who wait for messages of the account in the namespace. It
// does not block.
func (h *Hub) Stored(owner account.ID, namespace int16) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.seats[owner] {
		if slices.Contains(s.namespaces, namespace) {
			select {
			case s.woken <- struct{}{}:
			default: // already woken and has not looked yet
			}
		}
	}
}

// Waiting is the number of seats that are taken.
func (h *Hub) Waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.taken
}

// Close lets everybody who waits go ([Hub.Closed]) and nobody in any more. It may
// be called more than once.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.over = true
		close(h.closed)
	}
}

// Closed is closed when waiting has no more sense.
func (h *Hub) Closed() <-chan struct{} { return h.closed }

// Woken receives when a message may have come.
func (s *Seat) Woken() <-chan struct{} { return s.woken }

// Leave gives the seat back. It may be called more than once.
func (s *Seat) Leave() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.left {
		return
	}
	s.left = true
	h.taken--
	rest := slices.DeleteFunc(h.seats[s.owner], func(o *Seat) bool { return o == s })
	if len(rest) == 0 {
		delete(h.seats, s.owner)
		return
	}
	h.seats[s.owner] = rest
}
