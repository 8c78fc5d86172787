// Package viewer shows a virtual panel to a person: it is the far end of the
// stream of package link.
//
// New takes the way to the panel, usually Unix with the path of the emulator's
// socket, and Run keeps the picture up to date, coming back by itself when the
// panel goes away. ListenAndServe puts the device on a local web page with its
// screen and its buttons; programs and tests use Picture, Wait and Press.
package viewer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"hearth/hw/panel"
	"hearth/hw/panel/link"
)

// Dial connects to a panel.
type Dial func(ctx context.Context) (io.ReadWriteCloser, error)

// Unix dials a Unix socket: the emulator's character device, or that of a
// panel on this machine.
func Unix(path string) Dial {
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// ErrNotConnected is the error of a button pressed while no panel is there.
var ErrNotConnected = errors.New("the panel is not connected")

// Viewer keeps the picture of one panel.
type Viewer struct {
	dial Dial
	log  *slog.Logger

	mu      sync.Mutex
	state   State
	picture *image.RGBA // complete; replaced, never changed
	news    chan struct{}
	write   func(link.Packet) error // nil = not connected
}

// State is what a page needs to know to show the newest picture.
type State struct {
	// Version grows with every change of the picture; 0 = none has come yet.
	Version uint64 `json:"version"`
	// Connected tells whether the stream to the panel is open.
	Connected bool `json:"connected"`
	// Width and Height are the panel's, in pixels.
	Width  int `json:"width"`
	Height int `json:"height"`
}

// New makes a viewer for the panel that dial reaches.
func New(dial Dial, log *slog.Logger) *Viewer {
	return &Viewer{dial: dial, log: log, news: make(chan struct{})}
}

const (
	// redialDelay is the pause before another attempt to reach the panel.
	redialDelay = 300 * time.Millisecond
	// helloInterval is how often Hello is repeated until the picture is
	// complete: an emulated machine may boot long after its socket opened.
	helloInterval = time.Second
)

// Run keeps the connection and the picture until ctx is done.
func (v *Viewer) Run(ctx context.Context) error {
	for {
		conn, err := v.dial(ctx)
		if err == nil {
			err = v.Attach(ctx, conn)
		}
		v.log.Debug("panel not connected", "why", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(redialDelay):
		}
	}
}

// Attach follows one panel until the stream ends or ctx is done, and closes
// the stream.
func (v *Viewer) Attach(ctx context.Context, conn io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var writing sync.Mutex
	write := func(p link.Packet) error {
		writing.Lock()
		defer writing.Unlock()
		_, err := conn.Write(p.Append(nil))
		return err
	}
	v.update(func() { v.write, v.state.Connected = write, true })
	defer v.update(func() { v.write, v.state.Connected = nil, false })

	c := &canvas{}
	hello := make(chan struct{}, 1)
	hello <- struct{}{}
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(helloInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-hello:
			case <-ticker.C:
				if c.complete() {
					continue
				}
			}
			if err := write(link.Packet{Kind: link.Hello}); err != nil {
				cancel(err)
				return
			}
		}
	})
	wg.Go(func() {
		scanner := link.NewScanner(conn, link.MaxPayload)
		for {
			p, err := scanner.Next()
			if err != nil {
				cancel(err)
				return
			}
			if p.Kind != link.BandKind {
				continue
			}
			switch done, err := c.apply(p.Payload); {
			case err != nil:
				v.log.Debug("panel picture", "trouble", err)
				select {
				case hello <- struct{}{}:
				default:
				}
			case done:
				picture := c.rgba()
				v.update(func() {
					v.picture = picture
					v.state.Version++
					v.state.Width, v.state.Height = picture.Rect.Dx(), picture.Rect.Dy()
				})
			}
		}
	})
	<-ctx.Done()
	conn.Close()
	wg.Wait()
	return context.Cause(ctx)
}

func (v *Viewer) update(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
	close(v.news)
	v.news = make(chan struct{})
}

