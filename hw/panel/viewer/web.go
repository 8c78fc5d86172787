package viewer

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"time"

	"hearth/hw/panel"
)

//go:embed page
var page embed.FS

// ErrNotLocal is the error of an address that other machines could reach: the
// page has no password.
var ErrNotLocal = errors.New("the panel's page is served on a loopback address only")

// Listen opens a TCP address for the page, such as "127.0.0.1:0". The host must
// be "localhost" or a loopback address in numbers, or the error is ErrNotLocal.
func Listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address of the panel's page: %w", err)
	}
	if host == "localhost" { // whatever a resolver may say
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%w: %q", ErrNotLocal, address)
	}
	return net.Listen("tcp", net.JoinHostPort(host, port))
}

// ListenAndServe serves the page at a loopback address until ctx is done. It
// calls ready, if that is not nil, with the page's URL.
func (v *Viewer) ListenAndServe(ctx context.Context, address string, ready func(url string)) error {
	ln, err := Listen(address)
	if err != nil {
		return err
	}
	if ready != nil {
		ready("http://" + ln.Addr().String() + "/")
	}
	return v.Serve(ctx, ln)
}

// Serve serves the page on a listener until ctx is done.
func (v *Viewer) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler:           v.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the event streams
	}
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("the panel's page: %w", err)
	}
	return nil
}

// Handler serves the page and what it uses:
//
//	GET  /               the device
//	GET  /screen.png     the screen, one pixel for one
//	GET  /screen@3x.png  three by three pixels for one
//	GET  /events         State as server-sent events, one for each change
//	POST /button         {"button":"KEY1","pressed":true}
//
// It answers only requests whose Host is a loopback address, so that a foreign
// web page cannot look in by giving its own name this machine's address, and
// takes buttons only from its own page.
func (v *Viewer) Handler() http.Handler {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the name is embed's own
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /screen.png", v.screen(1))
	mux.HandleFunc("GET /screen@3x.png", v.screen(3))
	mux.HandleFunc("GET /events", v.events)
	mux.HandleFunc("POST /button", v.button)
	return localOnly(http.NewCrossOriginProtection().Handler(mux))
}

func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if host == "localhost" { // whatever a resolver may say
			host = "127.0.0.1"
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this page is for the machine it runs on", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func (v *Viewer) screen(scale int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		picture, _ := v.Picture()
		if picture == nil {
			http.Error(w, "no picture has come from the panel yet", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "image/png")
		encoder := png.Encoder{CompressionLevel: png.BestSpeed}
		encoder.Encode(w, Enlarge(picture, scale)) // a reader who left needs no answer
	}
}

// Enlarge makes every pixel a square of scale by scale.
func Enlarge(m *image.RGBA, scale int) *image.RGBA {
	if scale == 1 {
		return m
	}
	b := m.Bounds()
	big := image.NewRGBA(image.Rect(0, 0, b.Dx()*scale, b.Dy()*scale))
	for y := range big.Rect.Dy() {
		for x := range big.Rect.Dx() {
			big.SetRGBA(x, y, m.RGBAAt(b.Min.X+x/scale, b.Min.Y+y/scale))
		}
	}
	return big
}

func (v *Viewer) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	for {
		state, news := v.State()
		data, err := json.Marshal(state)
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", data); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-news:
		}
	}
}

// maxButtonBody is more than any button's JSON needs, in bytes.
const maxButtonBody = 256

func (v *Viewer) button(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Button  string `json:"button"`
		Pressed bool   `json:"pressed"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxButtonBody)).Decode(&body); err != nil {
		http.Error(w, "not a button: "+err.Error(), http.StatusBadRequest)
		return
	}
	b, ok := panel.ParseButton(body.Button)
	if !ok {
		http.Error(w, "no button is called "+strconv.Quote(body.Button), http.StatusBadRequest)
		return
	}
	switch err := v.Press(panel.Event{Button: b, Pressed: body.Pressed}); {
	case errors.Is(err, ErrNotConnected):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadGateway)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
