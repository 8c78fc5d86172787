package journal

import (
	"fmt"
	"io"
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
			s := j.Source("node")
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

func TestTheConsoleShowsWarningsAndSparesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New(1000, fixedUptime)
		shown := make(console, 1000)
		j.Attach(shown)
		defer close(j.console)
		s := j.Source("node")
		fmt.Fprintln(s, `time=… level=INFO msg="nobody needs to see this"`)
		fmt.Fprintln(s, `time=… level=WARN msg=careful`)
		synctest.Wait()
		if got := <-shown; !strings.Contains(got, "careful") {
			t.Fatalf("shown first: %q", got)
		}
		for range 100 {
			fmt.Fprintln(s, "panic: the same again")
		}
		synctest.Wait()
		if got := len(shown); got != burst-1 {
			t.Errorf("%d lines shown of a flood, want %d", got, burst-1)
		}
		for len(shown) > 0 {
			<-shown
		}
		time.Sleep(every) // of the bubble's clock
		fmt.Fprintln(s, "one more")
		synctest.Wait()
		if got := <-shown; !strings.Contains(got, fmt.Sprintf("(%d lines only in the log)", 100-(burst-1))) {
			t.Errorf("shown after the flood: %q", got)
		}
		if got := <-shown; !strings.Contains(got, "one more") {
			t.Errorf("shown after the flood: %q", got)
		}
		if got := len(j.Last(1000)); got != 104 {
			t.Errorf("%d lines in the log, want all 104", got)
		}
	})
}

func TestALineTakesAwayThePromptFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New(10, fixedUptime)
		shown := make(console, 10)
		j.Attach(shown)
		defer close(j.console)
		j.Say("stage", "before")
		synctest.Wait()
		j.Prompt()
		j.Say("stage", "after")
		synctest.Wait()
		for _, want := range []string{"[   1.234] stage: before", "\r\x1b[K[   1.234] stage: after"} {
			if got := <-shown; got != want {
				t.Errorf("shown %q, want %q", got, want)
			}
		}
	})
}

func TestAConsoleThatHangsStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New(10, fixedUptime)
		hanging := make(console)
		j.Attach(hanging)
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
		if got := <-hanging; !strings.Contains(got, "lines left out") || !strings.HasSuffix(got, "after") {
			t.Errorf("shown: %q", got)
		}
		close(j.console)
	})
}

func BenchmarkServiceLine(b *testing.B) {
	s := New(1000, fixedUptime).Source("node")
	line := []byte(`time=2026-11-26T01:55:57Z level=INFO msg="message stored" swarm=3 bytes=1024` + "\n")
	b.ReportAllocs()
	for b.Loop() {
		s.Write(line)
	}
}
