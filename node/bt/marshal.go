package bt

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Marshal encodes v canonically. It takes integers of every width, bool (as 0
// or 1), string, []byte, []any, [][]byte, []string, Dict and []Dict, and those
// nested; anything else is [ErrType], nesting beyond [MaxDepth] is [ErrLimit].
func Marshal(v any) ([]byte, error) {
	return appendValue(nil, v, 0)
}

// AppendBytes appends a byte string.
func AppendBytes[S ~string | ~[]byte](dst []byte, s S) []byte {
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, ':')
	return append(dst, s...)
}

// AppendInt appends an integer.
func AppendInt(dst []byte, n int64) []byte {
	dst = append(dst, 'i')
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, 'e')
}

func appendUint(dst []byte, n uint64) []byte {
	dst = append(dst, 'i')
	dst = strconv.AppendUint(dst, n, 10)
	return append(dst, 'e')
}

func appendValue(dst []byte, v any, depth int) ([]byte, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("encoding bt: %w", ErrLimit)
	}
	switch v := v.(type) {
	case bool:
		if v {
			return append(dst, "i1e"...), nil
		}
		return append(dst, "i0e"...), nil
	case int:
		return AppendInt(dst, int64(v)), nil
	case int8:
		return AppendInt(dst, int64(v)), nil
	case int16:
		return AppendInt(dst, int64(v)), nil
	case int32:
		return AppendInt(dst, int64(v)), nil
	case int64:
		return AppendInt(dst, v), nil
	case uint:
		return appendUint(dst, uint64(v)), nil
	case uint8:
		return appendUint(dst, uint64(v)), nil
	case uint16:
		return appendUint(dst, uint64(v)), nil
	case uint32:
		return appendUint(dst, uint64(v)), nil
	case uint64:
		return appendUint(dst, v), nil
	case string:
		return AppendBytes(dst, v), nil
	case []byte:
		return AppendBytes(dst, v), nil
	case []any:
		return appendList(dst, v, depth)
	case []string:
		return appendList(dst, v, depth)
	case [][]byte:
		return appendList(dst, v, depth)
	case []Dict:
		return appendList(dst, v, depth)
	case Dict:
		return appendDict(dst, v, depth)
	}
	return nil, fmt.Errorf("encoding bt: %w: %T", ErrType, v)
}

func appendList[T any](dst []byte, list []T, depth int) ([]byte, error) {
	dst = append(dst, 'l')
	for _, v := range list {
		var err error
		if dst, err = appendValue(dst, v, depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, 'e'), nil
}

func appendDict(dst []byte, d Dict, depth int) ([]byte, error) {
	dst = append(dst, 'd')
	for _, key := range slices.Sorted(maps.Keys(d)) {
		dst = AppendBytes(dst, key)
		var err error
		if dst, err = appendValue(dst, d[key], depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, 'e'), nil
}
