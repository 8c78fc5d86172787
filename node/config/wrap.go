package config

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// The wrapper of user configs makes them look like a message to oneself
// (libsession-util's protos.cpp). The config in it is encrypted already, and
// clients accept configs with and without it.
const (
	contentConfig = protowire.Number(11) // Content.sharedConfigMessage
	configKind    = protowire.Number(1)  // in SharedConfigMessage
	configSeqno   = protowire.Number(2)
	configData    = protowire.Number(3)

	wrapMark      = 0x80 // ends the content; a message has padding after it
	wrapTimestamp = 1    // ms: no time, so that all devices write the same
)

// wrap puts an encrypted config into the wrapper. The same input gives the same
// bytes.
func wrap(acc *account.Account, kind uint64, seqno int64, sealed []byte) ([]byte, error) {
	var shared []byte
	shared = protowire.AppendTag(shared, configKind, protowire.VarintType)
	shared = protowire.AppendVarint(shared, kind)
	shared = protowire.AppendTag(shared, configSeqno, protowire.VarintType)
	shared = protowire.AppendVarint(shared, uint64(seqno))
	shared = protowire.AppendTag(shared, configData, protowire.BytesType)
	shared = protowire.AppendBytes(shared, sealed)
	var content []byte
	content = protowire.AppendTag(content, contentConfig, protowire.BytesType)
	content = protowire.AppendBytes(content, shared)
	content = append(content, wrapMark)

	message, err := wire.EncryptDeterministic(acc, acc.ID(), content)
	if err != nil {
		return nil, fmt.Errorf("wrapping a config: %w", err)
	}
	out, err := wire.Frame(&sessionpb.Envelope{
		Type:      sessionpb.Envelope_SESSION_MESSAGE.Enum(),
		Timestamp: proto.Uint64(wrapTimestamp),
		Content:   message,
	})
	if err != nil {
		return nil, fmt.Errorf("wrapping a config: %w", err)
	}
	return out, nil
}

// unwrap returns what is inside of the wrapper, or data itself when there is no
// wrapper that we made for this kind of config. It looks twice, because one
// release of a client wrapped twice.
func unwrap(acc *account.Account, kind uint64, data []byte) []byte {
	for range 2 {
		inner, ok := unwrapOnce(acc, kind, data)
		if !ok {
			break
		}
		data = inner
	}
	return data
}

func unwrapOnce(acc *account.Account, kind uint64, data []byte) ([]byte, bool) {
	var outer sessionpb.WebSocketMessage
	if proto.Unmarshal(data, &outer) != nil || outer.GetType() != sessionpb.WebSocketMessage_REQUEST {
		return nil, false
	}
	var envelope sessionpb.Envelope
	if proto.Unmarshal(outer.GetRequest().GetBody(), &envelope) != nil {
		return nil, false
	}
	sender, content, err := wire.Decrypt(acc, envelope.GetContent())
	if err != nil || sender != acc.ID() {
		return nil, false
	}
	// From the end: zeros, which our own wrapper does not have, and the mark.
	end := len(content)
	for end > 0 && content[end-1] == 0 {
		end--
	}
	if end == 0 || content[end-1] != wrapMark {
		return nil, false
	}
	shared, ok := field(content[:end-1], contentConfig, protowire.BytesType)
	if !ok {
		return nil, false
	}
	if n, ok := field(shared.bytes, configKind, protowire.VarintType); !ok || n.varint != kind {
		return nil, false
	}
	inner, ok := field(shared.bytes, configData, protowire.BytesType)
	return inner.bytes, ok
}

type protoField struct {
	varint uint64
	bytes  []byte
}

// field returns the last value of one field of a protobuf message, as protobuf
// has it for fields that are not repeated.
func field(message []byte, number protowire.Number, typ protowire.Type) (protoField, bool) {
	var found protoField
	ok := false
	for len(message) > 0 {
		n, t, size := protowire.ConsumeTag(message)
		if size < 0 {
			return protoField{}, false
		}
		message = message[size:]
		size = protowire.ConsumeFieldValue(n, t, message)
		if size < 0 {
			return protoField{}, false
		}
		if n == number && t == typ {
			ok = true
			if t == protowire.VarintType {
				found.varint, _ = protowire.ConsumeVarint(message)
			} else {
				found.bytes, _ = protowire.ConsumeBytes(message)
			}
		}
		message = message[size:]
	}
	return found, ok
}
