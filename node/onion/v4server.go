package onion

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hearth/node/bt"
	"hearth/node/keys"
)

// ParseServerPost reads what the last node of a path posts to a web server: the
// plain text of its own layer, a frame whose JSON serves both of them. What is
// in it for the server has the form of a client's entry. Errors are those of
// [ParseEntry].
func ParseServerPost(post []byte) (Layer, error) { return ParseEntry(post) }

// OpenServer decrypts the payload of a layer that is for a web server, most
// likely a v4 request ([DecodeV4Request]). The error is [ErrDecrypt].
func (l Layer) OpenServer(server *keys.Pair) ([]byte, error) {
	c, err := l.channel(server)
	if err != nil {
		return nil, ErrDecrypt
	}
	defer clear(c.key[:])
	payload, err := c.open(l.Ciphertext)
	if err != nil {
		return nil, ErrDecrypt
	}
	return payload, nil
}

// SealV4Reply makes a web server's answer to a v4 request: raw bytes, encrypted
// for the client with the key of the request's layer, to be sent with HTTP
// status 200 whatever the code in it says. rand gives the nonce (12, 24 or 16
// bytes).
func (l Layer) SealV4Reply(rand io.Reader, server *keys.Pair, r V4Response) ([]byte, error) {
	c, err := l.channel(server)
	if err != nil {
		return nil, fmt.Errorf("sealing v4 reply: %w", err)
	}
	defer clear(c.key[:])
	meta := strconv.AppendInt([]byte(`{"code":`), int64(r.Code), 10)
	meta = append(meta, `,"headers":{`...)
	for i, name := range slices.Sorted(maps.Keys(r.Headers)) {
		if i > 0 {
			meta = append(meta, ',')
		}
		meta = appendQuoted(meta, strings.ToLower(name))
		meta = append(meta, ':')
		meta = appendQuoted(meta, r.Headers[name])
	}
	meta = append(meta, "}}"...)

	const lengths = 64 // of the two strings, and the brackets
	nonceSize := c.enc.nonceSize()
	buf := make([]byte, nonceSize, nonceSize+len(meta)+len(r.Body)+lengths+tagSize)
	if _, err := io.ReadFull(rand, buf); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	buf = bt.AppendBytes(append(buf, 'l'), meta)
	buf = bt.AppendBytes(buf, r.Body)
	return c.seal(append(buf, 'e'), 0)
}

// DecodeV4Request reads the payload of a v4 request at the web server. The body
// shares memory with b, and the names of headers are in lower case. The error is
// [ErrMalformed].
func DecodeV4Request(b []byte) (*V4Request, error) {
	list, err := bt.ReadList(b)
	if err != nil {
		return nil, asDetail(err)
	}
	meta, err := list.Bytes()
	if err != nil {
		return nil, asDetail(err)
	}
	r := &V4Request{Headers: map[string]string{}}
	if list.More() {
		if r.Body, err = list.Bytes(); err != nil {
			return nil, asDetail(err)
		}
	}
	if err := list.Close(); err != nil {
		return nil, asDetail(err)
	}
	return r, r.readMeta(meta)
}

// maxV4Meta bounds the JSON of a request; real ones have some hundred bytes.
const maxV4Meta = 64 << 10

func (r *V4Request) readMeta(text []byte) error {
	if len(text) > maxV4Meta {
		return detail("too much JSON")
	}
	meta, err := parseObject(text)
	if err != nil {
		return err
	}
	var method, endpoint, headers []byte
	for name, raw := range meta.members() {
		switch name {
		case "method":
			method = raw
		case "endpoint":
			endpoint = raw
		case "headers":
			headers = raw
		}
	}
	if method == nil || endpoint == nil {
		return detail("keys 'method' and 'endpoint' are required")
	}
	if r.Method, err = stringValue("method", method); err != nil {
		return err
	}
	if r.Endpoint, err = stringValue("endpoint", endpoint); err != nil {
		return err
	}
	if !strings.HasPrefix(r.Endpoint, "/") {
		return detail("endpoint must start with /")
	}
	if headers == nil || string(headers) == "null" {
		return nil
	}
	return readHeaders(r.Headers, headers)
}
