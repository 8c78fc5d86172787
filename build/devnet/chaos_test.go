package devnet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"hearth/node/rpc"
	"hearth/node/swarm"
)

// chaosTime is how long members are killed, and how long a swarm is cut apart
// again and again, in an ordinary run. Some minutes find more:
//
//	go test ./build/devnet -run Chaos -v -timeout 30m -chaos 5m
var chaosTime = flag.Duration("chaos", 4*time.Second, "how long each of the chaos tests makes trouble")

// Program is the hearth command, compiled once for all tests.
var Program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hearth-chaos")
	if err != nil {
		return "", err
	}
	programDir = dir
	return BuildProgram(context.Background(), dir)
})

var programDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if programDir != "" {
		os.RemoveAll(programDir)
	}
	os.Exit(code)
}

// oneSwarm keeps a handful of nodes in one swarm.
var oneSwarm = swarm.Rules{MinSize: 1, IdealMargin: 9, NewSize: 9, FillPercentile: 25, StealPercentile: 75}

// chaos is a swarm of processes, people who store and delete, and what they were
// told is done.
type chaos struct {
	t       *testing.T
	network *Processes
	http    []*http.Client // one for each node
	people  []person

	mu       sync.Mutex
	stored   map[string]person // by hash; a member has said that it stored it
	deleted  map[string]bool   // by hash; a member has said that it is gone
	unsure   map[string]bool   // nobody has answered a delete
	partly   int               // answers in which a member was missing
	silences int               // requests without an answer
}

// startChaos starts a swarm. dial is how people reach a node, nil on loopback.
func startChaos(t *testing.T, cfg ProcessConfig, dial func(k int) func(ctx context.Context, network, addr string) (net.Conn, error)) *chaos {
	t.Helper()
	cfg.Dir, cfg.Rules = t.TempDir(), oneSwarm
	cfg.Every, cfg.Away = time.Second, time.Hour // whoever comes back is still a member
	var err error
	if cfg.Program, err = Program(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := &chaos{t: t, stored: make(map[string]person), deleted: make(map[string]bool), unsure: make(map[string]bool)}
	if c.network, err = StartProcesses(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.network.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	for k := 1; k <= cfg.Nodes; k++ {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		if dial != nil {
			transport.DialContext = dial(k)
		}
		t.Cleanup(transport.CloseIdleConnections)
		c.http = append(c.http, &http.Client{Transport: transport, Timeout: 15 * time.Second})
	}
	for range 8 {
		c.people = append(c.people, newPerson(t))
	}
	return c
}

// send asks node k directly.
func (c *chaos) send(ctx context.Context, k int, method string, params map[string]any) (answer map[string]any, err error) {
	body, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.network.Address(k).String()+"/storage_rpc/v1", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http[k-1].Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("node %d says %d %s", k, resp.StatusCode, text)
	}
	return answer, json.Unmarshal(text, &answer)
}

// carriedOut reports whether any member has signed that it did what it was asked.
func carriedOut(answer map[string]any) bool {
	members, _ := answer["swarm"].(map[string]any)
	for _, m := range members {
		if element, _ := m.(map[string]any); element["signature"] != nil {
			return true
		}
	}
	return false
}

// missing reports whether a member did not.
func missing(answer map[string]any) bool {
	members, _ := answer["swarm"].(map[string]any)
	for _, m := range members {
		if element, _ := m.(map[string]any); element["failed"] == true {
			return true
		}
	}
	return false
}

// write stores messages at members at random, and deletes some of them, until
// ctx ends.
func (c *chaos) write(ctx context.Context, writer int) {
	for i := 0; ctx.Err() == nil; i++ {
		p := c.people[rand.IntN(len(c.people))]
		text := fmt.Sprintf("message %d of writer %d", i, writer)
		hash := rpc.MessageHash(p.id, 0, []byte(text))
		answer, err := c.send(ctx, 1+rand.IntN(len(c.http)), "store", storeFor(p, text))
		if err != nil || !carriedOut(answer) {
			c.note(func() { c.silences++ })
			// Most likely nobody listens there.
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		c.note(func() {
			c.stored[hash] = p
			if missing(answer) {
				c.partly++
			}
		})
		if i%8 != 3 {
			continue
		}
		hashes := []string{hash}
		answer, err = c.send(ctx, 1+rand.IntN(len(c.http)), "delete", map[string]any{
			"pubkey": p.id.String(), "pubkey_ed25519": fmt.Sprintf("%x", p.keys.Ed25519()), "messages": hashes,
			"signature": base64.StdEncoding.EncodeToString(p.keys.Sign(rpc.DeleteText(hashes))),
		})
		c.note(func() {
			if err == nil && carriedOut(answer) {
				c.deleted[hash] = true
			} else {
				c.unsure[hash] = true
			}
		})
	}
}

func (c *chaos) note(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
}

// holds lists what node k has, by hash: the message and its expiry.
func (c *chaos) holds(k int) (map[string]string, error) {
	all := make(map[string]string)
	for _, p := range c.people {
		for last := ""; ; {
			params := withMore(retrieveOf(p))
			params["last_hash"] = last
			answer, err := c.send(c.t.Context(), k, "retrieve", params)
			if err != nil {
				return nil, err
			}
			messages, _ := answer["messages"].([]any)
			for _, m := range messages {
				m := m.(map[string]any)
				last = m["hash"].(string)
				all[last] = fmt.Sprint(m["data"], m["timestamp"], m["expiration"])
			}
			if answer["more"] != true || len(messages) == 0 {
				break
			}
		}
	}
	return all, nil
}

// during makes trouble while people write, for as long as the flag says.
func (c *chaos) during(writers int, trouble func(until time.Time)) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() { c.write(ctx, w) })
	}
	c.pass(time.Second) // all is well at first, and in the end
	trouble(time.Now().Add(*chaosTime))
	c.pass(time.Second)
	cancel()
	all.Wait()
}

