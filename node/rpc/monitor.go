package rpc

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"time"

	"hearth/node/account"
	"hearth/node/keys"
	"hearth/node/push"
)

// The method "monitor" is the subscription to new messages of an account, which
// clients of the storage server make on a connection of their own
// ("monitor.messages"), as a request that waits: it is answered when a message
// that the caller does not have is there, or comes, or when the time is over. That
// way it fits into an onion. Outside of one the method does not exist.
//
// The parameters have the letters, the meaning and the signed text ([MonitorText])
// of the storage server's: P or p the account, S and T the subaccount, d whether
// the data is wanted, n the namespaces, s the signature, t its time in seconds; byte
// strings are written in hexadecimal or base64. Two are new: h has for each
// namespace the hash of the last message that the caller has, or "", and w is how
// long to wait at most, in ms.
//
// The answer lists under "results" the namespaces that have news: "n", "messages"
// as retrieve gives them, and "more". The data is there when the signature is no
// older than that of a retrieve may be; else the caller has to retrieve it. A
// refusal has "errcode", with the storage server's numbers, and "error".

// MaxMonitorWait is the longest wait: the nodes of an onion's path wait 30 s for
// each other.
const MaxMonitorWait = 25 * time.Second

const (
	maxMonitored  = 32             // namespaces of one request
	monitorAnswer = maxAnswer / 10 // bytes of messages in one answer, as retrieve counts them
	monitorCount  = 256            // messages of a namespace in one answer

	monitorAge   = 14 * 24 * 60 * 60 // s that a signature is good for
	monitorAhead = 24 * 60 * 60      // s that its time may lie ahead

	statusBusy     = 429
	statusNotReady = 503
)

type onionKey struct{}

// WithOnion returns the context of a request that came in an onion. park is called
// before the request begins to wait, which may take up to [MaxMonitorWait]; false
// means that there is no room for that.
func WithOnion(ctx context.Context, park func() bool) context.Context {
	return context.WithValue(ctx, onionKey{}, park)
}

// MayWait reports whether a request came in an onion.
func MayWait(ctx context.Context) bool { return parkOf(ctx) != nil }

func parkOf(ctx context.Context) func() bool {
	park, _ := ctx.Value(onionKey{}).(func() bool)
	return park
}

// Numbers of refusals (storage server, oxenss/server/mqbase.h).
const (
	monitorBadArgs    = 1
	monitorBadKey     = 2
	monitorBadNS      = 3
	monitorBadTime    = 4
	monitorUnverified = 5
)

type monitorRefusal struct {
	code int
	text string
}

func badArguments(detail string) *monitorRefusal {
	return &monitorRefusal{monitorBadArgs, "Invalid arguments: " + detail}
}

func (r *monitorRefusal) response() Response {
	status := statusBad
	switch r.code {
	case monitorBadTime:
		status = statusClock
	case monitorUnverified:
		status = statusUnsigned
	}
	return Response{status, map[string]any{"errcode": r.code, "error": r.text}}
}

type monitorRequest struct {
	credentials
	withData   bool
	namespaces []int16
	last       []string // hash for each namespace, "" for none
	at         int64    // s
	wait       time.Duration
}

func isMonitorKey(name string) bool {
	switch name {
	case "P", "S", "T", "d", "h", "n", "p", "s", "t", "w":
		return true
	}
	return false
}

