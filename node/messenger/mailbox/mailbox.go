// Package mailbox is the messenger's side of the storage network: it finds the
// swarm that keeps an account's messages, stores messages there and fetches
// them.
//
// Sealed bytes come in through [Client.Store] and [Client.Retrieve] gives them
// back. Every request goes through the [Transport], which is a path of three
// nodes; this package never opens a connection. It keeps the swarms it has
// learned and the network's time ([Clock]), and repeats what is worth repeating
// in the way that Session desktop does. All replies are read as a stranger's:
// what a node claims is checked against signatures and hashes where there are
// any, and bounded where there are none.
package mailbox

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hearth/node/account"
	"hearth/node/messenger/path"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// Figures of the storage network (storage server, Session desktop).
const (
	TTL        = 14 * 24 * time.Hour    // of an ordinary message
	minSwarm   = 3                      // members below which a swarm is asked for again
	storeTries = 3                      // members that are tried for one message
	storePause = 100 * time.Millisecond // between them
	askTries   = 3                      // nodes asked which swarm an account has
	maxSwarms  = 256                    // accounts whose swarm is remembered
	// Again at once when a reply is that full.
	manyMessages = 95
	// A tenth of the 7.8 MB that a node would send at most: a small device must
	// hold the reply, its JSON and its decoded form at the same time.
	retrieveSize = -10

	swarmPause = 30 * time.Second // before asking again for a swarm that is too small
	clockPause = 10 * time.Second // before asking three nodes for the time again
)

// Errors of this package, for errors.Is. Those of package path come through as
// well.
var (
	ErrReply   = errors.New("the service node's answer makes no sense")
	ErrNoSwarm = errors.New("no swarm is known for the account")
)

// Transport carries one request to one service node. [*path.Client] is it.
type Transport interface {
	Ask(ctx context.Context, destination swarm.Node, body []byte) (path.Reply, error)
}

// Client talks to swarms. It is safe for concurrent use.
type Client struct {
	net   Transport
	pool  *path.Pool
	clock *Clock
	log   *slog.Logger

	mu     sync.Mutex
	swarms map[account.ID]*known

	syncing sync.Mutex // one clock correction at a time
	synced  time.Time
	refused path.Key // the node that did not agree with the last correction

	unknown chan struct{}
}

// known is a swarm as the network described it.
type known struct {
	nodes []swarm.Node
	asked time.Time
	used  time.Time
}

// New makes a client that finds nodes in pool.
func New(net Transport, pool *path.Pool, clock *Clock, log *slog.Logger) *Client {
	return &Client{
		net: net, pool: pool, clock: clock, log: log,
		swarms:  make(map[account.ID]*known),
		unknown: make(chan struct{}, 1),
	}
}

// Unknown receives when a swarm has members that the pool does not know, which
// means that the pool is old.
func (c *Client) Unknown() <-chan struct{} { return c.unknown }

// Swarm returns the members of the account's swarm that are in the pool, in
// random order, and the number of all members. It asks the network when it must.
// The error is [ErrNoSwarm] or why nobody answered.
func (c *Client) Swarm(ctx context.Context, id account.ID) ([]swarm.Node, int, error) {
	usable, all, fresh := c.remembered(id)
	if len(usable) >= minSwarm || fresh && len(usable) > 0 {
		return usable, all, nil
	}
	err := c.askSwarm(ctx, id)
	usable, all, _ = c.remembered(id)
	if len(usable) > 0 {
		return usable, all, nil
	}
	if err == nil {
		err = fmt.Errorf("%w: %d members, none in the node list", ErrNoSwarm, all)
	}
	return nil, all, err
}

// remembered filters by the pool, which is what makes a dropped node disappear
// from every swarm.
func (c *Client) remembered(id account.ID) (usable []swarm.Node, all int, fresh bool) {
	c.mu.Lock()
	k := c.swarms[id]
	if k == nil {
		c.mu.Unlock()
		return nil, 0, false
	}
	k.used = c.clock.local()
	fresh = c.clock.local().Sub(k.asked) < swarmPause
	nodes := k.nodes
	c.mu.Unlock()
	for _, n := range nodes {
		// The pool's description counts: a node that answers get_swarm must not be
		// able to put its own key in the place of another's.
		if own, ok := c.pool.Find(n.Ed25519); ok {
			usable = append(usable, own)
		}
	}
	c.pool.Shuffle(usable)
	return usable, len(nodes), fresh
}

