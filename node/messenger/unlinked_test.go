package messenger

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path"
	"hearth/node/messenger/path/pathtest"
	"hearth/node/swarm"
)

// readable gives every form in which something could name the account: its
// keys as bytes, in hexadecimal of both cases, in base64 at each of the three
// places where it can begin, and the seed.
func readable(a *account.Account) map[string][]byte {
	forms := make(map[string][]byte)
	id, ed, x, seed := a.ID(), a.Keys().Ed25519(), a.Keys().X25519(), a.Keys().Seed()
	for name, b := range map[string][]byte{"ID": id[:], "Ed25519 key": ed[:], "X25519 key": x[:], "seed": seed[:16]} {
		forms[name] = b
		forms[name+" in hexadecimal"] = []byte(hex.EncodeToString(b))
		forms[name+" in capitals"] = []byte(strings.ToUpper(hex.EncodeToString(b)))
		for shift := range 3 {
			// The first and last characters depend on the neighbours.
			text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), b...))
			forms[name+" in base64, shifted by "+string(rune('0'+shift))] = []byte(text[4 : len(text)-4])
		}
	}
	return forms
}

func TestNoGuardSeesWhoAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 12, time.Now)
		seed := account.Seed{9: 9, 10: 77, 3: 200}
		own, other := account.New(seed), person(2)
		if seed == (account.Seed{}) {
			t.Fatal("zeros are everywhere")
		}
		forms := map[*account.Account]map[string][]byte{own: readable(own), other: readable(other)}
		var mu sync.Mutex
		requests := 0
		texts := [][]byte{[]byte("a text that nobody else reads"), []byte("store"), []byte("retrieve"), []byte("delete_all"), []byte("pubkey"), []byte("get_swarm")}
		n.Watch(func(guard pathtest.Node, request []byte) {
			mu.Lock()
			defer mu.Unlock()
			requests++
			for who, forms := range forms {
				for name, form := range forms {
					if bytes.Contains(request, form) {
						t.Errorf("request %d: the %s of %v is in it", requests, name, who)
					}
				}
			}
			for _, text := range texts {
				if bytes.Contains(request, text) {
					t.Errorf("request %d: %q is in it", requests, text)
				}
			}
		})
		vault := &fakeVault{up: true, tries: 8}
		m, _ := start(t, n, Config{Vault: vault, PollInterval: time.Minute})
		if _, err := m.Restore(t.Context(), &api.RestoreRequest{Pin: "123456", Phrase: seed.Phrase()}); err != nil {
			t.Fatal(err)
		}
		reader, _ := start(t, n, Config{Account: other, PollInterval: time.Minute})
		if _, err := m.Send(t.Context(), &api.SendRequest{To: other.ID().String(), Text: string(texts[0])}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if got := reader.texts(own.ID()); len(got) != 1 {
			t.Fatalf("it did not arrive: %q", got)
		}
		if _, err := reader.Send(t.Context(), &api.SendRequest{To: own.ID().String(), Text: string(texts[0])}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour) // polls, new lists, other hops
		if r, err := m.Wipe(t.Context(), &api.WipeRequest{Pin: "123456"}); err != nil || !r.Wiped {
			t.Fatalf("%v, %v", r, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if requests < 300 {
			t.Errorf("only %d requests were seen", requests)
		}
		// The net would have caught it: these requests name the account.
		id := own.ID()
		for _, b := range []string{
			`{"pubkey":"` + id.String() + `"}`,
			base64.StdEncoding.EncodeToString(append([]byte("x"), id[:]...)),
			"two" + string(id[1:]),
		} {
			if !slices.ContainsFunc(slices.Collect(maps.Values(forms[own])), func(form []byte) bool { return bytes.Contains([]byte(b), form) }) {
				t.Errorf("a request that names the account would pass: %q", b)
			}
		}
	})
}

// ownNode is the service node of the same machine.
type ownNode struct {
	api.NodeClient
	mu  sync.Mutex
	key string
	err error
}

func (o *ownNode) Status(context.Context, *api.NodeStatusRequest, ...grpc.CallOption) (*api.NodeStatus, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return &api.NodeStatus{Ed25519: o.key}, o.err
}

