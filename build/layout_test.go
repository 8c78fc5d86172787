// Package build_test checks the house itself: what lies at the top, and that the
// arrows between the wings point one way.
package build_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport says for each wing which other wings it may use.
var mayImport = map[string][]string{
	"node":      {},
	"hw":        {},
	"firmware":  {"hw"},
	"ui":        {"hw", "node"},
	"initramfs": {"firmware", "hw", "node", "ui"},
	"build":     {"firmware", "hw", "initramfs", "node", "ui"},
}

func TestTheWingsImportOneWayOnly(t *testing.T) {
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}} {{join .TestImports " "}} {{join .XTestImports " "}}`, "hearth/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		from := wing(fields[0])
		allowed, known := mayImport[from]
		if !known {
			t.Errorf("%s is in no wing", fields[0])
		}
		for _, imported := range fields[1:] {
			to := wing(imported)
			if to == "" || to == from {
				continue
			}
			seen++
			if !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: %s may not use %s", fields[0], imported, from, to)
			}
		}
	}
	if seen == 0 {
		t.Error("no import between wings was seen: this test checks nothing")
	}
}

func TestNothingElseLiesAtTheTop(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	agreed := []string{"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "out"}
	for name := range mayImport {
		agreed = append(agreed, name)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(agreed, e.Name()) {
			t.Errorf("%s does not belong at the top", e.Name())
		}
	}
}

// wing is the first folder of one of our packages, "" for others'.
func wing(importPath string) string {
	path, ours := strings.CutPrefix(importPath, "hearth/")
	if !ours {
		return ""
	}
	first, _, _ := strings.Cut(path, "/")
	return first
}
