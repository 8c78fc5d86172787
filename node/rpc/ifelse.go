package rpc

import (
	"slices"
)

const maxNesting = 10

// condition is one requirement of ifelse: the actual value is at least, or
// before, the given one.
type condition struct {
	actual func(*call) []int64
	bound  []int64
	before bool
}

func (f condition) holds(c *call) bool {
	actual := f.actual(c)
	bound := make([]int64, len(actual))
	copy(bound, f.bound) // what is missing counts as 0, what is too much does not count
	return (slices.Compare(actual, bound) < 0) == f.before
}

// parseIfElse reads a request that runs one of two others, depending on the
// network's hard fork, the node's version and the height of the chain. A branch
// may be another ifelse; unlike upstream's, up to maxNesting deep, because each
// level reads the whole text of the next.
func parseIfElse(p *params) (work, error) {
	if p.depth >= maxNesting {
		return nil, refusal("Invalid ifelse request: nested too deep")
	}
	inner, ok := jsonParams(p.value("if"))
	if !ok {
		return nil, refusal(`Invalid ifelse request: no valid "if" field`)
	}
	conditions := inner.conditions()
	if inner.err != nil {
		return nil, inner.err
	}
	if len(conditions) == 0 {
		return nil, refusal(`Invalid ifelse request: must specify at least one "if" condition`)
	}
	then, err := branch(p, "then")
	if err != nil {
		return nil, err
	}
	otherwise, err := branch(p, "else")
	if err != nil {
		return nil, err
	}
	if then == nil && otherwise == nil {
		return nil, refusal(`Invalid ifelse request: at least one of "then"/"else" required`)
	}
	return func(c *call) wait {
		holds := true
		for _, f := range conditions {
			holds = holds && f.holds(c)
		}
		body := map[string]any{
			"hf": list(hardFork(c)), "v": list(version(c)), "height": height(c)[0], "condition": holds,
		}
		do := then
		if !holds {
			do = otherwise
		}
		if do == nil {
			return done(statusOK, body)
		}
		finish := do(c.next())
		return func() Response {
			body["result"] = finish().asResult()
			return Response{statusOK, body}
		}
	}, nil
}

func (p *params) conditions() (all []condition) {
	for _, name := range []string{"height_at_least", "height_before"} {
		if n, ok := p.integer(name, "integer"); ok {
			all = append(all, condition{height, []int64{n}, name == "height_before"})
		}
	}
	for _, name := range []string{"hf_at_least", "hf_before", "v_at_least", "v_before"} {
		bound := p.integers(name)
		if len(bound) == 0 {
			continue
		}
		f := condition{version, bound, name == "hf_before" || name == "v_before"}
		if name[0] == 'h' {
			f.actual = hardFork
		}
		all = append(all, f)
	}
	return all
}

func height(c *call) []int64 {
	if c.list == nil {
		return []int64{0}
	}
	return []int64{int64(c.list.Height)}
}

func hardFork(c *call) []int64 {
	return []int64{int64(c.cfg.HardFork[0]), int64(c.cfg.HardFork[1])}
}

func version(c *call) []int64 {
	v := c.cfg.Version
	return []int64{int64(v[0]), int64(v[1]), int64(v[2])}
}

// branch reads the request under then or else; nil when it is absent.
func branch(p *params, name string) (work, error) {
	raw := p.json[name]
	if raw == nil {
		return nil, nil
	}
	top, ok := object(raw, isCallKey)
	if !ok {
		return nil, refusal("Invalid ifelse request: " + name + " must be an object")
	}
	method, hasMethod := jsonString(top["method"])
	inner, hasParams := jsonParams(top["params"])
	if !hasMethod || !hasParams {
		return nil, refusal("Invalid ifelse request: " + name + " must have method/params keys")
	}
	e, known := endpoints[method]
	if !known {
		return nil, refusal(`Invalid ifelse request method "` + name + `"`)
	}
	inner.depth = p.depth + 1
	return e.parse(inner)
}
