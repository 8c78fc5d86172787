package messenger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/attachment"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/onion"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

const (
	pieceSize    = 64 << 10 // bytes of one reply of FetchFile
	progressStep = 20       // parts of a transfer after which somebody is told
)

// Why a message with a file never arrives, for people.
const reasonNoFile = "its file is no longer on this device"

var (
	errNoFile = errors.New(reasonNoFile)
	errAnswer = errors.New("the file service gives a wrong answer")
)

// SendFile is [Messenger.SendFileFrom] over gRPC.
func (m *Messenger) SendFile(stream grpc.ClientStreamingServer[api.SendFileRequest, api.SendReply]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetHead() == nil {
		return fmt.Errorf("%w: the head comes first", ErrFileHead)
	}
	reply, err := m.SendFileFrom(stream.Context(), first.GetHead(), &pieces{next: func() ([]byte, error) {
		r, err := stream.Recv()
		if err == nil && r.GetHead() != nil {
			err = fmt.Errorf("%w: there is a second one", ErrFileHead)
		}
		return r.GetData(), err
	}})
	if err != nil {
		return err
	}
	return stream.SendAndClose(reply)
}

// pieces reads what comes in pieces.
type pieces struct {
	next func() ([]byte, error)
	left []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.left) == 0 {
		var err error
		if p.left, err = p.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.left)
	p.left = p.left[n:]
	return n, nil
}

// SendFileFrom sends what file gives as a message. The bytes are encrypted and
// written down, with the message, before it returns; then they are brought to the
// file service of the nodes, as often as it takes, and when they are there the
// message goes out. Other messages to the same person do not wait for that. How far
// the upload is comes as events. A picture is cleaned first, see [attachment.Clean].
//
// It returns as [Messenger.Send] does, with the same errors, and further
// [ErrFileHead], [ErrFileSize], [ErrFileEmpty], [ErrPicture], [ErrPictureKind] and
// [ErrNoRoom].
func (m *Messenger) SendFileFrom(ctx context.Context, head *api.FileHead, file io.Reader) (*api.SendReply, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if head.GetText() != "" {
		if err := checkText(head.GetText()); err != nil {
			return nil, err
		}
	}
	to, err := s.whom(head.GetTo())
	if err != nil {
		return nil, err
	}
	if c, _ := s.archive.Contact(to); c.Blocked {
		return nil, ErrBlocked
	}
	quote, err := s.quoted(to, head.GetReplyTo())
	if err != nil {
		return nil, err
	}
	// One at a time is held in memory.
	select {
	case m.staging <- struct{}{}:
	case <-ctx.Done():
		return nil, forCaller(ErrBusy, ctx.Err())
	}
	f, err := s.stage(head, file)
	<-m.staging
	if err != nil {
		return nil, err
	}
	msg, result, err := s.write(to, func(ms int64, c archive.Contact) (archive.Message, *sessionpb.Content) {
		content := wire.Text(head.GetText(), uint64(ms))
		if head.GetText() == "" {
			content.DataMessage.Body = nil
		}
		setTimer(content, c.Timer)
		s.setQuote(content, to, quote)
		content.DataMessage.Attachments = []*sessionpb.AttachmentPointer{pointerOf(f)}
		return archive.Message{Text: head.GetText(), Quote: quote, Timer: c.Timer, Attachments: []archive.Attachment{f}}, content
	})
	if err != nil {
		s.archive.ReleaseFile(f)
		return nil, err
	}
	patience := sendPatience
	select {
	case m.calls <- struct{}{}:
		defer func() { <-m.calls }()
	default:
		patience = 0
	}
	return s.deliver(ctx, msg, result, patience)
}

