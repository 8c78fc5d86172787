package relay

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"hearth/node/attachment"
	"hearth/node/onion"
	"hearth/node/swarm"
)

// Files answers requests for a file server; the service of hearth/node/files is
// the one that does.
type Files interface {
	// Request answers what the last node of a path would post to a web server.
	// from stands for whoever handed it to this node, another node or a client; it
	// is good for nothing but to tell sources apart. mine is false when the request
	// is encrypted to nobody here. No reply to what is mine means that there is too
	// much to do.
	Request(ctx context.Context, from string, post []byte) (reply []byte, mine bool)
	// Peer answers the file service of another node.
	Peer(ctx context.Context, from [32]byte, parts [][]byte) [][]byte
}

// fileRequest answers requests to web servers that are nodes, or that every node
// stands in for. ok is false for all others.
func (s *Server) fileRequest(ctx context.Context, to *onion.Server) (a answer, ok bool) {
	if s.cfg.Files == nil || to.Target != attachment.Target || !to.Allowed() {
		return answer{}, false
	}
	if strings.EqualFold(to.Host, attachment.Host) {
		return s.ownFiles(ctx, to.Post)
	}
	node, ok := s.nodeAt(to.Host, to.Port)
	if !ok {
		return answer{}, false
	}
	if node.Ed25519 == s.cfg.Keys.Ed25519() {
		if a, ok = s.ownFiles(ctx, to.Post); !ok {
			a = text(http.StatusBadRequest, onion.TextInvalidCiphertext)
		}
		return a, true
	}
	ctx, cancel := context.WithTimeout(ctx, s.lim.Hop)
	defer cancel()
	parts, err := s.cfg.Peers.Request(ctx, node, CommandFileRequest, [][]byte{to.Post})
	switch {
	case errors.Is(err, errBusy):
		return busy, true
	case err != nil:
		s.cfg.Log.Debug("file request not passed on", "why", whatFailed(err))
		return text(http.StatusGatewayTimeout, textTimeOut), true
	case len(parts) != 2:
		return text(http.StatusInternalServerError, textBadAnswer), true
	}
	status, err := strconv.Atoi(string(parts[0]))
	if err != nil {
		status = http.StatusInternalServerError
	}
	return answer{status: onion.PassThrough(status), body: parts[1]}, true
}

func (s *Server) ownFiles(ctx context.Context, post []byte) (a answer, mine bool) {
	reply, mine := s.cfg.Files.Request(ctx, sourceOf(ctx), post)
	switch {
	case !mine:
		return answer{}, false
	case reply == nil || !shareOf(ctx).grow(int64(len(reply))):
		return busy, true
	}
	return answer{status: http.StatusOK, body: reply}, true
}

// nodeAt finds the node with that public address in the list.
func (s *Server) nodeAt(host string, port int) (swarm.Node, bool) {
	addr, err := netip.ParseAddr(host)
	list := s.cfg.List()
	if err != nil || list == nil {
		return swarm.Node{}, false
	}
	at := netip.AddrPortFrom(addr.Unmap(), uint16(port))
	for _, n := range list.Nodes {
		if n.Address == at {
			return n, true
		}
	}
	return swarm.Node{}, false
}

// fileCommand answers a client's request that the last node of a path handed
// over because it names this node.
func (s *Server) fileCommand(ctx context.Context, parts [][]byte) [][]byte {
	a := text(http.StatusNotFound, "no files here")
	switch {
	case len(parts) != 1:
		a = text(http.StatusBadRequest, "expected 1 part, got "+strconv.Itoa(len(parts)))
	case len(s.cfg.Ready()) > 0:
		a = text(http.StatusServiceUnavailable, textNotReady)
	case s.cfg.Files != nil:
		var mine bool
		if a, mine = s.ownFiles(ctx, parts[0]); !mine {
			a = text(http.StatusBadRequest, onion.TextInvalidCiphertext)
		}
	}
	return [][]byte{strconv.AppendInt(nil, int64(a.status), 10), a.body}
}

// filesCommand answers the file service of another node.
func (s *Server) filesCommand(ctx context.Context, from [32]byte, parts [][]byte) [][]byte {
	if s.cfg.Files == nil {
		return nil
	}
	return s.cfg.Files.Peer(ctx, from, parts)
}
