package wire

import (
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/wire/sessionpb"
)

// GroupEnvelope puts content, sent to a closed group at content.sigTimestamp (ms),
// into the envelope that package group then signs and encrypts. Unlike that of a
// one-to-one message it is not padded, not sealed and has no frame. Errors:
// [ErrTimestamp], [ErrTooLarge] above a megabyte.
func GroupEnvelope(rand io.Reader, content *sessionpb.Content) ([]byte, error) {
	timestamp := content.GetSigTimestamp()
	if !plausible(timestamp) {
		return nil, fmt.Errorf("group envelope: sigTimestamp %d: %w", timestamp, ErrTimestamp)
	}
	plain, err := proto.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encoding content: %w", err)
	}
	if len(plain) > maxGroupContent {
		return nil, fmt.Errorf("content of %d bytes: %w", len(plain), ErrTooLarge)
	}
	proSig, err := decoySignature(rand, plain)
	if err != nil {
		return nil, err
	}
	envelope, err := proto.Marshal(&sessionpb.Envelope{
		Type:         sessionpb.Envelope_CLOSED_GROUP_MESSAGE.Enum(),
		Timestamp:    proto.Uint64(timestamp),
		SourceDevice: proto.Uint32(1),
		Content:      plain,
		ProSig:       proSig,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the envelope: %w", err)
	}
	return envelope, nil
}

// maxGroupContent leaves room for the envelope in the million bytes that a group
// message may have before it is compressed.
const maxGroupContent = 999_000

// OpenGroupEnvelope reads the envelope that sender, as package group proved, wrote
// to a closed group. A source that the envelope names means nothing. Errors:
// [ErrMalformed], [ErrTimestamp].
func OpenGroupEnvelope(sender account.ID, plaintext []byte) (*Message, error) {
	envelope := new(sessionpb.Envelope)
	if err := proto.Unmarshal(plaintext, envelope); err != nil {
		return nil, fmt.Errorf("group envelope: %w: %w", ErrMalformed, err)
	}
	if envelope.GetType() != sessionpb.Envelope_CLOSED_GROUP_MESSAGE {
		return nil, fmt.Errorf("group envelope of type %d: %w", envelope.GetType(), ErrMalformed)
	}
	content, err := readContent(envelope.GetContent())
	if err != nil {
		return nil, err
	}
	timestamp := envelope.GetTimestamp()
	if !plausible(timestamp) || content.SigTimestamp != nil && content.GetSigTimestamp() != timestamp {
		return nil, fmt.Errorf("group envelope time %d: %w", timestamp, ErrTimestamp)
	}
	return &Message{Sender: sender, Timestamp: timestamp, Content: content}, nil
}