// settle waits until all members hold the same, and compares that with what
// people were told.
func (c *chaos) settle() {
	c.t.Helper()
	began := time.Now()
	var held map[string]string
	await(c.t, "all members hold the same", 3*time.Minute, func() bool {
		for k := range c.http {
			now, err := c.holds(k + 1)
			if err != nil {
				return false
			}
			if k > 0 && !mapsEqual(now, held) {
				return false
			}
			held = now
		}
		return true
	})
	lost, back := 0, 0
	for hash := range c.stored {
		_, there := held[hash]
		switch {
		case c.deleted[hash] && there:
			back++
		case !c.deleted[hash] && !c.unsure[hash] && !there:
			lost++
		}
	}
	c.t.Logf("%d messages acknowledged (%d of them not by all members), %d deleted, %d requests without answer; %d members equal with %d messages each, %.1f s after the last trouble; %d lost, %d came back",
		len(c.stored), c.partly, len(c.deleted), c.silences, len(c.http), len(held), time.Since(began).Seconds(), lost, back)
	if lost > 0 || back > 0 {
		c.t.Errorf("%d acknowledged messages are lost, %d deleted ones came back", lost, back)
	}
	if len(c.stored) < 20 || len(c.deleted) == 0 || c.partly == 0 {
		c.t.Errorf("%d messages stored, %d not everywhere, and %d deleted: that says nothing", len(c.stored), c.partly, len(c.deleted))
	}
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// TestChaosKilledMembersLoseNothing kills members at random, without notice, and
// starts them again, one, two or all of them at a time.
func TestChaosKilledMembersLoseNothing(t *testing.T) {
	t.Parallel()
	c := startChaos(t, ProcessConfig{Nodes: 3}, nil)
	kills := 0
	c.during(6, func(until time.Time) {
		for time.Now().Before(until) {
			victims := rand.Perm(3)[:1+rand.IntN(8)/5+rand.IntN(8)/7]
			for _, k := range victims {
				kills++
				if err := c.network.Kill(k + 1); err != nil {
					t.Error(err)
				}
			}
			c.pass(time.Duration(rand.IntN(1500)) * time.Millisecond)
			for _, k := range victims {
				if err := c.network.Launch(k + 1); err != nil {
					t.Error(err)
				}
			}
			c.pass(time.Duration(rand.IntN(1500)) * time.Millisecond)
		}
	})
	t.Logf("%d kills", kills)
	c.settle()
}

// pass lets time pass: processes live in real time.
func (c *chaos) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.t.Context().Done():
	}
}

