package panel

import (
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"io"
	"log/slog"
	"sync"
	"time"

	"hearth/hw/panel/link"
)

// Accept waits until a viewer is there and gives the stream to it. It returns
// an error only when ctx is done or no viewer can ever come.
type Accept func(ctx context.Context) (io.ReadWriteCloser, error)

// Virtual is a panel of RGB565 pixels whose screen and buttons are at the
// other end of a byte stream.
//
// Draw never waits for that other end: it changes the picture in memory, and
// Run sends what has changed since the last time, so that a slow viewer misses
// pictures but never holds up the drawing.
type Virtual struct {
	buttons chan Event
	changed chan struct{} // holds one token: there may be something to send

	mu      sync.Mutex
	picture *Image565
	sent    *Image565 // what the viewer has; valid while watched
	watched bool      // a viewer said Hello on this connection
	whole   bool      // send everything next time
}

var _ Panel = (*Virtual)(nil)

// NewVirtual makes a black panel of the given size in pixels, at most
// link.MaxSide each way.
func NewVirtual(width, height int) (*Virtual, error) {
	if width < 1 || height < 1 || width > link.MaxSide || height > link.MaxSide {
		return nil, fmt.Errorf("virtual panel of %dx%d pixels: sides are 1 to %d", width, height, link.MaxSide)
	}
	bounds := image.Rect(0, 0, width, height)
	return &Virtual{
		buttons: make(chan Event, 64),
		changed: make(chan struct{}, 1),
		picture: NewImage565(bounds),
		sent:    NewImage565(bounds),
	}, nil
}

func (v *Virtual) String() string {
	return fmt.Sprintf("virtual panel %dx%d", v.Bounds().Dx(), v.Bounds().Dy())
}

// Halt implements conn.Resource. A virtual panel needs no halting.
func (v *Virtual) Halt() error { return nil }

// ColorModel implements display.Drawer.
func (v *Virtual) ColorModel() color.Model { return RGB565Model }

// Bounds implements display.Drawer.
func (v *Virtual) Bounds() image.Rectangle { return v.picture.Rect }

// Draw implements display.Drawer. It returns at once.
func (v *Virtual) Draw(dst image.Rectangle, src image.Image, at image.Point) error {
	v.mu.Lock()
	v.picture.draw(dst, src, at)
	v.mu.Unlock()
	v.kick()
	return nil
}

// Buttons implements Panel.
func (v *Virtual) Buttons() <-chan Event { return v.buttons }

func (v *Virtual) kick() {
	select {
	case v.changed <- struct{}{}:
	default: // a token is there already
	}
}

// reopenDelay keeps a stream that breaks at once from being opened in a loop.
const reopenDelay = 250 * time.Millisecond

// Run serves one viewer after the other until ctx is done or accept gives up.
func (v *Virtual) Run(ctx context.Context, accept Accept, log *slog.Logger) error {
	for {
		conn, err := accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("waiting for a viewer: %w", err)
		}
		log.Debug("viewer connected", "panel", v.String())
		err = v.Serve(ctx, conn)
		log.Debug("viewer gone", "panel", v.String(), "why", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reopenDelay):
		}
	}
}

// Serve speaks to one viewer until the stream breaks or ctx is done, and
// closes the stream.
func (v *Virtual) Serve(ctx context.Context, conn io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(v.receive(conn)) })
	wg.Go(func() { cancel(v.send(ctx, conn)) })
	<-ctx.Done()
	conn.Close() // releases both
	wg.Wait()

	v.mu.Lock()
	v.watched = false
	v.mu.Unlock()
	return context.Cause(ctx)
}

func (v *Virtual) receive(r io.Reader) error {
	scanner := link.NewScanner(r, link.ButtonSize)
	for {
		p, err := scanner.Next()
		if err != nil {
			return err
		}
		switch p.Kind {
		case link.Hello:
			v.mu.Lock()
			v.watched, v.whole = true, true
			v.mu.Unlock()
			v.kick()
		case link.ButtonKind:
			b, err := link.ParseButton(p.Payload)
			if err != nil || !Button(b.Number).Known() {
				continue
			}
			select {
			case v.buttons <- Event{Button(b.Number), b.Pressed}:
			default:
			}
		}
	}
}

// writeTimeout is how long a viewer may take no bytes before it counts as
// gone.
const writeTimeout = 10 * time.Second

func (v *Virtual) send(ctx context.Context, w io.Writer) error {
	deadline, _ := w.(interface{ SetWriteDeadline(time.Time) error })
	var number uint32
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.changed:
		}
		for _, band := range v.pending() {
			band.Number = number
			number++
			if deadline != nil {
				if err := deadline.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
					deadline = nil // this stream has none
				}
			}
			if _, err := w.Write(band.Packet().Append(nil)); err != nil {
				return fmt.Errorf("sending a picture: %w", err)
			}
		}
	}
}

// pending gives what the viewer does not have yet and notes it as sent.
func (v *Virtual) pending() []link.Band {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.watched {
		return nil
	}
	rect := v.picture.changed(v.sent)
	if v.whole {
		rect = v.picture.Rect
	}
	v.whole = false
	copy(v.sent.Pix, v.picture.Pix)
	return bands(v.picture, rect)
}

func bands(m *Image565, rect image.Rectangle) []link.Band {
	if rect.Empty() {
		return nil
	}
	var all []link.Band
	step := max(1, link.MaxBandPixels/rect.Dx())
	for y := rect.Min.Y; y < rect.Max.Y; y += step {
		r := image.Rect(rect.Min.X, y, rect.Max.X, min(y+step, rect.Max.Y))
		pixels := make([]byte, 0, 2*r.Dx()*r.Dy())
		for row := r.Min.Y; row < r.Max.Y; row++ {
			start := m.offset(r.Min.X, row)
			for _, c := range m.Pix[start : start+r.Dx()] {
				pixels = binary.BigEndian.AppendUint16(pixels, uint16(c))
			}
		}
		all = append(all, link.Band{Panel: m.Rect.Size(), Rect: r, Pixels: pixels, Last: r.Max.Y == rect.Max.Y})
	}
	return all
}
