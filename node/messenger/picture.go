package messenger

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/attachment"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
)

// Sizes of pictures in pixels each way, as in Session desktop: the own one is kept
// large enough to be uploaded again, those of others are only shown small.
const (
	ownPictureSize   = 600
	theirPictureSize = 200
)

const (
	pictureAge   = 7 * 24 * time.Hour // after which the own picture is uploaded again; nodes keep files for 21 days
	pictureLook  = 6 * time.Hour      // between looks at its age
	pictureTries = 3
)

// SetPicture is [Messenger.SetPictureFrom] over gRPC.
func (m *Messenger) SetPicture(stream grpc.ClientStreamingServer[api.SetPictureRequest, api.SettingsReply]) error {
	reply, err := m.SetPictureFrom(stream.Context(), &pieces{next: func() ([]byte, error) {
		r, err := stream.Recv()
		return r.GetData(), err
	}})
	if err != nil {
		return err
	}
	return stream.SendAndClose(reply)
}

// SetPictureFrom chooses the picture that goes out with messages: a JPEG, PNG, GIF or
// WebP, of which a JPEG of at most 600 pixels each way is made, with nothing but the
// picture in it. It returns when the nodes keep it, encrypted, and others see it with
// the next message. An empty file takes the picture away. Errors: [ErrFileSize],
// [ErrFileHead], [ErrNoPreview], [ErrUpload], [ErrDisk].
func (m *Messenger) SetPictureFrom(ctx context.Context, file io.Reader) (*api.SettingsReply, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	given, err := io.ReadAll(io.LimitReader(file, attachment.MaxSize+1))
	switch {
	case err != nil:
		return nil, forCaller(ErrFileHead, err)
	case len(given) > attachment.MaxSize:
		return nil, ErrFileSize
	}
	var url string
	var key attachment.Key
	var upload []byte
	if len(given) > 0 {
		picture, err := attachment.Shrink(given, ownPictureSize)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoPreview, err)
		}
		if key, upload, err = attachment.EncryptPicture(s.m.cfg.Rand, picture); err != nil {
			return nil, forCaller(ErrDisk, err)
		}
		if err := s.uploadPicture(ctx, upload); err != nil {
			return nil, forCaller(ErrUpload, err)
		}
		url = attachment.NodeURL(attachment.IDOf(upload), false).Text()
	}
	// A profile with a picture alone would be one whose owner wants no name.
	if err := s.awaitConfigs(ctx); err != nil {
		return nil, err
	}
	s.firstName()
	s.changing.Lock()
	defer s.changing.Unlock()
	p, err := s.archive.SetPicture(url, hex.EncodeToString(key), upload)
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	s.setProfile(p)
	return s.apiSettings(), nil
}

// uploadPicture brings the encrypted picture to the nodes, under the name of its
// content.
func (s *session) uploadPicture(ctx context.Context, upload []byte) (err error) {
	done, err := s.transfer(ctx)
	if err != nil {
		return err
	}
	defer done()
	u := attachment.NodeURL(attachment.IDOf(upload), false)
	server, err := u.WebServer()
	if err != nil {
		return err
	}
	if err := s.awaitNodes(ctx); err != nil {
		return err
	}
	for try := 1; ; try++ {
		if err = s.post(ctx, server, u, upload, func(int64, int64) {}); err == nil || try == pictureTries {
			return err
		}
		if err := mailbox.Pause(ctx, fetchPause); err != nil {
			return err
		}
	}
}

// keepPicture uploads the own picture again before the nodes forget it, until ctx
// ends (Session desktop, AvatarReuploadJob).
func (s *session) keepPicture(ctx context.Context) {
	for mailbox.Pause(ctx, pictureLook) == nil {
		s.mu.Lock()
		p := s.profile
		s.mu.Unlock()
		// One that another device has uploaded is for that one to keep.
		if p.PictureURL == "" || p.PictureAt == 0 || s.clock.Now().Sub(time.Unix(p.PictureAt, 0)).Abs() < pictureAge {
			continue
		}
		upload, err := s.archive.OwnPicture()
		if err == nil && upload != nil {
			err = s.uploadPicture(ctx, upload)
		}
		if err != nil {
			s.log.Warn("uploading the own picture again", "err", err)
			continue
		}
		s.changing.Lock()
		p, err = s.archive.PictureUploaded()
		if err == nil {
			s.mu.Lock()
			s.profile = p
			s.mu.Unlock()
		}
		s.changing.Unlock()
		s.diskFailed(err)
	}
}

