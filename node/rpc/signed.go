package rpc

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/blake2b"

	"hearth/node/account"
)

// MessageHash names a message: unpadded base64, 43 characters, of the BLAKE2b-256
// of the account (prefix and key), the namespace in decimal unless it is 0, and
// the data as it was before base64. The time is not part of it: the same data
// stored twice is one message (storage server, computeMessageHash).
func MessageHash(owner account.ID, namespace int16, data []byte) string {
	h, err := blake2b.New256(nil)
	if err != nil {
		panic(err) // only a key can be wrong, and there is none
	}
	h.Write(owner[:])
	h.Write(appendNamespace(nil, Scope(namespace)))
	h.Write(data)
	return base64.RawStdEncoding.EncodeToString(h.Sum(nil))
}

// Scope is the namespace that a request is about: the number of one, or
// AllNamespaces.
type Scope int32

// AllNamespaces is the scope that clients write as "all".
const AllNamespaces Scope = 1 << 16

// The functions below give the exact bytes that a request is signed over: the
// name of the method and its values one after the other, numbers in decimal. A
// namespace 0 is left out. Times are milliseconds. Client and service node use
// the same functions (storage server, oxenss/rpc/client_rpc_endpoints.h).

// StoreText is signed by store. sigTimestamp is the parameter sig_timestamp, or
// the message's timestamp when there is none.
func StoreText(namespace int16, sigTimestamp int64) []byte {
	return scopeText("store", Scope(namespace), sigTimestamp)
}

// RetrieveText is signed by retrieve.
func RetrieveText(namespace int16, timestamp int64) []byte {
	return scopeText("retrieve", Scope(namespace), timestamp)
}

// DeleteText is signed by delete. It has no time: the request stays valid.
func DeleteText(hashes []string) []byte {
	return appendStrings([]byte("delete"), hashes)
}

// DeleteAllText is signed by delete_all.
func DeleteAllText(scope Scope, timestamp int64) []byte {
	return scopeText("delete_all", scope, timestamp)
}

// DeleteBeforeText is signed by delete_before.
func DeleteBeforeText(scope Scope, before int64) []byte {
	return scopeText("delete_before", scope, before)
}

// ExpireAllText is signed by expire_all.
func ExpireAllText(scope Scope, expiry int64) []byte {
	return scopeText("expire_all", scope, expiry)
}

// ExpireMode says in which direction expire may move an expiry.
type ExpireMode string

// The modes of expire.
const (
	ExpireSet     ExpireMode = ""        // in both directions
	ExpireShorten ExpireMode = "shorten" // only to an earlier time
	ExpireExtend  ExpireMode = "extend"  // only to a later time
)

// ExpireText is signed by expire. expiries has one value for all hashes, or one
// for each.
func ExpireText(mode ExpireMode, expiries []int64, hashes []string) []byte {
	return appendStrings(appendNumbers([]byte("expire"+string(mode)), expiries), hashes)
}

// GetExpiriesText is signed by get_expiries.
func GetExpiriesText(timestamp int64, hashes []string) []byte {
	return appendStrings(strconv.AppendInt([]byte("get_expiries"), timestamp, 10), hashes)
}

// RevokeText is signed by revoke_subaccount, UnrevokeText by unrevoke_subaccount.
// Only the owner may sign them.
func RevokeText(timestamp int64, tokens []Token) []byte {
	return appendTokens(strconv.AppendInt([]byte("revoke_subaccount"), timestamp, 10), tokens)
}

// UnrevokeText is signed by unrevoke_subaccount.
func UnrevokeText(timestamp int64, tokens []Token) []byte {
	return appendTokens(strconv.AppendInt([]byte("unrevoke_subaccount"), timestamp, 10), tokens)
}

// RevokedText is signed by revoked_subaccounts, which asks for the revoked tokens.
func RevokedText(timestamp int64) []byte {
	return strconv.AppendInt([]byte("revoked_subaccounts"), timestamp, 10)
}

