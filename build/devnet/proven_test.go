package devnet_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/ledger/light"
	"hearth/node/messenger"
)

// onLedger starts a messenger that proves its node list.
func onLedger(t *testing.T, n *devnet.LedgerNetwork, seed byte, trust light.Trust, save func(light.Trust)) *talker {
	t.Helper()
	source, err := n.Seed(1 + int(seed)%4)
	if err != nil {
		t.Fatal(err)
	}
	a := account.New(account.Seed{seed})
	w := &talker{t: t, id: a.ID().String()}
	w.Messenger, err = messenger.New(messenger.Config{
		Account: a, DBPath: filepath.Join(t.TempDir(), "messenger.db"), Seeds: []messenger.NodeSource{source}, PollInterval: 200 * time.Millisecond,
		Ledger: &messenger.Ledger{Chain: n.Genesis().Chain, Trust: trust, Save: save},
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.sub, err = w.Subscribe(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	w.stop = sync.OnceFunc(func() { cancel(); wait.Wait(); source.Close() })
	t.Cleanup(w.stop)
	return w
}

func TestMessengersTalkOverNodesThatTheLedgerProves(t *testing.T) {
	t.Parallel() // it mostly waits
	file := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n, err := devnet.StartLedger(ctx, devnet.LedgerConfig{Program: file, Dir: t.TempDir(), Nodes: 9, Pace: 100 * time.Millisecond})
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

	renewed := make(chan light.Trust, 100)
	alice := onLedger(t, n, 1, trust, func(t light.Trust) {
		select {
		case renewed <- t:
		default:
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
