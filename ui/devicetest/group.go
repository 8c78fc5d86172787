package devicetest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hearth/node/api"
)

// GroupID is a group's, in form only.
const GroupID = "03" + "7c1e90ab34d5f26880e1c9b7a4d3f502" + "96b8e7d1c0a2f3b4958671d0e2c4a6b8"

// Invite lets an invitation to a group come, or a group that the account is in.
func (s *Services) Invite(g *api.Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Groups = append(s.Groups, g)
	s.tell(&api.Event{Event: &api.Event_Group{Group: proto.CloneOf(g)}})
}

// ReceiveInGroup lets a message of somebody arrive in a group.
func (s *Services) ReceiveInGroup(group, from, name string, m *api.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.SessionId, m.From, m.FromName = group, from, name
	m.Timestamp, m.Id = Minute+int64(len(s.Messages))*60_000, s.number(group)
	s.Messages = append(s.Messages, m)
	if m.Kind != api.Message_TEXT {
		s.tell(&api.Event{Event: &api.Event_Info{Info: proto.CloneOf(m)}})
		return
	}
	for _, g := range s.Groups {
		if g.Id == group {
			g.Unread++
			g.LastText, g.LastTime = m.Text, m.Timestamp
		}
	}
	s.tell(&api.Event{Event: &api.Event_Received{Received: proto.CloneOf(m)}})
}

func (m messengerServer) group(name string) (*api.Group, error) {
	for _, g := range m.s.Groups {
		if g.Id == name || strings.EqualFold(g.Name, name) {
			return g, nil
		}
	}
	return nil, status.Error(codes.NotFound, "there is no such group")
}

// change does one thing to a group that the account is an admin of.
func (m messengerServer) change(name string, change func(g *api.Group) error) (*api.Group, error) {
	g, err := m.group(name)
	if err != nil {
		return nil, err
	}
	if !g.Admin {
		return nil, status.Error(codes.PermissionDenied, "only an admin of the group can do that")
	}
	if err := change(g); err != nil {
		return nil, err
	}
	return proto.CloneOf(g), nil
}

func (m messengerServer) Groups(_ context.Context, r *api.GroupsRequest) (*api.GroupsReply, error) {
	if r.GetGroup() != "" {
		g, err := m.group(r.GetGroup())
		if err != nil {
			return nil, err
		}
		return &api.GroupsReply{Groups: []*api.Group{proto.CloneOf(g)}}, nil
	}
	reply := &api.GroupsReply{}
	for _, g := range m.s.Groups {
		reply.Groups = append(reply.Groups, proto.CloneOf(g))
	}
	return reply, nil
}

