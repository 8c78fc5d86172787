package rpc

import (
	"context"
	"encoding/hex"
	"strconv"
	"sync"
	"time"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/swarm"
)

// forwardTimeout is how long the other members have to answer.
const forwardTimeout = 5 * time.Second

// misplaced returns the answer 421 with the right swarm when the account does
// not belong to this node's swarm, and nil when it does.
func (c *call) misplaced(owner account.ID) wait {
	id, members := c.list.Of(owner)
	self, known := c.list.Find(c.self)
	if known && id != swarm.None && self.Swarm == id {
		return nil
	}
	r := c.answer(statusWrongSwarm, describe(id, members))
	return func() Response { return r }
}

// describe lists the members of a swarm for a client.
func describe(id swarm.ID, members []swarm.Node) map[string]any {
	nodes := make([]any, len(members))
	for i, n := range members {
		primary := hex.EncodeToString(n.Ed25519[:])
		port := int(n.Address.Port())
		nodes[i] = map[string]any{
			"address":        n.Name(),
			"ip":             n.Address.Addr().String(),
			"port":           strconv.Itoa(port),
			"port_https":     port,
			"port_omq":       0, // neither OxenMQ nor QUIC is known of the nodes of the list
			"port_quic":      0,
			"pubkey_ed25519": primary,
			"pubkey_legacy":  primary, // separate from the Ed25519 key only in the oldest nodes
			"pubkey_x25519":  hex.EncodeToString(n.X25519[:]),
		}
	}
	return map[string]any{"snodes": nodes, "swarm": id.String()}
}

// spread runs a request that concerns the whole swarm: it sends body to the
// other members, then does this node's own part, which gives its element of the
// answer. finish completes the answer when the elements of all members are in.
// When a peer sent the request, the element alone is the answer.
func (c *call) spread(method string, body func() bt.Dict, own func() map[string]any, finish func(elements map[string]any) Response) wait {
	if c.forwarded {
		return done(statusOK, own())
	}
	elements := make(map[string]any)
	var mu sync.Mutex
	var pending sync.WaitGroup
	self, _ := c.list.Find(c.self)
	var encoded []byte
	for _, member := range c.list.Members(self.Swarm) {
		if member.Ed25519 == c.self {
			continue
		}
		if encoded == nil {
			var err error
			if encoded, err = bt.Marshal(body()); err != nil {
				panic(err) // it holds only types that bt knows
			}
		}
		pending.Go(func() {
			e := c.forward(member, method, encoded)
			mu.Lock()
			defer mu.Unlock()
			elements[hex.EncodeToString(member.Ed25519[:])] = e
		})
	}
	mine := own()
	return func() Response {
		pending.Wait()
		elements[hex.EncodeToString(c.self[:])] = mine
		return finish(elements)
	}
}

// swarmed is the usual answer to a request that concerns the whole swarm.
func (c *call) swarmed(elements map[string]any) Response {
	// Upstream means to answer 500 when all members failed, but its test looks at
	// the wrong object: the status is always 200, and clients know it.
	return c.answer(statusOK, map[string]any{"swarm": elements})
}

// forward asks one member and returns its element of the answer.
func (c *call) forward(to swarm.Node, method string, body []byte) map[string]any {
	if c.cfg.Forward == nil {
		return map[string]any{"failed": true, "timeout": true}
	}
	// A client that goes away must not leave the swarm with half the copies.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), forwardTimeout)
	defer cancel()
	parts, err := c.cfg.Forward(WithStamp(ctx, c.stamp), to, method, body)
	if err != nil {
		return map[string]any{"failed": true, "timeout": true}
	}
	switch len(parts) {
	case 1:
		if v, err := bt.Unmarshal(parts[0]); err == nil {
			if element, ok := v.(bt.Dict); ok {
				return readable(element).(bt.Dict)
			}
		}
	case 2:
		return map[string]any{"failed": true, "code": string(parts[0]), "reason": string(parts[1])}
	}
	return map[string]any{"failed": true, "bad_peer_response": true}
}

// readable turns the byte strings of a peer's element into text. Only the
// signature is really binary; as bytes it becomes base64 in JSON.
func readable(v any) any {
	switch v := v.(type) {
	case []byte:
		return string(v)
	case []any:
		for i := range v {
			v[i] = readable(v[i])
		}
	case bt.Dict:
		for k := range v {
			if b, ok := v[k].([]byte); !ok || k != "signature" {
				v[k] = readable(v[k])
			} else {
				v[k] = b
			}
		}
	}
	return v
}

// failure is the element of a member whose database did not work.
func (c *call) failure(method string, err error) map[string]any {
	c.trouble(method, err)
	return map[string]any{"failed": true, "query_failure": true}
}
