package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"hearth/node/metrics"
)

// Figures are what a server counts. Nothing in them tells who asked, for what, or
// who was asked next: the kinds, statuses and reasons are those listed here.
type Figures struct {
	Requests *metrics.Counters // of clients and nodes, by kind and status
	Times    *metrics.Times    // of the same until they are answered, by kind
	Refused  *metrics.Counters // by reason
}

// Reasons why something was refused or cut off.
const (
	refusedConnections = "connections" // too many of strangers
	refusedLinks       = "links"       // too many of one node
	refusedHandshake   = "handshake"   // none, a bad one, or a slow one
	refusedRate        = "rate"        // more requests of one address than allowed
	refusedJobs        = "jobs"        // too many requests at a time
	refusedMemory      = "memory"      // too many bytes at a time
	refusedSize        = "size"        // one request too large
	refusedUnfinished  = "unfinished"  // a request that did not come to its end in time
)

var (
	requestKinds = metrics.Label{Name: "kind", Values: []string{
		"ping", "stats", "storage", "onion",
		"link_" + CommandOnion, "link_" + CommandStorage, "link_" + CommandStamped, "link_" + CommandReplica,
		"link_" + CommandFileRequest, "link_" + CommandFiles, "link_" + CommandPing, "link_" + CommandStorageTest, "other",
	}}
	requestCodes = metrics.Label{Name: "code", Values: []string{
		"200", "400", "401", "403", "404", "406", "410", "413", "421", "429", "500", "502", "503", "504", "aborted", "other",
	}}
	refusals = metrics.Label{Name: "why", Values: []string{
		refusedConnections, refusedLinks, refusedHandshake, refusedRate, refusedJobs, refusedMemory, refusedSize, refusedUnfinished, "other",
	}}
)

func newFigures() Figures {
	return Figures{metrics.NewCounters(requestKinds, requestCodes), metrics.NewTimes(requestKinds), metrics.NewCounters(refusals)}
}

// kindOf names a request for the figures.
func kindOf(r *http.Request) string {
	switch r.URL.Path {
	case "/ping_test/v1":
		return "ping"
	case "/get_stats/v1":
		return "stats"
	case "/storage_rpc/v1":
		return "storage"
	case "/onion_req/v2":
		return "onion"
	}
	return "other"
}

// counted counts the requests that h answers.
func (s *Server) counted(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		noted := &noted{ResponseWriter: w, code: "aborted", who: originOf(r), guest: guestOf(r.Context())}
		kind := kindOf(r)
		defer func() {
			s.figures.Requests.Add(kind, noted.code)
			s.figures.Times.Add(kind, time.Since(began))
		}()
		h(noted, r)
	}
}

// noted is a ResponseWriter that remembers the status, and who gets the answer.
type noted struct {
	http.ResponseWriter
	code  string
	who   netip.Prefix
	guest *guest
}

func (n *noted) WriteHeader(status int) {
	n.code = "200"
	if status != http.StatusOK {
		n.code = strconv.Itoa(status)
	}
	n.ResponseWriter.WriteHeader(status)
}

func (n *noted) Write(b []byte) (int, error) {
	if n.code == "aborted" {
		n.code = "200"
	}
	return n.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (n *noted) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// Figures returns what the server counts.
func (s *Server) Figures() Figures { return s.figures }

// Load is how much a server has to do at the moment.
type Load struct {
	Connections, Links int   // open, of clients and of other nodes
	Memory             int64 // bytes of requests and answers held
}

// Load returns how much there is to do.
func (s *Server) Load() Load {
	l := Load{Memory: s.memory.used.Load() + s.linkMemory.used.Load()}
	s.mu.Lock()
	for _, n := range s.links {
		l.Links += n
	}
	s.mu.Unlock()
	s.strangers.mu.Lock()
	l.Connections = int(s.strangers.all)
	s.strangers.mu.Unlock()
	return l
}

// whatFailed says in a word how something with others failed. The errors of the
// network name the addresses of both sides, and what goes on to a node names that
// node: neither belongs into a log, where somebody could lay them side by side.
func whatFailed(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, errBusy):
		return "too much to do"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "time out"
	case errors.Is(err, ErrRefused):
		return "refused"
	case errors.Is(err, ErrUnreachable):
		return "not reachable"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "closed"
	}
	return "other"
}
