package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/node/swarm"
)

func TestEveryRowOfASmallNetwork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	network, err := devnet.Start(ctx, devnet.Config{Nodes: 6, Dir: t.TempDir(), Poll: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	target := &Target{Nodes: network.List().Nodes, PIDs: []int{os.Getpid()}}
	b, err := target.Prepare(ctx, 3, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	said := 0
	figures, err := b.Run(ctx, Plan{AtOnce: []int{1, 3}, Repetitions: 2, For: 60 * time.Millisecond}, func(Figure) { said++ })
	if err != nil {
		t.Fatal(err)
	}
	if len(figures) != 2*len(Rows) || said != len(figures) {
		t.Errorf("%d figures, %d of them told", len(figures), said)
	}
	cpu := time.Duration(0)
	for _, f := range figures {
		if len(f.Repeats) != 2 || f.Swarm != 3 {
			t.Errorf("%s: %d repetitions at a swarm of %d", f.Row, len(f.Repeats), f.Swarm)
		}
		for _, r := range f.Repeats {
			cpu += r.CPU
			if r.Failed > 0 || r.Done == 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Took < 60*time.Millisecond {
				t.Errorf("%s: %+v", f.Row, r)
			}
		}
	}
	if cpu <= 0 {
		t.Error("all that took no processor time")
	}
	if n, err := b.Fill(ctx, 20, 4); err != nil || n != 20 {
		t.Errorf("%d of 20 stored: %v", n, err)
	}
	if _, err := target.Prepare(ctx, 7, 1); err == nil {
		t.Error("a swarm that does not exist was found")
	}
	// With a member away, a store is not what it should be.
	if err := network.StopNode(network.Number(b.swarm[0].Ed25519)); err != nil {
		t.Fatal(err)
	}
	if err := b.worker(0, 1).store(ctx, b.swarm[1], mustBody(b)); err == nil {
		t.Error("a store that a member missed counts as done")
	}
}

func mustBody(b *Bench) []byte {
	body, _ := storeBody(b.writers[0])
	return body
}

func TestOnlyThisMachineUnlessAllowed(t *testing.T) {
	local := netip.MustParseAddrPort("127.0.3.1:1")
	far := netip.MustParseAddrPort("192.0.2.1:1")
	crowd := []netip.AddrPort{}
	var hosts []netip.Addr
	for i := range foreignHosts + 1 {
		hosts = append(hosts, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		crowd = append(crowd, netip.AddrPortFrom(hosts[i], 1))
	}
	for _, c := range []struct {
		name    string
		nodes   []netip.AddrPort
		allow   []netip.Addr
		foreign bool
		err     error
	}{
		{"loopback needs no leave", []netip.AddrPort{local}, nil, false, nil},
		{"another host does", []netip.AddrPort{local, far}, nil, true, ErrForeign},
		{"and leave for a third is none for it", []netip.AddrPort{far}, hosts[:1], true, ErrForeign},
		{"with leave it is asked", []netip.AddrPort{local, far}, []netip.Addr{far.Addr()}, true, nil},
		{"but not a whole network", crowd, hosts, true, ErrForeign},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := &Target{Allow: c.allow}
			for _, a := range c.nodes {
				target.Nodes = append(target.Nodes, swarm.Node{Address: a})
			}
			foreign, err := target.foreign()
			if foreign != c.foreign || !errors.Is(err, c.err) || c.err == nil && err != nil {
				t.Errorf("%t, %v", foreign, err)
			}
			if _, err := target.Prepare(t.Context(), 0, 1); c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("preparing: %v", err)
			}
		})
	}
}

