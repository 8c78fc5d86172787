package rpc

import "time"

// The number of a namespace decides who may write and read it (storage server,
// oxenss/common/namespace.h). The rules count with the signed number as C does.

// legacyGroups holds messages of the first kind of closed groups, whose members
// have no key of the group to sign with.
const legacyGroups = -10

// publicInbox reports whether anybody may store there: 0, 10, −10, …
func publicInbox(ns int16) bool { return ns%10 == 0 }

// publicOutbox reports whether the namespace holds one message of its owner for
// everybody to read: −1, −21, −41, …
func publicOutbox(ns int16) bool { return ns < 0 && -int(ns)%20 == 1 }

// openToRead reports whether messages are handed out without a signature.
func openToRead(ns int16) bool { return ns == legacyGroups || publicOutbox(ns) }

// revocationProof reports whether a delegate may still read there after the owner
// has withdrawn its token: −11, −111, … In −11 it learns that it was removed.
func revocationProof(ns int16) bool { return ns < 0 && -int(ns)%100 == 11 }

// maxTTL is how long a message may live from its timestamp on.
func maxTTL(ns int16) time.Duration {
	if publicInbox(ns) {
		return 14 * 24 * time.Hour
	}
	return 30 * 24 * time.Hour
}
