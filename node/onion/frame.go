package onion

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// EncodeFrame joins the two parts of which the body of an entry request and
// the plain text of every layer consist: the length of blob as a little-endian
// uint32, blob, and the JSON text up to the end.
func EncodeFrame(blob, json []byte) []byte {
	frame := make([]byte, 0, 4+len(blob)+len(json))
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(blob)))
	frame = append(frame, blob...)
	return append(frame, json...)
}

// ParseFrame splits a frame into its blob, which may be empty, and its JSON,
// which must be one complete value of any type. Both share memory with the
// frame. The error is [ErrMalformed] with the storage server's text.
func ParseFrame(frame []byte) (blob, jsonText []byte, err error) {
	blob, jsonText, err = splitFrame(frame)
	if err == nil && !json.Valid(jsonText) {
		err = errNotJSON
	}
	if err != nil {
		return nil, nil, err
	}
	return blob, jsonText, nil
}

// splitFrame is ParseFrame without the look at the JSON.
func splitFrame(frame []byte) (blob, jsonText []byte, err error) {
	if len(frame) < 4 {
		return nil, nil, detail("Unexpected payload size; expected ciphertext size")
	}
	size, rest := binary.LittleEndian.Uint32(frame), frame[4:]
	if uint64(len(rest)) < uint64(size) {
		return nil, nil, detail(fmt.Sprintf("Unexpected payload size %d, expected >= %d", len(rest), size))
	}
	return rest[:size:size], rest[size:], nil
}
