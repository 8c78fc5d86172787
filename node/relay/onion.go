package relay

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"hearth/node/onion"
	"hearth/node/rpc"
)

// Texts of a relaying node, byte for byte: clients act on some of them.
const (
	textNotReady        = "Snode not ready"
	textNextNotFound    = "Next node not found: "
	textNextUnreachable = "Next node is currently unreachable: "
	textTimeOut         = "Request time out"
	textBadAnswer       = "Invalid response from snode"
)

// onionRequest handles what a client sent: this node is the entry of the path.
func (s *Server) onionRequest(ctx context.Context, body []byte) answer {
	layer, err := onion.ParseEntry(body)
	if err != nil {
		// Anybody can cause it, so it is no more than a debug line.
		// What it says is the client's, and stays out of the log.
		s.cfg.Log.Debug("onion request refused", "bytes", len(body))
		return text(http.StatusBadRequest, onion.PrefixEntry+err.Error())
	}
	return s.layer(ctx, layer)
}

// onionCommand handles what another node sent: this node is a later hop.
func (s *Server) onionCommand(ctx context.Context, parts [][]byte) [][]byte {
	a := s.hop(ctx, parts)
	return [][]byte{strconv.AppendInt(nil, int64(a.status), 10), a.body}
}

func (s *Server) hop(ctx context.Context, parts [][]byte) answer {
	if len(parts) != 1 {
		return text(http.StatusBadRequest, onion.PrefixLayer+"expected 1 part, got "+strconv.Itoa(len(parts)))
	}
	layer, err := onion.ParseLayerBT(parts[0])
	switch {
	case errors.Is(err, onion.ErrPathLength):
		return text(http.StatusBadRequest, onion.ErrPathLength.Error())
	case err != nil:
		s.cfg.Log.Debug("onion layer of another node refused", "bytes", len(parts[0]))
		return text(http.StatusBadRequest, onion.PrefixLayer+err.Error())
	}
	return s.layer(ctx, layer)
}

// layer does what every hop does: open the layer and act on its content.
func (s *Server) layer(ctx context.Context, layer onion.Layer) answer {
	own := s.cfg.Keys.Ed25519()
	if len(s.cfg.Ready()) > 0 {
		return text(http.StatusServiceUnavailable, textNotReady+": "+hex.EncodeToString(own[:]))
	}
	s.onions.Add(1)
	inner, key, err := layer.Open(s.cfg.Keys)
	if err != nil {
		return text(http.StatusBadRequest, onion.TextInvalidCiphertext)
	}
	defer key.Wipe()
	switch inner := inner.(type) {
	case *onion.Final:
		if len(s.cfg.Ready()) > 0 {
			return s.seal(ctx, key, http.StatusServiceUnavailable, textNotReady, inner.JSON, inner.Base64)
		}
		resp := s.cfg.Storage.Handle(rpc.WithOnion(ctx, slotOf(ctx).park), inner.Body)
		if b, ok := resp.Body.(rpc.Binary); ok {
			resp.Body = base64.StdEncoding.EncodeToString(b)
		}
		return s.seal(ctx, key, resp.Status, resp.Body, inner.JSON, inner.Base64)
	case *onion.Node:
		key.Wipe() // the answer is another node's
		return s.passOn(ctx, inner)
	case *onion.Server:
		if a, ok := s.fileRequest(ctx, inner); ok {
			return a
		}
		a, err := s.exit.post(ctx, inner)
		if errors.Is(err, errForbidden) {
			return s.seal(ctx, key, http.StatusBadRequest, onion.TextInvalidURL, false, true)
		}
		return a
	}
	return s.seal(ctx, key, http.StatusBadRequest, onion.TextInvalidJSON, false, true)
}

// seal encrypts an answer of this node to the client. Whatever its status, the
// hops see a 200.
func (s *Server) seal(ctx context.Context, key *onion.ReplyKey, status int, body any, asJSON, asBase64 bool) answer {
	sealed, err := key.Seal(s.cfg.Rand, status, body, asJSON, asBase64)
	if err != nil {
		s.cfg.Log.Error("sealing an onion answer", "error", err)
		sealed, err = key.Seal(s.cfg.Rand, http.StatusInternalServerError, "request failed", false, true)
	}
	if err != nil {
		return text(http.StatusInternalServerError, "request failed")
	}
	if !shareOf(ctx).grow(int64(len(sealed))) {
		return busy
	}
	return answer{status: http.StatusOK, body: sealed}
}

// passOn sends the rest of an onion to the next node and hands its answer back.
func (s *Server) passOn(ctx context.Context, next *onion.Node) answer {
	name := hex.EncodeToString(next.Next[:])
	to, ok := s.cfg.List().Find(next.Next)
	if !ok {
		return text(http.StatusBadGateway, textNextNotFound+name)
	}
	dict := next.Layer.MarshalBT()
	if next.Next == s.cfg.Keys.Ed25519() {
		// Legal, and small networks need it. The hop number ends a loop.
		a := s.hop(ctx, [][]byte{dict})
		a.status, a.contentType = onion.PassThrough(a.status), ""
		return a
	}
	if !to.Address.IsValid() || to.Address.Addr().IsUnspecified() || to.Address.Port() == 0 {
		return text(http.StatusBadGateway, textNextUnreachable+name)
	}
	ctx, cancel := context.WithTimeout(ctx, s.lim.Hop)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	slow := time.AfterFunc(s.lim.Patience, func() {
		if !slotOf(ctx).park() {
			giveUp(errBusy)
			return
		}
		select {
		case <-ctx.Done():
		case <-s.stop.Done():
			giveUp(errLeaving)
		}
	})
	defer slow.Stop()
	parts, err := s.cfg.Peers.Request(ctx, to, CommandOnion, [][]byte{dict})
	switch {
	case err != nil && context.Cause(ctx) == errLeaving:
		own := s.cfg.Keys.Ed25519()
		return text(http.StatusServiceUnavailable, textNotReady+": "+hex.EncodeToString(own[:]))
	case errors.Is(err, errBusy), err != nil && context.Cause(ctx) == errBusy:
		return busy
	case err != nil:
		s.cfg.Log.Debug("onion not passed on", "why", whatFailed(err))
		return text(http.StatusGatewayTimeout, textTimeOut)
	case len(parts) < 2:
		return text(http.StatusInternalServerError, textBadAnswer)
	}
	status, err := strconv.Atoi(string(parts[0]))
	if err != nil {
		status = http.StatusInternalServerError
	}
	return answer{status: onion.PassThrough(status), body: parts[1]}
}

// compactJSON writes v as the storage server does: no spaces, and no escapes
// beyond those JSON needs.
func compactJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
