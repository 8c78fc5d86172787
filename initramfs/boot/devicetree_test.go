package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// item is a part of a structure block; it adds its names to those of the tree.
type item func(structure, names []byte) ([]byte, []byte)

func word32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }

func prop(name, value string) item {
	return func(structure, names []byte) ([]byte, []byte) {
		structure = slices.Concat(structure, word32(property), word32(uint32(len(value))), word32(uint32(len(names))), []byte(value))
		return pad(structure), append(append(names, name...), 0)
	}
}

func node(name string, items ...item) item {
	return func(structure, names []byte) ([]byte, []byte) {
		structure = pad(append(append(append(structure, word32(beginNode)...), name...), 0))
		for _, i := range items {
			structure, names = i(structure, names)
		}
		return append(structure, word32(endNode)...), names
	}
}

func skip(structure, names []byte) ([]byte, []byte) { return append(structure, word32(nop)...), names }

// unused puts a name into the strings that nobody uses.
func unused(structure, names []byte) ([]byte, []byte) {
	return structure, append(names, "unused\x00"...)
}

// tree is a flattened device tree.
func tree(items ...item) []byte {
	var structure, names []byte
	for _, i := range items {
		structure, names = i(structure, names)
	}
	structure = append(structure, word32(endTree)...)
	var b bytes.Buffer
	for _, n := range []int{
		treeMagic, treeHeader + len(structure) + len(names), treeHeader, treeHeader + len(structure), 0, 17, 16, 0, len(names), len(structure),
	} {
		b.Write(word32(uint32(n)))
	}
	b.Write(structure)
	b.Write(names)
	return b.Bytes()
}

func TestADeviceTreeIsWhatItSays(t *testing.T) {
	board := func(items ...item) []byte {
		return tree(node("", append([]item{prop("model", "a board")}, items...)...))
	}
	memory := node("memory@0", prop("reg", "512"))
	want, err := treeDigest(board(node("chosen", prop("rng-seed", "4")), memory))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		tree []byte
		same bool
	}{
		{"the same", board(node("chosen", prop("rng-seed", "4")), memory), true},
		{"another random number", board(node("chosen", prop("rng-seed", "5678")), memory), true},
		{"its random number taken away", board(node("chosen", skip, skip), memory), true},
		{"another layout of its strings", board(unused, node("chosen"), skip, memory), true},
		{"something behind its end", append(board(node("chosen"), memory), "more"...), true},
		{"another value", board(node("chosen"), node("memory@0", prop("reg", "256"))), false},
		{"another name of a property", board(node("chosen"), node("memory@0", prop("regs", "512"))), false},
		{"another name of a node", board(node("chosen"), node("memory@1", prop("reg", "512"))), false},
		{"one more property", board(node("chosen", prop("bootargs", "")), memory), false},
		{"a property in another node", board(node("chosen", prop("reg", "512")), node("memory@0")), false},
		{"nodes one in another", board(node("chosen", memory)), false},
	} {
		if got, err := treeDigest(c.tree); err != nil || (got == want) != c.same {
			t.Errorf("%s: the same: %v, %v", c.name, got == want, err)
		}
	}
}

func TestWhatIsNoDeviceTreeIsRefused(t *testing.T) {
	good := tree(node("", prop("model", "a board")))
	set := func(at int, n uint32) []byte {
		b := bytes.Clone(good)
		binary.BigEndian.PutUint32(b[at:], n)
		return b
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "half a header": good[:20], "cut": good[:len(good)-20], "another magic": set(0, 1),
		"a structure beyond": set(structureAt, 1<<31), "a structure that is too long": set(sizeStructAt, ^uint32(0)),
		"no end": set(sizeStructAt, 8), "strings beyond": set(stringsAt, ^uint32(0)), "no strings": set(sizeStringsAt, 0),
		"an unknown token": set(treeHeader, 7), "a property without an end": set(treeHeader+12, ^uint32(0)),
	} {
		if _, err := treeDigest(b); !errors.Is(err, errTree) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzTreeDigest(f *testing.F) {
	f.Add(tree(node("", prop("model", "a board"), skip, node("chosen", prop("rng-seed", "4")))))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := treeDigest(b)
		if second, again := treeDigest(append(bytes.Clone(b), 0)); err == nil && (again != nil || first != second) {
			t.Errorf("a byte behind it changes it: %v", again)
		}
	})
}
