package viewer

import (
	"bufio"
	"context"
	"errors"
	"image"
	"image/color"
	"image/png"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hearth/hw/panel"
	"hearth/hw/panel/link"
)

var quiet = slog.New(slog.DiscardHandler)

func band(number uint32, r image.Rectangle, last bool) link.Band {
	return link.Band{Number: number, Last: last, Panel: image.Pt(4, 4), Rect: r, Pixels: make([]byte, 2*r.Dx()*r.Dy())}
}

func TestCanvasShowsOnlyWholePictures(t *testing.T) {
	upper, lower, spot := image.Rect(0, 0, 4, 2), image.Rect(0, 2, 4, 4), image.Rect(1, 1, 2, 2)
	type step struct {
		band link.Band
		show bool
		err  error
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"a whole picture", []step{{band(0, upper, false), false, nil}, {band(1, lower, true), true, nil}}},
		{"then a change", []step{{band(0, upper, false), false, nil}, {band(1, lower, true), true, nil}, {band(2, spot, true), true, nil}}},
		{"a change from before Hello is left out", []step{{band(7, spot, true), false, nil}, {band(8, upper, false), false, nil}, {band(9, lower, true), true, nil}}},
		{"a missing half is asked for", []step{{band(0, upper, false), false, nil}, {band(2, spot, true), false, errMissed}}},
		{"a missing change is asked for, once", []step{{band(0, upper, false), false, nil}, {band(1, lower, true), true, nil}, {band(3, spot, true), false, errMissed}, {band(4, spot, true), false, nil}, {band(5, upper, false), false, nil}, {band(6, lower, true), true, nil}}},
		{"a change that starts like a picture is none", []step{{band(0, upper, true), false, errMissed}}},
		{"the panel starts again", []step{{band(5, upper, false), false, nil}, {band(6, lower, true), true, nil}, {band(0, upper, false), false, nil}, {band(1, lower, true), true, nil}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &canvas{}
			for i, s := range tt.steps {
				show, err := c.apply(s.band.Packet().Payload)
				if show != s.show || !errors.Is(err, s.err) {
					t.Fatalf("step %d: show %v, error %v", i, show, err)
				}
			}
		})
	}
	if _, err := (&canvas{}).apply([]byte("nonsense")); !errors.Is(err, link.ErrPayload) {
		t.Errorf("got %v", err)
	}
}

// connected gives a viewer that shows a panel of 6x4 pixels, white on the left.
func connected(t *testing.T) (*Viewer, *panel.Virtual, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	p, err := panel.NewVirtual(6, 4)
	if err != nil {
		t.Fatal(err)
	}
	p.Draw(image.Rect(0, 0, 3, 4), image.White, image.Point{})
	near, far := net.Pipe()
	v := New(func(context.Context) (io.ReadWriteCloser, error) { return far, nil }, quiet)
	done := make(chan struct{}, 2)
	go func() { p.Serve(ctx, near); done <- struct{}{} }()
	go func() { v.Attach(ctx, far); done <- struct{}{} }()
	t.Cleanup(func() { cancel(); <-done; <-done })
	if _, _, err := v.Wait(ctx, 0); err != nil {
		t.Fatal(err)
	}
	return v, p, ctx
}

func ask(t *testing.T, v *Viewer, r *http.Request) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	v.Handler().ServeHTTP(w, r)
	return w.Result()
}

func local(method, path, body string) *http.Request {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "127.0.0.1:8080"
	return r
}

func TestPicturesOfTheScreen(t *testing.T) {
	v, _, _ := connected(t)
	for path, scale := range map[string]int{"/screen.png": 1, "/screen@3x.png": 3} {
		res := ask(t, v, local("GET", path, ""))
		m, err := png.Decode(res.Body)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if m.Bounds() != image.Rect(0, 0, 6*scale, 4*scale) {
			t.Errorf("%s is %v", path, m.Bounds())
		}
		for x, want := range map[int]color.Color{0: color.White, 3*scale - 1: color.White, 3 * scale: color.Black} {
			r, g, b, _ := m.At(x, 0).RGBA()
			wr, wg, wb, _ := want.RGBA()
			if r != wr || g != wg || b != wb {
				t.Errorf("%s: column %d is %v", path, x, m.At(x, 0))
			}
		}
	}
	if res := ask(t, New(nil, quiet), local("GET", "/screen.png", "")); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a picture: %s", res.Status)
	}
}

