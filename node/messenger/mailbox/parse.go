package mailbox

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"hearth/node/messenger/path"
	"hearth/node/seed"
	"hearth/node/swarm"
	"hearth/node/wire"
)

// Bounds on what a reply may hold; more is left out.
const (
	maxMembers  = 64     // of one swarm: real ones have about ten
	maxMessages = 10_000 // of one retrieve
	maxResults  = 20     // of one batch
	hashSize    = 43     // characters
)

// Message is one stored message.
type Message struct {
	Hash       string
	Timestamp  int64 // ms, as the sender gave it to the store request
	Expiration int64 // ms
	Data       []byte
}

// Result is the answer to one request of a batch.
type Result struct {
	Code int
	Body []byte // JSON, or text when it is an error
}

// StoreReply is the answer to a store request.
type StoreReply struct {
	Hash    string
	Members map[path.Key]MemberReply
}

// MemberReply is what one member of the swarm said.
type MemberReply struct {
	Failed    bool
	Hash      string
	Signature []byte
}

// number reads an integer that some programs write as a string.
type number int64

func (n *number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	*n = number(v)
	return err
}

// truth reads a boolean that some nodes write as 0 or 1.
type truth bool

func (t *truth) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "false", "0", "null", `""`:
		*t = false
	default:
		*t = true
	}
	return nil
}

// ParseSwarm reads the answer to get_swarm, which status 421 has as well.
// Members without a usable address or key are left out; an answer without any
// member is not an error.
func ParseSwarm(body []byte) ([]swarm.Node, error) {
	var reply struct {
		Nodes []json.RawMessage `json:"snodes"`
		Swarm string            `json:"swarm"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("%w: swarm: %w", ErrReply, err)
	}
	if reply.Nodes == nil {
		return nil, fmt.Errorf("%w: no list of swarm members", ErrReply)
	}
	id, err := strconv.ParseUint(reply.Swarm, 16, 64)
	if err != nil {
		id = uint64(swarm.None) // nothing here depends on it
	}
	var members []swarm.Node
	seen := make(map[path.Key]bool)
	for _, raw := range reply.Nodes {
		var n struct {
			IP      string `json:"ip"`
			HTTPS   number `json:"port_https"`
			Port    number `json:"port"`
			Ed25519 string `json:"pubkey_ed25519"`
			X25519  string `json:"pubkey_x25519"`
		}
		if len(members) >= maxMembers {
			break
		}
		if json.Unmarshal(raw, &n) != nil {
			continue
		}
		if n.HTTPS == 0 {
			n.HTTPS = n.Port
		}
		node, ok := parseNode(n.IP, int64(n.HTTPS), n.Ed25519, n.X25519)
		if !ok || seen[node.Ed25519] {
			continue
		}
		seen[node.Ed25519] = true
		node.Swarm = swarm.ID(id)
		members = append(members, node)
	}
	return members, nil
}

// ParseNodeList reads the answer to oxend_request get_service_nodes. Entries that
// no client could use are left out, and so is a swarm.
func ParseNodeList(body []byte) (*swarm.List, error) {
	var reply struct {
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("%w: node list: %w", ErrReply, err)
	}
	l, _, err := seed.ParseServiceNodes(reply.Result)
	if err == nil && len(l.Nodes) == 0 {
		err = errors.New("no usable node")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: node list: %w", ErrReply, err)
	}
	for i := range l.Nodes {
		l.Nodes[i].Swarm = swarm.None // members are asked for by account
	}
	return l, nil
}

func parseNode(ip string, port int64, ed, x string) (swarm.Node, bool) {
	a, err := netip.ParseAddr(ip)
	if err != nil || !a.Is4() || a.IsUnspecified() || port < 1 || port > 65535 {
		return swarm.Node{}, false
	}
	n := swarm.Node{Address: netip.AddrPortFrom(a, uint16(port))}
	return n, parseKey(&n.Ed25519, ed) && parseKey(&n.X25519, x)
}

func parseKey(k *[32]byte, text string) bool {
	if len(text) != 64 {
		return false
	}
	_, err := hex.Decode(k[:], []byte(text))
	return err == nil && *k != [32]byte{}
}

// ParseStore reads the answer to a store request. Whether members' signatures
// are right is for the caller to find out.
func ParseStore(body []byte) (StoreReply, error) {
	var reply struct {
		Hash  string                     `json:"hash"`
		Swarm map[string]json.RawMessage `json:"swarm"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return StoreReply{}, fmt.Errorf("%w: store: %w", ErrReply, err)
	}
	if len(reply.Hash) != hashSize {
		return StoreReply{}, fmt.Errorf("%w: store without a hash", ErrReply)
	}
	s := StoreReply{Hash: reply.Hash, Members: make(map[path.Key]MemberReply)}
	for name, raw := range reply.Swarm {
		var key path.Key
		if len(s.Members) >= maxMembers || !parseKey(&key, name) {
			continue
		}
		var m struct {
			Failed    truth  `json:"failed"`
			Hash      string `json:"hash"`
			Signature string `json:"signature"`
		}
		if json.Unmarshal(raw, &m) != nil {
			s.Members[key] = MemberReply{Failed: true}
			continue
		}
		signature, err := decode64(m.Signature)
		s.Members[key] = MemberReply{Failed: bool(m.Failed) || err != nil, Hash: m.Hash, Signature: signature}
	}
	return s, nil
}

