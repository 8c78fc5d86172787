package rpc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"hearth/node/bt"
)

// refusal is a request that cannot be read. Its text goes to the client behind
// "invalid request: " and is upstream's, word by word.
type refusal string

func (r refusal) Error() string { return string(r) }

func missing(field string) error { return refusal("Required field '" + field + "' missing") }

// params are the parameters of one request, from a client's JSON or a peer's
// bt-encoded dictionary. The getters keep the first error in err; a field that
// is absent or null is not given. Upstream reads the fields in alphabetical
// order, and so do the callers here, so that of two errors the same one is told.
type params struct {
	json  map[string]json.RawMessage
	bt    bt.Dict
	err   error
	depth int // of requests within requests
}

// binary reports whether byte strings come raw and not as base64.
func (p *params) binary() bool { return p.bt != nil }

func (p *params) fail(field, expected string) {
	if p.err == nil {
		p.err = refusal(fmt.Sprintf("Invalid value given for '%s': expected %s", field, expected))
	}
}

// text reads a string; in bt it may be any bytes.
func (p *params) text(field string) (string, bool) { return p.textOf(field, "string") }

func (p *params) textOf(field, expected string) (string, bool) {
	if p.binary() {
		v, given := p.bt[field]
		b, ok := v.([]byte)
		if given && !ok {
			p.fail(field, expected)
		}
		return string(b), ok
	}
	raw := p.value(field)
	if raw == nil {
		return "", false
	}
	s, ok := jsonString(raw)
	if !ok {
		p.fail(field, expected)
	}
	return s, ok
}

// value is the JSON text of a field, nil when it is not given.
func (p *params) value(field string) json.RawMessage {
	raw := p.json[field]
	if len(raw) == 0 || raw[0] == 'n' {
		return nil
	}
	return raw
}

// integer reads a signed integer. Numbers beyond its range become the nearest.
func (p *params) integer(field, expected string) (int64, bool) {
	if p.binary() {
		v, given := p.bt[field]
		n, ok := btInteger(v)
		if given && !ok {
			p.fail(field, expected)
		}
		return n, ok
	}
	raw := p.value(field)
	if raw == nil {
		return 0, false
	}
	n, ok := jsonInteger(raw)
	if !ok {
		p.fail(field, expected)
	}
	return n, ok
}

// unsigned is integer for a field that may not be negative.
func (p *params) unsigned(field, expected string) (int64, bool) {
	if raw := p.value(field); raw != nil && raw[0] == '-' {
		p.fail(field, expected)
		return 0, false
	}
	n, ok := p.integer(field, expected)
	if ok && n < 0 {
		p.fail(field, expected)
		return 0, false
	}
	return n, ok
}

const (
	timeType = "integer timestamp (in milliseconds)"

	// earliest is the smallest time that is taken for milliseconds: smaller ones
	// are surely seconds.
	earliest = 1_000_000_000
)

// time reads a time in milliseconds.
func (p *params) time(field string) (int64, bool) {
	if p.binary() {
		return p.integer(field, timeType)
	}
	n, ok := p.unsigned(field, timeType)
	if ok && n < earliest && p.err == nil {
		p.err = refusal("Invalid timestamp for '" + field + "': timestamp must be in milliseconds")
	}
	return n, ok
}

// numeral reads an integer that old clients write as a string of digits.
func (p *params) numeral(field string, signed bool) (int64, bool) {
	if raw := p.value(field); raw != nil && raw[0] == '"' {
		s, ok := jsonString(raw)
		n, err := parseNumeral(s, signed)
		if (!ok || err != nil) && p.err == nil {
			p.err = refusal("Invalid value given for '" + field + "': " + string(raw))
		}
		return n, ok && err == nil
	}
	if signed {
		return p.integer(field, "integer")
	}
	return p.unsigned(field, "positive integer")
}