func TestThePageNeedsNothingFromElsewhere(t *testing.T) {
	for _, path := range []string{"/", "/panel.css", "/panel.js"} {
		res := ask(t, New(nil, quiet), local("GET", path, ""))
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK || len(body) == 0 {
			t.Fatalf("%s: %s, %v", path, res.Status, err)
		}
		if strings.Contains(string(body), "://") {
			t.Errorf("%s refers to another place", path)
		}
		if csp := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
			t.Errorf("%s has the policy %q", path, csp)
		}
	}
}

func TestWhoMayUseThePage(t *testing.T) {
	v, _, _ := connected(t)
	tests := []struct {
		name   string
		change func(*http.Request)
		want   int
	}{
		{"its own page", func(r *http.Request) {
			r.Header.Set("Origin", "http://127.0.0.1:8080")
			r.Header.Set("Sec-Fetch-Site", "same-origin")
		}, http.StatusNoContent},
		{"a program", func(*http.Request) {}, http.StatusNoContent},
		{"localhost by name", func(r *http.Request) { r.Host = "localhost:8080" }, http.StatusNoContent},
		{"IPv6", func(r *http.Request) { r.Host = "[::1]:8080" }, http.StatusNoContent},
		{"a foreign page", func(r *http.Request) {
			r.Header.Set("Origin", "https://example.org")
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		}, http.StatusForbidden},
		{"a foreign name that leads here", func(r *http.Request) { r.Host = "evil.example.org:8080" }, http.StatusForbidden},
		{"a foreign address", func(r *http.Request) { r.Host = "192.0.2.1:8080" }, http.StatusForbidden},
		{"no host", func(r *http.Request) { r.Host = "" }, http.StatusForbidden},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := local("POST", "/button", `{"button":"KEY1","pressed":true}`)
			tt.change(r)
			if res := ask(t, v, r); res.StatusCode != tt.want {
				t.Errorf("%s, want %d", res.Status, tt.want)
			}
		})
	}
}

func TestButtonsOfThePage(t *testing.T) {
	v, p, ctx := connected(t)
	for body, want := range map[string]int{
		`{"button":"KEY1","pressed":true}`: http.StatusNoContent,
		`{"button":"KEY9","pressed":true}`: http.StatusBadRequest,
		`{"button":1}`:                     http.StatusBadRequest,
		``:                                 http.StatusBadRequest,
		`{"button":"` + strings.Repeat("A", 1000) + `"}`: http.StatusBadRequest,
	} {
		if res := ask(t, v, local("POST", "/button", body)); res.StatusCode != want {
			t.Errorf("%.40q: %s, want %d", body, res.Status, want)
		}
	}
	select {
	case e := <-p.Buttons():
		if e != (panel.Event{Button: panel.Key1, Pressed: true}) {
			t.Errorf("got %v", e)
		}
	case <-ctx.Done():
		t.Fatal("no button arrived")
	}
	if res := ask(t, New(nil, quiet), local("POST", "/button", `{"button":"KEY1"}`)); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a panel: %s", res.Status)
	}
	if res := ask(t, v, local("GET", "/button", "")); res.StatusCode == http.StatusNoContent {
		t.Error("a button was pressed by GET")
	}
}

func TestEventsTellOfNewPictures(t *testing.T) {
	v, p, ctx := connected(t)
	ctx, stop := context.WithCancel(ctx)
	urls := make(chan string, 1)
	served := make(chan error)
	go func() { served <- v.ListenAndServe(ctx, "127.0.0.1:0", func(url string) { urls <- url }) }()
	res, err := http.Get(<-urls + "events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	next := func() string {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return data
			}
		}
		t.Fatalf("the events ended: %v", lines.Err())
		return ""
	}
	if got := next(); got != `{"version":1,"connected":true,"width":6,"height":4}` {
		t.Errorf("got %s", got)
	}
	p.Draw(p.Bounds(), image.White, image.Point{})
	if got := next(); got != `{"version":2,"connected":true,"width":6,"height":4}` {
		t.Errorf("got %s", got)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestThePageIsServedOnLoopbackOnly(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "[::]:0", "example.org:0"} {
		if ln, err := Listen(address); !errors.Is(err, ErrNotLocal) {
			t.Errorf("%s: %v", address, err)
			if err == nil {
				ln.Close()
			}
		}
	}
}
