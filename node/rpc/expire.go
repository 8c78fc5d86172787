package rpc

import (
	"maps"
	"slices"

	"hearth/node/bt"
	"hearth/node/storage"
)

type expireRequest struct {
	credentials
	hashes   []string
	expiries []int64 // ms; one for all hashes, or one for each
	mode     ExpireMode
}

func parseExpire(p *params) (work, error) {
	var r expireRequest
	expiries, hasExpiry := p.times("expiry")
	extend := p.boolean("extend")
	hashes, hasHashes := p.strings("messages")
	var shorten bool
	s := p.signer(func() { shorten = p.boolean("shorten") })
	if p.err != nil {
		return nil, p.err
	}
	if err := r.load(s, p.binary()); err != nil {
		return nil, err
	}
	switch {
	case !hasExpiry:
		return nil, missing("expiry")
	case len(expiries) == 0:
		return nil, refusal("'expiry' does not contain any expiration timestamps")
	case shorten && extend:
		return nil, refusal("cannot specify both 'shorten' and 'extend'")
	case !hasHashes:
		return nil, missing("messages")
	case len(hashes) > 0 && len(expiries) > 1 && len(expiries) != len(hashes):
		return nil, refusal("'expiry' must be a single expiry, or the same length as 'messages'")
	}
	if err := checkHashes(hashes); err != nil {
		return nil, err
	}
	switch {
	case shorten:
		r.mode = ExpireShorten
	case extend:
		r.mode = ExpireExtend
	}
	r.hashes, r.expiries = hashes, expiries
	return r.run, nil
}

func (r *expireRequest) run(c *call) wait {
	if elsewhere := c.misplaced(r.owner); elsewhere != nil {
		return elsewhere
	}
	if hf := c.cfg.HardFork; len(r.expiries) > 1 && (hf[0] < 19 || hf[0] == 19 && hf[1] < 4) {
		return done(statusForbidden, "expire: multi-expiry requests are not yet active on the network")
	}
	// The client's values stay as they are: they are signed, and peers get them.
	applied := slices.Clone(r.expiries)
	for i, e := range applied {
		if e < c.now-signatureWindow {
			return done(statusUnsigned, "expire: timestamp should be >= current time")
		}
		applied[i] = min(e, storage.StampTime(c.stamp)+storage.MaxLife)
	}
	if !c.permits(&r.credentials, ExpireText(r.mode, r.expiries, r.hashes), Write) {
		return done(statusUnsigned, "expire: signature verification failed")
	}
	mode := r.mode
	if r.token != nil && r.token.Access()&Delete == 0 {
		// An expiry a moment from now would be a deletion.
		if mode == ExpireShorten {
			return done(statusBad, "expire: shorten parameter cannot be used with this subaccount token (missing delete access)")
		}
		mode = ExpireExtend
	}
	return c.spread("expire", r.forwarded, func() map[string]any {
		return r.own(c, mode, applied)
	}, c.swarmed)
}

func (r *expireRequest) own(c *call, mode ExpireMode, applied []int64) map[string]any {
	change := r.change(c, storage.Change{Kind: storage.Expire, Hashes: r.hashes, Expiries: r.expiries, Mode: storedModes[mode]})
	if mode != r.mode {
		change.Proof[0] |= proofPlain
	}
	effect, err := c.cfg.DB.Apply(change)
	if err != nil {
		return c.failure("expire", err)
	}
	changed := effect.Expiries
	updated := slices.Sorted(maps.Keys(changed))
	element := map[string]any{"updated": list(updated)}
	// One expiry comes back as it was applied, several as the values of updated.
	element["expiry"] = applied[0]
	if len(applied) > 1 {
		applied = nil
		for _, h := range updated {
			applied = append(applied, changed[h])
		}
		element["expiry"] = list(applied)
	}
	var unchanged map[string]int64
	if r.mode != ExpireSet {
		rest := slices.DeleteFunc(slices.Clone(r.hashes), func(h string) bool {
			_, is := changed[h]
			return is
		})
		if unchanged, err = c.cfg.DB.Expiries(r.owner, rest); err != nil {
			return c.failure("expire", err)
		}
		element["unchanged"] = dict(unchanged)
	}
	element["signature"] = c.cfg.Keys.Sign(ExpireResultText(r.owner, applied, r.hashes, updated, unchanged))
	return element
}

func (r *expireRequest) forwarded() bt.Dict {
	body := bt.Dict{"messages": list(r.hashes), "expiry": r.expiries[0]}
	if len(r.expiries) > 1 {
		body["expiry"] = list(r.expiries)
	}
	if r.mode != ExpireSet {
		body[string(r.mode)] = 1
	}
	r.addTo(body)
	return body
}

// parseGetExpiries reads a request for the expiries of messages on this node.
func parseGetExpiries(p *params) (work, error) {
	var who credentials
	hashes, hasHashes := p.strings("messages")
	s := p.signer()
	timestamp, hasTimestamp := p.time("timestamp")
	if p.err != nil {
		return nil, p.err
	}
	if err := who.load(s, p.binary()); err != nil {
		return nil, err
	}
	switch {
	case !hasTimestamp:
		return nil, missing("timestamp")
	case !hasHashes:
		return nil, missing("messages")
	case len(hashes) == 0:
		return nil, refusal("messages does not contain any message hashes")
	}
	return func(c *call) wait {
		if elsewhere := c.misplaced(who.owner); elsewhere != nil {
			return elsewhere
		}
		if !c.near(timestamp, signatureWindow) {
			return done(statusClock, "get_expiries timestamp too far from current time")
		}
		if !c.permits(&who, GetExpiriesText(timestamp, hashes), Read) {
			return done(statusUnsigned, "get_expiries signature verification failed")
		}
		expiries, err := c.cfg.DB.Expiries(who.owner, hashes)
		if err != nil {
			c.trouble("get_expiries", err)
			return done(statusFailed, "request failed")
		}
		return done(statusOK, map[string]any{"expiries": dict(expiries)}) // without t and hf, as upstream
	}, nil
}

func dict(m map[string]int64) map[string]any {
	d := make(map[string]any, len(m))
	for k, v := range m {
		d[k] = v
	}
	return d
}
