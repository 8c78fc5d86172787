package group

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/keys"
	"hearth/node/rpc"
	"hearth/node/storage"
	"hearth/node/swarm"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// testSwarm keeps what devices store. In memory it checks signatures and tokens
// itself; over a real storage server, that does.
type testSwarm struct {
	t   testing.TB
	now time.Time
	rpc *rpc.Service // nil in memory

	lag     int // how many messages of each namespace are not there yet
	lists   map[int16][]Fetched
	revoked map[string]bool // tokens, hexadecimal
}

func newSwarm(t testing.TB) *testSwarm {
	return &testSwarm{t: t, now: time.UnixMilli(start), lists: map[int16][]Fetched{}, revoked: map[string]bool{}}
}

// newServer is a swarm of one real storage server.
func newServer(t testing.TB) *testSwarm {
	t.Helper()
	s := newSwarm(t)
	clock := func() time.Time { return s.now }
	db, err := storage.Open(filepath.Join(t.TempDir(), "swarm.db"), clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	node := keys.FromSeed([32]byte{0xee})
	list := &swarm.List{Nodes: []swarm.Node{{Ed25519: node.Ed25519(), X25519: node.X25519(), Swarm: 0}}}
	s.rpc = rpc.NewService(rpc.Config{Keys: node, DB: db, Now: clock, List: func() *swarm.List { return list }})
	return s
}

func (s *testSwarm) tick() int64 {
	s.now = s.now.Add(7 * time.Millisecond)
	return s.now.UnixMilli()
}

// permits is the check of a storage server, in memory.
func (s *testSwarm) permits(params map[string]any, text []byte, proof bool) bool {
	s.t.Helper()
	group, err := account.ParseID(params["pubkey"].(string))
	if err != nil {
		s.t.Fatal(err)
	}
	signer := group.Key()
	if encoded, delegate := params["subaccount"].(string); delegate {
		token, err := rpc.ParseToken(encoded)
		if err != nil || !keys.Verify(signer, token[:], decode64(s.t, params["subaccount_sig"].(string))) {
			return false
		}
		if s.revoked[fmt.Sprintf("%x", token)] && !proof {
			return false
		}
		signer = token.Delegate()
	}
	return keys.Verify(signer, text, decode64(s.t, params["signature"].(string)))
}

func (s *testSwarm) call(method string, params map[string]any) (int, map[string]any) {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		s.t.Fatal(err)
	}
	r := s.rpc.Handle(context.Background(), body)
	b, err := json.Marshal(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var answer map[string]any
	if r.Status == 200 {
		if err := json.Unmarshal(b, &answer); err != nil {
			s.t.Fatal(err)
		}
	}
	return r.Status, answer
}

// store returns the hash, or nothing if the swarm refuses.
func (s *testSwarm) store(who *Signer, namespace int16, data []byte, ttl time.Duration) string {
	s.t.Helper()
	at := s.tick()
	params := map[string]any{"namespace": namespace, "timestamp": at, "ttl": ttl.Milliseconds(), "data": base64.StdEncoding.EncodeToString(data)}
	text := rpc.StoreText(namespace, at)
	who.Authorize(params, text)
	hash := rpc.MessageHash(who.Group(), namespace, data)
	if s.rpc == nil {
		if len(data) > wire.MaxData || !s.permits(params, text, false) {
			return ""
		}
		if !slices.ContainsFunc(s.lists[namespace], func(f Fetched) bool { return f.Hash == hash }) {
			s.lists[namespace] = append(s.lists[namespace], Fetched{namespace, hash, at, data})
		}
		return hash
	}
	if status, _ := s.call("store", params); status != 200 {
		return ""
	}
	return hash
}

func (s *testSwarm) retrieve(who *Signer, namespace int16, last string) (list []Fetched, status int) {
	s.t.Helper()
	at := s.tick()
	params := map[string]any{"namespace": namespace, "timestamp": at, "last_hash": last}
	text := rpc.RetrieveText(namespace, at)
	who.Authorize(params, text)
	if s.rpc == nil {
		if !s.permits(params, text, namespace == Revoked) {
			return nil, 401
		}
		all := s.lists[namespace]
		all = all[:max(len(all)-s.lag, 0)]
		i := slices.IndexFunc(all, func(f Fetched) bool { return f.Hash == last })
		return slices.DeleteFunc(slices.Clone(all[i+1:]), func(f Fetched) bool { return f.Data == nil }), 200
	}
	status, answer := s.call("retrieve", params)
	if status != 200 {
		return nil, status
	}
	for _, v := range answer["messages"].([]any) {
		m := v.(map[string]any)
		list = append(list, Fetched{namespace, m["hash"].(string), int64(m["timestamp"].(float64)), decode64(s.t, m["data"].(string))})
	}
	return list, status
}

// request carries out what Push asks for beside stores.
func (s *testSwarm) request(r Request) bool {
	s.t.Helper()
	if s.rpc != nil {
		status, _ := s.call(r.Method, r.Params)
		return status == 200
	}
	if r.Method == "delete_all" {
		ns := r.Params["namespace"].(int16)
		if !s.permits(r.Params, rpc.DeleteAllText(rpc.Scope(ns), r.Params["timestamp"].(int64)), false) {
			return false
		}
		for i := range s.lists[ns] {
			s.lists[ns][i].Data = nil
		}
		return true
	}
	field, text := "revoke", rpc.RevokeText
	if r.Method == "unrevoke_subaccount" {
		field, text = "unrevoke", rpc.UnrevokeText
	}
	var tokens []rpc.Token
	for _, encoded := range r.Params[field].([]string) {
		token, err := rpc.ParseToken(encoded)
		if err != nil {
			s.t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	if !s.permits(r.Params, text(r.Params["timestamp"].(int64), tokens), false) {
		return false
	}
	for _, token := range tokens {
		s.revoked[fmt.Sprintf("%x", token)] = field == "revoke"
	}
	return true
}

func (s *testSwarm) delete(who *Signer, hashes []string) {
	s.t.Helper()
	params := map[string]any{"messages": hashes}
	text := rpc.DeleteText(hashes)
	who.Authorize(params, text)
	if s.rpc != nil {
		if status, _ := s.call("delete", params); status != 200 {
			s.t.Fatalf("delete: %d", status)
		}
		return
	}
	if !s.permits(params, text, false) {
		s.t.Fatal("delete: not permitted")
	}
	for _, list := range s.lists {
		for i := range list {
			if slices.Contains(hashes, list[i].Hash) {
				list[i].Data = nil // the hash stays as a place to go on from
			}
		}
	}
}

// device is an account's view of the group.
type device struct {
	t     testing.TB
	own   *keys.Pair
	g     *Group
	swarm *testSwarm
	last  map[int16]string
	read  []string // texts, with their authors
	gone  bool
}

func (s *testSwarm) options(own *keys.Pair) Options {
	return Options{Own: own, Now: func() time.Time { return s.now }, Rand: rand.Reader}
}

func (s *testSwarm) device(own *keys.Pair, g *Group) *device {
	return &device{t: s.t, own: own, g: g, swarm: s, last: map[int16]string{}}
}

func (d *device) poll() Merged {
	d.t.Helper()
	who, err := d.g.Signer()
	if err != nil {
		d.t.Fatal(err)
	}
	var fetched []Fetched
	for _, ns := range []int16{Revoked, Messages, config.GroupInfo.Namespace(), config.GroupMembers.Namespace(), KeyList} {
		for {
			list, status := d.swarm.retrieve(who, ns, d.last[ns])
			if status == 401 {
				d.gone = ns == Messages || d.gone
			} else if status != 200 {
				d.t.Fatalf("retrieving %d: %d", ns, status)
			}
			if len(list) == 0 {
				break
			}
			d.last[ns] = list[len(list)-1].Hash
			fetched = append(fetched, list...)
		}
	}
	m := d.g.Merge(fetched)
	if m.Err != nil {
		d.t.Fatalf("%s: %v", sessionID(d.own), m.Err)
	}
	for _, r := range m.Refused {
		d.t.Errorf("%s refuses %s: %v", sessionID(d.own), r.Hash, r.Err)
	}
	for _, msg := range m.Messages {
		if body := msg.Content.GetDataMessage().GetBody(); body != "" {
			d.read = append(d.read, body)
		}
	}
	return m
}

// push sends once what there is and reports whether it arrived.
func (d *device) push() bool {
	d.t.Helper()
	p, err := d.g.Push()
	if err != nil {
		d.t.Fatal(err)
	}
	who, err := d.g.Signer()
	if err != nil {
		d.t.Fatal(err)
	}
	hashes, done := make([]string, len(p.Stores)), true
	for i, s := range p.Stores {
		hashes[i] = d.swarm.store(who, s.Namespace, s.Data, s.TTL)
		done = done && hashes[i] != ""
	}
	for _, r := range p.Requests {
		done = d.swarm.request(r) && done
	}
	if len(p.Obsolete) > 0 {
		d.swarm.delete(who, p.Obsolete)
	}
	if err := d.g.Confirm(p, hashes, done); err != nil {
		d.t.Fatal(err)
	}
	return done
}

// sync pushes and polls until there is nothing to send.
func (d *device) sync() Merged {
	d.t.Helper()
	m := d.poll()
	for i := 0; d.g.NeedsPush(); i++ {
		if i == 20 {
			d.t.Fatalf("%s never comes to rest", sessionID(d.own))
		}
		d.push()
		m = d.poll()
	}
	return m
}

func (d *device) say(text string) string {
	d.t.Helper()
	data, err := d.g.Seal(wire.Text(text, uint64(d.swarm.tick())))
	if err != nil {
		d.t.Fatal(err)
	}
	who, err := d.g.Signer()
	if err != nil {
		d.t.Fatal(err)
	}
	return d.swarm.store(who, Messages, data, MessageLife)
}

// restart writes the device down and reads it again.
func (d *device) restart() {
	d.t.Helper()
	needs, all, members, notices := d.g.NeedsPush(), d.g.keys.All(), slices.Collect(d.g.members.All()), len(d.g.outbox.notices)
	dump, err := d.g.Dump()
	if err != nil {
		d.t.Fatal(err)
	}
	if d.g.NeedsDump() {
		d.t.Error("a dump is needed after a dump")
	}
	if d.g, err = Load(d.g.options, dump); err != nil {
		d.t.Fatal(err)
	}
	if d.g.NeedsPush() != needs || !slices.Equal(d.g.keys.All(), all) || !slices.Equal(slices.Collect(d.g.members.All()), members) || len(d.g.outbox.notices) != notices {
		d.t.Errorf("%s is another after a restart", sessionID(d.own))
	}
}

// join is what a device does with an invitation.
func (s *testSwarm) join(admin *device, own *keys.Pair) *device {
	s.t.Helper()
	at := uint64(s.tick())
	u, err := admin.g.Invitation(sessionID(own), at)
	if err != nil {
		s.t.Fatal(err)
	}
	invitation, err := OpenInvite(own, u.GetInviteMessage(), at)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := admin.g.Invited(sessionID(own), true); err != nil {
		s.t.Fatal(err)
	}
	o := s.options(own)
	o.ID, o.Auth = invitation.Group, invitation.Auth
	g, err := New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	d := s.device(own, g)
	d.poll()
	if err := g.Accept(); err != nil {
		s.t.Fatal(err)
	}
	d.sync()
	return d
}

func (s *testSwarm) promote(admin, member *device) {
	s.t.Helper()
	if err := admin.g.Promote([]account.ID{sessionID(member.own)}); err != nil {
		s.t.Fatal(err)
	}
	admin.sync()
	u, err := admin.g.Invitation(sessionID(member.own), uint64(s.tick()))
	if err != nil {
		s.t.Fatal(err)
	}
	seed, _, err := OpenPromote(u.GetPromoteMessage())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := admin.g.Invited(sessionID(member.own), true); err != nil {
		s.t.Fatal(err)
	}
	admin.sync()
	if err := member.g.LoadSeed(seed); err != nil {
		s.t.Fatal(err)
	}
	member.last = map[int16]string{}
	member.sync()
}

// newGroup is a group of n, of whom the first few are admins.
func newGroup(t testing.TB, n, admins int) (*testSwarm, []*device) {
	t.Helper()
	s := newSwarm(t)
	return s, s.group(n, admins)
}

func (s *testSwarm) group(n, admins int) []*device {
	t := s.t
	t.Helper()
	g, err := Create(s.options(person(0)), "Friends", "Ada")
	if err != nil {
		t.Fatal(err)
	}
	all := []*device{s.device(person(0), g)}
	var invited []config.Member
	for i := 1; i < n; i++ {
		invited = append(invited, config.Member{ID: sessionID(person(i)), Name: fmt.Sprint("Member ", i)})
	}
	if err := g.Invite(invited, false); err != nil {
		t.Fatal(err)
	}
	all[0].sync()
	for i := 1; i < n; i++ {
		all = append(all, s.join(all[0], person(i)))
	}
	all[0].sync()
	for _, d := range all[1:admins] {
		s.promote(all[0], d)
	}
	rest(all...)
	return all
}

// rest lets the devices poll and push until nobody has anything to send.
func rest(all ...*device) {
	for range 6 {
		for _, d := range all {
			d.sync()
		}
	}
}

func ids(devices ...*device) []account.ID {
	var list []account.ID
	for _, d := range devices {
		list = append(list, sessionID(d.own))
	}
	return list
}

// sameState fails unless all devices know the same.
func sameState(t *testing.T, all []*device) {
	t.Helper()
	want := all[0]
	current, err := want.g.keys.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		key, err := d.g.keys.Current()
		switch {
		case err != nil || key != current || d.g.keys.Generation() != want.g.keys.Generation():
			t.Errorf("%s has another key, generation %d and not %d, %v", sessionID(d.own), d.g.keys.Generation(), want.g.keys.Generation(), err)
		case d.g.NeedsPush() || d.g.keys.NeedsRekey() || d.g.keys.Pending() != nil:
			t.Errorf("%s has still something to send", sessionID(d.own))
		case d.g.info.Seqno() != want.g.info.Seqno() || d.g.info.Name() != want.g.info.Name() || d.g.info.Timer() != want.g.info.Timer() || d.g.info.Description() != want.g.info.Description():
			t.Errorf("%s has info %v, not %v", sessionID(d.own), d.g.info, want.g.info)
		case !slices.Equal(slices.Collect(d.g.members.All()), slices.Collect(want.g.members.All())):
			t.Errorf("%s has other members: %v, not %v", sessionID(d.own), slices.Collect(d.g.members.All()), slices.Collect(want.g.members.All()))
		}
	}
}

func TestAGroupOfTwentyWithThreeAdmins(t *testing.T) {
	s, all := newGroup(t, 20, 3)
	sameState(t, all)
	for m := range all[5].g.members.All() {
		if m.Status() != config.StatusMember && m.Status() != config.StatusAdmin {
			t.Errorf("%s is %v", m.ID, m.Status())
		}
	}
	for i, d := range all {
		if d.say(fmt.Sprint("hello from ", i)) == "" {
			t.Errorf("member %d may not write", i)
		}
	}
	rest(all...)
	for i, d := range all {
		if len(d.read) != len(all) {
			t.Errorf("member %d read %d messages", i, len(d.read))
		}
	}

	// The three admins change everything at once, before any of them polls.
	ada, bob, cy := all[0], all[1], all[2]
	newcomer, quiet := person(100), person(101)
	for _, err := range []error{
		ada.g.Rename("Old friends"), bob.g.SetTimer(3600), bob.g.Describe("since school"), cy.g.Rename("Best friends"),
		ada.g.Invite([]config.Member{{ID: sessionID(newcomer)}}, true),
		bob.g.Remove(ids(all[19]), false), cy.g.Remove(ids(all[18]), true),
		cy.g.Invite([]config.Member{{ID: sessionID(quiet)}}, false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range all[:3] {
		d.push()
	}
	for _, d := range all[:3] {
		d.restart()
	}
	staying := slices.Clone(all[:18])
	rest(staying...)
	sameState(t, staying)
	removed := all[18:]

	for _, d := range removed {
		d.poll()
		if !d.gone || !d.g.Kicked() {
			t.Errorf("%s does not know that it was removed: locked out %v, told %v", sessionID(d.own), d.gone, d.g.Kicked())
		}
		if d.say("I am still here") != "" {
			t.Error("a removed member may still write")
		}
		if _, known := ada.g.members.Find(sessionID(d.own)); known {
			t.Error("a removed member is still in the list")
		}
	}

	withHistory, without := s.join(ada, newcomer), s.join(cy, quiet)
	staying = append(staying, withHistory, without)
	if ada.say("after the removal") == "" {
		t.Fatal("an admin may not write")
	}
	rest(staying...)
	sameState(t, staying)
	if len(withHistory.read) != len(all)+1 {
		t.Errorf("who was invited with history read %q", withHistory.read)
	}
	if !slices.Equal(without.read, []string{"after the removal"}) {
		t.Errorf("who was invited without read %q", without.read)
	}

	// What a removed member would read if a node of the swarm gave it everything.
	everything := stored(s, AdminSigner(ada.g.Seed()))
	for _, d := range removed {
		for _, msg := range d.g.Merge(everything).Messages {
			if msg.Content.GetDataMessage().GetBody() == "after the removal" {
				t.Error("a removed member read on")
			}
		}
		key, err := ada.g.keys.Current()
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(d.g.keys.All(), key) {
			t.Error("a removed member got the key")
		}
		// The configs that are there now were all pushed after the rekey.
		if d.g.info.Seqno() == ada.g.info.Seqno() || d.g.members.Seqno() == ada.g.members.Seqno() {
			t.Error("a removed member reads the configs")
		}
	}
	if m, known := ada.g.members.Find(sessionID(newcomer)); !known || m.Invite != config.Accepted || m.Supplement {
		t.Errorf("the newcomer is %+v", m)
	}

	// Somebody leaves, somebody comes back, and in the end it is over.
	leaver := staying[10]
	if err := leaver.g.Leave(); err != nil {
		t.Fatal(err)
	}
	leaver.push()
	staying = slices.Delete(staying, 10, 11)
	rest(staying...)
	sameState(t, staying)
	if _, known := ada.g.members.Find(sessionID(leaver.own)); known {
		t.Error("who left is still in the list")
	}
	if err := bob.g.Invite([]config.Member{{ID: sessionID(removed[0].own)}, {ID: sessionID(leaver.own)}}, false); err != nil {
		t.Fatal(err)
	}
	bob.sync()
	staying = append(staying, s.join(bob, removed[0].own), s.join(bob, leaver.own))
	for _, d := range staying {
		d.last = map[int16]string{} // all of it again: goodbyes and removals are history
	}
	rest(staying...)
	sameState(t, staying)
	for _, d := range staying[len(staying)-2:] {
		if _, known := ada.g.members.Find(sessionID(d.own)); !known || d.g.Kicked() || d.say("back again") == "" {
			t.Error("who came back is not in")
		}
	}
	if err := cy.g.Destroy(); err != nil {
		t.Fatal(err)
	}
	cy.sync()
	for _, d := range staying {
		if m := d.poll(); !m.Destroyed {
			t.Errorf("%s does not know that it is over", sessionID(d.own))
		}
	}
	onlyItsEnd(t, s, cy)
}

// onlyItsEnd fails when a group's swarm has more of it than says that it is over.
func onlyItsEnd(t *testing.T, s *testSwarm, admin *device) {
	t.Helper()
	count := map[int16]int{}
	for _, f := range stored(s, AdminSigner(admin.g.Seed())) {
		count[f.Namespace]++
	}
	if count[config.GroupInfo.Namespace()] != 1 || count[KeyList] == 0 || len(count) != 2 {
		t.Errorf("the swarm has kept %v messages by namespace", count)
	}
}

// stored is all that the swarm has.
func stored(s *testSwarm, who *Signer) (list []Fetched) {
	for _, ns := range []int16{Revoked, Messages, config.GroupInfo.Namespace(), config.GroupMembers.Namespace(), KeyList} {
		last := ""
		for {
			some, status := s.retrieve(who, ns, last)
			if status != 200 || len(some) == 0 {
				break
			}
			list = append(list, some...)
			last = some[len(some)-1].Hash
		}
	}
	return list
}

// TestAdminsInAnyOrderConverge lets three admins act, push and poll in random
// order, with restarts and requests that fail in between.
func TestAdminsInAnyOrderConverge(t *testing.T) {
	texts := 0
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := mathrand.New(mathrand.NewPCG(seed, 7))
			_, all := newGroup(t, 6, 3)
			next := 200
			var said []string
			for range 40 {
				d := all[r.IntN(3)]
				var err error
				switch r.IntN(13) {
				case 0:
					err = d.g.Rename(fmt.Sprint("name ", r.IntN(100)))
				case 1:
					err = d.g.SetTimer(uint32(r.IntN(100)))
				case 2:
					next++
					err = d.g.Invite([]config.Member{{ID: sessionID(person(next))}}, r.IntN(2) == 0)
				case 3:
					// Anybody but the devices that we look at.
					err = d.g.Remove([]account.ID{sessionID(person(200 + r.IntN(next-199)))}, r.IntN(2) == 0)
				case 4:
					d.restart()
				case 5:
					d.poll()
				case 6, 7:
					d.push()
				case 8, 9:
					// Some stores arrive, and the answer to some of those.
					p, e := d.g.Push()
					if e != nil {
						t.Fatal(e)
					}
					who := AdminSigner(d.g.Seed())
					hashes := make([]string, len(p.Stores))
					arrived := r.IntN(len(p.Stores) + 1)
					for i, s := range p.Stores[:arrived] {
						hashes[i] = d.swarm.store(who, s.Namespace, s.Data, s.TTL)
					}
					err = d.g.Confirm(p, hashes[:r.IntN(arrived+1)], false)
				case 11, 12:
					d = all[r.IntN(len(all))]
					text := fmt.Sprint("text ", len(said))
					data, e := d.g.Seal(wire.Text(text, uint64(d.swarm.tick())))
					if errors.Is(e, ErrUnsent) {
						continue
					}
					who, e2 := d.g.Signer()
					if err = errors.Join(e, e2); err == nil && d.swarm.store(who, Messages, data, MessageLife) != "" {
						said = append(said, text)
					}
				case 10:
					// A node that lacks the newest messages answers.
					d.swarm.lag = 1 + r.IntN(3)
					d.poll()
					d.swarm.lag = 0
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			rest(all...)
			sameState(t, all)
			texts += len(said)
			for i, d := range all {
				for _, text := range said {
					if !slices.Contains(d.read, text) {
						t.Errorf("member %d never read %q", i, text)
					}
				}
			}
		})
	}
	if texts == 0 {
		t.Error("nobody said anything")
	}
}

// TestOverARealStorageServer repeats the essentials with a server that knows
// nothing of this package.
func TestOverARealStorageServer(t *testing.T) {
	s := newServer(t)
	all := s.group(4, 2)
	sameState(t, all)
	for i, d := range all {
		if d.say(fmt.Sprint("hello from ", i)) == "" {
			t.Errorf("member %d may not write", i)
		}
	}
	rest(all...)
	for i, d := range all {
		if len(d.read) != len(all) {
			t.Errorf("member %d read %q", i, d.read)
		}
	}
	removed := all[3]
	if err := all[1].g.Remove(ids(removed), false); err != nil {
		t.Fatal(err)
	}
	rest(all[:3]...)
	sameState(t, all[:3])
	removed.poll()
	if !removed.gone || !removed.g.Kicked() || removed.say("with a revoked token") != "" {
		t.Errorf("locked out %v, told %v", removed.gone, removed.g.Kicked())
	}
	if err := all[0].g.Invite([]config.Member{{ID: sessionID(removed.own)}}, true); err != nil {
		t.Fatal(err)
	}
	all[0].sync()
	back := s.join(all[0], removed.own)
	if back.say("back again") == "" || back.g.Kicked() || len(back.read) != 4 {
		t.Errorf("after a new invitation: kicked %v, read %q", back.g.Kicked(), back.read)
	}
	if err := all[1].g.Destroy(); err != nil {
		t.Fatal(err)
	}
	all[1].restart()
	all[1].sync()
	for _, d := range all[:3] {
		if m := d.poll(); !m.Destroyed {
			t.Errorf("%s does not know that it is over", sessionID(d.own))
		}
	}
	onlyItsEnd(t, s, all[1])
}

func TestAMessageThatIsEarlierThanItsKeyIsReadLater(t *testing.T) {
	s, all := newGroup(t, 3, 1)
	if err := all[0].g.Invite([]config.Member{{ID: sessionID(person(50))}}, false); err != nil {
		t.Fatal(err)
	}
	all[0].sync()
	all[0].say("sealed with the second key")
	everything := stored(s, AdminSigner(all[0].g.Seed()))
	late := func(f Fetched) bool { return f.Namespace == KeyList }
	early := slices.DeleteFunc(slices.Clone(everything), late)
	m := all[1].g.Merge(early)
	if m.Waiting == 0 || len(m.Refused) > 0 {
		t.Errorf("%+v", m)
	}
	m = all[1].g.Merge(slices.DeleteFunc(everything, func(f Fetched) bool { return !late(f) }))
	found := slices.ContainsFunc(m.Messages, func(m Message) bool {
		return m.Content.GetDataMessage().GetBody() == "sealed with the second key" && m.Member && m.Admin
	})
	if !found || m.Waiting != 0 || all[1].g.members.Len() != 4 {
		t.Errorf("%d messages, %d waiting, %d members", len(m.Messages), m.Waiting, all[1].g.members.Len())
	}
}

func TestWhatMembersMayNot(t *testing.T) {
	s, all := newGroup(t, 3, 1)
	member := all[1].g
	for name, err := range map[string]error{
		"invite": member.Invite(nil, false), "promote": member.Promote(nil), "remove": member.Remove(ids(all[2]), false),
		"rename": member.Rename("x"), "describe": member.Describe("x"), "set a timer": member.SetTimer(1), "set a picture": member.SetPicture(config.Picture{}),
		"delete before": member.DeleteBefore(1), "delete files before": member.DeleteFilesBefore(1), "destroy": member.Destroy(), "retry": member.Retry(sessionID(person(0))),
		"delete everything of somebody": member.DeleteMessages(ids(all[2]), nil),
	} {
		if err == nil || err.Error() != ErrNotAdmin.Error() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if member.NeedsPush() {
		t.Error("a member has something to push")
	}

	// What a member stores in the places of admins, or says as one, has no effect.
	who, err := member.Signer()
	if err != nil {
		t.Fatal(err)
	}
	forged := keys.FromSeed([32]byte{0x77})
	o, err := config.New(config.GroupInfo, config.Options{Group: forged.Ed25519(), Signer: forged, Keys: member.keys.All(), Now: func() time.Time { return s.now }})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Set(config.BytesValue("Mallory's"), "n"); err != nil {
		t.Fatal(err)
	}
	p, err := o.Push()
	if err != nil {
		t.Fatal(err)
	}
	s.store(who, config.GroupInfo.Namespace(), p.Parts[0], ConfigLife)
	say := func(u *sessionpb.GroupUpdateMessage) {
		at := uint64(s.tick())
		Sign(forged, u, at)
		data, err := member.Seal(Content(u, at))
		if err != nil {
			t.Fatal(err)
		}
		s.store(who, Messages, data, MessageLife)
	}
	say(NameChanged("Mallory's"))
	say(MembersChanged(sessionpb.GroupUpdateMemberChangeMessage_REMOVED, ids(all[2]), false))
	say(DeleteContent(ids(all[2]), nil))
	say(Promote(forged, "Mallory's"))
	refused := all[2].g.Merge(stored(s, who)).Refused
	if len(refused) != 5 || all[2].g.info.Name() != "Friends" {
		t.Errorf("refused %v, name %q", refused, all[2].g.info.Name())
	}
}

func TestAnOldGoodbyeDoesNotUndoANewInvitation(t *testing.T) {
	s, all := newGroup(t, 4, 2)
	leaver := all[3]
	if err := leaver.g.Leave(); err != nil {
		t.Fatal(err)
	}
	leaver.push()
	goodbye := stored(s, AdminSigner(all[0].g.Seed()))
	rest(all[:3]...)
	if all[0].g.members.Len() != 3 {
		t.Fatal("who left is still in the list")
	}
	if err := all[0].g.Invite([]config.Member{{ID: sessionID(leaver.own)}}, false); err != nil {
		t.Fatal(err)
	}
	rest(all[:3]...)
	// A node of the swarm hands out everything from before once more.
	for i := range goodbye {
		goodbye[i].Hash += "again"
		goodbye[i].At = s.tick()
	}
	for _, admin := range all[:2] {
		only := slices.DeleteFunc(slices.Clone(goodbye), func(f Fetched) bool { return f.Namespace != Messages })
		admin.g.Merge(only)
		if m, known := admin.g.members.Find(sessionID(leaver.own)); !known || m.Removal != config.Stays || m.Invite == config.Accepted {
			t.Errorf("the invited is %+v", m)
		}
	}
}

func TestAnOldGoodbyeDoesNotRemoveWhoCameBack(t *testing.T) {
	s, all := newGroup(t, 4, 2)
	leaver := all[3]
	if err := leaver.g.Leave(); err != nil {
		t.Fatal(err)
	}
	leaver.push()
	goodbye := slices.Clone(s.lists[Messages])
	rest(all[:3]...)
	if err := all[0].g.Invite([]config.Member{{ID: sessionID(leaver.own)}}, false); err != nil {
		t.Fatal(err)
	}
	rest(all[:3]...)
	s.join(all[0], leaver.own)
	rest(all[:3]...)
	for i := range goodbye {
		goodbye[i].Hash += "again"
	}
	all[0].restart()
	for _, admin := range all[:2] {
		admin.g.Merge(goodbye)
		if m, known := admin.g.members.Find(sessionID(leaver.own)); !known || m.Removal != config.Stays {
			t.Errorf("who came back is %+v", m)
		}
	}
}

func TestWhoFetchedTheLatestKeyLearnsOfARemoval(t *testing.T) {
	_, all := newGroup(t, 3, 1)
	admin, removed := all[0], all[2]
	if err := admin.g.Invite([]config.Member{{ID: sessionID(person(50))}}, false); err != nil {
		t.Fatal(err)
	}
	admin.push() // and does not poll: its own key is still pending
	removed.poll()
	if removed.g.keys.Generation() <= admin.g.keys.Generation() {
		t.Fatal("the member does not know more than the admin")
	}
	if err := admin.g.Remove(ids(removed), false); err != nil {
		t.Fatal(err)
	}
	admin.push()
	removed.poll()
	if !removed.g.Kicked() {
		t.Error("the notice is taken for an older one")
	}
}

func TestMembersAreErasedOnlyWhenAllOfTheRemovalArrived(t *testing.T) {
	for _, c := range []struct {
		name     string
		fails    part
		requests bool
		erased   bool
	}{
		{"everything arrives", -1, true, true},
		{"the notice of removal fails", kickedPart, true, false},
		{"the request to delete fails", deletionPart, true, false},
		{"the list of members fails", memberPart, true, false},
		{"the tokens are not withdrawn", -1, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, all := newGroup(t, 3, 1)
			g := all[0].g
			if err := g.Remove(ids(all[2]), true); err != nil {
				t.Fatal(err)
			}
			p, err := g.Push()
			if err != nil {
				t.Fatal(err)
			}
			hashes := make([]string, len(p.Stores))
			kinds := map[part]bool{}
			for i, s := range p.Stores {
				kinds[s.what] = true
				if s.what != c.fails {
					hashes[i] = fmt.Sprint("hash", i)
				}
			}
			if !kinds[kickedPart] || !kinds[deletionPart] || !kinds[memberPart] {
				t.Fatalf("the push has only %v", kinds)
			}
			if err := g.Confirm(p, hashes, c.requests); err != nil {
				t.Fatal(err)
			}
			_, known := g.members.Find(sessionID(all[2].own))
			if known == c.erased || (g.keys.Pending() != nil) != c.erased || !g.NeedsPush() {
				t.Errorf("still in the list: %v, next key: %v", known, g.keys.Pending() != nil)
			}
		})
	}
}

func TestANoticeOlderThanTheInvitationIsIgnored(t *testing.T) {
	for _, again := range []bool{true, false} {
		s, all := newGroup(t, 3, 1)
		admin, removed := all[0], all[2]
		if err := admin.g.Remove(ids(removed), false); err != nil {
			t.Fatal(err)
		}
		admin.sync()
		if again {
			if err := admin.g.Invite([]config.Member{{ID: sessionID(removed.own)}}, false); err != nil {
				t.Fatal(err)
			}
			admin.sync()
		}
		o := removed.g.options
		g, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if m := g.Merge(s.lists[Revoked]); m.Kicked || m.Waiting != 1 {
			t.Errorf("without any key: %+v", m)
		}
		if m := g.Merge(s.lists[KeyList]); m.Kicked == again {
			t.Errorf("invited again %v: kicked %v", again, m.Kicked)
		}
	}
}

func TestAnAdminWhoIsRemovedWhilePushing(t *testing.T) {
	_, all := newGroup(t, 5, 3)
	ada, bob, cy := all[0], all[1], all[2]
	if err := ada.g.Remove(ids(bob), false); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{bob.g.Rename("Bob's"), bob.g.Invite([]config.Member{{ID: sessionID(person(60))}}, true), bob.g.Remove(ids(all[4]), false)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	bob.push()
	ada.push()
	bob.push()
	staying := []*device{ada, cy, all[3]}
	var told Merged
	for range 4 {
		rest(staying...)
		told = bob.poll()
		if bob.g.NeedsPush() {
			bob.push()
		}
	}
	sameState(t, staying)
	// Bob's own key was newer than the notice, which is why it does not count.
	if _, known := ada.g.members.Find(sessionID(bob.own)); known || !told.Unlisted || bob.g.NeedsPush() {
		t.Errorf("in the list %v, told %+v, still pushing %v", known, told, bob.g.NeedsPush())
	}
	if err := bob.g.Rename("Mine"); !errors.Is(err, ErrNotAdmin) {
		t.Errorf("renaming afterwards: %v", err)
	}
	// What Bob did before he knew was an admin's work, and stands.
	if _, known := ada.g.members.Find(sessionID(all[4].own)); known || ada.g.info.Name() != "Bob's" {
		t.Errorf("the other removed member is there %v, the name is %q", known, ada.g.info.Name())
	}
}

func TestNoNoticeOfWhatDidNotChange(t *testing.T) {
	_, all := newGroup(t, 2, 1)
	g := all[0].g
	for name, err := range map[string]error{"name": g.Rename("Friends"), "timer": g.SetTimer(0), "remove a stranger": g.Remove([]account.ID{sessionID(person(9))}, false),
		"remove oneself": g.Remove(ids(all[0]), false), "invite a member": g.Invite([]config.Member{{ID: sessionID(all[1].own)}, {ID: sessionID(all[0].own)}}, true),
		"promote an admin": g.Promote(ids(all[0])), "invited, who is in": g.Invited(sessionID(all[1].own), false)} {
		if err != nil || g.NeedsPush() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := g.Rename("Others"); err != nil || len(g.outbox.notices) != 1 {
		t.Errorf("a real change has %d notices, %v", len(g.outbox.notices), err)
	}
	if err := g.Rename("Others"); err != nil || len(g.outbox.notices) != 1 {
		t.Errorf("the same again has %d notices, %v", len(g.outbox.notices), err)
	}
}

func TestWhatEverybodySeesOfAChange(t *testing.T) {
	s, all := newGroup(t, 3, 2)
	g := all[1].g
	picture := config.Picture{URL: "http://files/1", Key: config.Key{1}}
	for _, err := range []error{g.SetPicture(picture), g.DeleteBefore(1_700_000_000), g.DeleteFilesBefore(1_700_000_001), g.SetTimer(60)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	rest(all...)
	sameState(t, all)
	if i := all[2].g.Info(); i.Picture() != picture || i.DeleteBefore() != 1_700_000_000 || i.DeleteFilesBefore() != 1_700_000_001 || i.Timer() != 60 {
		t.Errorf("info %v", i.Data())
	}
	// The last of each kind of key message, info and members are to be kept alive.
	active := all[2].g.ActiveHashes()
	for _, ns := range []int16{KeyList, config.GroupInfo.Namespace(), config.GroupMembers.Namespace()} {
		list := s.lists[ns]
		if !slices.Contains(active, list[len(list)-1].Hash) {
			t.Errorf("namespace %d is not kept alive", ns)
		}
	}

	// A member deletes an own message, an admin anybody's, in the swarm, too.
	all[2].say("mine")
	all[2].say("also mine")
	list := s.lists[Messages]
	one, two := list[len(list)-2].Hash, list[len(list)-1].Hash
	if err := errors.Join(all[2].g.DeleteMessages(nil, []string{one}), g.DeleteMessages(ids(all[2]), []string{two})); err != nil {
		t.Fatal(err)
	}
	all[2].sync()
	all[1].sync()
	asked := map[bool]int{}
	for _, m := range all[0].poll().Messages {
		if d := m.Content.GetDataMessage().GetGroupUpdateMessage().GetDeleteMemberContent(); d != nil {
			deletion, err := OpenDeleteContent(all[0].g.ID(), d, m.Timestamp)
			if err != nil {
				t.Fatal(err)
			}
			asked[deletion.ByAdmin]++
		}
	}
	left := func(hash string) bool {
		return slices.ContainsFunc(s.lists[Messages], func(f Fetched) bool { return f.Hash == hash && f.Data != nil })
	}
	if asked[true] != 1 || asked[false] != 1 || !left(one) || left(two) {
		t.Errorf("requests by admins and others %v, in the swarm %v and %v", asked, left(one), left(two))
	}
}

func TestAnInvitationCanBeRepeated(t *testing.T) {
	s, all := newGroup(t, 2, 1)
	admin, late := all[0], person(70)
	admin.say("before the invitation")
	if err := admin.g.Invite([]config.Member{{ID: sessionID(late)}}, true); err != nil {
		t.Fatal(err)
	}
	admin.sync()
	if err := admin.g.Invited(sessionID(late), false); err != nil {
		t.Fatal(err)
	}
	if m, _ := admin.g.members.Find(sessionID(late)); m.Status() != config.StatusInviteFailed || !m.Supplement {
		t.Errorf("the invited is %v", m.Status())
	}
	admin.sync()
	s.lists[KeyList] = slices.DeleteFunc(s.lists[KeyList], func(f Fetched) bool {
		m, err := parseKeyMessage(admin.g.ID(), f.Data)
		return err == nil && m.supplement // it has expired
	})
	if err := admin.g.Retry(sessionID(late)); err != nil || !admin.g.NeedsPush() {
		t.Fatalf("nothing to send, %v", err)
	}
	if err := admin.g.Retry(sessionID(person(71))); !errors.Is(err, ErrMalformed) {
		t.Errorf("for a stranger: %v", err)
	}
	admin.sync()
	if d := s.join(admin, late); !slices.Contains(d.read, "before the invitation") {
		t.Errorf("read %q", d.read)
	}
}

func TestTheLastAdminCannotLeaveAGroupBehind(t *testing.T) {
	_, all := newGroup(t, 4, 2)
	if err := all[0].g.Leave(); err != nil || all[0].g.info.Destroyed() {
		t.Fatalf("with another admin left: destroyed %v, %v", all[0].g.info.Destroyed(), err)
	}
	all[0].push()
	all = all[1:]
	rest(all...)
	sameState(t, all)
	if err := all[0].g.Leave(); err != nil {
		t.Fatal(err)
	}
	all[0].push()
	if m := all[1].poll(); !m.Destroyed {
		t.Error("the members have a group without an admin")
	}
}

func TestANewInvitationEndsARemoval(t *testing.T) {
	_, all := newGroup(t, 3, 1)
	admin, member := all[0], all[2]
	if err := admin.g.Remove(ids(member), false); err != nil {
		t.Fatal(err)
	}
	admin.sync()
	member.poll()
	if !member.g.Kicked() || member.g.NeedsPush() {
		t.Fatal("not removed")
	}
	if err := admin.g.Invite([]config.Member{{ID: sessionID(member.own)}}, false); err != nil {
		t.Fatal(err)
	}
	admin.sync()
	if err := member.g.SetAuth(Auth{}); !errors.Is(err, ErrAuth) || !member.g.Kicked() {
		t.Errorf("by no invitation: %v", err)
	}
	auth, err := NewAuth(admin.g.Seed(), sessionID(member.own), MemberAccess)
	if err != nil {
		t.Fatal(err)
	}
	if err := member.g.SetAuth(auth); err != nil {
		t.Fatal(err)
	}
	member.last = map[int16]string{}
	if m := member.poll(); m.Kicked || m.Unlisted {
		t.Errorf("%+v", m)
	}
}

func TestWhatNewAndLoadRefuse(t *testing.T) {
	_, all := newGroup(t, 2, 1)
	good := all[1].g.options
	dump, err := all[1].g.Dump()
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(o *Options)) Options {
		o := good
		change(&o)
		return o
	}
	for _, c := range []struct {
		name string
		o    Options
		err  error
	}{
		{"an account instead of a group", with(func(o *Options) { o.ID = sessionID(o.Own) }), ErrMalformed},
		{"another group's seed", with(func(o *Options) { o.Seed = person(3) }), ErrSeed},
		{"no authentication", with(func(o *Options) { o.Auth = Auth{} }), ErrAuth},
		{"another member's authentication", with(func(o *Options) { o.Own = person(3) }), ErrAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := New(c.o); !errors.Is(err, c.err) {
				t.Errorf("New: %v", err)
			}
			if _, err := Load(c.o, dump); !errors.Is(err, c.err) {
				t.Errorf("Load: %v", err)
			}
		})
	}
	for _, bad := range []string{"", "de", "le", "i1e", string(dump[:len(dump)/2])} {
		if _, err := Load(good, []byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("dump %.10q: %v", bad, err)
		}
	}
	if out := fmt.Sprintf("%v %+v %#v", all[0].g, all[0].g, all[0].g); strings.Count(out, all[0].g.ID().String()) != 3 || len(out) > 300 {
		t.Errorf("it prints %s", out)
	}
}

func TestHeldMessagesAreBounded(t *testing.T) {
	_, all := newGroup(t, 2, 1)
	for i := range 3 * maxHeld {
		all[1].g.hold(Fetched{Messages, fmt.Sprint(i), start, make([]byte, 100)})
	}
	if n := len(all[1].g.held); n != maxHeld || all[1].g.held[n-1].Hash != fmt.Sprint(3*maxHeld-1) {
		t.Errorf("%d held", n)
	}
	for i := range 100 {
		all[1].g.hold(Fetched{Messages, fmt.Sprint("large", i), start, make([]byte, wire.MaxData)})
	}
	size := 0
	for _, f := range all[1].g.held {
		size += len(f.Data)
	}
	if size > maxHeldSize {
		t.Errorf("%d bytes held", size)
	}
}

// FuzzMerge gives a member whatever a hostile swarm returns.
func FuzzMerge(f *testing.F) {
	s, all := newGroup(f, 2, 1)
	all[0].say("hello")
	for _, m := range stored(s, AdminSigner(all[0].g.Seed())) {
		f.Add(m.Namespace, m.At, m.Data)
	}
	dump, err := all[1].g.Dump()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, namespace int16, at int64, data []byte) {
		g, err := Load(all[1].g.options, dump)
		if err != nil {
			t.Fatal(err)
		}
		m := g.Merge([]Fetched{{namespace, "h", at, data}})
		if m.Err != nil || m.Kicked || m.Destroyed || g.info.Name() != "Friends" {
			t.Errorf("%+v", m)
		}
	})
}

func FuzzLoad(f *testing.F) {
	_, all := newGroup(f, 2, 1)
	if err := all[0].g.Rename("New"); err != nil {
		f.Fatal(err)
	}
	for _, d := range all {
		dump, err := d.g.Dump()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(dump)
	}
	f.Fuzz(func(t *testing.T, dump []byte) {
		g, err := Load(all[1].g.options, dump)
		if err != nil {
			return
		}
		once, err := g.Dump()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(all[1].g.options, once); err != nil {
			t.Errorf("what was restored is not restored again: %v", err)
		}
	})
}
