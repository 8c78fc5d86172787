package rpc

import (
	"slices"

	"hearth/node/bt"
	"hearth/node/storage"
)

// hashLength is the length of a message hash as text.
const hashLength = 43

type deleteRequest struct {
	credentials
	hashes   []string
	required bool // 404 when no member had any of the messages
}

func parseDelete(p *params) (work, error) {
	var r deleteRequest
	hashes, hasHashes := p.strings("messages")
	s := p.signer(func() { r.required = p.boolean("required") })
	if p.err != nil {
		return nil, p.err
	}
	if err := r.load(s, p.binary()); err != nil {
		return nil, err
	}
	if !hasHashes {
		return nil, missing("messages")
	}
	if err := checkHashes(hashes); err != nil {
		return nil, err
	}
	r.hashes = hashes
	return r.run, nil
}

func checkHashes(hashes []string) error {
	if len(hashes) == 0 {
		return refusal("messages does not contain any message hashes")
	}
	for _, h := range hashes {
		if _, err := decodeBase64(h); err != nil || len(h) != hashLength {
			return refusal("invalid message hash: " + h)
		}
	}
	return nil
}

func (r *deleteRequest) run(c *call) wait {
	if elsewhere := c.misplaced(r.owner); elsewhere != nil {
		return elsewhere
	}
	if !c.permits(&r.credentials, DeleteText(r.hashes), Delete) {
		return done(statusUnsigned, "delete_msgs signature verification failed")
	}
	return c.spread("delete", r.forwarded, func() map[string]any {
		effect, err := c.cfg.DB.Apply(r.change(c, storage.Change{Kind: storage.Delete, Hashes: r.hashes}))
		if err != nil {
			return c.failure("delete", err)
		}
		deleted := make([]string, len(effect.Affected))
		for i, a := range effect.Affected {
			deleted[i] = a.Hash
		}
		slices.Sort(deleted)
		return map[string]any{
			"deleted":   list(deleted),
			"signature": c.cfg.Keys.Sign(DeleteResultText(r.owner, r.hashes, deleted)),
		}
	}, func(elements map[string]any) Response {
		response := c.swarmed(elements)
		if r.required && !anyDeleted(elements) {
			response.Status = statusNotFound
		}
		return response
	})
}

func (r *deleteRequest) forwarded() bt.Dict {
	body := bt.Dict{"messages": list(r.hashes)}
	r.addTo(body)
	return body
}

func anyDeleted(elements map[string]any) bool {
	for _, e := range elements {
		element, _ := e.(map[string]any)
		if deleted, ok := element["deleted"].([]any); ok && len(deleted) > 0 {
			return true
		}
	}
	return false
}

// list makes a list that is [] in JSON also when it is empty.
func list[T any](s []T) []any {
	out := slices.Grow([]any{}, len(s))
	for _, x := range s {
		out = append(out, x)
	}
	return out
}
