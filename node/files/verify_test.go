package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/attachment"
	"hearth/node/onion"
)

func TestDamageThatNobodyAsksForIsFoundAndRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, 0, 0, 0)
		var ids []string
		contents := map[string][]byte{}
		for k := range 20 {
			content := random(t, 1000+k*100_000)
			id := n.upload(0, content).ID
			ids = append(ids, id)
			contents[id] = content
		}
		var log bytes.Buffer
		n.nodes[1].cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		damage := map[string]func(path string) error{
			ids[3]: func(path string) error { // a bit
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				b[len(b)/2] ^= 4
				return os.WriteFile(path, b, 0o600)
			},
			ids[7]:  func(path string) error { return os.Truncate(path, 500) },
			ids[11]: os.Remove,
		}
		for id, do := range damage {
			path := filepath.Join(n.nodes[1].dir, id)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := do(path); err != nil {
				t.Fatal(err)
			}
			os.Chtimes(path, info.ModTime(), info.ModTime())
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { n.nodes[1].Run(ctx); close(ended) }()
		// One in an hour at least, so that the 20 are through in 20 hours.
		time.Sleep(21 * time.Hour)
		stop()
		<-ended
		for _, id := range ids {
			if got := n.keeps(id); got != "012" {
				t.Errorf("a file is kept by %q", got)
			}
			b, err := os.ReadFile(filepath.Join(n.nodes[1].dir, id))
			if err != nil || !bytes.HasPrefix(b, contents[id]) {
				t.Errorf("a file has other content: %v", err)
			}
		}
		if s := n.nodes[1].Stats(); s.Damaged != 2 || s.Checked < 17 || s.Files != 20 {
			t.Errorf("stats %+v", s)
		}
		if text := log.String(); strings.Count(text, "a damaged file was removed") != 2 {
			t.Errorf("logged %s", text)
		} else {
			for _, id := range ids {
				if strings.Contains(text, id) {
					t.Errorf("a file's name is in the log: %s", text)
				}
			}
		}
	})
}

func TestEveryFileIsReadOnceInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, 0)
		for range 120 {
			n.upload(0, random(t, 10))
		}
		n.nodes[0].cfg.Check = 2 * time.Hour
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { n.nodes[0].Run(ctx); close(ended) }()
		time.Sleep(time.Hour)
		if c := n.nodes[0].Stats().Checked; c < 58 || c > 61 {
			t.Errorf("%d of 120 files were read in half of the time", c)
		}
		time.Sleep(time.Hour + 2*time.Minute)
		stop()
		<-ended
		if c := n.nodes[0].Stats().Checked; c < 118 || c > 122 {
			t.Errorf("%d of 120 files were read in the time for all", c)
		}
	})
}

