// Package group is what a closed group (version 2) consists of: its keys, its
// member list, its messages, and the rights of its members at the swarm.
//
// A group is an Ed25519 pair. Whoever holds its seed is an admin; the public key
// under the prefix 03 is the group's ID, and its swarm is found from that as an
// account's is. Everybody reads and writes with a symmetric key that admins
// exchange whenever somebody leaves ([Keys]), and that seals messages
// ([Seal], [Open]) as well as the two configurations, name and members.
// Members, who do not hold the seed, show the swarm an [Auth] that an admin made
// for them. What people are told about (invitations, promotions, removals) are
// the parts of sessionpb.GroupUpdateMessage, made and checked in control.go.
//
// [Group] joins all of it: what was fetched goes in through [Group.Merge], what
// must be stored comes out of [Group.Push]. It knows no network.
//
// The rules are those of libsession-util (config/groups) and Session desktop.
package group

import (
	"errors"

	"golang.org/x/crypto/blake2b"

	"hearth/node/account"
	"hearth/node/keys"
)

// Namespaces of a group's swarm.
const (
	Revoked  int16 = -11 // notices of removal; those removed may still read it
	Messages int16 = 11
	KeyList  int16 = 12 // rekeys and supplements, see [Keys]
)

// Errors of this package, for errors.Is.
var (
	// ErrMalformed reports bytes that no client writes.
	ErrMalformed = errors.New("malformed group data")
	// ErrSignature reports what is not signed by whom it names.
	ErrSignature = errors.New("group data is not signed by its author")
	// ErrNotForUs reports what none of the keys at hand opens.
	ErrNotForUs = errors.New("no key of this group opens it")
	// ErrNotAdmin is returned for what only holders of the group's seed can do.
	ErrNotAdmin = errors.New("only an admin of the group can do that")
	// ErrSeed reports a seed that is not the group's.
	ErrSeed = errors.New("the seed belongs to another group")
	// ErrNoKey is returned while no encryption key is known: fetch the group's key
	// messages first.
	ErrNoKey = errors.New("no encryption key of the group is known yet")
	// ErrUnsent is returned for a message while the newest key is on this device
	// alone: were the key lost before it is stored, nobody could read the message.
	// Push first.
	ErrUnsent = errors.New("the newest encryption key of the group is not stored yet")
	// ErrTooLarge reports what does not fit into one stored message.
	ErrTooLarge = errors.New("too large for one message")
	// ErrAuth reports authentication data that is no admin's, or another member's,
	// or does not allow enough.
	ErrAuth = errors.New("authentication data does not let this member in")
)

// ID is the group of the pair: 03 and its Ed25519 key.
func ID(group *keys.Pair) account.ID {
	id, public := account.ID{account.PrefixGroup}, group.Ed25519()
	copy(id[1:], public[:])
	return id
}

// encryptionKey is the X25519 key that goes with a group's ID, or [ErrMalformed].
func encryptionKey(group account.ID) ([32]byte, error) {
	if group.Prefix() != account.PrefixGroup {
		return [32]byte{}, ErrMalformed
	}
	x, err := keys.X25519FromEd25519(group.Key())
	if err != nil {
		return [32]byte{}, ErrMalformed
	}
	return x, nil
}

// sessionID names the account of the pair.
func sessionID(own *keys.Pair) account.ID {
	id, x := account.ID{account.PrefixAccount}, own.X25519()
	copy(id[1:], x[:])
	return id
}

// hash is BLAKE2b of size bytes over all parts, under key if there is one; of a key
// beyond 64 bytes the beginning counts, as in libsession.
func hash(size int, key string, parts ...[]byte) []byte {
	h, err := blake2b.New(size, []byte(key[:min(len(key), blake2b.Size)]))
	if err != nil {
		panic("group: " + err.Error()) // sizes are this package's own constants
	}
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// seedHash derives a secret from the seed of the pair.
func seedHash(group *keys.Pair, key string) []byte {
	seed := group.Seed()
	defer clear(seed[:])
	return hash(32, key, seed[:])
}
