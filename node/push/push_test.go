package push

import (
	"errors"
	"sync"
	"testing"

	"hearth/node/account"
)

func woken(s *Seat) bool {
	select {
	case <-s.Woken():
		return true
	default:
		return false
	}
}

func enter(t testing.TB, h *Hub, owner account.ID, namespaces ...int16) *Seat {
	t.Helper()
	s, err := h.Enter(owner, namespaces)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOnlyThoseConcernedAreWoken(t *testing.T) {
	h := New(Limits{})
	ann, bob := account.ID{5, 1}, account.ID{5, 2}
	first, second, other := enter(t, h, ann, 0, 11), enter(t, h, ann, 3), enter(t, h, bob, 0)
	for range 3 {
		h.Stored(ann, 0)
	}
	if !woken(first) || woken(second) || woken(other) {
		t.Error("the wrong ones were woken")
	}
	if woken(first) {
		t.Error("three messages before the first look woke twice")
	}
	first.Leave()
	first.Leave()
	h.Stored(ann, 11)
	if woken(first) {
		t.Error("woken after leaving")
	}
	h.Stored(ann, 3)
	if !woken(second) {
		t.Error("not woken after another one left")
	}
}

func TestSeatsAreBounded(t *testing.T) {
	h := New(Limits{Account: 2, Node: 3})
	ann, bob := account.ID{5, 1}, account.ID{5, 2}
	a := enter(t, h, ann, 0)
	enter(t, h, ann, 0)
	if _, err := h.Enter(ann, nil); !errors.Is(err, ErrAccount) {
		t.Errorf("third seat of one account: %v", err)
	}
	enter(t, h, bob, 0)
	if _, err := h.Enter(account.ID{5, 3}, nil); !errors.Is(err, ErrNode) {
		t.Errorf("fourth seat: %v", err)
	}
	a.Leave()
	b := enter(t, h, bob, 0)
	b.Leave()
	if h.Waiting() != 2 {
		t.Errorf("%d seats taken, want 2", h.Waiting())
	}
	h.Close()
	h.Close()
	<-h.Closed()
	if _, err := h.Enter(bob, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestComingAndGoingLeavesNothingBehind(t *testing.T) {
	h := New(Limits{Account: 8})
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for n := range 200 {
				s := enter(t, h, account.ID{5, byte(n % 3)}, int16(i))
				h.Stored(account.ID{5, byte(n % 3)}, int16(i))
				<-s.Woken()
				s.Leave()
			}
		})
	}
	wait.Wait()
	if h.Waiting() != 0 || len(h.seats) != 0 {
		t.Errorf("%d seats taken, %d accounts", h.Waiting(), len(h.seats))
	}
}

// BenchmarkStored is what every stored message pays, with a thousand others waiting.
func BenchmarkStored(b *testing.B) {
	h := New(Limits{})
	for i := range 1000 {
		enter(b, h, account.ID{5, byte(i), byte(i >> 8)}, 0)
	}
	for b.Loop() {
		h.Stored(account.ID{5, 9}, 0)
	}
}
