// Package messenger talks to people: it sends and receives the messages of one
// account through the network of service nodes.
//
// [New] makes a [Messenger] from a [Config]; [Messenger.Run] works until its
// context ends. The account comes from the vault, when somebody calls
// [Messenger.Create] or [Messenger.Unlock] with the PIN, or ready-made in the
// configuration. The methods of the Messenger are the Messenger API of package
// api: register it with a gRPC server, or call them directly in the same
// process; [Messenger.Subscribe] is then the stream of events.
//
//	m, err := messenger.New(messenger.Config{Account: account.New(seed), DBPath: file, Seeds: seeds})
//	go m.Run(ctx)
//	m.Send(ctx, &api.SendRequest{To: id, Text: "hello"})
//
// What is sent is first written down, sealed, in the outbox of the database
// (package archive); from there it goes, as often as it takes, into the recipient's
// swarm (packages wire and mailbox), over a path of three nodes (package path). A
// message is shown as stored when a member of that swarm has signed for it. Besides
// texts there are answers, reactions, unsend requests, read receipts, word of
// typing, and messages that disappear: see kinds.go for those that go out and
// read.go for those that come in. Files lie encrypted on nodes of the network; a
// message brings their address and key, and they are fetched when somebody asks for
// them, in chunks, so that a lost connection costs one of these: see files.go and
// download.go. The pictures of people are files like that (picture.go). What others
// sent is fetched from the account's own swarm every few seconds, opened, written
// to the database, and only then shown. The only addresses that are ever dialled
// are those of the seeds and of the two guards.
//
// Closed groups are conversations in swarms of their own (package group): see
// group.go.
//
// Several devices can have one account. Profile, contacts, read state and groups
// are what package config makes of all devices' changes; the archive keeps the
// configs together with what they are about, and every change goes to the account's
// swarm within a second or so and comes back from there: see configs.go. The devices
// list themselves in a config of their own ([Messenger.Devices]). A new one gets the
// account with a code ([Messenger.Link], [Messenger.Join]), or with the recovery
// phrase.
//
// An account is made ([Messenger.Create]) or brought back ([Messenger.Restore]),
// opened and closed as often as its owner likes ([Messenger.Unlock],
// [Messenger.Lock]), and left for good ([Messenger.Wipe]). There is one at a time:
// the vault keeps one seed, and everything here, from the database to the guards,
// is one account's, so that nothing in memory or on the disk could ever tell
// somebody that two accounts belong to one person. Whoever wants two runs two
// messengers with a vault and a folder each.
package messenger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

// Limits of the Messenger API.
const (
	MaxText = 2_000 // code points of a text that is sent (Session without Pro)
	MaxName = 100   // bytes of a name

	minPIN, maxPIN = 6, 32 // characters

	maxTextIn     = 10_000  // code points of a text that is received (Session)
	defaultCount  = 50      // messages of one reply
	maxCount      = 1_000   // messages of one reply
	maxReplyBytes = 2 << 20 // text of one reply, below the limit of the socket
	maxCalls      = 16      // requests that use the network at a time
)

// DefaultPollInterval is the time between two looks into the own swarm while
// nothing happens, as in Session desktop.
const DefaultPollInterval = 5 * time.Second

// NodeSource names the service nodes, as a seed does.
type NodeSource interface {
	ServiceNodes(ctx context.Context) (*swarm.List, error)
}

// Config is what a Messenger needs. Either Vault or Account must be there.
type Config struct {
	// Vault keeps the seed of the account.
	Vault api.VaultClient
	// Account is an account that is open already; the Messenger does not wipe it.
	Account *account.Account

	// DBPath is the file of the database. It is made when there is none.
	DBPath string
	// Seeds are asked for the first node list, all at the same time.
	Seeds []NodeSource
	// Ledger proves the node list; nil in a network without one. Seeds then only name
	// nodes that can be asked.
	Ledger *Ledger
	// Node is the service node that runs on the same machine, nil for none: it is
	// never a hop of this messenger's paths.
	Node api.NodeClient
	// Dial connects to guards; nil is the ordinary dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now is this machine's clock, nil for time.Now. It may be wrong: the network
	// says by how much.
	Now func() time.Time
	// Rand is cryptographically secure, nil for crypto/rand.
	Rand io.Reader
	// Log hears what happens, never what is said; nil for none.
	Log *slog.Logger
	// PollInterval is [DefaultPollInterval] when it is 0.
	PollInterval time.Duration
	// DisplayName goes out with every message until the owner chooses another, or
	// none, in the settings. Empty is none.
	DisplayName string
	// DeviceName and DeviceKind are what the account's other devices call this one,
	// the name until the owner chooses another. Empty is "Hearth", and no kind.
	DeviceName, DeviceKind string
}

