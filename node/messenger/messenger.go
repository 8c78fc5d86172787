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
// A text leaves as a sealed message in the recipient's swarm (packages wire and
// mailbox), over a path of three nodes (package path). What others sent is
// fetched from the account's own swarm every few seconds, opened, written to the
// database (package archive), and only then shown. The only addresses that are
// ever dialled are those of the seeds and of the two guards.
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
	// DisplayName goes out with every message, unless it is empty.
	DisplayName string
}

// Messenger is the messenger of one account. It is safe for concurrent use.
type Messenger struct {
	api.UnimplementedMessengerServer

	cfg    Config
	log    *slog.Logger
	events hub
	calls  chan struct{} // one token for each request under way

	opening sync.Mutex // one PIN at a time

	mu      sync.Mutex
	vault   *api.VaultStatus // as the vault last said, nil = not yet
	trouble string           // of opening the account
	session *session         // nil unless the account is open
	opened  chan struct{}    // closed when session is set
	closed  bool
	working sync.WaitGroup // requests that use the session
	shown   *api.MessengerState
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
		opened: make(chan struct{}),
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
	}
	select {
	case <-ctx.Done():
		return nil
	case <-m.opened:
	}
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil // closed in the meantime
	}
	defer done()
	s.run(ctx)
	return nil
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
	m.session = nil
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
