package devicetest

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hearth/node/api"
)

// Code is what Link gives and Join takes, a code in form only.
const Code = "7QK2-M9TX-W3AR-B6DH-4NEC-PV8S"

// Arrive lets another device have the account.
func (s *Services) Arrive(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &api.AccountDevice{Id: fmt.Sprintf("%064x", len(s.Devices)), Name: name, Kind: "desktop", FirstSeen: Minute, LastSeen: Minute, Fresh: true}
	s.Devices = append(s.Devices, d)
	s.State.NewDevices++
	s.tell(&api.Event{Event: &api.Event_Device{Device: proto.CloneOf(d)}})
}

func (m messengerServer) Link(_ context.Context, r *api.LinkRequest) (*api.LinkReply, error) {
	if r.GetPin() != m.s.PIN {
		return nil, status.Error(codes.PermissionDenied, "wrong PIN, 4 tries left")
	}
	return &api.LinkReply{Code: Code, Expires: Minute + 600_000}, nil
}

func (m messengerServer) Join(_ context.Context, r *api.JoinRequest) (*api.MessengerState, error) {
	if r.GetCode() != Code {
		return nil, status.Error(codes.InvalidArgument, "this is no code, or it is mistyped: it has six groups of four characters")
	}
	if r.GetPin() == "" {
		return m.state(), nil
	}
	m.s.PIN = r.GetPin()
	m.open()
	return m.state(), nil
}

func (m messengerServer) Devices(context.Context, *api.DevicesRequest) (*api.DevicesReply, error) {
	reply := &api.DevicesReply{}
	for _, d := range m.s.Devices {
		reply.Devices = append(reply.Devices, proto.CloneOf(d))
		d.Fresh = false
	}
	m.s.State.NewDevices = 0
	return reply, nil
}

func (m messengerServer) RenameDevice(_ context.Context, r *api.RenameDeviceRequest) (*api.AccountDevice, error) {
	i := slices.IndexFunc(m.s.Devices, func(d *api.AccountDevice) bool { return d.Own })
	if i < 0 {
		return nil, status.Error(codes.Internal, "the database does not work")
	}
	m.s.Devices[i].Name = r.GetName()
	return proto.CloneOf(m.s.Devices[i]), nil
}

func (m messengerServer) MarkUnread(_ context.Context, r *api.WhoRequest) (*api.Contact, error) {
	for _, c := range m.s.Contacts {
		if c.Name == r.GetWho() || c.SessionId == r.GetWho() {
			c.MarkedUnread = true
			return proto.CloneOf(c), nil
		}
	}
	return nil, status.Error(codes.NotFound, "no contact has this name")
}
