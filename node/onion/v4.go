package onion

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"hearth/node/bt"
)

// V4Request is a request to a web server in the form called v4.
type V4Request struct {
	Method   string // "GET", "POST", …
	Endpoint string // path and query, as in "/file/123"
	Headers  map[string]string
	Body     []byte // nil for none, which is not the same as empty
}

// Encode writes the request as the payload of [BuildServer]: a bt list of JSON
// and, if there is one, the body. Headers are in bytewise order.
func (r V4Request) Encode() []byte {
	meta := appendQuoted([]byte(`{"method":`), r.Method)
	meta = append(meta, `,"endpoint":`...)
	meta = appendQuoted(meta, r.Endpoint)
	meta = append(meta, `,"headers":{`...)
	for i, name := range slices.Sorted(maps.Keys(r.Headers)) {
		if i > 0 {
			meta = append(meta, ',')
		}
		meta = appendQuoted(meta, name)
		meta = append(meta, ':')
		meta = appendQuoted(meta, r.Headers[name])
	}
	meta = append(meta, "}}"...)

	payload := bt.AppendBytes([]byte("l"), meta)
	if r.Body != nil {
		payload = bt.AppendBytes(payload, r.Body)
	}
	return append(payload, 'e')
}

// V4Response is a web server's answer to a [V4Request].
type V4Response struct {
	Code    int               // HTTP status
	Headers map[string]string // names in lower case
	Body    []byte            // nil when the answer has no body part
}

// DecodeV4Response reads a decrypted v4 answer; the body shares memory with b.
// The error is [ErrReply].
func DecodeV4Response(b []byte) (*V4Response, error) {
	list, err := bt.ReadList(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReply, err)
	}
	meta, err := list.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReply, err)
	}
	r := &V4Response{Headers: map[string]string{}}
	if list.More() {
		if r.Body, err = list.Bytes(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrReply, err)
		}
	}
	if err := list.Close(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReply, err)
	}
	if err := r.readMeta(meta); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReply, err)
	}
	return r, nil
}

func (r *V4Response) readMeta(text []byte) error {
	meta, err := parseObject(text)
	if err != nil {
		return err
	}
	var code, headers []byte
	for name, raw := range meta.members() {
		switch name {
		case "code":
			code = raw
		case "headers":
			headers = raw
		}
	}
	if code == nil {
		return detail("key 'code' not found")
	}
	n, err := intValue("code", code)
	if err != nil {
		return err
	}
	if n < 100 || n > 999 {
		return detail("key 'code' is no HTTP status")
	}
	r.Code = int(n)
	if headers == nil {
		return nil
	}
	return readHeaders(r.Headers, headers)
}

// readHeaders adds the members of a JSON object, under names in lower case.
func readHeaders(into map[string]string, headers []byte) error {
	if headers[0] != '{' {
		return wrongType("headers", "object")
	}
	for name, raw := range object(headers).members() {
		value, err := stringValue("headers", raw)
		if err != nil {
			return err
		}
		into[strings.ToLower(name)] = value
	}
	return nil
}

// OpenServerReply decrypts and reads what a web server answered to a request of
// [BuildServer]. body is what came over HTTP: raw bytes, or base64 as from a
// hop that thinks itself the destination. Errors are those of
// [Request.OpenReply].
func (r *Request) OpenServerReply(body []byte) (*V4Response, error) {
	plain, err := r.reply.open(body)
	if err != nil && utf8.Valid(body) {
		sealed, decodeErr := base64.StdEncoding.AppendDecode(nil, body)
		if decodeErr != nil {
			return nil, ErrUndecryptable
		}
		plain, err = r.reply.open(sealed)
	}
	if err != nil {
		return nil, ErrUndecryptable
	}
	return DecodeV4Response(plain)
}
