package group

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/wire/sessionpb"
)

// How long the swarm keeps what is stored: keys, configurations and notices of
// removal, and messages that do not disappear by themselves.
const (
	ConfigLife  = 30 * 24 * time.Hour
	MessageLife = 14 * 24 * time.Hour
)

// Store is one message for the group's swarm.
type Store struct {
	Namespace int16
	Data      []byte
	TTL       time.Duration
	what      part
}

type part int

const (
	supplementPart part = iota
	keyPart
	infoPart
	memberPart
	noticePart
	kickedPart
	deletionPart
)

// Push is what one sequence of requests does, in this order: everything in Stores,
// then Requests, then the deletion of what is Obsolete. The stores, and the
// deletion, are for the caller to sign with [Group.Signer].
type Push struct {
	Stores   []Store
	Requests []Request
	Obsolete []string // swarm hashes

	info, members                  *config.Push
	supplements, notices, deletion int // of the outbox, from its front
	admit, removed                 []account.ID
	clear                          bool
}

// NeedsPush reports whether [Group.Push] has something to send. Who was removed has
// not.
func (g *Group) NeedsPush() bool {
	if g.kicked || g.unlisted() {
		return false
	}
	if g.Admin() && (g.info.NeedsPush() || g.members.NeedsPush() || g.keys.Pending() != nil && !g.outbox.stored) {
		return true
	}
	o := &g.outbox
	return o.clear || len(o.supplements)+len(o.admit)+len(o.notices)+len(o.delete) > 0 || g.Admin() && len(g.pendingRemovals()) > 0
}

// Push collects what must be stored. Keys come before what is sealed with them. It
// can be called again when a push did not succeed. Errors: [ErrNoKey] before the
// first key was fetched, config.ErrLimit.
func (g *Group) Push() (*Push, error) {
	p := new(Push)
	if g.Admin() {
		for _, s := range g.outbox.supplements {
			p.store(KeyList, s, ConfigLife, supplementPart)
		}
		p.supplements = len(g.outbox.supplements)
		if key := g.keys.Pending(); key != nil {
			p.store(KeyList, key, ConfigLife, keyPart)
		}
		var err error
		if p.info, err = p.config(g.info.Object, infoPart); err != nil {
			return nil, err
		}
		if p.members, err = p.config(g.members.Object, memberPart); err != nil {
			return nil, err
		}
	}
	for _, n := range g.outbox.notices {
		if err := g.pushContent(p, n.content, noticePart); err != nil {
			return nil, err
		}
	}
	p.notices = len(g.outbox.notices)
	if g.Admin() {
		if err := g.pushRemovals(p); err != nil {
			return nil, err
		}
		if len(g.outbox.admit) > 0 {
			p.admit = slices.Clone(g.outbox.admit)
			r, err := Unrevocations(g.options.Seed, p.admit, g.options.Now().UnixMilli())
			if err != nil {
				return nil, err
			}
			p.Requests = append(p.Requests, r...)
		}
		if p.clear = g.outbox.clear; p.clear {
			p.Requests = append(p.Requests, clearings(g.options.Seed, g.options.Now().UnixMilli())...)
		}
		p.Obsolete = append(p.Obsolete, g.outbox.delete...)
		p.deletion = len(g.outbox.delete)
	}
	return p, nil
}

func (p *Push) store(namespace int16, data []byte, ttl time.Duration, what part) {
	p.Stores = append(p.Stores, Store{namespace, data, ttl, what})
}

func (p *Push) config(o *config.Object, what part) (*config.Push, error) {
	if !o.NeedsPush() {
		return nil, nil
	}
	c, err := o.Push()
	if err != nil {
		return nil, err
	}
	for _, data := range c.Parts {
		p.store(c.Namespace, data, ConfigLife, what)
	}
	p.Obsolete = append(p.Obsolete, c.Obsolete...)
	return &c, nil
}

func (g *Group) pushContent(p *Push, content []byte, what part) error {
	c := new(sessionpb.Content)
	if err := proto.Unmarshal(content, c); err != nil {
		return fmt.Errorf("a notice to %s: %w: %w", g.options.ID, ErrMalformed, err)
	}
	data, err := g.seal(c)
	if err != nil {
		return err
	}
	p.store(Messages, data, MessageLife, what)
	return nil
}

