package devnet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"hearth/node/api"
	"hearth/node/ledger"
	"hearth/node/swarm"
)

// onLedger is a network of processes on a ledger, and somebody who uses it.
type onLedger struct {
	*LedgerNetwork
	t    *testing.T
	http *http.Client
}

func startLedger(t *testing.T, nodes, spare int, params func(*ledger.Params)) *onLedger {
	t.Helper()
	file, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	n, err := StartLedger(ctx, LedgerConfig{
		Program: file, Dir: t.TempDir(), Nodes: nodes, Spare: spare,
		Pace: 100 * time.Millisecond, Epoch: 3 * time.Second, Test: 500 * time.Millisecond, Unreachable: 2 * time.Second,
		Params: params,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes with %d in service after %.1f s", nodes+spare, nodes, time.Since(began).Seconds())
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	l := &onLedger{n, t, &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	t.Cleanup(l.http.CloseIdleConnections)
	return l
}

// until waits for what the nodes say.
func (l *onLedger) until(what string, done func(map[int]*api.NodeStatus) bool) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 4*time.Minute)
	defer cancel()
	began := time.Now()
	if err := l.Until(ctx, what, done); err != nil {
		l.t.Fatal(err)
	}
	l.t.Logf("%s after %.1f s", what, time.Since(began).Seconds())
}

// higher waits until a node is some blocks further.
func (l *onLedger) higher(k int, by int64) {
	l.t.Helper()
	from := int64(-1)
	l.until(fmt.Sprintf("node %d %d blocks further", k, by), func(s map[int]*api.NodeStatus) bool {
		if s[k] == nil {
			return false
		}
		if from < 0 {
			from = s[k].Ledger.Height
		}
		return s[k].Ledger.Height >= from+by
	})
}

func (l *onLedger) ask(k int, method string, params map[string]any) (map[string]any, error) {
	body, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		return nil, err
	}
	resp, err := l.http.Post("https://"+l.Address(k).String()+"/storage_rpc/v1", "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("node %d says %d %s, %v", k, resp.StatusCode, text, err)
	}
	var answer map[string]any
	return answer, json.Unmarshal(text, &answer)
}

// agreed is the list that all running nodes have, nil while they have different ones.
func (l *onLedger) agreed() (list *swarm.List) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	for _, k := range l.Running() {
		next, err := l.ListOf(ctx, k)
		if err != nil || list != nil && next.Hash != list.Hash {
			return nil
		}
		list = next
	}
	return list
}

// untilListed waits until all running nodes have the same list, and it is as wanted.
func (l *onLedger) untilListed(what string, is func(*swarm.List) bool) {
	l.t.Helper()
	l.until(what, func(map[int]*api.NodeStatus) bool {
		list := l.agreed()
		return list != nil && is(list)
	})
}

// members are the numbers of the running nodes that keep somebody's messages.
func (l *onLedger) members(list *swarm.List, p person) (numbers []int) {
	_, nodes := list.Of(p.id)
	for _, n := range nodes {
		if k := l.Number(n.Address); l.PID(k) != 0 {
			numbers = append(numbers, k)
		}
	}
	return numbers
}

// write stores a message for everybody, each at one member of their swarm.
func (l *onLedger) write(people []person, what string) {
	l.t.Helper()
	written := 0
	l.untilListed("members to take the "+what+" messages", func(list *swarm.List) bool {
		for ; written < len(people); written++ {
			p := people[written]
			if !slices.ContainsFunc(l.members(list, p), func(k int) bool {
				_, err := l.ask(k, "store", storeFor(p, fmt.Sprint(what, " ", written)))
				return err == nil
			}) {
				return false
			}
		}
		return true
	})
}

// hold waits until all running members of everybody's swarms give what was written.
// Who they are may change meanwhile, and a node that was away goes by the list that it
// knew until it has heard of what came later.
func (l *onLedger) hold(people []person, written ...string) {
	l.t.Helper()
	l.untilListed(fmt.Sprint("all members to have ", written), func(list *swarm.List) bool {
		for i, p := range people {
			members := l.members(list, p)
			for _, k := range members {
				answer, err := l.ask(k, "retrieve", retrieveOf(p))
				if err != nil {
					return false
				}
				texts := textsOf(answer)
				for _, what := range written {
					if !slices.Contains(texts, fmt.Sprint(what, " ", i)) {
						return false
					}
				}
			}
			if len(members) == 0 {
				return false
			}
		}
		return true
	})
}