// Messenger is the messenger of one account. It is safe for concurrent use.
type Messenger struct {
	api.UnimplementedMessengerServer

	cfg    Config
	log    *slog.Logger
	events hub
	calls  chan struct{} // one token for each request under way

	staging   chan struct{} // the token of the file that is taken in
	searching chan struct{} // the token of the search that is at work

	patience chan struct{} // says that the account locks after another time than before

	opening sync.Mutex // one PIN at a time

	mu         sync.Mutex
	vault      *api.VaultStatus // as the vault last said, nil = not yet
	vaultAsked uint64           // questions to the vault
	vaultTold  uint64           // the one that vault answers
	trouble    string           // of opening the account
	session    *session         // nil unless the account is open
	used       time.Time        // when somebody last asked for something
	ownNode    *path.Key        // of the service node on this machine, nil = not known
	turned     chan struct{}    // closed and replaced when session is set or taken away
	closed     bool
	working    sync.WaitGroup // requests that use the session
	shown      *api.MessengerState
}

// New makes a messenger. With Config.Account it opens the database, and fails if
// that does.
func New(cfg Config) (*Messenger, error) {
	if cfg.Vault == nil && cfg.Account == nil {
		return nil, errors.New("messenger: neither a vault nor an account")
	}
	if cfg.DBPath == "" {
		return nil, errors.New("messenger: no database file")
	}
	if !validName(cfg.DisplayName) {
		return nil, fmt.Errorf("display name: %w", ErrName)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	} else {
		cfg.Rand = &sharedReader{r: cfg.Rand}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.PollInterval <= 0 {
		cfg.PollInterval = DefaultPollInterval
	}
	m := &Messenger{
		cfg:    cfg,
		log:    cfg.Log,
		calls:  make(chan struct{}, maxCalls),
		turned: make(chan struct{}),

		staging:   make(chan struct{}, 1),
		searching: make(chan struct{}, 1),

		patience: make(chan struct{}, 1),
	}
	if cfg.Account != nil {
		if err := m.open(cfg.Account, false); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Run does the work until ctx ends: it waits for the account, keeps the list of
// service nodes, and fetches messages. Afterwards the messenger is closed. It
// returns nil when ctx ended it.
func (m *Messenger) Run(ctx context.Context) error {
	m.log.Info("messenger starts")
	defer m.log.Info("messenger stopped")
	defer m.Close()
	var wait sync.WaitGroup
	defer wait.Wait()
	if m.cfg.Account == nil {
		wait.Go(func() { m.watchVault(ctx) })
		wait.Go(func() { m.lockWhenIdle(ctx) })
	}
	if m.cfg.Node != nil {
		wait.Go(func() { m.watchOwnNode(ctx) })
	}
	for m.awaitSession(ctx) {
		s, ctx, done, err := m.use(ctx)
		if err != nil {
			continue // closed or locked in the meantime
		}
		s.run(ctx) // until the account is locked, or all of it ends
		done()
	}
	return nil
}

// awaitSession waits for an open account, and returns false at the end of all.
func (m *Messenger) awaitSession(ctx context.Context) bool {
	for {
		m.mu.Lock()
		closed, open, turned := m.closed, m.session != nil, m.turned
		m.mu.Unlock()
		if closed || ctx.Err() != nil {
			return false
		}
		if open {
			return true
		}
		select {
		case <-ctx.Done():
		case <-turned:
		}
	}
}

// turn makes s the open session, nil for none. The caller holds m.mu.
func (m *Messenger) turn(s *session) {
	m.session, m.used = s, m.cfg.Now()
	close(m.turned)
	m.turned = make(chan struct{})
}

// detach takes the session away and waits until nothing works with it any more,
// except the caller, who has to close it. It gives nil when there is none. The
// caller holds m.opening, so that no other session begins in the meantime.
func (m *Messenger) detach() *session {
	m.mu.Lock()
	s := m.session
	if s == nil || m.closed {
		m.mu.Unlock()
		return nil
	}
	m.turn(nil)
	m.mu.Unlock()
	s.stop()
	m.working.Wait()
	return s
}

// Close ends requests and streams, closes the database and wipes the account if
// it came from the vault. Run does it by itself.
func (m *Messenger) Close() {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.closed = true
	s := m.session
	m.mu.Unlock()
	m.events.close(ErrStopped)
	if s != nil {
		s.stop()
		m.working.Wait()
		s.close()
	}
	m.mu.Lock()
	m.turn(nil)
	m.mu.Unlock()
}

// use gives the session to one request, which must call done at its end. The
// context ends with the session.
func (m *Messenger) use(ctx context.Context) (s *session, _ context.Context, done func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return nil, nil, nil, ErrStopped
	case m.session == nil && m.vault != nil && !m.vault.HasAccount:
		return nil, nil, nil, ErrNoAccount
	case m.session == nil:
		return nil, nil, nil, ErrLocked
	}
	s = m.session
	m.used = m.cfg.Now()
	m.working.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(s.life, cancel)
	return s, ctx, func() {
		unhook()
		cancel()
		m.working.Done()
	}, nil
}

// sharedReader lets several goroutines read one source of randomness.
type sharedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (s *sharedReader) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return io.ReadFull(s.r, p)
}

var _ api.MessengerServer = (*Messenger)(nil)
