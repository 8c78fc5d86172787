package rpc

import (
	"fmt"
	"math"

	"hearth/node/bt"
	"hearth/node/storage"
)

// MaxData is the size of the largest message, in bytes before base64.
const MaxData = 76_800

// Limits of a message's time, in ms.
const (
	minTTL         = 10_000
	storeTolerance = 10_000 // of the clock: timestamp ahead of it, expiry behind it
)

type storeRequest struct {
	credentials
	namespace         int16
	timestamp, expiry int64
	sigTimestamp      int64 // only with a signature
	data              []byte
}

func parseStore(p *params) (work, error) {
	var r storeRequest
	data, hasData := p.text("data")
	expiry, hasExpiry := p.time("expiry")
	r.namespace, _ = p.namespace("namespace")
	alias, hasAlias := p.text("pubKey")
	var sigTimestamp int64
	var hasSigTimestamp bool
	s := p.signer(func() { sigTimestamp, hasSigTimestamp = p.time("sig_timestamp") })
	timestamp, hasTimestamp := p.numeral("timestamp", true)
	ttl, hasTTL := p.numeral("ttl", false)
	switch {
	case p.err != nil:
		return nil, p.err
	case !hasTimestamp:
		return nil, missing("timestamp")
	case hasExpiry && hasTTL:
		return nil, refusal("Cannot specify both 'expiry' and 'ttl'")
	case !hasExpiry && !hasTTL:
		return nil, refusal("Required field 'expiry' or 'ttl' missing")
	case s.hasPubkey && hasAlias:
		return nil, refusal("Cannot specify both 'pubkey' and 'pubKey'")
	}
	if hasAlias {
		s.pubkey, s.hasPubkey = alias, true
	}
	r.timestamp, r.expiry = timestamp, expiry
	if hasTTL {
		r.expiry = addTime(timestamp, ttl)
	}
	if s.hasSignature {
		if err := r.load(s, p.binary()); err != nil {
			return nil, err
		}
		if r.sigTimestamp = timestamp; hasSigTimestamp {
			r.sigTimestamp = sigTimestamp
		}
	} else if err := r.loadOwner(s.pubkey, s.hasPubkey, malformedPubkey); err != nil {
		return nil, err
	}
	if !hasData {
		return nil, missing("data")
	}
	r.data = []byte(data)
	if !p.binary() {
		var err error
		if r.data, err = decodeBase64(data); err != nil {
			return nil, refusal("Invalid 'data' value: " + err.Error())
		}
	}
	if len(r.data) > MaxData {
		return nil, refusal(fmt.Sprintf("Message body exceeds maximum allowed length of %d bytes", MaxData))
	}
	return r.run, nil
}

func (r *storeRequest) run(c *call) wait {
	if elsewhere := c.misplaced(r.owner); elsewhere != nil {
		return elsewhere
	}
	if ttl := addTime(r.expiry, -r.timestamp); ttl < minTTL || ttl > maxTTL(r.namespace).Milliseconds() {
		return done(statusForbidden, "Provided expiry/TTL is not valid.")
	}
	if r.timestamp > c.now+storeTolerance || r.expiry < c.now-storeTolerance {
		return done(statusClock, "Timestamp error: check your clock")
	}
	if !publicInbox(r.namespace) { // there a signature may come along, but nobody looks at it
		need := Write
		if publicOutbox(r.namespace) {
			need |= Delete // storing removes the message before
		}
		switch {
		case r.signature == nil:
			return done(statusUnsigned, fmt.Sprintf("store: signature required to store to namespace %d", r.namespace))
		case !c.near(r.sigTimestamp, signatureWindow):
			return done(statusClock, "store signature timestamp too far from current time")
		case !c.permits(&r.credentials, StoreText(r.namespace, r.sigTimestamp), need):
			return done(statusUnsigned, "store signature verification failed")
		}
	}
	hash := MessageHash(r.owner, r.namespace, r.data)
	stored := false
	return c.spread("store", r.forwarded, func() map[string]any {
		m := storage.Message{
			Owner: r.owner, Namespace: r.namespace, Hash: hash,
			Timestamp: r.timestamp, Expiry: r.expiry, Data: r.data, Stamp: c.stamp,
		}
		var already bool
		var expiry int64
		var err error
		switch {
		case publicInbox(r.namespace) && !c.inflow.allows(r.owner):
			err = fmt.Errorf("too much for one account: %w", storage.ErrFull)
		case publicOutbox(r.namespace):
			already, expiry, err = c.cfg.DB.StoreAlone(m, r.change(c, storage.Change{
				Kind: storage.Replace, Namespace: r.namespace, At: r.sigTimestamp, Hashes: []string{hash},
			}))
		default:
			already, expiry, err = c.cfg.DB.Store(m)
			if err == nil && !already && publicInbox(r.namespace) {
				c.inflow.add(r.owner, len(r.data)+perMessage)
			}
		}
		var element map[string]any
		if err != nil {
			element = c.failure("store", err)
		} else {
			stored = true
			element = map[string]any{
				"hash": hash, "expiry": expiry, "signature": c.cfg.Keys.Sign(StoreResultText(hash)),
			}
			if already {
				element["already"] = true
			}
		}
		if !c.forwarded {
			element["t"] = c.now // clients of old look for it here
		}
		return element
	}, func(elements map[string]any) Response {
		response := c.swarmed(elements)
		if stored {
			response.Body.(map[string]any)["hash"] = hash
		}
		return response
	})
}

func (r *storeRequest) forwarded() bt.Dict {
	body := bt.Dict{"data": r.data, "timestamp": r.timestamp, "expiry": r.expiry}
	r.addTo(body)
	if r.signature != nil {
		body["sig_timestamp"] = r.sigTimestamp
	}
	if r.namespace != 0 {
		body["namespace"] = r.namespace
	}
	return body
}

// perMessage is about what a message takes besides its data.
const perMessage = 250

// addTime adds, staying at the end of the range instead of wrapping around.
func addTime(a, b int64) int64 {
	switch sum := a + b; {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	default:
		return sum
	}
}
