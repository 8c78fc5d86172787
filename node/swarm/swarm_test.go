package swarm

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"hearth/node/account"
	"hearth/node/internal/vectortest"
)

// number is a 64-bit number that the vectors write as a decimal string.
type number uint64

func (n *number) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := strconv.ParseUint(s, 10, 64)
	*n = number(v)
	return err
}

type layout []struct {
	Swarm   number
	Members []string
}

// members gives every name a key that sorts as the name does.
func (l layout) members() map[ID][][32]byte {
	m := make(map[ID][][32]byte)
	for _, s := range l {
		m[ID(s.Swarm)] = nil
		for _, name := range s.Members {
			var key [32]byte
			copy(key[:], name)
			m[ID(s.Swarm)] = append(m[ID(s.Swarm)], key)
		}
	}
	return m
}

func TestVectors(t *testing.T) {
	type position struct {
		Pubkey string
		Space  number `json:"swarm_space"`
		Hex    string `json:"swarm_space_hex"`
	}
	type mapping struct {
		Pubkey string
		IDs    []number `json:"swarm_ids"`
		Space  number   `json:"swarm_space"`
		Swarm  number
		Hex    string `json:"swarm_hex"`
	}
	type composition struct {
		Label         string
		Seed          number
		Before, After layout
	}
	var file struct {
		Space       []position `json:"swarm_space"`
		Mapping     []mapping
		Composition []composition
	}
	vectortest.Load(t, "swarm-mapping.json", &file)
	parse := func(t *testing.T, text string) account.ID {
		id, err := account.ParseID(text)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	vectortest.Each(t, "swarm_space", file.Space, func(t *testing.T, v position) {
		got := Position(parse(t, v.Pubkey))
		if got != uint64(v.Space) || fmt.Sprintf("%016x", got) != v.Hex {
			t.Errorf("got %d", got)
		}
	})
	vectortest.Each(t, "mapping", file.Mapping, func(t *testing.T, v mapping) {
		var ids []ID
		var list List
		for _, id := range v.IDs {
			ids = append(ids, ID(id))
			list.Nodes = append(list.Nodes, Node{Ed25519: [32]byte{byte(len(ids))}, Swarm: ID(id)})
		}
		slices.Sort(ids)
		account := parse(t, v.Pubkey)
		if p := Position(account); p != uint64(v.Space) {
			t.Errorf("position %d, want %d", p, v.Space)
		}
		got, ok := For(Position(account), ids)
		if !ok || got != ID(v.Swarm) || got.String() != v.Hex {
			t.Errorf("got %d (%v), %v", got, got, ok)
		}
		if id, nodes := list.Of(account); id != got || len(nodes) != 1 || nodes[0].Swarm != got {
			t.Errorf("the list says %v, %v", id, nodes)
		}
	})
	vectortest.Each(t, "composition", file.Composition, func(t *testing.T, v composition) {
		before := v.Before.members()
		got := Compose(MainnetRules, before, uint64(v.Seed))
		if want := v.After.members(); !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s:\n got %v\nwant %v", v.Label, sizes(got), sizes(want))
		}
		if !maps.EqualFunc(before, v.Before.members(), slices.Equal) {
			t.Error("the input was changed")
		}
	})
}

func sizes(m map[ID][][32]byte) map[ID]int {
	s := make(map[ID]int)
	for id, nodes := range m {
		s[id] = len(nodes)
	}
	return s
}

func TestNoSwarmIsNobodys(t *testing.T) {
	if id, ok := For(0, nil); ok || id != None {
		t.Errorf("got %v, %v", id, ok)
	}
	for name, l := range map[string]*List{"nil": nil, "empty": {}, "unassigned": {Nodes: []Node{{Swarm: None}}}} {
		if id, nodes := l.Of(account.ID{}); id != None || nodes != nil {
			t.Errorf("%s list: %v, %v", name, id, nodes)
		}
	}
	if None.String() != "ffffffffffffffff" || ID(0).String() != "0" {
		t.Errorf("printed as %v and %v", None, ID(0))
	}
}

func TestListFindsNodesByKey(t *testing.T) {
	l := &List{Nodes: []Node{{Ed25519: [32]byte{1}, Swarm: 5}, {Ed25519: [32]byte{2}, Swarm: None}, {Ed25519: [32]byte{3}, Swarm: 5}, {Ed25519: [32]byte{4}, Swarm: 2}}}
	if n, ok := l.Find([32]byte{2}); !ok || n.Swarm != None {
		t.Errorf("got %v, %v", n, ok)
	}
	if _, ok := l.Find([32]byte{9}); ok {
		t.Error("found a node that is not there")
	}
	if got := l.Swarms(); !slices.Equal(got, []ID{2, 5}) {
		t.Errorf("swarms %v", got)
	}
	if got := l.Members(5); len(got) != 2 || got[0].Ed25519 != [32]byte{1} || got[1].Ed25519 != [32]byte{3} {
		t.Errorf("members %v", got)
	}
	if got := l.Members(None); got != nil {
		t.Errorf("the unassigned are no swarm: %v", got)
	}
}

