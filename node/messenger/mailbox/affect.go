package mailbox

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"hearth/node/account"
	"hearth/node/keys"
	"hearth/node/messenger/path"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// Delete has the account's swarm forget messages. One member that signs that it did
// is enough, because members tell each other. The errors are those of Store.
func (c *Client) Delete(ctx context.Context, a *account.Account, hashes []string) error {
	return c.tell(ctx, Own(a), "delete", rpc.DeleteText(hashes), map[string]any{"messages": hashes}, func(body []byte) (map[path.Key]signed, error) {
		said, err := ParseDelete(body)
		proofs := make(map[path.Key]signed)
		for k, m := range said {
			if !m.Failed {
				proofs[k] = signed{rpc.DeleteResultText(a.ID(), hashes, m.Deleted), m.Signature}
			}
		}
		return proofs, err
	})
}

// Shorten has the account's swarm forget messages at expiry, in ms, if they would
// stay longer. Otherwise it is as Delete.
func (c *Client) Shorten(ctx context.Context, a *account.Account, hashes []string, expiry int64) error {
	text := rpc.ExpireText(rpc.ExpireShorten, []int64{expiry}, hashes)
	params := map[string]any{"messages": hashes, "expiry": expiry, "shorten": true}
	return c.tell(ctx, Own(a), "expire", text, params, func(body []byte) (map[path.Key]signed, error) {
		said, err := ParseExpire(body)
		proofs := make(map[path.Key]signed)
		for k, m := range said {
			// A node keeps to its own bounds, so that what it has applied may be sooner.
			if !m.Failed && !slices.ContainsFunc(m.Expiries, func(e int64) bool { return e > expiry }) {
				proofs[k] = signed{rpc.ExpireResultText(a.ID(), m.Expiries, hashes, m.Updated, m.Unchanged), m.Signature}
			}
		}
		return proofs, err
	})
}

// signed is what a member says that it did, and its signature.
type signed struct{ text, signature []byte }

// tell sends a signed request to members of the account's swarm until one has done
// it, or has had another one do it, and that is signed for.
func (c *Client) tell(ctx context.Context, who Authority, method string, text []byte, params map[string]any, proofs func(body []byte) (map[path.Key]signed, error)) error {
	who.Authorize(params, text)
	owner := who.Group()
	tried := make(map[path.Key]bool)
	var err error
	for range storeTries {
		var members []swarm.Node
		if members, _, err = c.Swarm(ctx, owner); err != nil {
			return err
		}
		node := untried(members, tried)
		var reply path.Reply
		if reply, err = c.call(ctx, node, method, params); err == nil {
			var said map[path.Key]signed
			if said, err = proofs(reply.Body); err == nil && c.proven(owner, node, said) == 0 {
				err = fmt.Errorf("%w: %s: no member has signed for it", ErrReply, method)
			}
			if err == nil {
				c.pool.Cleared(node.Ed25519)
				return nil
			}
			c.pool.StrikeNode(node.Ed25519)
		}
		switch {
		case errors.Is(err, path.ErrWrongSwarm):
			c.wrongSwarm(owner, node.Ed25519, reply.Body)
		case errors.Is(err, ErrReply):
		case !path.Retryable(err):
			return err
		}
		if err := Pause(ctx, storePause); err != nil {
			return err
		}
	}
	return err
}

// proven counts the members whose signature is right. Only members that the network
// named before count, and the one that was asked: a node could make up any number of
// others.
func (c *Client) proven(id account.ID, asked swarm.Node, said map[path.Key]signed) (n int) {
	for _, k := range c.memberKeys(id, asked) {
		if s, ok := said[k]; ok && keys.Verify(k, s.text, s.signature) {
			n++
		}
	}
	return n
}

// memberKeys are the keys of the members of a swarm, with that of the node that was
// asked as one.
func (c *Client) memberKeys(id account.ID, asked swarm.Node) []path.Key {
	var members []path.Key
	for _, n := range c.membersOf(id) {
		members = append(members, n.Ed25519)
	}
	if !slices.Contains(members, asked.Ed25519) {
		members = append(members, asked.Ed25519)
	}
	return members
}

// ParseDelete reads the answer to delete: the hashes that each member deleted, in
// the order in which it signed them. Whether the signatures are right is for the
// caller to find out.
func ParseDelete(body []byte) (map[path.Key]DeleteReply, error) {
	return parseMembers(body, "delete", func(raw json.RawMessage) DeleteReply {
		var m struct {
			Failed    truth    `json:"failed"`
			Deleted   []string `json:"deleted"`
			Signature string   `json:"signature"`
		}
		err := json.Unmarshal(raw, &m)
		signature, err2 := decode64(m.Signature)
		return DeleteReply{Failed: bool(m.Failed) || err != nil || err2 != nil || m.Deleted == nil, Deleted: m.Deleted, Signature: signature}
	})
}

