// Package servicenode puts a service node together: its keys, its message
// database, the storage requests, the files, the server that clients and other
// nodes reach, and the node list that says who those other nodes are.
//
// [New] opens everything, [Node.Run] serves until its context ends. Between the
// two the node is not visible to anybody. It follows the list of a [Seed],
// announces itself there until it is listed, and keeps the last list on disk, so
// that after a restart it serves at once even if the seed is gone. It tests the
// other nodes and answers their tests ([Node.Tests]), and shows its owner how it
// does ([Node.Status], [Node.ServeFigures]).
//
// The list has three sources: the staking ledger in this process ([Config.Ledger]),
// a fixed file for a network among friends ([File]), and seeds that are trusted
// ([Seeds]).
//
// A Node also answers the local Node API (hearth/node/api).
package servicenode

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"hearth/node/api"
	"hearth/node/files"
	"hearth/node/keys"
	"hearth/node/peertest"
	"hearth/node/push"
	"hearth/node/relay"
	"hearth/node/replica"
	"hearth/node/rpc"
	"hearth/node/seed"
	"hearth/node/storage"
	"hearth/node/swarm"
	"hearth/node/wholefile"
)

// Version is the storage server version that the node reports: the one whose
// behaviour it has.
var Version = [3]int{2, 8, 0}

const (
	sweepEvery   = 10 * time.Second
	announceWait = 30 * time.Second // longest pause between two announcements that did not work
	drain        = 5 * time.Second  // for requests under way when the node stops
	farewell     = 5 * time.Second  // for others to get what only this node has, then
)

// Seed is where the node list comes from: [seed.Client], [File], or a [Ledger].
type Seed interface {
	// Poll returns the newest list, or known itself when nothing is newer.
	Poll(ctx context.Context, known *swarm.List) (*swarm.List, error)
	// Announce tells the network where the node is.
	Announce(ctx context.Context, node *keys.Pair, addr netip.AddrPort) error
}

// Ledger is the staking ledger as this process takes part in it; package
// hearth/node/ledger/host has it. Its list is that of the last block, also when
// there are no new ones.
type Ledger interface {
	Seed
	// Changed gets a value, if it has room, when there may be another list.
	Changed() <-chan struct{}
	// Status tells how the ledger does, and this node in it.
	Status() *api.LedgerStatus
	// Prove answers those who prove the list (package hearth/node/ledger/light).
	Prove(params json.RawMessage) (json.RawMessage, error)
	// Hear answers what the node with the key from says over a link; no answer
	// means that it makes no sense.
	Hear(ctx context.Context, from [32]byte, parts [][]byte) [][]byte
}

// Config is what a Node is made of.
type Config struct {
	Keys   *keys.Pair
	Dir    string         // messages, files, certificate, last node list
	Share  int64          // bytes of disk for all that strangers store; half of the partition when zero, never all of it
	Files  int64          // of these, bytes for files; files.DefaultQuota when zero, none when negative; at most half
	Disk   Disk           // nil asks the system
	Memory int64          // bytes of memory that the node has for itself, for the bounds that Limits leaves open; 0 for plenty
	Listen []string       // host:port to serve on, all alike
	Public netip.AddrPort // where the network reaches the node
	Seed   Seed           // the Ledger when nil
	Ledger Ledger         // nil for a network without one
	Dial   relay.Dialer   // to other nodes; nil means the ordinary one
	Poll   time.Duration  // between two looks at the node list; 5 s when zero
	Exit   relay.Exit
	Limits relay.Limits
	Test   time.Duration         // between two tests of other nodes; 10 s when zero
	Report func(peertest.Result) // gets every reachability test of another node; may be nil
	Now    func() time.Time      // nil means time.Now
	Log    *slog.Logger
}

