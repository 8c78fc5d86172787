// Package files lets service nodes keep files, so that a network needs no file
// server.
//
// A client sends the requests that it would send to a file server: onion
// requests of the form v4, whose last node posts to a web server. The relay
// gives those that are meant for the nodes to [Service.Request] instead, and
// requests of other nodes to [Service.Peer]. [Service.Run] does what nobody asks
// for: it removes what has expired and sees to it that all members of a swarm
// hold the same files.
//
// # Where a file is
//
// A file is named by the hash of its content, as Session's file server names it
// ([attachment.ID]), and lives on the swarm that an account with the first 32
// bytes of that hash as its key would have. Whichever node a client asks takes
// an upload and offers it to all members of the file's swarm, and finds a
// download there; the client need not know the swarm. The node believes nobody:
// what it got from another node goes on only when its hash is its name, and the
// client can check that too.
//
// A member that was away compares notes with the others when it is back and
// fetches what it lacks. When swarms change, nodes offer what is no longer theirs to
// the new members, and let go of it when all of them have it. A file that the disk
// damaged is noticed by its hash when it is read, and fetched again.
//
// # How a client addresses the nodes
//
// The layer for the last node of the path names host, port and target
// (/oxen/v4/lsrpc) of a web server, and the layer inside is encrypted to that
// server's key. Two forms reach the nodes:
//
//   - host is the address of a node, port its port, and the layer is for that
//     node's key. The last node of the path hands the request to it over the
//     link between nodes, so that it sees whom the request is for but not for
//     which file. It is for clients that know the node list.
//   - host is that of Session's file server, and the layer is encrypted to the
//     key of [attachment.Nodes], which every node has, or to the key of the last
//     node of the path. That node serves the request itself. It is for clients
//     that only know a URL.
//
// The URL of a file is http://filev2.getsession.org/file/<id>#p=<key> with the
// Ed25519 key of [attachment.Nodes]. Released clients follow no URL with another
// host, take the server's key from p, and so reach any node that ends their
// path, whichever nodes are still there by then. A request to that host under
// another key, such as that of Session's own server, goes out to the web as ever.
//
// # Limits
//
// A node keeps files of at most [Config.Quota] bytes of disk altogether, refuses
// further ones with status 507, and says in its [Stats] when it gets close. A
// file has at most [attachment.MaxUpload] bytes, which is what the largest file
// of 10,000,000 bytes can become by encryption, and is held whole in memory only
// while a client's request is answered; [Config.Memory] bounds the sum of that.
// Between nodes files travel in pieces.
//
// Uploads cannot fill the quota in less than four hours, and those that come over
// one neighbour on the path cannot take more than a quarter of what there is room
// for at a time: status 429, later it goes on. A node whose quota is used as clients
// are meant to use it takes in a hundredth of that.
package files

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"hearth/node/attachment"
	"hearth/node/keys"
	"hearth/node/onion"
	"hearth/node/swarm"
)

const (
	// DefaultQuota is the share of the disk in bytes when the owner says nothing.
	DefaultQuota = 2 << 30
	// TTL is how long a file is kept after its upload or its last extension,
	// and the longest that a client can ask for: that of Session's file server.
	TTL = 21 * 24 * time.Hour

	sweepEvery = 10 * time.Second
	maxFetches = 8 // from other nodes, at a time
)

// Config is what a Service is made of.
type Config struct {
	Keys  *keys.Pair
	Dir   string             // for files alone; made when it is not there
	Quota int64              // bytes of disk for files; DefaultQuota when zero, none when negative
	List  func() *swarm.List // the newest node list; may return nil
	// Send carries a command to another node and returns the parts of its
	// answer, which [Service.Peer] makes there.
	Send func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error)
	// Free tells how many bytes are free on the disk of Dir; nil asks the system.
	Free   func() (int64, error)
	Memory int64            // bytes of clients' files held at a time: 48 MiB when zero
	Repair time.Duration    // between two comparisons with the swarm: 10 min when zero
	Check  time.Duration    // in which every kept file is read and verified once: 14 days when zero
	Now    func() time.Time // nil means time.Now
	Rand   io.Reader        // nil means crypto/rand
	Log    *slog.Logger
}

// Service is the file service of one node.
type Service struct {
	cfg    Config
	store  *store
	self   [32]byte
	nodes  *keys.Pair // of every node
	memory *semaphore.Weighted
	fetch  *semaphore.Weighted
	intake *intake
	wake   chan struct{}

	checked atomic.Uint64

	base   context.Context // ends with Close
	cancel context.CancelFunc
	scan   sync.WaitGroup

	mu   sync.Mutex
	lent map[attachment.ID]*loan
}

// loan is a file in memory that other nodes may read while it is offered.
type loan struct {
	meta    meta
	content []byte
	users   int
}

// Stats is how much a node keeps.
type Stats struct {
	Files uint64
	Bytes int64 // of disk, with what the file system adds
	Quota int64
	// Since the start: files that were verified in the background, and files that
	// were found damaged, then or when somebody asked for them.
	Checked, Damaged uint64
	// Trouble says for people when there is no room any more, or soon none.
	Trouble string
}

