package peertest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/swarm"
)

// shelf is what a member keeps.
type shelf struct {
	mu   sync.Mutex
	data map[[32]byte]string
}

func (s *shelf) Random() (hash [32]byte, data []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for hash, text := range s.data {
		return hash, []byte(text), true
	}
	return hash, nil, false
}

func (s *shelf) Load(hash [32]byte) (data []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ok := s.data[hash]
	return []byte(text), ok
}

func (s *shelf) change(f func(data map[[32]byte]string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.data)
}

// members are the testers of all nodes of a world, which ask each other.
type members struct {
	world   *world
	testers map[[32]byte]*Tester
	shelves map[[32]byte]*shelf
}

func newMembers(t *testing.T, n int, change ...func(c *Config)) *members {
	m := &members{world: newWorld(n), testers: make(map[[32]byte]*Tester), shelves: make(map[[32]byte]*shelf)}
	for k := 1; k <= n; k++ {
		self := key(k)
		m.shelves[self] = &shelf{data: map[[32]byte]string{{1}: "one", {2}: "two"}}
		cfg := Config{Self: self, List: m.world.List, Probes: m.world.probes(), Messages: m.shelves[self],
			Ask: func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error) {
				answer := m.testers[to.Ed25519].Answer(ctx, self, parts)
				return answer, ctx.Err()
			}}
		for _, c := range change {
			c(&cfg)
		}
		m.testers[self] = New(cfg)
	}
	for _, tester := range m.testers {
		t.Cleanup(run(tester))
	}
	return m
}

// grow publishes blocks up to a height, one in twenty seconds.
func (m *members) grow(from, to uint64) {
	for h := from; h <= to; h++ {
		m.world.publish(h, m.world.List().Nodes...)
		for _, t := range m.testers {
			t.ListChanged()
		}
		time.Sleep(20 * time.Second)
	}
}

func (m *members) outcomes() (all StorageTests) {
	for _, t := range m.testers {
		o := t.Outcomes()
		all.OK += o.OK
		all.Mismatch += o.Mismatch
		all.Rejected += o.Rejected
		all.Other += o.Other
	}
	return all
}

func TestOneMemberTestsAnotherWithEachBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(t, 5)
		m.grow(11, 50)
		// The blocks four below the first that are known are not: 10 to 46 are tested.
		if o := m.outcomes(); o.OK != 37 || o.Mismatch+o.Rejected+o.Other > 0 {
			t.Errorf("after 40 blocks: %+v", o)
		}
		testers, testees := 0, map[[32]byte]bool{}
		for _, tester := range m.testers {
			if tester.Outcomes().OK > 0 {
				testers++
			}
			for _, r := range tester.All() {
				if r.Storage.OK > 0 {
					testees[r.Node] = true
				}
			}
		}
		if testers != 5 || len(testees) != 5 {
			t.Errorf("%d of 5 tested, %d were tested", testers, len(testees))
		}
	})
}

func TestAChainThatStandsStillIsNoHidingPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(t, 3)
		time.Sleep(time.Hour)
		if o := m.outcomes(); o.OK < 28 || o.OK > 30 || o.Mismatch+o.Rejected+o.Other > 0 {
			t.Errorf("in an hour without a block: %+v", o)
		}
	})
}

func TestOutcomesOfStorageTests(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m *members)
		want   func(o StorageTests) bool
	}{
		{"a member that lost everything", func(m *members) {
			m.shelves[key(2)].change(func(d map[[32]byte]string) { clear(d) })
		}, func(o StorageTests) bool { return o.Other > 0 && o.Mismatch == 0 }},
		{"a member with other contents", func(m *members) {
			m.shelves[key(2)].change(func(d map[[32]byte]string) {
				for h := range d {
					d[h] = "rotten"
				}
			})
		}, func(o StorageTests) bool { return o.Mismatch > 0 && o.Other == 0 }},
		{"a member that does not know the blocks", func(m *members) {
			other := m.testers[key(2)]
			other.mu.Lock()
			for i := range other.blocks {
				other.blocks[i].hash = [32]byte{9, 9, byte(i)}
			}
			other.mu.Unlock()
		}, func(o StorageTests) bool { return o.Rejected > 0 && o.Mismatch+o.Other == 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMembers(t, 2)
				m.grow(11, 16)
				tt.change(m)
				time.Sleep(time.Hour)
				o := m.testers[key(1)].Outcomes()
				if !tt.want(o) {
					t.Errorf("outcomes %+v", o)
				}
				if r, ok := m.testers[key(1)].Of(key(2)); !ok || r.Storage.Last.IsZero() || !r.Reachable() {
					t.Errorf("what is known: %+v", r)
				}
			})
		})
	}
	t.Run("a message that was deleted meanwhile says nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := newMembers(t, 2, func(c *Config) { c.Messages = fleeting{c.Messages.(*shelf)} })
			time.Sleep(time.Hour)
			if o := m.outcomes(); o != (StorageTests{}) {
				t.Errorf("outcomes %+v", o)
			}
		})
	})
}