// ExpireReply is what one member says about an expire.
type ExpireReply struct {
	Failed    bool
	Expiries  []int64 // ms, as they were applied
	Updated   []string
	Unchanged map[string]int64 // messages that were left alone, and their expiry in ms
	Signature []byte
}

// ParseExpire reads the answer to expire. Whether the signatures are right is for
// the caller to find out.
func ParseExpire(body []byte) (map[path.Key]ExpireReply, error) {
	return parseMembers(body, "expire", func(raw json.RawMessage) ExpireReply {
		var m struct {
			Failed    truth             `json:"failed"`
			Expiry    numbers           `json:"expiry"`
			Updated   []string          `json:"updated"`
			Unchanged map[string]number `json:"unchanged"`
			Signature string            `json:"signature"`
		}
		err := json.Unmarshal(raw, &m)
		signature, err2 := decode64(m.Signature)
		e := ExpireReply{Failed: bool(m.Failed) || err != nil || err2 != nil || m.Expiry == nil || m.Updated == nil,
			Expiries: m.Expiry, Updated: m.Updated, Unchanged: make(map[string]int64), Signature: signature}
		for h, ms := range m.Unchanged {
			e.Unchanged[h] = int64(ms)
		}
		return e
	})
}

// numbers reads one number, or a list of them.
type numbers []int64

func (n *numbers) UnmarshalJSON(b []byte) error {
	var one number
	if json.Unmarshal(b, &one) == nil && string(b) != "null" {
		*n = numbers{int64(one)}
		return nil
	}
	var list []number
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*n = nil
	for _, v := range list {
		*n = append(*n, int64(v))
	}
	return nil
}

// parseMembers reads what every member of a swarm says in an answer.
func parseMembers[T any](body []byte, method string, read func(json.RawMessage) T) (map[path.Key]T, error) {
	var reply struct {
		Swarm map[string]json.RawMessage `json:"swarm"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrReply, method, err)
	}
	members := make(map[path.Key]T)
	for name, raw := range reply.Swarm {
		var key path.Key
		if len(members) < maxMembers && parseKey(&key, name) {
			members[key] = read(raw)
		}
	}
	return members, nil
}

// Expiries asks members of the account's swarm, two of them if there are so many,
// when messages end there, in ms. What they do not agree upon ends at the later of
// the times; a message that one of them does not have is left out. Errors:
// [ErrNoSwarm], [ErrReply], and those of package path.
func (c *Client) Expiries(ctx context.Context, a *account.Account, hashes []string) (map[string]int64, error) {
	const voices = 2
	members, _, err := c.Swarm(ctx, a.ID())
	if err != nil {
		return nil, err
	}
	want := min(voices, len(members))
	var agreed map[string]int64
	answers := 0
	for _, node := range members[:min(len(members), storeTries)] {
		var said map[string]int64
		if said, err = c.expiries(ctx, a, node, hashes); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue
		}
		if answers++; answers == 1 {
			agreed = said
		} else {
			for h, ms := range agreed {
				if other, ok := said[h]; !ok {
					delete(agreed, h)
				} else {
					agreed[h] = max(ms, other)
				}
			}
		}
		if answers == want {
			return agreed, nil
		}
	}
	return nil, fmt.Errorf("asking when messages end: %d answers: %w", answers, err)
}

func (c *Client) expiries(ctx context.Context, a *account.Account, node swarm.Node, hashes []string) (map[string]int64, error) {
	now := c.clock.Now().UnixMilli()
	pub := a.Keys().Ed25519()
	reply, err := c.call(ctx, node, "get_expiries", map[string]any{
		"pubkey":         a.ID().String(),
		"pubkey_ed25519": hex.EncodeToString(pub[:]),
		"messages":       hashes,
		"timestamp":      now,
		"signature":      base64.StdEncoding.EncodeToString(a.Keys().Sign(rpc.GetExpiriesText(now, hashes))),
	})
	if errors.Is(err, path.ErrWrongSwarm) {
		c.wrongSwarm(a.ID(), node.Ed25519, reply.Body)
	}
	if err != nil {
		return nil, err
	}
	said, err := ParseExpiries(reply.Body)
	if err != nil {
		c.pool.StrikeNode(node.Ed25519)
		return nil, err
	}
	c.pool.Cleared(node.Ed25519)
	return said, nil
}

// ParseExpiries reads the answer to get_expiries: times in ms by hash. Times that
// are none are left out.
func ParseExpiries(body []byte) (map[string]int64, error) {
	var reply struct {
		Expiries map[string]json.Number `json:"expiries"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("%w: get_expiries: %w", ErrReply, err)
	}
	if reply.Expiries == nil {
		return nil, fmt.Errorf("%w: get_expiries without times", ErrReply)
	}
	times := make(map[string]int64)
	for h, n := range reply.Expiries {
		if ms, err := strconv.ParseInt(n.String(), 10, 64); err == nil && plausible(ms) && len(h) == hashSize {
			times[h] = ms
		}
	}
	return times, nil
}
