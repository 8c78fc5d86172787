package config

import (
	"encoding/binary"
	"fmt"
	"testing"

	"hearth/node/account"
)

// benchContacts is a contact list of n made-up people.
func benchContacts(b testing.TB, n int) Contacts {
	c := Contacts{vectorObject(b, ContactList)}
	for i := range n {
		err := c.Put(Contact{ID: benchID(i), Name: fmt.Sprint("Contact ", i), Approved: true, ApprovedMe: true, Created: 1748000000 + int64(i)})
		if err != nil {
			b.Fatal(err)
		}
	}
	return c
}

func benchID(i int) account.ID {
	id := account.ID{account.PrefixAccount}
	binary.BigEndian.PutUint64(id[1:], uint64(i)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[9:], uint64(i)*0xc2b2ae3d27d4eb4f)
	binary.BigEndian.PutUint64(id[17:], uint64(i)*0x165667b19e3779f9)
	return id
}

// BenchmarkMerge merges conflicting messages of 1,000 contacts each into the
// config that they began with. Each changed ten contacts of its own and one
// that all of them changed.
func BenchmarkMerge(b *testing.B) {
	const contacts = 1000
	origin := benchContacts(b, contacts)
	push, err := origin.Push()
	if err != nil {
		b.Fatal(err)
	}
	origin.Confirm(push.Seqno, "base")
	dump := origin.Dump()
	for _, n := range []int{2, 10, 100} {
		var in []Message
		size := 0
		for i := range n {
			o, err := Load(ContactList, vectorOptions(), dump)
			if err != nil {
				b.Fatal(err)
			}
			c := Contacts{o}
			for j := range 10 {
				c.SetNickname(benchID((i*10+j)%contacts), fmt.Sprint("from ", i))
			}
			c.SetNickname(benchID(contacts-1), fmt.Sprint("all ", i))
			p, err := c.Push()
			if err != nil {
				b.Fatal(err)
			}
			for k, part := range p.Parts {
				in = append(in, Message{fmt.Sprintf("m%d.%d", i, k), part})
				size += len(part)
			}
		}
		b.Run(fmt.Sprintf("%d messages", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				o, err := Load(ContactList, vectorOptions(), dump)
				if err != nil {
					b.Fatal(err)
				}
				if got := o.Merge(in); got.Err() != nil || !o.NeedsPush() {
					b.Fatal(got.Err())
				}
			}
		})
	}
}

func BenchmarkPush(b *testing.B) {
	c := benchContacts(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		p, err := c.Push()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(p.Parts[0])), "bytes-stored")
	}
}

// BenchmarkChange is what one change of a contact costs, push included.
func BenchmarkChange(b *testing.B) {
	c := benchContacts(b, 1000)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		c.SetNickname(benchID(i%1000), fmt.Sprint(i))
		p, err := c.Push()
		if err != nil {
			b.Fatal(err)
		}
		c.Confirm(p.Seqno, "h")
	}
}

func BenchmarkList(b *testing.B) {
	c := benchContacts(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		for range c.All() {
		}
	}
}
