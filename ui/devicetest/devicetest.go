// Package devicetest stands in for the services of an appliance in tests of
// its screens and its console: a messenger, a node and a device that hold what
// a test puts into them and answer over real gRPC, through memory.
package devicetest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"hearth/node/api"
)

// Alice is the account of the device, Bob somebody else. Both are Session IDs
// in form only.
const (
	Alice = "05" + "9f3c41d7a8b60e52c4f7186d93ab20e5" + "71c8d4f6093be2a57d10964fc83eb52a"
	Bob   = "05" + "44d7e10b6a92c85f3e71d0b9482fa6c3" + "185e7b94d02fc6a83917e5b04d8c2f61"
	// Words are what Phrase gives.
	Words = "ambush leech tirade nautical olive ouch erected bulb puzzled safety taunts zero ambush"
	// Minute is a time that the tests count from, in Unix milliseconds:
	// 2026-11-03 14:02:00 UTC.
	Minute = 1793714520000
)

// Services is what runs on the device. Its exported fields are what the
// services answer; change them through Change.
type Services struct {
	State    *api.MessengerState
	Node     *api.NodeStatus
	Peers    []*api.Peer
	Device   *api.DeviceStatus
	Logs     []string
	PIN      string
	Contacts []*api.Contact
	Messages []*api.Message
	Groups   []*api.Group
	Sent     []*api.SendRequest
	Typed    chan *api.TypingRequest // of the calls of Typing, the first hundred
	Files    map[File][]byte         // that FetchFile gives
	Pictures map[string][]byte       // by Session ID, the own one under ""
	Settings *api.SettingsReply
	Devices  []*api.AccountDevice
	// Waits makes sent messages stay in the outbox.
	Waits    bool
	PowerOff []bool // one for each call: restart?
	Unwiped  uint32 // of the three nodes of the own swarm, those that do not confirm a Wipe
	// Down names services ("Messenger", "Node", "Device") that are not there.
	Down map[string]bool
	// Fail gives the error of a method, such as "Send".
	Fail map[string]error
	// Hang makes a method wait until its caller gives up.
	Hang map[string]bool

	mu        sync.Mutex
	called    map[string]chan struct{} // closed with the next call of a method
	followers map[chan *api.Event]bool
	log       chan string   // lines on their way to the console
	shown     chan struct{} // one for each that it has confirmed
	change    chan struct{}
	conn      *grpc.ClientConn
}

// Start runs the services of a device without an account until the test ends.
func Start(t testing.TB) *Services {
	s := &Services{
		State:     &api.MessengerState{TriesLeft: 5},
		Node:      &api.NodeStatus{Ed25519: strings.Repeat("3b", 32), Address: "127.0.200.1:22300", Ready: true, Swarm: "7fffffffffffffff", SwarmMembers: 4, KnownNodes: 10, Messages: 12, Bytes: 34567, Onions: 81, Requests: 45, Started: Minute - 90_000},
		Device:    &api.DeviceStatus{Version: "0.2", Board: "virt-amd64", UptimeMs: 95_000, Address: "10.0.2.15"},
		Settings:  &api.SettingsReply{},
		Typed:     make(chan *api.TypingRequest, 100),
		Devices:   []*api.AccountDevice{{Id: "own", Name: "Hearth", Kind: "appliance", FirstSeen: Minute - 86_400_000, LastSeen: Minute, Own: true}},
		Down:      map[string]bool{},
		Fail:      map[string]error{},
		Hang:      map[string]bool{},
		followers: map[chan *api.Event]bool{},
		log:       make(chan string, 256),
		shown:     make(chan struct{}, 256),
		change:    make(chan struct{}),
	}
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream))
	api.RegisterMessengerServer(server, messengerServer{s: s})
	api.RegisterNodeServer(server, nodeServer{s: s})
	api.RegisterDeviceServer(server, deviceServer{s: s})
	go server.Serve(listener)
	conn, err := grpc.NewClient("passthrough:///device",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
	})
	return s
}

// Clients gives what the device's own programs would get.
func (s *Services) Clients() (api.MessengerClient, api.NodeClient, api.DeviceClient) {
	return api.NewMessengerClient(s.conn), api.NewNodeClient(s.conn), api.NewDeviceClient(s.conn)
}

