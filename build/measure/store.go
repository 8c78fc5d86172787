package main

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/blake2b"

	"hearth/node/account"
	"hearth/node/storage"
)

// storeMeasure compares store engines under what a node does: synced writes of
// messages with an index by hash, one by owner and one by expiry.
type storeMeasure struct {
	messages int
	only     []string
}

// engine is a store of messages. put returns when they are on disk.
type engine interface {
	put([]storage.Message) error
	get(owner account.ID, count int) (int, error)
	close() error
}

// engines that are compared. Those that group writes themselves get them one at a
// time; all others by what Hearth does (package storage): whoever finds nobody
// writing leads, and commits for those who wait.
var engines = []struct {
	name    string
	grouped bool // by itself
	open    func(dir string) (engine, error)
}{
	{"pebble, as Hearth uses it", true, openHearth},
	{"pebble", false, openPebble},
	{"badger", false, openBadger},
	{"sqlite, WAL, FULL", false, openSQLite},
}

const (
	owners = 1000
	inBox  = 10 // messages that are read at a time
)

func (m storeMeasure) run(ctx context.Context, out io.Writer) error {
	fmt.Fprintf(out, "%d messages of 1,000 bytes to %d accounts, all synced, on ext4\n", m.messages, owners)
	fmt.Fprintf(out, "%-26s %7s %8s %8s %8s %8s %9s %9s %9s %9s %8s %7s\n", "engine", "writers", "a second", "p50 ms", "p99 ms", "CPU ms", "MB out", "writes", "flushes", "card s", "B/message", "heap MB")
	for _, writers := range []int{1, 8, 32} {
		for _, e := range engines {
			if len(m.only) > 0 && !slices.ContainsFunc(m.only, func(s string) bool { return e.name[:min(len(s), len(e.name))] == s }) {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			messages := m.messages
			if writers == 1 {
				messages /= 5 // each waits for a flush of its own
			}
			line, err := measureStore(e.open, e.grouped, messages, writers)
			if err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			fmt.Fprintf(out, "%-26s %7d %s\n", e.name, writers, line)
		}
	}
	fmt.Fprintf(out, "card s: how long an SD card is busy with 100,000 messages, at %v a flush, %v a write and %d MiB a second\n", cardFlush, cardWrite, cardBytes>>20)
	return nil
}

func measureStore(open func(string) (engine, error), grouped bool, messages, writers int) (line string, err error) {
	d, err := newDisk(4 << 30)
	if err != nil {
		return "", err
	}
	defer d.close()
	dir := filepath.Join(d.dir, "db")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	e, err := open(dir)
	if err != nil {
		return "", err
	}
	syscall.Sync()
	before, known := d.count()
	cpu := processorTime()
	g := &group{put: e.put, alone: grouped}
	took := make([][]time.Duration, writers)
	errs := make([]error, writers)
	var left atomic.Int64
	left.Store(int64(messages))
	began := time.Now()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				start := time.Now()
				if errs[w] = g.store(newMessage()); errs[w] != nil {
					return
				}
				took[w] = append(took[w], time.Since(start))
			}
		})
	}
	all.Wait()
	elapsed := time.Since(began)
	cpu = processorTime() - cpu
	if err := errors.Join(errs...); err != nil {
		return "", errors.Join(err, e.close())
	}
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	read := 0
	for i := range 100 {
		n, err := e.get(owner(i), inBox)
		if err != nil {
			return "", errors.Join(err, e.close())
		}
		read += n
	}
	if want := min(100*inBox, messages/owners*100) / 2; read < want {
		return "", errors.Join(fmt.Errorf("only %d messages are there of 100 accounts", read), e.close())
	}
	if err := e.close(); err != nil {
		return "", err
	}
	syscall.Sync()
	after, _ := d.count()
	size := used(dir)
	flat := slices.Concat(took...)
	slices.Sort(flat)
	w := written{after.bytes - before.bytes, after.writes - before.writes, after.flushes - before.flushes}
	card := "?"
	if known {
		card = fmt.Sprintf("%.0f", w.onCard().Seconds()*100_000/float64(messages))
	}
	return fmt.Sprintf("%8.0f %8.2f %8.2f %8.3f %9.0f %9d %9d %9s %8d %7.0f",
		float64(messages)/elapsed.Seconds(), milli(flat[len(flat)/2]), milli(flat[len(flat)*99/100]), milli(cpu)/float64(messages),
		float64(w.bytes)/1e6, w.writes, w.flushes, card, size/int64(messages), float64(heap.HeapInuse)/1e6), nil
}

func milli(d time.Duration) float64 { return float64(d) / 1e6 }

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func owner(i int) account.ID {
	sum := blake2b.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	id := account.ID{5}
	copy(id[1:], sum[:])
	return id
}

// newMessage is a message of random bytes, as all are that somebody encrypted.
func newMessage() storage.Message {
	data := make([]byte, 1000)
	for i := 0; i < len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], rand.Uint64())
	}
	now := time.Now()
	sum := blake2b.Sum256(data)
	return storage.Message{
		Owner: owner(rand.IntN(owners)), Hash: base64.RawStdEncoding.EncodeToString(sum[:]),
		Timestamp: now.UnixMilli(), Expiry: now.Add(14 * 24 * time.Hour).UnixMilli(), Data: data,
	}
}

// group lets writers that arrive together share a commit.
type group struct {
	put   func([]storage.Message) error
	alone bool

	mu      sync.Mutex
	waiting []*waiter
	writing bool
}

type waiter struct {
	m    storage.Message
	turn chan bool
	err  error
}

func (g *group) store(m storage.Message) error {
	if g.alone {
		return g.put([]storage.Message{m})
	}
	w := &waiter{m: m, turn: make(chan bool, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	leads := !g.writing
	g.writing = true
	g.mu.Unlock()
	if leads || <-w.turn {
		g.lead()
	}
	return w.err
}

func (g *group) lead() {
	g.mu.Lock()
	batch := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	messages := make([]storage.Message, len(batch))
	for i, w := range batch {
		messages[i] = w.m
	}
	err := g.put(messages)
	for _, w := range batch {
		w.err = err
	}
	g.mu.Lock()
	if len(g.waiting) > 0 {
		g.waiting[0].turn <- true
	} else {
		g.writing = false
	}
	g.mu.Unlock()
	for _, w := range batch[1:] {
		w.turn <- false
	}
}
