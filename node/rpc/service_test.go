package rpc

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/keys"
	"hearth/node/swarm"
)

// user is a 05 account that signs its requests.
type user struct {
	keys *keys.Pair
	id   account.ID
}

func newUser(t testing.TB, seed byte) user {
	t.Helper()
	k := keys.FromSeed([32]byte{seed, 0xac})
	id, err := account.IDFromEd25519(k.Ed25519())
	if err != nil {
		t.Fatal(err)
	}
	return user{k, id}
}

// signed adds account, key and signature to the parameters.
func (u user) signed(text []byte, params map[string]any) map[string]any {
	ed := u.keys.Ed25519()
	params["pubkey"] = u.id.String()
	params["pubkey_ed25519"] = hex.EncodeToString(ed[:])
	params["signature"] = u.keys.Sign(text)
	return params
}

func (n *testNetwork) ms() int64 { return n.now.UnixMilli() }

// storeParams are those of a message in the public inbox.
func (n *testNetwork) storeParams(to account.ID, data string) map[string]any {
	return map[string]any{
		"pubkey": to.String(), "timestamp": n.ms(), "ttl": 60_000,
		"data": base64.StdEncoding.EncodeToString([]byte(data)),
	}
}

func TestStoreAndRetrieveAcrossTheSwarm(t *testing.T) {
	n, nodes := swarmOf(t, 3)
	u := newUser(t, 1)
	status, answer := nodes[0].call(t, "store", n.storeParams(u.id, "hello"))
	if status != 200 {
		t.Fatalf("store: %d %v", status, answer)
	}
	members := at(answer, "swarm").(map[string]any)
	if len(members) != 3 {
		t.Fatalf("answers of %d members", len(members))
	}
	hash := MessageHash(u.id, 0, []byte("hello"))
	for key, element := range members {
		pub, err := hex.DecodeString(key)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := base64.StdEncoding.DecodeString(at(element, "signature").(string))
		if err != nil || !keys.Verify([32]byte(pub), StoreResultText(hash), sig) {
			t.Errorf("member %s did not sign the hash: %v", key, element)
		}
	}
	for i, node := range nodes {
		status, answer := node.call(t, "retrieve", u.signed(RetrieveText(0, n.ms()), map[string]any{"timestamp": n.ms()}))
		messages, _ := at(answer, "messages").([]any)
		if status != 200 || len(messages) != 1 || at(messages[0], "data") != "aGVsbG8=" || at(messages[0], "hash") != hash {
			t.Errorf("node %d: %d %v", i, status, answer)
		}
	}
	if got := nodes[0].Requests() + nodes[1].Requests(); got != 4 {
		t.Errorf("%d requests counted, want 4", got)
	}
}

func TestFailedMembersAreToldApart(t *testing.T) {
	cases := map[string]struct {
		forward func() ([][]byte, error)
		want    map[string]any
	}{
		"no answer":             {func() ([][]byte, error) { return nil, io.EOF }, map[string]any{"failed": true, "timeout": true}},
		"an error":              {func() ([][]byte, error) { return [][]byte{[]byte("406"), []byte("late")}, nil }, map[string]any{"failed": true, "code": "406", "reason": "late"}},
		"nonsense":              {func() ([][]byte, error) { return [][]byte{[]byte("?")}, nil }, map[string]any{"failed": true, "bad_peer_response": true}},
		"a list":                {func() ([][]byte, error) { return [][]byte{[]byte("le")}, nil }, map[string]any{"failed": true, "bad_peer_response": true}},
		"an unknown number":     {func() ([][]byte, error) { return make([][]byte, 3), nil }, map[string]any{"failed": true, "bad_peer_response": true}},
		"a failure of its disk": {func() ([][]byte, error) { return [][]byte{[]byte("d6:failedi1ee")}, nil }, map[string]any{"failed": 1.0}},
	}
	for name, c := range cases {
		t.Run("a member with "+name, func(t *testing.T) {
			n, nodes := swarmOf(t, 2)
			nodes[0].cfg.Forward = func(context.Context, swarm.Node, string, []byte) ([][]byte, error) { return c.forward() }
			status, answer := nodes[0].call(t, "store", n.storeParams(newUser(t, 1).id, "x"))
			peer := nodes[1].keys.Ed25519()
			got := at(answer, "swarm", hex.EncodeToString(peer[:]))
			if status != 200 || fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %d %v, want %v", status, got, c.want)
			}
		})
	}
}

func TestSilentMemberCostsFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, nodes := swarmOf(t, 3)
		nodes[0].cfg.Forward = func(ctx context.Context, _ swarm.Node, _ string, _ []byte) ([][]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		// A client that has gone away does not stop the copies.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin := time.Now()
		u := newUser(t, 1)
		r := nodes[0].Handle(ctx, fmt.Appendf(nil,
			`{"method":"store","params":{"pubkey":"%s","data":"","timestamp":%d,"ttl":60000}}`, u.id, n.ms()))
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
		failed := 0
		for _, e := range at(asJSON(t, r.Body), "swarm").(map[string]any) {
			if at(e, "timeout") == true {
				failed++
			}
		}
		if r.Status != 200 || failed != 2 {
			t.Errorf("%d members failed: %v", failed, r.Body)
		}
	})
}

func TestFullDatabaseFailsAtThatMemberOnly(t *testing.T) {
	n, nodes := swarmOf(t, 2)
	nodes[0].db.SetLimit(1)
	nodes[1].db.SetLimit(1)
	u := newUser(t, 1)
	_, answer := nodes[0].call(t, "store", n.storeParams(u.id, "x"))
	for key, e := range at(answer, "swarm").(map[string]any) {
		if failed := at(e, "failed"); failed != true && failed != 1.0 || at(e, "query_failure") == nil {
			t.Errorf("%s: %v", key, e)
		}
	}
	if at(answer, "hash") != nil {
		t.Errorf("a hash for a message that was not stored: %v", answer)
	}
	nodes[1].db.SetLimit(0)
	_, answer = nodes[0].call(t, "store", n.storeParams(u.id, "x"))
	peer := nodes[1].keys.Ed25519()
	if got := at(answer, "swarm", hex.EncodeToString(peer[:]), "hash"); got == nil {
		t.Errorf("the other member failed too: %v", answer)
	}
}

func TestNodeOutsideEverySwarmSendsClientsAway(t *testing.T) {
	n := newNetwork()
	lone := n.add(t, "lone", [32]byte{1}, swarm.None, 1)
	u := newUser(t, 1)
	status, answer := lone.call(t, "store", n.storeParams(u.id, "x"))
	if status != 421 || at(answer, "swarm") != "ffffffffffffffff" || len(at(answer, "snodes").([]any)) != 0 {
		t.Errorf("%d %v", status, answer)
	}
	lone.cfg.List = func() *swarm.List { return nil }
	if status, answer := lone.call(t, "get_swarm", map[string]any{"pubkey": u.id.String()}); status != 200 || at(answer, "swarm") != "ffffffffffffffff" {
		t.Errorf("without a list: %d %v", status, answer)
	}
}