// Open gives the device an open account and a friend.
func (s *Services) Open() {
	s.Change(func() {
		s.State = OpenState()
		s.PIN = "123456"
		s.Contacts = []*api.Contact{{SessionId: Bob, Name: "Bob"}}
	})
}

// OpenState is the state of an account that works.
func OpenState() *api.MessengerState {
	return &api.MessengerState{Account: api.MessengerState_OPEN, SessionId: Alice, TriesLeft: 5, KnownNodes: 10, Paths: 2, LastPoll: Minute - 4000}
}

// Change changes the services' fields and tells the followers of events the
// messenger's state if it became another.
func (s *Services) Change(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := proto.Clone(s.State)
	change()
	if !proto.Equal(before, s.State) {
		s.tell(&api.Event{Event: &api.Event_State{State: proto.CloneOf(s.State)}})
	}
	close(s.change)
	s.change = make(chan struct{})
}

// Look reads the services' fields.
func (s *Services) Look(look func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	look()
}

// Receive lets a message arrive.
func (s *Services) Receive(from, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &api.Message{SessionId: from, Text: text, Timestamp: Minute + int64(len(s.Messages))*60_000, Hash: fmt.Sprintf("hash-%d", len(s.Messages)), Id: s.number(from)}
	s.Messages = append(s.Messages, m)
	s.State.Unread++
	i := slices.IndexFunc(s.Contacts, func(c *api.Contact) bool { return c.SessionId == from })
	if i < 0 {
		i = len(s.Contacts)
		s.Contacts = append(s.Contacts, &api.Contact{SessionId: from})
	}
	c := s.Contacts[i]
	c.Unread++
	c.LastText, c.LastTime = text, m.Timestamp
	s.tell(&api.Event{Event: &api.Event_Received{Received: proto.CloneOf(m)}})
	s.tell(&api.Event{Event: &api.Event_State{State: proto.CloneOf(s.State)}})
}

// Followed waits until n callers follow the events.
func (s *Services) Followed(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		enough, change := len(s.followers) >= n, s.change
		s.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-change:
		}
	}
}