// Node is a service node.
type Node struct {
	api.UnimplementedNodeServer

	cfg       Config
	log       *slog.Logger
	db        *storage.DB
	links     *relay.Links
	storage   *rpc.Service
	push      *push.Hub
	files     *files.Service
	replica   *replica.Replica
	tests     *peertest.Tester
	server    *relay.Server
	listeners []net.Listener
	started   time.Time

	list      atomic.Pointer[swarm.List]
	closing   atomic.Bool
	room      room
	restarted string                 // why the database is a new one; empty when it is not
	crowded   atomic.Pointer[string] // trouble with the room for messages
	damaged   chan error             // gets the error of a database that cannot go on

	changed chan struct{} // gets a value, if it has room, with every new list
	release func() error
}

// New opens the node's files and its listening ports. A node that is not Run
// must be closed.
func New(cfg Config) (*Node, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Seed == nil && cfg.Ledger != nil {
		cfg.Seed = cfg.Ledger
	}
	if cfg.Disk == nil {
		cfg.Disk = systemDisk
	}
	if cfg.Memory > 0 && cfg.Limits == (relay.Limits{}) {
		cfg.Limits = relay.LimitsFor(cfg.Memory)
	}
	if cfg.Poll == 0 {
		cfg.Poll = 5 * time.Second
	}
	n := &Node{cfg: cfg, log: cfg.Log, started: cfg.Now(), changed: make(chan struct{}, 1), damaged: make(chan error, 1)}
	n.release = sync.OnceValue(n.closeAll)
	if err := n.open(); err != nil {
		n.Close()
		return nil, fmt.Errorf("opening the service node: %w", err)
	}
	return n, nil
}

func (n *Node) open() (err error) {
	cfg := n.cfg
	if err := cfg.Keys.Expand(); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return err
	}
	for _, address := range cfg.Listen {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		n.listeners = append(n.listeners, l)
	}
	size, _, err := cfg.Disk(cfg.Dir)
	if err != nil {
		return err
	}
	n.room = divide(size, cfg.Share, cfg.Files)
	if err := n.openMessages(); err != nil {
		return err
	}
	n.measure()
	if err := n.loadList(); err != nil {
		// The seed has a newer one anyway.
		n.log.Warn("the kept node list is not readable", "error", err)
	}
	cert, err := relay.Certificate(cfg.Dir)
	if err != nil {
		return err
	}
	if n.links, err = relay.NewLinks(cfg.Keys, cfg.Dial, cfg.Now); err != nil {
		return err
	}
	var ledger func(ctx context.Context, from [32]byte, parts [][]byte) [][]byte
	var prove func(params json.RawMessage) (json.RawMessage, error)
	if cfg.Ledger != nil {
		ledger, prove = cfg.Ledger.Hear, cfg.Ledger.Prove
	}
	n.push = push.New(push.Limits{Node: int(cfg.Limits.Waiting)})
	n.db.Watch(n.push.Stored)
	n.storage = rpc.NewService(rpc.Config{
		Push:    n.push,
		Keys:    cfg.Keys,
		DB:      n.db,
		List:    n.List,
		Forward: n.forward,
		Room:    func() int64 { return n.room.messages },
		Now:     cfg.Now,
		Version: Version,
		ServiceNodes: func(params json.RawMessage) (json.RawMessage, error) {
			return seed.ServiceNodes(n.List(), params)
		},
		Ledger: prove,
		Log:    n.log,
	})
	n.files, err = files.Open(files.Config{
		Keys:  cfg.Keys,
		Dir:   filepath.Join(cfg.Dir, "files"),
		Quota: n.room.files,
		List:  n.List,
		Send: func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error) {
			return n.links.Request(ctx, to, relay.CommandFiles, parts)
		},
		Now:    cfg.Now,
		Log:    n.log,
		Memory: filesMemory(cfg.Memory),
	})
	if err != nil {
		return err
	}
	n.replica = replica.New(replica.Config{
		Self: cfg.Keys.Ed25519(),
		DB:   n.db,
		List: n.List,
		Request: func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error) {
			return n.links.Request(ctx, to, relay.CommandReplica, parts)
		},
		Now: cfg.Now,
		Log: n.log,
	})
	n.tests = n.newTests(filepath.Join(cfg.Dir, "tests.json"))
	n.server, err = relay.New(relay.Config{
		Keys:    cfg.Keys,
		Cert:    cert,
		Storage: n.storage,
		Files:   n.files,
		Replica: n.replica.Serve,
		Ledger:  ledger,
		Query:   func(body []byte) []byte { return seed.Answer(n.List(), body) },
		List:    n.List,
		Peers:   n.links,
		Ready:   n.NotReady,
		Tests:   n.tests,
		Exit:    cfg.Exit,
		Version: Version,
		Now:     cfg.Now,
		Rand:    rand.Reader,
		Log:     n.log,
		Limits:  cfg.Limits,
	})
	return err
}

