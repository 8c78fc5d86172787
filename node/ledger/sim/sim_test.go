package sim

import (
	"bytes"
	"image/png"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func run(t *testing.T, cfg Config) *Report {
	t.Helper()
	r, err := Run(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestANetworkOfHomesKeepsItsMessages(t *testing.T) {
	cfg := Usual(120, 8)
	cfg.Drops, cfg.Joins, cfg.Seed = 2, 0.2, 7
	r := run(t, cfg)
	if r.LeastKept() < 1 {
		t.Errorf("at some time only %.4f of the messages could be had", r.LeastKept())
	}
	if r.ShortDrops < 20 || r.ShortDemoted != 0 {
		t.Errorf("%d of %d outages of an hour and less cost a node its service", r.ShortDemoted, r.ShortDrops)
	}
	if r.Honest.Undeserved != 0 || r.Liar.Demoted != 0 {
		t.Errorf("a tenth of liars took honest nodes out of service %d times", r.Honest.Undeserved)
	}
	if r.Honest.Demoted == 0 || r.Honest.Returned == 0 {
		t.Errorf("%d nodes went out of service and %d came back: the test shows nothing", r.Honest.Demoted, r.Honest.Returned)
	}
	if r.Joined == 0 || r.Lists < 2 || r.Blocks < 8*30 || r.Halted != 0 {
		t.Errorf("%d joined, %d lists, %d blocks, %v of halts", r.Joined, r.Lists, r.Blocks, r.Halted)
	}
	if r.Honest.Nodes+r.Liar.Nodes != 120+r.Joined || r.Liar.Nodes != 12 || r.Honest.Earned == 0 {
		t.Errorf("%d honest nodes, %d liars, %d earned", r.Honest.Nodes, r.Liar.Nodes, r.Honest.Earned)
	}
	for _, s := range r.Samples {
		if s.Smallest < int(cfg.Params.SwarmMin) || s.Online > s.Active+s.Out {
			t.Errorf("%+v", s)
		}
	}
}

func TestTheSameSeedGivesTheSameReport(t *testing.T) {
	cfg := Usual(60, 3)
	cfg.Drops = 6
	one, two := run(t, cfg), run(t, cfg)
	if !reflect.DeepEqual(one, two) {
		t.Error("two runs with one seed differ")
	}
	cfg.Seed++
	if other := run(t, cfg); reflect.DeepEqual(one.Samples, other.Samples) {
		t.Error("two seeds give the same run")
	}
}

func TestWhatTheSimulationMeasuresCanGoWrong(t *testing.T) {
	t.Run("three quarters of liars throw honest nodes out", func(t *testing.T) {
		cfg := Usual(60, 6)
		cfg.Lying = 0.75
		if r := run(t, cfg); r.Honest.Undeserved == 0 || r.Liar.Removed > 0 {
			t.Errorf("honest %+v, liars %+v", r.Honest, r.Liar)
		}
	})
	t.Run("a power cut in half of the country halts the ledger and hides messages", func(t *testing.T) {
		cfg := Usual(60, 3)
		cfg.Drops, cfg.Shortest, cfg.Longest, cfg.Lying = 40, 2*time.Hour, 3*time.Hour, 0
		if r := run(t, cfg); r.Halted == 0 || r.LeastKept() == 1 {
			t.Errorf("halted for %v, at least %.3f of the messages", r.Halted, r.LeastKept())
		}
	})
}

func TestTheReportIsPrintedAndDrawn(t *testing.T) {
	r := run(t, Usual(30, 2))
	var text, picture bytes.Buffer
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"30 nodes, 2 hours, seed 1", "messages had", "honest", "liars", "path wholly bad", "committee halted"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
	if err := r.Picture(&picture); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(&picture)
	if err != nil {
		t.Fatal(err)
	}
	drawn := make(map[any]int)
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			drawn[img.At(x, y)]++
		}
	}
	for _, c := range palette[:4] {
		if drawn[c] < 100 {
			t.Errorf("of one colour there are %d points", drawn[c])
		}
	}
}

func TestChancesOfAnAttacker(t *testing.T) {
	near := func(got, want float64) bool { return math.Abs(got-want) <= want*0.02 }
	for _, c := range []struct {
		name            string
		all, bad, drawn int
		least           int
		want            float64
	}{
		{name: "three of three", all: 10, bad: 5, drawn: 3, least: 3, want: 10.0 / 120},
		{name: "one of one", all: 4, bad: 1, drawn: 1, least: 1, want: 0.25},
		{name: "at least none", all: 4, bad: 1, drawn: 2, least: 0, want: 1},
		{name: "more than there are", all: 10, bad: 2, drawn: 3, least: 3, want: 0},
		{name: "all are drawn", all: 10, bad: 4, drawn: 10, least: 4, want: 1},
		{name: "a third of a committee of 100 from 1,000 with 20 % bad", all: 1000, bad: 200, drawn: 100, least: 34, want: 3.7e-4},
		{name: "the same with 15 %", all: 1000, bad: 150, drawn: 100, least: 34, want: 3.7e-7},
	} {
		if got := atLeast(c.all, c.bad, c.drawn, c.least); !near(got, c.want) {
			t.Errorf("%s: %g, want %g", c.name, got, c.want)
		}
	}
}

func BenchmarkADayOfAThousandNodes(b *testing.B) {
	for b.Loop() {
		r, err := Run(Usual(1000, 24))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(r.Blocks), "blocks")
	}
}