// Say lets the device print a line of its log, and waits until the console has
// shown it.
func (s *Services) Say(ctx context.Context, line string) error {
	s.log <- line
	select {
	case <-s.shown:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Services) tell(e *api.Event) {
	for f := range s.followers {
		select {
		case f <- e:
		default: // tests send fewer than a follower's buffer holds
		}
	}
}

// Called is closed when somebody calls a method, such as "Send", the next time.
func (s *Services) Called(method string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.called == nil {
		s.called = make(map[string]chan struct{})
	}
	s.called[method] = make(chan struct{})
	return s.called[method]
}

// allowed is what every call goes through first.
func (s *Services) allowed(ctx context.Context, method string) error {
	parts := strings.Split(method, "/") // "", "hearth.Messenger", "Send"
	service, name := strings.TrimPrefix(parts[1], "hearth."), parts[2]
	s.mu.Lock()
	down, fail, hang := s.Down[service], s.Fail[name], s.Hang[name]
	if c := s.called[name]; c != nil {
		close(c)
		delete(s.called, name)
	}
	s.mu.Unlock()
	switch {
	case down:
		return status.Error(codes.Unavailable, "nobody serves the socket")
	case fail != nil:
		return fail
	case hang:
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

func (s *Services) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := s.allowed(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return next(ctx, req)
}

func (s *Services) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := s.allowed(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return next(srv, stream)
}

type messengerServer struct {
	api.UnimplementedMessengerServer
	s *Services
}

func (m messengerServer) state() *api.MessengerState { return proto.CloneOf(m.s.State) }

func (m messengerServer) State(context.Context, *api.StateRequest) (*api.MessengerState, error) {
	return m.state(), nil
}

func (m messengerServer) Create(_ context.Context, r *api.CreateRequest) (*api.MessengerState, error) {
	if m.s.State.Account != api.MessengerState_NONE {
		return nil, status.Error(codes.AlreadyExists, "there is an account already")
	}
	m.s.PIN = r.GetPin()
	m.open()
	return m.state(), nil
}

func (m messengerServer) open() {
	developer := m.s.State.Developer
	m.s.State = OpenState()
	m.s.State.Developer = developer
	m.s.tell(&api.Event{Event: &api.Event_State{State: m.state()}})
}

func (m messengerServer) Unlock(_ context.Context, r *api.UnlockRequest) (*api.MessengerState, error) {
	if err := m.check(r.GetPin()); err != nil {
		return nil, err
	}
	m.open()
	return m.state(), nil
}

func (m messengerServer) check(pin string) error {
	if pin == m.s.PIN {
		return nil
	}
	if m.s.State.TriesLeft > 0 {
		m.s.State.TriesLeft--
	}
	return status.Errorf(codes.PermissionDenied, "wrong PIN, %d tries left", m.s.State.TriesLeft)
}

func (m messengerServer) Phrase(_ context.Context, r *api.PhraseRequest) (*api.PhraseReply, error) {
	if err := m.check(r.GetPin()); err != nil {
		return nil, err
	}
	return &api.PhraseReply{Phrase: Words}, nil
}

func (m messengerServer) Restore(_ context.Context, r *api.RestoreRequest) (*api.MessengerState, error) {
	if m.s.State.Account != api.MessengerState_NONE {
		return nil, status.Error(codes.AlreadyExists, "there is an account already")
	}
	if r.GetPhrase() != Words {
		return nil, status.Error(codes.InvalidArgument, "not a recovery phrase: word 4: the word is not in the list")
	}
	if r.GetPin() == "" {
		return m.state(), nil
	}
	m.s.PIN = r.GetPin()
	m.open()
	return m.state(), nil
}

func (m messengerServer) ChangePIN(_ context.Context, r *api.ChangePINRequest) (*api.MessengerState, error) {
	if err := m.check(r.GetPin()); err != nil {
		return nil, err
	}
	if r.GetNewPin() != "" {
		m.s.PIN = r.GetNewPin()
	}
	return m.state(), nil
}

func (m messengerServer) Lock(context.Context, *api.LockRequest) (*api.MessengerState, error) {
	m.close(api.MessengerState_LOCKED)
	return m.state(), nil
}

func (m messengerServer) Wipe(_ context.Context, r *api.WipeRequest) (*api.WipeReply, error) {
	if err := m.check(r.GetPin()); err != nil {
		return nil, err
	}
	if m.s.Unwiped > 0 && !r.GetAnyway() {
		return &api.WipeReply{Confirmed: 3 - m.s.Unwiped, Swarm: 3, Trouble: fmt.Sprintf("only %d of the 3 nodes of your swarm have deleted their copies", 3-m.s.Unwiped)}, nil
	}
	m.s.PIN, m.s.Contacts, m.s.Messages = "", nil, nil
	m.close(api.MessengerState_NONE)
	return &api.WipeReply{Wiped: true, Confirmed: 3 - m.s.Unwiped, Swarm: 3}, nil
}

// close leaves the state of a device whose account is not open.
func (m messengerServer) close(account api.MessengerState_Account) {
	m.s.State = &api.MessengerState{Account: account, TriesLeft: m.s.State.TriesLeft, Developer: m.s.State.Developer}
	m.s.tell(&api.Event{Event: &api.Event_State{State: m.state()}})
}

func (m messengerServer) find(who string) (id string, err error) {
	for _, c := range m.s.Contacts {
		if strings.EqualFold(who, c.Name) {
			return c.SessionId, nil
		}
	}
	if len(who) == 66 && strings.HasPrefix(who, "05") {
		return who, nil
	}
	if g, err := m.group(who); err == nil {
		return g.Id, nil
	}
	return "", status.Errorf(codes.NotFound, "nobody is called %q", who)
}

func (m messengerServer) Send(_ context.Context, r *api.SendRequest) (*api.SendReply, error) {
	id, err := m.find(r.GetTo())
	if err != nil {
		return nil, err
	}
	m.s.Sent = append(m.s.Sent, proto.CloneOf(r))
	sent := &api.Message{SessionId: id, Outgoing: true, Text: r.GetText(), Timestamp: Minute + int64(len(m.s.Messages))*60_000, Read: true, Id: m.s.number(id)}
	sent.Quote = m.s.quote(id, r.GetReplyTo())
	reply := &api.SendReply{Timestamp: Minute, Hash: "hash", Id: sent.Id, State: api.Message_WAITING}
	if !m.s.Waits {
		reply.State, reply.Stored, reply.Swarm = api.Message_STORED, 3, 3
	}
	sent.State, sent.Stored, sent.Swarm = reply.State, reply.Stored, reply.Swarm
	m.s.Messages = append(m.s.Messages, sent)
	m.s.tell(&api.Event{Event: &api.Event_Sent{Sent: proto.CloneOf(sent)}})
	return reply, nil
}

func (m messengerServer) Contacts(context.Context, *api.ContactsRequest) (*api.ContactsReply, error) {
	return m.s.contacts(func(c *api.Contact) bool { return !isRequest(c) }), nil
}

func (m messengerServer) AddContact(_ context.Context, r *api.AddContactRequest) (*api.Contact, error) {
	if len(r.GetSessionId()) != 66 {
		return nil, status.Error(codes.InvalidArgument, "a Session ID has 66 hex characters")
	}
	c := &api.Contact{SessionId: r.GetSessionId(), Name: r.GetName()}
	m.s.Contacts = append(m.s.Contacts, c)
	return proto.CloneOf(c), nil
}

func (m messengerServer) Messages(_ context.Context, r *api.MessagesRequest) (*api.MessagesReply, error) {
	id, err := m.find(r.GetWith())
	if err != nil {
		return nil, err
	}
	reply := &api.MessagesReply{}
	for _, message := range m.s.Messages {
		if message.SessionId != id || r.GetBefore() > 0 && message.Id >= r.GetBefore() {
			continue
		}
		reply.Messages = append(reply.Messages, proto.CloneOf(message))
		if r.GetMarkRead() {
			message.Read = true
		}
	}
	if r.GetMarkRead() {
		for _, c := range m.s.Contacts {
			if c.SessionId == id {
				m.s.State.Unread -= min(m.s.State.Unread, c.Unread)
				c.Unread = 0
			}
		}
		for _, g := range m.s.Groups {
			if g.Id == id {
				g.Unread = 0
			}
		}
	}
	return reply, nil
}

func (m messengerServer) Search(_ context.Context, r *api.SearchRequest) (*api.MessagesReply, error) {
	reply := &api.MessagesReply{}
	for _, message := range slices.Backward(m.s.Messages) {
		if strings.Contains(strings.ToLower(message.Text), strings.ToLower(r.GetText())) {
			reply.Messages = append(reply.Messages, proto.CloneOf(message))
		}
	}
	return reply, nil
}

func (m messengerServer) Events(_ *api.EventsRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	events := make(chan *api.Event, 256)
	m.s.mu.Lock()
	m.s.followers[events] = true
	close(m.s.change)
	m.s.change = make(chan struct{})
	m.s.mu.Unlock()
	defer func() {
		m.s.mu.Lock()
		defer m.s.mu.Unlock()
		delete(m.s.followers, events)
	}()
	for {
		m.s.mu.Lock()
		down, change := m.s.Down["Messenger"], m.s.change
		m.s.mu.Unlock()
		if down {
			return status.Error(codes.Unavailable, "the messenger went away")
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-change:
		case e := <-events:
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

type nodeServer struct {
	api.UnimplementedNodeServer
	s *Services
}

func (n nodeServer) Status(context.Context, *api.NodeStatusRequest) (*api.NodeStatus, error) {
	return proto.CloneOf(n.s.Node), nil
}

func (n nodeServer) Peers(context.Context, *api.PeersRequest) (*api.PeersReply, error) {
	return proto.CloneOf(&api.PeersReply{Peers: n.s.Peers}), nil
}

type deviceServer struct {
	api.UnimplementedDeviceServer
	s *Services
}

func (d deviceServer) Status(context.Context, *api.DeviceStatusRequest) (*api.DeviceStatus, error) {
	return proto.CloneOf(d.s.Device), nil
}

func (d deviceServer) Logs(_ context.Context, r *api.LogsRequest) (*api.LogsReply, error) {
	lines := d.s.Logs
	if n := int(r.GetLines()); n < len(lines) {
		lines = lines[len(lines)-n:]
	}
	return &api.LogsReply{Lines: lines}, nil
}

func (d deviceServer) Follow(stream grpc.BidiStreamingServer[api.FollowRequest, api.LogLine]) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case line := <-d.s.log:
			if err := stream.Send(&api.LogLine{Text: line}); err != nil {
				return err
			}
			if _, err := stream.Recv(); err != nil {
				return err
			}
			d.s.shown <- struct{}{}
		}
	}
}

func (d deviceServer) PowerOff(_ context.Context, r *api.PowerOffRequest) (*api.PowerOffReply, error) {
	d.s.PowerOff = append(d.s.PowerOff, r.GetRestart())
	return &api.PowerOffReply{}, nil
}
