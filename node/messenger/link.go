package messenger

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/bt"
	"hearth/node/keys"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

// Linking gives the account to another device over the network. The first device
// draws a code and shows it (linkcode.go). From the code both derive an account of
// its own, the meeting, and a key. Into the meeting's swarm the first device stores
// the seed, encrypted, for as long as the code is good for, and a notice that it
// did, which stays longer. The second device fetches and opens both, seals the seed
// with a PIN of its own, and has the swarm delete it.
//
// Whoever sees the code has the account, as with the recovery phrase: it is shown
// after the PIN only, and for minutes instead of for ever. Nobody can guess it: it
// has 100 random bits, and what could be tried them on lies in one of very many
// swarms under an address that comes from the code as well. The swarm and the paths
// see two ordinary messages of a few hundred bytes from and to a Session ID that
// was never seen before: not who stored them, nor who fetches, since both come
// through onions, nor that they are no texts, since they are wrapped as texts are.
// A member of that swarm can withhold them, and that is all: it can put nothing
// else there that opens. What somebody recorded is sealed twice, for the meeting's
// X25519 key and under a key that no mathematics of curves leads to, so that it
// stays closed when curves no longer hold. The seed is signed for by the account,
// for this meeting, so that a device cannot end up with half of another one's
// message.
const (
	linkTime    = 10 * time.Minute // that a code is good for
	linkNotice  = 24 * time.Hour   // that it can be told from one that never was
	linkLimit   = 90 * time.Second // for one device to reach the meeting
	linkMost    = 50               // messages of one member that are looked at
	linkVersion = 1

	linkText = "hearth link 1" // in front of what is signed
)

// offer is a code that was given out.
type offer struct {
	meeting *account.Account
	hash    string // of the seed
}

// Link gives a code with which another device gets the account: see the beginning
// of this file. Only the latest code is good, for ten minutes and one use.
// Errors: [ErrPIN], [ErrNoVault], [ErrLocked], [ErrNoAccount], [ErrLinkStore], and
// those of the vault with their code and text.
func (m *Messenger) Link(ctx context.Context, req *api.LinkRequest) (*api.LinkReply, error) {
	if m.cfg.Vault == nil {
		return nil, ErrNoVault
	}
	if err := checkPIN(req.GetPin()); err != nil {
		return nil, err
	}
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	m.opening.Lock()
	seed, err := m.openSeed(ctx, req.GetPin())
	m.opening.Unlock()
	if err != nil {
		m.askVault(ctx) // how many tries are left now
		return nil, err
	}
	defer seed.Wipe()
	secret, err := drawLink(m.cfg.Rand)
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	expires, err := s.offer(ctx, secret, seed)
	if err != nil {
		return nil, forCaller(ErrLinkStore, err)
	}
	return &api.LinkReply{Code: secret.code(), Expires: expires.UnixMilli()}, nil
}

// offer stores the seed where the code leads.
func (s *session) offer(ctx context.Context, secret linkSecret, seed account.Seed) (expires time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, linkLimit)
	defer cancel()
	if err := s.awaitNodes(ctx); err != nil {
		return expires, err
	}
	if err := s.box.KnowTime(ctx); err != nil {
		return expires, err
	}
	meeting, key, err := secret.derive()
	if err != nil {
		return expires, err
	}
	s.withdraw(ctx)
	expires = s.clock.Now().Add(linkTime).Truncate(time.Second)
	notice := bt.Dict{"v": int64(linkVersion), "e": expires.Unix()}
	if _, err := s.leave(ctx, meeting, key, notice, linkNotice); err != nil {
		return expires, err
	}
	given := bytes.Clone(seed[:])
	defer clear(given)
	own := s.own.ID()
	hash, err := s.leave(ctx, meeting, key, bt.Dict{"v": int64(linkVersion), "e": expires.Unix(), "s": given,
		"p": s.own.Keys().Sign(linkProof(own, meeting.ID(), expires.Unix()))}, linkTime)
	if err != nil {
		return expires, err
	}
	s.shared.mu.Lock()
	s.shared.offer = &offer{meeting, hash}
	s.shared.mu.Unlock()
	s.log.Info("a code for another device is out")
	return expires, nil
}