// cutter takes a swarm apart: nodes with different numbers cannot reach each
// other. All zero is whole.
type cutter func(side []int) error

// TestChaosPartitionedSwarmHeals cuts a swarm apart again and again while people
// on all sides store and delete.
func TestChaosPartitionedSwarmHeals(t *testing.T) {
	t.Parallel()
	for _, by := range partitions() {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			const nodes = 4
			c, cut := by.start(t, nodes)
			whole := make([]int, nodes)
			cuts := 0
			// Whoever asks a node on the smaller side waits for those on the other.
			c.during(32, func(until time.Time) {
				for time.Now().Before(until) {
					side := make([]int, nodes)
					for i := range side {
						side[i] = rand.IntN(2)
					}
					side[rand.IntN(nodes)] = 2 // one is always alone
					long := time.Second + rand.N(12*time.Second)
					if cuts++; cuts == 1 {
						long = 7 * time.Second // longer than a node waits for another
					}
					if err := cut(side); err != nil {
						t.Error(err)
					}
					c.pass(long)
					if err := cut(whole); err != nil {
						t.Error(err)
					}
					c.pass(time.Duration(rand.IntN(2000)) * time.Millisecond)
				}
			})
			t.Logf("%d cuts", cuts)
			c.settle()
		})
	}
}

type partition struct {
	name  string
	start func(t *testing.T, nodes int) (*chaos, cutter)
}

// partitions are the ways of cutting that this machine and user can do.
func partitions() []partition {
	list := []partition{{"by connections that are refused and broken", startBehindProxies}}
	if mayMakeNamespaces() {
		list = append(list, partition{"by a switch between network namespaces that drops everything", startInNamespaces})
	}
	return list
}

// proxies stand between every two nodes: what node k sends to node j goes to an
// address of k's own, where this program passes it on, or does not.
type proxies struct {
	mu    sync.Mutex
	side  []int
	conns map[net.Conn][2]int
}

func startBehindProxies(t *testing.T, nodes int) (*chaos, cutter) {
	p := &proxies{side: make([]int, nodes), conns: make(map[net.Conn][2]int)}
	c := startChaos(t, ProcessConfig{
		Nodes: nodes,
		Args: func(k int) []string {
			// The seed is on 127.0.0.1, all others are reached through the proxy.
			return []string{"-gateway", fmt.Sprintf("127.0.0.0/24=127.0.0.1,127.0.0.0/8=127.%d.0.1", 100+k)}
		},
		Seed: func(base int) (net.Listener, string, error) {
			// The base is known here and no node runs yet.
			for from := 1; from <= nodes; from++ {
				for to := 1; to <= nodes; to++ {
					l, err := net.Listen("tcp", fmt.Sprintf("127.%d.0.1:%d", 100+from, base+to))
					if err != nil {
						return nil, "", err
					}
					t.Cleanup(func() { l.Close() })
					go p.serve(l, from-1, to-1, fmt.Sprintf("127.0.%d.1:%d", to, base+to))
				}
			}
			at := net.JoinHostPort("127.0.0.1", strconv.Itoa(base))
			l, err := net.Listen("tcp", at)
			return l, at, err
		},
	}, nil)
	return c, p.cut
}

func (p *proxies) serve(l net.Listener, from, to int, at string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			p.mu.Lock()
			open := p.side[from] == p.side[to]
			if open {
				p.conns[conn] = [2]int{from, to}
			}
			p.mu.Unlock()
			if !open {
				return
			}
			defer func() {
				p.mu.Lock()
				delete(p.conns, conn)
				p.mu.Unlock()
			}()
			far, err := net.Dial("tcp", at)
			if err != nil {
				return
			}
			defer far.Close()
			go func() {
				io.Copy(far, conn)
				far.Close()
			}()
			io.Copy(conn, far)
		}()
	}
}

func (p *proxies) cut(side []int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.side = slices.Clone(side)
	var errs []error
	for conn, ends := range p.conns {
		if side[ends[0]] != side[ends[1]] {
			errs = append(errs, conn.Close())
		}
	}
	return errors.Join(errs...)
}
