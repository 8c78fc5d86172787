package mailbox

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"hearth/node/account"
	"hearth/node/messenger/path"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// Authority signs requests to one swarm. A *group.Signer is it, for a group, and so
// is what [Own] returns.
type Authority interface {
	// Group is whose swarm it is.
	Group() account.ID
	// Authorize adds to the parameters of a request who signs its text, and for whom.
	Authorize(params map[string]any, text []byte)
}

// Own is the authority of an account over its own swarm.
func Own(a *account.Account) Authority { return ownAuthority{a} }

type ownAuthority struct{ a *account.Account }

func (o ownAuthority) Group() account.ID { return o.a.ID() }

func (o ownAuthority) Authorize(params map[string]any, text []byte) {
	pub := o.a.Keys().Ed25519()
	params["pubkey"] = o.a.ID().String()
	params["pubkey_ed25519"] = hex.EncodeToString(pub[:])
	params["signature"] = base64.StdEncoding.EncodeToString(o.a.Keys().Sign(text))
}

// StoreAs is [Client.Store] for a namespace in which only those may store who are
// let in. It is [path.ErrRefused] when who is not.
func (c *Client) StoreAs(ctx context.Context, who Authority, namespace int16, ttl time.Duration, stamp func() int64, seal func(ms int64) ([]byte, error)) (Stored, error) {
	return c.store(ctx, who.Group(), who, namespace, ttl, stamp, seal)
}

// Bounds of one sequence: what nodes take, and what a small device holds at a time.
const (
	maxSequence     = 20
	maxSequenceSize = 1 << 20 // bytes before base64
)

// Page is what one namespace has.
type Page struct {
	Namespace int16
	Refused   bool // who asks may not read it (status 401)
	Messages  []Message
	More      bool
}

// RetrieveAll fetches what one member keeps in several namespaces, in one request
// and in their order, each after the message with the hash at the same place in
// last, "" for the beginning. Otherwise it is as [Client.Retrieve]; a namespace
// that may not be read is no error.
func (c *Client) RetrieveAll(ctx context.Context, who Authority, from swarm.Node, namespaces []int16, last []string) ([]Page, error) {
	if !plausible(c.clock.Now().UnixMilli()) {
		if err := c.correctFirst(ctx); err != nil {
			return nil, err
		}
	}
	corrections := c.clock.corrections()
	pages, err := c.retrieveAll(ctx, who, from, namespaces, last)
	if !errors.Is(err, path.ErrClock) {
		return pages, err
	}
	moved, correctErr := c.correct(ctx, corrections, from.Ed25519)
	if correctErr != nil {
		return nil, correctErr
	}
	if moved {
		pages, err = c.retrieveAll(ctx, who, from, namespaces, last)
	}
	if errors.Is(err, path.ErrClock) {
		c.pool.StrikeNode(from.Ed25519)
	}
	return pages, err
}

func (c *Client) retrieveAll(ctx context.Context, who Authority, from swarm.Node, namespaces []int16, last []string) ([]Page, error) {
	now := c.clock.Now().UnixMilli()
	var requests []any
	for i, ns := range namespaces {
		params := map[string]any{
			"namespace": ns,
			"last_hash": last[i],
			"max_size":  2 * retrieveSize,
			"timestamp": now,
		}
		who.Authorize(params, rpc.RetrieveText(ns, now))
		requests = append(requests, map[string]any{"method": "retrieve", "params": params})
	}
	results, reply, err := c.batch(ctx, from, "batch", requests)
	if err != nil {
		return nil, err
	}
	if len(results) != len(namespaces) {
		c.pool.StrikeNode(from.Ed25519)
		return nil, fmt.Errorf("%w: %d results of %d requests", ErrReply, len(results), len(namespaces))
	}
	pages := make([]Page, len(namespaces))
	for i, r := range results {
		pages[i].Namespace = namespaces[i]
		if r.Code == 401 {
			pages[i].Refused = true
			continue
		}
		if r.Code != 200 {
			return nil, c.refusal(who.Group(), from, r)
		}
		messages, more, err := ParseRetrieve(r.Body)
		if err != nil {
			c.pool.StrikeNode(from.Ed25519)
			return nil, err
		}
		if i == 0 {
			c.observe(from, r.Body, reply)
		}
		pages[i].Messages = c.genuine(who.Group(), from, namespaces[i], messages)
		pages[i].More = more || len(messages) >= manyMessages
	}
	return pages, nil
}