// parseMonitor reads the parameters in the order of the keys, as upstream does, so
// that of two mistakes the same one is told. The account is not known yet when only
// P is given, see identify.
func parseMonitor(p *params) (*monitorRequest, *monitorRefusal) {
	r := new(monitorRequest)
	if b, given, ok := p.bytes("P", 32); p.err != nil {
		return nil, badArguments(p.err.Error())
	} else if given && !ok {
		return nil, &monitorRefusal{monitorBadKey, "Provided P= Session Ed25519 pubkey must be 32 bytes"}
	} else if given {
		r.ed25519 = (*[32]byte)(b)
	}
	tokenSig, delegated, ok := p.bytes("S", 64)
	if p.err == nil && delegated && !ok {
		return nil, &monitorRefusal{monitorBadKey, "Provided S subaccount signature must be 64 bytes"}
	}
	token, hasToken, ok := p.bytes("T", len(Token{}))
	switch {
	case p.err != nil:
		return nil, badArguments(p.err.Error())
	case delegated && !hasToken:
		return nil, badArguments("Required field 'T' missing")
	case hasToken && !ok:
		return nil, &monitorRefusal{monitorBadKey, "Provided T subaccount token must be 36 bytes"}
	case delegated:
		r.token, r.tokenSig = (*Token)(token), tokenSig
	}
	withData, _ := p.integer("d", "integer")
	if p.err == nil && withData != 0 && withData != 1 {
		p.fail("d", "0 or 1")
	}
	r.withData = withData == 1
	last, _ := p.strings("h")
	namespaces := p.integers("n")
	switch {
	case p.err != nil:
		return nil, badArguments(p.err.Error())
	case len(namespaces) == 0:
		return nil, badArguments("Required field 'n' missing")
	case len(namespaces) > maxMonitored:
		return nil, badArguments("too many namespaces")
	case len(last) > len(namespaces):
		return nil, badArguments("more hashes than namespaces")
	}
	for i, ns := range namespaces {
		if ns < math.MinInt16 || ns > math.MaxInt16 {
			return nil, badArguments("Invalid value given for 'n': value out of range")
		}
		if i > 0 && ns <= namespaces[i-1] {
			return nil, &monitorRefusal{monitorBadNS, "Invalid n= namespace list: namespaces must be ascending"}
		}
		r.namespaces = append(r.namespaces, int16(ns))
	}
	for _, h := range last {
		if h != "" && len(h) != hashLength {
			return nil, badArguments("Invalid h: expected base64 (43 chars)")
		}
	}
	r.last = append(last, make([]string, len(namespaces)-len(last))...)
	owner, hasOwner, ok := p.bytes("p", len(account.ID{}))
	switch {
	case p.err != nil:
		return nil, badArguments(p.err.Error())
	case hasOwner && !ok:
		return nil, &monitorRefusal{monitorBadKey, "Provided p= pubkey must be 33 bytes"}
	case hasOwner && r.ed25519 != nil:
		return nil, badArguments("Cannot provide both p= and P= pubkey values")
	case hasOwner:
		r.owner = account.ID(owner)
	}
	signature, signed, ok := p.bytes("s", 64)
	if signed && !ok && p.err == nil {
		return nil, &monitorRefusal{monitorUnverified, "Provided s= signature must be 64 bytes"}
	}
	r.signature = signature
	at, hasTime := p.integer("t", "integer timestamp (in seconds)")
	wait, _ := p.unsigned("w", "positive integer")
	switch {
	case p.err != nil:
		return nil, badArguments(p.err.Error())
	case !signed:
		return nil, badArguments("Required field 's' missing")
	case !hasTime:
		return nil, badArguments("required signature timestamp is missing")
	case !hasOwner && r.ed25519 == nil:
		return nil, badArguments("Either p= or P= must be given")
	}
	r.at = at
	r.wait = time.Duration(min(wait, MaxMonitorWait.Milliseconds())) * time.Millisecond
	return r, nil
}

// bytes reads a byte string of a known size, which JSON has in hexadecimal or in
// base64. ok says whether it has that size.
func (p *params) bytes(field string, size int) (b []byte, given, ok bool) {
	text, given := p.text(field)
	switch {
	case !given:
		return nil, false, false
	case p.binary():
		b = []byte(text)
	case len(text) == hex.EncodedLen(size):
		b, _ = hex.DecodeString(text)
	case len(text) <= base64.StdEncoding.EncodedLen(size):
		b, _ = decodeBase64(text)
	}
	return b, true, len(b) == size
}

// identify checks the time and finds out whose messages are meant.
func (r *monitorRequest) identify(now time.Time) *monitorRefusal {
	switch {
	case r.at < now.Unix()-monitorAge:
		return &monitorRefusal{monitorBadTime, "Invalid t= signature timestamp: timestamp is too old"}
	case r.at > now.Unix()+monitorAhead:
		return &monitorRefusal{monitorBadTime, "Invalid t= signature timestamp: timestamp is in the future"}
	case r.ed25519 == nil:
		return nil
	}
	owner, err := account.IDFromEd25519(*r.ed25519)
	if err != nil {
		return &monitorRefusal{monitorBadKey, "Invalid P= ed25519 public key"}
	}
	r.owner = owner
	return nil
}