func TestNineNodesFormThreeSwarmsUnderSmallRules(t *testing.T) {
	rules := Rules{MinSize: 3, NewSize: 3}
	for seed := range uint64(20) {
		got := Compose(rules, map[ID][][32]byte{None: keys(9)}, seed)
		if len(got) != 3 {
			t.Fatalf("seed %d: %v", seed, sizes(got))
		}
		for id, nodes := range got {
			if len(nodes) != 3 {
				t.Errorf("seed %d: swarm %v has %d", seed, id, len(nodes))
			}
		}
	}
}

func TestComposeKeepsEveryNodeAndTheMinimum(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		current := map[ID][][32]byte{None: keys(1 + random.IntN(300))}
		for range 5 {
			total := 0
			for _, nodes := range current {
				total += len(nodes)
			}
			current = Compose(MainnetRules, current, random.Uint64())
			found := make(map[[32]byte]bool)
			for id, nodes := range current {
				if id == None || len(nodes) < MainnetRules.MinSize && len(current) > 1 {
					t.Fatalf("swarm %v has %d nodes", id, len(nodes))
				}
				for _, n := range nodes {
					found[n] = true
				}
			}
			if len(found) != total {
				t.Fatalf("%d nodes of %d", len(found), total)
			}
			for id := range current { // some nodes leave
				current[id] = current[id][random.IntN(len(current[id])):]
				if len(current[id]) == 0 {
					delete(current, id)
				}
			}
		}
	}
	if got := Compose(MainnetRules, nil, 1); len(got) != 0 {
		t.Errorf("nothing became %v", got)
	}
}

func keys(n int) [][32]byte {
	list := make([][32]byte, n)
	for i := range list {
		binary.BigEndian.PutUint32(list[i][:], uint32(i))
	}
	return list
}

// TestSortEqualsTheCompilersLibrary compares with orders that std::sort of
// libstdc++ produced: testdata/sort.json, made by testdata/sort.cc.
func TestSortEqualsTheCompilersLibrary(t *testing.T) {
	var cases []struct{ Sizes, Order, Heap []int }
	file, err := os.ReadFile("testdata/sort.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 10 {
		t.Fatalf("only %d cases", len(cases))
	}
	bySize := func(a, b sized) bool { return a.size < b.size }
	order := func(sizes []int, sort func([]sized, func(a, b sized) bool)) (order []int) {
		l := make([]sized, len(sizes))
		for i, size := range sizes {
			l[i] = sized{i, size}
		}
		sort(l, bySize)
		for _, s := range l {
			order = append(order, s.swarm)
		}
		return order
	}
	for _, c := range cases {
		if got := order(c.Sizes, sortLikeLibstdcxx); !slices.Equal(got, c.Order) {
			t.Errorf("%d elements:\n got %v\nwant %v", len(got), got, c.Order)
		}
		if got := order(c.Sizes, heapsort); !slices.Equal(got, c.Heap) {
			t.Errorf("heap sort of %d elements:\n got %v\nwant %v", len(got), got, c.Heap)
		}
	}
}

// TestTwisterEqualsTheStandard compares with the value that the C++ standard
// gives for mt19937_64: the 10000th number after the default seed.
func TestTwisterEqualsTheStandard(t *testing.T) {
	g := newTwister(5489)
	var last uint64
	for range 10000 {
		last = g.uint64()
	}
	if last != 9981545732273789042 {
		t.Errorf("got %d", last)
	}
}

// FuzzFor compares the search with measuring every distance.
func FuzzFor(f *testing.F) {
	f.Add(uint64(150), []byte{0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 200})
	f.Fuzz(func(t *testing.T, position uint64, b []byte) {
		var ids []ID
		for ; len(b) >= 8; b = b[8:] {
			ids = append(ids, ID(binary.BigEndian.Uint64(b)))
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
		got, ok := For(position, ids)
		if ok != (len(ids) > 0) {
			t.Fatalf("%v for %d swarms", ok, len(ids))
		}
		distance := func(id ID) uint64 { return min(uint64(id)-position, position-uint64(id)) }
		for _, id := range ids {
			if distance(id) < distance(got) {
				t.Errorf("%d is nearer to %d than %d", id, position, got)
			}
		}
	})
}

func BenchmarkFor(b *testing.B) {
	ids := make([]ID, 300) // about what 2000 nodes make
	for i := range ids {
		ids[i] = ID(i) << 55
	}
	var p uint64
	for b.Loop() {
		p += 0x9e3779b97f4a7c15
		For(p, ids)
	}
}

func BenchmarkListOf(b *testing.B) {
	var l List
	for i, key := range keys(2000) {
		l.Nodes = append(l.Nodes, Node{Ed25519: key, Swarm: ID(i/7) << 55})
	}
	var id account.ID
	for b.Loop() {
		id[5]++
		l.Of(id)
	}
}

func BenchmarkCompose(b *testing.B) {
	members := map[ID][][32]byte{None: keys(500)}
	for b.Loop() {
		Compose(MainnetRules, members, 1)
	}
}
