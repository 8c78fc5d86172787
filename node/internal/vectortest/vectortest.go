// Package vectortest reads the protocol's test vectors: JSON files that the
// programs of the real network produced.
//
// They come from the folder named by HEARTH_VECTORS when that is set, and
// otherwise from the copies in node/testdata/vectors. A test that finds no case
// fails, so that a renamed key can never turn a check into nothing.
package vectortest

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Load reads the named file, for example "onion.json", into v.
func Load(t testing.TB, file string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder(), file))
	if err != nil {
		t.Fatalf("reading vectors: %v", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("vectors %s: %v", file, err)
	}
}

// Each runs check as a subtest for every case and fails when there is none.
func Each[C any](t *testing.T, name string, cases []C, check func(t *testing.T, c C)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		if len(cases) == 0 {
			t.Fatalf("no cases in %s", name)
		}
		for _, c := range cases {
			t.Run("", func(t *testing.T) { check(t, c) })
		}
	})
}

// Hex is a byte string that the vectors write in hexadecimal.
type Hex []byte

// UnmarshalJSON reads the hexadecimal text.
func (h *Hex) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	d, err := hex.DecodeString(s)
	*h = d
	return err
}

func folder() string {
	if f := os.Getenv("HEARTH_VECTORS"); f != "" {
		return f
	}
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "../../testdata/vectors")
}
