package boot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/beevik/ntp"
	"golang.org/x/sys/unix"
)

const (
	// How long to wait between two questions for the time: short until there is a
	// first answer, which needs the network; long afterwards.
	firstTime   = 2 * time.Second
	longestTime = 10 * time.Minute
	nextTime    = time.Hour

	// tolerated is how far the clock may be off before it is set: nothing here needs
	// it better, and every step is a nuisance for those who measure time with it.
	tolerated = time.Second

	// mostServers is how many time servers are asked.
	mostServers = 8
)

// asker asks a time server how far the clock is behind (positive) or ahead.
type asker func(server string) (offset time.Duration, err error)

// askNTP is the asker for servers of the Network Time Protocol, HOST or HOST:PORT.
func askNTP(server string) (time.Duration, error) {
	answer, err := ntp.QueryWithOptions(server, ntp.QueryOptions{Timeout: 5 * time.Second})
	if err == nil {
		err = answer.Validate()
	}
	if err != nil {
		return 0, fmt.Errorf("time server %s: %w", server, err)
	}
	return answer.ClockOffset, nil
}

// clock is the machine's clock.
type clock struct {
	now func() time.Time
	set func(time.Time) error
}

// systemClock is the machine's own.
func systemClock() clock {
	return clock{
		now: time.Now,
		set: func(t time.Time) error { v := unix.NsecToTimeval(t.UnixNano()); return unix.Settimeofday(&v) },
	}
}

// follow sets the clock by time servers, again and again until ctx ends. A board
// without a battery-backed clock has only this: others refuse what a service node
// says with a wrong time.
func (c clock) follow(ctx context.Context, servers []string, ask asker, say Say) {
	failures := 0
	for pause := firstTime; ctx.Err() == nil; sleep(ctx, pause) {
		err := c.correct(servers[:min(len(servers), mostServers)], ask, say)
		if err == nil {
			pause, failures = nextTime, 0
			continue
		}
		if failures++; failures == 5 { // the network may just be late
			say("no time from the network: %v", err)
		}
		pause = min(2*pause, longestTime)
	}
}

// errTime says that an answer cannot be true.
var errTime = errors.New("a time that cannot be")

// correct asks all servers once, and sets the clock by the answer in the middle: a
// single liar among several does not decide. It may go back behind the time that was
// saved, or a battery-backed clock that was once years ahead would stay so for ever.
func (c clock) correct(servers []string, ask asker, say Say) error {
	var offsets []time.Duration
	var troubles []error
	for _, server := range servers {
		offset, err := ask(server)
		if err != nil {
			troubles = append(troubles, err)
			continue
		}
		offsets = append(offsets, offset)
	}
	if len(offsets) == 0 {
		return errors.Join(troubles...)
	}
	slices.Sort(offsets)
	offset := offsets[(len(offsets)-1)/2]
	if offset.Abs() < tolerated {
		return nil
	}
	before := c.now()
	after := before.Add(offset)
	if after.Before(earliest) || after.After(latest) {
		return fmt.Errorf("%w: %s", errTime, after.UTC().Format(time.DateTime))
	}
	if err := c.set(after); err != nil {
		return err
	}
	say("was %s, set to %s by the network", before.UTC().Format(time.DateTime), after.UTC().Format(time.DateTime))
	return nil
}
