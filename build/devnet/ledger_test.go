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
	file, err := program()
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
	// Members that hear of a new swarm at different times compare again about a
	// minute later.
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

// members are the numbers of the running nodes that keep somebody's messages, as
// one of the nodes has it.
func (l *onLedger) members(at int, p person) (numbers []int) {
	l.t.Helper()
	list, err := l.ListOf(l.t.Context(), at)
	if err != nil {
		l.t.Fatal(err)
	}
	_, nodes := list.Of(p.id)
	for _, n := range nodes {
		if k := l.Number(n.Address); l.PID(k) != 0 {
			numbers = append(numbers, k)
		}
	}
	if len(numbers) == 0 {
		l.t.Fatalf("nobody keeps the messages of %x", p.id)
	}
	return numbers
}

// write stores a message at the first member of the person's swarm.
func (l *onLedger) write(at int, p person, text string) {
	l.t.Helper()
	if _, err := l.ask(l.members(at, p)[0], "store", storeFor(p, text)); err != nil {
		l.t.Fatalf("storing: %v", err)
	}
}

// reads waits until a node gives the message.
func (l *onLedger) reads(k int, p person, text string) {
	l.t.Helper()
	l.until(fmt.Sprintf("node %d to have the message", k), func(map[int]*api.NodeStatus) bool {
		answer, err := l.ask(k, "retrieve", retrieveOf(p))
		return err == nil && slices.Contains(textsOf(answer), text)
	})
}

func TestSevenProcessesOnALedger(t *testing.T) {
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
		for i, p := range people {
			text := fmt.Sprint("first ", i)
			l.write(1, p, text)
			for _, k := range l.members(1, p) {
				l.reads(k, p, text)
			}
		}
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
		l.until("all to be in swarms without it", func(s map[int]*api.NodeStatus) bool {
			list, err := l.ListOf(t.Context(), 2)
			if err != nil {
				return false
			}
			gone, ok := list.Find(l.Keys(7).Ed25519())
			return ok && gone.Swarm == swarm.None
		})
		for i, p := range people {
			l.write(1, p, fmt.Sprint("second ", i))
		}
		if err := l.Launch(7); err != nil {
			t.Fatal(err)
		}
		l.until("node 7 to be back in service", func(s map[int]*api.NodeStatus) bool {
			return s[7] != nil && s[7].Ready && s[7].Ledger.Standing == ledger.Active.String() && s[1] != nil && s[1].Ledger.Active == 7
		})
		for i, p := range people {
			for _, k := range l.members(7, p) {
				l.reads(k, p, fmt.Sprint("first ", i))
				l.reads(k, p, fmt.Sprint("second ", i))
			}
		}
	})

	t.Run("three are killed: blocks stop, messages do not", func(t *testing.T) {
		l := l.in(t)
		for _, k := range []int{5, 6, 7} {
			if err := l.Kill(k); err != nil {
				t.Fatal(err)
			}
		}
		l.until("all others to say that the ledger stands still", func(s map[int]*api.NodeStatus) bool {
			for k := 1; k <= 4; k++ {
				if s[k] == nil || !s[k].Ledger.Halted || s[k].Ledger.Trouble == "" || s[k].Trouble == "" || !s[k].Ready {
					return false
				}
			}
			return true
		})
		before := l.heights(4)
		for i, p := range people {
			text := fmt.Sprint("third ", i)
			l.write(1, p, text)
			for _, k := range l.members(1, p) {
				l.reads(k, p, text)
			}
		}
		if after := l.heights(4); !slices.Equal(before, after) {
			t.Errorf("blocks came though more than a third is away: %v, then %v", before, after)
		}
		for _, k := range []int{5, 6, 7} {
			if err := l.Launch(k); err != nil {
				t.Fatal(err)
			}
		}
		l.until("blocks to come again, and nobody to be in trouble", func(s map[int]*api.NodeStatus) bool {
			for k := 1; k <= 7; k++ {
				if s[k] == nil || s[k].Ledger.Halted || !s[k].Ready {
					return false
				}
			}
			return s[1].Ledger.Height > before[0]+2
		})
		for i, p := range people {
			for _, k := range l.members(1, p) {
				l.reads(k, p, fmt.Sprint("third ", i))
			}
		}
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

// heights are those of the nodes 1 to n.
func (l *onLedger) heights(n int) (all []int64) {
	l.t.Helper()
	for k := 1; k <= n; k++ {
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