func TestPeersRefusalReachesTheReason(t *testing.T) {
	n, nodes := swarmOf(t, 1)
	body, err := bt.Marshal(bt.Dict{"pubkey": make([]byte, 33), "timestamp": n.ms(), "expiry": n.ms() + 1, "data": ""})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, method string
		body         []byte
		want         string
	}{
		{"a broken rule", "store", body, `["403" "Provided expiry/TTL is not valid."]`},
		{"a missing field", "store", []byte("de"), `["400" "invalid request: Required field 'timestamp' missing"]`},
		{"a body that is not a dictionary", "store", []byte("i1e"), `["400" "invalid body: expected json or bt_dict"]`},
		{"a method that stays on its node", "retrieve", []byte("de"), `["400" "invalid request: received invalid forwarded non-forwardable request"]`},
		{"an unknown method gets silence", "nope", []byte("de"), `[]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fmt.Sprintf("%q", nodes[0].HandleForwarded(t.Context(), c.method, c.body)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestSubaccountsMayDoWhatTheirTokenAllows(t *testing.T) {
	group := keys.FromSeed([32]byte{0x03})
	ed := group.Ed25519()
	groupID := account.ID(append([]byte{0x03}, ed[:]...))
	delegate := keys.FromSeed([32]byte{0x0d})
	cases := []struct {
		name   string
		token  Token
		need   Access
		signer *keys.Pair // of the token
		want   bool
	}{
		{"read with read", NewToken(groupID, Read, delegate.Ed25519()), Read, group, true},
		{"write with read", NewToken(groupID, Read, delegate.Ed25519()), Write, group, false},
		{"write and delete with write only", NewToken(groupID, Write, delegate.Ed25519()), Write | Delete, group, false},
		{"write and delete with both", NewToken(groupID, Write|Delete, delegate.Ed25519()), Write | Delete, group, true},
		{"what only the owner may, with every bit", NewToken(groupID, 0xff, delegate.Ed25519()), ownerOnly, group, false},
		{"a token of another prefix", Token(append([]byte{0x05, 7, 0, 0}, NewToken(groupID, 0, delegate.Ed25519()).delegate()...)), Read, group, false},
		{"a token for any prefix", Token(append([]byte{0x05, 15, 0, 0}, NewToken(groupID, 0, delegate.Ed25519()).delegate()...)), Read, group, true},
		{"a token that the delegate signed itself", NewToken(groupID, Read, delegate.Ed25519()), Read, delegate, false},
		{"a token of somebody else", NewToken(groupID, Read, group.Ed25519()), Read, group, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text := []byte("text")
			who := credentials{
				owner: groupID, signature: delegate.Sign(text),
				token: &c.token, tokenSig: c.signer.Sign(c.token[:]),
			}
			if got := who.verify(text, c.need); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func (t Token) delegate() []byte { d := t.Delegate(); return d[:] }

func TestRevokedSubaccountIsLockedOut(t *testing.T) {
	n, nodes := swarmOf(t, 2)
	group := keys.FromSeed([32]byte{0x03})
	ed := group.Ed25519()
	id := account.ID(append([]byte{0x03}, ed[:]...))
	delegate := keys.FromSeed([32]byte{0x0d})
	token := NewToken(id, Read|Write, delegate.Ed25519())
	asDelegate := func(text []byte, params map[string]any) map[string]any {
		params["pubkey"] = id.String()
		params["subaccount"] = base64.StdEncoding.EncodeToString(token[:])
		params["subaccount_sig"] = group.Sign(token[:])
		params["signature"] = delegate.Sign(text)
		return params
	}
	store := func(data string) int {
		p := n.storeParams(id, data)
		p["namespace"] = 11
		status, _ := nodes[0].call(t, "store", asDelegate(StoreText(11, n.ms()), p))
		return status
	}
	read := func(ns int16) int {
		status, _ := nodes[1].call(t, "retrieve", asDelegate(RetrieveText(ns, n.ms()), map[string]any{"namespace": ns, "timestamp": n.ms()}))
		return status
	}
	if got := store("before"); got != 200 {
		t.Fatalf("store before: %d", got)
	}
	revoke := map[string]any{
		"pubkey": id.String(), "revoke": hex.EncodeToString(token[:]), "timestamp": n.ms(),
		"signature": group.Sign(RevokeText(n.ms(), []Token{token})),
	}
	if status, answer := nodes[0].call(t, "revoke_subaccount", revoke); status != 200 {
		t.Fatalf("revoke: %d %v", status, answer)
	}
	if got := []int{store("after"), read(11), read(-11)}; fmt.Sprint(got) != "[401 401 200]" {
		t.Errorf("store, read 11, read -11 gave %v", got)
	}
	unrevoke := map[string]any{
		"pubkey": id.String(), "unrevoke": []any{token[:]}, "timestamp": n.ms(),
		"signature": group.Sign(UnrevokeText(n.ms(), []Token{token})),
	}
	if status, answer := nodes[0].call(t, "unrevoke_subaccount", unrevoke); status != 200 {
		t.Fatalf("unrevoke: %d %v", status, answer)
	}
	if got := []int{store("after"), read(11)}; fmt.Sprint(got) != "[200 200]" {
		t.Errorf("store, read 11 gave %v", got)
	}
}

func TestRequestsThatCannotBeRead(t *testing.T) {
	n, nodes := swarmOf(t, 1)
	u := newUser(t, 1)
	ok := func(change map[string]any) map[string]any {
		p := n.storeParams(u.id, "x")
		for k, v := range change {
			p[k] = v
		}
		return p
	}
	signed := func(change map[string]any) map[string]any {
		p := u.signed(nil, n.storeParams(u.id, "x"))
		for k, v := range change {
			p[k] = v
		}
		return p
	}
	nested := map[string]any{"method": "info", "params": map[string]any{}}
	for range 12 {
		nested = map[string]any{"method": "ifelse", "params": map[string]any{"if": map[string]any{"height_before": 1}, "else": nested}}
	}
	sub := func(method string, params any) map[string]any {
		return map[string]any{"method": method, "params": params}
	}
	cases := []struct {
		name, method string
		params       map[string]any
		want         string
	}{
		{"times after the end of time", "store", ok(map[string]any{"ttl": "18446744073709551615"}), "403 Provided expiry/TTL is not valid."},
		{"a timestamp before all time", "store", ok(map[string]any{"timestamp": "-9223372036854775808"}), "403 Provided expiry/TTL is not valid."},
		{"a timestamp with a plus sign", "store", ok(map[string]any{"timestamp": "+5"}), `400 invalid request: Invalid value given for 'timestamp': "+5"`},
		{"an expiry in seconds", "store", map[string]any{"pubkey": u.id.String(), "timestamp": 5, "expiry": 999_999_999, "data": ""},
			"400 invalid request: Invalid timestamp for 'expiry': timestamp must be in milliseconds"},
		{"null counts as absent", "store", ok(map[string]any{"data": nil}), "400 invalid request: Required field 'data' missing"},
		{"base64 with a line break", "store", ok(map[string]any{"data": "YWJj\nZGVm"}), "400 invalid request: Invalid 'data' value: not base64 encoded"},
		{"base64 with one character too many", "store", ok(map[string]any{"data": "YWJjZ"}), "400 invalid request: Invalid 'data' value: not base64 encoded"},
		{"base64 with three pads", "store", ok(map[string]any{"data": "Y==="}), "400 invalid request: Invalid 'data' value: not base64 encoded"},
		{"a namespace below the range", "store", ok(map[string]any{"namespace": -32769}), "400 invalid request: Invalid value given for 'namespace': value out of range"},
		{"a fraction as namespace", "store", ok(map[string]any{"namespace": 1.5}), "400 invalid request: Invalid value given for 'namespace': expected 16-bit integer"},
		{"a key that is not hexadecimal", "store", signed(map[string]any{"pubkey_ed25519": strings.Repeat("z", 64)}), "400 invalid request: invalid pubkey_ed25519: value is not hex"},
		{"a signature of the wrong length", "store", signed(map[string]any{"signature": "YWJj"}), "400 invalid request: invalid signature: expected base64 encoded Ed25519 signature"},
		{"a token of the wrong length", "store", signed(map[string]any{"subaccount": "YWJj", "subaccount_sig": ""}), "400 invalid request: invalid subaccount: expected base64 or hex-encoded subaccount token"},
		{"a token without a proper signature", "store", signed(map[string]any{"subaccount": strings.Repeat("0", 72), "subaccount_sig": "x"}), "400 invalid request: invalid subaccount signature: expected base64 encoded Ed25519 signature"},
		{"both spellings of last_hash", "retrieve", signed(map[string]any{"last_hash": "", "lastHash": ""}), "400 invalid request: Cannot specify both 'last_hash' and 'lastHash'"},
		{"a last_hash that is not base64", "retrieve", signed(map[string]any{"last_hash": strings.Repeat("!", 43)}), "400 invalid request: Invalid last_hash: not base64"},
		{"a hash among numbers", "delete", signed(map[string]any{"messages": []any{strings.Repeat("A", 43), 1}}), "400 invalid request: Invalid value given for 'messages': expected string array"},
		{"required that is not a boolean", "delete", signed(map[string]any{"messages": strings.Repeat("A", 43), "required": 1}), "400 invalid request: Invalid value given for 'required': expected boolean"},
		{"a scope that is a word", "delete_all", signed(map[string]any{"namespace": "some"}), `400 invalid request: Invalid value given for 'namespace': expected integer or "all"`},
		{"an expiry list of words", "expire", signed(map[string]any{"expiry": []any{"x"}, "messages": "x"}), "400 invalid request: Invalid value given for 'expiry': expected timestamp array"},
		{"no expiry in the list", "expire", signed(map[string]any{"expiry": []any{}, "messages": "x"}), "400 invalid request: 'expiry' does not contain any expiration timestamps"},
		{"51 revocations", "revoke_subaccount", signed(map[string]any{"revoke": make([]string, 51), "timestamp": n.ms()}), "400 invalid request: invalid revoke: cannot revoke more than 50 subaccounts at once"},
		{"a batch of numbers", "batch", map[string]any{"requests": []any{1}}, "400 invalid request: Invalid batch request: requests must be objects"},
		{"a batch without params", "batch", map[string]any{"requests": []any{map[string]any{"method": "info"}}}, "400 invalid request: Invalid batch request: subrequests must have method/params keys"},
		{"an ifelse in a batch", "batch", map[string]any{"requests": []any{sub("ifelse", map[string]any{})}}, "400 invalid request: Invalid batch subrequest: subrequests may not contain meta-requests"},
		{"an ifelse without branches", "ifelse", map[string]any{"if": map[string]any{"height_before": 1}}, `400 invalid request: Invalid ifelse request: at least one of "then"/"else" required`},
		{"an ifelse with a number as branch", "ifelse", map[string]any{"if": map[string]any{"height_before": 1}, "then": 1}, "400 invalid request: Invalid ifelse request: then must be an object"},
		{"an ifelse without end", "ifelse", nested["params"].(map[string]any), "400 invalid request: Invalid ifelse request: nested too deep"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, body := nodes[0].call(t, c.method, c.params)
			if got := fmt.Sprint(status, " ", body); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestNodeListComesThroughTheService(t *testing.T) {
	_, nodes := swarmOf(t, 1)
	request := map[string]any{"endpoint": "get_service_nodes", "params": map[string]any{"limit": 2}}
	if status, body := nodes[0].call(t, "oxend_request", request); status != 400 {
		t.Errorf("without a source: %d %v", status, body)
	}
	var got string
	answer, fail := `{"height":1}`, error(nil)
	nodes[0].cfg.ServiceNodes = func(params jsonText) (jsonText, error) {
		got = string(params)
		return jsonText(answer), fail
	}
	if status, body := nodes[0].call(t, "oxend_request", request); status != 200 || at(body, "result", "height") != 1.0 || got != `{"limit":2}` {
		t.Errorf("%d %v, params %s", status, body, got)
	}
	answer = "{"
	if status, body := nodes[0].call(t, "oxend_request", request); status != 502 || body != "oxend returned unparsable data" {
		t.Errorf("unreadable: %d %v", status, body)
	}
	fail = errors.New("Internal error")
	if status, body := nodes[0].call(t, "oxend_request", request); status != 400 || body != "Internal error" {
		t.Errorf("refused: %d %v", status, body)
	}
	if status, body := nodes[0].call(t, "oxend_request", map[string]any{"endpoint": "ons_resolve"}); status != 400 || body != "invalid request: Invalid oxend endpoint 'ons_resolve'" {
		t.Errorf("another endpoint: %d %v", status, body)
	}
}

func TestBatchSharesTheRoomOfOneAnswer(t *testing.T) {
	n, nodes := swarmOf(t, 1)
	u := newUser(t, 1)
	for i := range 5 {
		if status, body := nodes[0].call(t, "store", n.storeParams(u.id, strings.Repeat(fmt.Sprint(i), MaxData))); status != 200 {
			t.Fatal(status, body)
		}
	}
	var requests []any
	for range 20 {
		p := u.signed(RetrieveText(0, n.ms()), map[string]any{"timestamp": n.ms(), "max_size": -1})
		requests = append(requests, map[string]any{"method": "retrieve", "params": p})
	}
	r := nodes[0].Handle(t.Context(), mustJSON(t, map[string]any{"method": "batch", "params": map[string]any{"requests": requests}}))
	size := len(mustJSON(t, r.Body))
	if r.Status != 200 || size > maxAnswer+20*(MaxData*4/3+300) {
		t.Errorf("status %d, %d bytes", r.Status, size)
	}
	last := at(asJSON(t, r.Body), "results").([]any)[19]
	if at(last, "body", "more") != true {
		t.Errorf("the last answer hides that there is more")
	}
}

func TestMultiExpiryNeedsTheHardFork(t *testing.T) {
	n, nodes := swarmOf(t, 1)
	u := newUser(t, 1)
	hashes := []string{strings.Repeat("A", 43), strings.Repeat("B", 42) + "A"}
	expiries := []int64{n.ms() + 1, n.ms() + 2}
	p := u.signed(ExpireText(ExpireSet, expiries, hashes), map[string]any{"messages": hashes, "expiry": expiries})
	for fork, want := range map[[2]int]int{{19, 3}: 403, {18, 9}: 403, {19, 4}: 200, {20, 0}: 200} {
		nodes[0].cfg.HardFork = fork
		if status, body := nodes[0].call(t, "expire", p); status != want {
			t.Errorf("hard fork %v: %d %v", fork, status, body)
		}
	}
}

func TestDelegateWithoutDeleteMayOnlyExtend(t *testing.T) {
	n, nodes := swarmOf(t, 1)
	group := keys.FromSeed([32]byte{0x03})
	ed := group.Ed25519()
	id := account.ID(append([]byte{0x03}, ed[:]...))
	delegate := keys.FromSeed([32]byte{0x0d})
	token := NewToken(id, Write, delegate.Ed25519())
	if status, body := nodes[0].call(t, "store", n.storeParams(id, "x")); status != 200 {
		t.Fatal(status, body)
	}
	hash := []string{MessageHash(id, 0, []byte("x"))}
	for _, c := range []struct {
		name   string
		mode   ExpireMode
		expiry int64
		status int
		after  int64
	}{
		{"shorten is refused", ExpireShorten, n.ms() + 10_000, 400, n.ms() + 60_000},
		{"an earlier time changes nothing", ExpireSet, n.ms() + 10_000, 200, n.ms() + 60_000},
		{"a later time is taken", ExpireSet, n.ms() + 90_000, 200, n.ms() + 90_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := map[string]any{
				"pubkey": id.String(), "messages": hash, "expiry": c.expiry,
				"subaccount": token[:], "subaccount_sig": group.Sign(token[:]),
				"signature": delegate.Sign(ExpireText(c.mode, []int64{c.expiry}, hash)),
			}
			if c.mode != ExpireSet {
				p[string(c.mode)] = true
			}
			if status, body := nodes[0].call(t, "expire", p); status != c.status {
				t.Errorf("%d %v", status, body)
			}
			if got, err := nodes[0].db.Expiries(id, hash); err != nil || got[hash[0]] != c.after {
				t.Errorf("expiry %v, %v, want %d", got, err, c.after)
			}
		})
	}
}

func TestForwardedRequestsGetTenSecondsMore(t *testing.T) {
	n, nodes := swarmOf(t, 1)
	u := newUser(t, 1)
	ed := u.keys.Ed25519()
	for _, c := range []struct {
		age       int64
		forwarded bool
		want      string
	}{{60_000, false, "200"}, {60_001, false, "406"}, {60_001, true, "200"}, {70_000, true, "200"}, {70_001, true, "406"}} {
		ts := n.ms() - c.age
		text := DeleteAllText(0, ts)
		got := "200"
		if c.forwarded {
			body, err := bt.Marshal(bt.Dict{"pubkey": u.id[:], "pubkey_ed25519": ed[:], "timestamp": ts, "namespace": 0, "signature": u.keys.Sign(text)})
			if err != nil {
				t.Fatal(err)
			}
			if parts := nodes[0].HandleForwarded(t.Context(), "delete_all", body); len(parts) == 2 {
				got = string(parts[0])
			}
		} else {
			status, _ := nodes[0].call(t, "delete_all", u.signed(text, map[string]any{"timestamp": ts}))
			got = fmt.Sprint(status)
		}
		if got != c.want {
			t.Errorf("%d ms old, forwarded %v: %s, want %s", c.age, c.forwarded, got, c.want)
		}
	}
}

func TestDeeplyNestedParametersAreSkipped(t *testing.T) {
	_, nodes := swarmOf(t, 1)
	body := `{"method":"info","params":{"x":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}}`
	if r := nodes[0].Handle(t.Context(), []byte(body)); r.Status != 200 {
		t.Errorf("%d %v", r.Status, r.Body)
	}
}

func TestDatabaseTroubleIsToldWithoutItsText(t *testing.T) {
	n, nodes := swarmOf(t, 1)
	u := newUser(t, 1)
	if err := nodes[0].db.Close(); err != nil {
		t.Fatal(err)
	}
	self := nodes[0].keys.Ed25519()
	hash := []string{strings.Repeat("A", 43)}
	timed := func(text []byte, more map[string]any) map[string]any {
		more["timestamp"] = n.ms()
		return u.signed(text, more)
	}
	for method, params := range map[string]map[string]any{
		"store":             n.storeParams(u.id, "x"),
		"delete":            u.signed(DeleteText(hash), map[string]any{"messages": hash, "required": false}),
		"delete_all":        timed(DeleteAllText(0, n.ms()), map[string]any{}),
		"expire":            u.signed(ExpireText(ExpireSet, []int64{n.ms()}, hash), map[string]any{"messages": hash, "expiry": n.ms()}),
		"revoke_subaccount": timed(RevokeText(n.ms(), nil), map[string]any{"revoke": []any{}}),
	} {
		status, answer := nodes[0].call(t, method, params)
		element, _ := at(answer, "swarm", hex.EncodeToString(self[:])).(map[string]any)
		delete(element, "t")
		if status != 200 || fmt.Sprint(element) != "map[failed:true query_failure:true]" {
			t.Errorf("%s: %d %v", method, status, answer)
		}
	}
	for method, params := range map[string]map[string]any{
		"retrieve":     timed(RetrieveText(0, n.ms()), map[string]any{}),
		"get_expiries": timed(GetExpiriesText(n.ms(), hash), map[string]any{"messages": hash}),
	} {
		if status, answer := nodes[0].call(t, method, params); status != 500 || answer != "request failed" {
			t.Errorf("%s: %d %v", method, status, answer)
		}
	}
}

func TestRevokedListIsSignedWithItsTime(t *testing.T) {
	if got := string(RevokedText(1_700_000_000_123)); got != "revoked_subaccounts1700000000123" {
		t.Errorf("got %s", got)
	}
}