func (c *Client) askSwarm(ctx context.Context, id account.ID) error {
	nodes := c.pool.Random(askTries, nil)
	if len(nodes) == 0 {
		return path.ErrTooFewNodes
	}
	var err error
	for _, n := range nodes {
		var reply path.Reply
		reply, err = c.call(ctx, n, "get_swarm", map[string]any{"pubkey": id.String()})
		if err == nil {
			var members []swarm.Node
			if members, err = ParseSwarm(reply.Body); err == nil && len(members) == 0 {
				err = ErrNoSwarm
			}
			if err == nil {
				c.pool.Cleared(n.Ed25519)
				c.adopt(id, members)
				return nil
			}
			c.pool.StrikeNode(n.Ed25519)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("asking for the swarm of an account: %w", err)
}

// adopt takes a swarm as the right one from now on.
func (c *Client) adopt(id account.ID, members []swarm.Node) {
	now := c.clock.local()
	c.mu.Lock()
	if len(c.swarms) >= maxSwarms {
		var oldest account.ID
		var used time.Time
		for k, v := range c.swarms {
			if used.IsZero() || v.used.Before(used) {
				oldest, used = k, v.used
			}
		}
		delete(c.swarms, oldest)
	}
	c.swarms[id] = &known{nodes: members, asked: now, used: now}
	c.mu.Unlock()
	if slices.ContainsFunc(members, func(n swarm.Node) bool { _, ok := c.pool.Find(n.Ed25519); return !ok }) {
		select {
		case c.unknown <- struct{}{}:
		default:
		}
	}
}

// wrongSwarm acts on status 421: the body names the right swarm; without a
// usable one the node that answered is not asked for this account again.
func (c *Client) wrongSwarm(id account.ID, from path.Key, body []byte) {
	members, err := ParseSwarm(body)
	members = slices.DeleteFunc(members, func(n swarm.Node) bool { return n.Ed25519 == from })
	if err == nil && len(members) > 0 {
		c.adopt(id, members)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.swarms[id]; k != nil {
		k.nodes = slices.DeleteFunc(slices.Clone(k.nodes), func(n swarm.Node) bool { return n.Ed25519 == from })
	}
}

// Stored says where a message went.
type Stored struct {
	Hash      string
	Data      []byte
	Timestamp int64 // ms of network time, as given to seal
	Members   int   // members whose signature over the hash was right
	Swarm     int   // members of the swarm
}

// Store puts a message into namespace 0 of the account's swarm, where anybody
// may store, for the time ttl. seal makes the bytes for a network time; it is called again only when the time turns out to be wrong
// and no node can have the bytes yet, so that a repeated store is the same
// message. One member that took it is enough, because members copy to each
// other.
//
// The errors are [ErrNoSwarm], those of package path, and seal's.
func (c *Client) Store(ctx context.Context, to account.ID, ttl time.Duration, stamp func() int64, seal func(ms int64) ([]byte, error)) (Stored, error) {
	return c.store(ctx, to, nil, 0, ttl, stamp, seal)
}

// store signs as who, unless that is nil.
func (c *Client) store(ctx context.Context, to account.ID, who Authority, namespace int16, ttl time.Duration, stamp func() int64, seal func(ms int64) ([]byte, error)) (Stored, error) {
	var s Stored
	var err error
	var corrections int // when the message was made
	var uncertain bool  // a node may have the bytes
	remake := func() error {
		corrections = c.clock.corrections()
		s.Timestamp = stamp()
		if uncertain {
			return nil
		}
		if s.Data, err = seal(s.Timestamp); err != nil {
			return err
		}
		s.Hash = rpc.MessageHash(to, namespace, s.Data)
		return nil
	}
	corrected := false
	// Nodes refuse a message from the future, but not one from the past: the time
	// has to be right before the first one.
	if !c.clock.known() {
		if err := c.correctFirst(ctx); err != nil {
			return Stored{}, err
		}
	}
	if err := remake(); err != nil {
		return Stored{}, err
	}
	tried := make(map[path.Key]bool)
	for try := 0; try < storeTries; {
		members, all, swarmErr := c.Swarm(ctx, to)
		if swarmErr != nil {
			return Stored{}, swarmErr
		}
		node := untried(members, tried)

		params := map[string]any{
			"pubkey":    to.String(),
			"namespace": namespace,
			"timestamp": s.Timestamp,
			"ttl":       ttl.Milliseconds(),
			"data":      base64.StdEncoding.EncodeToString(s.Data),
		}
		if who != nil {
			who.Authorize(params, rpc.StoreText(namespace, s.Timestamp))
		}
		var reply path.Reply
		reply, err = c.call(ctx, node, "store", params)
		switch {
		case err == nil:
			if s.Members, err = c.confirmed(to, node, s.Hash, reply.Body); err == nil {
				c.pool.Cleared(node.Ed25519)
				s.Swarm = max(all, s.Members)
				return s, nil
			}
			uncertain = true
			c.pool.StrikeNode(node.Ed25519)
		case errors.Is(err, path.ErrClock):
			// A time that was corrected just now is right, so that the node's is
			// wrong: another one is tried.
			moved, correctErr := c.correct(ctx, corrections, node.Ed25519)
			switch {
			case correctErr != nil:
				return Stored{}, correctErr
			case !moved || corrected:
				c.pool.StrikeNode(node.Ed25519)
			default:
				if err := remake(); err != nil {
					return Stored{}, err
				}
				corrected = true
				delete(tried, node.Ed25519)
				continue // nobody's fault: it does not count as a try
			}
		case errors.Is(err, path.ErrWrongSwarm):
			c.wrongSwarm(to, node.Ed25519, reply.Body)
		case !path.Retryable(err):
			return Stored{}, err
		default:
			uncertain = true
		}
		if ctx.Err() != nil {
			return Stored{}, ctx.Err()
		}
		c.log.Debug("storing again", "try", try+1, "err", err)
		try++
		if try < storeTries {
			if err := Pause(ctx, storePause); err != nil {
				return Stored{}, err
			}
		}
	}
	return Stored{}, fmt.Errorf("storing the message: %w", err)
}

// confirmed counts the members that signed the hash.
func (c *Client) confirmed(to account.ID, asked swarm.Node, hash string, body []byte) (int, error) {
	reply, err := ParseStore(body)
	if err != nil {
		return 0, err
	}
	if reply.Hash != hash {
		return 0, fmt.Errorf("%w: stored under another hash", ErrReply)
	}
	said := make(map[path.Key]signed)
	for k, r := range reply.Members {
		if !r.Failed && r.Hash == hash {
			said[k] = signed{rpc.StoreResultText(hash), r.Signature}
		}
	}
	count := c.proven(to, asked, said)
	if count == 0 {
		return 0, fmt.Errorf("%w: no member confirmed the message", ErrReply)
	}
	return count, nil
}

// Retrieve fetches what one member keeps for the account in a namespace, after
// the message with the hash last ("" = from the start). A second result of true
// says that there is more. Messages whose hash does not fit their bytes are left
// out and counted against the node: accepting them would let it pass garbage off
// as a message that another member still has.
//
// A member of another swarm gives [path.ErrWrongSwarm], after which
// [Client.Swarm] knows better. A wrong clock is corrected once; a node that then
// still disagrees is struck.
func (c *Client) Retrieve(ctx context.Context, a *account.Account, from swarm.Node, namespace int16, last string) ([]Message, bool, error) {
	// Nodes take a time of 1970 for seconds in place of milliseconds, and answer
	// 400: a board that has just woken up has to ask first.
	if !plausible(c.clock.Now().UnixMilli()) {
		if err := c.correctFirst(ctx); err != nil {
			return nil, false, err
		}
	}
	corrections := c.clock.corrections()
	got, more, err := c.retrieve(ctx, a, from, namespace, last)
	if !errors.Is(err, path.ErrClock) {
		return got, more, err
	}
	moved, correctErr := c.correct(ctx, corrections, from.Ed25519)
	if correctErr != nil {
		return nil, false, correctErr
	}
	if moved {
		got, more, err = c.retrieve(ctx, a, from, namespace, last)
	}
	if errors.Is(err, path.ErrClock) {
		c.pool.StrikeNode(from.Ed25519)
	}
	return got, more, err
}

func (c *Client) retrieve(ctx context.Context, a *account.Account, from swarm.Node, namespace int16, last string) ([]Message, bool, error) {
	now := c.clock.Now().UnixMilli()
	pub := a.Keys().Ed25519()
	params := map[string]any{
		"pubkey":         a.ID().String(),
		"pubkey_ed25519": hex.EncodeToString(pub[:]),
		"namespace":      namespace,
		"last_hash":      last,
		"max_size":       retrieveSize,
		"timestamp":      now,
		"signature":      base64.StdEncoding.EncodeToString(a.Keys().Sign(rpc.RetrieveText(namespace, now))),
	}
	reply, err := c.call(ctx, from, "batch", map[string]any{
		"requests": []any{map[string]any{"method": "retrieve", "params": params}},
	})
	if err != nil {
		return nil, false, err
	}
	results, err := ParseBatch(reply.Body)
	if err == nil && len(results) != 1 {
		err = fmt.Errorf("%w: %d results of one request", ErrReply, len(results))
	}
	if err != nil {
		c.pool.StrikeNode(from.Ed25519)
		return nil, false, err
	}
	if code := results[0].Code; code != 200 {
		v := path.Judge(code, "", from.Ed25519)
		if v.Fault == path.FaultNode {
			c.pool.StrikeNode(from.Ed25519)
		}
		if errors.Is(v.Err, path.ErrWrongSwarm) {
			c.wrongSwarm(a.ID(), from.Ed25519, results[0].Body)
		}
		return nil, false, &path.StatusError{Verdict: v, Status: code, Text: excerpt(results[0].Body)}
	}
	messages, more, err := ParseRetrieve(results[0].Body)
	if err != nil {
		c.pool.StrikeNode(from.Ed25519)
		return nil, false, err
	}
	c.observe(from, results[0].Body, reply)
	messages = c.genuine(a.ID(), from, namespace, messages)
	return messages, more || len(messages) >= manyMessages, nil
}

// correctFirst learns the time before anything was refused. When too few nodes
// tell it, a clock that can be right has to do.
func (c *Client) correctFirst(ctx context.Context) error {
	_, err := c.correct(ctx, c.clock.corrections(), path.Key{})
	if plausible(c.clock.Now().UnixMilli()) {
		return ctx.Err()
	}
	return err
}

// correct asks three nodes for the time and takes the median. corrections is what
// the clock's count was when a request was made that the node from refused
// because of its time. The result is true when such a request should be made
// anew, and false when the clock is right already: a correction of the last ten
// seconds holds, unless two nodes say otherwise. (Session android waits ten
// minutes between corrections; a board without a battery gets its clock set
// while this runs, and should not be without messages that long.) The error is
// [path.ErrClock] when too few nodes answer.
func (c *Client) correct(ctx context.Context, corrections int, from path.Key) (bool, error) {
	c.syncing.Lock()
	defer c.syncing.Unlock()
	if c.clock.corrections() != corrections {
		return true, nil // somebody else did it
	}
	if !c.synced.IsZero() && c.clock.local().Sub(c.synced) < clockPause {
		if c.refused == from || c.refused == (path.Key{}) {
			c.refused = from
			return false, nil
		}
	}
	nodes := c.pool.Random(3*sampleNodes, nil)
	var samples []sample
	for len(nodes) > 0 && len(samples) < sampleNodes {
		n := min(sampleNodes-len(samples), len(nodes))
		round := nodes[:n]
		nodes = nodes[n:]
		answers := make([]*sample, len(round))
		var wait sync.WaitGroup
		for i, node := range round {
			wait.Go(func() {
				if t, reply, err := c.info(ctx, node); err == nil {
					answers[i] = &sample{node: node.Ed25519, offset: offset(t, reply)}
				}
			})
		}
		wait.Wait()
		for _, s := range answers {
			if s != nil {
				samples = append(samples, *s)
			}
		}
	}
	if len(samples) < sampleNodes {
		return false, fmt.Errorf("only %d nodes told the time: %w", len(samples), path.ErrClock)
	}
	c.clock.correct(samples)
	c.synced, c.refused = c.clock.local(), path.Key{}
	c.log.Info("clock corrected from the network", "ahead", c.clock.Offset().Round(time.Millisecond))
	return true, nil
}

func (c *Client) info(ctx context.Context, node swarm.Node) (int64, path.Reply, error) {
	body, err := json.Marshal(map[string]any{"method": "info", "params": map[string]any{}})
	if err != nil {
		return 0, path.Reply{}, err
	}
	reply, err := c.net.Ask(ctx, node, body)
	if err != nil {
		return 0, reply, err
	}
	var answer struct {
		Timestamp int64 `json:"timestamp"`
		T         int64 `json:"t"`
	}
	if err := json.Unmarshal(reply.Body, &answer); err != nil || !plausible(max(answer.Timestamp, answer.T)) {
		c.pool.StrikeNode(node.Ed25519)
		return 0, reply, ErrReply
	}
	c.pool.Cleared(node.Ed25519)
	return max(answer.Timestamp, answer.T), reply, nil
}

// NodeList asks three random nodes for the list of service nodes and returns the
// nodes that at least two of them describe in the same way.
func (c *Client) NodeList(ctx context.Context) (*swarm.List, error) {
	const asked, agreed = 3, 2
	var mu sync.Mutex
	votes := make(map[swarm.Node]int)
	answers := 0
	var height uint64
	var lastErr error
	var wait sync.WaitGroup
	for _, n := range c.pool.Random(asked, nil) {
		wait.Go(func() {
			reply, err := c.call(ctx, n, "oxend_request", map[string]any{
				"endpoint": "get_service_nodes",
				"params": map[string]any{"active_only": true, "fields": map[string]bool{
					"public_ip": true, "storage_port": true, "pubkey_x25519": true, "pubkey_ed25519": true,
					"requested_unlock_height": true, "height": true}},
			})
			var l *swarm.List
			if err == nil {
				l, err = ParseNodeList(reply.Body)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				lastErr = err
				return
			}
			answers++
			height = max(height, l.Height)
			for _, n := range l.Nodes {
				votes[n]++
			}
		})
	}
	wait.Wait()
	if answers < agreed {
		return nil, fmt.Errorf("asking nodes for the node list: %d answers: %w", answers, errors.Join(ErrReply, lastErr))
	}
	l := &swarm.List{Height: height}
	for n, v := range votes {
		if v >= agreed {
			l.Nodes = append(l.Nodes, n)
		}
	}
	return l, nil
}

// call sends one method; the reply comes with the error too, because the body of
// status 421 names the right swarm.
func (c *Client) call(ctx context.Context, to swarm.Node, method string, params any) (path.Reply, error) {
	request, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		return path.Reply{}, fmt.Errorf("%s: %w", method, err)
	}
	reply, err := c.net.Ask(ctx, to, request)
	if err != nil {
		return reply, fmt.Errorf("%s: %w", method, err)
	}
	c.observe(to, reply.Body, reply)
	return reply, nil
}

// observe learns the network's time from an answer.
func (c *Client) observe(from swarm.Node, body []byte, reply path.Reply) {
	var answer struct {
		T int64 `json:"t"`
	}
	if json.Unmarshal(body, &answer) == nil && plausible(answer.T) && !reply.Sent.IsZero() {
		c.clock.observe(sample{node: from.Ed25519, offset: offset(answer.T, reply)})
	}
}

// untried picks the first member that was not tried, or the first when all were,
// and notes it.
func untried(members []swarm.Node, tried map[path.Key]bool) swarm.Node {
	node := members[0]
	for _, m := range members {
		if !tried[m.Ed25519] {
			node = m
			break
		}
	}
	tried[node.Ed25519] = true
	return node
}

// Pause waits for d, or for the end of ctx, which is then the error.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
