package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestNodeLists(t *testing.T) {
	key := strings.Repeat("ab", 32)
	for _, c := range []struct {
		name, text string
		nodes      int
		ok         bool
	}{
		{"with both keys", "127.0.0.1:22021 " + key + " " + key + "\n", 1, true},
		{"without keys, for requests without onions", "127.0.0.1:22021\n127.0.0.2:22021\n", 2, true},
		{"with comments and empty lines", "# ours\n\n127.0.0.1:1 " + key + "\n", 1, true},
		{"nobody", "# nobody\n", 0, false},
		{"a name instead of an address", "localhost:22021\n", 0, false},
		{"half a key", "127.0.0.1:1 abab\n", 0, false},
		{"too much", "127.0.0.1:1 " + key + " " + key + " " + key + "\n", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes, err := parseNodes(strings.NewReader(c.text))
			if len(nodes) != c.nodes || (err == nil) != c.ok {
				t.Errorf("%v, %v", nodes, err)
			}
		})
	}
}

func FuzzParseNodes(f *testing.F) {
	f.Add("127.0.0.1:1 " + strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, text string) {
		nodes, err := parseNodes(strings.NewReader(text))
		if err == nil && len(nodes) == 0 {
			t.Error("no nodes and no error")
		}
	})
}

func TestFlagsThatMakeNoSense(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no network", nil, "which network"},
		{"a seed without pin", []string{"-seed", "https://127.0.0.1:1/json_rpc"}, "-seed-pin"},
		{"processes that are no numbers", []string{"-pids", "1,x"}, "-pids"},
		{"nobody at a time", []string{"-at-once", "0"}, "-at-once"},
		{"a host that is a name", []string{"-allow", "example.org"}, "-allow"},
		{"a list that is not there", []string{"-nodes", "/nowhere"}, "/nowhere"},
		{"something beside flags", []string{"x"}, "unexpected argument"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := run(t.Context(), c.args, &out, &out); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
