package rpc

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/keys"
	"hearth/node/storage"
)

// changes are what a node remembers.
func (node *testNode) changes(t testing.TB) (list []storage.Change) {
	t.Helper()
	items, _, err := node.db.List(storage.Changes, nil, nil, 1000, func(account.ID) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		c, ok, err := node.db.LoadChange(item.Key)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		list = append(list, c)
	}
	return list
}

// TestEveryRequestLeavesAProof sends each of the requests that change something,
// by the owner and by a delegate, and checks what other nodes will check.
func TestEveryRequestLeavesAProof(t *testing.T) {
	n, nodes := swarmOf(t, 2)
	node := nodes[0]
	u := newUser(t, 1)
	group := keys.FromSeed([32]byte{0x03})
	ed := group.Ed25519()
	groupID := account.ID(append([]byte{0x03}, ed[:]...))
	delegate := keys.FromSeed([32]byte{0x0d})
	now := n.ms()
	hashes := []string{MessageHash(u.id, 0, []byte("a")), MessageHash(u.id, 0, []byte("b"))}
	token := NewToken(groupID, Read|Write|Delete, delegate.Ed25519())
	writer := NewToken(groupID, Read|Write, delegate.Ed25519())

	asOwner := func(text []byte, p map[string]any) map[string]any { return u.signed(text, p) }
	asGroup := func(text []byte, p map[string]any) map[string]any {
		p["pubkey"], p["signature"] = groupID.String(), group.Sign(text)
		return p
	}
	as := func(token Token) func(text []byte, p map[string]any) map[string]any {
		return func(text []byte, p map[string]any) map[string]any {
			p["pubkey"], p["signature"] = groupID.String(), delegate.Sign(text)
			p["subaccount"], p["subaccount_sig"] = base64.StdEncoding.EncodeToString(token[:]), group.Sign(token[:])
			return p
		}
	}
	for _, id := range []account.ID{u.id, groupID} { // revocations need messages
		if status, answer := node.call(t, "store", n.storeParams(id, "x")); status != 200 {
			t.Fatal(status, answer)
		}
	}
	for name, sign := range map[string]func([]byte, map[string]any) map[string]any{
		"a Session ID": asOwner, "a group": asGroup, "a delegate": as(token), "a delegate that may only write": as(writer),
	} {
		tokens := []Token{{3, 1, 9: 7}}
		requests := []struct {
			method string
			params map[string]any
			need   Access
		}{
			{"delete", sign(DeleteText(hashes), map[string]any{"messages": hashes}), Delete},
			{"delete_all", sign(DeleteAllText(AllNamespaces, now), map[string]any{"namespace": "all", "timestamp": now}), Delete},
			{"delete_all", sign(DeleteAllText(0, now), map[string]any{"namespace": 0, "timestamp": now}), Delete},
			{"delete_before", sign(DeleteBeforeText(-3, now), map[string]any{"namespace": -3, "before": now}), Delete},
			{"expire_all", sign(ExpireAllText(4, now+1000), map[string]any{"namespace": 4, "expiry": now + 1000}), Delete},
			{"expire", sign(ExpireText(ExpireSet, []int64{now + 5000}, hashes), map[string]any{"messages": hashes, "expiry": now + 5000}), Write},
			{"expire", sign(ExpireText(ExpireExtend, []int64{now + 5000, now + 1<<50}, hashes), map[string]any{"messages": hashes, "expiry": []int64{now + 5000, now + 1<<50}, "extend": true}), Write},
			{"expire", sign(ExpireText(ExpireShorten, []int64{now + 5000}, hashes[:1]), map[string]any{"messages": hashes[:1], "expiry": now + 5000, "shorten": true}), Delete},
			{"store", sign(StoreText(-1, now-5), map[string]any{"namespace": -1, "timestamp": now, "sig_timestamp": now - 5, "ttl": 60_000, "data": "YQ=="}), Write | Delete},
			{"revoke_subaccount", sign(RevokeText(now, tokens), map[string]any{"revoke": hex.EncodeToString(tokens[0][:]), "timestamp": now}), ownerOnly},
			{"unrevoke_subaccount", sign(UnrevokeText(now, tokens), map[string]any{"unrevoke": hex.EncodeToString(tokens[0][:]), "timestamp": now}), ownerOnly},
		}
		for i, r := range requests {
			t.Run(fmt.Sprint(name, " ", i, " ", r.method), func(t *testing.T) {
				known := node.changes(t)
				status, answer := node.call(t, r.method, r.params)
				allowed := name != "a delegate" && name != "a delegate that may only write" ||
					r.need != ownerOnly && (name == "a delegate" || r.need == Write)
				if !allowed {
					if status == 200 {
						t.Errorf("%d %v", status, answer)
					}
					return
				}
				if status != 200 {
					t.Fatalf("%d %v", status, answer)
				}
				var left []storage.Change
				for _, c := range node.changes(t) {
					if !slices.ContainsFunc(known, func(o storage.Change) bool { return bytes.Equal(o.Key(), c.Key()) && o.Stamp == c.Stamp }) {
						left = append(left, c)
					}
				}
				if len(left) != 1 {
					t.Fatalf("%d changes", len(left))
				}
				c := left[0]
				if err := VerifyChange(&c); err != nil {
					t.Errorf("%v: %+v", err, c)
				}
				for what, edit := range map[string]func(*storage.Change){
					"another signature":  func(c *storage.Change) { c.Proof[20] ^= 1 },
					"another owner":      func(c *storage.Change) { c.Owner[9] ^= 1 },
					"a longer proof":     func(c *storage.Change) { c.Proof = append(c.Proof, 0) },
					"no proof":           func(c *storage.Change) { c.Proof = nil },
					"a delegate more":    func(c *storage.Change) { c.Delegate = make([]byte, len(token)-len(c.Delegate)) },
					"other flags":        func(c *storage.Change) { c.Proof[0] ^= proofPlain | proofToken },
					"a hash more":        func(c *storage.Change) { c.Hashes = append(c.Hashes, "x") },
					"another kind":       func(c *storage.Change) { c.Kind = c.Kind%storage.Expire + 1 },
					"an unknown kind":    func(c *storage.Change) { c.Kind = 99 },
					"another time in it": func(c *storage.Change) { c.At += 7; c.Expiries = append(c.Expiries, 7) },
				} {
					bad := c
					bad.Proof, bad.Hashes, bad.Expiries = bytes.Clone(c.Proof), slices.Clone(c.Hashes), slices.Clone(c.Expiries)
					edit(&bad)
					unsigned := what == "another time in it" && (c.Kind == storage.Delete) ||
						what == "a hash more" && c.Kind == storage.Replace
					if err := VerifyChange(&bad); !errors.Is(err, ErrProof) && !unsigned {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		}
	}
}

func TestStampComesWithTheRequest(t *testing.T) {
	n, nodes := swarmOf(t, 2)
	u := newUser(t, 1)
	if status, _ := nodes[0].call(t, "store", n.storeParams(u.id, "x")); status != 200 {
		t.Fatal(status)
	}
	key := storage.HashBytes(MessageHash(u.id, 0, []byte("x")))
	a, _, _ := nodes[0].db.LoadMessage(key)
	b, _, _ := nodes[1].db.LoadMessage(key)
	if a.Stamp == 0 || a.Stamp != b.Stamp {
		t.Errorf("stamps %d and %d", a.Stamp, b.Stamp)
	}
	for off, taken := range map[time.Duration]bool{0: true, -50 * time.Second: true, 50 * time.Second: true, -61 * time.Second: false, 61 * time.Second: false} {
		stamp := n.now.Add(off).UnixMicro()
		got := nodes[1].Service.call(WithStamp(t.Context(), stamp), true).stamp
		if (got == stamp) != taken {
			t.Errorf("a stamp %v off: %d for %d", off, got, stamp)
		}
	}
}