func TestSevenProcessesOnALedger(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLedger(t, 7, 0, func(p *ledger.Params) {
		p.Slot, p.CreditStart, p.CreditLeast = 1, 3600, 60
	})
	people := make([]person, 6)
	for i := range people {
		people[i] = newPerson(t)
	}

	t.Run("all have the same swarms", func(t *testing.T) {
		l := l.in(t)
		first, err := l.ListOf(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(first.Nodes) != 7 || len(first.Swarms()) != 2 {
			t.Errorf("%d nodes in %d swarms", len(first.Nodes), len(first.Swarms()))
		}
		for k := 2; k <= 7; k++ {
			list, err := l.ListOf(t.Context(), k)
			if err != nil || list.Hash != first.Hash || !slices.Equal(list.Nodes, first.Nodes) {
				t.Errorf("node %d has another list than node 1 (%v)", k, err)
			}
		}
		l.write(people, "first")
		l.hold(people, "first")
	})

	t.Run("one is killed, voted out, and comes back with what it missed", func(t *testing.T) {
		l := l.in(t)
		if err := l.Kill(7); err != nil {
			t.Fatal(err)
		}
		l.higher(1, 4)
		l.until("node 7 to be out of service", func(s map[int]*api.NodeStatus) bool {
			return s[1] != nil && s[1].Ledger.Active == 6
		})
		swarmOf7 := func(list *swarm.List) swarm.ID {
			node, _ := list.Find(l.Keys(7).Ed25519())
			return node.Swarm
		}
		l.untilListed("all to be in swarms without it", func(list *swarm.List) bool { return swarmOf7(list) == swarm.None })
		l.write(people, "second")
		if err := l.Launch(7); err != nil {
			t.Fatal(err)
		}
		l.untilListed("node 7 to be back in service", func(list *swarm.List) bool { return swarmOf7(list) != swarm.None })
		l.hold(people, "first", "second")
	})

	t.Run("three are killed: blocks stop, messages do not", func(t *testing.T) {
		l := l.in(t)
		// One of each swarm stays.
		var stay, leave []int
		l.untilListed("all to be in service", func(list *swarm.List) bool {
			stay, leave = nil, nil
			for _, id := range list.Swarms() {
				for i, m := range list.Members(id) {
					if k := l.Number(m.Address); i == 0 || len(leave) == 3 {
						stay = append(stay, k)
					} else {
						leave = append(leave, k)
					}
				}
			}
			return len(stay)+len(leave) == 7
		})
		for _, k := range leave {
			if err := l.Kill(k); err != nil {
				t.Fatal(err)
			}
		}
		l.until("all others to say that the ledger stands still", func(s map[int]*api.NodeStatus) bool {
			return !slices.ContainsFunc(stay, func(k int) bool {
				return s[k] == nil || !s[k].Ledger.Halted || s[k].Ledger.Trouble == "" || s[k].Trouble == "" || !s[k].Ready
			})
		})
		before := l.heights(stay)
		l.write(people, "third")
		l.hold(people, "third")
		if after := l.heights(stay); !slices.Equal(before, after) {
			t.Errorf("blocks came though more than a third is away: %v, then %v", before, after)
		}
		for _, k := range leave {
			if err := l.Launch(k); err != nil {
				t.Fatal(err)
			}
		}
		l.until("blocks to come again, and nobody to be in trouble", func(s map[int]*api.NodeStatus) bool {
			for k := 1; k <= 7; k++ {
				if s[k] == nil || s[k].Ledger.Halted || !s[k].Ready || s[k].Ledger.Height <= before[0]+2 {
					return false
				}
			}
			return true
		})
		l.hold(people, "first", "second", "third")
	})

	t.Run("two that hang for a while are overtaken, and do not fork the ledger", func(t *testing.T) {
		l := l.in(t)
		l.signal(syscall.SIGSTOP, 1, 2)
		l.higher(3, 2)
		l.signal(syscall.SIGCONT, 1, 2)
		l.until("all to have the same state", func(s map[int]*api.NodeStatus) bool {
			for k := 1; k <= 7; k++ {
				if s[k] == nil || !s[k].Ready || s[k].Ledger.Root != s[1].Ledger.Root || s[k].Ledger.Height != s[1].Ledger.Height {
					return false
				}
			}
			return true
		})
		t.Logf("the states after %d blocks were compared", len(l.roots))
	})
}

func (l *onLedger) in(t *testing.T) *onLedger { return &onLedger{l.LedgerNetwork, t, l.http} }

func (l *onLedger) signal(what syscall.Signal, numbers ...int) {
	l.t.Helper()
	for _, k := range numbers {
		if err := syscall.Kill(l.PID(k), what); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *onLedger) heights(of []int) (all []int64) {
	l.t.Helper()
	for _, k := range of {
		s, err := l.Status(l.t.Context(), k)
		if err != nil {
			l.t.Fatal(err)
		}
		all = append(all, s.Ledger.Height)
	}
	return all
}

func textsOf(answer map[string]any) (texts []string) {
	messages, _ := answer["messages"].([]any)
	for _, m := range messages {
		fields, _ := m.(map[string]any)
		data, _ := fields["data"].(string)
		if text, err := base64.StdEncoding.DecodeString(data); err == nil {
			texts = append(texts, string(text))
		}
	}
	return texts
}
