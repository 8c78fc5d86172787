package replica

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/internal/bubble"
	"hearth/node/keys"
	"hearth/node/rpc"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// lab is a network of storage services and replicas in one process.
type lab struct {
	t     testing.TB
	dir   string
	nodes []*labNode
	list  atomic.Pointer[swarm.List]
	log   *slog.Logger
	delay func() // passes the time that a request or an answer is on its way

	interval time.Duration // as in Config

	mu  sync.Mutex
	cut map[[2]*labNode]bool // pairs that cannot reach each other
}

type labNode struct {
	*lab
	number  int
	keys    *keys.Pair
	knows   atomic.Pointer[swarm.List] // the list that this node has, kept while it is down
	db      *storage.DB
	rpc     *rpc.Service
	replica *Replica
	up      atomic.Bool
	quiet   func() // ends what the replica does by itself
	stop    func()
}

var errUnreachable = errors.New("not reachable")

func newLab(t testing.TB, nodes int) *lab {
	bubble.Clean(t)
	l := &lab{t: t, dir: t.TempDir(), cut: make(map[[2]*labNode]bool), log: slog.New(slog.DiscardHandler), delay: func() {}}
	if os.Getenv("REPLICA_LOG") != "" {
		l.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for i := range nodes {
		n := &labNode{lab: l, number: i, keys: keys.FromSeed([32]byte{byte(i + 1), 0x4e})}
		l.nodes = append(l.nodes, n)
	}
	return l
}

// swarms publishes a list in which node i is in the swarm that is given for it, and
// all nodes learn it.
func (l *lab) swarms(ids ...swarm.ID) {
	l.list.Store(l.listOf(ids...))
	for _, n := range l.nodes {
		n.learn(l.list.Load())
	}
}

// listOf is such a list.
func (l *lab) listOf(ids ...swarm.ID) *swarm.List {
	list := &swarm.List{Height: 1}
	for i, id := range ids {
		n := l.nodes[i]
		list.Nodes = append(list.Nodes, swarm.Node{
			Ed25519: n.keys.Ed25519(), X25519: n.keys.X25519(), Swarm: id,
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i + 1), 1}), 22021),
		})
	}
	return list
}

// learn gives the node a list.
func (n *labNode) learn(list *swarm.List) {
	n.knows.Store(list)
	if n.up.Load() {
		n.replica.ListChanged()
	}
}

// listIs reports whether an account is of a swarm by the last list published.
func (l *lab) listIs(p person, id swarm.ID) bool {
	home, _ := l.list.Load().Of(p.id)
	return home == id
}

// start brings nodes up, with what their files hold.
func (l *lab) start(numbers ...int) {
	l.t.Helper()
	for _, i := range numbers {
		n := l.nodes[i]
		db, err := storage.Open(filepath.Join(l.dir, fmt.Sprint(i)), time.Now)
		if err != nil {
			l.t.Fatal(err)
		}
		n.db = db
		n.replica = New(Config{
			Self: n.keys.Ed25519(), DB: db, List: n.knows.Load, Log: l.log.With("node", i),
			Interval: l.interval,
			Request: func(ctx context.Context, to swarm.Node, parts [][]byte) ([][]byte, error) {
				l.delay()
				peer := n.reach(to)
				if peer == nil {
					return nil, errUnreachable
				}
				answer := peer.replica.Serve(ctx, n.keys.Ed25519(), parts)
				l.delay()
				if n.reach(to) == nil {
					return nil, errUnreachable
				}
				return answer, nil
			},
		})
		n.rpc = rpc.NewService(rpc.Config{
			Keys: n.keys, DB: db, List: n.knows.Load, Now: time.Now, Log: l.log.With("node", i),
			Forward: func(ctx context.Context, to swarm.Node, method string, body []byte) ([][]byte, error) {
				l.delay()
				peer := n.reach(to)
				if peer == nil {
					n.replica.Behind(to.Ed25519)
					return nil, errUnreachable
				}
				answer := peer.rpc.HandleForwarded(rpc.WithStamp(context.Background(), rpc.StampOf(ctx)), method, body)
				if len(answer) != 1 { // it has another list, or could not
					n.replica.Behind(to.Ed25519)
				}
				return answer, nil
			},
		})
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { n.replica.Run(ctx) })
		n.quiet = func() {
			cancel()
			running.Wait()
		}
		n.stop = func() {
			n.up.Store(false)
			n.quiet()
			if err := db.Close(); err != nil {
				l.t.Error(err)
			}
		}
		n.up.Store(true)
	}
}

// halt takes nodes down without notice.
func (l *lab) halt(numbers ...int) {
	for _, i := range numbers {
		l.nodes[i].stop()
	}
}

func (l *lab) close() {
	for _, n := range l.nodes {
		if n.up.Load() {
			n.stop()
		}
	}
}

func pair(a, b *labNode) [2]*labNode {
	if a.number > b.number {
		a, b = b, a
	}
	return [2]*labNode{a, b}
}

// reach gives the other node, nil when it cannot be reached from this one.
func (n *labNode) reach(to swarm.Node) *labNode {
	peer := n.node(to)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.up.Load() || !peer.up.Load() || n.cut[pair(n, peer)] {
		return nil
	}
	return peer
}

