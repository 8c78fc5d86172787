package relay

import (
	"context"
	"encoding/hex"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"hearth/node/rpc"
	"hearth/node/swarm"
)

// free waits until a single place is free, for which nobody else waits.
func free(s *semaphore.Weighted) {
	for !s.TryAcquire(1) {
		runtime.Gosched()
	}
	s.Release(1)
}

// slowNetwork has a node 0 with one place for work and one for waiting, behind which
// nobody answers before the context of a request ends. asked tells of each request.
func slowNetwork(t *testing.T) (net *network, asked chan struct{}) {
	asked = make(chan struct{}, 10)
	return network3(t, func(k int, c *Config) {
		c.Limits.Jobs, c.Limits.Waiting, c.Limits.Patience = 1, 1, time.Millisecond
		c.Peers = peersFunc(func(ctx context.Context, _ swarm.Node, _ string, _ [][]byte) ([][]byte, error) {
			asked <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		})
	}), asked
}

func TestRequestsThatWaitDoNotShutOutShortOnes(t *testing.T) {
	net, asked := slowNetwork(t)
	server := net.nodes[0].server
	slow := net.build(net.hops(0, 1), net.nodes[2].hop(), info)
	var first sync.WaitGroup
	first.Go(func() {
		if got := net.post(0, slow.Body); got.status != 503 || got.body != "Snode not ready: "+hexOf(net.nodes[0]) {
			t.Errorf("the one that waited, at the end: %v", got)
		}
	})
	<-asked
	free(server.jobs) // the first gives its place up for one among those that wait
	for range 3 {
		if got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info)); got.status != 200 {
			t.Errorf("a short request: %v", got)
		}
		if got := net.post(0, slow.Body); got.status != 503 || got.body != "Server busy, try again later" {
			t.Errorf("one more that waits than allowed: %v", got)
		}
	}
	if err := server.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	first.Wait()
	if !server.jobs.TryAcquire(1) || !server.waits.TryAcquire(1) {
		t.Error("places were not given back")
	}
}

func hexOf(n *node) string { k := n.keys.Ed25519(); return hex.EncodeToString(k[:]) }

func TestOnlyRequestsInOnionsMayWait(t *testing.T) {
	answer := func(ctx context.Context, body []byte) rpc.Response {
		return rpc.Response{Status: 200, Body: map[string]any{"waits": rpc.MayWait(ctx)}}
	}
	net := network3(t, func(k int, c *Config) { c.Storage = storageFunc(answer) })
	if got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(info)); got.body != `{"waits":false}` {
		t.Errorf("over HTTPS: %v", got)
	}
	req := net.build(net.hops(0, 1), net.nodes[2].hop(), info)
	if _, body, err := req.OpenReply([]byte(net.post(0, req.Body).body)); err != nil || !strings.Contains(string(body), `{"waits":true}`) {
		t.Errorf("in an onion: %q, %v", body, err)
	}
}

func TestSlots(t *testing.T) {
	working, waiting := semaphore.NewWeighted(2), semaphore.NewWeighted(1)
	a, b := takeSlot(working, waiting), takeSlot(working, waiting)
	if takeSlot(working, waiting) != nil {
		t.Error("a third place of two")
	}
	if !a.park() || !a.park() {
		t.Error("no place to wait for the first")
	}
	if b.park() {
		t.Error("a second place to wait of one")
	}
	c := takeSlot(working, waiting)
	if c == nil {
		t.Fatal("the one who waits still holds a place")
	}
	a.release()
	if !a.park() { // late, when the job is over
		t.Error("refused after the end")
	}
	b.release()
	c.release()
	if !working.TryAcquire(2) || !waiting.TryAcquire(1) {
		t.Error("places were not given back")
	}
}
