package load

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"hearth/node/account"
	"hearth/node/keys"
	"hearth/node/onion"
	"hearth/node/rpc"
	"hearth/node/swarm"
)

// Row is a kind of request.
type Row string

// The rows of the table.
const (
	Store         Row = "store"
	Retrieve      Row = "retrieve 10"
	NothingNew    Row = "nothing new"
	OnionInfo     Row = "onion info"
	OnionRetrieve Row = "onion retrieve 10"
	OnionStore    Row = "onion store"
)

// Rows are all rows in the order of the table.
var Rows = []Row{Store, Retrieve, NothingNew, OnionInfo, OnionRetrieve, OnionStore}

// Direct are those that need no onion.
var Direct = []Row{Store, Retrieve, NothingNew}

const (
	kept         = 10               // messages of each account that is asked for them
	askers       = 64               // such accounts
	signedFor    = 20 * time.Second // a signature is used again; nodes take it for a minute
	requestTime  = 30 * time.Second
	largestReply = 11 << 20 // bytes
	ttl          = 24 * time.Hour
)

// Bench is a prepared target: one of its swarms, and accounts of that swarm.
type Bench struct {
	target  *Target
	foreign bool
	list    *swarm.List
	swarm   []swarm.Node
	writers []account.ID // store requests to inboxes are not signed
	readers []*reader
	sources []*http.Client
	pace    *time.Ticker // nil on loopback
	next    atomic.Uint64
}

// reader is an account with ten messages.
type reader struct {
	keys *keys.Pair
	id   account.ID
	last string // hash of its last message

	mu     sync.Mutex
	signed time.Time
	params [2][]byte // of a request for everything, and for what is newer than the last
}

// Prepare picks the swarm with that many members (0: any) and makes so many
// accounts of it to store to, besides those that are asked for their messages.
// The Bench is to be closed.
func (t *Target) Prepare(ctx context.Context, members, accounts int) (_ *Bench, err error) {
	if len(t.Nodes) == 0 {
		return nil, errors.New("a target without nodes")
	}
	foreign, err := t.foreign()
	if err != nil {
		return nil, err
	}
	b := &Bench{target: t, foreign: foreign, list: &swarm.List{Nodes: t.Nodes}}
	b.sources = sources(foreign)
	if foreign {
		b.pace = time.NewTicker(time.Second / foreignPace)
	}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	var id string
	for tries := 0; len(b.writers) < accounts || len(b.readers) < askers; tries++ {
		if tries > 200*(accounts+askers) {
			return nil, fmt.Errorf("no swarm of %d members answers for accounts", members)
		}
		pair, err := keys.Generate(rand.Reader)
		if err != nil {
			return nil, err
		}
		who, err := account.IDFromEd25519(pair.Ed25519())
		if err != nil {
			return nil, err
		}
		theirs, nodes, err := b.swarmOf(ctx, who)
		if err != nil {
			return nil, err
		}
		if id == "" && (members == 0 || len(nodes) == members) {
			id, b.swarm = theirs, nodes
		}
		switch {
		case theirs != id:
		case len(b.readers) < askers:
			b.readers = append(b.readers, &reader{keys: pair, id: who})
		default:
			b.writers = append(b.writers, who)
		}
	}
	w := b.worker(0, 1)
	for _, r := range b.readers {
		for i := range kept {
			body, hash := storeBody(r.id)
			if err := w.store(ctx, b.swarm[i%len(b.swarm)], body); err != nil {
				return nil, fmt.Errorf("storing the first messages: %w", err)
			}
			r.last = hash
		}
	}
	// A node lists messages in the order in which they came to it.
	for _, r := range b.readers {
		if r.last, err = w.lastHash(ctx, r); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Close gives the connections up.
func (b *Bench) Close() {
	for _, s := range b.sources {
		s.CloseIdleConnections()
	}
	if b.pace != nil {
		b.pace.Stop()
	}
}

// sources are clients with an address each.
func sources(foreign bool) []*http.Client {
	count := 64
	if foreign {
		count = 1
	}
	list := make([]*http.Client, count)
	for i := range list {
		dialer := &net.Dialer{Timeout: 5 * time.Second}
		if !foreign {
			dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 77, 0, byte(i+1))}
		}
		list[i] = &http.Client{
			Timeout: requestTime,
			Transport: &http.Transport{
				DialContext:         dialer.DialContext,
				TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, // as for every client of the network
				MaxIdleConnsPerHost: 4,
				IdleConnTimeout:     5 * time.Second, // nodes hang up after ten
			},
		}
	}
	return list
}

