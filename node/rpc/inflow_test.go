package rpc

import (
	"testing"
	"time"

	"hearth/node/account"
)

func TestOneInboxCannotTakeTheRoomOfAll(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	room := int64(4 << 20)
	f := newInflow(func() int64 { return room }, func() time.Time { return now })
	inbox := func(k int) account.ID { return account.ID{0: 5, 1: byte(k), 2: byte(k >> 8), 3: byte(k >> 16)} }
	fill := func(k int) (got int) {
		for got < 100_000 && f.allows(inbox(k)) {
			f.add(inbox(k), 1<<10)
			got++
		}
		return got
	}
	if got := fill(1); got != 1024 {
		t.Errorf("one inbox got %d KiB of 4 MiB, want a quarter", got)
	}
	if got := fill(2); got != 1024 {
		t.Errorf("then another got %d KiB", got)
	}
	now = now.Add(6 * time.Hour)
	if got := fill(1); got < 250 || got > 260 {
		t.Errorf("six hours later the first got %d KiB more, want a quarter of it", got)
	}
	now = now.Add(48 * time.Hour)
	if got := fill(1); got != 1024 {
		t.Errorf("two days later it got %d KiB", got)
	}

	for k := range 3 * maxInboxes {
		f.add(inbox(k), 10)
	}
	if len(f.inboxes) > maxInboxes {
		t.Errorf("%d inboxes known", len(f.inboxes))
	}
	if f.allows(inbox(1)) {
		t.Error("a flood over many made it forget the fullest")
	}
	room = 0
	if !f.allows(inbox(1)) {
		t.Error("without a room there is a limit")
	}
}
