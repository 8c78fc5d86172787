package rpc

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/internal/bubble"
	"hearth/node/keys"
	"hearth/node/push"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// monitored is a node whose messages can be waited for.
type monitored struct {
	*Service
	t    testing.TB
	db   *storage.DB
	hub  *push.Hub
	list *swarm.List
	park func() bool
	now  func() time.Time
}

func newMonitored(t testing.TB, limits push.Limits, now func() time.Time) *monitored {
	t.Helper()
	bubble.Clean(t)
	db, err := storage.Open(filepath.Join(t.TempDir(), "messages"), now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	pair := keys.FromSeed([32]byte{1})
	n := &monitored{
		t: t, db: db, hub: push.New(limits), now: now, park: func() bool { return true },
		list: &swarm.List{Nodes: []swarm.Node{{Ed25519: pair.Ed25519(), Swarm: 7}}},
	}
	db.Watch(n.hub.Stored)
	n.Service = NewService(Config{Keys: pair, DB: db, Now: now, Push: n.hub, List: func() *swarm.List { return n.list }})
	return n
}

func (n *monitored) ask(params any) (int, any) {
	n.t.Helper()
	body := mustJSON(n.t, map[string]any{"method": "monitor", "params": params})
	r := n.Handle(WithOnion(n.t.Context(), n.park), body)
	return r.Status, asJSON(n.t, r.Body)
}

func (n *monitored) put(u user, ns int16, data string) string {
	n.t.Helper()
	m := storage.Message{
		Owner: u.id, Namespace: ns, Hash: MessageHash(u.id, ns, []byte(data)), Data: []byte(data),
		Timestamp: n.now().UnixMilli(), Expiry: n.now().Add(time.Hour).UnixMilli(),
	}
	if _, _, err := n.db.Store(m); err != nil {
		n.t.Fatal(err)
	}
	return m.Hash
}

// params are those of a good request of the user; change makes them bad.
func (n *monitored) params(u user, namespaces []int16, wait time.Duration, change map[string]any) map[string]any {
	var params map[string]any
	raw := MonitorParams(u.keys, u.id, n.now().Unix(), namespaces, nil, wait.Milliseconds())
	if err := json.Unmarshal(raw, &params); err != nil {
		n.t.Fatal(err)
	}
	for k, v := range change {
		if params[k] = v; v == nil {
			delete(params, k)
		}
	}
	return params
}

// messages gives the hashes and the data of an answer, all namespaces one after
// the other.
func messages(answer any) (list []string) {
	results, _ := at(answer, "results").([]any)
	for _, r := range results {
		l, _ := at(r, "messages").([]any)
		for _, m := range l {
			data, _ := at(m, "data").(string)
			b, _ := base64.StdEncoding.DecodeString(data)
			list = append(list, fmt.Sprint(at(r, "n"), " ", string(b)))
		}
	}
	return list
}

func TestAMessageEndsTheWait(t *testing.T) {
	arrivals := map[string]func(n *monitored, u user){
		"stored by a client": func(n *monitored, u user) {
			n.Handle(t.Context(), mustJSON(t, map[string]any{"method": "store", "params": map[string]any{
				"pubkey": u.id.String(), "timestamp": n.now().UnixMilli(), "ttl": 60_000, "data": "aGVsbG8="}}))
		},
		"passed on by a member": func(n *monitored, u user) {
			body, err := bt.Marshal(bt.Dict{"pubkey": u.id[:], "data": "hello", "timestamp": n.now().UnixMilli(), "expiry": n.now().UnixMilli() + 60_000})
			if err != nil {
				t.Fatal(err)
			}
			n.HandleForwarded(t.Context(), "store", body)
		},
		"copied from a member": func(n *monitored, u user) {
			m := storage.Message{Owner: u.id, Data: []byte("hello"), Hash: MessageHash(u.id, 0, []byte("hello")),
				Timestamp: n.now().UnixMilli(), Expiry: n.now().UnixMilli() + 60_000, Stamp: n.now().UnixMicro()}
			if _, err := n.db.Merge(nil, []storage.Message{m}, HoldsOne); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, arrive := range arrivals {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMonitored(t, push.Limits{}, time.Now)
				u := newUser(t, 1)
				began := time.Now()
				go func() {
					time.Sleep(7 * time.Second)
					n.put(newUser(t, 2), 0, "for another")
					n.put(u, 5, "in another namespace")
					time.Sleep(time.Second)
					arrive(n, u)
				}()
				status, answer := n.ask(n.params(u, []int16{-10, 0}, 20*time.Second, nil))
				if got := messages(answer); status != 200 || len(got) != 1 || got[0] != "0 hello" {
					t.Errorf("%d %v", status, answer)
				}
				if took := time.Since(began); took != 8*time.Second {
					t.Errorf("answered after %v", took)
				}
				if at(answer, "t") != float64(time.Now().UnixMilli()) {
					t.Errorf("the answer has another time: %v", at(answer, "t"))
				}
				if n.hub.Waiting() != 0 {
					t.Error("somebody still waits")
				}
				synctest.Wait()
			})
		})
	}
}

func TestWaitsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		wait  time.Duration
		end   func(n *monitored, cancel func())
		after time.Duration
	}{
		"when the time is over":       {9 * time.Second, nil, 9 * time.Second},
		"before the nodes on the way": {time.Hour, nil, MaxMonitorWait},
		"at once without a time":      {0, nil, 0},
		"when the node stops":         {20 * time.Second, func(n *monitored, _ func()) { n.hub.Close() }, 3 * time.Second},
		"with the request":            {20 * time.Second, func(_ *monitored, cancel func()) { cancel() }, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMonitored(t, push.Limits{}, time.Now)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				if c.end != nil {
					go func() { time.Sleep(3 * time.Second); c.end(n, cancel) }()
				}
				body := mustJSON(t, map[string]any{"method": "monitor", "params": n.params(newUser(t, 1), []int16{0}, c.wait, nil)})
				r := n.Handle(WithOnion(ctx, n.park), body)
				if answer := asJSON(t, r.Body); r.Status != 200 || at(answer, "success") != 1.0 || len(messages(answer)) != 0 {
					t.Errorf("%d %v", r.Status, answer)
				}
				if took := time.Since(began); took != c.after {
					t.Errorf("answered after %v, want %v", took, c.after)
				}
				if n.hub.Waiting() != 0 {
					t.Error("somebody still waits")
				}
				synctest.Wait()
			})
		})
	}
}

func TestWhatTheCallerHasIsLeftOut(t *testing.T) {
	n := newMonitored(t, push.Limits{}, time.Now)
	u := newUser(t, 1)
	first := n.put(u, 0, "one")
	n.put(u, 0, "two")
	n.put(u, 3, "three")
	for _, c := range []struct {
		name   string
		change map[string]any
		want   string
	}{
		{"everything", nil, "[0 one 0 two 3 three]"},
		{"from a message on", map[string]any{"h": []string{first}}, "[0 two 3 three]"},
		{"from a message of another namespace on", map[string]any{"h": []string{"", first}}, "[0 one 0 two 3 three]"},
		{"news only", map[string]any{"d": 0, "s": u.keys.Sign(MonitorText(u.id, time.Now().Unix(), false, []int16{0, 3}))}, "[0  0  3 ]"},
	} {
		if status, answer := n.ask(n.params(u, []int16{0, 3}, 0, c.change)); status != 200 || fmt.Sprint(messages(answer)) != c.want {
			t.Errorf("%s: %d %v", c.name, status, answer)
		}
	}
	// The same signature is good for 14 days, but not for the data.
	at := time.Now().Add(-2 * time.Minute).Unix()
	status, answer := n.ask(MonitorParams(u.keys, u.id, at, []int16{0}, []string{first}, 0))
	if got := fmt.Sprint(messages(answer)); status != 200 || got != "[0 ]" {
		t.Errorf("with an old signature: %d %v", status, answer)
	}
}

