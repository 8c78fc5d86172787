package host

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
	"hearth/node/keys"
	"hearth/node/ledger"
	"hearth/node/ledger/engine"
)

const (
	planLife = 5 * time.Minute
	maxPlans = 16 // that wait for an answer
	// settleTime is how long Do waits for a block.
	settleTime = 4 * time.Minute
)

// Owner serves the Ledger API: the wallet of this device and what its owner does
// with it. The wallet's key is engine.WalletKey of the node's, so the vault that
// seals the one seals the other.
type Owner struct {
	api.UnimplementedLedgerServer

	host   *Host
	wallet *keys.Pair

	mu    sync.Mutex
	plans map[string]plan
	doing sync.Mutex // one step at a time: each counts the wallet's nonce
}

// plan is a step that its owner has not agreed to yet.
type plan struct {
	until time.Time
	fee   uint64
	body  ledger.Body
	done  []string
}

// Owner opens the wallet.
func (h *Host) Owner() *Owner {
	return &Owner{host: h, wallet: engine.WalletKey(h.cfg.Keys), plans: make(map[string]plan)}
}

// view reads the newest state. While the ledger halts it is old, and steps wait.
func (o *Owner) view() (*ledger.View, error) {
	s := o.host.engine.State()
	if s == nil {
		return nil, status.Error(codes.Unavailable, "the ledger has not begun here; try again in a moment")
	}
	return s.View(), nil
}

// Wallet implements the Ledger API.
func (o *Owner) Wallet(context.Context, *api.WalletRequest) (*api.WalletReply, error) {
	v, err := o.view()
	if err != nil {
		return nil, err
	}
	own := o.wallet.Ed25519()
	c := v.Chain()
	r := &api.WalletReply{Address: hex.EncodeToString(own[:]), Balance: v.Account(own).Balance, Requirement: c.Params.Requirement}
	for _, n := range v.Nodes() {
		mine, rewards := o.share(v, n)
		r.Staked += mine
		r.Rewards += rewards
	}
	return r, unreadable(v)
}

