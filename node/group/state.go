package group

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/config"
	"hearth/node/keys"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// Options say whose view of which group a [Group] is.
type Options struct {
	ID account.ID
	// Own is the account's pair. Required.
	Own *keys.Pair
	// Seed is the group's pair for an admin, nil for a member.
	Seed *keys.Pair
	// Auth lets a member into the swarm; unused for an admin.
	Auth Auth
	// Now is the network's time. Required.
	Now func() time.Time
	// Rand must be cryptographically secure. Required.
	Rand io.Reader
}

// Group is one closed group as one device sees it: keys, info and members
// together. It is not safe for concurrent use, and prints as its ID.
//
// Whoever drives it polls the namespaces [Revoked], [Messages], 13, 14 and, last,
// [KeyList], hands everything to [Group.Merge] at once, and then sends what
// [Group.Push] says until [Group.NeedsPush] is false. After a push that held a key
// it polls again, because a key counts when it is fetched back.
type Group struct {
	options Options
	self    account.ID
	keys    *Keys
	info    config.Info
	members config.Members

	kicked  bool
	outbox  outbox
	held    []Fetched             // what no key opens yet
	seen    map[account.ID]uint64 // newest message of each member, ms
	stamped uint64                // newest time given to a message, ms
	changed bool                  // since the last Dump
}

// outbox is what still has to be stored, beside the configurations.
type outbox struct {
	rekey       bool         // make a key as soon as none is on its way
	stored      bool         // the pending key lies in the swarm, but was not fetched back
	share       []account.ID // get the older keys with the next rekey
	supplements [][]byte
	admit       []account.ID // whose tokens count again
	notices     []notice
	delete      []string // hashes of messages
	clear       bool     // the group is over: what it is not ended with can go
}

// notice is a message to the group, sealed when it is sent.
type notice struct {
	timestamp uint64 // ms
	content   []byte
}

// New begins with nothing but an invitation, a promotion, or what another device
// knows of the group: the swarm has the rest. Errors: [ErrMalformed] for an ID that
// is no group's, [ErrSeed], [ErrAuth].
func New(o Options) (*Group, error) {
	k, err := NewKeys(o.Own, o.ID)
	if err != nil {
		return nil, err
	}
	g := &Group{options: o, self: sessionID(o.Own), keys: k, seen: map[account.ID]uint64{}}
	if o.Seed != nil {
		if err := k.LoadSeed(o.Seed); err != nil {
			return nil, err
		}
	} else if err := o.Auth.Verify(o.ID, o.Own, MemberAccess); err != nil {
		return nil, err
	}
	info, err := config.New(config.GroupInfo, g.configOptions())
	if err != nil {
		return nil, err
	}
	members, err := config.New(config.GroupMembers, g.configOptions())
	if err != nil {
		return nil, err
	}
	g.info, g.members = config.Info{Object: info}, config.Members{Object: members}
	return g, nil
}

// Create makes a group of which the account is the only member and admin. o.ID and
// o.Seed are not used: the pair is drawn from o.Rand. [Group.Seed] is then what the
// account keeps.
func Create(o Options, name, ownName string) (*Group, error) {
	seed, err := keys.Generate(o.Rand)
	if err != nil {
		return nil, fmt.Errorf("making a group: %w", err)
	}
	o.ID, o.Seed = ID(seed), seed
	g, err := New(o)
	if err != nil {
		return nil, err
	}
	if err := g.info.SetName(name); err != nil {
		return nil, err
	}
	if err := g.info.SetCreated(o.Now().Unix()); err != nil {
		return nil, err
	}
	if err := g.members.Put(config.Member{ID: g.self, Name: ownName, Admin: true}); err != nil {
		return nil, err
	}
	g.outbox.rekey = true
	return g, g.settle()
}

func (g *Group) configOptions() config.Options {
	o := config.Options{Group: g.options.ID.Key(), Keys: g.keys.All(), Now: g.options.Now}
	if g.options.Seed != nil {
		o.Signer = g.options.Seed // not a nil pair in an interface
	}
	return o
}

// ID is the group's.
func (g *Group) ID() account.ID { return g.options.ID }

// Info is the group's name, description, picture and timer.
func (g *Group) Info() config.Info { return g.info }

// Members is the list of members.
func (g *Group) Members() config.Members { return g.members }

// Keys is the list of encryption keys.
func (g *Group) Keys() *Keys { return g.keys }

// Admin reports whether the group's seed is at hand.
func (g *Group) Admin() bool { return g.options.Seed != nil }

// Seed is the group's pair, nil for a member. The account keeps it in its list of
// groups.
func (g *Group) Seed() *keys.Pair { return g.options.Seed }

// Kicked reports that the account was removed from the group.
func (g *Group) Kicked() bool { return g.kicked }

