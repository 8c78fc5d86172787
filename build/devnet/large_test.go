package devnet_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/archive"
)

// BenchmarkTheProcessWith100000Messages is what the real messenger takes of a
// machine's memory when its database has 100,000 messages: after its start, and after
// somebody has looked through all of them. file-MiB are pages of the database that the
// kernel has at hand and takes back when it needs room; own-MiB are the process's own.
func BenchmarkTheProcessWith100000Messages(b *testing.B) {
	const count, batch = 100_000, 2_000
	ctx := b.Context()
	n := messengerNetwork(b)
	v := newVictim(b, "alice", program(b), []string{"-seed", n.SeedURL(), "-seed-pin", fmt.Sprintf("%x", n.Pin())}, 1)
	seed := account.Seed{1}
	own, friend := account.New(seed), account.New(account.Seed{2}).ID()
	l := v.start()
	if _, err := l.client.Restore(ctx, &api.RestoreRequest{Pin: v.pin, Phrase: seed.Phrase()}, grpc.WaitForReady(true)); err != nil {
		b.Fatal(err)
	}
	l.leave(b)
	a, err := archive.Open(filepath.Join(v.dir, "messenger.db"), own, rand.Reader, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := a.AddContact(friend, "Bob"); err != nil {
		b.Fatal(err)
	}
	from := time.Now().Add(-count * time.Second).UnixMilli()
	for i := 0; i < count; i += batch {
		var items []archive.Incoming
		for k := i; k < i+batch; k++ {
			sent, hash := from+int64(k)*1000, fmt.Sprintf("%043d", k)
			items = append(items, archive.Incoming{Hash: hash, With: friend, Sent: sent, Message: &archive.Message{With: friend, Hash: hash, Timestamp: sent,
				Text: fmt.Sprintf("Message %d says that the weather is about what it was the day before, more or less.", k)}})
		}
		if _, err := a.Receive(archive.Place{}, items[batch-1].Hash, items); err != nil {
			b.Fatal(err)
		}
	}
	if err := a.Close(); err != nil {
		b.Fatal(err)
	}

	l = v.start()
	if err := v.open(ctx, l); err != nil {
		b.Fatal(err)
	}
	settled(ctx, b, l)
	measure := func(after string) {
		rss, file := resident(b, l.cmd.Process.Pid)
		b.ReportMetric(rss-file, after+"-own-MiB")
		b.ReportMetric(file, after+"-file-MiB")
	}
	for b.Loop() {
		began := time.Now()
		if reply, err := l.client.Messages(ctx, &api.MessagesRequest{With: "Bob"}); err != nil || len(reply.Messages) != 50 {
			b.Fatal(reply, err)
		}
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "first-screen-ms")
		measure("started")
		if _, err := l.client.Search(ctx, &api.SearchRequest{Text: "no such words"}); err != nil {
			b.Fatal(err)
		}
		measure("searched")
	}
	l.leave(b)
}

// resident reads how much memory a process has, in MiB, and how much of that is of
// files.
func resident(t testing.TB, pid int) (all, file float64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		kib, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 64)
		switch name {
		case "VmRSS":
			all = kib / 1024
		case "RssFile", "RssShmem":
			file += kib / 1024
		}
	}
	return all, file
}
