package console

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
	"hearth/node/ledger"
)

// These commands are about the ledger in which nodes have stakes. Each that
// spends or moves something first says what it does, what it costs and how it can
// be undone, and then asks.
func stakeCommands() []*command {
	return []*command{
		{name: "nodes", service: "ledger", arguments: "[NODE]", summary: "lists the nodes of the ledger, or tells all about one", run: (*Console).nodes,
			more: []string{"NODE is the beginning of a node's key. A star marks this device's node, a plus those in which this wallet has a stake."}},
		{name: "stake", service: "ledger", arguments: "[COINS] [PERCENT]", summary: "brings this device's node into service, with a stake of yours", slow: true, run: (*Console).stake,
			more: []string{"Without COINS you bring all of it. With less, at least a quarter, others bring the rest, and you get PERCENT of what they earn.",
				"It asks before anything is done: the node's address becomes public, and the coins are locked."}},
		{name: "contribute", service: "ledger", arguments: "NODE COINS", summary: "stakes in a node that somebody else runs", slow: true, run: (*Console).contribute},
		{name: "unstake", service: "ledger", arguments: "[NODE]", summary: "asks for a stake back, after a question", slow: true, run: (*Console).unstake,
			more: []string{"Without NODE it is this device's node. The node stays in service for a while; then all of its contributors are paid back."}},
		{name: "rewards", service: "ledger", summary: "shows the wallet and what the nodes have earned for it", run: (*Console).rewards},
		{name: "claim", service: "ledger", arguments: "[NODE]", summary: "pays out what a node has earned, to all who have a stake in it", slow: true, run: (*Console).claim},
		{name: "trust", service: "ledger", summary: "shows the header with which a messenger elsewhere can begin to prove the list of nodes", run: (*Console).trust,
			more: []string{"Who is asked for it should know you: whoever begins with a false header believes in false nodes."}},
		{name: "pay", service: "ledger", arguments: "WALLET COINS", summary: "pays coins to another wallet, after a question", slow: true, run: (*Console).payCoins},
	}
}

// ledgerError names the ledger, or says that there is none.
func ledgerError(err error) error {
	if status.Code(err) == codes.Unimplemented {
		return usageError("This device's network has no ledger: nobody stakes there.")
	}
	return serviceError{"ledger", err}
}

func (c *Console) rewards(ctx context.Context, _ string) error {
	w, err := c.cfg.Ledger.Wallet(ctx, &api.WalletRequest{})
	if err != nil {
		return ledgerError(err)
	}
	all, err := c.cfg.Ledger.Stakes(ctx, &api.StakesRequest{})
	if err != nil {
		return ledgerError(err)
	}
	lines := []string{
		"wallet    " + w.GetAddress(),
		fmt.Sprintf("balance   %s coins", ledger.Coins(w.GetBalance())),
		fmt.Sprintf("staked    %s coins", ledger.Coins(w.GetStaked())),
		fmt.Sprintf("rewards   about %s coins to claim", ledger.Coins(w.GetRewards())),
	}
	for _, s := range all.GetStakes() {
		if s.GetMine() > 0 || s.GetRewards() > 0 {
			lines = append(lines, fmt.Sprintf("  %.8s  %s staked, %s earned; %s", s.GetNode(), ledger.Coins(s.GetMine()), ledger.Coins(s.GetRewards()), s.GetExplanation()))
		}
	}
	if w.GetStaked() == 0 {
		lines = append(lines, fmt.Sprintf("A node needs a stake of %s coins. Others pay coins to the address above.", ledger.Coins(w.GetRequirement())))
	}
	c.term.print(lines...)
	return nil
}

func (c *Console) trust(ctx context.Context, _ string) error {
	s, err := c.cfg.Node.Status(ctx, &api.NodeStatusRequest{})
	if err != nil {
		return serviceError{"node", err}
	}
	l := s.GetLedger()
	switch {
	case l == nil:
		return usageError("This device's network has no ledger: nobody stakes there.")
	case l.GetTrust() == "":
		return usageError("The ledger has not begun here.")
	case l.GetSyncing():
		return usageError("This node still fetches older blocks. Try again when it has caught up.")
	}
	c.term.print(
		l.GetChain()+":"+l.GetTrust(),
		"Who trusts this device gives it to `hearth chat -trust`, or to a device as hearth.trust. It is good for 9 days.",
	)
	return nil
}

func (c *Console) nodes(ctx context.Context, rest string) error {
	which, _ := cutWord(rest)
	reply, err := c.cfg.Ledger.Stakes(ctx, &api.StakesRequest{Node: which})
	if err != nil {
		return ledgerError(err)
	}
	if which != "" {
		for _, s := range reply.GetStakes() {
			c.term.print(stakeLines(s)...)
		}
		return nil
	}
	var lines []string
	for _, s := range reply.GetStakes() {
		mark := " "
		switch {
		case s.GetOwn():
			mark = "*"
		case s.GetMine() > 0:
			mark = "+"
		}
		lines = append(lines, fmt.Sprintf("%s %.8s  %-21s %s", mark, s.GetNode(), s.GetAddress(), s.GetExplanation()))
	}
	c.term.print(append(lines, count(uint32(len(reply.GetStakes())), "node")+".")...)
	return nil
}

