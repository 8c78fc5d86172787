// Package onion builds, peels and answers onion requests: requests that reach a
// service node, or a web server behind one, through several other nodes, of
// which none knows both who asks and what is asked.
//
// A client calls [Build] (or [BuildServer]) with a path and the body of a
// storage request, posts [Request.Body] to the first node of the path and gives
// what comes back to [Request.OpenReply].
//
// A node reads a client's POST with [ParseEntry], or the message of another
// node with [ParseLayerBT], and calls [Layer.Peel]. What it then holds says
// what to do: a [Node] is sent on with [Layer.MarshalBT], a [Server] is posted
// to, a [Final] is answered with [Layer.SealReply], and an [Invalid] is
// answered the same way with status 400 and [TextInvalidJSON]. Answers of later
// hops travel back unchanged, except for their status ([PassThrough]).
//
// Every layer is a frame (a length, a blob and JSON, see [EncodeFrame])
// encrypted to one node with an ephemeral X25519 key of the client. Only the
// destination encrypts its answer, with the key of the layer that reached it,
// so the client opens an answer exactly once.
//
// Bytes, texts and limits are those of the Session storage server 2.8 on the
// node's side and of Session desktop on the client's side. Network, clock and
// randomness are the caller's: nothing here blocks or keeps state.
package onion

import (
	"errors"
	"slices"
)

const (
	// MaxHops is the highest hop number a node accepts from another node, and so
	// the longest path of [Build]. Real clients use three hops.
	MaxHops = 15
	// MaxRequest is the largest body of an onion request, in bytes.
	MaxRequest = 10_485_760
)

// Texts that the network's nodes answer with, byte for byte: clients act on
// some of them.
const (
	// TextInvalidCiphertext is the plain 400 answer to [ErrDecrypt].
	TextInvalidCiphertext = "Invalid ciphertext"
	// TextInvalidJSON is the encrypted 400 answer to an [Invalid] layer.
	TextInvalidJSON = "Invalid json"
	// TextInvalidURL is the encrypted 400 answer to a [Server] that is not
	// allowed.
	TextInvalidURL = "Invalid url"
	// PrefixEntry comes before the error of [ParseEntry] in the plain 400 answer.
	PrefixEntry = "Error parsing onion request: "
	// PrefixLayer comes before the error of [ParseLayerBT] in the plain 400
	// answer, unless that error is [ErrPathLength].
	PrefixLayer = "Invalid internal onion request: "
)

// Errors that callers can test with errors.Is.
var (
	// ErrMalformed reports bytes of a stranger that are not what they should
	// be. The error's own text is the detail that the storage server would
	// answer with.
	ErrMalformed = errors.New("malformed onion request")
	// ErrPathLength reports a hop number above [MaxHops]; its text is the whole
	// answer, without [PrefixLayer].
	ErrPathLength = errors.New("onion request max path length exceeded")
	// ErrDecrypt reports a layer that this node's key does not open.
	ErrDecrypt = errors.New("onion layer does not decrypt")
	// ErrUndecryptable reports an answer that the destination's key does not
	// open: most likely the plain error text of a hop.
	ErrUndecryptable = errors.New("onion reply does not decrypt")
	// ErrReply reports an answer that decrypts but makes no sense.
	ErrReply = errors.New("malformed onion reply")
	// ErrPath reports a path that no request can be built for.
	ErrPath = errors.New("unusable onion path")
	// ErrTooLarge reports a request above [MaxRequest].
	ErrTooLarge = errors.New("onion request too large")
)

// detail is a text that goes into an answer as it stands.
type detail string

func (d detail) Error() string        { return string(d) }
func (d detail) Is(target error) bool { return target == ErrMalformed }

var passedThrough = []int{200, 400, 401, 403, 404, 406, 410, 413, 421, 429, 500, 502, 503, 504}

// PassThrough returns the status that a hop hands back when the next hop
// answered with the given one: those that nodes know stay, all others become 500.
func PassThrough(status int) int {
	if slices.Contains(passedThrough, status) {
		return status
	}
	return 500
}