// forward passes a client's request on to another member of the swarm.
func (n *Node) forward(ctx context.Context, to swarm.Node, method string, body []byte) ([][]byte, error) {
	stamp := binary.BigEndian.AppendUint64(nil, uint64(rpc.StampOf(ctx)))
	answer, err := n.links.Request(ctx, to, relay.CommandStamped, [][]byte{[]byte(method), body, stamp})
	if err != nil || len(answer) != 1 {
		n.replica.Behind(to.Ed25519)
	}
	return answer, err
}

// List returns the newest node list, nil before the first.
func (n *Node) List() *swarm.List { return n.list.Load() }

// Changed gets a value when the list has changed. It is for one reader.
func (n *Node) Changed() <-chan struct{} { return n.changed }

// NotReady returns the reasons why the node refuses requests; none when it
// serves. The wording is the storage server's where that knows the reason.
func (n *Node) NotReady() []string {
	if n.closing.Load() {
		return []string{"shutting down"}
	}
	list := n.List()
	if list == nil {
		return []string{"no node list yet"}
	}
	if self, ok := list.Find(n.cfg.Keys.Ed25519()); !ok || self.Swarm == swarm.None {
		return []string{"not in any swarm"}
	}
	return nil
}

// Waiting is the number of requests that wait for a message at this node.
func (n *Node) Waiting() int { return n.push.Waiting() }

// Run serves until ctx ends, lets requests under way finish, and closes
// everything. It returns nil when it was stopped.
func (n *Node) Run(ctx context.Context) error {
	key := n.cfg.Keys.Ed25519()
	n.log.Info("service node starts", "node", hex.EncodeToString(key[:]), "public", n.cfg.Public, "listen", n.cfg.Listen)
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	failed := make(chan error, len(n.listeners))
	for _, l := range n.listeners {
		tasks.Go(func() {
			if err := n.server.Serve(l); err != nil {
				failed <- err
			}
		})
	}
	tasks.Go(func() { n.follow(background) })
	tasks.Go(func() { n.sweep(background) })
	tasks.Go(func() { n.files.Run(background) })
	tasks.Go(func() { n.replica.Run(background) })
	tasks.Go(func() { n.tests.Run(background) })

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-n.damaged:
	}
	n.closing.Store(true)
	n.push.Close() // who waits for a message would keep the server from stopping
	end, cancel := context.WithTimeout(background, drain)
	if e := n.server.Shutdown(end); e != nil {
		n.log.Warn("requests cut off at the end", "error", e)
	}
	cancel()
	end, cancel = context.WithTimeout(background, farewell)
	n.replica.Finish(end)
	cancel()
	stop()
	tasks.Wait()
	if e := n.Close(); err == nil {
		err = e
	}
	n.log.Info("service node stopped")
	return err
}

// Close releases what New opened. Run does it by itself.
func (n *Node) Close() error { return n.release() }

func (n *Node) closeAll() error {
	var errs []error
	for _, l := range n.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.server != nil {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = n.server.Shutdown(over) // at once; after Run it is a second time and without effect
	}
	if n.files != nil {
		errs = append(errs, n.files.Close())
	}
	if n.links != nil {
		errs = append(errs, n.links.Close())
	}
	if n.db != nil {
		errs = append(errs, n.db.Close())
	}
	return errors.Join(errs...)
}

