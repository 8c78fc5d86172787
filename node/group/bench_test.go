package group

import (
	"fmt"
	"testing"

	"hearth/node/config"
	"hearth/node/wire"
)

// benchGroup is an admin's device and what the swarm has, after everybody of n was
// invited.
func benchGroup(b *testing.B, n int) (*testSwarm, *device) {
	b.Helper()
	s := newSwarm(b)
	g, err := Create(s.options(person(0)), "Friends", "Ada")
	if err != nil {
		b.Fatal(err)
	}
	var invited []config.Member
	for i := 1; i < n; i++ {
		invited = append(invited, config.Member{ID: sessionID(person(i)), Name: fmt.Sprint("Member ", i)})
	}
	if err := g.Invite(invited, false); err != nil {
		b.Fatal(err)
	}
	d := s.device(person(0), g)
	d.sync()
	for _, m := range invited {
		if err := g.Invited(m.ID, true); err != nil {
			b.Fatal(err)
		}
	}
	d.sync()
	return s, d
}

func (p *Push) report(b *testing.B) {
	total, largest := 0, 0
	for _, s := range p.Stores {
		total += len(s.Data)
		largest = max(largest, len(s.Data))
	}
	b.ReportMetric(float64(total), "bytes")
	b.ReportMetric(float64(largest), "largest")
	b.ReportMetric(float64(len(p.Stores)), "stores")
	b.ReportMetric(float64(len(p.Requests)), "requests")
}

func BenchmarkGroup(b *testing.B) {
	for _, n := range []int{20, 100, 1000, MaxMembers - 1} {
		s, d := benchGroup(b, n)
		dump, err := d.g.Dump()
		if err != nil {
			b.Fatal(err)
		}
		fresh := func() *Group {
			g, err := Load(d.g.options, dump)
			if err != nil {
				b.Fatal(err)
			}
			return g
		}
		// Each prepares a change on a group just loaded, and is timed with its push.
		for _, c := range []struct {
			name string
			do   func(g *Group) error
		}{
			{"rekey", func(g *Group) error { g.outbox.rekey = true; return g.settle() }},
			{"invite one", func(g *Group) error {
				return g.Invite([]config.Member{{ID: sessionID(person(5000))}}, false)
			}},
			{"invite one with history", func(g *Group) error {
				return g.Invite([]config.Member{{ID: sessionID(person(5000))}}, true)
			}},
			{"remove half", func(g *Group) error { return g.Remove(g.memberIDs()[:n/2], true) }},
		} {
			b.Run(fmt.Sprintf("%d members/%s", n, c.name), func(b *testing.B) {
				var p *Push
				for b.Loop() {
					b.StopTimer()
					g := fresh()
					b.StartTimer()
					if err := c.do(g); err != nil {
						b.Fatal(err)
					}
					if p, err = g.Push(); err != nil {
						b.Fatal(err)
					}
				}
				p.report(b)
			})
		}
		b.Run(fmt.Sprintf("%d members/a newcomer fetches all", n), func(b *testing.B) {
			all := stored(s, AdminSigner(d.g.Seed()))
			auth, err := NewAuth(d.g.Seed(), sessionID(person(n-1)), MemberAccess)
			if err != nil {
				b.Fatal(err)
			}
			o := s.options(person(n - 1))
			o.ID, o.Auth = d.g.ID(), auth
			b.ReportAllocs()
			for b.Loop() {
				g, err := New(o)
				if err != nil {
					b.Fatal(err)
				}
				if m := g.Merge(all); g.members.Len() != n || m.Err != nil {
					b.Fatalf("%d members, %+v", g.members.Len(), m.Refused)
				}
			}
			b.ReportMetric(float64(len(dump)), "dump-bytes")
		})
		b.Run(fmt.Sprintf("%d members/seal and read a message", n), func(b *testing.B) {
			reader := fresh()
			for b.Loop() {
				data, err := d.g.Seal(wire.Text("hello everybody", uint64(s.tick())))
				if err != nil {
					b.Fatal(err)
				}
				if m := reader.Merge([]Fetched{{Messages, "h", s.tick(), data}}); len(m.Messages) != 1 {
					b.Fatalf("%+v", m)
				}
			}
		})
	}
}