// authorize checks who signed.
func (r *monitorRequest) authorize() *monitorRefusal {
	signer := r.owner.Key()
	if r.ed25519 != nil {
		signer = *r.ed25519
	}
	if r.token != nil {
		why := ""
		switch {
		case !r.token.allows(r.owner, 0):
			why = "subaccount network prefix mismatch"
		case !r.token.allows(r.owner, Read):
			why = "subaccount is missing the required permissions"
		case !keys.Verify(signer, r.token[:], r.tokenSig):
			why = "subaccount token signature verification failed"
		}
		if why != "" {
			return &monitorRefusal{monitorUnverified, "Subaccount verification failed: " + why}
		}
		signer = r.token.Delegate()
	}
	if !keys.Verify(signer, MonitorText(r.owner, r.at, r.withData, r.namespaces), r.signature) {
		return &monitorRefusal{monitorUnverified, "Signature verification failed"}
	}
	return nil
}

// monitor answers the method; raw are its parameters.
func (s *Service) monitor(ctx context.Context, raw []byte, park func() bool) Response {
	fields, _ := object(raw, isMonitorKey) // no object has no fields
	r, refusal := parseMonitor(&params{json: fields})
	if refusal != nil {
		return refusal.response()
	}
	return r.answer(s.call(ctx, false), park)
}

// answer carries a request out that has been read.
func (r *monitorRequest) answer(c *call, park func() bool) Response {
	if refusal := r.identify(time.UnixMilli(c.now)); refusal != nil {
		return refusal.response()
	}
	if elsewhere := c.misplaced(r.owner); elsewhere != nil {
		return elsewhere()
	}
	if refusal := r.authorize(); refusal != nil {
		return refusal.response()
	}
	// The messages themselves are for those who could retrieve them now.
	r.withData = r.withData && c.near(r.at*1000, signatureWindow)

	seat, err := c.cfg.Push.Enter(r.owner, r.namespaces)
	switch {
	case errors.Is(err, push.ErrClosed):
		return Response{statusNotReady, err.Error()}
	case err != nil:
		return Response{statusBusy, err.Error()}
	}
	defer seat.Leave()
	over := time.NewTimer(r.wait)
	defer over.Stop()
	for waiting := r.wait > 0; ; {
		results, response := r.look(c)
		if response != nil {
			return *response
		}
		if len(results) > 0 || !waiting {
			// Not the time of the call: it may be over for long.
			c.now = c.cfg.Now().UnixMilli()
			return c.answer(statusOK, map[string]any{"success": 1, "results": results})
		}
		if park != nil && !park() {
			return Response{statusBusy, push.ErrNode.Error()}
		}
		park = nil
		select {
		case <-seat.Woken():
		case <-over.C:
			waiting = false
		case <-c.ctx.Done():
			waiting = false
		case <-c.cfg.Push.Closed():
			waiting = false
		}
	}
}

// look gathers what the caller does not have, or the answer to one who may not
// know, or not be told.
func (r *monitorRequest) look(c *call) (results []any, refused *Response) {
	results = []any{}
	locked := c.revoked(&r.credentials)
	room := monitorAnswer
	for i, ns := range r.namespaces {
		if locked && !revocationProof(ns) {
			refusal := &monitorRefusal{monitorUnverified, "Subaccount verification failed: subaccount has been revoked"}
			response := refusal.response()
			return nil, &response
		}
		stored, more, err := c.cfg.DB.Retrieve(r.owner, ns, r.last[i], monitorCount, room)
		if err != nil {
			c.trouble("monitor", err)
			return nil, &Response{statusFailed, "request failed"}
		}
		if len(stored) == 0 {
			continue
		}
		messages := make([]any, len(stored))
		for k, m := range stored {
			message := map[string]any{"hash": m.Hash, "timestamp": m.Timestamp, "expiration": m.Expiry}
			if r.withData {
				message["data"] = m.Data
			}
			room = max(room-len(m.Data)*4/3, 1)
			messages[k] = message
		}
		results = append(results, map[string]any{"n": ns, "messages": messages, "more": more})
	}
	return results, nil
}

// MonitorParams are the parameters of a "monitor" request that the owner of the
// keys signs for its 05 account, at a time in seconds; wait is in ms.
func MonitorParams(owner *keys.Pair, id account.ID, at int64, namespaces []int16, last []string, wait int64) json.RawMessage {
	pub := owner.Ed25519()
	b, err := json.Marshal(map[string]any{
		"P": hex.EncodeToString(pub[:]), "d": 1, "n": namespaces, "h": last, "t": at, "w": wait,
		"s": owner.Sign(MonitorText(id, at, true, namespaces)),
	})
	if err != nil {
		panic(err) // numbers and texts only
	}
	return b
}