// withdraw has the seed of an earlier code deleted. When that fails it goes by
// itself, with the code's time.
func (s *session) withdraw(ctx context.Context) {
	s.shared.mu.Lock()
	before := s.shared.offer
	s.shared.offer = nil
	s.shared.mu.Unlock()
	if before == nil {
		return
	}
	if err := s.box.Delete(ctx, before.meeting, []string{before.hash}); err != nil {
		s.log.Warn("taking back an earlier code", "err", err)
	}
	before.meeting.Wipe()
}

// forget wipes what could still open the latest code's meeting.
func (h *sharing) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.offer != nil {
		h.offer.meeting.Wipe()
		h.offer = nil
	}
}

// leave stores something for the other device, as a text of the meeting to itself.
func (s *session) leave(ctx context.Context, meeting *account.Account, key [32]byte, what bt.Dict, ttl time.Duration) (hash string, err error) {
	content, err := bt.Marshal(what)
	if err != nil {
		return "", err
	}
	defer clear(content)
	sealed, err := wire.SealPayload(s.m.cfg.Rand, key, content)
	if err != nil {
		return "", err
	}
	stored, err := s.box.Store(ctx, meeting.ID(), ttl, func() int64 { return s.stamp().ms }, func(ms int64) ([]byte, error) {
		return wire.Seal(s.m.cfg.Rand, meeting, meeting.ID(), wire.Text(base64.StdEncoding.EncodeToString(sealed), uint64(ms)))
	})
	return stored.Hash, err
}

// linkProof is what the account signs, so that a seed goes with its meeting.
func linkProof(own, meeting account.ID, expires int64) []byte {
	b := append([]byte(linkText), own[:]...)
	return fmt.Appendf(append(b, meeting[:]...), "%d", expires)
}

// Join makes this device one of the account whose code it is given. What it has then
// is what [Messenger.Restore] gives. Without a PIN it only looks whether a device
// waits under the code, which stays good. Errors: [ErrLinkCode] for a mistyped code,
// [ErrLinkNothing] when nothing waits under it, [ErrLinkOver] and [ErrLinkUsed],
// [ErrPIN], [ErrOpen], [ErrNoVault], [ErrLinkNetwork], and those of the vault.
func (m *Messenger) Join(ctx context.Context, req *api.JoinRequest) (*api.MessengerState, error) {
	secret, err := parseLink(req.GetCode())
	if err != nil {
		return nil, err
	}
	only := req.GetPin() == ""
	if !only {
		if err := checkPIN(req.GetPin()); err != nil {
			return nil, err
		}
	}
	if err := m.noAccount(ctx); err != nil {
		return nil, err
	}
	meeting, key, err := secret.derive()
	if err != nil {
		return nil, err
	}
	defer meeting.Wipe()
	way, err := m.wayTo(meeting)
	if err != nil {
		return nil, forCaller(ErrLinkNetwork, err)
	}
	defer way.client.Close()
	seed, hash, err := way.pickUp(ctx, meeting, key)
	if err != nil {
		return nil, forCaller(ErrLinkNetwork, err)
	}
	defer seed.Wipe()
	if only {
		return m.vacant(ctx, seed)
	}
	st, err := m.settle(ctx, req.GetPin(), seed)
	if err != nil {
		return nil, err // the code is still good
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendPatience)
	defer cancel()
	if err := way.box.Delete(ctx, meeting, []string{hash}); err != nil {
		m.log.Warn("deleting what the code led to: it goes by itself", "err", err)
	}
	m.log.Info("linked to an account")
	return st, nil
}