func (m messengerServer) guest(name string) (*api.GroupMember, error) {
	for _, c := range m.s.Contacts {
		if c.SessionId == name || strings.EqualFold(c.Name, name) {
			return &api.GroupMember{SessionId: c.SessionId, Name: c.Name, Status: api.GroupMember_INVITED}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "no contact has this name ("+name+")")
}

func (m messengerServer) GroupCreate(_ context.Context, r *api.GroupCreateRequest) (*api.Group, error) {
	g := &api.Group{Id: GroupID, Name: r.GetName(), Description: r.GetDescription(), Admin: true, Created: Minute,
		Members: []*api.GroupMember{{SessionId: Alice, Own: true, Status: api.GroupMember_ADMIN}}}
	for _, name := range r.GetMembers() {
		p, err := m.guest(name)
		if err != nil {
			return nil, err
		}
		g.Members = append(g.Members, p)
	}
	m.s.Groups = append(m.s.Groups, g)
	return proto.CloneOf(g), nil
}

func (m messengerServer) GroupInvite(_ context.Context, r *api.GroupInviteRequest) (*api.Group, error) {
	return m.change(r.GetGroup(), func(g *api.Group) error {
		for _, name := range r.GetMembers() {
			p, err := m.guest(name)
			if err != nil {
				return err
			}
			g.Members = slices.DeleteFunc(g.Members, func(old *api.GroupMember) bool { return old.SessionId == p.SessionId })
			g.Members = append(g.Members, p)
		}
		return nil
	})
}

// each does something about members by their name.
func (m messengerServer) each(group string, names []string, do func(g *api.Group, i int)) (*api.Group, error) {
	return m.change(group, func(g *api.Group) error {
		for _, name := range names {
			i := slices.IndexFunc(g.Members, func(p *api.GroupMember) bool {
				return p.SessionId == name || p.Name != "" && strings.EqualFold(p.Name, name)
			})
			if i < 0 {
				return status.Error(codes.NotFound, fmt.Sprintf("they are not in the group (%s)", name))
			}
			do(g, i)
		}
		return nil
	})
}

func (m messengerServer) GroupPromote(_ context.Context, r *api.GroupMembersRequest) (*api.Group, error) {
	return m.each(r.GetGroup(), r.GetMembers(), func(g *api.Group, i int) { g.Members[i].Status = api.GroupMember_PROMOTED })
}

func (m messengerServer) GroupRemove(_ context.Context, r *api.GroupRemoveRequest) (*api.Group, error) {
	return m.each(r.GetGroup(), r.GetMembers(), func(g *api.Group, i int) { g.Members = slices.Delete(g.Members, i, i+1) })
}

func (m messengerServer) GroupRename(_ context.Context, r *api.GroupTextRequest) (*api.Group, error) {
	return m.change(r.GetGroup(), func(g *api.Group) error { g.Name = r.GetText(); return nil })
}

func (m messengerServer) GroupDescribe(_ context.Context, r *api.GroupTextRequest) (*api.Group, error) {
	return m.change(r.GetGroup(), func(g *api.Group) error { g.Description = r.GetText(); return nil })
}

func (m messengerServer) GroupDestroy(_ context.Context, r *api.GroupRequest) (*api.Group, error) {
	return m.change(r.GetGroup(), func(g *api.Group) error { g.State = api.Group_DESTROYED; return nil })
}

func (m messengerServer) invitation(name string) (*api.Group, error) {
	g, err := m.group(name)
	if err == nil && g.State != api.Group_INVITED {
		err = status.Error(codes.NotFound, "there is no invitation to this group")
	}
	return g, err
}

func (m messengerServer) GroupAccept(_ context.Context, r *api.GroupRequest) (*api.Group, error) {
	g, err := m.invitation(r.GetGroup())
	if err != nil {
		return nil, err
	}
	g.State = api.Group_JOINED
	return proto.CloneOf(g), nil
}

func (m messengerServer) GroupDecline(_ context.Context, r *api.GroupRequest) (*api.DeclineReply, error) {
	g, err := m.invitation(r.GetGroup())
	if err != nil {
		return nil, err
	}
	m.drop(g)
	return &api.DeclineReply{}, nil
}

func (m messengerServer) GroupLeave(_ context.Context, r *api.GroupRequest) (*api.GroupLeaveReply, error) {
	g, err := m.group(r.GetGroup())
	if err != nil {
		return nil, err
	}
	m.drop(g)
	return &api.GroupLeaveReply{}, nil
}

func (m messengerServer) drop(g *api.Group) {
	m.s.Groups = slices.DeleteFunc(m.s.Groups, func(other *api.Group) bool { return other == g })
}

func (m messengerServer) GroupDelete(_ context.Context, r *api.GroupDeleteRequest) (*api.Message, error) {
	g, err := m.group(r.GetGroup())
	if err != nil {
		return nil, err
	}
	for _, msg := range m.s.Messages {
		if msg.SessionId == g.Id && msg.Id == r.GetId() {
			if !msg.Outgoing && !g.Admin {
				return nil, status.Error(codes.PermissionDenied, "only its writer can unsend a message")
			}
			msg.Deleted, msg.ByAdmin, msg.Text = true, !msg.Outgoing, ""
			return proto.CloneOf(msg), nil
		}
	}
	return nil, status.Error(codes.NotFound, "there is no such message")
}
