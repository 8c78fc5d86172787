package config

import (
	"fmt"
	"iter"

	"hearth/node/account"
	"hearth/node/keys"
)

// The keys of groups, by the letters of libsession-util's user_groups.hpp.
const (
	groupDict  = "g"
	legacyDict = "C"

	groupPriority = "+"
	groupJoined   = "j"
	groupNotify   = "@"
	groupMute     = "!"
	groupInvited  = "i"
	groupName     = "n"

	groupSeed    = "K"
	groupAuth    = "s"
	groupRemoved = "r"

	legacyPublic  = "k"
	legacySecret  = "K"
	legacyMembers = "m"
	legacyAdmins  = "a"
	legacyTimer   = "E"
)

// AuthSize is the size of a member's authentication data in bytes.
const AuthSize = 100

// Groups is the view of a [UserGroups]: the groups and communities that the
// owner is in.
type Groups struct{ *Object }

// Membership is what every sort of group has.
type Membership struct {
	Priority      int64 // 0 as it comes, higher further up, -1 hidden
	Joined        int64 // unix seconds
	Notifications Notifications
	MutedUntil    int64 // unix seconds
	Invited       bool  // an invitation that the owner has not answered
}

// Departure is why the owner is no longer in a group.
type Departure int64

// The values of [Departure].
const (
	Staying Departure = iota
	Kicked
	Destroyed // the whole group; this is final
)

// Group is a closed group.
type Group struct {
	Membership
	ID      account.ID // prefix 03
	Name    string     // from the invitation; the group's own info counts more
	Admin   bool       // whether Seed is known
	Seed    Key        // of the group's key pair, for admins
	Auth    []byte     // [AuthSize] bytes, for members; nil when unknown
	Removed Departure
}

// MarkKicked notes that the owner was removed: what gave access is forgotten.
func (g *Group) MarkKicked() {
	g.forget()
	if g.Removed != Destroyed {
		g.Removed = Kicked
	}
}

// MarkInvited notes a new invitation after a removal.
func (g *Group) MarkInvited() {
	if g.Removed == Kicked {
		g.Removed = Staying
	}
}

// MarkDestroyed notes that the group is no more.
func (g *Group) MarkDestroyed() {
	g.forget()
	g.Removed = Destroyed
}

func (g *Group) forget() { g.Admin, g.Seed, g.Auth = false, Key{}, nil }

// Groups visits the closed groups in ascending order of their ids.
func (g Groups) Groups() iter.Seq[Group] {
	return ids(g.Data(), groupDict, account.PrefixGroup, readGroup)
}

// ids visits the entries of a dictionary that is keyed by ids.
func ids[T any](data *Dict, top string, prefix byte, read func(account.ID, *Dict) T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for key, v := range data.Get(top).Dict().All() {
			id, ok := idOf(key, prefix)
			if ok && v.kind == dict && !yield(read(id, v.dict)) {
				return
			}
		}
	}
}

// Find returns one closed group.
func (g Groups) Find(id account.ID) (Group, bool) {
	v := g.message.data.Get(groupDict, string(id[:]))
	if v.kind != dict {
		return Group{}, false
	}
	return readGroup(id, v.dict), true
}

// Put stores a closed group. A seed that does not belong to the id is left out,
// and a name above [MaxName] bytes is cut there. Errors: [ErrValue] for what is
// no id of a group and for authentication data of another size.
func (g Groups) Put(group Group) error {
	if err := checkID(group.ID, account.PrefixGroup); err != nil {
		return fmt.Errorf("storing a group: %w", err)
	}
	if len(group.Auth) != 0 && len(group.Auth) != AuthSize {
		return fmt.Errorf("storing a group: authentication data of %d bytes: %w", len(group.Auth), ErrValue)
	}
	seed := ""
	if group.Admin && seedFits(group.ID, group.Seed) {
		seed = string(group.Seed[:])
	}
	return g.change(func(t *tree) {
		f := t.at(groupDict, string(group.ID[:]))
		f.membership(group.Membership)
		f.always(groupSeed, seed) // keeps the entry when all else is zero
		switch {
		case len(group.Auth) > 0:
			f.always(groupAuth, string(group.Auth))
		case seed == "":
			f.erase(groupAuth)
		}
		f.text(groupName, cut(group.Name))
		f.positive(groupRemoved, int64(group.Removed))
	})
}

// Remove erases a closed group and reports whether there was one.
func (g Groups) Remove(id account.ID) (bool, error) {
	return g.remove(groupDict, string(id[:]))
}

func seedFits(id account.ID, seed Key) bool {
	pair := keys.FromSeed(seed)
	defer pair.Wipe()
	return pair.Ed25519() == id.Key()
}

func readGroup(id account.ID, d *Dict) Group {
	g := Group{
		Membership: d.membership(),
		ID:         id,
		Name:       d.text(groupName),
		Removed:    within(Departure(d.int(groupRemoved)), Staying, Destroyed),
	}
	if seed, ok := d.key32(groupSeed); ok && seedFits(id, seed) {
		g.Admin, g.Seed = true, seed
	}
	if auth := d.text(groupAuth); len(auth) == AuthSize {
		g.Auth = []byte(auth)
	}
	return g
}