// worker sends one request after the other.
type worker struct {
	*Bench
	sources []*http.Client
	turn    int
	took    []time.Duration
	failed  int
	reason  error
}

func (b *Bench) worker(i, of int) *worker {
	w := &worker{Bench: b, turn: i}
	for ; i < len(b.sources); i += of {
		w.sources = append(w.sources, b.sources[i])
	}
	if w.sources == nil {
		w.sources = []*http.Client{b.sources[i%len(b.sources)]}
	}
	return w
}

// do sends one request of a row and checks the answer.
func (w *worker) do(ctx context.Context, row Row) error {
	if w.pace != nil {
		select {
		case <-w.pace.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	n := w.next.Add(1)
	to := w.swarm[n%uint64(len(w.swarm))]
	switch row {
	case Store:
		body, _ := storeBody(w.writers[n%uint64(len(w.writers))])
		return w.store(ctx, to, body)
	case OnionStore:
		body, _ := storeBody(w.writers[n%uint64(len(w.writers))])
		answer, err := w.onion(ctx, to, body)
		return checkStored(answer, err)
	case Retrieve, NothingNew, OnionRetrieve:
		newer, want := 0, kept
		if row == NothingNew {
			newer, want = 1, 0
		}
		body := w.readers[n%uint64(len(w.readers))].request(newer)
		ask := w.direct
		if row == OnionRetrieve {
			ask = w.onion
		}
		answer, err := ask(ctx, to, body)
		if err != nil {
			return err
		}
		if got := bytes.Count(answer, []byte(`"data"`)); got != want {
			return fmt.Errorf("%d messages came, not %d", got, want)
		}
		return nil
	case OnionInfo:
		answer, err := w.onion(ctx, to, []byte(`{"method":"info","params":{}}`))
		if err == nil && !bytes.Contains(answer, []byte(`"version"`)) {
			err = errors.New("an answer without version")
		}
		return err
	}
	return fmt.Errorf("no row %q", row)
}

func (w *worker) store(ctx context.Context, to swarm.Node, body []byte) error {
	return checkStored(w.direct(ctx, to, body))
}

// checkStored wants every member of the swarm to have stored the message.
func checkStored(answer []byte, err error) error {
	switch {
	case err != nil:
		return err
	case bytes.Contains(answer, []byte(`"failed"`)):
		return errors.New("a member of the swarm did not store the message")
	case !bytes.Contains(answer, []byte(`"signature"`)):
		return errors.New("nobody signed that the message is stored")
	}
	return nil
}

// storeBody is a request to store a message of random bytes, as all messages
// look like to a node.
func storeBody(to account.ID) (body []byte, hash string) {
	data := make([]byte, MessageSize)
	for i := 0; i < len(data); i += 8 {
		u := mathrand.Uint64()
		for j := range min(8, len(data)-i) {
			data[i+j] = byte(u >> (8 * j))
		}
	}
	b := make([]byte, 0, 1600)
	b = append(b, `{"method":"store","params":{"pubkey":"`...)
	b = append(b, to.String()...)
	b = append(b, `","timestamp":`...)
	b = strconv.AppendInt(b, time.Now().UnixMilli(), 10)
	b = append(b, `,"ttl":`...)
	b = strconv.AppendInt(b, ttl.Milliseconds(), 10)
	b = append(b, `,"data":"`...)
	b = base64.StdEncoding.AppendEncode(b, data)
	return append(b, `"}}`...), rpc.MessageHash(to, 0, data)
}

// request asks for the reader's messages, or for those newer than the last.
func (r *reader) request(newer int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.signed) < signedFor {
		return r.params[newer]
	}
	r.signed = now
	pub := r.keys.Ed25519()
	params := map[string]any{
		"pubkey": r.id.String(), "pubkey_ed25519": hex.EncodeToString(pub[:]), "timestamp": now.UnixMilli(),
		"signature": base64.StdEncoding.EncodeToString(r.keys.Sign(rpc.RetrieveText(0, now.UnixMilli()))),
	}
	for i := range r.params {
		if i == 1 {
			params["last_hash"] = r.last
		}
		r.params[i], _ = json.Marshal(map[string]any{"method": "retrieve", "params": params}) // strings and numbers only
	}
	return r.params[newer]
}

// lastHash waits until all members have the reader's messages in one order, and
// returns the last. Where they came in different orders there is none.
func (w *worker) lastHash(ctx context.Context, r *reader) (string, error) {
	last := ""
	for _, to := range w.swarm {
		answer, err := w.direct(ctx, to, r.request(0))
		if err != nil {
			return "", err
		}
		var a struct {
			Messages []struct{ Hash string }
		}
		if err := json.Unmarshal(answer, &a); err != nil {
			return "", err
		}
		if len(a.Messages) != kept {
			return "", fmt.Errorf("node %s holds %d of %d messages", to.Address, len(a.Messages), kept)
		}
		hash := a.Messages[kept-1].Hash
		if last != "" && hash != last {
			return "", fmt.Errorf("node %s has the messages in another order", to.Address)
		}
		last = hash
	}
	r.mu.Lock()
	r.signed = time.Time{} // so that the hash gets into the request
	r.mu.Unlock()
	return last, nil
}

// direct sends a storage request without an onion.
func (w *worker) direct(ctx context.Context, to swarm.Node, body []byte) ([]byte, error) {
	return w.post(ctx, to, "/storage_rpc/v1", body)
}

// onion sends a storage request over the hops of a random path.
func (w *worker) onion(ctx context.Context, to swarm.Node, body []byte) ([]byte, error) {
	guard, path, err := w.path(to)
	if err != nil {
		return nil, err
	}
	req, err := onion.Build(rand.Reader, path, onion.Hop{Ed25519: to.Ed25519, X25519: to.X25519}, body)
	if err != nil {
		return nil, err
	}
	sealed, err := w.post(ctx, guard, "/onion_req/v2", req.Body)
	if err != nil {
		return nil, err
	}
	status, answer, err := req.OpenReply(sealed)
	if err != nil {
		return nil, fmt.Errorf("opening the answer: %w", err)
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("the destination says %d %.100s", status, answer)
	}
	return answer, nil
}

// path picks the nodes before the destination. In a network with too few nodes
// the destination, and others, come twice: nodes do not mind.
func (b *Bench) path(to swarm.Node) (guard swarm.Node, path []onion.Hop, err error) {
	hops := b.target.Hops
	if hops == 0 {
		hops = 3
	}
	var chosen []swarm.Node
	for len(chosen) < hops {
		for _, i := range mathrand.Perm(len(b.list.Nodes)) {
			n := b.list.Nodes[i]
			if n.X25519 != ([32]byte{}) && (n.Ed25519 != to.Ed25519 || len(b.list.Nodes) <= hops) && len(chosen) < hops {
				chosen = append(chosen, n)
			}
		}
		if len(chosen) == 0 {
			return guard, nil, errors.New("no nodes with X25519 keys: onions need them")
		}
	}
	for _, n := range chosen {
		path = append(path, onion.Hop{Ed25519: n.Ed25519, X25519: n.X25519})
	}
	return chosen[0], path, nil
}

func (w *worker) post(ctx context.Context, to swarm.Node, path string, body []byte) ([]byte, error) {
	w.turn++
	source := w.sources[w.turn%len(w.sources)]
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+to.Address.String()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := source.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, largestReply))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("node %s says %d %.100q", to.Address, resp.StatusCode, answer)
	}
	return answer, nil
}

