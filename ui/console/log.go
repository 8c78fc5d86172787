package console

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
)

// logPatience is how long the first prompt waits for the device to let go of the
// serial line.
const logPatience = 2 * time.Second

// followLog prints the lines of the log that the device would otherwise write to
// the serial line itself, across what is being typed. free is called when it no
// longer does, or when this console is not the one to print them.
func (c *Console) followLog(ctx context.Context, free func()) {
	for ctx.Err() == nil {
		err := c.followLogOnce(ctx, free)
		switch status.Code(err) {
		case codes.PermissionDenied, codes.Unimplemented:
			free()
			return // a console beside the serial one
		}
		select {
		case <-ctx.Done():
		case <-time.After(rejoin):
		}
	}
}

func (c *Console) followLogOnce(ctx context.Context, free func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := c.cfg.Device.Follow(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if header, err := stream.Header(); err != nil {
		return err
	} else if header != nil { // else it ended, and Recv says why
		free()
	}
	for {
		line, err := stream.Recv()
		if err != nil {
			return err
		}
		c.term.print(line.GetText())
		if err := stream.Send(&api.FollowRequest{}); err != nil {
			return err
		}
	}
}