// Signer signs requests to the group's swarm. The error is [ErrAuth] for a member
// whose authentication data is no good any more.
func (g *Group) Signer() (*Signer, error) {
	if g.options.Seed != nil {
		return AdminSigner(g.options.Seed), nil
	}
	return MemberSigner(g.options.Own, g.options.ID, g.options.Auth)
}

// SetAuth takes the data of a new invitation, after which the account is no longer
// removed. The error is [ErrAuth].
func (g *Group) SetAuth(a Auth) error {
	if err := a.Verify(g.options.ID, g.options.Own, MemberAccess); err != nil {
		return err
	}
	g.options.Auth, g.kicked, g.changed = a, false, true
	return nil
}

// LoadSeed makes an admin of the account, which was promoted. Fetch the group from
// its beginning next. The error is [ErrSeed].
func (g *Group) LoadSeed(seed *keys.Pair) error {
	if err := g.keys.LoadSeed(seed); err != nil {
		return err
	}
	g.options.Seed = seed
	g.info.SetSigner(seed)
	g.members.SetSigner(seed)
	g.kicked, g.changed = false, true
	return nil
}

// ActiveHashes are the messages whose lifetime has to be extended: keys, info and
// members.
func (g *Group) ActiveHashes() []string {
	all := slices.Concat(g.keys.ActiveHashes(), g.info.ActiveHashes(), g.members.ActiveHashes())
	slices.Sort(all)
	return slices.Compact(all)
}

// Seal encrypts content for the group's namespace [Messages]. Errors: [ErrNoKey],
// [ErrUnsent], [ErrTooLarge], wire.ErrTimestamp.
func (g *Group) Seal(content *sessionpb.Content) ([]byte, error) {
	if g.keys.Pending() != nil && !g.outbox.stored {
		return nil, ErrUnsent
	}
	return g.seal(content)
}

