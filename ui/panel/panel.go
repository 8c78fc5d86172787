// Package panel draws the appliance's screens.
//
// Run keeps one panel up to date: it follows the messenger, asks the node how
// it does, listens to the buttons, and redraws what has changed. Draw makes
// the picture of one View; it does not care which display it is for and lays
// out for whatever size it is given, with or without colour.
//
//	KEY1  the Session ID as a QR code, or in full as text
//	KEY2  the node: address, swarm, peers, messages kept
//	KEY3  back to the first screen
package panel

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	hw "hearth/hw/panel"
	"hearth/node/api"
)

// Config is what Run needs. The services need not be there yet.
type Config struct {
	Panel     hw.Panel
	Messenger api.MessengerClient
	Node      api.NodeClient
	Device    api.DeviceClient
	Log       *slog.Logger
	// Uptime is the time since the kernel started, for the log; nil reads
	// /proc/uptime.
	Uptime func() (time.Duration, error)
}

const (
	// pollSlow is how often node and device are asked, and the messenger in
	// case an event was missed.
	pollSlow = 5 * time.Second
	// pollFast is the same while one of them has not answered, as at the start.
	pollFast = 500 * time.Millisecond
	// patience is how long one answer may take.
	patience = 3 * time.Second
)

// Run draws until ctx is done. Services that are not there, or go away and
// come back, are shown as starting. Errors of the display are logged and the
// picture is drawn in full the next time.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Uptime == nil {
		cfg.Uptime = Uptime
	}
	r := &runner{cfg: cfg, updates: make(chan func(*View), 16), mono: isMono(cfg.Panel.ColorModel())}
	r.draw()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { r.follow(ctx) })
	wg.Go(func() { r.poll(ctx) })
	defer wg.Wait()
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return nil
		case update := <-r.updates:
			update(&r.view)
		case e := <-cfg.Panel.Buttons():
			if !e.Pressed {
				continue
			}
			r.view.Page = r.view.Page.after(e.Button)
		}
		r.draw()
	}
}

type runner struct {
	cfg     Config
	mono    bool
	updates chan func(*View)
	events  atomic.Uint64 // counts the states that the messenger told by itself

	// What follows belongs to Run's own goroutine.
	view     View
	shown    *image.RGBA // what the display has; nil = unknown
	begun    bool
	idLogged bool
}

// draw brings the display up to date, with the smallest rectangle that does.
func (r *runner) draw() {
	bounds := r.cfg.Panel.Bounds()
	picture := Draw(bounds.Size(), r.mono, r.view)
	dirty := changed(r.shown, picture)
	if dirty.Empty() {
		return
	}
	if err := r.cfg.Panel.Draw(dirty.Add(bounds.Min), picture, dirty.Min); err != nil {
		r.cfg.Log.Warn("drawing", "panel", r.cfg.Panel.String(), "trouble", err)
		r.shown = nil
		return
	}
	r.shown = picture
	if !r.begun {
		r.begun = true
		r.note("first screen drawn")
	}
	if !r.idLogged && r.view.Messenger.GetAccount() == api.MessengerState_OPEN {
		r.idLogged = true
		r.note("session id drawn")
	}
}

func (r *runner) note(what string) {
	if up, err := r.cfg.Uptime(); err == nil {
		what += fmt.Sprintf(", uptime %.2f s", up.Seconds())
	}
	r.cfg.Log.Info(what)
}

func (r *runner) update(ctx context.Context, change func(*View)) {
	select {
	case r.updates <- change:
	case <-ctx.Done():
	}
}

// follow takes the messenger's events.
func (r *runner) follow(ctx context.Context) {
	for ctx.Err() == nil {
		r.followOnce(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(pollFast):
		}
	}
}

func (r *runner) followOnce(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := r.cfg.Messenger.Events(ctx, &api.EventsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return
	}
	// From here on no change can be missed, so the state now is the start.
	if err := r.askMessenger(ctx); err != nil {
		return
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			r.askMessenger(ctx) // it went away, most likely
			return
		}
		switch e := event.GetEvent().(type) {
		case *api.Event_State:
			r.events.Add(1)
			r.update(ctx, func(v *View) { v.Messenger = e.State })
		case *api.Event_Received, *api.Event_Sent:
			if err := r.askMessenger(ctx); err != nil { // the unread count
				return
			}
		}
	}
}

func (r *runner) askMessenger(ctx context.Context) error {
	seen := r.events.Load()
	state, err := ask(ctx, func(ctx context.Context) (*api.MessengerState, error) {
		return r.cfg.Messenger.State(ctx, &api.StateRequest{})
	})
	if err == nil && r.events.Load() != seen {
		return nil // an event overtook the answer
	}
	r.update(ctx, func(v *View) { v.Messenger = state })
	return err
}

// poll asks everybody, often until all have answered.
func (r *runner) poll(ctx context.Context) {
	for ctx.Err() == nil {
		messengerErr := r.askMessenger(ctx)
		node, nodeErr := ask(ctx, func(ctx context.Context) (*api.NodeStatus, error) {
			return r.cfg.Node.Status(ctx, &api.NodeStatusRequest{})
		})
		device, deviceErr := ask(ctx, func(ctx context.Context) (*api.DeviceStatus, error) {
			return r.cfg.Device.Status(ctx, &api.DeviceStatusRequest{})
		})
		r.update(ctx, func(v *View) { v.Node, v.Device = node, device })
		wait := pollSlow
		if messengerErr != nil || nodeErr != nil || deviceErr != nil {
			wait = pollFast
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// ask gives nil when the answer does not come.
func ask[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, call func(context.Context) (P, error)) (P, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := call(ctx)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// changed gives the smallest rectangle in which two pictures differ.
func changed(before, after *image.RGBA) image.Rectangle {
	if before == nil || before.Rect != after.Rect {
		return after.Rect
	}
	var r image.Rectangle
	for y := after.Rect.Min.Y; y < after.Rect.Max.Y; y++ {
		for x := after.Rect.Min.X; x < after.Rect.Max.X; x++ {
			if before.RGBAAt(x, y) != after.RGBAAt(x, y) {
				r = r.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	return r
}

// isMono tells whether a display has no more than two colours.
func isMono(m color.Model) bool {
	seen := map[color.RGBA64]bool{}
	for level := 0; level < 256; level += 15 {
		r, g, b, a := m.Convert(color.Gray{Y: uint8(level)}).RGBA()
		seen[color.RGBA64{R: uint16(r), G: uint16(g), B: uint16(b), A: uint16(a)}] = true
	}
	return len(seen) <= 2
}

// Uptime reads how long ago the kernel started.
func Uptime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/uptime: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}
