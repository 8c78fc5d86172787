package config

import (
	"fmt"
	"iter"
	"time"

	"hearth/node/account"
)

// The keys of the read state, by the letters of libsession-util's
// convo_info_volatile.hpp.
const (
	convoOneToOne = "1"
	convoGroup    = "g"
	convoLegacy   = "C"
	convoBlinded  = "b"

	convoRead   = "r"
	convoUnread = "u"

	storeAge  = 30 * 24 * time.Hour // an older read state is not stored
	forgetAge = 45 * 24 * time.Hour // an older one is removed with a push
)

// ConvoKind says what sort of conversation a read state is about.
type ConvoKind uint8

// The sorts of conversations.
const (
	OneToOne ConvoKind = iota
	GroupConvo
	CommunityConvo
	LegacyConvo
	BlindedConvo // a message request through a community
)

// convoDicts is where each sort that is named by an id lies, and the prefixes
// of those ids.
var convoDicts = map[ConvoKind]struct {
	top      string
	prefixes []byte
}{
	OneToOne:     {convoOneToOne, []byte{account.PrefixAccount}},
	GroupConvo:   {convoGroup, []byte{account.PrefixGroup}},
	LegacyConvo:  {convoLegacy, []byte{account.PrefixAccount}},
	BlindedConvo: {convoBlinded, []byte{account.PrefixBlinded15, account.PrefixBlinded25}},
}

// Conversations is the view of a [ConvoVolatile]: how far each conversation has
// been read. What is older than 45 days is forgotten, so that the config does
// not grow with every conversation there ever was.
type Conversations struct{ *Object }

// Conversation is the read state of one conversation.
type Conversation struct {
	Kind ConvoKind
	ID   account.ID // of all kinds but CommunityConvo
	Room Room       // of CommunityConvo; its name is in lower case

	Read   int64 // sent time of the last message that was read, unix milliseconds
	Unread bool  // marked as unread by hand
}

// All visits the read states: one-to-one, groups, communities, legacy groups,
// blinded ones, each in ascending order of their names.
func (c Conversations) All() iter.Seq[Conversation] {
	data := c.Data()
	return func(yield func(Conversation) bool) {
		ids := func(kind ConvoKind) bool {
			for key, v := range data.Get(convoDicts[kind].top).Dict().All() {
				id, ok := convoID(kind, key)
				if ok && v.kind == dict && !yield(readConvo(Conversation{Kind: kind, ID: id}, v.dict)) {
					return false
				}
			}
			return true
		}
		rooms := func() bool {
			for room, d := range data.rooms(communityDict) {
				if !yield(readConvo(Conversation{Kind: CommunityConvo, Room: room}, d)) {
					return false
				}
			}
			return true
		}
		_ = ids(OneToOne) && ids(GroupConvo) && rooms() && ids(LegacyConvo) && ids(BlindedConvo)
	}
}

func convoID(kind ConvoKind, key string) (account.ID, bool) {
	for _, prefix := range convoDicts[kind].prefixes {
		if id, ok := idOf(key, prefix); ok {
			return id, true
		}
	}
	return account.ID{}, false
}

// Find returns the read state of the conversation that is named by Kind and ID
// or Room.
func (c Conversations) Find(which Conversation) (Conversation, bool) {
	path, err := which.path()
	if err != nil {
		return Conversation{}, false
	}
	v := c.message.data.Get(path...)
	if v.kind != dict {
		return Conversation{}, false
	}
	if which.Kind == CommunityConvo {
		key, _ := c.message.data.Get(communityDict, path[1]).Dict().key32(serverKey)
		which.Room = Room{path[1], path[3], key}
	}
	return readConvo(which, v.dict), true
}

// Put stores a read state. A time more than 30 days ago is not stored, unless it
// goes back behind the one that is there. A state without a time and without the
// mark needs no entry and has none. Errors: [ErrValue] for an id or room that
// does not go with the kind.
func (c Conversations) Put(convo Conversation) error {
	path, err := convo.path()
	if err != nil {
		return fmt.Errorf("storing a read state: %w", err)
	}
	tooOld := c.options.Now().Add(-storeAge).UnixMilli()
	return c.change(func(t *tree) {
		old, has := t.root.Get(append(path, convoRead)...).Int()
		store := has && convo.Read < old || convo.Read > tooOld
		if convo.Kind == CommunityConvo && (store || convo.Unread) {
			room, _ := convo.Room.canonical()
			t.room(communityDict, room)
		}
		f := t.at(path...)
		if store {
			f.alwaysInt(convoRead, convo.Read)
		}
		f.flag(convoUnread, convo.Unread)
		if convo.Kind == CommunityConvo && !t.root.Get(path...).Exists() {
			room, _ := convo.Room.canonical()
			t.sweepServer(communityDict, room.Server)
		}
	})
}

// Remove erases a read state and reports whether there was one.
func (c Conversations) Remove(which Conversation) (was bool, err error) {
	path, err := which.path()
	if err != nil {
		return false, fmt.Errorf("erasing a read state: %w", err)
	}
	err = c.change(func(t *tree) { was = t.eraseConvo(path) })
	return was, err
}

// Prune forgets what was read more than 45 days ago and is not marked as
// unread. [Object.Push] calls it. Groups are left out, as in libsession-util.
func (c Conversations) Prune() error {
	cutoff := c.options.Now().Add(-forgetAge).UnixMilli()
	var stale [][]string
	for convo := range c.All() {
		if convo.Kind == GroupConvo || convo.Kind == BlindedConvo || convo.Unread || convo.Read >= cutoff {
			continue
		}
		if path, err := convo.path(); err == nil {
			stale = append(stale, path)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	return c.change(func(t *tree) {
		for _, path := range stale {
			t.eraseConvo(path)
		}
	})
}

// eraseConvo erases an entry, and the server of a community with the last room.
func (t *tree) eraseConvo(path []string) bool {
	was := t.erase(path...)
	if was && path[0] == communityDict {
		t.sweepServer(communityDict, path[1])
	}
	return was
}

// path is where the entry of a conversation lies.
func (c Conversation) path() ([]string, error) {
	if c.Kind == CommunityConvo {
		room, err := c.Room.canonical()
		return []string{communityDict, room.Server, serverRooms, room.norm()}, err
	}
	if _, ok := convoID(c.Kind, string(c.ID[:])); !ok {
		return nil, fmt.Errorf("id with prefix %02x: %w", c.ID.Prefix(), ErrValue)
	}
	return []string{convoDicts[c.Kind].top, string(c.ID[:])}, nil
}

func readConvo(c Conversation, d *Dict) Conversation {
	c.Read = d.positive(convoRead)
	c.Unread = d.flag(convoUnread)
	return c
}
