package relay

import (
	"bytes"
	"context"
	"errors"

	"hearth/node/peertest"
	"hearth/node/swarm"
)

// Commands of the tests that nodes make of each other.
const (
	// CommandPing asks whether the link works: no parts, and one part "pong" as the
	// answer.
	CommandPing = "ping"
	// CommandStorageTest asks for a message, see [peertest.Tester.Answer].
	CommandStorageTest = "storage_test"
)

// Tests hears of the tests that others make of this node; [peertest.Tester] does.
type Tests interface {
	Heard(by peertest.Way)
	Answer(ctx context.Context, from [32]byte, parts [][]byte) [][]byte
}

// noTests is for a node that keeps no account of tests.
type noTests struct{}

func (noTests) Heard(peertest.Way) {}

func (noTests) Answer(context.Context, [32]byte, [][]byte) [][]byte { return nil }

// PingLink is the reachability test of the link to a node. The errors are those of
// [Links.Request].
func PingLink(ctx context.Context, peers Peers, node swarm.Node) error {
	answer, err := peers.Request(ctx, node, CommandPing, nil)
	if err == nil && (len(answer) != 1 || !bytes.Equal(answer[0], pong)) {
		err = errors.New("no pong in the answer to a ping")
	}
	return err
}

var pong = []byte("pong")

// testCommand answers the tests that come over links.
func (s *Server) testCommand(ctx context.Context, from [32]byte, command string, parts [][]byte) [][]byte {
	if command == CommandPing {
		s.cfg.Tests.Heard(peertest.OverLink)
		return [][]byte{pong}
	}
	// A message that may be on its way is waited for.
	if !slotOf(ctx).park() {
		return nil
	}
	return s.cfg.Tests.Answer(ctx, from, parts)
}
