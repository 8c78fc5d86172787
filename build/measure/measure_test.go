package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestEveryEngineKeepsWhatItIsGiven(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			dir := t.TempDir()
			db, err := e.open(dir)
			if err != nil {
				t.Fatal(err)
			}
			g := &group{put: db.put, alone: e.grouped}
			for range 30 {
				m := newMessage()
				m.Owner = owner(7)
				if err := g.store(m); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.close(); err != nil {
				t.Fatal(err)
			}
			if used(dir) < 30*1000 {
				t.Errorf("%d bytes on disk", used(dir))
			}
		})
	}
}

func TestTheDiskCounts(t *testing.T) {
	line, err := measureStore(openHearth, true, 200, 4)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(strings.Fields(line)); n != 10 {
		t.Errorf("%d figures: %s", n, line)
	}
	if os.Geteuid() == 0 && strings.Contains(line, "?") {
		t.Errorf("root gets no disk that counts: %s", line)
	}
	w := written{bytes: 10 << 20, writes: 500, flushes: 1000}
	if got := w.onCard(); got != 5*time.Second {
		t.Errorf("a card takes %v", got)
	}
}

func TestTransportsAnswer(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"transport", "-small", "40", "-large", "4", "-delay", "1ms"}, &out)
	if os.Geteuid() != 0 {
		if err == nil || !strings.Contains(err.Error(), "needs root") {
			t.Errorf("without root: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 3+3*len(transports) {
		t.Errorf("%d lines:\n%s", lines, out.String())
	}
}

func TestNobodyKnowsWhatToMeasure(t *testing.T) {
	if err := run(t.Context(), nil, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "store or transport") {
		t.Errorf("got %v", err)
	}
}