func unreadable(v *ledger.View) error {
	if err := v.Err(); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

// share is the wallet's stake in a node, and its part of what a claim would pay.
func (o *Owner) share(v *ledger.View, n *ledger.Node) (mine, rewards uint64) {
	due := v.Pending(n, o.host.cfg.Now().Unix())
	fee := due / ledger.MaxFeeBasis * uint64(n.Fee)
	stake := max(n.Stake(), 1)
	for i, one := range n.Contributors {
		if one.Staker == o.wallet.Ed25519() {
			mine += one.Amount
		}
		if one.Beneficiary == o.wallet.Ed25519() {
			rewards += uint64(float64(due-fee) * (float64(one.Amount) / float64(stake)))
			if i == 0 {
				rewards += fee
			}
		}
	}
	return mine, rewards
}

// Stakes implements the Ledger API.
func (o *Owner) Stakes(_ context.Context, r *api.StakesRequest) (*api.StakesReply, error) {
	v, err := o.view()
	if err != nil {
		return nil, err
	}
	nodes := v.Nodes()
	if r.GetNode() != "" {
		n, err := o.find(v, r.GetNode())
		if err != nil {
			return nil, err
		}
		nodes = []*ledger.Node{n}
	}
	members := v.Committee()
	c := v.Chain()
	now := o.host.cfg.Now()
	reply := new(api.StakesReply)
	for _, n := range nodes {
		s := &api.Stake{
			Node: hex.EncodeToString(n.Key[:]), Standing: n.Status.String(), Explanation: explain(n, &c, now),
			Address: fmt.Sprintf("%v:%d", n.Endpoint.IP, n.Endpoint.HTTPS), Staked: n.Stake(), Requirement: n.Requirement,
			Fee: uint32(n.Fee), Contributors: uint32(len(n.Contributors)), Own: n.Key == o.host.cfg.Keys.Ed25519(), Outages: n.Outages,
			Committee: slices.ContainsFunc(members, func(m ledger.Validator) bool { return m.Node == n.Key }),
		}
		if n.Status == ledger.Awaiting {
			s.Least = n.Least()
		}
		if n.Status == ledger.Active || n.Status == ledger.Decommissioned {
			s.Credit = n.CreditAt(&c.Params, now.Unix())
		}
		s.Mine, s.Rewards = o.share(v, n)
		reply.Stakes = append(reply.Stakes, s)
	}
	return reply, unreadable(v)
}

// find gives the node that a person means: by its key, the beginning of it, or
// nothing for the own one.
func (o *Owner) find(v *ledger.View, text string) (*ledger.Node, error) {
	if text == "" {
		n, ok := v.Node(o.host.cfg.Keys.Ed25519())
		if !ok {
			return nil, status.Error(codes.NotFound, "nobody has staked for this device's node; `stake` does")
		}
		return n, nil
	}
	text = strings.ToLower(text)
	var found *ledger.Node
	for _, n := range v.Nodes() {
		if strings.HasPrefix(hex.EncodeToString(n.Key[:]), text) {
			if found != nil {
				return nil, status.Errorf(codes.InvalidArgument, "more than one node's key begins with %.64q", text)
			}
			found = n
		}
	}
	if found == nil {
		return nil, status.Errorf(codes.NotFound, "no node's key begins with %.64q; `nodes` lists them", text)
	}
	return found, nil
}

// mayStep lets only those ask for steps that a person sits behind.
func mayStep(ctx context.Context) error {
	who, ok := api.CallerOf(ctx)
	if !ok {
		return nil // no server of ours between: a call within the process
	}
	switch who.UID {
	case api.UIDConsole, api.UIDPanel, 0, uint32(os.Getuid()):
		return nil
	}
	return status.Error(codes.PermissionDenied, "only the panel and the console may use the wallet")
}

// Plan implements the Ledger API.
func (o *Owner) Plan(ctx context.Context, r *api.PlanRequest) (*api.PlanReply, error) {
	if err := mayStep(ctx); err != nil {
		return nil, err
	}
	v, err := o.view()
	if err != nil {
		return nil, err
	}
	c := v.Chain()
	own := o.wallet.Ed25519()
	s := &steps{Owner: o, view: v, chain: &c, balance: v.Account(own).Balance, request: r}
	var word string
	switch r.GetStep() {
	case api.PlanRequest_STAKE:
		word, err = "stake", s.stake()
	case api.PlanRequest_CONTRIBUTE:
		word, err = "contribute", s.contribute()
	case api.PlanRequest_UNSTAKE:
		word, err = "unstake", s.unstake()
	case api.PlanRequest_CLAIM:
		word, err = "claim", s.claim()
	case api.PlanRequest_PAY:
		word, err = "pay", s.pay()
	default:
		err = status.Error(codes.InvalidArgument, "no such step")
	}
	if err != nil {
		return nil, err
	}
	if err := unreadable(v); err != nil {
		return nil, err
	}
	fee, err := o.feeOf(&c, s.body)
	if err != nil {
		return nil, err
	}
	if s.spends > s.balance || fee > s.balance-s.spends {
		return nil, status.Errorf(codes.FailedPrecondition, "the wallet has %s coins; this takes %s and a fee of %s", ledger.Coins(s.balance), ledger.Coins(s.spends), ledger.Coins(fee))
	}
	lines := append([]string{s.what, fmt.Sprintf("It costs a fee of %s coins; the wallet has %s coins and keeps %s.", ledger.Coins(fee), ledger.Coins(s.balance), ledger.Coins(s.balance-s.spends-fee))}, s.more...)
	if o.host.Status().Halted {
		lines = append(lines, "The ledger stands still at the moment: nothing happens until it goes on.")
	}
	token := rand.Text()
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.host.cfg.Now()
	for t, p := range o.plans {
		if now.After(p.until) {
			delete(o.plans, t)
		}
	}
	if len(o.plans) >= maxPlans {
		clear(o.plans) // nobody has so many questions before them
	}
	o.plans[token] = plan{until: now.Add(planLife), fee: fee, body: s.body, done: s.done}
	return &api.PlanReply{Token: token, Lines: lines, Word: word}, nil
}

// feeOf is the fee of a step, from the size that its transaction will have.
func (o *Owner) feeOf(c *ledger.Chain, body ledger.Body) (uint64, error) {
	probe := &ledger.Tx{Chain: c.ID, Signer: o.wallet.Ed25519(), Nonce: 1 << 40, Fee: 1 << 60, Body: body}
	raw, err := probe.Encode()
	if err != nil {
		return 0, status.Error(codes.InvalidArgument, err.Error())
	}
	return c.Params.Fee(len(raw)), nil
}

// steps makes one plan.
type steps struct {
	*Owner
	view    *ledger.View
	chain   *ledger.Chain
	balance uint64
	request *api.PlanRequest

	body   ledger.Body
	spends uint64
	what   string
	more   []string
	done   []string
}

func (s *steps) span(seconds uint64) string { return Span(time.Duration(seconds) * time.Second) }

func (s *steps) stake() error {
	p := &s.chain.Params
	h := s.host
	if n, ok := s.view.Node(h.cfg.Keys.Ed25519()); ok {
		return status.Errorf(codes.FailedPrecondition, "there is a stake for this device's node already: it is %v", n.Status)
	}
	amount := s.request.GetAmount()
	if amount == 0 {
		amount = p.Requirement
	}
	least := (p.Requirement + 3) / 4
	if amount < least || amount > p.Requirement {
		return status.Errorf(codes.InvalidArgument, "a node's stake is %s coins, and its operator brings at least %s of them", ledger.Coins(p.Requirement), ledger.Coins(least))
	}
	if s.request.GetFee() > ledger.MaxFeeBasis {
		return status.Error(codes.InvalidArgument, "the operator's fee is at most 100 percent")
	}
	consensus := engine.ConsensusKey(h.cfg.Keys)
	own := s.wallet.Ed25519()
	body := &ledger.Register{
		Node: h.cfg.Keys.Ed25519(), Consensus: consensus.Ed25519(), Beacon: engine.BeaconKey(h.cfg.Keys).Public(), Fee: uint16(s.request.GetFee()),
		Shares: []ledger.Share{{Staker: own, Beneficiary: own, Amount: amount}}, Endpoint: h.endpoint(h.cfg.Public),
	}
	body.SignNode(s.chain.ID, own, h.cfg.Keys, consensus)
	s.body, s.spends = body, amount
	s.what = fmt.Sprintf("You stake %s coins for this device's node. They stay yours and stay locked.", ledger.Coins(amount))
	s.more = []string{
		fmt.Sprintf("Your address becomes public: everybody can read in the ledger that a node runs at %v, now and in all time to come. From a home, that says where you live, about as well as your internet provider's name and town.", h.cfg.Public.Addr()),
	}
	if amount < p.Requirement {
		s.more = append(s.more, fmt.Sprintf("Others have %s to bring the other %s coins. Of what their stakes earn you get %s percent. If they do not come, all is paid back; until then `unstake` pays back at once.",
			s.span(p.Await), ledger.Coins(p.Requirement-amount), percent(s.request.GetFee())))
	}
	s.more = append(s.more,
		fmt.Sprintf("To undo it: `unstake`. The node then stays in service for another %s, and after that the coins come back. Nobody can shorten that.", s.span(p.Unlock)),
		fmt.Sprintf("The device has to be on and reachable. A new node may be away for %s in all, and earns %s of that a day. Who is away for longer is removed, and the coins come back %s later.", s.span(p.CreditStart), s.span(p.CreditPerDay), s.span(p.DeregisterLock)),
		fmt.Sprintf("You can lose coins in one way: if a copy of this device's keys runs anywhere else at the same time, %s percent of the stake are gone for good. Never run a copy.", percent(uint32(p.SlashRate))),
		"The wallet is sealed in this device. If the device is lost or its data erased, so are the coins.",
	)
	if r := s.view.Rewards(); r.Pool > 0 {
		perDay := float64(r.Pool) * float64(p.RewardRate) / ledger.MaxFeeBasis / 365 / float64(r.Earning+1)
		from := ""
		if p.PayableAfter > 0 {
			from = fmt.Sprintf(", beginning %s after it came into service", s.span(p.PayableAfter))
		}
		s.more = append(s.more, fmt.Sprintf("At the moment a node earns about %s coins a day%s.", ledger.Coins(round(uint64(perDay))), from))
	}
	s.done = []string{fmt.Sprintf("The stake is in the ledger. The node joins a swarm when the epoch ends, within %s; `node` tells.", s.span(p.Epoch))}
	if amount < p.Requirement {
		s.done = []string{fmt.Sprintf("Your part of the stake is in the ledger. The node waits for contributors: they type `contribute %x COINS`.", body.Node)}
	}
	return nil
}

// round drops what nobody reads of an estimate.
func round(units uint64) uint64 {
	unit := uint64(1)
	for units/unit >= 1000 {
		unit *= 10
	}
	return units / unit * unit
}

func percent(basis uint32) string {
	if basis%100 == 0 {
		return fmt.Sprint(basis / 100)
	}
	return strings.TrimRight(fmt.Sprintf("%d.%02d", basis/100, basis%100), "0")
}

func (s *steps) contribute() error {
	n, err := s.find(s.view, s.request.GetNode())
	if err != nil {
		return err
	}
	if n.Status != ledger.Awaiting {
		return status.Errorf(codes.FailedPrecondition, "node %x takes no contributions: it is %v", n.Key[:4], n.Status)
	}
	amount, own := s.request.GetAmount(), s.wallet.Ed25519()
	if amount == 0 {
		return status.Error(codes.InvalidArgument, "say how many coins")
	}
	known := slices.ContainsFunc(n.Contributors, func(c ledger.Contributor) bool { return c.Staker == own })
	room := n.Requirement - n.Stake()
	if least := min(n.Least(), room); !known && amount < least || amount > room {
		return status.Errorf(codes.InvalidArgument, "node %x has room for %s coins, and the next contributor brings at least %s", n.Key[:4], ledger.Coins(room), ledger.Coins(least))
	}
	p := &s.chain.Params
	s.body, s.spends = &ledger.AddStake{Node: n.Key, Beneficiary: own, Amount: amount}, amount
	s.what = fmt.Sprintf("You stake %s coins in node %x, which somebody else runs.", ledger.Coins(amount), n.Key[:4])
	s.more = []string{
		fmt.Sprintf("They stay yours. Of what they earn, the operator keeps %s percent.", percent(uint32(n.Fee))),
		"Everybody can read in the ledger that this wallet has a stake there. Who you are does not stand there.",
		fmt.Sprintf("If the rest does not come in time, all is paid back, at the latest %s after the node was registered.", s.span(p.Await)),
		fmt.Sprintf("To undo it once the stake is complete: `unstake %x`. The coins come back %s later%s.", n.Key[:4], s.span(p.Unlock), s.small(n, amount)),
		fmt.Sprintf("If the node is removed because it was away too long, the coins come back %s later.", s.span(p.DeregisterLock)),
	}
	s.done = []string{"Your part of the stake is in the ledger."}
	return nil
}

// small says what holds for those with less than a quarter.
func (s *steps) small(n *ledger.Node, amount uint64) string {
	if amount*4 >= n.Requirement {
		return ""
	}
	return fmt.Sprintf("; with less than a quarter of the stake you can ask for it %s after the node was registered", s.span(s.chain.Params.SmallLock))
}

func (s *steps) unstake() error {
	n, err := s.find(s.view, s.request.GetNode())
	if err != nil {
		return err
	}
	mine, _ := s.share(s.view, n)
	switch {
	case mine == 0:
		return status.Errorf(codes.PermissionDenied, "this wallet has no stake in node %x", n.Key[:4])
	case n.Status == ledger.Leaving || n.UnlockAt > 0:
		return status.Errorf(codes.FailedPrecondition, "that was asked for already: node %x is %s", n.Key[:4], explain(n, s.chain, s.host.cfg.Now()))
	}
	s.body = &ledger.RequestUnlock{Node: n.Key}
	if n.Status == ledger.Awaiting {
		s.what = fmt.Sprintf("Node %x is given up before it began, and all contributors get their coins back at once; you get %s.", n.Key[:4], ledger.Coins(mine))
		s.more = []string{"It cannot be undone, but everybody can stake again."}
		s.done = []string{"The coins are back in the wallet."}
		return nil
	}
	unlock := s.span(s.chain.Params.Unlock)
	s.what = fmt.Sprintf("Node %x leaves in %s, and then all of its contributors get their coins back; you get %s.", n.Key[:4], unlock, ledger.Coins(mine))
	s.more = []string{
		"It cannot be undone. Afterwards you can stake again.",
		"Until then the node stays in service and earns. Keep it on: one that is away for too long is removed, and its coins come back later.",
	}
	s.done = []string{fmt.Sprintf("The node leaves in %s. Keep it on until then.", unlock)}
	return nil
}

func (s *steps) claim() error {
	n, err := s.find(s.view, s.request.GetNode())
	if err != nil {
		return err
	}
	_, rewards := s.share(s.view, n)
	if s.view.Pending(n, s.host.cfg.Now().Unix()) == 0 {
		return status.Errorf(codes.FailedPrecondition, "node %x has earned nothing since the last claim", n.Key[:4])
	}
	s.body = &ledger.Claim{Node: n.Key}
	s.what = fmt.Sprintf("What node %x has earned is paid to all who have a stake in it; this wallet gets about %s coins.", n.Key[:4], ledger.Coins(round(rewards)))
	s.more = []string{"Nothing is lost by waiting: what is not claimed stays yours."}
	s.done = []string{"The rewards are paid."}
	return nil
}

func (s *steps) pay() error {
	to, err := hex.DecodeString(s.request.GetNode())
	if err != nil || len(to) != 32 {
		return status.Error(codes.InvalidArgument, "the address of a wallet has 64 hexadecimal digits; `rewards` shows one's own")
	}
	if s.request.GetAmount() == 0 {
		return status.Error(codes.InvalidArgument, "say how many coins")
	}
	s.body, s.spends = &ledger.Transfer{To: ledger.Address(to), Amount: s.request.GetAmount()}, s.request.GetAmount()
	s.what = fmt.Sprintf("You pay %s coins to the wallet %x.", ledger.Coins(s.spends), to)
	s.more = []string{"It cannot be undone, and everybody can read it in the ledger. Check the address: a wallet that nobody has takes coins too."}
	s.done = []string{"It is paid."}
	return nil
}

// Do implements the Ledger API.
func (o *Owner) Do(ctx context.Context, r *api.DoRequest) (*api.DoReply, error) {
	if err := mayStep(ctx); err != nil {
		return nil, err
	}
	o.mu.Lock()
	p, ok := o.plans[r.GetToken()]
	delete(o.plans, r.GetToken())
	o.mu.Unlock()
	if !ok || o.host.cfg.Now().After(p.until) {
		return nil, status.Error(codes.NotFound, "that plan is too old, or was carried out already; ask again")
	}
	o.doing.Lock()
	defer o.doing.Unlock()
	v, err := o.view()
	if err != nil {
		return nil, err
	}
	own := o.wallet.Ed25519()
	nonce := v.Account(own).Nonce
	if err := unreadable(v); err != nil {
		return nil, err
	}
	tx := &ledger.Tx{Chain: v.Chain().ID, Nonce: nonce, Fee: p.fee, Body: p.body}
	if err := o.host.submit(tx, o.wallet); err != nil {
		return nil, refused(err)
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tick := time.NewTicker(max(o.host.patience()/20, 20*time.Millisecond))
	defer tick.Stop()
	for {
		if s := o.host.engine.State(); s != nil {
			if v := s.View(); v.Account(own).Nonce > nonce {
				return &api.DoReply{Lines: p.done, Height: s.Height}, unreadable(v)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, status.Error(codes.DeadlineExceeded, "the step was given to the network and is in no block yet. Look again later with `nodes` or `rewards` before you repeat it")
		}
	}
}

// refused says to people why a step was not taken.
func refused(err error) error {
	code := codes.FailedPrecondition
	switch {
	case errors.Is(err, engine.ErrKnown), errors.Is(err, ledger.ErrNonce):
		return status.Error(codes.AlreadyExists, "a step of this wallet is waiting for a block; try again when it is done")
	case errors.Is(err, engine.ErrBusy):
		code = codes.Unavailable
	}
	return status.Error(code, "the ledger does not take it: "+err.Error())
}
