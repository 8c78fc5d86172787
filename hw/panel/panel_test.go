package panel_test

import (
	"context"
	"errors"
	"image"
	"image/color"
	"image/draw"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"hearth/hw/panel"
	"hearth/hw/panel/link"
	"hearth/hw/panel/viewer"
)

var quiet = slog.New(slog.DiscardHandler)

// pair is a panel and its viewer on one stream.
func pair(t *testing.T, w, h int) (*panel.Virtual, *viewer.Viewer, context.Context, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	p, err := panel.NewVirtual(w, h)
	if err != nil {
		t.Fatal(err)
	}
	v := viewer.New(nil, quiet)
	near, far := net.Pipe()
	done := make(chan struct{}, 2)
	go func() { p.Serve(ctx, near); done <- struct{}{} }()
	go func() { v.Attach(ctx, far); done <- struct{}{} }()
	return p, v, ctx, func() { cancel(); <-done; <-done }
}

// await waits until the viewer has what is on the panel.
func await(t *testing.T, ctx context.Context, v *viewer.Viewer, want *panel.Image565) uint64 {
	t.Helper()
	for version := uint64(0); ; {
		got, state, err := v.Wait(ctx, version)
		if err != nil {
			t.Fatal("the viewer never showed the picture")
		}
		version = state.Version
		if same(got, want) {
			return version
		}
	}
}

func same(got *image.RGBA, want *panel.Image565) bool {
	if got.Rect != want.Rect {
		return false
	}
	for y := range want.Rect.Dy() {
		for x := range want.Rect.Dx() {
			if panel.RGB565Model.Convert(got.At(x, y)) != want.At(x, y) {
				return false
			}
		}
	}
	return true
}

func TestTheViewerShowsWhatIsDrawn(t *testing.T) {
	for _, size := range []image.Point{{240, 240}, {128, 64}, {1, 1}, {1024, 3}, {33, 1024}} {
		p, v, ctx, stop := pair(t, size.X, size.Y)
		want := panel.NewImage565(p.Bounds())
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 20 {
			r := image.Rect(rnd.IntN(size.X+1), rnd.IntN(size.Y+1), rnd.IntN(size.X+1), rnd.IntN(size.Y+1))
			src := image.NewUniform(color.RGBA{uint8(rnd.Uint32()), uint8(rnd.Uint32()), uint8(rnd.Uint32()), 255})
			draw.Draw(want, r, src, image.Point{}, draw.Src)
			if err := p.Draw(r, src, image.Point{}); err != nil {
				t.Fatal(err)
			}
		}
		await(t, ctx, v, want)
		stop()
	}
}

func TestPicturesOfEveryKindAreDrawnAlike(t *testing.T) {
	p, v, ctx, stop := pair(t, 30, 20)
	defer stop()
	rnd := rand.New(rand.NewPCG(3, 4))
	src := image.NewRGBA(image.Rect(-5, -6, 40, 30))
	for i := range src.Pix {
		src.Pix[i] = uint8(rnd.Uint32())
		if i%4 == 3 {
			src.Pix[i] = 0xff // opaque
		}
	}
	for range 50 {
		r := image.Rect(rnd.IntN(50)-10, rnd.IntN(40)-10, rnd.IntN(50)-10, rnd.IntN(40)-10)
		at := image.Pt(rnd.IntN(60)-15, rnd.IntN(60)-15)
		want := panel.NewImage565(p.Bounds())
		draw.Draw(want, r, src, at, draw.Src)
		p.Draw(p.Bounds(), image.Black, image.Point{})
		p.Draw(r, src, at)
		await(t, ctx, v, want)
	}
}

func TestDrawingOutsideThePanelDoesNothing(t *testing.T) {
	p, v, ctx, stop := pair(t, 20, 10)
	defer stop()
	await(t, ctx, v, panel.NewImage565(p.Bounds()))
	if err := p.Draw(image.Rect(-50, -50, 0, 100), image.White, image.Point{}); err != nil {
		t.Error(err)
	}
	want := panel.NewImage565(p.Bounds())
	want.Set(19, 9, color.White)
	if err := p.Draw(image.Rect(19, 9, 500, 500), image.White, image.Point{}); err != nil {
		t.Error(err)
	}
	await(t, ctx, v, want)
}

func TestButtonsArriveInOrder(t *testing.T) {
	p, v, ctx, stop := pair(t, 8, 8)
	defer stop()
	await(t, ctx, v, panel.NewImage565(p.Bounds()))
	for b := panel.Up; b <= panel.Key3; b++ {
		if err := v.Click(b); err != nil {
			t.Fatal(err)
		}
	}
	for b := panel.Up; b <= panel.Key3; b++ {
		for _, pressed := range []bool{true, false} {
			select {
			case got := <-p.Buttons():
				if want := (panel.Event{Button: b, Pressed: pressed}); got != want {
					t.Errorf("got %v, want %v", got, want)
				}
			case <-ctx.Done():
				t.Fatal("a button did not arrive")
			}
		}
	}
}

