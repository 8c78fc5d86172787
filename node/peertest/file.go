package peertest

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"hearth/node/wholefile"
)

// What is kept over a restart: since when each node answers or does not. Without
// that, a node that is away would get another hour with every restart of those who
// test it.

const (
	maxFile   = 8 << 20
	saveEvery = 10 * time.Minute // changes are few, and the disk may be an SD card
)

type kept struct {
	Node     string       `json:"node"`
	Since    int64        `json:"since,omitempty"` // ms, as the others
	Passed   int64        `json:"passed,omitempty"`
	Failed   int64        `json:"failed,omitempty"`
	Failures int          `json:"failures,omitempty"`
	Trouble  string       `json:"trouble,omitempty"`
	Storage  StorageTests `json:"storage,omitzero"`
}

func (t *Tester) load() error {
	f, err := os.Open(t.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return err
	}
	var all []kept
	if err := json.Unmarshal(b, &all); err != nil {
		return fmt.Errorf("%s: %w", t.cfg.File, err)
	}
	now := t.cfg.Now()
	moment := func(ms int64) time.Time {
		if at := time.UnixMilli(ms); ms > 0 && !at.After(now) {
			return at
		}
		return time.Time{} // never, or the clock was wrong
	}
	for _, k := range all[:min(len(all), maxNodes)] {
		key, err := hex.DecodeString(k.Node)
		if err != nil || len(key) != 32 {
			return fmt.Errorf("%s: a node key of %d characters", t.cfg.File, len(k.Node))
		}
		s := &state{Reach: Reach{
			Node: [32]byte(key), Since: moment(k.Since), Passed: moment(k.Passed), Failed: moment(k.Failed),
			Failures: max(k.Failures, 0), Trouble: k.Trouble, Storage: k.Storage,
		}}
		if s.Failures > 0 && (s.Since.IsZero() || s.Failed.IsZero()) {
			s.Failures, s.Trouble = 0, ""
		}
		t.nodes[s.Node] = s
	}
	return nil
}

// save keeps the results.
func (t *Tester) save() {
	all := []kept{}
	ms := func(at time.Time) int64 {
		if at.IsZero() {
			return 0
		}
		return at.UnixMilli()
	}
	for _, r := range t.All() {
		all = append(all, kept{hex.EncodeToString(r.Node[:]), ms(r.Since), ms(r.Passed), ms(r.Failed), r.Failures, r.Trouble, r.Storage})
	}
	t.mu.Lock()
	t.unsaved, t.saved = false, t.cfg.Now()
	t.mu.Unlock()
	if t.cfg.File == "" {
		return
	}
	b, err := json.Marshal(all)
	if err == nil {
		err = wholefile.Write(t.cfg.File, b)
	}
	if err != nil {
		t.cfg.Log.Warn("keeping the results of tests", "error", err)
	}
}

func (t *Tester) saveSometimes() {
	t.mu.Lock()
	due := t.unsaved && t.cfg.Now().Sub(t.saved) >= saveEvery
	t.mu.Unlock()
	if due {
		t.save()
	}
}
