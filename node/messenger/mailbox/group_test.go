package mailbox

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/group"
	"hearth/node/keys"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

var spaces = []int16{group.Revoked, group.Messages, group.KeyList}

// circle is a group with one member besides its admin.
type circle struct {
	seed   *keys.Pair
	member *account.Account
	admin  Authority
	guest  Authority
}

func newCircle(t testing.TB) circle {
	t.Helper()
	seed, err := keys.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := circle{seed: seed, member: person(5), admin: group.AdminSigner(seed)}
	auth, err := group.NewAuth(seed, c.member.ID(), group.MemberAccess)
	if err != nil {
		t.Fatal(err)
	}
	if c.guest, err = group.MemberSigner(c.member.Keys(), group.ID(seed), auth); err != nil {
		t.Fatal(err)
	}
	return c
}

func (d *device) at(t testing.TB, id account.ID) swarm.Node {
	t.Helper()
	members, _, err := d.Swarm(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return members[0]
}

func items(n, size int) (list []Item) {
	for i := range n {
		list = append(list, Item{group.Messages, []byte(fmt.Sprintf("%*d", size, i)), time.Hour})
	}
	return list
}

func TestASequenceIsStoredAndFetchedByThoseWhoAreLetIn(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d := newDevice(t, n)
	c := newCircle(t)
	node := d.at(t, c.admin.Group())
	// More than one request, by their number and by their size.
	for _, list := range [][]Item{items(3, 8), items(45, 20), items(30, 60_000)} {
		hashes, done, err := d.Sequence(t.Context(), c.guest, node, list, nil, nil)
		if err != nil || !done || len(hashes) != len(list) {
			t.Fatalf("%d hashes, %v, %v", len(hashes), done, err)
		}
		for i, h := range hashes {
			if h != rpc.MessageHash(c.admin.Group(), group.Messages, list[i].Data) {
				t.Errorf("item %d is %q", i, h)
			}
		}
	}
	got := make(map[string]bool)
	last := make([]string, len(spaces))
	for range 50 {
		pages, err := d.RetrieveAll(t.Context(), c.guest, node, spaces, last)
		if err != nil || len(pages) != 3 || pages[1].Namespace != group.Messages || pages[1].Refused {
			t.Fatalf("%v, %v", pages, err)
		}
		for _, m := range pages[1].Messages {
			got[string(m.Data)] = true
			last[1] = m.Hash
		}
		if !pages[1].More {
			break
		}
	}
	if len(got) != 78 {
		t.Errorf("%d messages fetched", len(got))
	}

	// A member deletes nothing, and is out when an admin says so.
	if _, done, err := d.Sequence(t.Context(), c.guest, node, nil, nil, []string{last[1]}); done || err == nil {
		t.Errorf("a member deletes: %v, %v", done, err)
	}
	requests, err := group.Revocations(c.seed, []account.ID{c.member.ID()}, d.clock.Now().UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	calls := []Call{{requests[0].Method, requests[0].Params}}
	if _, done, err := d.Sequence(t.Context(), c.admin, node, nil, calls, []string{last[1]}); !done || err != nil {
		t.Errorf("the admin: %v, %v", done, err)
	}
	pages, err := d.RetrieveAll(t.Context(), c.guest, node, spaces, make([]string, 3))
	if err != nil || pages[0].Refused || !pages[1].Refused || !pages[2].Refused {
		t.Errorf("who was removed fetches %v, %v", pages, err)
	}
	if _, done, err := d.Sequence(t.Context(), c.guest, node, items(1, 9), nil, nil); done || !errors.Is(err, path.ErrRefused) {
		t.Errorf("who was removed stores: %v, %v", done, err)
	}
	if _, err := d.StoreAs(t.Context(), c.guest, group.Messages, time.Hour, time.Now().UnixMilli, func(int64) ([]byte, error) { return []byte("x"), nil }); !errors.Is(err, path.ErrRefused) {
		t.Errorf("who was removed stores: %v", err)
	}
}

func TestWhatANodeSaysAboutASequenceIsChecked(t *testing.T) {
	results := func(change func(results []any) []any) func(answer map[string]any) {
		return func(answer map[string]any) { answer["results"] = change(answer["results"].([]any)) }
	}
	body := func(i int, change func(body map[string]any)) func(answer map[string]any) {
		return results(func(r []any) []any {
			change(r[i].(map[string]any)["body"].(map[string]any))
			return r
		})
	}
	unsigned := func(b map[string]any) {
		everyMember(func(m map[string]any) { m["signature"] = base64.StdEncoding.EncodeToString(make([]byte, 64)) })(b)
	}
	for _, c := range []struct {
		name   string
		change func(answer map[string]any)
		stored int // of three
	}{
		{"fewer results", results(func(r []any) []any { return r[:2] }), 2},
		{"no results", results(func([]any) []any { return nil }), 0},
		{"another hash", body(1, func(b map[string]any) { b["hash"] = strings.Repeat("x", 43) }), 1},
		{"nobody signs for the second", body(1, unsigned), 1},
		{"nobody signs for who is out", body(3, unsigned), 3},
		{"nobody signs for a deletion", body(4, unsigned), 3},
		{"a body that is none", results(func(r []any) []any { r[0] = map[string]any{"code": 200, "body": "done"}; return r }), 0},
		{"a code that is none", results(func(r []any) []any { r[2] = map[string]any{"code": "x"}; return r }), 0},
		{"results that are no list", func(m map[string]any) { m["results"] = "all done" }, 0},
		{"a refusal in the middle", results(func(r []any) []any { r[1] = map[string]any{"code": 500, "body": "no"}; return r }), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			d := newDevice(t, n)
			of := newCircle(t)
			lying(n, n.Swarm(of.admin.Group()), "sequence", c.change)
			requests, err := group.Revocations(of.seed, []account.ID{of.member.ID()}, time.Now().UnixMilli())
			if err != nil {
				t.Fatal(err)
			}
			hashes, done, err := d.Sequence(t.Context(), of.admin, d.at(t, of.admin.Group()), items(3, 9),
				[]Call{{requests[0].Method, requests[0].Params}}, []string{strings.Repeat("y", 43)})
			stored := 0
			for _, h := range hashes {
				if h != "" {
					stored++
				}
			}
			if done || err == nil || stored != c.stored {
				t.Errorf("%d of 3 stored, done: %t, %v", stored, done, err)
			}
		})
	}
}

func TestMoreNamespacesThanAskedForAreNotBelieved(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(answer map[string]any)
	}{
		{"fewer", func(m map[string]any) { m["results"] = m["results"].([]any)[:1] }},
		{"more", func(m map[string]any) { m["results"] = append(m["results"].([]any), m["results"].([]any)[0]) }},
		{"none", func(m map[string]any) { delete(m, "results") }},
		{"an error", func(m map[string]any) { m["results"].([]any)[1] = map[string]any{"code": 500, "body": "x"} }},
		{"no messages", func(m map[string]any) {
			m["results"].([]any)[1] = map[string]any{"code": 200, "body": map[string]any{}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := swarmtest.New(t, 9, time.Now)
			d := newDevice(t, n)
			of := newCircle(t)
			lying(n, n.Swarm(of.admin.Group()), "batch", c.change)
			if pages, err := d.RetrieveAll(t.Context(), of.guest, d.at(t, of.admin.Group()), spaces, make([]string, 3)); err == nil {
				t.Errorf("%v", pages)
			}
		})
	}
}

func TestLivesAreExtendedByMembersToo(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	d := newDevice(t, n)
	of := newCircle(t)
	node := d.at(t, of.admin.Group())
	hashes, _, err := d.Sequence(t.Context(), of.admin, node, items(2, 9), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(20 * 24 * time.Hour).UnixMilli()
	if err := d.Extend(t.Context(), of.guest, hashes, end); err != nil {
		t.Fatal(err)
	}
	pages, err := d.RetrieveAll(t.Context(), of.guest, node, spaces, make([]string, 3))
	if err != nil || len(pages[1].Messages) != 2 {
		t.Fatalf("%v, %v", pages, err)
	}
	for _, m := range pages[1].Messages {
		if m.Expiration != end {
			t.Errorf("ends at %d, want %d", m.Expiration, end)
		}
	}
}
