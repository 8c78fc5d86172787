package devnet

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"hearth/node/api"
)

// separation takes nodes, by number, away from the others, or with none lets all
// of them meet again.
type separation func(away ...int)

// TestAPartitionedLedgerHaltsOrGoesOnAndHeals separates seven nodes 4 to 3, when no
// side may decide on blocks, and 5 to 2, when the five go on.
//
// As root, who may make network namespaces, the nodes live in seven of them, joined
// by a switch that drops what goes from one side to the other without a word: both
// sides run, and each has to see for itself where it stands. Without that right only
// the second way is left: those who are away are stopped, as by a debugger.
func TestAPartitionedLedgerHaltsOrGoesOnAndHeals(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, by := range separations() {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			l, separate := by.start(t)
			l.until("blocks", func(s map[int]*api.NodeStatus) bool { return s[1] != nil && s[1].Ledger.Height > 2 })
			for _, c := range []struct {
				away  []int
				stays bool // the others go on
			}{{[]int{2, 4, 6}, false}, {[]int{3, 7}, true}} {
				others := slices.DeleteFunc([]int{1, 2, 3, 4, 5, 6, 7}, func(k int) bool { return slices.Contains(c.away, k) })
				separate(c.away...)
				from := l.top()
				// What was on its way when they were separated may make a block or two more,
				// for those who were behind.
				still := others
				if by.both {
					still = []int{1, 2, 3, 4, 5, 6, 7}
				}
				if c.stays {
					l.until("the larger side to go on", func(s map[int]*api.NodeStatus) bool {
						for _, k := range others {
							if s[k] == nil || s[k].Ledger.Height < from+4 || s[k].Ledger.Halted {
								return false
							}
						}
						return true
					})
					still = slices.DeleteFunc(slices.Clone(still), func(k int) bool { return slices.Contains(others, k) })
				}
				l.until("who is too few to say so", func(s map[int]*api.NodeStatus) bool {
					for _, k := range still {
						if s[k] == nil || !s[k].Ledger.Halted || s[k].Ledger.Trouble == "" {
							return false
						}
						if s[k].Ledger.Height > from+2 {
							t.Fatalf("node %d has block %d though too few were left at block %d", k, s[k].Ledger.Height, from)
						}
					}
					return true
				})
				separate()
				l.until("all to have the same state again, and blocks to come", func(s map[int]*api.NodeStatus) bool {
					for k := 1; k <= 7; k++ {
						if s[k] == nil || s[k].Ledger.Halted || s[k].Ledger.Height < from+3 || s[k].Ledger.Root != s[1].Ledger.Root {
							return false
						}
					}
					return true
				})
			}
			t.Logf("the states after %d blocks were compared", len(l.roots)) // what differs is ErrFork
		})
	}
}

// top is the height of the node that is furthest. Nodes that do not answer do not
// count.
func (l *onLedger) top() (height int64) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Until(ctx, "a status", func(s map[int]*api.NodeStatus) bool {
		for _, one := range s {
			height = max(height, one.GetLedger().GetHeight())
		}
		return height > 0
	}); err != nil {
		l.t.Fatal(err)
	}
	return height
}

// aWay is one of separating nodes.
type aWay struct {
	name  string
	both  bool // those who are away still run
	start func(t *testing.T) (*onLedger, separation)
}

// separations are the ways that this machine and user can do.
func separations() []aWay {
	list := []aWay{{"by stopping processes", false, startToBeStopped}}
	if mayMakeNamespaces() {
		list = append(list, aWay{"by a switch between network namespaces that drops everything", true, startOnASwitch})
	}
	return list
}

func startApart(t *testing.T, cfg LedgerConfig) *onLedger {
	t.Helper()
	var err error
	if cfg.Program, err = Program(); err != nil {
		t.Fatal(err)
	}
	cfg.Dir, cfg.Nodes, cfg.Pace, cfg.Epoch = t.TempDir(), 7, 50*time.Millisecond, 5*time.Second
	cfg.Unreachable = time.Hour // this is about blocks, not about who is voted out
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, err := StartLedger(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return &onLedger{LedgerNetwork: n, t: t}
}

func startToBeStopped(t *testing.T) (*onLedger, separation) {
	l := startApart(t, LedgerConfig{})
	var stopped []int
	separate := func(away ...int) {
		l.signal(syscall.SIGCONT, stopped...)
		l.signal(syscall.SIGSTOP, away...)
		stopped = away
	}
	t.Cleanup(func() { separate() }) // before the network is closed
	return l, separate
}

func startOnASwitch(t *testing.T) (*onLedger, separation) {
	_, spaces, cut := spacesOnASwitch(t, 7)
	l := startApart(t, LedgerConfig{
		Address: func(k, base int) netip.AddrPort { return netip.AddrPortFrom(spaceOf(k), uint16(base+k)) },
		Spawn:   func(k int, cmd *exec.Cmd) error { return spaces[k].inside(cmd.Start) },
	})
	return l, func(away ...int) {
		side := make([]int, 7)
		for _, k := range away {
			side[k-1] = 1
		}
		if err := cut(side); err != nil {
			t.Fatal(err)
		}
	}
}
