package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hearth/node/api"
)

// These commands are for a console on a machine with files of the user's own. The
// messenger never opens a path: it gets and gives bytes.

// filePiece is how much of a file goes in one request, in bytes.
const filePiece = 64 << 10

// openFile opens a file of the user's for reading.
func openFile(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileError(err)
	}
	if !info.Mode().IsRegular() { // to open a pipe could take for ever
		return nil, usageError(path + " is not a file.")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fileError(err)
	}
	return file, nil
}

// inPieces gives the bytes of a file to send, until that fails, which the messenger
// then has a reason for. The error is the file's.
func inPieces(file *os.File, send func([]byte) error) error {
	piece := make([]byte, filePiece)
	for {
		n, err := file.Read(piece)
		if n > 0 && send(piece[:n]) != nil {
			return nil
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fileError(err)
		}
	}
}

// picture shows whether there is an own picture, or chooses it.
func (c *Console) picture(ctx context.Context, rest string) error {
	path := unquote(rest)
	if path == "" {
		reply, err := c.cfg.Messenger.Settings(ctx, &api.SettingsRequest{})
		if err != nil {
			return serviceError{messenger, err}
		}
		c.hasPicture(reply)
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // takes back what was sent when the file cannot be read
	stream, err := c.cfg.Messenger.SetPicture(ctx)
	if err != nil {
		return serviceError{messenger, err}
	}
	if path != "-" {
		file, err := openFile(path)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := inPieces(file, func(b []byte) error { return stream.Send(&api.SetPictureRequest{Data: b}) }); err != nil {
			return err
		}
	}
	reply, err := stream.CloseAndRecv()
	if err != nil {
		return serviceError{messenger, err}
	}
	c.hasPicture(reply)
	return nil
}

func (c *Console) hasPicture(reply *api.SettingsReply) {
	if reply.GetPicture() {
		c.term.print("You have a picture. It goes out with your messages.")
	} else {
		c.term.print("You have no picture. `picture PATH` sets one.")
	}
}

// savePicture keeps the picture of a contact.
func (c *Console) savePicture(ctx context.Context, who, path string) error {
	if path = unquote(path); path == "" {
		return usageError("Say where to: save NAME picture PATH")
	}
	reply, err := c.cfg.Messenger.Picture(ctx, &api.WhoRequest{Who: who})
	if err != nil {
		return serviceError{messenger, err}
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fileError(err)
	}
	_, err = out.Write(reply.GetJpeg())
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(path)
		return fileError(err)
	}
	c.term.print(fmt.Sprintf("%s has the picture, %d bytes.", path, len(reply.GetJpeg())))
	return nil
}

func (c *Console) sendFile(ctx context.Context, rest string) error {
	to, path, err := c.cutName(ctx, rest)
	if err != nil {
		return err
	}
	path = unquote(path)
	if to == "" || path == "" {
		return usageError("Say to whom and which file: sendfile NAME PATH")
	}
	return c.upload(ctx, path, &api.FileHead{To: to, Name: filepath.Base(path)})
}

// soundTypes are the kinds of sound by the endings of files, under the names that
// Session's clients give them: they play nothing whose type is not audio.
var soundTypes = map[string]string{
	".mp3": "audio/mp3", ".m4a": "audio/mp4", ".mp4": "audio/mp4", ".aac": "audio/aac",
	".ogg": "audio/ogg", ".oga": "audio/ogg", ".opus": "audio/ogg", ".webm": "audio/webm", ".wav": "audio/wav",
}

func (c *Console) sendVoice(ctx context.Context, rest string) error {
	to, path, err := c.cutName(ctx, rest)
	if err != nil {
		return err
	}
	path = unquote(path)
	if to == "" || path == "" {
		return usageError("Say to whom and which file: sendvoice NAME PATH")
	}
	kind := soundTypes[strings.ToLower(filepath.Ext(path))]
	if kind == "" {
		return usageError("A voice message is a file that ends in .mp3, .m4a, .aac, .ogg, .opus, .webm or .wav; `sendfile` sends any other.")
	}
	return c.upload(ctx, path, &api.FileHead{To: to, Name: filepath.Base(path), Type: kind, Voice: true})
}

