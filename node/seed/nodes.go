package seed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"hearth/node/keys"
	"hearth/node/swarm"
)

// ErrParams is returned for parameters of get_service_nodes that have the wrong
// type.
var ErrParams = errors.New("invalid parameters")

// hardFork and revision are reported as the state of the ledger; clients of the
// public network know nothing newer.
const (
	hardFork = 19
	revision = 5
)

// ServiceNodes answers get_service_nodes (also called get_n_service_nodes) from
// a list, as the public network's daemon does. params is the JSON object of the
// request and may be empty. Clients call it at the seed and, wrapped in a
// storage request, at every node. The error wraps [ErrParams].
func ServiceNodes(list *swarm.List, params json.RawMessage) (json.RawMessage, error) {
	q, err := parseQuery(params)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = &swarm.List{}
	}
	hash := hex.EncodeToString(list.Hash[:])
	answer := map[string]any{"status": "OK", "height": list.Height, "block_hash": hash}
	for field, value := range map[string]any{"target_height": list.Height, "hardfork": hardFork, "snode_revision": revision} {
		if q.wants(field) {
			answer[field] = value
		}
	}
	if q.pollHash != "" {
		if strings.EqualFold(q.pollHash, hash) {
			answer["unchanged"] = true
			return json.Marshal(answer)
		}
		answer["unchanged"] = false
	}
	states := []map[string]any{}
	for _, n := range q.choose(list) {
		states = append(states, q.describe(n))
	}
	answer["service_node_states"] = states
	return json.Marshal(answer)
}

// Answer answers a JSON-RPC request for a list, in any of the three names of the
// call. Any node can thus be the seed of clients that know its certificate.
func Answer(list *swarm.List, body []byte) []byte {
	return answerCall(body, func(method string, params json.RawMessage) (any, error) {
		if !asksForList(method) {
			return nil, errNoMethod
		}
		return ServiceNodes(list, params)
	})
}

var errNoMethod = errors.New("no such method")

func asksForList(method string) bool {
	return method == "get_n_service_nodes" || method == "get_service_nodes" || method == "get_all_service_nodes"
}