// follow keeps the node list fresh and the node on it.
func (n *Node) follow(ctx context.Context) {
	var next time.Time // announcement
	pause := time.Second
	silent := false
	var refused error // the last announcement
	var block <-chan struct{}
	if n.cfg.Ledger != nil {
		block = n.cfg.Ledger.Changed()
	}
	for {
		err := n.refresh(ctx)
		switch now := n.cfg.Now(); {
		case err != nil:
		case !n.unlisted():
			refused = nil
		case !now.Before(next):
			if refused = n.cfg.Seed.Announce(ctx, n.cfg.Keys, n.cfg.Public); refused == nil {
				err = n.refresh(ctx)
				pause = time.Second
			} else {
				pause = min(2*pause, announceWait)
			}
			next = now.Add(pause)
		}
		if err == nil {
			err = refused
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !silent:
			n.log.Warn("no news of the node list", "error", err)
		case err == nil && silent:
			n.log.Info("there is news of the node list again")
		}
		silent = err != nil
		select {
		case <-time.After(n.cfg.Poll):
		case <-block:
		case <-ctx.Done():
			return
		}
	}
}

// unlisted reports whether the network does not know where this node is.
func (n *Node) unlisted() bool {
	self, ok := n.List().Find(n.cfg.Keys.Ed25519())
	return !ok || self.Swarm == swarm.None || self.Address != n.cfg.Public
}

// refresh looks for a newer node list.
func (n *Node) refresh(ctx context.Context) error {
	known := n.List()
	list, err := n.cfg.Seed.Poll(ctx, known)
	if err != nil {
		return err
	}
	// A seed that lost its memory lists nobody at first; the nodes know better.
	if list == known || len(list.Nodes) == 0 && known != nil {
		return nil
	}
	before := n.NotReady()
	n.list.Store(list)
	n.files.Wake()
	n.replica.ListChanged()
	n.tests.ListChanged()
	n.log.Debug("new node list", "height", list.Height, "nodes", len(list.Nodes), "swarms", len(list.Swarms()))
	if after := n.NotReady(); len(before) != len(after) {
		n.log.Info("readiness changed", "ready", len(after) == 0, "height", list.Height)
	}
	select {
	case n.changed <- struct{}{}:
	default:
	}
	if err := n.keepList(list); err != nil {
		n.log.Warn("keeping the node list", "error", err)
	}
	return nil
}

func (n *Node) listFile() string { return filepath.Join(n.cfg.Dir, "nodes.json") }

func (n *Node) keepList(list *swarm.List) error {
	b, err := seed.ServiceNodes(list, nil)
	if err != nil {
		return err
	}
	return wholefile.Write(n.listFile(), b)
}

func (n *Node) loadList() error {
	b, err := os.ReadFile(n.listFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, _, err := seed.ParseServiceNodes(b)
	if err == nil {
		n.list.Store(list)
	}
	return err
}

// filesMemory is how many bytes of clients' files a node with that much memory holds
// at a time: enough for one of the largest, with its encrypted copy. 0 leaves it to
// the file service.
func filesMemory(memory int64) int64 {
	if memory == 0 {
		return 0
	}
	return max(24<<20, min(memory/2, 48<<20))
}

// sweep removes expired messages from time to time, and looks how much room there
// is then.
func (n *Node) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if gone, err := n.db.Sweep(); err != nil {
				n.log.Error("removing expired messages", "error", err)
				if errors.Is(err, storage.ErrDamaged) || errors.Is(err, storage.ErrEnded) {
					// Whoever starts the node again gets a database that works, if
					// need be an empty one.
					n.damaged <- err
					return
				}
			} else if gone > 0 {
				n.log.Debug("expired messages removed", "messages", gone)
			}
			n.measure()
		case <-ctx.Done():
			return
		}
	}
}