// A process that has too many files open, as under a flood, must not throw away
// what it cannot open.
func TestAFileThatCannotBeReadJustNowStays(t *testing.T) {
	n := newNetwork(t, 0)
	id := parseID(t, n.upload(0, random(t, 1000)).ID)
	st := n.nodes[0].store
	for _, tt := range []struct {
		err  error
		stay bool
		want error
	}{
		{&fs.PathError{Op: "open", Path: "/x/" + id.String(), Err: syscall.EMFILE}, true, syscall.EMFILE},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.ENOMEM}, true, syscall.ENOMEM},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, true, syscall.EACCES},
		{&fs.PathError{Op: "read", Path: "/x", Err: syscall.EIO}, false, errDamaged},
		{errDamaged, false, errDamaged},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT}, false, errAbsent},
	} {
		n.upload(0, random(t, 10))
		m, ok := st.info(id)
		if !ok {
			t.Fatal("the file is not there")
		}
		kept, err := os.ReadFile(st.path(id))
		if err != nil {
			t.Fatal(err)
		}
		got := st.lost(id, tt.err)
		if !errors.Is(got, tt.want) || strings.Contains(got.Error(), id.String()) {
			t.Errorf("%v became %v", tt.err, got)
		}
		if _, ok := st.info(id); ok != tt.stay {
			t.Errorf("%v: it is there: %t", tt.err, ok)
		}
		if !tt.stay { // for the next case
			if _, err := n.nodes[0].keep(t.Context(), m, kept[:m.size]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestRanges(t *testing.T) {
	n := newNetwork(t, 0, 0, far)
	content := n.contentOf(0, 100_000)
	id := n.upload(0, content).ID
	for _, tt := range []struct {
		header string
		status int
		from   int // of the content, with 206
		to     int
		text   string // with 416
	}{
		{"", 200, 0, 0, ""},
		{"bytes=0-", 206, 0, 99_999, ""},
		{"bytes=1-", 206, 1, 99_999, ""},
		{"bytes=60000-", 206, 60_000, 99_999, ""},
		{"Bytes = 60000- ", 206, 60_000, 99_999, ""},
		{"bytes=99999-", 206, 99_999, 99_999, ""},
		{"bytes=10-19", 206, 10, 19, ""},
		{"bytes=10-10", 206, 10, 10, ""},
		{"bytes=99990-200000", 206, 99_990, 99_999, ""},
		{"bytes=-100", 206, 99_900, 99_999, ""},
		{"bytes=-200000", 206, 0, 99_999, ""},
		{"bytes=100000-", 416, 0, 0, "begins behind the end"},
		{"bytes=9223372036854775807-", 416, 0, 0, "begins behind the end"},
		{"bytes=-0", 416, 0, 0, "begins behind the end"},
		{"bytes=20-10", 416, 0, 0, "want bytes=FIRST-"},
		{"bytes=99999999999999999999-", 416, 0, 0, "want bytes=FIRST-"},
		{"bytes=x-", 416, 0, 0, "want bytes=FIRST-"},
		{"bytes=-", 416, 0, 0, "want bytes=FIRST-"},
		{"bytes=+1-", 416, 0, 0, "want bytes=FIRST-"},
		{"bytes=1-2,5-6", 416, 0, 0, "want bytes=FIRST-"},
		{"bytes", 416, 0, 0, "want bytes=FIRST-"},
		{"pages=1-", 200, 0, 0, ""},
	} {
		for i := range n.nodes { // members of the swarm, and one that fetches it there
			r := onion.V4Request{Method: "GET", Endpoint: "/file/" + id, Headers: map[string]string{"Range": tt.header}}
			if tt.header == "" {
				r.Headers = nil
			}
			got := n.ask(i, r)
			if got.Code != tt.status {
				t.Errorf("%q: status %d, want %d", tt.header, got.Code, tt.status)
				continue
			}
			switch tt.status {
			case 200:
				if !bytes.Equal(got.Body, content) || got.Headers["content-range"] != "" {
					t.Errorf("%q: %d bytes, %v", tt.header, len(got.Body), got.Headers)
				}
			case 206:
				if !bytes.Equal(got.Body, content[tt.from:tt.to+1]) || got.Headers["content-range"] != fmt.Sprintf("bytes %d-%d/100000", tt.from, tt.to) ||
					got.Headers["content-type"] != "application/octet-stream" || got.Headers["expires"] == "" {
					t.Errorf("%q: %d bytes, %v", tt.header, len(got.Body), got.Headers)
				}
			case 416:
				if !strings.Contains(string(got.Body), tt.text) || got.Headers["content-range"] != "bytes */100000" {
					t.Errorf("%q: %q, %v", tt.header, got.Body, got.Headers)
				}
			}
		}
	}
}

func FuzzByteRange(f *testing.F) {
	for _, s := range []string{"bytes=0-", "bytes=5-9", "bytes=-3", "bytes=9-1", "x", "bytes=18446744073709551616-"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 1 {
			return
		}
		from, to, err := byteRange(header, size)
		if err == nil && (from < 0 || to < from || to >= size) {
			t.Errorf("%q of %d bytes: %d to %d", header, size, from, to)
		}
	})
}

func TestUploadsHaveAPace(t *testing.T) {
	n := newNetwork(t, 0)
	const quota = 16 * attachment.MaxUpload
	n.open(0, quota)
	in := n.nodes[0].intake
	large := attachment.MaxUpload
	taken := func(from string, most int) (k int) {
		for k < most && in.upload(from, large) {
			k++
		}
		return k
	}
	if got := taken("one", 100); got != 2 {
		t.Errorf("one source brings %d of the largest files at once, want a quarter of 8", got)
	}
	if got := taken("two", 100); got != 2 {
		t.Errorf("another brings %d", got)
	}
	if got := taken("three", 100) + taken("four", 100) + taken("five", 100); got != 4 {
		t.Errorf("three more bring %d, want what is left of 8", got)
	}
	if in.upload("six", 1000) {
		t.Error("there is always more")
	}
	n.pass(time.Hour)
	all := 0
	for k := range 50 {
		all += taken(fmt.Sprint("later ", k), 100)
	}
	if all < 3 || all > 4 {
		t.Errorf("an hour later %d largest files, want a quarter of the quota: 4", all)
	}
	r := n.ask(0, onion.V4Request{Method: "POST", Endpoint: "/file", Body: random(t, 5_000_000)})
	if r.Code != 429 || !strings.Contains(string(r.Body), "429") {
		t.Errorf("then the answer is %d %q", r.Code, r.Body)
	}
}

func TestSourcesAreBounded(t *testing.T) {
	n := newNetwork(t, 0)
	in := n.nodes[0].intake
	for k := range 3 * maxSources {
		in.request(fmt.Sprint(k))
	}
	if len(in.sources) > maxSources+1 {
		t.Errorf("%d sources known", len(in.sources))
	}
	let := 0
	for range requests + 500 {
		if in.request("busy") {
			let++
		}
	}
	if let > requests {
		t.Errorf("%d requests of one source at once", let)
	}
	n.pass(time.Second)
	if !in.request("busy") {
		t.Error("a second later none")
	}
	n.pass(time.Hour)
	in.request("somebody new")
	if len(in.sources) > 3 {
		t.Errorf("an hour later %d sources known", len(in.sources))
	}
}