// State gives the state now and a channel that closes at the next change.
func (v *Viewer) State() (State, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state, v.news
}

// Picture gives the newest complete picture, nil before the first. It must not
// be changed.
func (v *Viewer) Picture() (*image.RGBA, State) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.picture, v.state
}

// Wait waits for a picture newer than version after.
func (v *Viewer) Wait(ctx context.Context, after uint64) (*image.RGBA, State, error) {
	for {
		_, news := v.State()
		if p, s := v.Picture(); s.Version > after {
			return p, s, nil
		}
		select {
		case <-ctx.Done():
			return nil, State{}, ctx.Err()
		case <-news:
		}
	}
}

// Press sends one change of a button. ErrNotConnected when no panel is there.
func (v *Viewer) Press(e panel.Event) error {
	v.mu.Lock()
	write := v.write
	v.mu.Unlock()
	if write == nil {
		return ErrNotConnected
	}
	if err := write(link.Button{Number: byte(e.Button), Pressed: e.Pressed}.Packet()); err != nil {
		return fmt.Errorf("button %v: %w", e.Button, err)
	}
	return nil
}

// Click presses and releases a button.
func (v *Viewer) Click(b panel.Button) error {
	return errors.Join(v.Press(panel.Event{Button: b, Pressed: true}), v.Press(panel.Event{Button: b}))
}

// canvas puts bands together.
type canvas struct {
	mu      sync.Mutex
	picture *panel.Image565
	missing int    // pixels not seen since the last Hello's answer began
	next    uint32 // number of the band expected next
	begun   bool
	whole   bool // every pixel has been seen and no band was missed
}

var errMissed = errors.New("a piece of the picture is missing")

// complete tells whether the picture is the panel's.
func (c *canvas) complete() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whole
}

// apply draws one band and tells whether the picture is worth showing now. An
// error means that the whole picture has to be asked for.
func (c *canvas) apply(payload []byte) (show bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := link.ParseBand(payload)
	if err != nil {
		c.whole, c.begun = false, false
		return false, err
	}
	if c.picture == nil || c.picture.Rect.Size() != b.Panel {
		c.picture = panel.NewImage565(image.Rectangle{Max: b.Panel})
		c.whole, c.begun = false, false
	}
	starts := b.Rect.Min == image.Point{} && b.Rect.Dx() == b.Panel.X
	missed := c.begun && b.Number != c.next
	if missed || !c.begun {
		c.whole, c.begun = false, starts
		c.missing = b.Panel.X * b.Panel.Y
	}
	c.next = b.Number + 1
	if !c.begun {
		if missed {
			return false, errMissed
		}
		return false, nil // from before Hello, which is on its way
	}
	for y := b.Rect.Min.Y; y < b.Rect.Max.Y; y++ {
		for x := b.Rect.Min.X; x < b.Rect.Max.X; x++ {
			i := 2 * ((y-b.Rect.Min.Y)*b.Rect.Dx() + x - b.Rect.Min.X)
			c.picture.Pix[y*b.Panel.X+x] = panel.RGB565(binary.BigEndian.Uint16(b.Pixels[i:]))
		}
	}
	if !c.whole {
		// The answer to Hello covers the screen from top to bottom in full
		// rows; anything else in between belongs to an older change.
		if c.missing -= b.Rect.Dx() * b.Rect.Dy(); b.Last {
			c.whole = c.missing == 0
			if !c.whole {
				c.begun = false
				return false, errMissed
			}
		}
	}
	return c.whole && b.Last, nil
}

func (c *canvas) rgba() *image.RGBA {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := image.NewRGBA(c.picture.Rect)
	for i, p := range c.picture.Pix {
		r, g, b, _ := p.RGBA()
		m.SetRGBA(i%m.Rect.Dx(), i/m.Rect.Dx(), color.RGBA{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8), 255})
	}
	return m
}