// fleeting offers messages that are gone when they are asked for.
type fleeting struct{ *shelf }

func (fleeting) Load([32]byte) ([]byte, bool) { return nil, false }

func TestAnswersToStorageTests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers(t, 3)
		m.grow(11, 12)
		list := m.world.List()
		tester, testee, _ := m.testers[key(1)].pair(list, list.Hash, 0)
		to := m.testers[testee.Ed25519]
		hash := [32]byte{1}
		ask := func(from [32]byte, parts ...string) []string {
			var p [][]byte
			for _, s := range parts {
				p = append(p, []byte(s))
			}
			var got []string
			for _, b := range to.Answer(t.Context(), from, p) {
				got = append(got, string(b))
			}
			return got
		}
		stranger := key(1)
		for stranger == tester.Ed25519 {
			stranger[0]++
		}
		gone := string(bytes.Repeat([]byte{9}, 32))
		for _, tt := range []struct {
			name  string
			from  [32]byte
			parts []string
			want  []string
		}{
			{"its turn", tester.Ed25519, []string{"12", string(hash[:])}, []string{"OK", "one"}},
			{"nothing", tester.Ed25519, nil, []string{"invalid parameters"}},
			{"one part", tester.Ed25519, []string{"12"}, []string{"invalid parameters"}},
			{"four parts", tester.Ed25519, []string{"12", string(hash[:]), "1", "1"}, []string{"invalid parameters"}},
			{"a height that is no number", tester.Ed25519, []string{"-12", string(hash[:])}, []string{"invalid height"}},
			{"a hash that is too short", tester.Ed25519, []string{"12", "abc"}, []string{"invalid msg hash"}},
			{"a round that is no number", tester.Ed25519, []string{"12", string(hash[:]), "x"}, []string{"invalid parameters"}},
			{"a round of another time", tester.Ed25519, []string{"12", string(hash[:]), "7"}, []string{"wrong request"}},
			{"somebody else's turn", stranger, []string{"12", string(hash[:])}, []string{"wrong request"}},
			{"a block that nobody knows any more", tester.Ed25519, []string{"3", string(hash[:])}, []string{"wrong request"}},
			{"a block that does not come", tester.Ed25519, []string{"13", string(hash[:])}, []string{"other"}},
			{"a message that does not come", tester.Ed25519, []string{"12", gone}, []string{"other"}},
		} {
			if got := ask(tt.from, tt.parts...); !slices.Equal(got, tt.want) {
				t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
			}
		}

		// What is on its way is waited for.
		s := m.shelves[testee.Ed25519]
		time.AfterFunc(5*time.Second, func() {
			s.change(func(d map[[32]byte]string) { d[[32]byte{3}] = "late" })
		})
		late := [32]byte{3}
		if got := ask(tester.Ed25519, "12", string(late[:])); !slices.Equal(got, []string{"OK", "late"}) {
			t.Errorf("a late message: %q", got)
		}

		// Waiting is for a few at a time.
		var waiting sync.WaitGroup
		for range answering {
			waiting.Go(func() { ask(tester.Ed25519, "12", gone) })
		}
		synctest.Wait()
		if got := ask(tester.Ed25519, "12", string(hash[:])); !slices.Equal(got, []string{"other"}) {
			t.Errorf("one more than can wait: %q", got)
		}
		waiting.Wait()
		if got := ask(tester.Ed25519, "12", string(hash[:])); len(got) != 2 {
			t.Errorf("afterwards: %q", got)
		}
	})
}

func TestPairsAreFairAndCommon(t *testing.T) {
	if _, _, ok := swarm.TestPair([32]byte{1}, 0, 1); ok {
		t.Error("a swarm of one tests itself")
	}
	pairs := map[[2]int]int{}
	for h := range 3000 {
		block := [32]byte{byte(h), byte(h >> 8), 3}
		a, b, ok := swarm.TestPair(block, 0, 4)
		c, d, _ := swarm.TestPair(block, 0, 4)
		if !ok || a == b || a != c || b != d || a < 0 || a > 3 || b < 0 || b > 3 {
			t.Fatalf("block %d: %d and %d, then %d and %d", h, a, b, c, d)
		}
		pairs[[2]int{a, b}]++
	}
	for _, n := range slices.Collect(maps.Values(pairs)) {
		if len(pairs) != 12 || n < 150 || n > 350 {
			t.Fatalf("pairs %v", pairs)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	w := newWorld(2)
	tester := New(Config{Self: key(1), List: w.List, Messages: &shelf{data: map[[32]byte]string{{}: "x"}}})
	f.Add([]byte("10"), make([]byte, 32), []byte("1"))
	f.Add([]byte("9"), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, height, hash, round []byte) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("not now"))
		if a := tester.Answer(ctx, key(2), [][]byte{height, hash, round}); len(a) < 1 || len(a) > 2 {
			t.Errorf("%d parts", len(a))
		}
	})
}