// batch sends several requests as one, a batch or a sequence.
func (c *Client) batch(ctx context.Context, to swarm.Node, method string, requests []any) ([]Result, path.Reply, error) {
	reply, err := c.call(ctx, to, method, map[string]any{"requests": requests})
	if err != nil {
		return nil, reply, err
	}
	results, err := ParseBatch(reply.Body)
	if err != nil {
		c.pool.StrikeNode(to.Ed25519)
	}
	return results, reply, err
}

// refusal is the error of one request of a batch.
func (c *Client) refusal(owner account.ID, from swarm.Node, r Result) error {
	v := path.Judge(r.Code, "", from.Ed25519)
	if v.Fault == path.FaultNode {
		c.pool.StrikeNode(from.Ed25519)
	}
	if errors.Is(v.Err, path.ErrWrongSwarm) {
		c.wrongSwarm(owner, from.Ed25519, r.Body)
	}
	return &path.StatusError{Verdict: v, Status: r.Code, Text: excerpt(r.Body)}
}

// Item is one message of a sequence.
type Item struct {
	Namespace int16
	Data      []byte
	TTL       time.Duration
}

// Call is one further request of a sequence, signed already.
type Call struct {
	Method string
	Params map[string]any
}

// Sequence has one member store items, then carry out calls, then delete messages,
// each only if everything before it was done. It returns the hashes of the items, ""
// for those that were not stored, and whether everything was done. As many requests
// are made as are needed. The error says why the first thing failed that did.
func (c *Client) Sequence(ctx context.Context, who Authority, to swarm.Node, items []Item, calls []Call, obsolete []string) (hashes []string, done bool, err error) {
	// Nodes refuse what comes from the future.
	if !c.clock.known() {
		if err := c.correctFirst(ctx); err != nil {
			return nil, false, err
		}
	}
	hashes = make([]string, len(items))
	var steps []step
	for i, item := range items {
		steps = append(steps, c.storing(who, item, &hashes[i]))
	}
	for _, call := range calls {
		steps = append(steps, step{call: call, proofs: revokeProofs(who.Group(), call)})
	}
	if len(obsolete) > 0 {
		params := map[string]any{"messages": obsolete}
		who.Authorize(params, rpc.DeleteText(obsolete))
		steps = append(steps, step{call: Call{"delete", params}, proofs: func(body []byte) (map[path.Key]signed, error) {
			said, err := ParseDelete(body)
			proofs := make(map[path.Key]signed)
			for k, m := range said {
				if !m.Failed {
					proofs[k] = signed{rpc.DeleteResultText(who.Group(), obsolete, m.Deleted), m.Signature}
				}
			}
			return proofs, err
		}})
	}
	for len(steps) > 0 {
		n, size := 0, 0
		for n < len(steps) && n < maxSequence && (n == 0 || size+steps[n].size <= maxSequenceSize) {
			size += steps[n].size
			n++
		}
		if err := c.run(ctx, who.Group(), to, steps[:n]); err != nil {
			return hashes, false, err
		}
		steps = steps[n:]
	}
	return hashes, true, nil
}

// step is one request of a sequence.
type step struct {
	call Call
	size int
	hash string  // that the item must have
	into *string // where it is noted when it is stored; nil for what is no item
	// proofs reads what members say that they did; nil for what is not signed for.
	proofs func(body []byte) (map[path.Key]signed, error)
}

// revokeProofs are for revoke_subaccount and unrevoke_subaccount.
func revokeProofs(owner account.ID, call Call) func(body []byte) (map[path.Key]signed, error) {
	field, ok := strings.CutSuffix(call.Method, "_subaccount")
	texts, isList := call.Params[field].([]string)
	at, isTime := call.Params["timestamp"].(int64)
	if !ok || !isList || !isTime {
		return nil
	}
	var tokens []rpc.Token
	for _, text := range texts {
		token, err := rpc.ParseToken(text)
		if err != nil {
			return nil // the nodes will say so
		}
		tokens = append(tokens, token)
	}
	return func(body []byte) (map[path.Key]signed, error) {
		return parseMembers(body, call.Method, func(raw json.RawMessage) signed {
			var m struct {
				Failed    truth  `json:"failed"`
				Signature string `json:"signature"`
			}
			if json.Unmarshal(raw, &m) != nil || bool(m.Failed) {
				return signed{}
			}
			signature, _ := decode64(m.Signature)
			return signed{rpc.RevokeResultText(owner, at, tokens), signature}
		})
	}
}

