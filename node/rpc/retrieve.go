package rpc

import (
	"math"
)

// Sizes of a retrieve answer, as storage.DB.Retrieve counts them. All of one
// batch share maxAnswer; beyond it each gets a single message, and "more".
const (
	maxAnswer    = 7_800_000
	defaultShare = 5 // of maxAnswer, when the client gives no bound
)

type retrieveRequest struct {
	credentials
	namespace int16
	timestamp int64
	signed    bool // the signature must be checked
	lastHash  string
	maxCount  int // 0: none; negative: no messages at all
	maxSize   int // 0: none; -n: one n-th of maxAnswer
}

func parseRetrieve(p *params) (work, error) {
	var r retrieveRequest
	alias, hasAlias := p.text("lastHash")
	lastHash, hasLastHash := p.text("last_hash")
	maxCount, hasCount := p.integer("max_count", "integer")
	maxSize, hasSize := p.integer("max_size", "integer")
	namespace, hasNamespace := p.namespace("namespace")
	ownerAlias, hasOwnerAlias := p.text("pubKey")
	s := p.signer()
	timestamp, hasTimestamp := p.time("timestamp")
	switch {
	case p.err != nil:
		return nil, p.err
	case s.hasPubkey && hasOwnerAlias:
		return nil, refusal("Cannot specify both 'pubkey' and 'pubKey'")
	}
	if hasOwnerAlias {
		s.pubkey, s.hasPubkey = ownerAlias, true
	}
	r.namespace, r.timestamp = namespace, timestamp
	r.signed = s.hasEd25519 || s.hasSignature || hasTimestamp || hasNamespace && !openToRead(namespace)
	if r.signed {
		if err := r.load(s, p.binary()); err != nil {
			return nil, err
		}
	} else if err := r.loadOwner(s.pubkey, s.hasPubkey, malformedPubkey); err != nil {
		return nil, err
	}
	if hasLastHash && hasAlias {
		return nil, refusal("Cannot specify both 'last_hash' and 'lastHash'")
	}
	if r.lastHash = lastHash; hasAlias {
		r.lastHash = alias
	}
	if r.lastHash != "" {
		if len(r.lastHash) != hashLength {
			return nil, refusal("Invalid last_hash: expected base64 (43 chars)")
		}
		if _, err := decodeBase64(r.lastHash); err != nil {
			return nil, refusal("Invalid last_hash: not base64")
		}
	}
	if hasCount {
		// The storage server asks its database for one more than this, as a 32-bit
		// number, to see whether there are more: -1 gives nothing, and what is
		// below gives everything.
		if r.maxCount = bounded(maxCount); r.maxCount < -1 {
			r.maxCount = 0
		}
	}
	if hasSize {
		r.maxSize = bounded(maxSize)
	}
	return r.run, nil
}

// bounded keeps a client's number within 32 bits.
func bounded(n int64) int { return int(min(max(n, math.MinInt32), math.MaxInt32)) }

func (r *retrieveRequest) run(c *call) wait {
	if elsewhere := c.misplaced(r.owner); elsewhere != nil {
		return elsewhere
	}
	switch {
	case !r.signed && !openToRead(r.namespace):
		return done(statusUnsigned, "retrieve: request signature required")
	case r.signed && !c.near(r.timestamp, signatureWindow):
		return done(statusClock, "retrieve timestamp too far from current time")
	case r.signed && !c.permitsRead(&r.credentials, r.namespace, RetrieveText(r.namespace, r.timestamp)):
		return done(statusUnsigned, "retrieve signature verification failed")
	}
	messages, more := []any{}, false
	if r.maxCount >= 0 {
		stored, left, err := c.cfg.DB.Retrieve(r.owner, r.namespace, r.lastHash, r.maxCount, min(r.size(), *c.room))
		if err != nil {
			c.trouble("retrieve", err)
			return done(statusFailed, "request failed")
		}
		more = left
		for _, m := range stored {
			*c.room = max(*c.room-len(m.Data)*4/3, 1)
			messages = append(messages, map[string]any{
				"data": m.Data, "expiration": m.Expiry, "hash": m.Hash, "timestamp": m.Timestamp,
			})
		}
	}
	response := c.answer(statusOK, map[string]any{"messages": messages, "more": more})
	return func() Response { return response }
}

// size is the bound on the answer in bytes. A count without a size bounds the
// answer to what it can hold at most.
func (r *retrieveRequest) size() int {
	switch {
	case r.maxSize > 0:
		return min(r.maxSize, maxAnswer)
	case r.maxSize < 0:
		return max(maxAnswer/-r.maxSize, 1)
	case r.maxCount > 0:
		return maxAnswer
	}
	return maxAnswer / defaultShare
}
