package messenger

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/messenger/archive"
)

// Error is an error of the Messenger API: a text for people and the gRPC code
// that goes with it. The variables below are compared with errors.Is, in the
// process; over the socket the code and the text arrive.
type Error struct {
	code codes.Code
	text string
}

func (e *Error) Error() string { return e.text }

// GRPCStatus makes gRPC send the code. An error that wraps e keeps the code and
// brings its own text.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.code, e.text) }

// Errors of the Messenger API.
var (
	ErrNoAccount = &Error{codes.FailedPrecondition, "there is no account yet"}
	ErrLocked    = &Error{codes.FailedPrecondition, "the account is locked: unlock it with the PIN"}
	ErrOpen      = &Error{codes.AlreadyExists, "there is an account already"}
	ErrPIN       = &Error{codes.InvalidArgument, "a PIN has 6 to 32 characters"}
	ErrSamePIN   = &Error{codes.InvalidArgument, "the new PIN is the old one"}
	ErrLockTime  = &Error{codes.InvalidArgument, "the account locks after 1 to 1440 minutes without use, or with 0 never by itself"}
	ErrPhrase    = &Error{codes.InvalidArgument, "not a recovery phrase"}
	ErrNoVault   = &Error{codes.FailedPrecondition, "the vault does not answer"}
	ErrBusy      = &Error{codes.ResourceExhausted, "too many requests at a time"}
	ErrStopped   = &Error{codes.Unavailable, "the messenger is stopping"}

	ErrEmpty     = &Error{codes.InvalidArgument, "the message is empty"}
	ErrTooLong   = &Error{codes.InvalidArgument, "the message is too long"}
	ErrNotText   = &Error{codes.InvalidArgument, "the message is not UTF-8 text"}
	ErrBadID     = &Error{codes.InvalidArgument, "not a Session ID: it has 66 hexadecimal digits and begins with 05"}
	ErrUnknown   = &Error{codes.NotFound, "no contact has this name"}
	ErrAmbiguous = &Error{codes.FailedPrecondition, "several contacts call themselves so: use the Session ID"}
	ErrName      = &Error{codes.InvalidArgument, "a name has at most 100 bytes, no control characters, and is not a Session ID"}
	ErrNameOwn   = &Error{codes.InvalidArgument, "this name stands for yourself: choose another"}
	ErrNameTaken = &Error{codes.AlreadyExists, "another contact has this name"}

	ErrNobody    = &Error{codes.InvalidArgument, "nobody can have this Session ID"}
	ErrSelf      = &Error{codes.InvalidArgument, "this is your own Session ID"}
	ErrSelfName  = &Error{codes.InvalidArgument, "this is your own Session ID: you are no contact of yours, but what is sent to me is a note to yourself"}
	ErrBlocked   = &Error{codes.FailedPrecondition, "this contact is blocked"}
	ErrNoRequest = &Error{codes.NotFound, "this is no request"}
	ErrNoMessage = &Error{codes.NotFound, "there is no such message"}
	ErrNotOwn    = &Error{codes.PermissionDenied, "only its writer can unsend a message"}
	ErrEmoji     = &Error{codes.InvalidArgument, "a reaction is one emoji"}
	ErrFast      = &Error{codes.ResourceExhausted, "too many reactions: 20 a minute are allowed"}
	ErrTimer     = &Error{codes.InvalidArgument, "messages disappear after 10 seconds to 14 days, notes to yourself only after sending"}
	ErrFull      = &Error{codes.ResourceExhausted, "too many messages wait to be sent"}

	ErrFileHead  = &Error{codes.InvalidArgument, "the file does not come as it should"}
	ErrFileSize  = &Error{codes.ResourceExhausted, "a file has at most 10,000,000 bytes"}
	ErrFileEmpty = &Error{codes.InvalidArgument, "the file is empty"}
	ErrPicture   = &Error{codes.InvalidArgument, "what the picture tells about its making cannot be taken out"}
	// Also for what [attachment.ErrPictureKind] is about.
	ErrPictureKind = &Error{codes.InvalidArgument, "a picture of this kind says where and when it was taken, which cannot be taken out of it here: convert it to JPEG or PNG and send that"}

	ErrNoRoom    = &Error{codes.ResourceExhausted, "too many files wait to be sent"}
	ErrNoFile    = &Error{codes.NotFound, "the message has no such file"}
	ErrStranger  = &Error{codes.FailedPrecondition, "files of strangers are not fetched: accept them first"}
	ErrFileURL   = &Error{codes.FailedPrecondition, "the file is on no server that is known"}
	ErrFileGone  = &Error{codes.NotFound, "nobody keeps the file any more"}
	ErrForged    = &Error{codes.DataLoss, "the file is not what its sender described"}
	ErrNoPreview = &Error{codes.FailedPrecondition, "the file is no picture that can be shown"}
	ErrNoPicture = &Error{codes.NotFound, "there is no picture"}
	ErrUpload    = &Error{codes.Aborted, "the network did not take the picture"}
	ErrFetch     = &Error{codes.Aborted, "the network did not give the file"}

	ErrNoGroup        = &Error{codes.NotFound, "there is no such group"}
	ErrGroupAmbiguous = &Error{codes.FailedPrecondition, "several groups have this name: use the group's ID"}
	ErrIsGroup        = &Error{codes.InvalidArgument, "this is a group, not a person"}
	ErrNotAdmin       = &Error{codes.PermissionDenied, "only an admin of the group can do that"}
	ErrGroupOver      = &Error{codes.FailedPrecondition, "you are no longer in this group"}
	ErrNotJoined      = &Error{codes.FailedPrecondition, "you have not accepted the invitation to this group"}
	ErrNoInvitation   = &Error{codes.NotFound, "there is no invitation to this group"}
	ErrGroupEarly     = &Error{codes.FailedPrecondition, "the group's swarm has not been asked yet: try again in a moment"}
	ErrGroupName      = &Error{codes.InvalidArgument, "a group's name has 1 to 100 bytes, no control characters, and is not an ID"}
	ErrDescription    = &Error{codes.InvalidArgument, "a description has at most 2,000 bytes and no control characters"}
	ErrIsMember       = &Error{codes.AlreadyExists, "they are in the group already; nobody was invited"}
	ErrIsAdmin        = &Error{codes.AlreadyExists, "they are an admin already; nobody was promoted"}
	ErrNotMember      = &Error{codes.NotFound, "they are not in the group"}
	ErrNobodyNamed    = &Error{codes.InvalidArgument, "nobody is named"}
	ErrGroupFull      = &Error{codes.ResourceExhausted, "there are too many people in the group, or too many groups"}
	ErrGroupTimer     = &Error{codes.InvalidArgument, "messages of a group disappear 10 seconds to 14 days after sending, or stay"}

	ErrLinkCode    = &Error{codes.InvalidArgument, "this is no code, or it is mistyped: it has six groups of four characters"}
	ErrLinkNothing = &Error{codes.NotFound, "no device waits under this code: make a new one with link on the other device"}
	ErrLinkOver    = &Error{codes.FailedPrecondition, "the code's ten minutes are over: make a new one with link on the other device"}
	ErrLinkUsed    = &Error{codes.FailedPrecondition, "the code has been used, or a later one has taken its place: make a new one with link on the other device"}
	ErrLinkStore   = &Error{codes.Aborted, "the network does not take what the other device needs"}
	ErrLinkNetwork = &Error{codes.Aborted, "the network does not give what waits under the code"}

	ErrNetwork = &Error{codes.Aborted, "the network did not take the message"}
	ErrDisk    = &Error{codes.Internal, "the database does not work"}
	ErrSlow    = &Error{codes.ResourceExhausted, "events were not read fast enough: subscribe again"}
)

// forCaller gives an error of the layers below a code and a beginning that
// people understand.
func forCaller(as *Error, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.Is(err, archive.ErrNameTaken):
		return ErrNameTaken
	case errors.Is(err, archive.ErrNoMessage):
		return ErrNoMessage
	case errors.Is(err, archive.ErrFull):
		return ErrFull
	case errors.Is(err, archive.ErrNoRoom):
		return ErrNoRoom
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", as, err)
}
