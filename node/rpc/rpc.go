// Package rpc is the storage RPC of a service node: the requests by which
// clients store, fetch and delete the messages of an account, and by which the
// nodes of a swarm copy them to each other.
//
// A client's request comes in as JSON through [Service.Handle], whether it came
// over HTTPS or out of an onion, and leaves as a [Response]. The service checks
// it completely: limits, clock, signature, and whether this node's swarm is the
// account's. It then passes store, delete and their like on to the other members
// of the swarm, does its own part in the message database, and answers with what
// each member said, signed by that member. A peer's copy comes in through
// [Service.HandleForwarded]; the same code runs, except that nothing is passed on.
//
// Clients use the other half of the package: the texts that requests and results
// are signed over ([StoreText], [RetrieveText], …, [DeleteResultText], …),
// [MessageHash], [Token] and [MaxSizes].
//
// Everything a client can see, down to the wording of errors, is that of the
// Oxen storage server 2.8.0.
package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"hearth/node/bt"
	"hearth/node/keys"
	"hearth/node/push"
	"hearth/node/storage"
	"hearth/node/swarm"
)

// Config is what a service works with. Keys, DB, List and Now are required.
type Config struct {
	Keys *keys.Pair // of this node; signs results
	DB   *storage.DB
	List func() *swarm.List // the active nodes; may return nil while none are known

	// Forward sends a request to another member of the swarm and returns the parts
	// of its answer, as HandleForwarded there gave them. An error, or the end of
	// ctx, means that there was no answer. If it can, it takes the stamp along
	// (StampOf) and gives it to HandleForwarded there (WithStamp).
	Forward func(ctx context.Context, to swarm.Node, method string, body []byte) (parts [][]byte, err error)

	Now func() time.Time

	// Room is how many bytes the database may hold, for the limits of one account;
	// without it there are none.
	Room func() int64

	// Push is where requests wait for messages; whoever makes the service has the
	// database tell it of new ones. Without it there is no method "monitor".
	Push *push.Hub

	Version  [3]int // of the storage server that this one equals; {2, 8, 0} if zero
	HardFork [2]int // of the network: major, revision; {19, 4} if zero

	// ServiceNodes answers the node list that clients ask for. Its error is told
	// to the client. Without it such requests are refused.
	ServiceNodes func(params json.RawMessage) (json.RawMessage, error)
	// Ledger answers those who prove the node list. Its error is told to the client.
	// Without it such requests are refused.
	Ledger func(params json.RawMessage) (json.RawMessage, error)

	Log *slog.Logger // trouble with the database; none if nil
}

// Response is an answer: a status code of HTTP and a body, either a string, sent
// as plain text, a [Binary], or a value for encoding/json.
type Response struct {
	Status int
	Body   any
}

// Binary is a body of bytes. It travels as they are, and within JSON and onions as
// text in base64 (storage server, wrap_proxy_response).
type Binary []byte

// Service answers storage requests. Its methods may be used by several
// goroutines at once.
type Service struct {
	cfg      Config
	self     [32]byte
	requests atomic.Uint64
	inflow   *inflow
}

