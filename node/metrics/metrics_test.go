package metrics

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func sample() (*Set, *Counters, *Times) {
	c := NewCounters(Label{"kind", []string{"storage", "onion", "other"}}, Label{"code", []string{"200", "other"}})
	d := NewTimes(Label{"kind", []string{"storage", "other"}})
	s := new(Set)
	s.Gauge("hearth_messages", "messages kept", func() float64 { return 12 })
	s.Counter("hearth_onions_total", "onion layers", func() uint64 { return 81 })
	s.Counters("hearth_requests_total", "requests", c)
	s.Times("hearth_request_seconds", "time of requests", d)
	return s, c, d
}

func TestTextForm(t *testing.T) {
	s, c, d := sample()
	c.Add("storage", "200")
	c.Add("storage", "200")
	c.Add("onion", "418")
	c.Add("05ab\"\n", "200") // what is no known value is no label
	c.Add()
	d.Add("storage", 2*time.Millisecond)
	d.Add("storage", time.Minute)
	var b strings.Builder
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	const want = `# HELP hearth_messages messages kept
# TYPE hearth_messages gauge
hearth_messages 12
# HELP hearth_onions_total onion layers
# TYPE hearth_onions_total counter
hearth_onions_total 81
# HELP hearth_requests_total requests
# TYPE hearth_requests_total counter
hearth_requests_total{kind="storage",code="200"} 2
hearth_requests_total{kind="onion",code="other"} 1
hearth_requests_total{kind="other",code="200"} 1
hearth_requests_total{kind="other",code="other"} 1
# HELP hearth_request_seconds time of requests
# TYPE hearth_request_seconds histogram
hearth_request_seconds_bucket{kind="storage",le="0.001"} 0
hearth_request_seconds_bucket{kind="storage",le="0.003"} 1
hearth_request_seconds_bucket{kind="storage",le="0.01"} 1
hearth_request_seconds_bucket{kind="storage",le="0.03"} 1
hearth_request_seconds_bucket{kind="storage",le="0.1"} 1
hearth_request_seconds_bucket{kind="storage",le="0.3"} 1
hearth_request_seconds_bucket{kind="storage",le="1"} 1
hearth_request_seconds_bucket{kind="storage",le="3"} 1
hearth_request_seconds_bucket{kind="storage",le="10"} 1
hearth_request_seconds_bucket{kind="storage",le="30"} 1
hearth_request_seconds_bucket{kind="storage",le="+Inf"} 2
hearth_request_seconds_sum{kind="storage"} 60.002
hearth_request_seconds_count{kind="storage"} 2
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

func TestCountingIsForManyAtOnce(t *testing.T) {
	_, c, d := sample()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				c.Add("storage", "200")
				d.Add("storage", time.Millisecond)
			}
		})
	}
	all.Wait()
	if n := c.Value("storage", "200"); n != 8000 {
		t.Errorf("%d of 8000", n)
	}
}

func TestFiguresAreServedOnALocalSocketOnly(t *testing.T) {
	s, _, _ := sample()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), tcp, nil); err == nil {
		t.Error("figures are served to the network")
	}
	if _, err := tcp.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener stays open: %v", err)
	}

	path := filepath.Join(t.TempDir(), "metrics.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var wrong []string
	go func() { ended <- s.Serve(ctx, l, func() []string { return wrong }) }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	get := func(path string) (int, string) {
		resp, err := client.Get("http://node" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if code, text := get("/metrics"); code != 200 || !strings.Contains(text, "\nhearth_messages 12\n") {
		t.Errorf("metrics: %d %s", code, text)
	}
	if code, text := get("/health"); code != 200 || text != "ready\n" {
		t.Errorf("health: %d %q", code, text)
	}
	wrong = []string{"not in any swarm", "the disk is full"}
	if code, text := get("/health"); code != 503 || text != "not in any swarm\nthe disk is full\n" {
		t.Errorf("health in trouble: %d %q", code, text)
	}
	if code, _ := get("/debug/pprof/"); code != 404 {
		t.Errorf("anything else: %d", code)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func BenchmarkCount(b *testing.B) {
	_, c, d := sample()
	b.ReportAllocs()
	for b.Loop() {
		c.Add("onion", "200")
		d.Add("storage", time.Millisecond)
	}
}
