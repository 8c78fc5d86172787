package wire

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"hearth/node/wire/sessionpb"
)

// frame wraps sealed content for a swarm.
func frame(timestamp uint64, sealed, proSig []byte) ([]byte, error) {
	return Frame(&sessionpb.Envelope{
		Type:         sessionpb.Envelope_SESSION_MESSAGE.Enum(),
		Timestamp:    proto.Uint64(timestamp),
		SourceDevice: proto.Uint32(1),
		Content:      sealed,
		ProSig:       proSig,
	})
}

// Frame wraps an envelope for a swarm the way libsession does, empty verb, path and
// id included: they are on the wire, and a message without them would stand out.
// The same envelope gives the same bytes.
func Frame(of *sessionpb.Envelope) ([]byte, error) {
	envelope, err := proto.Marshal(of)
	if err != nil {
		return nil, fmt.Errorf("encoding the envelope: %w", err)
	}
	data, err := proto.Marshal(&sessionpb.WebSocketMessage{
		Type: sessionpb.WebSocketMessage_REQUEST.Enum(),
		Request: &sessionpb.WebSocketRequestMessage{
			Verb: proto.String(""),
			Path: proto.String(""),
			Body: envelope,
			Id:   proto.Uint64(0),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the frame: %w", err)
	}
	return data, nil
}

// unframe returns the envelope of a one-to-one message. It ignores verb, path
// and id, in which clients differ.
func unframe(data []byte) (*sessionpb.Envelope, error) {
	var outer sessionpb.WebSocketMessage
	if err := proto.Unmarshal(data, &outer); err != nil {
		return nil, fmt.Errorf("frame: %w: %w", ErrMalformed, err)
	}
	if outer.GetRequest().GetBody() == nil {
		return nil, fmt.Errorf("frame without an envelope: %w", ErrMalformed)
	}
	envelope := new(sessionpb.Envelope)
	if err := proto.Unmarshal(outer.GetRequest().GetBody(), envelope); err != nil {
		return nil, fmt.Errorf("envelope: %w: %w", ErrMalformed, err)
	}
	if envelope.GetType() != sessionpb.Envelope_SESSION_MESSAGE {
		return nil, fmt.Errorf("envelope of type %d: %w", envelope.GetType(), ErrMalformed)
	}
	return envelope, nil
}

// parseContent unpads and parses what a sender signed. All texts of the result
// are valid UTF-8: proto2 does not ask for it, but protocols and screens behind
// us do, and one bad byte must not hide the other messages of a conversation.
// Broken bytes become U+FFFD, as in JavaScript clients.
func parseContent(padded []byte) (*sessionpb.Content, error) {
	return readContent(Unpad(padded))
}

// readContent is parseContent for what was not padded.
func readContent(plain []byte) (*sessionpb.Content, error) {
	if len(plain) == 0 {
		return nil, fmt.Errorf("empty content: %w", ErrMalformed)
	}
	content := new(sessionpb.Content)
	if err := proto.Unmarshal(plain, content); err != nil {
		return nil, fmt.Errorf("content: %w: %w", ErrMalformed, err)
	}
	repairText(content.ProtoReflect())
	return content, nil
}

// repairText visits every text in m. Messages nest no deeper than the schema,
// which has no message that contains itself.
func repairText(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		switch kind := field.Kind(); {
		case kind == protoreflect.StringKind && field.IsList():
			list := m.Mutable(field).List()
			for j := range list.Len() {
				list.Set(j, validText(list.Get(j)))
			}
		case kind == protoreflect.StringKind:
			m.Set(field, validText(m.Get(field)))
		case kind == protoreflect.MessageKind && field.IsList():
			list := m.Get(field).List()
			for j := range list.Len() {
				repairText(list.Get(j).Message())
			}
		case kind == protoreflect.MessageKind:
			repairText(m.Get(field).Message())
		}
	}
}

func validText(v protoreflect.Value) protoreflect.Value {
	return protoreflect.ValueOfString(strings.ToValidUTF8(v.String(), "\uFFFD"))
}
