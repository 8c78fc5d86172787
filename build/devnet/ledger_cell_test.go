package devnet

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hearth/initramfs/cell"
	"hearth/node/api"
	"hearth/node/ledger"
	"hearth/node/ledger/host"
	"hearth/node/ledger/light"
)

// TestTheLedgerLivesInTheNodesCell runs nodes as PID 1 does, each locked into its
// cell (Landlock and seccomp) and within its memory, and lets them do all that a
// ledger does with files and sockets: begin, keep blocks, take snapshots and prune,
// be killed and begin again, join by a snapshot or with the first block, take a stake.
func TestTheLedgerLivesInTheNodesCell(t *testing.T) {
	file, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var join string
	dir := t.TempDir()
	for k := 1; k <= 6; k++ {
		// As on the data partition: what is not there when a cell is entered cannot be
		// reached later either.
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("node-%03d", k), "data"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	n, err := StartLedger(ctx, LedgerConfig{
		Program: file, Dir: dir, Nodes: 4, Spare: 2, Pace: 50 * time.Millisecond, Epoch: 3 * time.Second,
		Env: []string{cell.Variable + "=1", "GOMEMLIMIT=96MiB", "GOGC=50", "GOMAXPROCS=2"},
		Args: func(k int) []string {
			switch k {
			case 5:
				return []string{"-ledger-snapshots", "5", "-join", join}
			case 6: // it thinks that nobody has a snapshot before block 720
				return []string{"-join", join}
			}
			return []string{"-ledger-snapshots", "5"}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	l := &onLedger{n, t, &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	t.Cleanup(l.http.CloseIdleConnections)
	l.higher(1, 6)

	// One is killed and comes back, locked in like before.
	if err := l.Kill(4); err != nil {
		t.Fatal(err)
	}
	l.higher(1, 2)
	if err := l.Launch(4); err != nil {
		t.Fatal(err)
	}
	l.until("node 4 to be back", func(s map[int]*api.NodeStatus) bool {
		return s[4] != nil && s[4].Ready && s[1] != nil && s[4].Ledger.Height >= s[1].Ledger.Height
	})

	// A new one begins with a snapshot, and with a stake.
	anchor, err := l.Anchor(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	join = anchor.String()
	l.higher(1, 6) // the next snapshot, and the two headers that prove it
	began := time.Now()
	for k := 5; k <= 6; k++ {
		if err := l.Launch(k); err != nil {
			t.Fatal(err)
		}
	}
	l.until("the new nodes to follow", func(s map[int]*api.NodeStatus) bool {
		for k := 5; k <= 6; k++ {
			if s[k] == nil || s[1] == nil || s[k].Ledger.Height < s[1].Ledger.Height || s[k].Ledger.Syncing {
				return false
			}
		}
		return true
	})
	for k := 5; k <= 6; k++ {
		owner, closeOwner, err := l.Owner(k)
		if err != nil {
			t.Fatal(err)
		}
		defer closeOwner()
		plan, err := owner.Plan(ctx, &api.PlanRequest{Step: api.PlanRequest_STAKE})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := owner.Do(ctx, &api.DoRequest{Token: plan.Token}); err != nil {
			t.Fatal(err)
		}
	}
	l.until("the new nodes to be in service", func(s map[int]*api.NodeStatus) bool {
		for k := 5; k <= 6; k++ {
			if s[k] == nil || !s[k].Ready || s[k].Ledger.Standing != ledger.Active.String() {
				return false
			}
		}
		return true
	})
	t.Logf("two new nodes are in service %s after their start", host.Span(time.Since(began)))
	first := map[string]any{"endpoint": light.Endpoint, "params": map[string]any{"want": "block", "height": 1}}
	for k, want := range map[int]string{1: "data", 5: "error", 6: "data"} {
		answer, err := l.ask(k, "oxend_request", first)
		if result, _ := answer["result"].(map[string]any); err != nil || result[want] == nil {
			t.Errorf("asked for the first block node %d answers %v, %v: only who began with a snapshot does not have it", k, answer, err)
		}
	}

	for k := 1; k <= 6; k++ {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.PID(k)))
		if err != nil || !strings.Contains(string(status), "\nNoNewPrivs:\t1\n") || !strings.Contains(string(status), "\nSeccomp:\t2\n") {
			t.Errorf("node %d is not locked in: %v\n%s", k, err, status)
		}
		said := l.Said(k)
		for _, refusal := range []string{"operation not permitted", "permission denied", "panic"} {
			if strings.Contains(said, refusal) {
				t.Errorf("node %d was refused something: %s", k, said)
			}
		}
		t.Log(memoryOf(t, k, l.PID(k)))
	}
}

// memoryOf tells what a process has in memory.
func memoryOf(t *testing.T, k, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("node %d:", k)
	for line := range strings.Lines(string(b)) {
		for _, name := range []string{"Rss:", "Pss:", "Private_Dirty:"} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				text += " " + name + " " + strings.TrimSpace(rest)
			}
		}
	}
	return text
}
