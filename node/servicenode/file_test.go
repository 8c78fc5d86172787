package servicenode

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/keys"
	"hearth/node/swarm"
)

func line(node *keys.Pair, at string) string { return fmt.Sprintf("%x %s\n", node.Ed25519(), at) }

func TestAFileOfNodesIsReadWithCare(t *testing.T) {
	a, b := line(own, "203.0.113.7:22021"), line(other, "198.51.100.4:22021")
	for _, c := range []struct {
		name, text string
		nodes      int // -1: refused
	}{
		{"two nodes", a + b, 2},
		{"comments and empty lines", "# ours\n\n" + strings.TrimSpace(a) + " # in the cellar\n\t" + b, 2},
		{"no line feed at the end", a + strings.TrimSpace(b), 2},
		{"nobody", "# nobody yet\n", 0},
		{"a key twice", a + line(own, "203.0.113.8:22021"), -1},
		{"a key that is too short", "abcd 203.0.113.7:22021\n", -1},
		{"a key that is no point of the curve", "02" + strings.Repeat("00", 31) + " 203.0.113.7:22021\n", -1},
		{"an address without a port", line(own, "203.0.113.7"), -1},
		{"an address of IPv6", line(own, "[2001:db8::1]:22021"), -1},
		{"an address of nobody", line(own, "0.0.0.0:22021"), -1},
		{"a name instead of an address", line(own, "example.org:22021"), -1},
		{"more than two words", strings.TrimSpace(a) + " swarm\n", -1},
		{"a megabyte and more", strings.Repeat("#\n", maxFile/2+1), -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := ParseFile([]byte(c.text), swarm.Rules{})
			if c.nodes < 0 {
				if !errors.Is(err, ErrFile) {
					t.Errorf("got %v, %v", list, err)
				}
				return
			}
			if err != nil || len(list.Nodes) != c.nodes {
				t.Errorf("got %v, %v", list, err)
			}
		})
	}
}

func TestAFileGivesEverybodyTheSameSwarms(t *testing.T) {
	var lines []string
	for i := range 40 {
		lines = append(lines, line(keys.FromSeed([32]byte{9, byte(i)}), fmt.Sprintf("203.0.113.%d:22021", i+1)))
	}
	one, err := ParseFile([]byte(strings.Join(lines, "")), swarm.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(lines)
	two, err := ParseFile([]byte("# another order\n"+strings.Join(lines, "")), swarm.Rules{})
	if err != nil || one.Hash != two.Hash || !slices.Equal(one.Nodes, two.Nodes) {
		t.Errorf("the order of lines changes the list: %v", err)
	}
	if len(one.Swarms()) < 3 {
		t.Errorf("forty nodes are in %d swarms", len(one.Swarms()))
	}
	for _, id := range one.Swarms() {
		if n := len(one.Members(id)); n < swarm.MainnetRules.MinSize {
			t.Errorf("swarm %v has %d members", id, n)
		}
	}
}

func TestANodeFollowsItsFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "nodes")
		write := func(text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f := &File{Path: path}
		if _, err := f.Poll(t.Context(), nil); !errors.Is(err, ErrFile) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("no file: %v", err)
		}
		if err := f.Announce(t.Context(), own, public); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), strings.TrimSpace(line(own, public.String()))) {
			t.Errorf("the announcement does not say which line is missing: %v", err)
		}
		write(line(other, "203.0.113.9:22021"))
		n, stop := start(t, t.TempDir(), f)
		defer stop()
		time.Sleep(time.Minute)
		if reasons := n.NotReady(); !slices.Equal(reasons, []string{"not in any swarm"}) {
			t.Errorf("a node that is not in the file: %q", reasons)
		}
		write(line(other, "203.0.113.9:22021") + line(own, public.String()))
		time.Sleep(time.Minute)
		if reasons := n.NotReady(); len(reasons) > 0 {
			t.Errorf("a node that is in the file: %q", reasons)
		}
		before := n.List()
		write("half a li")
		time.Sleep(time.Minute)
		if n.List() != before || len(n.NotReady()) > 0 {
			t.Error("a spoilt file took the list away")
		}
	})
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(line(own, "203.0.113.7:22021") + "# and\n" + line(other, "198.51.100.4:22021")))
	f.Add([]byte("abcd 1.2.3.4:5"))
	f.Add([]byte("\x00\xff #\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := ParseFile(text, swarm.Rules{})
		if err != nil {
			if !errors.Is(err, ErrFile) {
				t.Errorf("another error: %v", err)
			}
			return
		}
		var again bytes.Buffer
		for _, n := range list.Nodes {
			if n.Address == (netip.AddrPort{}) || n.Swarm == swarm.None && len(list.Nodes) > 0 {
				t.Fatalf("node %+v", n)
			}
			fmt.Fprintf(&again, "%x %v\n", n.Ed25519, n.Address)
		}
		same, err := ParseFile(again.Bytes(), swarm.Rules{})
		if err != nil || same.Hash != list.Hash {
			t.Errorf("written and read again it is another list: %v", err)
		}
	})
}