// stage reads a file and writes its upload down.
func (s *session) stage(head *api.FileHead, file io.Reader) (f archive.Attachment, err error) {
	plain, err := io.ReadAll(io.LimitReader(file, attachment.MaxSize+1))
	switch {
	case err != nil:
		return f, forCaller(ErrFileHead, err)
	case len(plain) > attachment.MaxSize:
		return f, ErrFileSize
	case len(plain) == 0:
		return f, ErrFileEmpty
	}
	plain, picture, err := attachment.Clean(plain)
	if errors.Is(err, attachment.ErrPictureKind) {
		return f, ErrPictureKind
	}
	if err != nil {
		return f, fmt.Errorf("%w: %w", ErrPicture, err)
	}
	// A picture of the largest size can grow by a few bytes.
	if len(plain) > attachment.MaxSize {
		return f, ErrFileSize
	}
	var upload bytes.Buffer
	upload.Grow(int(attachment.UploadSize(int64(len(plain)), true)))
	secret, err := attachment.Encrypt(s.m.cfg.Rand, &upload, bytes.NewReader(plain), int64(len(plain)), true)
	if err != nil {
		return f, forCaller(ErrDisk, err)
	}
	name := head.GetName()
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	f = archive.Attachment{
		Name:   tidyLine(strings.ToValidUTF8(name, ""), maxFileName),
		Type:   contentType(head.GetType(), name, plain, picture),
		Size:   uint32(len(plain)),
		Voice:  head.GetVoice(),
		Width:  picture.Width,
		Height: picture.Height,
		URL:    attachment.NodeURL(attachment.IDOf(upload.Bytes()), false).Text(),
		Key:    secret.Key,
		Digest: secret.Digest,
	}
	if err := s.archive.StageFile(f, upload.Bytes()); err != nil {
		return f, forCaller(ErrDisk, err)
	}
	return f, nil
}

// contentType is what the recipient is told that a file is. Clients show by it.
func contentType(said, name string, plain []byte, p attachment.Picture) string {
	if p.Type != "" {
		return p.Type
	}
	kind := tidyLine(strings.ToValidUTF8(said, ""), maxType)
	if kind == "" {
		kind = mime.TypeByExtension(filepath.Ext(name))
	}
	if kind == "" {
		kind = http.DetectContentType(plain)
	}
	kind, _, _ = strings.Cut(kind, ";")
	return strings.TrimSpace(kind)
}

func pointerOf(f archive.Attachment) *sessionpb.AttachmentPointer {
	p := &sessionpb.AttachmentPointer{
		DeprecatedId: proto.Uint64(0), // names of the nodes' files are no numbers
		ContentType:  proto.String(f.Type),
		Key:          f.Key,
		Size:         proto.Uint32(f.Size),
		Digest:       f.Digest,
		Url:          proto.String(f.URL),
	}
	if f.Name != "" {
		p.FileName = proto.String(f.Name)
	}
	if f.Voice {
		p.Flags = proto.Uint32(uint32(sessionpb.AttachmentPointer_VOICE_MESSAGE))
	}
	if f.Width > 0 && f.Height > 0 {
		p.Width, p.Height = proto.Uint32(f.Width), proto.Uint32(f.Height)
	}
	return p
}

