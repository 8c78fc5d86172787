// Package config keeps what the devices of one account share, and what the
// admins and members of a closed group share: profile, contacts, read state,
// groups, and a group's name and members.
//
// One [Object] is one config of one owner. It holds a tree of integers, byte
// strings, sets and dictionaries, and lives in one namespace of a swarm. Every
// message it stores there carries the complete data and the changes of the last
// few messages, so that devices that changed it at the same time arrive at the
// same bytes without asking anybody:
//
//	o, err := config.New(config.UserProfile, config.Options{Account: acc, Now: time.Now})
//	merged := o.Merge(fetched)            // what the swarm has, all of it at once
//	err = config.Profile{Object: o}.SetName("Ada")
//	if o.NeedsPush() {
//		push, err := o.Push()             // store every part, delete push.Obsolete
//		o.Confirm(push.Seqno, hashes...)  // what the swarm called the parts
//	}
//	if o.NeedsDump() {
//		save(o.Dump())                    // Load brings it back
//	}
//
// [Profile], [Contacts], [Conversations], [Groups], [Devices], [Info] and [Members]
// are views that name what the tree holds. They are one pointer wide, hold
// nothing themselves, and leave keys alone that they do not know.
//
// From the inside out a message is: a bt dictionary (message.go), compressed and
// padded in front (seal.go), cut into parts when it is large (multipart.go),
// encrypted for whoever has the key (seal.go), and wrapped as a message to
// oneself for the four user configs (wrap.go). Merging is in resolve.go.
//
// The format and every rule are those of libsession-util, which all Session
// clients use; where a rule is ours, the comment says so. Messages come from
// strangers as far as this package is concerned: sizes, counts and depth are
// bounded, and what cannot be understood is refused without touching the data.
package config

import (
	"errors"
	"fmt"
	"io"
	"time"

	"hearth/node/account"
	"hearth/node/keys"
)

// Kind says which config an [Object] is.
type Kind uint8

// The configs. The first four belong to an account, the next two to a group, and
// the last one to an account again: it is ours.
const (
	UserProfile   Kind = 1 + iota // name, picture, settings
	ContactList                   // contacts and their settings
	ConvoVolatile                 // how far conversations have been read
	UserGroups                    // groups and communities
	GroupInfo                     // name, description, timer of one group
	GroupMembers                  // members of one group
	DeviceList                    // devices of an account; see [Devices]
)

// kindFacts is what differs between configs below the views. The values are
// libsession-util's (namespaces.hpp, protos.cpp, and each config's
// encryption_domain).
type kindFacts struct {
	name      string
	namespace int16
	domain    string
	wrapped   uint64 // SharedConfigMessage.Kind; 0 = sent without wrapper
	signed    bool
}

var facts = map[Kind]kindFacts{
	UserProfile:   {"user profile", 2, "UserProfile", 1, false},
	ContactList:   {"contacts", 3, "Contacts", 2, false},
	ConvoVolatile: {"conversations", 4, "ConvoInfoVolatile", 3, false},
	UserGroups:    {"user groups", 5, "UserGroups", 4, false},
	GroupInfo:     {"group info", 13, "groups::Info", 0, true},
	GroupMembers:  {"group members", 14, "groups::Members", 0, true},
	DeviceList:    {"devices", deviceNamespace, deviceDomain, 0, false},
}

// Kinds of an account and of a group, in the order in which clients poll them.
var (
	AccountKinds = []Kind{UserProfile, ContactList, ConvoVolatile, UserGroups}
	GroupKinds   = []Kind{GroupInfo, GroupMembers}
)

// Namespace is where in the swarm the config's messages lie.
func (k Kind) Namespace() int16 { return facts[k].namespace }

// Signed reports whether every message carries the group's Ed25519 signature.
func (k Kind) Signed() bool { return facts[k].signed }

