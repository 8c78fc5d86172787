package mailbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hearth/node/account"
	"hearth/node/messenger/path"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// ErrNoMonitor is returned by a node that does not know the method, as those of the
// public network do not.
var ErrNoMonitor = errors.New("the service node does not announce messages")

// Monitor is Retrieve that waits: the member answers when a message after the one
// with the hash last is there, or comes within the time wait, and else with nothing.
// More is true as well when the member knows of messages but does not give them out;
// they have to be retrieved.
//
// A clock that is wrong is not corrected: that is [path.ErrClock].
func (c *Client) Monitor(ctx context.Context, a *account.Account, from swarm.Node, namespace int16, last string, wait time.Duration) (messages []Message, more bool, err error) {
	params := rpc.MonitorParams(a.Keys(), a.ID(), c.clock.Now().Unix(), []int16{namespace}, []string{last}, wait.Milliseconds())
	request, err := json.Marshal(map[string]any{"method": "monitor", "params": params})
	if err != nil {
		return nil, false, fmt.Errorf("monitor: %w", err)
	}
	// The answer says nothing about the network's time: it took as long as it liked.
	reply, err := c.net.Ask(path.Waiting(ctx), from, request)
	if err != nil {
		status := (*path.StatusError)(nil)
		switch {
		case errors.Is(err, path.ErrWrongSwarm):
			c.wrongSwarm(a.ID(), from.Ed25519, reply.Body)
		case errors.As(err, &status) && status.Status == 400 && strings.HasPrefix(status.Text, "no method"):
			err = ErrNoMonitor
		}
		return nil, false, fmt.Errorf("monitor: %w", err)
	}
	messages, more, err = ParseMonitor(reply.Body, namespace)
	if err != nil {
		c.pool.StrikeNode(from.Ed25519)
		return nil, false, err
	}
	return c.genuine(a, from, namespace, messages), more, nil
}

// genuine leaves out messages whose hash does not fit, and counts them against the
// node.
func (c *Client) genuine(a *account.Account, from swarm.Node, namespace int16, messages []Message) []Message {
	all := len(messages)
	messages = slices.DeleteFunc(messages, func(m Message) bool {
		return rpc.MessageHash(a.ID(), namespace, m.Data) != m.Hash
	})
	if all != len(messages) {
		c.log.Warn("service node sent messages under wrong hashes", "node", from.Address, "count", all-len(messages))
		c.pool.StrikeNode(from.Ed25519)
	} else {
		c.pool.Cleared(from.Ed25519)
	}
	return messages
}

// ParseMonitor reads what the answer to monitor has of one namespace. A message
// without its data is not among the messages, but makes more true.
func ParseMonitor(body []byte, namespace int16) (messages []Message, more bool, err error) {
	var reply struct {
		Success truth             `json:"success"`
		Results []json.RawMessage `json:"results"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, false, fmt.Errorf("%w: monitor: %w", ErrReply, err)
	}
	if !reply.Success || len(reply.Results) > maxResults {
		return nil, false, fmt.Errorf("%w: monitor without success", ErrReply)
	}
	for _, raw := range reply.Results {
		var result struct {
			Namespace *number `json:"n"`
		}
		if json.Unmarshal(raw, &result) != nil || result.Namespace == nil || *result.Namespace != number(namespace) {
			continue
		}
		messages, more, err = ParseRetrieve(raw)
		all := len(messages)
		messages = slices.DeleteFunc(messages, func(m Message) bool { return len(m.Data) == 0 })
		return messages, more || len(messages) < all, err
	}
	return nil, false, nil
}