// transfer waits until it is this file's turn on the network: each is held in
// memory several times, once for each layer.
func (s *session) transfer(ctx context.Context) (done func(), err error) {
	select {
	case s.transfers <- struct{}{}:
		return func() { <-s.transfers }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// upload brings the file of a parcel to the nodes, and tells whom the parcel is
// for.
func (s *session) upload(ctx context.Context, id uint64) (to account.ID, err error) {
	done, err := s.transfer(ctx)
	if err != nil {
		return to, err
	}
	defer done()
	p, ok, err := s.archive.Parcel(id)
	switch {
	case err != nil:
		s.diskFailed(err)
		return to, err
	case !ok:
		return to, errCancelled
	case p.Upload == nil:
		return p.To, nil
	case p.Until != 0 && s.clock.Known() && p.Until <= s.clock.Now().UnixMilli():
		return to, errLate
	}
	content, err := s.archive.ReadFile(*p.Upload)
	if errors.Is(err, archive.ErrNoFile) {
		return to, errNoFile
	}
	if err != nil {
		s.diskFailed(err)
		return to, err
	}
	u, server, err := whereIs(*p.Upload)
	if err != nil {
		return to, fmt.Errorf("%w: %w", path.ErrRequest, err)
	}
	tell := steps(func(done, total int64) { s.tellTransfer(p.Message, true, done, total) })
	if err := s.post(ctx, server, u, content, tell); err != nil {
		return to, err
	}
	if ok, err = s.archive.Uploaded(id); err != nil {
		s.diskFailed(err)
		return to, err
	}
	if !ok {
		return to, errCancelled
	}
	s.log.Info("file uploaded", "bytes", len(content))
	return p.To, nil
}

// post uploads bytes, once, and checks that the service has them under their name.
// Uploading them again changes nothing but how long they are kept.
func (s *session) post(ctx context.Context, server onion.WebServer, u attachment.URL, content []byte, tell func(done, total int64)) error {
	payload := onion.V4Request{Method: http.MethodPost, Endpoint: "/file", Body: content, Headers: map[string]string{
		"Content-Type": "application/octet-stream", "Content-Disposition": "attachment"}}.Encode()
	total := int64(len(payload))
	answer, err := s.client.AskServer(ctx, server, payload, func(sent, _, _ int64) { tell(min(sent, total), total) })
	if err != nil {
		return err
	}
	switch code := answer.Code; {
	case code == http.StatusOK:
	case code >= 400 && code < 500:
		return fmt.Errorf("%w: the file service says %d", path.ErrRequest, code)
	default:
		return fmt.Errorf("the file service says %d", code)
	}
	var got struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(answer.Body, &got); err != nil || got.ID != u.ID {
		return errAnswer
	}
	return nil
}

// whereIs reads where a file is. A contact must not be able to lead this device to
// a server of their own, which would learn when it is asked: like released clients
// it follows one host only.
func whereIs(f archive.Attachment) (u attachment.URL, server onion.WebServer, err error) {
	if u, err = attachment.LocateFile(f.URL, f.ID); err != nil {
		return u, server, err
	}
	if u.Host != attachment.Host {
		return u, server, fmt.Errorf("%w: another host", attachment.ErrURL)
	}
	server, err = u.WebServer()
	return u, server, err
}

// steps passes progress on in a few steps, and the end.
func steps(tell func(done, total int64)) func(done, total int64) {
	last := int64(-1)
	return func(done, total int64) {
		step := int64(0)
		if total > 0 {
			step = done * progressStep / total
		}
		if step != last {
			last = step
			tell(done, total)
		}
	}
}

func (s *session) tellTransfer(r archive.Ref, upload bool, done, total int64) *api.Transfer {
	t := &api.Transfer{SessionId: r.With.String(), Id: r.Number, Upload: upload, Done: uint64(max(done, 0)), Total: uint64(max(total, 0))}
	s.m.events.publish(&api.Event{Event: &api.Event_Transfer{Transfer: t}})
	return t
}

// FetchFile is [Messenger.FetchFileTo] over gRPC.
func (m *Messenger) FetchFile(req *api.FetchFileRequest, stream grpc.ServerStreamingServer[api.FetchFileReply]) error {
	send := func(r *api.FetchFileReply) error { return stream.Send(r) }
	return m.FetchFileTo(stream.Context(), req, writerFunc(func(b []byte) (int, error) {
		return len(b), send(&api.FetchFileReply{Part: &api.FetchFileReply_Data{Data: b}})
	}), func(t *api.Transfer) error {
		return send(&api.FetchFileReply{Part: &api.FetchFileReply_Progress{Progress: t}})
	})
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// FetchFileTo writes a file that belongs to a message to dst, in pieces of at most
// 64 KiB, or a preview of it. Nothing is written before every byte was found to be
// the sender's. A file that was fetched before comes from the disk; otherwise the
// file service is asked, and progress, which may be nil, told how that goes. A
// download that breaks off goes on where it was when it is asked for again, over a
// restart as well: see download.go.
//
// With save the owner keeps it outside of here, of which its sender hears afterwards:
// see [session.tellSaved].
//
// Nothing is ever fetched unless somebody calls this. Errors: [ErrNoMessage],
// [ErrNoFile], [ErrStranger], [ErrBlocked], [ErrBadID], [ErrUnknown],
// [ErrAmbiguous], [ErrFileURL], [ErrFileGone], [ErrForged], [ErrNoPreview],
// [ErrFetch], [ErrDisk]; and those of dst and progress.
func (m *Messenger) FetchFileTo(ctx context.Context, req *api.FetchFileRequest, dst io.Writer, progress func(*api.Transfer) error) error {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	msg, err := s.message(req.GetWith(), req.GetId())
	if err != nil {
		return err
	}
	if int64(req.GetFile()) >= int64(len(msg.Attachments)) {
		return ErrNoFile
	}
	if c, _ := s.archive.Contact(msg.With); !c.Approved {
		return ErrStranger
	}
	plain, err := s.fetchFile(ctx, msg, msg.Attachments[req.GetFile()], progress)
	if err != nil {
		return err
	}
	if req.GetPreview() {
		if plain, err = attachment.Preview(plain); err != nil {
			return fmt.Errorf("%w: %w", ErrNoPreview, err)
		}
	}
	for len(plain) > 0 {
		n := min(len(plain), pieceSize)
		if _, err := dst.Write(plain[:n]); err != nil {
			return err
		}
		plain = plain[n:]
	}
	if req.GetSave() && !req.GetPreview() {
		if err := s.tellSaved(msg); err != nil { // the owner has the file all the same
			s.log.Warn("telling that a file was saved", "err", err)
		}
	}
	return nil
}

// tellSaved tells the sender of a file that it was kept, between two people only, and
// nobody about an own file. The owner's other devices are not told (Session desktop,
// sendDataExtractionNotification).
func (s *session) tellSaved(msg archive.Message) error {
	c, _ := s.archive.Contact(msg.With)
	if msg.Outgoing || isGroup(msg.With) || msg.With == s.own.ID() || c.Blocked {
		return nil
	}
	content := &sessionpb.Content{DataExtractionNotification: &sessionpb.DataExtractionNotification{
		Type: sessionpb.DataExtractionNotification_MEDIA_SAVED.Enum(), Timestamp: proto.Uint64(uint64(msg.Timestamp))}}
	setTimer(content, c.Timer)
	p, err := s.parcel(msg.With, content, s.stamp(), mailbox.TTL)
	if err != nil {
		return err
	}
	result, err := s.archive.Enqueue(p)
	if err != nil {
		return err
	}
	s.publish(result)
	return nil
}

// fetchFile gives the checked bytes of a file.
func (s *session) fetchFile(ctx context.Context, msg archive.Message, f archive.Attachment, progress func(*api.Transfer) error) ([]byte, error) {
	u, server, err := whereIs(f)
	if err != nil {
		return nil, ErrFileURL
	}
	done, err := s.transfer(ctx)
	if err != nil {
		return nil, forCaller(ErrFetch, err)
	}
	defer done()
	upload, err := s.archive.ReadFile(f)
	if err == nil {
		return openFile(upload, f, u)
	}
	if !errors.Is(err, archive.ErrNoFile) {
		return nil, forCaller(ErrDisk, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tell := steps(func(got, total int64) {
		t := s.tellTransfer(msg.Ref(), false, got, total)
		if progress == nil {
			return
		}
		if err := progress(t); err != nil {
			cancel(err) // nobody waits for it any more
		}
	})
	d := download{s: s, server: server, id: u.ID, tell: tell}
	if d.content, d.total, err = s.archive.Partial(f); err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	d.keep = func(at int64, part []byte) {
		if err := s.archive.KeepPart(msg.Ref(), f, at, d.total, part); err != nil && !errors.Is(err, archive.ErrNoMessage) {
			s.diskFailed(err) // it is fetched again after a restart, then
		}
	}
	d.drop = func() { s.archive.DropPart(f) }
	var plain []byte
	err = d.fetch(ctx, u, func(content []byte) (err error) {
		plain, err = openFile(content, f, u)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.archive.KeepFile(msg.Ref(), f, d.content); err != nil && !errors.Is(err, archive.ErrNoMessage) {
		s.diskFailed(err) // it can be fetched again
	}
	return plain, nil
}

// openFile checks and decrypts a file.
func openFile(upload []byte, f archive.Attachment, u attachment.URL) ([]byte, error) {
	// The size is the sender's word; what was downloaded bounds it.
	if int64(f.Size) > min(int64(len(upload)), math.MaxInt32) {
		return nil, fmt.Errorf("%w: its size", ErrForged)
	}
	var plain bytes.Buffer
	plain.Grow(int(f.Size))
	secret := attachment.Secret{Key: f.Key, Digest: f.Digest, Size: int64(f.Size)}
	if err := attachment.Decrypt(&plain, bytes.NewReader(upload), int64(len(upload)), secret, u.Deterministic); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForged, err)
	}
	return plain.Bytes(), nil
}
