package mailbox

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"hearth/node/account"
	"hearth/node/keys"
	"hearth/node/messenger/path"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// Deleted says what became of a request to delete everything.
type Deleted struct {
	Members  int // members that signed that they did it
	Swarm    int // members of the swarm
	Messages int // the most that one member deleted
}

// DeleteAll removes everything that the account's swarm keeps for it, in all
// namespaces. One member passes the request on to the others, and each signs what
// it deleted; a member whose signature is missing is asked directly. The error is
// nil when all members have confirmed; otherwise it says what went wrong last, and
// the result says how far it got.
func (c *Client) DeleteAll(ctx context.Context, a *account.Account) (Deleted, error) {
	members, all, err := c.Swarm(ctx, a.ID())
	if err != nil {
		return Deleted{}, err
	}
	confirmed := make(map[path.Key]bool)
	result := Deleted{Swarm: max(all, len(members))}
	moved, last := false, error(nil)
	for i := 0; i < len(members); i++ {
		node := members[i]
		if confirmed[node.Ed25519] {
			continue
		}
		var got map[path.Key]int
		for range storeTries {
			if got, err = c.deleteAll(ctx, a, node); err == nil || ctx.Err() != nil || !path.Retryable(err) || errors.Is(err, path.ErrWrongSwarm) {
				break
			}
			if pauseErr := Pause(ctx, storePause); pauseErr != nil {
				break
			}
		}
		if errors.Is(err, path.ErrWrongSwarm) && !moved {
			// The others are of another swarm by now as well; begin anew, once.
			if members, all, err = c.Swarm(ctx, a.ID()); err != nil {
				return result, err
			}
			clear(confirmed)
			moved, i, last = true, -1, nil
			result = Deleted{Swarm: max(all, len(members))}
			continue
		}
		if err != nil {
			last = err
			if ctx.Err() != nil {
				break
			}
			continue
		}
		for k, n := range got {
			confirmed[k] = true
			result.Messages = max(result.Messages, n)
		}
	}
	for _, m := range c.membersOf(a.ID()) {
		if confirmed[m.Ed25519] {
			result.Members++
		}
	}
	switch {
	case result.Members >= result.Swarm:
		return result, nil
	case last == nil:
		last = ErrReply
	}
	return result, fmt.Errorf("deleting at all members: %w", last)
}

// deleteAll asks one member and returns the members whose signatures are right,
// with the number of messages that each deleted.
func (c *Client) deleteAll(ctx context.Context, a *account.Account, node swarm.Node) (map[path.Key]int, error) {
	corrections := c.clock.corrections()
	at, reply, err := c.askDeleteAll(ctx, a, node)
	if errors.Is(err, path.ErrClock) {
		moved, correctErr := c.correct(ctx, corrections, node.Ed25519)
		if correctErr != nil {
			return nil, correctErr
		}
		if moved {
			at, reply, err = c.askDeleteAll(ctx, a, node)
		}
		if errors.Is(err, path.ErrClock) {
			c.pool.StrikeNode(node.Ed25519)
		}
	}
	if errors.Is(err, path.ErrWrongSwarm) {
		c.wrongSwarm(a.ID(), node.Ed25519, reply.Body)
	}
	if err != nil {
		return nil, err
	}
	said, err := ParseDeleteAll(reply.Body)
	if err != nil {
		c.pool.StrikeNode(node.Ed25519)
		return nil, err
	}
	got := make(map[path.Key]int)
	for k, m := range said {
		if !m.Failed && keys.Verify(k, rpc.AffectedResultText(a.ID(), at, m.Deleted), m.Signature) {
			got[k] = len(m.Deleted)
		}
	}
	if _, own := got[node.Ed25519]; !own {
		c.pool.StrikeNode(node.Ed25519)
		return got, fmt.Errorf("%w: the member does not confirm what it was asked for", ErrReply)
	}
	c.pool.Cleared(node.Ed25519)
	return got, nil
}

func (c *Client) askDeleteAll(ctx context.Context, a *account.Account, node swarm.Node) (int64, path.Reply, error) {
	if !plausible(c.clock.Now().UnixMilli()) {
		if err := c.correctFirst(ctx); err != nil {
			return 0, path.Reply{}, err
		}
	}
	now := c.clock.Now().UnixMilli()
	pub := a.Keys().Ed25519()
	reply, err := c.call(ctx, node, "delete_all", map[string]any{
		"pubkey":         a.ID().String(),
		"pubkey_ed25519": hex.EncodeToString(pub[:]),
		"namespace":      "all",
		"timestamp":      now,
		"signature":      base64.StdEncoding.EncodeToString(a.Keys().Sign(rpc.DeleteAllText(rpc.AllNamespaces, now))),
	})
	return now, reply, err
}

// membersOf returns the swarm as it is known now.
func (c *Client) membersOf(id account.ID) []swarm.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.swarms[id]; k != nil {
		return slices.Clone(k.nodes)
	}
	return nil
}

// DeleteReply is what one member says about a delete or a delete_all.
type DeleteReply struct {
	Failed    bool
	Deleted   []string // as it is signed; of a delete_all ascending
	Signature []byte
}

// ParseDeleteAll reads the answer to delete_all. Whether the signatures are right
// is for the caller to find out.
func ParseDeleteAll(body []byte) (map[path.Key]DeleteReply, error) {
	return parseMembers(body, "delete_all", func(raw json.RawMessage) DeleteReply {
		var m struct {
			Failed    truth           `json:"failed"`
			Deleted   json.RawMessage `json:"deleted"`
			Signature string          `json:"signature"`
		}
		if json.Unmarshal(raw, &m) != nil {
			return DeleteReply{Failed: true}
		}
		hashes, ok := deletedHashes(m.Deleted)
		signature, err := decode64(m.Signature)
		return DeleteReply{Failed: bool(m.Failed) || !ok || err != nil, Deleted: hashes, Signature: signature}
	})
}

// deletedHashes reads a list, or an object of lists by namespace, and sorts all of
// it together.
func deletedHashes(raw json.RawMessage) ([]string, bool) {
	var hashes []string
	var byNamespace map[string][]string
	switch {
	case len(raw) == 0:
		return nil, false
	case json.Unmarshal(raw, &hashes) == nil:
	case json.Unmarshal(raw, &byNamespace) == nil:
		for _, list := range byNamespace {
			hashes = append(hashes, list...)
		}
	default:
		return nil, false
	}
	slices.Sort(hashes)
	return hashes, true
}