func TestButtonNames(t *testing.T) {
	for b := panel.Up; b <= panel.Key3; b++ {
		if got, ok := panel.ParseButton(b.String()); !ok || got != b {
			t.Errorf("%v came back as %v", b, got)
		}
	}
	for _, name := range []string{"", "key1", "KEY4", "Button(9)"} {
		if b, ok := panel.ParseButton(name); ok {
			t.Errorf("%q is %v", name, b)
		}
	}
}

// deaf is a stream whose other end takes nothing.
type deaf struct {
	io.Reader
	closed chan struct{}
}

func (d deaf) Write([]byte) (int, error) { <-d.closed; return 0, io.ErrClosedPipe }
func (d deaf) Close() error              { close(d.closed); return nil }

func TestDrawDoesNotWaitForAViewerWhoDoesNotRead(t *testing.T) {
	p, err := panel.NewVirtual(240, 240)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	hello, say := io.Pipe()
	done := make(chan error)
	go func() { done <- p.Serve(ctx, deaf{hello, make(chan struct{})}) }()
	if _, err := say.Write(link.Packet{Kind: link.Hello}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	m := image.NewRGBA(p.Bounds())
	for i := range 1000 {
		draw.Draw(m, m.Rect, image.NewUniform(color.Gray{uint8(i)}), image.Point{}, draw.Src)
		if err := p.Draw(p.Bounds(), m, image.Point{}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	say.Close()
	<-done
}

func TestThePanelSurvivesGarbageAndANewViewerGetsEverything(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	socket := filepath.Join(t.TempDir(), "panel.sock")
	p, err := panel.NewVirtual(64, 32)
	if err != nil {
		t.Fatal(err)
	}
	accept, closer, err := panel.OpenVirtual(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	runCtx, stop := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- p.Run(runCtx, accept, quiet) }()
	want := panel.NewImage565(p.Bounds())
	draw.Draw(want, want.Rect, image.White, image.Point{}, draw.Src)
	if err := p.Draw(want.Rect, image.White, image.Point{}); err != nil {
		t.Fatal(err)
	}

	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	garbage := make([]byte, 50_000)
	rnd := rand.NewChaCha8([32]byte{})
	rnd.Read(garbage)
	if _, err := conn.Write(garbage); err != nil {
		t.Fatal(err)
	}
	// The same line still works after the garbage.
	conn.Write(link.Button{Number: 200, Pressed: true}.Packet().Append(nil)) // no such button
	conn.Write(link.Button{Number: byte(panel.Key2), Pressed: true}.Packet().Append(nil))
	select {
	case e := <-p.Buttons():
		if e.Button != panel.Key2 {
			t.Errorf("got %v", e)
		}
	case <-ctx.Done():
		t.Fatal("no button after garbage")
	}
	conn.Close()

	v := viewer.New(viewer.Unix(socket), quiet)
	viewing := make(chan error)
	go func() { viewing <- v.Run(runCtx) }()
	await(t, ctx, v, want)
	stop()
	if err := errors.Join(<-done, <-viewing); err != nil {
		t.Error(err)
	}
}

func TestSizesOfAPanel(t *testing.T) {
	for _, size := range []image.Point{{0, 1}, {1, 0}, {-1, 5}, {1025, 1}, {1, 1025}} {
		if _, err := panel.NewVirtual(size.X, size.Y); err == nil {
			t.Errorf("%v was accepted", size)
		}
	}
}

func TestFindPort(t *testing.T) {
	root := fstest.MapFS{
		"sys/class/virtio-ports/vport1p1/name": {Data: []byte("org.qemu.guest_agent.0\n")},
		"sys/class/virtio-ports/vport2p1/name": {Data: []byte("hearth.panel\n")},
		"sys/class/virtio-ports/vport3p1":      {Mode: 0o755 | 1<<31},
	}
	got, err := panel.FindPort(root, "hearth.panel")
	if err != nil || got != "/dev/vport2p1" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, root := range []fstest.MapFS{root, {}} {
		if _, err := panel.FindPort(root, "other"); !errors.Is(err, panel.ErrNoPort) {
			t.Errorf("got %v", err)
		}
	}
}

func TestRGB565KeepsBlackWhiteAndItself(t *testing.T) {
	for c, want := range map[color.Color]panel.RGB565{color.Black: 0, color.White: 0xffff, color.RGBA{255, 0, 0, 255}: 0xf800, color.RGBA{0, 255, 0, 255}: 0x07e0, color.RGBA{0, 0, 255, 255}: 0x001f} {
		if got := panel.RGB565Model.Convert(c); got != want {
			t.Errorf("%v is %v, want %v", c, got, want)
		}
	}
	for i := range 1 << 16 {
		r, g, b, a := panel.RGB565(i).RGBA()
		if got := panel.RGB565Model.Convert(color.RGBA64{uint16(r), uint16(g), uint16(b), uint16(a)}); got != panel.RGB565(i) {
			t.Fatalf("%#04x came back as %#04x", i, got)
		}
	}
}

func BenchmarkWholePicture(b *testing.B) {
	p, err := panel.NewVirtual(240, 240)
	if err != nil {
		b.Fatal(err)
	}
	m := image.NewRGBA(p.Bounds())
	b.SetBytes(240 * 240 * 2)
	for b.Loop() {
		p.Draw(m.Rect, m, image.Point{})
	}
}
