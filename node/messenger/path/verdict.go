package path

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Fault says whom a failure is counted against.
type Fault int

// Faults, from nobody's to the widest.
const (
	FaultNone  Fault = iota // the answer is the caller's to read
	FaultOurs               // the request or the clock: nobody is struck
	FaultNode               // strike one node
	FaultGone               // one node is no longer in the network: drop it
	FaultGuard              // strike the path; its other hops had no part in it
	FaultPath               // strike the path and every hop behind the guard
)

// Verdict is what follows from the status and text of an answer.
type Verdict struct {
	Fault Fault
	Node  Key   // of FaultNode and FaultGone
	Err   error // one of the errors of this package; nil with FaultNone
	Retry bool  // another path or another node may well succeed
}

// Texts that nodes send and clients act on (storage server, Session desktop).
const (
	nextNotFound    = "Next node not found: "
	nextUnreachable = "Next node is currently unreachable: "
	notReady        = "Snode not ready: "
	oxenServerError = "Oxen Server error"
	tooManyWait     = "too many subscriptions" // package push
)

// judgePath reads an answer that is not encrypted: the guard's own, or a hop's
// that the guard handed back. known holds the hops and the destination; an
// answer that names any other node is not believed, so that a guard cannot talk
// the messenger out of nodes it never sent anything to.
func judgePath(status int, text string, path *Path, destination Key) Verdict {
	asked := func(k Key) bool { return k == destination || path.Holds(k) }
	switch status {
	case 406, 425:
		return Verdict{Fault: FaultOurs, Err: ErrClock, Retry: true}
	case 502:
		for _, prefix := range []string{nextNotFound, nextUnreachable} {
			if k, ok := named(text, prefix); ok && asked(k) {
				if prefix == nextUnreachable {
					return Verdict{Fault: FaultNode, Node: k, Err: ErrPath, Retry: true}
				}
				return Verdict{Fault: FaultGone, Node: k, Err: ErrPath, Retry: true}
			}
		}
	case 503:
		if k, ok := named(text, notReady); ok && asked(k) {
			return Verdict{Fault: FaultNode, Node: k, Err: ErrPath, Retry: true}
		}
		return Verdict{Fault: FaultGuard, Err: ErrPath, Retry: true}
	case 400, 413:
		// Either the request is badly built, or a node has other keys than the
		// list says. The next try is built anew for other hops.
		return Verdict{Fault: FaultPath, Err: ErrPath, Retry: true}
	}
	if text == oxenServerError {
		return Verdict{Fault: FaultOurs, Err: ErrRequest}
	}
	return Verdict{Fault: FaultPath, Err: ErrPath, Retry: true}
}

// Judge reads the status of a destination: the one sealed into the innermost
// layer, or that of one request of a batch.
func Judge(status int, text string, destination Key) Verdict {
	switch status {
	case 200:
		return Verdict{}
	case 401:
		return Verdict{Fault: FaultOurs, Err: ErrRefused}
	case 406, 425:
		return Verdict{Fault: FaultOurs, Err: ErrClock, Retry: true}
	case 421:
		return Verdict{Fault: FaultOurs, Err: ErrWrongSwarm, Retry: true}
	case 400, 403, 404, 410, 413:
		return Verdict{Fault: FaultOurs, Err: ErrRequest}
	}
	switch {
	case text == oxenServerError:
		return Verdict{Fault: FaultOurs, Err: ErrRequest}
	case status == 429 && strings.HasPrefix(text, tooManyWait):
		// Said by nodes of this kind only, and no sign that anything is wrong.
		return Verdict{Fault: FaultOurs, Err: ErrBusy, Retry: true}
	}
	return Verdict{Fault: FaultNode, Node: destination, Err: ErrNode, Retry: true}
}

// named reads the 64 hexadecimal digits after prefix.
func named(text, prefix string) (Key, bool) {
	digits, ok := strings.CutPrefix(strings.TrimSpace(text), prefix)
	if !ok || len(digits) < 64 {
		return Key{}, false
	}
	b, err := hex.DecodeString(digits[:64])
	if err != nil {
		return Key{}, false
	}
	return Key(b), true
}

// StatusError is an answer other than 200. It wraps one of the errors of this
// package.
type StatusError struct {
	Verdict Verdict
	Status  int
	Text    string // at most 120 bytes of what the node wrote
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%v: status %d %q", e.Verdict.Err, e.Status, e.Text)
}

// Unwrap gives the error of this package that the status amounts to.
func (e *StatusError) Unwrap() error { return e.Verdict.Err }

// Retryable reports whether the same request may succeed over another path or
// at another node.
func Retryable(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Verdict.Retry
	}
	return errors.Is(err, ErrPath) || errors.Is(err, ErrNode)
}
