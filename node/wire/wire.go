// Package wire turns what one account wants to tell another into the bytes that
// lie in a swarm, and back.
//
// A sessionpb.Content goes into [Seal]: it is padded ([Pad]), signed and sealed
// for the recipient ([Encrypt]), and framed in an envelope. What comes out is
// the data of a store request. [Open] takes such data from a retrieve answer and
// returns a [Message] whose sender and time are proven, or an error that says
// why the bytes are not one; nothing a stranger stores makes it panic.
//
// The layout is the one of libsession. Seal writes its current framing, Open
// also reads the framing of older Session clients.
package wire

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/keys"
	"hearth/node/wire/sessionpb"
)

// MaxData is the largest stored message in bytes, before base64. Storage
// servers refuse more.
const MaxData = 76_800

// maxTimestamp is the largest time in ms that JavaScript clients hold exactly.
// It also keeps a stranger's time away from the border of int64.
const maxTimestamp = 1<<53 - 1

// Errors of this package, for errors.Is.
var (
	// ErrMalformed reports data that no client writes: a protobuf that does not
	// parse, a missing part, a message that is too short.
	ErrMalformed = errors.New("malformed message")
	// ErrNotForUs reports a sealed box that the account cannot open, because it
	// was sealed for another one or was damaged.
	ErrNotForUs = errors.New("message is not sealed for this account")
	// ErrSignature reports a box that opens but is not signed by the sender it
	// names.
	ErrSignature = errors.New("message is not signed by its sender")
	// ErrTimestamp reports a signed time that is not the envelope's, or no time
	// at all.
	ErrTimestamp = errors.New("message time is not the signed one")
	// ErrTooLarge reports a message above [MaxData].
	ErrTooLarge = errors.New("message is too large")
)

// Message is a message that [Open] has verified.
type Message struct {
	Sender account.ID
	// Timestamp is the sent time in ms since 1970. Together with Sender it
	// identifies the message. It is signed unless Content has no sigTimestamp,
	// as messages of older clients do not.
	Timestamp uint64
	// Content has valid UTF-8 in all its texts. Its lengths, numbers and IDs are
	// as the sender chose them.
	Content *sessionpb.Content
}

// Text returns the Content of a plain text message sent at timestamp (ms), with
// disappearing messages off, as released clients write it.
func Text(body string, timestamp uint64) *sessionpb.Content {
	return &sessionpb.Content{
		DataMessage:     &sessionpb.DataMessage{Body: proto.String(body)},
		ExpirationType:  sessionpb.Content_UNKNOWN.Enum(),
		ExpirationTimer: proto.Uint32(0),
		SigTimestamp:    proto.Uint64(timestamp),
	}
}

// Seal encrypts content for the account to and frames it. The result is the
// data of a store request, before base64. The envelope's time is
// content.sigTimestamp, which the caller sets to network time in ms; without it
// the error is [ErrTimestamp]. Other errors: [ErrTooLarge] above [MaxData],
// account.ErrNotSessionID, keys.ErrLowOrder.
func Seal(rand io.Reader, sender *account.Account, to account.ID, content *sessionpb.Content) ([]byte, error) {
	timestamp := content.GetSigTimestamp()
	if !plausible(timestamp) {
		return nil, fmt.Errorf("sealing for %s: sigTimestamp %d: %w", to, timestamp, ErrTimestamp)
	}
	plain, err := proto.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encoding content: %w", err)
	}
	if len(plain) > MaxData {
		return nil, fmt.Errorf("content of %d bytes: %w", len(plain), ErrTooLarge)
	}
	sealed, err := Encrypt(rand, sender, to, Pad(plain))
	if err != nil {
		return nil, err
	}
	proSig, err := decoySignature(rand, sealed)
	if err != nil {
		return nil, err
	}
	data, err := frame(timestamp, sealed, proSig)
	if err != nil {
		return nil, err
	}
	if len(data) > MaxData {
		return nil, fmt.Errorf("message of %d bytes: %w", len(data), ErrTooLarge)
	}
	return data, nil
}

// Open reads data from a retrieve answer, after base64, that was sealed for
// recipient. Errors: [ErrTooLarge], [ErrMalformed], [ErrNotForUs],
// [ErrSignature], [ErrTimestamp].
//
// Like Session desktop it accepts content without a signed time, since older
// clients did not write it; the message then has the envelope's time.
func Open(recipient *account.Account, data []byte) (*Message, error) {
	if len(data) > MaxData {
		return nil, fmt.Errorf("message of %d bytes: %w", len(data), ErrTooLarge)
	}
	envelope, err := unframe(data)
	if err != nil {
		return nil, err
	}
	sender, padded, err := Decrypt(recipient, envelope.GetContent())
	if err != nil {
		return nil, err
	}
	content, err := parseContent(padded)
	if err != nil {
		return nil, err
	}
	timestamp := envelope.GetTimestamp()
	if !plausible(timestamp) || content.SigTimestamp != nil && content.GetSigTimestamp() != timestamp {
		return nil, fmt.Errorf("envelope time %d: %w", timestamp, ErrTimestamp)
	}
	return &Message{Sender: sender, Timestamp: timestamp, Content: content}, nil
}

func plausible(timestamp uint64) bool {
	return timestamp > 0 && timestamp <= maxTimestamp
}

// decoySignature returns 64 bytes for Envelope.proSig. A paying user has a
// signature there that everybody who stores the message can see. libsession
// therefore lets everybody else sign with a throw-away key, so that nobody
// stands out; leaving the field empty would mark our messages, and random bytes
// would be no valid curve point most of the time. Receivers look at it only
// when the content holds a Pro proof.
func decoySignature(rand io.Reader, sealed []byte) ([]byte, error) {
	once, err := keys.Generate(rand)
	if err != nil {
		return nil, err
	}
	defer once.Wipe()
	return once.Sign(sealed), nil
}