// Picture gives the picture of a contact, or the owner's own, as a JPEG of at most 200
// pixels each way. One that was fetched before comes from the disk. Nothing is fetched
// unless somebody calls this, and never a stranger's. Errors: [ErrNoPicture],
// [ErrStranger], [ErrBlocked], [ErrBadID], [ErrUnknown], [ErrAmbiguous], [ErrFileURL],
// [ErrFileGone], [ErrForged], [ErrNoPreview], [ErrFetch], [ErrDisk].
func (m *Messenger) Picture(ctx context.Context, req *api.WhoRequest) (*api.PictureReply, error) {
	s, ctx, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	id, err := s.whom(req.GetWho())
	if err != nil {
		return nil, err
	}
	if id == s.own.ID() {
		return s.ownPicture(ctx)
	}
	c, _ := s.archive.Contact(id)
	switch {
	case c.Blocked:
		return nil, ErrBlocked
	case !c.Approved:
		return nil, ErrStranger
	case c.PictureURL == "":
		return nil, ErrNoPicture
	}
	kept, err := s.archive.Picture(id)
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	if kept == nil {
		if kept, err = s.fetchPicture(ctx, c); err != nil {
			return nil, err
		}
		if err := s.archive.KeepPicture(c, kept); err != nil {
			s.diskFailed(err) // it can be fetched again
		}
	}
	return &api.PictureReply{Jpeg: kept}, nil
}

func (s *session) fetchPicture(ctx context.Context, c archive.Contact) (small []byte, err error) {
	u, server, err := whereIs(archive.Attachment{URL: c.PictureURL})
	if err != nil {
		return nil, ErrFileURL
	}
	key, err := hex.DecodeString(c.PictureKey)
	if err != nil {
		return nil, ErrFileURL
	}
	done, err := s.transfer(ctx)
	if err != nil {
		return nil, forCaller(ErrFetch, err)
	}
	defer done()
	d := download{s: s, server: server, id: u.ID}
	err = d.fetch(ctx, u, func(content []byte) error {
		var plain []byte
		var err error
		if u.Deterministic {
			var b bytes.Buffer
			_, err = attachment.DecryptDeterministic(&b, bytes.NewReader(content), key)
			plain = b.Bytes()
		} else {
			plain, err = attachment.DecryptPicture(key, content)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrForged, err)
		}
		if small, err = attachment.Shrink(plain, theirPictureSize); err != nil {
			return fmt.Errorf("%w: %w", ErrNoPreview, err)
		}
		return nil
	})
	return small, err
}

func (s *session) ownPicture(ctx context.Context) (*api.PictureReply, error) {
	s.mu.Lock()
	p := s.profile
	s.mu.Unlock()
	if p.PictureURL != "" && p.PictureAt == 0 { // chosen on another device
		small, err := s.fetchPicture(ctx, archive.Contact{ID: s.own.ID(), PictureURL: p.PictureURL, PictureKey: p.PictureKey})
		if err != nil {
			return nil, err
		}
		return &api.PictureReply{Jpeg: small}, nil
	}
	key, err := hex.DecodeString(p.PictureKey)
	var upload []byte
	if err == nil {
		upload, err = s.archive.OwnPicture()
	}
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	if upload == nil {
		return nil, ErrNoPicture
	}
	plain, err := attachment.DecryptPicture(key, upload)
	if err == nil {
		plain, err = attachment.Shrink(plain, theirPictureSize)
	}
	if err != nil {
		return nil, forCaller(ErrNoPreview, err)
	}
	return &api.PictureReply{Jpeg: plain}, nil
}

// scannedID reads a Session ID as it comes out of a scanner: QR codes of this program
// and of Session's clients hold its 66 digits and nothing else.
func scannedID(text string) (account.ID, error) {
	id, err := account.ParseSessionID(text)
	if err != nil {
		return id, ErrBadID // without the text, which may be a seed
	}
	return id, nil
}
