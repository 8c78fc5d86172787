package onion

import (
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Answers of the storage are maps and lists of few types. They are written in one
// go, for to marshal, check, sort and write them again takes several times as long.

// maxPlainDepth is deeper than any answer.
const maxPlainDepth = 16

// plainSize says about how long a value is as JSON, and whether appendPlain can
// write it: values of the types that it knows, all of whose strings are UTF-8.
func plainSize(value any, depth int) (size int, plain bool) {
	if depth == 0 {
		return 0, false
	}
	const little = 24 // a number, or what stands around something
	switch v := value.(type) {
	case nil, bool, int, int64:
		return little, true
	case string:
		return len(v) + little, utf8.ValidString(v)
	case []byte:
		return base64.StdEncoding.EncodedLen(len(v)) + little, true
	case []any:
		size = little
		for _, item := range v {
			n, ok := plainSize(item, depth-1)
			if !ok {
				return 0, false
			}
			size += n
		}
		return size, true
	case map[string]any:
		size = little
		for key, item := range v {
			n, ok := plainSize(item, depth-1)
			if !ok || !utf8.ValidString(key) {
				return 0, false
			}
			size += n + len(key) + little
		}
		return size, true
	}
	return 0, false
}

// appendPlain appends a value of which plainSize said that it can be: what
// appendCanonical makes of its encoding/json.
func appendPlain(dst []byte, value any) []byte {
	switch v := value.(type) {
	case bool:
		return strconv.AppendBool(dst, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case string:
		return appendQuoted(dst, v)
	case []byte:
		if v != nil {
			dst = append(dst, '"')
			dst = base64.StdEncoding.AppendEncode(dst, v)
			return append(dst, '"')
		}
	case []any:
		if v != nil {
			dst = append(dst, '[')
			for _, item := range v {
				dst = append(appendPlain(dst, item), ',')
			}
			return closeList(dst, ']')
		}
	case map[string]any:
		if v != nil {
			var few [16]string
			dst = append(dst, '{')
			keys := slices.AppendSeq(few[:0], maps.Keys(v))
			slices.Sort(keys)
			for _, key := range keys {
				dst = append(appendQuoted(dst, key), ':')
				dst = append(appendPlain(dst, v[key]), ',')
			}
			return closeList(dst, '}')
		}
	}
	return append(dst, "null"...)
}
