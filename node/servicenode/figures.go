package servicenode

import (
	"context"
	"net"
	"runtime"
	runtimemetrics "runtime/metrics"
	"time"

	"hearth/node/metrics"
	"hearth/node/peertest"
	"hearth/node/swarm"
)

// ServeFigures shows the owner how the node does, on a Unix socket: GET /metrics for
// Prometheus and GET /health. It returns when ctx ends, and closes l.
func (n *Node) ServeFigures(ctx context.Context, l net.Listener) error {
	return n.figures().Serve(ctx, l, n.wrong)
}

// wrong lists what keeps the node from its work, or will soon.
func (n *Node) wrong() []string {
	wrong := append(n.NotReady(), n.trouble()...)
	if files := n.files.Stats().Trouble; files != "" {
		wrong = append(wrong, files)
	}
	if reach := n.tests.Health().Trouble; reach != "" {
		wrong = append(wrong, reach)
	}
	return wrong
}

// figures collects what all parts of the node count. The labels are those of
// [relay.Figures] and outcomes of tests: nothing names a client, an account, a
// message, a file, or another node.
func (n *Node) figures() *metrics.Set {
	s := new(metrics.Set)
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	s.Gauge("hearth_ready", "1 when the node serves, else 0", func() float64 { return truth(len(n.NotReady()) == 0) })
	s.Gauge("hearth_start_time_seconds", "when the node started, Unix time", func() float64 { return float64(n.started.UnixMilli()) / 1000 })
	s.Gauge("hearth_known_nodes", "nodes in the node list, this one included", func() float64 {
		if list := n.List(); list != nil {
			return float64(len(list.Nodes))
		}
		return 0
	})
	s.Gauge("hearth_swarm_members", "nodes in the own swarm, this one included", func() float64 {
		list := n.List()
		self, ok := list.Find(n.cfg.Keys.Ed25519())
		if !ok || self.Swarm == swarm.None {
			return 0
		}
		return float64(len(list.Members(self.Swarm)))
	})
	s.Gauge("hearth_list_height", "height of the node list", func() float64 {
		if list := n.List(); list != nil {
			return float64(list.Height)
		}
		return 0
	})

	relayed := n.server.Figures()
	s.Counters("hearth_requests_total", "requests by kind and status", relayed.Requests)
	s.Times("hearth_request_seconds", "time until a request was answered, by kind", relayed.Times)
	s.Counters("hearth_refused_total", "what was refused or cut off, by reason", relayed.Refused)
	s.Counter("hearth_onion_layers_total", "onion layers handled", n.server.Onions)
	s.Counter("hearth_storage_requests_total", "storage requests handled, those in onions and of other nodes too", n.storage.Requests)
	s.Gauge("hearth_client_connections", "open connections of clients", func() float64 { return float64(n.server.Load().Connections) })
	s.Gauge("hearth_links", "open links that other nodes made", func() float64 { return float64(n.server.Load().Links) })
	s.Gauge("hearth_request_bytes", "bytes of requests and answers in memory", func() float64 { return float64(n.server.Load().Memory) })
	s.Gauge("hearth_subscriptions", "requests that wait for a message", func() float64 { return float64(n.Waiting()) })

	s.Gauge("hearth_messages", "messages kept", func() float64 { count, _ := n.db.Stats(); return float64(count) })
	s.Gauge("hearth_message_bytes", "bytes that they count for", func() float64 { _, bytes := n.db.Stats(); return float64(bytes) })
	s.Gauge("hearth_message_bytes_limit", "bytes that they may count for", func() float64 { return float64(n.room.messages) })
	s.Gauge("hearth_files", "files kept", func() float64 { return float64(n.files.Stats().Files) })
	s.Gauge("hearth_file_bytes", "bytes of disk that they take", func() float64 { return float64(n.files.Stats().Bytes) })
	s.Gauge("hearth_file_bytes_limit", "bytes of disk that they may take", func() float64 { return float64(n.files.Stats().Quota) })
	s.Counter("hearth_files_checked_total", "files whose hash was verified in the background", func() uint64 { return n.files.Stats().Checked })
	s.Counter("hearth_files_damaged_total", "files that were found damaged and removed", func() uint64 { return n.files.Stats().Damaged })
	s.Counter("hearth_replica_sent_total", "messages and changes given to members that lacked them", func() uint64 { sent, _ := n.replica.Figures(); return sent })
	s.Counter("hearth_replica_received_total", "messages and changes got from members because they were missing here", func() uint64 { _, received := n.replica.Figures(); return received })

	s.Gauge("hearth_peers_reachable", "other nodes that passed the last test", func() float64 { return float64(n.tests.Health().Reachable) })
	s.Gauge("hearth_peers_failing", "other nodes that failed the last test", func() float64 { return float64(n.tests.Health().Failing) })
	for _, way := range []peertest.Way{peertest.OverHTTPS, peertest.OverLink} {
		s.Gauge("hearth_tested_"+way.String()+"_time_seconds", "when another node tested this one last, Unix time; 0 for never", func() float64 {
			if at := n.tests.Health().Heard[way]; !at.IsZero() {
				return float64(at.UnixMilli()) / 1000
			}
			return 0
		})
	}
	outcome := func(name string, value func(peertest.StorageTests) int) {
		s.Counter("hearth_storage_tests_"+name+"_total", "storage tests of others with that outcome", func() uint64 { return uint64(value(n.tests.Outcomes())) })
	}
	outcome("ok", func(t peertest.StorageTests) int { return t.OK })
	outcome("mismatch", func(t peertest.StorageTests) int { return t.Mismatch })
	outcome("rejected", func(t peertest.StorageTests) int { return t.Rejected })
	outcome("other", func(t peertest.StorageTests) int { return t.Other })

	s.Gauge("go_goroutines", "goroutines of the process", func() float64 { return float64(runtime.NumGoroutine()) })
	s.Gauge("go_memory_bytes", "memory that the Go runtime has from the system", func() float64 {
		sample := []runtimemetrics.Sample{{Name: "/memory/classes/total:bytes"}}
		runtimemetrics.Read(sample)
		return float64(sample[0].Value.Uint64())
	})
	s.Gauge("hearth_time_seconds", "the node's clock, Unix time", func() float64 { return float64(n.cfg.Now().UnixMilli()) / float64(time.Second/time.Millisecond) })
	return s
}