func (c *Client) storing(who Authority, item Item, into *string) step {
	at := c.clock.Now().UnixMilli()
	params := map[string]any{
		"namespace": item.Namespace,
		"timestamp": at,
		"ttl":       item.TTL.Milliseconds(),
		"data":      base64.StdEncoding.EncodeToString(item.Data),
	}
	who.Authorize(params, rpc.StoreText(item.Namespace, at))
	return step{call: Call{"store", params}, size: len(item.Data), hash: rpc.MessageHash(who.Group(), item.Namespace, item.Data), into: into}
}

func (c *Client) run(ctx context.Context, owner account.ID, to swarm.Node, steps []step) error {
	requests := make([]any, len(steps))
	for i, s := range steps {
		requests[i] = map[string]any{"method": s.call.Method, "params": s.call.Params}
	}
	results, _, err := c.batch(ctx, to, "sequence", requests)
	if err != nil {
		return err
	}
	for i, s := range steps {
		switch {
		case i >= len(results):
			c.pool.StrikeNode(to.Ed25519)
			return fmt.Errorf("%w: %d results of %d requests", ErrReply, len(results), len(steps))
		case results[i].Code != 200:
			return fmt.Errorf("%s: %w", s.call.Method, c.refusal(owner, to, results[i]))
		case s.proofs != nil:
			said, err := s.proofs(results[i].Body)
			if err == nil && c.proven(owner, to, said) == 0 {
				err = fmt.Errorf("%w: %s: no member has signed for it", ErrReply, s.call.Method)
			}
			if err != nil {
				c.pool.StrikeNode(to.Ed25519)
				return err
			}
			continue
		case s.into == nil:
			continue
		}
		if _, err := c.confirmed(owner, to, s.hash, results[i].Body); err != nil {
			c.pool.StrikeNode(to.Ed25519)
			return err
		}
		*s.into = s.hash
	}
	c.pool.Cleared(to.Ed25519)
	return nil
}

// Extend has the swarm keep messages until expiry, in ms, if they would end sooner.
// Otherwise it is as [Client.Delete].
func (c *Client) Extend(ctx context.Context, who Authority, hashes []string, expiry int64) error {
	text := rpc.ExpireText(rpc.ExpireExtend, []int64{expiry}, hashes)
	params := map[string]any{"messages": hashes, "expiry": expiry, "extend": true}
	return c.tell(ctx, who, "expire", text, params, func(body []byte) (map[path.Key]signed, error) {
		said, err := ParseExpire(body)
		proofs := make(map[path.Key]signed)
		for k, m := range said {
			if !m.Failed {
				proofs[k] = signed{rpc.ExpireResultText(who.Group(), m.Expiries, hashes, m.Updated, m.Unchanged), m.Signature}
			}
		}
		return proofs, err
	})
}

// AwaitMessages asks a member to answer when a message comes into one of the
// namespaces, in ascending order, after those with the hashes in last, or when wait
// is over; it reports whether there is something to retrieve. Errors are those of
// [Client.Monitor].
func (c *Client) AwaitMessages(ctx context.Context, who Authority, from swarm.Node, namespaces []int16, last []string, wait time.Duration) (bool, error) {
	at, owner := c.clock.Now().Unix(), who.Group()
	signed := make(map[string]any)
	who.Authorize(signed, rpc.MonitorText(owner, at, false, namespaces))
	params := map[string]any{"p": owner.String(), "d": 0, "n": namespaces, "h": last, "t": at, "w": wait.Milliseconds(), "s": signed["signature"]}
	if token, ok := signed["subaccount"]; ok {
		params["T"], params["S"] = token, signed["subaccount_sig"]
	}
	request, err := json.Marshal(map[string]any{"method": "monitor", "params": params})
	if err != nil {
		return false, fmt.Errorf("monitor: %w", err)
	}
	reply, err := c.net.Ask(path.Waiting(ctx), from, request)
	if err != nil {
		return false, fmt.Errorf("monitor: %w", c.monitorError(owner, from, reply, err))
	}
	for _, ns := range namespaces {
		messages, more, err := ParseMonitor(reply.Body, ns)
		if err != nil {
			c.pool.StrikeNode(from.Ed25519)
			return false, err
		}
		if len(messages) > 0 || more {
			return true, nil
		}
	}
	return false, nil
}

// KnowTime learns the network's time, unless it is known. The error is that of
// nodes that do not tell it.
func (c *Client) KnowTime(ctx context.Context) error {
	if c.clock.known() {
		return nil
	}
	if err := c.correctFirst(ctx); err != nil {
		return err
	}
	if !c.clock.known() {
		return path.ErrClock
	}
	return nil
}
