package devnet_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/node/api"
	"hearth/node/ledger/light"
	"hearth/node/messenger"
)

// provenNetwork starts nodes with a ledger, which end with the test, and gives a header
// of it to trust.
func provenNetwork(t *testing.T, nodes int) (*devnet.LedgerNetwork, light.Trust) {
	t.Helper()
	file := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// A node that is killed for a moment stays in its swarm.
	n, err := devnet.StartLedger(ctx, devnet.LedgerConfig{Program: file, Dir: t.TempDir(), Nodes: nodes, Pace: 100 * time.Millisecond, Unreachable: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	var trust light.Trust
	if err := n.Until(ctx, "a header to trust", func(s map[int]*api.NodeStatus) bool {
		return s[1] != nil && s[1].Ledger.Height >= 3 && trust.UnmarshalText([]byte(s[1].Ledger.Trust)) == nil
	}); err != nil {
		t.Fatal(err)
	}
	return n, trust
}

// onLedger starts a messenger that proves its node list.
func onLedger(t *testing.T, n *devnet.LedgerNetwork, seed byte, trust light.Trust, change func(*messenger.Config)) *talker {
	t.Helper()
	source, err := n.Seed(1 + int(seed)%4)
	if err != nil {
		t.Fatal(err)
	}
	return talkTo(t, source, seed, func(c *messenger.Config) {
		for k := range 4 { // one of them may be away
			if other, err := n.Seed(1 + (int(seed)+1+k)%9); err == nil {
				c.Seeds = append(c.Seeds, other)
				t.Cleanup(other.Close)
			}
		}
		c.Ledger = &messenger.Ledger{Chain: n.Genesis().Chain, Trust: trust}
		if change != nil {
			change(c)
		}
	})
}

func TestMessengersTalkOverNodesThatTheLedgerProves(t *testing.T) {
	t.Parallel() // it mostly waits
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n, trust := provenNetwork(t, 9)
	renewed := make(chan light.Trust, 100)
	alice := onLedger(t, n, 1, trust, func(c *messenger.Config) {
		c.Ledger.Save = func(t light.Trust) {
			select {
			case renewed <- t:
			default:
			}
		}
	})
	bob := onLedger(t, n, 2, trust, nil)
	began := time.Now()
	if _, err := alice.Send(ctx, &api.SendRequest{To: bob.id, Text: "over proven nodes"}); err != nil {
		t.Fatal(err)
	}
	bob.await("the text", func(e *api.Event) bool { return e.GetRequest().GetText() == "over proven nodes" })
	t.Logf("the text was there after %v, proofs included", time.Since(began).Round(time.Millisecond))
	select {
	case newer := <-renewed:
		if newer.Height < trust.Height {
			t.Errorf("proven up to %v from %v", newer, trust)
		}
	default:
		t.Error("alice has a list that was not proven")
	}

	trust.Hash[0]++
	carol := onLedger(t, n, 3, trust, nil)
	for {
		s, err := carol.State(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(s.GetTrouble(), "not proven") {
			break
		}
		if _, err := carol.sub.Next(ctx); err != nil {
			t.Fatalf("%v; state %v", err, s)
		}
	}
}
