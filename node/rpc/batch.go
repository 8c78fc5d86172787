package rpc

import (
	"encoding/json"
)

// maxBatch is how many requests a batch or sequence may contain.
const maxBatch = 20

// parseBatch reads a batch: all requests are started one after the other, each
// doing this node's part before the next, and their answers from the swarm are
// awaited together.
func parseBatch(p *params) (work, error) {
	requests, err := subrequests(p)
	if err != nil {
		return nil, err
	}
	return func(c *call) wait {
		started := make([]wait, len(requests))
		for i, do := range requests {
			started[i] = do(c.next())
		}
		return func() Response {
			results := make([]any, len(started))
			for i, finish := range started {
				results[i] = finish().asResult()
			}
			return Response{statusOK, map[string]any{"results": results}}
		}
	}, nil
}

// parseSequence reads a sequence: each request begins when the one before has
// been answered, and the first that does not succeed is the last.
func parseSequence(p *params) (work, error) {
	requests, err := subrequests(p)
	if err != nil {
		return nil, err
	}
	return func(c *call) wait {
		return func() Response {
			results := make([]any, 0, len(requests))
			for _, do := range requests {
				r := do(c.next())()
				results = append(results, r.asResult())
				if r.Status < 200 || r.Status > 299 {
					break
				}
			}
			return Response{statusOK, map[string]any{"results": results}}
		}
	}, nil
}

func (r Response) asResult() map[string]any {
	return map[string]any{"code": r.Status, "body": r.Body}
}

// subrequests reads all requests; one that is malformed refuses the whole batch.
func subrequests(p *params) ([]work, error) {
	var raw []json.RawMessage
	eachElement(p.value("requests"), func(r json.RawMessage) bool {
		raw = append(raw, r)
		return len(raw) <= maxBatch
	})
	switch {
	case len(raw) == 0:
		return nil, refusal(`Invalid batch request: no valid "requests" field`)
	case len(raw) > maxBatch:
		return nil, refusal("Invalid batch request: subrequest limit exceeded")
	}
	requests := make([]work, len(raw))
	for i, r := range raw {
		top, ok := object(r, isCallKey)
		if !ok {
			return nil, refusal("Invalid batch request: requests must be objects")
		}
		method, hasMethod := jsonString(top["method"])
		p, hasParams := jsonParams(top["params"])
		if !hasMethod || !hasParams {
			return nil, refusal("Invalid batch request: subrequests must have method/params keys")
		}
		e, known := endpoints[method]
		switch {
		case !known:
			return nil, refusal(`Invalid batch subrequest: invalid method "` + method + `"`)
		case e.meta:
			return nil, refusal("Invalid batch subrequest: subrequests may not contain meta-requests")
		}
		var err error
		if requests[i], err = e.parse(p); err != nil {
			return nil, err
		}
	}
	return requests, nil
}
