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

// Monitor is [Client.RetrieveAll] that waits: the member answers when there is a
// message in one of the namespaces, in ascending order, after those with the hashes
// in last, or when one comes within the time wait, and else with nothing. More is
// true as well when the member knows of messages but does not give them out; they
// have to be retrieved.
//
// A clock that is wrong is not corrected: that is [path.ErrClock].
func (c *Client) Monitor(ctx context.Context, a *account.Account, from swarm.Node, namespaces []int16, last []string, wait time.Duration) ([]Page, error) {
	params := rpc.MonitorParams(a.Keys(), a.ID(), c.clock.Now().Unix(), namespaces, last, wait.Milliseconds())
	request, err := json.Marshal(map[string]any{"method": "monitor", "params": params})
	if err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	// The answer says nothing about the network's time: it took as long as it liked.
	reply, err := c.net.Ask(path.Waiting(ctx), from, request)
	if err != nil {
		return nil, fmt.Errorf("monitor: %w", c.monitorError(a.ID(), from, reply, err))
	}
	byNamespace, err := splitMonitor(reply.Body)
	pages := make([]Page, len(namespaces))
	for i, ns := range namespaces {
		pages[i].Namespace = ns
		if raw, ok := byNamespace[ns]; ok && err == nil {
			pages[i].Messages, pages[i].More, err = parseMonitored(raw)
		}
	}
	if err != nil {
		c.pool.StrikeNode(from.Ed25519)
		return nil, err
	}
	for i, ns := range namespaces {
		if len(pages[i].Messages) > 0 {
			pages[i].Messages = c.genuine(a.ID(), from, ns, pages[i].Messages)
		}
	}
	return pages, nil
}

// monitorError acts on a refusal and says what it amounts to.
func (c *Client) monitorError(owner account.ID, from swarm.Node, reply path.Reply, err error) error {
	status := (*path.StatusError)(nil)
	switch {
	case errors.Is(err, path.ErrWrongSwarm):
		c.wrongSwarm(owner, from.Ed25519, reply.Body)
	case errors.As(err, &status) && status.Status == 400 && strings.HasPrefix(status.Text, "no method"):
		return ErrNoMonitor
	}
	return err
}

// genuine leaves out messages whose hash does not fit, and counts them against the
// node.
func (c *Client) genuine(owner account.ID, from swarm.Node, namespace int16, messages []Message) []Message {
	all := len(messages)
	messages = slices.DeleteFunc(messages, func(m Message) bool {
		return rpc.MessageHash(owner, namespace, m.Data) != m.Hash
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
	byNamespace, err := splitMonitor(body)
	if raw, ok := byNamespace[namespace]; ok && err == nil {
		return parseMonitored(raw)
	}
	return nil, false, err
}

// splitMonitor gives what the answer to monitor has of each namespace.
func splitMonitor(body []byte) (map[int16]json.RawMessage, error) {
	var reply struct {
		Success truth             `json:"success"`
		Results []json.RawMessage `json:"results"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("%w: monitor: %w", ErrReply, err)
	}
	if !reply.Success || len(reply.Results) > maxResults {
		return nil, fmt.Errorf("%w: monitor without success", ErrReply)
	}
	byNamespace := make(map[int16]json.RawMessage)
	for _, raw := range reply.Results {
		var result struct {
			Namespace *number `json:"n"`
		}
		if json.Unmarshal(raw, &result) != nil || result.Namespace == nil || number(int16(*result.Namespace)) != *result.Namespace {
			continue
		}
		if ns := int16(*result.Namespace); byNamespace[ns] == nil {
			byNamespace[ns] = raw
		}
	}
	return byNamespace, nil
}

func parseMonitored(raw []byte) (messages []Message, more bool, err error) {
	messages, more, err = ParseRetrieve(raw)
	all := len(messages)
	messages = slices.DeleteFunc(messages, func(m Message) bool { return len(m.Data) == 0 })
	return messages, more || len(messages) < all, err
}