func stakeLines(s *api.Stake) []string {
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	lines := []string{
		"key       " + s.GetNode(),
		"address   " + s.GetAddress(),
		"state     " + s.GetExplanation(),
		fmt.Sprintf("stake     %s of %s coins, by %s; yours %s", ledger.Coins(s.GetStaked()), ledger.Coins(s.GetRequirement()), count(s.GetContributors(), "contributor"), ledger.Coins(s.GetMine())),
		fmt.Sprintf("operator  keeps %.4g percent of what others' stakes earn", float64(s.GetFee())/100),
		"decides   on blocks: " + yes(s.GetCommittee()),
	}
	if s.GetLeast() > 0 {
		lines = append(lines, fmt.Sprintf("open      `contribute %.8s %s` or more", s.GetNode(), ledger.Coins(s.GetLeast())))
	}
	if s.GetCredit() > 0 {
		lines = append(lines, fmt.Sprintf("credit    may be away for %s in all; was out of service %s", span(time.Duration(s.GetCredit())*time.Second), count(s.GetOutages(), "time")))
	}
	if s.GetRewards() > 0 {
		lines = append(lines, fmt.Sprintf("rewards   about %s coins for you; `claim %.8s`", ledger.Coins(s.GetRewards()), s.GetNode()))
	}
	return lines
}

func (c *Console) stake(ctx context.Context, rest string) error {
	r := &api.PlanRequest{Step: api.PlanRequest_STAKE}
	coins, rest := cutWord(rest)
	share, _ := cutWord(rest)
	var err error
	if coins != "" {
		if r.Amount, err = amountOf(coins); err != nil {
			return err
		}
	}
	if share != "" {
		basis, err := ledger.ParseCoins(strings.TrimSuffix(share, "%"))
		if err != nil || basis > 100*ledger.Coin || basis%(ledger.Coin/100) != 0 {
			return usageError("The share of an operator is a number from 0 to 100, in percent, with at most two digits behind the point.")
		}
		r.Fee = uint32(basis / (ledger.Coin / 100))
	}
	return c.step(ctx, r)
}

func amountOf(text string) (uint64, error) {
	units, err := ledger.ParseCoins(text)
	if err != nil {
		if errors.Is(err, ledger.ErrCoins) {
			return 0, usageError(fmt.Sprintf("%q is no amount of coins; write it like 1000 or 0.25.", clip(text, 40)))
		}
		return 0, err
	}
	if units == 0 {
		return 0, usageError("Nothing is no amount.")
	}
	return units, nil
}

// whoAndCoins reads the two arguments of contribute and pay.
func whoAndCoins(rest, usage string) (who string, units uint64, err error) {
	who, rest = cutWord(rest)
	coins, _ := cutWord(rest)
	if who == "" || coins == "" {
		return "", 0, usageError(usage)
	}
	units, err = amountOf(coins)
	return who, units, err
}

func (c *Console) contribute(ctx context.Context, rest string) error {
	node, units, err := whoAndCoins(rest, "Say to which node, and how many coins: `contribute NODE COINS`. `nodes` lists the nodes.")
	if err != nil {
		return err
	}
	return c.step(ctx, &api.PlanRequest{Step: api.PlanRequest_CONTRIBUTE, Node: node, Amount: units})
}

func (c *Console) payCoins(ctx context.Context, rest string) error {
	wallet, units, err := whoAndCoins(rest, "Say to which wallet, and how many coins: `pay WALLET COINS`.")
	if err != nil {
		return err
	}
	return c.step(ctx, &api.PlanRequest{Step: api.PlanRequest_PAY, Node: wallet, Amount: units})
}

func (c *Console) unstake(ctx context.Context, rest string) error {
	node, _ := cutWord(rest)
	return c.step(ctx, &api.PlanRequest{Step: api.PlanRequest_UNSTAKE, Node: node})
}

func (c *Console) claim(ctx context.Context, rest string) error {
	node, _ := cutWord(rest)
	return c.step(ctx, &api.PlanRequest{Step: api.PlanRequest_CLAIM, Node: node})
}

// step shows the plan, asks, and does it.
func (c *Console) step(ctx context.Context, r *api.PlanRequest) error {
	plan, err := c.cfg.Ledger.Plan(ctx, r)
	if err != nil {
		return ledgerError(err)
	}
	c.term.print(plan.GetLines()...)
	answer, err := c.ask(ctx, "Type "+plan.GetWord()+" to go on: ", false)
	if err != nil {
		return err
	}
	if strings.TrimSpace(answer) != plan.GetWord() {
		return usageError("Nothing was done.")
	}
	c.term.print("Waiting for a block.")
	done, err := c.cfg.Ledger.Do(ctx, &api.DoRequest{Token: plan.GetToken()})
	if err != nil {
		return ledgerError(err)
	}
	c.term.print(done.GetLines()...)
	return nil
}