func (d *Dict) membership() Membership {
	return Membership{
		Priority:      d.int(groupPriority),
		Joined:        d.unixTime(groupJoined),
		Notifications: within(Notifications(d.int(groupNotify)), NotifyDefault, NotifyMentions),
		MutedUntil:    d.unixTime(groupMute),
		Invited:       d.flag(groupInvited),
	}
}

func (f fields) membership(m Membership) {
	f.int(groupPriority, m.Priority)
	f.positive(groupJoined, m.Joined)
	f.positive(groupNotify, int64(m.Notifications))
	f.positive(groupMute, m.MutedUntil)
	f.flag(groupInvited, m.Invited)
}

// Community is a room of a community server.
type Community struct {
	Membership
	Room
}

// Communities visits the rooms in ascending order of server and name.
func (g Groups) Communities() iter.Seq[Community] {
	data := g.Data()
	return func(yield func(Community) bool) {
		for room, d := range data.rooms(communityDict) {
			if !yield(readCommunity(room, d)) {
				return
			}
		}
	}
}

// FindCommunity returns the room with that server and name.
func (g Groups) FindCommunity(room Room) (Community, bool) {
	room, err := room.canonical()
	if err != nil {
		return Community{}, false
	}
	server := g.message.data.Get(communityDict, room.Server).Dict()
	key, ok := server.key32(serverKey)
	v := server.Get(serverRooms, room.norm())
	if !ok || v.kind != dict {
		return Community{}, false
	}
	return readCommunity(Room{room.Server, room.norm(), key}, v.dict), true
}

// PutCommunity stores a room. Errors: [ErrValue], see [ParseRoom].
func (g Groups) PutCommunity(c Community) error {
	room, err := c.Room.canonical()
	if err != nil {
		return err
	}
	return g.change(func(t *tree) {
		f := t.room(communityDict, room)
		f.always(groupName, room.Name)
		f.membership(c.Membership)
	})
}

// RemoveCommunity erases a room and reports whether it was there.
func (g Groups) RemoveCommunity(room Room) (was bool, err error) {
	if room, err = room.canonical(); err != nil {
		return false, err
	}
	err = g.change(func(t *tree) {
		was = t.erase(communityDict, room.Server, serverRooms, room.norm())
		if was {
			t.sweepServer(communityDict, room.Server)
		}
	})
	return was, err
}

func readCommunity(room Room, d *Dict) Community {
	if name := d.text(groupName); name != "" {
		room.Name = name
	}
	return Community{d.membership(), room}
}

// LegacyGroup is a group of the kind before closed groups had keys of their own.
// Clients no longer write to them; they are kept for other devices.
type LegacyGroup struct {
	Membership
	ID        account.ID // prefix 05
	Name      string
	PublicKey Key // X25519, of the group; together with SecretKey or not at all
	SecretKey Key
	Timer     int64               // seconds
	Members   map[account.ID]bool // true = admin
}

// Legacy visits the legacy groups in ascending order of their ids.
func (g Groups) Legacy() iter.Seq[LegacyGroup] {
	return ids(g.Data(), legacyDict, account.PrefixAccount, readLegacy)
}

// PutLegacy stores a legacy group. Errors: [ErrValue] for what is no id of one
// and for a name above [MaxName] bytes.
func (g Groups) PutLegacy(group LegacyGroup) error {
	if err := checkID(group.ID, account.PrefixAccount); err != nil {
		return fmt.Errorf("storing a legacy group: %w", err)
	}
	if err := checkLength("group name", group.Name, MaxName); err != nil {
		return err
	}
	var members, admins []Value
	for id, admin := range group.Members {
		if admin {
			admins = insertElem(admins, BytesValue(string(id[:])))
		} else {
			members = insertElem(members, BytesValue(string(id[:])))
		}
	}
	return g.change(func(t *tree) {
		f := t.at(legacyDict, string(group.ID[:]))
		f.always(groupName, group.Name)
		f.membership(group.Membership)
		if group.PublicKey == (Key{}) || group.SecretKey == (Key{}) {
			f.erase(legacyPublic)
			f.erase(legacySecret)
		} else {
			f.always(legacyPublic, string(group.PublicKey[:]))
			f.always(legacySecret, string(group.SecretKey[:]))
		}
		f.positive(legacyTimer, group.Timer)
		f.members(legacyMembers, members)
		f.members(legacyAdmins, admins)
	})
}

// RemoveLegacy erases a legacy group and reports whether there was one.
func (g Groups) RemoveLegacy(id account.ID) (bool, error) {
	return g.remove(legacyDict, string(id[:]))
}

func readLegacy(id account.ID, d *Dict) LegacyGroup {
	g := LegacyGroup{
		Membership: d.membership(),
		ID:         id,
		Name:       d.text(groupName),
		Timer:      d.positive(legacyTimer),
		Members:    map[account.ID]bool{},
	}
	public, ok1 := d.key32(legacyPublic)
	secret, ok2 := d.key32(legacySecret)
	if ok1 && ok2 {
		g.PublicKey, g.SecretKey = public, secret
	}
	for _, set := range []struct {
		key   string
		admin bool
	}{{legacyMembers, false}, {legacyAdmins, true}} {
		for v := range d.Get(set.key).Set() {
			s, _ := v.Bytes()
			if member, ok := idOf(s, account.PrefixAccount); ok {
				g.Members[member] = set.admin
			}
		}
	}
	return g
}