func parseNumeral(s string, signed bool) (int64, error) {
	switch {
	case strings.HasPrefix(s, "+"):
		return 0, strconv.ErrSyntax
	case signed:
		return strconv.ParseInt(s, 10, 64)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return int64(min(n, math.MaxInt64)), err
}

func (p *params) boolean(field string) bool {
	if p.binary() {
		n, given := p.integer(field, "boolean")
		if given && n != 0 && n != 1 {
			p.fail(field, "boolean")
		}
		return n == 1
	}
	raw := p.value(field)
	if raw != nil && raw[0] != 't' && raw[0] != 'f' {
		p.fail(field, "boolean")
	}
	return raw != nil && raw[0] == 't'
}

// namespace reads the number of a namespace.
func (p *params) namespace(field string) (int16, bool) {
	s, ok := p.namespaceOf(field, "16-bit integer")
	return int16(s), ok
}

// scope reads the number of a namespace or "all".
func (p *params) scope(field string) Scope {
	const expected = `integer or "all"`
	isText := false
	if p.binary() {
		_, isText = p.bt[field].([]byte)
	} else if raw := p.value(field); raw != nil {
		isText = raw[0] == '"'
	}
	if isText {
		if s, _ := p.textOf(field, expected); s != "all" {
			p.fail(field, expected)
		}
		return AllNamespaces
	}
	s, _ := p.namespaceOf(field, expected)
	return s
}

func (p *params) namespaceOf(field, expected string) (Scope, bool) {
	n, ok := p.integer(field, expected)
	if n < math.MinInt16 || n > math.MaxInt16 {
		if p.binary() {
			p.fail(field, expected)
		} else if p.err == nil {
			p.err = refusal("Invalid value given for '" + field + "': value out of range")
		}
		return 0, false
	}
	return Scope(n), ok
}

// strings reads a list of strings, or one string as a list of one.
func (p *params) strings(field string) ([]string, bool) {
	return listOf(p, field, "string array", jsonString, func(v any) (string, bool) {
		b, ok := v.([]byte)
		return string(b), ok
	})
}

// integers reads a list of integers, or one.
func (p *params) integers(field string) []int64 {
	l, _ := listOf(p, field, "integer array", jsonInteger, btInteger)
	return l
}

// times reads a list of times in milliseconds, or one.
func (p *params) times(field string) ([]int64, bool) {
	return listOf(p, field, "timestamp array", func(raw json.RawMessage) (int64, bool) {
		n, ok := jsonInteger(raw)
		return n, ok && raw[0] != '-'
	}, btInteger)
}

func listOf[T any](p *params, field, expected string, fromJSON func(json.RawMessage) (T, bool), fromBT func(any) (T, bool)) ([]T, bool) {
	var list []T
	ok := true
	if p.binary() {
		v, given := p.bt[field]
		if !given {
			return nil, false
		}
		elements, isList := v.([]any)
		if !isList {
			elements = []any{v}
		}
		for _, e := range elements {
			var x T
			if x, ok = fromBT(e); !ok {
				break
			}
			list = append(list, x)
		}
	} else {
		raw := p.value(field)
		if raw == nil {
			return nil, false
		}
		add := func(raw json.RawMessage) bool {
			var x T
			if x, ok = fromJSON(raw); ok {
				list = append(list, x)
			}
			return ok
		}
		if raw[0] == '[' {
			eachElement(raw, add)
		} else {
			add(raw)
		}
	}
	if !ok {
		p.fail(field, expected)
	}
	return list, ok
}

// The readers of JSON below work on text that checkJSON has approved. They cut it
// into the texts of its values without copying and look only into those that are
// wanted, so that a body of any shape costs little more than its own length.

// checkJSON reports whether body is one JSON value and valid UTF-8, and returns
// it without a byte order mark.
func checkJSON(body []byte) ([]byte, bool) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	return body, utf8.Valid(body) && json.Valid(body) && !halfCharacter(body)
}

// halfCharacter reports whether a string in valid JSON has one half of a surrogate
// pair alone, which Go's decoder replaces and the storage server refuses.
func halfCharacter(body []byte) bool {
	if !bytes.Contains(body, []byte(`\u`)) {
		return false // nearly always
	}
	var first bool // the last escape was the first half of a pair, and nothing followed
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' {
			if first {
				return true
			}
			continue
		}
		i++ // what is escaped; a backslash, for one
		unit := uint64(0)
		if body[i] == 'u' {
			unit, _ = strconv.ParseUint(string(body[i+1:i+5]), 16, 16)
			i += 4
		}
		second := unit >= 0xdc00 && unit < 0xe000
		if second != first {
			return true
		}
		first = unit >= 0xd800 && unit < 0xdc00
	}
	return first
}

// object cuts a JSON object into the texts of its values; of two equal keys the
// last wins. It keeps the keys that are wanted; false means it is no object.
func object(raw []byte, wanted func(string) bool) (map[string]json.RawMessage, bool) {
	i := skipSpace(raw, 0)
	if i == len(raw) || raw[i] != '{' {
		return nil, false
	}
	fields := make(map[string]json.RawMessage, 8)
	for i = skipSpace(raw, i+1); raw[i] != '}'; {
		end := skipValue(raw, i)
		key, _ := jsonString(raw[i:end])
		i = skipSpace(raw, skipSpace(raw, end)+1) // past the colon
		end = skipValue(raw, i)
		if wanted(key) {
			fields[key] = raw[i:end]
		}
		if i = skipSpace(raw, end); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return fields, true
}

// eachElement calls visit with the texts of the elements of a JSON array until
// it returns false.
func eachElement(raw []byte, visit func(json.RawMessage) bool) {
	i := skipSpace(raw, 0)
	if i == len(raw) || raw[i] != '[' {
		return
	}
	for i = skipSpace(raw, i+1); raw[i] != ']'; {
		end := skipValue(raw, i)
		if !visit(raw[i:end]) {
			return
		}
		if i = skipSpace(raw, end); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the place behind the value that begins at i.
func skipValue(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		default:
			if depth > 0 {
				continue
			}
			for i < len(b) && strings.IndexByte(" \t\n\r,]}", b[i]) < 0 {
				i++
			}
			return i
		}
		if depth == 0 {
			return i + 1
		}
	}
	return i
}

func jsonString(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	if inner := raw[1 : len(raw)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), true // nearly always: base64, hex and words
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// jsonInteger reads a number without fraction and exponent. Like upstream's
// parser it takes what fits 64 bits, signed or not; values above the signed
// range become its end.
func jsonInteger(raw json.RawMessage) (int64, bool) {
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, true
	}
	if _, err := strconv.ParseUint(string(raw), 10, 64); err == nil {
		return math.MaxInt64, true
	}
	return 0, false
}

func btInteger(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case uint64:
		return math.MaxInt64, true
	}
	return 0, false
}

// fields are the names of all parameters of all methods.
var fields = set(
	"before", "data", "else", "endpoint", "expiry", "extend", "height_at_least",
	"height_before", "hf_at_least", "hf_before", "if", "lastHash", "last_hash",
	"max_count", "max_size", "messages", "namespace", "params", "pubKey", "pubkey",
	"pubkey_ed25519", "requests", "required", "revoke", "shorten", "sig_timestamp",
	"signature", "subaccount", "subaccount_sig", "then", "timestamp", "ttl",
	"unrevoke", "v_at_least", "v_before",
)

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

func jsonParams(raw []byte) (*params, bool) {
	m, ok := object(raw, func(name string) bool { return fields[name] })
	return &params{json: m}, ok
}