func TestTheOwnNodeIsNoHopOfTheOwnMessenger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		file := filepath.Join(t.TempDir(), "messenger.db")
		node := &ownNode{err: status.Error(codes.Unavailable, "not there yet")}
		m, stop := start(t, n, Config{Account: person(1), DBPath: file, Node: node, PollInterval: 5 * time.Minute})
		m.send(person(2).ID(), "before the node is there")

		// The node comes, and it is one of the guards.
		guard := m.session.pool.Guards()[0]
		node.mu.Lock()
		node.key, node.err = hex.EncodeToString(guard[:]), nil
		node.mu.Unlock()
		time.Sleep(time.Minute)
		mustBeFree := func() {
			t.Helper()
			paths := m.session.pool.Paths()
			if len(paths) != 2 {
				t.Errorf("%d paths", len(paths))
			}
			for _, p := range paths {
				if p.Holds(guard) {
					t.Error("the own node is in a path")
				}
			}
		}
		mustBeFree()
		from := len(n.Dialled())
		m.send(person(2).ID(), "after")
		time.Sleep(time.Hour)
		mustBeFree()
		for _, a := range n.Dialled()[from:] {
			if a == n.Find(guard).Address {
				t.Error("connected to the own node")
			}
		}
		// It does not come back with the next start, when the node is known first.
		stop()
		from = len(n.Dialled())
		m, _ = start(t, n, Config{Account: person(1), DBPath: file, Node: node, PollInterval: 5 * time.Minute})
		time.Sleep(time.Hour)
		mustBeFree()
		for _, a := range n.Dialled()[from:] {
			if a == n.Find(guard).Address {
				t.Error("connected to the own node after a restart")
			}
		}
	})
}

func TestANodeThatDoesNotAnswerProperlyDoesNoHarm(t *testing.T) {
	for name, node := range map[string]*ownNode{
		"absent":            {err: status.Error(codes.Unavailable, "no socket")},
		"without a key":     {},
		"with half a key":   {key: strings.Repeat("ab", 16)},
		"with no key":       {key: strings.Repeat("xy", 32)},
		"of no list at all": {key: strings.Repeat("ab", 32)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := swarmtest.New(t, 9, time.Now)
				m, _ := start(t, n, Config{Account: person(1), Node: node, PollInterval: 5 * time.Minute})
				m.send(person(2).ID(), "hello")
				time.Sleep(time.Hour)
				if st := m.now(); st.Paths != 2 || st.Trouble != "" {
					t.Errorf("state %v", st)
				}
			})
		})
	}
}

// silentSeed never gives a list.
type silentSeed struct {
	mu    sync.Mutex
	asked int
}

func (s *silentSeed) ServiceNodes(ctx context.Context) (*swarm.List, error) {
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	return nil, errors.New("no answer")
}

func TestAStartWithoutTheSeedGoesOnWithWhatWasKept(t *testing.T) {
	for name, c := range map[string]struct {
		nodes int
		away  time.Duration
	}{
		"soon":                  {9, time.Minute},
		"after a day":           {9, 24 * time.Hour},
		"in a network so small": {6, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := swarmtest.New(t, c.nodes, time.Now)
				file := filepath.Join(t.TempDir(), "messenger.db")
				m, stop := start(t, n, Config{Account: person(1), DBPath: file})
				m.send(person(2).ID(), "hello")
				guards := m.session.pool.Guards()
				stop()
				time.Sleep(c.away)
				from := len(n.Dialled())
				seed := &silentSeed{}
				m, _ = start(t, n, Config{Account: person(1), DBPath: file, Seeds: []NodeSource{seed}, PollInterval: 5 * time.Minute})
				m.send(person(2).ID(), "and again, without the seed")
				time.Sleep(3 * time.Hour)
				m.send(person(2).ID(), "and later")
				if st := m.now(); st.Trouble != "" || st.Paths != 2 || st.KnownNodes != uint32(c.nodes) {
					t.Errorf("state %v", st)
				}
				if got := m.session.pool.Guards(); !slices.Equal(got, guards) {
					t.Errorf("guards %x, before %x", got, guards)
				}
				var allowed []netip.AddrPort
				for _, g := range guards {
					allowed = append(allowed, n.Find(path.Key(g)).Address)
				}
				for _, a := range n.Dialled()[from:] {
					if !slices.Contains(allowed, a) {
						t.Errorf("connected to %v, which is no guard", a)
					}
				}
			})
		})
	}
}