func TestMonitorRefusals(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	n := newMonitored(t, push.Limits{}, func() time.Time { return now })
	u, delegate := newUser(t, 1), newUser(t, 2)
	far := make([]int, maxMonitored+1)
	for i := range far {
		far[i] = i
	}
	token := func(prefix byte, access Access) map[string]any {
		id := u.id
		id[0] = prefix
		tk := NewToken(id, access, delegate.keys.Ed25519())
		return map[string]any{
			"T": tk[:], "S": u.keys.Sign(tk[:]),
			"s": delegate.keys.Sign(MonitorText(u.id, now.Unix(), true, []int16{0})),
		}
	}
	with := func(m map[string]any, k string, v any) map[string]any { m[k] = v; return m }
	group := account.ID{3}
	pub := u.keys.Ed25519()
	copy(group[1:], pub[:])
	for _, c := range []struct {
		name   string
		change map[string]any
		status int
		code   float64
		text   string
	}{
		{"nothing wrong", nil, 200, 0, ""},
		{"base64 in place of hexadecimal", map[string]any{"P": pub[:]}, 200, 0, ""},
		{"a group", map[string]any{"P": nil, "p": group.String(), "s": u.keys.Sign(MonitorText(group, now.Unix(), true, []int16{0}))}, 200, 0, ""},
		{"a delegate who may read", token(5, Read), 200, 0, ""},
		{"a delegate for any prefix", token(3, Read|AnyPrefix), 200, 0, ""},
		{"T without S is not looked at", map[string]any{"T": make([]byte, 36)}, 200, 0, ""},
		{"P a number", map[string]any{"P": 5}, 400, 1, "Invalid arguments: Invalid value given for 'P': expected string"},
		{"P too short", map[string]any{"P": "ab"}, 400, 2, "Provided P= Session Ed25519 pubkey must be 32 bytes"},
		{"P no point", map[string]any{"P": "02" + hex.EncodeToString(make([]byte, 31))}, 400, 2, "Invalid P= ed25519 public key"},
		{"both accounts", map[string]any{"p": group.String()}, 400, 1, "Invalid arguments: Cannot provide both p= and P= pubkey values"},
		{"no account", map[string]any{"P": nil}, 400, 1, "Invalid arguments: Either p= or P= must be given"},
		{"p too short", map[string]any{"P": nil, "p": "03"}, 400, 2, "Provided p= pubkey must be 33 bytes"},
		{"S too short", map[string]any{"S": "AAAA"}, 400, 2, "Provided S subaccount signature must be 64 bytes"},
		{"S without T", map[string]any{"S": make([]byte, 64)}, 400, 1, "Invalid arguments: Required field 'T' missing"},
		{"T too short", map[string]any{"S": make([]byte, 64), "T": "AAAA"}, 400, 2, "Provided T subaccount token must be 36 bytes"},
		{"d neither", map[string]any{"d": 2}, 400, 1, "Invalid arguments: Invalid value given for 'd': expected 0 or 1"},
		{"no namespace", map[string]any{"n": nil}, 400, 1, "Invalid arguments: Required field 'n' missing"},
		{"an empty list of namespaces", map[string]any{"n": []int{}}, 400, 1, "Invalid arguments: Required field 'n' missing"},
		{"namespaces that are text", map[string]any{"n": []string{"0"}}, 400, 1, "Invalid arguments: Invalid value given for 'n': expected integer array"},
		{"a namespace beyond 16 bits", map[string]any{"n": []int{40_000}}, 400, 1, "Invalid arguments: Invalid value given for 'n': value out of range"},
		{"too many namespaces", map[string]any{"n": far}, 400, 1, "Invalid arguments: too many namespaces"},
		{"namespaces out of order", map[string]any{"n": []int{3, 0}}, 400, 3, "Invalid n= namespace list: namespaces must be ascending"},
		{"a namespace twice", map[string]any{"n": []int{3, 3}}, 400, 3, "Invalid n= namespace list: namespaces must be ascending"},
		{"more hashes than namespaces", map[string]any{"h": []string{"", ""}}, 400, 1, "Invalid arguments: more hashes than namespaces"},
		{"a hash that is none", map[string]any{"h": []string{"x"}}, 400, 1, "Invalid arguments: Invalid h: expected base64 (43 chars)"},
		{"no time", map[string]any{"t": nil}, 400, 1, "Invalid arguments: required signature timestamp is missing"},
		{"too old", map[string]any{"t": now.Unix() - 14*86400 - 1}, 406, 4, "Invalid t= signature timestamp: timestamp is too old"},
		{"in the future", map[string]any{"t": now.Unix() + 86400 + 1}, 406, 4, "Invalid t= signature timestamp: timestamp is in the future"},
		{"no signature", map[string]any{"s": nil}, 400, 1, "Invalid arguments: Required field 's' missing"},
		{"a short signature", map[string]any{"s": "AAAA"}, 401, 5, "Provided s= signature must be 64 bytes"},
		{"another signature", map[string]any{"s": make([]byte, 64)}, 401, 5, "Signature verification failed"},
		{"another namespace than signed", map[string]any{"n": []int{1}}, 401, 5, "Signature verification failed"},
		{"a delegate of other accounts", token(3, Read), 401, 5, "Subaccount verification failed: subaccount network prefix mismatch"},
		{"a delegate who may not read", token(5, Write|Delete), 401, 5, "Subaccount verification failed: subaccount is missing the required permissions"},
		{"a delegate whom nobody named", with(token(5, Read), "S", make([]byte, 64)), 401, 5, "Subaccount verification failed: subaccount token signature verification failed"},
		{"a delegate's token with the owner's signature", with(token(5, Read), "s", u.keys.Sign(MonitorText(u.id, now.Unix(), true, []int16{0}))), 401, 5, "Signature verification failed"},
		{"a negative wait", map[string]any{"w": -1}, 400, 1, "Invalid arguments: Invalid value given for 'w': expected positive integer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, answer := n.ask(n.params(u, []int16{0}, 0, c.change))
			if status != c.status {
				t.Fatalf("%d %v, want %d", status, answer, c.status)
			}
			if code, _ := at(answer, "errcode").(float64); code != c.code {
				t.Errorf("errcode %v, want %v", code, c.code)
			}
			if text, _ := at(answer, "error").(string); text != c.text {
				t.Errorf("error %q, want %q", text, c.text)
			}
		})
	}
	if n.hub.Waiting() != 0 {
		t.Error("refused requests wait")
	}

	bare := n.Handle(t.Context(), mustJSON(t, map[string]any{"method": "monitor", "params": n.params(u, []int16{0}, 0, nil)}))
	if bare.Status != 400 || bare.Body != "no method monitor" {
		t.Errorf("outside of an onion: %v", bare)
	}
	n.list = &swarm.List{Nodes: append(n.list.Nodes[:1:1], swarm.Node{Ed25519: [32]byte{9}, Swarm: swarm.ID(swarm.Position(u.id))})}
	if status, answer := n.ask(n.params(u, []int16{0}, 0, nil)); status != 421 || at(answer, "snodes") == nil {
		t.Errorf("of another swarm: %d %v", status, answer)
	}
}

