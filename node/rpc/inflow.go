package rpc

import (
	"sync"
	"time"

	"hearth/node/account"
)

// inflow keeps messages to one account from taking the room of all others. Anybody
// may store into anybody's inbox, in an onion, so there is nobody else to hold to
// account: an inbox can get a quarter of the node's room at once, and as much again
// in a day. More is refused as it is when the database is full. What is signed is
// not counted. The storage server has no such limit.
type inflow struct {
	room func() int64
	now  func() time.Time

	mu      sync.Mutex
	inboxes map[account.ID]level
	cleaned time.Time
}

// level is how many bytes an account got that time has not worked off yet.
type level struct {
	bytes float64
	at    time.Time
}

const (
	inflowPart = 4
	inflowTime = 24 * time.Hour
	maxInboxes = 16_384 // accounts known; a flood over more is one of the whole node
)

func newInflow(room func() int64, now func() time.Time) *inflow {
	return &inflow{room: room, now: now, inboxes: make(map[account.ID]level)}
}

func (l level) left(most float64, now time.Time) float64 {
	return max(0, l.bytes-most*max(0, now.Sub(l.at).Seconds())/inflowTime.Seconds())
}

// allows reports whether an account may get another message.
func (f *inflow) allows(owner account.ID) bool {
	most := float64(f.room() / inflowPart)
	if most <= 0 {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inboxes[owner].left(most, f.now()) < most
}

// add counts a message that is new.
func (f *inflow) add(owner account.ID, size int) {
	most := float64(f.room() / inflowPart)
	if most <= 0 {
		return
	}
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	l, known := f.inboxes[owner]
	if !known && len(f.inboxes) >= maxInboxes {
		if now.Sub(f.cleaned) >= time.Second {
			f.cleaned = now
			for k, l := range f.inboxes {
				// The least of them make place: they are far from any limit.
				if l.left(most, now) < most/maxInboxes {
					delete(f.inboxes, k)
				}
			}
		}
		if len(f.inboxes) >= maxInboxes {
			return
		}
	}
	f.inboxes[owner] = level{l.left(most, now) + float64(size), now}
}
