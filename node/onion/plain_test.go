package onion

import (
	"encoding/json"
	"testing"
)

func TestPlainValuesAreWrittenAsTheOthers(t *testing.T) {
	tests := []struct {
		name  string
		value any
		plain bool
	}{
		{"nothing", nil, true},
		{"numbers and truths", []any{0, -1, int64(1) << 62, true, false}, true},
		{"strings", []any{"", "a\"b\\c", "\b\f\n\r\t\x00\x1f\x7f", "<&>\u2028é"}, true},
		{"bytes", []any{[]byte{}, []byte("abc"), []byte(nil)}, true},
		{"empty lists and maps", []any{[]any{}, []any(nil), map[string]any{}, map[string]any(nil)}, true},
		{"keys in order", map[string]any{"b": 1, "B": 2, "a\n": map[string]any{"z": nil, "é": []any{"x"}}}, true},
		{"other numbers", 1.5, false},
		{"a list of another type", []any{[]string{"x"}}, false},
		{"raw JSON", map[string]any{"x": json.RawMessage("1")}, false},
		{"what is not UTF-8", []any{"\xff"}, false},
		{"a key that is not", map[string]any{"\xff": 1}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, plain := plainSize(tt.value, maxPlainDepth); plain != tt.plain {
				t.Fatalf("plain: %v", plain)
			}
			if !tt.plain {
				return
			}
			text, err := marshalBody(tt.value)
			if err != nil {
				t.Fatal(err)
			}
			want := string(appendCanonical(nil, text))
			if got := string(appendPlain(nil, tt.value)); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	var deep any = 1
	for range maxPlainDepth {
		deep = []any{deep}
	}
	if _, plain := plainSize(deep, maxPlainDepth); plain {
		t.Error("there is no end to the depth")
	}
}