// MonitorText is signed by a subscription to new messages of the account. The
// timestamp is in seconds here; namespaces are in ascending order. withData asks
// for the messages themselves and not only for the news of them.
func MonitorText(owner account.ID, timestamp int64, withData bool, namespaces []int16) []byte {
	b := append([]byte("MONITOR"), owner.String()...)
	b = strconv.AppendInt(b, timestamp, 10)
	if withData {
		b = append(b, '1')
	} else {
		b = append(b, '0')
	}
	for i, ns := range namespaces {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(ns), 10)
	}
	return b
}

// The texts below are signed by each member of the swarm with its Ed25519 key,
// as proof of what it did. Hashes that were affected are in ascending order.

// StoreResultText proves that the member has the message.
func StoreResultText(hash string) []byte { return []byte(hash) }

// DeleteResultText proves a delete: requested are the hashes as the client sent
// them, deleted those that were there.
func DeleteResultText(owner account.ID, requested, deleted []string) []byte {
	return appendStrings(appendStrings([]byte(owner.String()), requested), deleted)
}

// AffectedResultText proves delete_all (at is its timestamp), delete_before
// (before) and expire_all (expiry). The affected hashes of all namespaces are
// sorted together.
func AffectedResultText(owner account.ID, at int64, affected []string) []byte {
	return appendStrings(strconv.AppendInt([]byte(owner.String()), at, 10), affected)
}

// ExpireResultText proves an expire: expiries as in the answer, unchanged the
// messages that were left alone with the expiry they have.
func ExpireResultText(owner account.ID, expiries []int64, requested, updated []string, unchanged map[string]int64) []byte {
	b := appendNumbers([]byte(owner.String()), expiries)
	b = appendStrings(appendStrings(b, requested), updated)
	left := make([]string, 0, len(unchanged))
	for h := range unchanged {
		left = append(left, h)
	}
	slices.Sort(left)
	for _, h := range left {
		b = strconv.AppendInt(append(b, h...), unchanged[h], 10)
	}
	return b
}

// RevokeResultText proves revoke_subaccount and unrevoke_subaccount.
func RevokeResultText(owner account.ID, timestamp int64, tokens []Token) []byte {
	return appendTokens(strconv.AppendInt([]byte(owner.String()), timestamp, 10), tokens)
}

func scopeText(method string, scope Scope, number int64) []byte {
	b := make([]byte, 0, 48)
	return strconv.AppendInt(appendNamespace(append(b, method...), scope), number, 10)
}

func appendNamespace(b []byte, scope Scope) []byte {
	switch scope {
	case 0:
		return b
	case AllNamespaces:
		return append(b, "all"...)
	}
	return strconv.AppendInt(b, int64(scope), 10)
}

func appendStrings(b []byte, list []string) []byte {
	return append(b, strings.Join(list, "")...)
}

func appendNumbers(b []byte, list []int64) []byte {
	for _, n := range list {
		b = strconv.AppendInt(b, n, 10)
	}
	return b
}

func appendTokens(b []byte, list []Token) []byte {
	for _, t := range list {
		b = append(b, t[:]...)
	}
	return b
}

// MaxSizes shares the room of one answer among the retrieve requests of one
// batch: the parameter max_size for each namespace. Namespaces with messages (0
// and 11) come before those with configuration; every group takes its share of
// what the one before left (Session desktop, SnodeNamespace.maxSizeMap).
func MaxSizes(namespaces []int16) []int {
	high := func(ns int16) bool { return ns == 0 || ns == 11 }
	messages := 0
	for _, ns := range namespaces {
		if high(ns) {
			messages++
		}
	}
	configs := len(namespaces) - messages
	first := messages
	if configs > 0 && messages > 0 {
		first++ // one share more, for everything below
	}
	sizes := make([]int, len(namespaces))
	for i, ns := range namespaces {
		if high(ns) {
			sizes[i] = -first
		} else {
			sizes[i] = -max(first, 1) * configs
		}
	}
	return sizes
}
