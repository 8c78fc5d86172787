package rpc

import (
	"fmt"

	"hearth/node/bt"
	"hearth/node/storage"
)

// maxRevoke is how many tokens one request may revoke.
const maxRevoke = 50

// revokeRequest is revoke_subaccount or unrevoke_subaccount. Only the owner may
// send it: a subaccount in it is not looked at.
type revokeRequest struct {
	credentials
	method    string
	field     string // of the tokens
	text      func(timestamp int64, tokens []Token) []byte
	own       func(c *call, r *revokeRequest) (map[string]any, error)
	timestamp int64
	tokens    []Token
}

func parseRevoke(p *params) (work, error) {
	r := &revokeRequest{method: "revoke_subaccount", field: "revoke", text: RevokeText}
	r.own = func(c *call, r *revokeRequest) (map[string]any, error) {
		_, err := c.cfg.DB.Apply(r.change(c, storage.Change{Kind: storage.Revoke, At: r.timestamp, Tokens: rawTokens(r.tokens)}))
		return map[string]any{}, err
	}
	return r.parse(p, maxRevoke)
}

func parseUnrevoke(p *params) (work, error) {
	r := &revokeRequest{method: "unrevoke_subaccount", field: "unrevoke", text: UnrevokeText}
	r.own = func(c *call, r *revokeRequest) (map[string]any, error) {
		effect, err := c.cfg.DB.Apply(r.change(c, storage.Change{Kind: storage.Unrevoke, At: r.timestamp, Tokens: rawTokens(r.tokens)}))
		return map[string]any{"count": effect.Count}, err
	}
	return r.parse(p, 0)
}

func (r *revokeRequest) parse(p *params, limit int) (work, error) {
	var s signer
	s.pubkey, s.hasPubkey = p.text("pubkey")
	s.ed25519, s.hasEd25519 = p.text("pubkey_ed25519")
	tokens, hasTokens := p.strings(r.field)
	s.signature, s.hasSignature = p.text("signature")
	timestamp, hasTimestamp := p.time("timestamp")
	if p.err != nil {
		return nil, p.err
	}
	if err := r.load(s, p.binary()); err != nil {
		return nil, err
	}
	if !hasTokens {
		return nil, missing(r.field)
	}
	if limit > 0 && len(tokens) > limit {
		return nil, refusal(fmt.Sprintf("invalid %s: cannot revoke more than %d subaccounts at once", r.field, limit))
	}
	for _, text := range tokens {
		var token Token
		if p.binary() {
			if len(text) != len(token) {
				return nil, refusal("invalid " + r.field + " subaccount: invalid subaccount tag length")
			}
			token = Token([]byte(text))
		} else {
			var err error
			if token, err = ParseToken(text); err != nil {
				return nil, refusal("invalid " + r.field + ": expected base64 or hex-encoded subaccount tag")
			}
		}
		r.tokens = append(r.tokens, token)
	}
	if !hasTimestamp {
		return nil, missing("timestamp")
	}
	r.timestamp = timestamp
	return r.run, nil
}

func (r *revokeRequest) run(c *call) wait {
	if elsewhere := c.misplaced(r.owner); elsewhere != nil {
		return elsewhere
	}
	if !c.near(r.timestamp, signatureWindow) {
		return done(statusClock, r.method+" timestamp too far from current time")
	}
	if !r.verify(r.text(r.timestamp, r.tokens), ownerOnly) {
		return done(statusUnsigned, r.method+" signature verification failed")
	}
	return c.spread(r.method, r.forwarded, func() map[string]any {
		element, err := r.own(c, r)
		if err != nil {
			return c.failure(r.method, err)
		}
		element["signature"] = c.cfg.Keys.Sign(RevokeResultText(r.owner, r.timestamp, r.tokens))
		return element
	}, c.swarmed)
}

func (r *revokeRequest) forwarded() bt.Dict {
	tokens := make([]any, len(r.tokens))
	for i := range r.tokens {
		tokens[i] = r.tokens[i][:]
	}
	body := bt.Dict{r.field: tokens, "timestamp": r.timestamp}
	r.addTo(body)
	return body
}

func rawTokens(tokens []Token) [][36]byte {
	raw := make([][36]byte, len(tokens))
	for i, t := range tokens {
		raw[i] = t
	}
	return raw
}
