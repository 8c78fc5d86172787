package journal

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"hearth/node/wholefile"
)

const (
	// MaxKept is the most bytes of lines that are on disk.
	MaxKept = 32 << 10

	// keepEvery is how long lines gather before they are written: an SD card wears with
	// each write, and what is said in a bad moment is seldom one line.
	keepEvery = 10 * time.Second

	restored = "(above: what was said before this start)"
)

// Keep keeps the newest lines that may outlive a restart (see Say and Source) in the
// file at path, and puts those that are there already, from earlier starts, in front
// of this one's. It writes some seconds after a line was said and when ctx ends, and
// returns then, or with the error of a file that cannot be written. It may be called
// once.
func (j *Journal) Keep(ctx context.Context, path string) error {
	text, err := readStart(path, MaxKept)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var kept []string
	for line := range strings.Lines(string(text)) {
		kept = append(kept, clean(strings.TrimRight(line, "\r\n")))
	}
	j.mu.Lock()
	if len(kept) > 0 {
		kept = append(kept, restored)
		j.restore(kept)
	}
	j.mu.Unlock()
	text = []byte(strings.Join(append(kept, ""), "\n"))
	for ctx.Err() == nil {
		j.mu.Lock()
		_ = j.await(ctx, func() bool { return len(j.keep) > 0 }) // ended: write what there is
		j.mu.Unlock()
		gather := time.NewTimer(keepEvery)
		select {
		case <-gather.C:
		case <-ctx.Done():
		}
		gather.Stop()

		j.mu.Lock()
		said := j.keep
		j.keep = nil
		j.mu.Unlock()
		if len(said) == 0 {
			continue
		}
		text = []byte(newest(string(text) + strings.Join(said, "\n") + "\n"))
		if err := wholefile.Write(path, text); err != nil {
			return err
		}
	}
	return nil
}

// readStart reads the first bytes of a file, all of one that Keep wrote.
func readStart(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// newest cuts whole lines off the start of a text until it is short enough.
func newest(text string) string {
	if len(text) <= MaxKept {
		return text
	}
	text = text[len(text)-MaxKept:]
	return text[strings.IndexByte(text, '\n')+1:]
}

// restore puts lines in front of the ring's, as far as there is room; j.mu is held.
func (j *Journal) restore(lines []string) {
	lines = append(lines, j.lines()...)
	j.ring = append(j.ring[:0], lines[max(0, len(lines)-cap(j.ring)):]...)
	j.next = 0
}

// willKeep notes a line for the disk; j.mu is held. Before there is a disk, or when it
// cannot be written, only the newest wait.
func (j *Journal) willKeep(line string) {
	if j.keep = append(j.keep, line); len(j.keep) > backlog {
		j.keep = j.keep[1:]
	}
	if len(j.keep) == 1 {
		j.changed()
	}
}
