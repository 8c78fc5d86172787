package onion

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"

	"hearth/node/keys"
)

// SealReply makes a node's own answer to a layer: the envelope
// {"body":…,"status":…}, encrypted for the client with the key of that layer.
// It is handed back with transport status 200, whatever status says.
//
// A body of type string or []byte is text. Every other body is a JSON value
// (json.RawMessage, struct, map); it is embedded as it is when asJSON is set
// and as a string otherwise. Envelope and embedded JSON have their keys in
// bytewise order and no white space. With asBase64 the answer is base64 text,
// else raw bytes. Answers that are not about a [Final] layer, which alone
// carries these two wishes, use false and true.
//
// A body that is not UTF-8 cannot be put into JSON; the answer is then status
// 500, "request failed". rand gives the nonce (12, 24 or 16 bytes).
func (l Layer) SealReply(rand io.Reader, node *keys.Pair, status int, body any, asJSON, asBase64 bool) ([]byte, error) {
	c, err := l.channel(node)
	if err != nil {
		return nil, fmt.Errorf("sealing onion reply: %w", err)
	}
	key := &ReplyKey{c}
	defer key.Wipe()
	return key.Seal(rand, status, body, asJSON, asBase64)
}

// ReplyKey encrypts the answer to one layer. It does not print.
type ReplyKey struct{ channel channel }

// Wipe overwrites the key. A nil one has nothing to wipe.
func (k *ReplyKey) Wipe() {
	if k != nil {
		clear(k.channel.key[:])
	}
}

// Format writes no secret, whatever the verb.
func (k *ReplyKey) Format(f fmt.State, _ rune) { io.WriteString(f, "onion.ReplyKey") }

// Seal is [Layer.SealReply] with a key that [Layer.Open] gave.
func (k *ReplyKey) Seal(rand io.Reader, status int, body any, asJSON, asBase64 bool) (_ []byte, err error) {
	c := &k.channel
	var isJSON, canonical bool
	var text []byte
	switch b := body.(type) {
	case string:
		text = []byte(b)
	case []byte:
		text = b
	default:
		isJSON = true
		if size, plain := plainSize(body, maxPlainDepth); plain {
			text, canonical = appendPlain(make([]byte, 0, size), body), true
		} else if text, err = marshalBody(body); err != nil {
			return nil, fmt.Errorf("sealing onion reply: %w", err)
		}
	}
	if !canonical && !utf8.Valid(text) {
		status, text, isJSON = 500, []byte("request failed"), false
	}

	nonceSize := c.enc.nonceSize()
	// An eighth more leaves room for the escaped quotes of JSON in a string.
	buf := make([]byte, nonceSize, nonceSize+len(text)+len(text)/8+64+tagSize)
	if _, err := io.ReadFull(rand, buf); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	buf = append(buf, `{"body":`...)
	switch {
	case canonical && asJSON:
		buf = append(buf, text...)
	case canonical:
		buf = appendQuoted(buf, text)
	case isJSON && asJSON:
		buf = appendCanonical(buf, text)
	case isJSON:
		buf = appendQuoted(buf, appendCanonical(make([]byte, 0, len(text)), text))
	default:
		buf = appendQuoted(buf, text)
	}
	buf = append(buf, `,"status":`...)
	buf = strconv.AppendInt(buf, int64(status), 10)
	buf = append(buf, '}')

	sealed, err := c.seal(buf, 0)
	if err != nil || !asBase64 {
		return sealed, err
	}
	return base64.StdEncoding.AppendEncode(nil, sealed), nil
}

// marshalBody returns well-formed JSON without white space around it.
func marshalBody(body any) ([]byte, error) {
	if raw, ok := body.(json.RawMessage); ok {
		if !json.Valid(raw) {
			return nil, errNotJSON
		}
		return bytes.TrimSpace(raw), nil
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// OpenReply decrypts and reads what a node answered to the request. body is
// what came over HTTP: base64 text, or JSON {"result":"<base64>"}. It returns
// the status and the body of the destination's answer: the text of a string, or
// the JSON of any other value. The status is the destination's own and can be
// an error, which is not an error here.
//
// [ErrUndecryptable] means that the body does not open with the destination's
// key and is rather a plain text of a hop; [ErrReply] that it opens, but holds no
// envelope.
func (r *Request) OpenReply(body []byte) (status int, reply []byte, err error) {
	text := bytes.TrimSpace(body)
	if len(text) > 0 && text[0] == '{' {
		wrapper, err := parseObject(text)
		if err != nil {
			return 0, nil, ErrUndecryptable
		}
		text = nil
		for name, raw := range wrapper.members() {
			if name == "result" && raw[0] == '"' {
				text = []byte(unquote(raw))
			}
		}
	}
	sealed, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return 0, nil, ErrUndecryptable
	}
	plain, err := r.reply.open(sealed)
	if err != nil {
		return 0, nil, ErrUndecryptable
	}
	return readEnvelope(plain)
}

func readEnvelope(text []byte) (status int, body []byte, err error) {
	envelope, err := parseObject(text)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrReply, err)
	}
	var rawStatus, rawBody []byte
	for name, raw := range envelope.members() {
		switch name {
		case "status", "status_code":
			rawStatus = raw
		case "body":
			rawBody = raw
		}
	}
	if rawStatus == nil || rawBody == nil {
		return 0, nil, fmt.Errorf("%w: status or body missing", ErrReply)
	}
	n, err := intValue("status", rawStatus)
	if err != nil || n < 100 || n > 999 {
		return 0, nil, fmt.Errorf("%w: status is no HTTP status", ErrReply)
	}
	if rawBody[0] == '"' {
		rawBody = []byte(unquote(rawBody))
	}
	return int(n), rawBody, nil
}
