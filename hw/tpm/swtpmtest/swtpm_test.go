package swtpmtest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWithoutSwtpmTheErrorSaysWhatToDo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Start(t.TempDir())
	if !errors.Is(err, ErrNotFound) || err.Error() != "swtpm not found: install it with `make deps`" {
		t.Errorf("got %v", err)
	}
}

func TestStartSaysWhyItCannot(t *testing.T) {
	if _, err := Start(filepath.Join(t.TempDir(), strings.Repeat("x", 100))); err == nil || !strings.Contains(err.Error(), "107 bytes") {
		t.Errorf("long path: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(file); err == nil {
		t.Error("started with a file as its folder")
	}
}

func TestPowerCutAndPowerOn(t *testing.T) {
	s := New(t)
	socket := s.Socket
	s.PowerCut()
	if c, err := net.Dial("unix", socket); err == nil {
		c.Close()
		t.Error("it answers without power")
	}
	s.PowerOn(t)
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