// seal is Seal for what is stored after the key, in one sequence.
func (g *Group) seal(content *sessionpb.Content) ([]byte, error) {
	key, err := g.keys.Current()
	if err != nil {
		return nil, err
	}
	envelope, err := wire.GroupEnvelope(g.options.Rand, content)
	if errors.Is(err, wire.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	if err != nil {
		return nil, err
	}
	return Seal(g.options.Rand, g.options.ID, key, g.options.Own, envelope, Style{})
}

// stamp is a time in ms for a message, each time another.
func (g *Group) stamp() uint64 {
	g.stamped = max(g.stamped+1, uint64(max(g.options.Now().UnixMilli(), 1)))
	return g.stamped
}

// String names the group.
func (g *Group) String() string { return "group.Group(" + g.options.ID.String() + ")" }

// GoString is [Group.String], so that %#v does not print secrets.
func (g *Group) GoString() string { return g.String() }

// Format writes [Group.String] for every verb.
func (g *Group) Format(f fmt.State, _ rune) { io.WriteString(f, g.String()) }

// MarshalJSON writes the group's ID alone.
func (g *Group) MarshalJSON() ([]byte, error) { return []byte(`"` + g.options.ID.String() + `"`), nil }

// NeedsDump reports that something changed since the last [Group.Dump].
func (g *Group) NeedsDump() bool {
	return g.changed || g.keys.NeedsDump() || g.info.NeedsDump() || g.members.NeedsDump()
}

// Dump is everything that [Load] needs beside the options: what is known, and what
// is still to be sent. It holds the group's keys in the clear: keep it encrypted.
func (g *Group) Dump() ([]byte, error) {
	notices := []any{}
	for _, n := range g.outbox.notices {
		notices = append(notices, []any{n.timestamp, n.content})
	}
	seen := bt.Dict{}
	for id, at := range g.seen {
		seen[string(id[:])] = at
	}
	b, err := bt.Marshal(bt.Dict{
		"K": g.keys.Dump(), "I": g.info.Dump(), "M": g.members.Dump(),
		"k": g.kicked, "l": seen, "e": g.outbox.clear,
		"a": idBytes(g.outbox.admit), "d": g.outbox.delete, "n": notices, "p": g.outbox.stored,
		"r": g.outbox.rekey, "s": idBytes(g.outbox.share), "u": g.outbox.supplements,
	})
	if err != nil {
		return nil, fmt.Errorf("dumping %s: %w", g.options.ID, err)
	}
	g.changed = false
	return b, nil
}

// Load restores what [Group.Dump] wrote. Errors: [ErrMalformed] and those of [New].
func Load(o Options, dump []byte) (*Group, error) {
	v, err := bt.Unmarshal(dump)
	if err != nil {
		return nil, fmt.Errorf("restoring %s: %w: %w", o.ID, ErrMalformed, err)
	}
	d, ok := v.(bt.Dict)
	if !ok {
		return nil, fmt.Errorf("restoring %s: %w", o.ID, ErrMalformed)
	}
	part := func(key string) []byte { b, _ := d[key].([]byte); return b }
	k, err := LoadKeys(o.Own, o.ID, part("K"))
	if err != nil {
		return nil, err
	}
	g, err := New(o)
	if err != nil {
		return nil, err
	}
	g.keys = k
	if o.Seed != nil {
		if err := k.LoadSeed(o.Seed); err != nil {
			return nil, err
		}
	}
	for _, c := range []struct {
		kind config.Kind
		dump []byte
		to   **config.Object
	}{{config.GroupInfo, part("I"), &g.info.Object}, {config.GroupMembers, part("M"), &g.members.Object}} {
		if *c.to, err = config.Load(c.kind, g.configOptions(), c.dump); err != nil {
			return nil, fmt.Errorf("restoring %s: %w: %w", o.ID, ErrMalformed, err)
		}
	}
	g.restore(d)
	return g, nil
}

// restore takes the rest of a dump and passes over what is not as Dump wrote it:
// at worst, something is not sent.
func (g *Group) restore(d bt.Dict) {
	flag := func(key string) bool { n, _ := d[key].(int64); return n != 0 }
	g.kicked = flag("k")
	g.outbox.rekey, g.outbox.stored = flag("r"), flag("p")
	g.outbox.clear = flag("e")
	g.outbox.admit, g.outbox.share = idList(d["a"]), idList(d["s"])
	g.outbox.supplements = byteList(d["u"])
	for _, h := range byteList(d["d"]) {
		g.outbox.delete = append(g.outbox.delete, string(h))
	}
	list, _ := d["n"].([]any)
	for _, v := range list {
		pair, _ := v.([]any)
		if len(pair) != 2 {
			continue
		}
		at, _ := pair[0].(int64)
		content, _ := pair[1].([]byte)
		if at > 0 && at <= maxTimestamp && len(content) > 0 {
			g.outbox.notices = append(g.outbox.notices, notice{uint64(at), bytes.Clone(content)})
			g.stamped = max(g.stamped, uint64(at))
		}
	}
	seen, _ := d["l"].(bt.Dict)
	for key, v := range seen {
		at, _ := v.(int64)
		if len(key) == account.IDSize && at > 0 {
			g.seen[account.ID([]byte(key))] = uint64(at)
		}
	}
}

func idBytes(ids []account.ID) [][]byte {
	list := make([][]byte, len(ids))
	for i, id := range ids {
		list[i] = id[:]
	}
	return list
}

func idList(v any) []account.ID {
	var ids []account.ID
	for _, b := range byteList(v) {
		if len(b) == account.IDSize {
			ids = append(ids, account.ID(b))
		}
	}
	return ids
}

func byteList(v any) [][]byte {
	list, _ := v.([]any)
	var out [][]byte
	for _, v := range list {
		if b, ok := v.([]byte); ok {
			out = append(out, bytes.Clone(b))
		}
	}
	return out
}

// memberIDs are all entries of the list, those to be removed included: as long as
// they are in it, every admin's next key counts them.
func (g *Group) memberIDs() []account.ID {
	var ids []account.ID
	for m := range g.members.All() {
		ids = append(ids, m.ID)
	}
	return ids
}

// unlisted reports that the list of members is known and has not this account.
func (g *Group) unlisted() bool {
	if g.members.Seqno() == 0 {
		return false
	}
	_, known := g.members.Find(g.self)
	return !known
}

// settle makes the key that is wanted, unless one is on its way.
func (g *Group) settle() error {
	if g.options.Seed == nil || g.kicked || g.unlisted() {
		return nil
	}
	g.outbox.stored = g.outbox.stored && g.keys.Pending() != nil
	if g.keys.Pending() == nil && g.keys.NeedsRekey() {
		g.outbox.rekey = true
	}
	if !g.outbox.rekey || g.outbox.stored {
		return nil
	}
	if len(g.outbox.share) > 0 && len(g.keys.list) > 0 {
		slices.SortFunc(g.outbox.share, compareIDs)
		s, err := g.keys.Supplement(slices.Compact(g.outbox.share))
		if err != nil {
			return err
		}
		g.outbox.supplements = append(g.outbox.supplements, s...)
	}
	g.outbox.share = nil
	if _, err := g.keys.Rekey(g.memberIDs()); err != nil {
		return err
	}
	g.outbox.rekey, g.changed = false, true
	g.setKeys()
	// What others read under the old key has to be read by newcomers, too.
	return errors.Join(g.info.Touch(), g.members.Touch())
}

func (g *Group) setKeys() {
	all := g.keys.All()
	g.info.SetKeys(all)
	g.members.SetKeys(all)
}
