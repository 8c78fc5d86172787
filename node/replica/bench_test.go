package replica

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/rpc"
	"hearth/node/storage"
)

// fill puts messages of 1,000 bytes into the database of a node.
func (n *labNode) fill(b testing.TB, from, to int) {
	b.Helper()
	now := benchStart // the same at every node
	one := func(int16) bool { return false }
	var batch []storage.Message
	for i := from; i < to; i++ {
		var owner account.ID
		owner[0] = 0x05
		binary.BigEndian.PutUint64(owner[1:], uint64(i/10)*0x9e3779b97f4a7c15)
		data := make([]byte, 1000)
		copy(data, fmt.Sprint("message ", i))
		batch = append(batch, storage.Message{
			Owner: owner, Hash: rpc.MessageHash(owner, 0, data), Data: data,
			Timestamp: now.UnixMilli(), Expiry: now.Add(24 * time.Hour).UnixMilli(), Stamp: now.Add(-time.Minute).UnixMicro(),
		})
		if len(batch) == 2000 || i == to-1 {
			if _, err := n.db.Merge(nil, batch, one); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
}

// benchPair gives two members that compare only when told to.
func benchPair(b *testing.B) (x, y *labNode) {
	l := newLab(b, 2)
	l.swarms(7, 7)
	l.start(0, 1)
	b.Cleanup(l.close)
	for _, n := range l.nodes {
		for {
			if _, ok := n.db.Roots(); ok && n.replica.view.Load() != nil {
				break
			}
			runtime.Gosched()
		}
		n.quiet()
	}
	return l.nodes[0], l.nodes[1]
}

const many = 100_000

var benchStart = time.Now()

func BenchmarkCompareEqual(b *testing.B) {
	x, y := benchPair(b)
	x.fill(b, 0, many)
	y.fill(b, 0, many)
	peer := x.list.Load().Nodes[1]
	sent, received := x.replica.Figures()
	for b.Loop() {
		if result, err := x.replica.compare(b.Context(), peer, 0); err != nil || !result.equal {
			b.Fatal(result, err)
		}
	}
	s, r := x.replica.Figures()
	b.ReportMetric(float64(s-sent+r-received)/float64(b.N), "wire-B/op")
}

// BenchmarkCatchUp brings 10,000 messages to a node that has 100,000 already.
func BenchmarkCatchUp(b *testing.B) {
	x, y := benchPair(b)
	x.fill(b, 0, many)
	y.fill(b, 0, many)
	peer := x.list.Load().Nodes[1]
	at := many
	sent, received := x.replica.Figures()
	for b.Loop() {
		b.StopTimer()
		y.fill(b, at, at+10_000)
		at += 10_000
		b.StartTimer()
		if result, err := x.replica.compare(b.Context(), peer, 0); err != nil || result.moved != 10_000 {
			b.Fatal(result, err)
		}
	}
	s, r := x.replica.Figures()
	b.ReportMetric(float64(s-sent+r-received)/float64(b.N), "wire-B/op")
}

// BenchmarkCatchUpOne finds the one message that is missing among 100,000.
func BenchmarkCatchUpOne(b *testing.B) {
	x, y := benchPair(b)
	x.fill(b, 0, many)
	y.fill(b, 0, many)
	peer := x.list.Load().Nodes[1]
	at := many
	sent, received := x.replica.Figures()
	for b.Loop() {
		b.StopTimer()
		y.fill(b, at, at+1)
		at++
		b.StartTimer()
		if result, err := x.replica.compare(b.Context(), peer, 0); err != nil || result.moved != 1 {
			b.Fatal(result, err)
		}
	}
	s, r := x.replica.Figures()
	b.ReportMetric(float64(s-sent+r-received)/float64(b.N), "wire-B/op")
}

// BenchmarkTrack sums up 100,000 messages, as a node does when it starts.
func BenchmarkTrack(b *testing.B) {
	x, _ := benchPair(b)
	x.fill(b, 0, many)
	for b.Loop() {
		if err := x.db.Track(func(account.ID) bool { return true }, func() {}); err != nil {
			b.Fatal(err)
		}
	}
}