// node finds the node that a list names.
func (l *lab) node(named swarm.Node) *labNode {
	return l.nodes[slices.IndexFunc(l.nodes, func(n *labNode) bool { return n.keys.Ed25519() == named.Ed25519 })]
}

// isolate cuts links between the given pairs and heals all others.
func (l *lab) isolate(pairs ...[2]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.cut)
	for _, p := range pairs {
		l.cut[pair(l.nodes[p[0]], l.nodes[p[1]])] = true
	}
}

// person is an account with an owner who signs.
type person struct {
	keys *keys.Pair
	id   account.ID
}

func newPerson(t testing.TB, seed ...byte) person {
	t.Helper()
	var s [32]byte
	copy(s[:], seed)
	s[31] = 0xac
	k := keys.FromSeed(s)
	id, err := account.IDFromEd25519(k.Ed25519())
	if err != nil {
		t.Fatal(err)
	}
	return person{k, id}
}

// ask sends a request to a node and returns the answer's status.
func (p person) ask(n *labNode, method string, text []byte, params map[string]any) int {
	n.t.Helper()
	ed := p.keys.Ed25519()
	params["pubkey"] = p.id.String()
	if text != nil {
		params["pubkey_ed25519"] = hex.EncodeToString(ed[:])
		params["signature"] = base64.StdEncoding.EncodeToString(p.keys.Sign(text))
	}
	body, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		n.t.Fatal(err)
	}
	r := n.rpc.Handle(context.Background(), body)
	if r.Status != 200 {
		n.t.Errorf("%s at node %d: %d %v", method, n.number, r.Status, r.Body)
	}
	return r.Status
}

func (p person) store(n *labNode, ns int16, data string, ttl time.Duration) (hash string) {
	n.t.Helper()
	now := time.Now().UnixMilli()
	var text []byte
	if ns%10 != 0 {
		text = rpc.StoreText(ns, now)
	}
	p.ask(n, "store", text, map[string]any{
		"namespace": ns, "timestamp": now, "ttl": ttl.Milliseconds(),
		"data": base64.StdEncoding.EncodeToString([]byte(data)),
	})
	return rpc.MessageHash(p.id, ns, []byte(data))
}

func (p person) delete(n *labNode, hashes ...string) {
	n.t.Helper()
	p.ask(n, "delete", rpc.DeleteText(hashes), map[string]any{"messages": hashes})
}

func (p person) expire(n *labNode, mode rpc.ExpireMode, expiry time.Time, hashes ...string) {
	n.t.Helper()
	at := []int64{expiry.UnixMilli()}
	params := map[string]any{"messages": hashes, "expiry": at[0]}
	if mode != rpc.ExpireSet {
		params[string(mode)] = true
	}
	p.ask(n, "expire", rpc.ExpireText(mode, at, hashes), params)
}

func (p person) deleteAll(n *labNode, scope rpc.Scope) {
	n.t.Helper()
	now := time.Now().UnixMilli()
	params := map[string]any{"timestamp": now, "namespace": int(scope)}
	if scope == rpc.AllNamespaces {
		params["namespace"] = "all"
	}
	p.ask(n, "delete_all", rpc.DeleteAllText(scope, now), params)
}

// holds describes all messages of accounts in some namespaces at a node: what
// clients can see of them, in an order of its own.
func (n *labNode) holds(people []person, namespaces ...int16) string {
	n.t.Helper()
	var lines []string
	for i, p := range people {
		for _, ns := range namespaces {
			messages, _, err := n.db.Retrieve(p.id, ns, "", 0, 0)
			if err != nil {
				n.t.Fatal(err)
			}
			for _, m := range messages {
				lines = append(lines, fmt.Sprintf("%d/%d %s until %d, sent %d", i, ns, m.Data, m.Expiry-start, m.Timestamp-start))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// start is when time begins in a bubble of testing/synctest, in ms.
var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

// texts are the messages of an account in a namespace, sorted.
func (n *labNode) texts(p person, ns int16) string {
	n.t.Helper()
	messages, _, err := n.db.Retrieve(p.id, ns, "", 0, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	var texts []string
	for _, m := range messages {
		texts = append(texts, string(m.Data))
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// equal checks that nodes have equal sets.
func (l *lab) equal(numbers ...int) {
	l.t.Helper()
	first, ok := l.nodes[numbers[0]].db.Roots()
	for _, i := range numbers[1:] {
		roots, also := l.nodes[i].db.Roots()
		if !ok || !also || roots != first {
			l.t.Errorf("node %d and node %d differ: %x, %x", numbers[0], i, first, roots)
		}
	}
}

// askAs sends a request about the account that a delegate signs.
func (p person) askAs(delegate person, token rpc.Token, n *labNode, method string, text []byte, params map[string]any) int {
	n.t.Helper()
	ed := p.keys.Ed25519()
	params["pubkey_ed25519"] = hex.EncodeToString(ed[:])
	params["subaccount"] = base64.StdEncoding.EncodeToString(token[:])
	params["subaccount_sig"] = base64.StdEncoding.EncodeToString(p.keys.Sign(token[:]))
	params["signature"] = base64.StdEncoding.EncodeToString(delegate.keys.Sign(text))
	return p.ask(n, method, nil, params)
}
