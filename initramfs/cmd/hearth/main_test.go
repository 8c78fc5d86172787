package main

import (
	"strings"
	"testing"
)

func TestTheRoleIsChosenByName(t *testing.T) {
	for _, c := range []struct{ name, argv, role, args string }{
		{name: "the kernel's way", argv: "/init", role: "init"},
		{name: "the other kernel's way", argv: "/sbin/init", role: "init"},
		{name: "a word", argv: "hearth node -listen :1", role: "node", args: "-listen :1"},
		{name: "a link", argv: "/usr/bin/vault -dir x", role: "vault", args: "-dir x"},
		{name: "a path", argv: "/tmp/hearth node", role: "node"},
		{name: "another name of the program", argv: "/tmp/hearth.test vault -dir x", role: "vault", args: "-dir x"},
		{name: "nothing", argv: "hearth"},
		{name: "a flag first", argv: "hearth -help"},
		{name: "no argv at all", argv: ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			name, args := role(strings.Fields(c.argv))
			if name != c.role || strings.Join(args, " ") != c.args {
				t.Errorf("got %q %q, want %q %q", name, args, c.role, c.args)
			}
		})
	}
}

func TestInitDoesNotStartOnAMachineThatRuns(t *testing.T) {
	if err := runInit(t.Context(), nil); err == nil {
		t.Error("it did")
	}
}