// ParseBatch reads the answer to a batch.
func ParseBatch(body []byte) ([]Result, error) {
	var reply struct {
		Results []struct {
			Code number          `json:"code"`
			Body json.RawMessage `json:"body"`
		} `json:"results"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("%w: batch: %w", ErrReply, err)
	}
	if len(reply.Results) > maxResults {
		return nil, fmt.Errorf("%w: batch with %d results", ErrReply, len(reply.Results))
	}
	var results []Result
	for _, r := range reply.Results {
		result := Result{Code: int(r.Code), Body: r.Body}
		// A text comes as a JSON string.
		if text := ""; json.Unmarshal(r.Body, &text) == nil {
			result.Body = []byte(text)
		}
		results = append(results, result)
	}
	return results, nil
}

// ParseRetrieve reads the answer to a retrieve request, in the order of the
// node's database. Messages that cannot be decoded are left out: they can only
// be the node's own mistake.
func ParseRetrieve(body []byte) (messages []Message, more bool, err error) {
	var reply struct {
		Messages []json.RawMessage `json:"messages"`
		More     truth             `json:"more"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, false, fmt.Errorf("%w: retrieve: %w", ErrReply, err)
	}
	if reply.Messages == nil {
		return nil, false, fmt.Errorf("%w: retrieve without messages", ErrReply)
	}
	for _, raw := range reply.Messages {
		var m struct {
			Hash       string `json:"hash"`
			Timestamp  number `json:"timestamp"`
			Expiration number `json:"expiration"`
			Expiry     number `json:"expiry"` // as a comment of the storage server calls it
			Data       string `json:"data"`
		}
		if len(messages) >= maxMessages {
			break
		}
		if json.Unmarshal(raw, &m) != nil || len(m.Hash) != hashSize {
			continue
		}
		data, err := decode64(m.Data)
		if err != nil || len(data) > wire.MaxData {
			continue
		}
		if m.Expiration == 0 {
			m.Expiration = m.Expiry
		}
		messages = append(messages, Message{Hash: m.Hash, Timestamp: int64(m.Timestamp), Expiration: int64(m.Expiration), Data: data})
	}
	return messages, bool(reply.More), nil
}

// decode64 reads base64 with or without padding.
func decode64(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

// excerpt makes a stranger's text fit for a log line.
func excerpt(b []byte) string {
	return strings.ToValidUTF8(string(b[:min(len(b), 120)]), "?")
}