// TestRecordedSubscriptions gives what clients sent to a storage server 2.8.0, which
// speaks bt here, to the part of the method that is the same.
func TestRecordedSubscriptions(t *testing.T) {
	file, err := os.ReadFile("testdata/monitor.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded []struct {
		Name    string
		At      int64 // s
		Request []byte
		Errcode int
		Error   string
	}
	if err := json.Unmarshal(file, &recorded); err != nil || len(recorded) == 0 {
		t.Fatal("nothing recorded", err)
	}
	for _, c := range recorded {
		t.Run(c.Name, func(t *testing.T) {
			v, err := bt.Unmarshal(c.Request)
			if err != nil {
				t.Fatal(err)
			}
			list, ok := v.([]any)
			if !ok {
				list = []any{v}
			}
			for _, v := range list {
				r, refused := parseMonitor(&params{bt: v.(bt.Dict)})
				if refused == nil {
					refused = r.identify(time.Unix(c.At, 0))
				}
				if refused == nil {
					refused = r.authorize()
				}
				if refused == nil {
					refused = new(monitorRefusal)
				}
				if refused.code != c.Errcode || refused.text != c.Error {
					t.Errorf("%d %q, want %d %q", refused.code, refused.text, c.Errcode, c.Error)
				}
			}
		})
	}
}

func TestARevokedDelegateIsToldNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMonitored(t, push.Limits{}, time.Now)
		u, delegate := newUser(t, 1), newUser(t, 2)
		n.put(u, 5, "revocations are remembered while there are messages")
		token := NewToken(u.id, Read, delegate.keys.Ed25519())
		ask := func(ns int16) (int, any) {
			return n.ask(n.params(u, []int16{ns}, 20*time.Second, map[string]any{
				"T": token[:], "S": u.keys.Sign(token[:]),
				"s": delegate.keys.Sign(MonitorText(u.id, time.Now().Unix(), true, []int16{ns})),
			}))
		}
		go func() {
			time.Sleep(3 * time.Second)
			at := time.Now().UnixMilli()
			status, answer := (&testNode{Service: n.Service}).call(t, "revoke_subaccount", u.signed(RevokeText(at, []Token{token}), map[string]any{
				"timestamp": at, "revoke": hex.EncodeToString(token[:])}))
			if status != 200 {
				t.Errorf("revoking: %d %v", status, answer)
			}
			n.put(u, 0, "secret")
			n.put(u, -11, "you were removed")
		}()
		if status, answer := ask(0); status != 401 || at(answer, "errcode") != 5.0 {
			t.Errorf("revoked while waiting: %d %v", status, answer)
		}
		if status, answer := ask(-11); status != 200 || len(messages(answer)) != 1 {
			t.Errorf("where revocation does not count: %d %v", status, answer)
		}
		synctest.Wait()
	})
}

func TestWaitersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newMonitored(t, push.Limits{Account: 2, Node: 3}, time.Now)
		a, b, c := newUser(t, 1), newUser(t, 2), newUser(t, 3)
		wait := func(u user) {
			go func() {
				if status, answer := n.ask(n.params(u, []int16{0}, 20*time.Second, nil)); status != 200 {
					t.Errorf("%d %v", status, answer)
				}
			}()
			synctest.Wait()
		}
		wait(a)
		wait(a)
		if status, answer := n.ask(n.params(a, []int16{0}, time.Second, nil)); status != 429 || answer != push.ErrAccount.Error() {
			t.Errorf("a third of one account: %d %v", status, answer)
		}
		wait(b)
		if status, answer := n.ask(n.params(c, []int16{0}, time.Second, nil)); status != 429 || answer != push.ErrNode.Error() {
			t.Errorf("a fourth: %d %v", status, answer)
		}
		n.put(a, 0, "x")
		synctest.Wait()
		n.park = func() bool { return false }
		if status, _ := n.ask(n.params(c, []int16{0}, time.Second, nil)); status != 429 {
			t.Errorf("without a place to wait: %d", status)
		}
		if status, _ := n.ask(n.params(c, []int16{0}, 0, nil)); status != 200 {
			t.Errorf("without a place, and without a wait: %d", status)
		}
		n.hub.Close()
		synctest.Wait()
		if status, _ := n.ask(n.params(c, []int16{0}, time.Second, nil)); status != 503 || n.hub.Waiting() != 0 {
			t.Errorf("after the end: %d, %d wait", status, n.hub.Waiting())
		}
	})
}

// FuzzMonitor gives the method any parameters, as JSON and bt-encoded.
func FuzzMonitor(f *testing.F) {
	now := time.UnixMilli(1_800_000_000_000)
	n := newMonitored(f, push.Limits{}, func() time.Time { return now })
	u := newUser(f, 1)
	f.Add([]byte(MonitorParams(u.keys, u.id, now.Unix(), []int16{-10, 0, 11}, []string{"", MessageHash(u.id, 0, nil)}, 0)))
	f.Add([]byte(`{"p":"03","n":7,"d":true,"t":1e9,"s":"","w":-1}`))
	f.Add([]byte("d1:P32:" + string(make([]byte, 32)) + "1:nli0ei1ee1:s64:" + string(make([]byte, 64)) + "1:ti1800000000ee"))
	over, cancel := context.WithCancel(context.Background())
	cancel() // nothing waits
	f.Fuzz(func(t *testing.T, body []byte) {
		if text, ok := checkJSON(body); ok {
			r := n.monitor(over, text, nil)
			if _, err := json.Marshal(r.Body); err != nil {
				t.Errorf("body %v: %v", r.Body, err)
			}
		}
		if v, err := bt.Unmarshal(body); err == nil {
			if dict, ok := v.(bt.Dict); ok {
				r, refused := parseMonitor(&params{bt: dict})
				if (r == nil) == (refused == nil) {
					t.Errorf("neither read nor refused, or both: %v %v", r, refused)
				}
				if r != nil && (len(r.namespaces) > maxMonitored || len(r.last) != len(r.namespaces) || r.wait > MaxMonitorWait) {
					t.Errorf("%d namespaces, %d hashes, wait %v", len(r.namespaces), len(r.last), r.wait)
				}
			}
		}
		if n.hub.Waiting() != 0 {
			t.Error("somebody waits")
		}
	})
}

// BenchmarkMonitor is one request that finds a message.
func BenchmarkMonitor(b *testing.B) {
	n := newMonitored(b, push.Limits{}, time.Now)
	u := newUser(b, 1)
	n.put(u, 0, "hello")
	ctx := WithOnion(b.Context(), n.park)
	body := mustJSON(b, map[string]any{"method": "monitor", "params": n.params(u, []int16{0}, time.Second, nil)})
	for b.Loop() {
		if r := n.Handle(ctx, body); r.Status != 200 {
			b.Fatal(r)
		}
	}
}