// answerCall puts what call returns into the form of JSON-RPC.
func answerCall(body []byte, call func(method string, params json.RawMessage) (any, error)) []byte {
	var req struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
	}
	answer := map[string]any{"jsonrpc": "2.0", "id": nil}
	refuse := func(code int, message string) { answer["error"] = map[string]any{"code": code, "message": message} }
	if json.Unmarshal(body, &req) != nil {
		refuse(-32700, "Parse error")
	} else {
		if len(req.ID) > 0 && len(req.ID) < 64 {
			answer["id"] = req.ID
		}
		switch result, err := call(req.Method, req.Params); {
		case errors.Is(err, errNoMethod):
			refuse(-32601, "Method not found")
		case errors.Is(err, ErrParams):
			refuse(-32602, "Invalid params")
		case err != nil:
			refuse(-32000, err.Error())
		default:
			answer["result"] = result
		}
	}
	b, err := json.Marshal(answer)
	if err != nil { // not with the types above
		return []byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"Internal error"}}`)
	}
	return b
}

// query is a parsed request.
type query struct {
	all        bool            // every field
	fields     map[string]bool // unless all: these; with all: false for those not wanted
	keys       [][32]byte      // nil for every node
	activeOnly bool
	limit      int64
	pollHash   string
}

func parseQuery(params json.RawMessage) (*query, error) {
	var p struct {
		Fields     json.RawMessage `json:"fields"`
		Keys       []string        `json:"service_node_pubkeys"`
		ActiveOnly bool            `json:"active_only"`
		Limit      int64           `json:"limit"`
		PollHash   string          `json:"poll_block_hash"`
	}
	if len(bytes.TrimSpace(params)) > 0 {
		if err := json.Unmarshal(params, &p); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrParams, err)
		}
	}
	q := &query{fields: make(map[string]bool), activeOnly: p.ActiveOnly, limit: p.Limit, pollHash: p.PollHash}
	for _, k := range p.Keys {
		key, err := parseKey(k)
		if err != nil {
			return nil, fmt.Errorf("%w: service_node_pubkeys: %w", ErrParams, err)
		}
		q.keys = append(q.keys, key)
	}
	if err := q.parseFields(p.Fields); err != nil {
		return nil, fmt.Errorf("%w: fields: %w", ErrParams, err)
	}
	return q, nil
}

// parseFields reads the two forms that clients use: the list of names of
// Android and the object {"name":true} of the desktop.
func (q *query) parseFields(raw json.RawMessage) error {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		q.all = true
		return nil
	}
	if raw[0] == '{' {
		var object map[string]bool
		if err := json.Unmarshal(raw, &object); err != nil {
			return err
		}
		for name, wanted := range object {
			if wanted {
				q.fields[name] = true
			}
		}
		q.all = q.fields["all"] || len(q.fields) == 0
		if q.all {
			clear(q.fields)
		}
		return nil
	}
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		return err
	}
	q.all = len(names) == 0 || slices.Contains(names, "all")
	for _, name := range names {
		without, minus := strings.CutPrefix(name, "-")
		switch {
		case minus && q.all:
			q.fields[without] = false
		case !minus && !q.all:
			q.fields[name] = true
		}
	}
	return nil
}

func (q *query) wants(field string) bool {
	wanted, named := q.fields[field]
	return wanted || q.all && !named
}

// choose returns the nodes that the request is about.
func (q *query) choose(list *swarm.List) []swarm.Node {
	var nodes []swarm.Node
	for _, n := range list.Nodes {
		if q.activeOnly && n.Swarm == swarm.None || q.keys != nil && !slices.Contains(q.keys, n.Ed25519) {
			continue
		}
		nodes = append(nodes, n)
	}
	if q.limit != 0 {
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		if 0 < q.limit && q.limit < int64(len(nodes)) {
			nodes = nodes[:q.limit]
		}
	}
	return nodes
}

func (q *query) describe(n swarm.Node) map[string]any {
	active := n.Swarm != swarm.None
	key := hex.EncodeToString(n.Ed25519[:])
	d := map[string]any{
		"service_node_pubkey":     key,
		"pubkey_ed25519":          key,
		"pubkey_x25519":           hex.EncodeToString(n.X25519[:]),
		"requested_unlock_height": n.RequestedUnlockHeight,
		"active":                  active,
		"funded":                  true,
		"payable":                 active,
		"swarm_id":                uint64(n.Swarm),
		"swarm":                   n.Swarm.String(),
		"public_ip":               n.Address.Addr().String(),
		"storage_port":            n.Address.Port(),
		"storage_lmq_port":        n.QUIC,
		"storage_server_version":  n.Version,
	}
	for field := range d {
		if !q.wants(field) {
			delete(d, field)
		}
	}
	return d
}

const (
	maxEntries = 20_000 // nodes of one list; the public network has some 1500
)

// ErrAnswer is returned for an answer that is not what get_service_nodes gives.
var ErrAnswer = errors.New("invalid node list")

// ParseServiceNodes reads the result of get_service_nodes. Entries that no
// client could use are left out: without a key, with an address that is not an
// IPv4 address, 0.0.0.0 or 255.255.255.255, with port 0, or a second time.
// unchanged is the answer to a poll for a hash that is still the newest. The
// error wraps [ErrAnswer].
func ParseServiceNodes(result []byte) (list *swarm.List, unchanged bool, err error) {
	var r struct {
		Status    string             `json:"status"`
		Height    uint64             `json:"height"`
		Hash      string             `json:"block_hash"`
		Unchanged bool               `json:"unchanged"`
		States    *[]json.RawMessage `json:"service_node_states"`
	}
	if err := json.Unmarshal(result, &r); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if r.Status != "OK" {
		return nil, false, fmt.Errorf("%w: status %.60q", ErrAnswer, r.Status)
	}
	list = &swarm.List{Height: r.Height}
	if r.Hash != "" {
		if list.Hash, err = parseKey(r.Hash); err != nil {
			return nil, false, fmt.Errorf("%w: block hash: %w", ErrAnswer, err)
		}
	}
	if r.States == nil {
		if !r.Unchanged {
			return nil, false, fmt.Errorf("%w: no list", ErrAnswer)
		}
		return list, true, nil
	}
	if len(*r.States) > maxEntries {
		return nil, false, fmt.Errorf("%w: %d nodes", ErrAnswer, len(*r.States))
	}
	seen := make(map[[32]byte]bool)
	for _, raw := range *r.States {
		if n, ok := parseNode(raw); ok && !seen[n.Ed25519] {
			seen[n.Ed25519] = true
			list.Nodes = append(list.Nodes, n)
		}
	}
	return list, false, nil
}

func parseNode(raw json.RawMessage) (n swarm.Node, ok bool) {
	var e struct {
		Ed25519 string  `json:"pubkey_ed25519"`
		X25519  string  `json:"pubkey_x25519"`
		IP      string  `json:"public_ip"`
		Port    uint16  `json:"storage_port"`
		SwarmID *uint64 `json:"swarm_id"`
		Swarm   string  `json:"swarm"`
		Unlock  uint64  `json:"requested_unlock_height"`
		QUIC    uint16  `json:"storage_lmq_port"`
		Version []int   `json:"storage_server_version"`
	}
	if json.Unmarshal(raw, &e) != nil {
		return n, false
	}
	ip, errIP := netip.ParseAddr(e.IP)
	var errEd, errX error
	n.Ed25519, errEd = parseKey(e.Ed25519)
	n.X25519, errX = parseKey(e.X25519)
	n.Address = netip.AddrPortFrom(ip, e.Port)
	n.RequestedUnlockHeight, n.QUIC = e.Unlock, e.QUIC
	for i, v := range e.Version[:min(len(e.Version), len(n.Version))] {
		n.Version[i] = uint8(max(0, min(v, 255))) // as the storage server writes it
	}
	n.Swarm = swarm.None
	if e.SwarmID != nil {
		n.Swarm = swarm.ID(*e.SwarmID)
	} else if id, err := strconv.ParseUint(e.Swarm, 16, 64); err == nil {
		n.Swarm = swarm.ID(id)
	}
	if errIP != nil || errEd != nil || errX != nil || !usable(n.Address) {
		return n, false
	}
	// A key that is no point of the curve could not have signed anything.
	_, err := keys.X25519FromEd25519(n.Ed25519)
	return n, err == nil
}
