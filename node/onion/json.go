package onion

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The control texts of a layer are small JSON objects of strangers that every
// hop reads. encoding/json would match their keys without regard to case, take
// null for any type and allocate for each member; the storage server's library
// does neither, and this reader follows it.

const (
	errNotJSON   = detail("invalid JSON")
	errNotObject = detail("JSON is not an object")
)

// object is the text of one JSON object that is known to be well-formed.
type object []byte

func parseObject(text []byte) (object, error) {
	if !json.Valid(text) || !utf8.Valid(text) {
		return nil, errNotJSON
	}
	text = bytes.TrimSpace(text)
	if text[0] != '{' {
		return nil, errNotObject
	}
	return object(text), nil
}

// members yields every key, unquoted, with its value as raw JSON. A key may
// come twice; the last one counts.
func (o object) members() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		rest := o[1:]
		for {
			rest = bytes.TrimLeft(rest, " \t\r\n,")
			if rest[0] == '}' {
				return
			}
			size := valueSize(rest)
			key := rest[:size]
			rest = bytes.TrimLeft(rest[size:], " \t\r\n:")
			size = valueSize(rest)
			if !yield(unquote(key), rest[:size:size]) {
				return
			}
			rest = rest[size:]
		}
	}
}

// elements yields every value of a well-formed JSON array.
func elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := array[1:]
		for {
			rest = bytes.TrimLeft(rest, " \t\r\n,")
			if rest[0] == ']' {
				return
			}
			size := valueSize(rest)
			if !yield(rest[:size:size]) {
				return
			}
			rest = rest[size:]
		}
	}
}

// valueSize returns the length of the value with which well-formed JSON
// begins.
func valueSize(text []byte) int {
	switch text[0] {
	case '"':
		return stringSize(text)
	case '{', '[':
		depth := 0
		for i := 0; ; i++ {
			switch text[i] {
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			case '"':
				i += stringSize(text[i:]) - 1
			}
		}
	}
	if end := bytes.IndexAny(text, ",}] \t\r\n"); end >= 0 {
		return end
	}
	return len(text)
}

func stringSize(text []byte) int {
	for i := 1; ; i++ {
		switch text[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
}

// unquote returns the text of a well-formed JSON string.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "" // cannot happen: raw is a well-formed string
	}
	return s
}

func stringValue(key string, raw []byte) (string, error) {
	if raw[0] != '"' {
		return "", wrongType(key, "string")
	}
	return unquote(raw), nil
}

func boolValue(key string, raw []byte) (bool, error) {
	switch raw[0] {
	case 't':
		return true, nil
	case 'f':
		return false, nil
	}
	return false, wrongType(key, "boolean")
}

// intValue reads an integer; one beyond 64 bits counts as the nearest within.
func intValue(key string, raw []byte) (int64, error) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil && n == 0 { // an integer out of range gives the limit, not 0
		return 0, wrongType(key, "integer")
	}
	return n, nil
}

func keyValue(key string, raw []byte) (public [32]byte, err error) {
	if raw == nil {
		return public, detail("key '" + key + "' not found")
	}
	text, err := stringValue(key, raw)
	if err != nil {
		return public, err
	}
	// Length and digits are looked at apart, for their texts. An odd number of
	// digits is no hexadecimal text to the storage server.
	if len(text)%2 != 0 || strings.Trim(text, "0123456789abcdefABCDEF") != "" {
		return public, detail("Hex key data is invalid: data is not hex")
	}
	if len(text) != 2*len(public) {
		return public, detail(fmt.Sprintf("Hex key data is invalid: expected %d hex digits, received %d", len(public), len(text)))
	}
	hex.Decode(public[:], []byte(text))
	return public, nil
}

// encTypeValue reads an encryption type, GCM when there is none.
func encTypeValue(key string, raw []byte) (EncType, error) {
	if raw == nil {
		return GCM, nil
	}
	name, err := stringValue(key, raw)
	if err != nil {
		return "", err
	}
	return ParseEncType(name)
}

func wrongType(key, want string) error {
	return detail("key '" + key + "' must be " + want)
}

// appendQuoted appends s, valid UTF-8, as a JSON string in the storage
// server's form: only quotes, backslashes and control characters are escaped.
func appendQuoted[S ~string | ~[]byte](dst []byte, s S) []byte {
	dst = append(dst, '"')
	plain := 0 // start of the run that needs no escape
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[plain:i]...)
		plain = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, `\u00`...)
			dst = append(dst, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		}
	}
	dst = append(dst, s[plain:]...)
	return append(dst, '"')
}

// appendCanonical appends a well-formed JSON value without white space, with
// the keys of every object in bytewise order and strings as appendQuoted
// writes them. Numbers stay as they are.
func appendCanonical(dst, value []byte) []byte {
	switch value[0] {
	case '{':
		type member struct {
			key   string
			value []byte
		}
		var few [16]member
		list := few[:0]
		for key, raw := range object(value).members() {
			list = append(list, member{key, raw})
		}
		byKey := func(a, b member) int { return strings.Compare(a.key, b.key) }
		if !slices.IsSortedFunc(list, byKey) {
			slices.SortStableFunc(list, byKey)
		}
		dst = append(dst, '{')
		for i, m := range list {
			if i+1 < len(list) && list[i+1].key == m.key {
				continue
			}
			dst = appendQuoted(dst, m.key)
			dst = append(dst, ':')
			dst = appendCanonical(dst, m.value)
			dst = append(dst, ',')
		}
		return closeList(dst, '}')
	case '[':
		dst = append(dst, '[')
		for raw := range elements(value) {
			dst = appendCanonical(dst, raw)
			dst = append(dst, ',')
		}
		return closeList(dst, ']')
	case '"':
		if bytes.IndexByte(value, '\\') >= 0 {
			return appendQuoted(dst, unquote(value))
		}
	}
	return append(dst, value...)
}

// closeList ends a list of which every item ends in a comma.
func closeList(dst []byte, shut byte) []byte {
	if last := len(dst) - 1; dst[last] == ',' {
		dst[last] = shut
		return dst
	}
	return append(dst, shut)
}
