package panel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	hw "hearth/hw/panel"
	"hearth/node/api"
	"hearth/ui/devicetest"
)

// display is a panel in memory.
type display struct {
	buttons chan hw.Event

	mu     sync.Mutex
	screen *image.RGBA
	drawn  []image.Rectangle
	broken bool
	change chan struct{}
}

func newDisplay() *display {
	// Not at the origin, as a part of a larger display may be.
	return &display{buttons: make(chan hw.Event), screen: image.NewRGBA(image.Rect(10, 20, 250, 260)), change: make(chan struct{})}
}

func (d *display) String() string            { return "test display" }
func (d *display) Halt() error               { return nil }
func (d *display) ColorModel() color.Model   { return color.RGBAModel }
func (d *display) Bounds() image.Rectangle   { return d.screen.Rect }
func (d *display) Buttons() <-chan hw.Event  { return d.buttons }
func (d *display) set(change func(*display)) { d.mu.Lock(); defer d.mu.Unlock(); change(d) }

func (d *display) Draw(r image.Rectangle, src image.Image, at image.Point) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() {
		close(d.change)
		d.change = make(chan struct{})
	}()
	d.drawn = append(d.drawn, r)
	if d.broken {
		return errors.New("the bus does not answer")
	}
	draw.Draw(d.screen, r, src, at, draw.Src)
	return nil
}

// shows waits until the display shows a view.
func (d *display) shows(t *testing.T, ctx context.Context, what string, v View) {
	t.Helper()
	want := Draw(d.screen.Rect.Size(), false, v)
	for {
		d.mu.Lock()
		same, change := bytes.Equal(want.Pix, d.screen.Pix), d.change
		d.mu.Unlock()
		if same {
			return
		}
		select {
		case <-change:
		case <-ctx.Done():
			t.Fatalf("the display never showed %s", what)
		}
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestRunFollowsServicesAndButtons(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s := devicetest.Start(t)
	s.Down["Messenger"], s.Down["Node"], s.Down["Device"] = true, true, true
	d, log := newDisplay(), &safeBuffer{}
	cfg := Config{
		Panel:  d,
		Log:    slog.New(slog.NewTextHandler(log, nil)),
		Uptime: func() (time.Duration, error) { return 3210 * time.Millisecond, nil },
	}
	cfg.Messenger, cfg.Node, cfg.Device = s.Clients()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error)
	go func() { done <- Run(ctx, cfg) }()

	var view View
	d.shows(t, ctx, "that it starts", view)

	s.Change(func() { clear(s.Down) })
	s.Look(func() {
		view.Messenger, view.Node, view.Device = proto.CloneOf(s.State), proto.CloneOf(s.Node), proto.CloneOf(s.Device)
	})
	d.shows(t, ctx, "how to choose a PIN", view)

	if err := s.Followed(ctx, 1); err != nil {
		t.Fatal("nobody follows the events")
	}
	s.Open()
	view.Messenger = devicetest.OpenState()
	d.shows(t, ctx, "the first screen", view)
	s.Receive(devicetest.Bob, "hello")
	view.Messenger.Unread = 1
	d.set(func(d *display) { d.drawn = nil })
	d.shows(t, ctx, "one unread message", view)

	press := func(b hw.Button) {
		for _, pressed := range []bool{true, false} {
			select {
			case d.buttons <- hw.Event{Button: b, Pressed: pressed}:
			case <-ctx.Done():
				t.Fatal("nobody listens to the buttons")
			}
		}
	}
	for _, step := range []struct {
		button hw.Button
		page   Page
	}{{hw.Key1, FullID}, {hw.Key1, Home}, {hw.Key2, Node}, {hw.Key1, FullID}, {hw.Key3, Home}, {hw.Up, Home}, {hw.Key2, Node}} {
		press(step.button)
		view.Page = step.page
		d.shows(t, ctx, fmt.Sprintf("page %d after %v", step.page, step.button), view)
	}

	d.set(func(d *display) { d.broken = true })
	press(hw.Key3)
	d.set(func(d *display) { d.broken = false })
	press(hw.Key1)
	view.Page = FullID
	d.shows(t, ctx, "everything again after the bus was broken", view)

	s.Change(func() { s.Down["Messenger"] = true })
	view.Messenger = nil
	d.shows(t, ctx, "that the messenger starts again", view)

	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := log.String(); strings.Count(got, "first screen drawn, uptime 3.21 s") != 1 || strings.Count(got, "session id drawn") != 1 {
		t.Errorf("the log has %q", got)
	}
	if strings.Contains(log.String(), devicetest.Alice) {
		t.Error("the log has the ID")
	}
}

func TestOnlyWhatChangedIsDrawn(t *testing.T) {
	d := newDisplay()
	r := &runner{cfg: Config{Panel: d, Log: slog.New(slog.DiscardHandler), Uptime: Uptime}}
	r.view = View{Messenger: openAccount(nil), Node: readyNode()}
	r.draw()
	r.draw()
	if len(d.drawn) != 1 || d.drawn[0] != d.screen.Rect {
		t.Fatalf("drawn %v", d.drawn)
	}
	r.view.Messenger = openAccount(func(s *api.MessengerState) { s.Unread = 1 })
	r.draw()
	if len(d.drawn) != 2 || d.drawn[1].Dy() > 24 {
		t.Errorf("for another unread count %v was drawn", d.drawn[1])
	}
	if !bytes.Equal(d.screen.Pix, Draw(d.screen.Rect.Size(), false, r.view).Pix) {
		t.Error("the pieces are not the picture")
	}
}

func TestDisplaysWithTwoColoursAreNoticed(t *testing.T) {
	bit := color.ModelFunc(func(c color.Color) color.Color {
		if y := color.GrayModel.Convert(c).(color.Gray).Y; y >= 128 {
			return color.White
		}
		return color.Black
	})
	if !isMono(bit) {
		t.Error("one bit for each pixel was taken for more")
	}
	for _, m := range []color.Model{color.RGBAModel, color.GrayModel, hw.RGB565Model} {
		if isMono(m) {
			t.Errorf("%v was taken for one bit", m)
		}
	}
}
