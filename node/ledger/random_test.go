package ledger

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

var blocks = flag.Int("ledger.blocks", 3000, "how many random blocks TestRandomBlocksInTwoCopies executes")

// The full run is
//
//	go test ./node/ledger -run RandomBlocks -ledger.blocks 100000 -timeout 2h -v
func TestRandomBlocksInTwoCopies(t *testing.T) {
	w := newWorld(t, 1, 14, 20, nil)
	other := new(Memory)
	second := New(other)
	if _, err := second.Start(w.genesis); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	statuses := make(map[Status]int)
	for i := range *blocks {
		b := w.random()
		// The first copy is also asked what it would accept and propose, which
		// must not change it.
		door, err := w.machine.Door(b.Height-1, b.Time)
		if err != nil {
			t.Fatal(err)
		}
		for _, raw := range b.Txs {
			door.Check(raw)
		}
		if i%10 == 0 {
			if _, err := w.machine.Fill(b, nil, 1<<20, 4); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.machine.Proper(b); err != nil && len(b.Txs) == 0 {
			t.Fatalf("block %d: %v", b.Height, err)
		}
		r := w.run(b)
		w.count(b, r)

		// The second copy goes on from a copy of its state every now and then, as
		// a node does that starts again.
		if i%7 == 0 {
			other = other.Clone()
			second = New(other)
		}
		again, err := second.Execute(b)
		if err != nil {
			t.Fatalf("block %d: %v", b.Height, err)
		}
		if w.store.Root() != other.Root() {
			t.Fatalf("block %d: the copies differ", b.Height)
		}
		if !slices.Equal(again.Updates, r.Updates) || len(again.Refused) != len(r.Refused) {
			t.Fatalf("block %d: the results differ", b.Height)
		}
		if i%50 == 0 {
			for _, n := range w.machine.View().Nodes() {
				statuses[n.Status]++
			}
		}
	}
	v := w.machine.View()
	rewards := v.Rewards()
	t.Logf("%d blocks in two copies in %v, %d days of block time, %d nodes, %d in the committee, pool %d, slashed %d", *blocks,
		time.Since(start).Round(time.Millisecond), (w.now-testStart)/secondsOfDay, len(v.Nodes()), len(v.Committee()), rewards.Pool, rewards.Slashed)
	for _, name := range slices.Sorted(maps.Keys(w.done)) {
		t.Logf("%7d %s", w.done[name], name)
	}
	if *blocks < 3000 {
		return
	}
	for _, name := range []string{
		"*ledger.Transfer", "*ledger.Register", "*ledger.AddStake", "*ledger.RequestUnlock", "*ledger.ChangeEndpoint",
		"*ledger.Claim", "*ledger.ParameterChange", "decommission", "recommission", "deregister", "seed", "epochs", "lists", "updates",
	} {
		if w.done[name] == 0 {
			t.Errorf("no %s: the blocks were not random enough", name)
		}
	}
	for s := Awaiting; s <= Leaving; s++ {
		if statuses[s] == 0 {
			t.Errorf("no node was ever seen %v", s)
		}
	}
	if rewards.Slashed == 0 {
		t.Error("nobody was slashed")
	}
}

func BenchmarkBlock(b *testing.B) {
	for _, nodes := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("transfers with %d nodes", nodes), func(b *testing.B) {
			w := newWorld(b, 1, nodes, 20, nil)
			for b.Loop() {
				b.StopTimer()
				block := w.block(0, w.sign(w.accounts[0], w.fee(), &Transfer{w.accounts[1].Ed25519(), 1}))
				b.StartTimer()
				if _, err := w.machine.Execute(block); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("end of epoch with %d nodes", nodes), func(b *testing.B) {
			w := newWorld(b, 1, nodes, 20, func(g *Genesis) { g.Params.Epoch = 1 })
			for b.Loop() {
				b.StopTimer()
				block := w.block(3)
				b.StartTimer()
				if _, err := w.machine.Execute(block); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
