package deps

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestMissingLooksForProgramsAndFiles(t *testing.T) {
	here := t.TempDir()
	needs := []Need{
		{Package: "a", Program: "there"},
		{Package: "b", Program: "gone"},
		{Package: "c", File: here},
		{Package: "d", File: filepath.Join(here, "gone")},
	}
	look := func(name string) (string, error) {
		if name == "there" {
			return "/bin/there", nil
		}
		return "", errors.New("not found")
	}
	var got string
	for _, n := range missing(needs, look) {
		got += n.Package
	}
	if got != "bd" {
		t.Errorf("missing %q, want \"bd\"", got)
	}
}

func TestEveryNeedCanBeLookedForAndExplained(t *testing.T) {
	for _, n := range Needs {
		if n.Package == "" || n.For == "" || (n.Program == "") == (n.File == "") {
			t.Errorf("%+v", n)
		}
	}
}
