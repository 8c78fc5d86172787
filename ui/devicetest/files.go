package devicetest

import (
	"cmp"
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
)

// SendFile keeps what it gets in Services.Files, and adds the message.
func (m messengerServer) SendFile(stream grpc.ClientStreamingServer[api.SendFileRequest, api.SendReply]) error {
	var head *api.FileHead
	var content []byte
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if r.GetHead() != nil {
			head = r.GetHead()
		}
		content = append(content, r.GetData()...)
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	id, err := m.find(head.GetTo())
	if err != nil {
		return err
	}
	reply, err := m.Send(stream.Context(), &api.SendRequest{To: id, Text: "[attachment]"})
	if err != nil {
		return err
	}
	sent := m.s.message(id, reply.Id)
	sent.Attachments = []*api.Attachment{{Name: head.GetName(), Type: cmp.Or(head.GetType(), "text/plain"), Size: uint64(len(content)), Kept: true, Voice: head.GetVoice()}}
	m.s.file(sent, 0, content)
	return stream.SendAndClose(reply)
}

// file keeps the bytes of a file.
func (s *Services) file(m *api.Message, file uint32, content []byte) {
	if s.Files == nil {
		s.Files = make(map[File][]byte)
	}
	s.Files[File{m.SessionId, m.Id, file}] = content
}

// File names a file of a message, from 0.
type File struct {
	With string
	ID   uint64
	File uint32
}

// FetchFile gives what is in Services.Files, after word of progress.
func (m messengerServer) FetchFile(r *api.FetchFileRequest, stream grpc.ServerStreamingServer[api.FetchFileReply]) error {
	m.s.mu.Lock()
	id, err := m.find(r.GetWith())
	content, ok := m.s.Files[File{id, r.GetId(), r.GetFile()}]
	m.s.mu.Unlock()
	if err != nil {
		return err
	}
	if !ok {
		return status.Error(codes.NotFound, "the message has no such file")
	}
	if err := stream.Send(&api.FetchFileReply{Part: &api.FetchFileReply_Progress{Progress: &api.Transfer{SessionId: id, Id: r.GetId(), Done: 1}}}); err != nil {
		return err
	}
	for i := range content {
		if err := stream.Send(&api.FetchFileReply{Part: &api.FetchFileReply_Data{Data: content[i : i+1]}}); err != nil {
			return err
		}
	}
	return nil
}

// SetPicture keeps what it gets in Services.Pictures, under no Session ID.
func (m messengerServer) SetPicture(stream grpc.ClientStreamingServer[api.SetPictureRequest, api.SettingsReply]) error {
	var content []byte
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		content = append(content, r.GetData()...)
	}
	m.s.mu.Lock()
	if m.s.Pictures == nil {
		m.s.Pictures = make(map[string][]byte)
	}
	m.s.Pictures[""] = content
	m.s.mu.Unlock()
	return stream.SendAndClose(&api.SettingsReply{Picture: len(content) > 0})
}

// Picture gives what is in Services.Pictures.
func (m messengerServer) Picture(_ context.Context, r *api.WhoRequest) (*api.PictureReply, error) {
	id, err := m.find(r.GetWho())
	if err != nil {
		return nil, err
	}
	picture, ok := m.s.Pictures[id]
	if !ok {
		return nil, status.Error(codes.NotFound, "there is no picture")
	}
	return &api.PictureReply{Jpeg: picture}, nil
}
