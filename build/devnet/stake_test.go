package devnet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"hearth/node/api"
	"hearth/node/ledger"
	"hearth/node/ledger/engine"
	"hearth/ui/console"
)

// sitting is a person at the console of a node.
type sitting struct {
	t     *testing.T
	in    *io.PipeWriter
	lines chan string
}

// sit opens the console of node k, for lines only.
func (l *onLedger) sit(t *testing.T, k int) *sitting {
	t.Helper()
	conn, err := api.Dial(l.socket("n", k))
	if err != nil {
		t.Fatal(err)
	}
	in, typing := io.Pipe()
	shown, out := io.Pipe()
	s := &sitting{t: t, in: typing, lines: make(chan string, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		c := console.New(console.Config{Messenger: api.NewMessengerClient(conn), Node: api.NewNodeClient(conn), Ledger: api.NewLedgerClient(conn), Plain: true, MayLeave: true})
		ended <- c.Run(ctx, struct {
			io.Reader
			io.Writer
		}{in, out})
		out.Close()
	}()
	go func() {
		defer close(s.lines)
		for scan := bufio.NewScanner(shown); scan.Scan(); {
			s.lines <- scan.Text()
		}
	}()
	t.Cleanup(func() {
		typing.Close()
		for range s.lines {
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		conn.Close()
	})
	return s
}

// says types a line and waits until all of the texts have been shown, in any order
// of lines; it returns what was shown.
func (s *sitting) says(line string, wants ...string) string {
	s.t.Helper()
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		s.t.Fatal(err)
	}
	var text strings.Builder
	deadline := time.After(30 * time.Second)
	for {
		missing := ""
		for _, w := range wants {
			if !strings.Contains(strings.ToLower(text.String()), strings.ToLower(w)) {
				missing = w
			}
		}
		if missing == "" {
			return text.String()
		}
		select {
		case line, ok := <-s.lines:
			if !ok {
				s.t.Fatalf("the console ended; after %q %q is missing in\n%s", line, missing, text.String())
			}
			text.WriteString(line + "\n")
		case <-deadline:
			s.t.Fatalf("after %q %q is missing in\n%s", line, missing, text.String())
		}
	}
}

func TestAPersonBringsANodeIntoServiceAtTheConsole(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLedger(t, 4, 2, func(p *ledger.Params) { p.Unlock, p.EvidenceAge, p.EvidenceBlocks = 8, 2, 2 })
	for k := 5; k <= 6; k++ {
		if err := l.Launch(k); err != nil {
			t.Fatal(err)
		}
	}
	l.until("both newcomers to follow", func(s map[int]*api.NodeStatus) bool {
		return s[5] != nil && s[6] != nil && s[5].Ledger.Height > 1 && s[6].Ledger.Height > 1 && s[5].Ledger.Standing == "none"
	})
	anna, ben := l.sit(t, 5), l.sit(t, 6)
	key := fmt.Sprintf("%x", l.Keys(5).Ed25519())

	anna.says("rewards", "wallet    "+fmt.Sprintf("%x", engine.WalletKey(l.Keys(5)).Ed25519()), "balance   10000 coins", "staked    0 coins", "A node needs a stake of 1000 coins")
	anna.says("nodes", "in service", "4 nodes.")
	anna.says("stake 100", "its operator brings at least 250")
	anna.says("stake 99999", "a node's stake is 1000 coins")
	anna.says("stake some", "no amount of coins")
	anna.says("stake 600 101", "a number from 0 to 100")

	t.Log(anna.says("stake 600 10", "You stake 600 coins", "fee of 0.00", "address becomes public", "127.0.5.1", "To undo it: `unstake`", "8 seconds", "5 minutes", "400 coins", "10 percent", "copy of this device's keys", "If the device is lost"))
	anna.says("no", "Nothing was done.")
	if w := walletOf(t, l, 5); w.Balance != 10_000*ledger.Coin {
		t.Errorf("a question took coins: %v", w)
	}
	anna.says("stake 600 10", "If the device is lost")
	anna.says("stake", "Waiting for a block.", "waits for contributors", "contribute "+key)

	l.until("the other newcomer to hear of it", func(s map[int]*api.NodeStatus) bool {
		return s[5] != nil && s[6] != nil && s[6].Ledger.Height >= s[5].Ledger.Height
	})
	ben.says("nodes "+key[:10], "waits for contributors: 600 of 1000", "operator  keeps 10 percent", "or more")
	ben.says("contribute "+key[:10]+" 1", "brings at least")
	t.Log(ben.says("contribute "+key[:10]+" 400", "You stake 400 coins", "10 percent", "To undo it"))
	ben.says("contribute", "Your part of the stake is in the ledger.")

	l.until("the new node to be in service", func(s map[int]*api.NodeStatus) bool {
		return s[5] != nil && s[5].Ready && s[5].Ledger.Standing == ledger.Active.String() && s[1] != nil && s[1].Ledger.Active == 5
	})
	anna.says("stake", "there is a stake for this device's node already")
	l.until("it to have earned", func(map[int]*api.NodeStatus) bool {
		return walletOf(t, l, 5).Rewards > 0 && walletOf(t, l, 6).Rewards > 0
	})
	before := walletOf(t, l, 6).Balance
	t.Log(anna.says("claim", "What node "+key[:8]+" has earned is paid to all"))
	anna.says("claim", "The rewards are paid.")
	l.until("the other contributor to be paid", func(map[int]*api.NodeStatus) bool { return walletOf(t, l, 6).Balance > before })

	ben.says("pay "+fmt.Sprintf("%x", engine.WalletKey(l.Keys(5)).Ed25519())+" 2.5", "cannot be undone")
	ben.says("pay", "It is paid.")
	ben.says("pay nobody 1", "64 hexadecimal digits")
	ben.says("unstake", "nobody has staked for this device's node")

	t.Log(anna.says("unstake", "leaves in 8 seconds", "It cannot be undone"))
	anna.says("unstake", "Keep it on until then.")
	anna.says("unstake", "asked for already")
	// The stakes are back, with what was earned and less fees.
	l.until("the stakes to be paid back", func(map[int]*api.NodeStatus) bool {
		a, b := walletOf(t, l, 5), walletOf(t, l, 6)
		return a.Staked == 0 && b.Staked == 0 && a.Balance > 10_000*ledger.Coin && b.Balance > 9_997*ledger.Coin
	})
	anna.says("nodes", "4 nodes.")
}

func walletOf(t *testing.T, l *onLedger, k int) *api.WalletReply {
	t.Helper()
	conn, err := api.Dial(l.socket("n", k))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w, err := api.NewLedgerClient(conn).Wallet(t.Context(), &api.WalletRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}