func (g *Group) pendingRemovals() []config.Member {
	var list []config.Member
	for m := range g.members.All() {
		if m.Removal != config.Stays {
			list = append(list, m)
		}
	}
	return list
}

// pushRemovals tells those who are to be removed, withdraws their tokens, and asks
// everybody to delete what some of them wrote. When all of it is stored,
// [Group.Confirm] erases them and makes the key that they do not get.
func (g *Group) pushRemovals(p *Push) error {
	pending := g.pendingRemovals()
	if len(pending) == 0 {
		return nil
	}
	var erased []account.ID
	for _, m := range pending {
		p.removed = append(p.removed, m.ID)
		if m.Removal == config.RemovedWithMessages {
			erased = append(erased, m.ID)
		}
	}
	// A key that is on its way counts: those removed may have fetched it already, and
	// would take a notice of an older one for obsolete.
	generation := g.keys.Generation()
	if k := g.keys.pending; k != nil {
		generation = max(generation, k.generation)
	}
	for some := range slices.Chunk(p.removed, KickedAtOnce) {
		notice, err := Kicked(g.options.Rand, g.options.Seed, some, generation)
		if err != nil {
			return err
		}
		p.store(Revoked, notice, ConfigLife, kickedPart)
	}
	for some := range slices.Chunk(erased, KickedAtOnce) {
		u := DeleteContent(some, nil)
		at := g.stamp()
		Sign(g.options.Seed, u, at)
		data, err := g.seal(Content(u, at))
		if err != nil {
			return err
		}
		p.store(Messages, data, MessageLife, deletionPart)
	}
	r, err := Revocations(g.options.Seed, p.removed, g.options.Now().UnixMilli())
	if err != nil {
		return err
	}
	p.Requests = append(p.Requests, r...)
	return nil
}

// Confirm says what became of a push: under which hash each of its Stores lies,
// empty for one that failed, and whether all Requests succeeded. What failed is in
// the next push. The error is that of making the next key.
func (g *Group) Confirm(p *Push, hashes []string, requestsDone bool) error {
	g.changed = true
	failed, stored := map[part]bool{}, map[part][]string{}
	var supplements, notices []bool
	for i, s := range p.Stores {
		done := i < len(hashes) && hashes[i] != ""
		failed[s.what] = failed[s.what] || !done
		switch {
		case s.what == supplementPart:
			supplements = append(supplements, done)
		case s.what == noticePart:
			notices = append(notices, done)
		case done:
			stored[s.what] = append(stored[s.what], hashes[i])
		}
		if s.what == keyPart && done && slices.Equal(s.Data, g.keys.Pending()) {
			g.outbox.stored = true
		}
	}
	if p.info != nil && !failed[infoPart] {
		g.info.Confirm(p.info.Seqno, stored[infoPart]...)
	}
	if p.members != nil && !failed[memberPart] {
		g.members.Confirm(p.members.Seqno, stored[memberPart]...)
	}
	g.outbox.supplements = unsent(g.outbox.supplements, supplements)
	g.outbox.notices = unsent(g.outbox.notices, notices)
	if requestsDone {
		g.outbox.clear = g.outbox.clear && !p.clear
		g.outbox.admit = slices.DeleteFunc(g.outbox.admit, func(id account.ID) bool { return slices.Contains(p.admit, id) })
		g.outbox.delete = g.outbox.delete[min(p.deletion, len(g.outbox.delete)):]
	}
	if len(p.removed) == 0 || !requestsDone || failed[kickedPart] || failed[deletionPart] || failed[memberPart] {
		return g.settle()
	}
	for _, id := range p.removed {
		if m, known := g.members.Find(id); known && m.Removal != config.Stays {
			if _, err := g.members.Expel(id); err != nil {
				return err
			}
			g.outbox.rekey = true
		}
	}
	return g.settle()
}

// unsent drops what was done from the front of the list, which may have grown.
func unsent[T any](list []T, done []bool) []T {
	var rest []T
	for i, v := range list {
		if i >= len(done) || !done[i] {
			rest = append(rest, v)
		}
	}
	return rest
}
