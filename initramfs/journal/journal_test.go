package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func fixedUptime() time.Duration { return 1234 * time.Millisecond }

func TestTheRingKeepsTheNewestLinesInOrder(t *testing.T) {
	j := New(3, fixedUptime)
	for i := range 5 {
		j.Say("stage", "line %d", i)
	}
	for _, c := range []struct {
		ask  int
		want string
	}{
		{ask: 10, want: "2 3 4"},
		{ask: 3, want: "2 3 4"},
		{ask: 2, want: "3 4"},
		{ask: 0, want: ""},
		{ask: -1, want: ""},
	} {
		var got []string
		for _, line := range j.Last(c.ask) {
			got = append(got, line[len(line)-1:])
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("last %d: %q, want %q", c.ask, s, c.want)
		}
	}
	if line := j.Last(1)[0]; line != "[   1.234] stage: line 4" {
		t.Errorf("line %q", line)
	}
}

func TestWhatAServiceWritesBecomesLines(t *testing.T) {
	long := strings.Repeat("x", 3*MaxLine)
	for _, c := range []struct {
		name   string
		pieces []string
		want   []string
	}{
		{name: "two lines in one piece", pieces: []string{"a\nb\n"}, want: []string{"a", "b"}},
		{name: "a line in three pieces", pieces: []string{"a", "b", "c\n"}, want: []string{"abc"}},
		{name: "an unfinished line waits", pieces: []string{"a\nb"}, want: []string{"a"}},
		{name: "empty lines are left out", pieces: []string{"\n\r\n  \na\r\n"}, want: []string{"a"}},
		{name: "terminal commands are made harmless", pieces: []string{"\x1b[2J\x07\u202eabc\xff\n"}, want: []string{"?[2J??abc?"}},
		{name: "an endless line is cut once and the next is whole", pieces: []string{long, long, "\nb\n"}, want: []string{long[:MaxLine] + "…", "b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := New(10, fixedUptime)
			s := j.Source("node", false)
			for _, p := range c.pieces {
				if n, err := io.WriteString(s, p); n != len(p) || err != nil {
					t.Fatalf("write: %d, %v", n, err)
				}
			}
			var got []string
			for _, line := range j.Last(10) {
				got = append(got, strings.TrimPrefix(line, "[   1.234] node: "))
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// console collects what is shown; one Write is one line.
type console chan string

func (c console) Write(p []byte) (int, error) {
	c <- strings.TrimSuffix(string(p), "\r\n")
	return len(p), nil
}

// attached is a journal whose lines go to the console until the test's bubble ends.
func attached(t *testing.T, capacity, room int) (*Journal, console) {
	j, shown := New(capacity, fixedUptime), make(console, room)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go j.Attach(ctx, shown)
	return j, shown
}

func TestTheConsoleShowsWarningsAndSparesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, shown := attached(t, 1000, 1000)
		s := j.Source("node", false)
		log := slog.New(NewHandler(s, slog.LevelDebug))
		log.Info("nobody needs to see this")
		log.Debug("nor this")
		log.Warn("careful", "reason", "it's hot", "group", slog.GroupValue(slog.Int("n", 1)))
		log.With("id", 7).WithGroup("g").Error("two\nlines", "a", "b")
		synctest.Wait()
		for _, want := range []string{
			`[   1.234] node: WARN careful reason="it's hot" group.n=1`,
			`[   1.234] node: ERROR two lines id=7 g.a=b`,
		} {
			if got := <-shown; got != want {
				t.Errorf("shown %q, want %q", got, want)
			}
		}
		for i, want := range []string{"[   1.234] node: nobody needs to see this", "[   1.234] node: DEBUG nor this"} {
			if got := strings.TrimRight(j.Last(10)[i], " "); got != want {
				t.Errorf("in the log: %q, want %q", got, want)
			}
		}
		time.Sleep(time.Minute) // of the bubble's clock
		for range 100 {
			fmt.Fprintln(s, "panic: the same again")
		}
		synctest.Wait()
		if got := len(shown); got != burst {
			t.Errorf("%d lines shown of a flood, want %d", got, burst)
		}
		for len(shown) > 0 {
			<-shown
		}
		time.Sleep(every)
		fmt.Fprintln(s, "one more")
		synctest.Wait()
		if got := <-shown; !strings.Contains(got, fmt.Sprintf("(%d lines only in the log)", 100-burst)) {
			t.Errorf("shown after the flood: %q", got)
		}
		if got := <-shown; !strings.Contains(got, "one more") {
			t.Errorf("shown after the flood: %q", got)
		}
		if got := len(j.Last(1000)); got != 106 {
			t.Errorf("%d lines in the log, want all 106", got)
		}
	})
}

func TestTheHandlerLeavesOutWhatIsBelowItsLevel(t *testing.T) {
	var out strings.Builder
	log := slog.New(NewHandler(&out, slog.LevelInfo))
	log.Debug("no")
	log.Info("yes", "n", 1)
	if out.String() != "<6>yes n=1\n" {
		t.Errorf("written %q", out.String())
	}
}

func TestLinesGoToTheOneWhoFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, shown := attached(t, 10, 10)
		next := func(f *Follower, want string) {
			t.Helper()
			if got, err := f.Next(t.Context()); err != nil || got != "[   1.234] stage: "+want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		}
		direct := func(want string) {
			t.Helper()
			synctest.Wait()
			select {
			case got := <-shown:
				if got != want {
					t.Errorf("written %q, want %q", got, want)
				}
			default:
				t.Errorf("not written: %q", want)
			}
		}
		j.Say("stage", "before")
		direct("[   1.234] stage: before")

		f, err := j.Follow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		j.Say("stage", "one")
		j.Say("stage", "two")
		j.Say("stage", "three")
		next(f, "one")
		next(f, "two")
		f.Shown()
		synctest.Wait()
		if len(shown) > 0 {
			t.Errorf("written beside the one who follows: %q", <-shown)
		}

		// A console that starts again takes over from what is left of the old one.
		g, err := j.Follow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if line, err := f.Next(t.Context()); !errors.Is(err, ErrReplaced) {
			t.Errorf("the old one got %q, %v", line, err)
		}
		f.Shown()
		f.Close()
		next(g, "two")

		// What was taken but not shown is not lost with the one who took it.
		g.Close()
		direct("\r\n[   1.234] stage: two")
		direct("[   1.234] stage: three")
		j.Say("stage", "after")
		direct("[   1.234] stage: after")
	})
}

func TestFollowingBeginsBehindTheLineBeingWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, slow := attached(t, 10, 0)
		j.Say("stage", "one")
		j.Say("stage", "two")
		synctest.Wait()
		followed := make(chan *Follower)
		go func() {
			f, err := j.Follow(t.Context())
			if err != nil {
				t.Error(err)
			}
			followed <- f
		}()
		synctest.Wait()
		select {
		case <-followed:
			t.Error("it follows while a line is being written")
		default:
		}
		<-slow
		f := <-followed
		if line, err := f.Next(t.Context()); err != nil || !strings.HasSuffix(line, "two") {
			t.Errorf("got %q, %v", line, err)
		}

		j.Say("stage", "three")
		f.Close()
		synctest.Wait() // "two" is being written again
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := j.Follow(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("following a line that never ends: %v", err)
		}
		<-slow
		if got := <-slow; !strings.HasSuffix(got, "three") {
			t.Errorf("after the vain attempt: %q", got)
		}
	})
}

func TestAConsoleThatHangsStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, hanging := attached(t, 10, 0)
		for i := range 2 * backlog {
			j.Say("stage", "%d", i)
		}
		synctest.Wait()
		j.Drain(time.Second) // gives up
		for reading := true; reading; {
			synctest.Wait()
			select {
			case <-hanging:
			default:
				reading = false
			}
		}
		j.Drain(time.Second)
		j.Say("stage", "after")
		if got := <-hanging; !strings.Contains(got, fmt.Sprintf("(%d lines left out", backlog)) {
			t.Errorf("shown: %q", got)
		}
		if got := <-hanging; !strings.HasSuffix(got, "after") {
			t.Errorf("shown: %q", got)
		}
	})
}

func BenchmarkServiceLine(b *testing.B) {
	s := New(1000, fixedUptime).Source("node", false)
	line := []byte("<6>message stored swarm=3 bytes=1024\n")
	b.ReportAllocs()
	for b.Loop() {
		s.Write(line)
	}
}
