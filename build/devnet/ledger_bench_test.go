package devnet_test

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/node/api"
	"hearth/node/ledger/light"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

// idleTime is how long the nodes are watched. Blocks come once in two minutes when
// nothing happens, so the figures of less are those of a start:
//
//	go test ./build/devnet -run '^$' -bench IdleLedger -idle 10m -timeout 30m
var idleTime = flag.Duration("idle", 5*time.Minute, "how long BenchmarkTheIdleLedger watches")

// BenchmarkTheIdleLedger is what a node costs while nothing happens, with nine of
// them on this machine at the recommended pace and with PID 1's limits: processor,
// memory, bytes written to the disk. And what it costs to prove the list to a
// messenger that begins with an old header, over onion requests: time, and bytes of
// the nodes' answers.
func BenchmarkTheIdleLedger(b *testing.B) {
	ctx := b.Context()
	const nodes = 9
	n, err := devnet.StartLedger(ctx, devnet.LedgerConfig{
		Program: program(b), Dir: b.TempDir(), Nodes: nodes, Pace: 10 * time.Second, Epoch: time.Hour,
		Env: []string{"GOMEMLIMIT=96MiB", "GOGC=50", "GOMAXPROCS=2"},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	if err := n.Until(ctx, "blocks", func(s map[int]*api.NodeStatus) bool { return s[1] != nil && s[1].Ledger.Height > 2 }); err != nil {
		b.Fatal(err)
	}
	first, err := n.Anchor(ctx, 1)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		ticks, written := used(b, n, nodes)
		began := time.Now()
		<-time.After(*idleTime)
		passed := time.Since(began).Seconds()
		moreTicks, moreWritten := used(b, n, nodes)
		rate := float64(moreWritten-written) / passed / nodes
		b.ReportMetric(float64(moreTicks-ticks)/passed/nodes, "%-of-a-core") // a tick is 10 ms
		b.ReportMetric(rate*86400/1e9, "GB-a-day")
	}
	var rss, pss float64
	for k := 1; k <= nodes; k++ {
		rss += memory(b, n.PID(k), "Rss") / nodes
		pss += memory(b, n.PID(k), "Pss") / nodes
	}
	b.ReportMetric(rss, "RSS-MiB")
	b.ReportMetric(pss, "PSS-MiB")

	list, err := n.ListOf(ctx, 1)
	if err != nil {
		b.Fatal(err)
	}
	pool, err := path.NewPool(rand.Reader, time.Now, slog.New(slog.DiscardHandler), path.Saved{}, nil)
	if err == nil {
		err = pool.Replace(list)
	}
	if err != nil {
		b.Fatal(err)
	}
	client := path.NewClient(pool, rand.Reader, new(net.Dialer).DialContext, slog.New(slog.DiscardHandler))
	defer client.Close()
	var bytes atomic.Int64
	p := light.NewProver(first.Chain, first.Trust, func(ctx context.Context, to swarm.Node, request []byte) ([]byte, error) {
		reply, err := client.Ask(ctx, to, request)
		bytes.Add(int64(len(reply.Body)))
		return reply.Body, err
	})
	began := time.Now()
	if _, err := p.Prove(ctx, list.Nodes); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-to-prove")
	b.ReportMetric(float64(bytes.Load())/1e3, "kB-of-proof")
}

// used are the processor time of all nodes, in ticks, and the bytes that they had
// written to the disk.
func used(b *testing.B, n *devnet.LedgerNetwork, nodes int) (ticks, written int64) {
	b.Helper()
	for k := 1; k <= nodes; k++ {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.PID(k)))
		if err != nil {
			b.Fatal(err)
		}
		var user, system int64
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
			b.Fatal(err)
		}
		ticks += user + system
		io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", n.PID(k)))
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(io)) {
			var bytes int64
			if _, err := fmt.Sscanf(line, "write_bytes: %d", &bytes); err == nil {
				written += bytes
			}
		}
	}
	return ticks, written
}

// memory is a figure of a process's memory in MiB.
func memory(b *testing.B, pid int, name string) float64 {
	b.Helper()
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(rollup)) {
		var kib float64
		if _, err := fmt.Sscanf(line, name+": %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	b.Fatalf("no %s of process %d", name, pid)
	return 0
}
