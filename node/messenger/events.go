package messenger

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"hearth/node/api"
	"hearth/node/messenger/archive"
)

const (
	eventQueue     = 256 // events that a subscriber may be behind
	maxSubscribers = 32
)

// Subscription is a stream of events. Whoever lets it run full is cut off, so
// that one slow reader never holds up the messages of the others.
type Subscription struct {
	hub   *hub
	queue chan *api.Event
	err   error // why the queue was closed; set before that
}

// Subscribe begins a stream of what happens from now on. The error is [ErrBusy]
// when too many are open, or [ErrStopped].
func (m *Messenger) Subscribe() (*Subscription, error) { return m.events.subscribe() }

// Next waits for an event. Errors: [ErrSlow] after the reader was too far
// behind, [ErrStopped], and that of ctx. The event is shared and must not be
// changed.
func (s *Subscription) Next(ctx context.Context) (*api.Event, error) {
	select {
	case e, ok := <-s.queue:
		if !ok {
			return nil, s.err
		}
		return e, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the stream.
func (s *Subscription) Close() { s.hub.drop(s, ErrStopped) }

// Events is [Messenger.Subscribe] over gRPC. The first event is the present
// state, so that nothing is missed between State and Events.
func (m *Messenger) Events(_ *api.EventsRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	sub, err := m.Subscribe()
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := stream.Send(&api.Event{Event: &api.Event_State{State: m.state()}}); err != nil {
		return err
	}
	for {
		e, err := sub.Next(stream.Context())
		if err != nil {
			return forCaller(ErrStopped, err)
		}
		if err := stream.Send(e); err != nil {
			return err
		}
	}
}

// hub hands every event to every subscriber and never waits.
type hub struct {
	mu   sync.Mutex
	subs map[*Subscription]bool
	err  error // set when no more events come
}

func (h *hub) subscribe() (*Subscription, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	if len(h.subs) >= maxSubscribers {
		return nil, ErrBusy
	}
	if h.subs == nil {
		h.subs = make(map[*Subscription]bool)
	}
	s := &Subscription{hub: h, queue: make(chan *api.Event, eventQueue)}
	h.subs[s] = true
	return s, nil
}

func (h *hub) publish(e *api.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		select {
		case s.queue <- e:
		default:
			h.end(s, ErrSlow)
		}
	}
}

func (h *hub) drop(s *Subscription, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end(s, err)
}

func (h *hub) end(s *Subscription, err error) {
	if h.subs[s] {
		delete(h.subs, s)
		s.err = err
		close(s.queue)
	}
}

func (h *hub) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	for s := range h.subs {
		h.end(s, err)
	}
}

func (m *Messenger) publishMessage(msg *api.Message) {
	if msg.Outgoing {
		m.events.publish(&api.Event{Event: &api.Event_Sent{Sent: msg}})
	} else {
		m.events.publish(&api.Event{Event: &api.Event_Received{Received: msg}})
	}
}

// publish tells about what is on the disk now, and has done what follows from it.
func (s *session) publish(r archive.Result) {
	for _, msg := range r.Added {
		shown := s.apiMessage(msg)
		contact, _ := s.archive.Contact(msg.With)
		switch {
		case msg.Kind != archive.KindText && !msg.Outgoing && msg.Shown() <= contact.LastRead:
			// It is long since it happened, and the owner was there, with another device.
		case msg.Kind != archive.KindText:
			s.m.events.publish(&api.Event{Event: &api.Event_Info{Info: shown}})
		case !msg.Outgoing && !contact.Approved:
			s.m.events.publish(&api.Event{Event: &api.Event_Request{Request: shown}})
		default:
			s.m.publishMessage(shown)
		}
	}
	for _, c := range r.Changed {
		s.m.events.publish(&api.Event{Event: &api.Event_Updated{Updated: &api.Update{
			Change: api.Update_Change(c.Change), Message: s.apiMessage(c.Message)}}})
	}
	s.shared.learn(r.Guessed)
	if len(r.Parcels) > 0 {
		s.schedule(r.Parcels, false)
	}
	if len(r.Added)+len(r.Changed) > 0 {
		nudge(s.expiry)
		s.m.publishState()
	}
}

// publishState tells subscribers when the state is another than before. The time
// of the last poll alone is no news.
func (m *Messenger) publishState() {
	now := m.state()
	compared := proto.CloneOf(now)
	compared.LastPoll = min(compared.LastPoll, 1)
	m.mu.Lock()
	same := m.shown != nil && proto.Equal(m.shown, compared)
	m.shown = compared
	m.mu.Unlock()
	if !same {
		m.events.publish(&api.Event{Event: &api.Event_State{State: now}})
	}
}
