package rpc

import (
	"slices"
	"strconv"

	"hearth/node/bt"
	"hearth/node/storage"
)

// scopedMethod is one of the three methods that change all messages of a
// namespace, or of all namespaces. They differ in the time that they take.
type scopedMethod struct {
	name  string
	field string // of the time
	list  string // of the affected messages in the answer
	text  func(Scope, int64) []byte
	check func(*call, int64) wait // refuses a time, or gives nil
	kind  storage.Kind
}

var (
	deleteAll = &scopedMethod{
		name: "delete_all", field: "timestamp", list: "deleted", text: DeleteAllText,
		check: func(c *call, timestamp int64) wait {
			if !c.near(timestamp, c.window()) {
				return done(statusClock, "delete_all timestamp too far from current time")
			}
			return nil
		},
		kind: storage.DeleteAll,
	}
	deleteBefore = &scopedMethod{
		name: "delete_before", field: "before", list: "deleted", text: DeleteBeforeText,
		check: func(c *call, before int64) wait {
			if before > c.now+signatureWindow {
				return done(statusUnsigned, "delete_before timestamp too far in the future")
			}
			return nil
		},
		kind: storage.DeleteBefore,
	}
	expireAll = &scopedMethod{
		name: "expire_all", field: "expiry", list: "updated", text: ExpireAllText,
		check: func(c *call, expiry int64) wait {
			if expiry < c.now-c.window() {
				return done(statusClock, "expire_all timestamp should be >= current time")
			}
			return nil
		},
		kind: storage.ExpireAll,
	}
)

type scopedRequest struct {
	credentials
	method *scopedMethod
	scope  Scope
	at     int64 // ms
}

func (m *scopedMethod) parse(p *params) (work, error) {
	r := scopedRequest{method: m}
	var hasAt bool
	if m.field < "namespace" {
		r.at, hasAt = p.time(m.field)
	}
	r.scope = p.scope("namespace")
	s := p.signer()
	if m.field > "namespace" {
		r.at, hasAt = p.time(m.field)
	}
	if p.err != nil {
		return nil, p.err
	}
	if err := r.load(s, p.binary()); err != nil {
		return nil, err
	}
	if !hasAt {
		return nil, missing(m.field)
	}
	return r.run, nil
}

func (r *scopedRequest) run(c *call) wait {
	if elsewhere := c.misplaced(r.owner); elsewhere != nil {
		return elsewhere
	}
	if refused := r.method.check(c, r.at); refused != nil {
		return refused
	}
	if !c.permits(&r.credentials, r.method.text(r.scope, r.at), Delete) {
		return done(statusUnsigned, r.method.name+" signature verification failed")
	}
	return c.spread(r.method.name, r.forwarded, func() map[string]any { return r.own(c) }, c.swarmed)
}

func (r *scopedRequest) own(c *call) map[string]any {
	change := storage.Change{Kind: r.method.kind, All: r.scope == AllNamespaces, At: r.at}
	if !change.All {
		change.Namespace = int16(r.scope)
	}
	effect, err := c.cfg.DB.Apply(r.change(c, change))
	if err != nil {
		return c.failure(r.method.name, err)
	}
	affected := effect.Affected
	hashes := make([]string, len(affected))
	byNamespace := make(map[string][]string)
	for i, a := range affected {
		hashes[i] = a.Hash
		ns := strconv.Itoa(int(a.Namespace))
		byNamespace[ns] = append(byNamespace[ns], a.Hash)
	}
	slices.Sort(hashes)
	var result any = list(hashes)
	if change.All {
		all := make(map[string]any)
		for ns, h := range byNamespace {
			slices.Sort(h)
			all[ns] = list(h)
		}
		result = all
	}
	return map[string]any{
		r.method.list: result,
		"signature":   c.cfg.Keys.Sign(AffectedResultText(r.owner, r.at, hashes)),
	}
}

func (r *scopedRequest) forwarded() bt.Dict {
	body := bt.Dict{r.method.field: r.at, "namespace": int64(r.scope)}
	if r.scope == AllNamespaces {
		body["namespace"] = "all"
	}
	r.addTo(body)
	return body
}
