package boot

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"hearth/initramfs/ntptest"
)

func TestTheClockIsSetByTheAnswerInTheMiddle(t *testing.T) {
	now := earliest.AddDate(0, 1, 0)
	down := errors.New("no answer")
	for _, c := range []struct {
		name    string
		answers []any // an offset, or an error
		want    time.Duration
		err     error
	}{
		{"one server", []any{time.Hour}, time.Hour, nil},
		{"the clock is ahead", []any{-time.Hour}, -time.Hour, nil},
		{"near enough", []any{tolerated - 1}, 0, nil},
		{"one of three lies", []any{time.Hour, 20 * 365 * 24 * time.Hour, time.Hour + time.Second}, time.Hour + time.Second, nil},
		{"one of two lies", []any{20 * 365 * 24 * time.Hour, time.Hour}, time.Hour, nil},
		{"only the second answers", []any{down, time.Minute}, time.Minute, nil},
		{"none answers", []any{down, down}, 0, down},
		{"before this program was written", []any{-60 * 24 * time.Hour}, 0, errTime},
		{"a hundred years on", []any{100 * 365 * 24 * time.Hour}, 0, errTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := now
			clock := clock{
				now: func() time.Time { return now }, set: func(at time.Time) error { set = at; return nil },
			}
			asked := 0
			err := clock.correct(make([]string, len(c.answers)), func(string) (time.Duration, error) {
				answer := c.answers[asked]
				asked++
				if err, failed := answer.(error); failed {
					return 0, err
				}
				return answer.(time.Duration), nil
			}, t.Logf)
			if !errors.Is(err, c.err) || set.Sub(now) != c.want {
				t.Errorf("moved by %v, %v; want %v, %v", set.Sub(now), err, c.want, c.err)
			}
		})
	}
}

func TestTheTimeIsAskedForUntilTheNetworkIsThereAndThenNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		began := time.Now()
		var asked []time.Duration
		c := clock{now: time.Now, set: func(time.Time) error { return nil }}
		c.follow(ctx, []string{"a"}, func(string) (time.Duration, error) {
			asked = append(asked, time.Since(began))
			if time.Since(began) < 20*time.Second {
				return 0, errors.New("network is unreachable")
			}
			return 0, nil
		}, t.Logf)
		// After 0, 4, 12, 28 seconds, then every hour.
		if len(asked) != 6 || asked[3] != 28*time.Second || asked[4] != 28*time.Second+nextTime {
			t.Errorf("asked after %v", asked)
		}
	})
}

func TestAnNTPServerIsUnderstood(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go ntptest.Serve(conn, func() time.Time { return time.Now().Add(time.Hour) })
	offset, err := askNTP(conn.LocalAddr().String())
	if err != nil || (offset-time.Hour).Abs() > 10*time.Second {
		t.Errorf("offset %v, %v", offset, err)
	}
}