// String names the config in logs.
func (k Kind) String() string {
	if f, ok := facts[k]; ok {
		return f.name
	}
	return fmt.Sprintf("config kind %d", uint8(k))
}

// Sizes and counts. The first two are the network's, the others are ours: the
// reference has no limit there, and the bytes come from strangers.
const (
	// MaxMessage is how many bytes one message may have in the swarm.
	MaxMessage = 76_800
	// MaxPadded is how many bytes a compressed and padded config may have
	// before it is cut into parts.
	MaxPadded = 5_000_000
	// MaxPlaintext is how many bytes a config may have uncompressed.
	MaxPlaintext = 16 << 20
	// MaxValues is how many keys and values one message may hold, those of its
	// changes included.
	MaxValues = 1 << 20
	// MaxDepth is how deep dictionaries may be nested.
	MaxDepth = 64
	// MaxSeqno bounds the counter of changes both ways, so that a message
	// cannot bring it to where it no longer grows.
	MaxSeqno = 1 << 62

	// mergeBudget is how many bytes of memory the messages may take, about,
	// that are merged in one go.
	mergeBudget = 96 << 20
)

// Errors that callers can test with errors.Is.
var (
	// ErrFormat reports a message or dump that breaks the rules of the format.
	ErrFormat = errors.New("not a valid config message")
	// ErrLimit reports a message or value above one of the limits.
	ErrLimit = errors.New("config too large")
	// ErrDecrypt reports a message that none of the keys opens.
	ErrDecrypt = errors.New("config message for another key")
	// ErrCompression reports a compressed message that cannot be inflated.
	ErrCompression = errors.New("broken compression of a config message")
	// ErrSignature reports a message of a group that the group did not sign.
	ErrSignature = errors.New("config message not signed by the group")
	// ErrReadOnly reports a change by somebody who cannot sign for the group.
	ErrReadOnly = errors.New("only an admin can change this config")
	// ErrNoKey reports a push without a key to encrypt with.
	ErrNoKey = errors.New("no encryption key for this config")
	// ErrValue reports a value that the config does not take, for example a
	// name above its limit.
	ErrValue = errors.New("value not allowed in this config")
)

// Signer signs for a group. [keys.Pair] is one.
type Signer interface {
	Sign(message []byte) []byte
}

var _ Signer = (*keys.Pair)(nil)

// Options say whose config an [Object] is.
type Options struct {
	// Account is the owner of a user config: its Ed25519 seed encrypts, and its
	// keys wrap. Required for the kinds of [AccountKinds], unused for others.
	Account *account.Account
	// Group is the group's Ed25519 public key, which verifies. Required for the
	// kinds of [GroupKinds].
	Group [32]byte
	// Signer is the group's key pair for an admin, nil for a member, who can
	// only read. See also [Object.SetSigner].
	Signer Signer
	// Keys are the group's encryption keys, newest first: the first encrypts,
	// all are tried for decrypting. See also [Object.SetKeys].
	Keys []Key
	// QuietMerges has the result of a merge say that it changed nothing, which
	// is true, instead of everything, which is what libsession-util writes when
	// nothing was changed here at that moment. With it, no change is lost when
	// devices push at once, as long as none falls back by five seqnos; without
	// it, a change can be when three or more do, and the bytes are
	// libsession-util's. Devices of both sorts understand each other; they take
	// one push more to agree on a conflict that both have merged.
	QuietMerges bool
	// Now is the clock. It decides how long parts of large messages are kept,
	// and what [Conversations] forgets. Required.
	Now func() time.Time
}

// Key encrypts configs: 32 bytes. It never prints.
type Key [32]byte

const redacted = "config.Key(redacted)"

// String hides the key.
func (k Key) String() string { return redacted }

// GoString hides the key.
func (k Key) GoString() string { return redacted }

// Format hides the key from every verb.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalJSON hides the key.
func (k Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Message is one message of the config's namespace.
type Message struct {
	Hash string // the swarm's name of it
	Data []byte // as stored
}