func TestWhatProcSays(t *testing.T) {
	for _, c := range []struct {
		name, stat string
		want       time.Duration
		ok         bool
	}{
		{"user and system", "12 (hearth) S 1 2 3 4 5 6 7 8 9 10 25 17 0 0", 420 * time.Millisecond, true},
		{"a name like a process", "12 (a) S (b) 9) S 1 2 3 4 5 6 7 8 9 10 1 1 0 0", 20 * time.Millisecond, true},
		{"no name", "12 S 1 2", 0, false},
		{"too short", "12 (x) S 1 2 3", 0, false},
		{"no number", "12 (x) S 1 2 3 4 5 6 7 8 9 10 x 1 0", 0, false},
	} {
		if got, err := parseStat([]byte(c.stat)); got != c.want || (err == nil) != c.ok {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
	now, most, err := parseStatus([]byte("Name:\thearth\nVmHWM:\t   300 kB\nVmRSS:\t   200 kB\nRssAnon:\t    20 kB\n"))
	if err != nil || now != (Memory{200 << 10, 20 << 10}) || most != 300<<10 {
		t.Errorf("%v, %d, %v", now, most, err)
	}
	for _, bad := range []string{"", "VmRSS: 1 kB\n", "VmHWM: 1 kB\nVmRSS: x kB\nRssAnon: 1 kB\n"} {
		if _, _, err := parseStatus([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	own := os.Getpid()
	if m, most, err := MemoryOf(own); err != nil || m.Private <= 0 || m.Resident < m.Private || most < m.Resident {
		t.Errorf("this process: %v, at most %d, %v", m, most, err)
	}
	if _, err := cpuOf([]int{1 << 30}); err == nil {
		t.Error("a process that does not exist has used processor time")
	}
	stop := Watch(own)
	if got := stop(); got[0].Resident <= 0 {
		t.Errorf("watched: %v", got)
	}
}

func TestTableSaysWhatWasMeasured(t *testing.T) {
	var out bytes.Buffer
	table := NewTable(&out)
	r := Repeat{Done: 1000, Took: time.Second, P50: 2 * time.Millisecond, P99: 9 * time.Millisecond, CPU: 120 * time.Millisecond}
	worse := r
	worse.CPU, worse.Failed, worse.Reason = 150*time.Millisecond, 3, errors.New("busy")
	table.Add(Figure{Row: Store, AtOnce: 32, Swarm: 1, Repeats: []Repeat{r, worse, r}})
	unknown := r
	unknown.CPU = 0
	table.Add(Figure{Row: OnionInfo, AtOnce: 8, Swarm: 3, Repeats: []Repeat{unknown}})
	table.End()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range [][]string{
		{"request", "server CPU"},
		{"store", "1", "32", "1000", "2.00", "9.00", "0.120 (0.120 to 0.150)", "0.24, this is 50 %"},
		{"onion info", "not known"},
		{"repetition 2: 3 requests failed", "busy"},
	} {
		for _, w := range want {
			if i >= len(lines) || !strings.Contains(lines[i], w) {
				t.Errorf("line %d lacks %q:\n%s", i, w, out.String())
			}
		}
	}
}

// TestDevnetTakesTheWholeTable starts real processes; the figures are worth
// nothing, for it takes each but a moment.
func TestDevnetTakesTheWholeTable(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	program, err := devnet.BuildProgram(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	d := Devnet{
		Program: program, Dir: filepath.Join(dir, "networks"), Messages: 200, Rest: 50 * time.Millisecond,
		Plan: Plan{AtOnce: []int{2}, Repetitions: 1, For: 100 * time.Millisecond}, Out: io.MultiWriter(&out, testWriter{t}),
	}
	if err := d.Run(ctx); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"store                 1", "store                 3", string(Retrieve), string(NothingNew), string(OnionStore), string(OnionRetrieve),
		"memory idle", "bytes a message", "start to first answer", "handing over", "node 2",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nothing about %q", want)
		}
	}
	if strings.Contains(out.String(), "failed") {
		t.Error("requests failed")
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Helper()
	w.t.Log(fmt.Sprint(strings.TrimSpace(string(b))))
	return len(b), nil
}
