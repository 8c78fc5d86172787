package messenger

import (
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox/swarmtest"
)

func TestAMessageThatAnotherDeviceHasReadDisappearsOnANewOneWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		alice, bob, a, b := twoPolling(t, n, 2*time.Minute)
		timer := &api.Timer{Type: api.Timer_AFTER_READ, Seconds: 3600}
		must[*api.Contact](t)(alice.SetTimer(t.Context(), &api.SetTimerRequest{With: b.ID().String(), Timer: timer}))
		alice.delivers(t, b, "read on the old device")
		bob.received()
		time.Sleep(10 * time.Minute)
		must[*api.MessagesReply](t)(bob.Messages(t.Context(), &api.MessagesRequest{With: a.ID().String(), MarkRead: true}))
		read := time.Now()
		time.Sleep(10 * time.Minute)
		alice.delivers(t, b, "read nowhere")
		bob.received()

		fresh, _ := start(t, n, Config{Account: person(2), PollInterval: 2 * time.Minute})
		fresh.befriend(a.ID())
		time.Sleep(30 * time.Second)
		lines := make(map[string]*api.Message)
		for _, m := range fresh.lines(a.ID()) {
			lines[m.Text] = m
		}
		old, other := lines["read on the old device"], lines["read nowhere"]
		if old == nil || other == nil || fresh.now().Unread != 1 {
			t.Fatalf("lines %v, state %v", lines, fresh.now())
		}
		if end := time.UnixMilli(old.Expires); !old.Read || end.Sub(read.Add(time.Hour)).Abs() > time.Minute {
			t.Errorf("read %v ago, and it is %v", time.Since(read), old)
		}
		if other.Read || other.Expires != 0 {
			t.Errorf("read nowhere, and it is %v", other)
		}

		// Both devices are on when the old one reads the other.
		must[*api.MessagesReply](t)(bob.Messages(t.Context(), &api.MessagesRequest{With: a.ID().String(), MarkRead: true}))
		time.Sleep(time.Hour + 10*time.Minute)
		for _, m := range fresh.lines(a.ID()) {
			if m.Text == "read nowhere" || m.Text == "read on the old device" {
				t.Errorf("still there: %v", m)
			}
		}
	})
}

// delivers sends without looking at the events.
func (r *running) delivers(t *testing.T, to *account.Account, text string) {
	t.Helper()
	if reply, err := r.Send(t.Context(), &api.SendRequest{To: to.ID().String(), Text: text}); err != nil || reply.State != api.Message_STORED {
		t.Fatalf("%v, %v", reply, err)
	}
}

func TestWhatEndsBeforeItsTimeWasRead(t *testing.T) {
	const day = 24 * time.Hour
	now := time.UnixMilli(1_700_000_000_000)
	for _, c := range []struct {
		name  string
		age   time.Duration // since it was sent
		timer time.Duration
		left  time.Duration // until its end in the swarm
		want  bool
	}{
		{"nobody has read it", day, time.Hour, 13 * day, false},
		{"read a moment ago", day, time.Hour, time.Hour, true},
		{"read half an hour ago", day, time.Hour, 30 * time.Minute, true},
		{"its end is near anyway", 13*day + 23*time.Hour + 30*time.Minute, time.Hour, 30 * time.Minute, false},
		{"its end is near, and it was read", 13*day + 23*time.Hour, time.Hour, 30 * time.Minute, true},
		{"it was stored for less, and its timer is shorter still", day, time.Hour, 2 * time.Hour, false},
		{"the longest timer, not read", 2 * day, 14 * day, 12 * day, false},
		{"the longest timer, read a day ago", 2 * day, 11 * day, 10 * day, true},
	} {
		m := archive.Message{Timestamp: now.Add(-c.age).UnixMilli(), Timer: archive.Timer{Type: archive.TimerAfterRead, Seconds: uint32(c.timer / time.Second)}}
		if got := shortened(m, now.Add(c.left), now); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