// Open opens the files in cfg.Dir. It does not wait until all of them are looked
// at: files are served at once, new ones are taken when it is known how many
// there are.
func Open(cfg Config) (*Service, error) {
	if cfg.Quota == 0 {
		cfg.Quota = DefaultQuota
	}
	if cfg.Memory == 0 {
		cfg.Memory = 48 << 20
	}
	if cfg.Repair == 0 {
		cfg.Repair = 10 * time.Minute
	}
	if cfg.Check == 0 {
		cfg.Check = 14 * 24 * time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	st, err := openStore(cfg.Dir, max(cfg.Quota, 0), cfg.Free, cfg.Now)
	if err != nil {
		return nil, fmt.Errorf("opening the files: %w", err)
	}
	s := &Service{
		cfg: cfg, store: st, self: cfg.Keys.Ed25519(), nodes: attachment.Nodes(),
		memory: semaphore.NewWeighted(cfg.Memory),
		fetch:  semaphore.NewWeighted(maxFetches),
		intake: newIntake(cfg.Quota, cfg.Now),
		wake:   make(chan struct{}, 1),
		lent:   make(map[attachment.ID]*loan),
	}
	if err := s.nodes.Expand(); err != nil {
		return nil, fmt.Errorf("opening the files: %w", err)
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	s.scan.Go(func() {
		if err := st.scan(s.base); err != nil && s.base.Err() == nil {
			cfg.Log.Error("looking at the kept files", "error", err)
		}
	})
	return s, nil
}

// Close breaks off what is under way. Requests that come later fail.
func (s *Service) Close() error {
	s.cancel()
	s.scan.Wait()
	return nil
}

// Wake makes Run compare with the swarm soon: the node list has changed.
func (s *Service) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run removes expired files and keeps the swarm's copies whole until ctx ends.
func (s *Service) Run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var repairs sync.WaitGroup
	defer repairs.Wait()
	repairs.Go(func() {
		every := time.NewTicker(s.cfg.Repair)
		defer every.Stop()
		for {
			if err := s.Reconcile(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Debug("comparing files with the swarm", "error", err)
			}
			select {
			case <-every.C:
			case <-s.wake:
			case <-ctx.Done():
				return
			}
		}
	})
	repairs.Go(func() { s.verify(ctx) })
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	told := ""
	for {
		select {
		case <-tick.C:
			if gone := s.store.sweep(); gone > 0 {
				s.cfg.Log.Debug("expired files removed", "files", gone)
			}
			if trouble := s.Stats().Trouble; trouble != told {
				if told = trouble; trouble != "" {
					s.cfg.Log.Warn("room for files", "trouble", trouble)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// Sweep removes expired files and returns their number.
func (s *Service) Sweep() int { return s.store.sweep() }

// Stats tells how much is kept.
func (s *Service) Stats() Stats {
	stats := s.store.stats()
	stats.Checked, stats.Damaged = s.checked.Load(), s.store.damaged.Load()
	return stats
}

// Request answers a client's request, the bytes that the last node of a path
// posts to a web server. mine is false when the layer in it is encrypted to
// nobody here. The reply is encrypted for the client, whatever it says; there is
// none when this node has too much to do.
//
// from names whoever handed the request over, as far as that is known: a node's key,
// say. What comes from one source is bounded, see the limits of this
// package.
func (s *Service) Request(ctx context.Context, from string, post []byte) (reply []byte, mine bool) {
	layer, err := onion.ParseServerPost(post)
	if err != nil {
		return nil, false
	}
	ctx, done := s.detach(ctx)
	defer done()
	hold := &held{of: s.memory}
	defer hold.release()
	if !hold.want(ctx, int64(len(layer.Ciphertext))) {
		return nil, true
	}
	server := s.cfg.Keys
	payload, err := layer.OpenServer(server)
	if err != nil {
		server = s.nodes
		payload, err = layer.OpenServer(server)
	}
	if err != nil {
		return nil, false
	}
	reply, err = layer.SealV4Reply(s.cfg.Rand, server, s.answer(ctx, from, payload, hold))
	if err != nil {
		s.cfg.Log.Error("sealing the answer to a file request", "error", err)
		return nil, true
	}
	return reply, true
}

// detach returns a context that ends with ctx or with the service, and carries
// nothing else: what is read from other nodes for a request counts here and not
// where the request came in.
func (s *Service) detach(ctx context.Context) (context.Context, func()) {
	own, cancel := context.WithCancel(s.base)
	stop := context.AfterFunc(ctx, cancel)
	return own, func() {
		stop()
		cancel()
	}
}

// held is the memory that one request has.
type held struct {
	of *semaphore.Weighted
	n  int64
}

// want waits until the request has n bytes, as long as ctx allows.
func (h *held) want(ctx context.Context, n int64) bool {
	if n > h.n {
		if h.of.Acquire(ctx, n-h.n) != nil {
			return false
		}
		h.n = n
	}
	return true
}

func (h *held) release() { h.of.Release(h.n) }

// lend lets other nodes read a file until the function that it returns is called.
func (s *Service) lend(m meta, content []byte) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lent[m.id]
	if l == nil {
		l = &loan{meta: m, content: content}
		s.lent[m.id] = l
	}
	l.users++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.lent, m.id)
		}
	}
}

func (s *Service) borrowed(id attachment.ID) (meta, []byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lent[id]; l != nil {
		return l.meta, l.content, true
	}
	return meta{}, nil, false
}

// members returns the swarm of a file, this node apart from the others.
func (s *Service) members(id attachment.ID) (others []swarm.Node, own bool) {
	_, all := s.cfg.List().Of(id.Place())
	for _, m := range all {
		if m.Ed25519 == s.self {
			own = true
		} else {
			others = append(others, m)
		}
	}
	return others, own
}

// Errors of keeping a file.
var (
	errFull    = errors.New("no room for more files")
	errAbsent  = errors.New("no such file")
	errDamaged = errors.New("file does not have the content of its name")
)
