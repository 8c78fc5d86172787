package path

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"hearth/node/swarm"
)

// How paths are exchanged (Session android). The guard stays: who keeps choosing
// new nodes to connect to will one day choose a bad one, while middle and exit see
// less of one person the sooner they go.
const (
	// RotateAfter is about how long a path keeps its hops behind the guard.
	RotateAfter = 10 * time.Minute

	rotateSpread = 0.1              // a path lives this part longer or shorter, so that not all go at a time
	rotateLook   = 15 * time.Second // between looks for paths that are due
	rotateLater  = 2 * time.Minute  // before another try when there was nothing better
	rotateTries  = 3                // new paths that are checked for an old one
	checkLimit   = 5 * time.Second  // for the check
)

// Avoid makes nodes never a hop from now on, guards included. They stay in the
// pool, since a request may have to go to them. It is meant for the node that runs
// on the same machine: as a hop it would know its own owner's traffic, and as a
// guard nothing would stand between the owner and the rest of the path.
func (p *Pool) Avoid(keys ...Key) {
	defer p.saveChanges()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range keys {
		if p.avoided[k] {
			continue
		}
		p.avoided[k] = true
		p.leaveOut(k)
	}
}

// lifetime draws when a path that is built now should be exchanged.
func (p *Pool) lifetime() time.Time {
	spread := (2*p.rng.Float64() - 1) * rotateSpread
	return p.now().Add(time.Duration(float64(RotateAfter) * (1 + spread)))
}

// Stale returns the paths that should be exchanged.
func (p *Pool) Stale() []*Path {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	return slices.DeleteFunc(slices.Clone(p.paths), func(c *Path) bool {
		h := p.state[c]
		// A clock that was set back must not make a path live for ever.
		return h == nil || now.Before(h.until) && h.until.Sub(now) < 2*RotateAfter
	})
}

// Successor makes a path behind the same guard, of hops that are in no kept path
// and none of refused. The second result is false when there is none.
func (p *Pool) Successor(old *Path, refused ...*Path) (*Path, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	guard := old.Guard()
	if !slices.Contains(p.paths, old) {
		return nil, false
	}
	return p.extend(guard, func(n swarm.Node) bool {
		return !slices.Contains(p.guards, n.Ed25519) && !p.inPath(n.Ed25519) &&
			!slices.ContainsFunc(refused, func(r *Path) bool { return r.Holds(n.Ed25519) })
	})
}

// Swap puts made, a [Pool.Successor], in the place of old. It is false when one of
// its nodes has been taken away in the meantime, or old is not kept any more.
func (p *Pool) Swap(old, made *Path) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.paths, old)
	if i < 0 || slices.ContainsFunc(made.hops, func(n swarm.Node) bool { return p.moved(n) || p.avoided[n.Ed25519] }) ||
		slices.ContainsFunc(made.hops[1:], func(n swarm.Node) bool { return p.inPath(n.Ed25519) }) {
		return false
	}
	delete(p.state, old)
	p.paths[i] = made
	p.state[made] = &health{until: p.lifetime()}
	return true
}

// postpone lets a path live a little longer.
func (p *Pool) postpone(path *Path) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.state[path]; h != nil {
		h.until = p.now().Add(rotateLater)
	}
}

// KeepFresh exchanges the hops behind the guards every ten minutes or so until ctx
// ends. A new path is used only after it has carried a request and its answer:
// info, which names no account, to a random node.
func (c *Client) KeepFresh(ctx context.Context) {
	tick := time.NewTicker(rotateLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, old := range c.pool.Stale() {
			c.renew(ctx, old)
		}
	}
}

func (c *Client) renew(ctx context.Context, old *Path) {
	var refused []*Path
	for len(refused) < rotateTries && ctx.Err() == nil {
		made, ok := c.pool.Successor(old, refused...)
		if !ok {
			break
		}
		if c.works(ctx, made) && c.pool.Swap(old, made) {
			c.log.Debug("path exchanged", "guard", short(made.Guard().Ed25519))
			return
		}
		refused = append(refused, made)
	}
	c.pool.postpone(old)
}

// works sends info over a path that is not in use yet. Silence is nobody's fault
// here: the path is simply not taken.
func (c *Client) works(ctx context.Context, path *Path) bool {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	to := c.pool.Random(1, func(n swarm.Node) bool { return path.Holds(n.Ed25519) })
	if len(to) == 0 {
		return false
	}
	body, err := json.Marshal(map[string]any{"method": "info", "params": map[string]any{}})
	if err != nil {
		return false
	}
	// Whatever the destination says: it was reached, and its answer came back.
	reply, _, _ := c.once(ctx, path, to[0], body)
	return reply.Status != 0
}