// NewService makes a service.
func NewService(cfg Config) *Service {
	if cfg.Version == [3]int{} {
		cfg.Version = [3]int{2, 8, 0}
	}
	if cfg.HardFork == [2]int{} {
		cfg.HardFork = [2]int{19, 4}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Room == nil {
		cfg.Room = func() int64 { return 0 }
	}
	return &Service{cfg: cfg, self: cfg.Keys.Ed25519(), inflow: newInflow(cfg.Room, cfg.Now)}
}

// Requests is the number of requests so far, from clients and from peers.
func (s *Service) Requests() uint64 { return s.requests.Load() }

// Status codes in use that are more than "fine" and "bad request".
const (
	statusOK         = 200
	statusBad        = 400
	statusUnsigned   = 401
	statusForbidden  = 403
	statusNotFound   = 404
	statusClock      = 406
	statusWrongSwarm = 421
	statusFailed     = 500
	statusBadDaemon  = 502
)

// endpoint is a method of the RPC. parse reads the parameters completely and
// returns the work that is to be done, or a refusal.
type endpoint struct {
	parse       func(*params) (work, error)
	meta        bool // contains other requests and may not be in a batch
	forwardable bool // peers send it
}

// work is a request that has been read. It does this node's part and returns
// when that is done; calling the result waits for the other members' part.
type work func(*call) wait

type wait func() Response

// done is the end of work that has nothing to wait for.
func done(status int, body any) wait {
	return func() Response { return Response{status, body} }
}

// call is one run of a request: its time and the node list it sees.
type call struct {
	*Service
	ctx       context.Context
	now       int64 // ms
	list      *swarm.List
	forwarded bool
	stamp     int64 // under which it is carried out, see WithStamp
	room      *int  // bytes of messages that the answer may still hold
}

func (s *Service) call(ctx context.Context, forwarded bool) *call {
	room := maxAnswer
	return &call{
		Service: s, ctx: ctx, now: s.cfg.Now().UnixMilli(), list: s.cfg.List(),
		forwarded: forwarded, stamp: s.stamp(ctx), room: &room,
	}
}

// next is the call of a request within this one.
func (c *call) next() *call {
	n := c.Service.call(c.ctx, false)
	n.room = c.room
	return n
}

var endpoints map[string]endpoint

func init() { // because batch looks into the table that it is in
	endpoints = map[string]endpoint{
		"store":    {parse: parseStore, forwardable: true},
		"retrieve": {parse: parseRetrieve},
		"delete":   {parse: parseDelete, forwardable: true},

		"delete_all":    {parse: deleteAll.parse, forwardable: true},
		"delete_before": {parse: deleteBefore.parse, forwardable: true},
		"expire_all":    {parse: expireAll.parse, forwardable: true},
		"expire":        {parse: parseExpire, forwardable: true},
		"get_expiries":  {parse: parseGetExpiries},

		"revoke_subaccount":   {parse: parseRevoke, forwardable: true},
		"unrevoke_subaccount": {parse: parseUnrevoke, forwardable: true},

		"get_swarm":             {parse: parseGetSwarm},
		"get_snodes_for_pubkey": {parse: parseGetSwarm},
		"info":                  {parse: parseInfo},
		"active_nodes_bin":      {parse: parseActiveNodes},
		"oxend_request":         {parse: parseOxendRequest},

		"batch":    {parse: parseBatch, meta: true},
		"sequence": {parse: parseSequence, meta: true},
		"ifelse":   {parse: parseIfElse, meta: true},
	}
}

// Handle answers a client's request, a JSON object with the keys method and
// params. It returns when every member of the swarm has answered or 5 s are over;
// a "monitor" may take up to [MaxMonitorWait].
func (s *Service) Handle(ctx context.Context, body []byte) Response {
	s.requests.Add(1)
	body, ok := checkJSON(body)
	if !ok {
		return Response{statusBad, "invalid json"}
	}
	top, _ := object(body, isCallKey)
	method, ok := jsonString(top["method"])
	if !ok {
		return Response{statusBad, "invalid json: no `method` field"}
	}
	p, ok := jsonParams(top["params"])
	if !ok {
		return Response{statusBad, "invalid json: no `params` field"}
	}
	if park := parkOf(ctx); method == "monitor" && park != nil && s.cfg.Push != nil {
		return s.monitor(ctx, top["params"], park)
	}
	e, ok := endpoints[method]
	if !ok {
		return Response{statusBad, "no method " + method}
	}
	do, err := e.parse(p)
	if err != nil {
		return refused(err)
	}
	return do(s.call(ctx, false))()
}

func isCallKey(name string) bool { return name == "method" || name == "params" }

func refused(err error) Response { return Response{statusBad, "invalid request: " + err.Error()} }

// HandleForwarded answers a request that another service node passed on: body is
// a bt-encoded dictionary. The answer is one part, the bt-encoded result of this
// node, or two parts, status and text. It is nil for an unknown method, which
// gets no answer at all.
func (s *Service) HandleForwarded(ctx context.Context, method string, body []byte) [][]byte {
	s.requests.Add(1)
	e, ok := endpoints[method]
	if !ok {
		return nil
	}
	if !e.forwardable {
		return parts(refused(refusal("received invalid forwarded non-forwardable request")))
	}
	v, err := bt.Unmarshal(body)
	dict, ok := v.(bt.Dict)
	if err != nil || !ok {
		return parts(Response{statusBad, "invalid body: expected json or bt_dict"})
	}
	do, err := e.parse(&params{bt: dict})
	if err != nil {
		return parts(refused(err))
	}
	return parts(do(s.call(ctx, true))())
}

// parts writes a response for a peer.
func parts(r Response) [][]byte {
	body, isText := r.Body.(string)
	if !isText {
		b, err := bt.Marshal(r.Body)
		if err != nil {
			return parts(Response{statusFailed, "request failed"})
		}
		body = string(b)
	}
	if r.Status == statusOK {
		return [][]byte{[]byte(body)}
	}
	return [][]byte{[]byte(strconv.Itoa(r.Status)), []byte(body)}
}

// answer adds to a body what every answer carries: the node's time, by which
// clients set their clock, and the hard fork.
func (c *call) answer(status int, body map[string]any) Response {
	body["t"] = c.now
	body["hf"] = []any{c.cfg.HardFork[0], c.cfg.HardFork[1]}
	return Response{status, body}
}

// near reports whether a time is within the tolerance of now, in ms.
func (c *call) near(t int64, tolerance int64) bool {
	return t >= c.now-tolerance && t <= c.now+tolerance
}

// signatureWindow is how far the time in a signature may be off, in ms.
const signatureWindow = 60_000

// forwardedWindow is the same for some requests that a peer passed on: they were
// in time when the peer checked them.
const forwardedWindow = 70_000

func (c *call) window() int64 {
	if c.forwarded {
		return forwardedWindow
	}
	return signatureWindow
}

// trouble logs a failure of the database that the client does not get to see.
func (c *call) trouble(method string, err error) {
	if !errors.Is(err, storage.ErrFull) {
		c.cfg.Log.Error("storage request", "method", method, "err", err)
	}
}