// upload sends a file of the user's.
func (c *Console) upload(ctx context.Context, path string, head *api.FileHead) error {
	file, err := openFile(path)
	if err != nil {
		return err
	}
	defer file.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // takes back what was sent when the file cannot be read
	stream, err := c.cfg.Messenger.SendFile(ctx)
	if err != nil {
		return serviceError{messenger, err}
	}
	err = stream.Send(&api.SendFileRequest{Part: &api.SendFileRequest_Head{Head: head}})
	if err == nil {
		err = inPieces(file, func(b []byte) error {
			return stream.Send(&api.SendFileRequest{Part: &api.SendFileRequest_Data{Data: b}})
		})
		if err != nil {
			return err
		}
	}
	// After an end that the messenger made, the reason comes here.
	reply, err := stream.CloseAndRecv()
	if err != nil {
		return c.notWaitedFor(ctx, err, head.GetTo(), func(m *api.Message) bool {
			return len(m.GetAttachments()) == 1 && m.GetAttachments()[0].GetName() == head.GetName()
		})
	}
	c.sent(reply)
	return nil
}

func (c *Console) save(ctx context.Context, rest string) error {
	const usage = "save NAME N PATH"
	with, left, err := c.cutName(ctx, rest)
	if err != nil {
		return err
	}
	text, path := cutWord(left)
	if strings.EqualFold(text, "picture") {
		return c.savePicture(ctx, with, path)
	}
	message, which, several := strings.Cut(text, ".")
	_, number, _, err := numberOf(with, message, usage)
	if err != nil {
		return err
	}
	file := uint64(1)
	if several {
		if file, err = strconv.ParseUint(which, 10, 32); err != nil || file == 0 {
			return usageError("Say which file of the message, such as 3.2: " + usage)
		}
	}
	if path = unquote(path); path == "" {
		return usageError("Say where to: " + usage)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		name, err := c.fileName(ctx, with, number, file)
		if err != nil {
			return err
		}
		path = filepath.Join(path, name)
	}
	stream, err := c.cfg.Messenger.FetchFile(ctx, &api.FetchFileRequest{With: with, Id: number, File: uint32(file - 1), Save: true})
	if err != nil {
		return serviceError{messenger, err}
	}
	var out *os.File
	size := 0
	for {
		reply, err := stream.Recv()
		if err == nil && reply.GetProgress() != nil {
			continue
		}
		if err != nil && err != io.EOF {
			if out != nil {
				out.Close()
				os.Remove(path)
			}
			return serviceError{messenger, err}
		}
		if out == nil { // it is there, and checked
			var openErr error
			if out, openErr = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); openErr != nil {
				return fileError(openErr)
			}
		}
		if err == io.EOF {
			break
		}
		n, writeErr := out.Write(reply.GetData())
		size += n
		if writeErr != nil {
			out.Close()
			os.Remove(path)
			return fileError(writeErr)
		}
	}
	if err := out.Close(); err != nil {
		return fileError(err)
	}
	c.term.print(fmt.Sprintf("%s has the file, %d bytes.", path, size))
	return nil
}

// fileName is what a file of a message is called, for a folder of the user's: the
// sender chose it, so that nothing but a plain name is taken.
func (c *Console) fileName(ctx context.Context, with string, number, file uint64) (string, error) {
	reply, err := c.cfg.Messenger.Messages(ctx, &api.MessagesRequest{With: with, Limit: 1, Before: number + 1})
	if err != nil {
		return "", serviceError{messenger, err}
	}
	for _, m := range reply.GetMessages() {
		if m.GetId() != number || file > uint64(len(m.GetAttachments())) {
			continue
		}
		name := strings.TrimLeft(filepath.Base(visible(m.GetAttachments()[file-1].GetName())), "."+string(filepath.Separator))
		if name == "" {
			break
		}
		return name, nil
	}
	return "", usageError("The file has no name that could be used: say one, as in save NAME N FOLDER/FILE")
}

func fileError(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return usageError(path.Path + ": " + path.Err.Error() + ".")
	}
	return usageError(sentence(err.Error()))
}