// wayTo is what there is of a session before there is an account: a way into the
// network, which leaves nothing behind.
func (m *Messenger) wayTo(meeting *account.Account) (*session, error) {
	s := &session{
		m: m, log: m.log, own: meeting,
		clock:  mailbox.NewClock(m.cfg.Now),
		ready:  make(chan struct{}),
		wake:   make(chan struct{}, 1),
		renew:  make(chan struct{}, 1),
		outbox: newOutbox(),
		shared: newSharing(),
	}
	var err error
	s.pool, err = path.NewPool(m.cfg.Rand, m.cfg.Now, s.log, path.Saved{}, func(path.Saved) {})
	if err != nil {
		return nil, err
	}
	if own := m.ownNodeKey(); own != nil {
		s.pool.Avoid(*own)
	}
	s.client = path.NewClient(s.pool, m.cfg.Rand, m.cfg.Dial, s.log)
	s.box = mailbox.New(s.client, s.pool, s.clock, s.log)
	return s, nil
}

// pickUp fetches the seed from the meeting. All members of its swarm are asked: one
// may have it and another not.
func (s *session) pickUp(ctx context.Context, meeting *account.Account, key [32]byte) (seed account.Seed, hash string, err error) {
	ctx, cancel := context.WithTimeout(ctx, linkLimit)
	defer cancel()
	if err := s.fetchNodes(ctx, true); err != nil {
		return seed, "", err
	}
	if err := s.box.KnowTime(ctx); err != nil {
		return seed, "", err
	}
	members, _, err := s.box.Swarm(ctx, meeting.ID())
	if err != nil {
		return seed, "", err
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	var expires int64
	var found []mailbox.Message
	answered := false
	var failed []error
	for _, node := range members {
		wait.Go(func() {
			messages, _, err := s.box.Retrieve(ctx, meeting, node, inbox, "")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return
			}
			answered = true
			found = append(found, messages[:min(len(messages), linkMost)]...)
		})
	}
	wait.Wait()
	if !answered {
		return seed, "", errors.Join(failed...)
	}
	now := s.clock.Now().Unix()
	for _, stored := range found {
		what, ok := readLink(meeting, key, stored.Data)
		if !ok {
			continue
		}
		expires = max(expires, what.expires)
		if what.has && now <= what.expires {
			return what.seed, stored.Hash, nil
		}
		what.seed.Wipe()
	}
	switch {
	case expires == 0 && len(failed) > 0:
		return seed, "", errors.Join(failed...) // those may have it
	case expires == 0:
		return seed, "", ErrLinkNothing
	case now > expires:
		return seed, "", ErrLinkOver
	}
	return seed, "", ErrLinkUsed
}

// linked is a message of a meeting.
type linked struct {
	expires int64 // s
	seed    account.Seed
	has     bool // it has a seed
}

// readLink opens a message that lies in a meeting. ok is false for what the other
// device has not put there.
func readLink(meeting *account.Account, key [32]byte, data []byte) (l linked, ok bool) {
	m, err := wire.Open(meeting, data)
	if err != nil || m.Sender != meeting.ID() {
		return l, false
	}
	return parseLinked(meeting.ID(), key, m.Content)
}

func parseLinked(meeting account.ID, key [32]byte, content *sessionpb.Content) (l linked, ok bool) {
	sealed, err := base64.StdEncoding.DecodeString(content.GetDataMessage().GetBody())
	if err != nil {
		return l, false
	}
	plain, err := wire.OpenPayload(key, sealed)
	if err != nil {
		return l, false
	}
	defer clear(plain)
	v, err := bt.Unmarshal(plain)
	what, isDict := v.(bt.Dict)
	version, _ := what["v"].(int64)
	if l.expires, ok = what["e"].(int64); err != nil || !isDict || !ok || version != linkVersion || l.expires <= 0 {
		return linked{}, false
	}
	seed, _ := what["s"].([]byte)
	proof, _ := what["p"].([]byte)
	if seed == nil {
		return l, true
	}
	if len(seed) != account.SeedSize {
		return linked{}, false
	}
	copy(l.seed[:], seed)
	own := account.New(l.seed)
	defer own.Wipe()
	if !keys.Verify(own.Keys().Ed25519(), linkProof(own.ID(), meeting, l.expires), proof) {
		l.seed.Wipe()
		return linked{}, false
	}
	l.has = true
	return l, true
}