// swarmOf asks for the swarm of an account: its name and its members, those that
// are in the target's list.
func (b *Bench) swarmOf(ctx context.Context, who account.ID) (id string, members []swarm.Node, err error) {
	w := b.worker(0, 1)
	w.turn = int(b.next.Add(1))
	if b.pace != nil {
		<-b.pace.C
	}
	answer, err := w.direct(ctx, b.target.Nodes[0], []byte(`{"method":"get_swarm","params":{"pubkey":"`+who.String()+`"}}`))
	if err != nil {
		return "", nil, fmt.Errorf("asking for a swarm: %w", err)
	}
	var a struct {
		Swarm  string
		Snodes []struct {
			IP      string `json:"ip"`
			HTTPS   uint16 `json:"port_https"`
			Ed25519 string `json:"pubkey_ed25519"`
		}
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return "", nil, fmt.Errorf("reading a swarm: %w", err)
	}
	for _, s := range a.Snodes {
		ip, err := netip.ParseAddr(s.IP)
		if err != nil {
			return "", nil, fmt.Errorf("reading a swarm: %w", err)
		}
		at := netip.AddrPortFrom(ip, s.HTTPS)
		i := slices.IndexFunc(b.target.Nodes, func(n swarm.Node) bool { return n.Address == at })
		if i < 0 {
			return "", nil, fmt.Errorf("%w: swarm member %s is not among the nodes", ErrForeign, at)
		}
		members = append(members, b.target.Nodes[i])
	}
	return a.Swarm, members, nil
}
